//! A run's file: its tables, and what is in their rows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, Transaction, params};

use super::{Call, JournalError, Record, Run, no_such_run, run_of, unusable};
use crate::action_kind::ActionKind;
use crate::entry::{Action, Entry, Outcome, Problem, State};
use defender_core::files;
use defender_core::id::MachineId;
use defender_core::operation::Operation;

/// The format's number. Where another one is found, nothing is read.
pub(super) const FORMAT: u32 = 2;

/// How long a reader is waited for who has the file.
const BUSY: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE run (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        id TEXT NOT NULL, kind TEXT NOT NULL, comment TEXT NOT NULL, nonce BLOB NOT NULL,
        service TEXT NOT NULL, tenant TEXT, application TEXT, who TEXT NOT NULL, audit TEXT,
        override_pending INTEGER NOT NULL, follows INTEGER NOT NULL,
        created INTEGER NOT NULL, ended INTEGER, ending TEXT
    ) STRICT;
    CREATE TABLE device (
        n INTEGER PRIMARY KEY,
        machine TEXT NOT NULL, name TEXT, state TEXT NOT NULL, sends INTEGER NOT NULL,
        sent INTEGER, action TEXT, adopted INTEGER NOT NULL, problem TEXT, updated INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE call (
        n INTEGER PRIMARY KEY,
        operation TEXT NOT NULL, device INTEGER, began INTEGER NOT NULL, ended INTEGER, result TEXT,
        left INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE flag (name TEXT NOT NULL, value TEXT NOT NULL) STRICT;
    PRAGMA user_version = 2;
";

/// A change, on its way to the disk.
pub(super) enum Change {
    /// A device stands so.
    Entry(usize, Box<Entry>, Timestamp),
    /// A call was begun.
    Call(Call),
    /// A call that was begun, by its place among the calls, came to this, and may have left or not.
    Answered(i64, Timestamp, &'static str, bool),
    /// The run is driven, or is at its end.
    Ended(Option<Timestamp>, Option<String>),
}

pub(super) struct Store {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let store = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let sql = |e: rusqlite::Error| failed(path, &e);
        let mode: String = store
            .connection
            .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
            .map_err(sql)?;
        if mode != "wal" {
            return Err(unusable(path, "SQLite can't keep a write-ahead log there"));
        }
        store
            .connection
            .execute_batch("PRAGMA synchronous = FULL")
            .map_err(sql)?;
        Ok(store)
    }

    /// Whether the file has come to hold a run. One that can't be read may.
    pub(super) fn has_begun(path: &Path) -> bool {
        let Ok(store) = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY) else {
            return true;
        };
        let format = |row: &Row<'_>| row.get::<_, u32>(0);
        store
            .connection
            .query_row("PRAGMA user_version", [], format)
            .map_or(true, |format| format > 0)
    }

    /// One that was begun, by a program of the same format.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, JournalError> {
        let store = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let found = store
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(|e| failed(path, &e))?;
        match found {
            0 => Err(store.damaged("its run was cut off before it began, and sent nothing")),
            FORMAT => Ok(store),
            _ => Err(JournalError::OtherFormat {
                run: run_of(path),
                found,
            }),
        }
    }

    pub(super) fn in_memory() -> Result<Self, JournalError> {
        let path = PathBuf::from(":memory:");
        let connection = Connection::open_in_memory().map_err(|e| failed(&path, &e))?;
        Ok(Self { path, connection })
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, JournalError> {
        if !path.exists() {
            return Err(no_such_run(path));
        }
        files::check_database(path).map_err(|error| unusable(path, &error.to_string()))?;
        let sql = |e: rusqlite::Error| failed(path, &e);
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(sql)?;
        connection.busy_timeout(BUSY).map_err(sql)?;
        Ok(Self {
            path: path.to_owned(),
            connection,
        })
    }

    /// All of it, or nothing.
    pub(super) fn begin(&mut self, run: &Run, entries: &[Entry]) -> Result<(), JournalError> {
        let path = &self.path;
        let sql = |e: rusqlite::Error| failed(path, &e);
        let transaction = self.connection.transaction().map_err(sql)?;
        transaction.execute_batch(TABLES).map_err(sql)?;
        transaction
            .execute(
                "INSERT INTO run VALUES (1,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                params![
                    run.id,
                    run.kind.name(),
                    run.comment,
                    run.nonce.as_slice(),
                    run.service,
                    run.tenant,
                    run.application,
                    run.who,
                    run.audit,
                    run.override_pending,
                    run.follows,
                    run.created.as_millisecond(),
                    run.ended.map(Timestamp::as_millisecond),
                    run.ending,
                ],
            )
            .map_err(sql)?;
        for (name, value) in &run.flags {
            transaction
                .execute("INSERT INTO flag VALUES (?,?)", params![name, value])
                .map_err(sql)?;
        }
        for (n, entry) in entries.iter().enumerate() {
            put(&transaction, n, entry, run.created).map_err(sql)?;
        }
        transaction.commit().map_err(sql)
    }

    /// Makes all changes, durably, or none. Returns for each the number of its row.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<Vec<i64>, JournalError> {
        let path = &self.path;
        let sql = |e: rusqlite::Error| failed(path, &e);
        let transaction = self.connection.transaction().map_err(sql)?;
        let mut numbers = Vec::with_capacity(changes.len());
        for change in changes {
            match change {
                Change::Entry(n, entry, at) => put(&transaction, *n, entry, *at),
                Change::Call(call) => transaction
                    .prepare_cached(
                        "INSERT INTO call (operation, device, began, ended, result, left)
                         VALUES (?,?,?,?,?,?)",
                    )
                    .and_then(|mut insert| {
                        insert.execute(params![
                            call.operation.to_string(),
                            call.device.and_then(|n| i64::try_from(n).ok()),
                            call.began.as_millisecond(),
                            call.ended.map(Timestamp::as_millisecond),
                            call.result,
                            call.left,
                        ])
                    }),
                Change::Answered(n, at, result, left) => transaction
                    .prepare_cached("UPDATE call SET ended = ?, result = ?, left = ? WHERE n = ?")
                    .and_then(|mut update| {
                        update.execute(params![at.as_millisecond(), result, left, n])
                    }),
                Change::Ended(at, why) => transaction.execute(
                    "UPDATE run SET ended = ?, ending = ?",
                    params![at.map(Timestamp::as_millisecond), why],
                ),
            }
            .map_err(sql)?;
            numbers.push(transaction.last_insert_rowid());
        }
        transaction.commit().map_err(sql)?;
        Ok(numbers)
    }

    pub(super) fn record(&self) -> Result<Record, JournalError> {
        // As it is at one moment, while another may be writing.
        let _moment = self
            .connection
            .unchecked_transaction()
            .map_err(|e| failed(&self.path, &e))?;
        Ok(Record {
            run: self.run()?,
            entries: self.entries()?,
            calls: self.calls()?,
        })
    }

    pub(super) fn run(&self) -> Result<Run, JournalError> {
        let row = self
            .connection
            .query_row("SELECT * FROM run", [], |row| Ok(run(row)))
            .optional()
            .map_err(|e| failed(&self.path, &e))?;
        let run = row.ok_or_else(|| self.damaged("it names no run"))?;
        let run = run.map_err(|e| failed(&self.path, &e))?;
        let run = run.ok_or_else(|| self.damaged("what it says of its run is no such thing"))?;
        Ok(Run {
            flags: self.flags()?,
            ..run
        })
    }

    /// The flags that the run was begun with. A journal from before this table has none.
    fn flags(&self) -> Result<Vec<(String, String)>, JournalError> {
        let sql = |e: rusqlite::Error| failed(&self.path, &e);
        if !self.connection.table_exists(None, "flag").map_err(sql)? {
            return Ok(Vec::new());
        }
        self.all("SELECT * FROM flag ORDER BY rowid", |row| {
            Ok(Some((row.get("name")?, row.get("value")?)))
        })
    }

    fn entries(&self) -> Result<Vec<Entry>, JournalError> {
        let what = "SELECT * FROM device ORDER BY n";
        let entries = self.all(what, entry)?;
        let in_order = entries.iter().zip(0_i64..).all(|((n, _), i)| *n == i);
        match in_order {
            true => Ok(entries.into_iter().map(|(_, entry)| entry).collect()),
            false => Err(self.damaged("a device is missing")),
        }
    }

    fn calls(&self) -> Result<Vec<Call>, JournalError> {
        self.all("SELECT * FROM call ORDER BY n", call)
    }

    /// How many devices have come to which outcome.
    pub(super) fn outcomes(&self, follows: bool) -> Result<Vec<(Outcome, usize)>, JournalError> {
        let mut counts = Vec::new();
        for entry in self.entries()? {
            let outcome = entry.outcome(follows);
            match counts.iter_mut().find(|(known, _)| *known == outcome) {
                Some((_, count)) => *count += 1,
                None => counts.push((outcome, 1)),
            }
        }
        counts.sort();
        Ok(counts)
    }

    /// When something last happened.
    pub(super) fn touched(&self, run: &Run) -> Result<Timestamp, JournalError> {
        let what = "SELECT max(at) FROM (
            SELECT max(updated) AS at FROM device UNION SELECT max(began) FROM call
            UNION SELECT max(ended) FROM call UNION SELECT ended FROM run)";
        let row = self.connection.query_row(what, [], |row| row.get(0));
        let at: Option<i64> = row.map_err(|e| failed(&self.path, &e))?;
        Ok(at.and_then(time).unwrap_or(run.created))
    }

    fn all<T>(
        &self,
        what: &str,
        read: fn(&Row<'_>) -> rusqlite::Result<Option<T>>,
    ) -> Result<Vec<T>, JournalError> {
        let sql = |e: rusqlite::Error| failed(&self.path, &e);
        let mut query = self.connection.prepare(what).map_err(sql)?;
        let rows = query.query_map([], read).map_err(sql)?;
        let mut all = Vec::new();
        for row in rows {
            let row = row.map_err(sql)?;
            all.push(row.ok_or_else(|| self.damaged("a row of it is no such thing"))?);
        }
        Ok(all)
    }

    fn damaged(&self, problem: &str) -> JournalError {
        JournalError::Damaged {
            file: self.path.display().to_string(),
            problem: problem.to_owned(),
        }
    }
}

fn put(
    transaction: &Transaction<'_>,
    n: usize,
    entry: &Entry,
    at: Timestamp,
) -> rusqlite::Result<usize> {
    let action = entry.action.as_ref().map(serde_json::to_string);
    let action = action.transpose().unwrap_or_default();
    transaction
        .prepare_cached("REPLACE INTO device VALUES (?,?,?,?,?,?,?,?,?,?)")?
        .execute(params![
            i64::try_from(n).unwrap_or(i64::MAX),
            entry.machine.as_str(),
            entry.name,
            entry.state.name(),
            entry.sends,
            entry.sent.map(Timestamp::as_millisecond),
            action,
            entry.is_adopted,
            entry.problem.as_ref().map(Problem::text),
            at.as_millisecond(),
        ])
}

fn time(milliseconds: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(milliseconds).ok()
}

/// What stands in a row; `None` where that makes no sense.
fn run(row: &Row<'_>) -> rusqlite::Result<Option<Run>> {
    let (kind, nonce): (String, Vec<u8>) = (row.get("kind")?, row.get("nonce")?);
    let (created, ended): (i64, Option<i64>) = (row.get("created")?, row.get("ended")?);
    let (Some(kind), Ok(nonce), Some(created)) = (
        ActionKind::from_name(&kind),
        nonce.try_into(),
        time(created),
    ) else {
        return Ok(None);
    };
    Ok(Some(Run {
        id: row.get("id")?,
        kind,
        comment: row.get("comment")?,
        nonce,
        service: row.get("service")?,
        tenant: row.get("tenant")?,
        application: row.get("application")?,
        who: row.get("who")?,
        audit: row.get("audit")?,
        override_pending: row.get("override_pending")?,
        follows: row.get("follows")?,
        created,
        ended: ended.and_then(time),
        ending: row.get("ending")?,
        flags: Vec::new(),
    }))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Option<(i64, Entry)>> {
    let (machine, state): (String, String) = (row.get("machine")?, row.get("state")?);
    let (Ok(machine), Some(state)) = (machine.parse::<MachineId>(), State::from_name(&state))
    else {
        return Ok(None);
    };
    let (sent, problem): (Option<i64>, Option<String>) = (row.get("sent")?, row.get("problem")?);
    let action: Option<String> = row.get("action")?;
    let action: Option<Action> = match action.as_deref().map(serde_json::from_str).transpose() {
        Ok(action) => action,
        Err(_) => return Ok(None),
    };
    let entry = Entry {
        machine,
        name: row.get("name")?,
        state,
        sends: row.get("sends")?,
        sent: sent.and_then(time),
        action,
        is_adopted: row.get("adopted")?,
        problem: problem.as_deref().map(Problem::kept),
    };
    Ok(Some((row.get("n")?, entry)))
}

fn call(row: &Row<'_>) -> rusqlite::Result<Option<Call>> {
    let (operation, began): (String, i64) = (row.get("operation")?, row.get("began")?);
    let (device, ended): (Option<i64>, Option<i64>) = (row.get("device")?, row.get("ended")?);
    let found = Operation::ALL
        .into_iter()
        .find(|o| o.to_string() == operation);
    let (Some(operation), Some(began)) = (found, time(began)) else {
        return Ok(None);
    };
    Ok(Some(Call {
        operation,
        device: device.and_then(|n| usize::try_from(n).ok()),
        began,
        ended: ended.and_then(time),
        result: row.get("result")?,
        left: row.get("left")?,
    }))
}

/// What SQLite says, in the reader's words.
fn failed(path: &Path, error: &rusqlite::Error) -> JournalError {
    use rusqlite::ErrorCode;
    let problem = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => unusable(path, "the disk is full; make room, and resume"),
        // There is a file, and what is in it is not what the format says.
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) | None => {
            JournalError::Damaged {
                file: path.display().to_string(),
                problem,
            }
        }
        Some(_) => unusable(path, &problem),
    }
}

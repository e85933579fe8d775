//! The ledger that the processes of one user on one machine share: an SQLite file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior,
};
use serde::{Deserialize, Serialize};

use super::store_thread::{Request, Response, Store, Worker};
use super::timeline::{ClockReading, Timeline};
use super::{
    Ask, GRACE, Key, KeyState, LOSS, LedgerError, LedgerProblem, Log, QuotaStore, Reading, Reply,
    Update,
};
use defender_core::clock::{Clock, Moment};
use defender_core::files::{self, FileError};

/// The format's number.
const FORMAT: u32 = 1;

/// How long it is tried to get at a file that another process has.
const HELD_MAX: Duration = Duration::from_millis(if cfg!(test) { 1000 } else { 5000 });

/// From one try to the next.
const TRY: Duration = Duration::from_millis(2);

/// Remembers calls in an SQLite file, for all processes that name the same one.
///
/// What is reserved is on the disk before a call is made (write-ahead log, `synchronous=FULL`), so
/// neither a killed process nor a power cut makes a call unknown. A slot whose process died counts
/// from its call's deadline and the [grace](GRACE). A file that can't be read or written lets no
/// call be made, and one that is damaged is not begun anew by itself.
///
/// Beside it lies a small file with its identity. Where the ledger is gone and that file is not, or
/// the two don't belong together, what was counted is lost: no call is admitted for one whole
/// window. Where both are gone, it is taken for the first use on this machine.
///
/// What can't be seen: an older copy in the ledger's place; its `-wal` removed while nobody had it
/// open, after a crash; rows that somebody deletes; a network file system that is mounted by a
/// program of the user's (FUSE), or on another system than Linux.
pub struct Sqlite(Worker);

impl Sqlite {
    /// Opens the file, and makes it if it is not there.
    ///
    /// `boot` names the boot that the clock's moments belong to: [`boot_id`](super::boot_id).
    pub fn open(path: &Path, clock: Arc<dyn Clock>, boot: &str) -> Result<Self, LedgerError> {
        File::open(path, clock, boot).map(|file| Self(Worker::start(file)))
    }

    /// Puts a ledger aside that can't be used any more, and says where. The next one to open it
    /// makes a new one, in which what was counted is lost.
    pub fn renew(path: &Path) -> Result<PathBuf, LedgerError> {
        let io = |error: std::io::Error| unreachable(path, &error.to_string());
        // The folder of a relative path need not have a name.
        let path = &std::path::absolute(path).map_err(io)?;
        let io = |error: std::io::Error| unreachable(path, &error.to_string());
        let aside = with_suffix(path, &format!(".damaged-{}", uuid::Uuid::new_v4()));
        if !id_file(path).exists() {
            write_id(path, "put aside").map_err(io)?;
        }
        std::fs::rename(path, &aside).map_err(io)?;
        for suffix in ["-wal", "-shm"] {
            match std::fs::rename(with_suffix(path, suffix), with_suffix(&aside, suffix)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io(error));
                }
                _ => {}
            }
        }
        Ok(aside)
    }
}

#[async_trait]
impl QuotaStore for Sqlite {
    async fn ask(&self, key: &Key, ask: Ask) -> Result<Reply, LedgerError> {
        self.0.ask(key, ask).await
    }

    fn tell(&self, key: &Key, news: Update) {
        self.0.tell(key, news);
    }

    async fn read(&self) -> Result<Reading, LedgerError> {
        self.0.read().await
    }

    async fn reopen(&self) -> Result<(), LedgerError> {
        self.0.reopen().await
    }
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS ledger (one INTEGER PRIMARY KEY CHECK (one = 1), about BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS budget (key TEXT PRIMARY KEY, budget BLOB NOT NULL) WITHOUT ROWID;
    PRAGMA user_version = 1;
";

/// What holds for the whole ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    id: String,
    time: Timeline,
    /// When what was counted before was lost. A key that is not known may have been.
    lost: Option<Moment>,
}

struct File {
    path: PathBuf,
    connection: Connection,
    /// Which files it is, to notice when one is replaced.
    inodes: Vec<(u64, u64)>,
    clock: Arc<dyn Clock>,
    boot: String,
}

impl File {
    fn open(path: &Path, clock: Arc<dyn Clock>, boot: &str) -> Result<Self, LedgerError> {
        let io = |error: std::io::Error| unreachable(path, &error.to_string());
        let path = std::path::absolute(path).map_err(io)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        make_folder(folder).map_err(io)?;
        // Made here, and not by the library, so that nobody else can read it from the beginning.
        // One that is there is not even opened: as it is closed, this process would lose the locks
        // that another handle of it has on the file (fcntl(2)).
        let new = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match new {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(io(error));
            }
            _ => {}
        }
        files::check_database(&path).map_err(|error| untrusted(&path, error))?;
        // Of the file itself, which can lie elsewhere than its name.
        if let Some(kind) = network_file_system(&path).map_err(io)? {
            return Err(error(&path, LedgerProblem::NetworkFileSystem(kind)));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sql = |e: rusqlite::Error| failed(&path, &e);
        let mut connection = Connection::open_with_flags(&path, flags).map_err(sql)?;
        connection.busy_handler(Some(try_again)).map_err(sql)?;
        let mut file = Self {
            path: path.clone(),
            connection,
            inodes: Vec::new(),
            clock,
            boot: boot.to_owned(),
        };
        file.prepare()?;
        file.inodes = inodes(&path).map_err(io)?;
        Ok(file)
    }

    /// Makes what is not there, and refuses what is not understood.
    fn prepare(&mut self) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let sql = |e: rusqlite::Error| failed(&path, &e);
        let io = |error: std::io::Error| unreachable(&path, &error.to_string());
        let found: u32 = self
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(sql)?;
        if found > FORMAT {
            let known = FORMAT;
            return Err(error(&path, LedgerProblem::Newer { found, known }));
        }
        // While another one does the same, SQLite refuses this without asking whether to try again.
        let begun = Instant::now();
        let mode: String = loop {
            let changed = self
                .connection
                .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0));
            match changed {
                Err(problem) if is_held(&problem) && begun.elapsed() < HELD_MAX => {
                    std::thread::sleep(TRY);
                }
                changed => break changed.map_err(sql)?,
            }
        };
        if mode != "wal" {
            let problem = "SQLite can't keep a write-ahead log there";
            return Err(unreachable(&path, problem));
        }
        self.connection
            .execute_batch("PRAGMA synchronous = FULL")
            .map_err(sql)?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(sql)?;
        transaction.execute_batch(TABLES).map_err(sql)?;
        let noted = read_id(&path)?;
        let known = about(&transaction, &path)?;
        let reckoning = reckoning(&*self.clock, &self.boot);
        let is_known = known.is_some();
        let mut about = known.unwrap_or_else(|| About {
            id: uuid::Uuid::new_v4().to_string(),
            time: Timeline::begin(&reckoning),
            lost: None,
        });
        let is_lost = noted.as_ref().is_some_and(|noted| *noted != about.id);
        if is_lost {
            tracing::warn!(ledger = %path.display(), "what was counted is lost, and taken for used");
            about.lost = Some(about.time.advance(&reckoning));
        }
        if is_lost || !is_known {
            write_about(&transaction, &about).map_err(sql)?;
        }
        transaction.commit().map_err(sql)?;
        if noted.as_ref() != Some(&about.id) {
            write_id(&path, &about.id).map_err(io)?;
        }
        Ok(())
    }
}

impl Store for File {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn handle(&mut self, requests: &[Request]) -> Result<Vec<Response>, LedgerError> {
        let path = &self.path;
        if inodes(path).ok().as_ref() != Some(&self.inodes) {
            let problem = "it was removed or replaced while it was in use: start again";
            return Err(unreachable(path, problem));
        }
        let sql = |e: rusqlite::Error| failed(path, &e);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(sql)?;
        // Read while nobody else decides, so that what is decided later has a later time.
        let reckoning = reckoning(&*self.clock, &self.boot);
        let mut about =
            about(&transaction, path)?.ok_or_else(|| damaged(path, "it has lost its identity"))?;
        let now = about.time.advance(&reckoning);
        let mut budgets = Budgets {
            transaction: &transaction,
            path,
            loaded: BTreeMap::new(),
        };
        let mut responses = Vec::with_capacity(requests.len());
        for request in requests {
            responses.push(match request {
                Request::Ask(key, ask) => {
                    let budget = budgets.get(key)?;
                    if let Some(lost) = about.lost {
                        let longest = Log::longest(&ask.quotas);
                        budget.log.close_for_loss(lost + ask.call + GRACE + longest);
                    }
                    let mut reply = budget.ask(ask, now);
                    if let Reply::Wait { free, .. } | Reply::NotNow(free) = &mut reply {
                        free.at = about.time.there(free.at);
                    }
                    Response::Reply(reply)
                }
                Request::Tell(key, news) => {
                    budgets.get(key)?.tell(match *news {
                        Update::Settled(slot, at) => Update::Settled(slot, about.time.here(at)),
                        Update::ClosedUntil(until) => Update::ClosedUntil(about.time.here(until)),
                        Update::Cancelled(_) | Update::Left(_) => *news,
                    });
                    Response::Done
                }
                Request::Read => {
                    let lost_until = about.lost.map(|lost| lost + LOSS);
                    let mut budgets = budgets.all()?;
                    // As the next one to ask will find them.
                    for budget in budgets.values_mut() {
                        budget.log.close_for_loss(lost_until.unwrap_or_default());
                    }
                    Response::Read(Reading {
                        now,
                        lost_until,
                        budgets,
                    })
                }
                Request::Reopen => {
                    about.lost = None;
                    for key in budgets.all()?.keys() {
                        budgets.get(key)?.reopen();
                    }
                    write_about(&transaction, &about).map_err(sql)?;
                    Response::Done
                }
            });
        }
        if budgets.write()? {
            write_about(&transaction, &about).map_err(sql)?;
        }
        transaction.commit().map_err(sql)?;
        Ok(responses)
    }
}

/// The budgets that a transaction has to do with.
struct Budgets<'a> {
    transaction: &'a Transaction<'a>,
    path: &'a Path,
    /// With how it is written, where it is.
    loaded: BTreeMap<Key, (Option<Vec<u8>>, KeyState)>,
}

impl Budgets<'_> {
    fn get(&mut self, key: &Key) -> Result<&mut KeyState, LedgerError> {
        if !self.loaded.contains_key(key) {
            let written: Option<Vec<u8>> = self
                .transaction
                .prepare_cached("SELECT budget FROM budget WHERE key = ?1")
                .and_then(|mut query| {
                    query
                        .query_row([key.to_string()], |row| row.get(0))
                        .optional()
                })
                .map_err(|e| failed(self.path, &e))?;
            let budget = match &written {
                Some(bytes) => self.decode(bytes)?,
                None => KeyState::default(),
            };
            self.loaded.insert(key.clone(), (written, budget));
        }
        Ok(&mut self.loaded.entry(key.clone()).or_default().1)
    }

    /// With those that are loaded as they are now. What a later version counts is left out.
    fn all(&mut self) -> Result<BTreeMap<Key, KeyState>, LedgerError> {
        let names: Vec<String> = self
            .transaction
            .prepare_cached("SELECT key FROM budget")
            .and_then(|mut query| query.query_map([], |row| row.get(0))?.collect())
            .map_err(|e| failed(self.path, &e))?;
        for name in names {
            if let Ok(key) = name.parse() {
                self.get(&key)?;
            }
        }
        let budgets = self.loaded.iter();
        Ok(budgets.map(|(k, (_, b))| (k.clone(), b.clone())).collect())
    }

    /// Whether there was something to write.
    fn write(self) -> Result<bool, LedgerError> {
        let mut is_changed = false;
        for (key, (written, budget)) in &self.loaded {
            let bytes = encode(budget).map_err(|e| damaged(self.path, &e.to_string()))?;
            if written.as_ref() == Some(&bytes)
                || (written.is_none() && *budget == KeyState::default())
            {
                continue;
            }
            is_changed = true;
            self.transaction
                .prepare_cached("INSERT OR REPLACE INTO budget (key, budget) VALUES (?1, ?2)")
                .and_then(|mut insert| insert.execute((key.to_string(), bytes)))
                .map_err(|e| failed(self.path, &e))?;
        }
        Ok(is_changed)
    }

    fn decode(&self, bytes: &[u8]) -> Result<KeyState, LedgerError> {
        decode(bytes).map_err(|e| damaged(self.path, &e.to_string()))
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_allocvec(value)
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    let (value, rest) = postcard::take_from_bytes(bytes)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(postcard::Error::DeserializeUnexpectedEnd)
    }
}

fn about(transaction: &Transaction<'_>, path: &Path) -> Result<Option<About>, LedgerError> {
    let bytes: Option<Vec<u8>> = transaction
        .prepare_cached("SELECT about FROM ledger")
        .and_then(|mut query| query.query_row([], |row| row.get(0)).optional())
        .map_err(|e| failed(path, &e))?;
    bytes
        .map(|bytes| decode(&bytes).map_err(|e| damaged(path, &e.to_string())))
        .transpose()
}

fn write_about(transaction: &Transaction<'_>, about: &About) -> rusqlite::Result<()> {
    let bytes = encode(about).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO ledger (one, about) VALUES (1, ?1)")?
        .execute([bytes])
        .map(drop)
}

fn reckoning<'a>(clock: &dyn Clock, boot: &'a str) -> ClockReading<'a> {
    ClockReading {
        boot,
        now: clock.now(),
        calendar: clock.wall(),
    }
}

/// Asked for every `TRY` by SQLite, while another process has the file. Its own waiting doubles up
/// to a tenth of a second, in which others come and go.
fn try_again(tries: i32) -> bool {
    std::thread::sleep(TRY);
    TRY * tries.unsigned_abs() < HELD_MAX
}

/// The file's identity, noted beside it.
fn id_file(path: &Path) -> PathBuf {
    with_suffix(path, ".id")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn read_id(path: &Path) -> Result<Option<String>, LedgerError> {
    /// Far more than an id has.
    const MAX: u64 = 1024;

    match files::read_trusted(&id_file(path), MAX) {
        Ok(found) => {
            let id = String::from_utf8_lossy(&found.bytes).trim().to_owned();
            Ok(Some(id).filter(|id| !id.is_empty()))
        }
        Err(FileError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(untrusted(path, error)),
    }
}

/// All of it or nothing, and on the disk.
fn write_id(path: &Path, id: &str) -> std::io::Result<()> {
    let (file, new) = (
        id_file(path),
        with_suffix(path, &format!(".{}", uuid::Uuid::new_v4())),
    );
    let mut writing = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(writing, "{id}")?;
    writing.sync_all()?;
    std::fs::rename(&new, &file)?;
    match file.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Of the file and of those that SQLite keeps beside it as long as anybody has it open: what was
/// written last may be in them alone.
fn inodes(path: &Path) -> std::io::Result<Vec<(u64, u64)>> {
    let inode = |suffix| {
        let about = std::fs::metadata(with_suffix(path, suffix))?;
        Ok((about.dev(), about.ino()))
    };
    ["", "-wal", "-shm"].into_iter().map(inode).collect()
}

/// The kind of a file system that machines share, if it is one that is known.
#[cfg(target_os = "linux")]
fn network_file_system(file: &Path) -> std::io::Result<Option<&'static str>> {
    Ok(shared_by_machines(rustix::fs::statfs(file)?.f_type))
}

#[cfg(not(target_os = "linux"))]
fn network_file_system(_: &Path) -> std::io::Result<Option<&'static str>> {
    Ok(None)
}

/// By the magic numbers of Linux (`statfs(2)` and `include/uapi/linux/magic.h`).
#[cfg(target_os = "linux")]
fn shared_by_machines(kind: rustix::fs::FsWord) -> Option<&'static str> {
    // Of the 32 bits that it has, on every architecture.
    match u32::try_from(kind & 0xffff_ffff).unwrap_or_default() {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9P"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x7375_7245 => Some("Coda"),
        0x00c3_6400 => Some("Ceph"),
        0x0bd0_0bd0 => Some("Lustre"),
        0x0116_1970 => Some("GFS2"),
        0x7461_636f => Some("OCFS2"),
        0x1983_0326 => Some("BeeGFS"),
        0x4750_4653 => Some("GPFS"),
        _ => None,
    }
}

fn error(path: &Path, problem: LedgerProblem) -> LedgerError {
    LedgerError {
        ledger: path.display().to_string(),
        problem,
    }
}

fn unreachable(path: &Path, problem: &str) -> LedgerError {
    error(path, LedgerProblem::Unreachable(problem.to_owned()))
}

fn untrusted(path: &Path, problem: FileError) -> LedgerError {
    match problem {
        FileError::Untrusted(distrust) => error(path, LedgerProblem::Untrusted(distrust)),
        problem => unreachable(path, &problem.to_string()),
    }
}

fn damaged(path: &Path, problem: &str) -> LedgerError {
    error(path, LedgerProblem::Damaged(problem.to_owned()))
}

fn is_held(problem: &rusqlite::Error) -> bool {
    matches!(
        problem.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

fn failed(path: &Path, problem: &rusqlite::Error) -> LedgerError {
    if is_held(problem) {
        return error(path, LedgerProblem::Held(HELD_MAX));
    }
    match problem.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            damaged(path, &problem.to_string())
        }
        _ => unreachable(path, &problem.to_string()),
    }
}

#[cfg(test)]
mod tests;

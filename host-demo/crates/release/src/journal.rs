//! What a run intends, does and knows, on disk: so that one that was killed goes on where it was.
//!
//! A run is a file of its own (SQLite) in one folder. Whoever drives it holds its lock; everybody
//! else may read it meanwhile. What is about to leave is on the disk before it does; what came of
//! it follows at once, and where that can't be written down any more, the run looks it up at the
//! service when it goes on.
//!
//! It holds no secret: names and ids of devices, the comment, times, and what the service said.

mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use self::store::{Change, FORMAT, Store};
use crate::action_kind::ActionKind;
use crate::entry::{Entry, Outcome};
use defender_core::files;
use defender_core::operation::Operation;

/// Changes that are written together, at most.
const BATCH: usize = 512;

/// Why a journal can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// There is no such run.
    #[error("there is no run {name:?} in {folder}")]
    NoSuchRun {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        folder: String,
    },
    /// Several runs begin so.
    #[error("several runs begin with {name:?}: {}; name one of them", .runs.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Which they are.
        runs: Vec<String>,
    },
    /// Another process drives it.
    #[error("the run {run} is being driven by {by}: wait for it, or end it, and try again")]
    Held {
        /// Which run.
        run: String,
        /// Who drives it.
        by: String,
    },
    /// A newer or an older program made it.
    #[error(
        "the run {run} is of format {found}, and this program knows {FORMAT}: use the version that \
         began it"
    )]
    OtherFormat {
        /// Which run.
        run: String,
        /// Its format.
        found: u32,
    },
    /// What is in it makes no sense.
    #[error(
        "the journal {file} is damaged: {problem}. Nothing more is sent by it; the audit record \
             has every call"
    )]
    Damaged {
        /// Which file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It can't be read or written now.
    #[error("the journal {file} can't be used: {problem}")]
    Unusable {
        /// Which file.
        file: String,
        /// Why not.
        problem: String,
    },
}

/// What holds for a whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its name.
    pub id: String,
    /// What is asked for.
    pub kind: ActionKind,
    /// Why.
    pub comment: String,
    /// Random bytes, of which each device's reference is made.
    pub nonce: [u8; 16],
    /// The service's URL.
    pub service: String,
    /// The tenant, where it was known.
    pub tenant: Option<String>,
    /// The application, where it was known.
    pub application: Option<String>,
    /// Who began it, and where.
    pub who: String,
    /// The file that has the audit record.
    pub audit: Option<String>,
    /// Whether a pending opposite action is overtaken.
    pub override_pending: bool,
    /// Whether accepted actions are followed to their end.
    pub follows: bool,
    /// When it was begun.
    pub created: Timestamp,
    /// When it was last brought to an end; not while it is driven, or after a crash.
    pub ended: Option<Timestamp>,
    /// Why it ended, where there is something to say.
    pub ending: Option<String>,
    /// The flags of its command that name the service, the credentials and the files, without the
    /// hyphens, and their values. Resuming the run needs them too.
    pub flags: Vec<(String, String)>,
}

/// A call that was made for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was called.
    pub operation: Operation,
    /// For which device, by its place in the run; none for a reading of many.
    pub device: Option<usize>,
    /// When it had its permit.
    pub began: Timestamp,
    /// When its answer was known.
    pub ended: Option<Timestamp>,
    /// What the answer was: `ok`, or the reason or kind of error.
    pub result: Option<String>,
    /// Whether it may have left, and used up some of a quota: until it is known that it did not.
    pub left: bool,
}

/// All that a journal knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The run.
    pub run: Run,
    /// Its devices, in their order.
    pub entries: Vec<Entry>,
    /// Its calls, in the order in which they were begun.
    pub calls: Vec<Call>,
}

/// A run, in few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// The run.
    pub run: Run,
    /// How many devices have come to which outcome.
    pub outcomes: Vec<(Outcome, usize)>,
    /// How large its file is, in bytes.
    pub size: u64,
    /// How it stands.
    pub standing: Standing,
    /// When something last happened in it.
    pub touched: Timestamp,
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This process, as it calls itself, drives it.
    Driven(String),
    /// It was brought to an end.
    Ended,
    /// Neither: the process that drove it died.
    Interrupted,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driven(by) => write!(f, "driven by {by}"),
            Self::Ended => f.write_str("ended"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// A folder of runs.
#[derive(Clone, Debug)]
pub struct Runs {
    folder: PathBuf,
}

impl Runs {
    /// In this folder, which is made, for its owner alone, when there is something to write.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// A name for a run that begins now: sortable by time, and short enough to be typed.
    pub fn name(now: Timestamp) -> String {
        const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
        let random = uuid::Uuid::new_v4();
        let tail: String = random.as_bytes()[..2]
            .iter()
            .map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]))
            .collect();
        format!("{}{tail}", now.strftime("%Y%m%d-%H%M%S-%3f"))
    }

    /// Makes a journal for a run that is about to begin, and drives it.
    pub fn create(&self, run: &Run, entries: &[Entry]) -> Result<Journal, JournalError> {
        let path = self.path(&run.id);
        let io = |error: std::io::Error| unusable(&path, &error.to_string());
        files::make_private(&self.folder).map_err(|error| unusable(&path, &error.to_string()))?;
        let lock = drive(&self.folder, &run.id)?;
        // Made here, so that nobody else can read it from the beginning.
        OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        let made = Store::open(&path).and_then(|mut store| {
            store.begin(run, entries)?;
            Ok(store)
        });
        match made {
            Ok(store) => Ok(Journal::start(store, Some(lock), run.clone())),
            Err(error) => {
                self.remove(&run.id);
                Err(error)
            }
        }
    }

    /// Opens the journal of a run that was begun before, to drive it on.
    pub fn resume(&self, id: &str) -> Result<(Journal, Record), JournalError> {
        let path = self.path(id);
        // Before there is a lock for what is not there.
        Store::open_to_read(&path)?;
        let lock = drive(&self.folder, id)?;
        let store = Store::open(&path)?;
        let record = store.record()?;
        Ok((
            Journal::start(store, Some(lock), record.run.clone()),
            record,
        ))
    }

    /// Reads what is known of a run, also while another process drives it.
    pub fn read(&self, id: &str) -> Result<Record, JournalError> {
        Store::open_to_read(&self.path(id))?.record()
    }

    /// The name of the run that is meant: its name, an unambiguous beginning of it, or `last`.
    pub fn find(&self, name: &str) -> Result<String, JournalError> {
        let mut runs = self.names()?;
        let none = || JournalError::NoSuchRun {
            name: name.to_owned(),
            folder: self.folder.display().to_string(),
        };
        if name == "last" {
            // One that was killed as it was made had not begun: nothing was sent for it.
            let has_begun = |run: &&String| Store::has_begun(&self.path(run));
            return runs.iter().rev().find(has_begun).cloned().ok_or_else(none);
        }
        if runs.iter().any(|run| run == name) {
            return Ok(name.to_owned());
        }
        runs.retain(|run| !name.is_empty() && run.starts_with(name));
        match runs.len() {
            0 => Err(none()),
            1 => runs.pop().ok_or_else(none),
            _ => Err(JournalError::Ambiguous {
                name: name.to_owned(),
                runs,
            }),
        }
    }

    /// The names of all runs, the oldest first.
    pub fn names(&self) -> Result<Vec<String>, JournalError> {
        let io = |error: std::io::Error| unusable(&self.folder, &error.to_string());
        let files = match std::fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(error)),
        };
        let mut names = Vec::new();
        for file in files {
            let name = file.map_err(io)?.file_name();
            if let Some(run) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) {
                names.push(run.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// A run in few words.
    pub fn overview(&self, id: &str) -> Result<Overview, JournalError> {
        let path = self.path(id);
        let store = Store::open_to_read(&path)?;
        let run = store.run()?;
        let outcomes = store.outcomes(run.follows)?;
        let size = std::fs::metadata(&path).map_or(0, |about| about.len());
        Ok(Overview {
            standing: self.standing(id, &run),
            touched: store.touched(&run)?,
            run,
            outcomes,
            size,
        })
    }

    /// How this run stands now.
    pub fn standing(&self, id: &str, run: &Run) -> Standing {
        if run.ended.is_some() {
            return Standing::Ended;
        }
        let Ok(file) = File::open(self.folder.join(format!("{id}{LOCK}"))) else {
            return Standing::Interrupted;
        };
        // Shared: two that look at the same time do not take each other for a driver.
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Standing::Driven(named_in(file)),
            Ok(()) | Err(TryLockError::Error(_)) => Standing::Interrupted,
        }
    }

    /// Removes a run that nobody drives.
    pub fn purge(&self, id: &str) -> Result<(), JournalError> {
        // One that is damaged can be removed as well, and one that is not there can't.
        if !self.path(id).exists() {
            return Err(no_such_run(&self.path(id)));
        }
        let _lock = lock(&self.folder, id)?;
        self.remove(id);
        let path = self.path(id);
        match path.exists() {
            true => Err(unusable(
                &path,
                "it can't be removed; its folder must be writable",
            )),
            false => Ok(()),
        }
    }

    /// Where the run is kept.
    pub fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}{SUFFIX}"))
    }

    fn remove(&self, id: &str) {
        for suffix in [SUFFIX, ".sqlite-wal", ".sqlite-shm", LOCK] {
            let _ = std::fs::remove_file(self.folder.join(format!("{id}{suffix}")));
        }
    }
}

const SUFFIX: &str = ".sqlite";
const LOCK: &str = ".lock";

/// The lock of whoever drives a run. It is the system's, which takes it back when a process dies;
/// in the file stands who it is, for those who come too late.
fn lock(folder: &Path, id: &str) -> Result<File, JournalError> {
    let path = folder.join(format!("{id}{LOCK}"));
    let io = |error: std::io::Error| unusable(&path, &error.to_string());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io)?;
    // Somebody may just be looking whether it is driven.
    for pause in [1, 5, 20, 50, 100, 200] {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(pause)),
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
    }
    Err(JournalError::Held {
        run: id.to_owned(),
        by: named_in(file),
    })
}

/// Who stands in the lock.
fn named_in(file: File) -> String {
    let mut by = String::new();
    let _ = file.take(100).read_to_string(&mut by);
    match by.is_empty() {
        true => "another process".to_owned(),
        false => by,
    }
}

/// The same, and says who it is.
fn drive(folder: &Path, id: &str) -> Result<File, JournalError> {
    let mut file = lock(folder, id)?;
    let _ = file.set_len(0);
    let _ = write!(file, "process {}", std::process::id());
    Ok(file)
}

fn no_such_run(path: &Path) -> JournalError {
    let folder = path.parent().map(|folder| folder.display().to_string());
    JournalError::NoSuchRun {
        name: run_of(path),
        folder: folder.unwrap_or_default(),
    }
}

fn run_of(path: &Path) -> String {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.map(|name| name.trim_end_matches(SUFFIX).to_owned())
        .unwrap_or_default()
}

fn unusable(path: &Path, problem: &str) -> JournalError {
    JournalError::Unusable {
        file: path.display().to_string(),
        problem: problem.to_owned(),
    }
}

struct Order {
    changes: Vec<Change>,
    /// Who waits until they are on the disk.
    done: Option<oneshot::Sender<Result<i64, JournalError>>>,
}

/// The journal of a run that this process drives. Cheap to clone. When the last clone is dropped,
/// what it was told before is written down first.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    run: Run,
    orders: Mutex<Option<Sender<Order>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    path: PathBuf,
    /// How many wait for it.
    waiting: AtomicUsize,
    _lock: Option<File>,
}

/// A call that stands in the journal as begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(i64);

impl Journal {
    /// One that is forgotten with the process.
    pub fn in_memory(run: &Run, entries: &[Entry]) -> Result<Self, JournalError> {
        let mut store = Store::in_memory()?;
        store.begin(run, entries)?;
        Ok(Self::start(store, None, run.clone()))
    }

    fn start(store: Store, lock: Option<File>, run: Run) -> Self {
        let (orders, incoming) = mpsc::channel();
        let path = store.path.clone();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || work(store, &incoming))
            .inspect_err(|error| tracing::error!(%error, "no thread for the journal"))
            .ok();
        Self(Arc::new(Inner {
            run,
            orders: Mutex::new(Some(orders)),
            thread: Mutex::new(thread),
            path,
            waiting: AtomicUsize::new(0),
            _lock: lock,
        }))
    }

    /// The run, as it was when it was opened.
    pub fn run(&self) -> &Run {
        &self.0.run
    }

    /// Notes how a device stands. It is on the disk at the latest with the next thing that is
    /// waited for.
    pub fn note(&self, n: usize, entry: &Entry, at: Timestamp) {
        self.send(vec![Change::Entry(n, Box::new(entry.clone()), at)], None);
    }

    /// Notes what came of a call: in a word, and whether it may have left.
    pub fn note_answer(&self, call: Begun, at: Timestamp, result: &'static str, left: bool) {
        self.send(vec![Change::Answered(call.0, at, result, left)], None);
    }

    /// Writes down that a call is about to be made, with how its device stands then. When it
    /// returns, it is on the disk.
    pub async fn begin(
        &self,
        call: Call,
        device: Option<(usize, Entry)>,
    ) -> Result<Begun, JournalError> {
        let at = call.began;
        let mut changes = Vec::with_capacity(2);
        if let Some((n, entry)) = device {
            changes.push(Change::Entry(n, Box::new(entry), at));
        }
        changes.push(Change::Call(call));
        self.wait_for(changes).await.map(Begun)
    }

    /// Writes down all that was noted, and that the run is driven (`None`) or at its end.
    pub async fn end(
        &self,
        at: Option<Timestamp>,
        why: Option<String>,
    ) -> Result<(), JournalError> {
        self.wait_for(vec![Change::Ended(at, why)])
            .await
            .map(|_| ())
    }

    /// Whether somebody waits for the disk: for those who move a clock by hand.
    pub fn is_busy(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) > 0
    }

    async fn wait_for(&self, changes: Vec<Change>) -> Result<i64, JournalError> {
        let (done, waiting) = oneshot::channel();
        self.send(changes, Some(done));
        let gone = |_| unusable(&self.0.path, "its thread has ended");
        let _waiting = Waiting::begin(&self.0.waiting);
        waiting.await.map_err(gone)?
    }

    fn send(&self, changes: Vec<Change>, done: Option<oneshot::Sender<Result<i64, JournalError>>>) {
        let orders = self.0.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = &*orders {
            let _ = orders.send(Order { changes, done });
        }
    }
}

/// Counted for as long as it is there.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let orders = self.orders.get_mut();
        *orders.unwrap_or_else(PoisonError::into_inner) = None;
        let thread = self.thread.get_mut();
        if let Some(thread) = thread.unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

/// Writes what it is told, as much at a time as there is. What could not be written is tried again
/// with what comes next, so that a disk that has room again gets all of it, in its order.
fn work(mut store: Store, incoming: &Receiver<Order>) {
    let mut owed: Vec<Change> = Vec::new();
    while let Ok(first) = incoming.recv() {
        let orders = std::iter::once(first).chain(incoming.try_iter());
        let orders: Vec<Order> = orders.take(BATCH).collect();
        let mut changes = std::mem::take(&mut owed);
        let (mut waiting, mut calls) = (Vec::new(), Vec::new());
        for order in orders {
            let from = changes.len();
            changes.extend(order.changes);
            if let Some(done) = order.done {
                // Whoever does not hear that it was written does not send: no call, then.
                calls.push((from, changes.len()));
                waiting.push(done);
            }
        }
        match store.write(&changes) {
            Ok(numbers) => {
                for (done, (_, to)) in waiting.into_iter().zip(calls) {
                    let _ = done.send(Ok(numbers[to - 1]));
                }
            }
            Err(error) => {
                tracing::error!(%error, "the journal");
                for done in waiting {
                    let _ = done.send(Err(error.clone()));
                }
                for (from, to) in calls.into_iter().rev() {
                    changes.drain(from..to);
                }
                owed = changes;
            }
        }
    }
    if !owed.is_empty()
        && let Err(error) = store.write(&owed)
    {
        tracing::error!(%error, "the journal lacks what came last; the run looks it up when it goes on");
    }
}

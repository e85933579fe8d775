//! The audit trail: who had what done to which device, what the boundary saw of it, and what the
//! plugin says of it.
//!
//! # What is written
//!
//! JSON Lines, chained by HMAC ([`verify`]). A call has up to two records:
//!
//! - its *intent*, before anything of it leaves: decided, admitted by the quota, not yet sent. For
//!   an operation that changes something it is on the disk before a token is asked for. Where it
//!   can't be written, nothing is sent;
//! - its *outcome*: the decision, whatever was denied, `observed` by the boundary, and apart from
//!   it what the plugin `claimed`. A call that is denied, or asks for nothing, has only this one.
//!
//! An intent without an outcome is a call that was cut short, by a crash or a power cut: it may
//! have arrived, and [`verify`] lists it. An intent is written only where its outcome will have room,
//! and those of all other open calls of the process: on Linux it is reserved, 64 KiB for each, where
//! the file system can do that (ext4, XFS, Btrfs and tmpfs do; NFS before 4.2 does not). Processes
//! that write to one file share what lies behind its end. An outcome that can't be written even so
//! is kept and tried again with whatever comes next. Reading is recorded too, but nobody waits for the disk then: the last
//! reads before a power cut can be missing. Calls that never began (no quota left, no token to
//! learn the quota's key from) have no record. No record holds a token, a secret, or the comment's
//! text.
//!
//! # Where
//!
//! In one file for all processes of a user, which lock it for each batch of records, and wait for
//! the lock for five seconds at most. Nothing in it is rewritten: what a process left behind when
//! it was killed in the middle of a line stays, and the next record accounts for it; a whole object
//! there that is no record of the chain is damage, and nothing is sent after it. To put a file
//! away, rename it between two runs; the next one begins a new chain.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod hash_chain;
mod key;
mod log_file;
mod record;
mod writer_thread;

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use defender_core::trust::Distrust;
use tokio::sync::oneshot;

pub use hash_chain::{OpenCall, Problem, Verified, VerifyError};
pub use key::Key;
pub use record::Who;
pub use record::{Claimed, Ending, Observed, Outcome, Trail};

use log_file::LogFile;
use writer_thread::{Backlog, Entry, Record};

/// Why a record can't be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The system refuses it.
    #[error("{doing} {}: {problem}", .path.display())]
    Io {
        /// What was tried.
        doing: Doing,
        /// On which file.
        path: PathBuf,
        /// Of what kind the refusal is.
        kind: std::io::ErrorKind,
        /// What the system says.
        problem: String,
    },
    /// Another process has the file's lock, and does not let it go.
    #[error(
        "another process holds the audit file {}, and did not let it go within 5 s: find out which \
         (`fuser` names it) and end it, or record in another file", .path.display()
    )]
    Held {
        /// Which file.
        path: PathBuf,
    },
    /// Not a file that can be appended to, and read.
    #[error("the audit file {} is not a regular file", .path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// Another file's name.
    #[error(
        "the audit file {} is a symbolic link, and none is followed: name the file that it leads \
         to (`--audit`)", .path.display()
    )]
    Link {
        /// Which.
        path: PathBuf,
    },
    /// Another user could have changed the audit log or its key.
    #[error("the audit log and its key are not used: {0}")]
    Untrusted(Distrust),
    /// What comes of a call could not be written any more, so it is not made.
    #[error(
        "the audit file {} has no room for {bytes} bytes more, a call's records and those of the \
         calls that are under way: {problem}. Make room on its disk, raise the limit (`ulimit -f`), \
         or record in another file", .path.display()
    )]
    NoRoom {
        /// Which file.
        path: PathBuf,
        /// How much was asked for.
        bytes: u64,
        /// What the system says.
        problem: String,
    },
    /// What is there was changed, or belongs to another chain.
    #[error(
        "the end of the audit file {} is damaged: {problem}. Put it away for whoever looks into \
         that; a new one is begun then", .path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with its last line.
        problem: Problem,
    },
    /// Records that this process wrote are gone.
    #[error(
        "the audit file {} is shorter than this process left it: somebody cut it or put it away",
        .path.display()
    )]
    Shorter {
        /// Which file.
        path: PathBuf,
    },
    /// There are records, but not the key that they were made with.
    #[error(
        "the audit key {} is not there, and the records that were made with it can be neither \
         continued nor verified without it. Put it back; or put the audit file away, and a new \
         chain with a new key is begun", .path.display()
    )]
    NoKey {
        /// Where it should be.
        path: PathBuf,
    },
    /// Others can read the key, so anybody could have made the records.
    #[error("the audit key {} can be read by others (chmod 600 closes it)", .path.display())]
    KeyIsOpen {
        /// Which file.
        path: PathBuf,
    },
    /// What should be a key is none.
    #[error("{} holds no audit key (64 hexadecimal digits)", .path.display())]
    NotAKey {
        /// Which file.
        path: PathBuf,
    },
    /// The system gives no random bytes for a key.
    #[error("no audit key can be made: {0}")]
    NoRandomness(String),
    /// The disk, or whoever holds the file's lock, takes too long.
    #[error("the audit record was not written in time: find out what holds up its disk")]
    TooSlow,
}

/// What was tried with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// To open the records, or read their end.
    Open,
    /// To lock them.
    Lock,
    /// To write.
    Write,
    /// To read the key.
    ReadTheKey,
    /// To make a key.
    MakeTheKey,
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "can't open the audit file",
            Self::Lock => "can't lock the audit file",
            Self::Write => "can't write to the audit file",
            Self::ReadTheKey => "can't read the audit key",
            Self::MakeTheKey => "can't make the audit key",
        })
    }
}

impl AuditError {
    fn io(doing: Doing, path: &Path, error: &std::io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            kind: error.kind(),
            problem: error.to_string(),
        }
    }
}

/// Takes records, one after the other, from any number of calls.
///
/// They are written by a thread of its own, so that a slow disk holds up the calls that wait for it
/// and no others; records that come at the same time share one trip to the disk. Dropping it waits
/// for what was handed over, and tries a last time to write what could not be written so far.
pub struct Audit {
    who: Who,
    queue: Option<mpsc::Sender<Entry>>,
    writer: Option<JoinHandle<()>>,
    backlog: Arc<Mutex<Backlog>>,
    kept: Arc<Mutex<Vec<String>>>,
}

impl Audit {
    /// Appends to a file, which is made if it is not there, with the key in another, which is made
    /// if there are no records yet. Neither a symbolic link is taken, nor a file that another user could
    /// have written. Where the records are handed on, the key belongs in another folder.
    ///
    /// Whatever would keep a record from being written is found out now.
    pub fn open(path: &Path, key: &Path, who: Who) -> Result<Self, AuditError> {
        let mut file = LogFile::open(path, key, log_file::PAUSE)?;
        Ok(Self::start(who, move |records, durable, room| {
            file.append(records, record::closing, durable, room)
        }))
    }

    /// Keeps the records in memory: for tests, and for hosts that take them elsewhere.
    pub fn memory(who: Who) -> Result<Self, AuditError> {
        let key = Key::fleeting()?;
        let mut head = hash_chain::Head::start();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&kept);
        let mut audit = Self::start(who, move |records, _, _| {
            for record in records {
                let (line, next) = hash_chain::link(&key, &head, record);
                lock(&lines).push(line);
                head = next;
            }
            Ok(())
        });
        audit.kept = kept;
        Ok(audit)
    }

    fn start(
        who: Who,
        append: impl FnMut(&[&str], bool, u64) -> Result<(), AuditError> + Send + 'static,
    ) -> Self {
        let (queue, entries) = mpsc::channel();
        let backlog = Arc::default();
        let to_write = Arc::clone(&backlog);
        let writer = std::thread::spawn(move || writer_thread::run(&entries, &to_write, append));
        Self {
            who,
            queue: Some(queue),
            writer: Some(writer),
            backlog,
            kept: Arc::default(),
        }
    }

    /// Why the outcome of a call is not on record, if that is so. The call's own result is not
    /// affected, but no further one is sent before it is written.
    pub fn unwritten(&self) -> Option<AuditError> {
        lock(&self.backlog).why().cloned()
    }

    /// Whether all is on record that was done for this device or to this action, and has ended.
    pub fn has_all_of(&self, target: &str) -> bool {
        !lock(&self.backlog).lacks(target)
    }

    /// Waits for what was handed over, and tries once more to write what could not be written.
    pub async fn catch_up(&self) {
        let _ = self.ask(None, true).await;
    }

    /// The records, where they are kept in memory.
    pub fn kept(&self) -> Vec<String> {
        lock(&self.kept).clone()
    }

    /// Hands over what a call is about to do.
    fn intend(&self, call: &str, text: String, durable: bool) -> Written {
        let record = Record {
            call: call.to_owned(),
            is_outcome: false,
            text,
        };
        self.ask(Some(record), durable)
    }

    /// Hands over what came of a call, made for `target`. Nobody has to listen.
    fn conclude(&self, call: &str, target: Option<&str>, text: String, durable: bool) -> Written {
        lock(&self.backlog).expect(call.to_owned(), target.map(str::to_owned));
        let record = Record {
            call: call.to_owned(),
            is_outcome: true,
            text,
        };
        self.ask(Some(record), durable)
    }

    fn ask(&self, record: Option<Record>, durable: bool) -> Written {
        let (done, written) = oneshot::channel();
        if let Some(queue) = &self.queue {
            let _ = queue.send(Entry {
                record,
                durable,
                done,
            });
        }
        written
    }

    fn is_late(&self, call: &str) {
        lock(&self.backlog).is_late(call, AuditError::TooSlow);
    }
}

/// Tells when a record is written.
type Written = oneshot::Receiver<Result<(), AuditError>>;

impl Drop for Audit {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Walks a file of records, and finds the first line that is not as it was written.
///
/// `noted` is the hash of a record that was there earlier: with it, it can be told that nothing was
/// cut off since.
pub fn verify(path: &Path, key: &Key, noted: Option<&str>) -> Result<Verified, VerifyError> {
    let records = log_file::records(path, log_file::PAUSE)?;
    hash_chain::verify(BufReader::new(records), key, noted)
}

#[cfg(test)]
mod tests;

//! The file that the records are in: appended to by several processes, and never rewritten.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Take, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::hash_chain::{self, Head, Torn};
use super::key::Key;
use super::{AuditError, Doing};
use defender_core::escape::hex;
use defender_core::files::{self, FileError};

/// How far back the last whole record is looked for: it, and what a killed process may have left.
const TAIL_MAX: usize = hash_chain::LINE_MAX;

/// How often the lock is asked for. A batch holds it for one trip to the disk; a process that holds
/// it for so long is stopped, or hangs.
const ATTEMPTS: u32 = 1000;

/// From one time that the lock is asked for to the next: five seconds in all.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// Opened anew for each batch: where somebody moved the file away, the next record does not go into
/// a file without a name.
pub(super) struct LogFile {
    path: PathBuf,
    key: Key,
    pause: Duration,
    /// How long the file was when this process was done with it.
    left_at: u64,
}

/// The end of a file, as it was found.
struct Tail {
    head: Head,
    /// The last line has no end yet.
    is_open: bool,
    torn: Option<Torn>,
}

impl LogFile {
    /// Finds out at once whether records can be written, and follow from those that are there.
    pub(super) fn open(path: &Path, key_path: &Path, pause: Duration) -> Result<Self, AuditError> {
        let mut file = open(path)?;
        let key = if length(&file, path)? == 0 {
            Key::load_or_make(key_path)?
        } else {
            // A new key would not fit what is there.
            Key::load(key_path)?
        };
        lock(path, pause, || file.try_lock())?;
        check(&file, path)?;
        let left_at = length(&file, path)?;
        tail(&mut file, left_at, &key, path)?;
        Ok(Self {
            path: path.to_owned(),
            key,
            pause,
            left_at,
        })
    }

    /// Appends records, all or none, in one write. Where it is `durable`, they are on the disk when
    /// this returns. With `room`, nothing is written unless so many bytes more can be afterwards.
    pub(super) fn append(
        &mut self,
        records: &[&str],
        closing: impl FnOnce(&Torn) -> String,
        durable: bool,
        room: u64,
    ) -> Result<(), AuditError> {
        let path = &self.path;
        let mut file = open(path)?;
        // Unlocked when it is closed, also where this process is killed.
        lock(path, self.pause, || file.try_lock())?;
        let length = length(&file, path)?;
        if length < self.left_at {
            return Err(AuditError::Shorter { path: path.clone() });
        }
        if length == 0 {
            // Before anything is written: what is written must not fail any more.
            files::sync_folder_of(path).map_err(|e| AuditError::io(Doing::Write, path, &e))?;
        }
        let Tail {
            mut head,
            is_open,
            torn,
        } = tail(&mut file, length, &self.key, path)?;
        let mut text = String::new();
        if is_open {
            text.push('\n');
        }
        let closing = torn.as_ref().map(closing);
        for record in closing
            .as_deref()
            .into_iter()
            .chain(records.iter().copied())
        {
            let (line, next) = hash_chain::link(&self.key, &head, record);
            text.push_str(&line);
            text.push('\n');
            head = next;
        }
        if room > 0 {
            let bytes = text.len() as u64 + room;
            reserve(&file, length, bytes).map_err(|problem| AuditError::NoRoom {
                path: path.clone(),
                bytes,
                problem: problem.to_string(),
            })?;
        }
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| match durable {
                true => file.sync_data(),
                false => Ok(()),
            });
        if let Err(error) = written {
            // What is half written was never promised to anybody. If it can't be taken back, it is
            // closed off like what a killed process leaves.
            let _ = file.set_len(length);
            return Err(AuditError::io(Doing::Write, path, &error));
        }
        self.left_at = length + text.len() as u64;
        Ok(())
    }
}

/// A link is not followed: whoever may write to its folder could have put it there, and have the
/// records go into any file of the user's.
fn open(path: &Path) -> Result<File, AuditError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(code) if code == Errno::LOOP.raw_os_error() => AuditError::Link {
                path: path.to_owned(),
            },
            _ => AuditError::io(Doing::Open, path, &error),
        })
}

/// Checks that no other user could have written the file: before anything is sent, and not again as
/// records are written, because the result of a call is written rather than lost.
fn check(file: &File, path: &Path) -> Result<(), AuditError> {
    let io = |e: std::io::Error| AuditError::io(Doing::Open, path, &e);
    let about = file.metadata().map_err(io)?;
    files::check_open(path, &about).map_err(|error| unusable(error, path))
}

fn unusable(error: FileError, path: &Path) -> AuditError {
    match error {
        FileError::Io(e) => AuditError::io(Doing::Open, path, &e),
        FileError::Untrusted(distrust) => AuditError::Untrusted(distrust),
        FileError::NotAFile(_) | FileError::TooLarge(_) => AuditError::NotAFile {
            path: path.to_owned(),
        },
    }
}

/// Sees to it that a file can grow by so many bytes, whatever else is written to its disk meanwhile.
/// Its length stays as it is. What is not used lies behind the file's end, for what comes next:
/// given back, it could be another process's.
///
/// A file system that reserves nothing says so, and is taken as it is: nothing can be known of it
/// before it is written to. So are other systems than Linux.
fn reserve(file: &File, length: u64, bytes: u64) -> std::io::Result<()> {
    use rustix::process::{Resource, getrlimit};

    // A limit of the process's ends a file as a full disk does, and reserving does not ask for it.
    let end = length.saturating_add(bytes);
    if getrlimit(Resource::Fsize)
        .current
        .is_some_and(|max| end > max)
    {
        return Err(Errno::FBIG.into());
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};

        let ask = || fallocate(file, FallocateFlags::KEEP_SIZE, length, bytes);
        match rustix::io::retry_on_intr(ask) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
    Ok(())
}

/// The file's records as they are now, none of them half written. Nobody is held up while they are
/// read: a file that is only appended to has them later too.
pub(super) fn records(path: &Path, pause: Duration) -> Result<Take<File>, AuditError> {
    let (file, _) = files::open(path).map_err(|error| unusable(error, path))?;
    lock(path, pause, || file.try_lock_shared())?;
    let length = length(&file, path)?;
    file.unlock()
        .map_err(|e| AuditError::io(Doing::Lock, path, &e))?;
    Ok(file.take(length))
}

/// Waits for its turn, though not for ever.
fn lock(
    path: &Path,
    pause: Duration,
    ask: impl Fn() -> Result<(), TryLockError>,
) -> Result<(), AuditError> {
    for _ in 0..ATTEMPTS {
        match ask() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
            Err(TryLockError::Error(e)) => return Err(AuditError::io(Doing::Lock, path, &e)),
        }
    }
    Err(AuditError::Held {
        path: path.to_owned(),
    })
}

fn length(file: &File, path: &Path) -> Result<u64, AuditError> {
    let about = file
        .metadata()
        .map_err(|e| AuditError::io(Doing::Open, path, &e))?;
    if !about.is_file() {
        return Err(AuditError::NotAFile {
            path: path.to_owned(),
        });
    }
    Ok(about.len())
}

/// Finds the last whole record. What stands behind it, and does not end a line, is what a killed
/// process left; whole lines that are no records of this chain are damage, and so is a whole object
/// without a line's end: it was a record, or was put there to pass for one.
fn tail(file: &mut File, length: u64, key: &Key, path: &Path) -> Result<Tail, AuditError> {
    let unreadable = |e| AuditError::io(Doing::Open, path, &e);
    let from = length.saturating_sub(TAIL_MAX as u64);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from)).map_err(unreadable)?;
    (&mut *file)
        .take(TAIL_MAX as u64)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;

    let is_ended = bytes.last().is_none_or(|last| *last == b'\n');
    let mut end = bytes.len() - usize::from(is_ended && !bytes.is_empty());
    loop {
        let start = bytes[..end]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        if start == 0 && from > 0 {
            // It begins before what was read, which no record does.
            return Err(damaged(path, None));
        }
        match hash_chain::check(key, &bytes[start..end]) {
            Ok((_, head)) => {
                return Ok(Tail {
                    head,
                    is_open: !is_ended,
                    torn: torn(bytes.get(end + 1..).unwrap_or_default(), length),
                });
            }
            // Also where the process that was to close off what another had left was killed over
            // it.
            Err(_)
                if bytes.is_empty() || !is_ended && !hash_chain::is_whole(&bytes[start..end]) => {}
            Err(problem) => return Err(damaged(path, Some(problem))),
        }
        if start == 0 {
            return Ok(Tail {
                head: Head::start(),
                is_open: !is_ended,
                torn: torn(&bytes, length),
            });
        }
        end = start - 1;
    }
}

fn torn(left: &[u8], length: u64) -> Option<Torn> {
    (!left.is_empty()).then(|| Torn {
        offset: length - left.len() as u64,
        bytes: left.len() as u64,
        sha256: hex(&Sha256::digest(left)),
    })
}

fn damaged(path: &Path, problem: Option<hash_chain::Problem>) -> AuditError {
    AuditError::Damaged {
        path: path.to_owned(),
        problem: problem.unwrap_or(hash_chain::Problem::NotARecord),
    }
}

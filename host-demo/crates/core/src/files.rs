//! Reads and writes files, and makes folders for one user.
//!
//! What is named can be anything: a pipe that nobody writes to, a device without end, a folder. A
//! file is read only if it is one, and not without bound. What the program believes is read only if
//! no other user could have written it ([`trust`](mod@crate::trust)).

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::trust::{self, Depth, Distrust, User};

/// What was in a file, and who else has to do with it.
pub struct Contents {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Who may do what; nothing is known of what a shell handed over, which nobody else has.
    mode: u32,
}

impl Contents {
    /// Whether others than its owner may do anything with it.
    pub const fn is_open(&self) -> bool {
        self.mode & 0o077 != 0
    }
}

/// Why a file or folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is something else.
    #[error("it is {0}, and a regular file is wanted")]
    NotAFile(&'static str),
    /// It has no end, or one too far away.
    #[error("it is larger than {0} bytes, and no such file is")]
    TooLarge(u64),
    /// Another user could have written it.
    #[error(transparent)]
    Untrusted(#[from] Distrust),
}

/// Reads a file of at most `max` bytes without checking who could have written it: for content that is
/// checked in another way.
///
/// It must be a regular one, so that this comes to an end. Excepted is what is named as an open
/// file of this process, `/dev/stdin` or `/dev/fd/N`: shells hand over so what another command
/// prints.
pub fn read(path: &Path, max: u64) -> Result<Contents, FileError> {
    read_if(path, max, |_| Ok(()))
}

/// Reads a file that no other user could have written. What the shell hands over is the user's.
pub fn read_trusted(path: &Path, max: u64) -> Result<Contents, FileError> {
    read_if(path, max, |about| check_open(path, about))
}

fn read_if(
    path: &Path,
    max: u64,
    check: impl FnOnce(&Metadata) -> Result<(), FileError>,
) -> Result<Contents, FileError> {
    let is_handed_over = path == Path::new("/dev/stdin")
        || ["/dev/fd", "/proc/self/fd"]
            .iter()
            .any(|folder| path.parent() == Some(Path::new(folder)));
    let (file, mode) = if is_handed_over {
        (File::open(path)?, 0)
    } else {
        let (file, about) = open(path)?;
        check(&about)?;
        (file, about.mode())
    };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(FileError::TooLarge(max));
    }
    Ok(Contents { bytes, mode })
}

/// Opens a regular file, and nothing else.
pub fn open(path: &Path) -> Result<(File, Metadata), FileError> {
    // Without it, a pipe would be waited for as it is opened.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    let about = file.metadata()?;
    match about.file_type() {
        kind if kind.is_file() => Ok((file, about)),
        kind if kind.is_dir() => Err(FileError::NotAFile("a folder")),
        kind if kind.is_fifo() => Err(FileError::NotAFile("a pipe")),
        _ => Err(FileError::NotAFile("a device")),
    }
}

/// Writes a file that its owner alone can read: all of it, in place of what was there, or nothing.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if let Ok(found) = std::fs::symlink_metadata(path)
        && !found.is_file()
    {
        // It would be replaced, and not written to.
        return Err(FileError::NotAFile(match found.is_dir() {
            true => "a folder",
            false => "a link, a pipe or a device",
        }));
    }
    let name = path.file_name().ok_or(FileError::NotAFile("a folder"))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let beside = path.with_file_name(beside);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    Ok(written?)
}

/// Checks that no other user could have written a file or folder.
pub fn check(path: &Path) -> Result<(), FileError> {
    Ok(trust::decide(
        &trust::walk(path)?,
        &User::current(),
        Depth::Closed,
    )?)
}

/// Checks that no other user could have removed a file that is not there.
pub fn check_absent(path: &Path) -> Result<(), FileError> {
    let path = std::path::absolute(path)?;
    let mut folders = path.ancestors().skip(1);
    let Some(folder) = folders.find(|folder| folder.symlink_metadata().is_ok()) else {
        return Ok(());
    };
    match check(folder) {
        // In a shared folder, users remove only what is theirs.
        Err(FileError::Untrusted(Distrust::Shared(_))) => Ok(()),
        checked => checked,
    }
}

/// Checks that no other user could have written an open file, and that it is the one at the path.
pub fn check_open(path: &Path, about: &Metadata) -> Result<(), FileError> {
    let found = trust::walk(path)?;
    trust::decide(&found, &User::current(), Depth::Closed)?;
    if found.last().map(|last| last.inode) != Some((about.dev(), about.ino())) {
        let replaced = "it was replaced while it was opened";
        return Err(std::io::Error::other(replaced).into());
    }
    Ok(())
}

/// Checks an SQLite database, with the files that SQLite keeps beside it and reads without asking
/// whose they are. So its folder must be closed to writing by others, also where it is sticky.
pub fn check_database(path: &Path) -> Result<(), FileError> {
    let path = std::path::absolute(path)?;
    check(path.parent().unwrap_or(Path::new("/")))?;
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match check(Path::new(&name)) {
            Err(FileError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            checked => checked?,
        }
    }
    Ok(())
}

/// Makes a folder that only its owner may use, unless it is there already; then no other user may
/// be able to write to it.
pub fn make_private(folder: &Path) -> Result<(), FileError> {
    create_private(folder)?;
    check(folder)
}

/// Makes a folder for compiled code, and returns its path without symbolic links.
///
/// What lies there is run, and opened by its path alone. So every folder above it, up to the root,
/// must be closed to writing by others. Where other users could have written to the folder or to
/// anything in it, all of it is removed, and the reason is returned too.
pub fn make_code_cache(folder: &Path) -> Result<(PathBuf, Option<Distrust>), FileError> {
    let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(FileError::NotAFile("the root"));
    };
    let user = User::current();
    create_private(folder)?;
    trust::decide(&trust::walk(above)?, &user, Depth::Root)?;
    let path = above.canonicalize()?.join(name);
    let emptied = match trust::check_tree(&path, &user)? {
        Ok(()) => None,
        // Not this user's to remove.
        Err(Distrust::Owner {
            path: of,
            uid,
            user,
        }) if of == path => {
            return Err(Distrust::Owner {
                path: of,
                uid,
                user,
            }
            .into());
        }
        Err(distrust) => {
            std::fs::remove_dir_all(&path)?;
            create_private(&path)?;
            Some(distrust)
        }
    };
    trust::decide(&trust::walk(&path)?, &user, Depth::Root)?;
    Ok((path, emptied))
}

fn create_private(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Syncs the folder of a file: without it a new file's name may be lost in a power cut, though its
/// content is not.
pub fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn change(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let folder = folder();
        let path = folder.path().join("file");
        write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap().bytes, b"12345");
        assert!(matches!(read(&path, 4), Err(FileError::TooLarge(4))));
        let gone = read(&folder.path().join("none"), 5).err();
        assert!(matches!(gone, Some(FileError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound));
    }

    #[test]
    fn a_file_is_written_whole_for_its_owner_or_what_was_there_stays() {
        let folder = folder();
        let path = folder.path().join("report.html");
        super::write(&path, b"first").unwrap();
        change(&path, 0o644);
        super::write(&path, b"second").unwrap();
        assert_eq!(read(&path, 10).unwrap().bytes, b"second");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);

        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        for (path, kind) in [
            (link.as_path(), "a link, a pipe or a device"),
            (Path::new("/dev/null"), "a link, a pipe or a device"),
            (folder.path(), "a folder"),
            (Path::new("/"), "a folder"),
        ] {
            let error = super::write(path, b"third").err();
            assert!(
                matches!(error, Some(FileError::NotAFile(found)) if found == kind),
                "{path:?}: {error:?}"
            );
        }
        let nowhere = folder.path().join("none/report.html");
        assert!(matches!(
            super::write(&nowhere, b"x"),
            Err(FileError::Io(_))
        ));
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 2, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let folder = folder();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let link = folder.path().join("link");
        symlink(&pipe, &link).unwrap();
        for (path, kind) in [
            (pipe.as_path(), "a pipe"),
            (&link, "a pipe"),
            (folder.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let error = read(path, 5).err();
            assert!(
                matches!(error, Some(FileError::NotAFile(found)) if found == kind),
                "{path:?}: {error:?}"
            );
        }
    }

    #[test]
    fn what_the_shell_hands_over_is_read_and_is_nobody_elses() {
        use std::io::{Seek as _, Write as _};
        use std::os::fd::AsRawFd as _;

        let (reader, mut writer) = std::io::pipe().unwrap();
        let handed = |fd: i32| PathBuf::from(format!("/dev/fd/{fd}"));
        writer.write_all(b"token").unwrap();
        drop(writer);
        let found = read(&handed(reader.as_raw_fd()), 5).unwrap();
        assert_eq!(found.bytes, b"token");
        assert!(!found.is_open());

        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"123456").unwrap();
        file.rewind().unwrap();
        let error = read(&handed(file.as_raw_fd()), 5).err();
        assert!(matches!(error, Some(FileError::TooLarge(5))), "{error:?}");
    }

    #[test]
    fn a_file_that_others_can_read_is_reported() {
        let folder = folder();
        let path = folder.path().join("file");
        write(&path, "").unwrap();
        for (mode, is_open) in [(0o600, false), (0o640, true), (0o604, true)] {
            change(&path, mode);
            assert_eq!(
                read_trusted(&path, 5).unwrap().is_open(),
                is_open,
                "{mode:o}"
            );
        }
    }

    #[test]
    fn only_a_trusted_file_is_read_as_one() {
        let folder = folder();
        let path = folder.path().join("file");
        write(&path, "12345").unwrap();
        change(&path, 0o602);
        let error = read_trusted(&path, 5).err();
        assert!(matches!(
            error,
            Some(FileError::Untrusted(Distrust::Writable { .. }))
        ));
        assert_eq!(read(&path, 5).unwrap().bytes, b"12345");
    }

    #[test]
    fn an_open_file_must_be_the_one_at_its_path() {
        let folder = folder();
        let path = folder.path().join("file");
        write(&path, "first").unwrap();
        let (_, about) = open(&path).unwrap();
        check_open(&path, &about).unwrap();
        super::write(&path, b"second").unwrap();
        let error = check_open(&path, &about).unwrap_err().to_string();
        assert!(error.contains("was replaced"), "{error}");
    }

    #[test]
    fn a_new_private_folder_is_closed_and_an_open_one_rejected() {
        let folder = folder();
        let path = folder.path().join("a/b");
        make_private(&path).unwrap();
        for made in [&path, path.parent().unwrap()] {
            assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o700);
        }
        change(&path, 0o702);
        assert!(matches!(
            make_private(&path),
            Err(FileError::Untrusted(Distrust::Writable { .. }))
        ));
        change(&path, 0o1777);
        assert!(matches!(
            make_private(&path),
            Err(FileError::Untrusted(Distrust::Shared(_)))
        ));
    }

    #[test]
    fn a_database_needs_a_folder_of_its_own_and_all_its_files() {
        let folder = folder();
        let path = folder.path().join("ledger.sqlite");
        check_database(&path).unwrap();
        write(&path, "").unwrap();
        let beside = folder.path().join("ledger.sqlite-wal");
        write(&beside, "").unwrap();
        check_database(&path).unwrap();
        change(&beside, 0o666);
        let error = check_database(&path).unwrap_err().to_string();
        assert!(error.contains("ledger.sqlite-wal"), "{error}");
        change(&beside, 0o600);
        change(folder.path(), 0o1777);
        let error = check_database(&path).unwrap_err().to_string();
        assert!(error.contains("a folder of your own"), "{error}");
    }

    #[test]
    fn a_code_cache_that_others_could_write_to_is_emptied() {
        let folder = folder();
        let path = folder.path().join("compiled");
        let entry = path.join("modules/entry");
        let fill = |mode| {
            let (path, _) = make_code_cache(&path).unwrap();
            create_private(entry.parent().unwrap()).unwrap();
            write(&entry, "code").unwrap();
            change(&entry, mode);
            path
        };
        assert_eq!(fill(0o644), path.canonicalize().unwrap());
        assert_eq!(make_code_cache(&path).unwrap().1, None);
        assert!(entry.exists());

        change(&path, 0o777);
        assert!(make_code_cache(&path).unwrap().1.is_some());
        assert!(!entry.exists(), "planted while the folder was open");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);

        fill(0o666);
        assert!(make_code_cache(&path).unwrap().1.is_some());
        assert!(!entry.exists(), "writable by others");

        fill(0o600);
        symlink("/etc/passwd", path.join("modules/link")).unwrap();
        assert!(make_code_cache(&path).unwrap().1.is_some());
        assert!(!entry.exists(), "a link leads elsewhere");
    }

    #[test]
    fn a_code_cache_is_trusted_up_to_the_root() {
        let folder = folder();
        let above = folder.path().join("above");
        let path = above.join("private/compiled");
        make_code_cache(&path).unwrap();
        change(&above, 0o777);
        let error = make_code_cache(&path).unwrap_err().to_string();
        assert!(error.contains("above (mode 0777)"), "{error}");
        // What is there is not the other users', and they can't reach it.
        check(&path).unwrap();
        change(&above, 0o1777);
        make_code_cache(&path).unwrap();
    }
}

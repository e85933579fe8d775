//! Files that somebody names, and folders that are to be one's own.
//!
//! What is named can be anything: a pipe that nobody writes to, a device without end, a folder. A
//! file is read only if it is one, and not without bound.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

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

    /// Whether every user can change it.
    pub const fn can_be_changed_by_anyone(&self) -> bool {
        self.mode & 0o002 != 0
    }

    /// Whether its group's users can change it.
    pub const fn can_be_changed_by_its_group(&self) -> bool {
        self.mode & 0o020 != 0
    }
}

/// Why a file is not read.
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
}

/// Reads a file of at most so many bytes.
///
/// It must be a regular one, so that this comes to an end. Excepted is what is named as an open
/// file of this process, `/dev/stdin` or `/dev/fd/N`: shells hand over so what another command
/// prints.
pub fn read(path: &Path, max: u64) -> Result<Contents, FileError> {
    let is_handed_over = path == Path::new("/dev/stdin")
        || ["/dev/fd", "/proc/self/fd"]
            .iter()
            .any(|folder| path.parent() == Some(Path::new(folder)));
    let (file, mode) = if is_handed_over {
        (File::open(path)?, 0)
    } else {
        let (file, about) = open(path)?;
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

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It can't be made or looked at.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Others may put into it what they like.
    #[error("others may write to {path}; close it: chmod go-w {path}", path = .0.display())]
    Open(PathBuf),
    /// It is somebody else's.
    #[error("{} belongs to another user", .0.display())]
    Foreign(PathBuf),
}

/// Makes a folder that only its owner may use, unless it is there already; then nobody else may
/// write to it.
pub fn make_private(folder: &Path) -> Result<(), FolderError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let found = std::fs::metadata(folder)?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(FolderError::Foreign(folder.to_owned()));
    }
    if found.mode() & 0o022 != 0 {
        return Err(FolderError::Open(folder.to_owned()));
    }
    Ok(())
}

/// The path of a folder without symbolic links in it, if nobody else can put another folder into
/// its place.
///
/// Who may write to a folder may rename what is in it, unless it is sticky. What lies below a
/// folder that is closed to others is out of their reach. Rights that are given apart from the
/// file's mode (access control lists) are not looked at.
pub fn out_of_reach(folder: &Path) -> Result<PathBuf, FolderError> {
    let path = folder.canonicalize()?;
    let own = rustix::process::geteuid().as_raw();
    let above: Vec<&Path> = path.ancestors().skip(1).collect();
    for folder in above.into_iter().rev() {
        let found = std::fs::metadata(folder)?;
        let mode = found.mode();
        if found.uid() != own && found.uid() != 0 {
            return Err(FolderError::Foreign(folder.to_owned()));
        }
        if mode & 0o011 == 0 {
            break;
        }
        if mode & 0o022 != 0 && mode & 0o1000 == 0 {
            return Err(FolderError::Open(folder.to_owned()));
        }
    }
    Ok(path)
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
    use std::fs::{Permissions, create_dir, set_permissions, write};
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
    fn who_else_has_to_do_with_a_file_is_told() {
        let folder = folder();
        let path = folder.path().join("file");
        write(&path, "").unwrap();
        for (mode, expected) in [
            (0o600, [false, false, false]),
            (0o640, [true, false, false]),
            (0o604, [true, false, false]),
            (0o620, [true, true, false]),
            (0o602, [true, false, true]),
        ] {
            change(&path, mode);
            let found = read(&path, 5).unwrap();
            let told = [
                found.is_open(),
                found.can_be_changed_by_its_group(),
                found.can_be_changed_by_anyone(),
            ];
            assert_eq!(told, expected, "{mode:o}");
        }
    }

    #[test]
    fn a_private_folder_is_made_closed_and_one_that_is_open_is_not_used() {
        let folder = folder();
        let path = folder.path().join("a/b");
        make_private(&path).unwrap();
        for made in [&path, path.parent().unwrap()] {
            assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o700);
        }
        for mode in [0o720, 0o702] {
            change(&path, mode);
            assert!(matches!(make_private(&path), Err(FolderError::Open(p)) if p == path));
        }
    }

    #[test]
    fn a_folder_below_one_that_others_may_write_to_is_within_their_reach() {
        let folder = folder();
        let above = folder.path().join("above");
        let path = above.join("private");
        make_private(&path).unwrap();
        let around = folder.path().canonicalize().unwrap();
        let (above, path) = (around.join("above"), around.join("above/private"));
        change(&around, 0o755);
        for (mode, is_out_of_reach) in [
            (0o755, true),
            (0o775, false),
            (0o757, false),
            (0o777, false),
            // Nobody renames in it what is another's.
            (0o1777, true),
        ] {
            change(&above, mode);
            match out_of_reach(&path) {
                Ok(found) => assert!(is_out_of_reach && found == path, "{mode:o}"),
                Err(FolderError::Open(open)) => {
                    assert!(!is_out_of_reach && open == above, "{mode:o}");
                }
                Err(error) => panic!("{mode:o}: {error:?}"),
            }
        }

        change(&above, 0o777);
        change(&around, 0o700);
        assert!(out_of_reach(&path).is_ok(), "nobody else gets that far");
        change(&around, 0o755);
        create_dir(around.join("other")).unwrap();
        let link = around.join("other/link");
        symlink(&path, &link).unwrap();
        assert!(matches!(out_of_reach(&link), Err(FolderError::Open(open)) if open == above));
    }
}

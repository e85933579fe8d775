//! A file that this process removes when it ends.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A file of this process: it is removed in the end, because what is in it is of no use then. A file
/// that another process has put in its place since stays.
pub(crate) struct OwnFile {
    path: PathBuf,
    own: Option<(u64, u64)>,
}

impl OwnFile {
    /// The file that this process has written to the path.
    pub(crate) fn new(path: PathBuf) -> Self {
        let own = std::fs::symlink_metadata(&path).ok();
        let own = own.as_ref().map(identity);
        Self { path, own }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path).ok();
        if self.own.is_some() && found.as_ref().map(identity) == self.own {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What tells a file from another one at its path.
pub(crate) fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

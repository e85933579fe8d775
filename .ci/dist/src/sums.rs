//! `SHA256SUMS`: the digest of every file, as `sha256sum --check` reads it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

const SUMS: &str = "SHA256SUMS";

/// Hexadecimal, in lower case.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Adds the digests of all that is in the folder.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let mut text = String::new();
    for file in files {
        let name = file.strip_prefix(folder)?;
        let name = name.to_str().context("a file's name is no text")?;
        writeln!(text, "{}  {name}", sha256(&fs::read(&file)?))?;
    }
    Ok(fs::write(folder.join(SUMS), text)?)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.file_name().is_none_or(|name| name != SUMS) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_name_every_file_but_themselves() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/c"), "abc").unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        for _ in 0..2 {
            write(folder.path()).unwrap();
            // FIPS 180-4's example, and the digest of nothing.
            assert_eq!(
                fs::read_to_string(folder.path().join(SUMS)).unwrap(),
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n\
                 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b/c\n"
            );
        }
    }
}

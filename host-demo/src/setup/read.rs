//! Reads values of the environment and files: certificates, secrets, the configuration.

use std::path::Path;

use anyhow::{Context as _, bail};
use host_demo::files::{self, Contents, FileError};
use host_demo::stray;

use crate::ui::output::clean;

/// Returns a value of the environment that is text and not empty.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns a value of the environment, without the stray characters that a file's would lose. One that
/// is there and can't be used is an error, not missing.
pub(super) fn secret(name: &str) -> anyhow::Result<Option<String>> {
    let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let Some(text) = value.to_str() else {
        bail!("{name} is not text (UTF-8)");
    };
    let text = stray::trim(text);
    if text.is_empty() {
        bail!("{name} is blank");
    }
    Ok(Some(text.to_owned()))
}

/// Reads a file that is not secret, and that no other user could have written.
pub(crate) fn file(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    Ok(contents(path, what)?.bytes)
}

/// Reads a secret; stray characters around it are dropped, and without it the file is an error.
pub(super) fn secret_text(path: &Path, what: &str) -> anyhow::Result<String> {
    let text = text(path, what)?;
    let secret = stray::trim(&text);
    expect_content(secret.as_bytes(), what, path)?;
    Ok(secret.to_owned())
}

/// Reads a secret as text, whatever its encoding.
pub(super) fn text(path: &Path, what: &str) -> anyhow::Result<String> {
    stray::decode(&secret_bytes(path, what)?)
        .with_context(|| format!("{what} {} can't be read", path.display()))
}

/// Reads a secret, and warns if other users can read its file.
pub(super) fn secret_bytes(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    let found = contents(path, what)?;
    if found.is_open() {
        let path = clean(&path.display().to_string());
        note!("host-demo: {what} {path} is open to others; close it: chmod 600 {path}");
    }
    Ok(found.bytes)
}

/// Reads a file that no other user could have written, with its permissions, up to a size that no such
/// file has.
fn contents(path: &Path, what: &str) -> anyhow::Result<Contents> {
    /// Far more than any certificate, secret, token or configuration has.
    const MAX: u64 = 1 << 20;

    files::read_trusted(path, MAX).map_err(|error| {
        let why = match error {
            FileError::Untrusted(_) => "is not used",
            _ => "can't be read",
        };
        anyhow::Error::from(error).context(format!("{what} {} {why}", path.display()))
    })
}

/// Rejects a file with nothing in it but white space.
pub(super) fn expect_content(bytes: &[u8], what: &str, path: &Path) -> anyhow::Result<()> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        bail!("{what} {} is empty", path.display());
    }
    Ok(())
}

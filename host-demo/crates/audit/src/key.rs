//! The key of a chain, in a file of its own.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::{AuditError, Doing};
use defender_core::escape::hex;
use defender_core::files::{self, FileError};

const BYTES: usize = 32;

/// What the hashes of a chain are made with. Whoever has it can make a chain that verifies; so it
/// lies apart from the records, closed to everyone but its owner.
#[derive(Clone)]
pub struct Key {
    mac: Hmac<Sha256>,
    name: String,
}

impl Key {
    /// The key in a file, which has to be closed to everyone but its owner.
    pub fn load(path: &Path) -> Result<Self, AuditError> {
        Self::read(path)?.ok_or_else(|| AuditError::NoKey {
            path: path.to_owned(),
        })
    }

    /// The key in a file, which is made if it is not there.
    pub(super) fn load_or_make(path: &Path) -> Result<Self, AuditError> {
        match Self::read(path)? {
            Some(key) => Ok(key),
            None => Self::make(path),
        }
    }

    /// A key that nobody keeps.
    pub(super) fn fleeting() -> Result<Self, AuditError> {
        Ok(Self::from_bytes(&random()?))
    }

    /// A name by which records say which key they were made with. It gives nothing of it away.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn mac(&self) -> Hmac<Sha256> {
        self.mac.clone()
    }

    fn from_bytes(bytes: &[u8; BYTES]) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "HMAC takes keys of any length (RFC 2104)"
        )]
        let mac = Hmac::<Sha256>::new_from_slice(bytes).expect("any length is a key's");
        let mut named = mac.clone();
        named.update(b"host-demo: the name of an audit key");
        let name = hex(&named.finalize().into_bytes()[..8]);
        Self { mac, name }
    }

    fn read(path: &Path) -> Result<Option<Self>, AuditError> {
        /// Far more than a key has.
        const MAX: u64 = 1024;

        let not_a_key = || AuditError::NotAKey {
            path: path.to_owned(),
        };
        let found = match files::read_trusted(path, MAX) {
            Ok(found) => found,
            Err(FileError::Io(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(FileError::Io(error)) => {
                return Err(AuditError::io(Doing::ReadTheKey, path, &error));
            }
            Err(FileError::NotAFile(_) | FileError::TooLarge(_)) => return Err(not_a_key()),
            Err(FileError::Untrusted(distrust)) => return Err(AuditError::Untrusted(distrust)),
        };
        if found.is_open() {
            return Err(AuditError::KeyIsOpen {
                path: path.to_owned(),
            });
        }
        let text = String::from_utf8(found.bytes).map_err(|_| not_a_key())?;
        let bytes = digits(text.trim_end()).ok_or_else(not_a_key)?;
        Ok(Some(Self::from_bytes(&bytes)))
    }

    /// Written elsewhere and then given its name, which only one of several processes can do, so
    /// that there is never half a key, nor two.
    fn make(path: &Path) -> Result<Self, AuditError> {
        let failed = |e: std::io::Error| AuditError::io(Doing::MakeTheKey, path, &e);
        let bytes = random()?;
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", hex(&random()?[..8])));
        let draft = Path::new(&draft);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(draft)
            .and_then(|mut file| {
                writeln!(file, "{}", hex(&bytes))?;
                file.sync_all()
            })
            .and_then(|()| std::fs::hard_link(draft, path));
        let _ = std::fs::remove_file(draft);
        match written {
            Ok(()) => {
                files::sync_folder_of(path).map_err(failed)?;
                // Read again, with the check of its folder.
                Self::load(path)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(failed(error)),
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

fn random() -> Result<[u8; BYTES], AuditError> {
    let mut bytes = [0; BYTES];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(AuditError::NoRandomness(error.to_string())),
    }
}

fn digits(text: &str) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    if text.len() != 2 * BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

//! `host-demo gateway`

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::settings::Key;
use anyhow::{Context as _, bail};
use host_demo::files;
use host_demo::gateway::Gateway;
use host_demo::identity::Method;
use rustix::fs::OFlags;
use serde_json::json;

use crate::args::{self, Output};
use crate::exit::Exit;
use crate::setup::host::{self, Recording};
use crate::setup::interrupt::Interrupt;
use crate::setup::own_file::{self, OwnFile};
use crate::setup::{paths, settings};
use crate::ui::{output, unrecorded};

pub(crate) async fn run(args: args::Gateway, format: Output) -> anyhow::Result<Exit> {
    let plugin = &args.connection.plugin;
    if plugin.file.is_some() || plugin.sha256.is_some() {
        bail!("the gateway runs no plugin: leave out --plugin and --plugin-sha256");
    }
    let (connection, settings) = settings::settle(&args.connection)?;
    if settings.text(Key::Auth) == Some(Method::DeviceCode.name()) {
        bail!(
            "nobody is there to sign in when a gateway needs a token: let it be an application, or a \
             user who is signed in already (--auth azure-cli)"
        );
    }
    let (egress, _) = host::boundary(&connection, &settings, Recording::default())?;
    let gateway = Gateway::bind(&egress, args.listen).await?;
    let key_file = match &args.key_file {
        // An engine may be started elsewhere.
        Some(path) => std::path::absolute(path)?,
        // A gateway beside this one has another port.
        None => paths::private(paths::state_folder()?)?
            .join(format!("gateway-{}.key", gateway.address()?.port())),
    };
    let failed = || format!("the key can't be written to {}", key_file.display());
    let claim = Claim::of(&key_file)?;
    expect_key(&key_file)?;
    gateway.write_key(&key_file).with_context(failed)?;
    let key = OwnFile::new(key_file);

    let interrupt = Interrupt::finishes();
    introduce(gateway.base_url(), key.path(), format);
    gateway.serve(interrupt.stop.clone()).await;
    drop(key);
    drop(claim);
    let missing = unrecorded::missing_of(egress.audit()).await;
    Ok(Exit::Done.failed_if(missing.is_some()))
}

/// Rejects a file that holds something else than a gateway's key: it would be replaced, and removed in
/// the end.
fn expect_key(path: &Path) -> anyhow::Result<()> {
    /// A key's digits, and a line break.
    const LENGTH_MAX: u64 = 66;

    let is_key = match std::fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() <= LENGTH_MAX => {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.trim().len() == 64 && text.trim().bytes().all(|b| b.is_ascii_hexdigit())
        }
        Ok(_) => false,
        // What keeps it from being read keeps it from being written.
        Err(_) => true,
    };
    if !is_key {
        bail!(
            "{} exists and does not hold a gateway's key; name another file with --key-file",
            path.display()
        );
    }
    Ok(())
}

/// The right to a key file, for as long as this exists. The system takes it back from a process that
/// dies, so that the key file of a dead gateway can be taken over.
struct Claim {
    // Removed before the lock is given up.
    lock_file: OwnFile,
    _lock: File,
}

impl Claim {
    fn of(key_file: &Path) -> anyhow::Result<Self> {
        let mut path = key_file.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = || format!("the key can't be written to {}", key_file.display());
        loop {
            let lock = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                // Another user could have put a link there, if they can write to the folder.
                .custom_flags(OFlags::NOFOLLOW.bits() as i32)
                .open(&path)
                .with_context(failed)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!(
                    "another gateway is running with the key file {}; end it, or name another file \
                     with --key-file",
                    key_file.display()
                ),
                Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
            }
            let about = lock.metadata().with_context(failed)?;
            if about.len() > 0 {
                bail!(
                    "{} exists and is not a gateway's lock file; name another key file with \
                     --key-file",
                    path.display()
                );
            }
            // The gateway that had it may have removed it since it was opened here.
            let locked = own_file::identity(&about);
            let there = std::fs::symlink_metadata(&path).ok();
            if there.as_ref().map(own_file::identity) == Some(locked) {
                let claim = Self {
                    lock_file: OwnFile::new(path),
                    _lock: lock,
                };
                // The key lies beside it, where no other user must be able to replace it.
                files::check(claim.lock_file.path()).with_context(failed)?;
                return Ok(claim);
            }
        }
    }
}

/// What an engine needs to know.
fn introduce(base_url: &str, key: &Path, format: Output) {
    if format == Output::Json {
        output::json_line(&json!({
            "type": "gateway",
            "base_url": base_url,
            "key_file": key.display().to_string(),
        }));
        return;
    }
    output::line(&format!("# The gateway listens at {base_url}."));
    output::line("# An engine asks it for a capability, with the key in this file:");
    output::line(&output::clean(&format!("#   {}", key.display())));
}

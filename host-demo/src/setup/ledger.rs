//! Opens the ledger that a subcommand's calls are counted in.

use std::sync::Arc;

use anyhow::Context as _;
use host_demo::clock::{Clock, SystemClock};
use host_demo::limits::{LedgerName, Memory, QuotaStore, Redis, RedisOptions, Sqlite, boot_id};
use host_demo::stray;

use super::{paths, read};
use crate::args;

/// Where calls are counted.
pub(crate) fn open(args: &args::Ledger, time_scale: u32) -> anyhow::Result<Arc<dyn QuotaStore>> {
    let clock = Arc::new(SystemClock::scaled(time_scale));
    // What is played out faster is not counted with what is real.
    if args.at.is_none() && time_scale > 1 {
        return Ok(Arc::new(Memory::new(clock)));
    }
    Ok(match name_of(args)? {
        LedgerName::Memory => Arc::new(Memory::new(clock)),
        // What is played out faster is not counted with what is real.
        LedgerName::File(mut path) => {
            if time_scale > 1 {
                path.as_mut_os_string().push(format!(".x{time_scale}"));
            }
            Arc::new(Sqlite::open(&path, clock, &boot_id())?)
        }
        LedgerName::Redis(url) => {
            let password = match &args.password_file {
                Some(path) => Some(read::secret_text(path, "the ledger's password file")?),
                None => read::secret("HOST_DEMO_LEDGER_PASSWORD")?,
            };
            if password.as_deref().is_some_and(stray::is_quoted) {
                note!(
                    "warning: the ledger's password begins and ends with quotation marks, which are \
                     sent as part of it"
                );
            }
            let authorities = args.ca_file.as_deref();
            let authorities = authorities
                .map(|path| read::file(path, "the ledger's CA file"))
                .transpose()?;
            let time: Option<Arc<dyn Clock>> = match time_scale {
                0 | 1 => None,
                _ => Some(Arc::clone(&clock) as _),
            };
            let options = RedisOptions {
                password,
                authorities,
                time,
                ..RedisOptions::default()
            };
            Arc::new(Redis::open(&url, options, clock)?)
        }
    })
}

/// The ledger that the arguments name, or the default file.
pub(crate) fn name_of(args: &args::Ledger) -> anyhow::Result<LedgerName> {
    match &args.at {
        Some(at) => at.parse().context("--ledger"),
        None => Ok(LedgerName::File(paths::ledger()?)),
    }
}

/// Who this is, for those who look at the ledger.
pub(crate) fn name() -> String {
    let user = whoami::username().unwrap_or_default();
    let machine = whoami::hostname().unwrap_or_default();
    format!("{user}@{machine}, process {}", std::process::id())
}

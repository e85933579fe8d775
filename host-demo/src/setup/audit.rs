//! Opens the audit log that a subcommand's calls are recorded in.

use std::sync::Arc;

use anyhow::Context as _;
use host_demo::audit::{Audit, Who};

use super::paths;
use crate::args::Connection;

/// Opens the audit log, for calls of this user and this run. Without it no call is made.
pub(super) fn open(args: &Connection, run: Option<String>) -> anyhow::Result<Arc<Audit>> {
    let path = paths::audit_log(args)?;
    let key = paths::audit_key(args)?;
    let audit = Audit::open(&path, &key, who(args, run))
        .context("without a record of what is done, nothing is")?;
    Ok(Arc::new(audit))
}

fn who(args: &Connection, run: Option<String>) -> Who {
    Who {
        user: whoami::username().unwrap_or_default(),
        uid: rustix::process::getuid().as_raw(),
        host: whoami::hostname().unwrap_or_default(),
        process: std::process::id(),
        ticket: args.ticket.clone(),
        run,
    }
}

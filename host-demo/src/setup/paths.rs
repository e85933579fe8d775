//! The paths of a subcommand's own files: the audit log and its key, the ledger, the runs.

use std::path::PathBuf;

use anyhow::Context as _;
use etcetera::BaseStrategy as _;
use host_demo::files::make_private;

use crate::args;

const AUDIT_LOG: &str = "audit.jsonl";
const AUDIT_KEY: &str = "audit.key";
const LEDGER: &str = "ledger.sqlite";

/// The folder of everything that one run leaves to the next.
pub(crate) fn state_folder() -> anyhow::Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy().context("there is no home directory")?;
    let state = strategy.state_dir().unwrap_or_else(|| strategy.data_dir());
    Ok(state.join("host-demo"))
}

/// The folder of the key, apart from the audit log: who copies or backs up the one does not take the other along.
fn key_folder() -> anyhow::Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy().context("there is no home directory")?;
    Ok(strategy.data_dir().join("host-demo/keys"))
}

/// Makes the folder if it is missing, for this user only.
pub(crate) fn private(folder: PathBuf) -> anyhow::Result<PathBuf> {
    make_private(&folder)
        .with_context(|| format!("the folder {} can't be used", folder.display()))?;
    Ok(folder)
}

/// The file of the audit log.
pub(crate) fn audit_log(args: &args::Connection) -> anyhow::Result<PathBuf> {
    match &args.audit {
        Some(path) => Ok(path.clone()),
        None => Ok(private(state_folder()?)?.join(AUDIT_LOG)),
    }
}

/// The key that chains the audit log.
pub(super) fn audit_key(args: &args::Connection) -> anyhow::Result<PathBuf> {
    match &args.audit_key {
        Some(path) => Ok(path.clone()),
        None => Ok(private(key_folder()?)?.join(AUDIT_KEY)),
    }
}

/// The default path of the audit log, which need not exist.
pub(crate) fn usual_audit_log() -> anyhow::Result<PathBuf> {
    Ok(state_folder()?.join(AUDIT_LOG))
}

/// The default path of its key, which need not exist.
pub(crate) fn usual_audit_key() -> anyhow::Result<PathBuf> {
    Ok(key_folder()?.join(AUDIT_KEY))
}

/// The default path of the ledger, in a folder that exists.
pub(super) fn ledger() -> anyhow::Result<PathBuf> {
    Ok(private(state_folder()?)?.join(LEDGER))
}

/// The default path of the ledger, which need not exist.
pub(crate) fn usual_ledger() -> anyhow::Result<PathBuf> {
    Ok(state_folder()?.join(LEDGER))
}

/// The folder of the runs.
pub(crate) fn runs(args: &args::Runs) -> anyhow::Result<PathBuf> {
    match &args.folder {
        Some(folder) => Ok(folder.clone()),
        None => Ok(private(state_folder()?)?.join("runs")),
    }
}

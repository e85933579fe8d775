//! The record of what was done: where it is kept, and `host-demo audit verify`.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use etcetera::BaseStrategy as _;
use host_demo::audit::{self, Audit, AuditError, Key, OpenCall, VerifyError, Who};
use host_demo::host::Host;
use host_demo::journal::Runs;
use serde_json::{Value, json};

use crate::args::{Connection, Output, Verify};
use crate::exit::Exit;
use crate::setup::host;
use crate::ui::output;

/// Where the calls of this run are recorded. Without it there is no run.
pub(crate) fn open(args: &Connection) -> anyhow::Result<Arc<Audit>> {
    let path = file(args)?;
    let key = match &args.audit_key {
        Some(path) => path.clone(),
        None => private(key_folder()?)?.join(KEY),
    };
    let audit = Audit::open(&path, &key, who(args))
        .context("without a record of what is done, nothing is")?;
    if path.metadata()?.mode() & 0o020 != 0 {
        let shown = output::clean(&path.display().to_string());
        note!("host-demo: the group of {shown} can change it; close it: chmod 600 {shown}");
    }
    Ok(Arc::new(audit))
}

/// The file of the record.
pub(crate) fn file(args: &Connection) -> anyhow::Result<PathBuf> {
    match &args.audit {
        Some(path) => Ok(path.clone()),
        None => Ok(private(folder()?)?.join(RECORD)),
    }
}

pub(crate) fn private(folder: PathBuf) -> anyhow::Result<PathBuf> {
    host::make_private(&folder)
        .with_context(|| format!("the folder {} can't be used", folder.display()))?;
    Ok(folder)
}

/// Why what was done is not on record, if it is not after a last attempt. What was done is not
/// affected.
pub(crate) async fn missing(host: &Host) -> Option<AuditError> {
    missing_of(host.audit()).await
}

/// The same, of a record.
pub(crate) async fn missing_of(audit: Option<&Arc<Audit>>) -> Option<AuditError> {
    let audit = audit?;
    audit.catch_up().await;
    let error = audit.unwritten()?;
    let text = format!("{NOT_RECORDED}: {error}; {KEEP_THIS}");
    note!("host-demo: {}", output::clean(&text));
    Some(error)
}

/// The same, for programs.
pub(crate) fn missing_json(error: &AuditError) -> Value {
    json!({ "message": format!("{NOT_RECORDED}: {error}"), "advice": KEEP_THIS })
}

const NOT_RECORDED: &str = "what came of a call is not recorded";
const KEEP_THIS: &str = "keep what is printed here in its place";

/// `is_named`: the command line names the log or its key, so both have to be there.
pub(crate) fn verify(args: &Verify, is_named: bool, format: Output) -> anyhow::Result<Exit> {
    let path = match &args.file {
        Some(path) => path.clone(),
        None => folder()?.join(RECORD),
    };
    let key = match &args.key {
        Some(path) => path.clone(),
        None => key_folder()?.join(KEY),
    };
    let shown = output::clean(&path.display().to_string());
    if is_absent(&path) && !is_named {
        if args.head.is_some() {
            bail!("the audit log {shown} is missing, and with it the hash that was noted");
        }
        return match (is_absent(&key), recorded_run(&path)) {
            (true, None) => {
                not_yet(&path, &shown, format);
                Ok(Exit::Done)
            }
            (false, _) => bail!(
                "the audit log {shown} is missing, and its key {} is there: it was removed, or moved \
                 away. Check the log where it is now by naming its file",
                key.display()
            ),
            (true, Some(run)) => bail!(
                "the audit log {shown} and its key are missing, and the run {run} was recorded \
                 there: they were removed, or moved away"
            ),
        };
    }
    let key = Key::load(&key)?;
    let verdict = match audit::verify(&path, &key, args.head.as_deref()) {
        Err(VerifyError::Closed(error)) => return Err(error.into()),
        Err(VerifyError::Unreadable(error)) => {
            return Err(error).with_context(|| format!("{} can't be read", path.display()));
        }
        verdict => verdict,
    };
    let is_there = |found: &audit::Verified| args.head.is_none() || found.after_noted.is_some();
    let is_intact = verdict.as_ref().is_ok_and(is_there);
    if format == Output::Json {
        let mut value =
            json!({ "type": "audit", "file": path.display().to_string(), "intact": is_intact });
        match &verdict {
            Ok(found) => {
                value["records"] = json!(found.records);
                value["torn"] = json!(found.torn);
                value["first"] = json!(found.first);
                value["last"] = json!(found.last);
                value["open"] = found.open.iter().map(open_json).collect();
                value["head"] = json!(found.head);
                value["after_noted"] = json!(found.after_noted);
            }
            Err(VerifyError::Damaged { line, problem }) => {
                value["line"] = json!(line);
                value["problem"] = json!(problem.to_string());
            }
            Err(VerifyError::Closed(_) | VerifyError::Unreadable(_)) => {}
        }
        output::json_line(&value);
    } else {
        match &verdict {
            Ok(found) => print(&shown, found, is_there(found)),
            Err(damage) => output::line(&output::clean(&format!("{shown}: {damage}"))),
        }
    }
    Ok(if is_intact { Exit::Done } else { Exit::Failed })
}

/// Says that nothing was recorded on this machine.
fn not_yet(path: &Path, shown: &str, format: Output) {
    match format {
        Output::Json => output::json_line(&json!({
            "type": "audit",
            "file": path.display().to_string(),
            "intact": null,
            "records": 0,
        })),
        Output::Text => output::line(&format!("no audit log yet: {shown}")),
    }
}

/// Whether nothing is at a path. What can't be looked at is not absent.
fn is_absent(path: &Path) -> bool {
    matches!(std::fs::symlink_metadata(path), Err(error) if error.kind() == ErrorKind::NotFound)
}

/// A run whose journal says that its calls are recorded in this file. Reading makes no folder.
fn recorded_run(path: &Path) -> Option<String> {
    let runs = Runs::new(folder().ok()?.join("runs"));
    let path = path.display().to_string();
    let names = runs.names().ok()?;
    names.into_iter().find(|name| {
        let record = runs.read(name);
        // What can't be read is a trace all the same.
        record.map_or(true, |record| record.run.audit.as_ref() == Some(&path))
    })
}

fn print(shown: &str, found: &audit::Verified, is_there: bool) {
    if is_there {
        output::line(&format!("{shown}: intact"));
    } else {
        output::line(&format!(
            "{shown}: damaged: it is intact as far as it goes, but the hash that was noted is not \
             in it; its end was cut off, or it is another file"
        ));
    }
    output::line(&format!("  records  {}", found.records));
    if let (Some(first), Some(last)) = (&found.first, &found.last) {
        output::line(&output::clean(&format!("  first    {first}")));
        output::line(&output::clean(&format!("  last     {last}")));
    }
    if found.torn > 0 {
        output::line(&format!(
            "  torn     {} (a process was killed as it wrote; the record after it says so)",
            found.torn
        ));
    }
    if let Some(after) = found.after_noted {
        output::line(&format!(
            "  since    {after} records after the one that was noted"
        ));
    }
    output::line(&format!("  head     {}", found.head));
    if found.open.is_empty() {
        return;
    }
    output::line(&format!(
        "  open     {} (it is not on record how they ended: they were cut short, or are under way \
         now; look at the device before you repeat one)",
        found.open.len()
    ));
    for call in &found.open {
        let target = call.machine.as_ref().or(call.action.as_ref());
        output::line(&output::clean(&format!(
            "    {}  {}  {}  call {}",
            call.time,
            call.operation,
            target.map_or("", String::as_str),
            call.call
        )));
    }
}

fn open_json(call: &OpenCall) -> Value {
    json!({
        "call": call.call,
        "time": call.time,
        "operation": call.operation,
        "machine": call.machine,
        "action": call.action,
    })
}

const RECORD: &str = "audit.jsonl";
const KEY: &str = "audit.key";

pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy().context("there is no home directory")?;
    let state = strategy.state_dir().unwrap_or_else(|| strategy.data_dir());
    Ok(state.join("host-demo"))
}

/// Where the record and its key are, where nobody says.
pub(crate) fn usual_files() -> anyhow::Result<[PathBuf; 2]> {
    Ok([folder()?.join(RECORD), key_folder()?.join(KEY)])
}

/// Apart from the record: who copies or backs up the one does not take the other along.
fn key_folder() -> anyhow::Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy().context("there is no home directory")?;
    Ok(strategy.data_dir().join("host-demo/keys"))
}

fn who(args: &Connection) -> Who {
    Who {
        user: whoami::username().unwrap_or_default(),
        uid: rustix::process::getuid().as_raw(),
        host: whoami::hostname().unwrap_or_default(),
        process: std::process::id(),
        ticket: args.ticket.clone(),
        run: args.run.clone(),
    }
}

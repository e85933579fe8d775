//! `host-demo audit verify`

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, bail};
use host_demo::audit::{self, Key, OpenCall, VerifyError};
use host_demo::journal::Runs;
use serde_json::{Value, json};

use crate::args::{Output, Verify};
use crate::exit::Exit;
use crate::setup::{paths, settings};
use crate::ui::output;

/// Verifies the log that the arguments or the configuration name.
pub(crate) fn run(args: Verify, format: Output) -> anyhow::Result<Exit> {
    let is_named = args.file.is_some() || args.key.is_some();
    verify(&settings::verify(args)?, is_named, format)
}

/// `is_named`: the command line names the log or its key, so both have to be there.
fn verify(args: &Verify, is_named: bool, format: Output) -> anyhow::Result<Exit> {
    let path = match &args.file {
        Some(path) => path.clone(),
        None => paths::usual_audit_log()?,
    };
    let key = match &args.key {
        Some(path) => path.clone(),
        None => paths::usual_audit_key()?,
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
    std::fs::metadata(&path).with_context(|| format!("{shown} can't be read"))?;
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
    let runs = Runs::new(paths::state_folder().ok()?.join("runs"));
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

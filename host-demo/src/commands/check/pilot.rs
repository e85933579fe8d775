//! `host-demo check --pilot`

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, bail};
use host_demo::cloud::Service;
use host_demo::egress::Tape;
use host_demo::grant::Operation;
use host_demo::host::{CallError, Host, WaitOptions};
use host_demo::id::{DnsName, MachineId};
use host_demo::names;
use host_demo::pilot::{self, Ended, Finding, Free, Left, Pilot, Record, Step};
use serde_json::json;
use tokio::sync::watch;

use crate::args::Output;
use crate::exit::Exit;
use crate::setup::interrupt::{self, Interrupt};
use crate::setup::{policy, read_actions};
use crate::ui::waits::Waits;
use crate::ui::{confirm, error_text, output, suggest, unrecorded};

/// What was asked for.
pub(crate) struct Wanted {
    pub(crate) device: String,
    pub(crate) record: PathBuf,
    pub(crate) yes: bool,
}

/// Whether the configuration allows restricting. The person who asks can't grant it: only the
/// configuration says what may leave, here as elsewhere.
pub(crate) fn granted(host: &Host) -> anyhow::Result<()> {
    policy::granted(host, Operation::RestrictCodeExecution, "restricting")
}

/// Restricts a device and releases it, and says what the service's answers mean.
pub(crate) async fn run(
    host: &Host,
    service: &Service,
    tape: &Tape,
    wanted: Wanted,
    format: Output,
) -> anyhow::Result<Exit> {
    // Nothing but reads is sent until the device is confirmed.
    let asking = Interrupt::stops();
    let stop = asking.stop.clone();
    let waits = Waits::new(host, format);
    let patience = WaitOptions {
        stop: Some(stop.clone()),
        ..read_actions::patience(&waits)
    };
    let device = free(host, &wanted.device, patience).await?;
    let named = match &device.name {
        Some(name) => format!("{} ({})", device.id, output::clean(name)),
        None => device.id.to_string(),
    };
    confirmed(&named, service, wanted.yes, stop.clone()).await?;
    drop(asking);
    let _interrupt = Interrupt::finishes();
    // Before anything is sent: a record that can't be written is no reason to restrict a device.
    try_folder(&wanted.record).with_context(|| {
        let record = shown(&wanted.record);
        format!("the record {record} can't be created; nothing was sent but reads")
    })?;
    let id = device.id.to_string();
    let release = suggest::command(&[
        "unrestrict",
        &id,
        // The restriction may not have ended by then.
        "--override-pending",
        "--comment",
        "pilot: release",
    ]);
    note!("hint: if this ends before the device is released, release it with:\n  {release}");

    let is_told = tokio::spawn(tell_of_interrupt(stop.clone(), release.clone()));
    let told = Mutex::new(None);
    let pilot = Pilot {
        host,
        tape,
        device,
        comment: pilot::comment(),
        stop,
        on_wait: Some(waits.on_wait()),
        on_step: &|step: Step| {
            if told.lock().ok().and_then(|mut told| told.replace(step)) != Some(step) {
                note!("host-demo: {}", step.doing());
            }
        },
    };
    let ended = pilot.run().await;
    is_told.abort();

    let record = Record::of(&tape.exchanges(), service);
    let written = write(&wanted.record, record.to_json().as_bytes());
    let findings = pilot::findings(&record);
    match format {
        Output::Json => output::json_line(&json!({
            "type": "pilot",
            "device": left(&ended.device),
            "restriction": ended.restriction.as_ref().map(|status| status.as_str()),
            "interrupted": ended.is_interrupted,
            "exchanges": record.exchanges.len(),
            "record": wanted.record,
            "findings": findings,
            "release_with": matches!(ended.device, Left::MayBeRestricted(_) | Left::ReleasePending)
                .then_some(&release),
            "error": error(&ended.device).map(error_text::error_json),
        })),
        Output::Text => print(&findings, &wanted.record),
    }
    conclude(&ended, &named, &release);
    if let Err(error) = &written {
        note!(
            "error: the record {} can't be written: {error}",
            shown(&wanted.record)
        );
    }
    let missing = unrecorded::missing(host).await;
    Ok(exit(&ended).failed_if(missing.is_some() || written.is_err()))
}

async fn free(host: &Host, device: &str, patience: WaitOptions) -> anyhow::Result<Free> {
    let (id, name) = match device.parse::<MachineId>() {
        Ok(id) => (id, None),
        Err(_) => {
            let name: DnsName = device.parse()?;
            let found = names::find(host, vec![name], patience.clone(), |_| {}).await;
            match found.map_err(|stuck| stuck.error)?.pop() {
                Some(Ok(id)) => (id, Some(device.to_lowercase())),
                Some(Err(why)) => bail!("{device:?}: {why}. Nothing was sent but reads"),
                None => return Err(CallError::Stopped.into()),
            }
        }
    };
    let looked = pilot::look(host, &id, name, patience).await;
    looked.map_err(|why| {
        anyhow::anyhow!("{id} is not used for a pilot: {why}. Nothing was sent but reads")
    })
}

/// Asks on the terminal, unless it was said already.
async fn confirmed(
    named: &str,
    service: &Service,
    yes: bool,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !confirm::is_possible() {
        bail!("cannot ask for confirmation here; add --yes to restrict and release {named}");
    }
    let question = format!(
        "This restricts a device at {} and releases it again:\n  {named}\nFor some minutes it runs \
         only programs signed by Microsoft. Continue?",
        service.origin()
    );
    // In a thread of its own, which an interrupt does not wait for.
    let (answered, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = answered.send(confirm::ask(&question));
    });
    let is_meant = tokio::select! {
        answer = answer => answer.context("no answer can be read")??,
        () = interrupt::pressed(Some(stop)) => return Err(CallError::Stopped.into()),
    };
    match is_meant {
        true => Ok(()),
        false => bail!("not confirmed; nothing was sent but reads"),
    }
}

/// Checks that a new file can be created at a path. Nothing is left there, so an interrupt leaves no
/// empty record.
fn try_folder(path: &Path) -> std::io::Result<()> {
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(std::io::Error::new(
            ErrorKind::AlreadyExists,
            "the file exists",
        ));
    }
    let draft = draft(path);
    create(&draft)?;
    std::fs::remove_file(&draft)
}

/// Writes a new file that is complete as soon as it has its name.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let draft = draft(path);
    let written = create(&draft).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written {
        let _ = std::fs::remove_file(&draft);
        return Err(error);
    }
    let placed = match std::fs::hard_link(&draft, path) {
        Ok(()) => std::fs::remove_file(&draft),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
        // Not every file system has links.
        Err(_) => std::fs::rename(&draft, path),
    };
    if placed.is_err() {
        // A pilot is not repeated for its record.
        note!("hint: the record is in {}", shown(&draft));
    }
    placed
}

/// The name of a file until it is complete.
fn draft(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.draft", std::process::id()));
    PathBuf::from(name)
}

/// A new file, for this user only.
fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

fn shown(path: &Path) -> String {
    output::clean(&path.display().to_string())
}

/// Says at once what an interrupt leaves, because a second one ends everything.
async fn tell_of_interrupt(stop: watch::Receiver<bool>, release: String) {
    interrupt::pressed(Some(stop)).await;
    note!(
        "warning: interrupted; the device is released now. Until that is confirmed it may be \
         restricted. To release it by hand:\n  {release}"
    );
}

fn print(findings: &[Finding], record: &Path) {
    output::line("What the service answered (numbers are exchanges in the record):");
    for finding in findings {
        let numbers: Vec<String> = finding.evidence.iter().map(usize::to_string).collect();
        let evidence = match numbers.is_empty() {
            true => String::new(),
            false => format!(" [{}]", numbers.join(", ")),
        };
        let answer = output::clean(&finding.answer);
        output::line(&format!("  {:<32} {answer}{evidence}", finding.question));
        output::line(&format!("      {}", finding.meaning));
        if let Some(switch) = &finding.switch {
            output::line(&format!("      stand-in: --set {switch}"));
        }
    }
    output::line(&format!("Record: {}", shown(record)));
}

/// Says how the device is left, loudly where it may be restricted.
fn conclude(ended: &Ended, named: &str, release: &str) {
    match &ended.device {
        Left::Untouched(error) => note!(
            "error: {named} was not restricted: {}",
            output::clean(&error_text::explain(error))
        ),
        Left::RestrictedByAnother(action) => note!(
            "error: {named} IS RESTRICTED by another action, {}, which the pilot leaves alone",
            output::clean(action)
        ),
        Left::Released => note!("host-demo: {named} is released"),
        Left::ReleasePending => note!(
            "warning: {named} MAY STILL BE RESTRICTED: its release was accepted and is not seen to \
             be done\nhint: look again with `host-demo status`, or release it with:\n  {release}"
        ),
        Left::MayBeRestricted(error) => {
            let why = error.as_ref().map_or_else(
                || "no release of it succeeded".to_owned(),
                |error| format!("its release failed: {}", error_text::explain(error)),
            );
            note!(
                "error: {named} MAY STILL BE RESTRICTED: {}\nhint: release it with:\n  {release}",
                output::clean(&why)
            );
        }
    }
}

const fn left(device: &Left) -> &'static str {
    match device {
        Left::Untouched(_) => "untouched",
        Left::RestrictedByAnother(_) => "restricted-by-another",
        Left::Released => "released",
        Left::ReleasePending => "release-pending",
        Left::MayBeRestricted(_) => "may-be-restricted",
    }
}

const fn error(device: &Left) -> Option<&CallError> {
    match device {
        Left::Untouched(error) => Some(error),
        Left::MayBeRestricted(error) => error.as_ref(),
        Left::RestrictedByAnother(_) | Left::Released | Left::ReleasePending => None,
    }
}

fn exit(ended: &Ended) -> Exit {
    use host_demo::contract::ActionStatus::Succeeded;

    match (&ended.device, &ended.restriction) {
        (Left::MayBeRestricted(_) | Left::RestrictedByAnother(_), _) => Exit::Failed,
        _ if ended.is_interrupted => Exit::Interrupted,
        (Left::Untouched(_), _) => Exit::CouldNotRun,
        (Left::ReleasePending, _) => Exit::Open,
        (Left::Released, Some(Succeeded)) => Exit::Done,
        (Left::Released, _) => Exit::Failed,
    }
}

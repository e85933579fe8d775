//! `host-demo unrestrict`

use std::collections::{HashMap, HashSet};
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use host_demo::audit::{Audit, AuditError};
use host_demo::clock::Moment;
use host_demo::contract::MachineAction;
use host_demo::files;
use host_demo::grant::Operation;
use host_demo::history::Kind;
use host_demo::host::{CallError, Host};
use host_demo::id::MachineId;
use host_demo::input::{self, List};
use host_demo::limits::Why;
use host_demo::release::{self, Outcome, Plan, Reporter, Verdict, Wait};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::args::{Output, Unrestrict};
use super::{Exit, audit, connect, output, preview, quota};

/// How long a device is followed where nobody says.
const FOLLOW: Duration = Duration::from_secs(600);

pub(crate) async fn run(args: Unrestrict, format: Output) -> anyhow::Result<Exit> {
    let ids = devices(&args)?;
    if args.dry_run {
        let host = connect::host(&args.connection)?;
        return preview::run(&host, Kind::Release, &ids, format).await;
    }
    confirmed(&args, ids.len())?;
    let host = connect::host(&args.connection)?;
    let plan = Plan {
        comment: args.comment,
        follow: (!args.no_wait).then_some(args.deadline.unwrap_or(FOLLOW)),
        deadline: args.deadline.map(|time| host.clock().now() + time),
    };

    let (interrupt, stop) = watch::channel(false);
    let listener = tokio::spawn(listen(interrupt));
    let mut stopped = stop.clone();
    // To know what is left of a quota one has to know whose it is, which a token may have to say.
    tokio::select! {
        () = foretell(&host, ids.len()) => {}
        () = reached(&host, plan.deadline) => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    let reporter = Arc::new(Progress::new(ids.len(), format, host.audit().cloned()));
    let outcomes =
        release::release(&host, &ids, &plan, Arc::clone(&reporter) as _, stop.clone()).await;
    reporter.bar.finish_and_clear();
    let missing = audit::missing(&host).await;
    listener.abort();

    match format {
        Output::Json => output::json_line(&summary_json(&outcomes, missing.as_ref())),
        Output::Text => summarise(&ids, &outcomes),
    }
    if *stop.borrow() {
        return Ok(Exit::Interrupted);
    }
    Ok(exit(&outcomes).failed_if(missing.is_some()))
}

/// Completes at the deadline; without one, never.
async fn reached(host: &Host, deadline: Option<Moment>) {
    match deadline {
        Some(deadline) => host.clock().sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Says how long it will take to send them all, where the quota makes that long. What keeps it from
/// being known keeps the calls from being made as well, and is told there.
async fn foretell(host: &Host, calls: usize) {
    const LONG: Duration = Duration::from_secs(60);
    let operation = Operation::UnrestrictCodeExecution;
    let forecast = host.forecast(operation, calls, quota::ANSWER).await;
    if let Ok(Some(time)) = forecast
        && time >= LONG
    {
        let time = quota::roughly(time);
        note!("host-demo: by what is left of the quota, {calls} releases take {time} to be sent");
    }
}

/// Every id is looked at before anything is sent; one that stands there twice is released once.
fn devices(args: &Unrestrict) -> anyhow::Result<Vec<String>> {
    let mut seen = HashSet::new();
    let mut ids = Vec::new();
    let mut wrong = Vec::new();
    for text in &args.machine_ids {
        match text.parse::<MachineId>() {
            Ok(id) if seen.insert(id.clone()) => ids.push(id.to_string()),
            Ok(id) => note!("host-demo: {id} is named more than once; it is released once"),
            Err(_) => wrong.push(format!("{text:?}")),
        }
    }
    if !wrong.is_empty() {
        bail!(
            "machine-id: {} - {}. Nothing was sent",
            wrong.join(", "),
            host_demo::id::IdError::Machine,
        );
    }
    if let Some(path) = &args.from {
        let found = listed(path, args)?;
        let before = found.repeated + found.devices.len();
        let new = found
            .devices
            .into_iter()
            .filter(|id| seen.insert(id.clone()));
        let first = ids.len();
        ids.extend(new.map(|id| id.to_string()));
        let repeated = before - (ids.len() - first);
        if repeated > 0 {
            note!("host-demo: {repeated} lines name a device once more; each is released once");
        }
    }
    Ok(ids)
}

/// What is in the list, if every line of it names a device or those that don't may be passed over.
fn listed(path: &Path, args: &Unrestrict) -> anyhow::Result<List> {
    /// A million lines of a wide table.
    const MAX: u64 = 512 << 20;
    /// So many mistakes are shown.
    const SHOWN: usize = 20;

    let from_input = path == Path::new("-");
    let (file, name) = match from_input {
        true => (Path::new("/dev/stdin"), "standard input".to_owned()),
        false => (path, output::clean(&path.display().to_string())),
    };
    let contents = files::read(file, MAX).with_context(|| format!("{name} can't be read"))?;
    let list = input::parse(&contents.bytes, args.column.as_deref())
        .with_context(|| format!("{name} is no list of devices"))?;
    for wrong in list.wrong.iter().take(SHOWN) {
        note!("host-demo: {name}, {}", output::clean(&wrong.to_string()));
    }
    if list.wrong.len() > SHOWN {
        note!("host-demo: and {} lines more", list.wrong.len() - SHOWN);
    }
    match (list.wrong.len(), args.skip_invalid) {
        (0, _) => Ok(list),
        (_, true) if list.devices.is_empty() => bail!("no line of {name} names a device"),
        (wrong, true) => {
            note!("host-demo: {wrong} lines are passed over");
            Ok(list)
        }
        (wrong, false) => bail!(
            "{wrong} lines of {name} name no device (the first: {}). Nothing was sent; mend them, \
             or pass over them with --skip-invalid",
            list.wrong[0]
        ),
    }
}

/// Whether so many are meant.
fn confirmed(args: &Unrestrict, devices: usize) -> anyhow::Result<()> {
    if args.yes || devices <= args.confirm_above {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        bail!(
            "{devices} devices are more than {}, and there is nobody to ask: --yes releases them \
             all the same, and --confirm-above sets another number",
            args.confirm_above
        );
    }
    let _ = write!(std::io::stderr(), "Release {devices} devices? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was sent"),
    }
}

/// The first Ctrl-C stops what has not begun; the second ends the program.
async fn listen(interrupt: watch::Sender<bool>) {
    if interrupted().await.is_err() {
        return std::future::pending().await;
    }
    note!("\nhost-demo: stopping; what was sent is brought to its answer. Once more ends at once.");
    let _ = interrupt.send(true);
    if interrupted().await.is_ok() {
        note!("host-demo: ended; `host-demo audit verify` lists the calls that were cut short");
        std::process::exit(Exit::Interrupted as i32);
    }
}

/// Ctrl-C, or what a service manager or a terminal that closes sends in its place.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    }
}

fn exit(outcomes: &[Outcome]) -> Exit {
    let any = |verdict| outcomes.iter().any(|outcome| outcome.verdict() == verdict);
    if any(Verdict::NotRun) && outcomes.iter().all(|o| o.verdict() == Verdict::NotRun) {
        Exit::CouldNotRun
    } else if any(Verdict::Failed) || any(Verdict::Unknown) || any(Verdict::NotRun) {
        Exit::Failed
    } else if any(Verdict::Open) {
        Exit::Open
    } else {
        Exit::Done
    }
}

/// Shows how it goes: a bar on a terminal, a line for each device elsewhere, JSON Lines for
/// programs.
struct Progress {
    bar: ProgressBar,
    format: Output,
    audit: Option<Arc<Audit>>,
    /// The last status that was shown, so that looking twice at the same says nothing.
    shown: Mutex<HashMap<String, String>>,
    /// Until when the last one was said to wait.
    waits: Mutex<Option<jiff::Timestamp>>,
}

impl Progress {
    fn new(devices: usize, format: Output, audit: Option<Arc<Audit>>) -> Self {
        let bar = if format == Output::Text && std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len}  {wide_msg}");
            let bar = ProgressBar::new(devices as u64);
            bar.enable_steady_tick(Duration::from_millis(120));
            match style {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            format,
            audit,
            shown: Mutex::default(),
            waits: Mutex::default(),
        }
    }
}

impl Reporter for Progress {
    fn waiting(&self, _: &str, wait: Wait) {
        if !self.bar.is_hidden() {
            return self.bar.set_message(waiting(wait));
        }
        // Said once of all that wait for the same moment.
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.is_none_or(|until| until.as_second() < wait.until.as_second()) {
            *waits = Some(wait.until);
            note!("{}", waiting(wait));
        }
    }

    fn progress(&self, machine_id: &str, action: &MachineAction) {
        let status = output::clean(action.status.as_str());
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.insert(machine_id.to_owned(), status.clone()).as_ref() == Some(&status) {
            return;
        }
        if self.bar.is_hidden() {
            note!(
                "{machine_id}  {status}  action {}",
                output::clean(&action.id)
            );
        } else {
            self.bar.set_message(format!("{machine_id} {status}"));
        }
    }

    fn finished(&self, machine_id: &str, outcome: &Outcome) {
        self.bar.inc(1);
        if self.format == Output::Json {
            let audit = self.audit.as_ref();
            let is_recorded = audit.is_none_or(|audit| audit.has_all_of(machine_id));
            output::json_line(&device_json(machine_id, outcome, is_recorded));
        }
    }
}

/// In the universal time of the record, not the terminal's.
fn waiting(wait: Wait) -> String {
    let whose = match wait.why {
        Why::Quota => "as many were sent as it allows",
        Why::Service => "the service said to wait",
        Why::Lost => "what was sent before is not known; see `host-demo quota --help`",
    };
    let until = wait.until.strftime("%H:%M:%S");
    format!("waiting for the service's quota, until {until} UTC: {whose}")
}

fn device_json(machine_id: &str, outcome: &Outcome, is_recorded: bool) -> Value {
    json!({
        "type": "device",
        "machine_id": machine_id,
        "outcome": outcome.name(),
        "action": outcome.action().map(MachineAction::to_json),
        "recorded": is_recorded,
        "error": outcome.error().map(output::error_json),
    })
}

fn count(outcomes: &[Outcome], verdict: Verdict) -> usize {
    outcomes.iter().filter(|o| o.verdict() == verdict).count()
}

fn summary_json(outcomes: &[Outcome], missing: Option<&AuditError>) -> Value {
    let count = |verdict| count(outcomes, verdict);
    json!({
        "type": "summary",
        "devices": outcomes.len(),
        "done": count(Verdict::Done),
        "failed": count(Verdict::Failed),
        "unknown": count(Verdict::Unknown),
        "open": count(Verdict::Open),
        "not_run": count(Verdict::NotRun),
        "recorded": missing.is_none(),
        "error": missing.map(audit::missing_json),
    })
}

/// What became of every device, and what to do about it.
fn summarise(ids: &[String], outcomes: &[Outcome]) {
    for (id, outcome) in ids.iter().zip(outcomes) {
        let detail = detail(outcome);
        output::line(
            format!("{:<19}  {id}  {}", outcome.name(), output::clean(&detail)).trim_end(),
        );
    }
    let count = |verdict| count(outcomes, verdict);
    let unknown = count(Verdict::Unknown);
    if ids.len() > 1 {
        output::line(&format!(
            "{} devices: {} done, {} failed, {unknown} unknown{}, {} open, {} not run",
            ids.len(),
            count(Verdict::Done),
            count(Verdict::Failed),
            if unknown > 0 {
                " (look before repeating)"
            } else {
                ""
            },
            count(Verdict::Open),
            count(Verdict::NotRun),
        ));
    }
    // What kept one from being tried kept the others too, and is said once.
    let why = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::NotRun(CallError::Stopped) => None,
        Outcome::NotRun(error) => Some(output::explain(error)),
        _ => None,
    });
    if let Some(why) = why {
        note!("host-demo: {}", output::clean(&why));
    }
}

fn detail(outcome: &Outcome) -> String {
    let action = |action: &MachineAction, more: &str| {
        let name = action
            .computer_dns_name
            .as_deref()
            .unwrap_or("no name known");
        format!("{name}, action {}{more}", action.id)
    };
    match outcome {
        Outcome::Released(a) => action(a, ""),
        Outcome::Accepted(a) => action(a, "; not followed"),
        Outcome::Pending(a) => action(
            a,
            &format!(
                " is {}; look again: host-demo status {}",
                a.status.as_str(),
                a.id
            ),
        ),
        Outcome::NotVerifiable(a, why) => {
            action(a, &format!(" was accepted but can't be read: {why}"))
        }
        Outcome::Failed(a) => action(a, &format!(" ended as {}", a.status.as_str())),
        Outcome::NotRun(stopped @ CallError::Stopped) => stopped.to_string(),
        Outcome::NotRun(_) => "nothing was sent".to_owned(),
        Outcome::InProgress(error) | Outcome::Refused(error) | Outcome::Unknown(error) => {
            output::explain(error)
        }
    }
}

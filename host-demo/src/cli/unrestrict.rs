//! `host-demo unrestrict`

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host_demo::audit::{Audit, AuditError};
use host_demo::clock::Moment;
use host_demo::contract::MachineAction;
use host_demo::grant::Operation;
use host_demo::host::{CallError, Host, Patience};
use host_demo::release::{self, Outcome, Plan, Reporter, Verdict, Wait};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::args::{Output, Unrestrict};
use super::devices::{self, Verb};
use super::progress::{self, Progress};
use super::{Exit, audit, connect, interrupt, output};

const RELEASE: Verb = Verb {
    plain: "release",
    past: "released",
};

/// How long a device is followed where nobody says.
const FOLLOW: Duration = Duration::from_secs(600);

pub(crate) async fn run(args: Unrestrict, format: Output) -> anyhow::Result<Exit> {
    let asked = devices::asked(&args.devices, RELEASE)?;
    let (above, yes) = (args.devices.confirm_above, args.devices.yes);
    devices::confirmed(above, yes, asked.len(), "devices", RELEASE)?;
    let host = connect::host(&args.connection)?;
    let plan = Plan {
        comment: args.comment,
        follow: (!args.no_wait).then_some(args.deadline.unwrap_or(FOLLOW)),
        deadline: args.deadline.map(|time| host.clock().now() + time),
    };

    let (stopping, stop) = watch::channel(false);
    let listener = tokio::spawn(interrupt::listen(stopping));
    let patience = Patience {
        until: plan.deadline,
        stop: Some(stop.clone()),
        on_wait: None,
    };
    let devices = asked.devices(&host, RELEASE, patience, format).await?;
    let ids: Vec<String> = devices.iter().map(|device| device.id.to_string()).collect();
    // To know what is left of a quota one has to know whose it is, which a token may have to say.
    tokio::select! {
        () = progress::foretell(&host, Operation::UnrestrictCodeExecution, ids.len(), "releases") => {}
        () = reached(&host, plan.deadline) => {}
        () = interrupt::pressed(Some(stop.clone())) => {}
    }
    let reporter = Arc::new(Shown::new(ids.len(), format, host.audit().cloned()));
    let outcomes =
        release::release(&host, &ids, &plan, Arc::clone(&reporter) as _, stop.clone()).await;
    reporter.progress.bar.finish_and_clear();
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
struct Shown {
    progress: Progress,
    format: Output,
    audit: Option<Arc<Audit>>,
    /// The last status that was shown, so that looking twice at the same says nothing.
    statuses: Mutex<HashMap<String, String>>,
}

impl Shown {
    fn new(devices: usize, format: Output, audit: Option<Arc<Audit>>) -> Self {
        Self {
            progress: Progress::new(devices, format),
            format,
            audit,
            statuses: Mutex::default(),
        }
    }
}

impl Reporter for Shown {
    fn waiting(&self, _: &str, wait: Wait) {
        self.progress.waiting(wait.until, wait.why);
    }

    fn progress(&self, machine_id: &str, action: &MachineAction) {
        let status = output::clean(action.status.as_str());
        let mut shown = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.insert(machine_id.to_owned(), status.clone()).as_ref() == Some(&status) {
            return;
        }
        if self.progress.bar.is_hidden() {
            note!(
                "{machine_id}  {status}  action {}",
                output::clean(&action.id)
            );
        } else {
            self.progress
                .bar
                .set_message(format!("{machine_id} {status}"));
        }
    }

    fn finished(&self, machine_id: &str, outcome: &Outcome) {
        self.progress.bar.inc(1);
        if self.format == Output::Json {
            let audit = self.audit.as_ref();
            let is_recorded = audit.is_none_or(|audit| audit.has_all_of(machine_id));
            output::json_line(&device_json(machine_id, outcome, is_recorded));
        }
    }
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

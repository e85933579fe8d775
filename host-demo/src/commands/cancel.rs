//! `host-demo cancel`

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::bail;
use host_demo::audit::AuditError;
use host_demo::cancel::{self, Outcome};
use host_demo::contract::MachineAction;
use host_demo::grant::Operation;
use host_demo::host::{CallError, Host, WaitOptions};
use host_demo::id::{ActionId, IdError};
use serde_json::{Value, json};

use crate::args::{Cancel, Output};
use crate::exit::Exit;
use crate::setup::interrupt::Interrupt;
use crate::setup::{forecast, host, policy};
use crate::ui::confirm::{self, Verb};
use crate::ui::step_progress::Steps;
use crate::ui::{error_text, output, suggest, unrecorded};

const CANCEL: Verb = Verb {
    plain: "cancel",
    past: "cancelled",
};

pub(crate) async fn run(args: Cancel, format: Output) -> anyhow::Result<Exit> {
    let ids = actions(&args.action_ids)?;
    confirm::confirmed(args.confirm_above, args.yes, ids.len(), "actions", CANCEL)?;
    let host = host::host(&args.connection)?;
    policy::granted(&host, Operation::CancelMachineAction, "cancelling")?;

    let interrupt = Interrupt::finishes();
    let steps = Steps::new(&host, ids.len(), "actions dealt with", format);
    let waits = Arc::clone(steps.waits());
    let operation = Operation::CancelMachineAction;
    let foretold = forecast::foretell(&host, operation, ids.len(), "cancellations");
    interrupt.unless_pressed(waits.watch(foretold)).await;
    let shown = Arc::clone(&steps);
    let patience = WaitOptions {
        stop: Some(interrupt.stop.clone()),
        on_wait: Some(waits.on_wait()),
        ..WaitOptions::default()
    };
    let on_outcome = move |id: &ActionId, _: &Outcome| shown.done(id.as_str());
    let cancelling = cancel::cancel(&host, ids.clone(), &args.comment, patience, on_outcome);
    let outcomes = waits.watch(cancelling).await;
    steps.end();
    let missing = unrecorded::missing(&host).await;

    for (id, outcome) in ids.iter().zip(&outcomes) {
        match format {
            Output::Json => output::json_line(&action_json(&host, id, outcome)),
            Output::Text => output::line(&line(id, outcome)),
        }
    }
    match format {
        Output::Json => output::json_line(&summary_json(&outcomes, missing.as_ref())),
        Output::Text => summarise(&outcomes),
    }
    if interrupt.is_pressed() {
        return Ok(Exit::Interrupted);
    }
    Ok(exit(&outcomes).failed_if(missing.is_some()))
}

/// Every id is looked at before anything is sent.
fn actions(texts: &[String]) -> anyhow::Result<Vec<ActionId>> {
    let mut seen = HashSet::new();
    let (mut ids, mut wrong) = (Vec::new(), Vec::new());
    for text in texts {
        match text.parse::<ActionId>() {
            Ok(id) if seen.insert(id.clone()) => ids.push(id),
            Ok(id) => note!("host-demo: {id} is named more than once; it is cancelled once"),
            Err(_) => wrong.push(format!("{text:?}")),
        }
    }
    if !wrong.is_empty() {
        bail!(
            "action-id: {} - {}. Nothing was sent",
            wrong.join(", "),
            IdError::Action
        );
    }
    Ok(ids)
}

fn exit(outcomes: &[Outcome]) -> Exit {
    let all = |name| outcomes.iter().all(|outcome| outcome.name() == name);
    let is_open =
        |outcome: &Outcome| matches!(outcome, Outcome::Cancelled(_) | Outcome::Pending(_));
    if all("cancelled") {
        Exit::Done
    } else if outcomes.iter().all(is_open) {
        Exit::Open
    } else if all("not-run") {
        Exit::CouldNotRun
    } else {
        Exit::Failed
    }
}

fn action_json(host: &Host, id: &ActionId, outcome: &Outcome) -> Value {
    json!({
        "type": "action",
        "action_id": id.as_str(),
        "outcome": outcome.name(),
        "action": outcome.action().map(MachineAction::to_json),
        "recorded": host.audit().is_none_or(|audit| audit.has_all_of(id.as_str())),
        "error": outcome.error().map(error_text::error_json),
    })
}

fn summary_json(outcomes: &[Outcome], missing: Option<&AuditError>) -> Value {
    let count = |name| outcomes.iter().filter(|o| o.name() == name).count();
    json!({
        "type": "summary",
        "actions": outcomes.len(),
        "cancelled": count("cancelled"),
        "pending": count("pending"),
        "ended_before": count("ended-before"),
        "refused": count("refused"),
        "unknown": count("unknown"),
        "not_run": count("not-run"),
        "recorded": missing.is_none(),
        "error": missing.map(unrecorded::missing_json),
    })
}

fn line(id: &ActionId, outcome: &Outcome) -> String {
    let detail = output::clean(&detail(id, outcome));
    let line = format!("{:<12}  {id}  {detail}", outcome.name());
    line.trim_end().to_owned()
}

fn detail(id: &ActionId, outcome: &Outcome) -> String {
    let action = |action: &MachineAction| {
        let device = action.computer_dns_name.as_deref();
        let device = device.or(action.machine_id.as_deref());
        let device = device.unwrap_or("(no device named)");
        format!("{} of {device}", action.type_.as_str())
    };
    let status = |action: &MachineAction| action.status.as_str().to_owned();
    let stands = |seen: &Option<MachineAction>| match seen {
        Some(seen) => format!("; it is {}", status(seen)),
        None => String::new(),
    };
    match outcome {
        Outcome::Cancelled(a) => action(a),
        Outcome::Pending(a) => format!(
            "{} is {} still; look again: {}",
            action(a),
            status(a),
            suggest::command(&["status", id.as_str()])
        ),
        Outcome::EndedBefore(a) => format!("{} is {}", action(a), status(a)),
        Outcome::Refused(error, seen) => format!("{}{}", error_text::explain(error), stands(seen)),
        Outcome::Unknown(error, seen) => format!(
            "{}{}; cancelling again does no harm",
            error_text::explain(error).trim_end_matches('.'),
            stands(seen)
        ),
        Outcome::NotRun(_) => "nothing was sent".to_owned(),
    }
}

/// How many came to what, and what to know of it.
fn summarise(outcomes: &[Outcome]) {
    let count = |name| outcomes.iter().filter(|o| o.name() == name).count();
    if outcomes.len() > 1 {
        let names = [
            "cancelled",
            "pending",
            "ended-before",
            "refused",
            "unknown",
            "not-run",
        ];
        let counts = names.map(|name| (count(name), name));
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts.map(|(n, name)| format!("{n} {name}")).collect();
        output::line(&format!(
            "{} actions: {}",
            outcomes.len(),
            counts.join(", ")
        ));
    }
    if count("cancelled") > 0 {
        note!(
            "host-demo: a cancelled action may have been done all the same, by a device that had \
             begun with it"
        );
    }
    // What kept one from being tried kept the others too, and is said once.
    let why = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::NotRun(CallError::Stopped) => None,
        Outcome::NotRun(error) => Some(error_text::explain(error)),
        _ => None,
    });
    if let Some(why) = why {
        note!("host-demo: {}", output::clean(&why));
    }
}

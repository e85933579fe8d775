//! `host-demo status`

use host_demo::contract::{ActionStatus, MachineAction, MachineActionFilter, Reason};
use host_demo::history::{Device, History, Standing, Step};
use host_demo::host::{CallError, Host};
use host_demo::id::{ActionId, IdError, MachineId};
use host_demo::survey::{Bounds, Lister};
use serde_json::{Value, json};

use crate::args::{Output, Status};
use crate::exit::Exit;
use crate::setup::{host, read_actions};
use crate::ui::action_text::{self, asked, done, step_json, when};
use crate::ui::waits::Waits;
use crate::ui::{error_text, hint, output, unrecorded};

/// What is read of a device: one page, the longest there is. Where the service rejects the filter by
/// device, more is read, because the actions of all devices are listed.
const READ: Bounds = Bounds {
    reads: 1,
    actions: 1000,
    page: 1000,
};

/// How many of its actions are shown.
const SHOWN: usize = 50;

pub(crate) async fn run(args: Status, format: Output) -> anyhow::Result<Exit> {
    let machine: Result<MachineId, _> = args.id.parse();
    if machine.is_err() && args.id.parse::<ActionId>().is_err() {
        anyhow::bail!(
            "{:?} is neither an action-id nor a machine-id: {}; {}",
            args.id,
            IdError::Action,
            IdError::Machine
        );
    }
    let host = host::host(&args.connection)?;
    match machine {
        Ok(id) => of_machine(&host, &id, format).await,
        Err(_) => of_action(&host, &args.id, format).await,
    }
}

async fn of_action(host: &Host, id: &str, format: Output) -> anyhow::Result<Exit> {
    let waits = Waits::new(host, format);
    let reading = host.get_machine_action(id, read_actions::patience(&waits));
    let read = waits.watch(reading).await;
    let missing = unrecorded::missing(host).await;
    let line = |action: Option<&MachineAction>, error: Option<Value>| {
        output::json_line(&json!({
            "type": "action",
            "action": action.map(MachineAction::to_json),
            "recorded": missing.is_none(),
            "error": error,
        }));
    };
    match read {
        Ok(action) => {
            match format {
                Output::Json => line(
                    Some(&action),
                    missing.as_ref().map(unrecorded::missing_json),
                ),
                Output::Text => print(&action),
            }
            let exit = match action.status {
                ActionStatus::Succeeded => Exit::Done,
                ActionStatus::Failed | ActionStatus::TimeOut | ActionStatus::Cancelled => {
                    Exit::Failed
                }
                ActionStatus::Pending | ActionStatus::InProgress | ActionStatus::Other(_) => {
                    Exit::Open
                }
            };
            Ok(exit.failed_if(missing.is_some()))
        }
        Err(error) => refused(error, format, |error| line(None, Some(error))),
    }
}

async fn of_machine(host: &Host, id: &MachineId, format: Output) -> anyhow::Result<Exit> {
    let filter = MachineActionFilter {
        machine_id: Some(id.to_string()),
        ..read_actions::filter()
    };
    let waits = Waits::new(host, format);
    let mut lister = Lister::default();
    let read = read_actions::take(host, &mut lister, &filter, READ, &waits).await;
    let missing = unrecorded::missing(host).await;
    let survey = match read {
        Ok(survey) => survey,
        Err(error) => {
            return refused(error, format, |error| {
                output::json_line(&json!({
                    "type": "device",
                    "machine_id": id.as_str(),
                    "standing": null,
                    "recorded": missing.is_none(),
                    "error": error,
                }));
            });
        }
    };
    read_actions::report_rejected(&lister, format);
    let history = History::of(&survey.actions);
    let unknown = Device::default();
    let device = history.of_machine(id).unwrap_or(&unknown);
    let mut steps: Vec<Step> = survey.actions.iter().filter_map(Step::of).collect();
    host_demo::history::newest_first(&mut steps);
    let all = steps.len();
    steps.truncate(SHOWN);

    match format {
        Output::Json => output::json_line(&json!({
            "type": "device",
            "machine_id": id.as_str(),
            "computer_dns_name": device.computer_dns_name,
            "standing": device.standing().name(),
            "since": device.decisive().and_then(done).map(ToString::to_string),
            "pending": device.pending.iter().map(step_json).collect::<Vec<_>>(),
            "history": steps.iter().map(step_json).collect::<Vec<_>>(),
            "cut": survey.is_cut,
            "recorded": missing.is_none(),
            "error": missing.as_ref().map(unrecorded::missing_json),
        })),
        Output::Text => print_device(id, device, &steps),
    }
    if all == 0 {
        note!("host-demo: no restriction and no release of it found: is the id right?");
    }
    if all > SHOWN && format == Output::Text {
        note!("host-demo: and {} older ones", all - SHOWN);
    }
    if survey.is_cut && lister.rejected().is_some() {
        let cut = action_text::cut(survey.oldest, survey.newest);
        note!("host-demo: {cut}");
    } else if survey.is_cut {
        note!("host-demo: it has more actions than are read, so this may be out of date");
    }
    let is_known = device.standing() != Standing::Unknown && !survey.is_cut;
    let exit = match is_known && device.pending.is_empty() {
        true => Exit::Done,
        false => Exit::Open,
    };
    Ok(exit.failed_if(missing.is_some()))
}

/// Says that the service refused to show it; what kept it from being asked is another matter.
fn refused(error: CallError, format: Output, line: impl Fn(Value)) -> anyhow::Result<Exit> {
    if !error.reason().is_some_and(is_an_answer) {
        return Err(error.into());
    }
    match format {
        Output::Json => line(error_text::error_json(&error)),
        Output::Text => {
            note!("host-demo: {}", output::clean(&error_text::explain(&error)));
            if let Some(hint) = hint::of_call(&error) {
                note!("hint: {}", output::clean(&hint));
            }
        }
    }
    Ok(Exit::Failed)
}

/// Whether the service said no, rather than nothing.
const fn is_an_answer(reason: &Reason) -> bool {
    !matches!(
        reason,
        Reason::InvalidArgument(_) | Reason::Denied | Reason::Unavailable | Reason::Transport
    )
}

fn print(action: &MachineAction) {
    output::line(&action_text::action_line(action));
    let rows = [
        ("machine id", &action.machine_id),
        ("requested by", &action.requestor),
        ("comment", &action.requestor_comment),
        ("created", &action.creation_date_time_utc),
        ("last updated", &action.last_update_date_time_utc),
        ("cancelled by", &action.cancellation_requestor),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            output::line(&format!("  {name:<13} {}", output::clean(value)));
        }
    }
    if let Some(code) = action.error_h_result.filter(|code| *code != 0) {
        output::line(&format!("  {:<13} {code:#010x}", "error"));
    }
}

fn print_device(id: &MachineId, device: &Device, steps: &[Step]) {
    let since = device.decisive().and_then(done);
    let since = since.map(|at| format!(" since {}", when(Some(at))));
    let name = device.computer_dns_name.as_deref();
    output::line(&output::clean(&format!(
        "{}{}  {}  {id}",
        device.standing().name(),
        since.unwrap_or_default(),
        name.unwrap_or("(no name known)"),
    )));
    for step in steps {
        output::line(&output::clean(&format!(
            "  {}  {:<11}  {:<10}  action {}  {}",
            when(step.created.as_ref()),
            step.kind.noun(),
            step.status.as_str(),
            step.id,
            asked(step),
        )));
    }
}

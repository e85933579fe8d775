//! `host-demo status`

use host_demo::contract::ActionStatus;
use host_demo::host::{CallError, Patience};
use serde_json::json;

use super::args::{Output, Status};
use super::{Exit, audit, connect, output};

pub(crate) async fn run(args: Status, format: Output) -> anyhow::Result<Exit> {
    let host = connect::host(&args.connection)?;
    let read = host
        .get_machine_action(&args.action_id, Patience::default())
        .await;
    let missing = audit::missing(&host).await;
    match read {
        Ok(action) => {
            match format {
                Output::Json => output::json_line(&json!({
                    "type": "action",
                    "action": action.to_json(),
                    "recorded": missing.is_none(),
                    "error": missing.as_ref().map(audit::missing_json),
                })),
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
        Err(error @ CallError::Answered { .. }) if error.reason().is_some_and(is_an_answer) => {
            match format {
                Output::Json => output::json_line(&json!({
                    "type": "action",
                    "action": null,
                    "recorded": missing.is_none(),
                    "error": output::error_json(&error),
                })),
                Output::Text => note!("host-demo: {}", output::clean(&output::explain(&error))),
            }
            Ok(Exit::Failed)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the service said no, rather than nothing.
const fn is_an_answer(reason: &host_demo::contract::Reason) -> bool {
    use host_demo::contract::Reason;
    !matches!(
        reason,
        Reason::InvalidArgument(_) | Reason::Denied | Reason::Unavailable | Reason::Transport
    )
}

fn print(action: &host_demo::contract::MachineAction) {
    output::line(&output::action_line(action));
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

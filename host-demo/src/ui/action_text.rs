//! Words and JSON for machine actions.

use host_demo::contract::MachineAction;
use host_demo::harmless::clean;
use host_demo::history::{Step, When};
use host_demo::host::CallError;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{error_text, time_text};

/// What can't be read, and what is done instead, for programs.
pub(crate) fn unreadable_json(what: &str, message: &str, why: &CallError) -> Value {
    json!({
        "type": "unreadable",
        "what": what,
        "message": message,
        "status": why.status(),
        "error": error_text::error_json(why),
    })
}

/// What is missing from a picture that is cut.
pub(crate) fn cut(oldest: Option<Timestamp>, newest: Option<Timestamp>) -> String {
    let reach = match (oldest, newest) {
        (Some(oldest), Some(newest)) => format!(
            ": it has actions that were created from {} to {}",
            time_text::utc(oldest),
            time_text::utc(newest)
        ),
        _ => String::new(),
    };
    format!("the picture is cut, and devices may be missing or out of date{reach}")
}

/// So many of something.
pub(crate) fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Who asked for a step and why, for people.
pub(crate) fn asked(step: &Step) -> String {
    let by = step.requestor.as_deref().unwrap_or("somebody unknown");
    let comment = step.comment.as_deref().unwrap_or("no comment");
    format!("by {by}: {comment}")
}

/// A time as it is known, for people.
pub(crate) fn when(when: Option<&When>) -> String {
    match when {
        Some(When::At(at)) => time_text::utc(*at),
        Some(When::Unread(text)) => format!("{text:?}"),
        None => "at an unknown time".to_owned(),
    }
}

/// When it was done: the same, with its creation where nothing better is known.
pub(crate) fn done(step: &Step) -> Option<&When> {
    step.updated.as_ref().or(step.created.as_ref())
}

/// What is under way, for people.
pub(crate) fn pending(steps: &[Step]) -> String {
    let one = |step: &Step| {
        let (kind, status) = (step.kind.noun(), step.status.as_str());
        format!("{kind} {} {status}", step.id)
    };
    let all: Vec<_> = steps.iter().map(one).collect();
    all.join("; ")
}

/// A step, for programs.
pub(crate) fn step_json(step: &Step) -> Value {
    let when = |when: &Option<When>| when.as_ref().map(When::to_string);
    json!({
        "id": step.id,
        "type": step.kind.action_type().as_str(),
        "status": step.status.as_str(),
        "requestor": step.requestor,
        "comment": step.comment,
        "created": when(&step.created),
        "updated": when(&step.updated),
    })
}

/// A machine action in one line, for people.
pub(crate) fn action_line(action: &MachineAction) -> String {
    let device = action
        .computer_dns_name
        .as_deref()
        .or(action.machine_id.as_deref());
    format!(
        "{}  {}  {}  {}",
        clean(action.status.as_str()),
        clean(action.type_.as_str()),
        clean(device.unwrap_or("(no device named)")),
        clean(&action.id),
    )
}

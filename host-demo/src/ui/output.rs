//! What is printed, for people and for programs.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::error::ErrorKind;
use host_demo::audit::AuditError;
use host_demo::contract::{MachineAction, Reason};
pub(crate) use host_demo::harmless::clean;
use host_demo::harmless::is_harmful;
use host_demo::host::CallError;
use host_demo::identity::IdentityError;
use host_demo::journal::JournalError;
use host_demo::limits::{LedgerError, LedgerProblem};
use host_demo::transport::TransportErrorKind;
use serde_json::{Value, json};

use crate::args::{Output, dashes};
use crate::ui::{hint, suggest};

/// Whether something that was to be printed is lost, other than by a reader who went away.
static LOST: Mutex<Option<String>> = Mutex::new(None);

/// Whether a line could not be printed, for whatever reason.
static IS_CUT: AtomicBool = AtomicBool::new(false);

/// Whether somebody still reads what is printed, as far as it shows.
pub(crate) fn is_read() -> bool {
    !IS_CUT.load(Ordering::Relaxed)
}

/// Why some of the output is lost, if it is.
pub(crate) fn lost() -> Option<String> {
    LOST.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// One line on standard error, if it can be written.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints one line, whole or not at all. A reader that went away ends the output, not the work; a
/// line that can't be written for another reason is told of in the end.
pub(crate) fn line(text: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(&bytes).and_then(|()| stdout.flush());
    if let Err(error) = written {
        IS_CUT.store(true, Ordering::Relaxed);
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            *LOST.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
    }
}

/// Prints one line of JSON.
///
/// What JSON lets stand as it is and a terminal may not (DEL, C1, changes of direction) is escaped.
pub(crate) fn json_line(value: &Value) {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if is_harmful(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                text += &format!("\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    line(&text);
}

/// An error with a step that helps, which is shown on a line of its own.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Advised {
    pub(crate) what: String,
    pub(crate) hint: String,
}

/// Says why nothing was done.
pub(crate) fn could_not_run(format: Output, error: &anyhow::Error) {
    let (text, mut value) = match error.downcast_ref::<CallError>() {
        Some(call) => {
            let (what, why) = (error.to_string(), call.to_string());
            // With what was being done, where that is said.
            let text = match what == why {
                true => why,
                false => format!("{what}: {why}"),
            };
            let mut value = error_json(call);
            value["message"] = json!(text);
            (advised(&text, call), value)
        }
        None => {
            let advice = error.chain().find_map(command_for);
            let text = format!("{error:#}");
            let value = json!({ "message": text, "advice": advice });
            (with_advice(&text, advice), value)
        }
    };
    let mut hints = hint::after(error);
    if let Some(Advised { hint, .. }) = error.downcast_ref() {
        hints.insert(0, hint.clone());
    }
    if let (Some(hint), true) = (hints.first(), value["advice"].is_null()) {
        value["advice"] = json!(hint);
    }
    if format == Output::Json {
        json_line(&json!({ "type": "error", "error": value }));
    }
    note!("host-demo: {}", clean(&text));
    for hint in hints {
        note!("hint: {}", clean(&hint));
    }
}

/// Says what is wrong with the arguments, or what was asked for with them. `true`: something is
/// wrong.
pub(crate) fn misused(format: Output, error: &clap::Error) -> bool {
    let _ = error.print();
    let is_wrong = error.use_stderr();
    let hint = dashes::hint(std::env::args_os().skip(1)).filter(|_| is_wrong);
    if let Some(hint) = &hint {
        note!("hint: {}", clean(hint));
    }
    if is_wrong && format == Output::Json {
        let message = match error.kind() {
            // Its text is the help itself.
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "there is no command".to_owned(),
            _ => what_is_wrong(&error.render().to_string()),
        };
        let advice = hint.as_deref().unwrap_or("--help lists what there is");
        let error = json!({ "message": message, "advice": advice });
        json_line(&json!({ "type": "error", "error": error }));
    }
    is_wrong
}

/// Without the usage, and in one line.
fn what_is_wrong(rendered: &str) -> String {
    let text = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.take_while(|line| !line.starts_with("Usage:") && !line.contains("'--help'"));
    lines.collect::<Vec<_>>().join(" ")
}

/// A moment for people: the time alone if it is today, else with the date.
pub(crate) fn moment(at: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let date = |at: jiff::Timestamp| at.strftime("%Y-%m-%d").to_string();
    let time = at.strftime("%H:%M:%S");
    match date(at) {
        day if day == date(now) => format!("{time} UTC"),
        day => format!("{day} {time} UTC"),
    }
}

/// An error for programs.
pub(crate) fn error_json(error: &CallError) -> Value {
    let mut value = error.to_json();
    value["advice"] = json!(advice(error).or_else(|| hint::of_call(error)));
    value
}

/// What else to do about an error, for people. Most errors say it themselves; what they can't name
/// is a flag.
pub(crate) fn advice(error: &CallError) -> Option<String> {
    match error {
        CallError::Ledger(error) => command_for(error),
        CallError::Audit(error) => command_for(error),
        _ => flag_for(error).map(str::to_owned),
    }
}

/// The command that helps with an error, where there is one.
fn command_for(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(LedgerError {
        problem: LedgerProblem::Damaged(_),
        ..
    }) = error.downcast_ref()
    {
        let renew = suggest::command(&["quota", "renew"]);
        return Some(format!("to begin a new ledger: {renew}"));
    }
    if let Some(AuditError::Damaged { .. }) = error.downcast_ref() {
        let verify = suggest::verify();
        return Some(format!("to find the damaged line: {verify}"));
    }
    if let Some(JournalError::NoSuchRun { .. }) = error.downcast_ref() {
        let runs = suggest::command(&["runs"]);
        return Some(format!("to list the runs: {runs}"));
    }
    None
}

fn flag_for(error: &CallError) -> Option<&'static str> {
    if matches!(error.reason(), Some(Reason::RateLimited(_))) {
        return Some(
            "the application's quota is used up, here or by others: try again later, or use an \
             application of your own",
        );
    }
    let (transport, network) = match error {
        CallError::Answered { detail, .. } => {
            (detail.as_ref()?, "check the network and the service's URL")
        }
        CallError::Identity(IdentityError::NoAnswer(failure)) => {
            (failure, "check the network and the authority's URL")
        }
        _ => return None,
    };
    match transport.kind {
        TransportErrorKind::Certificate => Some(
            "where what answers there has a certificate authority of its own, name it with \
             --ca-file (for tokens from elsewhere: --authority-ca-file)",
        ),
        TransportErrorKind::Dns
        | TransportErrorKind::Refused
        | TransportErrorKind::ConnectTimeout => Some(network),
        TransportErrorKind::Proxy => {
            Some("check the proxy and its URL (--proxy); `host-demo check` reports what it answers")
        }
        TransportErrorKind::ProxyAuthentication => Some(
            "check what --proxy-credentials-file names (user:password); `host-demo check` reports \
             which authentication schemes the proxy offers",
        ),
        TransportErrorKind::Address => Some("a private network is permitted with --allow-address"),
        _ => None,
    }
}

fn advised(text: &str, error: &CallError) -> String {
    with_advice(text, advice(error))
}

fn with_advice(text: &str, advice: Option<String>) -> String {
    match advice {
        Some(advice) => format!("{}; {advice}", text.trim_end_matches('.')),
        None => text.to_owned(),
    }
}

/// An error and what to do about it, in one line.
pub(crate) fn explain(error: &CallError) -> String {
    advised(&error.to_string(), error)
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

#[cfg(test)]
mod tests {
    use host_demo::transport::TransportError;

    use super::*;

    #[test]
    fn a_moment_of_another_day_has_its_date() {
        let now = "2026-01-30T21:11:22Z".parse().unwrap();
        for (at, shown) in [
            ("2026-01-30T23:59:59Z", "23:59:59 UTC"),
            ("2026-01-31T00:00:00Z", "2026-01-31 00:00:00 UTC"),
            ("2026-02-06T21:11:22Z", "2026-02-06 21:11:22 UTC"),
        ] {
            assert_eq!(moment(at.parse().unwrap(), now), shown);
        }
    }

    #[test]
    fn who_is_to_be_looked_after_is_who_could_not_be_reached() {
        let advice = |kind| {
            let failure = TransportError {
                kind,
                detail: "no".to_owned(),
            };
            advice(&CallError::Identity(IdentityError::NoAnswer(failure)))
        };
        let refused = advice(TransportErrorKind::Refused);
        let expected = "check the network and the authority's URL";
        assert_eq!(refused.as_deref(), Some(expected));
        let proxy = advice(TransportErrorKind::Proxy);
        assert!(proxy.is_some_and(|advice| advice.contains("--proxy")));
    }
}

//! What is printed, for people and for programs.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::error::ErrorKind;
use host_demo::contract::{MachineAction, Reason};
pub(crate) use host_demo::harmless::clean;
use host_demo::harmless::is_harmful;
use host_demo::host::CallError;
use host_demo::identity::IdentityError;
use host_demo::transport::TransportErrorKind;
use serde_json::{Value, json};

use super::args::{Output, dashes};

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
    let hint = error.downcast_ref().map(|Advised { hint, .. }| hint);
    let (text, value) = match error.downcast_ref::<CallError>() {
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
            let text = format!("{error:#}");
            let value = json!({ "message": text, "advice": hint });
            (text, value)
        }
    };
    if format == Output::Json {
        json_line(&json!({ "type": "error", "error": value }));
    }
    note!("host-demo: {}", clean(&text));
    if let Some(hint) = hint {
        note!("hint: {}", clean(hint));
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

/// An error for programs.
pub(crate) fn error_json(error: &CallError) -> Value {
    let mut value = error.to_json();
    value["advice"] = json!(advice(error));
    value
}

/// What else to do about an error, for people. Most errors say it themselves; what they can't name
/// is a flag.
pub(crate) fn advice(error: &CallError) -> Option<&'static str> {
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
        TransportErrorKind::Proxy => Some("check the proxy and its URL (--proxy)"),
        TransportErrorKind::Address => Some("a private network is permitted with --allow-address"),
        _ => None,
    }
}

fn advised(text: &str, error: &CallError) -> String {
    match advice(error) {
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
    fn who_is_to_be_looked_after_is_who_could_not_be_reached() {
        let advice = |kind| {
            let failure = TransportError {
                kind,
                detail: "no".to_owned(),
            };
            advice(&CallError::Identity(IdentityError::NoAnswer(failure)))
        };
        let refused = advice(TransportErrorKind::Refused);
        assert_eq!(refused, Some("check the network and the authority's URL"));
        let proxy = advice(TransportErrorKind::Proxy);
        assert!(proxy.is_some_and(|advice| advice.contains("--proxy")));
    }
}

//! Words and JSON for errors, each with a hint.

use clap::error::ErrorKind;
use host_demo::audit::AuditError;
use host_demo::contract::Reason;
use host_demo::host::CallError;
use host_demo::identity::IdentityError;
use host_demo::journal::JournalError;
use host_demo::limits::{LedgerError, LedgerProblem, Why};
use host_demo::transport::TransportErrorKind;
use serde_json::{Value, json};

use super::output::{clean, json_line};
use super::{hint, suggest};
use crate::args::{Output, dashes};

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
    let is_wrong = error.use_stderr();
    match is_wrong {
        // It repeats arguments, which can come from outside.
        true => note!("{}", cleaned_lines(error.render().to_string().trim_end())),
        false => drop(error.print()),
    }
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

/// A text of several lines, each without characters that control a terminal.
fn cleaned_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
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
    value["advice"] = json!(advice(error).or_else(|| hint::of_call(error)));
    value
}

/// What else to do about an error, for people. Most errors say it themselves; what they can't name
/// is a flag.
pub(crate) fn advice(error: &CallError) -> Option<String> {
    match error {
        CallError::Ledger(error) => command_for(error),
        CallError::Audit(error) => command_for(error),
        CallError::Quota { wait, .. } if wait.why == Why::Service => {
            let open = suggest::command(&["quota", "open"]);
            Some(format!("to call sooner: {open}"))
        }
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
        CallError::PluginContradicted => {
            return Some(
                "the audit log contains the difference; use a plugin that you trust, or the \
                 bundled one (without --plugin)",
            );
        }
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
        let expected = "check the network and the authority's URL";
        assert_eq!(refused.as_deref(), Some(expected));
        let proxy = advice(TransportErrorKind::Proxy);
        assert!(proxy.is_some_and(|advice| advice.contains("--proxy")));
    }
}

//! Compares a plugin's result with the host's own reading of the same response.

use serde_json::Value;

use super::{CallError, Host};
use crate::bindings::{
    self, Effect, FoundMachines, Limiter, Machine, MachineAction, MachineActionPage, Reason,
};
use crate::native::{Reader, answer_max};
use crate::plugin::Fault;
use defender_audit::{Claimed, Ending};
use defender_boundary::{AnswerError, Call, Observation, RateLimitHint};
use defender_core::escape::shown;
use defender_core::operation::Operation;
use defender_core::summary::{ActionSummary, Listed, MachineSummary, ResponseSummary};

/// What a plugin can report as a success.
pub(super) trait Success: PartialEq {
    /// For the audit log.
    fn summary(&self) -> ResponseSummary;

    /// Says in which way it differs from what the response contains.
    fn difference(&self, read: &Self) -> String;
}

/// How a call ended.
pub(super) struct Verdict<T> {
    pub(super) result: Result<T, CallError>,
    /// What was wrong with the plugin, whatever the result is.
    pub(super) fault: Option<Fault>,
}

impl<T> Verdict<T> {
    const fn error(error: CallError) -> Self {
        Self {
            result: Err(error),
            fault: None,
        }
    }

    pub(super) const fn ending(&self) -> Ending {
        match (&self.fault, &self.result) {
            (Some(_), _) => Ending::Fault,
            (None, Ok(_)) => Ending::Succeeded,
            (None, Err(CallError::TimedOut { .. })) => Ending::TimedOut,
            (None, Err(_)) => Ending::Failed,
        }
    }
}

impl Host {
    /// Decides what a call's result is. Where the service responded, the response does, as the host
    /// reads it: the plugin's result is returned only if it is the same.
    pub(super) fn judge<T: Success>(
        &self,
        call: &Call,
        result: Option<Result<Result<T, bindings::Error>, Fault>>,
        seen: &Observation,
        reader: Option<&Reader<T>>,
    ) -> Verdict<T> {
        let operation = call.grant().operation();
        let effect = effect_of(seen, operation);
        let read = reader.and_then(|reader| reader.read(seen, operation));
        call.apply_rate_limit(seen, read.as_ref().and_then(hint));
        if seen.echoed {
            return Verdict::error(CallError::TokenEchoed { effect });
        }
        let claimed = match result {
            None => {
                return Verdict::error(CallError::TimedOut {
                    after: self.call_timeout(),
                    effect,
                });
            }
            Some(Err(fault)) => {
                return Verdict {
                    fault: Some(fault.clone()),
                    result: Err(CallError::Fault { fault, effect }),
                };
            }
            Some(Ok(claimed)) => claimed,
        };
        let Some(read) = read else {
            return unanswered(claimed, seen, effect);
        };
        let difference = difference(&claimed, &read);
        let result = match &difference {
            None => claimed,
            Some(_) => read,
        };
        Verdict {
            result: result.map_err(|mut error| {
                // Of a body that was withheld the plugin knows only that it broke off.
                if let (Reason::UnexpectedResponse, Some(why)) = (&error.reason, &seen.unread)
                    && seen.answer.len() <= answer_max(operation)
                {
                    error.message = unread(why, seen, operation);
                }
                CallError::Answered {
                    error,
                    detail: seen.transport.clone(),
                }
            }),
            fault: difference.map(Fault::Contradiction),
        }
    }
}

/// The result of a call whose guest got no response.
fn unanswered<T>(
    claimed: Result<T, bindings::Error>,
    seen: &Observation,
    effect: Effect,
) -> Verdict<T> {
    let contradicts = |what: &str| {
        let fault = Fault::Contradiction(what.to_owned());
        Verdict {
            fault: Some(fault.clone()),
            result: Err(CallError::Fault { fault, effect }),
        }
    };
    let mut error = match claimed {
        Ok(_) => return contradicts("it reported a success, but got no response"),
        Err(error) => error,
    };
    // The plugin knows only that nothing was sent; the boundary knows why.
    if let Some(identity) = seen.identity.clone() {
        return Verdict::error(CallError::Identity(identity));
    }
    if let Some(audit) = seen.audit.clone() {
        return Verdict::error(CallError::Audit(audit));
    }
    if seen.stopped {
        return Verdict::error(CallError::Stopped);
    }
    if let Some(seconds) = seen.closed {
        error.reason = Reason::RateLimited(bindings::RateLimit {
            by: Limiter::Host,
            retry_after_seconds: Some(seconds),
            window_seconds: None,
        });
        error.message = format!(
            "The service closed the quota for {seconds} s while this call was on its way out. \
             Nothing was sent."
        );
    } else if !can_be_without_response(&error, seen) {
        return contradicts("it reported an error of the service's, but got no response");
    }
    // What crossed the boundary is known here for certain. The plugin's word adds nothing to it.
    error.effect = effect;
    Verdict::error(CallError::Answered {
        error,
        detail: seen.transport.clone(),
    })
}

/// Whether there can be this error where the guest got no response: a caller waits, or asks for
/// another token, because of it.
fn can_be_without_response(error: &bindings::Error, seen: &Observation) -> bool {
    let has_reason = match &error.reason {
        Reason::RateLimited(limit) => limit.by == Limiter::Host && seen.is_held_back,
        Reason::InvalidArgument(_)
        | Reason::Denied
        | Reason::Unavailable
        | Reason::Transport
        | Reason::UnexpectedResponse => true,
        Reason::AlreadyInProgress
        | Reason::Rejected
        | Reason::Unauthorized
        | Reason::Forbidden(_)
        | Reason::NotFound
        | Reason::ServiceFailure(_) => false,
    };
    has_reason && error.service.is_none()
}

/// What a 429 says of the time to wait.
fn hint<T>(read: &Result<T, bindings::Error>) -> Option<RateLimitHint> {
    match &read.as_ref().err()?.reason {
        Reason::RateLimited(limit) => Some(RateLimitHint {
            retry_after: limit.retry_after_seconds,
            window: limit.window_seconds,
        }),
        _ => None,
    }
}

/// The message of an answer whose body could not be read.
fn unread(why: &AnswerError, seen: &Observation, operation: Operation) -> String {
    let status = seen.status.unwrap_or_default();
    let advice = match operation.changes_something() {
        true => "It may have taken effect: look at the machine's actions before you repeat it.",
        false => "Find out what stands between here and the API.",
    };
    format!("The service answered {status}, but {why}. {advice}")
}

/// Whether the call can have changed anything, by what crossed the boundary.
fn effect_of(seen: &Observation, operation: Operation) -> Effect {
    if seen.may_have_changed_something(operation) {
        Effect::Unknown
    } else {
        Effect::None
    }
}

/// Says in which way a plugin's result differs from what the host reads in the response, if it does.
/// Messages are for people, and are not compared.
fn difference<T: Success>(
    claimed: &Result<T, bindings::Error>,
    read: &Result<T, bindings::Error>,
) -> Option<String> {
    let (claimed, read) = match (claimed, read) {
        (Ok(claimed), Ok(read)) => {
            return (claimed != read).then(|| claimed.difference(read));
        }
        (Err(claimed), Err(read)) => {
            let decides = |error: &bindings::Error| {
                (error.reason.clone(), error.effect, error.service.clone())
            };
            if decides(claimed) == decides(read) {
                return None;
            }
            (in_words(claimed), in_words(read))
        }
        (Ok(_), Err(read)) => ("a success".to_owned(), in_words(read)),
        (Err(claimed), Ok(_)) => (in_words(claimed), "a success".to_owned()),
    };
    Some(format!("it reported {claimed}; the response is {read}"))
}

fn in_words(error: &bindings::Error) -> String {
    let (reason, effect) = (error.reason.name(), error.effect.name());
    let service = match &error.service {
        None => "no response".to_owned(),
        Some(service) => {
            let code = service.code.as_deref().map(shown).unwrap_or_default();
            format!("{} {code}", service.status).trim_end().to_owned()
        }
    };
    format!("the error {reason} ({service}, effect {effect})")
}

impl Success for MachineAction {
    fn summary(&self) -> ResponseSummary {
        ResponseSummary::Action(action(self))
    }

    fn difference(&self, read: &Self) -> String {
        let (claimed, read) = (self.to_json(), read.to_json());
        let text = |value: Option<&Value>| match value {
            None => "nothing".to_owned(),
            Some(Value::String(text)) => format!("\"{}\"", shown(text)),
            Some(value) => shown(&value.to_string()),
        };
        let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let (claimed, read) = (members(&claimed), members(&read));
        let differs = |name: &&String| claimed.get(*name) != read.get(*name);
        match claimed.keys().chain(read.keys()).find(differs) {
            // In a comment, people name people.
            Some(name) if name.ends_with("Comment") => {
                format!("it reported another {} than the response has", shown(name))
            }
            Some(name) => format!(
                "it reported {} as {}; the response has {}",
                shown(name),
                text(claimed.get(name)),
                text(read.get(name))
            ),
            None => "it reported other JSON text for a property".to_owned(),
        }
    }
}

impl Success for MachineActionPage {
    fn summary(&self) -> ResponseSummary {
        ResponseSummary::Actions(Listed {
            items: self.items.iter().map(action).collect(),
            truncated: self.truncated,
        })
    }

    fn difference(&self, read: &Self) -> String {
        let mut pairs = (1..).zip(self.items.iter().zip(&read.items));
        let entry = pairs.find(|(_, (claimed, read))| claimed != read);
        lists_differ(
            (self.items.len(), self.truncated),
            (read.items.len(), read.truncated),
            entry.map(|(at, (claimed, read))| (at, claimed.difference(read))),
        )
    }
}

impl Success for FoundMachines {
    fn summary(&self) -> ResponseSummary {
        let machine = |machine: &Machine| MachineSummary {
            id: machine.id.clone(),
            name: machine.computer_dns_name.clone(),
        };
        ResponseSummary::Machines(Listed {
            items: self.items.iter().map(machine).collect(),
            truncated: self.truncated,
        })
    }

    fn difference(&self, read: &Self) -> String {
        let mut pairs = (1..).zip(self.items.iter().zip(&read.items));
        let entry = pairs.find(|(_, (claimed, read))| claimed != read);
        let devices = entry.map(|(at, (claimed, read))| {
            let (claimed, read) = (shown(&claimed.id), shown(&read.id));
            (
                at,
                format!(
                    "it reported the device {claimed}; the response has {read}, or other properties"
                ),
            )
        });
        lists_differ(
            (self.items.len(), self.truncated),
            (read.items.len(), read.truncated),
            devices,
        )
    }
}

fn action(action: &MachineAction) -> ActionSummary {
    ActionSummary {
        id: action.id.clone(),
        type_: action.type_.as_str().to_owned(),
        status: action.status.as_str().to_owned(),
        machine: action.machine_id.clone(),
    }
}

/// Says in which way two lists differ, by their length, whether they are cut, and their first entry
/// that is another.
fn lists_differ(
    claimed: (usize, bool),
    read: (usize, bool),
    entry: Option<(usize, String)>,
) -> String {
    match entry {
        Some((at, what)) => format!("entry {at}: {what}"),
        None => {
            let text = |(entries, cut)| match cut {
                true => format!("{entries} entries, and more"),
                false => format!("{entries} entries"),
            };
            format!(
                "it reported {}; the response has {}",
                text(claimed),
                text(read)
            )
        }
    }
}

pub(super) fn claim<T: Success>(said: &Result<T, bindings::Error>) -> Claimed {
    match said {
        Ok(success) => Claimed::ok(&success.summary()),
        Err(error) => Claimed::Err {
            reason: error.reason.name(),
            effect: error.effect.name(),
            status: error.service.as_ref().map(|service| service.status),
        },
    }
}

#[cfg(test)]
mod tests;

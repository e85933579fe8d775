//! What a plugin says, held against what the boundary saw.

use super::{CallError, Host};
use crate::bindings::{self, Effect, Reason};
use crate::plugin::Fault;
use defender_audit::{Claimed, Ending};
use defender_boundary::{AnswerError, Call, Observation, RateLimitHint};
use defender_core::operation::{Operation, Target};
use defender_core::summary::ResponseSummary;

impl Host {
    /// Compares what the plugin says with what the boundary saw.
    #[expect(
        clippy::result_large_err,
        reason = "once a call, as it is everywhere else"
    )]
    pub(super) fn judge<T>(
        &self,
        call: &Call,
        result: Option<Result<Result<T, bindings::Error>, Fault>>,
        seen: &Observation,
        said: Option<&ResponseSummary>,
    ) -> Result<T, CallError>
    where
        for<'a> ResponseSummary: From<&'a T>,
    {
        let effect = effect_of(seen, call.grant().operation());
        let claimed = match &result {
            Some(Ok(Err(error))) => Some(error),
            _ => None,
        };
        let word = claimed.and_then(|error| match &error.reason {
            Reason::RateLimited(limit) => Some(RateLimitHint {
                retry_after: limit.retry_after_seconds,
                window: limit.window_seconds,
            }),
            _ => None,
        });
        call.apply_rate_limit(seen, word);
        if seen.echoed {
            return Err(CallError::TokenEchoed { effect });
        }
        match result {
            None => Err(CallError::TimedOut {
                after: self.call_timeout(),
                effect,
            }),
            Some(Err(fault)) => Err(CallError::Fault { fault, effect }),
            Some(Ok(Ok(success))) => {
                match contradicts(seen, &(&success).into(), said, call.grant().target()) {
                    Some(what) => Err(CallError::Fault {
                        fault: Fault::UnfoundedSuccess(what),
                        effect,
                    }),
                    None => Ok(success),
                }
            }
            Some(Ok(Err(mut error))) => {
                // The plugin knows only that nothing was sent; the boundary knows why.
                if let Some(identity) = seen.identity.clone() {
                    return Err(CallError::Identity(identity));
                }
                if let Some(audit) = seen.audit.clone() {
                    return Err(CallError::Audit(audit));
                }
                if seen.stopped {
                    return Err(CallError::Stopped);
                }
                if let Some(seconds) = seen.closed {
                    error.reason = Reason::RateLimited(bindings::RateLimit {
                        by: bindings::Limiter::Host,
                        retry_after_seconds: Some(seconds),
                        window_seconds: None,
                    });
                    error.message = format!(
                        "The service closed the quota for {seconds} s while this call was on its \
                         way out. Nothing was sent."
                    );
                } else if let Some(what) = contradicts_error(seen, &error) {
                    return Err(CallError::Fault {
                        fault: Fault::UnfoundedError(what),
                        effect,
                    });
                }
                // What crossed the boundary is known here for certain. The plugin's word adds
                // nothing to it.
                error.effect = effect;
                // Of a body that was withheld the plugin knows only that it broke off.
                if let (Reason::UnexpectedResponse, Some(why)) = (&error.reason, &seen.unread) {
                    error.message = unread(why, seen, call.grant().operation());
                }
                Err(CallError::Answered {
                    error,
                    detail: seen.transport.clone(),
                })
            }
        }
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

/// What is wrong with a success that the plugin reports, if something is.
///
/// What a caller decides by is compared with what the answer's body says: see [`ResponseSummary`]. All
/// else (requestor, comment, times, error codes, a device's health) is the plugin's word.
fn contradicts(
    seen: &Observation,
    claimed: &ResponseSummary,
    said: Option<&ResponseSummary>,
    target: Option<&Target>,
) -> Option<&'static str> {
    if !seen
        .status
        .is_some_and(|status| (200..300).contains(&status))
    {
        return Some("the service did not answer with one");
    }
    if let Some(what) = claimed.misses(target) {
        return Some(what);
    }
    match said {
        None => Some("it did not read it in the service's answer"),
        Some(said) if said != claimed => Some("it is not the one in the service's answer"),
        Some(_) => None,
    }
}

/// What is wrong with an error that the plugin reports, if something is: a caller waits, or
/// asks for another token, because of it.
fn contradicts_error(seen: &Observation, error: &bindings::Error) -> Option<&'static str> {
    let status = seen.status.unwrap_or_default();
    let is_founded = match &error.reason {
        Reason::AlreadyInProgress => status == 400,
        Reason::Unauthorized => status == 401,
        Reason::Forbidden(_) => status == 403,
        Reason::NotFound => status == 404,
        Reason::Rejected => (400..500).contains(&status),
        Reason::ServiceFailure(_) => status >= 500,
        Reason::RateLimited(limit) => match limit.by {
            bindings::Limiter::Service => status == 429,
            bindings::Limiter::Host => seen.is_held_back,
        },
        Reason::InvalidArgument(_)
        | Reason::Denied
        | Reason::Unavailable
        | Reason::Transport
        | Reason::UnexpectedResponse => true,
    };
    if !is_founded {
        return Some("nobody gave that answer");
    }
    match &error.service {
        Some(service) if Some(service.status) != seen.status => {
            Some("the service answered with another status")
        }
        _ => None,
    }
}
pub(super) const fn ending<T>(judged: &Result<T, CallError>) -> Ending {
    match judged {
        Ok(_) => Ending::Succeeded,
        Err(CallError::Fault { .. }) => Ending::Fault,
        Err(CallError::TimedOut { .. }) => Ending::TimedOut,
        Err(_) => Ending::Failed,
    }
}

pub(super) fn claim<T>(said: &Result<T, bindings::Error>) -> Claimed
where
    for<'a> ResponseSummary: From<&'a T>,
{
    match said {
        Ok(success) => Claimed::ok(&success.into()),
        Err(error) => Claimed::Err {
            reason: error.reason.name(),
            effect: error.effect.name(),
            status: error.service.as_ref().map(|service| service.status),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::{
        ActionStatus, ActionType, Failure, MachineAction, MissingRoles, RateLimit, ServiceError,
    };

    const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    const ACTION: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";

    fn answered(status: u16, body: &str) -> Observation {
        let mut seen = Observation::default();
        seen.may_have_arrived = true;
        seen.status = Some(status);
        seen.answer = body.as_bytes().to_vec();
        seen
    }

    fn contradiction(
        seen: &Observation,
        claimed: &MachineAction,
        target: &Target,
    ) -> Option<&'static str> {
        let said = ResponseSummary::in_answer(Some(target), &seen.answer);
        contradicts(seen, &claimed.into(), said.as_ref(), Some(target))
    }

    fn body(id: &str, type_: &str, status: &str, machine: &str) -> String {
        serde_json::json!({ "id": id, "type": type_, "status": status, "machineId": machine })
            .to_string()
    }

    fn claimed() -> MachineAction {
        MachineAction {
            machine_id: Some(MACHINE.to_owned()),
            ..MachineAction::blank(
                ACTION,
                ActionType::UnrestrictCodeExecution,
                ActionStatus::Pending,
            )
        }
    }

    #[test]
    fn a_success_is_one_only_if_it_is_word_for_word_what_the_service_answered() {
        let release = Target::Machine(MACHINE.parse().unwrap());
        let read = Target::Action(ACTION.parse().unwrap());
        let other = &MACHINE.replace('1', "2");
        let (kind, pending) = ("UnrestrictCodeExecution", "Pending");
        let good = body(ACTION, kind, pending, MACHINE);
        for (seen, is_founded) in [
            (answered(201, &good), true),
            (answered(200, &good), true),
            (Observation::default(), false),
            (answered(199, &good), false),
            (answered(302, &good), false),
            (answered(400, &good), false),
            (answered(500, &good), false),
            (answered(200, ""), false),
            (answered(200, &good[..good.len() - 1]), false),
            (
                answered(
                    200,
                    &body(&ACTION.replace('8', "9"), kind, pending, MACHINE),
                ),
                false,
            ),
            (
                answered(200, &body(ACTION, "Offboard", pending, MACHINE)),
                false,
            ),
            (answered(200, &body(ACTION, kind, "Failed", MACHINE)), false),
            (answered(200, &body(ACTION, kind, pending, other)), false),
        ] {
            for target in [&release, &read] {
                let found = contradiction(&seen, &claimed(), target);
                assert_eq!(found.is_none(), is_founded, "{seen:?}: {found:?}");
            }
        }
        // Of another device, or another action, however well it is borne out.
        let seen = answered(200, &body(ACTION, kind, pending, other));
        let of_another = MachineAction {
            machine_id: Some(other.clone()),
            ..claimed()
        };
        assert_eq!(
            contradiction(&seen, &of_another, &release),
            Some("of another device")
        );
        let another = Target::Action("9a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".parse().unwrap());
        let found = contradiction(&answered(200, &good), &claimed(), &another);
        assert_eq!(found, Some("of another action"));
    }

    #[test]
    fn an_error_is_one_only_if_somebody_gave_it() {
        let limit = |by| {
            Reason::RateLimited(RateLimit {
                by,
                retry_after_seconds: Some(1),
                window_seconds: None,
            })
        };
        let failure = || {
            Reason::ServiceFailure(Failure {
                retry_after_seconds: None,
            })
        };
        let forbidden = || {
            Reason::Forbidden(MissingRoles {
                required_roles: Vec::new(),
                held_roles: Vec::new(),
            })
        };
        let mut held_back = Observation::default();
        held_back.is_held_back = true;
        let error = |reason, status: Option<u16>| bindings::Error {
            effect: Effect::None,
            reason,
            message: String::new(),
            service: status.map(|status| ServiceError {
                status,
                code: None,
                message: None,
                correlation_id: None,
            }),
        };
        for (seen, reason, is_founded) in [
            (answered(400, ""), Reason::AlreadyInProgress, true),
            (answered(200, ""), Reason::AlreadyInProgress, false),
            (answered(401, ""), Reason::Unauthorized, true),
            (answered(500, ""), Reason::Unauthorized, false),
            (answered(403, ""), forbidden(), true),
            (Observation::default(), forbidden(), false),
            (answered(404, ""), Reason::NotFound, true),
            (answered(200, ""), Reason::NotFound, false),
            (answered(409, ""), Reason::Rejected, true),
            (answered(503, ""), Reason::Rejected, false),
            (answered(503, ""), failure(), true),
            (answered(200, ""), failure(), false),
            (answered(429, ""), limit(bindings::Limiter::Service), true),
            (answered(200, ""), limit(bindings::Limiter::Service), false),
            (
                Observation::default(),
                limit(bindings::Limiter::Service),
                false,
            ),
            (held_back, limit(bindings::Limiter::Host), true),
            (answered(429, ""), limit(bindings::Limiter::Host), false),
            (Observation::default(), Reason::Transport, true),
            (answered(200, ""), Reason::UnexpectedResponse, true),
        ] {
            let status = seen.status;
            let contradiction = contradicts_error(&seen, &error(reason.clone(), status));
            assert_eq!(contradiction.is_none(), is_founded, "{reason:?} {status:?}");
        }
        let other_status = error(Reason::Rejected, Some(402));
        assert!(contradicts_error(&answered(409, ""), &other_status).is_some());
    }
}

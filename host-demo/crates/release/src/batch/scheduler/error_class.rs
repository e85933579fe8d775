//! What an error makes of what is next: for the device that was sent for, or for reading.

use defender_connect::identity::IdentityError;
use defender_host::CallError;
use defender_host::bindings::{Effect, Reason};
use defender_host::plugin::Fault;

/// What an error makes of a device that was sent for.
pub(super) enum ErrorClass {
    /// It may have happened.
    Doubt,
    /// One is under way.
    AlreadyInProgress,
    /// Nothing left, for reasons that pass.
    NotSent { nowhere: bool },
    /// The service has no time for it now.
    PutOff,
    /// As things stand, the quota has no room before the deadline. What is under way can end sooner
    /// than it counts.
    NotYet,
    /// The next one would meet the same.
    All,
    /// It is this device's own.
    Refused,
}

pub(super) fn classify(error: &CallError, has_contact: bool) -> ErrorClass {
    if error.effect() == Effect::Unknown {
        return ErrorClass::Doubt;
    }
    match error {
        CallError::Quota { .. } => ErrorClass::NotYet,
        // One that may pass has been waited for as long as the run allows.
        CallError::Identity(_)
        | CallError::Ledger(_)
        | CallError::Stopped
        | CallError::Aborted(_)
        | CallError::Audit(_)
        | CallError::PluginContradicted
        | CallError::TokenEchoed { .. } => ErrorClass::All,
        CallError::TimedOut { .. } => ErrorClass::NotSent { nowhere: false },
        CallError::Fault {
            fault: Fault::Contradiction(_),
            ..
        } => ErrorClass::All,
        // The plugin's. It would do it again.
        CallError::Fault { .. } => ErrorClass::Refused,
        CallError::Answered { error, .. } => match &error.reason {
            Reason::AlreadyInProgress => ErrorClass::AlreadyInProgress,
            Reason::RateLimited(_) => ErrorClass::PutOff,
            Reason::InvalidArgument(argument) if argument.parameter == "comment" => ErrorClass::All,
            Reason::Denied | Reason::Unauthorized => ErrorClass::All,
            Reason::Unavailable | Reason::Transport if has_contact => {
                ErrorClass::NotSent { nowhere: true }
            }
            Reason::Unavailable | Reason::Transport => ErrorClass::All,
            _ => ErrorClass::Refused,
        },
    }
}

/// Whether somebody was there who may have got it.
pub(super) fn may_have_arrived(error: &CallError) -> bool {
    let CallError::Answered { detail, .. } = error else {
        return false;
    };
    detail
        .as_ref()
        .is_some_and(|detail| detail.kind.may_have_arrived())
}

/// What an error makes of reading.
pub(super) enum ReadingFate {
    /// It may go better later. `is_away`: nothing answered.
    Later { is_away: bool },
    /// The service does not accept the request as it was made. Another one may do.
    Rejected,
    /// It never will.
    Never,
    /// And nothing else will either.
    All,
}

pub(super) fn reading_fate(error: &CallError, has_deadline: bool) -> ReadingFate {
    match error {
        // The deadline ends the run, and accepted actions are still pending then.
        CallError::Identity(error) if has_deadline && error.is_transient(true) => {
            ReadingFate::Later { is_away: true }
        }
        CallError::Identity(_)
        | CallError::Ledger(_)
        | CallError::Aborted(_)
        | CallError::Audit(_)
        | CallError::PluginContradicted => ReadingFate::All,
        CallError::TokenEchoed { .. } | CallError::Fault { .. } => ReadingFate::Never,
        CallError::Quota { .. } | CallError::Stopped | CallError::TimedOut { .. } => {
            ReadingFate::Later { is_away: false }
        }
        CallError::Answered { error, .. } => match &error.reason {
            Reason::Forbidden(_) | Reason::Denied | Reason::Unauthorized => ReadingFate::Never,
            Reason::Rejected | Reason::NotFound => ReadingFate::Rejected,
            Reason::Transport | Reason::Unavailable => ReadingFate::Later { is_away: true },
            Reason::RateLimited(_) => ReadingFate::Later { is_away: true },
            _ => ReadingFate::Later { is_away: false },
        },
    }
}

/// Whether a read that failed like this often succeeds a moment later.
pub(super) fn may_pass(error: &CallError) -> bool {
    match error {
        CallError::Answered { error, .. } => matches!(
            error.reason,
            Reason::RateLimited(_)
                | Reason::ServiceFailure(_)
                | Reason::Transport
                | Reason::Unavailable
        ),
        CallError::Identity(IdentityError::NoAnswer(_))
        | CallError::Quota { .. }
        | CallError::TimedOut { .. } => true,
        _ => false,
    }
}

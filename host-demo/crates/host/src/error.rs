//! Why a call did not succeed, and what that means to whoever made it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bindings::{self, Effect, Reason};
use crate::plugin::Fault;
use defender_audit::AuditError;
use defender_boundary::{BeginError, when};
use defender_connect::identity::IdentityError;
use defender_connect::transport::TransportError;
use defender_quota::{LedgerError, NotUntil};

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// The plugin's typed answer: an argument that does not fit, a refusal of the service's, no
    /// answer.
    #[error("{}{}", .error.message, .detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Answered {
        /// What the plugin says.
        error: bindings::Error,
        /// What the transport saw, where it failed.
        detail: Option<TransportError>,
    },
    /// There was no token, or the service refused the one there was and no other could be had.
    /// Nothing was changed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The quota has no room before the caller's patience ends. Nothing was sent.
    #[error("no call is left {}; nothing was sent", when(*.wait, *.until))]
    Quota {
        /// From when on there may be one, and what stands in the way.
        wait: NotUntil,
        /// The same moment, by the host's calendar.
        until: jiff::Timestamp,
    },
    /// It can't be known whether the quota has room. Nothing was sent.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The caller stopped it, while it waited for the quota or for a token. Nothing was sent.
    #[error("stopped before it was sent")]
    Stopped,
    /// The caller's [`BeforeSend`](super::BeforeSend) was not given. Nothing was sent.
    #[error("nothing was sent: {0}")]
    Aborted(String),
    /// The service's answer repeats the token that the request carried. It was kept from the
    /// plugin, and nothing that the plugin says of it counts.
    #[error(
        "the service's answer repeats the token, and was withheld; find out what stands between \
         here and the API; {}", meaning(*.effect)
    )]
    TokenEchoed {
        /// Whether something can have happened.
        effect: Effect,
    },
    /// The call could not be recorded. Nothing was sent.
    #[error("nothing was sent, because it could not be recorded: {0}")]
    Audit(#[from] AuditError),
    /// The call's time was up.
    #[error("no answer within {} s; {}", .after.as_secs_f64(), meaning(*.effect))]
    TimedOut {
        /// How long the call had.
        after: Duration,
        /// Whether something can have happened.
        effect: Effect,
    },
    /// The plugin contradicted the service in an earlier call of this [`Host`](super::Host), and is
    /// not used again. Nothing was sent.
    #[error(
        "the plugin contradicted the service in an earlier call and is not used again; nothing was sent"
    )]
    PluginContradicted,
    /// The plugin is broken, or worse.
    #[error("{fault}; {}", meaning(*.effect))]
    Fault {
        /// What it did.
        fault: Fault,
        /// Whether something can have happened.
        effect: Effect,
    },
}

impl From<BeginError> for CallError {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::Identity(error) => Self::Identity(error),
            BeginError::Quota { wait, until } => Self::Quota { wait, until },
            BeginError::Ledger(error) => Self::Ledger(error),
            BeginError::Stopped => Self::Stopped,
            BeginError::Aborted(why) => Self::Aborted(why),
        }
    }
}

const fn meaning(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "nothing was changed by it",
        Effect::Unknown => {
            "it may have taken effect: look at the machine's actions before you repeat it"
        }
    }
}

impl CallError {
    /// Whether the call can have changed anything.
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Answered { error, .. } => error.effect,
            Self::Identity(_)
            | Self::Quota { .. }
            | Self::Ledger(_)
            | Self::Stopped
            | Self::Aborted(_)
            | Self::Audit(_)
            | Self::PluginContradicted => Effect::None,
            Self::TimedOut { effect, .. }
            | Self::Fault { effect, .. }
            | Self::TokenEchoed { effect } => *effect,
        }
    }

    /// The plugin's reason, where it gave one.
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Answered { error, .. } => Some(&error.reason),
            _ => None,
        }
    }

    /// The status of the service's response, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { error, .. } => error.service.as_ref().map(|service| service.status),
            _ => None,
        }
    }

    /// The error as a JSON object: its `message`, its `effect`, the plugin's `reason` with what it
    /// carries, and what the `service` said.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "message": self.to_string(),
            "effect": self.effect().name(),
            "reason": self.reason().map(Reason::name),
        });
        let Self::Answered { error, .. } = self else {
            return value;
        };
        match &error.reason {
            Reason::InvalidArgument(argument) => value["parameter"] = json!(argument.parameter),
            Reason::Forbidden(roles) => {
                value["required_roles"] = json!(roles.required_roles);
                value["held_roles"] = json!(roles.held_roles);
            }
            Reason::RateLimited(limit) => {
                value["retry_after_seconds"] = json!(limit.retry_after_seconds);
                value["window_seconds"] = json!(limit.window_seconds);
            }
            Reason::ServiceFailure(failure) => {
                value["retry_after_seconds"] = json!(failure.retry_after_seconds);
            }
            _ => {}
        }
        if let Some(service) = &error.service {
            value["service"] = json!({
                "status": service.status,
                "code": service.code,
                "message": service.message,
                "correlation_id": service.correlation_id,
            });
        }
        value
    }
}

impl From<&CallError> for defender_boundary::waiting::Trouble {
    fn from(error: &CallError) -> Self {
        Self {
            message: error.to_string(),
            status: error.status(),
        }
    }
}

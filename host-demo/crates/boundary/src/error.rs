//! Why a call does not begin, a connection is not opened, a request is not answered.

use crate::policy::Denial;
use defender_audit::AuditError;
use defender_connect::identity::IdentityError;
use defender_connect::transport::TransportError;
use defender_core::clock::Moment;
use defender_quota::{LedgerError, NotUntil, Why};

/// Why a call was not begun. Nothing was sent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BeginError {
    /// There was no token to learn from whom the call is counted for.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The quota has no room before the caller's patience ends.
    #[error("no call is left {}; nothing was sent", when(*.wait, *.until))]
    Quota {
        /// From when on there may be one, and what stands in the way.
        wait: NotUntil,
        /// The same moment, on the calendar.
        until: jiff::Timestamp,
    },
    /// It can't be known whether the quota has room.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The caller stopped it, while it waited for the quota or for a token.
    #[error("stopped before it was sent")]
    Stopped,
    /// The caller's [`BeforeSend`](super::BeforeSend) was not given.
    #[error("nothing was sent: {0}")]
    Aborted(String),
}

/// When a call may be made again, and why not before.
pub fn when(wait: NotUntil, until: jiff::Timestamp) -> String {
    if wait.at == Moment::from_nanos(u64::MAX) {
        return "at any time: a quota is zero".to_owned();
    }
    let why = match wait.why {
        Why::Quota => "as many were made as the quota allows",
        Why::Service => "the service said to wait",
        Why::Lost => "what was counted before is lost, and taken for used",
    };
    let until = until.strftime("%Y-%m-%d %H:%M:%S");
    format!("before {until} UTC, because {why}")
}

/// Why a connection is not opened. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The policy or the grant does not allow it.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The service has closed the quota since the call began.
    #[error("the service takes no call for {seconds} s; try again then")]
    Closed {
        /// For so long, rounded up.
        seconds: u32,
    },
}

/// Why a request got no answer that its sender may see.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The policy or the grant does not allow it, or the call's one request has been made.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The call has ended.
    #[error("the call has ended; nothing was sent")]
    Over,
    /// Its caller stopped it.
    #[error("stopped before it was sent")]
    Stopped,
    /// The service closed the quota while the request was on its way out.
    #[error("the service takes no call for {seconds} s; nothing was sent, so try again then")]
    Closed {
        /// For so long, rounded up.
        seconds: u32,
    },
    /// What is about to be sent could not be recorded.
    #[error("nothing was sent, because it could not be recorded: {0}")]
    NotRecorded(AuditError),
    /// There is no token to send it with.
    #[error("nothing was sent, because there is no token: {0}")]
    NoToken(Box<IdentityError>),
    /// No answer came.
    #[error(transparent)]
    Transport(TransportError),
    /// The answer has more headers than any.
    #[error("the answer's headers have {0} bytes, more than any answer's")]
    HeadersTooLong(u32),
    /// The answer's headers repeat the token.
    #[error("the answer repeats the token, and is withheld")]
    Echoed,
}

impl SendError {
    /// Whether the request can have reached the service.
    pub const fn may_have_arrived(&self) -> bool {
        match self {
            Self::Denied(_)
            | Self::Over
            | Self::Stopped
            | Self::Closed { .. }
            | Self::NotRecorded(_)
            | Self::NoToken(_) => false,
            Self::Transport(error) => error.kind.may_have_arrived(),
            Self::HeadersTooLong(_) | Self::Echoed => true,
        }
    }
}

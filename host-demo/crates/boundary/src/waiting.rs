//! What holds up a call or a run, in one form for all who report it.
//!
//! The library states what is waited for as soon as it is known; whether that is worth a word is the
//! reporter's decision. The command reports what takes more than five seconds.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use defender_quota::Why;

/// Receives what a call waits for, as it begins to wait and when that changes.
pub type OnWait = Arc<dyn Fn(Waiting) + Send + Sync>;

/// What is waited for, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What is waited for.
    pub cause: Cause,
    /// When the wait ends, as things stand, by the host's calendar. `None`: that is not known.
    pub until: Option<Timestamp>,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The quota has no room.
    Quota(Why),
    /// So many of the last requests failed that none is sent for a while.
    Pause {
        /// How many failed.
        wrong: usize,
        /// Of how many.
        of: usize,
    },
    /// A read failed, and is repeated.
    Read(Trouble),
    /// A request did not leave, and is sent again.
    Request(Trouble),
    /// There is no token at the moment, and it is asked for again.
    Token(Trouble),
    /// A response has not come yet.
    Response,
    /// The service has an action for the device that it does not show yet. It is looked for again.
    NotVisible,
    /// A device has not done yet what it was asked for. It is looked at again.
    Device,
}

/// What went wrong with the last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One sentence for people.
    pub message: String,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
}

impl Waiting {
    /// One word for the cause, for programs.
    pub const fn reason(&self) -> &'static str {
        match self.cause {
            Cause::Quota(_) => "quota",
            Cause::Pause { .. } => "pause",
            Cause::Read(_) => "read",
            Cause::Request(_) => "request",
            Cause::Token(_) => "token",
            Cause::Response => "response",
            Cause::NotVisible => "not-visible",
            Cause::Device => "device",
        }
    }

    /// The status of the response that is the cause, if it is one.
    pub const fn status(&self) -> Option<u16> {
        match &self.cause {
            Cause::Read(trouble) | Cause::Request(trouble) | Cause::Token(trouble) => {
                trouble.status
            }
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    /// What is waited for and why, without the time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota(Why::Quota) => f.write_str("as many were sent as it allows"),
            Self::Quota(Why::Service) => f.write_str("the service said to wait"),
            Self::Quota(Why::Lost) => f.write_str("what was sent before is not known"),
            Self::Pause { wrong, of } => write!(f, "{wrong} of the last {of} requests failed"),
            Self::Read(trouble) => write!(f, "reading from the service failed: {trouble}"),
            Self::Request(trouble) => write!(f, "a request was not sent: {trouble}"),
            // Most of these messages say it themselves.
            Self::Token(trouble) if trouble.message.starts_with("no token") => trouble.fmt(f),
            Self::Token(trouble) => write!(f, "no token at the moment: {trouble}"),
            Self::Response => f.write_str("no response yet"),
            Self::NotVisible => f.write_str(
                "the service may have an action for the device that it does not show yet",
            ),
            Self::Device => f.write_str("the device has not done it yet"),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.trim_end_matches('.'))
    }
}

impl From<&defender_connect::identity::IdentityError> for Trouble {
    fn from(error: &defender_connect::identity::IdentityError) -> Self {
        Self {
            message: error.to_string(),
            status: error.status(),
        }
    }
}

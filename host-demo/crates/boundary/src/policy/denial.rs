//! Why a request may not leave, with the rule that would allow it where there is one.

use crate::policy::Route;
use defender_core::operation::Operation;
use defender_core::origin::Origin;

/// Why a request may not leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// To another origin than the policy's.
    #[error("requests to {asked} are not allowed; the policy's origin is {allowed}")]
    Origin {
        /// Where the request would have gone, or what stood in its place.
        asked: String,
        /// The policy's origin.
        allowed: Origin,
    },
    /// No route of the policy's matches.
    #[error("no rule allows {method} {path}")]
    NoRoute {
        /// The method that was asked for.
        method: String,
        /// The path and query that were asked for.
        path: String,
    },
    /// The route exists but is not granted.
    #[error("the policy does not allow {operation}; this rule would: {}", Route::of(*.operation))]
    NotGranted {
        /// What was asked for.
        operation: Operation,
    },
    /// The call was made for something else.
    #[error("this call was made for {granted}; the plugin asked for {asked}")]
    NotThisCall {
        /// What the call may do.
        granted: String,
        /// What was asked for.
        asked: String,
    },
    /// The call's one request has been made.
    #[error("this call's one request has been made already")]
    Spent,
    /// A header that is not on the list.
    #[error("the request header {0:?} is not allowed")]
    Header(String),
    /// A request body over the bound, or one that no such request has.
    #[error("the request body {0}")]
    Body(&'static str),
    /// A comment that is not the caller's.
    #[error("the comment in the request body is not the one that this call was made with")]
    OtherComment,
}

impl Denial {
    /// The rule that would allow it, if one would: what to add to the policy.
    pub const fn rule(&self) -> Option<Route> {
        match self {
            Self::NotGranted { operation } => Some(Route::of(*operation)),
            _ => None,
        }
    }
}

//! What the boundary saw of a call, whatever a guest says of it.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use crate::grant::Grant;
use crate::policy::Denial;
use crate::policy::Route;
use crate::response_body::AnswerError;
use defender_audit::{AuditError, Claimed, Ending, Observed, Outcome};
use defender_connect::identity::{BearerToken, IdentityError};
use defender_connect::transport::TransportError;
use defender_core::clock::Moment;
use defender_core::operation::Operation;
use defender_core::summary::ResponseSummary;

/// What the boundary saw of a call, whatever a guest says of it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Observation {
    /// The request was handed to the transport, and may have reached the service.
    pub may_have_arrived: bool,
    /// The status of the answer.
    pub status: Option<u16>,
    /// What was denied, the first few of it.
    pub denied: Vec<Denial>,
    /// How much was denied.
    pub denials: u32,
    /// The policy, the grant and the permit let a request pass.
    pub is_allowed: bool,
    /// The guest was told that the quota has no call left.
    pub is_held_back: bool,
    /// The caller stopped it before it was sent.
    pub stopped: bool,
    /// Another call's 429 closed the key while this one was on its way out: for so many seconds.
    pub closed: Option<u32>,
    /// What a 429 says of the time to wait, in seconds.
    pub retry_after: Option<u32>,
    /// How long a 429 closes the key at least.
    pub(crate) least_wait: Duration,
    /// Why it could not be recorded, and was not sent.
    pub audit: Option<AuditError>,
    /// The token that the service refused with 401.
    pub rejected: Option<BearerToken>,
    /// Why there was no token, so that it was not sent.
    pub identity: Option<IdentityError>,
    /// Why no answer came.
    pub transport: Option<TransportError>,
    /// How long the request's body was.
    pub request_bytes: Option<u64>,
    /// When the request was handed to the transport.
    pub sent_at: Option<Moment>,
    /// When the answer's head came.
    pub answered_at: Option<Moment>,
    /// The headers that the guest gets with the answer. None: it gets no answer.
    pub headers: Option<HeaderMap>,
    /// What the answer is known by at the service.
    pub correlation_id: Option<String>,
    /// The answer's body, as far as it could be read.
    pub answer: Bytes,
    /// Why the rest of the answer's body was not handed on.
    pub unread: Option<AnswerError>,
    /// The answer repeats the token.
    pub echoed: bool,
}

impl Observation {
    /// Whether a call of this operation can have changed anything, by what crossed the boundary.
    pub fn may_have_changed_something(&self, operation: Operation) -> bool {
        let harmless = match self.status {
            None => !self.may_have_arrived,
            // A redirect or a refusal of the service's; see the contract's table.
            Some(status) => (300..500).contains(&status),
        };
        !harmless && operation.changes_something()
    }

    /// What the service's answer says.
    pub fn said(&self, grant: &Grant) -> Option<ResponseSummary> {
        ResponseSummary::in_answer(grant.target(), &self.answer)
    }

    /// How it ended, where nobody says anything of it but the boundary.
    pub(super) fn ending(
        &self,
        grant: &Grant,
        said: Option<&ResponseSummary>,
        is_late: bool,
    ) -> Ending {
        let is_what_was_asked = || said.is_some_and(|said| said.misses(grant.target()).is_none());
        match self.status {
            Some(200..300) if !self.echoed && is_what_was_asked() => Ending::Succeeded,
            None if is_late && self.may_have_arrived => Ending::TimedOut,
            _ => Ending::Failed,
        }
    }

    /// For the record.
    pub fn outcome(
        &self,
        ended: Ending,
        grant: &Grant,
        said: Option<ResponseSummary>,
        claimed: Option<Claimed>,
        fault: Option<String>,
    ) -> Outcome {
        let failure = match (&self.audit, &self.identity, &self.transport, &self.unread) {
            (Some(error), ..) => Some(error.to_string()),
            (_, Some(error), ..) => Some(error.to_string()),
            (_, _, Some(error), _) => Some(error.to_string()),
            (.., Some(error)) => Some(error.to_string()),
            _ => None,
        };
        let milliseconds = self
            .sent_at
            .zip(self.answered_at)
            .map(|(from, to)| u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX));
        Outcome {
            ended,
            allowed_by: self
                .is_allowed
                .then(|| Route::of(grant.operation()).to_string()),
            denied: self.denied.iter().map(ToString::to_string).collect(),
            denials: self.denials,
            observed: Observed {
                sent: match (self.status, self.may_have_arrived) {
                    (Some(_), _) => "answered",
                    (None, true) => "unanswered",
                    (None, false) => "no",
                },
                status: self.status,
                milliseconds,
                request_bytes: self.request_bytes,
                response_bytes: self.status.map(|_| self.answer.len() as u64),
                correlation_id: self.correlation_id.clone(),
                action: said.as_ref().and_then(ResponseSummary::action).cloned(),
                list: said.as_ref().and_then(ResponseSummary::count),
                failure,
            },
            claimed,
            fault,
        }
    }
}

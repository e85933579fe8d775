//! What the gateway answers, so that a guest's typed result is right: the table in the module's
//! documentation, row by row.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::capability::CapabilityError;
use defender_boundary::{AnswerError, Observation, SendError};

/// An answer, whole.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer of the service's to pass on.
pub(super) enum Failure {
    Send(SendError),
    Body(AnswerError),
    /// The call's time was up.
    TooLate,
}

impl Reply {
    pub(super) fn json(status: StatusCode, value: &Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self {
            status,
            headers,
            body: value.to_string().into(),
        }
    }

    /// An error document, of the service's own form.
    pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        Self::json(
            status,
            &json!({ "error": { "code": code, "message": message } }),
        )
    }

    pub(super) fn again_in(mut self, seconds: u32) -> Self {
        self.headers.insert(RETRY_AFTER, seconds.into());
        self
    }

    /// To a capability that is good for nothing.
    pub(super) fn useless(why: &CapabilityError) -> Self {
        match why {
            CapabilityError::Foreign => Self::error(
                StatusCode::BAD_GATEWAY,
                "NotThisGateways",
                "This is no capability of this gateway's. If one that was there before it had \
                 handed it out, its request may have arrived: have the engine look at what became \
                 of it before it asks for a new one.",
            ),
            CapabilityError::Unknown => Self::error(
                StatusCode::UNAUTHORIZED,
                "NoSuchCapability",
                "The gateway has no such capability any more: its time is up, and it was not \
                 used. Nothing was sent. Have the engine ask for a new one.",
            ),
            // Not a refusal: whoever repeats by itself what got no answer would take the first
            // request for one that was never made.
            CapabilityError::Used => Self::error(
                StatusCode::BAD_GATEWAY,
                "CapabilityUsed",
                "This capability's one request has been made already, and may have arrived. Have \
                 the engine look at what became of it before it asks for a new one.",
            ),
        }
    }

    /// To a request whose answer there is none of to pass on.
    pub(super) fn failed(failure: &Failure, seen: &Observation) -> Self {
        let message = match failure {
            Failure::Send(error) => match (error, &seen.transport) {
                (SendError::Transport(_), Some(said)) => format!("No answer: {said}."),
                _ => sentence(&error.to_string()),
            },
            Failure::Body(error) => sentence(&error.to_string()),
            Failure::TooLate => "The call's time was up.".to_owned(),
        };
        let (status, code) = match (failure, seen.status) {
            // What the service refused did nothing, however much of the refusal is missing.
            (_, Some(status @ 300..500)) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                let reply = Self::error(status, "AnswerWithheld", &message);
                return match seen.retry_after {
                    Some(seconds) => reply.again_in(seconds),
                    None => reply,
                };
            }
            (_, Some(_)) => (StatusCode::BAD_GATEWAY, "AnswerWithheld"),
            (Failure::Send(SendError::Denied(_)), _) => (StatusCode::FORBIDDEN, "Denied"),
            (Failure::Send(SendError::Closed { seconds }), _) => {
                let reply = Self::error(StatusCode::TOO_MANY_REQUESTS, "QuotaClosed", &message);
                return reply.again_in(*seconds);
            }
            _ if seen.may_have_arrived => match failure {
                Failure::TooLate => (StatusCode::GATEWAY_TIMEOUT, "NoAnswerInTime"),
                _ => (StatusCode::BAD_GATEWAY, "NoAnswer"),
            },
            (Failure::TooLate, _) => (StatusCode::REQUEST_TIMEOUT, "NotSentInTime"),
            (Failure::Send(_) | Failure::Body(_), _) => {
                (StatusCode::FAILED_DEPENDENCY, "NothingSent")
            }
        };
        let message = match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::FAILED_DEPENDENCY
                if !message.contains("nothing was sent") =>
            {
                format!("{message} Nothing was sent.")
            }
            _ => message,
        };
        Self::error(status, code, &message)
    }
}

impl From<Reply> for Response<Full<Bytes>> {
    fn from(reply: Reply) -> Self {
        let mut response = Self::new(Full::new(reply.body));
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        response
    }
}

/// With a capital, and a full stop.
fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|c| c.to_uppercase());
    let text: String = first.into_iter().flatten().chain(rest).collect();
    match text.ends_with('.') {
        true => text,
        false => text + ".",
    }
}

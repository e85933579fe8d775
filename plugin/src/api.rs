//! What one call asks of the service, and what the service's answer means. Pure.
//!
//! The manual is `wit/`; the API itself is documented by Microsoft under "Remove app restriction
//! API", "Get machineAction API" and "Common REST API error codes":
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/unrestrict-code-execution>,
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/get-machineaction-object>,
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/common-errors>.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::access::{Origin, is_bearer_token};
use crate::arguments::{ActionId, Comment, MachineId};
use crate::connection::{Access, Authorization, Operation, Refusal};
use crate::hints::{again_in, missing_roles, retry_after, window};
use crate::text::{MAX_QUOTE, after, head, legible, sentence};
use crate::types::{
    ActionType, Effect, Error, Failure as ServiceFailure, InvalidArgument, Limiter, MachineAction,
    RateLimit, Reason, ServiceError,
};
use crate::wire::{self, ErrorDocument};

/// The most bytes of an answer that are read.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// How much of an answer that is no error document a message quotes, in characters.
const MAX_EXCERPT: usize = 200;

const USER_AGENT: &str = concat!("defender-endpoint-plugin/", env!("CARGO_PKG_VERSION"));

const LOOK_FIRST: &str =
    "It may have taken effect: look at the machine's actions before you repeat it.";

/// One call, with its arguments checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `POST /api/machines/{machine}/unrestrictCodeExecution`.
    UnrestrictCodeExecution {
        /// The device to release.
        machine: MachineId,
        /// Why.
        comment: Comment,
    },
    /// `GET /api/machineactions/{action}`.
    GetMachineAction {
        /// The action to read.
        action: ActionId,
    },
}

/// The one request of a call. (It has no `Debug`: it can hold a token.)
pub struct Request {
    /// Where to.
    pub origin: Origin,
    /// The path, which needs no escaping. There is never a query.
    pub path: String,
    /// All headers that are set, with names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// What a `POST` sends; a request without is a `GET`.
    pub body: Option<Vec<u8>>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers, with names spelled as the host passes them.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body as far as it was read, at most [`MAX_ANSWER`] bytes.
    pub body: Vec<u8>,
    /// Whether that is all of it.
    pub extent: Extent,
}

/// How far a body was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// To its end.
    Complete,
    /// To the bound; there is more.
    TooLong,
    /// To where it broke off.
    Broken,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `transport`, or what the host's refusal comes to.
    pub reason: Reason,
    /// Whether something of the request can have reached the service.
    pub effect: Effect,
    /// What happened, to stand in a sentence.
    pub what: String,
}

/// The error of an argument that was refused.
pub fn refused_argument(refused: InvalidArgument) -> Error {
    let InvalidArgument { parameter, problem } = &refused;
    let message = format!("The argument {parameter} is not accepted: {problem}.");
    Error {
        effect: Effect::None,
        reason: Reason::InvalidArgument(refused),
        message,
        service: None,
    }
}

/// The error of a connection that the host did not grant.
pub fn refused(refusal: Refusal) -> Error {
    let (reason, message) = match refusal {
        Refusal::Denied(why) => (
            Reason::Denied,
            format!(
                "The host's policy does not allow this call: {}",
                sentence(&why)
            ),
        ),
        Refusal::RateLimited(seconds) => (
            Reason::RateLimited(RateLimit {
                by: Limiter::Host,
                retry_after_seconds: Some(seconds),
                window_seconds: None,
            }),
            format!(
                "The host keeps the API's quota and has no call left. Try again in {seconds} s."
            ),
        ),
        Refusal::Unavailable(why) => (
            Reason::Unavailable,
            format!("The host has no connection to offer: {}", sentence(&why)),
        ),
    };
    Error {
        effect: Effect::None,
        reason,
        message,
        service: None,
    }
}

impl Call {
    /// What the host is asked to grant.
    pub fn operation(&self) -> Operation {
        match self {
            Self::UnrestrictCodeExecution { .. } => Operation::UnrestrictCodeExecution,
            Self::GetMachineAction { .. } => Operation::GetMachineAction,
        }
    }

    /// What it acts on.
    pub fn target(&self) -> &str {
        match self {
            Self::UnrestrictCodeExecution { machine, .. } => machine.as_str(),
            Self::GetMachineAction { action } => action.as_str(),
        }
    }

    /// The call's request over the connection that the host granted.
    pub fn request(&self, access: &Access) -> Result<Request, Error> {
        let origin = access.base_url.parse().map_err(|_| {
            unusable("base URL that is not an origin (such as https://api.security.microsoft.com)")
        })?;
        let (path, body) = match self {
            Self::UnrestrictCodeExecution { machine, comment } => (
                format!("/api/machines/{}/unrestrictCodeExecution", machine.as_str()),
                Some(wire::comment_body(comment.as_str())),
            ),
            Self::GetMachineAction { action } => {
                (format!("/api/machineactions/{}", action.as_str()), None)
            }
        };

        // The answer is read as it comes, so a coding must not be offered.
        let mut headers = alloc::vec![
            ("accept", "application/json".to_string()),
            ("accept-encoding", "identity".to_string()),
            ("user-agent", USER_AGENT.to_string()),
        ];
        if let Some(body) = &body {
            headers.push(("content-type", "application/json".to_string()));
            // Without it hosts send the body in chunks.
            headers.push(("content-length", body.len().to_string()));
        }
        if let Authorization::Bearer(token) = &access.authorization {
            if !is_bearer_token(token) {
                return Err(unusable(
                    "token that is not a bearer token (RFC 6750, section 2.1)",
                ));
            }
            headers.push(("authorization", format!("Bearer {token}")));
        }
        Ok(Request {
            origin,
            path,
            headers,
            body,
        })
    }

    /// The error of a request that got no answer.
    pub fn unanswered(&self, failure: Failure) -> Error {
        let Failure {
            reason,
            effect,
            what,
        } = failure;
        let advice = match (&reason, effect) {
            (Reason::Denied | Reason::Unavailable, _) => "Ask whoever runs the host.",
            (_, Effect::None) => "Nothing reached the service: it is safe to try again.",
            (_, Effect::Unknown) => self.after_doubt("Reading is safe to try again."),
        };
        let message = format!("No answer: {what}. {advice}");
        self.error(effect, reason, message, None)
    }

    /// The result of an answer.
    pub fn interpret(&self, answer: &Answer) -> Result<MachineAction, Error> {
        if let 200..=299 = answer.status {
            return self.own_action(answer).map_err(|misfit| {
                let message = format!(
                    "The service answered {}, but {misfit}. {}",
                    answer.status,
                    self.after_doubt("Try again, or look at what stands between here and the API.")
                );
                let document = ErrorDocument::parse(&answer.body);
                let service = Some(service_error(answer.status, document));
                self.error(
                    Effect::Unknown,
                    Reason::UnexpectedResponse,
                    message,
                    service,
                )
            });
        }
        Err(self.failed(answer))
    }

    /// The action in an answer of success, if it is the one this call is about; else what is wrong
    /// with it.
    fn own_action(&self, answer: &Answer) -> Result<MachineAction, &'static str> {
        match answer.extent {
            Extent::Complete => {}
            Extent::TooLong => return Err("the answer is longer than 1 MiB"),
            Extent::Broken => return Err("the answer broke off"),
        }
        let action = wire::machine_action(&answer.body).ok_or("not with a machine action")?;
        match self {
            Self::UnrestrictCodeExecution { machine, .. } => {
                if let Some(id) = &action.machine_id
                    && !id.eq_ignore_ascii_case(machine.as_str())
                {
                    return Err("with an action for another machine");
                }
                match action.type_ {
                    // A name that is not known yet may be a new one for the same thing.
                    ActionType::UnrestrictCodeExecution | ActionType::Other(_) => Ok(action),
                    _ => Err("with an action of another type"),
                }
            }
            Self::GetMachineAction { action: wanted } => {
                if action.id.eq_ignore_ascii_case(wanted.as_str()) {
                    Ok(action)
                } else {
                    Err("with another action")
                }
            }
        }
    }

    /// What an answer means that is none of success: the table in `wit/types.wit`, row by row.
    fn failed(&self, answer: &Answer) -> Error {
        let document = ErrorDocument::parse(&answer.body);
        let said = quote(answer, &document);
        let text = head(document.message.as_deref().unwrap_or_default());
        let releases = matches!(self, Self::UnrestrictCodeExecution { .. });
        let retry_after_seconds = retry_after(&answer.headers);

        let (reason, effect, message) = match answer.status {
            300..=399 => (
                Reason::UnexpectedResponse,
                Effect::None,
                format!(
                    "The service answered with a redirect, which is never followed {said} The \
                     host's base URL is probably not the API's."
                ),
            ),
            400 if releases && is_in_progress(&document, text) => (
                Reason::AlreadyInProgress,
                Effect::None,
                format!(
                    "A release of this machine is under way already {said} Find it among the \
                     machine's actions and follow it."
                ),
            ),
            401 => (
                Reason::Unauthorized,
                Effect::None,
                format!(
                    "The service does not accept the token {said} Try once with a new token; after \
                     that, look at the tenant's licence."
                ),
            ),
            403 => {
                let roles = missing_roles(text);
                let advice = if roles.required_roles.is_empty() {
                    "Look at the application's roles, and at whether the token is meant for this \
                     API."
                } else {
                    "Have one of the required roles granted, with consent, and use a new token."
                };
                (
                    Reason::Forbidden(roles),
                    Effect::None,
                    format!("The service accepts the token, but forbids this call {said} {advice}"),
                )
            }
            404 => {
                let (what, advice) = if releases {
                    (
                        "machine",
                        "Look at the id, and at whether the token may see this machine.",
                    )
                } else {
                    (
                        "action",
                        "If it was created a moment ago, look again in some seconds.",
                    )
                };
                (
                    Reason::NotFound,
                    Effect::None,
                    format!("The service finds no such {what} {said} {advice}"),
                )
            }
            429 => {
                let limit = RateLimit {
                    by: Limiter::Service,
                    retry_after_seconds: retry_after_seconds.or_else(|| again_in(text)),
                    window_seconds: window(text),
                };
                let advice = match limit.retry_after_seconds {
                    Some(seconds) => format!("Try again in {seconds} s."),
                    None => "Wait for a whole window before you try again.".to_string(),
                };
                (
                    Reason::RateLimited(limit),
                    Effect::None,
                    format!("The API's quota is used up {said} {advice}"),
                )
            }
            400..=499 => (
                Reason::Rejected,
                Effect::None,
                format!("The service does not accept the request {said}"),
            ),
            500..=599 => (
                Reason::ServiceFailure(ServiceFailure {
                    retry_after_seconds,
                }),
                Effect::Unknown,
                format!(
                    "The service failed {said} {}",
                    self.after_doubt("Try again later.")
                ),
            ),
            _ => (
                Reason::UnexpectedResponse,
                Effect::Unknown,
                format!(
                    "The service answered with a status that HTTP does not have here {said} {}",
                    self.after_doubt("Look at what stands between here and the API.")
                ),
            ),
        };
        let service = Some(service_error(answer.status, document));
        self.error(effect, reason, message, service)
    }

    /// The one place where errors get their effect: what only reads has none.
    fn error(
        &self,
        effect: Effect,
        reason: Reason,
        message: String,
        service: Option<ServiceError>,
    ) -> Error {
        let effect = match self {
            Self::UnrestrictCodeExecution { .. } => effect,
            Self::GetMachineAction { .. } => Effect::None,
        };
        Error {
            effect,
            reason,
            message,
            service,
        }
    }

    /// What to do when the service may have acted: it cannot have, where the call only reads.
    fn after_doubt(&self, if_reading: &'static str) -> &'static str {
        match self {
            Self::UnrestrictCodeExecution { .. } => LOOK_FIRST,
            Self::GetMachineAction { .. } => if_reading,
        }
    }
}

fn unusable(what: &str) -> Error {
    Error {
        effect: Effect::None,
        reason: Reason::Unavailable,
        message: format!("The host offered a {what}. Nothing was sent: ask whoever runs the host."),
        service: None,
    }
}

fn service_error(status: u16, document: ErrorDocument) -> ServiceError {
    let ErrorDocument {
        code,
        message,
        target,
    } = document;
    ServiceError {
        status,
        code,
        message,
        correlation_id: target,
    }
}

/// A duplicate is told by its code or, as older reports have it, by the message alone.
fn is_in_progress(document: &ErrorDocument, text: &str) -> bool {
    document.code.as_deref() == Some("ActiveRequestAlreadyExists")
        || after(text, "already in progress").is_some()
}

/// What the service said, as the end of a sentence: `(404 ResourceNotFound): Machine 123 was not
/// found.`
fn quote(answer: &Answer, document: &ErrorDocument) -> String {
    let mut quote = format!("({}", answer.status);
    let status = answer.status.to_string();
    // Of a 429 the code is often "429".
    if let Some(code) = document.code.as_ref().filter(|code| **code != status) {
        quote.push(' ');
        quote.push_str(&legible(code, MAX_EXCERPT));
    }
    quote.push(')');
    let text = match &document.message {
        Some(message) => legible(message, MAX_QUOTE),
        None if document.code.is_some() => String::new(),
        None => {
            let start = answer.body.get(..4 * MAX_EXCERPT).unwrap_or(&answer.body);
            legible(&String::from_utf8_lossy(start), MAX_EXCERPT)
        }
    };
    if text.is_empty() {
        quote.push('.');
    } else {
        quote.push_str(": ");
        quote.push_str(&sentence(&text));
    }
    quote
}

#[cfg(test)]
mod tests;

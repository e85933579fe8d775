//! What one call asks of the service, and what the service's answer means. Pure.
//!
//! The manual is `wit/`; the API itself is documented by Microsoft under "Remove app restriction
//! API", "Restrict app execution API", "Get machineAction API", "List MachineActions API", "Cancel
//! machine action API", "List machines API" and "Common REST API error codes":
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/unrestrict-code-execution>,
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/restrict-code-execution>,
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/get-machineaction-object>,
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/get-machineactions-collection>,
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/cancel-machine-action>,
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/get-machines>,
//! <https://learn.microsoft.com/en-us/defender-endpoint/api/common-errors>.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::access::{Origin, is_bearer_token};
use crate::arguments::{ActionId, Comment, MachineId};
use crate::connection::{Access, Authorization, Operation, Refusal};
use crate::hints::{again_in, missing_roles, retry_after, window};
use crate::query::{ActionQuery, MachineQuery};
use crate::text::{MAX_QUOTE, after, head, legible, sentence};
use crate::types::{
    ActionType, Effect, Error, Failure as ServiceFailure, InvalidArgument, Limiter, MachineAction,
    RateLimit, Reason, ServiceError,
};
use crate::wire::{self, ErrorDocument};

/// The most bytes of an answer that are read, if it is not to a list.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// The most bytes of an answer with a list that are read.
pub const MAX_LIST: usize = 16 * 1024 * 1024;

/// How much of an answer that is no error document a message quotes, in characters.
const MAX_EXCERPT: usize = 200;

/// How much of an encoding's name a message quotes, in characters.
const MAX_ENCODING: usize = 40;

const USER_AGENT: &str = concat!("defender-endpoint-plugin/", env!("CARGO_PKG_VERSION"));

const LOOK_FIRST: &str =
    "It may have taken effect: look at the machine's actions before you repeat it.";

const READ_FIRST: &str = "It may have taken effect: read the action before you repeat it.";

/// One call, with its arguments checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call<'a> {
    /// `POST /api/machines/{machine}/unrestrictCodeExecution`.
    UnrestrictCodeExecution {
        /// The device to release.
        machine: MachineId,
        /// Why.
        comment: Comment,
    },
    /// `POST /api/machines/{machine}/restrictCodeExecution`.
    RestrictCodeExecution {
        /// The device to restrict.
        machine: MachineId,
        /// Why.
        comment: Comment,
    },
    /// `GET /api/machineactions/{action}`.
    GetMachineAction {
        /// The action to read.
        action: ActionId,
    },
    /// `GET /api/machineactions?{query}`.
    ListMachineActions(&'a ActionQuery),
    /// `POST /api/machineactions/{action}/cancel`.
    CancelMachineAction {
        /// The action to take back.
        action: ActionId,
        /// Why.
        comment: Comment,
    },
    /// `GET /api/machines?{query}`.
    FindMachines(&'a MachineQuery),
}

/// The one request of a call. (It has no `Debug`: it can hold a token.)
pub struct Request {
    /// Where to.
    pub origin: Origin,
    /// The path and, for a list, the query, escaped.
    pub path: String,
    /// All headers that are set, with names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// What a `POST` sends; a request without is a `GET`.
    pub body: Option<Vec<u8>>,
    /// The most bytes of the answer that are to be read.
    pub max_answer: usize,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers, with names spelled as the host passes them.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body as far as it was read, at most the request's `max_answer` bytes.
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

impl Call<'_> {
    /// What the host is asked to grant.
    pub fn operation(&self) -> Operation {
        match self {
            Self::UnrestrictCodeExecution { .. } => Operation::UnrestrictCodeExecution,
            Self::RestrictCodeExecution { .. } => Operation::RestrictCodeExecution,
            Self::GetMachineAction { .. } => Operation::GetMachineAction,
            Self::ListMachineActions(_) => Operation::ListMachineActions,
            Self::CancelMachineAction { .. } => Operation::CancelMachineAction,
            Self::FindMachines(_) => Operation::FindMachines,
        }
    }

    /// What it acts on, if it is one thing.
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::UnrestrictCodeExecution { machine, .. }
            | Self::RestrictCodeExecution { machine, .. } => Some(machine.as_str()),
            Self::GetMachineAction { action } | Self::CancelMachineAction { action, .. } => {
                Some(action.as_str())
            }
            Self::ListMachineActions(query) => query.machine(),
            Self::FindMachines(query) => Some(query.name()),
        }
    }

    /// Whether it only looks.
    const fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::GetMachineAction { .. } | Self::ListMachineActions(_) | Self::FindMachines(_)
        )
    }

    /// The call's request over the connection that the host granted.
    pub fn request(&self, access: &Access) -> Result<Request, Error> {
        let origin = access.base_url.parse().map_err(|_| {
            unusable("base URL that is not an origin (such as https://api.security.microsoft.com)")
        })?;
        let (path, comment) = match self {
            Self::UnrestrictCodeExecution { machine, comment } => (
                format!("/api/machines/{}/unrestrictCodeExecution", machine.as_str()),
                Some(comment),
            ),
            Self::RestrictCodeExecution { machine, comment } => (
                format!("/api/machines/{}/restrictCodeExecution", machine.as_str()),
                Some(comment),
            ),
            Self::GetMachineAction { action } => {
                (format!("/api/machineactions/{}", action.as_str()), None)
            }
            Self::ListMachineActions(query) => {
                (format!("/api/machineactions?{}", query.text()), None)
            }
            Self::CancelMachineAction { action, comment } => (
                format!("/api/machineactions/{}/cancel", action.as_str()),
                Some(comment),
            ),
            Self::FindMachines(query) => (format!("/api/machines?{}", query.text()), None),
        };
        let body = comment.map(|comment| wire::comment_body(comment.as_str()));

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
            max_answer: self.max_answer(),
        })
    }

    const fn max_answer(&self) -> usize {
        match self {
            Self::ListMachineActions(_) | Self::FindMachines(_) => MAX_LIST,
            _ => MAX_ANSWER,
        }
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

    /// The result of an answer to a call that is about one action.
    pub fn interpret(&self, answer: &Answer) -> Result<MachineAction, Error> {
        self.interpret_as(answer, |body| self.own_action(body))
    }

    /// The result of an answer, with what makes a success of a body, or says what is wrong with it.
    pub fn interpret_as<T>(
        &self,
        answer: &Answer,
        read: impl FnOnce(&[u8]) -> Result<T, &'static str>,
    ) -> Result<T, Error> {
        self.whole(answer)
            .and_then(|body| read(body).map_err(|misfit| self.misfit(answer, misfit)))
    }

    /// The body of an answer that can be one of success.
    fn whole<'a>(&self, answer: &'a Answer) -> Result<&'a [u8], Error> {
        if !(200..=299).contains(&answer.status) {
            return Err(self.failed(answer));
        }
        let misfit = match answer.extent {
            Extent::Complete => return Ok(&answer.body),
            Extent::TooLong if self.max_answer() > MAX_ANSWER => {
                "the answer is longer than 16 MiB: ask for less at once"
            }
            Extent::TooLong => "the answer is longer than 1 MiB",
            Extent::Broken => "the answer broke off",
        };
        Err(self.misfit(answer, misfit))
    }

    /// The error of an answer of success that is none.
    fn misfit(&self, answer: &Answer, what: &str) -> Error {
        let what = match unrequested_encoding(&answer.headers) {
            Some(name) => {
                format!("the response is compressed ({name}), which was not requested")
            }
            None => what.to_string(),
        };
        let message = format!(
            "The service answered {}, but {what}. {}",
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
    }

    /// The action in an answer of success, if it is the one this call is about; else what is wrong
    /// with it.
    fn own_action(&self, body: &[u8]) -> Result<MachineAction, &'static str> {
        let action = wire::machine_action(body).ok_or("not with a machine action")?;
        let (machine, expected) = match self {
            Self::UnrestrictCodeExecution { machine, .. } => {
                (machine, ActionType::UnrestrictCodeExecution)
            }
            Self::RestrictCodeExecution { machine, .. } => {
                (machine, ActionType::RestrictCodeExecution)
            }
            Self::GetMachineAction { action: wanted }
            | Self::CancelMachineAction { action: wanted, .. } => {
                return if action.id.eq_ignore_ascii_case(wanted.as_str()) {
                    Ok(action)
                } else {
                    Err("with another action")
                };
            }
            Self::ListMachineActions(_) | Self::FindMachines(_) => {
                return Err("with one action, where a list was asked for");
            }
        };
        if let Some(id) = &action.machine_id
            && !id.eq_ignore_ascii_case(machine.as_str())
        {
            return Err("with an action for another machine");
        }
        // A name that is not known yet may be a new one for the same thing.
        if action.type_ == expected || matches!(action.type_, ActionType::Other(_)) {
            Ok(action)
        } else {
            Err("with an action of another type")
        }
    }

    /// What an answer means that is none of success: the table in `wit/types.wit`, row by row.
    fn failed(&self, answer: &Answer) -> Error {
        let document = ErrorDocument::parse(&answer.body);
        let said = quote(answer, &document);
        let text = head(document.message.as_deref().unwrap_or_default());
        let begins = matches!(
            self,
            Self::UnrestrictCodeExecution { .. } | Self::RestrictCodeExecution { .. }
        );
        let retry_after_seconds = retry_after(&answer.headers);

        let wait;
        let (reason, effect, what, advice) = match answer.status {
            300..=399 => (
                Reason::UnexpectedResponse,
                Effect::None,
                "The service answered with a redirect, which is never followed",
                "The host's base URL is probably not the API's.",
            ),
            400 if begins && is_in_progress(&document, text) => (
                Reason::AlreadyInProgress,
                Effect::None,
                "This is under way for the machine already",
                "Find it among the machine's actions and follow it.",
            ),
            401 => (
                Reason::Unauthorized,
                Effect::None,
                "The service does not accept the token",
                "Try once with a new token; after that, look at the tenant's licence.",
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
                    "The service accepts the token, but forbids this call",
                    advice,
                )
            }
            404 => {
                let (what, advice) = self.not_found();
                (Reason::NotFound, Effect::None, what, advice)
            }
            429 => {
                let limit = RateLimit {
                    by: Limiter::Service,
                    // A header of no use (0, say) does not hide what the message says.
                    retry_after_seconds: retry_after_seconds.max(again_in(text)),
                    window_seconds: window(text),
                };
                wait = match limit.retry_after_seconds {
                    Some(seconds) => format!("Try again in {seconds} s."),
                    None => "Wait for a whole window before you try again.".to_string(),
                };
                (
                    Reason::RateLimited(limit),
                    Effect::None,
                    "The API's quota is used up",
                    wait.as_str(),
                )
            }
            400..=499 => (
                Reason::Rejected,
                Effect::None,
                "The service does not accept the request",
                "",
            ),
            500..=599 => (
                Reason::ServiceFailure(ServiceFailure {
                    retry_after_seconds,
                }),
                Effect::Unknown,
                "The service failed",
                self.after_doubt("Try again later."),
            ),
            _ => (
                Reason::UnexpectedResponse,
                Effect::Unknown,
                "The service answered with a status that HTTP does not have here",
                self.after_doubt("Look at what stands between here and the API."),
            ),
        };
        let message = format!("{what} {said} {advice}").trim_end().to_string();
        let service = Some(service_error(answer.status, document));
        self.error(effect, reason, message, service)
    }

    /// What is not there, and what to do about it.
    fn not_found(&self) -> (&'static str, &'static str) {
        match self {
            Self::GetMachineAction { .. } | Self::CancelMachineAction { .. } => (
                "The service finds no such action",
                "If it was created a moment ago, look again in some seconds.",
            ),
            Self::ListMachineActions(_) => (
                "The service finds nothing at this address",
                "The host's base URL is probably not the API's.",
            ),
            Self::FindMachines(_) => (
                "The service finds no machine",
                "Look at the name, and at whether the token may see this machine.",
            ),
            Self::UnrestrictCodeExecution { .. } | Self::RestrictCodeExecution { .. } => (
                "The service finds no such machine",
                "Look at the id, and at whether the token may see this machine.",
            ),
        }
    }

    /// The one place where errors get their effect: what only reads has none.
    fn error(
        &self,
        effect: Effect,
        reason: Reason,
        message: String,
        service: Option<ServiceError>,
    ) -> Error {
        let effect = if self.only_reads() {
            Effect::None
        } else {
            effect
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
            Self::CancelMachineAction { .. } => READ_FIRST,
            _ if self.only_reads() => if_reading,
            _ => LOOK_FIRST,
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

/// The encoding of a body that was asked for as it is. A host may decode it; this one did not.
fn unrequested_encoding(headers: &[(String, Vec<u8>)]) -> Option<String> {
    let value = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-encoding"))
        .map(|(_, value)| String::from_utf8_lossy(value))?;
    let name = legible(value.trim(), MAX_ENCODING);
    (!name.is_empty() && !name.eq_ignore_ascii_case("identity")).then_some(name)
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

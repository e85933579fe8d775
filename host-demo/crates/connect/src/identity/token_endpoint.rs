//! Asking for a token over HTTP: one request, one answer, and what went wrong.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::http::headers::Headers;
use azure_core::http::{
    AsyncRawResponse, Body, ClientOptions, HttpClient, Request, RetryOptions,
    Transport as AzureTransport,
};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::IdentityError;
use super::error::{Refusal, is_transient_status, library_message};
use super::redact::Secrets;
use crate::content_encoding::decoded;
use crate::transport::{Transport, TransportError, TransportErrorKind};
use defender_core::clock::Clock;
use defender_core::origin::Origin;
use defender_core::retry::retry_after;

/// How long an authority may take for an answer, unless less is asked for.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// How long a machine's own endpoint may take to be reached: where there is none, the packets to it
/// are often dropped. (Azure's SDKs allow it a second, too.)
const MACHINE_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// More than any answer of a token endpoint.
const ANSWER_MAX: usize = 256 * 1024;

/// Longer than any token holds: one with continuous access evaluation has 28 hours at most
/// (Microsoft, "Continuous access evaluation").
const LIFETIME_MAX: u64 = 2 * 24 * 60 * 60;

/// Whom to ask.
#[derive(Clone, Debug)]
pub(super) enum Whom {
    /// An authority. Nothing is sent to another origin.
    Authority(Origin),
    /// The machine's own endpoint, over plain HTTP: on it, or at a link-local address. Where an
    /// origin is given, it takes the place of the metadata service's address.
    Machine(Option<Origin>),
}

/// The transport that the identity libraries use, for one fetch. It reads the authority's error
/// document, which the library loses as soon as it holds an escaped character (and Entra's always
/// does: `\r\n` before the trace id).
pub(super) struct Endpoint {
    transport: Transport,
    whom: Whom,
    /// For dates in answers.
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// What is known of the last request.
#[derive(Debug, Default)]
struct State {
    secrets: Secrets,
    /// Without the secrets.
    failure: Option<Failure>,
}

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// An error document.
    Refused(Refusal, Told),
    /// An error without a document.
    Failed(Told),
    NoAnswer(TransportError),
    NotAnAnswer(String),
}

/// What the head of an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// The same, without the secrets that the request had: they may be repeated in it.
    fn without(self, secrets: &Secrets) -> Self {
        match self {
            Self::Refused(refusal, told) => Self::Refused(refusal.without(secrets), told),
            Self::Failed(told) => Self::Failed(told),
            Self::NotAnAnswer(detail) => Self::NotAnAnswer(secrets.masked(&detail)),
            Self::NoAnswer(error) => Self::NoAnswer(TransportError {
                detail: secrets.masked(&error.detail),
                ..error
            }),
        }
    }

    /// Returns whether the authority answered that it can't answer now.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Refused(refusal, told) => {
                refusal.is_transient() || is_transient_status(told.status)
            }
            Self::Failed(told) => is_transient_status(told.status),
            Self::NoAnswer(_) | Self::NotAnAnswer(_) => false,
        }
    }

    /// The error that says to ask again later.
    pub(super) fn into_busy(self, authority: &str) -> IdentityError {
        let (error, told) = match self {
            Self::Refused(refusal, told) => {
                let retry_after = told.retry_after.max(refusal.least_wait());
                (
                    refusal.text(),
                    Told {
                        retry_after,
                        ..told
                    },
                )
            }
            Self::Failed(told) => (told.text(), told),
            other @ (Self::NoAnswer(_) | Self::NotAnAnswer(_)) => {
                return other.into_error(authority);
            }
        };
        IdentityError::Busy {
            authority: authority.to_owned(),
            error,
            status: Some(told.status.as_u16()),
            retry_after: told.retry_after,
        }
    }

    pub(super) fn into_error(self, authority: &str) -> IdentityError {
        if self.is_transient() {
            return self.into_busy(authority);
        }
        match self {
            Self::Refused(refusal, _) => refusal.into_error(authority),
            Self::Failed(told) => IdentityError::NotAnAnswer {
                authority: authority.to_owned(),
                detail: told.text(),
            },
            Self::NoAnswer(error) => IdentityError::NoAnswer(error),
            Self::NotAnAnswer(detail) => IdentityError::NotAnAnswer {
                authority: authority.to_owned(),
                detail,
            },
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("whom", &self.whom)
            .finish_non_exhaustive()
    }
}

impl Told {
    fn text(self) -> String {
        format!("it answered {}, without an error document", self.status)
    }
}

/// The request had no answer that can be used; what happened is noted.
#[derive(Debug, thiserror::Error)]
#[error("the authority gave no usable answer")]
pub(super) struct Noted;

type Answer = Result<oauth2::HttpResponse, Noted>;

impl Endpoint {
    pub(super) fn new(transport: &Transport, whom: Whom, clock: &Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            transport: transport.clone(),
            whom,
            clock: Arc::clone(clock),
            state: Mutex::default(),
        })
    }

    /// What went wrong last; otherwise what the library says of it.
    pub(super) fn failure(&self, library: &dyn std::error::Error) -> Failure {
        let mut state = self.state();
        let noted = state.failure.take();
        noted.unwrap_or_else(|| {
            Failure::NotAnAnswer(library_message(library)).without(&state.secrets)
        })
    }

    /// Returns whether the last answer said to ask again later.
    fn is_busy(&self) -> bool {
        let state = self.state();
        state.failure.as_ref().is_some_and(Failure::is_transient)
    }

    /// The library's options: over this, without repeating, and at this authority.
    pub(super) fn options(self: &Arc<Self>) -> ClientOptions {
        let cloud = match &self.whom {
            Whom::Authority(origin) => {
                let mut cloud = CustomConfiguration::default();
                cloud.authority_host = origin.to_string();
                Some(Arc::new(CloudConfiguration::from(cloud)))
            }
            Whom::Machine(_) => None,
        };
        ClientOptions {
            transport: Some(AzureTransport::new(Arc::clone(self) as Arc<dyn HttpClient>)),
            // By default a 503 is repeated nine times, over 83 seconds.
            retry: RetryOptions::none(),
            cloud,
            ..ClientOptions::default()
        }
    }

    fn note(&self, failure: Failure) {
        let mut state = self.state();
        state.failure = Some(failure.without(&state.secrets));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the request really goes.
    fn destination(&self, url: &str) -> Result<Uri, Failure> {
        let not_ours = || {
            Failure::NotAnAnswer(
                "the request for a token would have gone somewhere else; it was not sent"
                    .to_owned(),
            )
        };
        let uri: Uri = url.parse().map_err(|_| not_ours())?;
        let origin = Origin::of(&uri).ok_or_else(not_ours)?;
        match &self.whom {
            Whom::Authority(authority) if origin == *authority => Ok(uri),
            Whom::Authority(_) => Err(not_ours()),
            Whom::Machine(Some(instead)) if origin.host() == METADATA_HOST => {
                let path = uri.path_and_query().map_or("/", |path| path.as_str());
                format!("{instead}{path}").parse().map_err(|_| not_ours())
            }
            Whom::Machine(_) if is_the_machines(&origin) => Ok(uri),
            Whom::Machine(_) => Err(not_ours()),
        }
    }

    /// One request and its answer. What is not a success is noted.
    async fn ask(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        *self.state() = State {
            secrets: Secrets::of(&headers, &body),
            failure: None,
        };
        let uri = self.destination(url)?;
        let origin = uri.authority().map(ToString::to_string).unwrap_or_default();
        let url: reqwest::Url = uri
            .to_string()
            .parse()
            .map_err(|_| Failure::NotAnAnswer("the request for a token has no URL".to_owned()))?;
        match self.whom {
            Whom::Authority(_) => self.transport.allows(&url).map_err(Failure::NoAnswer)?,
            // Its address is one that no service may have.
            Whom::Machine(_) => reachable(&uri, &origin).await?,
        }
        let answer = self
            .transport
            .client()
            .request(method, url)
            .timeout(self.transport.timeout().unwrap_or(TIMEOUT))
            .headers(headers)
            .body(body)
            .send()
            .await
            .map_err(|e| Failure::NoAnswer(self.transport.describe(&e, &origin)))?;
        let (head, body) = http::Response::from(answer).into_parts();
        let body = Limited::new(body, ANSWER_MAX)
            .collect()
            .await
            .map_err(|e| match e.downcast::<reqwest::Error>() {
                Ok(e) => Failure::NoAnswer(self.transport.describe(&e, &origin)),
                Err(e) => Failure::NotAnAnswer(format!("its answer could not be read: {e}")),
            })?
            .to_bytes();
        let body = decoded(&head.headers, body, ANSWER_MAX)
            .map_err(|e| Failure::NotAnAnswer(e.to_string()))?;
        if !head.status.is_success() {
            let told = Told {
                status: head.status,
                retry_after: retry_after(&head.headers, self.clock.wall())
                    .map(|seconds| Duration::from_secs(seconds.into())),
            };
            self.note(match serde_json::from_slice(&body) {
                Ok(refusal) => Failure::Refused(refusal, told),
                Err(_) => Failure::Failed(told),
            });
        } else {
            check_expires_in(&body)?;
        }
        Ok((head.status, body))
    }

    /// For the library `oauth2`.
    pub(super) fn client(
        self: &Arc<Self>,
    ) -> impl Fn(oauth2::HttpRequest) -> Pin<Box<dyn Future<Output = Answer> + Send>> + use<> {
        let endpoint = Arc::clone(self);
        move |request| {
            let endpoint = Arc::clone(&endpoint);
            Box::pin(async move { endpoint.call(request).await })
        }
    }

    async fn call(&self, request: oauth2::HttpRequest) -> Answer {
        let (head, body) = request.into_parts();
        let url = head.uri.to_string();
        match self.ask(head.method, &url, head.headers, body.into()).await {
            // The library goes on polling where no answer came, and ends a sign-in that a person has
            // begun at any error but those of RFC 8628.
            Ok(_) if self.is_busy() => Err(Noted),
            Ok((status, body)) => {
                let mut response = http::Response::new(body.to_vec());
                *response.status_mut() = status;
                Ok(response)
            }
            Err(failure) => {
                self.note(failure);
                Err(Noted)
            }
        }
    }
}

/// Refuses a lifetime that no token has. `azure_identity` 1.0 adds whatever it is to the calendar,
/// and panics beyond the calendar's end.
fn check_expires_in(body: &[u8]) -> Result<(), Failure> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    // Numbers are texts at a machine's endpoint, and at Entra's older one.
    let seconds = match &answer["expires_in"] {
        Value::Null => return Ok(()),
        Value::String(text) => text.parse().ok(),
        number => number.as_u64(),
    };
    if seconds.is_some_and(|seconds| seconds <= LIFETIME_MAX) {
        return Ok(());
    }
    Err(Failure::NotAnAnswer(
        "its answer has an expires_in that no token has; find out what stands between here and it"
            .to_owned(),
    ))
}

const METADATA_HOST: &str = "169.254.169.254";

/// Managed identity is asked on the machine itself (App Service, containers) or at a link-local
/// address. Nothing else may name itself an endpoint of this machine.
fn is_the_machines(origin: &Origin) -> bool {
    let link_local = match origin.host().parse() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        _ => false,
    };
    link_local || origin.is_loopback()
}

async fn reachable(uri: &Uri, origin: &str) -> Result<(), Failure> {
    let (Some(host), port) = (uri.host(), uri.port_u16().unwrap_or(80)) else {
        return Ok(());
    };
    let connecting = tokio::net::TcpStream::connect((host.trim_matches(['[', ']']), port));
    let (kind, why) = match tokio::time::timeout(MACHINE_CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => (TransportErrorKind::Refused, error.to_string()),
        Err(_) => (
            TransportErrorKind::ConnectTimeout,
            format!("not within {} s", MACHINE_CONNECT_TIMEOUT.as_secs()),
        ),
    };
    Err(Failure::NoAnswer(TransportError {
        kind,
        detail: format!("no connection to {origin}: {why}"),
    }))
}

#[async_trait]
impl HttpClient for Endpoint {
    /// Whatever goes wrong is noted, and answered with a 400. The library repeats what fails
    /// otherwise: for managed identity seven times within 72 seconds, whatever its options say.
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers().iter() {
            let name = name.as_str().parse::<http::HeaderName>();
            let value = value.as_str().parse::<http::HeaderValue>();
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.insert(name, value);
            }
        }
        let method = match request.method() {
            azure_core::http::Method::Get => Method::GET,
            _ => Method::POST,
        };
        let Body::Bytes(body) = request.body().clone() else {
            self.note(Failure::NotAnAnswer(
                "the request has a body that can't be sent".to_owned(),
            ));
            return Ok(refused());
        };
        match self
            .ask(method, request.url().as_str(), headers, body)
            .await
        {
            Ok((status, body)) if status.is_success() => Ok(AsyncRawResponse::from_bytes(
                status.as_u16().into(),
                Headers::default(),
                body,
            )),
            Ok(_) => Ok(refused()),
            Err(failure) => {
                self.note(failure);
                Ok(refused())
            }
        }
    }
}

fn refused() -> AsyncRawResponse {
    let status = azure_core::http::StatusCode::BadRequest;
    AsyncRawResponse::from_bytes(status, Headers::default(), Bytes::from_static(b"{}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_a_token_goes_to_its_authority_or_nowhere() {
        let transport = Transport::to_machine().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(defender_core::clock::ManualClock::new());
        let authority = "https://login.microsoftonline.com".parse().unwrap();
        let authority = Endpoint::new(&transport, Whom::Authority(authority), &clock);
        let machine = Endpoint::new(&transport, Whom::Machine(None), &clock);
        for (endpoint, url, goes) in [
            (
                &authority,
                "https://login.microsoftonline.com/t/oauth2",
                true,
            ),
            (
                &authority,
                "https://login.microsoftonline.us/t/oauth2",
                false,
            ),
            (&authority, "http://login.microsoftonline.com/t", false),
            (
                &authority,
                "https://login.microsoftonline.com@evil.test/",
                false,
            ),
            (&machine, "http://169.254.169.254/metadata", true),
            (&machine, "http://169.254.130.3:8081/msi/token", true),
            (&machine, "http://localhost:42356/msi/token", true),
            (&machine, "http://127.0.0.1:41741/msi/token", true),
            (&machine, "http://10.0.0.1/metadata", false),
            (&machine, "http://169.254.169.254.evil.test/", false),
            (&machine, "https://login.microsoftonline.com/", false),
        ] {
            assert_eq!(endpoint.destination(url).is_ok(), goes, "{url}");
        }
    }
}

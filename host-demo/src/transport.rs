//! Sending one request, once.
//!
//! Nothing here repeats, follows or decides: no redirects, no retries, no proxy from the
//! environment.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::header::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::clock::{Clock, Moment};
use crate::policy::Origin;

/// How long a connection may take to come about, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection is kept. Shorter than the idle time-outs of common load balancers,
/// so that a request is seldom sent into a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A transport that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The given certificate authorities could not be read.
    #[error("the CA file holds no usable certificate (PEM is expected): {0}")]
    Ca(String),
    /// The operating system's certificate authorities could not be read.
    #[error(
        "the operating system's certificate authorities could not be loaded: {0}; \
         install its package of CA certificates, or name a CA file"
    )]
    System(String),
    /// The policy names another origin than the service's, whose tokens would go there.
    #[error("the policy is for {policy}, and the service is at {service}")]
    OtherOrigin {
        /// The policy's.
        policy: Origin,
        /// The service's.
        service: Origin,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be set up: {0}")]
    Client(String),
}

/// A pooled connection to one set of trust roots.
#[derive(Clone, Debug)]
pub struct Transport {
    client: reqwest::Client,
}

/// Why no answer came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct TransportError {
    /// What kind of failure it is.
    pub kind: TransportErrorKind,
    /// One sentence for people, that names the origin.
    pub detail: String,
}

/// The kinds of failure that a caller can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportErrorKind {
    /// The name has no address.
    Dns,
    /// Nothing listens there, or the way is barred.
    Refused,
    /// No connection came about in time.
    ConnectTimeout,
    /// The other side's certificate is not trusted.
    Certificate,
    /// The TLS handshake failed for another reason.
    Tls,
    /// The request was not one that could be sent.
    NotARequest,
    /// The deadline had passed when the request was about to be written.
    TooLate,
    /// The connection failed with the request on it.
    Broken,
}

impl TransportErrorKind {
    /// Whether the request can have reached the service.
    pub const fn may_have_arrived(self) -> bool {
        match self {
            Self::Dns
            | Self::Refused
            | Self::ConnectTimeout
            | Self::Certificate
            | Self::Tls
            | Self::NotARequest => false,
            // The head may be out although the body, without which it is no request, was held back.
            Self::TooLate | Self::Broken => true,
        }
    }
}

impl Transport {
    /// A transport that trusts the certificate authorities in `ca` (PEM), or without it the
    /// operating system's.
    pub fn new(ca: Option<&[u8]>) -> Result<Self, SetupError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(ca)?)
            .redirect(reqwest::redirect::Policy::none())
            // By default a request goes out again after a refused stream or a GOAWAY: up to three
            // arrivals for one permit.
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|e| SetupError::Client(root_cause(&e)))?;
        Ok(Self { client })
    }

    /// Sends the request and waits for the answer's head.
    ///
    /// `body` is handed to the connection only while `clock` is before `deadline`: a process that
    /// was suspended between its decision and the write does not complete a request that is
    /// overdue. The caller bounds how long this future runs.
    pub(crate) async fn send(
        &self,
        head: http::request::Parts,
        body: Bytes,
        clock: Arc<dyn Clock>,
        deadline: Moment,
    ) -> Result<http::Response<reqwest::Body>, TransportError> {
        if clock.now() >= deadline {
            return Err(TransportError {
                kind: TransportErrorKind::TooLate,
                detail: "the call's deadline has passed".to_owned(),
            });
        }
        let origin = head
            .uri
            .authority()
            .map_or_else(String::new, ToString::to_string);
        let body = if body.is_empty() {
            reqwest::Body::default()
        } else {
            reqwest::Body::wrap(TimelyBody {
                left: Some(body),
                clock,
                deadline,
            })
        };
        let request = reqwest::Request::try_from(http::Request::from_parts(head, body))
            .map_err(|e| describe(&e, &origin))?;
        let response = self
            .client
            .execute(request)
            .await
            .map_err(|e| describe(&e, &origin))?;
        Ok(response.into())
    }

    /// The client, for the requests of the identity library.
    pub(crate) const fn client(&self) -> &reqwest::Client {
        &self.client
    }
}

/// TLS 1.2 or 1.3, with the platform's verifier or with the given roots alone.
fn tls(ca: Option<&[u8]>) -> Result<rustls::ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| SetupError::Client(e.to_string()))?;
    let mut config = match ca {
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|e| SetupError::Ca(e.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|e| SetupError::Ca(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(SetupError::Ca("no certificate in it".to_owned()));
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(provider)
                .map_err(|e| SetupError::System(e.to_string()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What a failure of the client's means. `origin` is named to people.
pub(crate) fn describe(error: &reqwest::Error, origin: &str) -> TransportError {
    use TransportErrorKind as Kind;

    let cause = root_cause(error);
    let tls = find::<rustls::Error>(error);
    let io = find::<std::io::Error>(error).map(std::io::Error::kind);
    let (kind, detail) = if find::<TooLate>(error).is_some() {
        (
            Kind::TooLate,
            format!("the call's deadline passed before the request to {origin} was written"),
        )
    } else if error.is_builder() || error.is_request() && error.source().is_none() {
        (
            Kind::NotARequest,
            format!("the request to {origin} could not be made: {cause}"),
        )
    } else if !error.is_connect() {
        (
            Kind::Broken,
            format!("the connection to {origin} failed before an answer came: {cause}"),
        )
    } else if let Some(rustls::Error::InvalidCertificate(problem)) = tls {
        (
            Kind::Certificate,
            format!("the certificate of {origin} is not trusted: {problem}"),
        )
    } else if let Some(problem) = tls {
        (
            Kind::Tls,
            format!("no TLS connection to {origin}: {problem}"),
        )
    } else if error.is_timeout() || io == Some(std::io::ErrorKind::TimedOut) {
        (
            Kind::ConnectTimeout,
            format!(
                "no connection to {origin} within {} s",
                CONNECT_TIMEOUT.as_secs()
            ),
        )
    } else if is_about_the_name(error) {
        (
            Kind::Dns,
            format!("the name of {origin} can't be resolved: {cause}"),
        )
    } else {
        (Kind::Refused, format!("no connection to {origin}: {cause}"))
    };
    TransportError { kind, detail }
}

/// The error of type `E` in the chain of causes, wherever `io::Error`s have wrapped it.
fn find<'e, E: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // An `io::Error` shows the cause of what it wraps as its own, and so hides what it wraps.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// The client has no type of its own for a name that has no address.
fn is_about_the_name(error: &dyn std::error::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.to_string() == "dns error" {
            return true;
        }
        next = cause.source();
    }
    false
}

/// The last cause, which says most. What stands before it names the client's inner parts.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// The deadline passed.
#[derive(Debug, thiserror::Error)]
#[error("the deadline has passed")]
struct TooLate;

/// A body that is there in time or not at all.
struct TimelyBody {
    left: Option<Bytes>,
    clock: Arc<dyn Clock>,
    deadline: Moment,
}

impl Body for TimelyBody {
    type Data = Bytes;
    type Error = TooLate;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TooLate>>> {
        if self.left.is_some() && self.clock.now() >= self.deadline {
            self.left = None;
            return Poll::Ready(Some(Err(TooLate)));
        }
        Poll::Ready(self.left.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// `Bearer` and the token, marked so that nothing prints it. `None` where the token can't stand in
/// a header.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

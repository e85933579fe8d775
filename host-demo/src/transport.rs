//! Sending one request, once.
//!
//! Nothing here repeats or follows: no redirects, no retries, no proxy from the environment. Where
//! a name may lead is [`guard`](crate::guard)'s decision, asked for at each connection.

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
use crate::cloud::Service;
use crate::guard::{Guard, Refusal};
use crate::policy::Origin;
use crate::resolve::{self, Guarded, Lookup};

/// How long a connection may take to come about, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection is kept. Shorter than the idle time-outs of common load balancers,
/// so that a request is seldom sent into a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// All the headers of an answer, names and values, and how many there may be.
pub(crate) const RESPONSE_HEADERS_MAX: u32 = 64 * 1024;
const RESPONSE_HEADERS_COUNT: usize = 100;

/// The older ones are no longer safe (RFC 8996).
const TLS_VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

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
    /// The service or the proxy is named by an address that is never one.
    #[error(transparent)]
    Address(#[from] Refusal),
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be set up: {0}")]
    Client(String),
}

/// Pooled connections to one service's origins.
#[derive(Clone, Debug)]
pub struct Transport {
    client: reqwest::Client,
    guard: Arc<Guard>,
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
    /// The name's addresses, or the address, may not be dialled.
    Address,
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
            | Self::Address
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
    /// A transport to the service's origins, that trusts its certificate authorities, or where it
    /// has none the operating system's.
    pub fn new(service: &Service) -> Result<Self, SetupError> {
        Self::with_lookup(service, resolve::platform())
    }

    pub(crate) fn with_lookup(service: &Service, lookup: Lookup) -> Result<Self, SetupError> {
        let network = service.network();
        let proxy = network.proxy();
        let hosts = [service.origin().host(), service.authority().host()];
        let guard = Arc::new(Guard {
            trusted: hosts
                .into_iter()
                .filter(|host| Service::is_listed(host))
                .map(str::to_owned)
                .collect(),
            proxy: proxy.and_then(|p| p.url().host_str()).map(str::to_owned),
            permitted: network.permitted().to_vec(),
        });
        for host in hosts.into_iter().chain(guard.proxy.as_deref()) {
            allows(&guard, host)?;
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(service.ca())?)
            .dns_resolver(Guarded {
                guard: Arc::clone(&guard),
                lookup,
            })
            .http1_max_headers(RESPONSE_HEADERS_COUNT)
            .http2_max_header_list_size(RESPONSE_HEADERS_MAX)
            .redirect(reqwest::redirect::Policy::none())
            // By default a request goes out again after a refused stream or a GOAWAY: up to three
            // arrivals for one permit.
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true);
        if let Some(proxy) = proxy {
            // For `https` only: a request over `http` would be handed to the proxy, token and all.
            let mut tunnel = reqwest::Proxy::https(proxy.url().clone())
                .map_err(|e| SetupError::Client(root_cause(&e)))?;
            if let Some(credentials) = proxy.credentials() {
                tunnel = tunnel.custom_http_auth(credentials.clone());
            }
            builder = builder.proxy(tunnel);
        }
        let client = builder
            .build()
            .map_err(|e| SetupError::Client(root_cause(&e)))?;
        Ok(Self { client, guard })
    }

    /// Decides about an address in a URL, which no resolver gets to see.
    pub(crate) fn allows(&self, url: &reqwest::Url) -> Result<(), TransportError> {
        allows(&self.guard, url.host_str().unwrap_or_default()).map_err(|refusal| TransportError {
            kind: TransportErrorKind::Address,
            detail: refusal.to_string(),
        })
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
        // After the client's reading of the URL, which knows more ways to write an address.
        self.allows(request.url())?;
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

/// Decides about a URL's host, where it is an address.
fn allows(guard: &Guard, host: &str) -> Result<(), Refusal> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .map_or(Ok(()), |address| guard.literal(address))
}

/// TLS 1.2 or 1.3, with the platform's verifier or with the given roots alone.
fn tls(ca: Option<&[u8]>) -> Result<rustls::ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&TLS_VERSIONS)
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
    } else if let Some(refusal) = find::<Refusal>(error) {
        (Kind::Address, refusal.to_string())
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
        if ["dns error", "invalid dns name"].contains(&cause.to_string().as_str()) {
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

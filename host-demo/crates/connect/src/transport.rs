//! Sending one request, once.
//!
//! A transport leads to one origin, because that is what trust is for: a certificate authority that
//! is named for a service vouches for nobody else. Nothing here repeats or follows: no redirects,
//! no retries, no proxy from the environment. Where a name may lead is [`guard`](crate::address_guard)'s
//! decision, asked for at each connection.

mod tunnel;
mod words;

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::header::HeaderValue;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::address_guard::{Guard, Refusal};
use crate::cloud::Service;
use crate::proxy::Proxy;
use crate::resolve::{self, Guarded, Lookup};
use defender_core::clock::{Clock, Moment};
use defender_core::origin::Origin;

pub use self::tunnel::ProxyAnswer;

/// How long a connection may take to come about, TLS included, and a proxy's tunnel.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection is kept. Shorter than the idle time-outs of common load balancers,
/// so that a request is seldom sent into a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// All the headers of an answer, names and values, and how many there may be.
pub const RESPONSE_HEADERS_MAX: u32 = 64 * 1024;
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
        "the operating system's certificate authorities could not be loaded: {0}; install its \
         package of CA certificates, check SSL_CERT_FILE and SSL_CERT_DIR if they are set, or \
         name a CA file for {1}"
    )]
    System(String, Origin),
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

/// Pooled connections to one origin.
#[derive(Clone, Debug)]
pub struct Transport {
    client: reqwest::Client,
    guard: Arc<Guard>,
    /// The proxy's name, for people.
    proxy: Option<String>,
    /// How the proxy is asked why it refuses.
    asking: Option<tunnel::Asking>,
    connect_timeout: Duration,
    /// For a whole request, where nobody else sees to its end.
    timeout: Option<Duration>,
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
    /// The proxy can't be reached, or makes no tunnel.
    Proxy,
    /// The proxy requires authentication: it answered 407.
    ProxyAuthentication,
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
            | Self::Proxy
            | Self::ProxyAuthentication
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
    /// To the service's API, for calls that may take so long.
    ///
    /// A connection has half of that at most. One that does not come about then fails while its
    /// call still runs, as what it is: nothing was sent. At the call's own end nobody could tell.
    pub fn to_service(service: &Service, call_timeout: Duration) -> Result<Self, SetupError> {
        let connect_timeout = CONNECT_TIMEOUT.min(call_timeout / 2);
        let lookup = resolve::platform();
        Self::with_lookup(service, service.origin(), connect_timeout, lookup)
    }

    /// To the service's authority, for requests of which each may take so long.
    pub(crate) fn to_authority(service: &Service, timeout: Duration) -> Result<Self, SetupError> {
        let connect_timeout = CONNECT_TIMEOUT.min(timeout / 2);
        let lookup = resolve::platform();
        let transport = Self::with_lookup(service, service.authority(), connect_timeout, lookup)?;
        Ok(Self {
            timeout: Some(timeout),
            ..transport
        })
    }

    /// To the machine's own endpoint, which is never behind a proxy. It speaks plain HTTP, so no
    /// certificate is trusted.
    pub(crate) fn to_machine() -> Result<Self, SetupError> {
        let guard = Guard::default();
        Self::build(
            tls(None)?,
            guard,
            None,
            CONNECT_TIMEOUT,
            resolve::platform(),
        )
    }

    pub(crate) fn with_lookup(
        service: &Service,
        origin: &Origin,
        connect_timeout: Duration,
        lookup: Lookup,
    ) -> Result<Self, SetupError> {
        let network = service.network();
        let proxy = network.proxy();
        let host = origin.host();
        let guard = Guard {
            trusted: Some(host.to_owned())
                .filter(|host| Service::is_listed(host))
                .into_iter()
                .collect(),
            proxy: proxy.and_then(|p| p.url().host_str()).map(str::to_owned),
            permitted: network.permitted().to_vec(),
        };
        for host in [Some(host), guard.proxy.as_deref()].into_iter().flatten() {
            allows(&guard, host)?;
        }
        let verifier = origin.is_secure().then(|| verifier(service, origin));
        Self::build(
            tls(verifier.transpose()?)?,
            guard,
            proxy,
            connect_timeout,
            lookup,
        )
    }

    fn build(
        tls: ClientConfig,
        guard: Guard,
        proxy: Option<&Proxy>,
        connect_timeout: Duration,
        lookup: Lookup,
    ) -> Result<Self, SetupError> {
        let guard = Arc::new(guard);
        let asking = proxy.map(|proxy| {
            let mut tls = tls.clone();
            tls.alpn_protocols = Vec::new();
            tunnel::Asking {
                proxy: proxy.clone(),
                guard: Arc::clone(&guard),
                lookup: Arc::clone(&lookup),
                tls: Arc::new(tls),
            }
        });
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
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
            .connect_timeout(connect_timeout)
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
        Ok(Self {
            client,
            guard,
            proxy: proxy.map(|proxy| proxy.url().origin().ascii_serialization()),
            asking,
            connect_timeout,
            timeout: None,
        })
    }

    /// Asks the proxy why it made no tunnel to an origin; see [`ProxyAnswer`]. `None` where there is no
    /// proxy, or it can't be reached.
    pub async fn ask_proxy(
        &self,
        origin: &Origin,
        kind: TransportErrorKind,
    ) -> Option<ProxyAnswer> {
        let with_credentials = match kind {
            TransportErrorKind::Proxy => true,
            TransportErrorKind::ProxyAuthentication => false,
            _ => return None,
        };
        self.asking.as_ref()?.ask(origin, with_credentials).await
    }

    /// Decides about an address in a URL, which no resolver gets to see.
    pub fn allows(&self, url: &reqwest::Url) -> Result<(), TransportError> {
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
    pub async fn send(
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
            .map_err(|e| self.describe(&e, &origin))?;
        // After the client's reading of the URL, which knows more ways to write an address.
        self.allows(request.url())?;
        let response = self
            .client
            .execute(request)
            .await
            .map_err(|e| self.describe(&e, &origin))?;
        Ok(response.into())
    }

    /// What a failure of the client's means. `origin` is named to people.
    pub fn describe(&self, error: &reqwest::Error, origin: &str) -> TransportError {
        use TransportErrorKind as Kind;

        let cause = root_cause(error);
        let tunnel = self.proxy.as_deref().and_then(|proxy| {
            let failure = tunnel_failure(error)?;
            Some((proxy, failure))
        });
        // What goes wrong on the way to the proxy is no fault of the service's.
        let to_proxy = match tunnel {
            Some((proxy, Tunnel::NotReached)) => Some(format!("the proxy {proxy}")),
            _ => None,
        };
        let origin = to_proxy.as_deref().unwrap_or(origin);
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
                format!(
                    "the certificate of {origin} is not trusted: {}",
                    words::of(problem)
                ),
            )
        } else if let Some(rustls::Error::InvalidMessage(_)) = tls {
            (
                Kind::Tls,
                format!("no TLS connection to {origin}: it does not speak TLS on this port"),
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
                    self.connect_timeout.as_secs_f64()
                ),
            )
        } else if let Some(refusal) = find::<Refusal>(error) {
            (Kind::Address, refusal.to_string())
        } else if let Some((proxy, Tunnel::WantsCredentials)) = tunnel {
            let given = self.asking.as_ref();
            let why = match given.and_then(|asking| asking.proxy.credentials()) {
                Some(_) => "and does not accept the credentials",
                None => "and requires credentials",
            };
            (
                Kind::ProxyAuthentication,
                format!("the proxy {proxy} made no tunnel to {origin}: it answered 407 {why}"),
            )
        } else if let Some((proxy, Tunnel::Refused(why))) = tunnel {
            (
                Kind::Proxy,
                format!("the proxy {proxy} made no tunnel to {origin}: {why}"),
            )
        } else if to_proxy.is_some() {
            (Kind::Proxy, format!("no connection to {origin}: {cause}"))
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

    /// How long a whole request may take.
    pub const fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The client, for the requests of the identity library.
    pub const fn client(&self) -> &reqwest::Client {
        &self.client
    }
}

/// Decides about a URL's host, where it is an address.
fn allows(guard: &Guard, host: &str) -> Result<(), Refusal> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .map_or(Ok(()), |address| guard.literal(address))
}

/// TLS 1.2 or 1.3. Without a verifier no certificate is trusted.
fn tls(verifier: Option<Arc<dyn ServerCertVerifier>>) -> Result<ClientConfig, SetupError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&TLS_VERSIONS)
        .map_err(|e| SetupError::Client(e.to_string()))?;
    let builder = match verifier {
        Some(verifier) => builder
            .dangerous()
            .with_custom_certificate_verifier(verifier),
        None => builder.with_root_certificates(rustls::RootCertStore::empty()),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Who vouches for an origin: the operating system's certificate authorities, and those that are
/// named for it. Where some are named, a system without any is no hindrance.
fn verifier(service: &Service, origin: &Origin) -> Result<Arc<dyn ServerCertVerifier>, SetupError> {
    let named = named(service, origin)?;
    let system = || Verifier::new(provider());
    if named.is_empty() {
        let system = system().map_err(|e| SetupError::System(e.to_string(), origin.clone()))?;
        return Ok(Arc::new(system));
    }
    let pins = named.clone();
    let there = Verifier::new_with_extra_roots(named, provider())
        .map_err(|e| SetupError::Ca(words::why(&e)))?;
    let host = origin.host().trim_start_matches('[').trim_end_matches(']');
    let host = ServerName::try_from(host.to_owned())
        .map_err(|e| SetupError::Client(format!("{origin} has no name for TLS: {e}")))?;
    let proxy = service.network().proxy();
    let is_other_name_possible = proxy.is_some_and(|proxy| proxy.url().scheme() == "https");
    Ok(Arc::new(AtOneName {
        host,
        pins,
        there,
        elsewhere: is_other_name_possible.then(system).and_then(Result::ok),
    }))
}

/// The certificates in the PEM texts that are named for an origin.
fn named(service: &Service, origin: &Origin) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let mut certificates = Vec::new();
    for pem in service.cas(origin) {
        certificates.extend(certificates_in(pem)?);
    }
    Ok(certificates)
}

fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| SetupError::Ca(e.to_string()))?;
    if all.is_empty() {
        return Err(SetupError::Ca("no certificate in it".to_owned()));
    }
    Ok(all)
}

/// Whether a PEM text has certificate authorities that can be trusted: whoever has read it from a
/// file knows the file's name.
pub fn check_ca(pem: &[u8]) -> Result<(), SetupError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates_in(pem)? {
        let added = roots.add(certificate);
        added.map_err(|e| SetupError::Ca(words::why(&e)))?;
    }
    Ok(())
}

/// Trusts an origin's own certificate authorities at its name, and the operating system's alone at
/// every other, which is that of a proxy on the way.
///
/// A server may also present one of the named certificates itself. That is what is named where a
/// server's certificate is self-signed, and OpenSSL marks such a one as a certificate authority, which
/// the path validation rejects for a server. It is trusted as it is, to the byte, for its own name
/// and its own time.
#[derive(Debug)]
struct AtOneName {
    host: ServerName<'static>,
    /// Those that are named.
    pins: Vec<CertificateDer<'static>>,
    there: Verifier,
    /// Absent where the system has none.
    elsewhere: Option<Verifier>,
}

impl ServerCertVerifier for AtOneName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *name == self.host && self.pins.iter().any(|pin| pin == end_entity) {
            return pinned(end_entity, name, now);
        }
        let verifier = if *name == self.host {
            &self.there
        } else {
            self.elsewhere
                .as_ref()
                .ok_or(CertificateError::UnknownIssuer)?
        };
        verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.there
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.there
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.there.supported_verify_schemes()
    }
}

/// Checks a certificate that is trusted as it is: its name, its time, and what it may be used for.
fn pinned(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    rustls::client::verify_server_name(&parsed, name)?;
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    let time = |seconds: i64| {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap_or_default()))
    };
    let (from, until) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    if seconds < from {
        return Err(CertificateError::NotValidYetContext {
            time: now,
            not_before: time(from),
        }
        .into());
    }
    if seconds > until {
        return Err(CertificateError::ExpiredContext {
            time: now,
            not_after: time(until),
        }
        .into());
    }
    let purposes = certificate
        .extended_key_usage()
        .map_err(|_| CertificateError::BadEncoding)?;
    if purposes.is_some_and(|purposes| !purposes.value.server_auth && !purposes.value.any) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(ServerCertVerified::assertion())
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

/// What went wrong with a proxy.
#[derive(Clone, Copy)]
enum Tunnel {
    NotReached,
    WantsCredentials,
    Refused(&'static str),
}

/// The client does not show its type for it, and of the proxy's answer it keeps no more than this.
fn tunnel_failure(error: &dyn std::error::Error) -> Option<Tunnel> {
    let mut next = error.source();
    while let Some(cause) = next {
        match cause.to_string().strip_prefix("tunnel error: ") {
            Some("failed to create underlying connection") => return Some(Tunnel::NotReached),
            Some("proxy authorization required") => return Some(Tunnel::WantsCredentials),
            Some("unsuccessful") => return Some(Tunnel::Refused("its answer was not 200")),
            Some(_) => return Some(Tunnel::Refused("it closed the connection")),
            None => next = cause.source(),
        }
    }
    None
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
pub fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    use super::*;

    const OF_2024: u64 = 1_704_067_200;
    const OF_2026: u64 = 1_767_225_600;
    const OF_2036: u64 = 2_082_758_400;

    /// As OpenSSL makes it by default: a certificate authority's own. Valid from 2025 to 2035.
    fn self_signed(bend: impl FnOnce(&mut CertificateParams)) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["defender.test".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2035, 1, 1);
        bend(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    fn trusts(
        named: &rcgen::Certificate,
        presented: &rcgen::Certificate,
        name: &str,
        at: u64,
    ) -> Result<(), rustls::Error> {
        let origin = "https://defender.test";
        let service = Service::custom(origin, origin, "https://x/.default").unwrap();
        let service = service.with_ca(named.pem().into_bytes());
        let verifier = verifier(&service, service.origin()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let verified = verifier.verify_server_cert(presented.der(), &[], &name, &[], now);
        verified.map(drop)
    }

    #[test]
    fn a_named_self_signed_certificate_is_checked() {
        let own = self_signed(|_| {});
        assert_eq!(trusts(&own, &own, "defender.test", OF_2026), Ok(()));
        let error = trusts(&own, &own, "other.test", OF_2026).unwrap_err();
        assert!(
            matches!(error, rustls::Error::InvalidCertificate(_)),
            "{error}"
        );
        for (at, words) in [
            (OF_2024, "it is not valid before 2025-01-01T00:00:00Z"),
            (OF_2036, "it expired at 2035-01-01T00:00:00Z"),
        ] {
            let error = trusts(&own, &own, "defender.test", at).unwrap_err();
            assert!(
                words::why(&error).starts_with(words),
                "{}",
                words::why(&error)
            );
        }
        // Another one of the same name, and one that is not for servers.
        let other = self_signed(|_| {});
        let error = trusts(&own, &other, "defender.test", OF_2026).unwrap_err();
        assert!(
            words::why(&error).contains("CA:TRUE"),
            "{}",
            words::why(&error)
        );
        let of_clients = self_signed(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        let error = trusts(&of_clients, &of_clients, "defender.test", OF_2026).unwrap_err();
        assert!(words::why(&error).contains("not for servers"), "{error}");
        let of_another_name = self_signed(|params| {
            params.subject_alt_names = vec![rcgen::SanType::DnsName("x.test".try_into().unwrap())];
        });
        let error = trusts(&of_another_name, &of_another_name, "defender.test", OF_2026);
        let words = words::why(&error.unwrap_err());
        assert_eq!(words, "it is for another name: DnsName(\"x.test\")");
    }
}

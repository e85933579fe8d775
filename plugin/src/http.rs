//! Sending one request through `wasi:http`, and what its errors mean.

use alloc::vec::Vec;

use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme,
};
use wasi::io::streams::{InputStream, StreamError};

use crate::api::{Answer, Extent, Failure, Request};
use crate::text::legible;
use crate::types::{Effect, Reason};

/// The most that `blocking-write-and-flush` takes at once.
const MAX_WRITE: usize = 4096;

/// How much is asked for at once when an answer is read.
const READ: usize = 64 * 1024;

/// Sends the request, and waits for the answer for as long as the host allows.
///
/// The order matters. The request is handed over before its body is written, because a host may
/// hold no more of a body than it has sent. A body that cannot be written is no end either: the
/// service may have answered early, and if the connection broke, only the answer's future knows the
/// cause.
pub(crate) fn send(request: &Request) -> Result<Answer, Failure> {
    let (outgoing, body) = prepare(request)?;
    let future = outgoing_handler::handle(outgoing, None).map_err(|code| failure(&code))?;
    if let Some((body, bytes)) = body {
        let _ = write(body, bytes);
    }
    future.subscribe().block();
    match future.get() {
        Some(Ok(Ok(response))) => Ok(receive(&response, request.max_answer)),
        Some(Ok(Err(code))) => Err(failure(&code)),
        // Not ready after all, or taken already: a host that keeps the promises of `wasi:http` says
        // neither.
        None | Some(Err(())) => Err(Failure {
            reason: Reason::Transport,
            effect: Effect::Unknown,
            what: "the host lost the answer".into(),
        }),
    }
}

type Prepared<'a> = (OutgoingRequest, Option<(OutgoingBody, &'a [u8])>);

fn prepare(request: &Request) -> Result<Prepared<'_>, Failure> {
    let refused = |what: &str| Failure {
        reason: Reason::Transport,
        effect: Effect::None,
        what: alloc::format!("the host did not let the plugin set {what}"),
    };

    let fields = Fields::new();
    for (name, value) in &request.headers {
        fields
            .append(name, value.as_bytes())
            .map_err(|_| refused(&alloc::format!("the header {name}")))?;
    }
    let outgoing = OutgoingRequest::new(fields);
    let method = if request.body.is_some() {
        Method::Post
    } else {
        Method::Get
    };
    outgoing
        .set_method(&method)
        .map_err(|()| refused("the method"))?;
    let scheme = if request.origin.is_secure {
        Scheme::Https
    } else {
        Scheme::Http
    };
    outgoing
        .set_scheme(Some(&scheme))
        .map_err(|()| refused("the scheme"))?;
    outgoing
        .set_authority(Some(&request.origin.authority))
        .map_err(|()| refused("the authority"))?;
    outgoing
        .set_path_with_query(Some(&request.path))
        .map_err(|()| refused("the path"))?;
    // A body that is not asked for does not exist; one that is asked for and left empty would be
    // sent as a body of unknown length.
    let body = match &request.body {
        Some(bytes) => Some((
            outgoing.body().map_err(|()| refused("the body"))?,
            bytes.as_slice(),
        )),
        None => None,
    };
    Ok((outgoing, body))
}

/// The body could not be written to its end.
struct Unwritten;

fn write(body: OutgoingBody, bytes: &[u8]) -> Result<(), Unwritten> {
    let stream = body.write().map_err(|()| Unwritten)?;
    for chunk in bytes.chunks(MAX_WRITE) {
        stream
            .blocking_write_and_flush(chunk)
            .map_err(|_| Unwritten)?;
    }
    // A stream is its body's child, and goes first.
    drop(stream);
    OutgoingBody::finish(body, None).map_err(|_| Unwritten)
}

fn receive(response: &IncomingResponse, max: usize) -> Answer {
    let status = response.status();
    let headers = response.headers().entries();
    let broken = || (Vec::new(), Extent::Broken);
    let (body, extent) = response.consume().map_or_else(
        |()| broken(),
        |body| {
            body.stream()
                .map_or_else(|()| broken(), |stream| read(&stream, max))
        },
    );
    Answer {
        status,
        headers,
        body,
        extent,
    }
}

/// Reads to the end, or to one byte more than an answer may have.
///
/// That byte is not kept: the vector doubles as it grows, and after a bound that is a power of two
/// it would have twice the room for it.
fn read(stream: &InputStream, max: usize) -> (Vec<u8>, Extent) {
    let mut body = Vec::new();
    loop {
        let wanted = READ.min(max - body.len()).max(1);
        match stream.blocking_read(wanted as u64) {
            Ok(bytes) if bytes.len() > max - body.len() => return (body, Extent::TooLong),
            Ok(bytes) => body.extend(bytes),
            Err(StreamError::Closed) => return (body, Extent::Complete),
            Err(StreamError::LastOperationFailed(_)) => return (body, Extent::Broken),
        }
    }
}

fn failure(code: &ErrorCode) -> Failure {
    let (reason, effect) = judge(code);
    let (name, what) = describe(code);
    let detail = match code {
        ErrorCode::DnsError(payload) => payload.rcode.as_deref(),
        ErrorCode::TlsAlertReceived(payload) => payload.alert_message.as_deref(),
        ErrorCode::InternalError(text) => text.as_deref(),
        _ => None,
    };
    let what = match detail {
        Some(detail) => alloc::format!("{what} ({name}: {})", legible(detail, 200)),
        None => alloc::format!("{what} ({name})"),
    };
    Failure {
        reason,
        effect,
        what,
    }
}

/// The reason and the effect of an error: the table in `wit/types.wit`, row by row.
///
/// The effect is `none` only where nothing of the request can have reached the service.
fn judge(code: &ErrorCode) -> (Reason, Effect) {
    use ErrorCode as E;
    match code {
        E::HttpRequestDenied => (Reason::Denied, Effect::None),
        E::ConfigurationError => (Reason::Unavailable, Effect::None),

        E::DnsTimeout
        | E::DnsError(_)
        | E::DestinationNotFound
        | E::DestinationUnavailable
        | E::DestinationIpProhibited
        | E::DestinationIpUnroutable
        | E::ConnectionRefused
        | E::ConnectionTimeout
        | E::ConnectionLimitReached
        | E::TlsProtocolError
        | E::TlsCertificateError
        | E::HttpRequestLengthRequired
        | E::HttpRequestMethodInvalid
        | E::HttpRequestUriInvalid
        | E::HttpRequestUriTooLong
        | E::HttpRequestHeaderSectionSize(_)
        | E::HttpRequestHeaderSize(_) => (Reason::Transport, Effect::None),

        E::ConnectionTerminated
        | E::ConnectionReadTimeout
        | E::ConnectionWriteTimeout
        | E::HttpRequestBodySize(_)
        | E::HttpRequestTrailerSectionSize(_)
        | E::HttpRequestTrailerSize(_)
        | E::TlsAlertReceived(_)
        | E::HttpResponseIncomplete
        | E::HttpResponseHeaderSectionSize(_)
        | E::HttpResponseHeaderSize(_)
        | E::HttpResponseBodySize(_)
        | E::HttpResponseTrailerSectionSize(_)
        | E::HttpResponseTrailerSize(_)
        | E::HttpResponseTransferCoding(_)
        | E::HttpResponseContentCoding(_)
        | E::HttpResponseTimeout
        | E::HttpUpgradeFailed
        | E::HttpProtocolError
        | E::LoopDetected
        | E::InternalError(_) => (Reason::Transport, Effect::Unknown),
    }
}

/// The name that `wasi:http` gives an error, and what it says to people.
fn describe(code: &ErrorCode) -> (&'static str, &'static str) {
    use ErrorCode as E;
    const UNRESOLVED: &str = "the service's name could not be resolved";
    const TOO_LARGE: &str = "the host found the request too large";
    const ILL_FORMED: &str = "the host did not accept the request's form";
    const ANSWER_TOO_LARGE: &str = "the host found the answer too large";
    const UNREADABLE: &str = "the answer came in a form that the host cannot read";
    match code {
        E::DnsTimeout => ("DNS-timeout", UNRESOLVED),
        E::DnsError(_) => ("DNS-error", UNRESOLVED),
        E::DestinationNotFound => ("destination-not-found", "the service was not found"),
        E::DestinationUnavailable => ("destination-unavailable", "the service is not reachable"),
        E::DestinationIpProhibited => (
            "destination-IP-prohibited",
            "the host does not allow the service's address",
        ),
        E::DestinationIpUnroutable => (
            "destination-IP-unroutable",
            "no route leads to the service's address",
        ),
        E::ConnectionRefused => ("connection-refused", "the service refused the connection"),
        E::ConnectionTerminated => ("connection-terminated", "the connection broke off"),
        E::ConnectionTimeout => ("connection-timeout", "connecting took too long"),
        E::ConnectionReadTimeout => ("connection-read-timeout", "the service fell silent"),
        E::ConnectionWriteTimeout => (
            "connection-write-timeout",
            "the service stopped taking the request",
        ),
        E::ConnectionLimitReached => (
            "connection-limit-reached",
            "the host has no connection to spare",
        ),
        E::TlsProtocolError => ("TLS-protocol-error", "no secure connection came about"),
        E::TlsCertificateError => (
            "TLS-certificate-error",
            "the host does not trust the service's certificate",
        ),
        E::TlsAlertReceived(_) => (
            "TLS-alert-received",
            "the service broke off the secure connection",
        ),
        E::HttpRequestDenied => (
            "HTTP-request-denied",
            "the host's policy does not let the request leave",
        ),
        E::HttpRequestLengthRequired => ("HTTP-request-length-required", ILL_FORMED),
        E::HttpRequestBodySize(_) => ("HTTP-request-body-size", TOO_LARGE),
        E::HttpRequestMethodInvalid => ("HTTP-request-method-invalid", ILL_FORMED),
        E::HttpRequestUriInvalid => ("HTTP-request-URI-invalid", ILL_FORMED),
        E::HttpRequestUriTooLong => ("HTTP-request-URI-too-long", TOO_LARGE),
        E::HttpRequestHeaderSectionSize(_) => ("HTTP-request-header-section-size", TOO_LARGE),
        E::HttpRequestHeaderSize(_) => ("HTTP-request-header-size", TOO_LARGE),
        E::HttpRequestTrailerSectionSize(_) => ("HTTP-request-trailer-section-size", TOO_LARGE),
        E::HttpRequestTrailerSize(_) => ("HTTP-request-trailer-size", TOO_LARGE),
        E::HttpResponseIncomplete => ("HTTP-response-incomplete", "the answer broke off"),
        E::HttpResponseHeaderSectionSize(_) => {
            ("HTTP-response-header-section-size", ANSWER_TOO_LARGE)
        }
        E::HttpResponseHeaderSize(_) => ("HTTP-response-header-size", ANSWER_TOO_LARGE),
        E::HttpResponseBodySize(_) => ("HTTP-response-body-size", ANSWER_TOO_LARGE),
        E::HttpResponseTrailerSectionSize(_) => {
            ("HTTP-response-trailer-section-size", ANSWER_TOO_LARGE)
        }
        E::HttpResponseTrailerSize(_) => ("HTTP-response-trailer-size", ANSWER_TOO_LARGE),
        E::HttpResponseTransferCoding(_) => ("HTTP-response-transfer-coding", UNREADABLE),
        E::HttpResponseContentCoding(_) => ("HTTP-response-content-coding", UNREADABLE),
        E::HttpResponseTimeout => ("HTTP-response-timeout", "the answer did not come in time"),
        E::HttpUpgradeFailed => ("HTTP-upgrade-failed", UNREADABLE),
        E::HttpProtocolError => (
            "HTTP-protocol-error",
            "the exchange with the service broke down",
        ),
        E::LoopDetected => ("loop-detected", "the request went round in a loop"),
        E::ConfigurationError => (
            "configuration-error",
            "the host is not configured for this request",
        ),
        E::InternalError(_) => (
            "internal-error",
            "the host failed while it sent the request",
        ),
    }
}

#[cfg(test)]
mod tests;

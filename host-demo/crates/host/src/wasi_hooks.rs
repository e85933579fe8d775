//! The boundary as a guest meets it: `connection`, and what `wasi:http` calls. Nothing else here
//! knows wasmtime.

use std::sync::Arc;

use http::header;
use http::uri::Scheme;
use http_body_util::BodyExt as _;
use tracing::Instrument as _;
use wasmtime::component::{HasData, HasSelf, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::io;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error as WasiError, ForbiddenHeaderFilter, RequestOptions, WasiBody,
    WasiHttpHooks, WasiHttpView,
};

use crate::bindings::connection;
use defender_boundary::AnswerError;
use defender_boundary::Call;
use defender_boundary::Refusal;
use defender_boundary::SendError;
use defender_boundary::{REQUEST_BODY_MAX, WayOut};
use defender_connect::transport::TransportErrorKind;
use defender_core::operation::Operation;

/// A call's way out, for a guest: what `wasi:http` calls ([`WasiHttpHooks`]) and what answers
/// `connection` ([`add_to_linker`]).
///
/// It goes into the store that the call's guest runs in. Once the [`Call`] has ended or is dropped,
/// nothing leaves by it any more.
#[derive(Clone)]
pub struct Hooks(Arc<WayOut>);

impl Hooks {
    /// A call's.
    pub fn new(call: &Call) -> Self {
        Self(Arc::clone(call.way_out()))
    }

    /// What the call does.
    pub fn operation(&self) -> Operation {
        self.0.operation()
    }
}

/// Links everything a plugin may import, and nothing else: `connection`, answered by the call's
/// [`Hooks`], and the [WASI interfaces](add_wasi_to_linker) that carry its request. The store's
/// [`WasiHttpView`] must return the same hooks.
pub fn add_to_linker<T: WasiHttpView + 'static>(
    linker: &mut Linker<T>,
    hooks: fn(&mut T) -> &mut Hooks,
) -> wasmtime::Result<()> {
    connection::add_to_linker::<T, HasSelf<Hooks>>(linker, hooks)?;
    add_wasi_to_linker(linker)
}

/// Links `wasi:http` and the parts of `wasi:io` that it uses, for hosts that answer `connection`
/// themselves. It links no clock, random source, environment, file or socket.
pub fn add_wasi_to_linker<T: WasiHttpView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    io::error::add_to_linker::<T, Io>(linker, |state| state.http().table)?;
    io::poll::add_to_linker::<T, Io>(linker, |state| state.http().table)?;
    io::streams::add_to_linker::<T, Io>(linker, |state| state.http().table)
}

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

impl connection::Host for Hooks {
    fn open(
        &mut self,
        operation: connection::Operation,
        target: Option<String>,
    ) -> Result<connection::Access, connection::Refusal> {
        match self.0.open(operation.into(), target.as_deref()) {
            Ok(()) => Ok(connection::Access {
                base_url: self.0.origin().to_string(),
                authorization: connection::Authorization::AttachedByHost,
            }),
            Err(Refusal::Denied(denial)) => Err(connection::Refusal::Denied(denial.to_string())),
            Err(Refusal::Closed { seconds }) => Err(connection::Refusal::RateLimited(seconds)),
        }
    }
}

impl WasiHttpHooks for Hooks {
    /// Both ways: a guest can neither set nor read these.
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name| {
            [header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE].contains(name)
                || DEFAULT_FORBIDDEN_HEADERS.contains(name)
        })
    }

    fn default_scheme(&mut self) -> Option<Scheme> {
        None
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        _the_hosts_deadline_holds: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), WasiError>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answer, WasiError>> + Send> {
        let call = Arc::clone(&self.0);
        let span = call.span();
        let sending = async move {
            let answer = call.send(request).await.map_err(|e| to_wasi_error(&e))?;
            let answer = answer.map(|body| body.map_err(body_to_wasi_error).boxed_unsync());
            let nothing_left_to_do: Connection = Box::new(std::future::ready(Ok(())));
            Ok((answer, nothing_left_to_do))
        };
        Box::new(sending.instrument(span))
    }

    /// What the host holds of each body that a guest has begun. There can be as many as there are
    /// resources.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        REQUEST_BODY_MAX
    }
}

type Connection = Box<dyn Future<Output = Result<(), WasiError>> + Send>;
type Answer = (http::Response<WasiBody>, Connection);

/// Maps the error of a request that got no response to the one that a guest sees.
const fn to_wasi_error(error: &SendError) -> WasiError {
    match error {
        SendError::Denied(_) | SendError::Stopped | SendError::Closed { .. } => {
            WasiError::HttpRequestDenied
        }
        // Nobody is there to hear it.
        SendError::Over => WasiError::ConnectionTerminated,
        SendError::NotRecorded(_) | SendError::NoToken(_) => WasiError::ConfigurationError,
        SendError::Transport(error) => failed(error.kind),
        SendError::HeadersTooLong(size) => WasiError::HttpResponseHeaderSectionSize(Some(*size)),
        SendError::Echoed => WasiError::HttpProtocolError,
        _ => WasiError::InternalError(None),
    }
}

const fn failed(kind: TransportErrorKind) -> WasiError {
    match kind {
        TransportErrorKind::Dns => WasiError::DnsError {
            rcode: None,
            info_code: None,
        },
        TransportErrorKind::Address => WasiError::DestinationIpProhibited,
        TransportErrorKind::Refused
        | TransportErrorKind::Proxy
        | TransportErrorKind::ProxyAuthentication => WasiError::ConnectionRefused,
        TransportErrorKind::ConnectTimeout => WasiError::ConnectionTimeout,
        TransportErrorKind::Certificate => WasiError::TlsCertificateError,
        TransportErrorKind::Tls => WasiError::TlsProtocolError,
        TransportErrorKind::NotARequest => WasiError::HttpRequestUriInvalid,
        TransportErrorKind::TooLate => WasiError::ConnectionWriteTimeout,
        TransportErrorKind::Broken => WasiError::ConnectionTerminated,
    }
}

fn body_to_wasi_error(error: AnswerError) -> WasiError {
    match error {
        AnswerError::Echoed => WasiError::HttpProtocolError,
        AnswerError::TooLong => WasiError::HttpResponseBodySize(None),
        AnswerError::TooManyPieces => WasiError::HttpResponseTransferCoding(None),
        AnswerError::Stalled => WasiError::HttpResponseTimeout,
        AnswerError::BrokenOff => WasiError::HttpResponseIncomplete,
        AnswerError::Encoding(name) => WasiError::HttpResponseContentCoding(Some(name)),
        AnswerError::Undecodable(name) => {
            WasiError::HttpResponseContentCoding(Some(name.to_owned()))
        }
        _ => WasiError::InternalError(None),
    }
}

impl From<connection::Operation> for Operation {
    fn from(operation: connection::Operation) -> Self {
        match operation {
            connection::Operation::UnrestrictCodeExecution => Self::UnrestrictCodeExecution,
            connection::Operation::RestrictCodeExecution => Self::RestrictCodeExecution,
            connection::Operation::GetMachineAction => Self::GetMachineAction,
            connection::Operation::ListMachineActions => Self::ListMachineActions,
            connection::Operation::CancelMachineAction => Self::CancelMachineAction,
            connection::Operation::FindMachines => Self::FindMachines,
        }
    }
}

//! The model on a socket: HTTP/1.1 and HTTP/2, one request after another through the same steps.

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, DATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::action::Now;
use super::api_error::Refusal;
use super::api_handlers::{self, Front};
use super::defender::Service;
use super::entra::client_assertion::Used;
use super::entra::device_code::SignIns;
use super::entra::{self, Directory, Issuer};
use super::fault::{Fault, Faults, Kind};
use super::faulty_body::Sent;
use super::faulty_connection::{Line, Socket, Stream};
use super::imds;
use super::quota::{Exceeded, Quotas};
use super::replay::Replay;
use super::request_log::{Arrival, Key, Record};
use super::route::{Route, route};
use super::switches::{ServerErrorBody, Switches};
use super::token::Tokens;
use super::wire::{Reply, header_text};
use defender_core::clock::{Clock, Moment};

/// Bodies above this get 413. (No limit of the service is known.)
const BODY_LIMIT: usize = 1024 * 1024;

/// After an error of the listener (no file descriptor left, say) it rests, by the real clock.
const LISTENER_REST: Duration = Duration::from_millis(10);

/// What the model remembers. It is locked for moments, never across a wait.
pub(super) struct State {
    pub(super) service: Service,
    pub(super) quotas: Quotas,
    pub(super) tokens: Tokens,
    pub(super) sign_ins: SignIns,
    pub(super) used: Used,
    pub(super) record: Record,
    pub(super) faults: Faults,
    /// What answers in the place of the service, if something does.
    pub(super) replay: Option<Replay>,
}

pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) switches: Switches,
    pub(super) directory: Directory,
    /// Of the API and of Entra alike: scheme, host and port.
    pub(super) base_url: String,
    pub(super) state: Mutex<State>,
}

/// A request whose head has been read and counted.
struct Arrived {
    number: u64,
    route: Route,
    quota: Result<(), Exceeded>,
    fault: Option<Fault>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Now {
        Now {
            moment: self.clock.now(),
            wall: self.clock.wall(),
        }
    }

    /// A call counts here, before its body is read, its token judged, or a fault strikes.
    fn arrive(&self, head: &Parts) -> Arrived {
        let route = route(&head.method, head.uri.path(), &self.switches);
        let api = route.api();
        let mut arrival = Arrival {
            at: Moment::ORIGIN,
            api,
            method: head.method.clone(),
            path_and_query: head
                .uri
                .path_and_query()
                .map_or_else(String::new, ToString::to_string),
            headers: masked(&head.headers),
            token: None,
            body: Bytes::new(),
            status: None,
        };

        let mut state = self.lock();
        let state = &mut *state;
        // Read under the lock, so that arrivals are in the order of their moments.
        arrival.at = self.clock.now();
        let at = arrival.at;
        let token = state.tokens.of(&head.headers);
        arrival.token = token.map(|token| token.number);
        let key = api.map(|api| Key {
            api,
            tenant: token.map(|token| token.claims.tid.clone()),
            app: token.map(|token| token.claims.appid.clone()),
        });
        let quota = match &key {
            Some(key) if key.api.is_defenders() => state.quotas.arrive(key, at),
            _ => Ok(()),
        };
        let number = state.record.add(arrival, key.as_ref());
        Arrived {
            number,
            route,
            quota,
            fault: state.faults.strike(api, at),
        }
    }

    fn note(&self, arrived: &Arrived, what: impl FnOnce(&mut Arrival)) {
        if let Some(arrival) = self.lock().record.get_mut(arrived.number) {
            what(arrival);
        }
    }

    fn issuer<'a>(&'a self, state: &'a mut State) -> Issuer<'a> {
        Issuer {
            tokens: &mut state.tokens,
            sign_ins: &mut state.sign_ins,
            used: &mut state.used,
            switches: &self.switches,
        }
    }

    /// What the service does and answers, if nothing goes wrong.
    fn act(&self, arrived: &Arrived, head: &Parts, body: &[u8]) -> Reply {
        let now = self.now();
        let headers = &head.headers;
        match &arrived.route {
            Route::Token(tenant) => {
                let state = &mut *self.lock();
                let request = (tenant.as_str(), headers, body);
                let (mut issuer, authority) = (self.issuer(state), &self.base_url);
                entra::token(&self.directory, &mut issuer, authority, request, now.wall)
            }
            Route::DeviceCode(tenant) => {
                let state = &mut *self.lock();
                let request = (tenant.as_str(), headers, body);
                entra::device_code(&self.directory, &mut self.issuer(state), request, now.wall)
            }
            Route::Metadata => {
                let state = &mut *self.lock();
                let query = head.uri.query().unwrap_or_default();
                let issuer = &mut self.issuer(state);
                imds::token(&self.directory, issuer, query, headers, now.wall)
            }
            Route::Api(call, name) => {
                let State {
                    service,
                    tokens,
                    replay,
                    ..
                } = &mut *self.lock();
                let (directory, switches) = (&self.directory, &self.switches);
                let request = api_handlers::Request {
                    call: *call,
                    name,
                    head,
                    body,
                };
                let reply = match (arrived.quota, replay) {
                    (Err(exceeded), replay) => {
                        let recorded = replay.as_ref().and_then(Replay::quota);
                        recorded.unwrap_or_else(|| {
                            Refusal::quota(exceeded, switches, now.wall).into_reply(switches)
                        })
                    }
                    (Ok(()), Some(replay)) => match tokens.accept(headers, switches, now.wall) {
                        Ok(_) => replay.answer(&request, now),
                        Err(refusal) => refusal.into_reply(switches),
                    },
                    (Ok(()), None) => Front {
                        service,
                        tokens,
                        directory,
                        switches,
                    }
                    .answer(&request, now),
                };
                api_handlers::with_cors(reply, &self.switches)
            }
            Route::OpenIdConfiguration(tenant) => {
                let authority = &self.base_url;
                entra::openid_configuration(&self.directory, authority, tenant, headers, now.wall)
            }
            Route::Discovery => entra::discovery(&self.directory, &self.base_url),
            Route::Preflight => {
                api_handlers::with_cors(Reply::bare(StatusCode::NO_CONTENT), &self.switches)
            }
            Route::WrongMethod(allowed) => Reply::bare(StatusCode::METHOD_NOT_ALLOWED)
                .with(ALLOW, HeaderValue::from_static(allowed)),
            // Bare, as for MicrosoftDocs/windows-itpro-docs#8830.
            Route::Unknown => Reply::bare(StatusCode::NOT_FOUND),
        }
    }

    /// Lets a fault strike; what it answers, if it does.
    async fn strike(&self, fault: &Fault, line: &Line) -> Option<Reply> {
        match &fault.kind {
            Kind::Answer(reply) => Some(reply.clone()),
            Kind::ServerError(status) => Some(match self.switches.server_error_body {
                ServerErrorBody::Envelope => Refusal::server_error(*status).into_reply(&self.switches),
                ServerErrorBody::Empty => Reply::bare(*status),
                ServerErrorBody::Html => Reply::bare(*status)
                    .with(CONTENT_TYPE, header_text("text/html"))
                    .with_body(Bytes::from_static(
                        b"<html><head><title>Service unavailable</title></head><body></body></html>",
                    )),
            }),
            Kind::Delay(time) => {
                self.clock.sleep_until(self.clock.now() + *time).await;
                None
            }
            Kind::Reset => {
                line.reset();
                // The connection goes, and this with it.
                pending().await
            }
            Kind::TruncatedBody | Kind::EndlessBody | Kind::Garbage | Kind::RefusedConnection => None,
        }
    }

    async fn handle(&self, line: &Line, request: Request<Incoming>) -> io::Result<Response<Sent>> {
        let (head, body) = request.into_parts();
        let arrived = self.arrive(&head);
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                self.note(&arrived, |a| a.status = Some(413));
                return Ok(respond(Reply::bare(StatusCode::PAYLOAD_TOO_LARGE), None));
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        self.note(&arrived, |arrival| {
            arrival.body = match arrived.route {
                Route::Token(_) | Route::DeviceCode(_) => entra::masked(&body).into(),
                _ => body.clone(),
            };
        });

        let (before, after) = match &arrived.fault {
            Some(fault) if fault.acts => (None, Some(fault)),
            fault => (fault.as_ref(), None),
        };
        let mut instead = None;
        if let Some(fault) = before {
            instead = self.strike(fault, line).await;
        }
        let mut reply = instead.unwrap_or_else(|| self.act(&arrived, &head, &body));
        if let Some(fault) = after {
            reply = self.strike(fault, line).await.unwrap_or(reply);
        }

        self.note(&arrived, |arrival| {
            arrival.status = Some(reply.status.as_u16())
        });
        let kind = arrived.fault.as_ref().map(|fault| &fault.kind);
        if matches!(kind, Some(Kind::Garbage)) {
            line.garble();
        }
        // hyper would date the answer by the machine's clock.
        let now = self.clock.wall().strftime("%a, %d %b %Y %H:%M:%S GMT");
        let date = reply.headers.entry(DATE);
        date.or_insert_with(|| header_text(now));
        let reply = reply.encoded(self.switches.content_encoding);
        Ok(respond(reply, kind))
    }
}

/// The headers without what a token or a secret could be read from.
fn masked(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    if let Some(value) = headers.get_mut(AUTHORIZATION) {
        let basic = value.as_bytes().starts_with(b"Basic");
        *value = HeaderValue::from_static(if basic { "Basic ***" } else { "Bearer ***" });
    }
    headers
}

fn respond(reply: Reply, fault: Option<&Kind>) -> Response<Sent> {
    let body = match fault {
        Some(Kind::TruncatedBody) => Sent::half_of(reply.body),
        Some(Kind::EndlessBody) => Sent::Endless,
        _ => Sent::Whole(reply.body),
    };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

/// Serves until it is dropped, and its connections with it.
pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    connections.spawn(connection(tcp, tls.clone(), Arc::clone(&shared)));
                }
                Err(error) => {
                    tracing::warn!(%error, "the stand-in cannot accept a connection");
                    tokio::time::sleep(LISTENER_REST).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(tcp: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let line = Arc::new(Line::default());
    // Answers are small: waiting for more to send would cost 40 ms each.
    let _ = tcp.set_nodelay(true);
    let socket = Socket(tcp, Arc::clone(&line));
    if shared.lock().faults.refuses_connection() {
        line.reset();
        return;
    }
    match tls {
        None => requests(socket, line, shared).await,
        Some(tls) => match tls.accept(socket).await {
            Ok(stream) => requests(stream, line, shared).await,
            Err(error) => tracing::debug!(%error, "no TLS with the stand-in"),
        },
    }
}

async fn requests<S>(stream: S, line: Arc<Line>, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(Stream::new(stream, Arc::clone(&line)));
    let handle = |request| {
        let (line, shared) = (Arc::clone(&line), Arc::clone(&shared));
        async move { shared.handle(&line, request).await }
    };
    let http = auto::Builder::new(TokioExecutor::new());
    let connection = http.serve_connection(stream, hyper::service::service_fn(handle));
    tokio::select! {
        // First, so that a reset is not preceded by anything else.
        biased;
        () = line.is_cut() => {}
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the stand-in ended");
        }
    }
}

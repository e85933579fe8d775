//! The boundary as a service on loopback, for engines that can't hook what their guests send: stock
//! hosts of components, connectors in other languages.
//!
//! The engine asks for a *capability*: the right to one request, for one operation on one target with
//! one comment, until a moment that the answer states. Its guest uses that as its bearer token, and the
//! gateway's origin as its base URL (`connection`'s `authorization.bearer`). The gateway finds the
//! [`Call`](defender_boundary::Call) that the capability stands for, and that decides, counts, records
//! and sends as it does for any guest. The real token enters neither the guest nor the engine.
//!
//! ```text
//! engine ──POST /capabilities──► gateway ──► egress::begin: quota
//! guest ──its request, capability──► gateway ──► egress::Call: grant, policy → … → service
//! ```
//!
//! # The engine's side
//!
//! `POST /capabilities`, with the key that the gateway made at its start as
//! `Authorization: Bearer KEY`, and a body like
//! `{"operation": "unrestrict-code-execution", "target": "1e5b…", "comment": "INC-42: cleaned",
//! "wait_seconds": 0}`. The operations are those of `wit/connection.wit`. The target is a machine
//! id, an action id, or a DNS name; `list-machine-actions` has, in its place, the whole `"query"`
//! that the guest will send. An operation that changes something needs the `comment` that the guest
//! will send; a request with another one is refused. The others have none.
//! The answer is 201 with `capability`, `base_url`, `expires_at`, `operation` and `target`, or
//! `{"error": {"code", "message"}}` with 400 (the message says what is wrong), 401 (not the key),
//! 403 (the policy does not allow it, and which rule would), 429 (the quota has no call left within
//! `wait_seconds`; `Retry-After` says when it has), or 503 (no token, no ledger, too many
//! capabilities, or it is stopping).
//!
//! A capability has its call of the quota from the moment it is handed out. Where its request does
//! not come before it expires, or is refused, the quota has that call back. It is for use at once:
//! `expires_at` is the end of the whole call, so that a request of its last second gets no answer.
//!
//! # The guest's side
//!
//! Everything that the service answers is passed on, with the headers that a guest may see. What
//! the gateway answers itself is chosen so that the contract's table makes the right `effect` of
//! it: 4xx only where nothing was sent, or the service itself refused; 5xx where something may have
//! arrived.
//!
//! | what happened | answer | reason, effect |
//! |---|---|---|
//! | it is no request to the gateway's own authority | 400, 421 | `rejected`, none |
//! | there is no capability, or it expired unused | 401 | `unauthorized`, none |
//! | it is none of this gateway's, perhaps one of an earlier one's | 502 | `service-failure`, unknown |
//! | the capability's one request has been made before | 502 | `service-failure`, unknown |
//! | the policy or the grant does not allow it | 403, and why | `forbidden`, none |
//! | the service has closed the quota since | 429, `Retry-After` | `rate-limited`, none |
//! | no token, not recorded, stopped, no connection | 424, and why | `rejected`, none |
//! | time was up before it was sent | 408 | `rejected`, none |
//! | the connection failed with the request on it | 502 | `service-failure`, unknown |
//! | no answer in time | 504 | `service-failure`, unknown |
//! | an answer that may not be passed on, or is not whole | a refusal's own status, else 502 | by the status |
//!
//! # What it keeps to
//!
//! It listens on loopback only, and takes requests that name its own authority and nothing else, so
//! that no page in a browser reaches it under another name. A connection has one request. Of a
//! request's headers four are taken on; its body is read whole, and sent with a length of its own.
//! Slow clients and clients that open many connections are bounded in time and number. A client that
//! disconnects is not noticed: its request is finished, and a request that waits for the quota keeps its
//! place. Capabilities are 256 random bits, of which a hash is kept; neither they nor the key are logged
//! or shown.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod bearer_secret;
mod capability;
mod issue;
mod reply;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, USER_AGENT,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::bearer_secret::{Fingerprint, Secret};
use self::capability::{Capabilities, Ready};
use self::reply::{Failure, Reply};
use defender_boundary::{Egress, stopped};
use defender_core::clock::Clock;
use defender_core::files::{self, FileError};

/// Connections at one time; more wait to be accepted. Each has one answer at most, which for a list
/// takes 33 MiB at most: as it was read, and as it is passed on.
const CONNECTIONS_MAX: usize = 64;

/// How many of them may wait for the quota, so that they don't keep the guests out.
const WAITING_MAX: usize = 32;

/// How long a request's head may take, and so may what an engine asks for.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long an answer may take to be read.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A request's head.
const HEAD_MAX: usize = 16 * 1024;

/// What an engine asks for: the longest comment has 4,096 characters, which are up to 12 bytes each
/// where they are escaped.
const ASK_MAX: usize = 64 * 1024;

/// After an error of the listener (no file descriptor left, say) it rests.
const LISTENER_REST: Duration = Duration::from_millis(10);

/// What is taken on of a guest's request. The length is that of the body as it was read.
const REQUEST_HEADERS: [HeaderName; 4] = [ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT];

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Others could reach it.
    #[error(
        "{0} is no loopback address: whoever reaches the gateway over a network would send \
         capabilities in the clear; listen on 127.0.0.1 or [::1]"
    )]
    NotLoopback(SocketAddr),
    /// The system refuses to listen there.
    #[error("the gateway can't listen on {at}: {source}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no random bytes for a key.
    #[error("no key can be made for the gateway: {0}")]
    NoRandomness(String),
}

/// A gateway that listens. [`serve`](Self::serve) answers.
pub struct Gateway {
    listener: TcpListener,
    key: Secret,
    shared: Arc<Shared>,
}

struct Shared {
    egress: Egress,
    /// The one that requests must name.
    authority: String,
    base_url: String,
    key: Fingerprint,
    capabilities: Arc<Capabilities>,
    waiting: Semaphore,
}

impl Gateway {
    /// Listens on a loopback address; port 0 is any that is free.
    pub async fn bind(egress: &Egress, at: SocketAddr) -> Result<Self, GatewayError> {
        if !at.ip().is_loopback() {
            return Err(GatewayError::NotLoopback(at));
        }
        let failed = |source| GatewayError::Listen { at, source };
        let listener = TcpListener::bind(at).await.map_err(failed)?;
        let authority = listener.local_addr().map_err(failed)?.to_string();
        let no_randomness = |e: getrandom::Error| GatewayError::NoRandomness(e.to_string());
        let key = Secret::new().map_err(no_randomness)?;
        let capabilities = Capabilities::new(Arc::clone(egress.clock())).map_err(no_randomness)?;
        let shared = Shared {
            egress: egress.made_for("gateway"),
            base_url: format!("http://{authority}"),
            authority,
            key: key.print(),
            capabilities: Arc::new(capabilities),
            waiting: Semaphore::new(WAITING_MAX),
        };
        Ok(Self {
            listener,
            key,
            shared: Arc::new(shared),
        })
    }

    /// The origin that a guest is to be given as its base URL.
    pub fn base_url(&self) -> &str {
        &self.shared.base_url
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Writes the key to a file that its owner alone can read. There is no other way to learn it.
    pub fn write_key(&self, path: &Path) -> Result<(), FileError> {
        files::write(path, self.key.text().as_bytes())
    }

    /// Answers until `stop` becomes true. What is under way then is brought to its end;
    /// capabilities that were not used give their calls back to the quota.
    pub async fn serve(self, stop: watch::Receiver<bool>) {
        let Self {
            listener, shared, ..
        } = self;
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        let accepting = async {
            loop {
                // Nobody closes them.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((tcp, _)) => {
                        let answering = connection(tcp, Arc::clone(&shared), stop.clone());
                        connections.spawn(async move {
                            answering.await;
                            drop(place);
                        });
                        while connections.try_join_next().is_some() {}
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the gateway cannot accept a connection");
                        tokio::time::sleep(LISTENER_REST).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stopped(Some(stop.clone())) => {}
            () = accepting => {}
        }
        drop(listener);
        shared.capabilities.close();
        while connections.join_next().await.is_some() {}
        // What was being handed out meanwhile.
        shared.capabilities.close();
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("base_url", &self.base_url())
            .finish_non_exhaustive()
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Busy,
    Answered,
}

async fn connection(tcp: TcpStream, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    // Answers are small: waiting for more to send would cost 40 ms each.
    let _ = tcp.set_nodelay(true);
    let (stage, progress) = watch::channel(Stage::Waiting);
    let clock = Arc::clone(shared.egress.clock());
    let ending = stop.clone();
    let service = hyper::service::service_fn(|request| {
        let (shared, stop, stage) = (Arc::clone(&shared), stop.clone(), stage.clone());
        async move {
            stage.send_replace(Stage::Busy);
            let reply = shared.handle(request, stop).await;
            stage.send_replace(Stage::Answered);
            Ok::<Response<Full<Bytes>>, Infallible>(reply.into())
        }
    });
    let mut http = http1::Builder::new();
    // What is left of a request that was framed in two ways is never read as another one.
    http.keep_alive(false)
        .max_buf_size(HEAD_MAX)
        // Whoever has said all there is to say may close that side, and wait for the answer.
        .half_close(true);
    tokio::select! {
        ended = http.serve_connection(TokioIo::new(tcp), service) => if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the gateway ended");
        },
        () = overdue(progress, &*clock, ending) => {}
    }
}

/// Completes when a connection has taken too long. The time in between is the call's own.
async fn overdue(
    mut progress: watch::Receiver<Stage>,
    clock: &dyn Clock,
    stop: watch::Receiver<bool>,
) {
    tokio::select! {
        _ = progress.wait_for(|stage| *stage != Stage::Waiting) => {}
        () = clock.sleep_until(clock.now() + HEAD_TIME) => return,
        () = stopped(Some(stop)) => return,
    }
    let _ = progress.wait_for(|stage| *stage == Stage::Answered).await;
    clock.sleep_until(clock.now() + ANSWER_TIME).await;
}

impl Shared {
    async fn handle(&self, request: Request<Incoming>, stop: watch::Receiver<bool>) -> Reply {
        let (head, body) = request.into_parts();
        if let Some(reply) = self.misdirected(&head) {
            return reply;
        }
        if head.uri.path() == "/capabilities" {
            return self.control(&head, body, stop).await;
        }
        match bearer(&head.headers).map(|text| self.capabilities.take(text)) {
            None => Reply::error(
                StatusCode::UNAUTHORIZED,
                "NoCapability",
                "The request carries no capability as its bearer token. Nothing was sent.",
            ),
            Some(Err(useless)) => Reply::useless(&useless),
            Some(Ok(ready)) => self.pass_on(ready, head, body).await,
        }
    }

    /// A name that leads here from elsewhere, or a request that names two places, is not for here.
    fn misdirected(&self, head: &Parts) -> Option<Reply> {
        if head.uri.authority().is_some() || !head.uri.path().starts_with('/') {
            return Some(Reply::error(
                StatusCode::BAD_REQUEST,
                "NotAPath",
                "The request's target is not a path. Nothing was sent: the gateway is no proxy.",
            ));
        }
        let mut hosts = head.headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if names(host.as_bytes(), &self.authority) => None,
            _ => Some(Reply::error(
                StatusCode::MISDIRECTED_REQUEST,
                "OtherHost",
                &format!(
                    "The request does not name {} as its only host. Nothing was sent.",
                    self.authority
                ),
            )),
        }
    }

    async fn control(&self, head: &Parts, body: Incoming, stop: watch::Receiver<bool>) -> Reply {
        let is_known = bearer(&head.headers).is_some_and(|key| Fingerprint::of(key).is(&self.key));
        if !is_known {
            return Reply::error(
                StatusCode::UNAUTHORIZED,
                "NotTheKey",
                "The engine has to send the gateway's key as its bearer token: it is in the file \
                 that was named as the gateway started",
            );
        }
        if head.method != Method::POST {
            return Reply::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "NotAPost",
                "Capabilities are asked for with POST",
            );
        }
        let clock = self.egress.clock();
        let body = tokio::select! {
            body = Limited::new(body, ASK_MAX).collect() => body,
            () = clock.sleep_until(clock.now() + HEAD_TIME) => return Reply::error(
                StatusCode::REQUEST_TIMEOUT,
                "TooSlow",
                "The request's body did not come in time",
            ),
        };
        match body {
            Ok(body) => self.issue(&body.to_bytes(), stop).await,
            Err(_) => Reply::error(
                StatusCode::BAD_REQUEST,
                "BadRequest",
                "The request's body broke off, or is longer than any",
            ),
        }
    }

    /// The same request, to the service, with as much of it as a guest may say.
    fn rewritten(&self, mut head: Parts, body: Incoming) -> Request<Incoming> {
        let origin = self.egress.policy().origin();
        let path = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        // What is no URI is no route either.
        *request.uri_mut() = format!("{origin}{path}").parse().unwrap_or_default();
        for name in REQUEST_HEADERS {
            if let Some(value) = head.headers.remove(&name) {
                request.headers_mut().insert(name, value);
            }
        }
        request
    }

    /// Sends a guest's request by its call, and passes the answer on.
    async fn pass_on(&self, ready: Ready, head: Parts, body: Incoming) -> Reply {
        let Ready {
            call,
            place: _until_the_end,
        } = ready;
        let (operation, deadline) = (call.grant().operation(), call.deadline());
        let exchange = async {
            let request = self.rewritten(head, body);
            let answer = call.send(request).await.map_err(Failure::Send)?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(Failure::Body)?.to_bytes();
            Ok(Reply {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        let result = call.until_deadline(exchange).await;
        let span = call.span();
        let seen = call.end().await;
        // For the next one: this one's answer is a 401.
        let renewing = self
            .egress
            .in_time(Some(deadline), self.egress.renew(&seen));
        if let Err(error) = renewing.await {
            tracing::warn!(%error, "no other token");
        }
        let reply = match result.unwrap_or(Err(Failure::TooLate)) {
            // Passed on, it would end the talk with the guest, and not with the service.
            Ok(reply) if reply.status.is_informational() => Reply::error(
                StatusCode::BAD_GATEWAY,
                "NoFinalAnswer",
                "The service's answer is no final one.",
            ),
            Ok(reply) => reply,
            Err(failure) => Reply::failed(&failure, &seen),
        };
        span.in_scope(|| {
            tracing::info!(
                %operation,
                answered = reply.status.as_u16(),
                service = seen.status,
                "passed on"
            );
        });
        reply
    }
}

/// Whether a request's `Host` is this authority. Where the port is that of the scheme, clients
/// leave it out (RFC 9110, section 4.2.3).
fn names(host: &[u8], authority: &str) -> bool {
    host == authority.as_bytes()
        || authority
            .strip_suffix(":80")
            .is_some_and(|address| host == address.as_bytes())
}

/// The one bearer token, where there is one and no more.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(one), None) = (all.next(), all.next()) else {
        return None;
    };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_with_its_port_or_without_the_schemes_own() {
        for (host, authority, expected) in [
            ("127.0.0.1:8787", "127.0.0.1:8787", true),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1", "127.0.0.1:80", true),
            ("[::1]", "[::1]:80", true),
            ("127.0.0.1", "127.0.0.1:8787", false),
            ("127.0.0.1:", "127.0.0.1:80", false),
            ("127.0.0.1:80", "127.0.0.1:8080", false),
            ("127.0.0.1:80", "127.0.0.1:8787", false),
            ("localhost", "127.0.0.1:80", false),
            ("", "127.0.0.1:80", false),
        ] {
            assert_eq!(
                names(host.as_bytes(), authority),
                expected,
                "{host} {authority}"
            );
        }
    }
}

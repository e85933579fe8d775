//! The boundary: where a call's one request leaves, or does not.
//!
//! [`Call::send`] is the only way out, and its order is the point:
//!
//! 1. *policy and grant*: what the guest asks for is what this call may do;
//! 2. *permit*: the quota has room for it, and this is the one request that it has room for;
//! 3. *audit*: what is about to be sent is on record, or it is not sent;
//! 4. *identity*: asked for last, because waiting for a quota or a disk can outlive a token;
//! 5. *transport*: once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::watch;
use tracing::Instrument as _;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error as WasiError, ForbiddenHeaderFilter, RequestOptions, WasiBody,
    WasiHttpHooks,
};

use crate::answer::{Answer as AnswerBody, Needle};
use crate::audit::{AuditError, Trail};
use crate::clock::{Clock, Moment};
use crate::cloud::Service;
use crate::contract::connection;
use crate::grant::{Grant, Operation};
use crate::identity::{BearerToken, IdentityError, TokenSource};
use crate::limits::Permit;
use crate::policy::{Denial, Policy};
use crate::transport::{RESPONSE_HEADERS_MAX, Transport, TransportError, TransportErrorKind};

/// The longest comment, with every character escaped, is a quarter of this.
const REQUEST_BODY_MAX: usize = 128 * 1024;

/// What a guest may send along. `host` is set by the library below, from the authority that was
/// checked.
const REQUEST_HEADERS: [HeaderName; 6] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::USER_AGENT,
];

/// What a guest gets to see of an answer.
const RESPONSE_HEADERS: [HeaderName; 2] = [header::CONTENT_TYPE, header::RETRY_AFTER];

/// Denials of one call that are kept and logged. A guest can ask for what it may not do as often as
/// it can compute; more are counted.
const DENIALS_KEPT: usize = 4;

/// What an answer is known by at the service.
const CORRELATION_ID: HeaderName = HeaderName::from_static("mise-correlation-id");

/// How long a 429 of the service's is heeded at most.
pub(crate) const HEEDED_MAX: Duration = Duration::from_secs(24 * 3600);

/// What all calls share.
pub(crate) struct Egress {
    pub(crate) policy: Policy,
    /// The one that the policy is for.
    pub(crate) service: Service,
    pub(crate) tokens: Arc<dyn TokenSource>,
    pub(crate) transport: Transport,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Egress {
    /// A token, if it is one that may go to the service. Wherever it comes from: a file, or
    /// a source that was made for another service.
    pub(crate) async fn token(&self) -> Result<BearerToken, IdentityError> {
        let token = self.tokens.token().await?;
        match self.service.may_receive(&token.claims().audiences) {
            Ok(()) => Ok(token),
            Err(audience) => Err(IdentityError::NotForThisService {
                audience: audience.to_owned(),
                origin: self.service.origin().to_string(),
                scope: self.service.scope().to_owned(),
            }),
        }
    }
}

/// One call's way out.
pub(crate) struct Call {
    egress: Arc<Egress>,
    grant: Grant,
    deadline: Moment,
    /// The caller's word that nothing more is to be sent.
    stop: Option<watch::Receiver<bool>>,
    trail: Option<Trail>,
    /// A request is sent in a task of its own, which belongs to the call all the same.
    span: tracing::Span,
    state: Mutex<State>,
}

struct State {
    /// Absent where the call can't have a request: its arguments name no target.
    permit: Option<Permit>,
    seen: Seen,
    /// What was seen has been told. Nothing may leave any more.
    is_over: bool,
}

/// What the boundary saw of a call, whatever the guest says of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The request was handed to the transport, and may have reached the service.
    pub(crate) may_have_arrived: bool,
    /// The status of the answer.
    pub(crate) status: Option<u16>,
    /// What was denied, the first few of it.
    pub(crate) denied: Vec<Denial>,
    pub(crate) denials: u32,
    /// The policy, the grant and the permit let a request pass.
    pub(crate) is_allowed: bool,
    /// The guest was told that the quota has no call left.
    pub(crate) is_held_back: bool,
    /// The caller stopped it before it was sent.
    pub(crate) stopped: bool,
    /// Another call's 429 closed the key while this one was on its way out: for so many seconds.
    pub(crate) closed: Option<u32>,
    /// What a 429 says of the time to wait, in seconds.
    pub(crate) retry_after: Option<u32>,
    pub(crate) audit: Option<AuditError>,
    /// The token that the service refused with 401.
    pub(crate) rejected: Option<BearerToken>,
    pub(crate) identity: Option<IdentityError>,
    pub(crate) transport: Option<TransportError>,
    pub(crate) request_bytes: Option<u64>,
    /// When the request was handed to the transport.
    pub(crate) sent_at: Option<Moment>,
    /// When the answer's head came.
    pub(crate) answered_at: Option<Moment>,
    pub(crate) correlation_id: Option<String>,
    /// As much of the answer's body as the guest has read.
    pub(crate) answer: Vec<u8>,
    /// The answer repeats the token.
    pub(crate) echoed: bool,
}

impl Call {
    pub(crate) fn new(
        egress: Arc<Egress>,
        grant: Grant,
        permit: Option<Permit>,
        deadline: Moment,
        stop: Option<watch::Receiver<bool>>,
        trail: Option<Trail>,
        span: tracing::Span,
    ) -> Self {
        let state = Mutex::new(State {
            permit,
            seen: Seen::default(),
            is_over: false,
        });
        Self {
            egress,
            grant,
            deadline,
            stop,
            trail,
            span,
            state,
        }
    }

    /// Where the call's records go, if they are kept.
    pub(crate) const fn trail(&self) -> Option<&Trail> {
        self.trail.as_ref()
    }

    /// What the call does.
    pub(crate) const fn operation(&self) -> Operation {
        self.grant.operation()
    }

    /// What everything that is logged of the call belongs to.
    pub(crate) fn span(&self) -> tracing::Span {
        self.span.clone()
    }

    /// Ends the call, and says what was seen.
    ///
    /// A guest that did not wait for its answer leaves a request behind, which goes down in a task
    /// of its own and may be at work at this very moment. From now on it does not get out, so what
    /// is told of the call stays true.
    pub(crate) fn end(&self) -> Seen {
        let mut state = self.state();
        state.is_over = true;
        if !state.seen.may_have_arrived
            && let Some(permit) = &mut state.permit
        {
            permit.give_back();
        }
        // The answer is handed over, not copied: it can be long, and is compared once.
        let answer = std::mem::take(&mut state.seen.answer);
        Seen {
            answer,
            ..state.seen.clone()
        }
    }

    /// Answers `connection.open`. Redeems nothing.
    pub(crate) fn open(
        &self,
        operation: connection::Operation,
        target: Option<&str>,
    ) -> Result<connection::Access, connection::Refusal> {
        let operation = operation.into();
        if let Err(denial) = self.decide(operation, self.grant.opens(operation, target)) {
            return Err(connection::Refusal::Denied(self.deny(denial).to_string()));
        }
        let now = self.egress.clock.now();
        let closed = self.state().permit.as_ref().and_then(|p| p.closed_for(now));
        if let Some(wait) = closed {
            self.state().seen.is_held_back = true;
            return Err(connection::Refusal::RateLimited(whole_seconds(wait)));
        }
        Ok(connection::Access {
            base_url: self.egress.policy.origin().to_string(),
            authorization: connection::Authorization::AttachedByHost,
        })
    }

    /// The one decision, for `open` and for a request alike.
    fn decide(&self, operation: Operation, granted: Result<(), Denial>) -> Result<(), Denial> {
        self.egress.policy.allows(operation)?;
        granted?;
        if self.state().permit.as_ref().is_some_and(Permit::is_fresh) {
            Ok(())
        } else {
            Err(Denial::Spent)
        }
    }

    /// Lets the call's one request leave, and its answer in.
    async fn send(
        self: &Arc<Self>,
        request: http::Request<WasiBody>,
    ) -> Result<http::Response<WasiBody>, WasiError> {
        let (mut head, body) = request.into_parts();
        self.allows(&head).map_err(|denial| self.refuse(denial))?;
        let body = whole(body).await.map_err(|denial| self.refuse(denial))?;
        self.redeem().map_err(|denial| self.refuse(denial))?;

        if let Err(error) = self.intend().await {
            tracing::error!(%error, "not recorded, so not sent");
            self.not_sent(|seen| seen.audit = Some(error));
            return Err(WasiError::ConfigurationError);
        }

        let token = match self.egress.token().await {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(%error, "no token");
                self.not_sent(|seen| seen.identity = Some(error));
                return Err(WasiError::ConfigurationError);
            }
        };
        head.headers
            .insert(header::AUTHORIZATION, token.header().clone());

        self.depart(body.len())?;
        let clock = Arc::clone(&self.egress.clock);
        match self
            .egress
            .transport
            .send(head, body, clock, self.deadline)
            .await
        {
            Ok(response) => {
                let admitted = self.admit(response, token.header());
                if self.state().seen.status == Some(401) {
                    self.state().seen.rejected = Some(token);
                }
                admitted
            }
            Err(error) => {
                tracing::warn!(%error, "no answer");
                let code = wasi_error(error.kind);
                if error.kind.may_have_arrived() {
                    self.state().seen.transport = Some(error);
                } else {
                    self.not_sent(|seen| seen.transport = Some(error));
                }
                Err(code)
            }
        }
    }

    /// Decides about a request's head.
    fn allows(&self, head: &http::request::Parts) -> Result<(), Denial> {
        let (operation, target) = self.egress.policy.check(&head.method, &head.uri)?;
        self.decide(operation, self.grant.covers(operation, &target))?;
        match head
            .headers
            .keys()
            .find(|name| !REQUEST_HEADERS.contains(name))
        {
            Some(name) => Err(Denial::Header(name.to_string())),
            None => Ok(()),
        }
    }

    fn redeem(&self) -> Result<(), Denial> {
        let mut state = self.state();
        let redeemed = state.permit.as_mut().is_some_and(Permit::redeem);
        state.seen.is_allowed |= redeemed;
        if redeemed { Ok(()) } else { Err(Denial::Spent) }
    }

    /// From here on the request may arrive.
    fn depart(&self, bytes: usize) -> Result<(), WasiError> {
        let mut state = self.state();
        if state.is_over {
            // Nobody is there to hear it.
            return Err(WasiError::ConnectionTerminated);
        }
        if self.stop.as_ref().is_some_and(|stop| *stop.borrow()) {
            state.seen.stopped = true;
            if let Some(permit) = &mut state.permit {
                permit.give_back();
            }
            return Err(WasiError::HttpRequestDenied);
        }
        let now = self.egress.clock.now();
        if let Some(wait) = state.permit.as_ref().and_then(|p| p.closed_for(now)) {
            state.seen.closed = Some(whole_seconds(wait));
            if let Some(permit) = &mut state.permit {
                permit.give_back();
            }
            return Err(WasiError::HttpRequestDenied);
        }
        state.seen.may_have_arrived = true;
        state.seen.request_bytes = Some(bytes as u64);
        state.seen.sent_at = Some(now);
        Ok(())
    }

    async fn intend(&self) -> Result<(), AuditError> {
        match &self.trail {
            Some(trail) => {
                trail
                    .intend(&self.grant.operation().route().to_string())
                    .await
            }
            None => Ok(()),
        }
    }

    /// The answer's head is here: from now on the call counts from now, and the guest sees what it
    /// may see.
    fn admit(
        self: &Arc<Self>,
        response: http::Response<reqwest::Body>,
        bearer: &HeaderValue,
    ) -> Result<http::Response<WasiBody>, WasiError> {
        let now = self.egress.clock.now();
        let (mut head, body) = response.into_parts();
        {
            let mut state = self.state();
            if let Some(permit) = &mut state.permit {
                permit.settle(now);
            }
            state.seen.status = Some(head.status.as_u16());
            state.seen.answered_at = Some(now);
            let said = head.headers.get(header::RETRY_AFTER);
            state.seen.retry_after =
                said.and_then(|said| retry_after(said.to_str().ok()?, self.egress.clock.wall()));
            // From its head on, whatever becomes of the rest of it.
            if let (429, Some(seconds), Some(permit)) =
                (head.status.as_u16(), state.seen.retry_after, &state.permit)
            {
                permit.close(now, Duration::from_secs(seconds.into()).min(HEEDED_MAX));
            }
        }
        tracing::debug!(status = head.status.as_u16(), "answer");
        let size = section_size(&head.headers);
        if size > RESPONSE_HEADERS_MAX {
            return Err(WasiError::HttpResponseHeaderSectionSize(Some(size)));
        }
        let correlation_id = correlation_id(&head.headers);
        head.headers = visible(&head.headers);
        let bearer = bearer.as_bytes();
        let needle = Needle::new(bearer.strip_prefix(b"Bearer ").unwrap_or(bearer));
        if head.headers.values().any(|v| needle.is_in(v.as_bytes())) {
            self.note_echo();
            return Err(WasiError::HttpProtocolError);
        }
        self.state().seen.correlation_id = correlation_id.filter(|id| !needle.is_in(id.as_bytes()));
        let call = Arc::clone(self);
        let body = AnswerBody::new(
            body,
            self.operation().reads_a_list(),
            needle,
            Box::new(move || call.note_echo()),
            Arc::clone(&self.egress.clock),
            self.deadline,
        );
        let call = Arc::clone(self);
        let body = body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                call.state().seen.answer.extend_from_slice(data);
            }
            frame
        });
        Ok(http::Response::from_parts(head, body.boxed_unsync()))
    }

    fn note_echo(&self) {
        tracing::warn!("the answer repeats the token, and is withheld");
        self.state().seen.echoed = true;
    }

    /// Nothing was sent, for certain: the permit's slot is free again.
    fn not_sent(&self, note: impl FnOnce(&mut Seen)) {
        let mut state = self.state();
        state.seen.may_have_arrived = false;
        note(&mut state.seen);
        if let Some(permit) = &mut state.permit {
            permit.give_back();
        }
    }

    fn deny(&self, denial: Denial) -> Denial {
        let mut state = self.state();
        let seen = &mut state.seen;
        seen.denials = seen.denials.saturating_add(1);
        if seen.denied.len() < DENIALS_KEPT {
            match denial.rule() {
                // Quoted, as it stands in the configuration's list.
                Some(rule) => tracing::warn!(%denial, rule = rule.to_string(), "denied"),
                None => tracing::warn!(%denial, "denied"),
            }
            seen.denied.push(denial.clone());
        }
        drop(state);
        denial
    }

    fn refuse(&self, denial: Denial) -> WasiError {
        self.deny(denial);
        WasiError::HttpRequestDenied
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole body, before anything leaves: a request that the guest does not finish is never begun.
async fn whole(body: WasiBody) -> Result<Bytes, Denial> {
    let body = Limited::new(body, REQUEST_BODY_MAX)
        .collect()
        .await
        .map_err(|_| Denial::Body)?;
    if body.trailers().is_some() {
        Err(Denial::Body)
    } else {
        Ok(body.to_bytes())
    }
}

fn visible(headers: &HeaderMap) -> HeaderMap {
    let mut visible = HeaderMap::new();
    for (name, value) in headers {
        if RESPONSE_HEADERS.contains(name) {
            visible.append(name.clone(), value.clone());
        }
    }
    visible
}

/// Names, values, and what stands between them.
fn section_size(headers: &HeaderMap) -> u32 {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What `Retry-After` says (RFC 9110, section 10.2.3): seconds, or a date.
fn retry_after(said: &str, now: jiff::Timestamp) -> Option<u32> {
    let said = said.trim();
    if !said.is_empty() && said.bytes().all(|b| b.is_ascii_digit()) {
        return Some(said.parse().unwrap_or(u32::MAX));
    }
    let date = jiff::fmt::rfc2822::parse(said).ok()?;
    let left = date.timestamp().duration_since(now).as_secs().max(0);
    // Of the second that has begun, too.
    Some(u32::try_from(left).unwrap_or(u32::MAX).saturating_add(1))
}

/// A GUID, or what has the form of an id. It goes into the record, so nothing else is taken for one.
fn correlation_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(CORRELATION_ID)?.to_str().ok()?;
    let is_id = id.len() <= 64
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-|._".contains(&b));
    is_id.then(|| id.to_owned())
}

/// Rounded up: the guest is told when it is worth asking again.
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

const fn wasi_error(kind: TransportErrorKind) -> WasiError {
    match kind {
        TransportErrorKind::Dns => WasiError::DnsError {
            rcode: None,
            info_code: None,
        },
        TransportErrorKind::Address => WasiError::DestinationIpProhibited,
        TransportErrorKind::Refused | TransportErrorKind::Proxy => WasiError::ConnectionRefused,
        TransportErrorKind::ConnectTimeout => WasiError::ConnectionTimeout,
        TransportErrorKind::Certificate => WasiError::TlsCertificateError,
        TransportErrorKind::Tls => WasiError::TlsProtocolError,
        TransportErrorKind::NotARequest => WasiError::HttpRequestUriInvalid,
        TransportErrorKind::TooLate => WasiError::ConnectionWriteTimeout,
        TransportErrorKind::Broken => WasiError::ConnectionTerminated,
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

/// What `wasi:http` calls: a call's way out, and nothing more.
pub(crate) struct Hooks(pub(crate) Arc<Call>);

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
            let response = call.send(request).await?;
            let nothing_left_to_do: Connection = Box::new(std::future::ready(Ok(())));
            Ok((response, nothing_left_to_do))
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

//! One call's way out.
//!
//! [`Call::send`] is the only one, and its order is the point:
//!
//! 1. *policy and grant*: what the guest asks for, its body included, is what this call may do;
//! 2. *permit*: the quota has room for it, and this is the one request that it has room for;
//! 3. *audit*: what is about to be sent is on record, or it is not sent;
//! 4. *identity*: asked for last, because waiting for a quota or a disk can outlive a token. There was
//!    one before the call was begun: waiting for one is no part of a call;
//! 5. *transport*: once.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::sync::watch;
use tracing::Instrument as _;

use super::{AnswerError, Egress, Observation, Refusal, SendError};
use crate::grant::Grant;
use crate::policy::Denial;
use crate::policy::Route;
use crate::response_body::{Answer, TokenScanner};
use defender_audit::{AuditError, Claimed, Ending, Trail};
use defender_connect::identity::BearerToken;
use defender_connect::transport::RESPONSE_HEADERS_MAX;
use defender_core::clock::Moment;
use defender_core::operation::Operation;
use defender_core::origin::Origin;
use defender_core::retry::{RETRY_AFTER_MAX, retry_after};
use defender_core::summary::ResponseSummary;
use defender_quota::Permit;

/// The longest comment, with every character escaped, is a quarter of this.
pub const REQUEST_BODY_MAX: usize = 128 * 1024;

/// What a guest may send along. Of `host` and `accept-encoding` nothing is taken on: both are set
/// here, the one to the authority that was checked.
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

/// How long a 429 that does not say so is heeded: the service's shorter window.
const DEFAULT_BACKOFF: Duration = Duration::from_secs(60);

/// One call: the right to one request, and the way out for it.
///
/// Whoever has it made the call. [Ended](Self::end) or dropped, nothing leaves any more: a permit
/// of which no use was made is free again, and what the boundary saw is recorded.
pub struct Call {
    way: Arc<WayOut>,
    /// It was waited for, and what it came to is known and on its way to the record.
    is_judged: AtomicBool,
}

/// What a [`Call`] has that its guest may use as well.
pub struct WayOut {
    egress: Egress,
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
    /// The token that was there as the call was begun.
    token: Option<BearerToken>,
    seen: Observation,
    /// What was seen has been told. Nothing may leave any more.
    is_over: bool,
    /// Where its exchange is on the tape, if there is one.
    taped: Option<usize>,
}

/// What a call is made of.
pub(super) struct Parts {
    pub(super) egress: Egress,
    pub(super) grant: Grant,
    pub(super) permit: Option<Permit>,
    pub(super) token: Option<BearerToken>,
    pub(super) deadline: Moment,
    pub(super) stop: Option<watch::Receiver<bool>>,
    pub(super) trail: Option<Trail>,
    pub(super) span: tracing::Span,
}

/// What the message of a 429 says, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimitHint {
    /// The delay in the response's header.
    pub retry_after: Option<u32>,
    /// The window that the response's message names.
    pub window: Option<u32>,
}

impl Call {
    pub(super) fn new(parts: Parts) -> Self {
        let way = WayOut {
            egress: parts.egress,
            grant: parts.grant,
            deadline: parts.deadline,
            stop: parts.stop,
            trail: parts.trail,
            span: parts.span,
            state: Mutex::new(State {
                permit: parts.permit,
                token: parts.token,
                seen: Observation::default(),
                is_over: false,
                taped: None,
            }),
        };
        Self {
            way: Arc::new(way),
            is_judged: AtomicBool::new(false),
        }
    }

    /// What it may do.
    pub fn grant(&self) -> &Grant {
        &self.way.grant
    }

    /// After this moment it sends nothing.
    pub fn deadline(&self) -> Moment {
        self.way.deadline
    }

    /// Decides whether a guest may do what it is about to do, before there is a request. Redeems
    /// nothing.
    pub fn open(&self, operation: Operation, target: Option<&str>) -> Result<(), Refusal> {
        self.way.open(operation, target)
    }

    /// Lets the call's one request leave, and its answer in.
    ///
    /// It has no time-out of its own: [`until_deadline`](Self::until_deadline) is one.
    pub async fn send<B>(
        &self,
        request: http::Request<B>,
    ) -> Result<http::Response<UnsyncBoxBody<Bytes, AnswerError>>, SendError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let span = self.way.span();
        self.way.send(request).instrument(span).await
    }

    /// What becomes of something until the call's deadline: a request, a guest's run. The time is
    /// looked at whenever it lets others run, because a runtime that is kept busy looks at its
    /// timers late.
    pub async fn until_deadline<T>(&self, running: impl Future<Output = T>) -> Option<T> {
        let (clock, deadline) = (self.way.egress.clock(), self.way.deadline);
        let mut running = std::pin::pin!(running);
        let mut sleep = clock.sleep_until(deadline);
        std::future::poll_fn(move |cx| {
            if let Poll::Ready(result) = running.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            if clock.now() >= deadline || sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// Ends the call: records what came of it, heeds a 429, and says what was seen.
    ///
    /// Where the disk is slow to take the record, that can add up to a second to the call's time.
    pub async fn end(self) -> Observation {
        let seen = self.close();
        self.apply_rate_limit(&seen, None);
        let said = seen.said(self.grant());
        let is_late = self.way.egress.clock().now() >= self.deadline();
        let ended = seen.ending(self.grant(), said.as_ref(), is_late);
        self.conclude(&seen, ended, said, None, None).await;
        seen
    }

    /// Returns the handle by which a guest sends the call's request.
    pub const fn way_out(&self) -> &Arc<WayOut> {
        &self.way
    }

    /// What everything that is logged of the call belongs to.
    pub fn span(&self) -> tracing::Span {
        self.way.span()
    }

    /// Lets nothing out any more, and says what was seen.
    ///
    /// A guest that did not wait for its answer leaves a request behind, which goes down in a task
    /// of its own and may be at work at this very moment. From now on it does not get out, so what
    /// is told of the call stays true.
    pub fn close(&self) -> Observation {
        let mut state = self.way.state();
        state.is_over = true;
        if !state.seen.may_have_arrived
            && let Some(permit) = &mut state.permit
        {
            permit.give_back();
        }
        if let (Some(tape), Some(place), false) =
            (self.way.egress.tape(), state.taped, state.seen.echoed)
        {
            tape.close(place, &state.seen.answer);
        }
        state.seen.clone()
    }

    /// A 429 closes the key, if the boundary saw one, whatever became of the call: for as long as
    /// its header says (a day at most) or its message (one window at most), whichever is longer; and
    /// never for less than [`Permit::refused`] says.
    pub fn apply_rate_limit(&self, seen: &Observation, hint: Option<RateLimitHint>) {
        let state = self.way.state();
        let (Some(permit), Some(429)) = (&state.permit, seen.status) else {
            return;
        };
        let egress = &self.way.egress;
        let longest = egress.limiter().longest_window().max(DEFAULT_BACKOFF);
        let seconds = |n: Option<u32>, most| n.map(|n| Duration::from_secs(n.into()).min(most));
        let (mut wait, mut window) = (seconds(seen.retry_after, RETRY_AFTER_MAX), None);
        if let Some(hint) = hint {
            wait = wait.max(seconds(hint.retry_after, longest));
            window = seconds(hint.window, longest);
        }
        let wait = wait.or(window).unwrap_or(DEFAULT_BACKOFF);
        let wait = wait.max(seen.least_wait);
        tracing::warn!(?wait, "the service's quota is used up: no call before that");
        permit.close(egress.clock().now(), wait);
    }

    /// Records how the call ended, and waits for it.
    pub async fn conclude(
        &self,
        seen: &Observation,
        ended: Ending,
        said: Option<ResponseSummary>,
        claimed: Option<Claimed>,
        fault: Option<String>,
    ) {
        // From here to the record's writer there is no waiting.
        self.is_judged.store(true, Ordering::Relaxed);
        // What could not be recorded was not sent, and has no outcome.
        if let Some(trail) = &self.way.trail
            && seen.audit.is_none()
        {
            let outcome = seen.outcome(ended, self.grant(), said, claimed, fault);
            trail.conclude(&outcome, self.deadline()).await;
        }
    }
}

/// Whoever made the call may not have waited for its end.
impl Drop for Call {
    fn drop(&mut self) {
        if *self.is_judged.get_mut() {
            return;
        }
        let seen = self.close();
        self.apply_rate_limit(&seen, None);
        if let Some(trail) = &self.way.trail
            && seen.audit.is_none()
        {
            let said = seen.said(self.grant());
            trail.abandon(&seen.outcome(Ending::Abandoned, self.grant(), said, None, None));
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("grant", self.grant())
            .field("deadline", &self.deadline())
            .finish_non_exhaustive()
    }
}

impl WayOut {
    /// What the call does.
    pub const fn operation(&self) -> Operation {
        self.grant.operation()
    }

    /// Where its request goes.
    pub fn origin(&self) -> &Origin {
        self.egress.policy().origin()
    }

    /// Returns the span of the call's log entries.
    pub fn span(&self) -> tracing::Span {
        self.span.clone()
    }

    /// Answers `connection.open`. Redeems nothing.
    pub fn open(&self, operation: Operation, target: Option<&str>) -> Result<(), Refusal> {
        if let Err(denial) = self.decide(operation, self.grant.opens(operation, target)) {
            return Err(self.deny(denial).into());
        }
        let now = self.egress.clock().now();
        let closed = self.state().permit.as_ref().and_then(|p| p.closed_for(now));
        if let Some(wait) = closed {
            self.state().seen.is_held_back = true;
            let seconds = whole_seconds(wait);
            return Err(Refusal::Closed { seconds });
        }
        Ok(())
    }

    /// The one decision, for `open` and for a request alike.
    fn decide(&self, operation: Operation, granted: Result<(), Denial>) -> Result<(), Denial> {
        self.egress.policy().allows(operation)?;
        granted?;
        if self.state().permit.as_ref().is_some_and(Permit::is_fresh) {
            Ok(())
        } else {
            Err(Denial::Spent)
        }
    }

    /// Lets the call's one request leave, and its answer in.
    pub async fn send<B>(
        self: &Arc<Self>,
        request: http::Request<B>,
    ) -> Result<http::Response<UnsyncBoxBody<Bytes, AnswerError>>, SendError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut head, body) = request.into_parts();
        self.allows(&head).map_err(|denial| self.deny(denial))?;
        let body = collect_body(body)
            .await
            .and_then(|body| self.grant.allows_body(&body).map(|()| body))
            .map_err(|denial| self.deny(denial))?;
        // Read in another character set, it would be another comment.
        if !body.is_empty() {
            let json = HeaderValue::from_static("application/json");
            head.headers.insert(header::CONTENT_TYPE, json);
        }
        self.redeem().map_err(|denial| self.deny(denial))?;

        if let Err(error) = self.intend().await {
            tracing::error!(%error, "not recorded, so not sent");
            self.not_sent(|seen| seen.audit = Some(error.clone()));
            return Err(SendError::NotRecorded(error));
        }

        let before = self.state().token.take();
        let token = match (self.egress.token().await, before) {
            (Ok(token), _) => token,
            // It ended while it could not be renewed. Where the service refuses it, that is a 401,
            // which changes nothing and is followed by a renewal.
            (Err(error), Some(token)) if error.is_transient(true) => token,
            (Err(error), _) => {
                tracing::warn!(%error, "no token");
                self.not_sent(|seen| seen.identity = Some(error.clone()));
                return Err(SendError::NoToken(Box::new(error)));
            }
        };
        head.headers
            .insert(header::AUTHORIZATION, token.header().clone());
        // By another name, a front that serves many would hand the token to another service.
        head.headers.remove(header::HOST);
        if let Some(authority) = head.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            head.headers.insert(header::HOST, host);
        }
        // A server may compress all the same: see `encoding`.
        head.headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );

        self.depart(&head, &body)?;
        let clock = Arc::clone(self.egress.clock());
        match self
            .egress
            .transport()
            .send(head, body, clock, self.deadline)
            .await
        {
            Ok(response) => {
                let bearer = token.header().clone();
                if response.status() == http::StatusCode::UNAUTHORIZED {
                    self.state().seen.rejected = Some(token);
                }
                self.admit(response, &bearer).await
            }
            Err(error) => {
                tracing::warn!(%error, "no answer");
                if error.kind.may_have_arrived() {
                    self.state().seen.transport = Some(error.clone());
                } else {
                    self.not_sent(|seen| seen.transport = Some(error.clone()));
                }
                Err(SendError::Transport(error))
            }
        }
    }

    /// Decides about a request's head.
    fn allows(&self, head: &http::request::Parts) -> Result<(), Denial> {
        let (operation, target) = self.egress.policy().check(&head.method, &head.uri)?;
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
    fn depart(&self, head: &http::request::Parts, body: &Bytes) -> Result<(), SendError> {
        let mut state = self.state();
        if state.is_over {
            return Err(SendError::Over);
        }
        if self.stop.as_ref().is_some_and(|stop| *stop.borrow()) {
            state.seen.stopped = true;
            if let Some(permit) = &mut state.permit {
                permit.give_back();
            }
            return Err(SendError::Stopped);
        }
        let now = self.egress.clock().now();
        if let Some(wait) = state.permit.as_ref().and_then(|p| p.closed_for(now)) {
            let seconds = whole_seconds(wait);
            state.seen.closed = Some(seconds);
            if let Some(permit) = &mut state.permit {
                permit.give_back();
            }
            return Err(SendError::Closed { seconds });
        }
        state.seen.may_have_arrived = true;
        state.seen.request_bytes = Some(body.len() as u64);
        state.seen.sent_at = Some(now);
        if let Some(tape) = self.egress.tape() {
            let clock = self.egress.clock().as_ref();
            state.taped = tape.depart(self.operation(), head, body, clock);
        }
        Ok(())
    }

    async fn intend(&self) -> Result<(), AuditError> {
        match &self.trail {
            Some(trail) => {
                trail
                    .intend(&Route::of(self.grant.operation()).to_string())
                    .await
            }
            None => Ok(()),
        }
    }

    /// The answer's head is here: from now on the call counts from now, and the guest sees what it
    /// may see. The body is read before the guest gets any of it, so that what the host knows of it
    /// does not depend on the guest.
    async fn admit(
        self: &Arc<Self>,
        response: http::Response<reqwest::Body>,
        bearer: &HeaderValue,
    ) -> Result<http::Response<UnsyncBoxBody<Bytes, AnswerError>>, SendError> {
        let now = self.egress.clock().now();
        let (mut head, body) = response.into_parts();
        {
            let mut state = self.state();
            if let Some(permit) = &mut state.permit {
                permit.settle(now);
            }
            state.seen.status = Some(head.status.as_u16());
            state.seen.answered_at = Some(now);
            state.seen.retry_after = retry_after(&head.headers, self.egress.clock().wall());
            let State { permit, seen, .. } = &mut *state;
            // From its head on, whatever becomes of the rest of it.
            if let Some(permit) = permit {
                if head.status.as_u16() == 429 {
                    seen.least_wait = permit.refused(now);
                    let said = seen.retry_after.unwrap_or_default();
                    let said = Duration::from_secs(said.into()).min(RETRY_AFTER_MAX);
                    permit.close(now, said.max(seen.least_wait));
                } else {
                    permit.accepted();
                }
            }
        }
        tracing::debug!(status = head.status.as_u16(), "answer");
        let size = section_size(&head.headers);
        if size > RESPONSE_HEADERS_MAX {
            return Err(SendError::HeadersTooLong(size));
        }
        let correlation_id = correlation_id(&head.headers);
        let all = std::mem::take(&mut head.headers);
        head.headers = visible(&all);
        let bearer = bearer.as_bytes();
        let needle = TokenScanner::new(bearer.strip_prefix(b"Bearer ").unwrap_or(bearer));
        if let (Some(tape), Some(place)) = (self.egress.tape(), self.state().taped) {
            tape.answer(place, head.status.as_u16(), &all, &needle, now);
        }
        if head.headers.values().any(|v| needle.is_in(v.as_bytes())) {
            self.note_echo();
            return Err(SendError::Echoed);
        }
        self.state().seen.correlation_id = correlation_id.filter(|id| !needle.is_in(id.as_bytes()));
        let call = Arc::clone(self);
        let body = Answer::new(
            body,
            &all,
            self.operation().reads_a_list(),
            needle,
            Box::new(move || call.note_echo()),
            Arc::clone(self.egress.clock()),
            self.deadline,
        );
        let (answer, unread) = read(body).await;
        if let Some(error) = &unread {
            tracing::warn!(%error, "the answer is not handed on");
        }
        let mut state = self.state();
        state.seen.headers = Some(head.headers.clone());
        state.seen.answer = answer.clone();
        state.seen.unread.clone_from(&unread);
        drop(state);
        let body = Full::new(answer)
            .map_err(|never| match never {})
            .with_trailers(std::future::ready(unread.map(Err)));
        Ok(http::Response::from_parts(head, body.boxed_unsync()))
    }

    fn note_echo(&self) {
        tracing::warn!("the answer repeats the token, and is withheld");
        self.state().seen.echoed = true;
    }

    /// Nothing was sent, for certain: the permit's slot is free again.
    fn not_sent(&self, note: impl FnOnce(&mut Observation)) {
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole body, before anything leaves: a request that the guest does not finish is never begun.
async fn collect_body<B>(body: B) -> Result<Bytes, Denial>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(body, REQUEST_BODY_MAX)
        .collect()
        .await
        .map_err(|_| Denial::Body("is too long or incomplete"))?;
    if body.trailers().is_some() {
        Err(Denial::Body("has trailers"))
    } else {
        Ok(body.to_bytes())
    }
}

/// A body as far as it could be read, and why the rest could not.
async fn read<B>(mut body: B) -> (Bytes, Option<AnswerError>)
where
    B: Body<Data = Bytes, Error = AnswerError> + Unpin,
{
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => all.extend_from_slice(&data),
            Ok(Err(_trailers)) => {}
            Err(error) => return (all.into(), Some(error)),
        }
    }
    (all.into(), None)
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

/// A GUID, or what has the form of an id. It goes into the record, so nothing else is taken for
/// one.
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

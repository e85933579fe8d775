//! The boundary: where a call's one request leaves, or does not.
//!
//! It knows nothing of WebAssembly, so it serves a host with an engine, a linker and stores of its
//! own as it serves the wasmtime host, and one without any guest as well. An [`Egress`]
//! is what all calls share. [`Egress::begin`] waits for the quota and makes a [`Call`], which may
//! send one request, for what its [`Grant`] names. A guest sends it by the call's [`WayOut`].
//!
//! ```no_run
//! # async fn example(token: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use defender_connect::cloud::Service;
//! use defender_boundary::{WaitOptions, Setup};
//! use defender_boundary::grant::{Grant, Operation, Target};
//! use defender_connect::identity::FixedToken;
//!
//! let service = Service::commercial();
//! let egress = Setup::new(service, Arc::new(FixedToken::new(token)?)).build()?;
//!
//! let device = Target::Machine("1e5bc9d7e413ddd7902c2932e418702b84d0cc07".parse()?);
//! let comment = "INC-42: cleaned";
//! let grant =
//!     Grant::new(Operation::UnrestrictCodeExecution, Some(device)).with_comment(comment);
//! let call = egress.begin(grant, WaitOptions::default()).await?;
//! let request = http::Request::post(format!(
//!     "{}/api/machines/1e5bc9d7e413ddd7902c2932e418702b84d0cc07/unrestrictCodeExecution",
//!     egress.policy().origin()
//! ))
//! .header("content-type", "application/json")
//! .body(http_body_util::Full::from(r#"{"Comment":"INC-42: cleaned"}"#))?;
//! let answer = call.until_deadline(call.send(request)).await;
//! // Whatever came of it: the quota counts it rightly from here on, and it is on record.
//! let seen = call.end().await;
//! println!("{:?}, {answer:?}", seen.status);
//! # Ok(()) }
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod call;
mod error;
pub mod grant;
mod observation;
pub mod policy;
mod response_body;
mod tape;
mod wait_options;
pub mod waiting;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::grant::Grant;
use crate::policy::Policy;
use crate::waiting::{Cause, Trouble, Waiting};
use defender_audit::{Audit, Trail};
use defender_connect::cloud::Service;
use defender_connect::identity::{
    BearerToken, Credential, IdentityError, Principal, Retry, TokenSource,
};
use defender_connect::transport::{SetupError, Transport};
use defender_core::clock::{Clock, Moment, SystemClock};
use defender_core::operation::{Operation, Target};
use defender_core::retry::{backoff, jitter};
use defender_quota::{Key, Limiter, Memory, NoPermit, NotUntil, Permit, Quota, QuotaStore};

pub use crate::response_body::AnswerError;
pub use call::{Call, REQUEST_BODY_MAX, WayOut};
pub use defender_quota::CALL_TIMEOUT;
pub use error::{BeginError, Refusal, SendError};
pub use observation::Observation;
pub use tape::{Exchange, Tape};
pub use wait_options::{
    BeforeSend, MaySend, TOKEN_RETRY_CALL, TOKEN_RETRY_FIRST, TOKEN_RETRY_RUN, WaitOptions,
};

pub use call::RateLimitHint;
pub use error::when;
pub use wait_options::stopped;

use call::Parts;

/// What a boundary is made of. [`new`](Self::new) asks for what has no default.
pub struct Setup {
    /// The service to call.
    pub service: Service,
    /// Where tokens come from.
    pub tokens: Arc<dyn TokenSource>,
    /// What may leave. Releasing and reading, at the service's origin; restricting and cancelling
    /// need a [`Route`](crate::policy::Route) of their own.
    pub policy: Policy,
    /// What the quotas are: [`Quota::DOCUMENTED`].
    pub quotas: Vec<Quota>,
    /// How long one call may take, from the moment it has its permit: [`CALL_TIMEOUT`].
    pub call_timeout: Duration,
    /// What time it is: the machine's clock.
    pub clock: Arc<dyn Clock>,
    /// Where every call is recorded: nowhere, unless it is said.
    pub audit: Option<Arc<Audit>>,
    /// Where calls are counted: in this process's memory, unless it is said.
    pub ledger: Option<Arc<dyn QuotaStore>>,
    /// Who this is, for those who look at the ledger: the process, by its number.
    pub name: String,
    /// Keeps every exchange, for a pilot: none, unless it is set.
    pub tape: Option<Tape>,
}

impl Setup {
    /// With the defaults that are stated at each field.
    pub fn new(service: Service, tokens: Arc<dyn TokenSource>) -> Self {
        Self {
            policy: Policy::release_and_read(service.origin().clone()),
            service,
            tokens,
            quotas: Quota::DOCUMENTED.to_vec(),
            call_timeout: CALL_TIMEOUT,
            clock: Arc::new(SystemClock::new()),
            audit: None,
            ledger: None,
            name: format!("process {}", std::process::id()),
            tape: None,
        }
    }

    /// Makes the boundary. Connects to nothing yet.
    pub fn build(self) -> Result<Egress, SetupError> {
        // The token goes where the policy says, so the two must be one.
        if self.policy.origin() != self.service.origin() {
            return Err(SetupError::OtherOrigin {
                policy: self.policy.origin().clone(),
                service: self.service.origin().clone(),
            });
        }
        let clock = Arc::clone(&self.clock);
        let ledger = self
            .ledger
            .unwrap_or_else(|| Arc::new(Memory::new(Arc::clone(&clock))));
        let shared = Shared {
            policy: self.policy,
            tokens: self.tokens,
            has_had_token: AtomicBool::new(false),
            transport: Transport::to_service(&self.service, self.call_timeout)?,
            service: self.service,
            limiter: Limiter::new(clock, &self.quotas, ledger, &self.name),
            call_timeout: self.call_timeout,
            clock: self.clock,
            audit: self.audit,
            tape: self.tape,
        };
        Ok(Egress {
            shared: Arc::new(shared),
            component: Arc::from("unknown"),
        })
    }
}

/// Lets calls out. Cheap to clone; the clones share connections, tokens and quotas.
#[derive(Clone)]
pub struct Egress {
    shared: Arc<Shared>,
    component: Arc<str>,
}

/// What all calls share.
struct Shared {
    policy: Policy,
    /// The one that the policy is for.
    service: Service,
    tokens: Arc<dyn TokenSource>,
    has_had_token: AtomicBool,
    transport: Transport,
    limiter: Limiter,
    call_timeout: Duration,
    clock: Arc<dyn Clock>,
    audit: Option<Arc<Audit>>,
    tape: Option<Tape>,
}

impl Egress {
    /// The same boundary, for calls that are made for this component: by its digest, as the record
    /// is to name it.
    #[must_use]
    pub fn made_for(&self, component: &str) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            component: Arc::from(component),
        }
    }

    /// Everything that comes before a call is made: waits for the quota and for a token, as long as
    /// `patience` allows, and makes the way out of one call, which may send one request for what
    /// the grant names, before its deadline.
    ///
    /// While there is no token, the call takes nothing of the quota. A grant without a target never
    /// does, because no request can follow.
    pub async fn begin(&self, grant: Grant, patience: WaitOptions) -> Result<Call, BeginError> {
        let (permit, token) = if grant.target().is_some() {
            let (permit, token) = tokio::select! {
                biased;
                permitted = self.permit_and_token(grant.operation(), &patience) => permitted?,
                () = stopped(patience.stop.clone()) => return Err(BeginError::Stopped),
            };
            if let Some(consent) = &patience.consent {
                consent().await.map_err(BeginError::Aborted)?;
            }
            (Some(permit), token)
        } else {
            (None, None)
        };
        let deadline = permit
            .as_ref()
            .map_or(self.clock().now() + self.call_timeout(), Permit::deadline);
        let id = uuid::Uuid::new_v4().to_string();
        // At a level at which it is there for every event that is shown. Without the comment, in
        // which people name people.
        let span = tracing::error_span!(
            "call",
            %id,
            operation = %grant.operation(),
            target = grant.target().and_then(Target::named),
        );
        let used = permit.as_ref().map(|permit| permit.used().to_vec());
        let trail = self.trail(id, &grant, used.unwrap_or_default());
        Ok(Call::new(Parts {
            egress: self.clone(),
            grant,
            permit,
            token,
            deadline,
            stop: patience.stop,
            trail,
            span,
        }))
    }

    /// The service refused the token of this call with 401: whether another one can be had, for a
    /// call of its own.
    pub async fn renew(&self, seen: &Observation) -> Result<bool, IdentityError> {
        match &seen.rejected {
            Some(rejected) => self.shared.tokens.renew(rejected).await,
            None => Ok(false),
        }
    }

    /// The same, asked for again after failures that may pass, as long as `patience` allows.
    pub async fn renew_patiently(
        &self,
        seen: &Observation,
        patience: &WaitOptions,
    ) -> Result<bool, IdentityError> {
        let renewing = || self.in_time(patience.until, self.renew(seen));
        self.persist(patience, renewing().await, renewing).await
    }

    /// What may leave.
    pub fn policy(&self) -> &Policy {
        &self.shared.policy
    }

    /// Where every call is recorded.
    pub fn audit(&self) -> Option<&Arc<Audit>> {
        self.shared.audit.as_ref()
    }

    /// How long one call may take.
    pub fn call_timeout(&self) -> Duration {
        self.shared.call_timeout
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// What makes the calls wait for each other.
    pub fn limiter(&self) -> &Limiter {
        &self.shared.limiter
    }

    /// A moment to come, on the calendar.
    pub fn calendar(&self, at: Moment) -> jiff::Timestamp {
        at.on_calendar(self.clock().now(), self.clock().wall())
    }

    /// Who calls are made and counted for. Where that is not configured, a token is fetched to
    /// know.
    pub async fn principal(&self) -> Result<Principal, IdentityError> {
        self.shared.tokens.principal().await
    }

    fn tape(&self) -> Option<&Tape> {
        self.shared.tape.as_ref()
    }

    /// The same, asked for again after failures that may pass, as long as `patience` allows.
    pub async fn principal_within(
        &self,
        patience: &WaitOptions,
    ) -> Result<Principal, IdentityError> {
        let asking = || self.in_time(patience.until, self.principal());
        self.persist(patience, asking().await, asking).await
    }

    /// The credential that tokens are obtained with, where there is one.
    pub async fn credential(&self) -> Option<Credential> {
        self.shared.tokens.credential().await
    }

    /// Returns the transport that requests leave by.
    pub fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    /// A token, if it is one that may go to the service. Wherever it comes from: a file, or
    /// a source that was made for another service.
    pub async fn token(&self) -> Result<BearerToken, IdentityError> {
        let token = self.shared.tokens.token().await?;
        self.shared.has_had_token.store(true, Ordering::Relaxed);
        let service = &self.shared.service;
        match service.may_receive(&token.claims().audiences) {
            Ok(()) => Ok(token),
            Err(audience) => Err(IdentityError::NotForThisService {
                audience: audience.to_owned(),
                origin: service.origin().to_string(),
                scope: service.scope().to_owned(),
            }),
        }
    }

    /// The same, asked for again after failures that may pass, as long as `patience` allows.
    pub async fn token_within(&self, patience: &WaitOptions) -> Result<BearerToken, IdentityError> {
        let asking = || self.token();
        self.persist(patience, asking().await, asking).await
    }

    /// After this failure: asks for a token again, as long as `patience` allows.
    pub async fn recover(
        &self,
        patience: &WaitOptions,
        error: IdentityError,
    ) -> Result<(), IdentityError> {
        let asking = || self.in_time(patience.until, self.token());
        self.persist(patience, Err(error), asking).await.map(drop)
    }

    fn has_had_token(&self) -> bool {
        self.shared.has_had_token.load(Ordering::Relaxed)
    }

    /// Attempts something that needs a token again, while it fails in a way that may pass: until it
    /// succeeds, or `patience` ends. Dropping it ends it too. `first` is the result of the first
    /// attempt.
    async fn persist<T, F>(
        &self,
        patience: &WaitOptions,
        first: Result<T, IdentityError>,
        attempt: impl Fn() -> F,
    ) -> Result<T, IdentityError>
    where
        F: Future<Output = Result<T, IdentityError>>,
    {
        let began = self.clock().now();
        let mut result = first;
        let mut failed: Option<IdentityError> = None;
        let mut failures = 0;
        loop {
            let error = match result {
                Ok(done) => return Ok(done),
                // What was the matter before says more.
                Err(IdentityError::NotInTime) => {
                    return Err(failed.unwrap_or(IdentityError::NotInTime));
                }
                Err(error) => error,
            };
            let has_worked = self.has_had_token();
            if !error.is_transient(has_worked) {
                return Err(error);
            }
            let now = self.clock().now();
            failures += 1;
            let retry = self.shared.tokens.retry().unwrap_or_else(|| {
                let wait = backoff(failures);
                let at = now + wait + jitter(wait, now);
                Retry { at, failures }
            });
            let first = (!has_worked && !error.is_from_an_authority()).then_some(TOKEN_RETRY_FIRST);
            let longest = [patience.token_retry, first].into_iter().flatten().min();
            let ends = [patience.until, longest.map(|time| began + time)];
            let gives_up = ends.into_iter().flatten().min();
            if gives_up.is_some_and(|end| retry.at > end) {
                return Err(error);
            }
            tracing::warn!(%error, attempts = retry.failures, "no token; it is asked for again");
            if let Some(on_wait) = &patience.on_wait {
                on_wait(Waiting {
                    cause: Cause::Token(Trouble::from(&error)),
                    until: Some(self.calendar(retry.at)),
                });
            }
            self.clock().sleep_until(retry.at).await;
            failed = Some(error);
            result = attempt().await;
        }
    }

    /// Returns the key under which calls of the operation are counted.
    pub async fn key(&self, operation: Operation) -> Result<Key, IdentityError> {
        let principal = self.principal().await?;
        Ok(Key {
            tenant: principal.tenant,
            application: principal.application,
            operation,
        })
    }

    /// Who waits for a token waits for an authority, and perhaps for a person: no longer than the
    /// caller does.
    pub async fn in_time<T>(
        &self,
        until: Option<Moment>,
        waiting: impl Future<Output = Result<T, IdentityError>>,
    ) -> Result<T, IdentityError> {
        let Some(until) = until else {
            return waiting.await;
        };
        tokio::select! {
            biased;
            done = waiting => done,
            () = self.clock().sleep_until(until) => Err(IdentityError::NotInTime),
        }
    }

    /// The right to one call, when there is one, and a token for it.
    ///
    /// Nobody waits for a token with a permit in hand, longer than a call takes: others may want the
    /// slot. A token is asked for here only after a failure, and for those who write down that a
    /// request may leave; else by the request itself, which a guest may never make.
    async fn permit_and_token(
        &self,
        operation: Operation,
        patience: &WaitOptions,
    ) -> Result<(Permit, Option<BearerToken>), BeginError> {
        loop {
            let permit = self.permit(operation, patience).await?;
            let is_wanted = patience.consent.is_some() || self.shared.tokens.retry().is_some();
            if !is_wanted || self.policy().allows(operation).is_err() {
                return Ok((permit, None));
            }
            let asking = self.in_time(Some(permit.deadline()), self.token());
            let error = match asking.await {
                Ok(token) => return Ok((permit, Some(token))),
                Err(error) => error,
            };
            drop(permit);
            let asking = || self.in_time(patience.until, self.token());
            let first = match error {
                IdentityError::NotInTime => asking().await,
                error => Err(error),
            };
            self.persist(patience, first, asking).await?;
        }
    }

    /// The right to one call, when there is one.
    async fn permit(
        &self,
        operation: Operation,
        patience: &WaitOptions,
    ) -> Result<Permit, BeginError> {
        let key = || self.in_time(patience.until, self.key(operation));
        let key = self.persist(patience, key().await, key).await?;
        let on_wait = |wait: NotUntil| {
            if let Some(on_wait) = &patience.on_wait {
                on_wait(Waiting {
                    cause: Cause::Quota(wait.why),
                    until: Some(self.calendar(wait.at)),
                });
            }
        };
        let ends = [patience.until, patience.quota_until];
        let until = ends.into_iter().flatten().min();
        self.limiter()
            .acquire(&key, self.call_timeout(), until, &on_wait)
            .await
            .map_err(|none| match none {
                NoPermit::Ledger(error) => error.into(),
                NoPermit::NotUntil(wait) => BeginError::Quota {
                    wait,
                    until: self.calendar(wait.at),
                },
            })
    }

    fn trail(&self, call: String, grant: &Grant, used: Vec<(Quota, usize)>) -> Option<Trail> {
        let trail = Trail::new(
            Arc::clone(self.audit()?),
            Arc::clone(self.clock()),
            call,
            self.component.to_string(),
            grant.operation(),
            grant.target().cloned(),
            used,
        );
        Some(trail.with_comment(grant.comment()))
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress")
            .field("policy", self.policy())
            .finish_non_exhaustive()
    }
}

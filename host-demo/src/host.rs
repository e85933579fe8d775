//! The host: a plugin, a service, an identity and the quotas, as one thing that makes calls.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use host_demo::cloud::Service;
//! use host_demo::host::{Patience, Setup};
//! use host_demo::identity::FixedToken;
//! use host_demo::plugin::{Plugin, engine};
//!
//! let plugin = Plugin::from_file(&engine(None)?, "defender-endpoint.wasm".as_ref())?;
//! let tokens = Arc::new(FixedToken::new(std::fs::read_to_string("token")?.trim())?);
//! let host = Setup::new(plugin, Service::commercial(), tokens).build()?;
//!
//! let id = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
//! match host.unrestrict_code_execution(id, "INC-42: cleaned", Patience::default()).await {
//!     Ok(action) => println!("accepted: {}", action.id),
//!     Err(error) => println!("{error}; effect: {:?}", error.effect()),
//! }
//! # Ok(()) }
//! ```

mod error;
mod judge;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tracing::Instrument as _;

use crate::audit::{Audit, Ending, Trail};
use crate::clock::{Clock, Moment, SystemClock};
use crate::cloud::Service;
use crate::contract::{
    self, FoundMachines, MachineAction, MachineActionFilter, MachineActionPage, Reason,
};
use crate::egress::{Call, Egress, HEEDED_MAX, Seen};
use crate::grant::{Grant, Operation, Target};
use crate::identity::{IdentityError, Principal, TokenSource};
use crate::limits::{Key, Ledger, Limiter, Memory, NoPermit, NotUntil, Permit, Quota};
use crate::plugin::{Fault, Plugin};
use crate::policy::Policy;
use crate::said::Said;
use crate::transport::{SetupError, Transport};

pub use error::CallError;

use judge::{claim, ending};

/// How long one call may take, unless configured.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a host is made of. [`new`](Self::new) asks for what has no default.
pub struct Setup {
    /// The plugin to run.
    pub plugin: Plugin,
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
    pub ledger: Option<Arc<dyn Ledger>>,
    /// Who this is, for those who look at the ledger: the process, by its number.
    pub name: String,
}

impl Setup {
    /// With the defaults that are stated at each field.
    pub fn new(plugin: Plugin, service: Service, tokens: Arc<dyn TokenSource>) -> Self {
        Self {
            plugin,
            policy: Policy::release_and_read(service.origin().clone()),
            service,
            tokens,
            quotas: Quota::DOCUMENTED.to_vec(),
            call_timeout: CALL_TIMEOUT,
            clock: Arc::new(SystemClock::new()),
            audit: None,
            ledger: None,
            name: format!("process {}", std::process::id()),
        }
    }

    /// Makes the host. Connects to nothing yet.
    pub fn build(self) -> Result<Host, SetupError> {
        // The token goes where the policy says, so the two must be one.
        if self.policy.origin() != self.service.origin() {
            return Err(SetupError::OtherOrigin {
                policy: self.policy.origin().clone(),
                service: self.service.origin().clone(),
            });
        }
        let egress = Egress {
            policy: self.policy,
            tokens: self.tokens,
            transport: Transport::to_service(&self.service, self.call_timeout)?,
            service: self.service,
            clock: Arc::clone(&self.clock),
        };
        let clock = Arc::clone(&self.clock);
        let ledger = self
            .ledger
            .unwrap_or_else(|| Arc::new(Memory::new(Arc::clone(&clock))));
        Ok(Host {
            plugin: self.plugin,
            egress: Arc::new(egress),
            limiter: Limiter::new(clock, &self.quotas, ledger, &self.name),
            call_timeout: self.call_timeout,
            clock: self.clock,
            audit: self.audit,
        })
    }
}

/// Makes calls. Cheap to clone; the clones share connections, tokens and quotas.
#[derive(Clone)]
pub struct Host {
    plugin: Plugin,
    egress: Arc<Egress>,
    limiter: Limiter,
    call_timeout: Duration,
    clock: Arc<dyn Clock>,
    audit: Option<Arc<Audit>>,
}

/// How long a caller is ready to wait for the quota, and for a token to call with, before anything
/// is sent.
#[derive(Clone, Default)]
pub struct Patience {
    /// Until then. Without it, as long as it takes. What is there without waiting is taken later,
    /// too.
    pub until: Option<Moment>,
    /// Until this becomes true. What has been sent by then is not affected.
    pub stop: Option<watch::Receiver<bool>>,
    /// Is told when it has to wait, and when what it waits for changes.
    pub on_wait: Option<Arc<dyn Fn(NotUntil) + Send + Sync>>,
    /// Is asked each time the quota has room, right before the call is begun: a caller who keeps a
    /// journal writes down here that a request may leave. Where it says no, none does.
    pub consent: Option<Consent>,
}

/// Whether a call may be begun now, or why not.
pub type Consent = Arc<dyn Fn() -> Consenting + Send + Sync>;

/// The answer of a [`Consent`], which may take its time.
pub type Consenting = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience")
            .field("until", &self.until)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

/// Completes when it becomes true; without a sender, never.
async fn stopped(stop: Option<watch::Receiver<bool>>) {
    if let Some(mut stop) = stop
        && stop.wait_for(|stop| *stop).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Host {
    /// Asks for a device's release, as the contract's `unrestrict-code-execution` does.
    ///
    /// Waits for the quota first, as long as `patience` allows; then makes one call, of at most one
    /// request, that ends within the call's time-out. Where the disk is slow to take the record of
    /// how it ended, that can add up to a second. Dropping the future ends both, and a request that
    /// is under way then counts as sent.
    ///
    /// Arguments that do not fit are the plugin's to refuse. It gets no grant then, and spends no
    /// call of the quota.
    pub async fn unrestrict_code_execution(
        &self,
        machine_id: &str,
        comment: &str,
        patience: Patience,
    ) -> Result<MachineAction, CallError> {
        let target = machine_id.parse().ok().map(Target::Machine);
        let grant = Grant::new(Operation::UnrestrictCodeExecution, target);
        self.call(grant, patience, |way_out| {
            self.plugin
                .unrestrict_code_execution(way_out, machine_id, comment)
        })
        .await
    }

    /// Reads a machine action, as the contract's `get-machine-action` does. Waits and ends as
    /// [`unrestrict_code_execution`](Self::unrestrict_code_execution) does; reading has a quota of
    /// its own.
    pub async fn get_machine_action(
        &self,
        action_id: &str,
        patience: Patience,
    ) -> Result<MachineAction, CallError> {
        let target = action_id.parse().ok().map(Target::Action);
        let grant = Grant::new(Operation::GetMachineAction, target);
        self.call(grant, patience, |way_out| {
            self.plugin.get_machine_action(way_out, action_id)
        })
        .await
    }

    /// Restricts a device, as the contract's `restrict-code-execution` does. Waits and ends as
    /// [`unrestrict_code_execution`](Self::unrestrict_code_execution) does. The policy must allow
    /// it: by default it does not.
    pub async fn restrict_code_execution(
        &self,
        machine_id: &str,
        comment: &str,
        patience: Patience,
    ) -> Result<MachineAction, CallError> {
        let target = machine_id.parse().ok().map(Target::Machine);
        let grant = Grant::new(Operation::RestrictCodeExecution, target);
        self.call(grant, patience, |way_out| {
            self.plugin
                .restrict_code_execution(way_out, machine_id, comment)
        })
        .await
    }

    /// Reads a page of machine actions, as the contract's `list-machine-actions` does: one call for
    /// many of them. Waits and ends as
    /// [`unrestrict_code_execution`](Self::unrestrict_code_execution) does.
    pub async fn list_machine_actions(
        &self,
        filter: &MachineActionFilter,
        top: u32,
        skip: u32,
        patience: Patience,
    ) -> Result<MachineActionPage, CallError> {
        let target = filter.query(top, skip).map(Target::Actions);
        let grant = Grant::new(Operation::ListMachineActions, target);
        self.call(grant, patience, |way_out| {
            self.plugin.list_machine_actions(way_out, filter, top, skip)
        })
        .await
    }

    /// Takes a machine action back, as the contract's `cancel-machine-action` does. Waits and ends
    /// as [`unrestrict_code_execution`](Self::unrestrict_code_execution) does. The policy must
    /// allow it: by default it does not.
    pub async fn cancel_machine_action(
        &self,
        action_id: &str,
        comment: &str,
        patience: Patience,
    ) -> Result<MachineAction, CallError> {
        let target = action_id.parse().ok().map(Target::Action);
        let grant = Grant::new(Operation::CancelMachineAction, target);
        self.call(grant, patience, |way_out| {
            self.plugin
                .cancel_machine_action(way_out, action_id, comment)
        })
        .await
    }

    /// Finds every device of a name, as the contract's `find-machines` does. Waits and ends as
    /// [`unrestrict_code_execution`](Self::unrestrict_code_execution) does.
    pub async fn find_machines(
        &self,
        computer_dns_name: &str,
        patience: Patience,
    ) -> Result<FoundMachines, CallError> {
        let target = computer_dns_name.parse().ok().map(Target::Name);
        let grant = Grant::new(Operation::FindMachines, target);
        self.call(grant, patience, |way_out| {
            self.plugin.find_machines(way_out, computer_dns_name)
        })
        .await
    }

    /// What may leave.
    pub fn policy(&self) -> &Policy {
        &self.egress.policy
    }

    /// The way out that all calls share.
    pub(crate) fn egress(&self) -> &Egress {
        &self.egress
    }

    /// Where every call is recorded.
    pub fn audit(&self) -> Option<&Arc<Audit>> {
        self.audit.as_ref()
    }

    /// How long one call may take.
    pub const fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// How many calls of an operation count in each quota's window that ends now.
    pub async fn used(&self, operation: Operation) -> Result<Vec<(Quota, usize)>, CallError> {
        let key = self.key(operation).await?;
        let reading = self.limiter.read().await?;
        let (now, budget) = (reading.now, reading.budget(&key));
        let used = |quota: &Quota| (*quota, budget.log().used(*quota, now));
        Ok(self.limiter.quotas().iter().map(used).collect())
    }

    /// How long so many calls of an operation would take from now on, if each is answered after
    /// `answer` and nobody else calls: computed by what admits them. `None` where a quota never has
    /// room for them.
    pub async fn forecast(
        &self,
        operation: Operation,
        calls: usize,
        answer: Duration,
    ) -> Result<Option<Duration>, CallError> {
        let key = self.key(operation).await?;
        let reading = self.limiter.read().await?;
        let (now, budget) = (reading.now, reading.budget(&key));
        let end = budget
            .log()
            .forecast(self.limiter.quotas(), now, calls, answer);
        Ok(end.map(|end| end.since(now)))
    }

    /// What makes the calls wait for each other.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Who calls are made and counted for. Where that is not configured, a token is fetched to know.
    pub async fn principal(&self) -> Result<Principal, IdentityError> {
        self.egress.tokens.principal().await
    }

    async fn key(&self, operation: Operation) -> Result<Key, IdentityError> {
        let principal = self.principal().await?;
        Ok(Key {
            tenant: principal.tenant,
            application: principal.application,
            operation,
        })
    }

    /// Who waits for a token waits for an authority, and perhaps for a person: no longer than the
    /// caller does.
    async fn in_time<T>(
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
            () = self.clock.sleep_until(until) => Err(IdentityError::NotInTime),
        }
    }

    /// The right to one call, when there is one, and what it is counted by.
    async fn permit(
        &self,
        operation: Operation,
        patience: &Patience,
    ) -> Result<(Key, Permit), CallError> {
        let key = self.in_time(patience.until, self.key(operation)).await?;
        let on_wait = |wait| {
            if let Some(on_wait) = &patience.on_wait {
                on_wait(wait);
            }
        };
        let permit = self
            .limiter
            .acquire(&key, self.call_timeout, patience.until, &on_wait)
            .await
            .map_err(|none| self.no_permit(none))?;
        Ok((key, permit))
    }

    fn no_permit(&self, none: NoPermit) -> CallError {
        match none {
            NoPermit::Ledger(error) => error.into(),
            NoPermit::NotUntil(wait) => CallError::Quota {
                wait,
                until: self.calendar(wait.at),
            },
        }
    }

    /// A moment to come, on the calendar.
    pub fn calendar(&self, at: Moment) -> jiff::Timestamp {
        at.on_calendar(self.clock.now(), self.clock.wall())
    }

    /// A call, and once more where the service refuses the token with 401 and another one can be
    /// had: as a call of its own, with a store, a grant and a permit of its own. A 401 says that
    /// nothing was changed.
    async fn call<T, F>(
        &self,
        grant: Grant,
        patience: Patience,
        run: impl Fn(Arc<Call>) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Result<T, contract::Error>, Fault>>,
        for<'a> Said: From<&'a T>,
    {
        let first = self.begin(grant.clone(), patience.clone()).await?;
        let result = self.run(&first, &run).await;
        let rejected = match &result {
            Err(CallError::Answered { .. }) => first.call.end().rejected,
            _ => None,
        };
        let Some(rejected) = rejected else {
            return result;
        };
        drop(first);
        let renewing = self.egress.tokens.renew(&rejected);
        let is_another = tokio::select! {
            biased;
            renewed = self.in_time(patience.until, renewing) => renewed?,
            () = stopped(patience.stop.clone()) => return Err(CallError::Stopped),
        };
        if !is_another {
            return result;
        }
        tracing::warn!("the service refused the token; the call is made again with another one");
        let second = self.begin(grant, patience).await?;
        self.run(&second, &run).await
    }

    /// One call, in a span of its own.
    async fn run<T, F>(&self, begun: &Begun, run: &impl Fn(Arc<Call>) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<Result<T, contract::Error>, Fault>>,
        for<'a> Said: From<&'a T>,
    {
        let span = begun.call.span();
        self.finish(begun, run(begun.way_out()))
            .instrument(span)
            .await
    }

    /// Everything that comes before the call's time begins to run.
    async fn begin(&self, grant: Grant, patience: Patience) -> Result<Begun, CallError> {
        let stop = patience.stop.clone();
        let (key, permit) = if grant.target().is_some() {
            let (key, permit) = tokio::select! {
                biased;
                permitted = self.permit(grant.operation(), &patience) => permitted?,
                () = stopped(patience.stop.clone()) => return Err(CallError::Stopped),
            };
            if let Some(consent) = &patience.consent {
                consent().await.map_err(CallError::Withheld)?;
            }
            (Some(key), Some(permit))
        } else {
            (None, None)
        };
        let deadline = permit
            .as_ref()
            .map_or(self.clock.now() + self.call_timeout, Permit::deadline);
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
        let call = Arc::new(Call::new(
            Arc::clone(&self.egress),
            grant.clone(),
            permit,
            deadline,
            stop,
            self.trail(id, &grant, used.unwrap_or_default()),
            span,
        ));
        Ok(Begun {
            grant,
            key,
            deadline,
            call,
            limiter: self.limiter.clone(),
            is_judged: AtomicBool::new(false),
        })
    }

    fn trail(&self, call: String, grant: &Grant, used: Vec<(Quota, usize)>) -> Option<Trail> {
        Some(Trail::new(
            Arc::clone(self.audit.as_ref()?),
            Arc::clone(&self.clock),
            call,
            self.plugin.about().digest.clone(),
            grant,
            used,
        ))
    }

    /// Runs the call to its end or its deadline, judges it, and records it.
    async fn finish<T>(
        &self,
        begun: &Begun,
        running: impl Future<Output = Result<Result<T, contract::Error>, Fault>>,
    ) -> Result<T, CallError>
    where
        for<'a> Said: From<&'a T>,
    {
        let result = self.until(begun.deadline, running).await;
        let seen = begun.call.end();
        let said = seen.said(&begun.grant);
        let claimed = result
            .as_ref()
            .and_then(|result| result.as_ref().ok().map(claim));
        let judged = self.judge(begun, result, &seen, said.as_ref());
        if let Err(CallError::Fault { fault, .. }) = &judged {
            let backtrace = fault.backtrace().unwrap_or_default();
            tracing::error!(%fault, "a fault of the plugin's\n{backtrace}");
        }
        // From here to the record's writer there is no waiting.
        begun.is_judged.store(true, Ordering::Relaxed);
        // What could not be recorded was not sent, and has no outcome.
        if let Some(trail) = begun.call.trail()
            && seen.audit.is_none()
        {
            let outcome = seen.outcome(ending(&judged), &begun.grant, said, claimed, &judged);
            trail.conclude(&outcome, begun.deadline).await;
        }
        judged
    }

    /// What becomes of it until then. The time is looked at whenever it lets others run, because a
    /// runtime that is kept busy looks at its timers late.
    async fn until<T>(&self, deadline: Moment, running: impl Future<Output = T>) -> Option<T> {
        let mut running = std::pin::pin!(running);
        let mut sleep = self.clock.sleep_until(deadline);
        std::future::poll_fn(move |cx| {
            if let Poll::Ready(result) = running.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            if self.clock.now() >= deadline || sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }
}

/// How long a 429 that does not say so is heeded: the service's shorter window.
const WITHOUT_A_WORD: Duration = Duration::from_secs(60);

/// A call that has its permit.
struct Begun {
    grant: Grant,
    key: Option<Key>,
    deadline: Moment,
    call: Arc<Call>,
    limiter: Limiter,
    /// It was waited for, and what it came to is known and on its way to the record.
    is_judged: AtomicBool,
}

/// Whoever made the call may not have waited for its end.
impl Drop for Begun {
    fn drop(&mut self) {
        if *self.is_judged.get_mut() {
            return;
        }
        let seen = self.call.end();
        self.heed(None, &seen);
        if let Some(trail) = self.call.trail()
            && seen.audit.is_none()
        {
            let said = seen.said(&self.grant);
            trail.abandon(&seen.outcome(Ending::Abandoned, &self.grant, said, None, &Ok(())));
        }
    }
}

impl Begun {
    fn way_out(&self) -> Arc<Call> {
        Arc::clone(&self.call)
    }

    /// A 429 closes the key, if the boundary saw one, whatever became of the call: for as long as
    /// its header says (a day at most) or, by the plugin's reading, its message (one window at
    /// most).
    fn heed(&self, claimed: Option<&contract::Error>, seen: &Seen) {
        let (Some(key), Some(429)) = (&self.key, seen.status) else {
            return;
        };
        let longest = self.limiter.longest_window().max(WITHOUT_A_WORD);
        let seconds = |n: Option<u32>, most| n.map(|n| Duration::from_secs(n.into()).min(most));
        let (mut wait, mut window) = (seconds(seen.retry_after, HEEDED_MAX), None);
        if let Some(Reason::RateLimited(limit)) = claimed.map(|error| &error.reason) {
            // The later of the two: a plugin can't shorten what the service said.
            wait = wait.max(seconds(limit.retry_after_seconds, longest));
            window = seconds(limit.window_seconds, longest);
        }
        let wait = wait.or(window).unwrap_or(WITHOUT_A_WORD);
        tracing::warn!(?wait, "the service's quota is used up: no call before that");
        self.limiter.close(key, wait);
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("policy", &self.egress.policy)
            .finish_non_exhaustive()
    }
}

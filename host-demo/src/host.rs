//! The host: a plugin, a service, an identity and the quotas, as one thing that makes calls.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::audit::{Audit, AuditError, Claimed, Ending, Observed, Outcome, Trail};
use crate::clock::{Clock, Moment, SystemClock};
use crate::cloud::Service;
use crate::contract::{
    self, Effect, FoundMachines, MachineAction, MachineActionFilter, MachineActionPage, Reason,
};
use crate::egress::{Call, Egress, HEEDED_MAX, Seen};
use crate::grant::{Grant, Operation, Target};
use crate::identity::{IdentityError, Principal, TokenSource};
use crate::limits::{
    Key, Ledger, LedgerError, Limiter, Memory, NoPermit, NotUntil, Permit, Quota, Why,
};
use crate::plugin::{Fault, Plugin};
use crate::policy::Policy;
use crate::said::Said;
use crate::transport::{SetupError, Transport, TransportError};

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

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// The plugin's typed answer: an argument that does not fit, a refusal of the service's, no
    /// answer.
    #[error("{}{}", .error.message, .detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Answered {
        /// What the plugin says.
        error: contract::Error,
        /// What the transport saw, where it failed.
        detail: Option<TransportError>,
    },
    /// There was no token, or the service refused the one there was and no other could be had.
    /// Nothing was changed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The quota has no room before the caller's patience ends. Nothing was sent.
    #[error("no call is left {}; nothing was sent", when(*.wait, *.until))]
    Quota {
        /// From when on there may be one, and what stands in the way.
        wait: NotUntil,
        /// The same moment, by the host's calendar.
        until: jiff::Timestamp,
    },
    /// It can't be known whether the quota has room. Nothing was sent.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The caller stopped it, while it waited for the quota or for a token. Nothing was sent.
    #[error("stopped before it was sent")]
    Stopped,
    /// The caller's [`Consent`] was not given. Nothing was sent.
    #[error("nothing was sent: {0}")]
    Withheld(String),
    /// The service's answer repeats the token that the request carried. It was kept from the
    /// plugin, and nothing that the plugin says of it counts.
    #[error(
        "the service's answer repeats the token, and was withheld; find out what stands between \
         here and the API; {}", meaning(*.effect)
    )]
    TokenEchoed {
        /// Whether something can have happened.
        effect: Effect,
    },
    /// The call could not be recorded. Nothing was sent.
    #[error("nothing was sent, because it could not be recorded: {0}")]
    Audit(#[from] AuditError),
    /// The call's time was up.
    #[error("no answer within {} s; {}", .after.as_secs_f64(), meaning(*.effect))]
    TimedOut {
        /// How long the call had.
        after: Duration,
        /// Whether something can have happened.
        effect: Effect,
    },
    /// The plugin is broken, or worse.
    #[error("{fault}; {}", meaning(*.effect))]
    Fault {
        /// What it did.
        fault: Fault,
        /// Whether something can have happened.
        effect: Effect,
    },
}

fn when(wait: NotUntil, until: jiff::Timestamp) -> String {
    if wait.at == Moment::from_nanos(u64::MAX) {
        return "at any time: a quota is zero".to_owned();
    }
    let why = match wait.why {
        Why::Quota => "as many were made as the quota allows",
        Why::Service => "the service said to wait",
        Why::Lost => "what was counted before is lost, and taken for used",
    };
    let until = until.strftime("%Y-%m-%d %H:%M:%S");
    format!("before {until} UTC, because {why}")
}

const fn meaning(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "nothing was changed by it",
        Effect::Unknown => {
            "it may have taken effect: look at the machine's actions before you repeat it"
        }
    }
}

impl CallError {
    /// Whether the call can have changed anything.
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Answered { error, .. } => error.effect,
            Self::Identity(_)
            | Self::Quota { .. }
            | Self::Ledger(_)
            | Self::Stopped
            | Self::Withheld(_)
            | Self::Audit(_) => Effect::None,
            Self::TimedOut { effect, .. }
            | Self::Fault { effect, .. }
            | Self::TokenEchoed { effect } => *effect,
        }
    }

    /// The plugin's reason, where it gave one.
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Answered { error, .. } => Some(&error.reason),
            _ => None,
        }
    }

    /// The error as a JSON object: its `message`, its `effect`, the plugin's `reason` with what it
    /// carries, and what the `service` said.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "message": self.to_string(),
            "effect": self.effect().name(),
            "reason": self.reason().map(Reason::name),
        });
        let Self::Answered { error, .. } = self else {
            return value;
        };
        match &error.reason {
            Reason::InvalidArgument(argument) => value["parameter"] = json!(argument.parameter),
            Reason::Forbidden(roles) => {
                value["required_roles"] = json!(roles.required_roles);
                value["held_roles"] = json!(roles.held_roles);
            }
            Reason::RateLimited(limit) => {
                value["retry_after_seconds"] = json!(limit.retry_after_seconds);
                value["window_seconds"] = json!(limit.window_seconds);
            }
            Reason::ServiceFailure(failure) => {
                value["retry_after_seconds"] = json!(failure.retry_after_seconds);
            }
            _ => {}
        }
        if let Some(service) = &error.service {
            value["service"] = json!({
                "status": service.status,
                "code": service.code,
                "message": service.message,
                "correlation_id": service.correlation_id,
            });
        }
        value
    }
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

    /// Compares what the plugin says with what the boundary saw.
    #[expect(
        clippy::result_large_err,
        reason = "once a call, as it is everywhere else"
    )]
    fn judge<T>(
        &self,
        begun: &Begun,
        result: Option<Result<Result<T, contract::Error>, Fault>>,
        seen: &Seen,
        said: Option<&Said>,
    ) -> Result<T, CallError>
    where
        for<'a> Said: From<&'a T>,
    {
        let effect = seen.effect(begun.grant.operation());
        let claimed = match &result {
            Some(Ok(Err(error))) => Some(error),
            _ => None,
        };
        begun.heed(claimed, seen);
        if seen.echoed {
            return Err(CallError::TokenEchoed { effect });
        }
        match result {
            None => Err(CallError::TimedOut {
                after: self.call_timeout,
                effect,
            }),
            Some(Err(fault)) => Err(CallError::Fault { fault, effect }),
            Some(Ok(Ok(success))) => {
                match seen.contradicts(&(&success).into(), said, begun.grant.target()) {
                    Some(what) => Err(CallError::Fault {
                        fault: Fault::UnfoundedSuccess(what),
                        effect,
                    }),
                    None => Ok(success),
                }
            }
            Some(Ok(Err(mut error))) => {
                // The plugin knows only that nothing was sent; the boundary knows why.
                if let Some(identity) = seen.identity.clone() {
                    return Err(CallError::Identity(identity));
                }
                if let Some(audit) = seen.audit.clone() {
                    return Err(CallError::Audit(audit));
                }
                if seen.stopped {
                    return Err(CallError::Stopped);
                }
                if let Some(seconds) = seen.closed {
                    error.reason = Reason::RateLimited(contract::RateLimit {
                        by: contract::Limiter::Host,
                        retry_after_seconds: Some(seconds),
                        window_seconds: None,
                    });
                    error.message = format!(
                        "The service closed the quota for {seconds} s while this call was on its \
                         way out. Nothing was sent."
                    );
                } else if let Some(what) = seen.contradicts_error(&error) {
                    return Err(CallError::Fault {
                        fault: Fault::UnfoundedError(what),
                        effect,
                    });
                }
                // What crossed the boundary is known here for certain. The plugin's word adds
                // nothing to it.
                error.effect = effect;
                Err(CallError::Answered {
                    error,
                    detail: seen.transport.clone(),
                })
            }
        }
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

impl Seen {
    /// Whether the call can have changed anything, by what crossed the boundary.
    fn effect(&self, operation: Operation) -> Effect {
        let harmless = match self.status {
            None => !self.may_have_arrived,
            // A redirect or a refusal of the service's; see the contract's table.
            Some(status) => (300..500).contains(&status),
        };
        if harmless || !operation.changes_something() {
            Effect::None
        } else {
            Effect::Unknown
        }
    }

    /// What the service's answer says.
    fn said(&self, grant: &Grant) -> Option<Said> {
        Said::in_answer(grant.target(), &self.answer)
    }

    /// What is wrong with a success that the plugin reports, if something is.
    ///
    /// What a caller decides by is compared with what the answer's body says: see [`Said`]. All
    /// else (requestor, comment, times, error codes, a device's health) is the plugin's word.
    fn contradicts(
        &self,
        claimed: &Said,
        said: Option<&Said>,
        target: Option<&Target>,
    ) -> Option<&'static str> {
        if !self
            .status
            .is_some_and(|status| (200..300).contains(&status))
        {
            return Some("the service did not answer with one");
        }
        if let Some(what) = claimed.misses(target) {
            return Some(what);
        }
        match said {
            None => Some("it did not read it in the service's answer"),
            Some(said) if said != claimed => Some("it is not the one in the service's answer"),
            Some(_) => None,
        }
    }

    /// What is wrong with an error that the plugin reports, if something is: a caller waits, or
    /// asks for another token, because of it.
    fn contradicts_error(&self, error: &contract::Error) -> Option<&'static str> {
        let status = self.status.unwrap_or_default();
        let is_founded = match &error.reason {
            Reason::AlreadyInProgress => status == 400,
            Reason::Unauthorized => status == 401,
            Reason::Forbidden(_) => status == 403,
            Reason::NotFound => status == 404,
            Reason::Rejected => (400..500).contains(&status),
            Reason::ServiceFailure(_) => status >= 500,
            Reason::RateLimited(limit) => match limit.by {
                contract::Limiter::Service => status == 429,
                contract::Limiter::Host => self.is_held_back,
            },
            Reason::InvalidArgument(_)
            | Reason::Denied
            | Reason::Unavailable
            | Reason::Transport
            | Reason::UnexpectedResponse => true,
        };
        if !is_founded {
            return Some("nobody gave that answer");
        }
        match &error.service {
            Some(service) if Some(service.status) != self.status => {
                Some("the service answered with another status")
            }
            _ => None,
        }
    }

    /// For the record.
    fn outcome<T>(
        &self,
        ended: Ending,
        grant: &Grant,
        said: Option<Said>,
        claimed: Option<Claimed>,
        judged: &Result<T, CallError>,
    ) -> Outcome {
        let failure = match (&self.audit, &self.identity, &self.transport) {
            (Some(error), ..) => Some(error.to_string()),
            (_, Some(error), _) => Some(error.to_string()),
            (_, _, Some(error)) => Some(error.to_string()),
            _ => None,
        };
        let milliseconds = self
            .sent_at
            .zip(self.answered_at)
            .map(|(from, to)| u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX));
        Outcome {
            ended,
            allowed_by: self
                .is_allowed
                .then(|| grant.operation().route().to_string()),
            denied: self.denied.iter().map(ToString::to_string).collect(),
            denials: self.denials,
            observed: Observed {
                sent: match (self.status, self.may_have_arrived) {
                    (Some(_), _) => "answered",
                    (None, true) => "unanswered",
                    (None, false) => "no",
                },
                status: self.status,
                milliseconds,
                request_bytes: self.request_bytes,
                response_bytes: self.status.map(|_| self.answer.len() as u64),
                correlation_id: self.correlation_id.clone(),
                action: said.as_ref().and_then(Said::action).cloned(),
                list: said.as_ref().and_then(Said::count),
                failure,
            },
            claimed,
            fault: match judged {
                Err(CallError::Fault { fault, .. }) => Some(fault.to_string()),
                _ => None,
            },
        }
    }
}

const fn ending<T>(judged: &Result<T, CallError>) -> Ending {
    match judged {
        Ok(_) => Ending::Succeeded,
        Err(CallError::Fault { .. }) => Ending::Fault,
        Err(CallError::TimedOut { .. }) => Ending::TimedOut,
        Err(_) => Ending::Failed,
    }
}

fn claim<T>(said: &Result<T, contract::Error>) -> Claimed
where
    for<'a> Said: From<&'a T>,
{
    match said {
        Ok(success) => Claimed::ok(&success.into()),
        Err(error) => Claimed::Err {
            reason: error.reason.name(),
            effect: error.effect.name(),
            status: error.service.as_ref().map(|service| service.status),
        },
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("policy", &self.egress.policy)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{
        ActionStatus, ActionType, Failure, MissingRoles, RateLimit, ServiceError,
    };

    const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    const ACTION: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";

    fn answered(status: u16, body: &str) -> Seen {
        Seen {
            may_have_arrived: true,
            status: Some(status),
            answer: body.as_bytes().to_vec(),
            ..Seen::default()
        }
    }

    fn contradicts(seen: &Seen, claimed: &MachineAction, target: &Target) -> Option<&'static str> {
        let said = Said::in_answer(Some(target), &seen.answer);
        seen.contradicts(&claimed.into(), said.as_ref(), Some(target))
    }

    fn body(id: &str, type_: &str, status: &str, machine: &str) -> String {
        serde_json::json!({ "id": id, "type": type_, "status": status, "machineId": machine })
            .to_string()
    }

    fn claimed() -> MachineAction {
        MachineAction {
            id: ACTION.to_owned(),
            type_: ActionType::UnrestrictCodeExecution,
            title: None,
            requestor: None,
            requestor_comment: None,
            status: ActionStatus::Pending,
            machine_id: Some(MACHINE.to_owned()),
            computer_dns_name: None,
            creation_date_time_utc: None,
            last_update_date_time_utc: None,
            cancellation_requestor: None,
            cancellation_comment: None,
            cancellation_date_time_utc: None,
            error_h_result: None,
            scope: None,
            external_id: None,
            request_source: None,
            related_file_info: None,
            commands: None,
            troubleshoot_info: None,
            additional_properties: Vec::new(),
        }
    }

    #[test]
    fn a_success_is_one_only_if_it_is_word_for_word_what_the_service_answered() {
        let release = Target::Machine(MACHINE.parse().unwrap());
        let read = Target::Action(ACTION.parse().unwrap());
        let other = &MACHINE.replace('1', "2");
        let (kind, pending) = ("UnrestrictCodeExecution", "Pending");
        let good = body(ACTION, kind, pending, MACHINE);
        for (seen, is_founded) in [
            (answered(201, &good), true),
            (answered(200, &good), true),
            (Seen::default(), false),
            (answered(199, &good), false),
            (answered(302, &good), false),
            (answered(400, &good), false),
            (answered(500, &good), false),
            (answered(200, ""), false),
            (answered(200, &good[..good.len() - 1]), false),
            (
                answered(
                    200,
                    &body(&ACTION.replace('8', "9"), kind, pending, MACHINE),
                ),
                false,
            ),
            (
                answered(200, &body(ACTION, "Offboard", pending, MACHINE)),
                false,
            ),
            (answered(200, &body(ACTION, kind, "Failed", MACHINE)), false),
            (answered(200, &body(ACTION, kind, pending, other)), false),
        ] {
            for target in [&release, &read] {
                let contradiction = contradicts(&seen, &claimed(), target);
                assert_eq!(
                    contradiction.is_none(),
                    is_founded,
                    "{seen:?}: {contradiction:?}"
                );
            }
        }
        // Of another device, or another action, however well it is borne out.
        let seen = answered(200, &body(ACTION, kind, pending, other));
        let of_another = MachineAction {
            machine_id: Some(other.clone()),
            ..claimed()
        };
        assert_eq!(
            contradicts(&seen, &of_another, &release),
            Some("of another device")
        );
        let another = Target::Action("9a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".parse().unwrap());
        let found = contradicts(&answered(200, &good), &claimed(), &another);
        assert_eq!(found, Some("of another action"));
    }

    #[test]
    fn an_error_is_one_only_if_somebody_gave_it() {
        let limit = |by| {
            Reason::RateLimited(RateLimit {
                by,
                retry_after_seconds: Some(1),
                window_seconds: None,
            })
        };
        let failure = || {
            Reason::ServiceFailure(Failure {
                retry_after_seconds: None,
            })
        };
        let forbidden = || {
            Reason::Forbidden(MissingRoles {
                required_roles: Vec::new(),
                held_roles: Vec::new(),
            })
        };
        let held_back = Seen {
            is_held_back: true,
            ..Seen::default()
        };
        let error = |reason, status: Option<u16>| contract::Error {
            effect: Effect::None,
            reason,
            message: String::new(),
            service: status.map(|status| ServiceError {
                status,
                code: None,
                message: None,
                correlation_id: None,
            }),
        };
        for (seen, reason, is_founded) in [
            (answered(400, ""), Reason::AlreadyInProgress, true),
            (answered(200, ""), Reason::AlreadyInProgress, false),
            (answered(401, ""), Reason::Unauthorized, true),
            (answered(500, ""), Reason::Unauthorized, false),
            (answered(403, ""), forbidden(), true),
            (Seen::default(), forbidden(), false),
            (answered(404, ""), Reason::NotFound, true),
            (answered(200, ""), Reason::NotFound, false),
            (answered(409, ""), Reason::Rejected, true),
            (answered(503, ""), Reason::Rejected, false),
            (answered(503, ""), failure(), true),
            (answered(200, ""), failure(), false),
            (answered(429, ""), limit(contract::Limiter::Service), true),
            (answered(200, ""), limit(contract::Limiter::Service), false),
            (Seen::default(), limit(contract::Limiter::Service), false),
            (held_back, limit(contract::Limiter::Host), true),
            (answered(429, ""), limit(contract::Limiter::Host), false),
            (Seen::default(), Reason::Transport, true),
            (answered(200, ""), Reason::UnexpectedResponse, true),
        ] {
            let status = seen.status;
            let contradiction = seen.contradicts_error(&error(reason.clone(), status));
            assert_eq!(contradiction.is_none(), is_founded, "{reason:?} {status:?}");
        }
        let other_status = error(Reason::Rejected, Some(402));
        assert!(answered(409, "").contradicts_error(&other_status).is_some());
    }
}

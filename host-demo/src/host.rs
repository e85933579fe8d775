//! The host: a plugin, a service, an identity and the quotas, as one thing that makes calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Moment, SystemClock};
use crate::cloud::Service;
use crate::contract::{self, Effect, MachineAction, Reason};
use crate::egress::{Call, Egress, Seen};
use crate::grant::{Grant, Operation, Target};
use crate::id::MachineId;
use crate::identity::{IdentityError, TokenSource};
use crate::limits::{Key, Limiter, NotUntil, Permit, Quota};
use crate::plugin::{Fault, Plugin};
use crate::policy::Policy;
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
    /// What may leave. Releasing and reading, at the service's origin.
    pub policy: Policy,
    /// What the quotas are: [`Quota::DOCUMENTED`].
    pub quotas: Vec<Quota>,
    /// How long one call may take, from the moment it has its permit: [`CALL_TIMEOUT`].
    pub call_timeout: Duration,
    /// What time it is: the machine's clock.
    pub clock: Arc<dyn Clock>,
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
            transport: Transport::new(&self.service)?,
            clock: Arc::clone(&self.clock),
        };
        Ok(Host {
            plugin: self.plugin,
            egress: Arc::new(egress),
            limiter: Limiter::new(Arc::clone(&self.clock), &self.quotas),
            call_timeout: self.call_timeout,
            clock: self.clock,
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
}

/// How long a caller is ready to wait for the quota, before anything is sent.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// Until then. Without it, as long as it takes.
    pub until: Option<Moment>,
    /// Until this becomes true. A call that has begun is not affected.
    pub stop: Option<watch::Receiver<bool>>,
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
    #[error("the quota leaves no call before the time that you are ready to wait")]
    Quota(#[from] NotUntil),
    /// The caller stopped waiting for the quota. Nothing was sent.
    #[error("stopped while waiting for the quota")]
    Stopped,
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
            Self::Identity(_) | Self::Quota(_) | Self::Stopped => Effect::None,
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
}

impl Host {
    /// Asks for a device's release, as the contract's `unrestrict-code-execution` does.
    ///
    /// Waits for the quota first, as long as `patience` allows; then makes one call, of at most one
    /// request, that ends within the call's time-out. Dropping the future ends both, and a request
    /// that is under way then counts as sent.
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

    /// What may leave.
    pub fn policy(&self) -> &Policy {
        &self.egress.policy
    }

    /// The way out that all calls share.
    pub(crate) fn egress(&self) -> &Egress {
        &self.egress
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// How many calls of an operation count in each quota's window that ends now.
    pub async fn used(&self, operation: Operation) -> Result<Vec<(Quota, usize)>, IdentityError> {
        Ok(self.limiter.used(&self.key(operation).await?))
    }

    async fn key(&self, operation: Operation) -> Result<Key, IdentityError> {
        let principal = self.egress.tokens.principal().await?;
        Ok(Key {
            tenant: principal.tenant,
            application: principal.application,
            operation,
        })
    }

    /// A call, and once more where the service refuses the token with 401 and another one can be
    /// had: as a call of its own, with a store, a grant and a permit of its own. A 401 says that
    /// nothing was changed.
    async fn call<F>(
        &self,
        grant: Grant,
        patience: Patience,
        run: impl Fn(Arc<Call>) -> F,
    ) -> Result<MachineAction, CallError>
    where
        F: Future<Output = Result<Result<MachineAction, contract::Error>, Fault>>,
    {
        let first = self.begin(grant.clone(), patience.clone()).await?;
        let result = self.finish(&first, run(first.way_out())).await;
        let rejected = match &result {
            Err(CallError::Answered { .. }) => first.call.end().rejected,
            _ => None,
        };
        let Some(rejected) = rejected else {
            return result;
        };
        drop(first);
        if !self.egress.tokens.renew(&rejected).await? {
            return result;
        }
        tracing::warn!("the service refused the token; the call is made again with another one");
        let second = self.begin(grant, patience).await?;
        self.finish(&second, run(second.way_out())).await
    }

    /// Everything that comes before the call's time begins to run.
    async fn begin(&self, grant: Grant, patience: Patience) -> Result<Begun, CallError> {
        let mut key = None;
        let mut permit: Option<Permit> = None;
        if grant.target().is_some() {
            let for_key = key.insert(self.key(grant.operation()).await?);
            let waiting = self
                .limiter
                .acquire(for_key, self.call_timeout, patience.until);
            permit = Some(tokio::select! {
                biased;
                permit = waiting => permit?,
                () = stopped(patience.stop) => return Err(CallError::Stopped),
            });
        }
        let deadline = permit
            .as_ref()
            .map_or(self.clock.now() + self.call_timeout, Permit::deadline);
        let call = Arc::new(Call::new(
            Arc::clone(&self.egress),
            grant.clone(),
            permit,
            deadline,
        ));
        Ok(Begun {
            grant,
            key,
            deadline,
            call,
        })
    }

    /// Runs the call to its end or its deadline, and compares what the plugin says with what the
    /// boundary saw.
    async fn finish(
        &self,
        begun: &Begun,
        running: impl Future<Output = Result<Result<MachineAction, contract::Error>, Fault>>,
    ) -> Result<MachineAction, CallError> {
        let result = tokio::select! {
            biased;
            result = running => Some(result),
            () = self.clock.sleep_until(begun.deadline) => None,
        };
        let seen = begun.call.end();
        let effect = seen.effect(begun.grant.operation());
        if seen.echoed {
            if let Some(Ok(Err(error))) = &result {
                self.heed(begun, error, &seen);
            }
            return Err(CallError::TokenEchoed { effect });
        }
        match result {
            None => Err(CallError::TimedOut {
                after: self.call_timeout,
                effect,
            }),
            Some(Err(fault)) => Err(CallError::Fault { fault, effect }),
            Some(Ok(Ok(action))) => match seen.contradicts(&action, begun.grant.target()) {
                Some(what) => Err(CallError::Fault {
                    fault: Fault::UnfoundedSuccess(what),
                    effect,
                }),
                None => Ok(action),
            },
            Some(Ok(Err(mut error))) => {
                self.heed(begun, &error, &seen);
                // The plugin knows only that nothing was sent; the boundary knows why.
                if let Some(identity) = seen.identity {
                    return Err(CallError::Identity(identity));
                }
                // What crossed the boundary is known here for certain. The plugin's word adds
                // nothing to it.
                error.effect = effect;
                Err(CallError::Answered {
                    error,
                    detail: seen.transport,
                })
            }
        }
    }

    /// A 429 closes the key, if the boundary saw one, for as long as it says, and for one window at
    /// most.
    fn heed(&self, begun: &Begun, error: &contract::Error, seen: &Seen) {
        let (Some(key), Some(429)) = (&begun.key, seen.status) else {
            return;
        };
        let (mut wait, mut window) = (None, None);
        if let Reason::RateLimited(limit) = &error.reason {
            let seconds = |n: Option<u32>| n.map(|n| Duration::from_secs(n.into()));
            (wait, window) = (
                seconds(limit.retry_after_seconds),
                seconds(limit.window_seconds),
            );
        }
        let longest = self.limiter.longest_window();
        let wait = wait.or(window).unwrap_or(WITHOUT_A_WORD).min(longest);
        tracing::warn!(?wait, "the service's quota is used up: no call before that");
        self.limiter.close(key, wait);
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
}

impl Begun {
    fn way_out(&self) -> Arc<Call> {
        Arc::clone(&self.call)
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

    /// What is wrong with a success that the plugin reports, if something is.
    fn contradicts(&self, action: &MachineAction, target: Option<&Target>) -> Option<&'static str> {
        if !self
            .status
            .is_some_and(|status| (200..300).contains(&status))
        {
            return Some("the service did not answer with one");
        }
        let other_machine = |id: &MachineId| {
            action
                .machine_id
                .as_ref()
                .is_some_and(|named| !named.eq_ignore_ascii_case(id.as_str()))
        };
        match target {
            Some(Target::Machine(id)) if other_machine(id) => Some("of another device"),
            Some(Target::Action(id)) if !action.id.eq_ignore_ascii_case(id.as_str()) => {
                Some("of another action")
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("policy", &self.egress.policy)
            .finish_non_exhaustive()
    }
}

//! The host: a plugin, a service, an identity and the quotas, as one thing that makes calls.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use defender_connect::cloud::Service;
//! use defender_host::{Host, WaitOptions, Setup};
//! use defender_connect::identity::FixedToken;
//! use defender_host::plugin::{Plugin, engine};
//!
//! let plugin = Plugin::from_file(&engine(None)?, "defender-endpoint.wasm".as_ref())?;
//! let tokens = Arc::new(FixedToken::new(std::fs::read_to_string("token")?.trim())?);
//! let host = Host::new(plugin, &Setup::new(Service::commercial(), tokens).build()?);
//!
//! let id = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
//! match host.unrestrict_code_execution(id, "INC-42: cleaned", WaitOptions::default()).await {
//!     Ok(action) => println!("accepted: {}", action.id),
//!     Err(error) => println!("{error}; effect: {:?}", error.effect()),
//! }
//! # Ok(()) }
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

pub mod bindings;
pub mod digest;
mod epoch_ticker;
mod error;
mod native;
pub mod plugin;
mod verify_claim;
pub mod wasi_hooks;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::Instrument as _;

use crate::bindings::{FoundMachines, MachineAction, MachineActionFilter, MachineActionPage};
use crate::native::Reader;
use crate::plugin::{Fault, Plugin};
use crate::wasi_hooks::Hooks;
use defender_audit::Audit;
use defender_boundary::grant::Grant;
use defender_boundary::policy::Policy;
use defender_boundary::{Call, Egress, stopped};
use defender_connect::identity::{IdentityError, Principal};
use defender_core::clock::{Clock, Moment};
use defender_core::id::DnsName;
use defender_core::operation::{Operation, Target};
use defender_quota::{Limiter, Quota};

/// The boundary, for callers that name its types.
pub use defender_boundary as boundary;
pub use defender_boundary::{
    BeforeSend, CALL_TIMEOUT, MaySend, Setup, TOKEN_RETRY_CALL, TOKEN_RETRY_FIRST, TOKEN_RETRY_RUN,
    WaitOptions,
};
pub use error::CallError;

use verify_claim::{Success, claim};

/// Makes calls. Cheap to clone; the clones share connections, tokens and quotas.
///
/// A plugin's result is returned only if it is what the host reads in the same response. Otherwise
/// the host's own reading is returned, and all further calls of this host and its clones end with
/// [`CallError::PluginContradicted`].
#[derive(Clone)]
pub struct Host {
    plugin: Plugin,
    egress: Egress,
    has_contradicted: Arc<AtomicBool>,
}

impl Host {
    /// A plugin, and the boundary that it works behind.
    pub fn new(plugin: Plugin, egress: &Egress) -> Self {
        let egress = egress.made_for(&plugin.about().digest);
        Self {
            plugin,
            egress,
            has_contradicted: Arc::default(),
        }
    }

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
        patience: WaitOptions,
    ) -> Result<MachineAction, CallError> {
        let reader = native::unrestrict(machine_id, comment);
        let target = machine_id.parse().ok().map(Target::Machine);
        let grant = Grant::new(Operation::UnrestrictCodeExecution, target).with_comment(comment);
        self.call(grant, reader, patience, |way_out| {
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
        patience: WaitOptions,
    ) -> Result<MachineAction, CallError> {
        let reader = native::get(action_id);
        let target = action_id.parse().ok().map(Target::Action);
        let grant = Grant::new(Operation::GetMachineAction, target);
        self.call(grant, reader, patience, |way_out| {
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
        patience: WaitOptions,
    ) -> Result<MachineAction, CallError> {
        let reader = native::restrict(machine_id, comment);
        let target = machine_id.parse().ok().map(Target::Machine);
        let grant = Grant::new(Operation::RestrictCodeExecution, target).with_comment(comment);
        self.call(grant, reader, patience, |way_out| {
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
        patience: WaitOptions,
    ) -> Result<MachineActionPage, CallError> {
        let reader = native::list(filter, top, skip);
        let target = filter.query(top, skip).map(Target::Actions);
        let grant = Grant::new(Operation::ListMachineActions, target);
        self.call(grant, reader, patience, |way_out| {
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
        patience: WaitOptions,
    ) -> Result<MachineAction, CallError> {
        let reader = native::cancel(action_id, comment);
        let target = action_id.parse().ok().map(Target::Action);
        let grant = Grant::new(Operation::CancelMachineAction, target).with_comment(comment);
        self.call(grant, reader, patience, |way_out| {
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
        patience: WaitOptions,
    ) -> Result<FoundMachines, CallError> {
        let name = computer_dns_name.parse::<DnsName>().ok();
        // The plugin is asked for what is granted: the name without what tells no name from another.
        let asked = name
            .as_ref()
            .map_or(computer_dns_name, DnsName::as_str)
            .to_owned();
        let reader = native::find(&asked);
        let grant = Grant::new(Operation::FindMachines, name.map(Target::Name));
        self.call(grant, reader, patience, |way_out| {
            self.plugin.find_machines(way_out, &asked)
        })
        .await
    }

    /// What may leave.
    pub fn policy(&self) -> &Policy {
        self.egress.policy()
    }

    /// The boundary, which all calls share.
    pub const fn egress(&self) -> &Egress {
        &self.egress
    }

    /// Where every call is recorded.
    pub fn audit(&self) -> Option<&Arc<Audit>> {
        self.egress.audit()
    }

    /// How long one call may take.
    pub fn call_timeout(&self) -> Duration {
        self.egress.call_timeout()
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.egress.clock()
    }

    /// How many calls of an operation count in each quota's window that ends now.
    pub async fn used(&self, operation: Operation) -> Result<Vec<(Quota, usize)>, CallError> {
        let key = self.egress.key(operation).await?;
        let reading = self.limiter().read().await?;
        let (now, budget) = (reading.now, reading.budget(&key));
        let used = |quota: &Quota| (*quota, budget.log().used(*quota, now));
        Ok(self.limiter().quotas().iter().map(used).collect())
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
        let key = self.egress.key(operation).await?;
        let reading = self.limiter().read().await?;
        let (now, budget) = (reading.now, reading.budget(&key));
        let end = budget
            .log()
            .forecast(self.limiter().quotas(), now, calls, answer);
        Ok(end.map(|end| end.since(now)))
    }

    /// What makes the calls wait for each other.
    pub fn limiter(&self) -> &Limiter {
        self.egress.limiter()
    }

    /// Who calls are made and counted for. Where that is not configured, a token is fetched to know.
    pub async fn principal(&self) -> Result<Principal, IdentityError> {
        self.egress.principal().await
    }

    /// The same, asked for again after failures that may pass, as long as `patience` allows.
    pub async fn principal_within(
        &self,
        patience: &WaitOptions,
    ) -> Result<Principal, IdentityError> {
        self.egress.principal_within(patience).await
    }

    /// A moment to come, on the calendar.
    pub fn calendar(&self, at: Moment) -> jiff::Timestamp {
        self.egress.calendar(at)
    }

    /// A call, again where there was no token for a reason that may pass, and once more where the
    /// service refuses the token with 401 and another one can be had: as a call of its own, with a store, a grant and a permit of its own. A 401 says that
    /// nothing was changed.
    async fn call<T: Success, F>(
        &self,
        grant: Grant,
        reader: Option<Reader<T>>,
        patience: WaitOptions,
        run: impl Fn(Hooks) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Result<T, bindings::Error>, Fault>>,
    {
        self.check_plugin()?;
        // What the plugin refuses has no request.
        let grant = match &reader {
            Some(_) => grant,
            None => Grant::new(grant.operation(), None),
        };
        let (first, result, seen) = loop {
            let call = self.egress.begin(grant.clone(), patience.clone()).await?;
            let result = self.run(&call, reader.as_ref(), &run).await;
            let seen = call.close();
            // Nothing was sent. A caller that gives a consent had a token before it.
            let error = match &result {
                Err(CallError::Identity(error)) if patience.consent.is_none() => error.clone(),
                _ => break (call, result, seen),
            };
            drop(call);
            tokio::select! {
                biased;
                recovered = self.egress.recover(&patience, error) => recovered?,
                () = stopped(patience.stop.clone()) => return Err(CallError::Stopped),
            }
        };
        let is_refused =
            matches!(result, Err(CallError::Answered { .. })) && seen.rejected.is_some();
        if !is_refused || self.check_plugin().is_err() {
            return result;
        }
        drop(first);
        let is_another = tokio::select! {
            biased;
            renewed = self.egress.renew_patiently(&seen, &patience) => renewed?,
            () = stopped(patience.stop.clone()) => return Err(CallError::Stopped),
        };
        if !is_another {
            return result;
        }
        tracing::warn!("the service refused the token; the call is made again with another one");
        let second = self.egress.begin(grant, patience).await?;
        self.run(&second, reader.as_ref(), &run).await
    }

    /// Refuses a plugin that contradicted the service.
    #[expect(
        clippy::result_large_err,
        reason = "once a call, as it is everywhere else"
    )]
    fn check_plugin(&self) -> Result<(), CallError> {
        match self.has_contradicted.load(Ordering::Relaxed) {
            true => Err(CallError::PluginContradicted),
            false => Ok(()),
        }
    }

    /// One call, in a span of its own.
    async fn run<T: Success, F>(
        &self,
        call: &Call,
        reader: Option<&Reader<T>>,
        run: &impl Fn(Hooks) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Result<T, bindings::Error>, Fault>>,
    {
        // Another call may have found it while this one waited for the quota.
        self.check_plugin()?;
        self.finish(call, reader, run(Hooks::new(call)))
            .instrument(call.span())
            .await
    }

    /// Runs the call to its end or its deadline, judges it, and records it.
    async fn finish<T: Success>(
        &self,
        call: &Call,
        reader: Option<&Reader<T>>,
        running: impl Future<Output = Result<Result<T, bindings::Error>, Fault>>,
    ) -> Result<T, CallError> {
        let result = call.until_deadline(running).await;
        let seen = call.close();
        let said = seen.said(call.grant());
        let claimed = result
            .as_ref()
            .and_then(|result| result.as_ref().ok().map(claim));
        let verdict = self.judge(call, result, &seen, reader);
        if let Some(fault) = &verdict.fault {
            let backtrace = fault.backtrace().unwrap_or_default();
            tracing::error!(%fault, "a fault of the plugin's\n{backtrace}");
            if matches!(fault, Fault::Contradiction(_)) {
                self.has_contradicted.store(true, Ordering::Relaxed);
            }
        }
        let fault = verdict.fault.as_ref().map(ToString::to_string);
        call.conclude(&seen, verdict.ending(), said, claimed, fault)
            .await;
        verdict.result
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("policy", self.policy())
            .finish_non_exhaustive()
    }
}

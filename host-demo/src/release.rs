//! Devices, released and followed until it is known how it ended.
//!
//! Nothing that might have happened is repeated here: a release is sent again only when the service
//! said 429, which means that it did nothing, and a few times only while it takes no other one
//! either. Every device ends with an [`Outcome`] that says no
//! more than what is known.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::clock::Moment;
use crate::contract::{ActionStatus, Effect, MachineAction, Reason};
use crate::host::{CallError, Host, Patience};
use crate::limits::{NotUntil, Why};

/// Releases under way at one time. The quota sets the pace; this only bounds what is in flight.
const AT_ONCE: usize = 8;

/// How often in a row a release is sent again that the service puts off, while it takes no other
/// one either. Whoever uses up the quota then does not stop.
const RESENDS: u32 = 10;

/// When an accepted action is looked at for the first time. It may not be visible before.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// From one look to the next the wait grows by a half, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What to do, for each device.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Why, for the action's record.
    pub comment: String,
    /// How long each device is followed, from the moment its release was accepted. `None`: not at
    /// all.
    pub follow: Option<Duration>,
    /// When all of it is to be over. What the quota would put off until after that is not sent, and
    /// nothing is followed any longer. `None`: it takes as long as it takes.
    pub deadline: Option<Moment>,
}

/// How it ended for one device.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The device is free: its action succeeded.
    Released(MachineAction),
    /// The service accepted the release. It was not followed.
    Accepted(MachineAction),
    /// The service accepted it, and it has not ended yet.
    Pending(MachineAction),
    /// The service accepted it, but how it goes on can't be read.
    NotVerifiable(MachineAction, CallError),
    /// A release of this device is under way already, and the service did not say which action it
    /// is.
    InProgress(CallError),
    /// The action ended, and not well: it failed, ran out of time, or was cancelled.
    Failed(MachineAction),
    /// The service did not do it. Nothing was created.
    Refused(CallError),
    /// It is not known whether the service did it. Look before repeating.
    Unknown(CallError),
    /// Nothing was sent, for a reason that has nothing to do with this device, such as that the run
    /// was stopped before.
    NotRun(CallError),
}

/// What an outcome comes down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was asked for is confirmed.
    Done,
    /// It failed.
    Failed,
    /// It may have happened, or not: look before repeating.
    Unknown,
    /// It may still succeed.
    Open,
    /// It was not tried.
    NotRun,
}

impl Outcome {
    /// What it comes down to.
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Released(_) | Self::Accepted(_) => Verdict::Done,
            Self::Pending(_) | Self::NotVerifiable(..) | Self::InProgress(_) => Verdict::Open,
            Self::Failed(_) | Self::Refused(_) => Verdict::Failed,
            Self::Unknown(_) => Verdict::Unknown,
            Self::NotRun(_) => Verdict::NotRun,
        }
    }

    /// One word or two, for programs and tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Released(_) => "released",
            Self::Accepted(_) => "accepted",
            Self::Pending(_) => "pending",
            Self::NotVerifiable(..) => "not-verifiable",
            Self::InProgress(_) => "already-in-progress",
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
            Self::NotRun(_) => "not-run",
        }
    }

    /// The machine action, where one is known.
    pub const fn action(&self) -> Option<&MachineAction> {
        match self {
            Self::Released(action)
            | Self::Accepted(action)
            | Self::Pending(action)
            | Self::NotVerifiable(action, _)
            | Self::Failed(action) => Some(action),
            Self::InProgress(_) | Self::Refused(_) | Self::Unknown(_) | Self::NotRun(_) => None,
        }
    }

    /// What went wrong, where something did.
    pub const fn error(&self) -> Option<&CallError> {
        match self {
            Self::NotVerifiable(_, error)
            | Self::InProgress(error)
            | Self::Refused(error)
            | Self::Unknown(error)
            | Self::NotRun(error) => Some(error),
            Self::Released(_) | Self::Accepted(_) | Self::Pending(_) | Self::Failed(_) => None,
        }
    }
}

/// What a call waits for before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When the quota has room for it as things stand, by the host's calendar. Answers that come
    /// meanwhile can make it sooner.
    pub until: jiff::Timestamp,
    /// What stands in the way.
    pub why: Why,
}

/// Is told what happens, as it happens.
pub trait Reporter: Send + Sync {
    /// The quota has no room now for this device's release, or for a look at its action.
    fn waiting(&self, machine_id: &str, wait: Wait);

    /// The release of this device was accepted, or its action was looked at again.
    fn progress(&self, machine_id: &str, action: &MachineAction);

    /// This device is done with.
    fn finished(&self, machine_id: &str, outcome: &Outcome);
}

/// Releases devices. The outcomes come in the order of the ids, each of which should stand there
/// once.
///
/// Where a call could not even be tried, for a reason that will not be better for the next device
/// (no token, a connection that the policy denies, a service that can't be reached, a comment that
/// does not fit, a quota that others have used up each time), no further one is begun.
///
/// When `stop` becomes true, what is in flight is brought to its answer, and nothing else is begun
/// or followed.
pub async fn release(
    host: &Host,
    machine_ids: &[String],
    plan: &Plan,
    reporter: Arc<dyn Reporter>,
    stop: watch::Receiver<bool>,
) -> Vec<Outcome> {
    let run = Arc::new(Run {
        host: host.clone(),
        plan: plan.clone(),
        reporter,
        in_flight: Semaphore::new(AT_ONCE),
        hopeless: Mutex::new(None),
        answered: AtomicU64::new(0),
        stop,
    });
    let mut tasks = JoinSet::new();
    for (index, id) in machine_ids.iter().cloned().enumerate() {
        let run = Arc::clone(&run);
        tasks.spawn(async move { (index, run.device(&id).await) });
    }
    let mut outcomes = tasks.join_all().await;
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

struct Run {
    host: Host,
    plan: Plan,
    reporter: Arc<dyn Reporter>,
    in_flight: Semaphore,
    /// Why no further release is begun.
    hopeless: Mutex<Option<CallError>>,
    /// Releases that were not put off.
    answered: AtomicU64,
    stop: watch::Receiver<bool>,
}

impl Run {
    async fn device(&self, id: &str) -> Outcome {
        let outcome = match self.send(id).await {
            Ok(action) => {
                self.reporter.progress(id, &action);
                match self.plan.follow {
                    Some(time) => {
                        let end = self.host.clock().now() + time;
                        let end = self.plan.deadline.map_or(end, |deadline| end.min(deadline));
                        self.follow(id, action, end).await
                    }
                    None => ended(&action).unwrap_or(Outcome::Accepted(action)),
                }
            }
            Err(outcome) => outcome,
        };
        self.reporter.finished(id, &outcome);
        outcome
    }

    async fn send(&self, id: &str) -> Result<MachineAction, Outcome> {
        let _in_flight = self.in_flight.acquire().await;
        let (mut resends, mut answered) = (0, 0);
        // What the service said last, if it put this one off.
        let mut put_off: Option<CallError> = None;
        loop {
            let stopped = || self.stop.borrow().then_some(CallError::Stopped);
            if let Some(error) = self.hopeless().clone().or_else(stopped) {
                return Err(put_off.map_or(Outcome::NotRun(error), Outcome::Refused));
            }
            let patience = Patience {
                until: self.plan.deadline,
                stop: Some(self.stop.clone()),
                on_wait: self.on_wait(id),
            };
            match self
                .host
                .unrestrict_code_execution(id, &self.plan.comment, patience)
                .await
            {
                Ok(action) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    return Ok(action);
                }
                Err(CallError::Stopped) => {}
                // The host has closed the key; the next call waits until it opens.
                Err(error) if matches!(error.reason(), Some(Reason::RateLimited(_))) => {
                    let of_all = self.answered.load(Ordering::Relaxed);
                    if of_all != answered {
                        (resends, answered) = (0, of_all);
                    }
                    if resends == RESENDS {
                        *self.hopeless() = Some(error.clone());
                        return Err(Outcome::Refused(error));
                    }
                    resends += 1;
                    put_off = Some(error);
                }
                Err(error) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    if concerns_all(&error) {
                        *self.hopeless() = Some(error.clone());
                    }
                    return Err(judge(error));
                }
            }
        }
    }

    /// Tells the reporter what this device waits for.
    fn on_wait(&self, id: &str) -> Option<Arc<dyn Fn(NotUntil) + Send + Sync>> {
        let (id, reporter) = (id.to_owned(), Arc::clone(&self.reporter));
        let host = self.host.clone();
        Some(Arc::new(move |wait: NotUntil| {
            let until = host.calendar(wait.at);
            reporter.waiting(
                &id,
                Wait {
                    until,
                    why: wait.why,
                },
            );
        }))
    }

    /// Looks at the action until it has ended or the time is up. Reading changes nothing, so
    /// whatever a look meets, there can be another.
    async fn follow(&self, id: &str, accepted: MachineAction, until: Moment) -> Outcome {
        let mut action = accepted;
        let mut pause = FIRST_LOOK;
        loop {
            if let Some(outcome) = ended(&action) {
                return outcome;
            }
            let next = self.host.clock().now() + pause;
            if next > until
                || self
                    .unless_stopped(self.host.clock().sleep_until(next))
                    .await
                    .is_none()
            {
                return Outcome::Pending(action);
            }
            let patience = Patience {
                until: Some(until),
                on_wait: self.on_wait(id),
                ..Patience::default()
            };
            let look = self.host.get_machine_action(&action.id, patience);
            match self.unless_stopped(look).await {
                Some(Ok(seen)) => {
                    action = seen;
                    self.reporter.progress(id, &action);
                }
                None | Some(Err(CallError::Quota { .. })) => return Outcome::Pending(action),
                Some(Err(error)) if can_be_read_later(&error) => {}
                Some(Err(error)) => return Outcome::NotVerifiable(action, error),
            }
            pause = (pause + pause / 2).min(LONGEST_PAUSE);
        }
    }

    async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            result = future => Some(result),
            Ok(_) = stop.wait_for(|stop| *stop) => None,
        }
    }

    fn hopeless(&self) -> MutexGuard<'_, Option<CallError>> {
        self.hopeless.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the action's status says, if it has ended.
fn ended(action: &MachineAction) -> Option<Outcome> {
    match action.status {
        ActionStatus::Succeeded => Some(Outcome::Released(action.clone())),
        ActionStatus::Failed | ActionStatus::TimeOut | ActionStatus::Cancelled => {
            Some(Outcome::Failed(action.clone()))
        }
        ActionStatus::Pending | ActionStatus::InProgress | ActionStatus::Other(_) => None,
    }
}

fn judge(error: CallError) -> Outcome {
    match (error.effect(), error.reason()) {
        (Effect::Unknown, _) => Outcome::Unknown(error),
        (Effect::None, Some(Reason::AlreadyInProgress)) => Outcome::InProgress(error),
        // The service said no.
        (Effect::None, Some(Reason::Unauthorized)) => Outcome::Refused(error),
        (Effect::None, _) if concerns_all(&error) => Outcome::NotRun(error),
        (Effect::None, _) => Outcome::Refused(error),
    }
}

/// Whether the next device would meet the same: nothing happened, and it was not for this device's
/// sake.
fn concerns_all(error: &CallError) -> bool {
    if error.effect() != Effect::None {
        return false;
    }
    match error {
        CallError::Identity(_)
        | CallError::Quota { .. }
        | CallError::Ledger(_)
        | CallError::Stopped
        | CallError::Audit(_)
        | CallError::TokenEchoed { .. } => true,
        CallError::Fault { .. } | CallError::TimedOut { .. } => false,
        CallError::Answered { error, .. } => match &error.reason {
            Reason::InvalidArgument(argument) => argument.parameter == "comment",
            Reason::Unavailable | Reason::Denied | Reason::Transport | Reason::Unauthorized => true,
            _ => false,
        },
    }
}

fn can_be_read_later(error: &CallError) -> bool {
    match error {
        CallError::TimedOut { .. } | CallError::Identity(_) | CallError::Ledger(_) => true,
        CallError::Quota { .. }
        | CallError::Stopped
        | CallError::TokenEchoed { .. }
        | CallError::Audit(_)
        | CallError::Fault { .. } => false,
        CallError::Answered { error, .. } => matches!(
            error.reason,
            Reason::NotFound
                | Reason::RateLimited(_)
                | Reason::ServiceFailure(_)
                | Reason::Transport
                | Reason::UnexpectedResponse
        ),
    }
}

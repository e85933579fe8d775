//! Machine actions, taken back before the device has done them.
//!
//! What the service says of a cancelling leaves two things open: a request that is rejected is so,
//! most often, because the action has ended, and one without an answer may have been done. Then the
//! action is read, and how it stands decides. Nothing that may have arrived is sent again here;
//! whoever does it does no harm.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use defender_core::id::ActionId;
use defender_host::bindings::{ActionStatus, Effect, MachineAction, Reason};
use defender_host::{CallError, Host, WaitOptions};
use futures_util::stream::{self, StreamExt as _};

/// Cancellings under way at one time. The quota sets the pace; this only bounds what is in flight.
const AT_ONCE: usize = 8;

/// How often one is sent again that the service put off. Whoever uses up the quota then does not
/// stop.
const RESENDS: u32 = 10;

/// How it ended for one action.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is cancelled. That does not say that the device has not done it: one that had begun may
    /// finish.
    Cancelled(MachineAction),
    /// The service accepted the cancelling, and the action does not show it yet.
    Pending(MachineAction),
    /// It has ended in another way.
    EndedBefore(MachineAction),
    /// The service did not do it. How the action stands, where that could be read.
    Refused(CallError, Option<MachineAction>),
    /// It is not known whether the service did it. How the action stands, where that could be read.
    Unknown(CallError, Option<MachineAction>),
    /// Nothing was sent, for a reason that has nothing to do with this action.
    NotRun(CallError),
}

impl Outcome {
    /// One word or two, for programs and tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cancelled(_) => "cancelled",
            Self::Pending(_) => "pending",
            Self::EndedBefore(_) => "ended-before",
            Self::Refused(..) => "refused",
            Self::Unknown(..) => "unknown",
            Self::NotRun(_) => "not-run",
        }
    }

    /// The action, as it was seen last.
    pub const fn action(&self) -> Option<&MachineAction> {
        match self {
            Self::Cancelled(action) | Self::Pending(action) | Self::EndedBefore(action) => {
                Some(action)
            }
            Self::Refused(_, action) | Self::Unknown(_, action) => action.as_ref(),
            Self::NotRun(_) => None,
        }
    }

    /// What went wrong, where something did.
    pub const fn error(&self) -> Option<&CallError> {
        match self {
            Self::Refused(error, _) | Self::Unknown(error, _) | Self::NotRun(error) => Some(error),
            Self::Cancelled(_) | Self::Pending(_) | Self::EndedBefore(_) => None,
        }
    }
}

/// Cancels these actions, each of which should stand there once. The outcomes come in their order;
/// `on_outcome` is told of each as it comes.
///
/// Where a call could not even be tried, for a reason that the next one would meet as well, no
/// further one is begun.
pub async fn cancel(
    host: &Host,
    actions: Vec<ActionId>,
    comment: &str,
    patience: WaitOptions,
    on_outcome: impl Fn(&ActionId, &Outcome) + Send + Sync + 'static,
) -> Vec<Outcome> {
    let on_outcome = Arc::new(on_outcome);
    let run = Arc::new(Run {
        host: host.clone(),
        comment: comment.to_owned(),
        patience,
        hopeless: Mutex::new(None),
    });
    let each = stream::iter(actions).map(|id: ActionId| {
        let (run, on_outcome) = (Arc::clone(&run), Arc::clone(&on_outcome));
        async move {
            let outcome = run.one(&id).await;
            on_outcome(&id, &outcome);
            outcome
        }
    });
    each.buffered(AT_ONCE).collect().await
}

struct Run {
    host: Host,
    comment: String,
    patience: WaitOptions,
    /// Why no further one is begun.
    hopeless: Mutex<Option<CallError>>,
}

impl Run {
    async fn one(&self, id: &ActionId) -> Outcome {
        let result = self.send(id).await;
        let seen = match &result {
            Err(error) if leaves_open(error) => {
                let reading = self
                    .host
                    .get_machine_action(id.as_str(), self.patience.clone());
                reading.await.ok()
            }
            _ => None,
        };
        let outcome = judge(result, seen);
        if let Outcome::NotRun(error) = &outcome {
            self.hopeless().get_or_insert(error.clone());
        }
        outcome
    }

    async fn send(&self, id: &ActionId) -> Result<MachineAction, CallError> {
        let mut resends = 0;
        loop {
            if let Some(error) = self.hopeless().clone() {
                return Err(error);
            }
            let patience = self.patience.clone();
            let cancelling = self
                .host
                .cancel_machine_action(id.as_str(), &self.comment, patience);
            match cancelling.await {
                // The host has closed the key; the next call waits until it opens.
                Err(error)
                    if matches!(error.reason(), Some(Reason::RateLimited(_)))
                        && resends < RESENDS =>
                {
                    resends += 1;
                }
                result => return result,
            }
        }
    }

    fn hopeless(&self) -> MutexGuard<'_, Option<CallError>> {
        self.hopeless.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether only the action itself can say what came of it.
fn leaves_open(error: &CallError) -> bool {
    error.effect() == Effect::Unknown || error.reason() == Some(&Reason::Rejected)
}

/// What came of a cancelling, by its result and by how the action was seen after it, if it was.
fn judge(result: Result<MachineAction, CallError>, seen: Option<MachineAction>) -> Outcome {
    let error = match result {
        Ok(action) => return ended(&action).unwrap_or(Outcome::Pending(action)),
        Err(error) => error,
    };
    if let Some(outcome) = seen.as_ref().and_then(ended) {
        return outcome;
    }
    match error.effect() {
        Effect::Unknown => Outcome::Unknown(error, seen),
        Effect::None if concerns_all(&error) => Outcome::NotRun(error),
        Effect::None => Outcome::Refused(error, seen),
    }
}

fn ended(action: &MachineAction) -> Option<Outcome> {
    match action.status {
        ActionStatus::Cancelled => Some(Outcome::Cancelled(action.clone())),
        ActionStatus::Succeeded | ActionStatus::Failed | ActionStatus::TimeOut => {
            Some(Outcome::EndedBefore(action.clone()))
        }
        ActionStatus::Pending | ActionStatus::InProgress | ActionStatus::Other(_) => None,
    }
}

/// Whether the next one, too, would not be sent, or would be refused before it is looked at.
fn concerns_all(error: &CallError) -> bool {
    match error {
        CallError::Fault { .. } | CallError::TimedOut { .. } => false,
        CallError::Answered { error, .. } => match &error.reason {
            Reason::InvalidArgument(argument) => argument.parameter == "comment",
            reason => matches!(
                reason,
                Reason::Unavailable
                    | Reason::Denied
                    | Reason::Transport
                    | Reason::Unauthorized
                    | Reason::RateLimited(_)
            ),
        },
        _ => true,
    }
}

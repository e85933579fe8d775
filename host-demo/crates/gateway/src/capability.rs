//! The capabilities that were handed out, and what each is good for: one request of one call.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bearer_secret::{Fingerprint, Secret};
use defender_boundary::Call;
use defender_core::clock::Clock;

/// How many there may be at one time, with those that are waited for and those whose request is
/// under way.
pub(super) const LIVE_MAX: usize = 1000;

/// How many of those that were used are known as such: more than the documented quotas allow for
/// all operations in an hour.
const USED_MAX: usize = 10_000;

/// All that were handed out.
pub(super) struct Capabilities {
    clock: Arc<dyn Clock>,
    /// What all of them begin with: one of an earlier gateway's begins with something else.
    front: String,
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: HashMap<Fingerprint, Ready>,
    used: HashSet<Fingerprint>,
    /// The same, the oldest first.
    in_order: VecDeque<Fingerprint>,
    is_closed: bool,
}

/// A place among those that there may be.
pub(super) struct Place {
    _held: OwnedSemaphorePermit,
}

/// A call that waits for its request.
pub(super) struct Ready {
    pub(super) call: Call,
    /// Held until its request has its answer.
    pub(super) place: Place,
}

/// Why a capability is good for nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CapabilityError {
    /// It is none of this gateway's: none at all, or one that was there before it was started.
    Foreign,
    /// It was never handed out, or its time is up, and it was not used.
    Unknown,
    /// Its one request has been made, and may have arrived.
    Used,
}

impl Capabilities {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Result<Self, getrandom::Error> {
        Ok(Self {
            clock,
            front: Secret::new()?.text().split_off(48),
            places: Arc::new(Semaphore::new(LIVE_MAX)),
            state: Mutex::default(),
        })
    }

    /// Room for one more, if there is.
    pub(super) fn place(&self) -> Option<Place> {
        let held = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { _held: held })
    }

    /// The text that is good for the call's one request from now on, until its deadline. The call's
    /// permit is given back then, if nothing came.
    pub(super) fn add(self: &Arc<Self>, secret: &Secret, call: Call, place: Place) -> String {
        let text = format!("{}{}", self.front, secret.text());
        let (print, deadline) = (Fingerprint::of(&text), call.deadline());
        let ready = Ready { call, place };
        {
            let mut state = self.state();
            if state.is_closed {
                return text;
            }
            state.live.insert(print, ready);
        }
        let all = Arc::downgrade(self);
        let over = self.clock.sleep_until(deadline);
        tokio::spawn(async move {
            over.await;
            if let Some(all) = all.upgrade() {
                let expired = all.state().live.remove(&print);
                drop(expired);
            }
        });
        text
    }

    /// Takes the call of a capability: the first who asks has it.
    pub(super) fn take(&self, text: &str) -> Result<Ready, CapabilityError> {
        let print = Fingerprint::of(text);
        let mut state = self.state();
        let Some(ready) = state.live.remove(&print) else {
            return Err(if state.used.contains(&print) {
                CapabilityError::Used
            } else if text.starts_with(&self.front) {
                CapabilityError::Unknown
            } else {
                CapabilityError::Foreign
            });
        };
        if self.clock.now() >= ready.call.deadline() {
            drop(state);
            return Err(CapabilityError::Unknown);
        }
        state.used.insert(print);
        state.in_order.push_back(print);
        if state.in_order.len() > USED_MAX
            && let Some(oldest) = state.in_order.pop_front()
        {
            state.used.remove(&oldest);
        }
        Ok(ready)
    }

    /// Takes those back that were not used, and lets none be added.
    pub(super) fn close(&self) {
        let unused = {
            let mut state = self.state();
            state.is_closed = true;
            std::mem::take(&mut state.live)
        };
        drop(unused);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

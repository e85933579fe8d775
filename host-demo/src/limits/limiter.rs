//! Waiting for a call's turn.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{GRACE, Log, NotUntil, Quota, Slot};
use crate::clock::{Clock, Moment};
use crate::grant::Operation;

/// What the service counts by: a real 429 names it "Destination+TenantID+AppID".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The tenant.
    pub tenant: String,
    /// The application.
    pub application: String,
    /// The API operation.
    pub operation: Operation,
}

/// Hands out permits, as many as the quotas allow, in the order they were asked for.
#[derive(Clone)]
pub struct Limiter {
    clock: Arc<dyn Clock>,
    quotas: Arc<[Quota]>,
    keys: Arc<Mutex<HashMap<Key, Arc<Budget>>>>,
}

/// What is left of one key's quotas.
struct Budget {
    log: Mutex<Log>,
    /// Held by whoever is next; tokio's mutex is first come, first served.
    turn: tokio::sync::Mutex<()>,
    /// Something happened that may have freed a slot, or closed the key.
    changed: Notify,
}

impl Budget {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limiter {
    /// Keeps the same quotas for every key.
    pub fn new(clock: Arc<dyn Clock>, quotas: &[Quota]) -> Self {
        Self {
            clock,
            quotas: quotas.into(),
            keys: Arc::default(),
        }
    }

    /// Waits for a slot for a call that will take no longer than `call` from the moment it is
    /// admitted.
    ///
    /// Callers are served in the order they came. Where the wait of the first of them would go past
    /// its `until` it ends at once, with the moment at which it would have been worth it; one that
    /// others are before waits for them, and until `until` at most. Dropping the future leaves the
    /// queue.
    pub async fn acquire(
        &self,
        key: &Key,
        call: Duration,
        until: Option<Moment>,
    ) -> Result<Permit, NotUntil> {
        let budget = self.budget(key);
        let turn = budget.turn.lock();
        let _turn = match until {
            None => turn.await,
            Some(until) => tokio::select! {
                biased;
                turn = turn => turn,
                // Those before it took all the time that it had.
                () = self.clock.sleep_until(until) => return Err(self.not_now(&budget)),
            },
        };
        loop {
            // Registered before the log is looked at, so that what changes in between is not
            // missed.
            let changed = budget.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();

            let now = self.clock.now();
            let deadline = now + call;
            let admitted = budget.log().admit(now, deadline + GRACE);
            match admitted {
                Ok(slot) => {
                    let budget = Arc::clone(&budget);
                    return Ok(Permit {
                        budget,
                        slot,
                        deadline,
                        state: State::Fresh,
                    });
                }
                Err(wait) if until.is_some_and(|until| wait.at > until) => return Err(wait),
                Err(wait) => {
                    tokio::select! {
                        () = self.clock.sleep_until(wait.at) => {}
                        () = changed => {}
                    }
                }
            }
        }
    }

    /// When the key is worth another look, for one who is not next.
    fn not_now(&self, budget: &Budget) -> NotUntil {
        let now = self.clock.now();
        let mut log = budget.log();
        match log.admit(now, now) {
            Err(wait) => wait,
            Ok(slot) => {
                log.cancel(slot);
                NotUntil {
                    at: now,
                    by_service: false,
                }
            }
        }
    }

    /// The service answered 429: nobody calls again before `wait` has passed.
    pub fn close(&self, key: &Key, wait: Duration) {
        let budget = self.budget(key);
        budget.log().close(self.clock.now() + wait);
        budget.changed.notify_waiters();
    }

    /// The longest of the windows.
    pub fn longest_window(&self) -> Duration {
        self.quotas
            .iter()
            .map(|quota| quota.per)
            .max()
            .unwrap_or_default()
    }

    /// How many calls count in each quota's window that ends now.
    pub fn used(&self, key: &Key) -> Vec<(Quota, usize)> {
        let budget = self.budget(key);
        let log = budget.log();
        let now = self.clock.now();
        self.quotas
            .iter()
            .map(|quota| (*quota, log.used(*quota, now)))
            .collect()
    }

    fn budget(&self, key: &Key) -> Arc<Budget> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = keys.get(key) {
            return Arc::clone(budget);
        }
        let budget = Arc::new(Budget {
            log: Mutex::new(Log::new(self.quotas.to_vec())),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        });
        keys.insert(key.clone(), Arc::clone(&budget));
        budget
    }
}

/// The right to send one request, before its deadline.
///
/// Dropped as it is, its slot is free again: nothing was sent. From [`redeem`](Self::redeem) on the
/// slot counts until the answer [settles](Self::settle) it, however the call ends.
pub struct Permit {
    budget: Arc<Budget>,
    slot: Slot,
    deadline: Moment,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Redeemed,
    Done,
}

impl Permit {
    /// After this moment nothing may be sent.
    pub const fn deadline(&self) -> Moment {
        self.deadline
    }

    /// Whether it is still good for a request.
    pub fn is_fresh(&self) -> bool {
        self.state == State::Fresh
    }

    /// How long the service has closed the key for, if it did so since the permit was handed out.
    pub fn closed_for(&self, now: Moment) -> Option<Duration> {
        let wait = self.budget.log().closed_until().since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// Takes the one request. `false` where it was taken before.
    pub fn redeem(&mut self) -> bool {
        let fresh = self.is_fresh();
        self.state = State::Redeemed;
        fresh
    }

    /// The answer's head came at this moment.
    pub fn settle(&mut self, now: Moment) {
        if self.state == State::Redeemed {
            self.state = State::Done;
            self.budget.log().settle(self.slot, now);
            self.budget.changed.notify_waiters();
        }
    }

    /// Nothing was sent after all, for certain.
    pub fn give_back(&mut self) {
        if self.state != State::Done {
            self.state = State::Done;
            self.budget.log().cancel(self.slot);
            self.budget.changed.notify_waiters();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.state == State::Fresh {
            self.give_back();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("slot", &self.slot)
            .field("fresh", &self.is_fresh())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::clock::ManualClock;

    const CALL: Duration = Duration::from_secs(30);

    fn key() -> Key {
        Key {
            tenant: "t".into(),
            application: "a".into(),
            operation: Operation::UnrestrictCodeExecution,
        }
    }

    fn limiter(calls: u32) -> (ManualClock, Limiter) {
        let clock = ManualClock::new();
        let quota = Quota {
            calls,
            per: Duration::from_secs(60),
        };
        (clock.clone(), Limiter::new(Arc::new(clock), &[quota]))
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn a_permit_that_is_dropped_unused_gives_its_slot_back() {
        let (_clock, limiter) = limiter(1);
        let unused = limiter.acquire(&key(), CALL, None).await.unwrap();
        assert_eq!(limiter.used(&key())[0].1, 1);
        drop(unused);
        assert_eq!(limiter.used(&key())[0].1, 0);
    }

    #[tokio::test]
    async fn a_permit_that_was_redeemed_counts_however_the_call_ends() {
        let (clock, limiter) = limiter(1);
        let mut permit = limiter.acquire(&key(), CALL, None).await.unwrap();
        assert!(permit.redeem());
        assert!(!permit.redeem(), "one permit, one request");
        drop(permit);
        let refused = limiter
            .acquire(&key(), CALL, Some(clock.now()))
            .await
            .unwrap_err();
        let counted_by = clock.now() + CALL + GRACE;
        assert_eq!(refused.at, counted_by + Duration::from_millis(60_060));
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_the_order_they_came() {
        let (clock, limiter) = limiter(1);
        let mut first = limiter.acquire(&key(), CALL, None).await.unwrap();
        first.redeem();
        first.settle(clock.now());
        let key = key();
        let mut second = pin!(limiter.acquire(&key, CALL, None));
        let mut third = pin!(limiter.acquire(&key, CALL, None));
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        clock.advance(Duration::from_millis(60_060));
        assert!(
            poll(third.as_mut()).is_pending(),
            "the third does not overtake the second"
        );
        assert!(poll(second.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn whoever_waits_behind_others_gives_up_in_time_too() {
        let (clock, limiter) = limiter(1);
        let mut first = limiter.acquire(&key(), CALL, None).await.unwrap();
        first.redeem();
        first.settle(clock.now());
        let key = key();
        let mut patient = pin!(limiter.acquire(&key, CALL, None));
        assert!(poll(patient.as_mut()).is_pending());
        let until = clock.now() + Duration::from_secs(10);
        let mut hurried = pin!(limiter.acquire(&key, CALL, Some(until)));
        assert!(poll(hurried.as_mut()).is_pending());
        clock.advance(Duration::from_secs(10));
        assert!(matches!(poll(hurried.as_mut()), Poll::Ready(Err(_))));
        clock.advance(Duration::from_millis(50_060));
        assert!(poll(patient.as_mut()).is_ready(), "it held nobody up");
    }

    #[tokio::test]
    async fn an_answer_wakes_whoever_waits() {
        let (clock, limiter) = limiter(1);
        let mut running = limiter.acquire(&key(), CALL, None).await.unwrap();
        running.redeem();
        let key = key();
        let mut waiting = pin!(limiter.acquire(&key, CALL, None));
        assert!(poll(waiting.as_mut()).is_pending());
        running.give_back();
        assert!(
            poll(waiting.as_mut()).is_ready(),
            "nothing was sent: the slot is free at once"
        );
        let _ = clock;
    }

    #[tokio::test]
    async fn a_caller_that_leaves_the_queue_holds_nobody_up() {
        let (clock, limiter) = limiter(1);
        let mut first = limiter.acquire(&key(), CALL, None).await.unwrap();
        first.redeem();
        first.settle(clock.now());
        let key = key();
        {
            let mut leaving = pin!(limiter.acquire(&key, CALL, None));
            assert!(poll(leaving.as_mut()).is_pending());
        }
        let mut staying = pin!(limiter.acquire(&key, CALL, None));
        assert!(poll(staying.as_mut()).is_pending());
        clock.advance(Duration::from_millis(60_060));
        assert!(poll(staying.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn a_429_holds_back_those_who_wait_already() {
        let (clock, limiter) = limiter(5);
        limiter.close(&key(), Duration::from_secs(8));
        let refused = limiter
            .acquire(&key(), CALL, Some(clock.now()))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.at, refused.by_service),
            (clock.now() + Duration::from_secs(8), true)
        );
    }

    #[tokio::test]
    async fn keys_do_not_share() {
        let (_clock, limiter) = limiter(1);
        let _one = limiter.acquire(&key(), CALL, None).await.unwrap();
        let reading = Key {
            operation: Operation::GetMachineAction,
            ..key()
        };
        assert!(limiter.acquire(&reading, CALL, None).await.is_ok());
    }
}

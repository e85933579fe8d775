//! Waiting for a call's turn.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{
    Ask, Holder, Key, LedgerError, NotUntil, Quota, QuotaStore, Reading, Reply, Slot, Ticket,
    Update, Why,
};
use defender_core::clock::{Clock, Moment};
use defender_core::retry::backoff;

/// How often one that waits looks whether another process's call freed a slot before its time. A
/// minute's quota is used 0.4 % late for it, at the worst.
const LOOK: Duration = Duration::from_millis(250);

/// The same while the service has closed the key, which the operator may overrule.
const LOOK_AT_CLOSED: Duration = Duration::from_secs(5);

/// Hands out permits, as many as the quotas allow, in the order they were asked for.
#[derive(Clone)]
pub struct Limiter {
    clock: Arc<dyn Clock>,
    quotas: Arc<[Quota]>,
    ledger: Arc<dyn QuotaStore>,
    holder: Holder,
    keys: Arc<Mutex<HashMap<Key, Arc<Here>>>>,
}

/// What this process knows of a key by itself.
#[derive(Default)]
struct Here {
    state: Mutex<State>,
    /// Something happened that may have freed a slot, made another one the first, or closed the
    /// key.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The places of those who wait. The ledger is asked for the first of them only: for the others
    /// it can't have good news before.
    tickets: BTreeSet<Ticket>,
    /// What the service said to this process. The ledger may know that the operator opened the key
    /// since.
    closed_until: Moment,
    /// How often it has said so.
    closes: u64,
    /// How often in a row, each time after the key had been open again.
    refusals: u32,
}

impl Here {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger admits a call, and knows of so many closes.
    fn opened(&self, closes: u64) {
        let mut state = self.state();
        if state.closes == closes {
            state.closed_until = Moment::ORIGIN;
        }
    }
}

/// Why there is no permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPermit {
    /// No call is left within the caller's patience.
    #[error(transparent)]
    NotUntil(#[from] NotUntil),
    /// It can't be known whether a call is left.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Limiter {
    /// Keeps the same quotas for every key, together with all who use the ledger. `name` says who
    /// this is, for those who look at the ledger.
    pub fn new(
        clock: Arc<dyn Clock>,
        quotas: &[Quota],
        ledger: Arc<dyn QuotaStore>,
        name: &str,
    ) -> Self {
        let holder = Holder {
            id: uuid::Uuid::new_v4().as_u64_pair().0,
            name: name.into(),
        };
        Self {
            clock,
            quotas: quotas.into(),
            ledger,
            holder,
            keys: Arc::default(),
        }
    }

    /// Waits for a slot for a call that will take no longer than `call` from the moment it is
    /// admitted.
    ///
    /// Callers are served in the order they came, across all who share the ledger. One whose turn
    /// will not come by `until` is told so at once, with a moment before which it is not worth
    /// coming back; where more calls were under way or waiting than was known then, it is told at
    /// `until`. Dropping the future leaves the queue.
    ///
    /// `on_wait` is told when it has to wait, and when what it waits for changes.
    pub async fn acquire(
        &self,
        key: &Key,
        call: Duration,
        until: Option<Moment>,
        on_wait: &(dyn Fn(NotUntil) + Sync),
    ) -> Result<Permit, NoPermit> {
        let here = self.here(key);
        let mut place: Option<Place> = None;
        let mut told = None;
        loop {
            // Registered before the ledger is asked, so that what changes in between is not missed.
            let changed = here.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();

            let now = self.clock.now();
            let is_late = until.is_some_and(|until| now >= until);
            if !is_late && place.as_ref().is_some_and(|place| !place.is_first()) {
                tokio::select! {
                    () = changed => {}
                    () = self.sleep(until) => {}
                }
                continue;
            }
            // Before the ledger is asked: however long that takes, it is the call's own time.
            let deadline = now + call;
            let closes = here.state().closes;
            let ask = Ask {
                quotas: Arc::clone(&self.quotas),
                holder: self.holder.clone(),
                ticket: place.as_ref().map(|place| place.ticket),
                call,
                patience: until.map(|until| until.since(now)),
            };
            match self.ledger.ask(key, ask).await? {
                Reply::Admitted { slot, used } => {
                    if let Some(place) = place {
                        place.gone();
                    }
                    here.opened(closes);
                    return Ok(Permit {
                        key: key.clone(),
                        ledger: Arc::clone(&self.ledger),
                        here: Arc::clone(&here),
                        slot,
                        used: self.quotas.iter().copied().zip(used).collect(),
                        deadline,
                        state: Use::Fresh,
                    });
                }
                Reply::NotNow(free) => {
                    if let Some(place) = place {
                        place.gone();
                    }
                    return Err(free.into());
                }
                Reply::Wait { ticket, free, .. } if is_late => {
                    place.get_or_insert_with(|| Place::new(self, key, &here, ticket));
                    return Err(free.into());
                }
                Reply::Wait {
                    ticket,
                    free,
                    may_be_sooner,
                    ..
                } => {
                    if place.as_ref().is_none_or(|place| place.ticket != ticket) {
                        place = Some(Place::new(self, key, &here, ticket));
                    }
                    if told.replace(free) != Some(free) {
                        on_wait(free);
                    }
                    let look = match free.why {
                        Why::Service => now + LOOK_AT_CLOSED,
                        Why::Quota | Why::Lost => now + LOOK,
                    };
                    let wake = match free.at {
                        at if at <= now => look,
                        at if may_be_sooner => at.min(look),
                        at => at,
                    };
                    tokio::select! {
                        () = self.clock.sleep_until(wake) => {}
                        () = changed => {}
                        () = self.sleep(until) => {}
                    }
                }
            }
        }
    }

    async fn sleep(&self, until: Option<Moment>) {
        match until {
            Some(until) => self.clock.sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// The service answered 429: nobody calls again before `wait` has passed.
    pub fn close(&self, key: &Key, wait: Duration) {
        close(key, &self.here(key), &*self.ledger, self.clock.now() + wait);
    }

    /// The longest of the windows.
    pub fn longest_window(&self) -> Duration {
        self.quotas
            .iter()
            .map(|quota| quota.per)
            .max()
            .unwrap_or_default()
    }

    /// What is kept to.
    pub fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// Everything that the ledger knows.
    pub async fn read(&self) -> Result<Reading, LedgerError> {
        self.ledger.read().await
    }

    fn here(&self, key: &Key) -> Arc<Here> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = keys.get(key) {
            return Arc::clone(here);
        }
        Arc::clone(keys.entry(key.clone()).or_default())
    }
}

fn close(key: &Key, here: &Here, ledger: &dyn QuotaStore, until: Moment) {
    {
        let mut state = here.state();
        state.closed_until = state.closed_until.max(until);
        state.closes += 1;
    }
    ledger.tell(key, Update::ClosedUntil(until));
    here.changed.notify_waiters();
}

/// A place in the queue, left when it is dropped.
struct Place {
    key: Key,
    ledger: Arc<dyn QuotaStore>,
    here: Arc<Here>,
    ticket: Ticket,
    is_taken_back: bool,
}

impl Place {
    fn new(limiter: &Limiter, key: &Key, here: &Arc<Here>, ticket: Ticket) -> Self {
        here.state().tickets.insert(ticket);
        Self {
            key: key.clone(),
            ledger: Arc::clone(&limiter.ledger),
            here: Arc::clone(here),
            ticket,
            is_taken_back: false,
        }
    }

    fn is_first(&self) -> bool {
        self.here.state().tickets.first() == Some(&self.ticket)
    }

    /// The ledger has it no more.
    fn gone(mut self) {
        self.is_taken_back = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.here.state().tickets.remove(&self.ticket);
        if !self.is_taken_back {
            self.ledger.tell(&self.key, Update::Left(self.ticket));
        }
        self.here.changed.notify_waiters();
    }
}

/// The right to send one request, before its deadline.
///
/// Dropped as it is, its slot is free again: nothing was sent. From [`redeem`](Self::redeem) on the
/// slot counts until the answer [settles](Self::settle) it, however the call ends.
pub struct Permit {
    key: Key,
    ledger: Arc<dyn QuotaStore>,
    here: Arc<Here>,
    slot: Slot,
    used: Vec<(Quota, usize)>,
    deadline: Moment,
    state: Use,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Fresh,
    Redeemed,
    Done,
}

impl Permit {
    /// After this moment nothing may be sent.
    pub const fn deadline(&self) -> Moment {
        self.deadline
    }

    /// How many calls counted in each quota's window when it was handed out, with this one.
    pub fn used(&self) -> &[(Quota, usize)] {
        &self.used
    }

    /// Whether it is still good for a request.
    pub fn is_fresh(&self) -> bool {
        self.state == Use::Fresh
    }

    /// How long the service has closed the key for, if it told this process so since the permit was
    /// handed out.
    pub fn closed_for(&self, now: Moment) -> Option<Duration> {
        let wait = self.here.state().closed_until.since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// Takes the one request. `false` where it was taken before.
    pub fn redeem(&mut self) -> bool {
        let fresh = self.is_fresh();
        self.state = Use::Redeemed;
        fresh
    }

    /// The service answered with 429 at this moment. Returns the shortest time for which the key has
    /// to be closed, whatever the answer says: it grows from one refusal to the next, while there is
    /// no other answer between them. Those that come while the key is closed are no further ones.
    pub fn refused(&self, now: Moment) -> Duration {
        let mut state = self.here.state();
        if state.refusals == 0 || state.closed_until <= now {
            state.refusals = state.refusals.saturating_add(1);
        }
        backoff(state.refusals)
    }

    /// The service answered with something else than 429.
    pub fn accepted(&self) {
        self.here.state().refusals = 0;
    }

    /// The answer's head came at this moment.
    pub fn settle(&mut self, at: Moment) {
        if self.state == Use::Redeemed {
            self.done(Update::Settled(self.slot, at));
        }
    }

    /// The service said, as it answered this call, that it takes no other one for so long.
    pub fn close(&self, now: Moment, wait: Duration) {
        close(&self.key, &self.here, &*self.ledger, now + wait);
    }

    /// Nothing was sent after all, for certain.
    pub fn give_back(&mut self) {
        if self.state != Use::Done {
            self.done(Update::Cancelled(self.slot));
        }
    }

    fn done(&mut self, news: Update) {
        self.state = Use::Done;
        self.ledger.tell(&self.key, news);
        self.here.changed.notify_waiters();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.state == Use::Fresh {
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
    use crate::{GRACE, Memory};
    use defender_core::clock::ManualClock;
    use defender_core::operation::Operation;

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
        let ledger = Memory::new(Arc::new(clock.clone()));
        let limiter = Limiter::new(
            Arc::new(clock.clone()),
            &[quota],
            Arc::new(ledger),
            "a test",
        );
        (clock, limiter)
    }

    async fn used(limiter: &Limiter) -> usize {
        let Reading { now, budgets, .. } = limiter.read().await.unwrap();
        budgets[&key()].log().used(limiter.quotas()[0], now)
    }

    fn not_until(refused: NoPermit) -> NotUntil {
        match refused {
            NoPermit::NotUntil(wait) => wait,
            NoPermit::Ledger(error) => panic!("{error}"),
        }
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn a_permit_that_is_dropped_unused_gives_its_slot_back() {
        let (_clock, limiter) = limiter(1);
        let unused = limiter.acquire(&key(), CALL, None, &|_| {}).await.unwrap();
        assert_eq!(used(&limiter).await, 1);
        drop(unused);
        assert_eq!(used(&limiter).await, 0);
    }

    #[tokio::test]
    async fn a_permit_that_was_redeemed_counts_however_the_call_ends() {
        let (clock, limiter) = limiter(1);
        let mut permit = limiter.acquire(&key(), CALL, None, &|_| {}).await.unwrap();
        assert!(permit.redeem());
        assert!(!permit.redeem(), "one permit, one request");
        drop(permit);
        let refused = not_until(
            limiter
                .acquire(&key(), CALL, Some(clock.now()), &|_| {})
                .await
                .unwrap_err(),
        );
        let counted_by = clock.now() + CALL + GRACE;
        assert_eq!(refused.at, counted_by + Duration::from_millis(60_060));
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_the_order_they_came() {
        let (clock, limiter) = limiter(1);
        let mut first = limiter.acquire(&key(), CALL, None, &|_| {}).await.unwrap();
        first.redeem();
        first.settle(clock.now());
        let key = key();
        let mut second = pin!(limiter.acquire(&key, CALL, None, &|_| {}));
        let mut third = pin!(limiter.acquire(&key, CALL, None, &|_| {}));
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        clock.advance(Duration::from_millis(60_060));
        assert!(
            poll(third.as_mut()).is_pending(),
            "the third does not overtake the second"
        );
        assert!(poll(second.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn whoever_would_wait_too_long_is_told_so_at_once() {
        let (clock, limiter) = limiter(1);
        let mut first = limiter.acquire(&key(), CALL, None, &|_| {}).await.unwrap();
        first.redeem();
        first.settle(clock.now());
        let key = key();
        let told = std::sync::Mutex::new(Vec::new());
        let note = |wait| told.lock().unwrap().push(wait);
        let mut patient = pin!(limiter.acquire(&key, CALL, None, &note));
        assert!(poll(patient.as_mut()).is_pending());
        let free = NotUntil {
            at: clock.now() + Duration::from_millis(60_060),
            why: Why::Quota,
        };
        assert_eq!(*told.lock().unwrap(), [free]);
        let until = Some(clock.now() + Duration::from_secs(10));
        let mut hurried = pin!(limiter.acquire(&key, CALL, until, &|_| {}));
        let Poll::Ready(Err(refused)) = poll(hurried.as_mut()) else {
            panic!("it waits");
        };
        assert_eq!(not_until(refused), free);
        clock.advance(Duration::from_millis(60_060));
        assert!(poll(patient.as_mut()).is_ready(), "it held nobody up");
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_the_hope_is_gone() {
        let (clock, limiter) = limiter(1);
        let mut first = limiter.acquire(&key(), CALL, None, &|_| {}).await.unwrap();
        first.redeem();
        first.settle(clock.now());
        let key = key();
        let until = Some(clock.now() + Duration::from_secs(100));
        let mut patient = pin!(limiter.acquire(&key, CALL, until, &|_| {}));
        // As far as anybody knows now, the call before it ends at once.
        let mut hopeful = pin!(limiter.acquire(&key, CALL, until, &|_| {}));
        assert!(poll(patient.as_mut()).is_pending() && poll(hopeful.as_mut()).is_pending());
        clock.advance(Duration::from_millis(60_060));
        let Poll::Ready(Ok(_running)) = poll(patient.as_mut()) else {
            panic!("no permit");
        };
        // Now it is known that that one may take until after its time.
        let Poll::Ready(Err(refused)) = poll(hopeful.as_mut()) else {
            panic!("it still waits");
        };
        let counted_by = clock.now() + CALL + GRACE;
        assert_eq!(
            not_until(refused).at,
            counted_by + Duration::from_millis(60_060)
        );
    }

    #[tokio::test]
    async fn an_answer_wakes_whoever_waits() {
        let (clock, limiter) = limiter(1);
        let mut running = limiter.acquire(&key(), CALL, None, &|_| {}).await.unwrap();
        running.redeem();
        let key = key();
        let mut waiting = pin!(limiter.acquire(&key, CALL, None, &|_| {}));
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
        let mut first = limiter.acquire(&key(), CALL, None, &|_| {}).await.unwrap();
        first.redeem();
        first.settle(clock.now());
        let key = key();
        {
            let mut leaving = pin!(limiter.acquire(&key, CALL, None, &|_| {}));
            assert!(poll(leaving.as_mut()).is_pending());
        }
        let mut staying = pin!(limiter.acquire(&key, CALL, None, &|_| {}));
        assert!(poll(staying.as_mut()).is_pending());
        clock.advance(Duration::from_millis(60_060));
        assert!(poll(staying.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn a_429_holds_back_those_who_wait_already() {
        let (clock, limiter) = limiter(5);
        limiter.close(&key(), Duration::from_secs(8));
        let refused = not_until(
            limiter
                .acquire(&key(), CALL, Some(clock.now()), &|_| {})
                .await
                .unwrap_err(),
        );
        assert_eq!(
            (refused.at, refused.why),
            (clock.now() + Duration::from_secs(8), Why::Service)
        );
    }

    #[tokio::test]
    async fn an_opened_key_takes_calls_and_honors_the_next_429() {
        let (clock, limiter) = limiter(5);
        let day = Duration::from_secs(24 * 3600);
        limiter.close(&key(), day);
        let key = key();
        let mut waiting = pin!(limiter.acquire(&key, CALL, None, &|_| {}));
        assert!(poll(waiting.as_mut()).is_pending());
        limiter.ledger.reopen().await.unwrap();
        clock.advance(LOOK_AT_CLOSED);
        let Poll::Ready(Ok(permit)) = poll(waiting.as_mut()) else {
            panic!("it still waits");
        };
        assert_eq!(permit.closed_for(clock.now()), None);
        let soon = Duration::from_secs(3);
        limiter.close(&key, soon);
        assert_eq!(permit.closed_for(clock.now()), Some(soon));
    }

    #[tokio::test]
    async fn refusals_in_a_row_close_the_key_for_longer_and_longer() {
        let (clock, limiter) = limiter(5);
        let permit = limiter.acquire(&key(), CALL, None, &|_| {}).await.unwrap();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = permit.refused(clock.now());
            permit.close(clock.now(), wait);
            // Another one that was under way.
            assert_eq!(permit.refused(clock.now()), wait);
            waits.push(wait.as_secs());
            clock.advance(wait);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        permit.accepted();
        assert_eq!(permit.refused(clock.now()).as_secs(), 1);
    }

    #[tokio::test]
    async fn keys_do_not_share() {
        let (_clock, limiter) = limiter(1);
        let _one = limiter.acquire(&key(), CALL, None, &|_| {}).await.unwrap();
        let reading = Key {
            operation: Operation::GetMachineAction,
            ..key()
        };
        assert!(limiter.acquire(&reading, CALL, None, &|_| {}).await.is_ok());
    }
}

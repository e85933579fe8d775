//! Callers, limiters and a ledger on a clock that jumps from one event to the next. There is no
//! service, and no HTTP.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use async_trait::async_trait;
use host_demo::clock::{Clock as _, ManualClock, Moment};
use host_demo::grant::Operation;
use host_demo::limits::{
    Ask, Key, LedgerError, Limiter, Memory, Quota, QuotaStore, Reading, Reply, Update,
};

/// The key that all share.
pub fn key() -> Key {
    Key {
        tenant: "tenant".into(),
        application: "application".into(),
        operation: Operation::UnrestrictCodeExecution,
    }
}

/// A clock, a ledger, and those who act by them.
pub struct Simulation<'a> {
    /// What time it is.
    pub clock: ManualClock,
    ledger: Arc<Busy>,
    actors: Vec<Actor<'a>>,
    ready: Arc<Mutex<VecDeque<usize>>>,
}

struct Actor<'a> {
    process: usize,
    /// None where it has ended.
    future: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
    bell: Arc<Bell>,
}

impl<'a> Simulation<'a> {
    /// With a ledger that is made for its clock.
    pub fn new(ledger: impl FnOnce(&ManualClock) -> Arc<dyn QuotaStore>) -> Self {
        let clock = ManualClock::new();
        let ledger = Arc::new(Busy {
            ledger: ledger(&clock),
            asked: AtomicUsize::new(0),
        });
        Self {
            clock,
            ledger,
            actors: Vec::new(),
            ready: Arc::default(),
        }
    }

    /// With a ledger in memory.
    pub fn in_memory() -> Self {
        Self::new(|clock| Arc::new(Memory::new(Arc::new(clock.clone()))))
    }

    /// A process, as far as the quotas know.
    pub fn limiter(&self, quotas: &[Quota], name: &str) -> Limiter {
        let ledger: Arc<dyn QuotaStore> = Arc::clone(&self.ledger) as _;
        Limiter::new(Arc::new(self.clock.clone()), quotas, ledger, name)
    }

    /// Somebody who acts, in one of the processes.
    pub fn act(&mut self, process: usize, future: impl Future<Output = ()> + 'a) {
        let number = self.actors.len();
        self.lock().push_back(number);
        self.actors.push(Actor {
            process,
            future: Some(Box::pin(future)),
            bell: Arc::new(Bell {
                number,
                has_rung: AtomicBool::new(true),
                ready: Arc::clone(&self.ready),
                thread: std::thread::current(),
            }),
        });
    }

    /// Kills a process: whoever is in it does nothing any more, not even what is done last.
    pub fn kill(&mut self, process: usize) {
        for actor in &mut self.actors {
            if actor.process == process {
                std::mem::forget(actor.future.take());
            }
        }
    }

    /// Lets everyone act who can before the clock goes on.
    ///
    /// # Panics
    ///
    /// When an actor does.
    pub fn settle(&mut self) {
        loop {
            let next = self.lock().pop_front();
            if let Some(actor) = next.map(|number| &mut self.actors[number]) {
                actor.bell.has_rung.store(false, Ordering::SeqCst);
                let waker = Waker::from(Arc::clone(&actor.bell));
                let mut context = Context::from_waker(&waker);
                if let Some(future) = &mut actor.future
                    && future.as_mut().poll(&mut context) == Poll::Ready(())
                {
                    actor.future = None;
                }
            } else if self.ledger.asked.load(Ordering::SeqCst) > 0 {
                std::thread::park();
            } else {
                return;
            }
        }
    }

    /// When something happens next; none where all have ended.
    ///
    /// # Panics
    ///
    /// Where nothing will, although some have not ended.
    pub fn next(&self) -> Option<Moment> {
        if self.actors.iter().all(|actor| actor.future.is_none()) {
            return None;
        }
        let next = self.clock.next_wake();
        Some(next.expect("some wait for nothing that will happen"))
    }

    /// Moves the clock on, and lets all act then.
    pub fn go_on_to(&mut self, moment: Moment) {
        self.clock.advance(moment.since(self.clock.now()));
        self.settle();
    }

    /// Plays it to its end.
    pub fn play(&mut self) {
        self.settle();
        while let Some(next) = self.next() {
            self.go_on_to(next);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rung where an actor can go on.
struct Bell {
    number: usize,
    has_rung: AtomicBool,
    ready: Arc<Mutex<VecDeque<usize>>>,
    thread: Thread,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if !self.has_rung.swap(true, Ordering::SeqCst) {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.push_back(self.number);
        }
        self.thread.unpark();
    }
}

/// A ledger that knows whether it owes an answer: until then the clock must not go on.
struct Busy {
    ledger: Arc<dyn QuotaStore>,
    asked: AtomicUsize,
}

struct Asked<'a>(&'a AtomicUsize);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl QuotaStore for Busy {
    async fn ask(&self, key: &Key, ask: Ask) -> Result<Reply, LedgerError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _answered = Asked(&self.asked);
        self.ledger.ask(key, ask).await
    }

    fn tell(&self, key: &Key, news: Update) {
        self.ledger.tell(key, news);
    }

    async fn read(&self) -> Result<Reading, LedgerError> {
        self.ledger.read().await
    }

    async fn reopen(&self) -> Result<(), LedgerError> {
        self.ledger.reopen().await
    }
}

/// How long so many calls take, all of them wanted at once by so many processes, where the n-th is
/// answered after `answer(n)`.
///
/// # Panics
///
/// Where the ledger fails.
pub fn time_of(
    mut simulation: Simulation<'_>,
    processes: usize,
    calls: usize,
    answer: fn(usize) -> Duration,
) -> Duration {
    let began = simulation.clock.now();
    let limiters: Vec<Limiter> = (0..processes)
        .map(|n| simulation.limiter(&Quota::DOCUMENTED, &format!("process {n}")))
        .collect();
    for n in 0..calls {
        let (clock, limiter) = (simulation.clock.clone(), limiters[n % processes].clone());
        simulation.act(n % processes, async move {
            let call = Duration::from_secs(30);
            let permit = limiter.acquire(&key(), call, None, &|_| {}).await;
            let mut permit = permit.expect("the ledger works");
            permit.redeem();
            clock.sleep_until(clock.now() + answer(n)).await;
            permit.settle(clock.now());
        });
    }
    simulation.play();
    simulation.clock.now().since(began)
}

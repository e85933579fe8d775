//! What exact quotas cost: `cargo bench -p tests --bench limits`.
//!
//! How long calls take is played on a simulated clock, by the real limiters and ledgers, and
//! compared with the least time in which the promise can be kept. What a decision costs is measured
//! beside what does less: `governor`, whose decision is not exact, a bare row in a file, and a
//! server's counter. Bounds stand beside the numbers; nothing fails for missing one. `-- --quick`
//! does less.

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future as _;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::clock::FakeRelativeClock;
use host_demo::clock::{Clock, Moment, Sleep, SystemClock};
use host_demo::limits::{
    Ask, Holder, Key, Memory, Quota, QuotaStore, Redis, RedisOptions, Reply, Slot, Sqlite, Update,
    boot_id,
};
use rusqlite::Connection;
use tests::bare::Error;
use tests::redis::RedisServer;
use tests::report::{Better, Report, Row};
use tests::simulation::{Simulation, key, time_of};

/// How long the service takes to answer, in the simulation.
fn alike(_: usize) -> Duration {
    Duration::from_millis(200)
}

/// From a fifth of a second to five, in no order.
fn unlike(call: usize) -> Duration {
    Duration::from_millis(200 + (call as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 4801)
}

/// The windows, as they are kept.
const KEPT: [(usize, Duration); 2] = [
    (100, Duration::from_millis(60_060)),
    (1500, Duration::from_millis(3_603_600)),
];

/// At this pace a log of 1,500 calls is full, and each call leaves just as the next one comes.
const PACE: Duration = Duration::from_micros(2_402_400);

/// For how long each side is measured, in turn.
const FOR: Duration = Duration::from_millis(500);

/// Those who ask for a decision at one time, where it has to reach a disk or a server.
const ASKERS: usize = 8;

fn main() -> Result<(), Error> {
    let mut report = Report::new("limits");
    let quick = report.is_quick();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    pace(&mut report, directory.path())?;
    let rounds = if quick { 3 } else { 9 };
    memory(&mut report, rounds, if quick { 100_000 } else { 500_000 });
    worst_windows(&mut report);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(disk(&mut report, directory.path(), rounds))?;
    runtime.block_on(server(&mut report, rounds))?;
    size_of_keys(&mut report);
    report.write()
}

/// How long calls take that are all wanted at once, in the least time that the promise allows.
fn pace(report: &mut Report, directory: &Path) -> Result<(), Error> {
    let quick = report.is_quick();
    let many: &[usize] = if quick {
        &[100, 1500]
    } else {
        &[100, 1500, 3000, 10_000]
    };
    for &calls in many {
        for processes in [1, 8] {
            let memory = Simulation::in_memory();
            pace_of(report, memory, "memory", processes, calls, alike);
        }
    }
    let memory = Simulation::in_memory();
    pace_of(report, memory, "0.2 to 5 s each", 8, 1500, unlike);
    let file = directory.join("pace.sqlite");
    let mut opened = Ok(());
    let simulation = Simulation::new(|clock| {
        let clock = Arc::new(clock.clone());
        match Sqlite::open(&file, Arc::clone(&clock) as _, &boot_id()) {
            Ok(ledger) => Arc::new(ledger),
            Err(error) => {
                opened = Err(error);
                Arc::new(Memory::new(clock))
            }
        }
    });
    opened?;
    pace_of(
        report,
        simulation,
        "SQLite",
        8,
        if quick { 300 } else { 1500 },
        alike,
    );
    Ok(())
}

fn pace_of(
    report: &mut Report,
    simulation: Simulation<'_>,
    how: &str,
    processes: usize,
    calls: usize,
    answer: fn(usize) -> Duration,
) {
    let time = time_of(simulation, processes, calls, answer).as_secs_f64();
    let ratio = time / least_time_of(calls, answer).as_secs_f64();
    let who = if processes == 1 {
        "process"
    } else {
        "processes"
    };
    report.row(
        Row::new(
            format!("{calls} calls of {processes} {who}, {how}: time / least"),
            Better::Lower,
            vec![ratio],
        )
        .digits(5)
        .bound("1.01"),
    );
}

/// One after the other, each call starts at the first moment at which all but a quota's number less
/// one of those before it were answered a window ago.
fn least_time_of(calls: usize, answer: fn(usize) -> Duration) -> Duration {
    let mut answered: Vec<Duration> = Vec::new();
    let mut start = Duration::ZERO;
    for call in 0..calls {
        for (many, window) in KEPT {
            if let Some(before) = answered.len().checked_sub(many) {
                start = start.max(answered[before] + window);
            }
        }
        let at = start + answer(call);
        answered.insert(answered.partition_point(|other| *other <= at), at);
    }
    answered.last().copied().unwrap_or_default()
}

/// Decisions per second on one core, at a full log.
fn memory(report: &mut Report, rounds: usize, decisions: u32) {
    let hands = Hands::default();
    let ledger = Memory::new(Arc::new(hands.clone()));
    let asker = Asker::new(&Quota::DOCUMENTED);
    let admit = || {
        hands.advance(PACE);
        let slot = asker.admitted(&ledger).expect("one has just left");
        ledger.tell(&asker.key, Update::Settled(slot, hands.now()));
    };
    let fake = FakeRelativeClock::default();
    let governors = [
        (governor::Quota::per_minute as fn(_) -> _, 100),
        (governor::Quota::per_hour, 1500),
    ]
    .map(|(per, calls)| {
        let calls = NonZeroU32::new(calls).unwrap_or(NonZeroU32::MIN);
        RateLimiter::direct_with_clock(per(calls), fake.clone())
    });
    let check = || {
        governors
            .iter()
            .all(|governor| black_box(governor).check().is_ok())
    };
    (0..1500).for_each(|_| admit());

    let (mut admitted, mut refused) = (Vec::new(), Vec::new());
    let (mut admitted_there, mut refused_there) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        admitted.push(rate(decisions, admit));
        refused.push(rate(decisions, || {
            assert_eq!(asker.admitted(&ledger), None);
        }));
        admitted_there.push(rate(decisions, || {
            fake.advance(PACE);
            assert!(check());
        }));
        while check() {}
        refused_there.push(rate(decisions, || assert!(!check())));
    }
    for (what, ours, theirs) in [
        ("admitted and settled", admitted, admitted_there),
        ("refused", refused, refused_there),
    ] {
        report.row(
            Row::new(
                format!("decisions a second, memory, {what}"),
                Better::Higher,
                ours,
            )
            .bound("1000000 at least"),
        );
        let what = what.split(' ').next().unwrap_or(what);
        report.row(Row::new(
            format!("  governor's, a minute and an hour, {what}"),
            Better::Neither,
            theirs,
        ));
    }
}

/// The most calls in any minute, of somebody who tries at each hundredth of a second.
fn worst_windows(report: &mut Report) {
    let hands = Hands::default();
    let ledger = Memory::new(Arc::new(hands.clone()));
    let asker = Asker::new(&Quota::DOCUMENTED[..1]);
    let ours = worst_window(|| {
        hands.advance(Duration::from_millis(10));
        let slot = asker.admitted(&ledger);
        if let Some(slot) = slot {
            ledger.tell(&asker.key, Update::Settled(slot, hands.now()));
        }
        slot.is_some()
    });
    let fake = FakeRelativeClock::default();
    let hundred = NonZeroU32::new(100).unwrap_or(NonZeroU32::MIN);
    let governor =
        RateLimiter::direct_with_clock(governor::Quota::per_minute(hundred), fake.clone());
    let theirs = worst_window(|| {
        fake.advance(Duration::from_millis(10));
        governor.check().is_ok()
    });
    let most = "most calls in any 60 s, of 100 a minute";
    report.row(Row::new(most, Better::Neither, vec![ours as f64]).bound("100"));
    report.row(Row::new(
        "  governor's",
        Better::Neither,
        vec![theirs as f64],
    ));
}

fn worst_window(mut try_at_next: impl FnMut() -> bool) -> usize {
    let tries: Vec<bool> = (0..30_000).map(|_| try_at_next()).collect();
    let windows = tries.windows(6000);
    let most = windows
        .map(|minute| minute.iter().filter(|call| **call).count())
        .max();
    most.unwrap_or_default()
}

/// Decisions that are on the disk before they are known, beside rows that are.
async fn disk(report: &mut Report, directory: &Path, rounds: usize) -> Result<(), Error> {
    let file = directory.join("decisions.sqlite");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ledger = Sqlite::open(&file, Arc::clone(&clock), &boot_id())?;
    let ledger: Arc<dyn QuotaStore> = Arc::new(ledger);
    let bare = Connection::open(directory.join("bare.sqlite"))?;
    bare.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE call (at INTEGER)",
    )?;
    let (mut ratios, mut ours, mut one, mut theirs) = (vec![], vec![], vec![], vec![]);
    let window = window_of_a_full_log(&ledger, &clock).await;
    for _ in 0..rounds {
        let crowd = decisions(&ledger, &clock, ASKERS, window).await;
        let rows = commits(&bare)?;
        one.push(decisions(&ledger, &clock, 1, window).await);
        ours.push(crowd);
        theirs.push(rows);
        ratios.push(crowd / rows);
    }
    report.row(
        Row::new(
            format!("decisions a second, SQLite, {ASKERS} askers / bare commits"),
            Better::Higher,
            ratios,
        )
        .digits(2)
        .bound("0.5 at least"),
    );
    for (what, better, rates) in [
        ("  decisions a second", Better::Higher, ours),
        ("  one asker's", Better::Higher, one),
        ("  bare commits of a row", Better::Neither, theirs),
    ] {
        report.row(Row::new(what, better, rates));
    }
    Ok(())
}

/// The length of a window in which there are 1,500 calls at the pace at which they are decided.
async fn window_of_a_full_log(ledger: &Arc<dyn QuotaStore>, clock: &Arc<dyn Clock>) -> Duration {
    let mut window = Duration::from_millis(100);
    // The pace depends on it.
    for _ in 0..2 {
        let pace = decisions(ledger, clock, ASKERS, window).await;
        window = Duration::from_secs_f64(1500.0 / pace);
    }
    window
}

/// Of those who ask on and on, in a window that is never full.
async fn decisions(
    ledger: &Arc<dyn QuotaStore>,
    clock: &Arc<dyn Clock>,
    askers: usize,
    per: Duration,
) -> f64 {
    let calls = u32::MAX;
    let quota = Quota { calls, per };
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..askers {
        let (ledger, clock) = (Arc::clone(ledger), Arc::clone(clock));
        tasks.spawn(async move {
            let asker = Asker::new(&[quota]);
            let mut decisions = 0_u32;
            while began.elapsed() < FOR {
                if let Ok(Reply::Admitted { slot, .. }) = ledger.ask(&asker.key, asker.ask()).await
                {
                    ledger.tell(&asker.key, Update::Settled(slot, clock.now()));
                    decisions += 1;
                }
            }
            decisions
        });
    }
    let decisions: u32 = tasks.join_all().await.into_iter().sum();
    f64::from(decisions) / began.elapsed().as_secs_f64()
}

fn commits(bare: &Connection) -> Result<f64, Error> {
    let mut insert = bare.prepare("INSERT INTO call (at) VALUES (?1)")?;
    let began = Instant::now();
    let mut commits = 0_u32;
    while began.elapsed() < FOR {
        insert.execute([commits])?;
        commits += 1;
    }
    Ok(f64::from(commits) / began.elapsed().as_secs_f64())
}

/// Decisions on a server, beside a counter there that forgets by itself. Neither waits for its
/// disk, which has both a second later.
async fn server(report: &mut Report, rounds: usize) -> Result<(), Error> {
    let Some(server) = RedisServer::start() else {
        return Ok(());
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ledger = Redis::open(&server.url(), RedisOptions::default(), Arc::clone(&clock))?;
    let ledger: Arc<dyn QuotaStore> = Arc::new(ledger);
    ledger.reopen().await?;
    let (mut ours, mut theirs) = (vec![], vec![]);
    let window = window_of_a_full_log(&ledger, &clock).await;
    for _ in 0..rounds {
        ours.push(decisions(&ledger, &clock, ASKERS, window).await);
        let url = server.url();
        theirs.push(tokio::task::spawn_blocking(move || counters(&url)).await??);
    }
    let decisions = format!("decisions a second, Redis, {ASKERS} askers");
    report.row(Row::new(decisions, Better::Higher, ours).bound("10000 at least"));
    report.row(Row::new(
        format!("  INCR and EXPIRE in one pipeline, {ASKERS} connections"),
        Better::Neither,
        theirs,
    ));
    Ok(())
}

fn counters(url: &str) -> Result<f64, Error> {
    let began = Instant::now();
    let count = |mut connection: redis::Connection| {
        let mut counts = 0_u32;
        while began.elapsed() < FOR {
            let mut both = redis::pipe();
            both.cmd("INCR").arg("calls").ignore();
            both.cmd("EXPIRE").arg("calls").arg(60).ignore();
            both.query::<()>(&mut connection)?;
            counts += 1;
        }
        Ok::<_, redis::RedisError>(counts)
    };
    let client = redis::Client::open(url)?;
    let connections: Result<Vec<_>, _> = (0..ASKERS).map(|_| client.get_connection()).collect();
    let mut counts = 0;
    std::thread::scope(|scope| {
        let all = connections?.into_iter();
        let threads: Vec<_> = all.map(|one| scope.spawn(|| count(one))).collect();
        for thread in threads {
            counts += thread
                .join()
                .map_err(|_| "a connection's thread panicked")??;
        }
        Ok::<_, Error>(())
    })?;
    Ok(f64::from(counts) / began.elapsed().as_secs_f64())
}

/// What 10,000 keys take.
fn size_of_keys(report: &mut Report) {
    for (keys, calls) in [(10_000, 1), (100, 1500)] {
        let hands = Hands::default();
        let ledger = Memory::new(Arc::new(hands.clone()));
        let mut asker = Asker::new(&Quota::DOCUMENTED);
        let before = IN_USE.load(Ordering::Relaxed);
        for tenant in 0..keys {
            asker.key.tenant = format!("tenant {tenant:029}");
            for _ in 0..calls {
                hands.advance(PACE);
                if let Some(slot) = asker.admitted(&ledger) {
                    ledger.tell(&asker.key, Update::Settled(slot, hands.now()));
                }
            }
        }
        let taken = IN_USE.load(Ordering::Relaxed) - before;
        report.row(Row::new(
            format!("bytes a key, {keys} keys with {calls} calls"),
            Better::Lower,
            vec![(taken / keys) as f64],
        ));
    }
}

/// Somebody who does not wait.
struct Asker {
    key: Key,
    quotas: Arc<[Quota]>,
    holder: Holder,
}

impl Asker {
    fn new(quotas: &[Quota]) -> Self {
        let holder = Holder {
            id: 1,
            name: "a benchmark".into(),
        };
        Self {
            key: key(),
            quotas: quotas.into(),
            holder,
        }
    }

    fn ask(&self) -> Ask {
        Ask {
            quotas: Arc::clone(&self.quotas),
            holder: self.holder.clone(),
            ticket: None,
            call: Duration::from_secs(30),
            patience: Some(Duration::ZERO),
        }
    }

    /// What a ledger in memory decides, which is done when it is asked.
    fn admitted(&self, ledger: &Memory) -> Option<Slot> {
        let decision = pin!(ledger.ask(&self.key, self.ask()));
        match decision.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Reply::Admitted { slot, .. })) => Some(slot),
            _ => None,
        }
    }
}

fn rate(times: u32, mut does: impl FnMut()) -> f64 {
    let began = Instant::now();
    (0..times).for_each(|_| does());
    f64::from(times) / began.elapsed().as_secs_f64()
}

/// A clock as cheap as one can be, so that it is not what is measured.
#[derive(Clone)]
struct Hands(Arc<AtomicU64>);

impl Default for Hands {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(1 << 50)))
    }
}

impl Hands {
    fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn now(&self) -> Moment {
        Moment::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn sleep_until(&self, _: Moment) -> Sleep {
        Box::pin(std::future::pending())
    }
}

/// How much memory is in use.
static IN_USE: AtomicI64 = AtomicI64::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: it does what the system's allocator does, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size().cast_signed() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size().cast_signed() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(place, layout) }
    }
}

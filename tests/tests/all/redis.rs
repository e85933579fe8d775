//! The ledger on a Redis server, against a real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use host_demo::clock::{Clock, Moment, Sleep, SystemClock};
use host_demo::grant::Operation;
use host_demo::limits::{
    Ask, GRACE, Holder, Key, KeyState, LedgerError, LedgerProblem, NotUntil, Quota,
    QuotaStore as _, Reading, Redis, RedisOptions, Reply, Slot, Ticket, Update, Why,
};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tests::redis::RedisServer;

const SECOND: Duration = Duration::from_secs(1);

/// How long a call may take.
const CALL: Duration = Duration::from_secs(4);

/// Five seconds, as they are kept.
const KEPT: Duration = Duration::from_millis(5_005);

/// A clock that is set by hand, also back.
#[derive(Clone)]
struct Hands(Arc<AtomicU64>);

impl Hands {
    fn at(seconds: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seconds * 1_000_000_000)))
    }

    fn forward(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    fn back(&self, by: Duration) {
        self.0.fetch_sub(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now(&self) -> Moment {
        Moment::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn sleep_until(&self, _: Moment) -> Sleep {
        Box::pin(std::future::pending())
    }
}

/// A server, its clock and that of the machine that all hosts here are on.
struct Scene {
    server: RedisServer,
    there: Hands,
    here: Hands,
}

impl Scene {
    fn new() -> Option<Self> {
        RedisServer::start().map(Self::of)
    }

    fn of(server: RedisServer) -> Self {
        Self {
            server,
            there: Hands::at(1_700_000_000),
            here: Hands::at(5_000),
        }
    }

    fn try_open(&self, options: RedisOptions) -> Result<Redis, LedgerError> {
        let options = RedisOptions {
            time: Some(Arc::new(self.there.clone())),
            ..options
        };
        Redis::open(&self.server.url(), options, Arc::new(self.here.clone()))
    }

    fn open(&self) -> Redis {
        self.try_open(RedisOptions::default()).unwrap()
    }

    /// One that somebody has opened: a new one may be one that was lost.
    async fn begun(&self) -> Redis {
        let ledger = self.open();
        ledger.reopen().await.unwrap();
        ledger
    }

    fn passes(&self, time: Duration) {
        self.here.forward(time);
        self.there.forward(time);
    }
}

fn key() -> Key {
    Key {
        tenant: "t".into(),
        application: "{a}".into(),
        operation: Operation::UnrestrictCodeExecution,
    }
}

fn five_seconds(calls: u32) -> Quota {
    Quota {
        calls,
        per: 5 * SECOND,
    }
}

/// An ask that does not wait.
fn ask(holder: u64, quotas: &[Quota]) -> Ask {
    Ask {
        quotas: quotas.into(),
        holder: Holder {
            id: u64::MAX - holder,
            name: format!("holder\n{holder}").into(),
        },
        ticket: None,
        call: CALL,
        patience: Some(Duration::ZERO),
    }
}

async fn admitted(ledger: &Redis, calls: u32) -> (Slot, Vec<usize>) {
    match ledger.ask(&key(), ask(1, &[five_seconds(calls)])).await {
        Ok(Reply::Admitted { slot, used }) => (slot, used),
        other => panic!("{other:?}"),
    }
}

/// A call that is answered at once.
async fn call(scene: &Scene, ledger: &Redis, calls: u32) {
    let (slot, _) = admitted(ledger, calls).await;
    ledger.tell(&key(), Update::Settled(slot, scene.here.now()));
    ledger.read().await.unwrap();
}

async fn refused(ledger: &Redis, calls: u32) -> NotUntil {
    match ledger.ask(&key(), ask(1, &[five_seconds(calls)])).await {
        Ok(Reply::NotNow(free)) => free,
        other => panic!("{other:?}"),
    }
}

async fn problem(ledger: &Redis) -> LedgerProblem {
    let reply = ledger.ask(&key(), ask(1, &[five_seconds(100)])).await;
    reply.unwrap_err().problem
}

/// Until when nothing is admitted that was not known to be lost before now.
fn closed(scene: &Scene) -> NotUntil {
    NotUntil {
        at: scene.here.now() + CALL + GRACE + KEPT,
        why: Why::Lost,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        holder: u64,
        /// One of those that wait, rather than a new one.
        place: Option<prop::sample::Index>,
        quotas: usize,
        patience: Option<u64>,
        takes: u64,
    },
    Settle(prop::sample::Index),
    Cancel(prop::sample::Index),
    Leave(prop::sample::Index),
    Close(u64),
    Reopen,
    Passes(u64),
    SetBack(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let ask = (
        0..3_u64,
        prop::option::weighted(0.6, index()),
        0..5_usize,
        prop::option::weighted(0.3, 0..10_000_u64),
        1..9_000_u64,
    );
    let ask = ask.prop_map(|(holder, place, quotas, patience, takes)| Step::Ask {
        holder,
        place,
        quotas,
        patience,
        takes,
    });
    let step = prop_oneof![
        12 => ask,
        6 => index().prop_map(Step::Settle),
        1 => index().prop_map(Step::Cancel),
        1 => index().prop_map(Step::Leave),
        1 => (0..8_000_u64).prop_map(Step::Close),
        1 => Just(Step::Reopen),
        6 => (0..4_000_u64).prop_map(Step::Passes),
        1 => (30_000..60_000_u64).prop_map(Step::Passes),
        1 => (0..3_000_u64).prop_map(Step::SetBack),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What is decided in memory, with the server's time.
#[derive(Default)]
struct Model {
    budget: KeyState,
    now: Moment,
    /// Slots here and there, with the latest moment at which they can be counted.
    slots: Vec<(Slot, Slot, Moment)>,
    tickets: Vec<Ticket>,
}

fn play(scene: &Scene, steps: &[Step]) -> Result<(), TestCaseError> {
    let minute = |calls, seconds| Quota {
        calls,
        per: SECOND * seconds,
    };
    let quotas = [
        vec![minute(2, 5)],
        vec![minute(3, 5), minute(5, 20)],
        vec![minute(1, 1)],
        vec![minute(0, 5), minute(7, 60)],
        vec![],
    ];
    runtime().block_on(async {
        scene.server.command::<String>(&["FLUSHALL"]);
        let ledger = scene.begun().await;
        let mut model = Model::default();
        for step in steps {
            let ms = |ms: u64| Duration::from_millis(ms);
            match step {
                Step::Passes(time) => scene.passes(ms(*time)),
                Step::SetBack(by) => scene.there.back(ms(*by)),
                Step::Ask { .. } => {}
                Step::Reopen => {
                    ledger.reopen().await.unwrap();
                    model.budget.reopen();
                    if !ledger.read().await.unwrap().budgets.is_empty() {
                        model.now = model.now.max(scene.there.now());
                    }
                }
                _ if model.slots.is_empty()
                    && matches!(step, Step::Settle(_) | Step::Cancel(_)) => {}
                _ if model.tickets.is_empty() && matches!(step, Step::Leave(_)) => {}
                told => {
                    let now = model.now.max(scene.there.now());
                    let (news, same) = match told {
                        Step::Settle(at) => {
                            let (here, there, latest) =
                                model.slots.remove(at.index(model.slots.len()));
                            // Until its latest moment: then it counts from that.
                            let same = (latest > now).then_some(Update::Settled(here, now));
                            (Update::Settled(there, scene.here.now()), same)
                        }
                        Step::Cancel(at) => {
                            let (here, there, _) = model.slots.remove(at.index(model.slots.len()));
                            (Update::Cancelled(there), Some(Update::Cancelled(here)))
                        }
                        Step::Leave(at) => {
                            let ticket = model.tickets.remove(at.index(model.tickets.len()));
                            (Update::Left(ticket), Some(Update::Left(ticket)))
                        }
                        Step::Close(time) => (
                            Update::ClosedUntil(scene.here.now() + ms(*time)),
                            Some(Update::ClosedUntil(now + ms(*time))),
                        ),
                        _ => unreachable!(),
                    };
                    ledger.tell(&key(), news);
                    // What is not there takes no notice of the time either.
                    if !ledger.read().await.unwrap().budgets.is_empty() {
                        model.now = now;
                    }
                    same.into_iter().for_each(|news| model.budget.tell(news));
                }
            }
            let Step::Ask {
                holder,
                place,
                quotas: n,
                patience,
                takes,
            } = step
            else {
                continue;
            };
            let place = place.filter(|_| !model.tickets.is_empty());
            let place = place.map(|place| model.tickets.remove(place.index(model.tickets.len())));
            let ask = Ask {
                ticket: place,
                call: ms(*takes),
                patience: patience.map(ms),
                ..ask(*holder, &quotas[*n])
            };
            model.now = model.now.max(scene.there.now());
            let now = model.now;
            let there = ledger.ask(&key(), ask.clone()).await.unwrap();
            let here = model.budget.ask(&ask, now);
            let on_callers_clock = |free: NotUntil| NotUntil {
                at: match free.at.as_nanos() {
                    u64::MAX => free.at,
                    at if at < now.as_nanos() => Moment::from_nanos(
                        scene
                            .here
                            .now()
                            .as_nanos()
                            .saturating_sub(now.as_nanos() - at),
                    ),
                    _ => scene.here.now() + free.at.since(now),
                },
                ..free
            };
            match (here, there) {
                (
                    Reply::Admitted { slot, used },
                    Reply::Admitted {
                        slot: slot_there,
                        used: used_there,
                    },
                ) => {
                    prop_assert_eq!(used, used_there);
                    let latest = now + ask.call + GRACE;
                    model.slots.push((slot, slot_there, latest));
                }
                (
                    Reply::Wait {
                        ticket,
                        ahead,
                        free,
                        may_be_sooner,
                    },
                    there,
                ) => {
                    model.tickets.push(ticket);
                    let free = on_callers_clock(free);
                    let here = Reply::Wait {
                        ticket,
                        ahead,
                        free,
                        may_be_sooner,
                    };
                    prop_assert_eq!(here, there);
                }
                (Reply::NotNow(free), there) => {
                    prop_assert_eq!(Reply::NotNow(on_callers_clock(free)), there);
                }
                (here, there) => prop_assert!(false, "{here:?}, but there {there:?}"),
            }
        }
        let Reading { budgets, .. } = ledger.read().await.unwrap();
        let there = budgets.get(&key()).cloned().unwrap_or_default();
        let about = |budget: &KeyState| {
            let log = budget.log();
            let all = quotas.iter().flatten();
            (
                all.map(|quota| log.used(*quota, model.now))
                    .collect::<Vec<_>>(),
                (
                    log.in_flight(),
                    log.closed_until(),
                    log.lost_until(),
                    budget.waiting(),
                ),
                budget
                    .holders()
                    .into_iter()
                    .map(|(name, count, latest)| (name.to_owned(), count, latest))
                    .collect::<Vec<_>>(),
            )
        };
        prop_assert_eq!(about(&model.budget), about(&there));
        Ok(())
    })
}

#[test]
fn the_server_decides_what_would_be_decided_in_memory() {
    let Some(scene) = Scene::new() else { return };
    let config = ProptestConfig::with_cases(64);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner.run(&steps(), |steps| play(&scene, &steps)).unwrap();
}

#[derive(Clone, Debug)]
struct Call {
    /// Between the call before and the wish to make this one, in milliseconds.
    pause: u64,
    /// From its start to the moment at which the service counts it, in thousandths of its time.
    counted: u64,
    takes: u64,
    fate: Fate,
    host: usize,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    /// Its host dies; or only its answer is lost.
    Lost(bool),
    NeverSent,
    /// It is answered, but when it has been admitted the server dies, and with it what it was told
    /// since so many admissions.
    Forgotten(usize),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let fate = prop_oneof![
        12 => Just(Fate::Answered),
        2 => any::<bool>().prop_map(Fate::Lost),
        2 => Just(Fate::NeverSent),
        1 => (0..3_usize).prop_map(Fate::Forgotten),
    ];
    let call = (0..3_000_u64, 0..=1000_u64, 0..4_000_u64, fate, 0..2_usize);
    let call = call.prop_map(|(pause, counted, takes, fate, host)| Call {
        pause,
        counted,
        takes,
        fate,
        host,
    });
    proptest::collection::vec(call, 1..60)
}

fn file_length(server: &RedisServer) -> u64 {
    append_only_file(server).metadata().unwrap().len()
}

fn append_only_file(server: &RedisServer) -> std::fs::File {
    // Redis 6 has one file, 7 a folder of them.
    let one = server.folder().join("appendonly.aof");
    let folder = server.folder().join("appendonlydir");
    let path = std::fs::read_dir(folder).map_or(one, |files| {
        let mut paths = files.map(|file| file.unwrap().path());
        let is_last = |path: &std::path::PathBuf| path.to_string_lossy().ends_with(".incr.aof");
        paths.find(is_last).unwrap()
    });
    std::fs::OpenOptions::new().write(true).open(path).unwrap()
}

/// Plays the calls, and says when the service counted them.
async fn counted(scene: &mut Scene, quotas: &[Quota], calls: &[Call]) -> Vec<Moment> {
    scene.server.command::<String>(&["FLUSHALL"]);
    let mut hosts = [scene.begun().await, scene.open()];
    let mut counted: Vec<Moment> = Vec::new();
    // When it ends, whose it is, its slot and its fate.
    let mut running: Vec<(Moment, usize, Slot, Fate)> = Vec::new();
    // How long the server's file was before the last admissions.
    let mut lengths: Vec<u64> = Vec::new();
    for call in calls {
        scene.passes(Duration::from_millis(call.pause));
        let slot = loop {
            running.sort_by_key(|(end, ..)| *end);
            while running
                .first()
                .is_some_and(|(end, ..)| *end <= scene.here.now())
            {
                let (end, host, slot, fate) = running.remove(0);
                match fate {
                    Fate::Answered | Fate::Forgotten(_) => {
                        hosts[host].tell(&key(), Update::Settled(slot, end));
                        hosts[host].read().await.unwrap();
                    }
                    Fate::Lost(true) => hosts[host] = scene.open(),
                    Fate::Lost(false) => {}
                    Fate::NeverSent => hosts[host].tell(&key(), Update::Cancelled(slot)),
                }
            }
            let length = file_length(&scene.server);
            match hosts[call.host].ask(&key(), ask(1, quotas)).await.unwrap() {
                Reply::Admitted { slot, .. } => {
                    lengths.push(length);
                    break slot;
                }
                Reply::NotNow(free) => {
                    let ends = running
                        .first()
                        .map_or(free.at, |(end, ..)| free.at.min(*end));
                    scene.passes(ends.since(scene.here.now()));
                }
                other => panic!("{other:?}"),
            }
        };
        let (now, takes) = (scene.here.now(), Duration::from_millis(call.takes));
        if let Fate::Forgotten(admissions) = call.fate {
            scene.server.kill();
            let at = lengths.len() - 1 - admissions.min(lengths.len() - 1);
            append_only_file(&scene.server)
                .set_len(lengths[at])
                .unwrap();
            scene.server.restart();
            lengths.clear();
        }
        if !matches!(call.fate, Fate::NeverSent) {
            let is_lost = matches!(call.fate, Fate::Lost(_));
            let latest = if is_lost { CALL } else { takes };
            counted.push(now + latest * u32::try_from(call.counted).unwrap() / 1000);
        }
        running.push((now + takes, call.host, slot, call.fate));
    }
    counted.sort();
    counted
}

/// The oracle is brute force: what the service counted, in every window that begins with a call.
#[test]
fn in_no_window_more_than_the_quota_whoever_dies_even_if_it_is_the_server() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let twenty = Quota {
        calls: 7,
        per: 20 * SECOND,
    };
    let quotas = [five_seconds(3), twenty];
    let config = ProptestConfig::with_cases(24);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let scene = std::cell::RefCell::new(&mut scene);
    let result = runner.run(&calls(), |calls| {
        let counted = runtime().block_on(counted(&mut scene.borrow_mut(), &quotas, &calls));
        for quota in quotas {
            for first in &counted {
                let is_in = |c: &&Moment| *c >= first && c.since(*first) < quota.per;
                let in_window = counted.iter().filter(is_in).count();
                prop_assert!(
                    in_window <= quota.calls as usize,
                    "{in_window} from {first:?}"
                );
            }
        }
        Ok(())
    });
    result.unwrap();
}

#[tokio::test]
async fn a_ledger_that_is_begun_may_have_been_lost_until_somebody_knows_better() {
    let Some(scene) = Scene::new() else { return };
    let ledger = scene.open();
    scene.passes(SECOND);
    assert_eq!(refused(&ledger, 3).await.why, Why::Lost);
    ledger.reopen().await.unwrap();
    assert_eq!(admitted(&ledger, 3).await.1, [1]);
}

#[tokio::test]
async fn where_no_server_is_no_ledger_is_opened() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.server.kill();
    let refused = scene.try_open(RedisOptions::default()).err().unwrap();
    assert!(matches!(refused.problem, LedgerProblem::Unreachable(_)));
    assert_eq!(refused.ledger, scene.server.url());
}

#[tokio::test]
async fn while_the_server_is_away_nothing_is_admitted_and_then_it_is_told_what_happened() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let ledger = scene.begun().await;
    let (slot, _) = admitted(&ledger, 100).await;
    scene.server.kill();
    assert!(matches!(
        problem(&ledger).await,
        LedgerProblem::Unreachable(_)
    ));
    ledger.tell(&key(), Update::Settled(slot, scene.here.now()));
    assert!(ledger.read().await.is_err());
    scene.server.restart();
    let Reading { budgets, now, .. } = ledger.read().await.unwrap();
    let log = budgets[&key()].log();
    assert_eq!((log.in_flight(), log.used(five_seconds(1), now)), (0, 1));
    assert!(budgets[&key()].holders().is_empty());
}

#[tokio::test]
async fn after_a_restart_the_shortest_windows_calls_are_taken_for_used() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let ledger = scene.begun().await;
    call(&scene, &ledger, 3).await;
    scene.server.restart();
    scene.passes(SECOND);
    let free = NotUntil {
        at: scene.here.now() + CALL + GRACE + KEPT,
        why: Why::Quota,
    };
    assert_eq!(refused(&ledger, 3).await, free);
    assert_eq!(refused(&scene.open(), 3).await, free);
    // They are not somebody's.
    let Reading { budgets, .. } = ledger.read().await.unwrap();
    assert!(budgets[&key()].holders().is_empty());
    scene.passes(free.at.since(scene.here.now()));
    assert_eq!(admitted(&ledger, 3).await.1, [1]);
    // Unless somebody knows better.
    scene.server.restart();
    ledger.reopen().await.unwrap();
    assert_eq!(admitted(&ledger, 3).await.1, [2]);
}

#[tokio::test]
async fn a_server_that_writes_no_append_only_file_has_lost_everything_at_a_restart() {
    let Some(server) = RedisServer::with(&[]) else {
        return;
    };
    let mut scene = Scene::of(server);
    let ledger = scene.begun().await;
    call(&scene, &ledger, 3).await;
    // With what a snapshot has, as without one; and if it writes such a file from then on.
    for (is_first, has_snapshot) in [(true, true), (false, true), (false, false)] {
        if has_snapshot {
            scene.server.command::<String>(&["SAVE"]);
        } else {
            std::fs::remove_file(scene.server.folder().join("dump.rdb")).unwrap();
        }
        scene.server.restart();
        scene.passes(SECOND);
        let now: &str = if is_first { "yes" } else { "no" };
        scene
            .server
            .command::<String>(&["CONFIG", "SET", "appendonly", now]);
        assert_eq!(refused(&ledger, 3).await, closed(&scene), "{has_snapshot}");
        scene
            .server
            .command::<String>(&["CONFIG", "SET", "appendonly", "no"]);
        ledger.reopen().await.unwrap();
        admitted(&ledger, 3).await;
    }
}

#[tokio::test]
async fn what_is_deleted_is_lost_and_closed_for_a_window() {
    let Some(scene) = Scene::new() else { return };
    let ledger = scene.begun().await;
    for delete in [&["FLUSHALL"][..], &["DEL"][..]] {
        call(&scene, &ledger, 3).await;
        let names: Vec<String> = scene.server.command(&["KEYS", "host-demo:{*"]);
        assert!(!names.is_empty());
        let mut words = delete.to_vec();
        if delete == ["DEL"] {
            words.extend(names.iter().map(String::as_str));
        }
        scene.server.command::<redis::Value>(&words);
        scene.passes(SECOND);
        let until = refused(&ledger, 3).await;
        assert_eq!(until, closed(&scene), "{delete:?}");
        // For others too, and however often one asks.
        scene.passes(SECOND);
        assert_eq!(refused(&scene.open(), 3).await, until);
        scene.passes(until.at.since(scene.here.now()));
        admitted(&ledger, 3).await;
        scene.passes(60 * SECOND);
    }
}

#[tokio::test]
async fn a_key_that_is_new_in_a_ledger_that_is_not_is_open() {
    let Some(scene) = Scene::new() else { return };
    let ledger = scene.begun().await;
    admitted(&ledger, 3).await;
    let other = Key {
        tenant: "another".into(),
        ..key()
    };
    let reply = ledger.ask(&other, ask(1, &[five_seconds(1)])).await;
    assert!(matches!(reply, Ok(Reply::Admitted { .. })));
    let Reading { budgets, .. } = ledger.read().await.unwrap();
    assert_eq!(budgets.keys().collect::<Vec<_>>(), [&other, &key()]);
}

#[tokio::test]
async fn a_server_that_may_evict_keys_is_refused() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let Some(server) = RedisServer::with(&["--maxmemory-policy", policy]) else {
            return;
        };
        let refused = Scene::of(server).try_open(RedisOptions::default());
        let problem = refused.err().unwrap().problem;
        assert!(matches!(problem, LedgerProblem::Unsafe(_)), "{policy}");
    }
}

#[tokio::test]
async fn a_replica_is_refused_also_one_that_has_become_one() {
    let Some(scene) = Scene::new() else { return };
    let ledger = scene.begun().await;
    admitted(&ledger, 3).await;
    scene
        .server
        .command::<String>(&["REPLICAOF", "127.0.0.1", "1"]);
    assert!(matches!(
        problem(&ledger).await,
        LedgerProblem::Unreachable(_)
    ));
    assert!(scene.try_open(RedisOptions::default()).is_err());
    scene.server.command::<String>(&["REPLICAOF", "NO", "ONE"]);
    admitted(&ledger, 3).await;
}

#[tokio::test]
async fn a_user_with_a_password_needs_few_rights() {
    let Some(scene) = Scene::new() else { return };
    let rules =
        "ACL SETUSER counter on >hunter2 ~host-demo:* +@read +@write +@scripting +time +info";
    let rules: Vec<&str> = rules.split(' ').collect();
    scene.server.command::<String>(&rules);
    let url = scene.server.url().replace("//", "//counter@");
    let open = |password: &str| {
        let options = RedisOptions {
            password: Some(password.to_owned()),
            ..RedisOptions::default()
        };
        Redis::open(&url, options, Arc::new(SystemClock::new()))
    };
    let ledger = open("hunter2").unwrap();
    ledger.reopen().await.unwrap();
    let (slot, _) = admitted(&ledger, 3).await;
    ledger.tell(&key(), Update::Settled(slot, SystemClock::new().now()));
    assert_eq!(
        ledger.read().await.unwrap().budgets[&key()]
            .log()
            .in_flight(),
        0
    );
    let refused = open("hunter3").err().unwrap();
    assert!(matches!(refused.problem, LedgerProblem::Unreachable(_)));
    assert!(!refused.to_string().contains("hunter3"), "{refused}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_admits_nothing_and_keeps_no_place_for_those_who_asked() {
    let Some(scene) = Scene::new() else { return };
    let ledger = scene.begun().await;
    let hasty = scene.try_open(RedisOptions {
        timeout: Some(Duration::from_millis(300)),
        ..RedisOptions::default()
    });
    let hasty = hasty.unwrap();
    call(&scene, &ledger, 2).await;
    let asks = [(3, Some(Duration::ZERO)), (1, None)].map(|(calls, patience)| Ask {
        patience,
        ..ask(1, &[five_seconds(calls)])
    });
    for ask in asks {
        hasty.read().await.unwrap();
        scene.server.halt(true);
        let problem = hasty.ask(&key(), ask).await.unwrap_err().problem;
        let is_away = matches!(problem, LedgerProblem::Unreachable(_));
        assert!(is_away, "{problem}");
        scene.server.halt(false);
    }
    // It was asked, and gave a slot to the one and a place to the other; then it is told otherwise.
    assert_eq!(admitted(&hasty, 3).await.1, [2]);
    assert_eq!(ledger.read().await.unwrap().budgets[&key()].waiting(), 0);
}

#[tokio::test]
async fn a_connection_or_a_script_that_the_server_has_dropped_is_not_missed() {
    let Some(scene) = Scene::new() else { return };
    let ledger = scene.begun().await;
    admitted(&ledger, 3).await;
    scene
        .server
        .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal"]);
    admitted(&ledger, 3).await;
    scene.server.command::<String>(&["SCRIPT", "FLUSH"]);
    assert_eq!(admitted(&ledger, 3).await.1, [3]);
}

#[tokio::test]
async fn hosts_with_different_quotas_each_keep_their_own_over_the_calls_of_all() {
    let Some(scene) = Scene::new() else { return };
    let (large, small) = (scene.begun().await, scene.open());
    for used in 1..=4 {
        assert_eq!(admitted(&large, 5).await.1, [used]);
    }
    assert_eq!(refused(&small, 4).await.why, Why::Quota);
    assert_eq!(admitted(&large, 5).await.1, [5]);
    refused(&large, 5).await;
}

#[tokio::test]
async fn a_server_whose_clock_was_set_forward_is_closed_for_a_window_once() {
    let Some(scene) = Scene::new() else { return };
    let (one, other) = (scene.begun().await, scene.open());
    call(&scene, &one, 1).await;
    refused(&other, 1).await;
    // What a clock can have by itself: a thousandth, and ten milliseconds.
    scene.passes(4 * SECOND);
    scene.there.forward(Duration::from_millis(13));
    assert_eq!(refused(&one, 1).await.why, Why::Quota);

    scene.passes(Duration::from_millis(100));
    scene.there.forward(3600 * SECOND);
    assert_eq!(refused(&one, 1).await, closed(&scene));
    // The place that was had before it was noticed is given back.
    let Reading { budgets, .. } = one.read().await.unwrap();
    assert_eq!(budgets[&key()].log().in_flight(), 0);
    one.reopen().await.unwrap();
    // The other one sees it too, and sees that it has been seen.
    admitted(&other, 1).await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_frees_nothing() {
    let Some(scene) = Scene::new() else { return };
    let ledger = scene.begun().await;
    call(&scene, &ledger, 1).await;
    scene.passes(SECOND);
    scene.there.back(3600 * SECOND);
    let free = refused(&ledger, 1).await.at;
    assert_eq!(free, scene.here.now() + KEPT, "time stands still");
    scene.passes(3606 * SECOND);
    admitted(&ledger, 1).await;
}

#[tokio::test]
async fn a_ledger_of_a_later_version_is_refused() {
    let Some(scene) = Scene::new() else { return };
    scene.begun().await;
    let set = ["HSET", "host-demo:ledger", "format", "2"];
    scene.server.command::<i64>(&set);
    let refused = scene.try_open(RedisOptions::default()).err().unwrap();
    let (found, known) = (2, 1);
    assert_eq!(refused.problem, LedgerProblem::Newer { found, known });
}

#[tokio::test]
async fn what_somebody_else_wrote_there_is_damage() {
    let Some(scene) = Scene::new() else { return };
    let ledger = scene.begun().await;
    call(&scene, &ledger, 3).await;
    let names: Vec<String> = scene.server.command(&["KEYS", "*:settled"]);
    scene
        .server
        .command::<String>(&["SET", &names[0], "something"]);
    assert!(matches!(problem(&ledger).await, LedgerProblem::Damaged(_)));
}

#[tokio::test]
async fn a_full_key_takes_sixteen_kilobytes() {
    let Some(scene) = Scene::new() else { return };
    let ledger = scene.begun().await;
    let plenty = Quota {
        calls: 10_000,
        per: 10_000 * SECOND,
    };
    for _ in 0..1_500 {
        let reply = ledger.ask(&key(), ask(1, &[plenty])).await.unwrap();
        let Reply::Admitted { slot, .. } = reply else {
            panic!("{reply:?}")
        };
        scene.passes(SECOND);
        ledger.tell(&key(), Update::Settled(slot, scene.here.now()));
    }
    ledger.read().await.unwrap();
    let names: Vec<String> = scene.server.command(&["KEYS", "host-demo:{*"]);
    let sizes = names.iter().map(|name| {
        let words = ["MEMORY", "USAGE", name, "SAMPLES", "0"];
        scene.server.command::<usize>(&words)
    });
    let size: usize = sizes.sum();
    let kept: usize = scene.server.command(&[
        "LLEN",
        names.iter().find(|n| n.ends_with("settled")).unwrap(),
    ]);
    eprintln!("{kept} starts in {size} bytes");
    assert!(kept == 1500 && size < 17 * 1024, "{size} bytes");
}

#[tokio::test]
async fn over_tls_the_servers_certificate_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key_pair = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = write("cert.pem", &leaf.signed_by(&key_pair, &ca).unwrap().pem());
    let key_file = write("key.pem", &key_pair.serialize_pem());
    let Some(server) = RedisServer::with_tls(&[
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key_file,
        "--tls-auth-clients",
        "no",
    ]) else {
        return;
    };
    let open = |host: &str, authorities: Option<Vec<u8>>| {
        let url = format!("rediss://{host}:{}", server.tls_port());
        let options = RedisOptions {
            authorities,
            ..RedisOptions::default()
        };
        Redis::open(&url, options, Arc::new(SystemClock::new()))
    };
    let authority = || Some(ca.pem().into_bytes());
    let ledger = open("localhost", authority()).unwrap();
    ledger.reopen().await.unwrap();
    admitted(&ledger, 1).await;
    for refused in [open("localhost", None), open("127.0.0.1", authority())] {
        let problem = refused.err().unwrap().problem;
        assert!(
            matches!(problem, LedgerProblem::Unreachable(_)),
            "{problem}"
        );
    }
}

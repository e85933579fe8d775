//! Limiters that share a ledger, and what the service counts of their calls.

use std::cell::RefCell;
use std::time::Duration;

use host_demo::clock::{Clock as _, Moment};
use host_demo::limits::{GRACE, NoPermit, Quota};
use proptest::prelude::*;
use tests::simulation::{Simulation, key, time_of};

const PROCESSES: usize = 8;

/// What a call may take.
const CALL: Duration = Duration::from_secs(4);

/// How long the service takes, where it always takes as long.
const ANSWER: Duration = Duration::from_millis(200);

/// How late somebody can notice that a slot has become free through another process: it looks that
/// often.
const LOOK: Duration = Duration::from_millis(250);

const QUOTAS: [Quota; 2] = [
    Quota {
        calls: 3,
        per: Duration::from_secs(20),
    },
    Quota {
        calls: 8,
        per: Duration::from_secs(120),
    },
];

/// One call, in milliseconds where it is about time.
#[derive(Clone, Debug)]
struct Call {
    process: usize,
    /// When it is wanted.
    at: u64,
    /// How long its caller waits before it leaves the queue.
    leaves_after: Option<u64>,
    /// For how long its caller says that it will wait.
    patience: Option<u64>,
    fate: Fate,
    /// From its permit to its end.
    takes: u64,
    /// When the service counts it, in thousandths of the time in which it can.
    counted: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Answered,
    /// No answer comes, and its caller gives up.
    Lost,
    NeverSent,
}

fn call() -> impl Strategy<Value = Call> {
    let fate = prop_oneof![
        8 => Just(Fate::Answered),
        1 => Just(Fate::Lost),
        1 => Just(Fate::NeverSent),
    ];
    (
        0..PROCESSES,
        0..200_000_u64,
        proptest::option::weighted(0.2, 0..60_000_u64),
        proptest::option::weighted(0.1, 0..60_000_u64),
        fate,
        0..4000_u64,
        0..=1000_u32,
    )
        .prop_map(
            |(process, at, leaves_after, patience, fate, takes, counted)| Call {
                process,
                at,
                leaves_after,
                patience,
                fate,
                takes,
                counted,
            },
        )
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default)]
struct Story {
    asked: Option<Moment>,
    admitted: Option<Moment>,
    /// Its caller does not wait for it any more.
    left: Option<Moment>,
    sent: Option<Moment>,
    answered: Option<Moment>,
}

/// Plays the calls; some of the processes are killed, at the moments that are given.
fn play(calls: &[Call], deaths: &[(u64, usize)]) -> Vec<Story> {
    let stories = RefCell::new(vec![Story::default(); calls.len()]);
    let mut simulation = Simulation::in_memory();
    let began = simulation.clock.now();
    let limiters: Vec<_> = (0..PROCESSES)
        .map(|n| simulation.limiter(&QUOTAS, &format!("process {n}")))
        .collect();
    for (n, call) in calls.iter().enumerate() {
        let (clock, limiter) = (simulation.clock.clone(), limiters[call.process].clone());
        let (stories, call) = (&stories, call.clone());
        simulation.act(call.process, async move {
            let note = |write: &dyn Fn(&mut Story, Moment)| {
                write(&mut stories.borrow_mut()[n], clock.now());
            };
            clock.sleep_until(began + millis(call.at)).await;
            note(&|story, now| story.asked = Some(now));
            let patience = call.patience.map(|patience| clock.now() + millis(patience));
            let leaves = async {
                match call.leaves_after {
                    Some(after) => clock.sleep_until(clock.now() + millis(after)).await,
                    None => std::future::pending().await,
                }
            };
            let key = key();
            let permit = tokio::select! {
                biased;
                permit = limiter.acquire(&key, CALL, patience, &|_| {}) => permit,
                () = leaves => return note(&|story, now| story.left = Some(now)),
            };
            let mut permit = match permit {
                Ok(permit) => permit,
                Err(NoPermit::NotUntil(_)) => return note(&|story, now| story.left = Some(now)),
                Err(NoPermit::Ledger(error)) => panic!("{error}"),
            };
            note(&|story, now| story.admitted = Some(now));
            if call.fate == Fate::NeverSent {
                clock.sleep_until(clock.now() + millis(call.takes)).await;
                return;
            }
            note(&|story, now| story.sent = Some(now));
            permit.redeem();
            clock.sleep_until(clock.now() + millis(call.takes)).await;
            if call.fate == Fate::Answered {
                note(&|story, now| story.answered = Some(now));
                permit.settle(clock.now());
            }
        });
    }
    let mut deaths: Vec<(Moment, usize)> = deaths
        .iter()
        .map(|(at, process)| (began + millis(*at), *process))
        .collect();
    deaths.sort_unstable();
    simulation.settle();
    while let Some(next) = simulation.next() {
        match deaths.first().copied() {
            Some((at, process)) if at < next => {
                deaths.remove(0);
                simulation.go_on_to(at);
                simulation.kill(process);
                let mut stories = stories.borrow_mut();
                for (story, call) in stories.iter_mut().zip(calls) {
                    if call.process == process {
                        story.left = story.left.or(Some(at));
                    }
                }
            }
            _ => simulation.go_on_to(next),
        }
    }
    drop(simulation);
    stories.into_inner()
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The oracle is brute force: the service counts each call at some moment at which it can, and
    /// each of its windows is counted.
    #[test]
    fn eight_processes_that_fail_as_they_like_keep_the_quotas_and_their_callers_order(
        calls in proptest::collection::vec(call(), 1..60),
        deaths in proptest::collection::vec((0..250_000_u64, 0..PROCESSES), 0..6),
    ) {
        let stories = play(&calls, &deaths);

        let mut counted: Vec<Moment> = Vec::new();
        for (story, call) in stories.iter().zip(&calls) {
            if let Some(sent) = story.sent {
                let latest = story.answered.unwrap_or(sent + CALL + GRACE);
                counted.push(sent + latest.since(sent) * call.counted / 1000);
            }
        }
        counted.sort_unstable();
        for quota in QUOTAS {
            for first in &counted {
                let is_in = |c: &&Moment| *c >= first && c.since(*first) < quota.per;
                let n = counted.iter().filter(is_in).count();
                prop_assert!(n <= quota.calls as usize, "{n} in a window of {quota:?}");
            }
        }

        for one in &stories {
            for other in &stories {
                // Whoever came later, and whoever still waits when that one gets its slot.
                let (Some(came), Some(later)) = (one.asked, other.asked) else { continue };
                let Some(admitted) = other.admitted.filter(|_| came < later) else { continue };
                let in_time = admitted + LOOK;
                let waits = one.admitted.is_none_or(|own| own > in_time)
                    && one.left.is_none_or(|left| left > in_time);
                prop_assert!(!waits, "{other:?} has overtaken {one:?}");
            }
        }
        for story in &stories {
            prop_assert!(story.admitted.or(story.left).is_some() || story.asked.is_none(), "{story:?}");
        }
    }
}

#[test]
fn calls_that_are_all_wanted_at_once_take_the_least_time_in_which_the_promise_can_be_kept() {
    let answer = ANSWER;
    // The fifteen hundredth is in the fifteenth hundred; the next one waits for an hour to pass.
    let minute = answer + millis(60_060);
    for (calls, time) in [
        (100, answer),
        (101, minute + answer),
        (1500, minute * 14 + answer),
        (1501, answer + millis(3_603_600) + answer),
    ] {
        for processes in [1, PROCESSES] {
            let taken = time_of(Simulation::in_memory(), processes, calls, |_| ANSWER);
            assert_eq!(taken, time, "{calls} calls of {processes} processes");
        }
    }
}

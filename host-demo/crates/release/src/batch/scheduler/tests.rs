//! Whatever the service, the devices, the disk and the clock do: what a book never does, and what
//! it comes to.
//!
//! The service is a model of its own, written for this and for nothing else: it keeps actions that
//! show late and end some day, and does to each request and reading what a script says. The journal
//! is the list of entries that a crash leaves behind: what was written before a request left is in
//! it, what was only noted may be lost.

use std::collections::{BTreeMap, HashSet};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::polling::ROUNDS;
use super::*;
use crate::batch::Outcome;
use defender_host::bindings::{
    ActionStatus, Effect, Error, Limiter, MachineActionFilter, MissingRoles, RateLimit,
};
use defender_quota::{NotUntil, Why};

/// All times are whole seconds.
type Seconds = u64;

/// In the last run there is so much time that nothing may be left undone for want of it.
const LONG: Seconds = 6 * 3600;

/// A run that takes more steps than these goes round in circles.
const STEPS: usize = 20_000;

#[derive(Clone, Debug)]
struct Scene {
    devices: Vec<Device>,
    /// What readings meet, one after the other; then all go well.
    readings: Vec<Reading>,
    /// From which reading on they are forbidden.
    blind_from: Option<usize>,
    /// The runs before the last one.
    runs: Vec<Run>,
    at_once: usize,
    override_pending: bool,
    /// The running action is returned for a duplicate; otherwise it is refused.
    returns_running: bool,
    /// By how much the service's clock is ahead.
    ahead: i64,
    accepts: Accepts,
}

/// What the service lets itself be asked.
#[derive(Clone, Copy, Debug)]
struct Accepts {
    /// A filter by id.
    ids: bool,
    /// More than one condition, or a condition with several values.
    complex: bool,
    /// A condition at all.
    filter: bool,
    /// A list at all.
    list: bool,
    /// One action, by its id.
    single: bool,
}

const EVERYTHING: Accepts = Accepts {
    ids: true,
    complex: true,
    filter: true,
    list: true,
    single: true,
};

impl Accepts {
    fn takes(self, filter: &MachineActionFilter) -> bool {
        let conditions = [
            !filter.ids.is_empty(),
            filter.machine_id.is_some(),
            !filter.types.is_empty(),
            !filter.statuses.is_empty(),
            filter.created_since.is_some(),
        ];
        let conditions = conditions.iter().filter(|is_there| **is_there).count();
        let longest = filter.types.len().max(filter.statuses.len());
        self.list
            && (self.ids || filter.ids.is_empty())
            && (self.complex || (conditions < 2 && longest < 2))
            && (self.filter || conditions == 0)
    }
}

#[derive(Clone, Debug)]
struct Device {
    /// What requests for it meet, one after the other; then all are served.
    requests: Vec<Request>,
    /// How long its actions take and how they end, one after the other; then all end well.
    ends: Vec<End>,
    /// After how long a new action shows.
    shows_after: Seconds,
    /// Somebody else's action.
    other: Option<Other>,
}

#[derive(Clone, Copy, Debug)]
struct End {
    after: Option<Seconds>,
    well: bool,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    is_opposite: bool,
    at: Seconds,
    end: End,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    /// The quota lets it wait so long.
    waits: Seconds,
    /// The service acts so long after that, and answers in the end.
    acts: Seconds,
    answers: Seconds,
    meets: Meets,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Meets {
    Service,
    /// No answer, or one that does not say what happened. `true`: the service has acted.
    Loss(bool),
    ServerError(bool),
    TimeOut(bool),
    Stranger,
    NotFound,
    Rejection,
    PutOff(Seconds),
    NoConnection,
    BrokenPlugin,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    takes: Seconds,
    finds: Finds,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Finds {
    All,
    Half,
    ServerError,
    NoConnection,
    PutOff,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    ends: Ends,
    /// Of what was noted and not waited for, so much is written when it crashes.
    written: usize,
    /// So long after it the next one begins.
    gap: Seconds,
    /// What went wrong is tried once more by the next one.
    retries: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// At this step of it.
    Crash(usize),
    Stop(Seconds),
    Deadline(Seconds),
}

fn scenes() -> impl Strategy<Value = Scene> {
    let run = (ends(), 0..6_usize, 0..400_u64, any::<bool>()).prop_map(
        |(ends, written, gap, retries)| Run {
            ends,
            written,
            gap,
            retries,
        },
    );
    let scene = (
        vec(devices(), 1..6),
        vec(readings(), 0..16),
        option::weighted(0.1, 0..12_usize),
        vec(run, 0..5),
        1..4_usize,
        any::<bool>(),
        any::<bool>(),
        -240..240_i64,
        accepts(),
    );
    scene.prop_map(|scene| Scene {
        devices: scene.0,
        readings: scene.1,
        blind_from: scene.2,
        runs: scene.3,
        at_once: scene.4,
        override_pending: scene.5,
        returns_running: scene.6,
        ahead: scene.7,
        accepts: scene.8,
    })
}

fn accepts() -> impl Strategy<Value = Accepts> {
    let mostly = || proptest::bool::weighted(0.85);
    let all = (mostly(), mostly(), mostly(), mostly(), mostly());
    all.prop_map(|(ids, complex, filter, list, single)| Accepts {
        ids,
        complex,
        filter,
        list,
        single,
    })
}

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![
        4 => (1..80_usize).prop_map(Ends::Crash),
        1 => (0..200_u64).prop_map(Ends::Stop),
        1 => (1..900_u64).prop_map(Ends::Deadline),
    ]
}

fn devices() -> impl Strategy<Value = Device> {
    let end = || {
        (option::weighted(0.8, 0..300_u64), any::<bool>())
            .prop_map(|(after, well)| End { after, well })
    };
    let other = (any::<bool>(), 0..400_u64, end()).prop_map(|(is_opposite, at, end)| Other {
        is_opposite,
        at,
        end,
    });
    let device = (
        vec(requests(), 0..7),
        vec(end(), 0..4),
        0..=50_u64,
        option::weighted(0.4, other),
    );
    device.prop_map(|(requests, ends, shows_after, other)| Device {
        requests,
        ends,
        shows_after,
        other,
    })
}

fn requests() -> impl Strategy<Value = Request> {
    let meets = prop_oneof![
        6 => Just(Meets::Service),
        3 => any::<bool>().prop_map(Meets::Loss),
        2 => any::<bool>().prop_map(Meets::ServerError),
        1 => any::<bool>().prop_map(Meets::TimeOut),
        1 => Just(Meets::Stranger),
        1 => Just(Meets::NotFound),
        1 => Just(Meets::Rejection),
        1 => (0..70_u64).prop_map(Meets::PutOff),
        1 => Just(Meets::NoConnection),
        1 => Just(Meets::BrokenPlugin),
    ];
    (0..120_u64, 0..5_u64, 0..25_u64, meets).prop_map(|(waits, acts, more, meets)| Request {
        // Now and then for long.
        waits: waits.saturating_sub(60).pow(2) / 3,
        acts,
        answers: acts + more,
        meets,
    })
}

fn readings() -> impl Strategy<Value = Reading> {
    let finds = prop_oneof![
        8 => Just(Finds::All),
        1 => Just(Finds::Half),
        1 => Just(Finds::ServerError),
        1 => Just(Finds::NoConnection),
        1 => Just(Finds::PutOff),
    ];
    (0..12_u64, finds).prop_map(|(takes, finds)| Reading { takes, finds })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_done_twice_and_what_is_said_in_the_end_is_so(scene in scenes()) {
        Play::new(scene).play();
    }
}

/// A device whose requests meet these.
fn device(requests: &[Meets]) -> Device {
    let request = |meets: &Meets| Request {
        waits: 0,
        acts: 0,
        answers: 1,
        meets: *meets,
    };
    Device {
        requests: requests.iter().map(request).collect(),
        ends: Vec::new(),
        shows_after: 5,
        other: None,
    }
}

fn scene(devices: Vec<Device>) -> Scene {
    Scene {
        devices,
        readings: Vec::new(),
        blind_from: None,
        runs: Vec::new(),
        at_once: 1,
        override_pending: false,
        returns_running: false,
        ahead: 0,
        accepts: EVERYTHING,
    }
}

const NEVER: End = End {
    after: None,
    well: false,
};

const SOON_AND_BADLY: End = End {
    after: Some(1),
    well: false,
};

const fn opposite(at: Seconds) -> Option<Other> {
    Some(Other {
        is_opposite: true,
        at,
        end: NEVER,
    })
}

const fn run(ends: Ends) -> Run {
    Run {
        ends,
        written: 0,
        gap: 0,
        retries: true,
    }
}

#[track_caller]
fn states(scene: Scene) -> Vec<State> {
    let mut play = Play::new(scene);
    play.play();
    play.journal.iter().map(|entry| entry.state).collect()
}

#[test]
fn a_run_that_is_stopped_ends_though_the_service_puts_off_what_is_under_way() {
    let mut device = device(&[Meets::PutOff(0)]);
    device.requests[0].answers = 20;
    let mut scene = scene(vec![device]);
    scene.runs = vec![run(Ends::Stop(10))];
    assert_eq!(states(scene), [State::Done]);
}

#[test]
fn the_opposite_that_is_seen_while_something_else_is_looked_up_is_not_overtaken() {
    let mut device = device(&[Meets::Loss(false)]);
    (device.shows_after, device.other) = (0, opposite(4));
    assert_eq!(states(scene(vec![device])), [State::Held]);
}

#[test]
fn who_waited_long_for_the_quota_is_looked_at_once_more() {
    let mut device = device(&[Meets::Service]);
    device.requests[0].waits = 1000;
    device.other = opposite(500);
    assert_eq!(states(scene(vec![device])), [State::Held]);
}

#[test]
fn who_waited_for_the_quota_does_not_leave_in_a_pause() {
    let mut devices = vec![device(&[Meets::Rejection]); 10];
    devices.push(device(&[Meets::Service]));
    devices[10].requests[0].waits = 5;
    let mut scene = scene(devices);
    scene.at_once = 11;
    let mut play = Play::new(scene);
    play.play();
    let waited = &play.journal[10];
    assert_eq!(waited.state, State::Done);
    assert!(waited.sent >= Some(wall(60)), "{waited:?}");
}

#[test]
fn what_a_reading_that_is_cut_off_does_not_show_may_still_be_under_way() {
    let mut late = device(&[Meets::Service]);
    late.requests[0].waits = 1000;
    late.other = opposite(1);
    let mut scene = scene(vec![late, device(&[])]);
    let reading = |finds| Reading { takes: 0, finds };
    // One of these is of what is under way, after five minutes.
    scene.readings = vec![reading(Finds::All); 2];
    scene.readings.resize(8, reading(Finds::Half));
    assert_eq!(states(scene), [State::Held, State::Done]);
}

#[test]
fn an_action_of_an_earlier_try_is_not_taken_for_that_of_a_later_one() {
    let mut device = device(&[Meets::Service, Meets::Service, Meets::Loss(true)]);
    device.ends = vec![SOON_AND_BADLY, SOON_AND_BADLY];
    device.shows_after = 30;
    let mut scene = scene(vec![device]);
    scene.runs = vec![run(Ends::Deadline(100)), run(Ends::Deadline(100))];
    assert_eq!(states(scene), [State::Done]);
}

#[test]
fn what_has_no_room_before_the_deadline_is_left_though_another_is_still_under_way_then() {
    let [mut first, mut second] = [device(&[Meets::Service]), device(&[Meets::Service])];
    (first.requests[0].answers, second.requests[0].waits) = (20, 10);
    let mut scene = scene(vec![first, second]);
    (scene.at_once, scene.runs) = (2, vec![run(Ends::Deadline(11))]);
    assert_eq!(states(scene), [State::Done; 2]);
}

#[test]
fn what_could_not_be_read_and_can_be_again_is_pending_in_the_journal_too() {
    let mut device = device(&[]);
    device.ends = vec![NEVER];
    let mut scene = scene(vec![device]);
    let reading = |finds| Reading { takes: 0, finds };
    scene.readings = vec![reading(Finds::All); 3];
    scene.readings.resize(13, reading(Finds::ServerError));
    scene.runs = vec![run(Ends::Deadline(LONG))];
    assert_eq!(states(scene), [State::Accepted]);
}

/// One reading in a round for each hundred of them, and the last ones do not wait for ever.
#[test]
fn many_devices_are_followed_by_few_readings() {
    let device = |n: u64| Device {
        ends: vec![End {
            after: Some(20 + 7 * n % 900),
            well: !n.is_multiple_of(9),
        }],
        shows_after: n % 50,
        ..device(&[])
    };
    let mut scene = scene((0..730).map(device).collect());
    scene.at_once = 1000;
    let states = states(scene);
    let ended = |state| matches!(state, State::Done | State::Failed);
    assert!(states.into_iter().all(ended));
}

/// An action in the service's own book.
struct Act {
    id: String,
    device: usize,
    kind: ActionKind,
    is_own: bool,
    created: Seconds,
    shows: Seconds,
    end: End,
}

impl Act {
    fn ended(&self, at: Seconds) -> Option<bool> {
        let end = self.created + self.end.after?;
        (end <= at).then_some(self.end.well)
    }
}

type Answer = Box<Result<MachineAction, CallError>>;
type Found = Result<(Vec<MachineAction>, bool), CallError>;

/// What is to come. What the service does comes to pass whoever lives to see it.
enum Upcoming {
    Permit(usize),
    /// With the number of the process that sent it.
    Acts(usize, Request, usize),
    Answer(usize, u32, Option<Timestamp>, Answer),
    Read(Read, Moment, Found),
}

/// What the process knows and a crash takes along.
struct Process {
    book: Scheduler,
    began: Seconds,
    until: Seconds,
    is_closed: bool,
    is_blind: bool,
    paused_until: Option<Moment>,
    has_seen_less: bool,
    /// The reading that is under way.
    reading: bool,
    /// The last round of readings of known actions, and how many there were in it.
    round: (Option<Moment>, usize),
    /// When the last reading of all that is under way was begun, of those that succeeded.
    looked: Option<Seconds>,
    /// The actions that were under way when a reading showed them.
    shown: HashSet<String>,
}

struct Play {
    scene: Scene,
    at: Seconds,
    acts: Vec<Act>,
    events: BTreeMap<(Seconds, usize), Upcoming>,
    numbers: usize,
    /// How many processes there were.
    processes: usize,
    /// The service takes nothing before.
    closed_until: Seconds,
    /// How many requests have met something, by device, and how many readings.
    requests: Vec<usize>,
    readings: usize,
    /// Which devices have been at the front of the quota's queue.
    was_first: Vec<bool>,
    /// How often it was written down that a request may leave.
    begun: Vec<u32>,
    /// How many actions of ours there were when it was asked to try once more.
    tried: Vec<usize>,
    journal: Vec<Entry>,
    noted: Vec<(usize, Entry)>,
}

const NONCE: [u8; 16] = *b"sixteen bytes of";
const COMMENT: &str = "cleaned";

impl Play {
    fn new(scene: Scene) -> Self {
        let devices = scene.devices.len();
        let machine = |n: usize| format!("{n:040x}").parse().unwrap();
        Self {
            at: 0,
            acts: Vec::new(),
            events: BTreeMap::new(),
            numbers: 0,
            processes: 0,
            closed_until: 0,
            requests: vec![0; devices],
            readings: 0,
            was_first: vec![false; devices],
            begun: vec![0; devices],
            tried: vec![0; devices],
            journal: (0..devices).map(|n| Entry::new(machine(n), None)).collect(),
            noted: Vec::new(),
            scene,
        }
    }

    fn play(&mut self) {
        for n in 0..self.scene.devices.len() {
            if let Some(other) = self.scene.devices[n].other {
                let kind = match other.is_opposite {
                    true => ActionKind::Restrict,
                    false => ActionKind::Release,
                };
                self.create(n, kind, false, other.at, other.end);
            }
        }
        for run in self.scene.runs.clone() {
            self.run(run);
            self.at += run.gap;
            if run.retries {
                self.retry();
            }
        }
        let last = self.run(Run {
            ends: Ends::Deadline(LONG),
            written: 0,
            gap: 0,
            retries: false,
        });
        self.agrees(&last.unwrap());
    }

    /// As `resume --retry` does.
    fn retry(&mut self) {
        for n in 0..self.journal.len() {
            if self.journal[n].state == State::Failed {
                self.tried[n] = self.own(n).count();
            }
            let entry = &mut self.journal[n];
            if matches!(entry.state, State::Failed | State::Refused) {
                entry.state = State::Waiting;
            }
        }
    }

    fn own(&self, n: usize) -> impl Iterator<Item = &Act> {
        let is_own = move |act: &&Act| act.device == n && act.is_own;
        self.acts.iter().filter(is_own)
    }

    /// A process with a clock of its own. Returns what it knew, unless it crashed.
    fn run(&mut self, run: Run) -> Option<Process> {
        let until = match run.ends {
            Ends::Crash(_) => LONG,
            Ends::Stop(after) | Ends::Deadline(after) => after,
        };
        let is_stop = matches!(run.ends, Ends::Stop(_));
        self.processes += 1;
        let began = self.at;
        let now = |at: Seconds| Moment::ORIGIN + Duration::from_secs(5 + at - began);
        let rules = Rules {
            kind: ActionKind::Release,
            nonce: NONCE,
            override_pending: self.scene.override_pending,
            follow: Follow::ToTheEnd,
            deadline: (!is_stop).then(|| now(began + until)),
            at_once: self.scene.at_once,
            pause_above: 50,
            advice: |_| None,
        };
        let mut process = Process {
            book: Scheduler::new(rules, self.journal.clone(), now(began)),
            began,
            until: began + until,
            is_closed: false,
            is_blind: false,
            paused_until: None,
            has_seen_less: false,
            reading: false,
            round: (None, 0),
            looked: None,
            shown: HashSet::new(),
        };
        for step in 0.. {
            assert!(
                step < STEPS,
                "it does not come to its end: {:?}",
                self.journal
            );
            if run.ends == Ends::Crash(step) {
                self.crash(run.written);
                return None;
            }
            if !process.is_closed && self.at >= process.until {
                process.is_closed = true;
                process.book.close("it was stopped", None, now(self.at));
                self.close(&mut process, is_stop, now(self.at));
            }
            let news = self.begin(&mut process, now(self.at));
            if !news.is_empty() {
                self.note(&mut process, news);
                continue;
            }
            if process.book.is_over() {
                break;
            }
            let wake = process.book.wake(now(self.at)).map(|wake| {
                assert!(wake > now(self.at), "it wakes in the past");
                began + wake.since(now(began)).as_millis().div_ceil(1000) as Seconds
            });
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let end = (!process.is_closed).then_some(process.until);
            let mine = [wake, event, end].into_iter().flatten().min();
            let is_awaited = self.events.values().any(|event| match event {
                Upcoming::Acts(.., process) => *process == self.processes,
                _ => true,
            });
            assert!(
                is_awaited || (wake.is_some() && !process.is_closed),
                "it waits for nothing: {:?}",
                process.book.entries()
            );
            self.at = mine.unwrap().max(self.at);
            if event.is_some_and(|event| event <= self.at) {
                let (_, event) = self.events.pop_first().unwrap();
                self.happen(&mut process, event, is_stop, now);
            }
        }
        // What it noted is written before it goes.
        self.crash(usize::MAX);
        Some(process)
    }

    /// Begins what is to be done now.
    fn begin(&mut self, process: &mut Process, now: Moment) -> Vec<Event> {
        while let Some(n) = process.book.next_send(now) {
            // Its place in the queue was its own already where it was put off at the front of it.
            let waits = match std::mem::take(&mut self.was_first[n]) {
                true => 0,
                false => self.request(n).waits,
            };
            self.later(waits, Upcoming::Permit(n));
        }
        if !process.reading
            && let Some(read) = process.book.next_read(now)
        {
            process.reading = true;
            if matches!(read, Read::Known(_)) {
                let round = process.book.last.round;
                let (last, readings) = &mut process.round;
                if let (Some(last), Some(round)) = (*last, round) {
                    let apart = round.since(last);
                    assert!(
                        apart.is_zero() || apart >= ROUNDS[0],
                        "rounds {apart:?} apart"
                    );
                }
                *readings = if *last == round { *readings + 1 } else { 1 };
                *last = round;
                let most = self.scene.devices.len().div_ceil(50);
                assert!(*readings <= most, "{readings} readings in a round");
            }
            let (takes, result) = self.read(process, &process.book.wanted(&read));
            self.later(takes, Upcoming::Read(read, now, result));
        }
        process.book.news()
    }

    fn later(&mut self, after: Seconds, event: Upcoming) {
        self.numbers += 1;
        self.events.insert((self.at + after, self.numbers), event);
    }

    fn note(&mut self, process: &mut Process, news: Vec<Event>) {
        for news in news {
            match news {
                Event::Changed(n) => self.noted.push((n, process.book.entries()[n].clone())),
                Event::Unreadable(Unreadable::All | Unreadable::Lists, _) => {
                    process.is_blind = true;
                }
                Event::Unreadable(..) => {}
                Event::Paused(until, ..) => process.paused_until = Some(until),
                Event::Left(_) | Event::Hopeless(_) => {}
            }
        }
    }

    /// The first of what was noted are written, the rest is lost, and so is who waited for it.
    fn crash(&mut self, written: usize) {
        for (n, entry) in self.noted.drain(..).take(written) {
            self.journal[n] = entry;
        }
        self.events
            .retain(|_, event| matches!(event, Upcoming::Acts(..)));
    }

    /// Who still waits for the quota waits no longer, and what is read is dropped.
    fn close(&mut self, process: &mut Process, is_stop: bool, now: Moment) {
        for (key, event) in std::mem::take(&mut self.events) {
            match event {
                Upcoming::Permit(n) if is_stop => {
                    self.later(
                        0,
                        Upcoming::Answer(n, 0, None, Box::new(Err(CallError::Stopped))),
                    );
                }
                Upcoming::Read(read, began, _) => {
                    process.reading = false;
                    process
                        .book
                        .was_read(&read, began, &Err(CallError::Stopped), now);
                }
                event => {
                    self.events.insert(key, event);
                }
            }
        }
    }

    fn happen(
        &mut self,
        process: &mut Process,
        event: Upcoming,
        is_stop: bool,
        now: impl Fn(Seconds) -> Moment,
    ) {
        match event {
            Upcoming::Permit(n) => {
                let opens = self.closed_until.max(self.at);
                if !is_stop && opens >= process.until {
                    let wait = NotUntil {
                        at: now(opens),
                        why: Why::Service,
                    };
                    let until = wall(opens);
                    let quota = CallError::Quota { wait, until };
                    return self.later(0, Upcoming::Answer(n, 0, None, Box::new(Err(quota))));
                }
                if opens > self.at {
                    return self.later(opens - self.at, Upcoming::Permit(n));
                }
                if !process.book.may_leave(n, now(self.at)) {
                    self.was_first[n] = true;
                    return self.later(
                        0,
                        Upcoming::Answer(n, 0, None, Box::new(Err(CallError::Stopped))),
                    );
                }
                let is_paused = process.paused_until > Some(now(self.at));
                assert!(!is_paused, "it is sent in a pause");
                self.send(n, process);
            }
            Upcoming::Acts(n, request, process) => self.act(n, request, process),
            Upcoming::Answer(n, sends, sent, result) => {
                process.book.answered(n, sends, sent, &result, now(self.at));
            }
            Upcoming::Read(read, began, result) => {
                process.reading = false;
                if let Ok((actions, is_cut)) = &result {
                    if read == Read::Running {
                        process.looked =
                            Some(process.began + began.since(now(process.began)).as_secs());
                    }
                    process.has_seen_less |= is_cut;
                    let running = actions.iter().filter(|a| ending(&a.status).is_none());
                    process
                        .shown
                        .extend(running.map(|action| action.id.clone()));
                }
                process.book.was_read(&read, began, &result, now(self.at));
            }
        }
    }

    fn request(&self, n: usize) -> Request {
        let served = Request {
            waits: 0,
            acts: 0,
            answers: 1,
            meets: Meets::Service,
        };
        let requests = &self.scene.devices[n].requests;
        requests.get(self.requests[n]).copied().unwrap_or(served)
    }

    /// It is written down that it may leave, which also writes what was noted before, and it does.
    fn send(&mut self, n: usize, process: &Process) {
        let under_way = self.acts.iter().filter(|act| {
            let is_shown = process.shown.contains(&act.id);
            act.device == n && is_shown && act.ended(self.at).is_none()
        });
        for act in under_way {
            assert!(!act.is_own, "it is sent although its own action was seen");
            let may_be = self.scene.override_pending || act.kind == ActionKind::Release;
            assert!(may_be, "the opposite was seen, and overtaken");
        }
        let looked = process
            .looked
            .is_some_and(|looked| self.at - looked < FRESH.as_secs());
        assert!(
            looked || process.is_blind,
            "it was not looked at what is under way"
        );
        let entry = &process.book.entries()[n];
        let request = self.request(n);
        self.requests[n] += 1;
        self.begun[n] += 1;
        for (n, entry) in self.noted.drain(..) {
            self.journal[n] = entry;
        }
        self.journal[n] = Entry {
            state: State::Sending,
            sends: entry.sends + 1,
            sent: Some(wall(self.at)),
            ..entry.clone()
        };
        self.later(request.acts, Upcoming::Acts(n, request, self.processes));
    }

    /// The service has the request.
    fn act(&mut self, n: usize, request: Request, process: usize) {
        let acts = match request.meets {
            Meets::Service => true,
            Meets::Loss(acts) | Meets::ServerError(acts) | Meets::TimeOut(acts) => acts,
            _ => false,
        };
        let running = self.acts.iter().find(|act| {
            act.device == n
                && act.kind == ActionKind::Release
                && act.created <= self.at
                && act.ended(self.at).is_none()
        });
        let done = match running {
            _ if !acts => Err(lost()),
            Some(running) if self.scene.returns_running => Ok(self.shown(running, self.at)),
            Some(_) => Err(answered(Reason::AlreadyInProgress, Effect::None)),
            None => {
                let before = self.own(n).count();
                let ends = &self.scene.devices[n].ends;
                let well = End {
                    after: Some(40),
                    well: true,
                };
                let end = ends.get(before).copied().unwrap_or(well);
                assert!(
                    before == self.tried[n],
                    "one too many for device {n}: it has {before}, sent at {:?}",
                    self.journal[n].sent
                );
                self.create(n, ActionKind::Release, true, self.at, end);
                Ok(self.shown(&self.acts[self.acts.len() - 1], self.at))
            }
        };
        let result = match request.meets {
            Meets::Service => done,
            Meets::Loss(_) => Err(lost()),
            Meets::ServerError(_) => {
                let failure = defender_host::bindings::Failure {
                    retry_after_seconds: None,
                };
                Err(answered(Reason::ServiceFailure(failure), Effect::Unknown))
            }
            Meets::TimeOut(_) => Err(CallError::TimedOut {
                after: Duration::from_secs(30),
                effect: Effect::Unknown,
            }),
            Meets::Stranger => {
                let id = "stranger".to_owned();
                let stranger = Act {
                    id,
                    device: n,
                    kind: ActionKind::Restrict,
                    is_own: false,
                    created: self.at,
                    shows: self.at,
                    end: End {
                        after: None,
                        well: true,
                    },
                };
                Ok(self.shown(&stranger, self.at))
            }
            Meets::NotFound => Err(answered(Reason::NotFound, Effect::None)),
            Meets::Rejection => Err(answered(Reason::Rejected, Effect::None)),
            Meets::PutOff(time) => {
                self.closed_until = self.closed_until.max(self.at + time);
                Err(put_off())
            }
            Meets::NoConnection => Err(answered(Reason::Transport, Effect::None)),
            Meets::BrokenPlugin => Err(CallError::TimedOut {
                after: Duration::from_secs(30),
                effect: Effect::None,
            }),
        };
        if process == self.processes {
            let (after, sent) = (request.answers - request.acts, wall(self.at - request.acts));
            self.later(after, Upcoming::Answer(n, 1, Some(sent), Box::new(result)));
        }
    }

    fn create(&mut self, n: usize, kind: ActionKind, is_own: bool, created: Seconds, end: End) {
        self.acts.push(Act {
            id: format!("action-{}", self.acts.len()),
            device: n,
            kind,
            is_own,
            created,
            shows: created + self.scene.devices[n].shows_after,
            end,
        });
    }

    /// What the service shows of an action at a moment.
    fn shown(&self, act: &Act, at: Seconds) -> MachineAction {
        let (status, updated) = match act.ended(at) {
            Some(true) => (
                ActionStatus::Succeeded,
                act.created + act.end.after.unwrap(),
            ),
            Some(false) => (ActionStatus::Failed, act.created + act.end.after.unwrap()),
            None if at > act.created + 9 => (ActionStatus::InProgress, act.created + 9),
            None => (ActionStatus::Pending, act.created),
        };
        let comment = match act.is_own {
            true => {
                let machine = &self.journal[act.device].machine;
                format!("{COMMENT} [{}]", reference(&NONCE, machine))
            }
            false => "somebody else's".to_owned(),
        };
        let time = |at: Seconds| {
            let time = wall(at) + SignedDuration::from_secs(self.scene.ahead);
            Some(time.to_string())
        };
        MachineAction {
            requestor_comment: Some(comment),
            machine_id: Some(self.journal[act.device].machine.to_string()),
            creation_date_time_utc: time(act.created),
            last_update_date_time_utc: time(updated),
            ..MachineAction::blank(&act.id, act.kind.action_type(), status)
        }
    }

    /// What a reading that begins now will bring, and when. It is as old as it can be by then.
    fn read(
        &mut self,
        process: &Process,
        wanted: &Wanted,
    ) -> (Seconds, Result<(Vec<MachineAction>, bool), CallError>) {
        let one;
        let filter = match wanted {
            Wanted::List(filter) => filter,
            Wanted::Action(id) => {
                one = MachineActionFilter {
                    ids: vec![id.clone()],
                    ..MachineActionFilter::everything()
                };
                &one
            }
        };
        let is_one = matches!(wanted, Wanted::Action(_));
        let all = Reading {
            takes: 1,
            finds: Finds::All,
        };
        let reading = self.scene.readings.get(self.readings).copied();
        let reading = reading.unwrap_or(all);
        let is_forbidden = self.scene.blind_from.is_some_and(|n| self.readings >= n);
        self.readings += 1;
        assert!(filter.ids.len() <= 100, "more than a reading may name");
        assert!(!process.is_closed, "nothing is read after the end");
        let visible = self.acts.iter().filter(|act| act.shows <= self.at);
        let mut found: Vec<_> = visible
            .map(|act| self.shown(act, self.at))
            .filter(|action| lets_through(filter, action))
            .collect();
        let result = match reading.finds {
            _ if !is_one && !self.scene.accepts.takes(filter) => {
                Err(answered(Reason::Rejected, Effect::None))
            }
            _ if is_one && !self.scene.accepts.single => {
                Err(answered(Reason::Rejected, Effect::None))
            }
            _ if is_forbidden => {
                let roles = MissingRoles {
                    required_roles: Vec::new(),
                    held_roles: Vec::new(),
                };
                Err(answered(Reason::Forbidden(roles), Effect::None))
            }
            Finds::Half if filter.ids.is_empty() => {
                found.truncate(found.len() / 2);
                Ok((found, true))
            }
            Finds::All | Finds::Half if is_one && found.is_empty() => {
                Err(answered(Reason::NotFound, Effect::None))
            }
            Finds::All | Finds::Half => Ok((found, false)),
            Finds::ServerError => Err(answered(Reason::UnexpectedResponse, Effect::None)),
            Finds::NoConnection => Err(answered(Reason::Transport, Effect::None)),
            Finds::PutOff => Err(put_off()),
        };
        (reading.takes, result)
    }

    /// What is said of each device, against the service's own book.
    fn agrees(&self, process: &Process) {
        let accepts = self.scene.accepts;
        for (n, entry) in process.book.entries().iter().enumerate() {
            let (own, tried): (Vec<_>, _) = (self.own(n).collect(), self.tried[n]);
            let id = entry.action.as_ref().map(|action| &action.id);
            let known = self.acts.iter().find(|act| Some(&act.id) == id);
            let story = format!("device {n}: {entry:?}");
            assert_eq!(entry, &self.journal[n], "the journal says otherwise");
            assert_eq!(entry.sends, self.begun[n], "{story}");
            if let Some(known) = known {
                assert_eq!(known.device, n, "{story}");
                assert_eq!(known.kind, ActionKind::Release, "{story}");
                assert_eq!(known.is_own, !entry.is_adopted, "{story}");
            }
            let ended = known.map(|known| known.ended(self.at));
            let is_newest = own.last().is_none_or(|own| {
                known.is_some_and(|known| known.id == own.id || entry.is_adopted)
            });
            let excused =
                process.is_blind || process.has_seen_less || process.book.hopeless().is_some();
            match entry.outcome(true) {
                Outcome::Done => assert_eq!(ended, Some(Some(true)), "{story}"),
                Outcome::Failed => assert_eq!(ended, Some(Some(false)), "{story}"),
                Outcome::Pending => assert_eq!(ended, Some(None), "{story}"),
                Outcome::NotVerifiable => {
                    let is_failing = process.book.failing.is_some();
                    let is_limited = !accepts.single && !accepts.ids;
                    assert!(
                        known.is_some() && (process.is_blind || is_failing || is_limited),
                        "{story}"
                    );
                }
                // Nothing of ours is there but what had ended badly before it was tried again.
                Outcome::Refused | Outcome::Held | Outcome::InProgress => {
                    assert_eq!(own.len(), tried, "{story}");
                }
                Outcome::NotRun => {
                    assert_eq!(own.len(), tried, "{story}");
                    assert!(process.book.hopeless().is_some(), "{story}");
                }
                Outcome::Unknown => assert!(excused, "{story}"),
                Outcome::Accepted | Outcome::TimedOut | Outcome::Cancelled => {
                    panic!("{story}")
                }
            }
            if matches!(
                entry.outcome(true),
                Outcome::Done | Outcome::Failed | Outcome::Pending
            ) {
                assert!(is_newest, "it is not the newest: {story}");
            }
        }
    }
}

fn wall(at: Seconds) -> Timestamp {
    const START: Timestamp = Timestamp::constant(1_769_807_482, 0);
    START + Duration::from_secs(at)
}

fn lets_through(filter: &MachineActionFilter, action: &MachineAction) -> bool {
    let created: Timestamp = action
        .creation_date_time_utc
        .as_ref()
        .unwrap()
        .parse()
        .unwrap();
    let since: Option<Timestamp> = filter.created_since.as_ref().map(|s| s.parse().unwrap());
    (filter.ids.is_empty() || filter.ids.contains(&action.id))
        && (filter.machine_id.is_none() || filter.machine_id == action.machine_id)
        && (filter.types.is_empty() || filter.types.contains(&action.type_))
        && (filter.statuses.is_empty() || filter.statuses.contains(&action.status))
        && since.is_none_or(|since| created >= since)
}

fn answered(reason: Reason, effect: Effect) -> CallError {
    let error = Error {
        effect,
        reason,
        message: "as the script says".to_owned(),
        service: None,
    };
    CallError::Answered {
        error,
        detail: None,
    }
}

fn lost() -> CallError {
    answered(Reason::Transport, Effect::Unknown)
}

fn put_off() -> CallError {
    let limit = RateLimit {
        by: Limiter::Service,
        retry_after_seconds: None,
        window_seconds: None,
    };
    answered(Reason::RateLimited(limit), Effect::None)
}

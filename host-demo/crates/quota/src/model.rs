//! The protocol by which processes share a budget, small enough to try its steps in every order.
//!
//! There are a few processes, each of which makes one call and begins anew as another one, and a
//! service that takes a call or two in a few ticks. At any moment a process asks, gives back,
//! sends, hears, tells, leaves the queue or dies, or the service counts a call that was sent; or
//! the clock goes on by a tick. Each step of the ledger's is the real [`KeyState`]'s. States that differ
//! in nothing but names, or in what no window reaches any more, are one. So there are finitely many
//! of them, for any number of ticks and calls, and each is looked at.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Ask, GRACE, Holder, KeyState, Quota, Reply, Slot, Ticket, Update};
use defender_core::clock::Moment;

/// A little shorter than a lease, so that whoever comes at each tick keeps its place.
const TICK: Duration = Duration::from_nanos(4_999_999_999);

/// Every state's present.
const NOW: Moment = Moment::from_nanos(1 << 50);

/// Within so many ticks a call is sent and answered, or it is not.
const CALL: u32 = 1;

/// Until so many ticks after its permit the service can count a call: its own, and the grace.
const LATEST: u32 = 8;

/// What is there no more, and the dead.
const GONE: u8 = u8::MAX;

/// How large the world is.
struct Rules {
    processes: usize,
    /// The window, as it is kept, in ticks.
    window: u32,
    quotas: Arc<[Quota]>,
    name: Arc<str>,
}

impl Rules {
    fn new(processes: usize, calls: u32, window: u32) -> Self {
        let per = TICK * window * 1000 / 1001;
        Self {
            processes,
            window,
            quotas: [Quota { calls, per }].into(),
            name: "".into(),
        }
    }

    fn calls(&self) -> usize {
        self.quotas[0].calls as usize
    }

    fn ask(&self, id: u64, ticket: Option<Ticket>) -> Ask {
        let holder = Holder {
            id,
            name: Arc::clone(&self.name),
        };
        Ask {
            quotas: Arc::clone(&self.quotas),
            holder,
            ticket,
            call: TICK * LATEST - GRACE,
            patience: None,
        }
    }
}

/// What a process is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It may ask.
    Idle,
    /// It has a place in the queue, or believes so.
    Waiting(Ticket),
    /// It has had a permit for so many ticks, and not used it.
    Admitted(Slot, u32),
    /// Its call is under way, so many ticks after that.
    Sent(Slot, u32),
    /// The service has counted it.
    Counted(Slot, u32),
    /// It heard the answer so many ticks ago, and has not told.
    Answered(Slot, u32),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask(usize),
    Leave(usize),
    GiveBack(usize),
    Send(usize),
    Count(usize),
    Hear(usize),
    Tell(usize),
    Die(usize),
    /// The service counts a call of somebody who is dead.
    CountOrphan(usize),
    Tick,
}

#[derive(Clone, Debug)]
struct State {
    budget: KeyState,
    processes: Vec<Phase>,
    /// Who they are: whoever begins anew is somebody else.
    ids: Vec<u64>,
    born: u64,
    /// How many ticks ago the service counted calls, as far back as its window reaches, in order.
    counted: Vec<u32>,
    /// For how many ticks the service can still count the calls of the dead, in order.
    orphans: Vec<u32>,
}

impl State {
    fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Tick];
        let mut waiting = self.budget.waiting.iter();
        let a_dead_one_waits = waiting.any(|(_, id)| !self.ids.contains(id));
        for (n, phase) in self.processes.iter().enumerate() {
            match phase {
                Phase::Idle => steps.push(Step::Ask(n)),
                Phase::Waiting(_) => steps.extend([Step::Ask(n), Step::Leave(n)]),
                Phase::Admitted(..) => steps.extend([Step::GiveBack(n), Step::Send(n)]),
                Phase::Sent(..) => steps.push(Step::Count(n)),
                Phase::Counted(..) => steps.push(Step::Hear(n)),
                Phase::Answered(..) => steps.push(Step::Tell(n)),
            }
            // One place of the dead at a time: there is no end to them otherwise.
            let has_place = matches!(phase, Phase::Waiting(_));
            if *phase != Phase::Idle && !(has_place && a_dead_one_waits) {
                steps.push(Step::Die(n));
            }
        }
        steps.extend((0..self.orphans.len()).map(Step::CountOrphan));
        steps
    }

    fn take(&mut self, step: Step, rules: &Rules) {
        match step {
            Step::Ask(n) => {
                let ask = rules.ask(self.ids[n], self.ticket(n));
                self.processes[n] = match self.budget.ask(&ask, NOW) {
                    Reply::Admitted { slot, .. } => Phase::Admitted(slot, 0),
                    Reply::Wait { ticket, .. } => Phase::Waiting(ticket),
                    Reply::NotNow(_) => unreachable!("all are patient"),
                };
            }
            Step::Die(n) => self.die(n),
            Step::CountOrphan(n) => {
                self.orphans.remove(n);
                self.counted.insert(0, 0);
            }
            Step::Tick => self.tick(rules),
            Step::Leave(n)
            | Step::GiveBack(n)
            | Step::Send(n)
            | Step::Count(n)
            | Step::Hear(n)
            | Step::Tell(n) => {
                self.processes[n] = match self.processes[n] {
                    Phase::Idle => unreachable!("it does nothing"),
                    Phase::Waiting(ticket) => {
                        self.budget.tell(Update::Left(ticket));
                        Phase::Idle
                    }
                    Phase::Admitted(slot, _) if matches!(step, Step::GiveBack(_)) => {
                        self.budget.tell(Update::Cancelled(slot));
                        Phase::Idle
                    }
                    Phase::Admitted(slot, age) => Phase::Sent(slot, age),
                    Phase::Sent(slot, age) => {
                        self.counted.insert(0, 0);
                        Phase::Counted(slot, age)
                    }
                    Phase::Counted(slot, _) => Phase::Answered(slot, 0),
                    Phase::Answered(slot, ago) => {
                        let at = earlier(NOW, TICK * ago);
                        self.budget.tell(Update::Settled(slot, at));
                        Phase::Idle
                    }
                };
            }
        }
    }

    /// Its place stays, and so does its slot; and what was sent may still arrive.
    fn die(&mut self, n: usize) {
        if let Phase::Sent(_, age) = self.processes[n] {
            self.orphans.push(LATEST - age);
            self.orphans.sort_unstable();
        }
        self.processes[n] = Phase::Idle;
        self.ids[n] = self.born;
        self.born += 1;
    }

    fn tick(&mut self, rules: &Rules) {
        for n in 0..self.processes.len() {
            match &mut self.processes[n] {
                Phase::Idle | Phase::Waiting(_) => {}
                Phase::Answered(_, ago) => *ago = rules.window.min(*ago + 1),
                Phase::Admitted(_, age) | Phase::Sent(_, age) | Phase::Counted(_, age)
                    if *age < CALL =>
                {
                    *age += 1;
                }
                // Its time is up.
                _ => self.die(n),
            }
        }
        self.counted.iter_mut().for_each(|ago| *ago += 1);
        self.counted.retain(|ago| *ago < rules.window);
        self.orphans.retain(|left| *left > 0);
        self.orphans.iter_mut().for_each(|left| *left -= 1);
        let KeyState { log, holders, .. } = &mut self.budget;
        let starts = log.settled.iter_mut();
        let latest = log.reserved.iter_mut().map(|r| &mut r.latest);
        let leases = holders.values_mut().map(|known| &mut known.lease);
        for moment in starts.chain(latest).chain(leases) {
            *moment = earlier(*moment, TICK);
        }
    }

    /// Two states that go on alike have the same one. Which process it is does not matter, but what
    /// it is about; nor does what no window reaches any more.
    fn name(&self, rules: &Rules) -> Vec<u8> {
        let KeyState {
            log,
            waiting,
            next_ticket: _,
            holders,
        } = &self.budget;
        let is_over = |start: Moment| start + TICK * rules.window <= NOW;
        let settled = log.settled.iter().filter(|start| !is_over(**start));
        let reserved = log.reserved.iter().filter(|r| !is_over(r.latest));
        let ticket = |ticket| rank(waiting.iter().map(|(other, _)| *other), ticket);
        let slot = |slot| rank(reserved.clone().map(|r| r.slot), slot);
        let about = |(phase, id): (&Phase, &u64)| {
            let (what, which, age) = match *phase {
                Phase::Idle => (0, GONE, 0),
                Phase::Waiting(t) => (1, ticket(t), 0),
                Phase::Admitted(s, age) => (2, slot(s), age),
                Phase::Sent(s, age) => (3, slot(s), age),
                Phase::Counted(s, age) => (4, slot(s), age),
                Phase::Answered(s, ago) => (5, slot(s), ago),
            };
            ([what, which, age as u8], *id)
        };
        let mut processes: Vec<_> = self.processes.iter().zip(&self.ids).map(about).collect();
        processes.sort_unstable();

        let mut name = Vec::with_capacity(64);
        for (about, _) in &processes {
            name.extend_from_slice(about);
        }
        for (place, (_, holder)) in waiting.iter().enumerate() {
            // The leases of those who have no place are not looked at.
            let lease = holders
                .get(holder)
                .map_or(NOW, |known| known.lease.max(NOW));
            let holder = rank(processes.iter().map(|(_, id)| *id), *holder);
            name.extend_from_slice(&[place as u8, holder, tick(lease)]);
        }
        // None of these numbers is as large as what keeps the lists apart.
        name.push(GONE);
        name.extend(settled.map(|start| tick(*start)));
        name.push(GONE);
        name.extend(reserved.map(|r| tick(r.latest)));
        name.push(GONE);
        name.extend(self.counted.iter().map(|ago| *ago as u8));
        name.push(GONE);
        name.extend(self.orphans.iter().map(|left| *left as u8));
        name
    }

    fn ticket(&self, n: usize) -> Option<Ticket> {
        match self.processes[n] {
            Phase::Waiting(ticket) => Some(ticket),
            _ => None,
        }
    }

    /// Its place in the queue, if it is alive and has one.
    fn place(&self, n: usize) -> Option<usize> {
        let ticket = self.ticket(n)?;
        let known = self.budget.holders.get(&self.ids[n])?;
        let place = self.budget.waiting.iter().position(|(t, _)| *t == ticket)?;
        (known.lease > NOW).then_some(place)
    }

    /// Those of the living who wait, in their order.
    fn queue(&self) -> Vec<usize> {
        let mut queue: Vec<usize> = (0..self.processes.len()).collect();
        queue.retain(|n| self.place(*n).is_some());
        queue.sort_by_key(|n| self.place(*n));
        queue
    }

    /// Those who wait and have a slot for the asking, each for itself.
    fn served(&self, rules: &Rules) -> Vec<usize> {
        let mut queue = self.queue();
        queue.retain(|n| self.has_a_slot_for(*n, rules));
        queue
    }

    fn has_a_slot_for(&self, n: usize, rules: &Rules) -> bool {
        let ask = rules.ask(self.ids[n], self.ticket(n));
        let reply = self.budget.clone().ask(&ask, NOW);
        matches!(reply, Reply::Admitted { .. })
    }

    /// Whether it is admitted.
    fn asks(&mut self, n: usize, rules: &Rules) -> bool {
        self.take(Step::Ask(n), rules);
        matches!(self.processes[n], Phase::Admitted(..))
    }
}

fn rank<T: PartialEq>(mut all: impl Iterator<Item = T>, one: T) -> u8 {
    let rank = all.position(|other| other == one);
    rank.map_or(GONE, |rank| rank as u8)
}

/// The first tick that is not before a moment: between two of them nothing happens.
fn tick(moment: Moment) -> u8 {
    const LONG_AGO: u64 = 100;
    let tick = TICK.as_nanos() as u64;
    let since = moment.as_nanos() + LONG_AGO * tick - NOW.as_nanos();
    u8::try_from(since.div_ceil(tick)).unwrap()
}

fn earlier(moment: Moment, by: Duration) -> Moment {
    Moment::from_nanos(moment.as_nanos() - u64::try_from(by.as_nanos()).unwrap())
}

/// What was met on the way through all states.
#[derive(Debug, Default)]
struct Seen {
    states: usize,
    /// The most calls that the service counted in a window.
    fullest: usize,
    /// How often somebody was admitted while somebody else had waited for longer.
    overtaken: usize,
}

fn explore(rules: &Rules) -> Seen {
    let mut seen = Seen::default();
    let mut names = HashSet::new();
    let mut hopeful = HashSet::new();
    let nothing_yet = State {
        budget: KeyState::default(),
        processes: vec![Phase::Idle; rules.processes],
        ids: (0..rules.processes as u64).collect(),
        born: rules.processes as u64,
        counted: Vec::new(),
        orphans: Vec::new(),
    };
    names.insert(nothing_yet.name(rules));
    let mut to_visit = vec![nothing_yet];
    while let Some(state) = to_visit.pop() {
        seen.states += 1;
        let served = state.served(rules);
        for step in state.steps() {
            let mut next = state.clone();
            next.take(step, rules);
            seen.fullest = seen.fullest.max(next.counted.len());
            assert!(
                next.counted.len() <= rules.calls(),
                "too many are counted after {step:?} in {state:#?}"
            );
            seen.overtaken += usize::from(was_overtaken(&state, step, &next, rules));
            for n in &served {
                let is_its_own =
                    matches!(step, Step::Ask(m) | Step::Leave(m) | Step::Die(m) if m == *n);
                assert!(
                    is_its_own || next.place(*n).is_none() || next.has_a_slot_for(*n, rules),
                    "{n} has to wait after all, after {step:?} in {state:#?}"
                );
            }
            let name = next.name(rules);
            if names.insert(name.clone()) {
                assert_somebody_gets_on(name, &next, rules, &mut hopeful);
                to_visit.push(next);
            }
        }
    }
    seen
}

/// Whether somebody was admitted who had waited for less time than somebody else, for whom there
/// must then be room as well.
fn was_overtaken(before: &State, step: Step, after: &State, rules: &Rules) -> bool {
    let Step::Ask(n) = step else { return false };
    if !matches!(after.processes[n], Phase::Admitted(..)) {
        return false;
    }
    let own = before.place(n).unwrap_or(usize::MAX);
    let mut rest = after.clone();
    let mut overtaken = after.queue();
    overtaken.retain(|m| before.place(*m).is_some_and(|place| place < own));
    for m in &overtaken {
        assert!(
            rest.asks(*m, rules),
            "{m} is held up by {n}, which came later: {before:#?}"
        );
    }
    !overtaken.is_empty()
}

/// If those who wait do nothing but come at each tick, and nobody else does anything, one of them
/// is admitted at some time.
fn assert_somebody_gets_on(
    name: Vec<u8>,
    state: &State,
    rules: &Rules,
    hopeful: &mut HashSet<Vec<u8>>,
) {
    let mut way = vec![name];
    let mut later = state.clone();
    while !way.last().is_some_and(|name| hopeful.contains(name)) {
        let queue = later.queue();
        if queue.is_empty() || queue.iter().any(|n| later.asks(*n, rules)) {
            break;
        }
        later.take(Step::Tick, rules);
        let name = later.name(rules);
        assert!(!way.contains(&name), "all wait for ever in {state:#?}");
        way.push(name);
    }
    hopeful.extend(way);
}

fn assert_holds_in_all_states(rules: &Rules) -> Seen {
    let seen = explore(rules);
    // Otherwise it shows nothing.
    assert!(seen.states > 30_000, "{seen:?}");
    assert_eq!(seen.fullest, rules.calls(), "{seen:?}");
    seen
}

/// 45,994 states.
#[test]
fn in_no_order_of_steps_do_two_processes_exceed_the_quota_delay_each_other_or_get_stuck() {
    let seen = assert_holds_in_all_states(&Rules::new(2, 2, 3));
    assert!(seen.overtaken > 0, "{seen:?}");
}

/// 31,583 states.
#[test]
fn in_no_order_of_steps_do_three_processes_exceed_a_quota_of_one_or_get_stuck() {
    assert_holds_in_all_states(&Rules::new(3, 1, 2));
}

/// 346,441 states.
#[test]
fn in_no_order_of_steps_do_three_processes_exceed_the_quota_delay_each_other_or_get_stuck() {
    let seen = assert_holds_in_all_states(&Rules::new(3, 2, 2));
    assert!(seen.overtaken > 0, "{seen:?}");
}

//! What is next: which device is sent for, which reading is made, who is done with.
//!
//! Pure: times, answers and readings go in; steps come out. Nothing that might have happened is
//! repeated before a look at the machine's actions has shown that it has not.

mod error_class;
mod polling;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

pub(super) use self::polling::{Read, Wanted};

use self::error_class::{ErrorClass, classify};
use self::polling::{Known, Lists};
use super::circuit_breaker::{Breaker, Went};
use super::{Entry, Follow, Problem, State, Unreadable};
use crate::action_kind::ActionKind;
use crate::entry::ending;
use defender_core::clock::Moment;
use defender_core::id::MachineId;
use defender_host::CallError;
use defender_host::bindings::{MachineAction, Reason};
use defender_host::boundary::waiting::{Cause, Trouble};

/// How often in a row one is sent again that the service puts off, while it takes no other one
/// either. Whoever uses up the quota then does not stop.
const RESENDS: u32 = 10;

/// How often one is tried whose time is up each time before it left.
const TIMES_OUT: u32 = 2;

/// From so many on, where all that were answered were forbidden, the others would be too.
const FORBIDDEN: u64 = 5;

/// When one is sent again that did not leave: first, and at the latest.
const BACKOFF: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];

/// How old the picture of what is under way may be when something is sent.
const FRESH: Duration = Duration::from_secs(300);

/// When one is looked at of which it is not known whether it was done, from then on. A new action
/// is not visible at once (some seconds are on record); what is not there at the last look was not
/// done.
const LOOKS: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(35),
    Duration::from_secs(60),
];

/// The service's clock and this one may differ by so much.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// When an accepted action is looked at for the first time. It may not be visible before.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// From one look to the next the wait grows by a half, up to this in the first ten minutes, and up
/// to a tenth of the time that it has taken later on.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// And never beyond this.
const LONGEST_PAUSE_EVER: Duration = Duration::from_secs(600);

/// What delays the run for longer than this is reported.
const LONG: Duration = Duration::from_secs(5);

/// By what rules.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) kind: ActionKind,
    pub(super) nonce: [u8; 16],
    pub(super) override_pending: bool,
    pub(super) follow: Follow,
    pub(super) deadline: Option<Moment>,
    pub(super) at_once: usize,
    pub(super) pause_above: u8,
    pub(super) advice: fn(&CallError) -> Option<String>,
}

/// What happened that others want to know of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// A device stands otherwise now.
    Changed(usize),
    /// A device is done with, for now.
    Left(usize),
    /// Nothing is sent until then: of so many answers so many went wrong.
    Paused(Moment, usize, usize),
    /// Something cannot be read, now or later.
    Unreadable(Unreadable, CallError),
    /// Nothing more is sent.
    Hopeless(CallError),
}

/// Which time a device waits for.
#[derive(Clone, Debug, Default)]
struct DeviceTimer {
    /// When it is looked at next: its place in `due`.
    next: Option<Moment>,
    /// The pause after which.
    pause: Duration,
    /// How many looks there were in vain.
    looks: usize,
    /// Since when it is doubtful, or followed.
    since: Moment,
    /// How often it did not leave.
    tries: u32,
    /// How often it was put off while no other one was answered, and how many had been then.
    put_off: (u32, u64),
    /// Its action was missing from a list, and is read by itself.
    is_missing: bool,
    is_left: bool,
}

/// The reads that failed since the last one that succeeded.
struct Failing {
    /// How the last one failed.
    error: CallError,
    /// When the first one did.
    since: Moment,
}

impl Failing {
    fn cause(&self) -> Cause {
        match &self.error {
            CallError::Quota { wait, .. } => Cause::Quota(wait.why),
            error => Cause::Read(Trouble::from(error)),
        }
    }
}

/// Whether a read was not even tried, because the quota has no room before the deadline.
const fn is_own_quota(error: &CallError) -> bool {
    matches!(error, CallError::Quota { .. })
}

/// When the last reading of each sort was begun.
#[derive(Default)]
struct Begun {
    running: Option<Moment>,
    since: Option<Moment>,
    round: Option<Moment>,
}

/// What is known of the actions that are under way.
#[derive(Default)]
struct Picture {
    read: Option<Moment>,
    same: HashMap<usize, MachineAction>,
    opposite: HashMap<usize, MachineAction>,
}

pub(super) struct Scheduler {
    rules: Rules,
    entries: Vec<Entry>,
    turns: Vec<DeviceTimer>,
    by_machine: HashMap<MachineId, usize>,
    /// Those to be sent for, in their order.
    queue: VecDeque<usize>,
    /// So many of the first of them waited for the quota, and were not to leave yet.
    came_back: usize,
    /// Those to be sent for again, not before then.
    later: BTreeSet<(Moment, usize)>,
    /// Those to be looked at, and when.
    due: BTreeSet<(Moment, usize)>,
    in_flight: usize,
    is_reading: bool,
    /// What is left of a round of looks.
    round: VecDeque<Read>,
    picture: Picture,
    breaker: Breaker,
    last: Begun,
    /// Nothing is read before.
    read_after: Option<Moment>,
    misreads: u32,
    failing: Option<Failing>,
    /// How lists are asked for, and known actions.
    lists: Lists,
    known: Known,
    /// Why nothing can be read.
    blind: Option<CallError>,
    /// Why nothing is sent any more.
    hopeless: Option<CallError>,
    /// Why it is over, but for what is under way.
    closed: Option<String>,
    /// Why there was no token when it was closed.
    no_token: Option<Cause>,
    /// The service has answered something.
    has_contact: bool,
    /// Requests that the service answered, and did not put off.
    answered: u64,
    forbidden: u64,
    open: usize,
    news: Vec<Event>,
}

impl Scheduler {
    /// Takes the devices as they were left.
    pub(super) fn new(rules: Rules, entries: Vec<Entry>, now: Moment) -> Self {
        let by_machine = entries.iter().enumerate();
        let by_machine = by_machine.map(|(n, entry)| (entry.machine.clone(), n));
        let mut book = Self {
            by_machine: by_machine.collect(),
            turns: vec![DeviceTimer::default(); entries.len()],
            open: entries.len(),
            breaker: Breaker::new(rules.pause_above),
            rules,
            entries,
            queue: VecDeque::new(),
            came_back: 0,
            later: BTreeSet::new(),
            due: BTreeSet::new(),
            in_flight: 0,
            is_reading: false,
            round: VecDeque::new(),
            picture: Picture::default(),
            last: Begun::default(),
            read_after: None,
            misreads: 0,
            failing: None,
            lists: Lists::Filtered,
            known: Known::ByIds,
            blind: None,
            hopeless: None,
            closed: None,
            no_token: None,
            has_contact: false,
            answered: 0,
            forbidden: 0,
            news: Vec::new(),
        };
        for n in 0..book.entries.len() {
            let entry = &mut book.entries[n];
            let before = entry.clone();
            match entry.state {
                // Whoever was about to send it did not hear what came of it.
                State::Sending => entry.state = State::OutcomeUnknown,
                State::Held => entry.state = State::Waiting,
                State::Accepted => entry.problem = None,
                _ => {}
            }
            if *entry != before {
                book.news.push(Event::Changed(n));
            }
            book.settle_quietly(n, now);
        }
        book
    }

    /// How the devices stand.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether there is nothing left to do.
    pub(super) const fn is_over(&self) -> bool {
        self.open == 0
    }

    /// Whether accepted actions are followed.
    pub(super) fn follows(&self) -> bool {
        self.rules.follow != Follow::Not
    }

    /// Why nothing more is sent, if so.
    pub(super) const fn hopeless(&self) -> Option<&CallError> {
        self.hopeless.as_ref()
    }

    /// What has happened since this was last asked.
    pub(super) fn news(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.news)
    }

    /// By what a device's action of this run is recognised: 60 random bits, in 12 letters and
    /// digits.
    pub(super) fn reference(&self, n: usize) -> String {
        reference(&self.rules.nonce, &self.entries[n].machine)
    }

    /// The next device to be sent for now, if one is. It is under way from then on.
    pub(super) fn next_send(&mut self, now: Moment) -> Option<usize> {
        while let Some((at, n)) = self.later.first().copied()
            && at <= now
        {
            self.later.pop_first();
            self.queue.push_front(n);
        }
        if self.sends_no_more()
            || self.in_flight >= self.breaker.at_once(now, self.rules.at_once)
            || self.wants_picture(now)
        {
            return None;
        }
        self.came_back = 0;
        while let Some(n) = self.queue.pop_front() {
            if let Some(opposite) = self.opposite(n) {
                let since = opposite.creation_date_time_utc.as_deref();
                let problem = Problem::said(&format!(
                    "{} is under way for it (action {}, {}, of {}), and is not overtaken",
                    opposite.type_.as_str(),
                    opposite.id,
                    opposite.status.as_str(),
                    since.unwrap_or("an unknown time"),
                ));
                let entry = &mut self.entries[n];
                entry.state = State::Held;
                entry.problem = Some(problem);
                self.settle(n, now);
            } else if let Some(same) = self.picture.same.remove(&n) {
                self.take(n, &same, now);
            } else {
                self.in_flight += 1;
                return Some(n);
            }
        }
        None
    }

    /// Whether a device that waited for the quota may be sent for now. That can have taken an hour,
    /// in which somebody began the opposite, or too much of the rest went wrong.
    pub(super) fn may_leave(&self, n: usize, now: Moment) -> bool {
        !self.sends_no_more()
            && self.breaker.at_once(now, self.rules.at_once) > 0
            && !self.wants_picture(now)
            && self.opposite(n).is_none()
    }

    /// What is under way for a device and must not be overtaken.
    fn opposite(&self, n: usize) -> Option<&MachineAction> {
        let opposite = self.picture.opposite.get(&n);
        opposite.filter(|_| !self.rules.override_pending)
    }

    /// Whether the picture of what is under way has to be read before something is sent.
    fn wants_picture(&self, now: Moment) -> bool {
        self.lists != Lists::Never
            && self
                .picture
                .read
                .is_none_or(|read| now.since(read) >= FRESH)
    }

    /// What came of sending for a device: how often a request may have left, when the last one did,
    /// and what the answer was.
    pub(super) fn answered(
        &mut self,
        n: usize,
        sends: u32,
        sent: Option<Timestamp>,
        result: &Result<MachineAction, CallError>,
        now: Moment,
    ) {
        self.in_flight -= 1;
        let entry = &mut self.entries[n];
        entry.sends += sends;
        entry.sent = sent.or(entry.sent);
        match result {
            Ok(action) => {
                self.counts(Went::Well, now);
                let is_old = !self.is_own(n, action)
                    && ending(&action.status).is_some()
                    && !self.is_of_this_time(n, action.last_update_date_time_utc.as_deref());
                if is_old || ActionKind::of(&action.type_) != Some(self.rules.kind) {
                    let problem = "the service answered with an action that is not this one";
                    self.entries[n].problem = Some(Problem::said(problem));
                    self.doubt(n, State::OutcomeUnknown, now);
                } else {
                    self.take(n, action, now);
                }
            }
            Err(CallError::Stopped) => {
                self.put_back(self.came_back, n, now);
                self.came_back += 1;
            }
            Err(error) => {
                self.entries[n].problem = Some(self.problem(error));
                self.went_wrong(n, error, now);
            }
        }
    }

    fn went_wrong(&mut self, n: usize, error: &CallError, now: Moment) {
        match classify(error, self.has_contact) {
            ErrorClass::Doubt => {
                self.counts(Went::Wrong, now);
                self.doubt(n, State::OutcomeUnknown, now);
            }
            ErrorClass::AlreadyInProgress => {
                self.counts(Went::Well, now);
                self.doubt(n, State::AlreadyInProgress, now);
            }
            ErrorClass::NotSent { nowhere } => {
                let went = if nowhere { Went::Nowhere } else { Went::Wrong };
                self.pauses(went, now);
                self.entries[n].state = State::Waiting;
                let tries = &mut self.turns[n].tries;
                *tries += 1;
                if !nowhere && *tries >= TIMES_OUT {
                    self.entries[n].state = State::Refused;
                }
                self.settle(n, now);
            }
            ErrorClass::PutOff => {
                self.has_contact = true;
                let answered = self.answered;
                let put_off = &mut self.turns[n].put_off;
                if put_off.1 != answered {
                    *put_off = (0, answered);
                }
                put_off.0 += 1;
                let is_enough = put_off.0 > RESENDS;
                // The host has closed the key; the next call waits until it opens.
                self.put_back(0, n, now);
                if is_enough {
                    self.give_up(error, now);
                }
            }
            ErrorClass::NotYet if self.in_flight > 0 && !self.sends_no_more() => {
                self.entries[n].state = State::Waiting;
                self.news.push(Event::Changed(n));
                self.later.insert((now + BACKOFF[0], n));
            }
            ErrorClass::All | ErrorClass::NotYet => {
                self.put_back(0, n, now);
                self.give_up(error, now);
            }
            ErrorClass::Refused => {
                self.counts(Went::Wrong, now);
                if matches!(error.reason(), Some(Reason::Forbidden(_))) {
                    self.forbidden += 1;
                }
                self.entries[n].state = State::Refused;
                self.settle(n, now);
                if self.forbidden >= FORBIDDEN && self.forbidden == self.answered {
                    self.give_up(error, now);
                }
            }
        }
    }

    /// Nothing came of it, and it is one of the next to be sent, unless nothing is sent any more.
    fn put_back(&mut self, place: usize, n: usize, now: Moment) {
        self.entries[n].state = State::Waiting;
        self.news.push(Event::Changed(n));
        match self.sends_no_more() {
            true => self.settle_quietly(n, now),
            false => self.queue.insert(place.min(self.queue.len()), n),
        }
    }

    const fn sends_no_more(&self) -> bool {
        self.closed.is_some() || self.hopeless.is_some()
    }

    /// The service answered, and did not put it off.
    fn counts(&mut self, went: Went, now: Moment) {
        self.has_contact = true;
        self.answered += 1;
        self.pauses(went, now);
    }

    fn pauses(&mut self, went: Went, now: Moment) {
        if let Some((until, wrong, of)) = self.breaker.note(went, now) {
            self.news.push(Event::Paused(until, wrong, of));
        }
    }

    fn problem(&self, error: &CallError) -> Problem {
        Problem::new(error, (self.rules.advice)(error).as_deref())
    }

    /// From now on nothing is read.
    fn go_blind(&mut self, error: &CallError, now: Moment) {
        if self.blind.is_some() {
            return;
        }
        self.lists = Lists::Never;
        self.blind = Some(error.clone());
        let news = Event::Unreadable(Unreadable::All, error.clone());
        self.news.push(news);
        self.settle_all(now);
    }

    /// From now on nothing is sent.
    fn give_up(&mut self, error: &CallError, now: Moment) {
        if self.hopeless.is_none() {
            self.hopeless = Some(error.clone());
            self.news.push(Event::Hopeless(error.clone()));
        }
        self.settle_all(now);
    }

    /// It is over, but for what is under way. `no_token` is why there is no token at this moment.
    pub(super) fn close(&mut self, why: &'static str, no_token: Option<Cause>, now: Moment) {
        self.no_token = no_token;
        let paused = self.breaker.until().is_some_and(|until| now < until);
        self.closed = Some(match (&self.no_token, &self.failing) {
            (Some(cause), _) => format!("{why}; {cause}"),
            (None, Some(Failing { error, .. })) if is_own_quota(error) => format!("{why}; {error}"),
            (None, Some(failing)) => format!("{why}; {}", failing.cause()),
            (None, None) if paused => {
                format!("{why}; the run had paused because too many requests failed")
            }
            (None, None) if self.is_reading && self.wants_picture(now) => {
                format!("{why}; no response to reading what is under way")
            }
            (None, None) => why.to_owned(),
        });
        self.settle_all(now);
    }

    /// What holds the run up, and until when, if it is not a call that is under way.
    pub(super) fn waits(&self, now: Moment) -> Option<(Cause, Moment)> {
        if self.closed.is_some() {
            return None;
        }
        let is_waiting = !self.queue.is_empty() || !self.later.is_empty();
        if let (Some(after), Some(failing)) = (self.read_after, &self.failing)
            && after > now
            && (is_waiting || !self.due.is_empty())
        {
            let is_long =
                after.since(failing.since) > LONG || !error_class::may_pass(&failing.error);
            return is_long.then(|| (failing.cause(), after));
        }
        if !self.queue.is_empty() || self.in_flight > 0 || self.is_reading {
            return None;
        }
        if let Some((at, n)) = self.later.first() {
            // The pauses before it were as long as this one together.
            let is_long = self.turns[*n].tries > 1 && *at > now;
            let problem = self.entries[*n].problem.as_ref().filter(|_| is_long)?;
            return Some((Cause::Request(problem.trouble()), *at));
        }
        let (at, n) = self.due.iter().find(|(at, _)| *at > now)?;
        let cause = match self.entries[*n].state {
            State::OutcomeUnknown | State::AlreadyInProgress => Cause::NotVisible,
            _ => Cause::Device,
        };
        Some((cause, *at))
    }

    fn settle_all(&mut self, now: Moment) {
        let waiting: Vec<usize> = self
            .queue
            .drain(..)
            .chain(std::mem::take(&mut self.later).into_iter().map(|(_, n)| n))
            .chain(self.due.iter().map(|(_, n)| *n).collect::<Vec<_>>())
            .collect();
        for n in waiting {
            self.settle_quietly(n, now);
        }
    }

    /// This is the device's action.
    fn take(&mut self, n: usize, action: &MachineAction, now: Moment) {
        let is_own = self.is_own(n, action);
        self.entries[n].has(action, is_own);
        let turn = &mut self.turns[n];
        (turn.since, turn.pause) = (now, Duration::ZERO);
        self.settle(n, now);
    }

    /// It is not known whether there is an action, or which.
    fn doubt(&mut self, n: usize, state: State, now: Moment) {
        self.entries[n].state = state;
        let turn = &mut self.turns[n];
        (turn.since, turn.looks) = (now, 0);
        self.settle(n, now);
    }

    /// Gives a device that stands otherwise now its next turn.
    fn settle(&mut self, n: usize, now: Moment) {
        self.news.push(Event::Changed(n));
        self.settle_quietly(n, now);
    }

    fn settle_quietly(&mut self, n: usize, now: Moment) {
        if let Some(next) = self.turns[n].next.take() {
            self.due.remove(&(next, n));
        }
        if self.turns[n].is_left {
            return;
        }
        match self.entries[n].state {
            State::Sending => {}
            State::Waiting if self.sends_no_more() => {
                if self.entries[n].problem.is_none() {
                    let why = self.hopeless.as_ref().map(|error| self.problem(error));
                    self.entries[n].problem = why.or(self.closed.as_deref().map(Problem::said));
                    self.news.push(Event::Changed(n));
                }
                self.leave(n);
            }
            State::Waiting => match self.turns[n].tries {
                0 => self.queue.push_back(n),
                tries => {
                    let pause = BACKOFF[0].saturating_mul(1 << (tries - 1).min(10));
                    self.later.insert((now + pause.min(BACKOFF[1]), n));
                }
            },
            State::OutcomeUnknown | State::AlreadyInProgress
                if self.closed.is_some() || self.lists == Lists::Never =>
            {
                self.leave(n);
            }
            State::OutcomeUnknown | State::AlreadyInProgress => {
                let turn = &self.turns[n];
                let look = LOOKS[turn.looks.min(LOOKS.len() - 1)];
                self.look_at((turn.since + look).max(now), n);
            }
            State::Accepted => self.settle_accepted(n, now),
            State::Done | State::Failed | State::Refused | State::Held => self.leave(n),
        }
    }

    fn settle_accepted(&mut self, n: usize, now: Moment) {
        if self.blind.is_some() {
            return self.leave_unread(n);
        }
        let turn = &mut self.turns[n];
        if turn.pause.is_zero() {
            (turn.since, turn.pause) = (now, FIRST_LOOK);
        } else {
            let longest = (now.since(turn.since) / 10).clamp(LONGEST_PAUSE, LONGEST_PAUSE_EVER);
            turn.pause = (turn.pause + turn.pause / 2).min(longest);
        }
        let next = now + turn.pause;
        let is_too_late = match self.rules.follow {
            Follow::Not => true,
            Follow::For(time) => next.since(turn.since) > time,
            Follow::ToTheEnd => false,
        };
        let is_too_late = is_too_late || self.rules.deadline.is_some_and(|end| next > end);
        if is_too_late || self.closed.is_some() {
            return self.leave_unread(n);
        }
        self.look_at(next, n);
    }

    /// Leaves a device whose action was accepted. If its state could not be read, that is why it
    /// is not known.
    fn leave_unread(&mut self, n: usize) {
        let failing = self.failing.as_ref().map(|failing| &failing.error);
        let failing = failing.filter(|error| !is_own_quota(error));
        let problem = match (self.blind.as_ref().or(failing), &self.no_token) {
            (Some(error), _) => Some(self.problem(error)),
            (None, Some(cause)) => Some(Problem::said(&cause.to_string())),
            (None, None) => None,
        };
        if let (Some(problem), true) = (problem, self.follows()) {
            self.entries[n].problem = Some(problem);
            self.news.push(Event::Changed(n));
        }
        self.leave(n);
    }

    fn look_at(&mut self, at: Moment, n: usize) {
        self.turns[n].next = Some(at);
        self.due.insert((at, n));
    }

    fn leave(&mut self, n: usize) {
        if let Some(next) = self.turns[n].next.take() {
            self.due.remove(&(next, n));
        }
        if !std::mem::replace(&mut self.turns[n].is_left, true) {
            self.open -= 1;
            self.news.push(Event::Left(n));
        }
    }

    /// When there is something to do that is not to be done yet.
    pub(super) fn wake(&self, now: Moment) -> Option<Moment> {
        let is_waiting = !self.queue.is_empty() || !self.later.is_empty();
        let times = [
            self.breaker.until().filter(|_| is_waiting),
            self.later.first().map(|(at, _)| *at),
            self.due.iter().map(|(at, _)| *at).find(|at| *at > now),
            self.picture
                .read
                .map(|read| read + FRESH)
                .filter(|_| is_waiting),
        ];
        let times = times.into_iter().chain(self.may_read_from());
        times.flatten().filter(|at| *at > now).min()
    }

    fn is_own(&self, n: usize, action: &MachineAction) -> bool {
        let comment = action.requestor_comment.as_deref().unwrap_or_default();
        comment.contains(&self.reference(n))
    }

    /// Whether a time of the service's is not before the last request for this device.
    fn is_of_this_time(&self, n: usize, time: Option<&str>) -> bool {
        let (Some(sent), Some(time)) = (self.entries[n].sent, time) else {
            return true;
        };
        let time: Option<Timestamp> = time.parse().ok();
        let earliest = sent.checked_sub(SKEW).unwrap_or(Timestamp::MIN);
        time.is_none_or(|time| time >= earliest)
    }
}

/// By what an action of a run is recognised: 60 bits, in 12 letters and digits, the same for one
/// device in one run.
pub(super) fn reference(nonce: &[u8; 16], machine: &MachineId) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut hash = Sha256::new();
    hash.update(nonce);
    hash.update(machine.as_str());
    let hash = hash.finalize();
    hash.iter()
        .take(12)
        .map(|byte| char::from(LETTERS[usize::from(byte % 32)]))
        .collect()
}

//! What is read next, and what a reading says of the devices.
//!
//! Some services do not accept every documented filter. What is rejected is asked for in a simpler
//! way, step by step, and what is not needed is left out here.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::error_class::{ReadingFate, may_have_arrived, reading_fate};
use super::{BACKOFF, Begun, Event, Failing, LOOKS, SKEW, Scheduler};
use crate::action_kind::ActionKind;
use crate::batch::{Follow, Problem, State, Unreadable};
use crate::entry::ending;
use defender_core::clock::Moment;
use defender_core::id::MachineId;
use defender_host::CallError;
use defender_host::bindings::{ActionStatus, MachineAction, MachineActionFilter, Reason};

/// From one reading of many devices to the next, at least.
const APART: Duration = Duration::from_secs(10);

/// Looks at accepted actions are made together: with the due ones those that are due soon.
const SOON: Duration = Duration::from_secs(2);

/// Rounds of them are so far apart, for a few actions and for many.
pub(super) const ROUNDS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(15)];

/// These are a few.
const FEW: usize = 10;

/// How many ids one reading names. The contract allows 100.
const IDS: usize = 100;

/// So many readings that went wrong in a row, and were answered, are enough.
const MISREADS: u32 = 10;

/// So many before the first that went well, if nothing else did either.
const FIRST_MISREADS: u32 = 3;

/// How often one is sent at most of which each time a look shows that it was not done.
const SENDS: u32 = 5;

/// How lists are asked for: the next one where the service rejects the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lists {
    /// By all that is wanted of them.
    Filtered,
    /// By one property at most: the device, or the time of creation.
    Simple,
    /// Without a filter.
    Everything,
    /// Not at all.
    Never,
}

impl Lists {
    const fn simpler(self) -> Self {
        match self {
            Self::Filtered => Self::Simple,
            Self::Simple => Self::Everything,
            Self::Everything | Self::Never => Self::Never,
        }
    }
}

/// How known actions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// By a list that names their ids.
    ByIds,
    /// A few each by itself, many by a list of those since the first of them.
    Each,
    /// By a list of those since the first of them.
    Listed,
}

/// What to ask the service for.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::batch) enum Wanted {
    /// What this filter lets through.
    List(MachineActionFilter),
    /// The action of this id.
    Action(String),
}

/// A reading of machine actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::batch) enum Read {
    /// Those of either kind that are under way, of all devices.
    Running,
    /// Those of either kind that were created since then.
    Since(Timestamp),
    /// Those of one device.
    Of(usize),
    /// These devices' known ones, by their ids.
    Known(Vec<usize>),
    /// These devices' known ones, by a list of all that were created since then.
    Recent(Vec<usize>, Timestamp),
    /// This device's known one.
    One(usize),
}

impl Scheduler {
    /// The next reading to be made now, if one is. It is under way from then on.
    pub(in crate::batch) fn next_read(&mut self, now: Moment) -> Option<Read> {
        let read = self.pick_read(now)?;
        self.is_reading = true;
        Some(read)
    }

    fn pick_read(&mut self, now: Moment) -> Option<Read> {
        if self.closed.is_some()
            || self.is_reading
            || self.blind.is_some()
            || self.read_after.is_some_and(|after| now < after)
        {
            return None;
        }
        if self.lists == Lists::Never {
            return self.next_known(now);
        }
        let wants_to_send = !self.queue.is_empty() && self.hopeless.is_none();
        if wants_to_send && self.wants_picture(now) {
            self.last.running = Some(now);
            return Some(Read::Running);
        }
        let due = self.due_at(now);
        let is_free = |last: Option<Moment>, apart| last.is_none_or(|last| now >= last + apart);
        let unsure = due
            .iter()
            .filter(|n| self.entries[**n].state == State::OutcomeUnknown);
        let earliest = unsure.map(|n| self.entries[*n].sent).min();
        if let Some(earliest) = earliest
            && is_free(self.last.since, APART)
        {
            self.last.since = Some(now);
            let since = earliest.and_then(|sent| sent.checked_sub(SKEW).ok());
            return Some(Read::Since(since.unwrap_or(Timestamp::UNIX_EPOCH)));
        }
        let mut barred = due
            .iter()
            .filter(|n| self.entries[**n].state == State::AlreadyInProgress);
        if let Some(n) = barred
            .clone()
            .find(|n| self.turns[**n].looks + 1 >= LOOKS.len())
        {
            return Some(Read::Of(*n));
        }
        if barred.next().is_some() && is_free(self.last.running, APART) {
            self.last.running = Some(now);
            return Some(Read::Running);
        }
        self.next_known(now)
    }

    fn due_at(&self, now: Moment) -> Vec<usize> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, n)| *n).collect()
    }

    /// The next reading of known actions.
    fn next_known(&mut self, now: Moment) -> Option<Read> {
        if self.round.is_empty() {
            self.begin_round(now);
        }
        self.round.pop_front()
    }

    /// Gathers the accepted ones that are due, and fills the last reading up with those that are
    /// due next.
    fn begin_round(&mut self, now: Moment) {
        let is_accepted = |n: &usize| self.entries[*n].state == State::Accepted;
        if !self.due_at(now).iter().any(is_accepted) || self.round_may_begin() > Some(now) {
            return;
        }
        self.last.round = Some(now);
        let accepted = self.due.iter().filter(|(_, n)| is_accepted(n));
        let due = accepted
            .clone()
            .take_while(|(at, _)| *at <= now + SOON)
            .count();
        let fills_up = self.known == Known::ByIds;
        let count = if fills_up {
            due.div_ceil(IDS) * IDS
        } else {
            due
        };
        let all = accepted.take(count).map(|(_, n)| *n);
        let is_alone = |n: &usize| self.turns[*n].is_missing && self.known != Known::Listed;
        let (alone, others): (Vec<usize>, Vec<usize>) = all.partition(is_alone);
        self.round = alone.into_iter().map(Read::One).collect();
        let is_list = match self.known {
            Known::ByIds => {
                let chunks = others.chunks(IDS);
                self.round
                    .extend(chunks.map(|chunk| Read::Known(chunk.to_vec())));
                return;
            }
            Known::Each => others.len() > FEW && self.lists != Lists::Never,
            Known::Listed => !others.is_empty(),
        };
        match is_list {
            true => {
                let since = self.first_creation(&others);
                self.round.push_back(Read::Recent(others, since));
            }
            false => self.round.extend(others.into_iter().map(Read::One)),
        }
    }

    /// When the first of these devices' known actions was created, by the service's clock.
    fn first_creation(&self, devices: &[usize]) -> Timestamp {
        let created = devices.iter().map(|n| {
            let action = self.entries[*n].action.as_ref()?;
            let created: Timestamp = action.creation_date_time_utc.as_ref()?.parse().ok()?;
            Some(created)
        });
        created.min().flatten().unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// From when on there may be another reading: at all, of what is under way, since some time, in
    /// a round.
    pub(super) fn may_read_from(&self) -> [Option<Moment>; 4] {
        [
            self.read_after,
            self.last.running.map(|last| last + APART),
            self.last.since.map(|last| last + APART),
            self.round_may_begin(),
        ]
    }

    fn round_may_begin(&self) -> Option<Moment> {
        let apart = ROUNDS[usize::from(self.due.len() > FEW)];
        self.last.round.map(|last| last + apart)
    }

    /// What to ask the service for.
    pub(in crate::batch) fn wanted(&self, read: &Read) -> Wanted {
        let everything = MachineActionFilter::everything();
        let id = |n: &usize| Some(self.entries[*n].action.as_ref()?.id.clone());
        match read {
            Read::One(n) => return Wanted::Action(id(n).unwrap_or_default()),
            Read::Known(devices) => {
                return Wanted::List(MachineActionFilter {
                    ids: devices.iter().filter_map(id).collect(),
                    ..everything
                });
            }
            _ => {}
        }
        if self.lists == Lists::Everything {
            return Wanted::List(everything);
        }
        let since = |time: &Timestamp| Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let mut filter = match read {
            Read::Since(time) | Read::Recent(_, time) => MachineActionFilter {
                created_since: since(time),
                ..everything
            },
            Read::Of(n) => MachineActionFilter {
                machine_id: Some(self.entries[*n].machine.to_string()),
                ..everything
            },
            Read::Running | Read::Known(_) | Read::One(_) => everything,
        };
        if self.lists == Lists::Filtered {
            filter.types = ActionKind::ALL.map(ActionKind::action_type).to_vec();
            if *read == Read::Running {
                filter.statuses = vec![ActionStatus::Pending, ActionStatus::InProgress];
            }
        }
        Wanted::List(filter)
    }

    /// What a reading that was begun at that moment found, and whether it is cut off.
    pub(in crate::batch) fn was_read(
        &mut self,
        read: &Read,
        began: Moment,
        result: &Result<(Vec<MachineAction>, bool), CallError>,
        now: Moment,
    ) {
        self.is_reading = false;
        match result {
            Ok((actions, is_cut)) => {
                self.has_contact = true;
                self.misreads = 0;
                self.read_after = None;
                self.failing = None;
                if let (Read::Running, false) = (read, is_cut) {
                    // What it does not show is not under way.
                    self.picture.opposite.clear();
                }
                // Whatever it was made for.
                let opposite = self.under_way(self.rules.kind.opposite(), actions);
                self.picture.opposite.extend(opposite);
                match read {
                    Read::Running => self.saw_running(actions, began, now),
                    Read::Since(_) => self.saw_since(actions, *is_cut, began, now),
                    Read::Of(n) => self.saw_one(*n, actions, now),
                    Read::Known(devices) | Read::Recent(devices, _) => {
                        self.saw_known(devices, actions, now);
                    }
                    Read::One(n) => self.saw_known(&[*n], actions, now),
                }
            }
            Err(CallError::Stopped) => {}
            Err(error) => self.misread(read, error, now),
        }
    }

    fn saw_running(&mut self, actions: &[MachineAction], began: Moment, now: Moment) {
        let mut same = self.under_way(self.rules.kind, actions);
        let barred = self.due.iter().map(|(_, n)| *n);
        let barred = barred.filter(|n| self.entries[*n].state == State::AlreadyInProgress);
        for n in barred.collect::<Vec<_>>() {
            match same.remove(&n) {
                Some(action) => self.take(n, &action, now),
                None => self.looked_in_vain(n, Some(began), now),
            }
        }
        self.picture.read = Some(began);
        self.picture.same = same;
    }

    /// Those of a kind that have not ended, by device.
    fn under_way(
        &self,
        kind: ActionKind,
        actions: &[MachineAction],
    ) -> HashMap<usize, MachineAction> {
        let of_kind = actions.iter().filter(|action| {
            ActionKind::of(&action.type_) == Some(kind) && ending(&action.status).is_none()
        });
        let by_device =
            of_kind.filter_map(|action| Some((self.device_of(action)?, action.clone())));
        by_device.collect()
    }

    fn saw_since(&mut self, actions: &[MachineAction], is_cut: bool, began: Moment, now: Moment) {
        let mut by_device: HashMap<usize, Vec<&MachineAction>> = HashMap::new();
        for action in actions {
            if let Some(n) = self.device_of(action) {
                by_device.entry(n).or_default().push(action);
            }
        }
        let unsure = self.due.iter().map(|(_, n)| *n);
        let unsure = unsure.filter(|n| self.entries[*n].state == State::OutcomeUnknown);
        for n in unsure.collect::<Vec<_>>() {
            let found = by_device.get(&n).and_then(|found| self.made_by(n, found));
            match found.cloned() {
                Some(action) => self.take(n, &action, now),
                None => self.looked_in_vain(n, (!is_cut).then_some(began), now),
            }
        }
    }

    /// The action that a doubtful request made, or that bars it: of the right kind and time, with
    /// the reference in its comment; else one that is under way.
    fn made_by<'a>(&self, n: usize, found: &[&'a MachineAction]) -> Option<&'a MachineAction> {
        let mut candidates: Vec<_> = found
            .iter()
            .filter(|action| ActionKind::of(&action.type_) == Some(self.rules.kind))
            .filter(|action| self.is_news(n, action))
            .collect();
        candidates.sort_by_key(|action| &action.creation_date_time_utc);
        let own = candidates.iter().rev().find(|action| {
            self.is_own(n, action)
                && self.is_of_this_time(n, action.creation_date_time_utc.as_deref())
        });
        let running = candidates
            .iter()
            .rev()
            .find(|action| ending(&action.status).is_none());
        own.or(running).map(|action| **action)
    }

    /// Whether it is another action than the one that is known, and not one from before it: those
    /// of earlier tries have the same reference.
    fn is_news(&self, n: usize, action: &MachineAction) -> bool {
        let Some(known) = &self.entries[n].action else {
            return true;
        };
        let time = |text: &Option<String>| text.as_ref()?.parse::<Timestamp>().ok();
        let created = [
            &action.creation_date_time_utc,
            &known.creation_date_time_utc,
        ]
        .map(time);
        match created {
            [Some(this), Some(before)] => this > before,
            _ => action.id != known.id,
        }
    }

    fn saw_one(&mut self, n: usize, actions: &[MachineAction], now: Moment) {
        if self.entries[n].state != State::AlreadyInProgress {
            return;
        }
        let of_kind = actions
            .iter()
            .filter(|action| ActionKind::of(&action.type_) == Some(self.rules.kind))
            .filter(|action| self.device_of(action) == Some(n))
            .filter(|action| self.is_news(n, action));
        let newest = of_kind.max_by_key(|action| action.creation_date_time_utc.clone());
        let ended_lately = newest.filter(|action| {
            ending(&action.status).is_none()
                || self.is_of_this_time(n, action.last_update_date_time_utc.as_deref())
        });
        match ended_lately.cloned() {
            Some(action) => self.take(n, &action, now),
            // It said that one was under way, and shows none. Whoever runs it is the one to know.
            None => self.leave(n),
        }
    }

    fn saw_known(&mut self, devices: &[usize], actions: &[MachineAction], now: Moment) {
        let found: HashMap<&str, &MachineAction> = actions
            .iter()
            .map(|action| (action.id.as_str(), action))
            .collect();
        for &n in devices {
            if self.entries[n].state != State::Accepted || self.turns[n].is_left {
                continue;
            }
            let id = self.entries[n]
                .action
                .as_ref()
                .map(|action| action.id.as_str());
            match id.and_then(|id| found.get(id)) {
                Some(action) => {
                    let is_own = !self.entries[n].is_adopted;
                    let before = self.entries[n].clone();
                    self.entries[n].has(action, is_own);
                    if self.entries[n] != before {
                        self.news.push(Event::Changed(n));
                    }
                }
                // It is not visible yet.
                None if !self.must_be_visible(n, now) => {}
                None if self.known == Known::Listed => {
                    let problem = "the service does not list the action";
                    self.entries[n].problem = Some(Problem::said(problem));
                    self.news.push(Event::Changed(n));
                    self.leave(n);
                    continue;
                }
                None => self.turns[n].is_missing = true,
            }
            self.settle_quietly(n, now);
        }
    }

    /// Whether so much time has passed that a new action is visible.
    fn must_be_visible(&self, n: usize, now: Moment) -> bool {
        now.since(self.turns[n].since) >= LOOKS[LOOKS.len() - 1]
    }

    fn misread(&mut self, read: &Read, error: &CallError, now: Moment) {
        let is_answer = matches!(
            error.reason(),
            Some(
                Reason::Forbidden(_)
                    | Reason::NotFound
                    | Reason::RateLimited(_)
                    | Reason::Rejected
                    | Reason::ServiceFailure(_)
                    | Reason::Unauthorized
                    | Reason::UnexpectedResponse
            )
        );
        self.has_contact |= is_answer;
        match reading_fate(error, self.rules.deadline.is_some()) {
            ReadingFate::Rejected => self.was_rejected(read, error, now),
            ReadingFate::Never => self.go_blind(error, now),
            ReadingFate::All => {
                self.give_up(error, now);
                self.go_blind(error, now);
            }
            ReadingFate::Later { is_away } => {
                self.round.clear();
                self.misreads += 1;
                let pause = BACKOFF[0].saturating_mul(1 << self.misreads.min(10));
                self.read_after = Some(now + pause.min(BACKOFF[1]));
                let since = self.failing.as_ref().map_or(now, |failing| failing.since);
                self.failing = Some(Failing {
                    error: error.clone(),
                    since,
                });
                let first = match is_away && !may_have_arrived(error) {
                    true => 1,
                    false => FIRST_MISREADS,
                };
                if !self.has_contact && self.misreads >= first {
                    self.give_up(error, now);
                    self.go_blind(error, now);
                } else if !is_away && self.misreads >= MISREADS {
                    self.go_blind(error, now);
                } else {
                    self.leave_overdue(now);
                }
            }
        }
    }

    /// What is rejected once is rejected always. It is asked for in the next simpler way.
    fn was_rejected(&mut self, read: &Read, error: &CallError, now: Moment) {
        let what = match read {
            Read::One(n) => return self.was_one_rejected(*n, error, now),
            Read::Known(_) => {
                self.known = Known::Each;
                Unreadable::ByIds
            }
            Read::Running | Read::Since(_) | Read::Of(_) | Read::Recent(..) => {
                let rejected = self.wanted(read);
                // Some lists are the same in two ways.
                while self.lists != Lists::Never && self.wanted(read) == rejected {
                    self.lists = self.lists.simpler();
                }
                match (self.lists, self.known) {
                    (Lists::Never, Known::Listed) => return self.go_blind(error, now),
                    (Lists::Never, _) => {
                        self.known = Known::Each;
                        Unreadable::Lists
                    }
                    _ => Unreadable::Filter,
                }
            }
        };
        self.ask_again(what, error);
        if self.lists == Lists::Never {
            let all = self.due.iter().map(|(_, n)| *n);
            let looked_up = all.filter(|n| {
                matches!(
                    self.entries[*n].state,
                    State::OutcomeUnknown | State::AlreadyInProgress
                )
            });
            for n in looked_up.collect::<Vec<_>>() {
                self.settle_quietly(n, now);
            }
        }
    }

    /// What is due is read at once in another way.
    fn ask_again(&mut self, what: Unreadable, error: &CallError) {
        self.round.clear();
        self.last = Begun::default();
        self.news.push(Event::Unreadable(what, error.clone()));
    }

    fn was_one_rejected(&mut self, n: usize, error: &CallError, now: Moment) {
        if matches!(error.reason(), Some(Reason::NotFound)) {
            if self.must_be_visible(n, now) && self.entries[n].state == State::Accepted {
                self.entries[n].problem = Some(self.problem(error));
                self.news.push(Event::Changed(n));
                self.leave(n);
            } else {
                self.settle_quietly(n, now);
            }
        } else if self.lists == Lists::Never {
            self.go_blind(error, now);
        } else {
            self.known = Known::Listed;
            self.ask_again(Unreadable::Each, error);
        }
    }

    /// Leaves the devices that have been followed for long enough, though they could not be read.
    fn leave_overdue(&mut self, now: Moment) {
        let Follow::For(time) = self.rules.follow else {
            return;
        };
        let overdue = self.due.iter().map(|(_, n)| *n).filter(|n| {
            let since = self.turns[*n].since;
            self.entries[*n].state == State::Accepted && now.since(since) >= time
        });
        for n in overdue.collect::<Vec<_>>() {
            self.leave_unread(n);
        }
    }

    /// A look that was begun at that moment did not show a device's action. Without a moment it is
    /// one that shows only a part: it counts, and proves nothing.
    fn looked_in_vain(&mut self, n: usize, began: Option<Moment>, now: Moment) {
        let turn = &mut self.turns[n];
        let until = |looks: usize| turn.since + LOOKS[looks.min(LOOKS.len() - 1)];
        // One that was on its way already does not count.
        if began.unwrap_or(now) >= until(turn.looks) {
            turn.looks += 1;
        }
        let is_proof = began.is_some_and(|began| began >= until(LOOKS.len() - 1));
        let looks = turn.looks;
        if self.entries[n].state == State::OutcomeUnknown && looks >= LOOKS.len() {
            if !is_proof {
                return self.leave(n);
            }
            // Nothing was created.
            let entry = &mut self.entries[n];
            entry.state = match entry.sends >= SENDS {
                true => State::Refused,
                false => State::Waiting,
            };
            return self.settle(n, now);
        }
        self.settle_quietly(n, now);
    }

    fn device_of(&self, action: &MachineAction) -> Option<usize> {
        let machine: MachineId = action.machine_id.as_deref()?.parse().ok()?;
        self.by_machine.get(&machine).copied()
    }
}

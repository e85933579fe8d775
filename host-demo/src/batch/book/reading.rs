//! What is read next, and what a reading says of the devices.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::fate::{ReadingFate, may_have_arrived, reading_fate};
use super::{BACKOFF, Book, LOOKS, News, SKEW};
use crate::batch::State;
use crate::clock::Moment;
use crate::contract::{ActionStatus, MachineAction, MachineActionFilter, Reason};
use crate::entry::ending;
use crate::host::CallError;
use crate::id::MachineId;
use crate::kind::Kind;

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

/// A reading of machine actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::batch) enum Read {
    /// Those of either kind that are under way, of all devices.
    Running,
    /// Those of either kind that were created since then.
    Since(Timestamp),
    /// Those of one device.
    Of(usize),
    /// These devices' known ones.
    Known(Vec<usize>),
}

impl Book {
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
        let wants_to_send = !self.queue.is_empty() && self.hopeless.is_none();
        if wants_to_send && self.wants_picture(now) {
            self.last.running = Some(now);
            return Some(Read::Running);
        }
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<usize> = due.map(|(_, n)| *n).collect();
        let is_free = |last: Option<Moment>, apart| last.is_none_or(|last| now >= last + apart);
        let unsure = due
            .iter()
            .filter(|n| self.entries[**n].state == State::Unsure);
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
            .filter(|n| self.entries[**n].state == State::Barred);
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
        if self.round.is_empty() {
            self.begin_round(&due, now);
        }
        self.round.pop_front().map(Read::Known)
    }

    /// Gathers the accepted ones that are due, and fills the last reading up with those that are
    /// due next.
    fn begin_round(&mut self, due: &[usize], now: Moment) {
        let is_accepted = |n: &usize| self.entries[*n].state == State::Accepted;
        if !due.iter().any(is_accepted) || self.round_may_begin() > Some(now) {
            return;
        }
        self.last.round = Some(now);
        let accepted = self.due.iter().filter(|(_, n)| is_accepted(n));
        let due = accepted
            .clone()
            .take_while(|(at, _)| *at <= now + SOON)
            .count();
        let count = due.div_ceil(IDS) * IDS;
        let all: Vec<usize> = accepted.take(count).map(|(_, n)| *n).collect();
        self.round = all.chunks(IDS).map(<[usize]>::to_vec).collect();
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
    pub(in crate::batch) fn filter(&self, read: &Read) -> MachineActionFilter {
        let both = Kind::ALL.map(Kind::action_type).to_vec();
        let everything = MachineActionFilter::everything();
        match read {
            Read::Running => MachineActionFilter {
                types: both,
                statuses: vec![ActionStatus::Pending, ActionStatus::InProgress],
                ..everything
            },
            Read::Since(time) => MachineActionFilter {
                types: both,
                created_since: Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
                ..everything
            },
            Read::Of(n) => MachineActionFilter {
                types: both,
                machine_id: Some(self.entries[*n].machine.to_string()),
                ..everything
            },
            Read::Known(devices) => {
                let action = |n: &usize| Some(self.entries[*n].action.as_ref()?.id.clone());
                MachineActionFilter {
                    ids: devices.iter().filter_map(action).collect(),
                    ..everything
                }
            }
        }
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
                    Read::Known(devices) => self.saw_known(devices, actions, now),
                }
            }
            Err(CallError::Stopped) => {}
            Err(error) => self.misread(error, now),
        }
    }

    fn saw_running(&mut self, actions: &[MachineAction], began: Moment, now: Moment) {
        let mut same = self.under_way(self.rules.kind, actions);
        let barred = self.due.iter().map(|(_, n)| *n);
        let barred = barred.filter(|n| self.entries[*n].state == State::Barred);
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
    fn under_way(&self, kind: Kind, actions: &[MachineAction]) -> HashMap<usize, MachineAction> {
        let of_kind = actions.iter().filter(|action| {
            Kind::of(&action.type_) == Some(kind) && ending(&action.status).is_none()
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
        let unsure = unsure.filter(|n| self.entries[*n].state == State::Unsure);
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
            .filter(|action| Kind::of(&action.type_) == Some(self.rules.kind))
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
        if self.entries[n].state != State::Barred {
            return;
        }
        let of_kind = actions
            .iter()
            .filter(|action| Kind::of(&action.type_) == Some(self.rules.kind))
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
            // Where it is not found, it is not visible yet.
            if let Some(action) = id.and_then(|id| found.get(id)) {
                let is_own = !self.entries[n].is_adopted;
                let before = self.entries[n].clone();
                self.entries[n].has(action, is_own);
                if self.entries[n] != before {
                    self.news.push(News::Changed(n));
                }
            }
            self.settle_quietly(n, now);
        }
    }

    fn misread(&mut self, error: &CallError, now: Moment) {
        self.misreads += 1;
        let pause = BACKOFF[0].saturating_mul(1 << self.misreads.min(10));
        self.read_after = Some(now + pause.min(BACKOFF[1]));
        self.round.clear();
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
            ReadingFate::Never => self.go_blind(error, now),
            ReadingFate::All => {
                self.give_up(error, now);
                self.go_blind(error, now);
            }
            ReadingFate::Later { is_away } => {
                let first = match is_away && !may_have_arrived(error) {
                    true => 1,
                    false => FIRST_MISREADS,
                };
                if !self.has_contact && self.misreads >= first {
                    self.give_up(error, now);
                    self.go_blind(error, now);
                } else if !is_away && self.misreads >= MISREADS {
                    self.go_blind(error, now);
                }
            }
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
        if self.entries[n].state == State::Unsure && looks >= LOOKS.len() {
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

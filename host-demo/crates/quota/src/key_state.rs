//! One key's log and the queue before it, as those who share them know them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sliding_log::NEVER;
use super::{GRACE, Log, NotUntil, Quota, Slot, Why};
use defender_core::clock::Moment;

/// How long those behind it wait for one that does not come when it could, before it counts as
/// dead.
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// A place in a key's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub(super) u64);

/// Who asks: one process, or one part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Drawn by lot, so that no two have the same.
    pub id: u64,
    /// For people: a user, a machine, a process.
    pub name: Arc<str>,
}

impl Holder {
    /// As a ledger keeps it.
    pub(super) fn short_name(&self) -> String {
        self.name.chars().take(100).collect()
    }
}

/// One caller's wish to make a call.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What it keeps to.
    pub quotas: Arc<[Quota]>,
    /// Who it is.
    pub holder: Holder,
    /// Its place, once it has one.
    pub ticket: Option<Ticket>,
    /// How long the call takes at most, from the moment it is admitted.
    pub call: Duration,
    /// How long it is ready to wait. Without it, as long as it takes.
    pub patience: Option<Duration>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The call may be made.
    Admitted {
        /// It counts from now on.
        slot: Slot,
        /// How many calls count in each quota's window, with this one.
        used: Vec<usize>,
    },
    /// Not yet.
    Wait {
        /// Its place in the queue.
        ticket: Ticket,
        /// How many are before it.
        ahead: usize,
        /// When it is worth asking again, unless something happens.
        free: NotUntil,
        /// Whether something can that only the ledger knows of: an answer to somebody else's call may
        /// free a slot sooner, another caller may leave the queue, or the operator open the key.
        may_be_sooner: bool,
    },
    /// Not within its patience, or never. It has no place any more.
    NotNow(NotUntil),
}

/// What a key's sharers have to know of a call, or of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// The call's answer came at that moment.
    Settled(Slot, Moment),
    /// The call was never sent, for certain.
    Cancelled(Slot),
    /// Somebody does not wait any more.
    Left(Ticket),
    /// The service takes no call before that moment.
    ClosedUntil(Moment),
}

/// One key's log and the queue before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    pub(super) log: Log,
    /// In the order they came.
    pub(super) waiting: VecDeque<(Ticket, u64)>,
    pub(super) next_ticket: u64,
    /// Those who have a slot or a place.
    pub(super) holders: BTreeMap<u64, Known>,
}

/// What is known of a holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) name: String,
    /// Its places hold until then, unless it asks again.
    pub(super) lease: Moment,
}

impl KeyState {
    /// The calls.
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Who has slots that are not settled: its name, how many, and the last moment at which one of
    /// them can still be counted by the service.
    pub fn holders(&self) -> Vec<(&str, usize, Moment)> {
        let mut all: Vec<(&str, usize, Moment)> = Vec::new();
        for (id, known) in &self.holders {
            let of_it = self.log.reserved.iter().filter(|r| r.holder == *id);
            if let Some(latest) = of_it.clone().map(|r| r.latest).max() {
                all.push((&known.name, of_it.count(), latest));
            }
        }
        all
    }

    /// Decides.
    pub fn ask(&mut self, ask: &Ask, now: Moment) -> Reply {
        self.forget_the_dead(now);
        let place = ask
            .ticket
            .and_then(|ticket| self.waiting.iter().position(|(t, _)| *t == ticket));
        let ahead = place.unwrap_or(self.waiting.len());
        // Where there is room for those before it too, it takes nothing from them.
        if self.log.has_room(&ask.quotas, ahead, now) {
            let latest = now + ask.call + GRACE;
            if let Ok(slot) = self.log.admit(&ask.quotas, now, latest, ask.holder.id) {
                if let Some(place) = place {
                    self.waiting.remove(place);
                }
                // Those behind it ask next.
                let waits = self.waiting.iter().any(|(_, who)| *who == ask.holder.id);
                self.know(&ask.holder, if waits { now + LEASE } else { now });
                let used = ask.quotas.iter().map(|q| self.log.used(*q, now)).collect();
                return Reply::Admitted { slot, used };
            }
        }
        let free = self.log.free(&ask.quotas, ahead);
        let is_too_late = |patience| free.at > now + patience;
        if free.at == NEVER || ask.patience.is_some_and(is_too_late) {
            if let Some(place) = place {
                self.waiting.remove(place);
            }
            return Reply::NotNow(free);
        }
        let ticket = match (place, ask.ticket) {
            (Some(_), Some(ticket)) => ticket,
            _ => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.waiting.push_back((ticket, ask.holder.id));
                ticket
            }
        };
        // It asks for the first of its places only, and is not heard of before that one can go on.
        let id = ask.holder.id;
        let first = self.waiting.iter().find(|(_, who)| *who == id);
        if first.is_some_and(|(first, _)| *first == ticket) {
            self.know(&ask.holder, free.at.max(now) + LEASE);
        }
        let others_wait = self.waiting.iter().take(ahead).any(|(_, who)| *who != id);
        Reply::Wait {
            ticket,
            ahead,
            free,
            may_be_sooner: others_wait
                || free.why != Why::Quota
                || self.log.others_in_flight(id, now),
        }
    }

    /// Takes note.
    pub fn tell(&mut self, news: Update) {
        match news {
            Update::Settled(slot, at) => self.log.settle(slot, at),
            Update::Cancelled(slot) => self.log.cancel(slot),
            Update::Left(ticket) => self.waiting.retain(|(t, _)| *t != ticket),
            Update::ClosedUntil(until) => self.log.close(until),
        }
    }

    /// Opens the key, because the operator overrules it.
    pub fn reopen(&mut self) {
        self.log.reopen();
    }

    fn know(&mut self, holder: &Holder, lease: Moment) {
        match self.holders.get_mut(&holder.id) {
            Some(known) => known.lease = lease,
            None => {
                let name = holder.short_name();
                self.holders.insert(holder.id, Known { name, lease });
            }
        }
    }

    /// Takes the places of those who did not come when they could, and forgets those who have
    /// nothing any more.
    fn forget_the_dead(&mut self, now: Moment) {
        if self.holders.values().all(|known| known.lease > now) {
            return;
        }
        let holders = &mut self.holders;
        let is_alive = |id: &u64| holders.get(id).is_some_and(|known| known.lease > now);
        self.waiting.retain(|(_, holder)| is_alive(holder));
        let reserved = &self.log.reserved;
        holders.retain(|id, known| known.lease > now || reserved.iter().any(|r| r.holder == *id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const KEPT: Duration = Duration::from_millis(60_060);

    fn at(seconds: u64) -> Moment {
        Moment::ORIGIN + Duration::from_secs(1_000_000 + seconds)
    }

    fn ask(holder: u64, ticket: Option<Ticket>) -> Ask {
        let quotas = [Quota {
            calls: 2,
            per: 60 * SECOND,
        }];
        Ask {
            quotas: quotas.into(),
            holder: Holder {
                id: holder,
                name: format!("holder {holder}").into(),
            },
            ticket,
            call: 30 * SECOND,
            patience: None,
        }
    }

    fn admitted(reply: &Reply) -> Slot {
        match reply {
            Reply::Admitted { slot, .. } => *slot,
            other => panic!("{other:?}"),
        }
    }

    fn place(reply: &Reply) -> (Ticket, usize, Moment) {
        match reply {
            Reply::Wait {
                ticket,
                ahead,
                free,
                ..
            } => (*ticket, *ahead, free.at),
            other => panic!("{other:?}"),
        }
    }

    /// Two calls, answered at once.
    fn full(seconds: [u64; 2]) -> KeyState {
        let mut budget = KeyState::default();
        for second in seconds {
            let slot = admitted(&budget.ask(&ask(0, None), at(second)));
            budget.tell(Update::Settled(slot, at(second)));
        }
        budget
    }

    #[test]
    fn those_who_wait_are_served_in_the_order_they_came_whoever_asks_first() {
        let mut budget = full([0, 10]);
        let (one, ahead, free) = place(&budget.ask(&ask(1, None), at(20)));
        assert_eq!((ahead, free), (0, at(0) + KEPT));
        let (two, ahead, free) = place(&budget.ask(&ask(2, None), at(21)));
        assert_eq!((ahead, free), (1, at(10) + KEPT));
        // The slot that is free is the first one's.
        let free = at(0) + KEPT;
        assert_eq!(place(&budget.ask(&ask(2, Some(two)), free)).1, 1);
        assert_eq!(place(&budget.ask(&ask(3, None), free)).1, 2);
        admitted(&budget.ask(&ask(1, Some(one)), free));
        assert_eq!(place(&budget.ask(&ask(2, Some(two)), free)).1, 0);
    }

    #[test]
    fn with_room_for_all_before_it_nobody_waits_for_them() {
        let mut budget = full([0, 0]);
        let (one, ..) = place(&budget.ask(&ask(1, None), at(20)));
        let (two, ..) = place(&budget.ask(&ask(2, None), at(20)));
        let both_free = at(0) + KEPT;
        admitted(&budget.ask(&ask(2, Some(two)), both_free));
        let late = budget.ask(&ask(3, None), both_free);
        assert_eq!(place(&late).1, 1, "the other slot is the first one's");
        admitted(&budget.ask(&ask(1, Some(one)), both_free));
    }

    #[test]
    fn a_place_is_lost_with_whoever_had_it() {
        let mut budget = full([0, 10]);
        place(&budget.ask(&ask(1, None), at(20)));
        let (two, ..) = place(&budget.ask(&ask(2, None), at(20)));
        let free = at(0) + KEPT;
        // The first does not come; the second one's lease goes on as long as it asks.
        assert_eq!(place(&budget.ask(&ask(2, Some(two)), free)).1, 1);
        admitted(&budget.ask(&ask(2, Some(two)), free + LEASE));
        assert_eq!(budget.waiting(), 0);
    }

    #[test]
    fn the_dead_hold_a_place_no_longer_however_many_they_had() {
        let mut budget = full([0, 10]);
        for _ in 0..8 {
            place(&budget.ask(&ask(1, None), at(20)));
        }
        let (other, ahead, _) = place(&budget.ask(&ask(2, None), at(20)));
        assert_eq!(ahead, 8);
        // The first of the eight could go on, and does not come.
        let dead = at(0) + KEPT + LEASE;
        admitted(&budget.ask(&ask(2, Some(other)), dead));
        assert_eq!(budget.waiting(), 0);
    }

    #[test]
    fn whoever_leaves_holds_nobody_up_and_an_impatient_one_takes_no_place() {
        let mut budget = full([0, 10]);
        let (one, ..) = place(&budget.ask(&ask(1, None), at(20)));
        let hurried = Ask {
            patience: Some(SECOND),
            ..ask(2, None)
        };
        assert!(matches!(budget.ask(&hurried, at(20)), Reply::NotNow(_)));
        assert_eq!(budget.waiting(), 1);
        budget.tell(Update::Left(one));
        admitted(&budget.ask(&ask(3, None), at(0) + KEPT));
    }

    #[test]
    fn nobody_waits_for_what_will_never_be() {
        let nothing = Ask {
            quotas: [Quota {
                calls: 0,
                per: SECOND,
            }]
            .into(),
            ..ask(1, None)
        };
        let mut budget = KeyState::default();
        assert!(matches!(budget.ask(&nothing, at(0)), Reply::NotNow(_)));
        assert_eq!(budget.waiting(), 0);
    }

    #[test]
    fn one_who_comes_back_late_goes_to_the_end() {
        let mut budget = full([0, 10]);
        let (one, ..) = place(&budget.ask(&ask(1, None), at(20)));
        let (two, ..) = place(&budget.ask(&ask(2, None), at(20)));
        admitted(&budget.ask(&ask(2, Some(two)), at(66)));
        let (three, ..) = place(&budget.ask(&ask(3, None), at(66)));
        let (again, ahead, _) = place(&budget.ask(&ask(1, Some(one)), at(66)));
        assert!(again > three && ahead == 1);
    }

    #[test]
    fn it_is_known_who_has_slots_and_forgotten_who_has_none() {
        let mut budget = KeyState::default();
        let slot = admitted(&budget.ask(&ask(1, None), at(0)));
        admitted(&budget.ask(&ask(2, None), at(1)));
        let latest = |second| at(second) + 30 * SECOND + GRACE;
        let both = [("holder 1", 1, latest(0)), ("holder 2", 1, latest(1))];
        assert_eq!(budget.holders(), both);
        budget.tell(Update::Settled(slot, at(2)));
        assert_eq!(budget.holders(), both[1..]);
        // The dead one's slot counts, and then it is gone.
        let slot = admitted(&budget.ask(&ask(3, None), at(2) + KEPT));
        budget.tell(Update::Cancelled(slot));
        assert_eq!(budget.holders(), both[1..]);
        budget.ask(&ask(3, None), latest(1) + KEPT);
        budget.ask(&ask(3, None), latest(1) + KEPT);
        assert_eq!(budget.holders.keys().collect::<Vec<_>>(), [&3]);
    }
}

//! The decision: an exact sliding log, with the time given.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Moment;

/// So many calls in every window of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many calls.
    pub calls: u32,
    /// The window's length, as the service has it.
    pub per: Duration,
}

impl Quota {
    /// What Microsoft documents for this API and for reading machine actions ("Remove app
    /// restriction API", Limitations): 100 calls a minute and 1,500 calls an hour.
    pub const DOCUMENTED: [Self; 2] = [
        Self {
            calls: 100,
            per: Duration::from_secs(60),
        },
        Self {
            calls: 1500,
            per: Duration::from_secs(3600),
        },
    ];

    /// The window that is kept: longer than the service's by a thousandth, which is how far the two
    /// clocks may run apart.
    const fn kept(self) -> Duration {
        Duration::from_nanos(
            (self.per.as_nanos() as u64).saturating_add(self.per.as_nanos() as u64 / 1000),
        )
    }
}

/// No call can start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no call is left before a later moment")]
pub struct NotUntil {
    /// The first moment at which one can, if nothing else happens until then. It may come sooner:
    /// an answer or a cancelled call can free a slot before its time.
    pub at: Moment,
    /// Whether it is the service that said so (429), and not the count kept here.
    pub by_service: bool,
}

/// Names a slot that is reserved and not yet settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u64);

/// The calls of one key, as far back as the longest window.
///
/// A slot is in every window from the moment it is reserved, and leaves the log one window after
/// its *start*: the latest moment at which the service can have counted the call. That is when its
/// answer's head came ([`settle`](Self::settle)), or, as long as no answer has come, the `latest`
/// that it was reserved with. So if some window held one call too many at the service, then the
/// last of them was admitted while all the others were still in the log, which
/// [`admit`](Self::admit) does not do.
#[derive(Clone, Debug)]
pub struct Log {
    quotas: Vec<Quota>,
    /// Starts of the settled slots, in order: time does not go back.
    settled: VecDeque<Moment>,
    reserved: BTreeMap<Slot, Moment>,
    next: u64,
    closed_until: Moment,
}

impl Log {
    /// An empty log. Without quotas it admits everything; a quota of zero calls admits nothing,
    /// ever.
    pub const fn new(quotas: Vec<Quota>) -> Self {
        Self {
            quotas,
            settled: VecDeque::new(),
            reserved: BTreeMap::new(),
            next: 0,
            closed_until: Moment::ORIGIN,
        }
    }

    /// Reserves a slot for a call that the service will count at `latest` at the latest, or says
    /// from when on one can be had: a nanosecond before that it is refused, at that moment it is
    /// admitted.
    pub fn admit(&mut self, now: Moment, latest: Moment) -> Result<Slot, NotUntil> {
        self.forget(now);
        let mut at = self.closed_until;
        let mut by_service = true;
        for quota in &self.quotas {
            let free = self.free_at(*quota, now);
            if free > at {
                (at, by_service) = (free, false);
            }
        }
        if at > now {
            return Err(NotUntil { at, by_service });
        }
        let slot = Slot(self.next);
        self.next += 1;
        self.reserved.insert(slot, latest.max(now));
        Ok(slot)
    }

    /// The call's answer came: its slot's windows start now.
    pub fn settle(&mut self, slot: Slot, now: Moment) {
        if self.reserved.remove(&slot).is_some() {
            let start = self.settled.back().map_or(now, |last| now.max(*last));
            self.settled.push_back(start);
        }
    }

    /// The call was never sent, for certain: its slot was not used.
    pub fn cancel(&mut self, slot: Slot) {
        self.reserved.remove(&slot);
    }

    /// The service said that it takes no call before `until`.
    pub fn close(&mut self, until: Moment) {
        self.closed_until = self.closed_until.max(until);
    }

    /// How many calls count in the window of this quota that ends now.
    pub fn used(&self, quota: Quota, now: Moment) -> usize {
        self.settled.len() - self.gone(quota, now) + self.reserved_counting(quota, now).count()
    }

    /// Until when the service takes no call.
    pub const fn closed_until(&self) -> Moment {
        self.closed_until
    }

    /// How many of the settled slots have left the quota's window.
    fn gone(&self, quota: Quota, now: Moment) -> usize {
        self.settled
            .partition_point(|start| *start + quota.kept() <= now)
    }

    fn reserved_counting(&self, quota: Quota, now: Moment) -> impl Iterator<Item = Moment> {
        self.reserved
            .values()
            .copied()
            .filter(move |start| *start + quota.kept() > now)
    }

    /// The first moment at which the quota has room for one call more.
    fn free_at(&self, quota: Quota, now: Moment) -> Moment {
        let Some(allowed) = (quota.calls as usize).checked_sub(1) else {
            return Moment::from_nanos(u64::MAX);
        };
        let used = self.used(quota, now);
        // So many of the slots that count must go first, the earliest ones.
        let Some(excess) = used.checked_sub(allowed).filter(|n| *n > 0) else {
            return Moment::ORIGIN;
        };
        let settled = self.settled.range(self.gone(quota, now)..).copied();
        let mut starts: Vec<Moment> = settled.chain(self.reserved_counting(quota, now)).collect();
        let (_, last_to_go, _) = starts.select_nth_unstable(excess - 1);
        *last_to_go + quota.kept()
    }

    /// Drops what no window can reach any more.
    fn forget(&mut self, now: Moment) {
        let Some(longest) = self.quotas.iter().map(|q| q.kept()).max() else {
            self.settled.clear();
            return;
        };
        while self
            .settled
            .front()
            .is_some_and(|start| *start + longest <= now)
        {
            self.settled.pop_front();
        }
        self.reserved.retain(|_, start| *start + longest > now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TICK: Duration = Duration::from_nanos(1);

    fn at(seconds: u64) -> Moment {
        Moment::ORIGIN + Duration::from_secs(1_000_000 + seconds)
    }

    fn minute(calls: u32) -> Quota {
        Quota {
            calls,
            per: 60 * SECOND,
        }
    }

    /// A call that is answered at once.
    fn call(log: &mut Log, now: Moment) -> Result<(), NotUntil> {
        let slot = log.admit(now, now + 60 * SECOND)?;
        log.settle(slot, now);
        Ok(())
    }

    #[test]
    fn the_101st_call_waits_for_the_first_to_leave_the_window() {
        let mut log = Log::new(Quota::DOCUMENTED.to_vec());
        for n in 0..100 {
            call(&mut log, at(0) + TICK * n).unwrap();
        }
        let refused = call(&mut log, at(1)).unwrap_err();
        assert_eq!(
            refused,
            NotUntil {
                at: at(0) + SECOND * 60 + SECOND * 60 / 1000,
                by_service: false
            }
        );
        let just_before = Moment::from_nanos(refused.at.as_nanos() - 1);
        assert_eq!(call(&mut log, just_before), Err(refused));
        assert_eq!(call(&mut log, refused.at), Ok(()));
        // The second of the hundred left a nanosecond later.
        assert_eq!(
            call(&mut log, refused.at).unwrap_err().at,
            refused.at + TICK
        );
    }

    #[test]
    fn the_hour_binds_after_fifteen_full_minutes() {
        let mut log = Log::new(Quota::DOCUMENTED.to_vec());
        let mut now = at(0);
        for _ in 0..1500 {
            if let Err(wait) = call(&mut log, now) {
                now = wait.at;
                call(&mut log, now).unwrap();
            }
        }
        assert_eq!(
            now.since(at(0)).as_secs(),
            14 * 60,
            "14 waits of a minute and a little"
        );
        let refused = call(&mut log, now + 61 * SECOND).unwrap_err();
        assert_eq!(refused.at, at(0) + Duration::from_millis(3_603_600));
    }

    #[test]
    fn a_call_without_an_answer_counts_from_the_latest_moment_it_can_have_been_counted() {
        let mut log = Log::new(vec![minute(1)]);
        log.admit(at(0), at(60)).unwrap();
        let refused = log.admit(at(1), at(61)).unwrap_err();
        assert_eq!(refused.at, at(60) + Duration::from_millis(60_060));
    }

    #[test]
    fn an_answer_frees_the_slot_sooner_and_a_cancelled_call_at_once() {
        let mut log = Log::new(vec![minute(1)]);
        let slot = log.admit(at(0), at(60)).unwrap();
        log.settle(slot, at(2));
        assert_eq!(
            log.admit(at(3), at(63)).unwrap_err().at,
            at(2) + Duration::from_millis(60_060)
        );

        let mut log = Log::new(vec![minute(1)]);
        let slot = log.admit(at(0), at(60)).unwrap();
        log.cancel(slot);
        assert!(log.admit(at(0), at(60)).is_ok());
        // Settling what was cancelled changes nothing.
        log.settle(slot, at(0));
        assert_eq!(log.used(minute(1), at(0)), 1);
    }

    #[test]
    fn a_429_closes_the_key_for_everyone_until_the_moment_it_named() {
        let mut log = Log::new(vec![minute(100)]);
        log.close(at(30));
        log.close(at(10));
        assert_eq!(
            log.admit(at(0), at(60)),
            Err(NotUntil {
                at: at(30),
                by_service: true
            })
        );
        assert!(log.admit(at(30), at(60)).is_ok());
    }

    #[test]
    fn a_quota_of_zero_admits_nothing_and_no_quota_admits_everything() {
        let never = Moment::from_nanos(u64::MAX);
        let mut none = Log::new(vec![minute(0)]);
        assert_eq!(
            none.admit(at(0), at(60)),
            Err(NotUntil {
                at: never,
                by_service: false
            })
        );
        let mut all = Log::new(Vec::new());
        assert!((0..10_000).all(|_| call(&mut all, at(0)).is_ok()));
    }

    #[test]
    fn a_clock_that_steps_back_frees_nothing() {
        let mut log = Log::new(vec![minute(1)]);
        call(&mut log, at(100)).unwrap();
        assert!(call(&mut log, at(0)).is_err());
    }

    #[derive(Clone, Debug)]
    struct Call {
        /// Between the end of the one before and this one's wish to start, in milliseconds.
        pause: u64,
        /// From its start to the moment at which the service counts it, in thousandths of the
        /// answer's time.
        counted: u64,
        /// From its start to its answer, or its death without one.
        takes: u64,
        fate: Fate,
    }

    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Answered,
        Lost,
        NeverSent,
    }

    fn calls() -> impl Strategy<Value = Vec<Call>> {
        let fate = prop_oneof![
            6 => Just(Fate::Answered),
            1 => Just(Fate::Lost),
            1 => Just(Fate::NeverSent),
        ];
        let call = (0..3_000_u64, 0..=1000_u64, 0..4_000_u64, fate).prop_map(
            |(pause, counted, takes, fate)| Call {
                pause,
                counted,
                takes,
                fate,
            },
        );
        proptest::collection::vec(call, 1..120)
    }

    proptest! {
        /// The oracle is brute force: what the service counted, in every window that begins with a
        /// call.
        #[test]
        fn in_no_window_does_the_service_count_more_than_the_quota(calls in calls(), small in 1..4_u32, large in 3..9_u32) {
            let quotas = [Quota { calls: small, per: 5 * SECOND }, Quota { calls: large, per: 20 * SECOND }];
            let deadline = Duration::from_millis(4_000);
            let mut log = Log::new(quotas.to_vec());
            let mut counted: Vec<Moment> = Vec::new();
            // (when it ends, its slot, its fate): calls overlap.
            let mut running: Vec<(Moment, Slot, Fate)> = Vec::new();
            let mut now = at(0);
            for call in calls {
                now = now + Duration::from_millis(call.pause);
                let slot = loop {
                    running.sort_by_key(|(end, ..)| *end);
                    while let Some((end, slot, fate)) = running.first().copied().filter(|(end, ..)| *end <= now) {
                        running.remove(0);
                        match fate {
                            Fate::Answered => log.settle(slot, end),
                            Fate::Lost => {}
                            Fate::NeverSent => log.cancel(slot),
                        }
                    }
                    match log.admit(now, now + deadline) {
                        Ok(slot) => break slot,
                        Err(wait) => {
                            prop_assert!(wait.at > now);
                            let mut early = log.clone();
                            prop_assert!(early.admit(Moment::from_nanos(wait.at.as_nanos() - 1), wait.at + deadline).is_err());
                            prop_assert!(log.clone().admit(wait.at, wait.at + deadline).is_ok());
                            // Whatever comes first: the moment named, or a running call's end.
                            now = running.first().map_or(wait.at, |(end, ..)| wait.at.min(*end));
                        }
                    }
                };
                let takes = Duration::from_millis(call.takes);
                if !matches!(call.fate, Fate::NeverSent) {
                    let latest = if matches!(call.fate, Fate::Lost) { deadline } else { takes };
                    counted.push(now + latest * u32::try_from(call.counted).unwrap() / 1000);
                }
                running.push((now + takes, slot, call.fate));
            }
            counted.sort();
            for quota in quotas {
                for first in &counted {
                    let in_window = counted.iter().filter(|c| *c >= first && c.since(*first) < quota.per).count();
                    prop_assert!(in_window <= quota.calls as usize, "{in_window} in the window from {first:?} of {quota:?}");
                }
            }
        }
    }
}

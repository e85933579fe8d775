//! The decision: an exact sliding log, with the time given.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use defender_core::clock::Moment;

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
    pub(super) const fn kept(self) -> Duration {
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
    /// What stands in the way longest.
    pub why: Why,
}

/// When a quota of no calls has room.
pub(super) const NEVER: Moment = Moment::from_nanos(u64::MAX);

/// Why a key takes no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The count that is kept here.
    Quota,
    /// The service said so, with a 429.
    Service,
    /// What was counted is lost, so all of it is taken for used.
    Lost,
}

/// Names a slot that is reserved and not yet settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub(super) u64);

/// A slot that is reserved and not yet settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reserved {
    pub(super) slot: Slot,
    /// The latest moment at which the service can count the call.
    pub(super) latest: Moment,
    /// Who has it.
    pub(super) holder: u64,
}

/// The calls of one key, as far back as the longest window.
///
/// A slot is in every window from the moment it is reserved, and leaves the log one window after
/// its *start*: the latest moment at which the service can have counted the call. That is when its
/// answer's head came ([`settle`](Self::settle)), or, as long as no answer has come, the `latest`
/// that it was reserved with. So if some window held one call too many at the service, then the
/// last of them was admitted while all the others were still in the log, which
/// [`admit`](Self::admit) does not do.
///
/// The quotas are not in it but come with each question: those who share a log may have been
/// configured differently. Each keeps its own quotas, over the calls of all that are remembered:
/// those of the longest window, and of the most calls, that anybody has asked about. Whoever comes
/// later with a longer window begins it with these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Starts of the settled slots, in order.
    pub(super) settled: VecDeque<Moment>,
    /// By their `latest`. Few: what is in flight, and what was in flight where somebody died.
    pub(super) reserved: Vec<Reserved>,
    /// The next slot's number.
    pub(super) next: u64,
    /// The service takes no call before.
    pub(super) closed_until: Moment,
    /// Until then there may be calls that are not in the log.
    pub(super) lost_until: Moment,
    /// The most calls and the longest window that anybody asked about: how much to remember.
    pub(super) most: u32,
    pub(super) longest: Duration,
}

impl Log {
    /// Reserves a slot for a call that the service will count at `latest` at the latest, or says
    /// from when on one can be had: a nanosecond before that it is refused, at that moment it is
    /// admitted.
    ///
    /// Without quotas everything is admitted; a quota of zero calls admits nothing, ever.
    pub fn admit(
        &mut self,
        quotas: &[Quota],
        now: Moment,
        latest: Moment,
        holder: u64,
    ) -> Result<Slot, NotUntil> {
        self.forget(quotas, now);
        let free = self.free(quotas, 0);
        if free.at > now {
            return Err(free);
        }
        let slot = Slot(self.next);
        self.next += 1;
        let latest = latest.max(now);
        let at = self.reserved.partition_point(|r| r.latest <= latest);
        let reserved = Reserved {
            slot,
            latest,
            holder,
        };
        self.reserved.insert(at, reserved);
        Ok(slot)
    }

    /// When one more call can start, with so many others before it. Exact for the next one; for
    /// others no later than it will be, as nobody knows yet when the calls before them will count.
    pub fn free(&self, quotas: &[Quota], others: usize) -> NotUntil {
        let free = |quota: &Quota| NotUntil {
            at: self.free_at(*quota, others),
            why: Why::Quota,
        };
        let closed = [
            (self.lost_until, Why::Lost),
            (self.closed_until, Why::Service),
        ];
        let closed = closed.map(|(at, why)| NotUntil { at, why });
        quotas
            .iter()
            .map(free)
            .chain(closed)
            .max_by_key(|not_until| not_until.at)
            .unwrap_or(closed[0])
    }

    /// Whether there is room for one call more than `others` now.
    pub fn has_room(&self, quotas: &[Quota], others: usize, now: Moment) -> bool {
        quotas.iter().all(|quota| others < quota.calls as usize)
            && self.free(quotas, others).at <= now
    }

    /// The call's answer came: its slot's windows start at that moment.
    pub fn settle(&mut self, slot: Slot, at: Moment) {
        if self.take(slot) {
            let index = match self.settled.back() {
                Some(last) if *last > at => self.settled.partition_point(|start| *start <= at),
                _ => self.settled.len(),
            };
            self.settled.insert(index, at);
        }
    }

    /// The call was never sent, for certain: its slot was not used.
    pub fn cancel(&mut self, slot: Slot) {
        self.take(slot);
    }

    fn take(&mut self, slot: Slot) -> bool {
        let found = self.reserved.iter().position(|r| r.slot == slot);
        found.map(|at| self.reserved.remove(at)).is_some()
    }

    /// The service said that it takes no call before `until`.
    pub fn close(&mut self, until: Moment) {
        self.closed_until = self.closed_until.max(until);
    }

    /// There may be calls that the log does not have, so it admits none before `until`.
    pub fn close_for_loss(&mut self, until: Moment) {
        self.lost_until = self.lost_until.max(until);
    }

    /// The operator opens it: there are no such calls, and the service takes calls again.
    pub fn reopen(&mut self) {
        self.lost_until = Moment::ORIGIN;
        self.closed_until = Moment::ORIGIN;
    }

    /// How many calls count in the window of this quota that ends now.
    pub fn used(&self, quota: Quota, now: Moment) -> usize {
        let counts = |start: Moment| start + quota.kept() > now;
        let gone = self.settled.partition_point(|start| !counts(*start));
        let reserved = self.reserved.iter().filter(|r| counts(r.latest)).count();
        self.settled.len() - gone + reserved
    }

    /// Until when the service takes no call.
    pub const fn closed_until(&self) -> Moment {
        self.closed_until
    }

    /// Until when the log may lack calls.
    pub const fn lost_until(&self) -> Moment {
        self.lost_until
    }

    /// How many slots are reserved and not settled.
    pub const fn in_flight(&self) -> usize {
        self.reserved.len()
    }

    /// Whether a call of somebody else's can still be answered.
    pub(super) fn others_in_flight(&self, holder: u64, now: Moment) -> bool {
        let mut others = self.reserved.iter().filter(|r| r.holder != holder);
        others.any(|r| r.latest > now)
    }

    /// When the last of `calls` calls could be answered, the first of them starting now, if each
    /// takes `answer` and nobody else calls.
    ///
    /// As many run at a time as the quotas allow. Plays the calls out, each by
    /// [`admit`](Self::admit). `None` where there will never be room for all of them.
    pub fn forecast(
        &self,
        quotas: &[Quota],
        now: Moment,
        calls: usize,
        answer: Duration,
    ) -> Option<Moment> {
        let mut log = self.clone();
        let mut running: VecDeque<(Moment, Slot)> = VecDeque::new();
        let (mut now, mut end) = (now, now);
        for _ in 0..calls {
            loop {
                while let Some((at, slot)) = running.pop_front_if(|(end, _)| *end <= now) {
                    log.settle(slot, at);
                }
                match log.admit(quotas, now, now + answer, 0) {
                    Ok(slot) => {
                        end = now + answer;
                        running.push_back((end, slot));
                        break;
                    }
                    Err(wait) if wait.at == NEVER => return None,
                    Err(wait) => {
                        now = running
                            .front()
                            .map_or(wait.at, |(end, _)| wait.at.min(*end))
                    }
                }
            }
        }
        Some(end)
    }

    /// The longest of the windows that are kept.
    pub(super) fn longest(quotas: &[Quota]) -> Duration {
        let kept = quotas.iter().map(|quota| quota.kept());
        kept.max().unwrap_or_default()
    }

    /// The first moment at which the quota has room for one call more than `others`.
    fn free_at(&self, quota: Quota, others: usize) -> Moment {
        let calls = quota.calls as usize;
        if calls == 0 {
            return NEVER;
        }
        // Once the k-th newest slot has left the window, there are k - 1 in it.
        let k = calls.saturating_sub(others).max(1);
        self.newest(k)
            .map_or(Moment::ORIGIN, |start| start + quota.kept())
    }

    /// The k-th newest start of settled and reserved slots together, `k` from 1 on.
    ///
    /// Of two lists in order, that is the greatest of min(i-th of the one, j-th of the other) for
    /// all i + j = k.
    fn newest(&self, k: usize) -> Option<Moment> {
        let settled = |i| match i {
            0 => Some(Moment::from_nanos(u64::MAX)),
            _ => self.settled.len().checked_sub(i).map(|at| self.settled[at]),
        };
        let reserved = |j| match j {
            0 => Moment::from_nanos(u64::MAX),
            _ => self.reserved[self.reserved.len() - j].latest,
        };
        (0..=k.min(self.reserved.len()))
            .filter_map(|j| Some(settled(k - j)?.min(reserved(j))))
            .max()
    }

    /// Drops what no window can reach any more.
    fn forget(&mut self, quotas: &[Quota], now: Moment) {
        let most = quotas.iter().map(|quota| quota.calls).max();
        self.most = self.most.max(most.unwrap_or_default());
        self.longest = self.longest.max(Self::longest(quotas));
        let longest = self.longest;
        while self
            .settled
            .pop_front_if(|start| *start + longest <= now)
            .is_some()
        {}
        while self.settled.len() > self.most as usize {
            self.settled.pop_front();
        }
        self.reserved.retain(|r| r.latest + longest > now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TICK: Duration = Duration::from_nanos(1);
    /// Half a minute that a call may take, and half a minute of grace.
    const HOLD: Duration = Duration::from_secs(60);
    /// A minute, as it is kept.
    const KEPT: Duration = Duration::from_millis(60_060);

    fn at(seconds: u64) -> Moment {
        Moment::ORIGIN + Duration::from_secs(1_000_000 + seconds)
    }

    fn minute(calls: u32) -> [Quota; 1] {
        let per = 60 * SECOND;
        [Quota { calls, per }]
    }

    fn quota(at: Moment) -> NotUntil {
        let why = Why::Quota;
        NotUntil { at, why }
    }

    fn admit(log: &mut Log, quotas: &[Quota], now: Moment) -> Result<Slot, NotUntil> {
        log.admit(quotas, now, now + HOLD, 0)
    }

    /// A call that is answered at once.
    fn call(log: &mut Log, quotas: &[Quota], now: Moment) -> Result<(), NotUntil> {
        let slot = admit(log, quotas, now)?;
        log.settle(slot, now);
        Ok(())
    }

    #[test]
    fn the_101st_call_waits_for_the_first_to_leave_the_window() {
        let (mut log, quotas) = (Log::default(), Quota::DOCUMENTED);
        for n in 0..100 {
            call(&mut log, &quotas, at(0) + TICK * n).unwrap();
        }
        let refused = call(&mut log, &quotas, at(1)).unwrap_err();
        assert_eq!(refused, quota(at(0) + KEPT));
        let just_before = Moment::from_nanos(refused.at.as_nanos() - 1);
        assert_eq!(call(&mut log, &quotas, just_before), Err(refused));
        assert_eq!(call(&mut log, &quotas, refused.at), Ok(()));
        // The second of the hundred left a nanosecond later.
        let next = call(&mut log, &quotas, refused.at).unwrap_err();
        assert_eq!(next.at, refused.at + TICK);
    }

    #[test]
    fn the_hour_binds_after_fifteen_full_minutes() {
        let (mut log, quotas) = (Log::default(), Quota::DOCUMENTED);
        let mut now = at(0);
        for _ in 0..1500 {
            if let Err(wait) = call(&mut log, &quotas, now) {
                now = wait.at;
                call(&mut log, &quotas, now).unwrap();
            }
        }
        let waits = now.since(at(0)).as_secs();
        assert_eq!(waits, 14 * 60, "14 waits of a minute and a little");
        let refused = call(&mut log, &quotas, now + 61 * SECOND).unwrap_err();
        assert_eq!(refused.at, at(0) + Duration::from_millis(3_603_600));
    }

    #[test]
    fn a_full_log_is_packed_in_twelve_kilobytes() {
        let (mut log, quotas) = (Log::default(), Quota::DOCUMENTED);
        let mut now = at(100_000_000);
        for _ in 0..3000 {
            while let Err(wait) = call(&mut log, &quotas, now) {
                now = wait.at;
            }
        }
        assert_eq!(log.settled.len(), 1500);
        let packed = postcard::to_allocvec(&log).unwrap();
        assert!(packed.len() < 16 * 1024, "{} bytes", packed.len());
        assert_eq!(postcard::from_bytes(&packed), Ok(log));
    }

    #[test]
    fn a_call_without_an_answer_counts_from_the_latest_moment_it_can_have_been_counted() {
        let (mut log, quotas) = (Log::default(), minute(1));
        log.admit(&quotas, at(0), at(60), 0).unwrap();
        let refused = admit(&mut log, &quotas, at(1)).unwrap_err();
        assert_eq!(refused, quota(at(60) + KEPT));
    }

    #[test]
    fn an_answer_frees_the_slot_sooner_and_a_cancelled_call_at_once() {
        let quotas = minute(1);
        let mut log = Log::default();
        let slot = admit(&mut log, &quotas, at(0)).unwrap();
        log.settle(slot, at(2));
        let refused = admit(&mut log, &quotas, at(3)).unwrap_err();
        assert_eq!(refused, quota(at(2) + KEPT));

        let mut log = Log::default();
        let slot = admit(&mut log, &quotas, at(0)).unwrap();
        log.cancel(slot);
        assert!(admit(&mut log, &quotas, at(0)).is_ok());
        // Settling what was cancelled changes nothing.
        log.settle(slot, at(0));
        assert_eq!(log.used(quotas[0], at(0)), 1);
    }

    #[test]
    fn a_429_closes_the_key_for_everyone_until_the_moment_it_named() {
        let (mut log, quotas) = (Log::default(), minute(100));
        log.close(at(30));
        log.close(at(10));
        let (at_30, why) = (at(30), Why::Service);
        let closed = NotUntil { at: at_30, why };
        assert_eq!(admit(&mut log, &quotas, at(0)), Err(closed));
        assert!(admit(&mut log, &quotas, at(30)).is_ok());
    }

    #[test]
    fn a_loss_and_a_429_close_the_key_until_somebody_knows_better() {
        let (mut log, quotas) = (Log::default(), minute(100));
        log.close_for_loss(at(3600));
        log.close(at(10));
        let refused = admit(&mut log, &quotas, at(0)).unwrap_err();
        assert_eq!((refused.at, refused.why), (at(3600), Why::Lost));
        log.reopen();
        assert!(admit(&mut log, &quotas, at(0)).is_ok());
        log.close(at(20));
        let refused = admit(&mut log, &quotas, at(0)).unwrap_err();
        assert_eq!((refused.at, refused.why), (at(20), Why::Service));
    }

    #[test]
    fn a_quota_of_zero_admits_nothing_and_no_quota_admits_everything() {
        let never = quota(Moment::from_nanos(u64::MAX));
        let mut log = Log::default();
        assert_eq!(admit(&mut log, &minute(0), at(0)), Err(never));
        assert_eq!(log.forecast(&minute(0), at(0), 1, SECOND), None);
        assert!((0..10_000).all(|_| call(&mut log, &[], at(0)).is_ok()));
    }

    #[test]
    fn a_clock_that_steps_back_frees_nothing() {
        let (mut log, quotas) = (Log::default(), minute(1));
        call(&mut log, &quotas, at(100)).unwrap();
        assert!(call(&mut log, &quotas, at(0)).is_err());
    }

    #[test]
    fn whoever_keeps_to_less_takes_nothing_from_the_memory_of_others() {
        let (mut log, large, small) = (Log::default(), minute(5), minute(2));
        for _ in 0..5 {
            call(&mut log, &large, at(0)).unwrap();
        }
        let second = [Quota {
            calls: 1,
            per: SECOND,
        }];
        assert!(call(&mut log, &small, at(1)).is_err());
        // Its own window is short, and so is its number.
        call(&mut log, &second, at(2)).unwrap();
        let refused = call(&mut log, &large, at(3)).unwrap_err();
        assert_eq!(refused, quota(at(0) + KEPT));
    }

    #[test]
    fn room_for_one_is_no_room_for_one_behind_others() {
        let (mut log, quotas) = (Log::default(), minute(3));
        call(&mut log, &quotas, at(0)).unwrap();
        call(&mut log, &quotas, at(10)).unwrap();
        for (others, room) in [(0, true), (1, false), (2, false), (3, false)] {
            assert_eq!(log.has_room(&quotas, others, at(20)), room, "{others}");
        }
        assert_eq!(log.free(&quotas, 1), quota(at(0) + KEPT));
        assert_eq!(log.free(&quotas, 2), quota(at(10) + KEPT));
        // The fourth has to wait for one of the others, of which nobody knows.
        assert_eq!(log.free(&quotas, 3), quota(at(10) + KEPT));
        assert!(!log.has_room(&quotas, 3, at(1000)));
    }

    #[test]
    fn a_forecast_is_what_then_happens() {
        let (log, quotas) = (Log::default(), Quota::DOCUMENTED);
        let answer = Duration::from_millis(200);
        let forecast = |log: &Log, calls| log.forecast(&quotas, at(0), calls, answer).unwrap();
        assert_eq!(forecast(&log, 0), at(0));
        assert_eq!(forecast(&log, 100), at(0) + answer);
        assert_eq!(forecast(&log, 101), at(0) + answer + KEPT + answer);
        let fifteenth = at(0) + (answer + KEPT) * 14 + answer;
        assert_eq!(forecast(&log, 1500), fifteenth);
        let hour = Duration::from_millis(3_603_600);
        assert_eq!(forecast(&log, 1501), at(0) + answer + hour + answer);
        // What was used before counts.
        let mut used = log.clone();
        for _ in 0..60 {
            call(&mut used, &quotas, at(0)).unwrap();
        }
        assert_eq!(forecast(&used, 40), at(0) + answer);
        assert_eq!(forecast(&used, 41), at(0) + KEPT + answer);
    }

    proptest! {
        /// The oracle sorts.
        #[test]
        fn the_newest_are_found_among_settled_and_reserved(
            settled in proptest::collection::vec(0..50_u64, 0..20),
            reserved in proptest::collection::vec(0..50_u64, 0..20),
        ) {
            let mut log = Log::default();
            let (far, never) = ([Quota { calls: 1000, per: 10_000 * SECOND }], at(0));
            for start in &settled {
                let slot = log.admit(&far, never, never, 0).unwrap();
                log.settle(slot, at(*start));
            }
            for latest in &reserved {
                log.admit(&far, never, at(*latest), 0).unwrap();
            }
            let mut all: Vec<u64> = settled.iter().chain(&reserved).copied().collect();
            all.sort_unstable_by(|one, other| other.cmp(one));
            for k in 1..=all.len() + 2 {
                prop_assert_eq!(log.newest(k), all.get(k - 1).map(|start| at(*start)));
            }
        }
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
            let mut log = Log::default();
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
                    match log.admit(&quotas, now, now + deadline, 0) {
                        Ok(slot) => break slot,
                        Err(wait) => {
                            prop_assert!(wait.at > now);
                            let mut early = log.clone();
                            prop_assert!(early.admit(&quotas, Moment::from_nanos(wait.at.as_nanos() - 1), wait.at + deadline, 0).is_err());
                            prop_assert!(log.clone().admit(&quotas, wait.at, wait.at + deadline, 0).is_ok());
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

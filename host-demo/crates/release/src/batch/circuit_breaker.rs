//! When to stop sending for a while: too much of what was sent lately went wrong.
//!
//! Pure. Whatever is wrong, a mistaken list or a service in trouble, sending on would spend the quota
//! for nothing. After a pause one is sent to see; as soon as one goes well, all go on.

use std::collections::VecDeque;
use std::time::Duration;

use defender_core::clock::Moment;

/// So many of the last answers are looked at.
const LAST: usize = 20;

/// And so many of them must have gone wrong, whatever the share.
const AT_LEAST: usize = 10;

/// The first pause. Each that follows is twice as long.
const PAUSE: Duration = Duration::from_secs(60);

/// The longest, where the service answers, and where it can't be reached: it may be a network that
/// was away for a moment.
const LONGEST: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(60)];

/// How an answer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    Well,
    Wrong,
    /// Nothing answered.
    Nowhere,
}

/// Decides whether to go on.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    /// From which share of wrong answers on it pauses, in per cent; above 100 never.
    above: u8,
    last: VecDeque<Went>,
    pauses: u32,
    until: Option<Moment>,
}

impl Breaker {
    pub(super) const fn new(above: u8) -> Self {
        Self {
            above,
            last: VecDeque::new(),
            pauses: 0,
            until: None,
        }
    }

    /// How many may be under way at one time, of so many that could be.
    pub(super) fn at_once(&self, now: Moment, of: usize) -> usize {
        match self.until {
            Some(until) if now < until => 0,
            Some(_) => 1,
            None => of,
        }
    }

    /// Until when nothing is sent.
    pub(super) const fn until(&self) -> Option<Moment> {
        self.until
    }

    /// Takes notice of an answer. Returns until when it pauses, if that is new, and how many of how
    /// many went wrong.
    pub(super) fn note(&mut self, went: Went, now: Moment) -> Option<(Moment, usize, usize)> {
        if went == Went::Well {
            if self.until.is_some_and(|until| now >= until) {
                self.last.clear();
                (self.pauses, self.until) = (0, None);
            }
            self.push(went);
            return None;
        }
        self.push(went);
        let wrong = self.last.iter().filter(|went| **went != Went::Well).count();
        let of = self.last.len();
        // What was under way as it began to pause is no news.
        if self.until.is_some_and(|until| now < until)
            || wrong < AT_LEAST
            || wrong * 100 <= usize::from(self.above) * of
        {
            return None;
        }
        let longest = LONGEST[usize::from(went == Went::Nowhere)];
        let pause = PAUSE.saturating_mul(1 << self.pauses.min(10)).min(longest);
        self.pauses += 1;
        let until = now + pause;
        self.until = Some(until);
        Some((until, wrong, of))
    }

    fn push(&mut self, went: Went) {
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(went);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::ORIGIN + Duration::from_secs(seconds)
    }

    #[test]
    fn it_pauses_where_more_than_the_share_went_wrong_and_not_before_ten_did() {
        let mut breaker = Breaker::new(50);
        for n in 0..9 {
            assert_eq!(breaker.note(Went::Wrong, at(n)), None);
        }
        assert_eq!(breaker.at_once(at(9), 8), 8);
        assert_eq!(breaker.note(Went::Wrong, at(9)), Some((at(69), 10, 10)));
        assert_eq!(breaker.at_once(at(68), 8), 0);
        assert_eq!(breaker.at_once(at(69), 8), 1, "one, to see");
    }

    #[test]
    fn as_many_well_as_wrong_is_no_reason_to_pause() {
        let mut breaker = Breaker::new(50);
        for n in 0..100 {
            assert_eq!(breaker.note(Went::Well, at(n)), None);
            assert_eq!(breaker.note(Went::Wrong, at(n)), None);
        }
        let mut at_all = Breaker::new(100);
        for n in 0..100 {
            assert_eq!(at_all.note(Went::Wrong, at(n)), None);
        }
    }

    #[test]
    fn pauses_grow_until_one_goes_well() {
        let mut breaker = Breaker::new(50);
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert_eq!(breaker.note(Went::Wrong, at(now)), None);
        }
        for _ in 0..6 {
            let (until, ..) = breaker.note(Went::Wrong, at(now)).unwrap();
            // Those that were under way meanwhile say nothing new.
            assert_eq!(breaker.note(Went::Wrong, at(now)), None);
            pauses.push(until.since(at(now)).as_secs());
            now += until.since(at(now)).as_secs();
        }
        assert_eq!(pauses, [60, 120, 240, 480, 600, 600]);
        assert_eq!(breaker.note(Went::Well, at(now)), None);
        assert_eq!(breaker.at_once(at(now), 8), 8);
    }

    #[test]
    fn a_network_that_is_away_is_tried_again_each_minute() {
        let mut breaker = Breaker::new(50);
        for _ in 0..9 {
            assert_eq!(breaker.note(Went::Nowhere, at(0)), None);
        }
        assert_eq!(breaker.note(Went::Nowhere, at(0)), Some((at(60), 10, 10)));
        assert_eq!(breaker.note(Went::Nowhere, at(60)), Some((at(120), 11, 11)));
    }
}

//! How many calls the service takes: its own exact count, per endpoint, tenant and application.
//!
//! A real 429 names the key, "Destination+TenantID+AppID". The service decides by this count;
//! clients are judged by another one, in [`super::request_log`].

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::request_log::Key;
use super::switches::{Switches, Window};
use defender_core::clock::Moment;

/// A call was one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub(super) limit: u32,
    pub(super) window: Duration,
    /// Until a call would be taken, if none came before.
    pub(super) wait: Duration,
}

pub(super) struct Quotas {
    rules: Vec<(u32, Duration)>,
    window: Window,
    rejected_calls_count: bool,
    keys: HashMap<Key, Vec<Count>>,
}

impl Quotas {
    pub(super) fn new(switches: &Switches) -> Self {
        let minute = switches.per_minute.map(|n| (n, Duration::from_secs(60)));
        let hour = switches.per_hour.map(|n| (n, Duration::from_secs(3600)));
        Self {
            rules: minute.into_iter().chain(hour).collect(),
            window: switches.quota_window,
            rejected_calls_count: switches.rejected_calls_count,
            keys: HashMap::new(),
        }
    }

    /// Counts a call that arrives now. Where two quotas are used up, the longer wait is named.
    pub(super) fn arrive(&mut self, key: &Key, now: Moment) -> Result<(), Exceeded> {
        if self.rules.is_empty() {
            return Ok(());
        }
        let counts = self.keys.entry(key.clone()).or_insert_with(|| {
            self.rules
                .iter()
                .map(|&(limit, window)| Count::new(limit, window, self.window))
                .collect()
        });
        let exceeded = counts
            .iter()
            .filter_map(|count| count.exceeded(now))
            .max_by_key(|e| e.wait);
        if exceeded.is_none() || self.rejected_calls_count {
            counts.iter_mut().for_each(|count| count.add(now));
        }
        exceeded.map_or(Ok(()), Err)
    }
}

/// The calls of one key under one quota.
struct Count {
    limit: u32,
    window: Duration,
    calls: Calls,
}

enum Calls {
    /// The newest calls, at most as many as the limit: an older one cannot matter.
    Sliding(VecDeque<Moment>),
    Fixed {
        began: Moment,
        calls: u32,
    },
}

impl Count {
    fn new(limit: u32, window: Duration, kind: Window) -> Self {
        let calls = match kind {
            Window::Sliding => Calls::Sliding(VecDeque::new()),
            Window::Fixed => Calls::Fixed {
                began: Moment::ORIGIN,
                calls: 0,
            },
        };
        Self {
            limit,
            window,
            calls,
        }
    }

    fn exceeded(&self, now: Moment) -> Option<Exceeded> {
        let (oldest, calls) = match &self.calls {
            Calls::Sliding(newest) => (newest.front().copied(), newest.len()),
            Calls::Fixed { began, calls } => (Some(*began), *calls as usize),
        };
        if calls < self.limit as usize {
            return None;
        }
        // Windows are half-open: a call leaves at the very moment at which the window is over. A
        // limit of nothing has no oldest call, and no end.
        let wait = self
            .window
            .saturating_sub(oldest.map_or(Duration::ZERO, |m| now.since(m)));
        (!wait.is_zero()).then_some(Exceeded {
            limit: self.limit,
            window: self.window,
            wait,
        })
    }

    fn add(&mut self, now: Moment) {
        match &mut self.calls {
            Calls::Sliding(newest) => {
                newest.push_back(now);
                if newest.len() > self.limit as usize {
                    newest.pop_front();
                }
            }
            Calls::Fixed { began, calls } => {
                if *calls == 0 || now.since(*began) >= self.window {
                    (*began, *calls) = (now, 0);
                }
                *calls = calls.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Api;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key() -> Key {
        Key {
            api: Api::UnrestrictCodeExecution,
            tenant: None,
            app: None,
        }
    }

    fn quotas(switches: Switches) -> impl FnMut(u64) -> Result<(), Exceeded> {
        let mut quotas = Quotas::new(&switches);
        move |nanos| quotas.arrive(&key(), Moment::from_nanos(nanos))
    }

    #[test]
    fn the_101st_call_is_taken_at_the_nanosecond_at_which_the_first_leaves_the_window() {
        let mut arrive = quotas(Switches::default());
        for i in 0..100 {
            assert_eq!(arrive(i * SECOND / 2), Ok(()), "call {i}");
        }
        let refused = arrive(60 * SECOND - 1).unwrap_err();
        assert_eq!(refused.wait, Duration::from_nanos(1));
        assert_eq!(
            (refused.limit, refused.window),
            (100, Duration::from_secs(60))
        );
        assert_eq!(arrive(60 * SECOND), Ok(()));
        assert_eq!(
            arrive(60 * SECOND).unwrap_err().wait,
            Duration::from_millis(500)
        );
    }

    #[test]
    fn of_two_quotas_that_are_used_up_the_longer_wait_is_named() {
        let mut arrive = quotas(Switches::default());
        for i in 0..1500 {
            let minute = i / 100;
            assert_eq!(arrive(minute * 60 * SECOND), Ok(()), "call {i}");
        }
        let at = 14 * 60 * SECOND + 1;
        let refused = arrive(at).unwrap_err();
        assert_eq!(
            (refused.limit, refused.window),
            (1500, Duration::from_secs(3600))
        );
        assert_eq!(refused.wait, Duration::from_nanos(3600 * SECOND - at));
        assert_eq!(
            arrive(3600 * SECOND - 1).unwrap_err().wait,
            Duration::from_nanos(1)
        );
        assert_eq!(arrive(3600 * SECOND), Ok(()));
    }

    #[test]
    fn a_fixed_window_begins_with_its_first_call_and_lets_twice_the_quota_meet_at_its_edge() {
        let mut arrive = quotas(Switches {
            quota_window: Window::Fixed,
            ..Switches::default()
        });
        assert_eq!(arrive(7 * SECOND), Ok(()));
        for _ in 0..99 {
            assert_eq!(arrive(66 * SECOND), Ok(()));
        }
        assert_eq!(
            arrive(67 * SECOND - 1).unwrap_err().wait,
            Duration::from_nanos(1)
        );
        for i in 0..100 {
            assert_eq!(arrive(67 * SECOND), Ok(()), "call {i}");
        }
        assert_eq!(
            arrive(67 * SECOND).unwrap_err().wait,
            Duration::from_secs(60)
        );
    }

    #[test]
    fn refused_calls_prolong_the_wait_only_where_they_count() {
        for (rejected_calls_count, wait) in [(false, 20), (true, 60)] {
            let mut arrive = quotas(Switches {
                per_minute: Some(1),
                rejected_calls_count,
                ..Switches::default()
            });
            assert_eq!(arrive(0), Ok(()));
            assert_eq!(
                arrive(40 * SECOND).unwrap_err().wait,
                Duration::from_secs(20)
            );
            let again = arrive(40 * SECOND).unwrap_err().wait;
            assert_eq!(
                again,
                Duration::from_secs(wait),
                "rejected calls count: {rejected_calls_count}"
            );
        }
    }

    #[test]
    fn each_endpoint_tenant_and_application_has_a_quota_of_its_own() {
        let mut quotas = Quotas::new(&Switches {
            per_minute: Some(1),
            ..Switches::default()
        });
        let now = Moment::from_nanos(SECOND);
        let other = |api, tenant: &str, app: &str| Key {
            api,
            tenant: Some(tenant.to_owned()),
            app: Some(app.to_owned()),
        };
        for key in [
            key(),
            other(Api::UnrestrictCodeExecution, "t", "a"),
            other(Api::RestrictCodeExecution, "t", "a"),
            other(Api::UnrestrictCodeExecution, "u", "a"),
            other(Api::UnrestrictCodeExecution, "t", "b"),
        ] {
            assert_eq!(quotas.arrive(&key, now), Ok(()), "{key:?}");
            assert!(quotas.arrive(&key, now).is_err(), "{key:?}");
        }
    }

    #[test]
    fn a_quota_can_be_nothing_or_absent() {
        let mut nothing = quotas(Switches {
            per_minute: Some(0),
            ..Switches::default()
        });
        assert_eq!(nothing(SECOND).unwrap_err().wait, Duration::from_secs(60));
        let mut absent = quotas(Switches {
            per_minute: None,
            per_hour: None,
            ..Switches::default()
        });
        assert!((0..5000).all(|i| absent(i).is_ok()));
    }
}

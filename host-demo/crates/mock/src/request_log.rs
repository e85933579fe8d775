//! What arrived: the stand-in's witness, on which tests rest their judgement of a client.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::Api;
use defender_core::clock::Moment;

/// What a quota is counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) api: Api,
    /// Absent where the call had no token that the service knows.
    pub(super) tenant: Option<String>,
    pub(super) app: Option<String>,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When its head had been read.
    pub at: Moment,
    /// The endpoint; none for a path that the stand-in does not have.
    pub api: Option<Api>,
    /// The method.
    pub method: Method,
    /// Path and query, as sent.
    pub path_and_query: String,
    /// The headers, in which the value of `authorization` is masked.
    pub headers: HeaderMap,
    /// Which of the tokens that were issued it carried, counted from 1.
    pub token: Option<u64>,
    /// The body, as far as it arrived; secrets in a token request are masked.
    pub body: Bytes,
    /// The status that was answered; none if no answer was sent (yet).
    pub status: Option<u16>,
}

/// The requests, the newest of them in full, and the moment of each.
pub(super) struct Record {
    kept: VecDeque<Arrival>,
    keep: usize,
    /// How many arrivals were dropped from the front of `kept`.
    dropped: u64,
    /// Eight bytes for each call, so that a count over all windows stays exact at any length.
    moments: HashMap<Key, Vec<Moment>>,
}

impl Record {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            keep,
            dropped: 0,
            moments: HashMap::new(),
        }
    }

    /// Notes an arrival, and returns the number under which more can be said of it.
    pub(super) fn add(&mut self, arrival: Arrival, key: Option<&Key>) -> u64 {
        if let Some(key) = key {
            match self.moments.get_mut(key) {
                Some(moments) => moments.push(arrival.at),
                None => drop(self.moments.insert(key.clone(), vec![arrival.at])),
            }
        }
        let number = self.dropped + self.kept.len() as u64;
        self.kept.push_back(arrival);
        while self.kept.len() > self.keep {
            self.kept.pop_front();
            self.dropped += 1;
        }
        number
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Arrival> {
        let index = usize::try_from(number.checked_sub(self.dropped)?).ok()?;
        self.kept.get_mut(index)
    }

    pub(super) fn kept(&self) -> Vec<Arrival> {
        self.kept.iter().cloned().collect()
    }

    /// How many calls of an endpoint arrived.
    pub(super) fn count(&self, api: Api) -> usize {
        self.of(api).map(Vec::len).sum()
    }

    /// The most calls that one tenant's application made to an endpoint in any window.
    pub(super) fn most_in_any_window(&self, api: Api, window: Duration) -> usize {
        self.of(api)
            .map(|moments| most_in_any_window(moments.clone(), window))
            .max()
            .unwrap_or(0)
    }

    fn of(&self, api: Api) -> impl Iterator<Item = &Vec<Moment>> {
        self.moments
            .iter()
            .filter(move |(key, _)| key.api == api)
            .map(|(_, moments)| moments)
    }
}

/// The most of these moments that any half-open window of this length holds, wherever it begins.
///
/// A window that holds the most can be moved until it begins with one of the moments.
fn most_in_any_window(mut moments: Vec<Moment>, window: Duration) -> usize {
    moments.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for (last, moment) in moments.iter().enumerate() {
        while first <= last && moment.since(moments[first]) >= window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moments(nanos: &[u64]) -> Vec<Moment> {
        nanos.iter().copied().map(Moment::from_nanos).collect()
    }

    #[test]
    fn two_calls_exactly_a_window_apart_do_not_share_one() {
        let window = Duration::from_nanos(60);
        assert_eq!(most_in_any_window(moments(&[5, 65]), window), 1);
        assert_eq!(most_in_any_window(moments(&[5, 64]), window), 2);
        assert_eq!(most_in_any_window(moments(&[64, 5, 5, 70]), window), 3);
        assert_eq!(most_in_any_window(moments(&[]), window), 0);
        assert_eq!(most_in_any_window(moments(&[1, 1]), Duration::ZERO), 0);
    }

    proptest! {
        #[test]
        fn no_window_wherever_it_begins_holds_more_than_the_most(
            nanos in proptest::collection::vec(0_u64..200, 0..40),
            window in 0_u64..100,
        ) {
            let brute = (0..200)
                .map(|begin| nanos.iter().filter(|n| (begin..begin + window).contains(n)).count())
                .max()
                .unwrap_or(0);
            let most = most_in_any_window(moments(&nanos), Duration::from_nanos(window));
            prop_assert_eq!(most, brute);
        }
    }

    #[test]
    fn only_the_newest_arrivals_are_kept_in_full_but_all_are_counted() {
        let mut record = Record::new(2);
        let key = Key {
            api: Api::Token,
            tenant: None,
            app: None,
        };
        let numbers: Vec<_> = (0..5)
            .map(|n| {
                let arrival = Arrival {
                    at: Moment::from_nanos(n),
                    api: Some(Api::Token),
                    method: Method::POST,
                    path_and_query: format!("/{n}"),
                    headers: HeaderMap::new(),
                    token: None,
                    body: Bytes::new(),
                    status: None,
                };
                record.add(arrival, Some(&key))
            })
            .collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        assert!(record.get_mut(2).is_none());
        assert_eq!(
            record
                .get_mut(3)
                .map(|a| a.path_and_query.clone())
                .as_deref(),
            Some("/3")
        );
        assert_eq!(record.kept().len(), 2);
        assert_eq!(record.count(Api::Token), 5);
        assert_eq!(
            record.most_in_any_window(Api::Token, Duration::from_nanos(3)),
            3
        );
    }
}

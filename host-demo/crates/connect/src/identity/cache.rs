//! Keeping a token, however it is fetched.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;

use super::fetch::Fetch;
use super::{BearerToken, Credential, IdentityError, Method, Principal, Retry, TokenSource};
use defender_core::clock::{Clock, Moment};
use defender_core::retry::{RETRY_AFTER_MAX, backoff, jitter};

/// A token is renewed so long before it ends: a call may wait for its answer, and clocks differ. One
/// that holds for less than four times as long is renewed after three quarters of its time.
const EXPIRY_MARGIN: Duration = Duration::from_secs(300);

/// After a renewal that failed, the next one is so much later, while the token at hand still holds:
/// an authority that is down would delay each call.
const RENEWAL_REST: Duration = Duration::from_secs(30);

/// A token that was fetched because the one before it was refused, and is refused so soon itself,
/// is not replaced again. Such a 401 has another reason, such as a licence, and each call of a long
/// run would ask the authority anew.
const REJECTION_REST: Duration = Duration::from_secs(300);

/// A token, and from when on it should be renewed.
#[derive(Clone)]
struct Kept {
    token: BearerToken,
    renew: Moment,
    expires: Moment,
}

/// A source that fetches its tokens, keeps each for as long as it holds, and renews it in time.
pub struct Identity {
    method: Method,
    fetch: Box<dyn Fetch>,
    clock: Arc<dyn Clock>,
    state: RwLock<State>,
    renewal: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    /// No renewal before that, while the token at hand holds.
    rests_until: Option<Moment>,
    /// When a token was last fetched because another was refused.
    replaced: Option<Moment>,
    /// How many fetches have ended, and why the last one failed, if it did.
    ended: u64,
    failed: Option<IdentityError>,
    /// After a failure that may pass, the authority is not asked before that.
    retry: Option<Retry>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl Identity {
    pub(super) fn keeping(method: Method, fetch: Box<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        Self {
            method,
            fetch,
            clock,
            state: RwLock::default(),
            renewal: tokio::sync::Mutex::new(()),
        }
    }

    /// How its tokens are had.
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The token at hand, if it holds and need not be renewed now.
    fn at_hand(&self) -> Option<BearerToken> {
        let now = self.clock.now();
        self.read(|state| {
            let kept = state.kept.as_ref()?;
            let rests = state.rests_until.is_some_and(|until| now < until);
            let until = if rests { kept.expires } else { kept.renew };
            (now < until).then(|| kept.token.clone())
        })
    }

    /// The token at hand, if it holds, whether it should be renewed or not.
    fn holding(&self) -> Option<BearerToken> {
        let now = self.clock.now();
        self.read(|state| {
            let kept = state.kept.as_ref()?;
            (now < kept.expires).then(|| kept.token.clone())
        })
    }

    /// The failure after which the authority is still left alone.
    fn resting(&self) -> Option<IdentityError> {
        let now = self.clock.now();
        self.read(|state| {
            let rests = state.retry.is_some_and(|retry| now < retry.at);
            rests.then(|| state.failed.clone())
        })
        .flatten()
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Fetches a token and keeps it. Whoever calls this holds the lock.
    async fn fetch(&self) -> Result<BearerToken, IdentityError> {
        let asked = self.clock.now();
        let fetched = self.fetch.fetch().await;
        let now = self.clock.now();
        self.change(|state| {
            state.ended += 1;
            state.failed = fetched.as_ref().err().cloned();
            match &fetched {
                Ok(fresh) => {
                    let lifetime = fresh.expires.since(asked);
                    let margin = EXPIRY_MARGIN.min(lifetime / 4);
                    state.kept = Some(Kept {
                        token: fresh.token.clone(),
                        renew: asked + lifetime.saturating_sub(margin),
                        expires: fresh.expires,
                    });
                    state.rests_until = None;
                    state.retry = None;
                }
                Err(error) if error.is_transient(state.kept.is_some()) => {
                    let failures = state.retry.map_or(0, |retry| retry.failures) + 1;
                    let at = now + wait(failures, error.retry_after(), now);
                    state.retry = Some(Retry { at, failures });
                }
                Err(_) => state.retry = None,
            }
        });
        fetched.map(|fresh| fresh.token)
    }

    /// Why the fetch that this caller waited for failed: a caller does not wait for two, or those
    /// who ask at once would ask an authority that is down one after another.
    fn failed_since(&self, ended: u64) -> Option<IdentityError> {
        self.read(|state| (state.ended != ended).then(|| state.failed.clone()))
            .flatten()
    }
}

/// How long to leave the authority alone after so many failures in a row.
fn wait(failures: u32, retry_after: Option<Duration>, now: Moment) -> Duration {
    let least = backoff(failures);
    let told = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    least.max(told) + jitter(least, now)
}

#[async_trait]
impl TokenSource for Identity {
    async fn token(&self) -> Result<BearerToken, IdentityError> {
        if let Some(token) = self.at_hand() {
            return Ok(token);
        }
        let ended = self.read(|state| state.ended);
        let _one_at_a_time = self.renewal.lock().await;
        // Whoever held the lock before may have renewed it.
        if let Some(token) = self.at_hand() {
            return Ok(token);
        }
        if let Some(error) = self.resting().or_else(|| self.failed_since(ended)) {
            return self.holding().ok_or(error);
        }
        match self.fetch().await {
            Ok(token) => Ok(token),
            Err(error) => match self.holding() {
                Some(token) => {
                    tracing::warn!(%error, "the token could not be renewed; it still holds");
                    let until = self.clock.now() + RENEWAL_REST;
                    self.change(|state| state.rests_until = Some(until));
                    Ok(token)
                }
                None => Err(error),
            },
        }
    }

    async fn renew(&self, rejected: &BearerToken) -> Result<bool, IdentityError> {
        let ended = self.read(|state| state.ended);
        let _one_at_a_time = self.renewal.lock().await;
        let (is_it, replaced) = self.read(|state| {
            let is_it = state
                .kept
                .as_ref()
                .is_some_and(|kept| kept.token.is(rejected));
            (is_it, state.replaced)
        });
        if !is_it {
            return Ok(true);
        }
        let now = self.clock.now();
        if replaced.is_some_and(|at| now < at + REJECTION_REST) {
            return Ok(false);
        }
        if let Some(error) = self.resting().or_else(|| self.failed_since(ended)) {
            return Err(error);
        }
        let fresh = self.fetch().await?;
        self.change(|state| state.replaced = Some(now));
        // An authority that keeps tokens, as a machine's does, may give out the same one again.
        Ok(!fresh.is(rejected))
    }

    fn retry(&self) -> Option<Retry> {
        self.read(|state| state.retry)
    }

    async fn principal(&self) -> Result<Principal, IdentityError> {
        match self.fetch.principal() {
            Some(principal) => Ok(principal),
            None => Ok(Principal::of(&self.token().await?)),
        }
    }

    async fn credential(&self) -> Option<Credential> {
        self.fetch.credential().await
    }
}

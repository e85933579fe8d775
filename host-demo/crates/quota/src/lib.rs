//! The quotas, kept exactly.
//!
//! > In every window of 60 s (3,600 s), wherever it begins, the service counts at most 100 (1,500)
//! > of our calls, however many processes share the quota and whenever one is killed; provided that
//! > it counts a call before we see its answer's head or, where we see none, before the call's
//! > deadline plus the [grace](GRACE), and that clocks run true to 0.1 %.
//!
//! Token buckets don't keep that: they let nearly twice the quota through in some windows. [`Log`]
//! has the decision and [`KeyState`] the queue before it, both pure; a [`QuotaStore`] remembers them, and
//! [`Limiter`] does the waiting.
//!
//! Any program that calls the API can keep its quotas by these, whatever it sends its requests
//! with:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use defender_core::clock::{Clock, ManualClock};
//! use defender_core::operation::Operation;
//! use defender_quota::{Key, Limiter, Memory, NoPermit, Quota};
//!
//! # async fn example() -> Result<(), NoPermit> {
//! // In a program: SystemClock, and a ledger that others can share, such as Sqlite.
//! let clock = Arc::new(ManualClock::new());
//! let ledger = Arc::new(Memory::new(clock.clone()));
//! let limiter = Limiter::new(clock.clone(), &Quota::DOCUMENTED, ledger, "my connector");
//! let key = Key {
//!     tenant: "00000000-0000-0000-0000-000000000000".into(),
//!     application: "00000000-0000-0000-0000-000000000000".into(),
//!     operation: Operation::UnrestrictCodeExecution,
//! };
//! let call = Duration::from_secs(30);
//! for _ in 0..100 {
//!     let mut permit = limiter.acquire(&key, call, None, &|_| {}).await?;
//!     assert!(permit.redeem(), "good for one request");
//!     // Here the request is sent, and once its answer's head is there:
//!     permit.settle(clock.now());
//! }
//! // The next one is refused at once, with the moment from which on there is room again.
//! let now = clock.now();
//! let refused = limiter.acquire(&key, call, Some(now), &|_| {}).await;
//! let Err(NoPermit::NotUntil(wait)) = refused else { panic!("a hundred and one") };
//! assert!(wait.at.since(now) > Duration::from_secs(60));
//! # Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example()).unwrap();
//! ```

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod key_state;
mod limiter;
#[cfg(test)]
mod model;
#[cfg(feature = "redis")]
mod redis;
mod sliding_log;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
#[cfg(any(feature = "redis", feature = "sqlite"))]
mod store_thread;
#[cfg(feature = "sqlite")]
mod timeline;

pub use key_state::{Ask, Holder, KeyState, Reply, Ticket, Update};
pub use limiter::{Limiter, NoPermit, Permit};
#[cfg(feature = "redis")]
pub use redis::{Redis, RedisOptions};
pub use sliding_log::{Log, NotUntil, Quota, Slot, Why};
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;
pub use store::{
    Key, LedgerError, LedgerName, LedgerProblem, Memory, NoKey, NoLedger, QuotaStore, Reading,
};
#[cfg(feature = "sqlite")]
pub use timeline::boot_id;

use std::time::Duration;

/// How long one call may take, unless configured. A slot without an answer counts from its end.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a key is closed after a loss, by the documented quotas and the usual time of a call.
#[cfg(any(feature = "redis", feature = "sqlite"))]
const LOSS: Duration = CALL_TIMEOUT
    .saturating_add(GRACE)
    .saturating_add(Quota::DOCUMENTED[1].kept());

/// How long after a call's deadline the service may still count it, where no answer told when it
/// did.
pub const GRACE: Duration = Duration::from_secs(30);

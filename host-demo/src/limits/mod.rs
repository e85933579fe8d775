//! The quotas, kept exactly.
//!
//! > In every window of 60 s (3,600 s), wherever it begins, the service counts at most 100 (1,500)
//! > of our calls, however many processes share the quota and whenever one is killed; provided that
//! > it counts a call before we see its answer's head or, where we see none, before the call's
//! > deadline plus the [grace](GRACE), and that clocks run true to 0.1 %.
//!
//! Token buckets don't keep that: they let nearly twice the quota through in some windows. [`Log`]
//! has the decision and [`Budget`] the queue before it, both pure; a [`Ledger`] remembers them, and
//! [`Limiter`] does the waiting.

mod budget;
mod ledger;
mod limiter;
mod log;
#[cfg(test)]
mod model;
mod redis;
mod sqlite;
mod time;
mod worker;

pub use budget::{Ask, Budget, Holder, News, Reply, Ticket};
pub use ledger::{
    Key, Ledger, LedgerError, LedgerName, LedgerProblem, Memory, NoKey, NoLedger, Reading,
};
pub use limiter::{Limiter, NoPermit, Permit};
pub use log::{Log, NotUntil, Quota, Slot, Why};
pub use redis::{Redis, RedisOptions};
pub use sqlite::Sqlite;
pub use time::boot_id;

use std::time::Duration;

use crate::host::CALL_TIMEOUT;

/// How long a key is closed after a loss, by the documented quotas and the usual time of a call.
const LOSS: Duration = CALL_TIMEOUT
    .saturating_add(GRACE)
    .saturating_add(Quota::DOCUMENTED[1].kept());

/// How long after a call's deadline the service may still count it, where no answer told when it
/// did.
pub const GRACE: Duration = Duration::from_secs(30);

//! The quotas, kept exactly.
//!
//! > In every window of 60 s (3,600 s), wherever it begins, the service counts at most 100 (1,500)
//! > of our calls, provided that it counts a call before we see its answer's head or, where we see
//! > none, before the call's deadline plus the [grace](GRACE), and that clocks run true to 0.1 %.
//!
//! Token buckets don't keep that: they let nearly twice the quota through in some windows. [`Log`]
//! has the decision, [`Limiter`] the waiting. The calls are remembered in this process's memory:
//! two processes don't know of each other, and a new one starts with a clean sheet.

mod limiter;
mod log;

pub use limiter::{Key, Limiter, Permit};
pub use log::{Log, NotUntil, Quota, Slot};

use std::time::Duration;

/// How long after a call's deadline the service may still count it, where no answer told when it
/// did.
pub const GRACE: Duration = Duration::from_secs(30);

//! What all parts share: ids, operations and queries, the clock, text, files.
//!
//! Nothing here sends, waits for the network or knows of a policy.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

pub mod clock;
pub mod escape;
pub mod files;
pub mod id;
pub mod operation;
pub mod origin;
pub mod query;
pub mod retry;
pub mod shell;
pub mod summary;
pub mod trust;

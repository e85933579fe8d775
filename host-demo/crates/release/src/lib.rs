//! Runs of many devices, and what belongs to them: lists of devices, names, journals, actions read
//! and taken back, reports, and the checks before a first run.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

pub mod action_kind;
pub mod batch;
pub mod cancel;
pub mod device_history;
pub mod device_list;
mod entry;
pub mod journal;
pub mod list_actions;
pub mod pilot;
pub mod preflight;
pub mod report;
pub mod resolve_names;

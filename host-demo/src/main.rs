//! `host-demo`: releases devices from an app-execution restriction. See `host-demo --help`.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

// First, because it defines `note!`.
#[macro_use]
mod ui;

mod args;
mod commands;
mod dispatch;
mod exit;
mod settings;
mod setup;

use std::process::ExitCode;

fn main() -> ExitCode {
    dispatch::run().into()
}

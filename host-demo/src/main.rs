//! `host-demo`: releases devices from an app-execution restriction. See `host-demo --help`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run().into()
}

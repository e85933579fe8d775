//! What a hostile plugin costs whoever runs it, in time and memory.

use std::time::Duration;

use tests::usage::{self, Usage};
use tests::world::EVIL;

use super::*;

/// Of a call. Starting the command and compiling the component come on top, which a busy machine
/// takes its time for.
const TIMEOUT: &str = "1s";
const TIME_MAX: Duration = Duration::from_secs(15);

/// A call has 16 MiB of its own; the rest is the command, its debug information and the compiler's.
const MEMORY_MAX_KIB: u64 = 256 << 10;

#[test]
fn no_plugin_costs_more_than_its_calls_time_and_a_bounded_amount_of_memory() {
    let stage = Stage::new();
    std::fs::write(stage.folder.path().join("evil.wasm"), EVIL).unwrap();
    for way in [
        "spin",
        "spin-in-realloc",
        "allocate",
        "ask-without-end",
        "open-without-end",
        "many-resources",
        "huge-headers",
        "giant-string",
        "held-body",
        // Last: the service accepts it, and what comes after it would find its action.
        "flood",
    ] {
        let secret = stage.mock.client_secret();
        let run = stage
            .bare(["unrestrict", &stage.id(), "--no-wait", "--comment", way])
            .connected_without_ca()
            .with_args(["--ca-file", "ca.pem", "--plugin", "evil.wasm"])
            .with_args(["--timeout", TIMEOUT, "--ledger", "memory"])
            .env("AZURE_CLIENT_SECRET", secret);
        let mut command = run.command;
        let said = stage.folder.path().join("said");
        let out = std::fs::File::create(&said).unwrap();
        command.stdout(out).stderr(Stdio::null());
        let Usage { status, peak, cpu } = usage::watch(&mut command.spawn().unwrap()).unwrap();
        let said = std::fs::read_to_string(said).unwrap();
        assert!(!said.contains("no such way"), "{said}");
        // It ended by itself, and well only where the service accepted the release.
        let is_accepted = said.contains("accepted");
        assert_eq!(is_accepted, way == "flood", "{way}: {said}");
        assert_eq!(status.code() == Some(0), is_accepted, "{way}: {status}");
        assert!(status.code().is_some(), "{way}: {status}");
        // Of the processor: what else the machine does takes none of it.
        assert!(cpu < TIME_MAX, "{way} took {cpu:?}");
        assert!(peak < MEMORY_MAX_KIB, "{way} took {peak} KiB");
    }
}

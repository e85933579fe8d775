//! The command `host-demo`, built as this program was.

use std::path::PathBuf;
use std::process::Command;

/// Builds the command, unless it is built already, and says where it is.
///
/// # Panics
///
/// When it does not build.
pub fn host_demo_binary() -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // With the whole workspace: on its own it would be built with fewer features of the crates that
    // are shared, which means once more.
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--workspace",
        "--bin",
        "host-demo",
    ]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let status = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "host-demo does not build");
    // target/<profile>/deps/<this program>
    let this = std::env::current_exe().expect("this program has a path");
    let profile = this.ancestors().nth(2).expect("it lies in deps");
    profile.join("host-demo")
}

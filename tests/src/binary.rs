//! The programs `host-demo`, `defender-mock` and `demo`, and the examples, built as this program was.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the command, unless it is built already, and says where it is.
///
/// # Panics
///
/// When it does not build.
pub fn host_demo_binary() -> PathBuf {
    build(["--bin", "host-demo"]).join("host-demo")
}

/// Builds the stand-in's program, unless it is built already, and says where it is.
///
/// # Panics
///
/// When it does not build.
pub fn defender_mock_binary() -> PathBuf {
    build(["--bin", "defender-mock"]).join("defender-mock")
}

/// Builds the demonstration, unless it is built already, and says where it is.
///
/// # Panics
///
/// When it does not build.
pub fn demo_binary() -> PathBuf {
    build(["--bin", "demo"]).join("demo")
}

/// Builds an example of the library's, unless it is built already, and says where it is.
///
/// # Panics
///
/// When it does not build.
pub fn example(name: &str) -> PathBuf {
    build(["--example", name]).join("examples").join(name)
}

/// Says in which folder it is.
fn build(what: [&str; 2]) -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // With the whole workspace: on its own it would be built with fewer features of the crates that
    // are shared, which means once more.
    cargo
        .args(["build", "--quiet", "--locked", "--workspace"])
        .args(what);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let status = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "{what:?} does not build");
    // target/<profile>/deps/<this program>
    let this = std::env::current_exe().expect("this program has a path");
    let profile = this.ancestors().nth(2).expect("it lies in deps");
    Path::to_owned(profile)
}

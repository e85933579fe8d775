//! That the component is the source's, wherever it is built: it is built again, of a copy.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use host_demo::plugin::{BUNDLED, BUNDLED_ENVIRONMENT};

/// What the component is made of, and what cargo looks at before it builds anything.
const SOURCE: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "wit",
    "plugin",
    "host-demo",
    "tests",
    ".ci",
];

fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        // Other languages' packages, which tests install.
        if name != "node_modules" {
            copy(&from.join(&name), &to.join(&name));
        }
    }
}

#[test]
fn the_component_is_the_same_to_the_byte_wherever_it_is_built() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let elsewhere = tempfile::tempdir().unwrap();
    let copied = elsewhere.path().join("another/place");
    fs::create_dir_all(&copied).unwrap();
    for name in SOURCE {
        copy(&root.join(name), &copied.join(name));
    }
    let file = elsewhere.path().join("again.wasm");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(&rustc).arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let built = Command::new(env!("CARGO_BIN_EXE_dist"))
        .args(["component".as_ref(), file.as_os_str()])
        // As a build script in the copy has it, with a target directory of its own.
        .current_dir(&copied)
        .env("CARGO_MANIFEST_DIR", copied.join("host-demo"))
        .env(
            "OUT_DIR",
            elsewhere.path().join("target/any/build/host-demo/out"),
        )
        .env(
            "CARGO",
            env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        )
        .env("RUSTC", rustc)
        .env("HOST", host.unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    let again = fs::read(&file).unwrap();
    let first = again.iter().zip(BUNDLED).position(|(a, b)| a != b);
    assert!(again == BUNDLED, "from byte {first:?} on it is another one");
}

#[test]
fn both_components_are_built_without_the_host_and_are_those_that_it_carries() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("components");
    let built = Command::new(env!("CARGO_BIN_EXE_dist"))
        .arg("components")
        .arg(&to)
        .env("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    for (name, carried) in [
        ("defender-endpoint.wasm", BUNDLED),
        ("defender-endpoint-env.wasm", BUNDLED_ENVIRONMENT),
    ] {
        let file = fs::read(to.join(name)).unwrap();
        assert!(file == carried, "{name} is another one");
    }
}

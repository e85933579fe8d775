//! Builds the programs, and takes the components from the very build that the host carries them from.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{COMPONENTS, PROGRAMS, Program};

pub(crate) struct Made {
    /// One for each of [`PROGRAMS`].
    pub(crate) programs: Vec<PathBuf>,
    /// One for each of [`COMPONENTS`].
    pub(crate) components: Vec<Vec<u8>>,
    /// What compiled the host: `1.95.0 (59807616e 2026-04-14)`.
    pub(crate) rustc: String,
}

pub(crate) fn build(root: &Path, profile: &str) -> Result<Made> {
    let mut programs = Vec::new();
    let mut out = None;
    for program in PROGRAMS {
        let said = compile(root, profile, program)?;
        programs.push(executable(&said, program.name).context("cargo does not say what it built")?);
        out = out.or_else(|| out_dir(&said));
    }
    let out = out.context("cargo does not say where the components are")?;
    let components = COMPONENTS
        .iter()
        .map(|component| {
            let file = out.join(format!("{}.wasm", component.name));
            fs::read(&file).with_context(|| format!("the host's build made no {}", file.display()))
        })
        .collect::<Result<_>>()?;
    Ok(Made {
        programs,
        components,
        rustc: rustc()?,
    })
}

/// Builds a program, and returns cargo's messages.
fn compile(root: &Path, profile: &str, program: &Program) -> Result<String> {
    let mut cargo = cargo(root);
    cargo
        .args(["build", "--locked", "--bin", program.name])
        .args(["--profile", profile, "--message-format"])
        .arg("json-render-diagnostics");
    for feature in program.features {
        cargo.arg(format!("--features={}/{feature}", program.name));
    }
    if profile == "dev" {
        // As the tests build it, so that nothing is built twice: to try out what comes after.
        cargo.arg("--workspace");
    } else {
        // Without the other packages' wishes for shared ones, and without symbols: the optimizer
        // numbers names by where it works, and the build's id is made of them too.
        let flags = guest_build::remaps(root).join("\x1f");
        cargo
            .args(["--package", program.name])
            .arg(format!("--config=profile.{profile}.strip=\"symbols\""))
            .env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    let said = cargo.stderr(Stdio::inherit()).output()?;
    ensure!(
        said.status.success(),
        "{} does not build: see above",
        program.name
    );
    Ok(String::from_utf8(said.stdout)?)
}

pub(crate) fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

/// Cargo's messages, a line of JSON each.
fn messages(said: &str) -> impl Iterator<Item = Value> {
    said.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

/// Returns the program of this name.
fn executable(said: &str, name: &str) -> Option<PathBuf> {
    messages(said)
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| Some(message["executable"].as_str()?.into()))
}

/// Returns the folder in which a build made the components.
fn out_dir(said: &str) -> Option<PathBuf> {
    messages(said)
        .filter(|message| {
            // `path+file:///folder/crates/component#defender-component@0.1.0`
            let id = message["package_id"].as_str().unwrap_or_default();
            id.contains("#defender-component@")
        })
        .find_map(|message| Some(message["out_dir"].as_str()?.into()))
}

/// The platform that a compiler builds for by default.
pub(crate) fn triple(rustc: &OsStr) -> Result<String> {
    let said = Command::new(rustc).arg("-vV").output()?;
    let said = String::from_utf8(said.stdout)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its platform")?.to_owned())
}

fn rustc() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output()?;
    let said = String::from_utf8(said.stdout)?;
    Ok(said.trim().trim_start_matches("rustc ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_built_is_read_off_its_messages() {
        let said = r#"
{"reason":"build-script-executed","package_id":"registry+https://index#ring@0.17.14","out_dir":"/t/ring"}
{"reason":"build-script-executed","package_id":"path+file:///p/component#defender-component@0.1.0","out_dir":"/t/out"}
{"reason":"compiler-artifact","target":{"name":"host_demo"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"host-demo"},"executable":"/t/host-demo"}
{"reason":"compiler-artifact","target":{"name":"bare"},"executable":"/t/bare"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(executable(said, "host-demo"), Some("/t/host-demo".into()));
        assert_eq!(out_dir(said), Some("/t/out".into()));
        let nothing = r#"{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(nothing, "host-demo"), None);
        assert_eq!(out_dir(nothing), None);
    }
}

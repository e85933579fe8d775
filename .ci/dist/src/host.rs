//! Builds the host, and takes the components from the very build that it carries them from.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{COMPONENTS, features};

pub(crate) struct Made {
    pub(crate) program: PathBuf,
    /// One for each of [`COMPONENTS`].
    pub(crate) components: Vec<Vec<u8>>,
    /// What compiled the host: `1.95.0 (59807616e 2026-04-14)`.
    pub(crate) rustc: String,
}

pub(crate) fn build(root: &Path, profile: &str) -> Result<Made> {
    let mut cargo = cargo(root);
    cargo
        .args(["build", "--locked", "--bin", "host-demo"])
        .args(["--profile", profile, "--message-format"])
        .arg("json-render-diagnostics")
        .arg(format!("--features={}", features().join(",")));
    if profile == "dev" {
        // As the tests build it, so that nothing is built twice: to try out what comes after.
        cargo.arg("--workspace");
    } else {
        // Without the other packages' wishes for shared ones, and without symbols: the optimizer
        // numbers names by where it works, and the build's id is made of them too.
        let flags = guest_build::remaps(root).join("\x1f");
        cargo
            .args(["--package", "host-demo"])
            .arg(format!("--config=profile.{profile}.strip=\"symbols\""))
            .env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    let said = cargo.stderr(Stdio::inherit()).output()?;
    ensure!(said.status.success(), "the host does not build: see above");
    let said = String::from_utf8(said.stdout)?;
    let (program, out) = found(&said).context("cargo does not say what it built")?;
    let components = COMPONENTS
        .iter()
        .map(|component| {
            let file = out.join(format!("{}.wasm", component.name));
            fs::read(&file).with_context(|| format!("the host's build made no {}", file.display()))
        })
        .collect::<Result<_>>()?;
    Ok(Made {
        program,
        components,
        rustc: rustc()?,
    })
}

pub(crate) fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

/// The program, and the folder of the build script's results, as cargo's messages have them: a line
/// of JSON each.
fn found(said: &str) -> Option<(PathBuf, PathBuf)> {
    let (mut program, mut out) = (None, None);
    for message in said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        let id = message["package_id"].as_str().unwrap_or_default();
        // `path+file:///folder/host-demo#0.1.0`
        if !id
            .split('#')
            .next()
            .is_some_and(|place| place.ends_with("/host-demo"))
        {
            continue;
        }
        if let Some(file) = message["executable"].as_str() {
            program = Some(file.into());
        }
        if let Some(folder) = message["out_dir"].as_str() {
            out = Some(folder.into());
        }
    }
    program.zip(out)
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
{"reason":"build-script-executed","package_id":"path+file:///p/host-demo#0.1.0","out_dir":"/t/out"}
{"reason":"compiler-artifact","package_id":"path+file:///p/host-demo#0.1.0","executable":null}
{"reason":"compiler-artifact","package_id":"path+file:///p/host-demo#0.1.0","executable":"/t/host-demo"}
{"reason":"compiler-artifact","package_id":"path+file:///p/tests#0.1.0","executable":"/t/bare"}
{"reason":"build-finished","success":true}
"#;
        let expected = ("/t/host-demo".into(), "/t/out".into());
        assert_eq!(found(said), Some(expected));
        assert_eq!(found(r#"{"reason":"build-finished","success":true}"#), None);
    }
}

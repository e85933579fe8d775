//! Makes what is shipped, in the folder `dist`: components, contract, host, and what says what they
//! are. What it writes depends on the source, the compilers and the environment named here, and on
//! nothing else: two runs write the same.
//!
//! ```text
//! dist PROFILE          all of it, with the host as cargo's profile of that name builds it
//! dist components DIR   both components, as cargo's dev profile builds what builds them
//! dist component FILE   the plugin alone, with the environment that a build script has
//! dist composed FILE    the component that reads its connection from the environment, likewise
//! ```
//!
//! `SOURCE_DATE_EPOCH` is the time that it claims to have been made at, in seconds of Unix; without
//! it, files that can leave a time out have none, and the others 1970. `SOURCE_REVISION` is named in
//! the images. Neither reaches a component.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod host;
mod oci;
mod packages;
mod sbom;
mod sums;
mod wit;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::packages::Packages;

/// A component that the host's build makes beside the host.
struct Component {
    name: &'static str,
    /// The workspace's packages that it is made of.
    packages: &'static [&'static str],
}

const COMPONENTS: &[Component] = &[
    Component {
        name: "defender-endpoint",
        packages: &["plugin"],
    },
    Component {
        name: "defender-endpoint-env",
        packages: &["plugin", "environment"],
    },
];

/// A program that is shipped.
struct Program {
    /// Its package's name, too.
    name: &'static str,
    features: &'static [&'static str],
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "host-demo",
        // It makes both components.
        features: &["environment-plugin"],
    },
    // For testers.
    Program {
        name: "defender-mock",
        features: &[],
    },
];

const WASM: &str = "wasm32-unknown-unknown";

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["components", folder] => components(&root()?, Path::new(folder)),
        ["component", file] => {
            let bytes = guest_build::build("plugin")
                .and_then(|plugin| guest_build::description::plugin(&plugin))
                .map_err(|problem| anyhow!(problem))?;
            Ok(fs::write(file, bytes)?)
        }
        ["composed", file] => {
            let bytes = guest_build::build("plugin")
                .and_then(|plugin| {
                    guest_build::compose::plugged(plugin, guest_build::build("environment")?)
                })
                .and_then(|composed| guest_build::description::environment(&composed))
                .map_err(|problem| anyhow!(problem))?;
            Ok(fs::write(file, bytes)?)
        }
        [profile] => {
            let root = root()?;
            let made = host::build(&root, profile)?;
            let to = root.join("dist");
            pack(&root, &made, &Claims::of_environment()?, &to)?;
            println!("{}", to.display());
            Ok(())
        }
        _ => bail!("say which of cargo's profiles builds the host: release"),
    }
}

/// Builds both components and nothing of the host. This program builds each of them in a process of
/// its own, with the environment that cargo gives to the host's build script.
fn components(root: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let this = env::current_exe()?;
    // target/<profile>/<this program>
    let profile = this.parent().context("this program lies in no folder")?;
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let host = host::triple(&rustc)?;
    for (what, component) in ["component", "composed"].into_iter().zip(COMPONENTS) {
        let file = to.join(format!("{}.wasm", component.name));
        let built = Command::new(&this)
            .arg(what)
            .arg(&file)
            .env("CARGO_MANIFEST_DIR", root.join("host-demo"))
            .env("OUT_DIR", profile.join("build/components/out"))
            .env(
                "CARGO",
                env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            )
            .env("RUSTC", &rustc)
            .env("HOST", &host)
            .stdout(Stdio::null())
            .status()?;
        ensure!(
            built.success(),
            "{} is not built: see above",
            component.name
        );
        println!("{}", file.display());
    }
    Ok(())
}

/// The workspace's folder. cargo names this package's own, wherever it was compiled.
fn root() -> Result<PathBuf> {
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = here.as_deref().and_then(|here| here.ancestors().nth(2));
    Ok(root.context("run this by cargo: make dist")?.to_path_buf())
}

/// What the source can't say of itself.
#[derive(Default)]
struct Claims {
    /// RFC 3339.
    made: Option<String>,
    revision: Option<String>,
}

impl Claims {
    fn of_environment() -> Result<Self> {
        let made = match env::var("SOURCE_DATE_EPOCH") {
            Err(_) => None,
            Ok(text) => {
                let seconds = text.parse().ok();
                let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
                let time = time.with_context(|| {
                    format!("SOURCE_DATE_EPOCH={text} is no number of seconds: unset or correct it")
                })?;
                Some(time.to_string())
            }
        };
        Ok(Self {
            made,
            revision: env::var("SOURCE_REVISION").ok(),
        })
    }
}

/// Writes all of it anew. The sums come last: a folder without them is not whole.
fn pack(root: &Path, made: &host::Made, claims: &Claims, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("{} can't be removed", to.display()))?;
    }
    fs::create_dir_all(to.join("wit"))?;
    for file in fs::read_dir(root.join("wit"))? {
        let file = file?;
        fs::copy(file.path(), to.join("wit").join(file.file_name()))?;
    }
    fs::write(
        to.join("defender-endpoint.wit.wasm"),
        wit::binary(&root.join("wit"))?,
    )?;

    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    let mut images = oci::Layout::default();
    let mut carried = Vec::new();
    for (component, bytes) in COMPONENTS.iter().zip(&made.components) {
        let name = component.name;
        let inside = Packages::of(root, &lock, component.packages, &[], Some(WASM))?;
        let subject = sbom::Subject::component(name, bytes)?;
        let bill = sbom::bill(&subject, &inside, &[], claims)?;
        fs::write(to.join(format!("{name}.wasm")), bytes)?;
        fs::write(to.join(format!("{name}.cdx.json")), bill)?;
        images.add(name, bytes, claims)?;
        carried.push(subject);
    }
    images.write(&to.join("oci"))?;

    for (Program { name, features }, file) in PROGRAMS.iter().zip(&made.programs) {
        let program = fs::read(file)?;
        let inside = Packages::of(root, &lock, &[name], features, None)?;
        let subject = sbom::Subject::program(name, &program, &inside, &made.rustc)?;
        let carried = if *name == "host-demo" {
            &carried[..]
        } else {
            &[]
        };
        let bill = sbom::bill(&subject, &inside, carried, claims)?;
        fs::copy(file, to.join(name))?;
        fs::write(to.join(format!("{name}.cdx.json")), bill)?;
    }
    fs::copy(root.join("LICENSE"), to.join("LICENSE"))?;
    sums::write(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use host_demo::plugin::{BUNDLED, BUNDLED_ENVIRONMENT};
    use std::collections::BTreeMap;
    use wasm_metadata::Payload;

    /// The digest of each file, by its name, as they are and as they are said to be.
    fn sums(folder: &Path) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let said = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
        let said: BTreeMap<String, String> = said
            .lines()
            .map(|line| line.split_once("  ").unwrap())
            .map(|(digest, name)| (name.to_owned(), digest.to_owned()))
            .collect();
        let is = said
            .keys()
            .map(|name| {
                (
                    name.clone(),
                    sums::sha256(&fs::read(folder.join(name)).unwrap()),
                )
            })
            .collect();
        (is, said)
    }

    #[test]
    fn what_is_shipped_is_whole_and_the_same_each_time() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let made = host::Made {
            programs: vec![program.clone(), program],
            components: vec![BUNDLED.to_vec(), BUNDLED_ENVIRONMENT.to_vec()],
            rustc: "1.95.0 (59807616e 2026-04-14)".to_owned(),
        };
        let to = folder.path().join("dist");
        pack(&root, &made, &Claims::default(), &to).unwrap();
        let (is, said) = sums(&to);
        assert_eq!(is, said);
        for name in [
            "LICENSE",
            "defender-mock",
            "defender-mock.cdx.json",
            "defender-endpoint-env.cdx.json",
            "defender-endpoint-env.wasm",
            "defender-endpoint.cdx.json",
            "defender-endpoint.wasm",
            "defender-endpoint.wit.wasm",
            "host-demo",
            "host-demo.cdx.json",
            "oci/index.json",
            "oci/oci-layout",
            "wit/world.wit",
        ] {
            assert!(said.contains_key(name), "{name} is not among {said:?}");
        }
        // What somebody left there does not stay.
        fs::write(to.join("wit/old.wit"), "").unwrap();
        pack(&root, &made, &Claims::default(), &to).unwrap();
        assert_eq!(sums(&to), (is, said));
    }

    #[test]
    fn each_component_says_what_it_is() {
        for (component, bytes) in COMPONENTS.iter().zip([BUNDLED, BUNDLED_ENVIRONMENT]) {
            says_what_it_is(component.name, bytes);
        }
    }

    fn says_what_it_is(name: &str, bytes: &[u8]) {
        let payload = Payload::from_binary(bytes).unwrap();
        let about = payload.metadata();
        assert_eq!(about.name.as_deref(), Some(name));
        let said = |what: Option<String>| what.unwrap_or_default();
        let version = said(about.version.as_ref().map(ToString::to_string));
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
        let licence = said(about.licenses.as_ref().map(ToString::to_string));
        assert_eq!(licence, "Apache-2.0");
        let description = said(about.description.as_ref().map(ToString::to_string));
        assert!(description.starts_with("Releases devices"), "{description}");
        // It says nothing of where it was made.
        assert!(about.source.is_none() && about.revision.is_none() && about.authors.is_none());
    }

    #[test]
    fn the_plugin_says_what_made_it() {
        let payload = Payload::from_binary(BUNDLED).unwrap();
        let producers = payload.metadata().producers.as_ref().unwrap();
        assert!(producers.get("language").unwrap().get("Rust").is_some());
        let made = producers.get("processed-by").unwrap();
        let rustc = made.get("rustc").unwrap();
        assert!(rustc.starts_with("1."), "{rustc}");
        assert!(made.get("wit-component").is_some());
    }
}

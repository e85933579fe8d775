//! A bill of materials: what is inside a component, or inside the host, as CycloneDX. It has neither
//! a serial number nor a time of its own, so that the same thing has the same bill.

use anyhow::{Context as _, Result, anyhow, ensure};
use cyclonedx_bom::external_models::date_time::DateTime;
use cyclonedx_bom::external_models::normalized_string::NormalizedString;
use cyclonedx_bom::external_models::spdx::SpdxExpression;
use cyclonedx_bom::external_models::uri::Purl;
use cyclonedx_bom::models::bom::{Bom, SpecVersion};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata;
use cyclonedx_bom::validation::Validate as _;
use wasm_metadata::Payload;

use crate::Claims;
use crate::packages::{Id, Package, Packages};
use crate::sums::sha256;

/// What a bill is of.
pub(crate) struct Subject {
    file: String,
    version: String,
    licence: String,
    digest: String,
    /// What compiled it, and so the version of the standard library that is in it.
    rustc: String,
}

impl Subject {
    /// A component says all of it itself.
    pub(crate) fn component(name: &str, bytes: &[u8]) -> Result<Self> {
        let payload = Payload::from_binary(bytes)?;
        let about = payload.metadata();
        let said = |what: Option<String>| what.with_context(|| format!("{name} is not described"));
        Ok(Self {
            file: format!("{name}.wasm"),
            version: said(about.version.as_ref().map(ToString::to_string))?,
            licence: said(about.licenses.as_ref().map(ToString::to_string))?,
            digest: sha256(bytes),
            rustc: said(rustc(&payload))?,
        })
    }

    pub(crate) fn program(
        name: &str,
        bytes: &[u8],
        inside: &Packages,
        rustc: &str,
    ) -> Result<Self> {
        let root = inside.roots.first().context("a program of no package")?;
        let package = inside.all.get(root).context("a program of no package")?;
        Ok(Self {
            file: name.to_owned(),
            version: root.1.clone(),
            licence: package.licence.clone(),
            digest: sha256(bytes),
            rustc: rustc.to_owned(),
        })
    }

    fn entry(&self) -> Result<Component> {
        let mut entry = Component::new(
            Classification::Application,
            &self.file,
            &self.version,
            Some(self.file.clone()),
        );
        entry.licenses = Some(licences(&self.licence)?);
        entry.hashes = Some(hashes(&self.digest));
        Ok(entry)
    }
}

/// What compiled it; of one that was composed, its parts say so.
fn rustc(payload: &Payload) -> Option<String> {
    let producers = payload.metadata().producers.as_ref();
    let own = producers
        .and_then(|producers| producers.get("processed-by"))
        .and_then(|made| made.get("rustc").cloned());
    let parts = match payload {
        Payload::Component { children, .. } => &children[..],
        Payload::Module(_) => &[],
    };
    own.or_else(|| parts.iter().find_map(rustc))
}

/// The bill of what has these packages inside, and carries those files.
pub(crate) fn bill(
    subject: &Subject,
    inside: &Packages,
    carried: &[Subject],
    claims: &Claims,
) -> Result<String> {
    let std = standard_library(&subject.rustc)?;
    let mut needs: Vec<String> = inside.roots.iter().map(reference).collect();
    needs.extend(std.bom_ref.clone());
    needs.extend(carried.iter().map(|file| file.file.clone()));
    let mut dependencies = vec![Dependency {
        dependency_ref: subject.file.clone(),
        dependencies: needs,
    }];
    let mut entries = Vec::new();
    for (id, package) in &inside.all {
        entries.push(entry(id, package)?);
        dependencies.push(Dependency {
            dependency_ref: reference(id),
            dependencies: package.needs.iter().map(reference).collect(),
        });
    }
    entries.push(std);
    for file in carried {
        entries.push(file.entry()?);
    }

    let time = claims.made.clone().map(DateTime::try_from).transpose()?;
    let bill = Bom {
        serial_number: None,
        metadata: Some(Metadata {
            timestamp: time,
            component: Some(subject.entry()?),
            ..Metadata::default()
        }),
        components: Some(Components(entries)),
        dependencies: Some(Dependencies(dependencies)),
        spec_version: SpecVersion::V1_5,
        ..Bom::default()
    };
    let problems = bill.validate();
    ensure!(problems.passed(), "{}: {problems:?}", subject.file);
    let mut json = Vec::new();
    bill.output_as_json_v1_5(&mut json)?;
    json.push(b'\n');
    Ok(String::from_utf8(json)?)
}

fn entry(id: &Id, package: &Package) -> Result<Component> {
    let (name, version) = id;
    let mut entry = Component::new(Classification::Library, name, version, Some(reference(id)));
    entry.licenses = Some(licences(&package.licence).with_context(|| name.clone())?);
    // Registries have other packages by the names of the workspace's.
    if let Some(checksum) = &package.checksum {
        entry.purl = Some(purl(name, version)?);
        entry.hashes = Some(hashes(checksum));
    }
    Ok(entry)
}

/// It comes with the compiler, and cargo does not know it as a package.
fn standard_library(rustc: &str) -> Result<Component> {
    let version = rustc.split(' ').next().unwrap_or(rustc);
    let id = format!("std@{version}");
    let mut entry = Component::new(Classification::Library, "std", version, Some(id));
    entry.licenses = Some(licences("MIT OR Apache-2.0")?);
    entry.description = Some(NormalizedString::new(&format!(
        "Rust's standard library, as it comes with rustc {rustc}"
    )));
    Ok(entry)
}

/// By what one entry names another.
fn reference((name, version): &Id) -> String {
    format!("{name}@{version}")
}

fn purl(name: &str, version: &str) -> Result<Purl> {
    Purl::new("cargo", name, version).map_err(|e| anyhow!("{name} {version}: {e}"))
}

fn licences(expression: &str) -> Result<Licenses> {
    let expression = SpdxExpression::parse_lax(expression.to_owned())?;
    Ok(Licenses(vec![LicenseChoice::Expression(expression)]))
}

fn hashes(sha256: &str) -> Hashes {
    Hashes(vec![Hash {
        alg: HashAlgorithm::SHA_256,
        content: HashValue(sha256.to_owned()),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WASM;
    use host_demo::plugin::BUNDLED;
    use serde_json::Value;
    use std::path::Path;

    fn packages(of: &str, features: &[&str], target: Option<&str>) -> Packages {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap();
        Packages::of(&root, &lock, &[of], features, target).unwrap()
    }

    fn entries(bill: &Value) -> Vec<&Value> {
        bill["components"].as_array().unwrap().iter().collect()
    }

    fn find<'a>(bill: &'a Value, name: &str) -> Option<&'a Value> {
        entries(bill)
            .into_iter()
            .find(|entry| entry["name"] == name)
    }

    #[test]
    fn the_bills_list_what_is_inside_and_nothing_that_only_built_it() {
        let none = Claims::default();
        let component = Subject::component("defender-endpoint", BUNDLED).unwrap();
        let inside = packages("plugin", &[], Some(WASM));
        let text = bill(&component, &inside, &[], &none).unwrap();
        assert_eq!(text, bill(&component, &inside, &[], &none).unwrap());
        let plugin: Value = serde_json::from_str(&text).unwrap();

        let inside = packages("host-demo", &["environment-plugin"], None);
        let host = Subject::program(
            "host-demo",
            b"a program",
            &inside,
            "1.95.0 (59807616e 2026-04-14)",
        )
        .unwrap();
        let carried = [component];
        let host: Value =
            serde_json::from_str(&bill(&host, &inside, &carried, &none).unwrap()).unwrap();

        assert!(find(&plugin, "serde_json").is_some());
        assert!(find(&plugin, "wasmtime").is_none());
        assert!(find(&host, "wasmtime").is_some());
        let digest = &find(&host, "defender-endpoint.wasm").unwrap()["hashes"][0]["content"];
        assert_eq!(*digest, sha256(BUNDLED));
        for bill in [&plugin, &host] {
            // Bindings and derived code are made by macros, the SQLite by a build script, and what
            // tests need is in neither.
            for absent in ["serde_derive", "syn", "cc", "proptest", "tests"] {
                assert!(find(bill, absent).is_none(), "{absent}");
            }
            assert!(bill.get("serialNumber").is_none_or(Value::is_null));
            assert!(bill["metadata"].get("timestamp").is_none_or(Value::is_null));
        }
    }

    #[test]
    fn each_package_of_the_registry_has_version_licence_purl_and_checksum() {
        let component = Subject::component("defender-endpoint", BUNDLED).unwrap();
        let claims = Claims {
            made: Some("2026-01-30T21:11:22Z".to_owned()),
            revision: None,
        };
        let inside = packages("plugin", &[], Some(WASM));
        let bill = bill(&component, &inside, &[], &claims).unwrap();
        let bill: Value = serde_json::from_str(&bill).unwrap();
        assert_eq!(bill["specVersion"], "1.5");
        assert_eq!(bill["metadata"]["timestamp"], "2026-01-30T21:11:22Z");

        for entry in entries(&bill) {
            assert!(entry["version"].is_string(), "{entry}");
            assert!(entry["licenses"][0]["expression"].is_string(), "{entry}");
            let name = entry["name"].as_str().unwrap();
            let is_ours = name == "plugin" || name == "std";
            assert_eq!(entry["hashes"][0]["content"].is_null(), is_ours, "{entry}");
            assert_eq!(entry["purl"].is_null(), is_ours, "{entry}");
        }
        let wasi = find(&bill, "wasi").unwrap();
        let version = wasi["version"].as_str().unwrap();
        let purl = format!("pkg:cargo/wasi@{version}");
        assert_eq!(wasi["purl"], purl);
        assert_eq!(wasi["hashes"][0]["content"].as_str().unwrap().len(), 64);

        let dependencies = bill["dependencies"].as_array().unwrap();
        let of = |name: &str| dependencies.iter().find(|of| of["ref"] == name).unwrap();
        let root = of("defender-endpoint.wasm")["dependsOn"]
            .as_array()
            .unwrap();
        assert_eq!(root[0], "plugin@0.1.0");
        let known: Vec<&Value> = entries(&bill)
            .iter()
            .map(|entry| &entry["bom-ref"])
            .collect();
        for needed in dependencies
            .iter()
            .flat_map(|of| of["dependsOn"].as_array())
            .flatten()
        {
            assert!(known.contains(&needed), "{needed}");
        }
    }
}

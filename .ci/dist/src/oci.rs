//! Components as images of OCI, in a folder that `oras` and others push from as it is.
//!
//! The layout is the OCI image specification's ("Image Layout"), and what an image of WebAssembly
//! looks like is the guidance of the CNCF's working group on WebAssembly ("Wasm OCI Artifact
//! Layout"): one layer, which is the component, and a configuration that lists its imports and
//! exports.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use wasm_metadata::Payload;
use wit_component::DecodedWasm;

use crate::Claims;
use crate::sums::sha256;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIGURATION: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";

/// A configuration must have a time. This one says that none is claimed.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

#[derive(Default)]
pub(crate) struct Layout {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: Vec<Value>,
}

impl Layout {
    /// Adds a component under its name. What its annotations say it says itself.
    pub(crate) fn add(&mut self, name: &str, component: &[u8], claims: &Claims) -> Result<()> {
        let (imports, exports) = interfaces(component)?;
        let file = format!("{name}.wasm");
        let mut layer = self.blob(LAYER, component.to_vec());
        // What `oras pull` calls the file.
        layer["annotations"] = json!({ "org.opencontainers.image.title": file });
        let configuration = json!({
            "created": claims.made.as_deref().unwrap_or(NO_TIME),
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [layer["digest"]],
            "component": { "exports": exports, "imports": imports },
        });
        let configuration = self.blob(CONFIGURATION, serde_json::to_vec(&configuration)?);

        let payload = Payload::from_binary(component)?;
        let about = payload.metadata();
        let mut annotations = BTreeMap::new();
        let mut annotate = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                annotations.insert(format!("org.opencontainers.image.{key}"), value);
            }
        };
        annotate("title", Some(file));
        annotate("version", about.version.as_ref().map(ToString::to_string));
        annotate("licenses", about.licenses.as_ref().map(ToString::to_string));
        annotate(
            "description",
            about.description.as_ref().map(ToString::to_string),
        );
        annotate("created", claims.made.clone());
        annotate("revision", claims.revision.clone());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": configuration,
            "layers": [layer],
            "annotations": annotations,
        });
        let mut manifest = self.blob(MANIFEST, serde_json::to_vec(&manifest)?);
        // What a copy from this folder is asked for by.
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        self.manifests.push(manifest);
        Ok(())
    }

    /// Keeps the bytes, and answers with their descriptor.
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
        });
        self.blobs.insert(digest, bytes);
        descriptor
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        for (digest, bytes) in &self.blobs {
            fs::write(blobs.join(digest), bytes)?;
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": self.manifests,
        });
        fs::write(folder.join("index.json"), serde_json::to_vec(&index)?)?;
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        Ok(fs::write(
            folder.join("oci-layout"),
            serde_json::to_vec(&layout)?,
        )?)
    }
}

/// What the component imports and exports.
fn interfaces(component: &[u8]) -> Result<(Vec<String>, Vec<String>)> {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        bail!("this is a package of WIT, and no component");
    };
    let world = resolve
        .worlds
        .get(world)
        .context("a component without a world")?;
    let name = |key| resolve.name_world_key(key);
    Ok((
        world.imports.keys().map(name).collect(),
        world.exports.keys().map(name).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use host_demo::plugin::BUNDLED;

    fn read(folder: &Path, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap();
        let digest = digest.strip_prefix("sha256:").unwrap();
        let bytes = fs::read(folder.join("blobs/sha256").join(digest)).unwrap();
        assert_eq!(sha256(&bytes), digest);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    #[test]
    fn from_the_index_every_digest_leads_to_the_bytes_that_it_is_of() {
        let folder = tempfile::tempdir().unwrap();
        let claims = Claims {
            made: Some("2026-01-30T21:11:22Z".to_owned()),
            revision: Some("5ccbfd0".to_owned()),
        };
        let mut layout = Layout::default();
        layout.add("defender-endpoint", BUNDLED, &claims).unwrap();
        layout.write(folder.path()).unwrap();

        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let file = |name: &str| json(&fs::read(folder.path().join(name)).unwrap());
        assert_eq!(file("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }));
        let index = file("index.json");
        let named = &index["manifests"][0];
        let key = "org.opencontainers.image.ref.name";
        assert_eq!(named["annotations"][key], "defender-endpoint");

        let manifest = json(&read(folder.path(), named));
        assert_eq!(manifest["config"]["mediaType"], CONFIGURATION);
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 1);
        assert_eq!(layers[0]["mediaType"], LAYER);
        let title = &layers[0]["annotations"]["org.opencontainers.image.title"];
        assert_eq!(title, "defender-endpoint.wasm");
        assert_eq!(read(folder.path(), &layers[0]), BUNDLED);
        let said = |key: &str| &manifest["annotations"][format!("org.opencontainers.image.{key}")];
        assert_eq!(said("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(said("licenses"), "Apache-2.0");
        assert_eq!(said("revision"), "5ccbfd0");
        assert_eq!(said("created"), "2026-01-30T21:11:22Z");

        let configuration = json(&read(folder.path(), &manifest["config"]));
        assert_eq!(configuration["layerDigests"], json!([layers[0]["digest"]]));
        assert_eq!(configuration["created"], "2026-01-30T21:11:22Z");
        let exports = configuration["component"]["exports"].as_array().unwrap();
        assert!(exports.contains(&"defender:endpoint/code-execution@0.1.0".into()));
        let imports = configuration["component"]["imports"].as_array().unwrap();
        assert!(imports.contains(&"defender:endpoint/connection@0.1.0".into()));
    }
}

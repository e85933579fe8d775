//! What a component says of itself, where `wasm-tools metadata show` and registries look for it.
//!
//! It says nothing of where its source lies, or of which revision: the same source is the same
//! component, wherever it was got from.

/// The plugin, which says what it is.
pub fn plugin(component: &[u8]) -> Result<Vec<u8>, String> {
    described(
        component,
        "defender-endpoint",
        "Releases devices from app-execution restriction through Microsoft Defender for Endpoint",
    )
}

/// The component that reads its connection from the environment, which says what it is.
pub fn environment(component: &[u8]) -> Result<Vec<u8>, String> {
    described(
        component,
        "defender-endpoint-env",
        "Releases devices through Defender for Endpoint, with a token from the environment",
    )
}

/// A component that says what it is.
fn described(component: &[u8], name: &str, about: &str) -> Result<Vec<u8>, String> {
    let mut metadata = wasm_metadata::AddMetadata::default();
    metadata.name = wasm_metadata::AddMetadataField::Set(name.to_owned());
    let mut described = metadata
        .to_wasm(component)
        .map_err(|e| format!("{name} can't be described: {e:#}"))?;
    // Each as the annotation of that name in the OCI image specification. This crate's version and
    // licence are the workspace's.
    for (name, text) in [
        ("description", about),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        let section = wasm_encoder::CustomSection {
            name: name.into(),
            data: text.as_bytes().into(),
        };
        wasm_encoder::ComponentSection::append_to_component(&section, &mut described);
    }
    Ok(described)
}

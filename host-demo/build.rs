//! Builds the plugin: `$OUT_DIR/defender-endpoint.wasm`; and where that is asked for, composes it
//! with what answers its import from the environment: `$OUT_DIR/defender-endpoint-env.wasm`.

#[cfg(feature = "bundled-plugin")]
#[path = "build/component.rs"]
mod component;
#[cfg(feature = "environment-plugin")]
#[path = "build/compose.rs"]
mod compose;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    #[cfg(feature = "bundled-plugin")]
    if let Err(problem) = components() {
        // Line by line: cargo shows what stands behind this prefix, without a panic's noise.
        for line in problem.lines() {
            println!("cargo::error={line}");
        }
    }
}

#[cfg(feature = "bundled-plugin")]
fn components() -> Result<(), String> {
    let plugin = built("plugin")?;
    write("defender-endpoint.wasm", &plugin)?;
    #[cfg(feature = "environment-plugin")]
    {
        let provider = built("plugin/environment")?;
        let composed = compose::plugged(plugin, provider)?;
        write("defender-endpoint-env.wasm", &composed)?;
    }
    Ok(())
}

#[cfg(feature = "bundled-plugin")]
/// The component of the package in this folder, which has the folder's name.
fn built(folder: &str) -> Result<Vec<u8>, String> {
    let root = component::root()?.join(folder);
    for input in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let package = folder.rsplit('/').next().unwrap_or(folder);
    component::build(package)
}

#[cfg(feature = "bundled-plugin")]
fn write(name: &str, bytes: &[u8]) -> Result<(), String> {
    let file = component::var("OUT_DIR")?.join(name);
    std::fs::write(file, bytes).map_err(|e| e.to_string())
}

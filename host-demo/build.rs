//! Builds the plugin: `$OUT_DIR/defender-endpoint.wasm`; and where that is asked for, composes it
//! with what answers its import from the environment: `$OUT_DIR/defender-endpoint-env.wasm`.

#[cfg(feature = "bundled-plugin")]
#[path = "build/component.rs"]
mod component;
#[cfg(feature = "environment-plugin")]
#[path = "build/compose.rs"]
mod compose;
#[cfg(feature = "bundled-plugin")]
#[path = "build/description.rs"]
mod description;

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
    let write = |name: &str, bytes: &[u8]| {
        let file = component::var("OUT_DIR")?.join(name);
        std::fs::write(file, bytes).map_err(|e| e.to_string())
    };
    let watch = |folder: &str| {
        for input in ["src", "Cargo.toml"] {
            let file = component::root()?.join(folder).join(input);
            println!("cargo::rerun-if-changed={}", file.display());
        }
        Ok::<(), String>(())
    };
    watch("plugin")?;
    let plugin = component::build("plugin")?;
    write("defender-endpoint.wasm", &description::plugin(&plugin)?)?;
    #[cfg(feature = "environment-plugin")]
    {
        watch("plugin/environment")?;
        let composed = compose::plugged(plugin, component::build("environment")?)?;
        write(
            "defender-endpoint-env.wasm",
            &description::environment(&composed)?,
        )?;
    }
    Ok(())
}

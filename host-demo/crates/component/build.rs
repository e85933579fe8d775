//! Builds the plugin: `$OUT_DIR/defender-endpoint.wasm`; and with the feature `environment`, composes
//! it with what answers its import from the environment: `$OUT_DIR/defender-endpoint-env.wasm`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Err(problem) = components() {
        // Line by line: cargo shows what stands behind this prefix, without a panic's noise.
        for line in problem.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn components() -> Result<(), String> {
    let write = |name: &str, bytes: &[u8]| {
        let file = guest_build::var("OUT_DIR")?.join(name);
        std::fs::write(file, bytes).map_err(|e| e.to_string())
    };
    let watch = |folder: &str| {
        for input in ["src", "Cargo.toml"] {
            let file = guest_build::root()?.join(folder).join(input);
            println!("cargo::rerun-if-changed={}", file.display());
        }
        Ok::<(), String>(())
    };
    watch("plugin")?;
    let plugin = guest_build::build("plugin")?;
    let described = guest_build::description::plugin(&plugin)?;
    write("defender-endpoint.wasm", &described)?;
    #[cfg(feature = "environment")]
    {
        watch("plugin/environment")?;
        let environment = guest_build::build("environment")?;
        let composed = guest_build::compose::plugged(plugin, environment)?;
        let described = guest_build::description::environment(&composed)?;
        write("defender-endpoint-env.wasm", &described)?;
    }
    Ok(())
}

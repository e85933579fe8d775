//! Builds the plugin: `$OUT_DIR/defender-endpoint.wasm`.

#[path = "build/component.rs"]
mod component;
#[path = "build/description.rs"]
mod description;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    if std::env::var_os("CARGO_FEATURE_BUNDLED_PLUGIN").is_none() {
        return;
    }
    if let Err(problem) = plugin() {
        // Line by line: cargo shows what stands behind this prefix, without a panic's noise.
        for line in problem.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn plugin() -> Result<(), String> {
    let root = component::root()?;
    for input in ["plugin/src", "plugin/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let bytes = description::plugin()?;
    let file = component::var("OUT_DIR")?.join("defender-endpoint.wasm");
    std::fs::write(file, bytes).map_err(|e| e.to_string())
}

//! Builds the hostile guest: `$OUT_DIR/evil-guest.wasm`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest");
    if let Err(problem) = guest() {
        for line in problem.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn guest() -> Result<(), String> {
    let bytes = guest_build::build("evil-guest")?;
    let file = guest_build::var("OUT_DIR")?.join("evil-guest.wasm");
    std::fs::write(file, bytes).map_err(|e| e.to_string())
}

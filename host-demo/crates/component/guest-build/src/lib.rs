//! Compiles a guest for WebAssembly and makes it a component. For build scripts.
//!
//! It installs nothing. It takes the first of these that is there, and otherwise says what to
//! install:
//!
//! 1. the active toolchain's standard library for `wasm32-unknown-unknown`;
//! 2. the active toolchain's library source, from which cargo builds one;
//! 3. another rustc (`PLUGIN_RUSTC`, or the distribution's in `/usr/bin`) that has either.

#[cfg(feature = "compose")]
pub mod compose;
pub mod description;

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";

/// Where the guest's stack ends. The default of 1 MiB is memory that every instance has to map;
/// parsing needs a small part of this.
const STACK_BYTES: u32 = 64 * 1024;

const REMEDIES: &str = "\
building the plugin needs a Rust standard library for wasm32-unknown-unknown. Either
  - rustup target add wasm32-unknown-unknown
  - or, where rustup cannot download, on Debian: apt-get install rustc-web rust-web-src lld-22
(`make setup` does whichever works; PLUGIN_RUSTC names another rustc that has the library or its source.)";

/// Builds the workspace's package of this name. What it says to cargo about reruns leaves out the
/// package's own files.
pub fn build(package: &str) -> Result<Vec<u8>, String> {
    println!("cargo::rerun-if-env-changed=PLUGIN_RUSTC");
    println!("cargo::rerun-if-env-changed=PLUGIN_KEEP_NAMES");
    let root = root()?;
    for input in ["wit", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    // target/<profile>/build/<package>/out: one place for all profiles, so that the library is
    // built once.
    let out = var("OUT_DIR")?;
    let target_dir = out
        .ancestors()
        .nth(4)
        .ok_or("no target directory")?
        .join("plugin");

    let library = Library::find()?;
    compile(package, &root, &target_dir, &library)?;
    let file = format!("plugin/{}.wasm", package.replace('-', "_"));
    let module = std::fs::read(target_dir.join(TARGET).join(file)).map_err(|e| e.to_string())?;
    let failed = |e| format!("{package} can't be made a component: {e:#}");
    let component = wit_component::ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(failed)?;

    let mut metadata = wasm_metadata::AddMetadata::default();
    if !keeps_names() {
        // The names that the encoder gives to its own parts are six kilobytes that nothing reads
        // but a debugger.
        metadata.name = wasm_metadata::AddMetadataField::Clear;
    }
    // What the compiler had said of itself was stripped with the rest.
    metadata.language = vec![("Rust".to_owned(), String::new())];
    metadata.processed_by = vec![("rustc".to_owned(), library.version()?)];
    metadata.to_wasm(&component).map_err(failed)
}

fn keeps_names() -> bool {
    env::var_os("PLUGIN_KEEP_NAMES").is_some()
}

/// Returns the workspace's folder: the nearest one above the calling package that has the contract.
pub fn root() -> Result<PathBuf, String> {
    let package = var("CARGO_MANIFEST_DIR")?;
    let root = package
        .ancestors()
        .find(|folder| folder.join("wit").is_dir());
    Ok(root.ok_or("no workspace")?.to_path_buf())
}

/// Runs cargo for the guest alone, in an environment without this build's own settings: with them,
/// clippy's driver would compile the library of another compiler, and outer RUSTFLAGS would reach
/// the wasm linker.
fn compile(package: &str, root: &Path, target_dir: &Path, library: &Library) -> Result<(), String> {
    let mut cargo = Command::new(var("CARGO")?);
    for (name, _) in env::vars_os() {
        if is_this_builds(&name) {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(root)
        .args([
            "rustc",
            "--package",
            package,
            "--lib",
            "--crate-type",
            "cdylib",
            "--locked",
        ])
        .args(["--profile", "plugin", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .env("RUSTC", &library.rustc)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(root, library).join("\x1f"),
        );
    if keeps_names() {
        cargo.env("CARGO_PROFILE_PLUGIN_STRIP", "debuginfo");
    }
    if library.from_source {
        // Building the library is unstable in name; Debian and others ship compilers this way.
        cargo
            .env("RUSTC_BOOTSTRAP", "1")
            .arg("-Zbuild-std=std,panic_abort");
    }
    if let Some(linker) = &library.linker {
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    let output = cargo
        .output()
        .map_err(|e| format!("cargo can't be run: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{package} does not build with {}:\n{said}",
        library.rustc.display()
    ))
}

fn is_this_builds(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let registry = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
    ];
    match name.as_ref() {
        "RUSTC"
        | "RUSTC_WRAPPER"
        | "RUSTC_WORKSPACE_WRAPPER"
        | "RUSTC_LINKER"
        | "RUSTDOC"
        | "RUSTFLAGS" => true,
        name if name.starts_with("CLIPPY") => true,
        name => name.starts_with("CARGO") && !registry.iter().any(|kept| name.starts_with(kept)),
    }
}

fn rustflags(root: &Path, library: &Library) -> Vec<String> {
    let mut flags = vec![
        format!("-Clink-arg=-zstack-size={STACK_BYTES}"),
        // For size alone the optimizer still copies into their callers what makes these larger.
        "-Cllvm-args=-inline-threshold=10".to_owned(),
        remap(&library.sysroot.join("lib/rustlib/src/rust"), "/rust"),
    ];
    flags.extend(remaps(root));
    flags
}

/// Panic messages hold source paths. They are made the same wherever the source is built.
pub fn remaps(root: &Path) -> Vec<String> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .unwrap_or_default();
    let registry = home.join("registry/src");
    // The folder that the registry's packages lie in is named after its index.
    let indexes = std::fs::read_dir(&registry).into_iter().flatten().flatten();
    std::iter::once(remap(root, "/project"))
        .chain(indexes.map(|index| remap(&index.path(), "/registry")))
        .collect()
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

/// A rustc, and where its library for wasm comes from.
struct Library {
    rustc: PathBuf,
    sysroot: PathBuf,
    from_source: bool,
    linker: Option<PathBuf>,
}

impl Library {
    fn find() -> Result<Self, String> {
        let active = var("RUSTC")?;
        let others = [
            env::var_os("PLUGIN_RUSTC").map(PathBuf::from),
            Some("/usr/bin/rustc".into()),
        ];
        if let Some(chosen) = &others[0] {
            return Self::of(chosen).ok_or_else(|| {
                format!(
                    "PLUGIN_RUSTC={} has neither the library nor its source",
                    chosen.display()
                )
            });
        }
        Self::of(&active)
            .or_else(|| {
                others
                    .into_iter()
                    .flatten()
                    .find_map(|rustc| Self::of(&rustc))
            })
            .ok_or_else(|| REMEDIES.to_owned())
    }

    fn of(rustc: &Path) -> Option<Self> {
        let sysroot = sysroot(rustc)?;
        let built = sysroot
            .join("lib/rustlib")
            .join(TARGET)
            .join("lib")
            .is_dir();
        let source = sysroot
            .join("lib/rustlib/src/rust/library/std/Cargo.toml")
            .is_file();
        if !built && !source {
            return None;
        }
        // rustup's toolchains bring their linker, and rustc finds it. Distributions' use the
        // system's.
        let linker = if own_linker(&sysroot).is_some() {
            None
        } else {
            Some(find_linker()?)
        };
        Some(Self {
            rustc: rustc.to_path_buf(),
            sysroot,
            from_source: !built,
            linker,
        })
    }

    /// As the compiler itself writes it into what it makes: `1.95.0 (59807616e 2026-04-14)`.
    fn version(&self) -> Result<String, String> {
        let said = Command::new(&self.rustc)
            .arg("--version")
            .output()
            .map_err(|e| format!("{} can't be run: {e}", self.rustc.display()))?;
        let said = String::from_utf8_lossy(&said.stdout);
        Ok(said.trim().trim_start_matches("rustc ").to_owned())
    }
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().into())
}

fn own_linker(sysroot: &Path) -> Option<PathBuf> {
    let host = env::var("HOST").ok()?;
    let linker = sysroot.join("lib/rustlib").join(host).join("bin/rust-lld");
    linker.is_file().then_some(linker)
}

/// The system's linker for wasm, or else the active toolchain's.
fn find_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut names = vec!["wasm-ld".to_owned()];
    names.extend((14..40).rev().map(|version| format!("wasm-ld-{version}")));
    names
        .iter()
        .flat_map(|name| env::split_paths(&path).map(move |dir| dir.join(name)))
        .find(|file| file.is_file())
        .or_else(|| own_linker(&sysroot(&PathBuf::from(env::var_os("RUSTC")?))?))
}

/// Returns the path in an environment variable of the build.
pub fn var(name: &str) -> Result<PathBuf, String> {
    env::var_os(name)
        .map(|value: OsString| value.into())
        .ok_or_else(|| format!("{name} is not set"))
}

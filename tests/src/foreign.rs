//! Hosts that nobody here wrote: wasmtime's command line, JavaScript by jco, and Python.
//!
//! Their packages are installed once, into a folder of the build's, as the lock files in
//! `tests/foreign/` have them.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose hosts do not do what they are told has failed"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use host_demo::plugin;
use serde_json::{Map, Value, json};
use wasm_wave::ast::{Node, NodeType};
use wasm_wave::untyped::UntypedValue;

/// Which of the two components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The one whose connection the host supplies.
    Plain,
    /// The one that reads it from the environment.
    Environment,
}

impl Flavour {
    /// The component.
    pub const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Plain => plugin::BUNDLED,
            Self::Environment => plugin::BUNDLED_ENVIRONMENT,
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Plain => "defender-endpoint.wasm",
            Self::Environment => "defender-endpoint-env.wasm",
        }
    }
}

/// What a host is asked to do: to release a device.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The device.
    pub machine_id: String,
    /// Why.
    pub comment: String,
    /// What the host finds in its environment.
    pub environment: BTreeMap<String, String>,
    /// What the host refuses with instead, as the contract's `refusal`.
    pub refusal: Option<Value>,
    /// The host supplies no connection, not even a refusal.
    pub no_connection: bool,
}

impl Asked {
    fn to_json(&self) -> Value {
        let mut asked = json!({
            "machine_id": self.machine_id,
            "comment": self.comment,
            "environment": self.environment,
            "no_connection": self.no_connection,
        });
        if let Some(refusal) = &self.refusal {
            asked["refusal"] = refusal.clone();
        }
        asked
    }
}

/// Where the packages and the components are.
pub struct Foreign {
    folder: PathBuf,
}

impl Foreign {
    /// In this folder of the build's. Whoever comes meanwhile waits. Where something is missing,
    /// that is said; in CI nothing may be.
    pub fn install(tmp: &Path) -> Result<Self, String> {
        let installed = Self::install_in(tmp);
        if let Err(missing) = &installed {
            let is_ci = std::env::var("CI").as_deref() == Ok("true");
            assert!(!is_ci, "{missing} is missing: run .ci/setup test");
            eprintln!("skipped: {missing} is missing");
        }
        installed
    }

    fn install_in(tmp: &Path) -> Result<Self, String> {
        let folder = tmp.join("foreign");
        std::fs::create_dir_all(&folder).unwrap();
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let foreign = Self { folder };
        foreign.install_node()?;
        foreign.install_python()?;
        for flavour in [Flavour::Plain, Flavour::Environment] {
            let component = foreign.component(flavour);
            if is_put(&component, flavour.bytes()) || !compiled(&component).is_file() {
                foreign.compile(&component);
            }
        }
        Ok(foreign)
    }

    fn install_node(&self) -> Result<(), String> {
        if !is_there(
            "node",
            &[
                "-e",
                "process.exitCode = +(parseInt(process.versions.node) < 20)",
            ],
        ) || !is_there("npm", &["--version"])
        {
            return Err("Node 20 or newer, with npm".to_owned());
        }
        self.install_as(
            "node",
            &["package.json", "package-lock.json", ".npmrc"],
            |to| {
                let mut npm = Command::new("npm");
                npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
                vec![npm.current_dir(to).output()]
            },
        );
        // Beside their packages, where Node looks for them.
        for file in ["engine.mjs", "calls.mjs"] {
            std::fs::copy(
                source("node").join(file),
                self.folder.join("node").join(file),
            )
            .unwrap();
        }
        Ok(())
    }

    fn install_python(&self) -> Result<(), String> {
        let can = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 9))";
        if !is_there("python3", &["-c", can]) {
            return Err("Python 3.9 or newer, with venv".to_owned());
        }
        for name in ["python", "wasmtime"] {
            self.install_as(name, &["requirements.txt"], |to| {
                let mut venv = Command::new("python3");
                let mut pip = Command::new(to.join("venv/bin/python"));
                venv.args(["-m", "venv", "venv"]).current_dir(to);
                pip.args(["-m", "pip", "install", "--disable-pip-version-check"])
                    .args(["--require-hashes", "--requirement", "requirements.txt"])
                    .current_dir(to);
                vec![venv.output(), pip.output()]
            });
        }
        let program = self.wasmtime();
        // Packed without its mode.
        std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)).unwrap();
        Ok(())
    }

    /// Has a folder of packages made anew where a lock file is another one than it was made by.
    fn install_as(
        &self,
        name: &str,
        files: &[&str],
        make: impl FnOnce(&Path) -> Vec<std::io::Result<Output>>,
    ) {
        let (from, to) = (source(name), self.folder.join(name));
        let read = |path: PathBuf| std::fs::read(path).unwrap_or_default();
        let done = to.join("done");
        let is_same = |file: &&str| read(from.join(file)) == read(to.join(file));
        if done.is_file() && files.iter().all(is_same) {
            return;
        }
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir_all(&to).unwrap();
        for file in files {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
        for output in make(&to) {
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name} is not installed: {said}");
        }
        File::create(done).unwrap();
    }

    /// Where a component lies.
    pub fn component(&self, flavour: Flavour) -> PathBuf {
        self.folder.join(flavour.file())
    }

    /// The folder with a language's packages.
    pub fn packages(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// wasmtime's command line.
    pub fn wasmtime(&self) -> PathBuf {
        let packages = std::fs::read_dir(self.folder.join("wasmtime/venv/lib")).unwrap();
        packages
            .map(|python| {
                python
                    .unwrap()
                    .path()
                    .join("site-packages/wasmtime_cli/wasmtime")
            })
            .find(|program| program.is_file())
            .expect("the package has the program")
    }

    /// JavaScript in Node: `engine.mjs` or `calls.mjs`.
    pub fn node(&self, script: &str) -> Command {
        let mut node = Command::new("node");
        node.arg(self.folder.join("node").join(script));
        node
    }

    /// Python: `engine.py` or `calls.py`.
    pub fn python(&self, script: &str) -> Command {
        let mut python = Command::new(self.folder.join("python/venv/bin/python"));
        // Without a cache beside the source.
        python.arg("-B").arg(source("python").join(script));
        python
    }

    /// A process of Node that makes calls.
    pub fn node_driver(&self, component: &Path) -> Driver {
        Driver::start(self.node("calls.mjs").arg(component))
    }

    /// A process of Python that makes calls.
    pub fn python_driver(&self, component: &Path) -> Driver {
        Driver::start(self.python("calls.py").arg(component))
    }

    /// Wasmtime's command line.
    pub fn command_line(&self, flavour: Flavour) -> CommandLine {
        CommandLine {
            program: self.wasmtime(),
            compiled: compiled(&self.component(flavour)),
        }
    }

    /// Compiles a component for the command line, whose calls would else all do that.
    fn compile(&self, component: &Path) {
        let output = Command::new(self.wasmtime())
            // Without it there is no time-out.
            .args(["compile", "-W", "epoch-interruption=y"])
            .arg(component)
            .arg("-o")
            .arg(compiled(component))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn compiled(component: &Path) -> PathBuf {
    component.with_extension("cwasm")
}

/// Puts a file in its place, where it is not there yet: another process may be reading it.
fn is_put(path: &Path, bytes: &[u8]) -> bool {
    if std::fs::read(path).is_ok_and(|found| found == bytes) {
        return false;
    }
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(&new, path).unwrap();
    true
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("foreign")
        .join(name)
}

fn is_there(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// A process that makes one call after another.
pub struct Driver {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Driver {
    fn start(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    /// Makes a call: what came of it, as `{"ok": …}`, `{"err": …}` or, where the host itself
    /// failed, `{"fault": …}`.
    pub fn call(&mut self, asked: &Asked) -> Value {
        self.ask(&asked.to_json())
    }

    /// Makes a call so many times: the seconds that each instance and each call took.
    pub fn time(&mut self, asked: &Asked, rounds: usize) -> [Vec<f64>; 2] {
        let mut asked = asked.to_json();
        asked["rounds"] = json!(rounds);
        let times = self.ask(&asked);
        ["instances", "calls"].map(|what| {
            let each = times[what].as_array();
            let each = each.unwrap_or_else(|| panic!("{times}"));
            each.iter().map(|time| time.as_f64().unwrap()).collect()
        })
    }

    fn ask(&mut self, asked: &Value) -> Value {
        // Whoever has died is found out as it does not answer.
        let _ = writeln!(self.input, "{asked}");
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line)
            .unwrap_or_else(|_| json!({ "crash": format!("{:?} {line}", self.process.try_wait()) }))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Wasmtime's command line. Each call is a process.
pub struct CommandLine {
    program: PathBuf,
    compiled: PathBuf,
}

impl CommandLine {
    /// Makes a call, as [`Driver::call`] does.
    pub fn call(&self, asked: &Asked) -> Value {
        let output = self.run(asked);
        let (said, failed) = (text(&output.stdout), text(&output.stderr));
        match output.status.code() {
            Some(0) => wave(said.trim()),
            Some(_) => json!({ "fault": failed }),
            None => json!({ "crash": format!("{:?} {failed}", output.status) }),
        }
    }

    /// Runs the process to its end.
    pub fn run(&self, asked: &Asked) -> Output {
        let mut wasmtime = Command::new(&self.program);
        wasmtime.args(["run", "--allow-precompiled", "-S", "http"]);
        wasmtime.args(["-W", "timeout=60s"]);
        for (name, value) in &asked.environment {
            wasmtime.arg("--env").arg(format!("{name}={value}"));
        }
        // A text is escaped in WAVE as in Rust.
        let Asked {
            machine_id,
            comment,
            ..
        } = asked;
        let call = format!("unrestrict-code-execution({machine_id:?}, {comment:?})");
        wasmtime.args(["--invoke", &call]).arg(&self.compiled);
        wasmtime.env_remove("RUST_BACKTRACE").output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A value in WAVE, WebAssembly's notation for values, as JSON.
fn wave(text: &str) -> Value {
    let value = UntypedValue::parse(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    plain(value.node(), text)
}

fn plain(node: &Node, text: &str) -> Value {
    let case = |name: &str, payload: Option<&Node>| {
        let payload = payload.map_or(Value::Null, |payload| plain(payload, text));
        Value::Object(Map::from_iter([(name.to_owned(), payload)]))
    };
    match node.ty() {
        NodeType::Record => {
            let fields = node.as_record(text).unwrap();
            let fields = fields.map(|(name, field)| (name.to_owned(), plain(field, text)));
            Value::Object(fields.collect())
        }
        NodeType::List => node.as_list().unwrap().map(|n| plain(n, text)).collect(),
        NodeType::String | NodeType::MultilineString => node.as_str(text).unwrap().into(),
        NodeType::Number => node.as_number::<i64>(text).unwrap().into(),
        NodeType::BoolTrue | NodeType::BoolFalse => node.as_bool().unwrap().into(),
        NodeType::Label => node.as_enum(text).unwrap().into(),
        NodeType::VariantWithPayload => {
            let (name, payload) = node.as_variant(text).unwrap();
            case(name, payload)
        }
        NodeType::OptionSome | NodeType::OptionNone => {
            let some = node.as_option().unwrap();
            some.map_or(Value::Null, |some| plain(some, text))
        }
        NodeType::ResultOk => case("ok", node.as_result().unwrap().unwrap()),
        NodeType::ResultErr => case("err", node.as_result().unwrap().unwrap_err()),
        NodeType::Char | NodeType::Tuple | NodeType::Flags => {
            unreachable!("the contract has none: {text}")
        }
    }
}

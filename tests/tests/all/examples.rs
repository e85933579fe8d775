//! The hosts in JavaScript and Python that the project has for an example, in `tests/foreign/`.

use std::path::Path;
use std::process::{Command, Output};

use defender_mock::{Grant, Mock};
use serde_json::Value;
use tests::foreign::{Asked, Flavour, Foreign};
use tests::world::EVIL;

const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

fn install() -> Option<Foreign> {
    Foreign::install(Path::new(env!("CARGO_TARGET_TMPDIR"))).ok()
}

fn engines(foreign: &Foreign) -> [Command; 2] {
    [foreign.node("engine.mjs"), foreign.python("engine.py")]
}

fn run(
    mut engine: Command,
    component: &Path,
    machine: &str,
    environment: &[(&str, &str)],
) -> Output {
    engine.arg(component).args([machine, "cleaned"]);
    for name in ["DEFENDER_BASE_URL", "DEFENDER_TOKEN"] {
        engine.env_remove(name);
    }
    engine.envs(environment.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_example_releases_a_device_with_either_component_and_prints_one_line_of_json() {
    let Some(foreign) = install() else { return };
    for flavour in [Flavour::Plain, Flavour::Environment] {
        for python in [false, true] {
            let engine = || {
                let [node, other] = engines(&foreign);
                if python { other } else { node }
            };
            let mock = Mock::builder().plain_http(true).start().await.unwrap();
            let token = mock.token(Grant::new());
            let machine = &mock.machine_ids()[0];
            let environment = [
                ("DEFENDER_BASE_URL", mock.base_url()),
                ("DEFENDER_TOKEN", &token),
            ];
            let component = foreign.component(flavour);
            let told = |environment, code| {
                let output = run(engine(), &component, machine, environment);
                let (line, failed) = said(&output);
                assert_eq!(output.status.code(), Some(code), "{line} {failed}");
                assert_eq!(line.lines().count(), 1, "{line}");
                serde_json::from_str::<Value>(&line).unwrap()
            };
            let released = told(&environment[..], 0);
            assert_eq!(released["ok"]["machine-id"], machine.as_str());
            let refused = told(&environment[..1], 1);
            assert_eq!(refused["err"]["reason"], "unavailable");
            let message = refused["err"]["message"].as_str().unwrap();
            assert!(message.contains("DEFENDER_TOKEN"), "{message}");
            assert_eq!(mock.requests().len(), 1);
        }
    }
}

#[test]
fn an_example_grants_a_hostile_plugin_what_it_was_called_for_and_nothing_else() {
    let Some(foreign) = install() else { return };
    let folder = tempfile::tempdir().unwrap();
    let component = folder.path().join("evil-guest.wasm");
    std::fs::write(&component, EVIL).unwrap();
    let other = MACHINE.replace('1', "2");
    for mut driver in [
        foreign.node_driver(&component),
        foreign.python_driver(&component),
    ] {
        for way in [
            format!("open-machine {other}"),
            "open-nothing".to_owned(),
            format!("open-action {MACHINE}"),
        ] {
            let told = driver.call(&Asked {
                machine_id: MACHINE.to_owned(),
                comment: way.clone(),
                environment: [
                    ("DEFENDER_BASE_URL", "http://127.0.0.1:9"),
                    ("DEFENDER_TOKEN", "token"),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
                ..Asked::default()
            });
            let met = told["err"]["message"].as_str().unwrap_or_default();
            assert!(met.starts_with("Err(Refusal::Denied("), "{way}: {told}");
        }
    }
}

#[test]
fn an_example_does_not_run_a_component_that_wants_more() {
    let Some(foreign) = install() else { return };
    let folder = tempfile::tempdir().unwrap();
    let component = folder.path().join("more.wasm");
    // What wasmtime's package for Python could give it.
    let text = r#"(component
        (import "wasi:random/random@0.2.4" (instance $random
            (export "get-random-u64" (func (result u64)))))
        (core func $wanted (canon lower (func $random "get-random-u64")))
        (core module $code
            (import "random" "get" (func $wanted (result i64)))
            (func (export "run") (drop (call $wanted))))
        (core instance $code (instantiate $code
            (with "random" (instance (export "get" (func $wanted))))))
        (func $run (canon lift (core func $code "run")))
        (instance $plugin (export "unrestrict-code-execution" (func $run)))
        (export "defender:endpoint/code-execution@0.1.0" (instance $plugin)))"#;
    std::fs::write(&component, wat::parse_str(text).unwrap()).unwrap();
    for engine in engines(&foreign) {
        let output = run(engine, &component, MACHINE, &[]);
        let (line, failed) = said(&output);
        assert_eq!((output.status.code(), &*line), (Some(2), ""), "{failed}");
        assert!(failed.contains("wasi:random/random"), "{failed}");
    }
}

/// The engine author's guide, line by line in a folder that looks like a checkout. What it installs
/// is installed already, and the stand-in has another port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_shell_lines_release_a_device() {
    const GUIDE: &str = include_str!("../../../docs/engine.md");
    const INSTALL: [&str; 3] = ["python3 -m venv ", "target/engine/bin/pip ", "npm ci "];

    let Some(foreign) = install() else { return };
    let folder = tempfile::tempdir().unwrap();
    let link = |to: &Path, name: &str| {
        let from = folder.path().join(name);
        std::fs::create_dir_all(from.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to.canonicalize().unwrap(), from).unwrap();
    };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign");
    let packages = foreign.packages("node").join("node_modules");
    link(&packages, "tests/foreign/node/node_modules");
    // Node runs it as a program by its own name only.
    let engine = "node/engine.mjs";
    let copy = folder.path().join("tests/foreign").join(engine);
    std::fs::copy(sources.join(engine), copy).unwrap();
    link(&sources.join("python"), "tests/foreign/python");
    link(&foreign.packages("python").join("venv"), "target/engine");
    for flavour in [Flavour::Plain, Flavour::Environment] {
        let component = foreign.component(flavour);
        let name = component.file_name().unwrap().to_str().unwrap();
        link(&component, &format!("target/components/{name}"));
    }
    let program = foreign.wasmtime();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let mut run = 0;
    for block in crate::docs::blocks(GUIDE, "sh") {
        let is_engine = ["engine.py", "engine.mjs", "wasmtime run"]
            .iter()
            .any(|engine| block.contains(engine));
        if !is_engine {
            continue;
        }
        let mock = Mock::builder().plain_http(true).start().await.unwrap();
        let token = folder.path().join("stand-in.token");
        std::fs::write(token, mock.token(Grant::new())).unwrap();
        let installs = |line: &&str| INSTALL.iter().any(|start| line.starts_with(start));
        let lines: Vec<&str> = block.lines().filter(|line| !installs(line)).collect();
        let lines = lines
            .join("\n")
            .replace("http://localhost:8787", mock.base_url());
        let output = Command::new("sh")
            .args(["-euc", &lines])
            .env("PATH", &path)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let (out, err) = said(&output);
        assert!(output.status.success(), "{lines}\n{out}{err}");
        let released: Vec<bool> = mock
            .machine_ids()
            .iter()
            .map(|id| mock.actions_of(id).len() == 1)
            .collect();
        assert_eq!(released, [true, false, false], "{lines}\n{out}{err}");
        run += 1;
    }
    assert_eq!(run, 3, "one for each engine");
}

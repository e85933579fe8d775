//! The gateway as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, ChildStdout};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::json;

use super::*;

/// The command in real time, as a capability lasts.
fn real<'a>(stage: &'a Stage, args: &[&str]) -> Run<'a> {
    stage
        .bare(args)
        .connected_without_ca()
        .with_args(["--ca-file", "ca.pem"])
        .env("AZURE_CLIENT_SECRET", stage.mock.client_secret())
}

/// One that listens. It is killed when this is dropped.
struct Gateway<'a> {
    stage: &'a Stage,
    child: Child,
    out: BufReader<ChildStdout>,
    base_url: String,
    key_file: PathBuf,
}

impl<'a> Gateway<'a> {
    fn start(stage: &'a Stage, args: &[&str]) -> Self {
        let mut command = real(stage, &["gateway", "--output", "json", "-v"])
            .with_args(args)
            .command;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let first: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(first["type"], "gateway");
        let text = |name: &str| first[name].as_str().unwrap().to_owned();
        Self {
            stage,
            child,
            out,
            base_url: text("base_url"),
            key_file: stage.folder.path().join(text("key_file")),
        }
    }

    fn key(&self) -> String {
        std::fs::read_to_string(&self.key_file).unwrap()
    }

    fn post(&self, path: &str, bearer: &str, body: String) -> (u16, Value) {
        self.stage.runtime.block_on(async {
            let client = tests::bare::client(b"").unwrap();
            let request = client.post(format!("{}{path}", self.base_url));
            let request = request
                .header(AUTHORIZATION, format!("Bearer {bearer}"))
                .header(CONTENT_TYPE, "application/json");
            let answer = request.body(body).send().await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.bytes().await.unwrap();
            (status, serde_json::from_slice(&body).unwrap())
        })
    }

    fn ask(&self, machine: &str) -> (u16, Value) {
        let asked = json!({
            "operation": "unrestrict-code-execution", "target": machine, "comment": "cleaned"
        });
        self.post("/capabilities", &self.key(), asked.to_string())
    }

    fn release(&self, machine: &str) -> (u16, Value) {
        let (status, granted) = self.ask(machine);
        assert_eq!(status, 201, "{granted}");
        let capability = granted["capability"].as_str().unwrap();
        let path = format!("/api/machines/{machine}/unrestrictCodeExecution");
        self.post(
            &path,
            capability,
            json!({ "Comment": "cleaned" }).to_string(),
        )
    }

    /// Ends it as a service manager does.
    fn terminate(mut self) -> (Option<i32>, Said) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        let mut said = Said {
            out: String::new(),
            err: String::new(),
        };
        std::io::Read::read_to_string(&mut self.out, &mut said.out).unwrap();
        let mut err = self.child.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut err, &mut said.err).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_engine_finds_the_gateway_by_its_first_line_and_has_devices_released_by_it() {
    let stage = super::quota::strict();
    let gateway = Gateway::start(&stage, &[]);
    let (key_file, key) = (gateway.key_file.clone(), gateway.key());
    assert!(key_file.starts_with(stage.folder.path().join(".local/state/host-demo")));
    assert_eq!(
        key_file.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    let (status, action) = gateway.release(&stage.id());
    assert_eq!((status, &action["machineId"]), (201, &json!(stage.id())));
    let (status, granted) = gateway.ask(&stage.id());
    assert_eq!(status, 201);
    let path = format!("/api/machines/{}/offboard", stage.id());
    let capability = granted["capability"].as_str().unwrap().to_owned();
    let (status, refusal) = gateway.post(&path, &capability, String::new());
    assert_eq!((status, &refusal["error"]["code"]), (403, &json!("Denied")));

    let (code, said) = gateway.terminate();
    assert_eq!(code, Some(0), "{said}");
    assert!(!key_file.exists(), "it opens nothing any more");
    said.mentions("passed on")
        .mentions("answered=201")
        .mentions("no rule allows POST")
        .hides(&key)
        .hides(&capability)
        .hides(stage.mock.client_secret());
    let verified = stage
        .bare(["audit", "verify", "--output", "json"])
        .exits(0)
        .json();
    assert_eq!(verified[0]["open"], json!([]));
    assert_eq!(verified[0]["records"], 3);
    assert_eq!(stage.mock.arrivals(RELEASE), 1);
}

#[test]
fn two_gateways_and_the_command_count_in_one_ledger() {
    // Two calls in an hour.
    let stage = super::quota::strict();
    let strict = ["--config", "strict.toml"];
    let one = Gateway::start(&stage, &strict);
    let other = ["--config", "strict.toml", "--key-file", "other.key"];
    let other = Gateway::start(&stage, &other);
    assert_ne!(one.key(), other.key());
    let ids = stage.mock.machine_ids();
    assert_eq!(one.release(&ids[0]).0, 201);
    assert_eq!(other.release(&ids[1]).0, 201);
    for gateway in [&one, &other] {
        let (status, full) = gateway.ask(&ids[2]);
        assert_eq!((status, &full["error"]["code"]), (429, &json!("QuotaUsed")));
    }
    let release = ["unrestrict", &ids[2], "--comment", "x", "--no-wait"];
    real(&stage, &release)
        .with_args(strict)
        .with_args(["--deadline", "30m"])
        .exits(2)
        .mentions("no call is left before 20");
    assert_eq!(stage.mock.arrivals(RELEASE), 2);
}

#[test]
fn a_file_that_holds_no_key_is_not_replaced() {
    let stage = super::quota::strict();
    for (file, kept) in [("notes", "notes"), ("one.key", "one.key.lock")] {
        let kept = stage.folder.path().join(kept);
        std::fs::write(&kept, "mine").unwrap();
        real(&stage, &["gateway", "--key-file", file])
            .exits(2)
            .mentions("name another")
            .mentions("--key-file");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "mine");
    }
}

#[test]
fn the_key_file_of_a_running_gateway_is_not_taken_and_that_of_a_dead_one_is() {
    let stage = super::quota::strict();
    let file = ["--key-file", "one.key"];
    let mut first = Gateway::start(&stage, &file);
    let key = first.key();
    // By another name of the same file.
    std::fs::create_dir(stage.folder.path().join("sub")).unwrap();
    for name in ["one.key", "sub/../one.key"] {
        real(&stage, &["gateway", "--key-file", name])
            .exits(2)
            .mentions("another gateway is running with the key file")
            .mentions("--key-file");
    }
    assert_eq!(first.key(), key);
    assert_eq!(first.release(&stage.id()).0, 201);

    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(first.key_file.exists(), "it was killed");
    let second = Gateway::start(&stage, &file);
    assert_ne!(second.key(), key);
    assert_eq!(second.release(&stage.mock.machine_ids()[1]).0, 201);
    let key_file = second.key_file.clone();
    let (code, said) = second.terminate();
    assert_eq!(code, Some(0), "{said}");
    let left = std::fs::read_dir(stage.folder.path()).unwrap();
    let mut left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(!key_file.exists());
    assert!(
        !left.any(|name| name.starts_with("one.key")),
        "a lock is left"
    );
}

#[test]
fn what_others_could_reach_or_what_a_gateway_does_not_do_is_refused_and_says_why() {
    let stage = Stage::new();
    stage
        .run(["gateway", "--listen", "0.0.0.0:0"])
        .exits(2)
        .mentions("is no loopback address");
    stage
        .run(["gateway", "--plugin", "x.wasm"])
        .exits(2)
        .mentions("the gateway runs no plugin");
    stage
        .run(["gateway", "--auth", "device-code"])
        .exits(2)
        .mentions("nobody is there to sign in");
    stage
        .run(["gateway", "--key-file", "/nowhere/key"])
        .exits(2)
        .mentions("the key can't be written to /nowhere/key");
}

/// In a shell, where there is one with curl and jq; in CI there must be.
#[test]
fn what_the_help_types_in_a_shell_releases_a_device() {
    let script = "curl --help all | grep -q -e --json && jq --version";
    let there = Command::new("sh").args(["-c", script]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "curl, 7.82 or newer, or jq is missing"
        );
        eprintln!("skipped: curl, 7.82 or newer, or jq is missing");
        return;
    }
    let stage = super::quota::strict();
    let help = stage.bare(["gateway", "--help"]).exits(0).out;
    let (_, example) = help.split_once("\nExample:\n").unwrap();
    let (start, script) = example.split_once("\n\n").unwrap();
    let (script, _) = script.split_once("\n\n").unwrap();
    // The shell's home is the stage's folder.
    let key_file = stage.folder.path().join(".gateway.key");
    assert!(start.contains("--key-file ~/.gateway.key"), "{start}");
    let gateway = Gateway::start(&stage, &["--key-file", &key_file.display().to_string()]);
    let (id, origin) = (stage.id(), "http://127.0.0.1:8787");
    assert!(start.contains(&origin.replace("http://", "--listen ")));
    let script = script
        .replace("1e5bc9d7e413ddd7902c2932e418702b84d0cc07", &id)
        .replace(origin, &gateway.base_url);
    let shell = Command::new("sh")
        .args(["-euc", &script])
        .env("HOME", stage.folder.path())
        .output()
        .unwrap();
    let action: Value = serde_json::from_slice(&shell.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}\n{script}", Said::new(&shell)));
    assert_eq!(action["machineId"], json!(id));
    assert_eq!(action["requestorComment"], "INC-42: cleaned");
}

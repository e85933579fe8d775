//! The command itself, as a process, against the stand-in.

mod batch;
mod cancel;
mod gateway;
mod hostile_plugin;
mod input;
mod interrupt;
mod mock;
mod names;
mod options;
mod pilot;
mod quota;
mod restricted;
mod runs;
mod suggestions;
mod waiting;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, LazyLock};

use defender_mock::{
    Api, DeviceBehaviour, Duplicate, Ending, Fault, Grant, Machine, Mock, Switches,
};
use host_demo::clock::SystemClock;
use serde_json::Value;
use tests::binary::{defender_mock_binary, demo_binary, host_demo_binary};

static BINARY: LazyLock<PathBuf> = LazyLock::new(host_demo_binary);
static STAND_IN: LazyLock<PathBuf> = LazyLock::new(defender_mock_binary);

/// A minute takes a second and a fifth: what is followed to its end is followed quickly.
const SCALE: u32 = 50;

/// A stand-in, and a folder for the files that a run needs.
struct Stage {
    mock: Mock,
    folder: tempfile::TempDir,
    // Last: the stand-in is stopped on it.
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new() -> Self {
        Self::with(Switches::default(), &[])
    }

    fn with(switches: Switches, machine_ids: &[&str]) -> Self {
        let named = |id: &&str| Machine::new(*id, "named.contoso.com");
        Self::with_machines(switches, machine_ids.iter().map(named))
    }

    /// Three made-up machines, and these.
    fn with_machines(switches: Switches, machines: impl IntoIterator<Item = Machine>) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut builder = Mock::builder()
            .clock(Arc::new(SystemClock::scaled(SCALE)))
            .machines(3)
            .switches(switches);
        for machine in machines {
            builder = builder.machine(machine);
        }
        let mock = runtime.block_on(builder.start()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), mock.ca_pem().unwrap()).unwrap();
        Self {
            mock,
            folder,
            runtime,
        }
    }

    fn id(&self) -> String {
        self.mock.machine_ids()[0].clone()
    }

    /// The command with these arguments, told of the stand-in and its application.
    fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run<'_> {
        self.bare(args).connected()
    }

    /// The command with these arguments and no others, in an empty environment.
    fn bare<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run<'_> {
        self.program(&BINARY, args)
    }

    /// The stand-in as a program, with these arguments and no others, in an empty environment.
    fn stand_in<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run<'_> {
        self.program(&STAND_IN, args)
    }

    fn program<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Run<'_> {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("XDG_CACHE_HOME", cache())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        Run {
            command,
            stage: self,
        }
    }
}

/// Compiled code is kept from one test to the next, as it is from one run to the next.
fn cache() -> PathBuf {
    BINARY.with_file_name("host-demo-cache")
}

#[must_use]
struct Run<'a> {
    command: Command,
    stage: &'a Stage,
}

impl Run<'_> {
    fn connected(self) -> Self {
        let mock = &self.stage.mock;
        let secret = mock.client_secret().to_owned();
        self.connected_without_ca()
            .with_args(["--ca-file", "ca.pem"])
            .with_args(["--time-scale", &SCALE.to_string()])
            // Of the machine's own time that is seconds, where the default would be half of one:
            // what a busy machine takes is not to look like a service that does not answer.
            .with_args(["--timeout", "20m"])
            .env("AZURE_CLIENT_SECRET", &secret)
    }

    fn connected_without_ca(self) -> Self {
        let mock = &self.stage.mock;
        self.with_args([
            "--base-url",
            mock.base_url(),
            "--authority",
            mock.authority(),
        ])
        .with_args(["--scope", &mock.scope()])
        .env("AZURE_TENANT_ID", mock.tenant_id())
        .env("AZURE_CLIENT_ID", mock.client_id())
    }

    fn with_args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it, and expects this exit code.
    #[track_caller]
    fn exits(mut self, code: i32) -> Said {
        let output = self.command.output().unwrap();
        let said = Said::new(&output);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{:?}\n{said}\nwhat arrived: {:#?}",
            self.command,
            self.stage.mock.requests()
        );
        said
    }
}

struct Said {
    out: String,
    err: String,
}

impl Said {
    fn new(output: &Output) -> Self {
        Self {
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    fn both(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// The lines of JSON on standard output, each of which must be whole. Without those of type
    /// `waiting`: on a machine that is busy there can be some.
    #[track_caller]
    fn json(&self) -> Vec<Value> {
        let mut lines = self.all_json();
        lines.retain(|line| line["type"] != "waiting");
        lines
    }

    /// What was waited for, as programs are told of it.
    #[track_caller]
    fn waits(&self) -> Vec<Value> {
        let mut lines = self.all_json();
        lines.retain(|line| line["type"] == "waiting");
        lines
    }

    #[track_caller]
    fn all_json(&self) -> Vec<Value> {
        assert!(self.out.ends_with('\n'), "the last line is cut: {self}");
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.out.lines().map(parse).collect()
    }

    #[track_caller]
    fn mentions(&self, text: &str) -> &Self {
        assert!(
            self.both().contains(text),
            "nothing about {text:?} in:\n{self}"
        );
        self
    }

    #[track_caller]
    fn hides(&self, secret: &str) -> &Self {
        assert!(
            !self.both().contains(secret),
            "{secret:?} is shown in:\n{self}"
        );
        self
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--- stdout\n{}--- stderr\n{}---", self.out, self.err)
    }
}

const RELEASE: Api = Api::UnrestrictCodeExecution;

#[test]
fn a_device_is_released_and_followed_until_it_is_free() {
    let stage = Stage::new();
    let id = stage.id();
    let said = stage
        .run(["unrestrict", &id, "--comment", "INC-42: cleaned"])
        .exits(0);
    said.mentions(&format!("released             {id}"))
        .mentions("Succeeded");
    assert_eq!(stage.mock.arrivals(RELEASE), 1);
    assert_eq!(stage.mock.is_restricted(&id), Some(false));
    let comment = &stage.mock.actions_of(&id)[0].requestor_comment;
    let (why, reference) = comment.split_once(" [").unwrap();
    assert_eq!(why, "INC-42: cleaned");
    assert_eq!(reference.len(), 13, "{comment}");
}

#[test]
fn without_waiting_each_device_is_a_line_of_json_and_the_summary_comes_last() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids();
    let args = [
        "unrestrict",
        "--comment",
        "x",
        "--no-wait",
        "--output",
        "json",
    ];
    let lines = stage.run(args).with_args(&ids).exits(0).json();
    let (run, lines) = lines.split_first().unwrap();
    assert_eq!((&run["type"], &run["devices"]), (&"run".into(), &3.into()));
    let (summary, devices) = lines.split_last().unwrap();
    assert_eq!(
        (summary["type"].as_str(), summary["done"].as_u64()),
        (Some("summary"), Some(3))
    );
    let mut named: Vec<&str> = devices
        .iter()
        .filter_map(|d| d["machine_id"].as_str())
        .collect();
    named.sort_unstable();
    let mut expected: Vec<&str> = ids.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(named, expected);
    for device in devices {
        assert_eq!(device["outcome"], "accepted");
        assert_eq!(device["action"]["type"], "UnrestrictCodeExecution");
        assert_eq!(device["action"]["machineId"], device["machine_id"]);
    }
    let reads = stage.mock.arrivals(Api::ListMachineActions);
    assert_eq!(reads, 1, "of what was under way before");
}

#[test]
fn ids_are_checked_before_anything_is_sent_and_the_message_names_the_parameter() {
    let stage = Stage::new();
    let good = stage.id();
    let short = "a".repeat(39);
    let long = "a".repeat(41);
    for bad in [
        "abc/offboard?",
        "../x",
        &short,
        &long,
        "",
        "ä",
        "a b",
        "\u{1b}[2J",
    ] {
        let said = stage
            .run(["unrestrict", &good, bad, "--comment", "x"])
            .exits(2);
        said.mentions("machine-id")
            .mentions("Nothing was sent")
            .hides("\u{1b}");
    }
    assert_eq!(
        stage.mock.requests().len(),
        0,
        "not even a token was asked for"
    );
}

#[test]
fn an_id_in_upper_case_or_named_twice_is_released_once() {
    let stage = Stage::new();
    let id = stage.id();
    let upper = id.to_ascii_uppercase();
    let said = stage
        .run(["unrestrict", &upper, &id, "--comment", "x", "--no-wait"])
        .exits(0);
    said.mentions("named more than once");
    assert_eq!(stage.mock.arrivals(RELEASE), 1);
    assert_eq!(stage.mock.actions_of(&id).len(), 1);
}

#[test]
fn a_comment_that_does_not_fit_is_refused_before_anything_is_sent() {
    let stage = Stage::new();
    let id = stage.id();
    for bad in [
        "",
        "  \t ",
        &"x".repeat(100_000),
        "a\u{1b}[2Jb",
        "bell\u{7}",
    ] {
        let said = stage.run(["unrestrict", &id, "--comment", bad]).exits(2);
        said.mentions("comment").hides("\u{1b}");
    }
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
    let fits = "Größe, 東京 🚀 \"quoted\" \\ and\ntwo lines";
    let _ = stage
        .run(["unrestrict", &id, "--comment", fits, "--no-wait"])
        .exits(0);
    let comment = &stage.mock.actions_of(&id)[0].requestor_comment;
    assert_eq!(comment.split_once(" [").unwrap().0, fits);
}

#[test]
fn a_device_that_nobody_knows_is_refused_with_code_1() {
    let stage = Stage::new();
    let unknown = "f".repeat(40);
    let run = stage.run(["unrestrict", &unknown, "--comment", "x", "--output", "json"]);
    let lines = run.exits(1).json();
    let device = &lines[1];
    assert_eq!(device["outcome"], "refused");
    assert_eq!(device["error"]["reason"], "not-found");
    assert_eq!(device["error"]["effect"], "none");
    assert_eq!(device["error"]["service"]["status"], 404);
}

#[test]
fn what_may_have_happened_is_looked_up_and_not_repeated() {
    let stage = Stage::new();
    stage
        .mock
        .inject(Fault::server_error(503).after_acting().on(RELEASE));
    let id = stage.id();
    let said = stage.run(["unrestrict", &id, "--comment", "x"]).exits(0);
    said.mentions("released ");
    assert_eq!(stage.mock.arrivals(RELEASE), 1);
}

#[test]
fn what_may_have_happened_and_can_not_be_looked_up_is_not_a_success_and_says_so() {
    let stage = Stage::new();
    let token = stage
        .mock
        .token(Grant::new().roles(["Machine.RestrictExecution"]));
    std::fs::write(stage.folder.path().join("token"), &token).unwrap();
    let lost = Fault::server_error(503).after_acting().on(RELEASE);
    stage.mock.inject(lost.times(3));
    let [id, others @ ..] = &stage.mock.machine_ids()[..] else {
        panic!("there are devices");
    };
    let run = stage.run(["unrestrict", id, "--comment", "x", "--token-file", "token"]);
    let said = run.exits(1);
    said.mentions("unknown ")
        .mentions("look at the machine's actions before you repeat")
        .mentions("host-demo resume ");
    let run = stage
        .run(["unrestrict", "--comment", "x", "--token-file", "token"])
        .with_args(["--output", "json"])
        .with_args(others);
    let lines = run.exits(1).json();
    assert_eq!(lines[1]["type"], "unreadable");
    assert_eq!(lines[2]["outcome"], "unknown");
    assert_eq!(lines[2]["error"]["effect"], "unknown");
    let summary = &lines[4];
    assert_eq!(
        (&summary["unknown"], &summary["failed"]),
        (&2.into(), &0.into())
    );
    assert_eq!(stage.mock.arrivals(RELEASE), 3);

    // With the permission it is known.
    let said = stage.run(["resume", "last"]).exits(0);
    said.mentions("2 to be looked up")
        .mentions("      2  released");
    assert_eq!(stage.mock.arrivals(RELEASE), 3);
}

#[test]
fn a_release_that_is_under_way_already_is_followed() {
    let stage = Stage::with(
        Switches {
            duplicate: Duplicate::Reject,
            ..Switches::default()
        },
        &[],
    );
    let id = stage.id();
    stage.mock.set_device(&id, DeviceBehaviour::Offline);
    let _ = stage
        .run(["unrestrict", &id, "--comment", "x", "--no-wait"])
        .exits(0);
    let reads = || {
        let apis = [Api::ListMachineActions, Api::GetMachineAction];
        apis.iter()
            .map(|api| stage.mock.arrivals(*api))
            .sum::<usize>()
    };
    let before = reads();
    let mut other = stage.run(["unrestrict", &id, "--comment", "x"]).command;
    let other = other.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let other = other.unwrap();
    // The second one has looked twice: it follows what it found. Only then does the device act.
    while reads() < before + 2 {
        std::thread::yield_now();
    }
    let ends_now = DeviceBehaviour::EndsAfter {
        pending: std::time::Duration::ZERO,
        in_progress: std::time::Duration::ZERO,
        ending: Ending::Succeeded,
    };
    stage.mock.set_device(&id, ends_now);
    let output = other.wait_with_output().unwrap();
    let said = Said::new(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    said.mentions("released ").mentions(", existing action ");
    assert_eq!(stage.mock.actions_of(&id).len(), 1);
}

#[test]
fn a_release_that_ends_badly_is_a_failure_and_one_that_does_not_end_is_open() {
    // Nothing but the device's own end ends the first three.
    for (behaviour, deadline, code, outcome) in [
        (DeviceBehaviour::Ends(Ending::Failed), "9h", 1, "failed"),
        (DeviceBehaviour::Ends(Ending::TimeOut), "9h", 1, "timed-out"),
        (
            DeviceBehaviour::Ends(Ending::Cancelled),
            "9h",
            1,
            "cancelled",
        ),
        (DeviceBehaviour::Offline, "5m", 3, "pending"),
    ] {
        let stage = Stage::new();
        let id = stage.id();
        stage.mock.set_device(&id, behaviour);
        let run = stage.run(["unrestrict", &id, "--comment", "x", "--deadline", deadline]);
        let lines = run.with_args(["--output", "json"]).exits(code).json();
        assert_eq!(lines[1]["outcome"], outcome, "{behaviour:?}");
    }
}

#[test]
fn a_release_whose_reading_is_forbidden_is_accepted_and_not_verifiable() {
    let stage = Stage::new();
    let token = stage
        .mock
        .token(Grant::new().roles(["Machine.RestrictExecution"]));
    std::fs::write(stage.folder.path().join("token"), &token).unwrap();
    let id = stage.id();
    let run = stage.run([
        "unrestrict",
        &id,
        "--comment",
        "x",
        "--token-file",
        "token",
        "-vvv",
    ]);
    let said = run.exits(3);
    said.mentions("not-verifiable")
        .mentions("Machine.Read")
        .hides(&token);
}

#[test]
fn an_action_is_shown_as_it_stands_and_its_status_is_the_exit_code() {
    let switches = Switches {
        visible_after: std::time::Duration::ZERO,
        ..Switches::default()
    };
    let stage = Stage::with(switches, &[]);
    let id = stage.id();
    stage.mock.set_device(&id, DeviceBehaviour::Offline);
    let _ = stage
        .run(["unrestrict", &id, "--comment", "why", "--no-wait"])
        .exits(0);
    let action = stage.mock.actions_of(&id)[0].id.to_string();
    let said = stage.run(["status", &action]).exits(3);
    said.mentions("Pending").mentions("why");
    let json = stage
        .run(["status", &action, "--output", "json"])
        .exits(3)
        .json();
    assert_eq!(json[0]["action"]["id"], *action);
    let ends_now = DeviceBehaviour::EndsAfter {
        pending: std::time::Duration::ZERO,
        in_progress: std::time::Duration::ZERO,
        ending: Ending::Succeeded,
    };
    stage.mock.set_device(&id, ends_now);
    let _ = stage.run(["status", &action]).exits(0);
    let _ = stage
        .run(["status", "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a"])
        .exits(1);
    let _ = stage
        .run(["status", "not-a-guid"])
        .exits(2)
        .mentions("action-id");
}

#[test]
fn a_wrong_secret_is_said_with_what_to_do_and_never_shown() {
    let stage = Stage::new();
    let id = stage.id();
    let secret = "not-the-secret-5f0c";
    let run = stage.run(["unrestrict", &id, "--comment", "x", "-vvv"]);
    let said = run.env("AZURE_CLIENT_SECRET", secret).exits(2);
    said.mentions("AADSTS7000215")
        .mentions("the client secret is wrong")
        .hides(secret);
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn neither_the_secret_nor_the_token_is_shown_however_much_is_said() {
    let stage = Stage::new();
    let id = stage.id();
    let said = stage
        .run(["unrestrict", &id, "--comment", "x", "-vvv"])
        .exits(0);
    let less = stage
        .run(["unrestrict", &id, "--comment", "x", "-vv"])
        .exits(0);
    for (said, more, what) in [
        (&less, "defender_boundary", "each call"),
        (&said, "h2::", "connections too"),
    ] {
        assert!(said.err.contains(more), "{what}: {said}");
    }
    less.hides("h2::");
    said.hides(stage.mock.client_secret())
        .hides("eyJ")
        .hides("Bearer ");
}

#[test]
fn a_secret_can_come_from_a_file_and_not_from_an_argument() {
    let stage = Stage::new();
    let id = stage.id();
    let file = stage.folder.path().join("secret");
    std::fs::write(&file, format!("{}\n", stage.mock.client_secret())).unwrap();
    let args = ["unrestrict", &id, "--comment", "x", "--no-wait"];
    let run = stage
        .run(args)
        .with_args(["--client-secret-file", "secret"]);
    let _ = run.env("AZURE_CLIENT_SECRET", "").exits(0);
    let _ = stage.run(args).with_args(["--client-secret", "x"]).exits(2);
}

#[test]
fn a_secret_that_others_can_read_is_told_of_with_what_closes_it() {
    use std::os::unix::fs::PermissionsExt as _;

    let stage = Stage::new();
    let ids = stage.mock.machine_ids();
    let file = stage.folder.path().join("token");
    std::fs::write(&file, stage.mock.token(Grant::new())).unwrap();
    let said = |id: &str, mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        stage
            .run(["unrestrict", id, "--comment", "x", "--no-wait"])
            .with_args(["--token-file", "token"])
            .exits(0)
    };
    said(&ids[0], 0o644)
        .mentions("the token file token is open to others; close it: chmod 600 token");
    said(&ids[1], 0o600).hides("chmod");
}

#[test]
fn a_token_can_be_what_another_command_prints_and_no_file_is_waited_for() {
    use std::os::unix::fs::PermissionsExt as _;

    let stage = Stage::new();
    let id = stage.id();
    let token = stage.folder.path().join("token");
    std::fs::write(&token, stage.mock.token(Grant::new())).unwrap();
    let args = ["unrestrict", &id, "--comment", "x", "--no-wait"];
    let mut piped = stage.run(args).with_args(["--token-file", "/dev/stdin"]);
    let mut cat = Command::new("cat");
    let mut cat = cat.arg(&token).stdout(Stdio::piped()).spawn().unwrap();
    piped.command.stdin(cat.stdout.take().unwrap());
    let _ = piped.exits(0);
    assert!(cat.wait().unwrap().success());
    assert_eq!(stage.mock.arrivals(RELEASE), 1);

    let pipe = stage.folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for flag in [
        "--token-file",
        "--client-secret-file",
        "--ca-file",
        "--authority-ca-file",
        "--config",
        "--plugin",
    ] {
        for (file, kind) in [("pipe", "a pipe"), ("/dev/zero", "a device")] {
            let told = stage.bare(["check", flag, file]).connected_without_ca();
            told.env("AZURE_CLIENT_SECRET", "x")
                .exits(2)
                .mentions(&format!("it is {kind}, and a"));
        }
    }
    for (args, told) in [
        (["pipe", "--key", "key"], "pipe is not a regular file"),
        (["ca.pem", "--key", "pipe"], "pipe holds no audit key"),
    ] {
        let key = stage.folder.path().join("key");
        std::fs::write(&key, "0".repeat(64)).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let verify = stage.bare(["audit", "verify"]).with_args(args);
        let _ = verify.exits(2).mentions(told);
    }
    let missing = ["audit", "verify", "/nope"];
    stage.bare(missing).exits(2).mentions("/nope can't be read");
    let signs_in = ["check", "--auth", "workload-identity"];
    stage
        .bare(signs_in)
        .connected_without_ca()
        .env("AZURE_FEDERATED_TOKEN_FILE", "pipe")
        .exits(2)
        .mentions("it is a pipe");
}

#[test]
fn missing_credentials_are_named() {
    let stage = Stage::new();
    let id = stage.id();
    let said = stage.bare(["unrestrict", &id, "--comment", "x"]).exits(2);
    said.mentions("AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET are not set");
    let run = stage.run(["unrestrict", &id, "--comment", "x", "--output", "json"]);
    let said = run.env("AZURE_CLIENT_ID", "").exits(2);
    let lines = said.json();
    assert_eq!((lines.len(), &lines[0]["type"]), (1, &"error".into()));
    let message = lines[0]["error"]["message"].as_str().unwrap();
    assert!(message.contains("AZURE_CLIENT_ID is not set"), "{message}");
}

#[test]
fn wrong_arguments_are_a_line_of_json_too_where_json_is_asked_for() {
    let stage = Stage::new();
    for (args, problem) in [
        (&["unrestrict", "--output", "json", "ID"][..], "--comment"),
        (
            &["--output=json", "audit", "verify", "--hed", "x"],
            "'--head'",
        ),
        (&["--output=json", "x\u{1b}[2J"], "'x"),
        (&["--output", "json"], "requires a subcommand"),
        (&["--output=json", "audit"], "no command"),
    ] {
        let said = stage.bare(args).exits(2);
        let lines = said.json();
        assert_eq!((lines.len(), &lines[0]["type"]), (1, &"error".into()));
        let error = &lines[0]["error"];
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(problem), "{message:?}");
        assert!(!message.contains("Usage"), "{message:?}");
        assert!(error["advice"].as_str().unwrap().contains("--help"));
        assert!(!said.out.contains('\u{1b}'), "{said}");
    }
    for args in [
        &["unrestrict", "ID"][..],
        &["unrestrict", "--", "--output=json"],
    ] {
        let said = stage.bare(args).exits(2);
        assert_eq!(said.out, "", "{said}");
    }
    let help = stage.bare(["--help", "--output", "json"]).exits(0);
    help.mentions("Examples:");
}

#[test]
fn who_waits_for_the_quota_is_told_and_after_an_interrupt_why_nothing_was_sent() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids();
    std::fs::write(
        stage.folder.path().join("slow.toml"),
        "[[quota]]\ncalls = 1\nper = \"9h\"\n",
    )
    .unwrap();
    let mut run = stage
        .run(["unrestrict", "--comment", "x", "--no-wait"])
        .with_args(["--output", "json", "--config", "slow.toml"])
        .with_args(&ids);
    let mut child = run
        .command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    let mut err = std::io::BufReader::new(child.stderr.take().unwrap());
    while !told.contains("waiting for the service's quota, until ")
        || stage.mock.arrivals(RELEASE) == 0
    {
        let read = std::io::BufRead::read_line(&mut err, &mut told).unwrap();
        assert_ne!(read, 0, "it ended after: {told}");
    }
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupted.unwrap().success());
    let said = Said::new(&child.wait_with_output().unwrap());
    let lines = said.json();
    let not_run: Vec<_> = lines
        .iter()
        .filter(|line| line["outcome"] == "not-run")
        .collect();
    assert_eq!(not_run.len(), 2, "{said}");
    for line in not_run {
        assert_eq!(line["error"]["message"], "stopped before it was sent");
    }
    assert_eq!(lines[4]["not_run"], 2);
}

#[test]
fn what_is_wrong_with_the_connection_is_said_with_what_to_do() {
    let stage = Stage::new();
    let id = stage.id();
    let mock = &stage.mock;
    let service = |base: &str| {
        let args = [
            "unrestrict",
            &id,
            "--comment",
            "x",
            "--scope",
            &mock.scope(),
            "--base-url",
            base,
        ];
        stage
            .bare(args)
            .with_args(["--authority", mock.authority()])
            .env("AZURE_TENANT_ID", mock.tenant_id())
            .env("AZURE_CLIENT_ID", mock.client_id())
            .env("AZURE_CLIENT_SECRET", mock.client_secret())
    };
    service(mock.base_url())
        .with_args(["--ca-file", "nowhere.pem"])
        .exits(2)
        .mentions("nowhere.pem");
    std::fs::write(stage.folder.path().join("no.pem"), "not a certificate").unwrap();
    service(mock.base_url())
        .with_args(["--ca-file", "no.pem"])
        .exits(2)
        .mentions("no usable certificate");
    std::fs::write(stage.folder.path().join("other.pem"), other_ca()).unwrap();
    let other = service(mock.base_url())
        .with_args(["--ca-file", "other.pem"])
        .exits(2);
    other.mentions("not trusted").mentions("--ca-file");
    let other = service(mock.base_url())
        .with_args(["--ca-file", "other.pem", "--output", "json"])
        .exits(2);
    let lines = other.json();
    let device = lines.iter().find(|line| line["type"] == "device");
    let advice = &device.unwrap()["error"]["advice"];
    assert!(advice.as_str().unwrap().contains("--ca-file"), "{advice}");
    // Bound, so that nobody else gets the port, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = format!("https://{}", socket.local_addr().unwrap());
    let said = service(&gone)
        .with_args(["--authority-ca-file", "ca.pem"])
        .exits(2);
    said.mentions("no connection to 127.0.0.1")
        .mentions("check the network");
    for (base, problem) in [
        ("localhost:1", "--base-url: expected scheme, host"),
        (
            "https://localhost:1/api",
            "--base-url: expected scheme, host",
        ),
        (
            "http://api.security.microsoft.com",
            "only https:// is allowed",
        ),
    ] {
        service(base).exits(2).mentions(problem);
    }
    assert_eq!(mock.arrivals(RELEASE), 0);
}

/// The certificate of another stand-in.
fn other_ca() -> String {
    Stage::new().mock.ca_pem().unwrap().to_owned()
}

#[test]
fn a_service_of_ones_own_is_named_whole_or_not_at_all() {
    let stage = Stage::new();
    let id = stage.id();
    let args = ["unrestrict", &id, "--comment", "x"];
    let base = ["--base-url", "https://localhost:1"];
    let _ = stage
        .bare(args)
        .with_args(base)
        .exits(2)
        .mentions("--scope");
    let with_scope = stage
        .bare(args)
        .with_args(base)
        .with_args(["--scope", "https://x/.default"]);
    let _ = with_scope.exits(2).mentions("--authority");
    let fast = stage.bare(args).with_args(["--time-scale", "2"]).exits(2);
    fast.mentions("loopback");
}

#[test]
fn what_a_service_says_cannot_drive_the_terminal() {
    let stage = Stage::new();
    let id = stage.id();
    let hostile =
        r#"{"error":{"code":"Bad\u001b[31m","message":"\u001b]0;owned\u0007\u009b2J\u202e"}}"#;
    stage.mock.inject(Fault::answer(400, hostile).on(RELEASE));
    let said = stage
        .run(["unrestrict", &id, "--comment", "x", "-vvv"])
        .exits(1);
    for code in ["\u{1b}", "\u{7}", "\u{9b}", "\u{202e}"] {
        said.hides(code);
    }
    said.mentions("owned");
}

#[test]
fn an_interrupt_ends_the_output_at_a_line_and_says_what_is_known_of_every_device() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        interrupt(signal);
    }
}

fn interrupt(signal: &str) {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids();
    for id in &ids {
        stage.mock.set_device(id, DeviceBehaviour::Offline);
    }
    let args = [
        "unrestrict",
        "--comment",
        "x",
        "--output",
        "json",
        "--deadline",
        "9h",
    ];
    let mut run = stage.run(args).with_args(&ids);
    let child = run
        .command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once all are accepted and looked at, it is following them.
    while stage.mock.arrivals(Api::ListMachineActions) < 2 {
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let said = Said::new(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let lines = said.json();
    assert_eq!(lines.len(), ids.len() + 2, "{said}");
    assert!(
        lines[1..=ids.len()]
            .iter()
            .all(|line| line["outcome"] == "pending"),
        "{said}"
    );
    assert_eq!(lines[ids.len() + 1]["open"], 3);
}

#[test]
fn inspecting_shows_what_the_plugin_is_and_what_it_may_send() {
    let stage = Stage::new();
    let text = stage.bare(["inspect"]).exits(0);
    text.mentions("POST /api/machines/{machine-id}/unrestrictCodeExecution");
    text.mentions("defender:endpoint/connection@0.1.0")
        .mentions("sha256");
    let json = stage.bare(["inspect", "--output", "json"]).exits(0).json();
    assert_eq!(json[0]["imports"].as_array().unwrap().len(), 7);
    assert_eq!(json[0]["size"], host_demo::plugin::BUNDLED.len());

    let file = stage.folder.path().join("same.wasm");
    std::fs::write(&file, host_demo::plugin::BUNDLED).unwrap();
    let same = stage
        .bare(["inspect", "--output", "json", "--plugin", "same.wasm"])
        .exits(0)
        .json();
    assert_eq!(same[0]["sha256"], json[0]["sha256"]);
    stage
        .bare(["inspect", "--plugin", "ca.pem"])
        .exits(2)
        .mentions("not WebAssembly");
    stage
        .bare(["inspect", "--plugin", "none.wasm"])
        .exits(2)
        .mentions("none.wasm");
}

#[test]
fn compiled_code_is_kept_where_nobody_else_can_write() {
    use std::os::unix::fs::PermissionsExt as _;

    let stage = Stage::new();
    let cache = stage.folder.path().join("cache");
    let inspect = || {
        stage
            .bare(["inspect", "-v"])
            .env("XDG_CACHE_HOME", cache.to_str().unwrap())
    };
    let _ = inspect().exits(0);
    let kept = cache.join("host-demo/compiled");
    assert_eq!(
        std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert!(has_files(&kept), "the compiled plugin is there");

    // Whoever may write to a folder above can put another one into its place.
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    inspect()
        .exits(0)
        .mentions("compiled code is not kept")
        .mentions("other users can write to");
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o755)).unwrap();
    inspect().exits(0).hides("compiled code");
}

fn has_files(folder: &Path) -> bool {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .any(|path| path.is_file() || has_files(&path))
}

fn path_with_the_command() -> String {
    let folder = BINARY.parent().unwrap().to_str().unwrap();
    format!("{folder}:{}", std::env::var("PATH").unwrap())
}

#[test]
fn a_switch_that_is_not_there_is_answered_with_those_that_are() {
    let stage = Stage::new();
    let mock = |setting| stage.stand_in(["--ca-out", "x.pem", "--set", setting]);
    mock("duplicates=reject").exits(2).mentions("duplicate");
    mock("duplicate=maybe").exits(2).mentions("reject");
    mock("duplicate").exits(2).mentions("NAME=VALUE");
    let help = stage.stand_in(["--help"]).exits(0);
    for switch in Switches::describe() {
        help.mentions(&format!("{}={}", switch.name, switch.default));
    }
}

#[test]
fn a_stand_in_that_can_not_start_says_what_to_do() {
    let stage = Stage::new();
    stage
        .stand_in([] as [&str; 0])
        .exits(2)
        .mentions("--ca-out FILE")
        .mentions("--plain-http");
    let (_, port) = stage.mock.base_url().rsplit_once(':').unwrap();
    stage
        .stand_in(["--plain-http", "--port", port])
        .exits(2)
        .mentions(&format!(
            "port {port} of 127.0.0.1 is in use; name another one, or 0 for any that is free"
        ));
}

#[test]
fn an_error_says_nothing_twice() {
    let stage = Stage::new();
    for (args, told) in [
        (
            &["inspect", "--plugin", "none.wasm"][..],
            "no plugin: none.wasm can't be read: No such file or directory (os error 2)",
        ),
        (
            &["check", "--ca-file", "none.pem", "--token-file", "none"],
            "the CA file none.pem can't be read: No such file or directory (os error 2)",
        ),
        (
            &["--config", "/none.toml", "check"],
            "the configuration /none.toml can't be read: No such file or directory (os error 2)",
        ),
        (
            &["check", "--authority", "https://x/y"],
            "--authority: expected scheme, host and optional port, and nothing else, such as \
             https://login.microsoftonline.com: \"https://x/y\"",
        ),
    ] {
        let said = stage.bare(args).exits(2);
        assert_eq!(said.err, format!("host-demo: {told}\n"));
    }
}

#[test]
fn the_demo_tells_its_story() {
    let stage = Stage::new();
    let said = {
        LazyLock::force(&BINARY);
        stage.program(&demo_binary(), [] as [&str; 0]).exits(0)
    };
    said.mentions("not a machine id")
        .mentions("404 ResourceNotFound")
        .mentions("existing action")
        .mentions("147 devices are released, 0 of them twice")
        .mentions("the fullest minute had ");
}

#[test]
fn help_has_examples_and_every_shell_gets_its_completion() {
    let stage = Stage::new();
    stage
        .bare(["--help"])
        .exits(0)
        .mentions("Examples:")
        .mentions("Exit codes:");
    stage
        .bare(["unrestrict", "--help"])
        .exits(0)
        .mentions("Examples:");
    for command in [
        &["unrestrict"][..],
        &["restrict"],
        &["resume"],
        &["restricted"],
        &["cancel"],
        &["status"],
        &["check"],
        &["config", "show"],
        &["config", "example"],
        &["inspect"],
        &["audit", "verify"],
        &["completion"],
    ] {
        let help = stage.bare(command).with_args(["--help"]).exits(0);
        help.mentions("Exit codes:\n  0 ");
        // What is told to be below is below.
        assert!(
            !help.out.contains("below") || help.out.contains("With --auth METHOD"),
            "{help}"
        );
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        stage
            .bare(["completion", shell])
            .exits(0)
            .mentions("unrestrict");
    }
}

/// The documentation's own lines, with the stand-in in the tenant's place.
#[test]
fn the_documentations_commands_run_as_written() {
    let mut commands = crate::docs::commands();
    commands.retain(|line| line.starts_with("host-demo ") || line.starts_with("defender-mock "));
    assert!(commands.len() >= 20, "{commands:?}");
    // In their order: what one of them leaves behind is another's, and what stands on two pages is
    // run once.
    let mut seen = std::collections::BTreeSet::new();
    commands.retain(|line| seen.insert(*line));
    let ids = [
        "1e5bc9d7e413ddd7902c2932e418702b84d0cc07",
        "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9",
    ];
    // What is recorded by one of them is verified by another.
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    for command in commands {
        let stage = Stage::quick(&ids);
        std::fs::write(
            stage.folder.path().join("defender-endpoint.wasm"),
            host_demo::plugin::BUNDLED,
        )
        .unwrap();
        if ["defender-mock", "host-demo gateway"]
            .iter()
            .any(|start| command.starts_with(start))
        {
            // It would go on for ever. What it prints has a test of its own; here its arguments are
            // read.
            let with_help = format!("{command} --help");
            shell(&stage, &with_help, "").exits(0);
            continue;
        }
        for id in ids.iter().filter(|_| !command.contains("--no-wait")) {
            stage.restrict(id, "INC-42: suspicious");
        }
        // The status of an action that this stand-in does not have: asked for, and not found.
        // Nothing is cancelled: no configuration allows it.
        let expected = match command.split(' ').nth(1) {
            Some("status") if command.contains("8a5c34dc") => 1,
            Some("cancel") => 2,
            // Nothing is restricted either.
            Some("check") if command.contains("--pilot") => 2,
            _ => 0,
        };
        let connects = ["restrict", "cancel", "status", "check"]
            .iter()
            .any(|c| command.contains(c));
        let more = if connects { CONNECTION } else { "" };
        shell(&stage, &command.replace(" |", &format!("{more} |")), more)
            .env("XDG_STATE_HOME", state)
            .exits(expected);
    }
}

/// What connects a command of the shell's to the stand-in.
const CONNECTION: &str = r#" --base-url "$BASE" --authority "$BASE" --scope "$SCOPE" --ca-file ca.pem --time-scale "$SCALE""#;

fn shell<'a>(stage: &'a Stage, command: &str, more: &str) -> Run<'a> {
    let mut run = stage.bare([] as [&str; 0]);
    let mut sh = Command::new("sh");
    sh.args(["-c", &format!("{command}{more}")])
        .current_dir(stage.folder.path())
        .env("PATH", path_with_the_command())
        .env("XDG_CACHE_HOME", cache())
        .env("BASE", stage.mock.base_url())
        .env("SCOPE", stage.mock.scope())
        .env("SCALE", SCALE.to_string())
        .env("AZURE_TENANT_ID", stage.mock.tenant_id())
        .env("AZURE_CLIENT_ID", stage.mock.client_id())
        .env("AZURE_CLIENT_SECRET", stage.mock.client_secret());
    run.command = sh;
    run
}

#[test]
fn who_can_not_be_told_loses_no_release_and_is_not_told_that_all_is_well() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids();
    let full = || {
        std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let mut run = stage
        .run(["unrestrict", "--comment", "x", "--no-wait"])
        .with_args(&ids);
    let status = run.command.stderr(full()).stdout(Stdio::null()).status();
    assert_eq!(
        status.unwrap().code(),
        Some(0),
        "nobody reads what is noted"
    );
    assert_eq!(stage.mock.arrivals(RELEASE), ids.len());

    let mut run = stage.bare(["inspect"]);
    let child = run.command.stdout(full()).stderr(Stdio::piped()).spawn();
    let said = Said::new(&child.unwrap().wait_with_output().unwrap());
    said.mentions("could not be written");
}

//! `host-demo check`, as a process, against a stand-in in each state that it has to tell apart.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};

use defender_mock::{Api, Builder, Fault, Grant, Mock, Switches};
use host_demo::clock::{Clock, Moment, Sleep, SystemClock};
use jiff::SignedDuration;
use serde_json::Value;
use tests::binary::host_demo_binary;

static BINARY: LazyLock<PathBuf> = LazyLock::new(host_demo_binary);

/// A stand-in, and a folder that is the user's home.
pub(crate) struct Stage {
    pub(crate) mock: Mock,
    pub(crate) home: tempfile::TempDir,
    // Last: the stand-in is stopped on it.
    _runtime: tokio::runtime::Runtime,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(Switches::default(), Box::new(SystemClock::new()))
    }

    /// In which so many seconds take one.
    pub(crate) fn scaled(scale: u32) -> Self {
        Self::with(Switches::default(), Box::new(SystemClock::scaled(scale)))
    }

    pub(crate) fn with(switches: Switches, clock: Box<dyn Clock>) -> Self {
        Self::of(Mock::builder().clock(Arc::from(clock)).switches(switches))
    }

    pub(crate) fn of(builder: Builder) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mock = runtime.block_on(builder.start()).unwrap();
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("ca.pem"), mock.ca_pem().unwrap()).unwrap();
        Self {
            mock,
            home,
            _runtime: runtime,
        }
    }

    /// With an application that has these permissions.
    fn with_roles(roles: &[&str]) -> Self {
        let roles = roles.iter().map(ToString::to_string).collect();
        let switches = Switches {
            roles,
            ..Switches::default()
        };
        Self::with(switches, Box::new(SystemClock::new()))
    }

    /// Whose clock is so far ahead of this machine's.
    fn ahead(by: SignedDuration) -> Self {
        Self::with(Switches::default(), Box::new(Ahead(by)))
    }

    /// The command with these arguments, in an environment that has a home and nothing else.
    pub(crate) fn bare<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.started(Command::new(&*BINARY), args)
    }

    /// The same, from a shell with this umask.
    pub(crate) fn after_umask<S: AsRef<OsStr>>(
        &self,
        umask: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Run {
        let mut shell = Command::new("/bin/sh");
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(&*BINARY);
        self.started(shell, args)
    }

    fn started<S: AsRef<OsStr>>(
        &self,
        mut command: Command,
        args: impl IntoIterator<Item = S>,
    ) -> Run {
        command
            .args(args)
            .env_clear()
            .env("HOME", self.home.path())
            .env("XDG_CACHE_HOME", BINARY.with_file_name("host-demo-cache"))
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        Run(command)
    }

    /// The same, told of the stand-in and its application.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.connect(self.bare(args))
    }

    /// A command, told of the stand-in and its application.
    pub(crate) fn connect(&self, run: Run) -> Run {
        let (base, scope) = (self.mock.base_url(), self.mock.scope());
        run.args(["--base-url", base, "--authority", base])
            .args(["--scope", &scope, "--ca-file", "ca.pem"])
            .env("AZURE_TENANT_ID", self.mock.tenant_id())
            .env("AZURE_CLIENT_ID", self.mock.client_id())
            .env("AZURE_CLIENT_SECRET", self.mock.client_secret())
    }

    /// A configuration, where the command looks for it.
    pub(crate) fn configure(&self, text: &str) -> PathBuf {
        let folder = self.home.path().join(".config/host-demo");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("config.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }
}

#[must_use]
pub(crate) struct Run(Command);

impl Run {
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.0.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn env_os(mut self, name: &str, value: &OsStr) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it, expects this exit code, and returns standard output and standard error.
    #[track_caller]
    pub(crate) fn exits(mut self, code: i32) -> (String, String) {
        let output = self.0.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        let exit = output.status.code();
        assert_eq!(
            exit,
            Some(code),
            "{:?}\n--- stdout\n{out}--- stderr\n{err}",
            self.0
        );
        (out, err)
    }

    /// Checks as JSON, and expects this exit code.
    #[track_caller]
    fn checks(self, code: i32) -> Checked {
        let (out, err) = self.args(["--output", "json"]).exits(code);
        let lines = out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}:\n{out}{err}")));
        let mut lines = lines.filter(|line: &Value| line["type"] != "waiting");
        let json = lines.next().unwrap_or_else(|| panic!("{out}{err}"));
        assert_eq!(lines.next(), None, "{out}{err}");
        Checked(json)
    }
}

struct Checked(Value);

impl Checked {
    #[track_caller]
    fn is(&self, path: &str, expected: impl Into<Value>) -> &Self {
        assert_eq!(
            self.0.pointer(path),
            Some(&expected.into()),
            "{path} in {:#}",
            self.0
        );
        self
    }

    /// The topics that are not as they should be, each with how bad it is.
    fn wrong(&self) -> Vec<(&str, &str)> {
        let findings = self.0["findings"].as_array().unwrap();
        findings
            .iter()
            .map(|f| (f["topic"].as_str().unwrap(), f["level"].as_str().unwrap()))
            .filter(|(_, level)| *level != "ok")
            .collect()
    }

    #[track_caller]
    fn says(&self, topic: &str, what: &str) -> &Self {
        let findings = self.0["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["topic"] == topic);
        let text = found
            .and_then(|finding| finding["text"].as_str())
            .unwrap_or_default();
        assert!(
            text.contains(what),
            "nothing about {what:?} in {:#}",
            self.0
        );
        self
    }
}

/// The machine's clock, set wrong.
struct Ahead(SignedDuration);

impl Clock for Ahead {
    fn now(&self) -> Moment {
        SystemClock::new().now()
    }

    fn wall(&self) -> jiff::Timestamp {
        SystemClock::new().wall() + self.0
    }

    fn sleep_until(&self, until: Moment) -> Sleep {
        SystemClock::new().sleep_until(until)
    }
}

#[test]
fn all_well_is_code_0_and_costs_one_read_and_changes_nothing() {
    let stage = Stage::new();
    let checked = stage.run(["check"]).checks(0);
    assert_eq!(checked.wrong(), []);
    checked
        .is("/verdict", "ready")
        .is("/tenant", stage.mock.tenant_id())
        .is("/audience", "https://api.securitycenter.microsoft.com")
        .is("/rights/release", true)
        .is("/rights/find_machines", true)
        .is("/following", true)
        .is("/read_calls", 1)
        .is("/proxy", Value::Null);
    assert_eq!(stage.mock.arrivals(Api::GetMachineAction), 1);
    assert_eq!(stage.mock.arrivals(Api::UnrestrictCodeExecution), 0);
    assert!(stage.mock.actions().is_empty());

    let (out, err) = stage.run(["check", "-vvv"]).exits(0);
    assert!(out.ends_with("Ready.\n"), "{out}");
    for secret in [stage.mock.client_secret(), "eyJ"] {
        assert!(
            !out.contains(secret) && !err.contains(secret),
            "{secret:?} in\n{out}{err}"
        );
    }
}

#[test]
fn an_application_without_a_role_is_told_which_and_how_they_are_granted() {
    let none = Stage::with_roles(&[]).run(["check"]).checks(2);
    none.is("/verdict", "unusable").is("/rights/release", false);
    none.says("release", "missing: Machine.RestrictExecution");
    let how = none.0["how_to_grant"].as_str().unwrap();
    assert!(
        how.contains("Machine.RestrictExecution, Machine.ReadWrite.All"),
        "{how}"
    );

    let release_only = Stage::with_roles(&["Machine.RestrictExecution"])
        .run(["check"])
        .checks(1);
    release_only
        .is("/verdict", "limited")
        .is("/rights/release", true)
        .is("/following", false);
    release_only.says("following", "accepted and not verifiable");
    let expected = [
        ("read actions", "warning"),
        ("find machines", "warning"),
        ("following", "warning"),
    ];
    assert_eq!(release_only.wrong(), expected);

    let read_only = Stage::with_roles(&["Machine.ReadWrite.All"])
        .run(["check"])
        .checks(2);
    read_only
        .is("/verdict", "unusable")
        .is("/rights/release", false)
        .is("/following", true);
    let expected = [("release", "error"), ("restrict", "warning")];
    assert_eq!(read_only.wrong(), expected);
}

#[test]
fn a_users_token_is_judged_by_its_scopes() {
    let stage = Stage::new();
    let grant = Grant::new().delegated(["Machine.RestrictExecution", "Machine.ReadWrite"]);
    std::fs::write(stage.home().join("token"), stage.mock.token(grant)).unwrap();
    let args = ["check", "--token-file", "token"];
    let checked = stage.run(args).checks(0);
    checked
        .is("/rights/restrict", true)
        .says("token", "a user, by application");

    let grant = Grant::new().delegated(["Machine.Read"]);
    std::fs::write(stage.home().join("token"), stage.mock.token(grant)).unwrap();
    let checked = stage.run(args).checks(2);
    checked.is("/rights/release", false);
    let how = checked.0["how_to_grant"].as_str().unwrap();
    assert!(
        how.contains("delegated permissions Machine.RestrictExecution of"),
        "{how}"
    );
}

/// Microsoft, "Use Microsoft Defender for Endpoint APIs": on the newer host, a token for the newer
/// host is refused with 403.
#[test]
fn a_token_for_the_newer_host_is_told_from_a_missing_role() {
    let stage = Stage::new();
    let scope = "https://api.security.microsoft.com/.default";
    let (base, secret) = (stage.mock.base_url(), stage.mock.client_secret());
    let checked = stage
        .bare([
            "check",
            "--base-url",
            base,
            "--authority",
            base,
            "--scope",
            scope,
        ])
        .args(["--ca-file", "ca.pem", "--tenant-id", stage.mock.tenant_id()])
        .args(["--client-id", stage.mock.client_id()])
        .env("AZURE_CLIENT_SECRET", secret)
        .checks(2);
    checked.is("/audience", "https://api.security.microsoft.com");
    checked.says("audience", "refused with 403");
    checked.says(
        "audience",
        "ask for https://api.securitycenter.microsoft.com/.default",
    );
    assert_eq!(
        checked.wrong(),
        [("audience", "error"), ("following", "warning")]
    );
    let read = &stage.mock.requests()[2];
    assert_eq!(
        (read.api, read.status),
        (Some(Api::GetMachineAction), Some(403))
    );
}

#[test]
fn a_secret_that_is_wrong_or_has_expired_is_told_with_what_to_do() {
    let stage = Stage::new();
    let wrong = stage
        .run(["check"])
        .env("AZURE_CLIENT_SECRET", "hunter2")
        .checks(2);
    wrong
        .says("token", "AADSTS7000215")
        .says("token", "the client secret is wrong");
    assert!(!wrong.0.to_string().contains("hunter2"), "{:#}", wrong.0);
    wrong.is("/read_calls", 0);
    // What can be told without a token is told.
    assert_eq!(
        wrong.wrong(),
        [("token", "error"), ("following", "unknown")]
    );

    let expired = serde_json::json!({
        "error": "invalid_client",
        "error_description": "AADSTS7000222: The provided client secret keys are expired.\r\nTrace ID: 1",
        "error_codes": [7_000_222],
    })
    .to_string();
    stage.mock.inject(
        Fault::answer(401, expired)
            .header("content-type", "application/json")
            .on(Api::Token),
    );
    let checked = stage.run(["check"]).checks(2);
    checked.says("token", "create a new one for this application");
}

#[test]
fn a_token_that_has_expired_is_told_from_one_that_is_refused() {
    let stage = Stage::new();
    let grant = Grant::new().lifetime(std::time::Duration::ZERO);
    std::fs::write(stage.home().join("token"), stage.mock.token(grant)).unwrap();
    let checked = stage.run(["check", "--token-file", "token"]).checks(2);
    checked
        .says("token", "it has expired")
        .says("token", "does not accept it");
}

#[test]
fn without_a_network_the_connection_is_to_blame_and_no_call_is_spent() {
    let stage = Stage::new();
    // Bound, so that nobody else gets the port, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = socket.local_addr().unwrap();
    let url = format!("https://{nobody}");
    let checked = stage
        .bare(["check", "--base-url", &url, "--authority", &url])
        .args([
            "--scope",
            "https://x/.default",
            "--tenant-id",
            "t",
            "--client-id",
            "c",
            "--time-scale",
            "50",
        ])
        .env("AZURE_CLIENT_SECRET", "x")
        .checks(2);
    checked.says("connection", &format!("no connection to {nobody}"));
    checked
        .is("/clock_skew_seconds", Value::Null)
        .is("/read_calls", 0);

    // Another's certificate is no network either.
    let other = Stage::new();
    std::fs::write(stage.home().join("ca.pem"), other.mock.ca_pem().unwrap()).unwrap();
    let checked = stage.run(["check"]).checks(2);
    checked
        .says("connection", "is not trusted")
        .says("connection", "trusting the certificate authorities in");
}

#[test]
fn a_service_that_says_nothing_is_given_up_when_a_call_would_be() {
    let stage = Stage::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    std::fs::write(stage.home().join("token"), "opaque").unwrap();
    let checked = stage
        .bare(["check", "--base-url", &silent, "--authority", &silent])
        .args(["--scope", "https://x/.default", "--token-file", "token"])
        .args(["--timeout", "2s"])
        .checks(2);
    let problem = format!("no answer from {silent} within 2 s");
    checked.says("connection", &problem).is("/read_calls", 0);
}

#[test]
fn an_authority_that_says_nothing_is_given_up_when_a_call_would_be() {
    let stage = Stage::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    let authority = format!("https://{at}");
    let checked = stage
        .bare(["check", "--timeout", "1s", "--scope", "https://x/.default"])
        .args([
            "--base-url",
            stage.mock.base_url(),
            "--authority",
            &authority,
        ])
        .args(["--tenant-id", "t", "--client-id", "c", "--time-scale", "10"])
        .env("AZURE_CLIENT_SECRET", "x")
        .checks(2);
    let problem = format!("no connection to {at} within 0.5 s");
    checked.says("token", &problem).is("/read_calls", 0);
}

#[test]
fn a_clock_that_is_minutes_wrong_is_told_with_its_direction() {
    for (minutes, direction) in [(10, "behind"), (-10, "ahead of")] {
        let stage = Stage::ahead(SignedDuration::from_mins(minutes));
        // Entra's token and the service agree: they are both of the wrong time.
        let checked = stage.run(["check"]).checks(1);
        assert_eq!(checked.wrong(), [("clock", "warning")]);
        checked.says("clock", direction);
        let skew = checked.0["clock_skew_seconds"].as_i64().unwrap();
        assert!((skew - minutes * 60).abs() <= 2, "{skew} s");
    }
    let stage = Stage::ahead(SignedDuration::from_secs(30));
    let _ = stage.run(["check"]).checks(0);
}

#[test]
fn what_the_policy_forbids_is_told_with_the_rule_that_would_allow_it() {
    let stage = Stage::new();
    stage.configure(
        "[policy]\nallow = [\"POST /api/machines/{machine-id}/unrestrictCodeExecution\"]",
    );
    let checked = stage.run(["check"]).checks(1);
    checked.says("following", "GET /api/machineactions/{action-id}");
    assert_eq!(stage.mock.arrivals(Api::GetMachineAction), 0);

    stage.configure("[policy]\nallow = [\"GET /api/machineactions/{action-id}\"]");
    let checked = stage.run(["check"]).checks(2);
    assert_eq!(checked.wrong(), [("release", "error")]);
    checked.says(
        "release",
        "POST /api/machines/{machine-id}/unrestrictCodeExecution",
    );
}

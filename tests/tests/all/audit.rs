//! The record of what was done: through the command, and through the library.

use std::cell::Cell;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use defender_mock::{Api, Fault, Mock};
use host_demo::audit::{Audit, Who};
use host_demo::clock::SystemClock;
use host_demo::contract::MachineActionFilter;
use host_demo::host::{Host, WaitOptions};
use host_demo::plugin::{BUNDLED, Digest};
use serde_json::{Value, json};
use tests::binary::host_demo_binary;
use tests::world::{World, evil_plugin, release};

static BINARY: LazyLock<PathBuf> = LazyLock::new(host_demo_binary);

/// A minute takes a second and a fifth: what is followed to its end is followed quickly.
const SCALE: &str = "50";

const SECRET_COMMENT: &str = "cleaned by Marianne Muster";

/// A stand-in, and a user with a home.
struct Stage {
    mock: Mock,
    home: tempfile::TempDir,
    /// How many devices had their turn.
    turns: Cell<usize>,
    // Last: the stand-in is stopped on it.
    _runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let builder = Mock::builder()
            .clock(Arc::new(SystemClock::scaled(50)))
            .machines(12);
        let mock = runtime.block_on(builder.start()).unwrap();
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("ca.pem"), mock.ca_pem().unwrap()).unwrap();
        Self {
            mock,
            home,
            turns: Cell::new(0),
            _runtime: runtime,
        }
    }

    /// The device whose turn it was last.
    fn id(&self) -> String {
        self.mock.machine_ids()[self.turns.get() - 1].clone()
    }

    /// One that had no turn yet.
    fn next(&self) -> String {
        self.turns.set(self.turns.get() + 1);
        self.id()
    }

    fn record(&self) -> PathBuf {
        self.home.path().join(".local/state/host-demo/audit.jsonl")
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.record()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("XDG_CACHE_HOME", BINARY.with_file_name("host-demo-cache"))
            .env("AZURE_TENANT_ID", self.mock.tenant_id())
            .env("AZURE_CLIENT_ID", self.mock.client_id())
            .env("AZURE_CLIENT_SECRET", self.mock.client_secret())
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    /// Which service it is.
    fn service(&self) -> Vec<String> {
        let (mock, scope) = (&self.mock, self.mock.scope());
        [
            ["--base-url", mock.base_url()],
            ["--authority", mock.authority()],
            ["--scope", &scope],
            ["--ca-file", "ca.pem"],
            ["--time-scale", SCALE],
            // Seconds, on the machine's own clock.
            ["--timeout", "20m"],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
    }

    #[track_caller]
    fn releases(&self, more: &[&str], code: i32) -> String {
        let id = self.next();
        let args = ["unrestrict", &id, "--comment", SECRET_COMMENT, "--no-wait"];
        let mut command = self.command(&BINARY);
        command.args(args).args(self.service()).args(more);
        expect(command, code)
    }

    /// A release that has arrived, and is not answered for a long time.
    fn hangs(&self) -> Child {
        let before = self.mock.arrivals(Api::UnrestrictCodeExecution);
        let late = Fault::delay(Duration::from_secs(200));
        self.mock.inject(late.on(Api::UnrestrictCodeExecution));
        let id = self.next();
        let child = self
            .command(&BINARY)
            .args(["unrestrict", &id, "--comment", "x", "--no-wait"])
            .args(["--output", "json"])
            .args(self.service())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        while self.mock.arrivals(Api::UnrestrictCodeExecution) == before {
            std::thread::yield_now();
        }
        child
    }

    #[track_caller]
    fn verifies(&self, more: &[&str], code: i32) -> String {
        let mut command = self.command(&BINARY);
        command.args(["audit", "verify"]).args(more);
        expect(command, code)
    }
}

/// Runs it, and gives back what it says.
#[track_caller]
fn expect(mut command: Command, code: i32) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = [stdout, stderr]
        .map(|said| String::from_utf8(said).unwrap())
        .concat();
    assert_eq!(status.code(), Some(code), "{command:?}\n{said}");
    said
}

#[test]
fn a_release_is_recorded_in_two_steps_with_all_that_an_auditor_asks_for() {
    let stage = Stage::new();
    stage.releases(&["--ticket", "INC-42"], 0);
    let lines = stage.lines();
    // What is under way is read first.
    let [_, _, intent, outcome] = &lines[..] else {
        panic!("two intents and two outcomes: {lines:#?}")
    };
    assert_eq!(lines[1]["operation"], "list-machine-actions");
    assert_eq!(
        (&intent["kind"], &outcome["kind"]),
        (&"intent".into(), &"outcome".into())
    );
    for record in [intent, outcome] {
        assert_eq!(record["call"], intent["call"]);
        assert_eq!(record["component"], Digest::of(BUNDLED).to_string());
        assert_eq!(record["operation"], "unrestrict-code-execution");
        assert_eq!(record["machine"], stage.id());
        assert_eq!(record["who"]["ticket"], "INC-42");
        let run = record["who"]["run"].as_str().unwrap();
        let runs = stage.record().with_file_name("runs");
        assert!(runs.join(format!("{run}.sqlite")).exists(), "{run}");
        assert_ne!(record["who"]["user"], "");
        assert_ne!(record["who"]["host"], "");
        assert!(record["who"]["process"].is_u64());
        let rule = "POST /api/machines/{machine-id}/unrestrictCodeExecution";
        assert_eq!(record["decision"]["allowed"]["rule"], rule);
        assert_eq!(record["quota"][0]["calls"], 100);
        assert_eq!(record["quota"][0]["used"], 1, "its own slot");
    }
    let observed = &outcome["observed"];
    assert_eq!(
        (&observed["sent"], &observed["status"]),
        (&"answered".into(), &201.into())
    );
    let action = &stage.mock.actions_of(&stage.id())[0];
    assert_eq!(observed["action"]["id"], action.id.to_string());
    assert_eq!(outcome["claimed"]["ok"]["action"], observed["action"]);
    assert!(observed["correlation_id"].is_string(), "{observed}");
    assert!(observed["milliseconds"].is_u64(), "{observed}");
}

#[test]
fn no_token_no_secret_and_no_comment_is_in_the_record() {
    let stage = Stage::new();
    stage.releases(&[], 0);
    stage
        .mock
        .inject(Fault::answer(400, SECRET_COMMENT).on(Api::UnrestrictCodeExecution));
    stage.releases(&[], 1);
    let text = fs::read_to_string(stage.record()).unwrap();
    assert_eq!(text.lines().count(), 8);
    let token = stage.mock.token(Default::default());
    let header = token.split('.').next().unwrap();
    for hidden in [
        stage.mock.client_secret(),
        header,
        "Bearer",
        SECRET_COMMENT,
        "Marianne",
    ] {
        assert!(!text.contains(hidden), "{hidden:?} in:\n{text}");
    }
}

#[test]
fn the_record_is_verified_and_a_change_is_found_at_its_line() {
    let stage = Stage::new();
    stage.releases(&[], 0);
    let mut status = stage.command(&BINARY);
    status
        .args(["status", "00000000-0000-0000-0000-000000000000"])
        .args(stage.service());
    expect(status, 1);

    let said = stage.verifies(&[], 0);
    assert!(
        said.contains("intact") && said.contains("records  6"),
        "{said}"
    );
    let head = stage.lines()[5]["hash"].as_str().unwrap().to_owned();
    assert!(said.contains(&head), "{said}");
    let earlier = stage.lines()[3]["hash"].as_str().unwrap().to_owned();
    let said = stage.verifies(&["--head", &earlier], 0);
    assert!(said.contains("2 records after"), "{said}");

    let whole = fs::read_to_string(stage.record()).unwrap();
    fs::write(stage.record(), whole.replacen("\"answered\"", "\"no\"", 1)).unwrap();
    let said = stage.verifies(&[], 1);
    assert!(said.contains("line 2 is damaged: it was changed"), "{said}");
    let said: Value = serde_json::from_str(&stage.verifies(&["--output", "json"], 1)).unwrap();
    assert_eq!((&said["intact"], &said["line"]), (&false.into(), &2.into()));

    let cut: String = whole.split_inclusive('\n').take(3).collect();
    fs::write(stage.record(), cut).unwrap();
    stage.verifies(&[], 0);
    let said = stage.verifies(&["--head", &head], 1);
    assert!(said.contains("cut off"), "{said}");

    stage.verifies(&["no-such-file"], 2);
    stage.verifies(&["--key", "no-such-key"], 2);
    stage.verifies(&["--head", "not a hash"], 2);
}

#[test]
fn on_an_unused_machine_there_is_no_alarm_and_a_missing_log_or_key_is_one() {
    let stage = Stage::new();
    let said = stage.verifies(&[], 0);
    assert!(said.contains("no audit log yet"), "{said}");
    let said: Value = serde_json::from_str(&stage.verifies(&["--output", "json"], 0)).unwrap();
    assert_eq!(
        (&said["intact"], &said["records"]),
        (&Value::Null, &0.into())
    );
    // What was noted was somewhere, and what is named has to be there.
    let hash = "0".repeat(64);
    stage.verifies(&["--head", &hash], 2);
    stage.verifies(&["no-such-file"], 2);
    stage.verifies(&["--key", "no-such-key"], 2);
    // Looking leaves nothing behind.
    assert!(!stage.home.path().join(".local").exists());

    stage.releases(&[], 0);
    let key = stage
        .home
        .path()
        .join(".local/share/host-demo/keys/audit.key");
    let (log_away, key_away) = (stage.home.path().join("log"), stage.home.path().join("key"));
    fs::rename(stage.record(), &log_away).unwrap();
    let said = stage.verifies(&[], 2);
    assert!(said.contains("is missing, and its key"), "{said}");
    // Of both, the journal of the run still knows.
    fs::rename(&key, &key_away).unwrap();
    let said = stage.verifies(&[], 2);
    assert!(said.contains("was recorded there"), "{said}");
    fs::rename(&log_away, stage.record()).unwrap();
    let said = stage.verifies(&[], 2);
    assert!(said.contains("audit key"), "{said}");
    fs::rename(&key_away, &key).unwrap();
    stage.verifies(&[], 0);
}

#[test]
fn without_a_place_for_the_record_nothing_is_done() {
    let stage = Stage::new();
    for place in ["/dev/full", "no/such/folder/audit.jsonl", "."] {
        let said = stage.releases(&["--audit", place], 2);
        assert!(said.contains("audit file"), "{said}");
    }
    // Somebody changed what is there.
    stage.releases(&[], 0);
    let whole = fs::read_to_string(stage.record()).unwrap();
    fs::write(stage.record(), whole.replace("\"answered\"", "\"no\"")).unwrap();
    let before = stage.mock.requests().len();
    let said = stage.releases(&[], 2);
    assert!(said.contains("damaged"), "{said}");
    assert_eq!(stage.mock.requests().len(), before, "not even for a token");
}

#[test]
fn a_log_that_other_users_can_write_to_stops_a_release() {
    let stage = Stage::new();
    stage.releases(&[], 0);
    let path = stage.record().canonicalize().unwrap();
    let remedy = format!("chmod go-w {}", path.display());
    let open_to = |mode| fs::set_permissions(stage.record(), Permissions::from_mode(mode)).unwrap();
    let said = stage.releases(&[], 0);
    assert!(!said.contains("chmod"), "{said}");
    open_to(0o666);
    let before = stage.mock.requests().len();
    let said = stage.releases(&[], 2);
    assert!(said.contains(&remedy), "{said}");
    assert_eq!(stage.mock.requests().len(), before, "not even for a token");
}

/// The limit on a file's size stands in for a disk that is full: the file can be opened, and grows
/// no more.
#[test]
fn a_disk_that_fills_up_stops_releases_before_they_are_sent() {
    has_room_for(0);
}

#[test]
fn a_disk_with_room_for_an_intent_and_not_for_its_outcome_stops_a_release() {
    has_room_for(2000);
}

#[track_caller]
fn has_room_for(bytes: usize) {
    // It leaves the engine room for its images of memory, which are files too.
    const LIMIT: usize = 1000 * 512;

    let stage = Stage::new();
    stage.releases(&[], 0);
    // What a killed process left makes the file nearly as long as the limit.
    let mut before = fs::read(stage.record()).unwrap();
    before.resize(LIMIT - bytes, 0);
    fs::write(stage.record(), &before).unwrap();
    let mut command = stage.command("/bin/sh".as_ref());
    command
        // The signal that comes with the limit would end the process before it is told.
        .args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$@\"", "sh"])
        .arg(&*BINARY)
        .args([
            "unrestrict",
            "--comment",
            "x",
            "--no-wait",
            "--output",
            "json",
        ])
        .args(stage.mock.machine_ids())
        .args(stage.service());
    let said = expect(command, 2);
    assert!(said.contains("has no room for"), "{said}");
    assert!(said.contains(r#""effect":"none""#), "{said}");
    assert_eq!(
        stage.mock.arrivals(Api::UnrestrictCodeExecution),
        1,
        "the first one"
    );
    let after = fs::read(stage.record()).unwrap();
    assert_eq!(after.get(..before.len()), Some(&before[..]));
    let sent = after[before.len()..].windows(8).any(|w| w == b"\"intent\"");
    assert!(!sent, "{}", String::from_utf8_lossy(&after[before.len()..]));

    let mut status = stage.command(&BINARY);
    status
        .args(["status", "00000000-0000-0000-0000-000000000000"])
        .args(stage.service());
    expect(status, 1);
    let said = stage.verifies(&[], 0);
    assert!(said.contains("torn     1"), "{said}");
}

#[test]
fn a_call_that_was_cut_short_is_listed_when_the_record_is_verified() {
    let stage = Stage::new();
    stage.releases(&[], 0);
    let said = stage.verifies(&[], 0);
    assert!(!said.contains("  open "), "{said}");
    let mut child = stage.hangs();
    child.kill().unwrap();
    child.wait().unwrap();
    let said = stage.verifies(&[], 0);
    let intent = &stage.lines()[6];
    let [call, time] = ["call", "time"].map(|name| intent[name].as_str().unwrap());
    let line = format!(
        "{time}  unrestrict-code-execution  {}  call {call}",
        stage.id()
    );
    assert!(
        said.contains("  open     1 ") && said.contains(&line),
        "{said}"
    );
    let said: Value = serde_json::from_str(&stage.verifies(&["--output", "json"], 0)).unwrap();
    assert_eq!(said["open"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(said["open"][0]["machine"], stage.id());
    assert_eq!(said["open"][0]["call"], call);
}

#[test]
fn what_came_of_a_call_and_is_not_on_record_is_no_success() {
    let stage = Stage::new();
    stage.releases(&[], 0);
    let child = stage.hangs();
    // Somebody puts the file away in the middle of the call.
    fs::rename(stage.record(), stage.home.path().join("away")).unwrap();
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{out}");
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["type"] != "waiting")
        .collect();
    assert_eq!(lines[1]["outcome"], "accepted");
    assert_eq!(lines[1]["recorded"], false);
    let summary = &lines[2];
    assert_eq!(
        (&summary["done"], &summary["recorded"]),
        (&1.into(), &false.into())
    );
    let message = summary["error"]["message"].as_str().unwrap();
    assert!(message.contains("is shorter than"), "{message}");
    assert!(summary["error"]["advice"].is_string(), "{summary}");
}

#[test]
fn the_key_can_lie_elsewhere_and_its_loss_is_said_with_what_to_do() {
    let stage = Stage::new();
    let (record, key) = ("a.jsonl", stage.home.path().join("apart.key"));
    let [audit, journals] = [
        ["--audit", record, "--audit-key", "apart.key"],
        ["--runs", "a", "--ledger", "b"],
    ];
    let args = [&audit[..], &journals].concat();
    stage.releases(&args, 0);
    stage.verifies(&[record, "--key", "apart.key"], 0);
    assert!(!stage.home.path().join(".local").exists(), "nor elsewhere");
    fs::remove_file(key).unwrap();
    let said = stage.releases(&args, 2);
    assert!(said.contains("Put it back"), "{said}");
    fs::rename(
        stage.home.path().join(record),
        stage.home.path().join("away"),
    )
    .unwrap();
    stage.releases(&args, 0);
    stage.verifies(&[record, "--key", "apart.key"], 0);
}

#[test]
fn another_plugin_than_the_pinned_one_is_not_loaded() {
    let stage = Stage::new();
    let right = Digest::of(BUNDLED).to_string();
    let wrong = Digest::of(b"another").to_string();
    fs::write(stage.home.path().join("plugin.wasm"), BUNDLED).unwrap();
    let from_file = ["--plugin", "plugin.wasm", "--plugin-sha256"];
    stage.releases(&[&from_file[..], &[&right]].concat(), 0);
    let mut inspect = stage.command(&BINARY);
    inspect.args(["inspect", "--plugin-sha256", &right]);
    expect(inspect, 0);
    for more in [&from_file[..], &from_file[2..]] {
        let said = stage.releases(&[more, &[&wrong]].concat(), 2);
        assert!(said.contains(&right) && said.contains(&wrong), "{said}");
    }
    stage.releases(&["--plugin-sha256", "abc"], 2);
    assert_eq!(stage.mock.arrivals(Api::UnrestrictCodeExecution), 1);
}

fn recording(world: &World) -> (Arc<Audit>, Host) {
    let audit = Arc::new(Audit::memory(Who::default()).unwrap());
    let kept = Arc::clone(&audit);
    let host = world.another_host(|setup| setup.audit = Some(audit));
    (kept, host)
}

fn records(audit: &Audit) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).unwrap();
    audit.kept().iter().map(parse).collect()
}

#[tokio::test]
async fn lists_are_recorded_by_what_was_asked_for_and_how_much_there_was() {
    let world = World::with(|scene| scene.switches.visible_after = Duration::ZERO).await;
    let (audit, host) = recording(&world);
    let machine = world.machine(0);
    release(&world.host, &machine, "cleaned").await.unwrap();
    let filter = MachineActionFilter {
        machine_id: Some(machine.clone()),
        ..MachineActionFilter::everything()
    };
    let patience = WaitOptions::default;
    host.list_machine_actions(&filter, 1, 0, patience())
        .await
        .unwrap();
    host.find_machines("pc-8", patience()).await.unwrap();
    let denied = host.cancel_machine_action(EXAMPLE_ACTION, "not now", patience());
    denied.await.unwrap_err();
    let lines = records(&audit);
    let [_, list, _, find, cancel] = &lines[..] else {
        panic!("two of each, but for what is denied: {lines:#?}")
    };
    assert_eq!(list["operation"], "list-machine-actions");
    assert_eq!(list["machine"], machine.as_str());
    let query = format!("$filter=machineId eq '{machine}'&$top=1&$skip=0");
    assert_eq!(list["query"], query);
    let one = json!({ "items": 1, "truncated": true });
    assert_eq!(
        (&list["observed"]["list"], &list["claimed"]["ok"]["list"]),
        (&one, &one)
    );
    let rule = "GET /api/machineactions?{action-filter}&{page}";
    assert_eq!(list["decision"]["allowed"]["rule"], rule);

    assert_eq!(
        (&find["operation"], &find["name"]),
        (&json!("find-machines"), &json!("pc-8"))
    );
    assert_eq!(
        find["observed"]["list"],
        json!({ "items": 0, "truncated": false })
    );

    assert_eq!(
        (&cancel["kind"], &cancel["action"]),
        (&json!("outcome"), &json!(EXAMPLE_ACTION))
    );
    assert_eq!(cancel["observed"]["sent"], "no");
}

const EXAMPLE_ACTION: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";

#[tokio::test]
async fn what_is_denied_is_recorded_with_what_was_asked_for() {
    let world = World::evil().await;
    let (audit, host) = recording(&world);
    let id = world.machine(0);
    let way = format!("path /api/machines/{id}/offboard");
    release(&host, &id, &way).await.unwrap_err();
    let lines = records(&audit);
    let [outcome] = &lines[..] else {
        panic!("no intent: nothing was to be sent: {lines:#?}")
    };
    let denied = &outcome["decision"]["denied"];
    assert_eq!(denied["denials"], 1);
    assert_eq!(
        denied["denied"][0],
        format!("no rule allows POST /api/machines/{id}/offboard")
    );
    assert_eq!(
        (&outcome["observed"]["sent"], &outcome["ended"]),
        (&"no".into(), &"failed".into())
    );
}

#[tokio::test]
async fn a_claim_that_the_boundary_does_not_bear_out_is_recorded_beside_what_it_saw() {
    let world = World::evil().await;
    let (audit, host) = recording(&world);
    let id = world.machine(0);
    let new_host = || Host::new(evil_plugin(), host.egress());
    release(&new_host(), &id, "claim-success")
        .await
        .unwrap_err();
    let claim = format!("claim-other-machine {}", world.machine(1));
    release(&new_host(), &id, &claim).await.unwrap();
    release(&new_host(), &id, "change-date").await.unwrap();
    let lines = records(&audit);
    let [nothing, _intent, other, intent, date] = &lines[..] else {
        panic!("{lines:#?}")
    };
    assert_eq!(nothing["decision"], "not-asked");
    assert_eq!(
        (&nothing["ended"], &nothing["observed"]["sent"]),
        (&"fault".into(), &"no".into())
    );
    assert_eq!(nothing["claimed"]["ok"]["action"]["machine"], id);
    assert_eq!(
        (&other["ended"], &other["observed"]["status"]),
        (&"fault".into(), &201.into())
    );
    assert_eq!(
        other["claimed"]["ok"]["action"]["machine"],
        world.machine(1)
    );
    assert_eq!(other["observed"]["action"]["machine"], id);
    assert_eq!(date["ended"], "fault");
    let fault = date["fault"].as_str().unwrap();
    let differs =
        "the plugin contradicted the service: it reported lastUpdateDateTimeUtc as \"1026-";
    assert!(fault.starts_with(differs), "{fault}");
    assert!(fault.contains("; the response has \"2026-"), "{fault}");
    for record in [intent, date] {
        let digest = Digest::of(b"change-date").to_string();
        assert_eq!(record["comment_sha256"], digest, "{record}");
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_recorded_as_abandoned() {
    let world = World::evil().await;
    let (audit, host) = recording(&world);
    let id = world.machine(0);
    {
        let mut call = Box::pin(release(&host, &id, "held-body"));
        let asleep = std::future::poll_fn(|context| {
            assert!(call.as_mut().poll(context).is_pending());
            match world.waits().is_empty() {
                true => {
                    context.waker().wake_by_ref();
                    std::task::Poll::Pending
                }
                false => std::task::Poll::Ready(()),
            }
        });
        asleep.await;
    }
    world.until("an outcome", || !audit.kept().is_empty()).await;
    assert_eq!(records(&audit)[0]["ended"], "abandoned");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn all_that_is_logged_of_a_call_names_it_and_not_its_comment() {
    let world = World::evil().await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _during_the_test = tracing::subscriber::set_default(subscriber);
    let id = world.machine(0);
    let is_ours =
        |line: &&str| line.contains(" defender_boundary") || line.contains(" defender_host");
    let mut text = String::new();
    for _ in 0..20 {
        // Refused by the boundary, which does so in a task of its own; answered; a trap.
        for way in ["method PUT", "read-headers", "trap"] {
            let _ = world.release(way).await;
        }
        text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        if text.lines().filter(is_ours).count() >= 3 && text.contains("   0: ") {
            break;
        }
        // What is logged by anybody is looked up in a table of the process, and another test's
        // subscriber that came or went at that moment can have left this one out of it.
        tracing::callsite::rebuild_interest_cache();
    }
    let ours: Vec<&str> = text.lines().filter(is_ours).collect();
    assert!(ours.len() >= 3, "{text}");
    for line in ours {
        let names_it = line.contains("call{id=")
            && line.contains("operation=unrestrict-code-execution")
            && line.contains(&id);
        assert!(names_it, "{line}");
        assert!(!line.contains("read-headers"), "{line}");
    }
    assert!(
        text.contains("a fault of the plugin's") && text.contains("   0: "),
        "{text}"
    );
}

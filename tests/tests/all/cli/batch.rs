//! Runs: what is said of them, how they end, and how they go on.

use std::process::Child;
use std::time::{Duration, Instant};

use host_demo::batch::State;
use host_demo::journal::Runs;

use super::*;

/// One call, and no other while a test runs.
const SLOW: &str = "[[quota]]\ncalls = 1\nper = \"9h\"\n";

impl Stage {
    fn of(machines: u64, switches: Switches, clock: SystemClock) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mock = Mock::builder()
            .clock(Arc::new(clock))
            .machines(machines)
            .switches(switches);
        let mock = runtime.block_on(mock.start()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), mock.ca_pem().unwrap()).unwrap();
        Self {
            mock,
            folder,
            runtime,
        }
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.folder.path().join("config.toml"), text).unwrap();
    }

    /// A run of all devices.
    fn release_all(&self, args: &[&str]) -> Run<'_> {
        self.run(["unrestrict", "--yes", "--comment", "cleaned"])
            .with_args(args)
            .with_args(self.mock.machine_ids())
    }

    fn resume(&self, args: &[&str]) -> Run<'_> {
        self.run(["resume"]).with_args(args)
    }

    fn runs(&self) -> Runs {
        Runs::new(self.folder.path().join(".local/state/host-demo/runs"))
    }

    /// One action for each device, and all of them free.
    #[track_caller]
    fn all_are_free(&self, said: &Said) {
        for id in self.mock.machine_ids() {
            assert_eq!(self.mock.actions_of(&id).len(), 1, "{id}: {said}");
            assert_eq!(self.mock.is_restricted(&id), Some(false), "{id}: {said}");
        }
    }
}

impl Run<'_> {
    fn spawn(&mut self) -> Child {
        let command = self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

fn interrupt(child: &Child) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status();
    assert!(sent.unwrap().success());
}

#[track_caller]
fn ends(child: Child, code: i32) -> Said {
    let output = child.wait_with_output().unwrap();
    let said = Said::new(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[test]
fn programs_read_the_run_first_then_each_device_once_and_the_summary_last() {
    let stage = Stage::new();
    let mut ids = stage.mock.machine_ids();
    let mut ends = [Ending::Succeeded, Ending::Failed, Ending::TimeOut].into_iter();
    for id in &ids {
        let behaviour = DeviceBehaviour::Ends(ends.next().unwrap());
        stage.mock.set_device(id, behaviour);
    }
    let said = stage.release_all(&["--output", "json"]).exits(1);
    let lines = said.json();
    let types: Vec<_> = lines.iter().map(|line| line["type"].as_str()).collect();
    let expected = ["run", "device", "device", "device", "summary"].map(Some);
    assert_eq!(types, expected, "{said}");
    assert_eq!(lines[0]["kind"], "release");
    assert_eq!(lines[0]["comment"], "cleaned");
    assert_eq!(lines[0]["run"], lines[4]["run"]);
    let named = lines[1..4].iter().map(|line| line["machine_id"].as_str());
    let mut named: Vec<_> = named.map(Option::unwrap).collect();
    named.sort_unstable();
    ids.sort_unstable();
    assert_eq!(named, ids);
    let summary = &lines[4];
    assert_eq!(
        (&summary["done"], &summary["failed"]),
        (&1.into(), &2.into())
    );
    let expected = serde_json::json!({ "released": 1, "failed": 1, "timed-out": 1 });
    assert_eq!(summary["outcomes"], expected, "{said}");
    assert_eq!(
        (&summary["recorded"], &summary["journaled"]),
        (&true.into(), &true.into())
    );
}

#[test]
fn the_exit_code_is_that_of_the_worst() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids();
    let _ = stage.release_all(&["--no-wait"]).exits(0);
    let stage = Stage::new();
    stage.mock.set_device(&ids[1], DeviceBehaviour::Offline);
    let _ = stage.release_all(&["--deadline", "5m"]).exits(3);
    let stage = Stage::quick(&[]);
    stage.mock.set_device(&ids[1], DeviceBehaviour::Offline);
    let failed = DeviceBehaviour::Ends(Ending::Failed);
    stage.mock.set_device(&ids[2], failed);
    let _ = stage.release_all(&["--deadline", "5m"]).exits(1);
    let stage = Stage::new();
    let wrong = stage.release_all(&[]).env("AZURE_CLIENT_SECRET", "wrong");
    wrong.exits(2).mentions("not-run");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn a_run_that_was_interrupted_goes_on_with_those_that_were_not_sent() {
    let stage = Stage::new();
    stage.configure(SLOW);
    let mut run = stage.release_all(&["--config", "config.toml", "--output", "json"]);
    let child = run.spawn();
    while stage.mock.arrivals(RELEASE) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    interrupt(&child);
    let said = ends(child, 130);
    let lines = said.json();
    let summary = lines.last().unwrap();
    assert!(summary["not_run"].as_u64() >= Some(1), "{said}");
    assert_eq!(stage.mock.arrivals(RELEASE), 1, "{said}");

    let said = stage.resume(&["last"]).exits(0);
    said.mentions("to be sent").mentions("cleaned");
    assert_eq!(stage.mock.arrivals(RELEASE), 3, "{said}");
    stage.all_are_free(&said);
    // There is nothing left to do.
    let said = stage.resume(&["last", "--output", "json"]).exits(0);
    assert_eq!(said.json()[4]["done"], 3, "{said}");
    assert_eq!(stage.mock.arrivals(RELEASE), 3, "{said}");
}

#[test]
fn a_run_is_driven_by_one_process_at_a_time() {
    let stage = Stage::new();
    for id in stage.mock.machine_ids() {
        stage.mock.set_device(&id, DeviceBehaviour::Offline);
    }
    let mut run = stage.release_all(&["--deadline", "9h"]);
    let child = run.spawn();
    while stage.mock.arrivals(RELEASE) < 3 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let said = stage.resume(&["last", "--deadline", "1m"]).exits(2);
    said.mentions(&format!("process {}", child.id()));
    interrupt(&child);
    let _ = ends(child, 130);
    let _ = stage.resume(&["last", "--deadline", "1m"]).exits(3);
    assert_eq!(stage.mock.arrivals(RELEASE), 3);
}

#[test]
fn a_run_goes_on_only_where_it_was_begun() {
    let stage = Stage::new();
    let _ = stage.release_all(&["--no-wait"]).exits(0);
    let tenant = "3c9f1c0e-77a4-4c55-9a52-0b1d6f3f2e10";
    let another = stage.resume(&["last"]).env("AZURE_TENANT_ID", tenant);
    another.exits(2).mentions("was begun for the tenant");
    let application = stage.resume(&["last"]).env("AZURE_CLIENT_ID", tenant);
    application
        .exits(2)
        .mentions("was begun for the application");

    let elsewhere = Stage::new();
    let home = stage.folder.path().to_str().unwrap();
    let said = elsewhere.resume(&["last"]).env("HOME", home).exits(2);
    said.mentions("was begun for the service")
        .mentions(stage.mock.base_url());
    assert_eq!(elsewhere.mock.arrivals(RELEASE), 0);
    let reads = stage.mock.arrivals(Api::ListMachineActions);
    assert_eq!(reads, 1, "of what was under way before");
}

#[test]
fn a_run_that_is_not_there_is_answered_with_where_to_look() {
    let stage = Stage::new();
    for name in ["last", "20260130-2111"] {
        let said = stage.resume(&[name]).exits(2);
        said.mentions(name).mentions("host-demo runs");
    }
    assert_eq!(stage.mock.requests().len(), 0);
}

#[test]
fn what_ended_badly_is_tried_once_more_only_where_that_is_asked_for() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids();
    let behaves = |ending| {
        stage
            .mock
            .set_device(&ids[1], DeviceBehaviour::Ends(ending))
    };
    behaves(Ending::Failed);
    let said = stage.release_all(&[]).exits(1);
    said.mentions("--retry");
    behaves(Ending::Succeeded);
    let _ = stage.resume(&["last"]).exits(1);
    assert_eq!(stage.mock.arrivals(RELEASE), 3);
    let _ = stage.resume(&["last", "--retry"]).exits(0);
    assert_eq!(stage.mock.arrivals(RELEASE), 4);
    assert_eq!(stage.mock.actions_of(&ids[1]).len(), 2);
    assert_eq!(stage.mock.is_restricted(&ids[1]), Some(false));
}

#[test]
fn without_a_journal_nothing_is_sent() {
    let stage = Stage::new();
    // A file is no folder.
    for runs in ["ca.pem", "ca.pem/runs", "/proc/runs"] {
        let said = stage.release_all(&["--runs", runs]).exits(2);
        said.mentions("without a journal of what is done, nothing is")
            .mentions(runs);
    }
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

/// The journal can grow by so much, and not further, until there is room.
#[test]
fn a_journal_that_can_not_grow_stops_the_run_before_the_next_request_and_it_goes_on_later() {
    let stage = Stage::of(150, Switches::default(), SystemClock::scaled(SCALE));
    let program = stage.release_all(&["--ledger", "memory", "--output", "json"]);
    // In blocks of 512 bytes, for each file: the record asks for half of them beforehand. The
    // signal would end the process.
    let script = "trap '' XFSZ; ulimit -f 2000; exec \"$@\"";
    let mut limited = Command::new("sh");
    limited
        .args(["-c", script, "sh"])
        .arg(program.command.get_program())
        .args(program.command.get_args())
        .env_clear()
        .current_dir(stage.folder.path())
        .stdin(Stdio::null());
    for (name, value) in program.command.get_envs() {
        limited.env(name, value.unwrap());
    }
    let output = limited.output().unwrap();
    let said = Said::new(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    said.mentions("the journal ");
    stopped_in_time(&stage, &stage.runs(), &said);
    let said = stage.resume(&["last"]).exits(0);
    stage.all_are_free(&said);
}

/// The same, with a file system of its own that is full. Mounting one is for root.
#[test]
fn a_disk_that_is_full_stops_the_run_before_the_next_request_and_it_goes_on_with_more_room() {
    let stage = Stage::of(60, Switches::default(), SystemClock::scaled(SCALE));
    let Some(disk) = Disk::mount(stage.folder.path().join("disk"), "300k") else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let args = ["--runs", "disk", "--output", "json"];
    let said = stage.release_all(&args).exits(1);
    said.mentions("make room");
    stopped_in_time(&stage, &Runs::new(disk.0.clone()), &said);
    disk.grow("50m");
    let said = stage.resume(&["last", "--runs", "disk"]).exits(0);
    stage.all_are_free(&said);
}

/// In the middle of the run, and whatever arrived was written down before.
#[track_caller]
fn stopped_in_time(stage: &Stage, runs: &Runs, said: &Said) {
    let lines = said.json();
    let summary = lines.last().unwrap();
    assert!(summary["not_run"].as_u64() > Some(0), "{said}");
    let record = runs.read(&runs.find("last").unwrap()).unwrap();
    let arrived = stage.mock.arrivals(RELEASE);
    assert!(0 < arrived && arrived < record.entries.len(), "{arrived}");
    for entry in record.entries {
        let is_there = !stage.mock.actions_of(entry.machine.as_str()).is_empty();
        let is_known = entry.sends > 0 && entry.state != State::Waiting;
        assert!(is_known || !is_there, "{entry:?}\n{said}");
    }
}

/// A file system of its own, for as long as it is there.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let option = format!("size={size},mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &option, "tmpfs"]).arg(&at);
        let mounted = mount.stderr(Stdio::null()).status();
        let is_mounted = mounted.is_ok_and(|status| status.success());
        is_mounted.then_some(Self(at))
    }

    fn grow(&self, size: &str) {
        let option = format!("remount,size={size}");
        let mut mount = Command::new("mount");
        let grown = mount.args(["-o", &option]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn neither_the_comment_nor_a_name_of_a_run_can_drive_the_terminal() {
    let hostile = "\u{1b}[2J\u{9b}31m\u{202e}.contoso.com";
    let id = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    let stage = Stage::with_machines(Switches::default(), [Machine::new(id, hostile)]);
    let hides = |said: &Said| {
        for code in ["\u{1b}", "\u{9b}", "\u{202e}"] {
            said.hides(code);
        }
    };
    let args = ["unrestrict", id, "--comment", "cleaned\u{202e}"];
    let said = stage.run(args).exits(0);
    said.mentions("contoso.com");
    hides(&said);
    let said = stage.resume(&["last"]).exits(0);
    said.mentions("cleaned\\u{202e}");
    hides(&said);
    let said = stage.resume(&["last", "--output", "json"]).exits(0);
    assert_eq!(said.json()[1]["name"], hostile, "{said}");
    hides(&said);
}

#[test]
fn a_thousand_devices_are_told_of_in_a_few_lines() {
    let stage = Stage::of(1000, Switches::default(), SystemClock::scaled(SCALE));
    let began = Instant::now();
    let said = stage.release_all(&["--no-wait"]).exits(0);
    let took = began.elapsed() * SCALE;
    // How long it will take, the run's name, and then how they stand every ten seconds.
    let most = 3 + took.as_secs() / 10;
    let lines = said.err.lines().count() as u64;
    assert!(lines <= most, "{lines} of {most}: {said}");
    assert!(said.out.lines().count() <= 5, "{said}");
    said.mentions("of 1000 to be sent")
        .mentions(", the last one at about ")
        .mentions("1000 devices:");
    said.mentions("1000  accepted");
}

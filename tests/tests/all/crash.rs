//! The command, killed at random moments of a run and told to go on, again and again: what the
//! service then has in its book.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use defender_mock::{Api, Duplicate, Fault, Grant, Mock, Switches};
use host_demo::batch::State;
use host_demo::clock::SystemClock;
use host_demo::journal::{Call, Record, Runs};
use tests::binary::host_demo_binary;
use tests::lot::Lot;

const RELEASE: Api = Api::UnrestrictCodeExecution;

static BINARY: LazyLock<PathBuf> = LazyLock::new(host_demo_binary);

/// Two such runs at a time.
const RUNS: usize = 8;

const KILLS: usize = 25;

const DEVICES: u64 = 150;

/// A minute takes a second.
const SCALE: u32 = 60;

/// Whatever a process does, it is killed after so long, by the machine's own clock. As a rule it is
/// killed earlier: when so many of its calls have arrived.
const RESPITE: Duration = Duration::from_secs(20);

/// The service takes so long, which is a tenth of a second: much of what is killed is under way.
const DELAY: Duration = Duration::from_secs(6);

/// Few are under way at one time, so that a run lasts for many kills.
const AT_ONCE: &str = "3";

#[test]
fn a_run_that_is_killed_two_hundred_times_repeats_and_loses_nothing() {
    LazyLock::force(&BINARY);
    let mut lot = Lot::drawn();
    let mut lots: Vec<Lot> = (0..RUNS)
        .map(|_| Lot::seeded(lot.below(usize::MAX) as u64))
        .collect();
    std::thread::scope(|scope| {
        while let Some(one) = lots.pop() {
            let another = lots.pop().map(|lot| scope.spawn(|| play(lot)));
            play(one);
            if let Some(Err(panic)) = another.map(std::thread::ScopedJoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// One run, killed so often and then left in peace.
fn play(mut lot: Lot) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // Nothing but the run's own care keeps a second action from being made.
    let switches = Switches {
        duplicate: Duplicate::Create,
        ..Switches::default()
    };
    let mock = Mock::builder()
        .switches(switches)
        .clock(Arc::new(SystemClock::scaled(SCALE)))
        .machines(DEVICES)
        .plain_http(true)
        .start();
    let mock = runtime.block_on(mock).unwrap();
    // As many are lost before the service has acted as after.
    for _ in 0..10 * DEVICES {
        let fault = Fault::delay(DELAY.mul_f64(lot.below(100) as f64 / 100.0)).on(RELEASE);
        mock.inject(match lot.below(2) {
            0 => fault.after_acting(),
            _ => fault,
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let runs = Runs::new(folder.path().join("runs"));
    let mut story = format!("{lot:?}\n");
    for _ in 0..KILLS {
        let mut process = Process::start(&mock, folder.path(), &runs);
        let before = arrivals(&mock);
        // Now and then as it starts; mostly around a call, the first one or a later one.
        let (calls, grace) = match lot.below(6) {
            0 => (0, lot.below(500)),
            _ => (1 + lot.below(9), lot.below(60)),
        };
        let began = Instant::now();
        while arrivals(&mock) < before + calls && began.elapsed() < RESPITE && process.lives() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(grace as u64));
        process.kill();
        let call = arrivals(&mock) - before;
        let _ = write!(story, "{:?}: call {call}; ", began.elapsed());
    }
    let said = Process::command(&mock, folder.path(), &runs)
        .output()
        .unwrap();
    let _ = write!(
        story,
        "\n{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    println!("{story}");
    assert_eq!(said.status.code(), Some(0), "{story}");

    let id = runs.find("last").unwrap();
    let record = runs.read(&id).unwrap();
    assert_eq!(record.entries.len(), DEVICES as usize, "{story}");
    for entry in &record.entries {
        let machine = entry.machine.as_str();
        let actions = mock.actions_of(machine);
        assert_eq!(actions.len(), 1, "{machine}: {actions:?}\n{story}");
        assert_eq!(mock.is_restricted(machine), Some(false), "{story}");
        let action = entry.action.as_ref().unwrap();
        assert_eq!(action.id, actions[0].id.to_string(), "{story}");
        assert_eq!(entry.state, State::Done, "{entry:?}\n{story}");
        assert!(!entry.is_adopted, "{entry:?}\n{story}");
    }
    let most = mock.most_in_any_window(RELEASE, Duration::from_secs(60));
    let scale = SCALE.to_string();
    let quota = Process::bare(
        folder.path(),
        &["quota", "--ledger", "ledger.sqlite", "--time-scale", &scale],
    )
    .output();
    let quota = String::from_utf8_lossy(&quota.unwrap().stdout).into_owned();
    assert!(
        most <= 100,
        "{most}; {story}\n{quota}\n{:#?}",
        beside_each_other(&mock, &record)
    );
    let intact = Process::bare(folder.path(), &["audit", "verify"]).status();
    assert!(intact.unwrap().success(), "the record; {story}");
    // Each request that arrived was written down before, and never as one that did not leave.
    let may_have_left = |call: &&Call| call.device.is_some() && call.left;
    let written = record.calls.iter().filter(may_have_left);
    let (written, arrived) = (written.count(), mock.arrivals(RELEASE));
    assert!(written >= arrived, "{written} of {arrived}; {story}");
    assert!(
        arrived > DEVICES as usize,
        "none was lost under way: {story}"
    );
}

/// When each request arrived and how it was answered, and when the run began each call and knew of
/// its answer.
fn beside_each_other(mock: &Mock, record: &Record) -> (Vec<String>, Vec<String>) {
    let requests = mock.requests();
    let arrived = requests
        .iter()
        .filter(|request| request.api == Some(RELEASE));
    let calls = record.calls.iter().filter(|call| call.device.is_some());
    (
        arrived
            .map(|r| format!("{:?} {:?}", r.at, r.status))
            .collect(),
        calls
            .map(|c| format!("{} {:?} {:?}", c.began, c.ended, c.result))
            .collect(),
    )
}

fn arrivals(mock: &Mock) -> usize {
    mock.arrivals(RELEASE) + mock.arrivals(Api::ListMachineActions)
}

/// The command, which begins the run or goes on with it.
struct Process(Child);

impl Process {
    fn command(mock: &Mock, folder: &Path, runs: &Runs) -> Command {
        let token = folder.join("token");
        let grant = Grant::new().lifetime(Duration::from_secs(24 * 3600));
        std::fs::write(&token, mock.token(grant)).unwrap();
        std::fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
        // A run that was killed before it was written down has sent nothing.
        let is_begun = runs.find("last").is_ok_and(|id| runs.read(&id).is_ok());
        let mut command = match is_begun {
            true => Self::bare(folder, &["resume", "last"]),
            false => {
                assert_eq!(mock.arrivals(RELEASE), 0, "sent without a journal");
                let args = ["unrestrict", "--yes", "--comment", "cleaned"];
                let mut command = Self::bare(folder, &args);
                command.args(mock.machine_ids());
                command
            }
        };
        command
            .args(["--base-url", mock.base_url()])
            .args(["--authority", mock.authority()])
            .args(["--scope", &mock.scope()])
            .args(["--at-once", AT_ONCE, "--time-scale", &SCALE.to_string()])
            .args(["--timeout", "60s", "--runs", "runs"])
            // Time that is scaled is counted in memory unless a ledger is named.
            .args(["--ledger", "ledger.sqlite"])
            .args(["--token-file", "token"]);
        command
    }

    fn bare(folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&*BINARY);
        command
            .args(args)
            .env_clear()
            .env("HOME", folder)
            .env("XDG_CACHE_HOME", BINARY.with_file_name("host-demo-cache"))
            .current_dir(folder)
            .stdin(Stdio::null());
        command
    }

    fn start(mock: &Mock, folder: &Path, runs: &Runs) -> Self {
        let mut command = Self::command(mock, folder, runs);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

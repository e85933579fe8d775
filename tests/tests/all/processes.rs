//! Processes that share one ledger and are killed: what the service then counts.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use defender_mock::{Api, Duplicate, Fault, Grant, Mock, Switches};
use host_demo::clock::{Clock, SystemClock};
use host_demo::limits::{Quota, QuotaStore, Redis, RedisOptions, Sqlite, boot_id};
use tests::binary::host_demo_binary;
use tests::lot::Lot;
use tests::redis::RedisServer;

const RELEASE: Api = Api::UnrestrictCodeExecution;

static BINARY: LazyLock<PathBuf> = LazyLock::new(host_demo_binary);

const PROCESSES: usize = 8;

/// A minute takes two seconds.
const SCALE: u32 = 30;

/// For how long they are killed and started again, on the machine's own clock, if enough calls
/// arrived by then.
const TIME: Duration = Duration::from_secs(30);

/// A busy machine has so long for enough calls.
const TIME_MAX: Duration = Duration::from_secs(300);

/// From one kill to the next, at most.
const RESPITE: Duration = Duration::from_millis(600);

/// The service takes its time.
const DELAY: Duration = Duration::from_secs(9);

/// A call has so long. Two of the machine's seconds, so that few calls end for want of time.
const CALL: &str = "60s";

#[test]
fn processes_that_share_a_file_and_are_killed_never_exceed_the_quota() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.sqlite");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::scaled(SCALE));
    // Faster time has a ledger of its own.
    let scaled = folder.path().join(format!("ledger.sqlite.x{SCALE}"));
    let ledger = Sqlite::open(&scaled, Arc::clone(&clock), &boot_id()).unwrap();
    hammer(folder.path(), file.to_str().unwrap(), &clock, &ledger);
}

#[test]
fn processes_that_share_a_server_and_are_killed_never_exceed_the_quota() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::scaled(SCALE));
    let options = RedisOptions {
        time: Some(Arc::clone(&clock)),
        ..RedisOptions::default()
    };
    let ledger = Redis::open(&server.url(), options, Arc::clone(&clock)).unwrap();
    // A new one may be one that was lost.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(ledger.reopen()).unwrap();
    hammer(folder.path(), &server.url(), &clock, &ledger);
}

/// Eight of the command's processes release devices as fast as the ledger lets them, and are killed
/// at random moments, until the time is up. The stand-in counts by itself.
fn hammer(folder: &Path, name: &str, clock: &Arc<dyn Clock>, ledger: &dyn QuotaStore) {
    LazyLock::force(&BINARY);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let switches = Switches {
        duplicate: Duplicate::Create,
        ..Switches::default()
    };
    let mock = Mock::builder()
        .clock(Arc::clone(clock))
        .machines(1000)
        .switches(switches)
        .plain_http(true)
        .start();
    let mock = runtime.block_on(mock).unwrap();
    // So that a process is often killed while calls are under way.
    mock.inject(Fault::delay(DELAY).on(RELEASE).always());
    let token = mock.token(Grant::new().lifetime(Duration::from_secs(24 * 3600)));
    std::fs::write(folder.join("token"), token).unwrap();
    std::fs::set_permissions(folder.join("token"), Permissions::from_mode(0o600)).unwrap();

    let mut lot = Lot::drawn();
    let seed = lot.clone();
    let mut processes: Vec<Process> = (0..PROCESSES)
        .map(|n| Process::start(&mock, folder, name, n))
        .collect();
    // Of each process that was killed: how many of its calls were cut short.
    let mut lost: BTreeMap<u32, usize> = BTreeMap::new();
    let full = Quota::DOCUMENTED[0].calls as usize;
    let is_enough = |lost: &BTreeMap<u32, usize>| {
        mock.arrivals(RELEASE) > 2 * full && lost.values().sum::<usize>() > 0
    };
    let began = Instant::now();
    while began.elapsed() < TIME || !is_enough(&lost) && began.elapsed() < TIME_MAX {
        std::thread::sleep(RESPITE.mul_f64(lot.below(1000) as f64 / 1000.0));
        let n = lot.below(PROCESSES);
        let killed = processes[n].kill();
        let reading = runtime.block_on(ledger.read()).unwrap();
        for (who, slots, _) in reading.budgets.values().flat_map(|budget| budget.holders()) {
            if who.ends_with(&format!(", process {killed}")) {
                lost.insert(killed, slots);
            }
        }
        processes[n] = Process::start(&mock, folder, name, n);
    }
    drop(processes);

    let story = format!(
        "{seed:?}; {} processes killed with calls under way: {lost:?}; {} calls arrived; {}",
        lost.len(),
        mock.arrivals(RELEASE),
        std::fs::read_to_string(folder.join("home-0/stderr")).unwrap()
    );
    for quota in Quota::DOCUMENTED {
        let most = mock.most_in_any_window(RELEASE, quota.per);
        println!("{most} of {} in {:?}", quota.calls, quota.per);
        assert!(most <= quota.calls as usize, "{most} of {quota:?}; {story}");
    }
    println!("{story}");
    let refused = mock
        .requests()
        .iter()
        .filter(|r| r.status == Some(429))
        .count();
    assert_eq!(refused, 0, "{story}");
    assert!(lost.values().sum::<usize>() > 0, "{story}");
    assert!(
        mock.arrivals(RELEASE) > 2 * full,
        "the quota did not bind: {story}"
    );
}

/// One of the command's processes. It is killed when this is dropped.
struct Process(Child);

impl Process {
    fn start(mock: &Mock, folder: &Path, ledger: &str, n: usize) -> Self {
        let home = folder.join(format!("home-{n}"));
        std::fs::create_dir_all(&home).unwrap();
        let binary = &*BINARY;
        let child = Command::new(binary)
            .args(["unrestrict", "--yes", "--comment", "cleaned", "--no-wait"])
            .args([
                "--base-url",
                mock.base_url(),
                "--authority",
                mock.authority(),
            ])
            .args(["--scope", &mock.scope()])
            .args(["--timeout", CALL, "--time-scale", &SCALE.to_string()])
            .args(["--ledger", ledger, "--token-file"])
            .arg(folder.join("token"))
            .args(mock.machine_ids())
            .env_clear()
            .env("HOME", &home)
            .env("XDG_CACHE_HOME", binary.with_file_name("host-demo-cache"))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(home.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Kills it, and says which it was.
    fn kill(&mut self) -> u32 {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

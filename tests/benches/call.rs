//! What a call costs, beside the same call by `reqwest` alone: `cargo bench -p tests --bench call`.
//!
//! The two sides take turns, so that whatever else the machine does meets both, and what is printed
//! is the median over the rounds. The stand-in runs in a process of its own. Bounds and goals stand
//! beside the numbers; nothing fails for missing one. `-- --quick` takes fewer rounds.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host_demo::clock::SystemClock;
use host_demo::cloud::Service;
use host_demo::host::{Host, Setup, WaitOptions};
use host_demo::identity::{FixedToken, Identity, Method, Settings, TokenSource};
use host_demo::limits::Quota;
use host_demo::plugin::{self, Plugin};
use serde_json::Value;
use tests::bare::{self, COMMENT, Error};
use tests::binary::{defender_mock_binary, host_demo_binary};
use tests::instances::instances;
use tests::report::{Better, Report, Row};
use tests::usage;

/// How much is done for each number.
struct Effort {
    rounds: usize,
    calls: usize,
    instances: usize,
    processes: usize,
}

const THOROUGH: Effort = Effort {
    rounds: 9,
    calls: 6400,
    instances: 5000,
    processes: 15,
};
const QUICK: Effort = Effort {
    rounds: 5,
    calls: 1280,
    instances: 1000,
    processes: 11,
};

/// Callers at one time, in the crowded rounds.
const CROWD: usize = 64;

fn main() -> Result<(), Error> {
    let mut report = Report::new("call");
    let effort = if report.is_quick() { QUICK } else { THOROUGH };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let binary = host_demo_binary();
    let stand_in = defender_mock_binary();
    let secure = StandIn::start(&stand_in, directory, "tls", true)?;
    let plain = StandIn::start(&stand_in, directory, "plain", false)?;

    // First, while this process is small: a child's peak memory includes its parent's at the
    // time of the fork.
    let whole = processes(&binary, directory, &secure, effort.processes)?;

    let size = vec![plugin::BUNDLED.len() as f64];
    report.row(
        Row::new("component", Better::Lower, size)
            .unit("bytes")
            .bound("163840"),
    );
    let fresh = instances(effort.instances)?.into_iter().map(|s| s * 1e6);
    let mut fresh: Vec<f64> = fresh.collect();
    fresh.sort_by(f64::total_cmp);
    // A row for the middle and one for the tail: the extremes of thousands say little.
    for (what, percent, bound) in [
        ("fresh store and instance, median", 50, "15 us"),
        ("fresh store and instance, 99 of 100", 99, ""),
    ] {
        let value = vec![fresh[fresh.len() * percent / 100]];
        let row = Row::new(what, Better::Lower, value);
        report.row(row.unit("us").digits(1).bound(bound));
    }

    let runtime = tokio::runtime::Runtime::new()?;
    for (stand_in, how, bounds) in [
        (
            &secure,
            "TLS, HTTP/2",
            ["2.2, goal 1.5", "0.4 at least, goal 0.6"],
        ),
        (&plain, "HTTP/1.1", ["", ""]),
    ] {
        let (alone, crowd) = runtime.block_on(calls(stand_in, &effort))?;
        report.row(
            Row::new(
                format!("time of a call / bare reqwest's, {how}"),
                Better::Lower,
                alone,
            )
            .digits(2)
            .bound(bounds[0]),
        );
        report.row(
            Row::new(
                format!("calls a second / bare's, {CROWD} callers, {how}"),
                Better::Higher,
                crowd,
            )
            .digits(2)
            .bound(bounds[1]),
        );
    }
    let longer = "`host-demo unrestrict --no-wait`, longer than bare";
    report.row(
        Row::new(longer, Better::Lower, whole.longer)
            .unit("ms")
            .digits(1)
            .bound("40 ms"),
    );
    report.row(
        Row::new("its peak memory", Better::Lower, whole.peak)
            .unit("MiB")
            .digits(1)
            .bound("40 MiB"),
    );
    report.write()
}

/// The service's stand-in, until this is dropped.
struct StandIn {
    process: Child,
    about: Value,
    ca: Vec<u8>,
    ca_file: PathBuf,
    token: String,
}

impl StandIn {
    fn start(binary: &Path, directory: &Path, name: &str, is_secure: bool) -> Result<Self, Error> {
        let ca_file = directory.join(format!("{name}.pem"));
        let token_file = directory.join(format!("{name}.token"));
        let mut command = Command::new(binary);
        command.args(["--output", "json", "--machines", &CROWD.to_string()]);
        // No quota, and a device can be released over and over.
        for switch in ["per-minute=none", "per-hour=none", "duplicate=return"] {
            command.args(["--set", switch]);
        }
        command.arg("--token-out").arg(&token_file);
        match is_secure {
            true => command.arg("--ca-out").arg(&ca_file),
            false => command.arg("--plain-http"),
        };
        let process = command.stdout(Stdio::piped()).spawn()?;
        let mut stand_in = Self {
            process,
            about: Value::Null,
            ca: Vec::new(),
            ca_file,
            token: String::new(),
        };
        let mut line = String::new();
        let stdout = stand_in.process.stdout.take().ok_or("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        stand_in.about = serde_json::from_str(&line)?;
        stand_in.token = std::fs::read_to_string(token_file)?;
        if stand_in.is_secure() {
            stand_in.ca = std::fs::read(&stand_in.ca_file)?;
        }
        Ok(stand_in)
    }

    fn says(&self, name: &str) -> &str {
        self.about[name].as_str().unwrap_or_default()
    }

    fn is_secure(&self) -> bool {
        self.says("base_url").starts_with("https:")
    }

    fn machine_id(&self, n: usize) -> &str {
        self.about["machine_ids"][n].as_str().unwrap_or_default()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Both sides of the comparison.
#[derive(Clone)]
enum Caller {
    Host(Box<Host>),
    Bare(reqwest::Client),
}

/// The ratios of each round: the host's time of one call to the bare one's, and its calls a second.
async fn calls(stand_in: &StandIn, effort: &Effort) -> Result<(Vec<f64>, Vec<f64>), Error> {
    let host = Caller::Host(Box::new(host(stand_in)?));
    let bare = Caller::Bare(bare::client(&stand_in.ca)?);
    let (mut alone, mut crowd) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=effort.rounds {
        let (host_time, _) = calls_of(&host, stand_in, 1, effort.calls / 4).await?;
        let (bare_time, _) = calls_of(&bare, stand_in, 1, effort.calls / 4).await?;
        let (_, host_rate) = calls_of(&host, stand_in, CROWD, effort.calls).await?;
        let (_, bare_rate) = calls_of(&bare, stand_in, CROWD, effort.calls).await?;
        if round > 0 {
            alone.push(host_time / bare_time);
            crowd.push(host_rate / bare_rate);
        }
    }
    Ok((alone, crowd))
}

/// A host whose quotas count and never bind.
fn host(stand_in: &StandIn) -> Result<Host, Error> {
    let base_url = stand_in.says("base_url");
    let mut service = Service::custom(base_url, base_url, stand_in.says("scope"))?;
    let tokens: Arc<dyn TokenSource> = if stand_in.is_secure() {
        service = service.with_ca(stand_in.ca.clone());
        let [tenant_id, client_id, client_secret] = ["tenant_id", "client_id", "client_secret"]
            .map(|name| Some(stand_in.says(name).to_owned()));
        let settings = Settings {
            tenant_id,
            client_id,
            client_secret,
            ..Settings::default()
        };
        Arc::new(Identity::new(
            Method::ClientSecret,
            settings,
            &service,
            Arc::new(SystemClock::new()),
        )?)
    } else {
        Arc::new(FixedToken::new(&stand_in.token)?)
    };
    let plugin = Plugin::bundled(&plugin::engine(None)?)?;
    let mut setup = Setup::new(service, tokens);
    setup.quotas = Quota::DOCUMENTED
        .map(|quota| Quota {
            calls: u32::MAX,
            ..quota
        })
        .to_vec();
    Ok(Host::new(plugin, &setup.build()?))
}

/// So many calls by so many callers: the median time of one in seconds, and the calls per second.
async fn calls_of(
    caller: &Caller,
    stand_in: &StandIn,
    callers: usize,
    calls: usize,
) -> Result<(f64, f64), Error> {
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..callers {
        let caller = caller.clone();
        let machine_id = stand_in.machine_id(n).to_owned();
        let base_url = stand_in.says("base_url").to_owned();
        let token = stand_in.token.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..calls / callers {
                let start = Instant::now();
                match &caller {
                    Caller::Host(host) => {
                        host.unrestrict_code_execution(
                            &machine_id,
                            COMMENT,
                            WaitOptions::default(),
                        )
                        .await
                        .map(drop)?;
                    }
                    Caller::Bare(client) => {
                        bare::release(client, &base_url, &token, &machine_id)
                            .await
                            .map(drop)?;
                    }
                }
                times.push(start.elapsed().as_secs_f64());
            }
            Ok::<_, Error>(times)
        });
    }
    let mut times = Vec::new();
    for task in tasks.join_all().await {
        times.extend(task?);
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], rate))
}

/// What whole processes take, run by run.
struct Whole {
    /// By how many milliseconds the command takes longer than the bare program after it.
    longer: Vec<f64>,
    /// Its peak memory in MiB.
    peak: Vec<f64>,
}

fn processes(
    binary: &Path,
    directory: &Path,
    stand_in: &StandIn,
    runs: usize,
) -> Result<Whole, Error> {
    let (mut longer, mut peak) = (Vec::new(), Vec::new());
    // What the command keeps is its own here, and begun anew: not the user's.
    for kept in ["cache", "state"] {
        let _ = std::fs::remove_dir_all(directory.join(kept));
    }
    // The first run compiles the plugin, and keeps the code.
    for run in 0..=runs {
        let mut ours = Command::new(binary);
        ours.args([
            "unrestrict",
            "--no-wait",
            "--comment",
            COMMENT,
            "--base-url",
            stand_in.says("base_url"),
        ])
        .args([
            "--authority",
            stand_in.says("base_url"),
            "--scope",
            stand_in.says("scope"),
            "--ca-file",
        ])
        .arg(&stand_in.ca_file)
        .arg(stand_in.machine_id(run))
        .env("XDG_CACHE_HOME", directory.join("cache"))
        .env("XDG_CONFIG_HOME", directory.join("config"))
        .env("XDG_STATE_HOME", directory.join("state"));
        let (time, peak_kib) = run_once(ours, stand_in)?;
        let mut theirs = Command::new(env!("CARGO_BIN_EXE_bare"));
        theirs
            .env("BASE_URL", stand_in.says("base_url"))
            .env("SCOPE", stand_in.says("scope"))
            .env("CA_FILE", &stand_in.ca_file)
            .env("MACHINE_ID", stand_in.machine_id(run));
        let (bare_time, _) = run_once(theirs, stand_in)?;
        if run > 0 {
            longer.push((time.as_secs_f64() - bare_time.as_secs_f64()) * 1e3);
            peak.push(peak_kib as f64 / 1024.0);
        }
    }
    Ok(Whole { longer, peak })
}

/// Runs a command to its end: its wall time, and its peak memory in KiB.
fn run_once(mut command: Command, stand_in: &StandIn) -> Result<(Duration, i64), Error> {
    for (name, value) in [
        ("AZURE_TENANT_ID", "tenant_id"),
        ("AZURE_CLIENT_ID", "client_id"),
        ("AZURE_CLIENT_SECRET", "client_secret"),
    ] {
        command.env(name, stand_in.says(value));
    }
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let (status, peak_kib) = usage::wait(&child)?;
    let time = start.elapsed();
    if status != 0 {
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        return Err(format!("{:?} ended with {status}: {said}", command.get_program()).into());
    }
    Ok((time, peak_kib))
}

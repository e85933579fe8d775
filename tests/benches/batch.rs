//! What a run of many devices costs: `cargo bench -p tests --bench batch`.
//!
//! First the whole of it, the command beside a stand-in on a clock that runs faster, with both
//! quotas: how long it takes beside the least that the quotas allow, how much memory and disk, and
//! how many readings. Then without quotas, 64 requests at one time: devices a second, beside a loop
//! of `reqwest` alone, which keeps no journal, no record and no count. Bounds stand beside the
//! numbers; nothing fails for missing one. `-- --quick` takes a quarter of the devices for the
//! second.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use defender_mock::{Api, Grant, Mock, Switches};
use host_demo::audit::{Audit, Who};
use host_demo::batch::{self, Entry, Follow, Plan};
use host_demo::clock::SystemClock;
use host_demo::cloud::Service;
use host_demo::host::{Host, Setup};
use host_demo::identity::FixedToken;
use host_demo::journal::Runs;
use host_demo::kind::ActionKind;
use host_demo::limits::Quota;
use host_demo::plugin::{self, Plugin};
use tests::bare::{self, COMMENT, Error};
use tests::batch::{Told, begun};
use tests::binary::host_demo_binary;
use tests::report::{Better, Report, Row};
use tests::usage;
use tokio::sync::watch;

const DEVICES: usize = 10_000;

/// Six hours take less than three minutes, and a minute's hundred calls less than half a second,
/// which two cores can do.
const SCALE: u32 = 150;

/// Requests at one time, without quotas.
const AT_ONCE: usize = 64;

/// What an answer is taken to need, in a forecast.
const ANSWER: Duration = Duration::from_secs(1);

fn main() -> Result<(), Error> {
    let mut report = Report::new("batch");
    let binary = host_demo_binary();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(with_quotas(&mut report, &binary, folder.path()))?;
    let devices = DEVICES / if report.is_quick() { 4 } else { 1 };
    runtime.block_on(without_quotas(&mut report, folder.path(), devices))?;
    report.write()
}

/// The command, from the list to the last device's end.
async fn with_quotas(report: &mut Report, binary: &Path, folder: &Path) -> Result<(), Error> {
    let mock = Mock::builder()
        .clock(Arc::new(SystemClock::scaled(SCALE)))
        .machines(DEVICES as u64)
        .keep_requests(10 * DEVICES)
        .start()
        .await?;
    let (list, ca) = (folder.join("list"), folder.join("ca.pem"));
    std::fs::write(&list, mock.machine_ids().join("\n"))?;
    std::fs::write(&ca, mock.ca_pem().unwrap_or_default())?;
    let mut command = Command::new(binary);
    command
        .args(["unrestrict", "--yes", "--comment", COMMENT, "--from"])
        .arg(&list)
        .args([
            "--base-url",
            mock.base_url(),
            "--authority",
            mock.authority(),
        ])
        .args(["--scope", &mock.scope(), "--ca-file"])
        .arg(&ca)
        // A thirtieth of a second is too short for a call on a busy machine.
        .args(["--timeout", "5m", "--time-scale", &SCALE.to_string()])
        .env("XDG_STATE_HOME", folder)
        .env("AZURE_TENANT_ID", mock.tenant_id())
        .env("AZURE_CLIENT_ID", mock.client_id())
        .env("AZURE_CLIENT_SECRET", mock.client_secret())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    let watched = tokio::task::spawn_blocking(move || usage::watch(&mut child));
    let usage::Usage { status, peak, .. } = watched.await??;
    if !status.success() {
        return Err(format!("the run ended with {status}").into());
    }

    let requests = mock.requests();
    let at = |api| requests.iter().filter(move |r| r.api == Some(api));
    let sent: Vec<_> = at(Api::UnrestrictCodeExecution).map(|r| r.at).collect();
    let (Some(first), Some(last)) = (sent.first(), sent.last()) else {
        return Err("nothing was sent".into());
    };
    let took = last.since(*first);
    let operation = ActionKind::Release.operation();
    let forecast = host(&mock, |_| {})?
        .forecast(operation, DEVICES, ANSWER)
        .await?;
    let least = forecast.ok_or("it takes forever")?;
    report.row(
        Row::new(
            format!("{DEVICES} devices, first to last request / forecast"),
            Better::Lower,
            vec![took.as_secs_f64() / least.as_secs_f64()],
        )
        .digits(4)
        .bound("1.02"),
    );
    let minute = mock.most_in_any_window(Api::UnrestrictCodeExecution, Duration::from_secs(60));
    let hour = mock.most_in_any_window(Api::UnrestrictCodeExecution, Duration::from_secs(3600));
    for (what, calls, bound) in [
        ("calls in the fullest minute", minute, "100"),
        ("calls in the fullest hour", hour, "1500"),
    ] {
        report.row(Row::new(what, Better::Neither, vec![calls as f64]).bound(bound));
    }
    let released = mock.machine_ids();
    let released = released
        .iter()
        .filter(|id| mock.is_restricted(id) == Some(false));
    report.row(
        Row::new(
            "devices released, according to the stand-in",
            Better::Neither,
            vec![released.count() as f64],
        )
        .bound(&DEVICES.to_string()),
    );
    report.row(
        Row::new("peak memory", Better::Lower, vec![peak as f64 / 1024.0])
            .unit("MiB")
            .digits(1)
            .bound("64 MiB"),
    );
    let journal: u64 = std::fs::read_dir(folder.join("host-demo/runs"))?
        .filter_map(|file| Some(file.ok()?.metadata().ok()?.len()))
        .sum();
    report.row(
        Row::new(
            "journal, for each device",
            Better::Lower,
            vec![journal as f64 / DEVICES as f64],
        )
        .unit("bytes")
        .bound("2048"),
    );

    // Each reading of known actions, when it was and how many it asked for.
    let asked: Vec<_> = at(Api::ListMachineActions)
        .filter(|r| r.path_and_query.contains("=id%20"))
        .map(|r| (r.at, r.path_and_query.matches("%27").count() / 2))
        .collect();
    let ids: usize = asked.iter().map(|(_, ids)| ids).sum();
    // Those that asked for few, although another was made in the same poll.
    let wasted = asked
        .windows(2)
        .filter(|two| two[1].0.since(two[0].0) < Duration::from_secs(2) && two[0].1 < 50);
    let others = at(Api::ListMachineActions).count() - asked.len();
    for (what, better, value, bound) in [
        (
            "reads of known actions",
            Better::Lower,
            asked.len() as f64,
            "",
        ),
        (
            "actions in each",
            Better::Higher,
            ids as f64 / asked.len() as f64,
            "",
        ),
        (
            "reads for fewer than 50 that are not a poll's last",
            Better::Lower,
            wasted.count() as f64,
            "0",
        ),
        ("other reads", Better::Lower, others as f64, ""),
    ] {
        report.row(Row::new(what, better, vec![value]).digits(1).bound(bound));
    }
    Ok(())
}

fn host(mock: &Mock, bend: impl FnOnce(&mut Setup)) -> Result<Host, Error> {
    let service = Service::custom(mock.base_url(), mock.authority(), &mock.scope())?;
    let service = service.with_ca(mock.ca_pem().unwrap_or_default().as_bytes().to_vec());
    let token = FixedToken::new(&mock.token(Grant::new()))?;
    let plugin = Plugin::bundled(&plugin::engine(None)?)?;
    let mut setup = Setup::new(service, Arc::new(token));
    bend(&mut setup);
    Ok(Host::new(plugin, &setup.build()?))
}

/// Host, journal, record and stand-in, all of them in this process.
async fn without_quotas(report: &mut Report, folder: &Path, devices: usize) -> Result<(), Error> {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let mock = Mock::builder()
            .machines(devices as u64)
            .switches(Switches {
                per_minute: None,
                per_hour: None,
                ..Switches::default()
            })
            .start()
            .await?;
        let ids = mock.machine_ids();
        let (first, second) = ids.split_at(devices / 2);
        bare.push(bare_rate(&mock, first).await?);
        ours.push(our_rate(&mock, second, &folder.join(round.to_string())).await?);
    }
    let ratio = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare);
    let ratio = ratio.collect();
    report.row(Row::new(
        format!("without quotas, {AT_ONCE} at once: devices a second"),
        Better::Higher,
        ours,
    ));
    report.row(Row::new("the same / bare reqwest's", Better::Higher, ratio).digits(2));
    Ok(())
}

async fn our_rate(mock: &Mock, ids: &[String], folder: &Path) -> Result<f64, Error> {
    std::fs::create_dir_all(folder)?;
    let audit = Audit::open(&folder.join("audit"), &folder.join("key"), Who::default())?;
    let host = host(mock, |setup| {
        setup.audit = Some(Arc::new(audit));
        setup.quotas = Quota::DOCUMENTED
            .map(|quota| Quota {
                calls: u32::MAX,
                ..quota
            })
            .to_vec();
    })?;
    let run = begun(ActionKind::Release, &host);
    let entries: Result<Vec<Entry>, Error> = ids
        .iter()
        .map(|id| Ok(Entry::new(id.parse()?, None)))
        .collect();
    let entries = entries?;
    let journal = Runs::new(folder.join("runs")).create(&run, &entries)?;
    let mut plan = Plan::new(Follow::Not);
    plan.at_once = AT_ONCE;
    let (_go_on, stop) = watch::channel(false);
    let began = Instant::now();
    let told = Arc::new(Told::default());
    let finished = batch::drive(&host, &journal, entries, &plan, told, stop).await?;
    let took = began.elapsed();
    let sent = finished
        .entries
        .iter()
        .filter(|entry| entry.action.is_some())
        .count();
    if sent != ids.len() {
        return Err(format!("{sent} of {} were sent", ids.len()).into());
    }
    Ok(ids.len() as f64 / took.as_secs_f64())
}

async fn bare_rate(mock: &Mock, ids: &[String]) -> Result<f64, Error> {
    let client = bare::client(mock.ca_pem().unwrap_or_default().as_bytes())?;
    let (base_url, token) = (mock.base_url().to_owned(), mock.token(Grant::new()));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for part in ids.chunks(ids.len().div_ceil(AT_ONCE)) {
        let (client, part) = (client.clone(), part.to_vec());
        let (base_url, token) = (base_url.clone(), token.clone());
        tasks.spawn(async move {
            for id in part {
                bare::release(&client, &base_url, &token, &id).await?;
            }
            Ok::<_, Error>(())
        });
    }
    for task in tasks.join_all().await {
        task?;
    }
    Ok(ids.len() as f64 / began.elapsed().as_secs_f64())
}

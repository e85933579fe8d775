//! `host-demo demo`: the main job, told as a story, against the stand-in.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use defender_mock::{ActionType, Api, DeviceBehaviour, Duplicate, Ending, Fault, Mock, Switches};
use host_demo::batch::{self, Entry, Finished, Follow, Outcome, Plan, Reporter, State, Unreadable};
use host_demo::clock::{Clock, SystemClock};
use host_demo::cloud::Service;
use host_demo::host::{CallError, Host, Patience, Setup};
use host_demo::identity::{Identity, Method, Settings, TokenSource as _};
use host_demo::journal::{Journal, Run, Runs};
use host_demo::kind::Kind;
use host_demo::limits::Quota;
use host_demo::waiting::{Cause, Waiting};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::args;
use crate::exit::Exit;
use crate::setup::plugin;
use crate::ui::output::{clean, line};
use crate::ui::run_text;

/// How many times as fast time runs in the story: a minute takes three seconds.
const SCALE: u32 = 20;

/// Enough for the quota of a minute to bind.
const MANY: usize = 150;

const COMMENT: &str = "INC-42: cleaned and validated";

pub(crate) async fn run() -> anyhow::Result<Exit> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::scaled(SCALE));
    let switches = Switches {
        duplicate: Duplicate::Reject,
        ..Switches::default()
    };
    let mock = Mock::builder()
        .clock(Arc::clone(&clock))
        .machines(MANY as u64 + 2)
        .switches(switches)
        .start()
        .await?;
    let ids = mock.machine_ids();

    line(
        "Devices that run only Microsoft-signed programs, after an incident. They are clean; here they are",
    );
    line(&format!(
        "released, against a stand-in for Defender and Entra. Time runs {SCALE} times as fast.\n"
    ));

    step(
        "The plugin is a WebAssembly component. It gets no clock, no file, no socket and no secret:",
    );
    let plugin = plugin::load(&args::Plugin::default())?;
    let about = plugin.about();
    line(&format!(
        "    {} bytes, sha256 {}…",
        about.size,
        &about.digest[..16]
    ));
    line(&format!(
        "    imports  {}",
        about.imports.join("\n             ")
    ));

    let service = Service::custom(mock.base_url(), mock.authority(), &mock.scope())?.with_ca(
        mock.ca_pem()
            .context("the stand-in has no certificate")?
            .into(),
    );
    step(&format!(
        "The host fetches a token from {}, and keeps it to itself:",
        mock.authority()
    ));
    let settings = Settings {
        tenant_id: Some(mock.tenant_id().to_owned()),
        client_id: Some(mock.client_id().to_owned()),
        client_secret: Some(mock.client_secret().to_owned()),
        ..Settings::default()
    };
    let tokens = Arc::new(Identity::new(
        Method::ClientSecret,
        settings,
        &service,
        Arc::clone(&clock),
    )?);
    let token = tokens.token().await?;
    line(&format!(
        "    granted to application {}",
        token.claims().application.as_deref().unwrap_or("?")
    ));
    line(&format!("    roles   {}", token.claims().roles.join(", ")));

    let boundary = Setup {
        clock: Arc::clone(&clock),
        // In the story's time; a slow machine needs more than half a second for its first call.
        call_timeout: Duration::from_secs(120),
        ..Setup::new(service, tokens)
    };
    let host = Host::new(plugin, &boundary.build()?);

    let routes = host.policy().routes();
    step(&format!(
        "The plugin may send {} kinds of request, each only for what it was called for:",
        routes.len()
    ));
    for route in routes {
        line(&format!("    {route}"));
    }

    one_device(&host, &ids[0]).await?;
    refusals(&host, &ids[1]).await?;
    many(&host, &mock, &ids[2..]).await?;

    line("\nThat was the whole of it. To play with it yourself: host-demo mock --help");
    Ok(Exit::Done)
}

fn step(text: &str) {
    line(&format!("\n* {text}"));
}

async fn one_device(host: &Host, id: &str) -> anyhow::Result<()> {
    step(&format!(
        "Release {id}, and follow it until the device has done it:"
    ));
    let began = host.clock().now();
    let plan = Plan::new(Follow::For(Duration::from_secs(600)));
    let finished = release(host, &[id.to_owned()], &plan, Arc::new(Lines)).await?;
    let took = host.clock().now().since(began).as_secs();
    ensure!(
        finished.entries[0].state == State::Done,
        "not released: {:?}",
        finished.entries[0]
    );
    line(&format!("    free after {took} s"));
    Ok(())
}

async fn refusals(host: &Host, id: &str) -> anyhow::Result<()> {
    step("What does not fit is refused before there is a request:");
    refused(host, "abc/offboard?").await?;
    step("A device that the service does not know:");
    refused(host, &"f".repeat(40)).await?;
    step("A device whose release is under way already: nothing to do but to follow that one.");
    let _ = host
        .unrestrict_code_execution(id, COMMENT, Patience::default())
        .await?;
    refused(host, id).await
}

async fn refused(host: &Host, id: &str) -> anyhow::Result<()> {
    match host
        .unrestrict_code_execution(id, COMMENT, Patience::default())
        .await
    {
        Ok(action) => anyhow::bail!("this should have been refused: {action:?}"),
        Err(error @ CallError::Answered { .. }) => {
            let reason = error
                .reason()
                .map_or("?", host_demo::contract::Reason::name);
            line(&format!("    {reason} (effect: {})", error.effect().name()));
            line(&format!("    {}", clean(&error.to_string())));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// A run as it happens: an answer gets lost, a device is offline, another one fails, somebody has just
/// restricted a third, and in the middle of it the power goes.
async fn many(host: &Host, mock: &Mock, ids: &[String]) -> anyhow::Result<()> {
    const LOST: u32 = 3;

    let [minute, hour] = Quota::DOCUMENTED;
    step(&format!(
        "{} devices, of a list. The service takes {} calls a minute and {} an hour, and no more;",
        ids.len(),
        minute.calls,
        hour.calls
    ));
    line(&format!(
        "  {LOST} answers get lost, a device is offline, one fails, one is being restricted again:"
    ));
    let [offline, failing, restricted, ..] = ids else {
        anyhow::bail!("there are too few devices");
    };
    mock.set_device(offline, DeviceBehaviour::Offline);
    mock.set_device(failing, DeviceBehaviour::Ends(Ending::Failed));
    mock.set_device(restricted, DeviceBehaviour::Offline);
    let (kind, by) = (ActionType::RestrictCodeExecution, "somebody else");
    mock.begin(kind, restricted, "INC-43", by);
    // Until it is visible.
    let clock = host.clock();
    clock
        .sleep_until(clock.now() + Duration::from_secs(10))
        .await;
    let lost = Fault::reset().after_acting().times(LOST);
    mock.inject(lost.on(Api::UnrestrictCodeExecution));

    let folder = std::env::temp_dir().join(format!("host-demo-{}", uuid::Uuid::new_v4()));
    let runs = Runs::new(folder.clone());
    let told = in_two_goes(host, mock, ids, &runs).await;
    let _ = std::fs::remove_dir_all(&folder);
    let finished = told?;

    let outcomes: Vec<Outcome> = finished.outcomes().collect();
    for (outcome, count) in run_text::by_outcome(&outcomes) {
        line(&format!("    {count:>4}  {}", outcome.name(Kind::Release)));
    }
    let count = |outcome| outcomes.iter().filter(|o| **o == outcome).count();
    let expected = [Outcome::Pending, Outcome::Failed, Outcome::Held].map(|o| (o, 1));
    ensure!(
        expected.iter().all(|(outcome, n)| count(*outcome) == *n)
            && count(Outcome::Done) == ids.len() - expected.len(),
        "it should have ended otherwise"
    );
    let free = ids
        .iter()
        .filter(|id| mock.is_restricted(id) == Some(false));
    line(&format!(
        "    by the service's own book {} devices are free, and none was released twice",
        free.count()
    ));
    let releases = |id: &&String| {
        let actions = mock.actions_of(id);
        let of_it = actions
            .iter()
            .filter(|a| a.r#type == ActionType::UnrestrictCodeExecution);
        of_it.count() > 1
    };
    ensure!(
        !ids.iter().any(|id| releases(&id)),
        "one was released twice"
    );
    let most = mock.most_in_any_window(Api::UnrestrictCodeExecution, minute.per);
    line(&format!(
        "    by its own count, the fullest minute had {most} calls"
    ));
    ensure!(
        most <= minute.calls as usize,
        "the quota was exceeded: {most} calls in a minute"
    );
    Ok(())
}

/// Until the first minute is full, and then, from the journal, to the end.
async fn in_two_goes(
    host: &Host,
    mock: &Mock,
    ids: &[String],
    runs: &Runs,
) -> anyhow::Result<Finished> {
    let (run, entries) = run_of(host, ids)?;
    let journal = runs.create(&run, &entries)?;
    let plan = Plan::new(Follow::For(Duration::from_secs(240)));
    let (power, stop) = watch::channel(false);
    let bar = Arc::new(Bar::new(ids.len()));
    let before = mock.arrivals(Api::UnrestrictCodeExecution);
    let cut = async {
        let clock = host.clock();
        let enough = before + Quota::DOCUMENTED[0].calls as usize;
        while mock.arrivals(Api::UnrestrictCodeExecution) < enough {
            clock
                .sleep_until(clock.now() + Duration::from_secs(1))
                .await;
        }
        power.send(true)
    };
    let driven = batch::drive(host, &journal, entries, &plan, Arc::clone(&bar) as _, stop);
    let (finished, _) = tokio::join!(driven, cut);
    bar.0.finish_and_clear();
    let left = |outcome: &Outcome| matches!(outcome, Outcome::NotRun);
    line(&format!(
        "    interrupted, with {} of them not sent for yet",
        finished?.outcomes().filter(left).count()
    ));
    drop(journal);

    step(&format!("host-demo resume {}", run.id));
    let (journal, record) = runs.resume(&run.id)?;
    let (_never, stop) = watch::channel(false);
    let bar = Arc::new(Bar::new(ids.len()));
    let driven = batch::drive(
        host,
        &journal,
        record.entries,
        &plan,
        Arc::clone(&bar) as _,
        stop,
    );
    let finished = driven.await?;
    bar.0.finish_and_clear();
    Ok(finished)
}

fn run_of(host: &Host, ids: &[String]) -> anyhow::Result<(Run, Vec<Entry>)> {
    let run = Run {
        id: Runs::name(host.clock().wall()),
        kind: Kind::Release,
        comment: COMMENT.to_owned(),
        nonce: uuid::Uuid::new_v4().into_bytes(),
        service: host.policy().origin().to_string(),
        tenant: None,
        application: None,
        who: "the demo".to_owned(),
        audit: None,
        override_pending: false,
        follows: true,
        created: host.clock().wall(),
        ended: None,
        ending: None,
        flags: Vec::new(),
    };
    let entries = ids.iter().map(|id| Ok(Entry::new(id.parse()?, None)));
    Ok((run, entries.collect::<anyhow::Result<_>>()?))
}

async fn release(
    host: &Host,
    ids: &[String],
    plan: &Plan,
    reporter: Arc<dyn Reporter>,
) -> anyhow::Result<Finished> {
    let (run, entries) = run_of(host, ids)?;
    let journal = Journal::in_memory(&run, &entries)?;
    let (_never, stop) = watch::channel(false);
    Ok(batch::drive(host, &journal, entries, plan, reporter, stop).await?)
}

/// One line for each new status.
struct Lines;

impl Reporter for Lines {
    fn waiting(&self, _: Option<&Entry>, _: &Waiting) {}

    fn calls(&self, _: usize) {}

    fn changed(&self, entry: &Entry) {
        if let Some(action) = &entry.action {
            line(&format!(
                "    {:<10}  action {}",
                clean(&action.status),
                clean(&action.id)
            ));
        }
    }

    fn finished(&self, _: &Entry, _: Outcome) {}

    fn unreadable(&self, _: Unreadable, _: &CallError) {}
}

struct Bar(ProgressBar);

impl Bar {
    fn new(length: usize) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(length as u64);
        Self(
            match ProgressStyle::with_template("    [{bar:40}] {pos}/{len}  {msg}") {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            },
        )
    }
}

impl Reporter for Bar {
    fn waiting(&self, _: Option<&Entry>, waiting: &Waiting) {
        if matches!(waiting.cause, Cause::Quota(_)) {
            self.0
                .set_message("the minute is full: waiting for its first call to leave it");
        }
    }

    fn calls(&self, _: usize) {}

    fn changed(&self, _: &Entry) {}

    fn finished(&self, _: &Entry, _: Outcome) {
        self.0.inc(1);
        self.0.set_message("");
    }

    fn unreadable(&self, _: Unreadable, _: &CallError) {}
}

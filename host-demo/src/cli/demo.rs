//! `host-demo demo`: the main job, told as a story, against the stand-in.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use host_demo::batch::{
    self, Entry, Finished, Follow, Outcome, Pause, Plan, Reporter, State, Verdict, Wait,
};
use host_demo::clock::{Clock, SystemClock};
use host_demo::cloud::Service;
use host_demo::host::{CallError, Host, Patience, Setup};
use host_demo::identity::{Identity, Method, Settings, TokenSource as _};
use host_demo::journal::{Journal, Run, Runs};
use host_demo::kind::Kind;
use host_demo::limits::Quota;
use host_demo::mock::{Api, Duplicate, Mock, Switches};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use super::output::{clean, line};
use super::{Exit, args, connect};

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
    let plugin = connect::load(&args::Plugin::default())?;
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

    let host = Setup {
        clock: Arc::clone(&clock),
        // In the story's time; a slow machine needs more than half a second for its first call.
        call_timeout: Duration::from_secs(120),
        ..Setup::new(plugin, service, tokens)
    }
    .build()?;

    step("It lets the plugin send two kinds of request, each to one device or action at a time:");
    for route in host.policy().routes() {
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

async fn many(host: &Host, mock: &Mock, ids: &[String]) -> anyhow::Result<()> {
    let [minute, hour] = Quota::DOCUMENTED;
    step(&format!(
        "{} devices at once. The service takes {} calls a minute and {} an hour, and no more:",
        ids.len(),
        minute.calls,
        hour.calls
    ));
    let began = host.clock().now();
    let plan = Plan::new(Follow::Not);
    let bar = Arc::new(Bar::new(ids.len()));
    let finished = release(host, ids, &plan, Arc::clone(&bar) as _).await?;
    bar.0.finish_and_clear();
    let took = host.clock().now().since(began).as_secs();
    let accepted = finished
        .outcomes()
        .filter(|o| o.verdict() == Verdict::Done)
        .count();
    ensure!(
        accepted == ids.len(),
        "{accepted} of {} were accepted: {finished:?}",
        ids.len()
    );
    line(&format!(
        "    {accepted} accepted in {} min {:02} s",
        took / 60,
        took % 60
    ));

    let most = mock.most_in_any_window(Api::UnrestrictCodeExecution, minute.per);
    line(&format!(
        "    by the service's own count, the fullest minute had {most} calls"
    ));
    ensure!(
        most <= minute.calls as usize,
        "the quota was exceeded: {most} calls in a minute"
    );

    let free = async {
        while ids.iter().any(|id| mock.is_restricted(id) != Some(false)) {
            host.clock()
                .sleep_until(host.clock().now() + Duration::from_secs(5))
                .await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), free)
        .await
        .context("the devices did not get free")?;
    line(&format!(
        "    and by its own book, all {} devices are free now",
        ids.len()
    ));
    Ok(())
}

async fn release(
    host: &Host,
    ids: &[String],
    plan: &Plan,
    reporter: Arc<dyn Reporter>,
) -> anyhow::Result<Finished> {
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
        follows: plan.follow != Follow::Not,
        created: host.clock().wall(),
        ended: None,
        ending: None,
    };
    let entries: Vec<Entry> = ids
        .iter()
        .map(|id| Ok(Entry::new(id.parse()?, None)))
        .collect::<anyhow::Result<_>>()?;
    let journal = Journal::in_memory(&run, &entries)?;
    let (_never, stop) = watch::channel(false);
    Ok(batch::drive(host, &journal, entries, plan, reporter, stop).await?)
}

/// One line for each new status.
struct Lines;

impl Reporter for Lines {
    fn waiting(&self, _: Option<&Entry>, _: Wait) {}

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

    fn paused(&self, _: Pause) {}

    fn blind(&self, _: &CallError) {}
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
    fn waiting(&self, _: Option<&Entry>, _: Wait) {
        self.0
            .set_message("the minute is full: waiting for its first call to leave it");
    }

    fn changed(&self, _: &Entry) {}

    fn finished(&self, _: &Entry, _: Outcome) {
        self.0.inc(1);
        self.0.set_message("");
    }

    fn paused(&self, _: Pause) {}

    fn blind(&self, _: &CallError) {}
}

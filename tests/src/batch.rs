//! Runs of many devices, in a world whose clock is moved by hand.

use std::sync::{Arc, Mutex, PoisonError};

use host_demo::batch::{self, Entry, Finished, Follow, Outcome, Plan, Reporter, Unreadable};
use host_demo::host::{CallError, Host};
use host_demo::journal::{Journal, Record, Run, Runs};
use host_demo::kind::ActionKind;
use host_demo::limits::Why;
use host_demo::waiting::{Cause, Waiting};
use tokio::sync::watch;

use crate::world::World;

/// Why, in every run.
pub const COMMENT: &str = "cleaned";

/// Remembers what it is told: a machine, and what it waits for, its action's status or its outcome.
/// What concerns no machine has an empty one.
#[derive(Default)]
pub struct Told(Mutex<Vec<(String, String)>>);

impl Told {
    fn add(&self, machine: &str, what: String) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.push((machine.to_owned(), what));
    }

    /// What was told of a machine.
    pub fn of(&self, machine: &str) -> Vec<String> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = told.iter().filter(|(id, _)| id == machine);
        of_it.map(|(_, what)| what.clone()).collect()
    }
}

impl Reporter for Told {
    fn waiting(&self, entry: Option<&Entry>, waiting: &Waiting) {
        let until = waiting.until.map(|until| until.to_string());
        let until = until.unwrap_or_default();
        let what = match &waiting.cause {
            Cause::Quota(Why::Service) => format!("service: {until}"),
            Cause::Quota(Why::Quota) => format!("host: {until}"),
            Cause::Quota(Why::Lost) => format!("loss: {until}"),
            Cause::Pause { wrong, of } => format!("paused: {until}, {wrong} of {of}"),
            // It is normal, and not told each time.
            Cause::Device => return,
            cause => format!("{}: {until}: {cause}", waiting.reason()),
        };
        self.add(entry.map_or("", |entry| entry.machine.as_str()), what);
    }

    fn calls(&self, _: usize) {}

    fn changed(&self, entry: &Entry) {
        let status = entry.action.as_ref().map(|action| action.status.clone());
        let what = status.unwrap_or_else(|| entry.state.name().to_owned());
        self.add(entry.machine.as_str(), what);
    }

    fn finished(&self, entry: &Entry, outcome: Outcome) {
        self.add(
            entry.machine.as_str(),
            outcome.name(ActionKind::Release).to_owned(),
        );
    }

    fn unreadable(&self, what: Unreadable, why: &CallError) {
        self.add("", format!("unreadable ({}): {why}", what.name()));
    }
}

/// A run that is about to begin.
pub fn begun(kind: ActionKind, host: &Host) -> Run {
    Run {
        id: Runs::name(host.clock().wall()),
        kind,
        comment: COMMENT.to_owned(),
        nonce: *b"sixteen bytes of",
        service: host.policy().origin().to_string(),
        tenant: None,
        application: None,
        who: "a test".to_owned(),
        audit: None,
        override_pending: false,
        follows: true,
        created: host.clock().wall(),
        ended: None,
        ending: None,
        flags: Vec::new(),
    }
}

/// Devices for which nothing has happened.
///
/// # Panics
///
/// Where an id is none.
pub fn entries(ids: &[String]) -> Vec<Entry> {
    let entry = |id: &String| Entry::new(id.parse().expect("it is an id"), None);
    ids.iter().map(entry).collect()
}

/// Drives a run in memory to its end, without anybody who could stop it.
///
/// # Panics
///
/// Where the journal fails.
pub async fn drive(
    world: &World,
    host: &Host,
    kind: ActionKind,
    ids: &[String],
    plan: &Plan,
) -> (Finished, Arc<Told>) {
    let (run, entries) = (begun(kind, host), entries(ids));
    let journal = Journal::in_memory(&run, &entries).expect("there is memory");
    go_on(world, host, &journal, entries, plan).await
}

/// Drives a run on.
///
/// # Panics
///
/// Where the journal fails.
pub async fn go_on(
    world: &World,
    host: &Host,
    journal: &Journal,
    entries: Vec<Entry>,
    plan: &Plan,
) -> (Finished, Arc<Told>) {
    let told = Arc::new(Told::default());
    let (_go_on, stop) = watch::channel(false);
    let reporter = Arc::clone(&told) as Arc<dyn Reporter>;
    world.watch(journal);
    let driven = batch::drive(host, journal, entries, plan, reporter, stop);
    let finished = world
        .play(driven)
        .await
        .expect("the journal can be written");
    world.unwatch();
    (finished, told)
}

/// A release of these machines, followed to the end.
pub async fn release(world: &World, ids: &[String]) -> (Finished, Arc<Told>) {
    let plan = Plan::new(Follow::ToTheEnd);
    drive(world, &world.host, ActionKind::Release, ids, &plan).await
}

/// How it ended for each device, by name.
pub fn names(finished: &Finished) -> Vec<&'static str> {
    let names = finished
        .outcomes()
        .map(|outcome| outcome.name(ActionKind::Release));
    names.collect()
}

/// What a journal on disk knows, read as another process would.
///
/// # Panics
///
/// Where it can't be read.
pub fn record(runs: &Runs, id: &str) -> Record {
    runs.read(id).expect("the journal can be read")
}

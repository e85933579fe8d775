//! `host-demo unrestrict`, `restrict` and `resume`: a run of many devices, or of one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use host_demo::audit::AuditError;
use host_demo::batch::{self, Entry, Finished, Follow, Outcome, Plan, Problem, State, Verdict};
use host_demo::clock::Moment;
use host_demo::grant::Operation;
use host_demo::host::CallError;
use host_demo::host::{Host, Patience, TOKEN_RETRY_RUN};
use host_demo::identity::IdentityError;
use host_demo::journal::{Journal, JournalError, Record, Run, Runs};
use host_demo::kind::Kind;
use serde_json::{Map, Value, json};

use crate::args::{self, Output};
use crate::commands::{audit, config, dry_run, quota};
use crate::exit::Exit;
use crate::setup::devices::{self, Device, Verb};
use crate::setup::host;
use crate::setup::interrupt::Interrupt;
use crate::ui::progress::Progress;
use crate::ui::waits::Waits;
use crate::ui::{hint, output, suggest};

/// How long one device is followed where nobody says.
const FOLLOW: Duration = Duration::from_secs(600);

/// So many devices are told of one by one.
pub(crate) const FEW: usize = 25;

const fn verb(kind: Kind) -> Verb {
    match kind {
        Kind::Release => Verb {
            plain: "release",
            past: "released",
        },
        Kind::Restrict => Verb {
            plain: "restrict",
            past: "restricted",
        },
    }
}

/// Begins a run.
pub(crate) async fn begin(kind: Kind, args: args::Batch, format: Output) -> anyhow::Result<Exit> {
    batch::check_comment(&args.comment)?;
    let asked = devices::asked(&args.devices, verb(kind))?;
    let (above, yes) = (args.devices.confirm_above, args.devices.yes);
    let yes = yes || args.dry_run;
    devices::confirmed(above, yes, asked.len(), "devices", verb(kind))?;
    let (mut connection, settings) = config::settle(&args.connection)?;
    let id = Runs::name(jiff::Timestamp::now());
    connection.run = Some(id.clone());
    let (host, service) = host::settled(&connection, &settings)?;
    let plan = plan(&args.pace, asked.len(), &host);
    let interrupt = match args.dry_run {
        true => Interrupt::stops(),
        false => Interrupt::finishes(),
    };
    let waits = Waits::new(&host, format);
    let patience = patience(&plan, &interrupt, &waits);
    let devices = asked
        .devices(&host, verb(kind), patience.clone(), format)
        .await?;
    if args.dry_run {
        let ids: Vec<String> = devices.iter().map(|device| device.id.to_string()).collect();
        let preview = dry_run::run(&host, kind, &ids, format);
        return match interrupt.unless_pressed(preview).await {
            Some(result) => result,
            None => Ok(Exit::Interrupted),
        };
    }

    // To know what is left of a quota, and whose the run is, one has to know who this is, which a
    // token may have to say.
    let principal = unless_over(
        &interrupt,
        &host,
        plan.deadline,
        waits.watch(async {
            let principal = host.principal_within(&patience).await.ok();
            (foretell_run(&host, kind, devices.len()).await, principal)
        }),
    )
    .await;
    if principal.is_none() && !interrupt.is_pressed() {
        return Err(CallError::Identity(IdentityError::NotInTime).into());
    }
    let (sent_by, principal) = principal.unwrap_or_default();
    let run = Run {
        id,
        kind,
        comment: args.comment,
        nonce: uuid::Uuid::new_v4().into_bytes(),
        service: service.origin().to_string(),
        tenant: principal.as_ref().map(|who| who.tenant.clone()),
        application: principal.map(|who| who.application),
        who: quota::name(),
        audit: Some(audit::file(&connection)?.display().to_string()),
        override_pending: args.override_pending,
        follows: plan.follow != Follow::Not,
        created: host.clock().wall(),
        ended: None,
        ending: None,
        flags: suggest::flags(),
    };
    let entry = |device: Device| Entry::new(device.id, device.name);
    let entries: Vec<Entry> = devices.into_iter().map(entry).collect();
    let runs = Runs::new(folder(&args.runs)?);
    let journal = runs.create(&run, &entries).context(NO_JOURNAL)?;
    if entries.len() > 1 && format == Output::Text {
        note!("host-demo: run {}", run.id);
    }
    let progress = Progress::new(&host, kind, &entries, sent_by, format);
    drive(&host, &journal, entries, &plan, &interrupt, progress).await
}

/// Goes on with one.
pub(crate) async fn resume(args: args::Resume, format: Output) -> anyhow::Result<Exit> {
    let runs = Runs::new(folder(&args.runs)?);
    let id = runs.find(&args.run)?;
    let (mut connection, settings) = config::settle(&args.connection)?;
    connection.run = Some(id.clone());
    let (host, service) = host::settled(&connection, &settings)?;
    let interrupt = Interrupt::finishes();
    let (journal, record) = runs.resume(&id)?;
    let Record {
        run, mut entries, ..
    } = record;
    let service = service.origin().to_string();
    is_for(&run, "service", Some(&run.service), &service)?;
    let plan = plan(&args.pace, entries.len(), &host);
    for entry in &mut entries {
        if args.retry && matches!(entry.state, State::Failed | State::Refused) {
            entry.state = State::Waiting;
        }
    }
    let count = |states: &[State]| entries.iter().filter(|e| states.contains(&e.state)).count();
    let (kind, left) = (run.kind, count(&[State::Waiting, State::Held]));
    let waits = Waits::new(&host, format);
    let sent_by = unless_over(
        &interrupt,
        &host,
        plan.deadline,
        waits.watch(async {
            let patience = patience(&plan, &interrupt, &waits);
            if let Ok(who) = host.principal_within(&patience).await {
                is_for(&run, "tenant", run.tenant.as_ref(), &who.tenant)?;
                let application = run.application.as_ref();
                is_for(&run, "application", application, &who.application)?;
            }
            anyhow::Ok(foretell_run(&host, kind, left).await)
        }),
    )
    .await;
    let sent_by = sent_by.transpose()?.flatten();
    note!(
        "host-demo: run {id}, {}: {} {}, {} to be sent, {} to be looked up, {} to be followed",
        output::clean(&run.comment),
        count(&[State::Done]),
        kind.done(),
        left,
        count(&[State::Sending, State::Unsure, State::Barred]),
        count(&[State::Accepted]),
    );
    let progress = Progress::new(&host, kind, &entries, sent_by, format);
    drive(&host, &journal, entries, &plan, &interrupt, progress).await
}

const NO_JOURNAL: &str = "without a journal of what is done, nothing is";

/// Whether this is the service, tenant or application that the run was begun for: another one knows
/// neither its devices nor its actions.
fn is_for(run: &Run, what: &str, then: Option<&String>, now: &str) -> anyhow::Result<()> {
    match then {
        Some(then) if then != now => bail!(
            "the run {} was begun for the {what} {then}, and this is {now}: go on with it there",
            run.id
        ),
        _ => Ok(()),
    }
}

/// The folder of the runs.
pub(crate) fn folder(args: &args::Runs) -> anyhow::Result<PathBuf> {
    match &args.folder {
        Some(folder) => Ok(folder.clone()),
        None => Ok(audit::private(audit::folder()?)?.join("runs")),
    }
}

fn plan(args: &args::Pace, devices: usize, host: &Host) -> Plan {
    Plan {
        deadline: args.deadline.map(|time| host.clock().now() + time),
        at_once: args.at_once.max(1),
        pause_above: args.pause_above,
        advice: output::advice,
        ..Plan::new(match (args.no_wait, args.deadline) {
            (true, _) => Follow::Not,
            (false, None) if devices == 1 => Follow::For(FOLLOW),
            (false, _) => Follow::ToTheEnd,
        })
    }
}

/// How long a run waits before it begins.
fn patience(plan: &Plan, interrupt: &Interrupt, waits: &Arc<Waits>) -> Patience {
    Patience {
        until: plan.deadline,
        stop: Some(interrupt.stop.clone()),
        token_retry: plan.deadline.is_none().then_some(TOKEN_RETRY_RUN),
        on_wait: Some(waits.on_wait()),
        ..Patience::default()
    }
}

/// The result of the work, unless the deadline or a signal comes first.
async fn unless_over<T>(
    interrupt: &Interrupt,
    host: &Host,
    deadline: Option<Moment>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let over = async {
        match deadline {
            Some(deadline) => host.clock().sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    let work = async {
        tokio::select! {
            done = work => Some(done),
            () = over => None,
        }
    };
    interrupt.unless_pressed(work).await.flatten()
}

/// Says how long it will take to send them all, where the quota makes that long, and returns when
/// they are sent then. What keeps it from being known keeps the calls from being made as well, and
/// is told there.
pub(crate) async fn foretell(
    host: &Host,
    operation: Operation,
    calls: usize,
    what: &str,
) -> Option<Moment> {
    const LONG: Duration = Duration::from_secs(60);
    let forecast = host.forecast(operation, calls, quota::ANSWER).await;
    let time = forecast.ok().flatten().filter(|time| *time >= LONG)?;
    let roughly = quota::roughly(time);
    note!("host-demo: by what is left of the quota, {calls} {what} take {roughly} to be sent");
    Some(host.clock().now() + time)
}

/// The same for a run.
async fn foretell_run(host: &Host, kind: Kind, devices: usize) -> Option<Moment> {
    let what = format!("{}s", kind.name());
    foretell(host, kind.operation(), devices, &what).await
}

async fn drive(
    host: &Host,
    journal: &Journal,
    entries: Vec<Entry>,
    plan: &Plan,
    interrupt: &Interrupt,
    progress: Progress,
) -> anyhow::Result<Exit> {
    let (run, format) = (journal.run(), progress.format());
    if format == Output::Json {
        output::json_line(&run_json(run, entries.len()));
    }
    let progress = Arc::new(progress);
    let driven = batch::drive(
        host,
        journal,
        entries,
        plan,
        Arc::clone(&progress) as _,
        interrupt.stop.clone(),
    );
    let finished = progress.waits().watch(driven).await;
    progress.end();
    let finished = finished.context(NO_JOURNAL)?;
    let missing = audit::missing(host).await;
    if let Some(error) = &finished.unwritten {
        note!(
            "host-demo: {}; what came last is not in it, and is looked up when the run goes on",
            output::clean(&error.to_string())
        );
    }
    match format {
        Output::Json => output::json_line(&summary_json(run, &finished, missing.as_ref())),
        Output::Text => summarise(run, &finished),
    }
    if interrupt.is_pressed() {
        return Ok(Exit::Interrupted);
    }
    let outcomes: Vec<Outcome> = finished.outcomes().collect();
    let is_on_record = missing.is_none() && finished.unwritten.is_none();
    Ok(exit(&outcomes).failed_if(!is_on_record))
}

fn exit(outcomes: &[Outcome]) -> Exit {
    let any = |verdict| outcomes.iter().any(|outcome| outcome.verdict() == verdict);
    if any(Verdict::NotRun) && outcomes.iter().all(|o| o.verdict() == Verdict::NotRun) {
        Exit::CouldNotRun
    } else if any(Verdict::Failed) || any(Verdict::Unknown) || any(Verdict::NotRun) {
        Exit::Failed
    } else if any(Verdict::Open) {
        Exit::Open
    } else {
        Exit::Done
    }
}

/// A run, for programs.
pub(crate) fn run_json(run: &Run, devices: usize) -> Value {
    json!({
        "type": "run",
        "run": run.id,
        "kind": run.kind.name(),
        "comment": run.comment,
        "devices": devices,
        "service": run.service,
        "created": run.created.to_string(),
        "audit": run.audit,
    })
}

/// A device of a run, for programs.
pub(crate) fn device_json(kind: Kind, entry: &Entry, outcome: Outcome) -> Value {
    let mut action = json!(entry.action);
    if let Value::Object(action) = &mut action {
        action.insert("machineId".to_owned(), json!(entry.machine.as_str()));
    }
    json!({
        "type": "device",
        "machine_id": entry.machine.as_str(),
        "name": entry.name,
        "outcome": outcome.name(kind),
        "action": action,
        "adopted": entry.is_adopted,
        "requests": entry.sends,
        "error": entry.problem.as_ref().map(Problem::to_json),
    })
}

fn summary_json(run: &Run, finished: &Finished, missing: Option<&AuditError>) -> Value {
    let outcomes: Vec<Outcome> = finished.outcomes().collect();
    let count = |verdict| outcomes.iter().filter(|o| o.verdict() == verdict).count();
    let unwritten = finished.unwritten.as_ref().map(JournalError::to_string);
    let error = missing.map(audit::missing_json);
    let error = error.or_else(|| {
        unwritten
            .clone()
            .map(|message| json!({ "message": message }))
    });
    let named: Map<String, Value> = by_outcome(&outcomes)
        .into_iter()
        .map(|(outcome, count)| (outcome.name(run.kind).to_owned(), json!(count)))
        .collect();
    json!({
        "type": "summary",
        "run": run.id,
        "devices": outcomes.len(),
        "done": count(Verdict::Done),
        "failed": count(Verdict::Failed),
        "unknown": count(Verdict::Unknown),
        "open": count(Verdict::Open),
        "not_run": count(Verdict::NotRun),
        "outcomes": named,
        "recorded": missing.is_none(),
        "journaled": unwritten.is_none(),
        "error": error,
    })
}

/// How many of each outcome there are, in the order of the outcomes.
pub(crate) fn by_outcome(outcomes: &[Outcome]) -> Vec<(Outcome, usize)> {
    let count = |outcome| outcomes.iter().filter(|o| **o == outcome).count();
    let counts = Outcome::ALL.map(|outcome| (outcome, count(outcome)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// What became of every device, and what to do about it.
fn summarise(run: &Run, finished: &Finished) {
    table(run, &finished.entries, finished.follows);
    // What kept one from being tried kept the others too, and is said once.
    if let Some(why) = &finished.hopeless {
        note!("host-demo: {}", output::clean(&output::explain(why)));
        if let Some(hint) = hint::of_call(why) {
            note!("hint: {}", output::clean(&hint));
        }
    }
}

/// The devices of a run by their outcomes: a few of them one by one, of many those that want
/// something done.
pub(crate) fn table(run: &Run, entries: &[Entry], follows: bool) {
    let kind = run.kind;
    let resume = suggest::resume(run);
    let outcomes: Vec<Outcome> = entries.iter().map(|entry| entry.outcome(follows)).collect();
    let is_few = entries.len() <= FEW;
    for (outcome, _) in by_outcome(&outcomes) {
        let of_it = entries
            .iter()
            .zip(&outcomes)
            .filter(|(_, o)| **o == outcome);
        let shown = match outcome.verdict() {
            _ if is_few => usize::MAX,
            Verdict::Done => 0,
            _ => FEW,
        };
        for (entry, outcome) in of_it.take(shown) {
            let detail = output::clean(&detail(entry, *outcome));
            let line = format!("{:<19}  {}  {detail}", outcome.name(kind), entry.machine);
            output::line(line.trim_end());
        }
    }
    let advice = |outcome: Outcome| {
        let all = entries.iter().zip(&outcomes);
        let of_it = all.filter(|(_, o)| **o == outcome).map(|(entry, _)| entry);
        outcome.advice_for(kind, &resume, of_it)
    };
    if entries.len() == 1 {
        let outcome = outcomes[0];
        if matches!(outcome.verdict(), Verdict::Open | Verdict::Unknown)
            && let Some(advice) = advice(outcome)
        {
            output::line(&format!("                     {advice}"));
        }
        return;
    }
    output::line(&format!("{} devices:", entries.len()));
    for (outcome, count) in by_outcome(&outcomes) {
        let advice = advice(outcome).unwrap_or_default();
        let line = format!("{count:>7}  {:<19}  {advice}", outcome.name(kind));
        output::line(line.trim_end());
    }
    if !is_few {
        let show = suggest::command(&["runs", "show", &run.id]);
        output::line(&format!("all of them: {show}"));
    }
}

/// What there is to say of one device, in a line.
pub(crate) fn detail(entry: &Entry, outcome: Outcome) -> String {
    let problem = || {
        let problem = entry.problem.as_ref();
        let text = problem.map(|p| (p.message(), p.advice()));
        match text {
            Some((message, Some(advice))) => {
                format!("{}; {advice}", message.trim_end_matches('.'))
            }
            Some((message, None)) => message,
            None => String::new(),
        }
    };
    let name = entry.name.as_deref().unwrap_or("no name known");
    let Some(action) = &entry.action else {
        return match outcome {
            Outcome::NotRun => match entry.problem.as_ref().map(Problem::message) {
                Some(why) if why.contains("sent") => why,
                Some(why) => format!("nothing was sent: {why}"),
                None => "nothing was sent".to_owned(),
            },
            Outcome::Unknown if entry.problem.is_none() => {
                "a request for it may have arrived".to_owned()
            }
            _ => problem(),
        };
    };
    let adopted = match entry.is_adopted {
        true => ", which was there before",
        false => "",
    };
    let action = format!("{name}, action {}{adopted}", action.id);
    let status = entry.action.as_ref().map_or("", |action| &action.status);
    match outcome {
        Outcome::Done => action,
        Outcome::Accepted => format!("{action}; not followed"),
        Outcome::Pending => format!("{action} is {status}"),
        Outcome::NotVerifiable => {
            format!(
                "{action} was accepted, but its state cannot be read: {}",
                problem()
            )
        }
        Outcome::Failed | Outcome::TimedOut | Outcome::Cancelled => {
            format!("{action} ended as {status}")
        }
        _ => problem(),
    }
}

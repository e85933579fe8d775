//! `host-demo unrestrict`, `restrict` and `resume`: a run of many devices, or of one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use host_demo::batch::{self, Entry, Follow, Outcome, Plan, State, Verdict};
use host_demo::clock::Moment;
use host_demo::host::CallError;
use host_demo::host::Host;
use host_demo::identity::IdentityError;
use host_demo::journal::{Journal, Record, Run, Runs};
use host_demo::kind::ActionKind;

use crate::args::{self, Output};
use crate::exit::Exit;
use crate::setup::devices::Device;
use crate::setup::host::{self, Recording};
use crate::setup::interrupt::Interrupt;
use crate::setup::prepare::{self, Prepared};
use crate::setup::{forecast, ledger, paths, settings};
use crate::ui::confirm::verb;
use crate::ui::progress::Progress;
use crate::ui::waits::Waits;
use crate::ui::{error_text, output, run_text, suggest, unrecorded};

/// How long one device is followed where nobody says.
const FOLLOW: Duration = Duration::from_secs(600);

/// Begins a run.
pub(crate) async fn begin(
    kind: ActionKind,
    args: args::Batch,
    format: Output,
) -> anyhow::Result<Exit> {
    let Prepared {
        id,
        asked,
        connection,
        host,
        service,
    } = prepare::prepare(kind, &args, format)?;
    let plan = plan(&args.pace, asked.len(), &host);
    let interrupt = Interrupt::finishes();
    let waits = Waits::new(&host, format);
    let patience = prepare::patience(plan.deadline, &interrupt, &waits);
    let devices = asked
        .devices(&host, verb(kind), patience.clone(), format)
        .await?;
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
        who: ledger::name(),
        audit: Some(paths::audit_log(&connection)?.display().to_string()),
        override_pending: args.override_pending,
        follows: plan.follow != Follow::Not,
        created: host.clock().wall(),
        ended: None,
        ending: None,
        flags: suggest::flags(),
    };
    let entry = |device: Device| Entry::new(device.id, device.name);
    let entries: Vec<Entry> = devices.into_iter().map(entry).collect();
    let runs = Runs::new(paths::runs(&args.runs)?);
    let journal = runs.create(&run, &entries).context(NO_JOURNAL)?;
    if entries.len() > 1 && format == Output::Text {
        note!("host-demo: run {}", run.id);
    }
    let progress = Progress::new(&host, kind, &entries, sent_by, format);
    drive(&host, &journal, entries, &plan, &interrupt, progress).await
}

/// Goes on with one.
pub(crate) async fn resume(args: args::Resume, format: Output) -> anyhow::Result<Exit> {
    let runs = Runs::new(paths::runs(&args.runs)?);
    let id = runs.find(&args.run)?;
    let (connection, settings) = settings::settle(&args.connection)?;
    let recording = Recording {
        run: Some(id.clone()),
        tape: None,
    };
    let (host, service) = host::settled(&connection, &settings, recording)?;
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
            let patience = prepare::patience(plan.deadline, &interrupt, &waits);
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
        count(&[
            State::Sending,
            State::OutcomeUnknown,
            State::AlreadyInProgress
        ]),
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

fn plan(args: &args::Pace, devices: usize, host: &Host) -> Plan {
    Plan {
        deadline: prepare::deadline(args, host),
        at_once: args.at_once.max(1),
        pause_above: args.pause_above,
        advice: error_text::advice,
        ..Plan::new(match (args.no_wait, args.deadline) {
            (true, _) => Follow::Not,
            (false, None) if devices == 1 => Follow::For(FOLLOW),
            (false, _) => Follow::ToTheEnd,
        })
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

/// The same for a run.
async fn foretell_run(host: &Host, kind: ActionKind, devices: usize) -> Option<Moment> {
    let what = format!("{}s", kind.name());
    forecast::foretell(host, kind.operation(), devices, &what).await
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
        output::json_line(&run_text::run_json(run, entries.len()));
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
    let missing = unrecorded::missing(host).await;
    if let Some(error) = &finished.unwritten {
        note!(
            "host-demo: {}; what came last is not in it, and is looked up when the run goes on",
            output::clean(&error.to_string())
        );
    }
    match format {
        Output::Json => {
            output::json_line(&run_text::summary_json(run, &finished, missing.as_ref()))
        }
        Output::Text => run_text::summarise(run, &finished),
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

//! Words and JSON for a run and its devices.

use host_demo::audit::AuditError;
use host_demo::batch::{Entry, Finished, Outcome, Problem, Verdict};
use host_demo::journal::{JournalError, Run, Standing};
use host_demo::kind::ActionKind;
use serde_json::{Map, Value, json};

use super::{error_text, hint, output, suggest, unrecorded};

/// So many devices are told of one by one.
pub(crate) const FEW: usize = 25;

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

/// A run and how it stands, for programs.
pub(crate) fn standing_json(
    run: &Run,
    standing: &Standing,
    devices: usize,
    outcomes: &[(Outcome, usize)],
) -> Value {
    let (state, driven_by) = match standing {
        Standing::Driven(by) => ("driven", Some(by)),
        Standing::Ended => ("ended", None),
        Standing::Interrupted => ("interrupted", None),
    };
    let outcomes: Map<String, Value> = outcomes
        .iter()
        .map(|(outcome, count)| (outcome.name(run.kind).to_owned(), json!(count)))
        .collect();
    let mut value = run_json(run, devices);
    value["state"] = json!(state);
    value["driven_by"] = json!(driven_by);
    value["ended"] = json!(run.ended.map(|at| at.to_string()));
    value["ending"] = json!(run.ending);
    value["who"] = json!(run.who);
    value["tenant"] = json!(run.tenant);
    value["application"] = json!(run.application);
    value["outcomes"] = json!(outcomes);
    value
}

/// A device of a run, for programs.
pub(crate) fn device_json(kind: ActionKind, entry: &Entry, outcome: Outcome) -> Value {
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

/// What became of a run, for programs.
pub(crate) fn summary_json(run: &Run, finished: &Finished, missing: Option<&AuditError>) -> Value {
    let outcomes: Vec<Outcome> = finished.outcomes().collect();
    let count = |verdict| outcomes.iter().filter(|o| o.verdict() == verdict).count();
    let unwritten = finished.unwritten.as_ref().map(JournalError::to_string);
    let error = missing.map(unrecorded::missing_json);
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
pub(crate) fn summarise(run: &Run, finished: &Finished) {
    table(run, &finished.entries, finished.follows);
    // What kept one from being tried kept the others too, and is said once.
    if let Some(why) = &finished.hopeless {
        note!("host-demo: {}", output::clean(&error_text::explain(why)));
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
        true => "existing ",
        false => "",
    };
    let action = format!("{name}, {adopted}action {}", action.id);
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

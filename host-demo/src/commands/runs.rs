//! `host-demo runs`: which runs there are, what became of one, and which are no longer needed.

use host_demo::batch::{Outcome, Verdict};
use host_demo::harmless::clean;
use host_demo::journal::{JournalError, Overview, Runs, Standing};
use host_demo::report::Report;
use jiff::Timestamp;
use serde_json::json;

use crate::args::{self, Output, RunsCommand};
use crate::exit::Exit;
use crate::setup::paths;
use crate::ui::{confirm, output, report_text, run_text, suggest, time_text};

pub(crate) fn run(args: args::Listed, format: Output) -> anyhow::Result<Exit> {
    match args.command {
        None => list(&args.runs, format),
        Some(RunsCommand::Show(args)) => show(&args, format),
        Some(RunsCommand::Purge(args)) => purge(&args, format),
    }
}

fn list(args: &args::Runs, format: Output) -> anyhow::Result<Exit> {
    let runs = Runs::new(paths::runs(args)?);
    let names = runs.names()?;
    if names.is_empty() {
        note!("host-demo: there is no run yet");
    }
    let mut is_unreadable = false;
    for name in names {
        match (runs.overview(&name), format) {
            (Ok(overview), Output::Text) => output::line(&line(&overview)),
            (Ok(overview), Output::Json) => {
                let devices = overview.outcomes.iter().map(|(_, count)| count).sum();
                let (run, standing) = (&overview.run, &overview.standing);
                let mut value = run_text::standing_json(run, standing, devices, &overview.outcomes);
                value["touched"] = json!(overview.touched.to_string());
                value["bytes"] = json!(overview.size);
                output::json_line(&value);
            }
            (Err(error), _) => {
                is_unreadable = true;
                unusable(&name, &error, format);
            }
        }
    }
    Ok(Exit::Done.failed_if(is_unreadable))
}

/// Says what is wrong with a run, or why nothing is done with it.
fn unusable(name: &str, error: &dyn std::fmt::Display, format: Output) {
    if format == Output::Json {
        let error = json!({ "message": error.to_string(), "advice": null });
        output::json_line(&json!({ "type": "run", "run": name, "error": error }));
    }
    note!("host-demo: {}: {}", clean(name), clean(&error.to_string()));
}

fn line(overview: &Overview) -> String {
    /// So much of a comment is enough to know a run again by.
    const COMMENT: usize = 40;

    let run = &overview.run;
    let outcomes: Vec<String> = overview
        .outcomes
        .iter()
        .map(|(outcome, count)| format!("{count} {}", outcome.name(run.kind)))
        .collect();
    let mut comment: String = run.comment.chars().take(COMMENT).collect();
    if run.comment.chars().nth(COMMENT).is_some() {
        comment.push('…');
    }
    clean(&format!(
        "{:<21}  {}  {:<8}  {}: {}  ({comment})",
        run.id,
        time_text::short(run.created),
        run.kind.name(),
        overview.standing,
        outcomes.join(", "),
    ))
}

fn show(args: &args::ShowRun, format: Output) -> anyhow::Result<Exit> {
    let runs = Runs::new(paths::runs(&args.runs)?);
    let id = runs.find(&args.run)?;
    let record = runs.read(&id)?;
    let standing = runs.standing(&id, &record.run);
    let report = report_text::with_commands(Report::new(&record, standing, Timestamp::now()));
    let run = &record.run;
    if format == Output::Json {
        let counts = report.counts();
        output::json_line(&run_text::standing_json(
            run,
            &report.standing,
            record.entries.len(),
            &counts,
        ));
        for entry in &record.entries {
            let outcome = entry.outcome(run.follows);
            output::json_line(&run_text::device_json(run.kind, entry, outcome));
        }
        return Ok(Exit::Done);
    }
    for line in report_text::heading(&report) {
        output::line(&line);
    }
    for (outcome, devices) in &report.outcomes {
        for &n in devices {
            let entry = &record.entries[n];
            let (name, detail) = (outcome.name(run.kind), run_text::detail(entry, *outcome));
            let line = format!("{name:<19}  {}  {}", entry.machine, clean(&detail));
            output::line(line.trim_end());
        }
    }
    for line in report_text::outcomes(&report) {
        output::line(&line);
    }
    Ok(Exit::Done)
}

fn purge(args: &args::Purge, format: Output) -> anyhow::Result<Exit> {
    let runs = Runs::new(paths::runs(&args.runs)?);
    let meant = match args.older_than {
        None => named(&runs, &args.named)?,
        Some(age) => {
            let before = Timestamp::now().checked_sub(age)?;
            old(&runs, before, format)?
        }
    };
    let mut is_any_kept = false;
    let mut removable = Vec::new();
    for (name, overview) in meant {
        match why_kept(&overview, args.yes) {
            Some(why) => {
                is_any_kept = true;
                unusable(&name, &why, format);
            }
            None => removable.push(name),
        }
    }
    if !removable.is_empty() && !args.yes {
        confirm::removal(&removable)?;
    }
    for name in removable {
        match runs.purge(&name) {
            Ok(()) if format == Output::Json => {
                output::json_line(&json!({ "type": "run", "run": name, "removed": true }));
            }
            Ok(()) => output::line(&format!("removed {}", clean(&name))),
            Err(error) => {
                is_any_kept = true;
                unusable(&name, &error, format);
            }
        }
    }
    Ok(Exit::Done.failed_if(is_any_kept))
}

type Meant = Vec<(String, Result<Overview, JournalError>)>;

/// Those that were named, if there are all of them.
fn named(runs: &Runs, names: &[String]) -> anyhow::Result<Meant> {
    let mut meant = Meant::new();
    for name in names {
        let name = runs.find(name)?;
        if meant.iter().all(|(other, _)| *other != name) {
            let overview = runs.overview(&name);
            meant.push((name, overview));
        }
    }
    Ok(meant)
}

/// Those in which nothing has happened since then. How old one is that can't be read is not known.
fn old(runs: &Runs, before: Timestamp, format: Output) -> anyhow::Result<Meant> {
    let mut meant = Meant::new();
    for name in runs.names()? {
        match runs.overview(&name) {
            Ok(overview) if overview.touched > before => {}
            Ok(overview) => meant.push((name, Ok(overview))),
            Err(error) => unusable(&name, &error, format),
        }
    }
    if meant.is_empty() {
        note!("host-demo: no run is that old");
    }
    Ok(meant)
}

/// Why a run is not removed, if it is not.
fn why_kept(overview: &Result<Overview, JournalError>, yes: bool) -> Option<String> {
    let overview = match overview {
        Ok(overview) => overview,
        Err(error) => return (!yes).then(|| format!("{error}; to remove it all the same: --yes")),
    };
    if let Standing::Driven(by) = &overview.standing {
        return Some(format!("it is driven by {by}, and stays"));
    }
    let is_open = |outcome: &Outcome| {
        let verdict = outcome.verdict();
        matches!(verdict, Verdict::Open | Verdict::Unknown | Verdict::NotRun)
    };
    let open = overview.outcomes.iter().filter(|(o, _)| is_open(o));
    let open: usize = open.map(|(_, count)| count).sum();
    (open > 0 && !yes).then(|| {
        let resume = suggest::resume(&overview.run);
        format!("{open} of its devices are open: {resume}; to remove it all the same: --yes")
    })
}

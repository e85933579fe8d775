//! `host-demo report`: what became of a run, for whoever wants to read it.

use std::path::Path;

use anyhow::{Context as _, bail};
use host_demo::files;
use host_demo::harmless::clean;
use host_demo::journal::Runs;
use host_demo::limits::Quota;
use host_demo::report::{Pace, Report, roughly};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::{self, Output};
use crate::commands::{run, runs};
use crate::exit::Exit;
use crate::ui::{output, suggest};

pub(crate) fn run(args: &args::Report, format: Output) -> anyhow::Result<Exit> {
    let to_output = args.csv.as_deref() == Some(Path::new("-"));
    if to_output && format == Output::Json {
        bail!("standard output takes a table or JSON: leave out --output json, or name a file");
    }
    let runs = Runs::new(run::folder(&args.runs)?);
    let id = runs.find(&args.run)?;
    let record = runs.read(&id)?;
    let standing = runs.standing(&id, &record.run);
    let report = with_commands(Report::new(&record, standing, Timestamp::now()));
    if let Some(path) = &args.html {
        write(path, &report.html())?;
    }
    match &args.csv {
        Some(_) if to_output => output::line(report.csv().trim_end()),
        Some(path) => write(path, &report.csv())?,
        None => {}
    }
    if format == Output::Json {
        output::json_line(&json(&report));
    } else if args.html.is_none() && args.csv.is_none() {
        print(&report);
    }
    Ok(Exit::Done)
}

/// The report, with commands that read and reach what this invocation and the run's own do.
pub(crate) fn with_commands(report: Report<'_>) -> Report<'_> {
    let run = &report.record.run;
    let (resume, verify) = (suggest::resume(run), suggest::verify_of(run));
    report.with_commands(resume, verify)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = clean(&path.display().to_string());
    files::write(path, text.as_bytes()).with_context(|| format!("{shown} can't be written"))?;
    note!("host-demo: {shown} is written");
    Ok(())
}

fn print(report: &Report<'_>) {
    let mut lines = heading(report);
    lines.extend(outcomes(report));
    if !report.troubles.is_empty() {
        lines.push("what went wrong:".to_owned());
    }
    for trouble in &report.troubles {
        let wrong = &trouble.wrong;
        let (count, reason) = (trouble.devices.len(), clean(&wrong.reason));
        lines.push(format!(
            "{count:>7}  {reason:<19}  {}",
            clean(&wrong.message)
        ));
        lines.extend(
            wrong
                .advice
                .iter()
                .map(|advice| format!("{:30}{}", "", clean(advice))),
        );
        lines.push(format!(
            "{:30}{}",
            "",
            clean(&some_of(report, &trouble.devices))
        ));
    }
    if !report.paces.is_empty() {
        lines.push("calls:".to_owned());
    }
    lines.extend(report.paces.iter().map(pace));
    if let Some(verify) = &report.verify {
        let id = &report.record.run.id;
        lines.push(clean(&format!("record, under \"run\":\"{id}\":")));
        lines.push(clean(&format!("         {verify}")));
    }
    for line in lines {
        output::line(line.trim_end());
    }
}

/// What holds for all of a run.
pub(crate) fn heading(report: &Report<'_>) -> Vec<String> {
    let run = &report.record.run;
    let mut lines = vec![
        format!(
            "run {}: {} of {} devices",
            run.id,
            run.kind.noun(),
            report.record.entries.len()
        ),
        format!("  comment  {}", run.comment),
        format!("  began    {} UTC, by {}", time(run.created), run.who),
        format!("  state    {}", report.standing),
    ];
    if let Some(ended) = run.ended {
        let took = report.duration().map(roughly).unwrap_or_default();
        lines[3] = format!("  ended    {} UTC, after {took}", time(ended));
    }
    lines.extend(run.ending.iter().map(|why| format!("  because  {why}")));
    let whose = [("tenant", &run.tenant), ("application", &run.application)];
    let whose = whose
        .into_iter()
        .filter_map(|(what, id)| Some(format!(", {what} {}", id.as_ref()?)));
    lines.push(format!(
        "  service  {}{}",
        run.service,
        whose.collect::<String>()
    ));
    lines.iter().map(|line| clean(line)).collect()
}

/// How many came to what, and what to do about it.
pub(crate) fn outcomes(report: &Report<'_>) -> Vec<String> {
    let run = &report.record.run;
    let line = |(outcome, devices): &(host_demo::batch::Outcome, Vec<usize>)| {
        let entries = devices.iter().map(|&n| &report.record.entries[n]);
        let advice = outcome.advice_for(run.kind, &report.resume, entries);
        let advice = advice.unwrap_or_default();
        let name = outcome.name(run.kind);
        let line = format!("{:>7}  {name:<19}  {}", devices.len(), clean(&advice));
        line.trim_end().to_owned()
    };
    let devices = std::iter::once("devices:".to_owned());
    devices.chain(report.outcomes.iter().map(line)).collect()
}

/// A few of them by name, and how many more there are.
fn some_of(report: &Report<'_>, devices: &[usize]) -> String {
    const NAMED: usize = 3;

    let entries = devices.iter().map(|&n| &report.record.entries[n]);
    let names = entries.map(|entry| entry.name.as_deref().unwrap_or(entry.machine.as_str()));
    let named: Vec<&str> = names.take(NAMED).collect();
    match devices.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn pace(pace: &Pace) -> String {
    let [first, last] = pace.span();
    let [minute, hour] = Quota::DOCUMENTED;
    format!(
        "{:>7}  {:<25}  {} to {} UTC; at most {} of {} in a minute, and {} of {} in an hour",
        pace.calls(),
        pace.operation.to_string(),
        time(first),
        time(last),
        pace.most(minute),
        minute.calls,
        pace.most(hour),
        hour.calls,
    )
}

fn json(report: &Report<'_>) -> Value {
    let (record, run) = (report.record, &report.record.run);
    let counts = report.counts();
    let mut value = runs::run_json(run, &report.standing, record.entries.len(), &counts);
    value["type"] = json!("report");
    value["seconds"] = json!(report.duration().map(|took| took.as_secs()));
    let advice = report.outcomes.iter().map(|(outcome, devices)| {
        let entries = devices.iter().map(|&n| &record.entries[n]);
        let advice = outcome.advice_for(run.kind, &report.resume, entries);
        (outcome.name(run.kind).to_owned(), json!(advice))
    });
    value["advice"] = Value::Object(advice.collect());
    let machine = |&n: &usize| record.entries[n].machine.as_str();
    let errors = report.troubles.iter().map(|trouble| {
        json!({
            "reason": trouble.wrong.reason,
            "message": trouble.wrong.message,
            "advice": trouble.wrong.advice,
            "devices": trouble.devices.len(),
            "machine_ids": trouble.devices.iter().map(machine).collect::<Vec<_>>(),
        })
    });
    value["errors"] = errors.collect();
    let calls = report.paces.iter().map(|pace| {
        let [first, last] = pace.span().map(|at| at.to_string());
        let quotas = Quota::DOCUMENTED.map(|quota| {
            let per = quota.per.as_secs();
            json!({ "calls": quota.calls, "per_seconds": per, "most": pace.most(quota) })
        });
        json!({
            "operation": pace.operation.to_string(),
            "calls": pace.calls(),
            "first": first,
            "last": last,
            "quotas": quotas,
        })
    });
    value["calls"] = calls.collect();
    value["verify"] = json!(report.verify);
    value
}

/// A time, for people: all of them are UTC.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

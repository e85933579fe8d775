//! `host-demo report`: what became of a run, for whoever wants to read it.

use std::path::Path;

use anyhow::{Context as _, bail};
use host_demo::files;
use host_demo::harmless::clean;
use host_demo::journal::Runs;
use host_demo::limits::Quota;
use host_demo::report::{CallRate, Report};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::{self, Output};
use crate::exit::Exit;
use crate::setup::paths;
use crate::ui::{output, report_text, run_text, time_text};

pub(crate) fn run(args: &args::Report, format: Output) -> anyhow::Result<Exit> {
    let to_output = args.csv.as_deref() == Some(Path::new("-"));
    if to_output && format == Output::Json {
        bail!("standard output takes a table or JSON: leave out --output json, or name a file");
    }
    let runs = Runs::new(paths::runs(&args.runs)?);
    let id = runs.find(&args.run)?;
    let record = runs.read(&id)?;
    let standing = runs.standing(&id, &record.run);
    let report = report_text::with_commands(Report::new(&record, standing, Timestamp::now()));
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

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = clean(&path.display().to_string());
    files::write(path, text.as_bytes()).with_context(|| format!("{shown} can't be written"))?;
    note!("host-demo: {shown} is written");
    Ok(())
}

fn print(report: &Report<'_>) {
    let mut lines = report_text::heading(report);
    lines.extend(report_text::outcomes(report));
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

fn pace(pace: &CallRate) -> String {
    let [first, last] = pace.span();
    let [minute, hour] = Quota::DOCUMENTED;
    format!(
        "{:>7}  {:<25}  {} to {} UTC; at most {} of {} in a minute, and {} of {} in an hour",
        pace.calls(),
        pace.operation.to_string(),
        time_text::short(first),
        time_text::short(last),
        pace.most(minute),
        minute.calls,
        pace.most(hour),
        hour.calls,
    )
}

fn json(report: &Report<'_>) -> Value {
    let (record, run) = (report.record, &report.record.run);
    let counts = report.counts();
    let mut value = run_text::standing_json(run, &report.standing, record.entries.len(), &counts);
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

//! The parts of a run's report that several subcommands print.

use host_demo::harmless::clean;
use host_demo::report::{Report, roughly};

use super::{suggest, time_text};

/// The report, with commands that read and reach what this invocation and the run's own do.
pub(crate) fn with_commands(report: Report<'_>) -> Report<'_> {
    let run = &report.record.run;
    let (resume, verify) = (suggest::resume(run), suggest::verify_of(run));
    report.with_commands(resume, verify)
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
        format!(
            "  began    {} UTC, by {}",
            time_text::short(run.created),
            run.who
        ),
        format!("  state    {}", report.standing),
    ];
    if let Some(ended) = run.ended {
        let took = report.duration().map(roughly).unwrap_or_default();
        lines[3] = format!("  ended    {} UTC, after {took}", time_text::short(ended));
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

//! A report as one HTML page, which needs nothing else and can reach nothing.
//!
//! Its style and script are its own, and by its Content-Security-Policy nothing else is applied or
//! run: were something from outside not escaped, it would still do nothing.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{CallRate, Report, roughly, wrong};
use crate::entry::{Outcome, Verdict};
use crate::journal::Standing;
use defender_core::escape::is_harmful;
use defender_core::operation::Operation;
use defender_quota::Quota;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// So many points a curve has at most: more than a screen shows.
const POINTS: usize = 600;

/// So many devices are named where something went wrong. The table has all of them.
const NAMED: usize = 10;

/// A curve's picture: so wide and high, with a quota's limit at this height from the top.
const PICTURE: [usize; 3] = [POINTS, 120, 22];

pub(super) fn write(report: &Report<'_>) -> String {
    let mut page = Page(String::with_capacity(
        64 * 1024 + 512 * report.record.entries.len(),
    ));
    page.head(report);
    page.summary(report);
    page.raw("<main>");
    page.outcomes(report);
    page.troubles(report);
    page.paces(report);
    page.audit(report);
    page.devices(report);
    page.raw("</main><footer><p>All times are UTC. Made by host-demo ");
    page.raw(env!("CARGO_PKG_VERSION"));
    let _ = write!(
        page.0,
        " at {}.</footer>\n<script>{SCRIPT}</script>\n",
        time(report.made)
    );
    page.0
}

struct Page(String);

impl Page {
    /// What is HTML already.
    fn raw(&mut self, html: &str) {
        self.0.push_str(html);
    }

    /// Text, wherever it comes from, as a part of a text or of a quoted attribute. What hides or
    /// changes direction is shown as what it is.
    fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.raw("&amp;"),
                '<' => self.raw("&lt;"),
                '>' => self.raw("&gt;"),
                '"' => self.raw("&quot;"),
                '\'' => self.raw("&#39;"),
                c if is_harmful(c) => self.0.extend(c.escape_default()),
                c => self.0.push(c),
            }
        }
    }

    /// What to do: a sentence, which may end with a command.
    fn advice(&mut self, advice: &str) {
        let (before, command) = advice.split_at(advice.find("host-demo ").unwrap_or(advice.len()));
        let mut letters = before.chars();
        if let Some(first) = letters.next() {
            self.text(&first.to_uppercase().to_string());
            self.text(letters.as_str());
        }
        if !command.is_empty() {
            self.command(command);
        }
    }

    /// A command, which is not broken within a word.
    fn command(&mut self, command: &str) {
        self.raw("<code>");
        for (n, word) in command.split(' ').enumerate() {
            self.raw(if n > 0 { " <span>" } else { "<span>" });
            self.text(word);
            self.raw("</span>");
        }
        self.raw("</code>");
    }

    /// Text of several lines.
    fn lines(&mut self, text: &str) {
        for (n, line) in text.lines().enumerate() {
            if n > 0 {
                self.raw("\n");
            }
            self.text(&line.replace('\t', "    "));
        }
    }

    fn head(&mut self, report: &Report<'_>) {
        let digest = |text: &str| STANDARD.encode(Sha256::digest(text));
        self.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
        let _ = write!(
            self.0,
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'\">",
            digest(STYLE),
            digest(SCRIPT)
        );
        self.raw(
            "<meta name=\"referrer\" content=\"no-referrer\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
        );
        self.text(&heading(report));
        self.raw(": ");
        let comment: String = report.record.run.comment.chars().take(80).collect();
        self.text(&comment);
        let _ = write!(self.0, "</title>\n<style>{STYLE}</style></head>\n<body>");
    }

    fn summary(&mut self, report: &Report<'_>) {
        let run = &report.record.run;
        self.raw("<header><h1>");
        self.text(&heading(report));
        self.raw("</h1>\n<p class=\"comment\"><bdi>");
        self.lines(&run.comment);
        self.raw("</bdi></p>\n<p class=\"state ");
        self.raw(match report.standing {
            Standing::Ended => "",
            Standing::Driven(_) | Standing::Interrupted => "open",
        });
        self.raw("\">");
        match &report.standing {
            Standing::Ended => {}
            Standing::Driven(by) => self.text(&format!("Not at its end: driven by {by}. ")),
            Standing::Interrupted => self.text("Interrupted: the process that drove it died. "),
        }
        self.text(&tally(report));
        if report.standing == Standing::Interrupted {
            self.raw("</p>\n<p>To go on: ");
            self.command(&report.resume);
        }
        if let Some(ending) = &run.ending {
            self.raw("</p>\n<p class=\"failed\">");
            self.text(ending);
        }
        self.raw("</p>\n<dl>");
        self.fact("Run", Some(&run.id));
        self.fact("Began", Some(&time(run.created)));
        self.fact("Ended", run.ended.map(time).as_deref());
        let duration = report.duration().map(roughly);
        self.fact("Took", duration.as_deref());
        self.fact("Begun by", Some(&run.who));
        self.fact("Service", Some(&run.service));
        self.fact("Tenant", run.tenant.as_deref());
        self.fact("Application", run.application.as_deref());
        self.raw("</dl></header>\n");
    }

    fn fact(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            let _ = write!(self.0, "<div><dt>{name}</dt><dd>");
            self.text(value);
            self.raw("</dd></div>");
        }
    }

    fn outcomes(&mut self, report: &Report<'_>) {
        let run = &report.record.run;
        let width = PICTURE[0];
        self.raw("<h2>Outcomes</h2>\n");
        let _ = write!(
            self.0,
            "<svg class=\"shares\" viewBox=\"0 0 {width} 10\" preserveAspectRatio=\"none\" \
             aria-hidden=\"true\">"
        );
        let all = report.record.entries.len().max(1);
        let mut before = 0;
        for (outcome, devices) in &report.outcomes {
            let [from, to] = [before, before + devices.len()].map(|n| n * width / all);
            before += devices.len();
            let _ = write!(
                self.0,
                "<rect class=\"{}\" x=\"{from}\" width=\"{}\" height=\"10\"/>",
                class(*outcome),
                (to - from).max(1)
            );
        }
        self.raw("</svg>\n<ul class=\"tiles\">");
        for (outcome, devices) in &report.outcomes {
            let name = outcome.name(run.kind);
            let _ = write!(
                self.0,
                "<li class=\"{}\"><a href=\"#outcome={name}\"><b>{}</b><span>{} {name}</span></a>",
                class(*outcome),
                grouped(devices.len()),
                mark(*outcome)
            );
            let entries = devices.iter().map(|&n| &report.record.entries[n]);
            if let Some(advice) = outcome.advice_for(run.kind, &report.resume, entries) {
                self.raw("<p>");
                self.advice(&advice);
                self.raw("</p>");
            }
            self.raw("</li>\n");
        }
        self.raw("</ul>\n");
    }

    fn troubles(&mut self, report: &Report<'_>) {
        if report.troubles.is_empty() {
            return;
        }
        self.raw(
            "<h2>What went wrong</h2>\n<table class=\"errors\"><thead><tr>\
             <th scope=\"col\">Devices</th><th scope=\"col\">Reason</th>\
             <th scope=\"col\">What was said, and what to do</th>\
             <th scope=\"col\">Which</th></tr></thead><tbody>\n",
        );
        for (n, trouble) in report.troubles.iter().enumerate() {
            let count = grouped(trouble.devices.len());
            let _ = write!(self.0, "<tr><td>{count}</td><td>");
            self.text(&trouble.wrong.reason);
            self.raw("</td><td>");
            self.text(&trouble.wrong.message);
            if let Some(advice) = &trouble.wrong.advice {
                self.raw("<p class=\"soft\">");
                self.advice(advice);
                self.raw("</p>");
            }
            self.raw("</td><td>");
            for (i, &device) in trouble.devices.iter().take(NAMED).enumerate() {
                let entry = &report.record.entries[device];
                let _ = write!(
                    self.0,
                    "{}<a href=\"#d{}\">",
                    if i > 0 { ", " } else { "" },
                    device + 1
                );
                self.text(
                    entry
                        .name
                        .as_deref()
                        .unwrap_or(&entry.machine.as_str()[..12]),
                );
                self.raw("</a>");
            }
            if trouble.devices.len() > NAMED {
                let _ = write!(self.0, ", … <a href=\"#error={}\">all {count}</a>", n + 1);
            }
            self.raw("</td></tr>\n");
        }
        self.raw("</tbody></table>\n");
    }

    fn paces(&mut self, report: &Report<'_>) {
        if report.paces.is_empty() {
            return;
        }
        self.raw(
            "<h2>Calls and quotas</h2>\n<p class=\"soft\">At each moment, how many calls of this \
             run had begun in the minute and in the hour before. What others sent for the same \
             application is not among them.</p>\n",
        );
        for pace in &report.paces {
            let [first, last] = pace.span();
            self.raw("<figure><figcaption><b>");
            self.raw(plural(pace.operation));
            let _ = write!(
                self.0,
                "</b><span class=\"soft\">: {} from {} to {}</span></figcaption>\
                 <div class=\"charts\">",
                counted(pace.calls(), "call"),
                time(first),
                time(last)
            );
            for quota in Quota::DOCUMENTED {
                self.curve(pace, quota);
            }
            self.raw("</div></figure>\n");
        }
    }

    fn curve(&mut self, pace: &CallRate, quota: Quota) {
        let [width, height, limit] = PICTURE;
        let (columns, [from, to]) = pace.columns(quota, POINTS);
        let most = pace.most(quota);
        let window = if quota.per.as_secs() == 60 {
            "minute"
        } else {
            "hour"
        };
        let said = format!(
            "The fullest {window} had {} of the {} calls that the service takes",
            grouped(most as usize),
            grouped(quota.calls as usize)
        );
        let _ = write!(
            self.0,
            "<div><p>{said}</p><div class=\"plot\"><svg viewBox=\"0 0 {width} {height}\" \
             preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{said}\"><path class=\"area\" \
             d=\"M0 {height}"
        );
        // What is within the limit stays below its line, and what is not is still in the picture.
        let top = (quota.calls as usize * height / (height - limit)).max(most as usize);
        let at = |n: usize, of: usize| n * width / of.max(1);
        let mut drawn = None;
        for (n, &calls) in columns.iter().enumerate() {
            if drawn != Some(calls) {
                let y = height - (calls as usize * height).div_ceil(top);
                let _ = write!(self.0, "H{}V{y}", at(n, columns.len()));
                drawn = Some(calls);
            }
        }
        let line = height - quota.calls as usize * height / top;
        let _ = write!(
            self.0,
            "H{width}V{height}Z\"/><path class=\"limit\" d=\"M0 {line}H{width}\"/></svg>\
             <span>limit {}</span></div><p class=\"axis\">",
            grouped(quota.calls as usize)
        );
        let is_one_day = to - from < 24 * 3_600_000;
        for at in [from, from + (to - from) / 2, to] {
            let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
            let format = if is_one_day {
                "%H:%M:%S"
            } else {
                "%m-%d %H:%M"
            };
            let _ = write!(self.0, "<span>{}</span>", at.strftime(format));
        }
        self.raw("</p></div>");
    }

    fn audit(&mut self, report: &Report<'_>) {
        let run = &report.record.run;
        self.raw("<h2>The record</h2>\n");
        let (Some(file), Some(verify)) = (&run.audit, &report.verify) else {
            self.raw("<p>The calls of this run are in no audit record.</p>\n");
            return;
        };
        self.raw("<p>Every call stands in <code>");
        self.text(file);
        self.raw("</code>, with who made it, under <code>&quot;run&quot;:&quot;");
        self.text(&run.id);
        self.raw("&quot;</code>. That nothing in it was changed is shown by:</p>\n<pre>");
        self.command(verify);
        self.raw("</pre>\n");
    }

    fn devices(&mut self, report: &Report<'_>) {
        let run = &report.record.run;
        // Shown by the script, which alone can do what it says.
        self.raw(
            "<h2 id=\"table\">Devices</h2>\n<form id=\"show\" role=\"search\" hidden>\
             <label>Search <input name=\"q\" type=\"search\" autocomplete=\"off\" \
             spellcheck=\"false\" placeholder=\"name, id, message\"></label>\
             <label>Outcome <select name=\"outcome\"><option value=\"\">all</option>",
        );
        for (outcome, devices) in &report.outcomes {
            let name = outcome.name(run.kind);
            let _ = write!(
                self.0,
                "<option value=\"{name}\" data-o=\"{}\">{name} ({})</option>",
                rank(*outcome),
                grouped(devices.len())
            );
        }
        self.raw(
            "</select></label><label class=\"sorting\">Sorted by <select name=\"sort\"></select>\
             </label><button type=\"button\" name=\"everything\" hidden>Show all</button>\
             <output></output></form>\n<table id=\"devices\" role=\"table\" \
             aria-labelledby=\"table\"><colgroup>",
        );
        for n in 1..=HEADS.len() {
            let _ = write!(self.0, "<col class=\"c{n}\">");
        }
        self.raw("</colgroup><thead role=\"rowgroup\"><tr role=\"row\">");
        for (key, name) in HEADS {
            let _ = write!(
                self.0,
                "<th scope=\"col\" role=\"columnheader\" data-key=\"{key}\">{name}</th>"
            );
        }
        // Ends of rows and cells are left out, as HTML allows: there are thousands.
        self.raw("</tr></thead><tbody role=\"rowgroup\">\n");
        let mut trouble_of = vec![None; report.record.entries.len()];
        for (n, trouble) in report.troubles.iter().enumerate() {
            for &device in &trouble.devices {
                trouble_of[device] = Some(n + 1);
            }
        }
        for (n, entry) in report.record.entries.iter().enumerate() {
            let outcome = entry.outcome(run.follows);
            let number = n + 1;
            let _ = write!(self.0, "<tr role=row id=d{number} data-o={}", rank(outcome));
            if let Some(trouble) = trouble_of[n] {
                let _ = write!(self.0, " data-e={trouble}");
            }
            let _ = write!(
                self.0,
                "><td role=cell>{number}<th scope=row role=rowheader>"
            );
            self.text(entry.name.as_deref().unwrap_or_default());
            let _ = write!(
                self.0,
                "<td role=cell>{}<td role=cell class={}>{} {}<td role=cell>",
                entry.machine,
                class(outcome),
                mark(outcome),
                outcome.name(run.kind)
            );
            let action = entry.action.as_ref();
            self.text(action.map_or("", |action| &action.status));
            if entry.is_adopted {
                self.raw(", adopted");
            }
            self.raw("<td role=cell>");
            self.text(action.map_or("", |action| &action.id));
            let _ = write!(self.0, "<td role=cell>{}<td role=cell>", entry.sends);
            if let Some(sent) = entry.sent {
                self.raw(&time(sent));
            }
            self.raw("<td role=cell>");
            if let Some(wrong) = wrong(entry, outcome) {
                self.text(&wrong.message);
                if let Some(advice) = &wrong.advice {
                    self.raw("<i>");
                    self.advice(advice);
                    self.raw("</i>");
                }
            }
            self.raw("\n");
        }
        self.raw("</tbody></table>\n");
    }
}

/// The table's columns: how a fragment calls them, and what stands above them.
const HEADS: [(&str, &str); 9] = [
    ("n", "No."),
    ("device", "Device"),
    ("id", "Machine id"),
    ("outcome", "Outcome"),
    ("status", "Action is"),
    ("action", "Action id"),
    ("requests", "Calls"),
    ("sent", "Sent (UTC)"),
    ("problem", "What went wrong"),
];

fn heading(report: &Report<'_>) -> String {
    let devices = counted(report.record.entries.len(), "device");
    let mut heading = format!("{} of {devices}", report.record.run.kind.noun());
    heading[..1].make_ascii_uppercase();
    heading
}

/// All of them in a line.
fn tally(report: &Report<'_>) -> String {
    let kind = report.record.run.kind;
    let parts = report
        .outcomes
        .iter()
        .map(|(outcome, devices)| format!("{} {}", grouped(devices.len()), outcome.name(kind)));
    parts.collect::<Vec<_>>().join(", ")
}

fn plural(operation: Operation) -> &'static str {
    match operation {
        Operation::UnrestrictCodeExecution => "Releases",
        Operation::RestrictCodeExecution => "Restrictions",
        Operation::GetMachineAction => "Readings of one machine action",
        Operation::ListMachineActions => "Readings of machine actions",
        Operation::CancelMachineAction => "Cancellations",
        Operation::FindMachines => "Readings of devices by name",
    }
}

const fn class(outcome: Outcome) -> &'static str {
    match outcome.verdict() {
        Verdict::Done => "done",
        Verdict::Open => "open",
        Verdict::Failed => "failed",
        Verdict::Unknown => "unknown",
        Verdict::NotRun => "not-run",
    }
}

/// What says the same as the colour does.
const fn mark(outcome: Outcome) -> &'static str {
    match outcome.verdict() {
        Verdict::Done => "✓",
        Verdict::Open => "…",
        Verdict::Failed => "✕",
        Verdict::Unknown => "?",
        Verdict::NotRun => "–",
    }
}

/// Its place among all, in which they are sorted: well first.
fn rank(outcome: Outcome) -> usize {
    Outcome::ALL
        .iter()
        .position(|other| *other == outcome)
        .unwrap_or_default()
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn counted(n: usize, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {what}{s}", grouped(n))
}

/// With a comma between thousands.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

//! How a run goes, as it goes: a bar on a terminal, lines elsewhere, JSON Lines for programs.

use std::collections::{HashMap, VecDeque};
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host_demo::audit::Audit;
use host_demo::batch::{Entry, Outcome, Reporter, State, Unreadable, Verdict};
use host_demo::clock::{Clock, Moment};
use host_demo::host::{CallError, Host};
use host_demo::id::MachineId;
use host_demo::kind::ActionKind;
use host_demo::waiting::Waiting;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::waits::Waits;
use super::{action_text, error_text, output, run_text};
use crate::args::Output;

/// How many are sent is told for the last minute.
const LATELY: Duration = Duration::from_secs(60);

/// Shows it.
pub(crate) struct Progress {
    kind: ActionKind,
    format: Output,
    bar: ProgressBar,
    waits: Arc<Waits>,
    clock: Arc<dyn Clock>,
    audit: Option<Arc<Audit>>,
    devices: usize,
    /// When all are sent, by the quotas and if nothing comes between.
    sent_by: Option<jiff::Timestamp>,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    states: HashMap<MachineId, (State, Option<String>)>,
    counts: HashMap<State, usize>,
    /// When the last ones were accepted.
    accepted: VecDeque<Moment>,
}

impl Progress {
    pub(crate) fn new(
        host: &Host,
        kind: ActionKind,
        entries: &[Entry],
        sent_by: Option<Moment>,
        format: Output,
    ) -> Self {
        let mut tally = Tally::default();
        for entry in entries {
            tally.note(entry);
        }
        let bar = bar(entries.len(), format);
        let is_sparse = entries.len() > run_text::FEW && format == Output::Text;
        Self {
            kind,
            format,
            waits: Waits::beside(host, format, bar.clone(), is_sparse),
            bar,
            clock: Arc::clone(host.clock()),
            audit: host.audit().cloned(),
            devices: entries.len(),
            sent_by: sent_by.map(|at| host.calendar(at)),
            tally: Mutex::new(tally),
        }
    }

    pub(crate) const fn format(&self) -> Output {
        self.format
    }

    /// What is waited for.
    pub(crate) const fn waits(&self) -> &Arc<Waits> {
        &self.waits
    }

    /// How all of them stand, and how far it is to the end.
    fn text(&self, tally: &mut Tally) -> String {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let mut text = tally.text(self.kind, self.devices, now);
        let is_sending = tally.count(&[State::Waiting, State::Sending]) > 0;
        if let Some(at) = self.sent_by.filter(|at| is_sending && *at > wall) {
            text += &format!(", the last one at about {} UTC", at.strftime("%H:%M"));
        }
        text
    }

    /// There is nothing more to show.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows how all of them stand, where that is shown at all.
    fn show(&self, tally: &mut Tally) {
        if !self.bar.is_hidden() {
            // First, so that a narrow terminal shows it.
            let parts = self.waits.short().into_iter().chain([self.text(tally)]);
            self.bar.set_message(parts.collect::<Vec<_>>().join("; "));
        } else if self.devices > run_text::FEW
            && self.format == Output::Text
            && self.waits.may_print()
        {
            let parts = [self.text(tally)].into_iter().chain(self.waits.short());
            note!("{}", parts.collect::<Vec<_>>().join("; "));
        }
    }
}

/// A bar of so many steps, where a person looks.
pub(crate) fn bar(steps: usize, format: Output) -> ProgressBar {
    if format != Output::Text || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len}  {wide_msg}");
    let bar = ProgressBar::new(steps as u64);
    bar.enable_steady_tick(Duration::from_millis(120));
    match style {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

impl Tally {
    /// Returns whether it is news to a reader.
    fn note(&mut self, entry: &Entry) -> bool {
        let status = entry.action.as_ref().map(|action| action.status.clone());
        let now = (entry.state, status);
        let before = self.states.insert(entry.machine.clone(), now.clone());
        if let Some((before, _)) = &before {
            *self.counts.entry(*before).or_default() -= 1;
        }
        *self.counts.entry(entry.state).or_default() += 1;
        before.is_none_or(|before| before != now)
    }

    fn count(&self, states: &[State]) -> usize {
        let counts = states.iter().filter_map(|state| self.counts.get(state));
        counts.sum()
    }

    fn text(&mut self, kind: ActionKind, devices: usize, now: Moment) -> String {
        let parts = [
            (self.count(&[State::Done]), kind.done()),
            (self.count(&[State::Accepted]), "accepted"),
            (
                self.count(&[State::OutcomeUnknown, State::AlreadyInProgress]),
                "being looked up",
            ),
            (self.count(&[State::Held]), "held"),
            (self.count(&[State::Failed, State::Refused]), "failed"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        let mut text: Vec<String> = parts
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        let left = self.count(&[State::Waiting, State::Sending]);
        if left > 0 {
            text.push(format!("{left} of {devices} to be sent"));
        }
        while self
            .accepted
            .front()
            .is_some_and(|at| now.since(*at) > LATELY)
        {
            self.accepted.pop_front();
        }
        if left > 0 && !self.accepted.is_empty() {
            text.push(format!("{} in the last minute", self.accepted.len()));
        }
        text.join(", ")
    }
}

impl Reporter for Progress {
    fn waiting(&self, _: Option<&Entry>, waiting: &Waiting) {
        self.waits.tell(waiting);
        self.show(&mut self.tally());
    }

    fn calls(&self, _: usize) {
        self.waits.active();
    }

    fn changed(&self, entry: &Entry) {
        let mut tally = self.tally();
        let was_accepted = matches!(
            tally.states.get(&entry.machine),
            Some((State::Accepted | State::Done | State::Failed, _))
        );
        let is_news = tally.note(entry);
        if entry.state == State::Accepted && !was_accepted {
            let now = self.clock.now();
            tally.accepted.push_back(now);
        }
        if self.bar.is_hidden() && self.devices <= run_text::FEW {
            if let (true, Some(action)) = (is_news, &entry.action) {
                let status = output::clean(&action.status);
                let id = output::clean(&action.id);
                note!("{}  {status}  action {id}", entry.machine);
            }
        } else {
            self.show(&mut tally);
        }
    }

    fn finished(&self, entry: &Entry, outcome: Outcome) {
        self.bar.inc(1);
        if self.format == Output::Json {
            let machine = entry.machine.as_str();
            let audit = self.audit.as_ref();
            let mut value = run_text::device_json(self.kind, entry, outcome);
            value["recorded"] = json!(audit.is_none_or(|audit| audit.has_all_of(machine)));
            return output::json_line(&value);
        }
        let is_bad = matches!(outcome.verdict(), Verdict::Failed | Verdict::Unknown);
        if is_bad && self.devices > run_text::FEW {
            let detail = output::clean(&run_text::detail(entry, outcome));
            let line = format!("{}  {}  {detail}", entry.machine, outcome.name(self.kind));
            match self.bar.is_hidden() {
                true => note!("{line}"),
                false => self.bar.println(line),
            }
        }
    }

    fn unreadable(&self, what: Unreadable, why: &CallError) {
        if self.format == Output::Json {
            let value = action_text::unreadable_json(what.name(), &what.to_string(), why);
            output::json_line(&value);
        }
        let why = output::clean(&error_text::explain(why));
        self.waits.say(&format!("host-demo: {what}: {why}"));
    }
}

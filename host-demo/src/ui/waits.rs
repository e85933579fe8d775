//! What a command waits for, as people and programs are told of it: everything that takes more
//! than five seconds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host_demo::clock::{Clock, Moment};
use host_demo::host::Host;
use host_demo::limits::Why;
use host_demo::waiting::{Cause, OnWait, Waiting};
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{output, suggest, time_text};
use crate::args::Output;

/// Shorter waits are not worth a word.
const LONG: Duration = Duration::from_secs(5);

/// From one line to the next, where there are many of them.
const APART: Duration = Duration::from_secs(10);

/// Reports waits. Where a person looks, the bar shows the present one.
pub(crate) struct Waits {
    format: Output,
    bar: ProgressBar,
    /// Where so much happens that a line is printed now and then only.
    is_sparse: bool,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    /// What is waited for, as far as that is known.
    now: Option<Waiting>,
    /// The last one that was reported.
    reported: Option<Waiting>,
    /// When something happened last, or was to.
    active: Moment,
    /// Whether it was reported that nothing has happened since.
    is_silent: bool,
    /// When a line was last printed, of those that are printed now and then.
    line: Option<Moment>,
}

impl Waits {
    /// Without a bar.
    pub(crate) fn new(host: &Host, format: Output) -> Arc<Self> {
        Self::beside(host, format, ProgressBar::hidden(), false)
    }

    /// With a bar that shows how far something is.
    pub(crate) fn beside(
        host: &Host,
        format: Output,
        bar: ProgressBar,
        is_sparse: bool,
    ) -> Arc<Self> {
        let clock = Arc::clone(host.clock());
        let active = clock.now();
        Arc::new(Self {
            format,
            bar,
            is_sparse,
            clock,
            state: Mutex::new(State {
                now: None,
                reported: None,
                active,
                is_silent: false,
                line: None,
            }),
        })
    }

    /// For a call's [`WaitOptions`](host_demo::host::WaitOptions).
    pub(crate) fn on_wait(self: &Arc<Self>) -> OnWait {
        let this = Arc::clone(self);
        Arc::new(move |waiting| this.tell(&waiting))
    }

    /// Something has happened: what was waited for is over.
    pub(crate) fn active(&self) {
        let mut state = self.state();
        state.now = None;
        state.active = self.clock.now();
        state.is_silent = false;
    }

    /// Something is waited for. It is reported if it is long, and was not reported before.
    pub(crate) fn tell(&self, waiting: &Waiting) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let left = waiting.until.map(|until| until.duration_since(wall));
        let left = left.map(|left| Duration::try_from(left).unwrap_or_default());
        let mut state = self.state();
        state.now = Some(waiting.clone());
        state.active = now + left.unwrap_or_default();
        state.is_silent = false;
        let is_short = matches!(waiting.cause, Cause::Quota(_) | Cause::NotVisible)
            && left.is_some_and(|left| left <= LONG);
        if matches!(waiting.cause, Cause::Device)
            || is_short
            || state
                .reported
                .as_ref()
                .is_some_and(|last| is_same(last, waiting))
        {
            return;
        }
        state.reported = Some(waiting.clone());
        drop(state);
        self.report(waiting);
    }

    /// Runs something to its end, and reports it when nothing has happened for long.
    pub(crate) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        self.active();
        let mut work = std::pin::pin!(work);
        loop {
            let active = self.state().active;
            let next = (active + LONG).max(self.clock.now() + LONG / 5);
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.clock.sleep_until(next) => {}
            }
            let mut state = self.state();
            if self.clock.now() >= state.active + LONG && !state.is_silent {
                state.is_silent = true;
                let silence = Waiting {
                    cause: Cause::Response,
                    until: None,
                };
                state.now = Some(silence.clone());
                drop(state);
                self.report(&silence);
            }
        }
    }

    /// What is waited for at the moment, in a few words; nothing, if that is over.
    pub(crate) fn short(&self) -> Option<String> {
        let state = self.state();
        let waiting = state.now.as_ref()?;
        if waiting
            .until
            .is_some_and(|until| until <= self.clock.wall())
        {
            return None;
        }
        let until = waiting
            .until
            .map(|at| time_text::moment(at, self.clock.wall()))
            .unwrap_or_default();
        Some(match &waiting.cause {
            Cause::Quota(_) => format!("quota exhausted until {until}"),
            Cause::Device => format!("next look at {until}"),
            Cause::NotVisible => format!("action not visible yet, next look at {until}"),
            Cause::Pause { .. } => format!("paused until {until}"),
            Cause::Read(_) => format!("reading failed, next attempt at {until}"),
            Cause::Request(_) => format!("not sent, next attempt at {until}"),
            Cause::Token(_) => format!("no token, next attempt at {until}"),
            cause => cause.to_string(),
        })
    }

    /// Whether it is time for a line of those that are printed now and then.
    pub(crate) fn may_print(&self) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        let is_time = state.line.is_none_or(|line| now.since(line) >= APART);
        if is_time {
            state.line = Some(now);
        }
        is_time
    }

    /// Says something that is worth a line of its own.
    pub(crate) fn say(&self, text: &str) {
        match self.bar.is_hidden() {
            true => note!("{text}"),
            false => self.bar.println(text),
        }
    }

    fn report(&self, waiting: &Waiting) {
        let text = output::clean(&line(waiting, self.clock.wall()));
        if self.format == Output::Json {
            output::json_line(&to_json(waiting));
        }
        let is_seen = match waiting.cause {
            Cause::Quota(_) | Cause::Response => {
                self.bar.is_hidden() && (!self.is_sparse || self.may_print())
            }
            _ => true,
        };
        match is_seen {
            true => self.say(&text),
            false => tracing::warn!("{text}"),
        }
        if let Some(short) = self.short()
            && !self.bar.is_hidden()
        {
            self.bar.set_message(output::clean(&short));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is the same wait, or one that ends no later: all that wait for one moment are one.
fn is_same(last: &Waiting, next: &Waiting) -> bool {
    match (&last.cause, &next.cause) {
        (Cause::Quota(_), Cause::Quota(_)) => {
            let second = |waiting: &Waiting| waiting.until.map(Timestamp::as_second);
            second(last) >= second(next)
        }
        // In a long outage the bar shows each attempt.
        (Cause::Token(_), Cause::Token(_)) => last.cause == next.cause,
        _ => last == next,
    }
}

/// A wait, for programs.
fn to_json(waiting: &Waiting) -> Value {
    json!({
        "type": "waiting",
        "reason": waiting.reason(),
        "until": waiting.until.map(|until| until.to_string()),
        "message": message(&waiting.cause),
        "status": waiting.status(),
    })
}

fn message(cause: &Cause) -> String {
    match cause {
        Cause::Quota(Why::Service) => {
            let open = suggest::command(&["quota", "open"]);
            format!("{cause} (429); to call sooner: `{open}`")
        }
        Cause::Quota(Why::Lost) => format!("{cause}; see `{}`", suggest::command(&["quota"])),
        cause => cause.to_string(),
    }
}

/// A wait, for people. Times are in the universal time of the record, not the terminal's.
fn line(waiting: &Waiting, now: Timestamp) -> String {
    let message = message(&waiting.cause);
    let until = waiting.until.map(|at| time_text::moment(at, now));
    match (&waiting.cause, until) {
        (Cause::Quota(_), Some(until)) => {
            format!("waiting for the service's quota, until {until}: {message}")
        }
        (Cause::Pause { .. }, Some(until)) => format!(
            "host-demo: paused until {until}: {message}; then one is sent to see. Ctrl-C stops the run"
        ),
        (Cause::Response, _) => format!(
            "host-demo: no response for {} s; still waiting",
            LONG.as_secs()
        ),
        (_, Some(until)) => format!("host-demo: {message}; next attempt at {until}"),
        (_, None) => format!("host-demo: {message}; still trying"),
    }
}

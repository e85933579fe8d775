//! What a person sees of work that takes a while: how far it is, and what it waits for.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host_demo::grant::Operation;
use host_demo::host::Host;
use host_demo::limits::{NotUntil, Why};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::Output;
use super::quota;

/// A bar on a terminal, and lines elsewhere.
pub(super) struct Progress {
    pub(super) bar: ProgressBar,
    /// Until when the last one was said to wait.
    waits: Mutex<Option<jiff::Timestamp>>,
}

impl Progress {
    pub(super) fn new(length: usize, format: Output) -> Self {
        let bar = if format == Output::Text && std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len}  {wide_msg}");
            let bar = ProgressBar::new(length as u64);
            bar.enable_steady_tick(Duration::from_millis(120));
            match style {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            waits: Mutex::default(),
        }
    }

    /// The same, for a host's [`Patience`](host_demo::host::Patience).
    pub(super) fn on_wait(this: &Arc<Self>, host: &Host) -> Arc<dyn Fn(NotUntil) + Send + Sync> {
        let (this, host) = (Arc::clone(this), host.clone());
        Arc::new(move |wait| this.waiting(host.calendar(wait.at), wait.why))
    }

    /// A call waits for its turn.
    pub(super) fn waiting(&self, until: jiff::Timestamp, why: Why) {
        if !self.bar.is_hidden() {
            return self.bar.set_message(waiting(until, why));
        }
        // Said once of all that wait for the same moment.
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.is_none_or(|last| last.as_second() < until.as_second()) {
            *waits = Some(until);
            note!("{}", waiting(until, why));
        }
    }
}

/// In the universal time of the record, not the terminal's.
fn waiting(until: jiff::Timestamp, why: Why) -> String {
    let whose = match why {
        Why::Quota => "as many were sent as it allows",
        Why::Service => "the service said to wait",
        Why::Lost => "what was sent before is not known; see `host-demo quota --help`",
    };
    let until = until.strftime("%H:%M:%S");
    format!("waiting for the service's quota, until {until} UTC: {whose}")
}

/// Says how long it will take to send so many calls, where the quota makes that long. What keeps it
/// from being known keeps the calls from being made as well, and is told there.
pub(super) async fn foretell(host: &Host, operation: Operation, calls: usize, what: &str) {
    const LONG: Duration = Duration::from_secs(60);
    let forecast = host.forecast(operation, calls, quota::ANSWER).await;
    if let Ok(Some(time)) = forecast
        && time >= LONG
    {
        let time = quota::roughly(time);
        note!("host-demo: by what is left of the quota, {calls} {what} take {time} to be sent");
    }
}

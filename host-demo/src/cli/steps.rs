//! How work goes of which it is enough to know how many steps are done: a bar on a terminal, and a
//! line now and then elsewhere.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use host_demo::host::Host;
use host_demo::limits::NotUntil;
use indicatif::ProgressBar;

use super::args::Output;
use super::progress::{bar, waiting};

/// From one line to the next: what the quota takes a minute for.
const TOLD: usize = 100;

/// Shows it.
pub(super) struct Steps {
    /// What is done with each, as in "250 names looked for".
    what: &'static str,
    all: usize,
    done: AtomicUsize,
    bar: ProgressBar,
    /// Until when the last one was said to wait.
    waits: Mutex<Option<jiff::Timestamp>>,
}

impl Steps {
    pub(super) fn new(all: usize, what: &'static str, format: Output) -> Arc<Self> {
        Arc::new(Self {
            what,
            all,
            done: AtomicUsize::new(0),
            bar: bar(all, format),
            waits: Mutex::default(),
        })
    }

    /// One step more is done.
    pub(super) fn done(&self, step: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.set_message(step.to_owned());
        self.bar.inc(1);
        if self.bar.is_hidden() && done.is_multiple_of(TOLD) {
            note!("host-demo: {done} of {} {}", self.all, self.what);
        }
    }

    /// There is nothing more to show.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Tells what a call waits for, once of all that wait for the same moment.
    pub(super) fn on_wait(self: &Arc<Self>, host: &Host) -> Arc<dyn Fn(NotUntil) + Send + Sync> {
        let (this, host) = (Arc::clone(self), host.clone());
        Arc::new(move |wait| {
            let until = host.calendar(wait.at);
            let text = waiting(until, wait.why);
            if !this.bar.is_hidden() {
                return this.bar.set_message(text);
            }
            let mut waits = this.waits.lock().unwrap_or_else(PoisonError::into_inner);
            if waits.is_none_or(|last| last.as_second() < until.as_second()) {
                *waits = Some(until);
                note!("{text}");
            }
        })
    }
}

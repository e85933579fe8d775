//! How work goes of which it is enough to know how many steps are done: a bar on a terminal, and a
//! line now and then elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use host_demo::host::Host;
use indicatif::ProgressBar;

use super::progress::bar;
use super::waits::Waits;
use crate::args::Output;

/// From one line to the next: what the quota takes a minute for.
const TOLD: usize = 100;

/// Shows it.
pub(crate) struct Steps {
    /// What is done with each, as in "250 names looked for".
    what: &'static str,
    all: usize,
    done: AtomicUsize,
    bar: ProgressBar,
    waits: Arc<Waits>,
}

impl Steps {
    pub(crate) fn new(host: &Host, all: usize, what: &'static str, format: Output) -> Arc<Self> {
        let bar = bar(all, format);
        Arc::new(Self {
            what,
            all,
            done: AtomicUsize::new(0),
            waits: Waits::beside(host, format, bar.clone(), false),
            bar,
        })
    }

    /// What is waited for.
    pub(crate) const fn waits(&self) -> &Arc<Waits> {
        &self.waits
    }

    /// One step more is done.
    pub(crate) fn done(&self, step: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.waits.active();
        self.bar.set_message(step.to_owned());
        self.bar.inc(1);
        if self.bar.is_hidden() && done.is_multiple_of(TOLD) {
            note!("host-demo: {done} of {} {}", self.all, self.what);
        }
    }

    /// There is nothing more to show.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

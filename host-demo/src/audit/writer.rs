//! The thread that writes, and what it has not written yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};

use tokio::sync::oneshot;

use super::{AuditError, lock};

/// Records that are written and brought to the disk together, at most.
const BATCH: usize = 64;

/// Outcomes that are kept until they can be written, at most.
pub(super) const OWED_MAX: usize = 10_000;

/// What the writer is asked for.
pub(super) struct Entry {
    /// Without one, it is to try again what it owes.
    pub(super) record: Option<String>,
    /// Whether it has to be on the disk.
    pub(super) durable: bool,
    /// The call that it is the outcome of. It has happened: if it can't be written now, it is to be
    /// written later.
    pub(super) outcome_of: Option<String>,
    pub(super) done: oneshot::Sender<Result<(), AuditError>>,
}

/// The outcomes that were handed over and are not on record.
#[derive(Default)]
pub(super) struct Backlog {
    /// By call.
    waiting: HashMap<String, Waiting>,
    /// There was no room to keep one until it can be written.
    is_short: bool,
    /// Why the last one could not be written.
    why: Option<AuditError>,
}

struct Waiting {
    target: Option<String>,
    /// It could not be written, or not in time.
    is_late: bool,
}

impl Backlog {
    pub(super) fn expect(&mut self, call: String, target: Option<String>) {
        let is_late = false;
        self.waiting.insert(call, Waiting { target, is_late });
    }

    /// Its outcome is to be written, and is not yet. If it was written meanwhile, all is well.
    pub(super) fn is_late(&mut self, call: &str, why: AuditError) {
        if let Some(waiting) = self.waiting.get_mut(call) {
            waiting.is_late = true;
            self.why = Some(why);
        }
    }

    fn is_lost(&mut self, call: &str, why: AuditError) {
        self.waiting.remove(call);
        self.is_short = true;
        self.why = Some(why);
    }

    pub(super) fn why(&self) -> Option<&AuditError> {
        let any = self.is_short || self.waiting.values().any(|waiting| waiting.is_late);
        self.why.as_ref().filter(|_| any)
    }

    /// Whether an outcome for this device or action is late.
    pub(super) fn lacks(&self, target: &str) -> bool {
        let of_it = |w: &Waiting| w.is_late && w.target.as_deref() == Some(target);
        self.is_short || self.waiting.values().any(of_it)
    }
}

/// Writes until nobody is there any more who could hand something over.
pub(super) fn run(
    entries: &mpsc::Receiver<Entry>,
    backlog: &Arc<Mutex<Backlog>>,
    mut append: impl FnMut(&[&str], bool) -> Result<(), AuditError>,
) {
    // The calls whose outcomes are not written yet, and those. They go first; until they are
    // written nothing that comes later is, so that nothing more is sent.
    let mut owed: Vec<(String, String)> = Vec::new();
    while let Ok(first) = entries.recv() {
        let mut batch = vec![first];
        batch.extend(entries.try_iter().take(BATCH - 1));
        let mut records = texts(&owed);
        records.extend(batch.iter().filter_map(|entry| entry.record.as_deref()));
        let durable = !owed.is_empty() || batch.iter().any(|entry| entry.durable);
        let result = match records[..] {
            [] => Ok(()),
            _ => append(&records, durable),
        };
        let mut backlog = lock(backlog);
        if result.is_ok() {
            for (call, _) in owed.drain(..) {
                backlog.waiting.remove(&call);
            }
        }
        for entry in batch {
            match (&result, entry.outcome_of, entry.record) {
                (Ok(()), Some(call), _) => drop(backlog.waiting.remove(&call)),
                (Err(error), Some(call), Some(record)) => {
                    tracing::error!(%error, "a call's outcome is not recorded");
                    if owed.len() < OWED_MAX {
                        backlog.is_late(&call, error.clone());
                        owed.push((call, record));
                    } else {
                        backlog.is_lost(&call, error.clone());
                    }
                }
                _ => {}
            }
            let _ = entry.done.send(result.clone());
        }
    }
    if !owed.is_empty()
        && let Err(error) = append(&texts(&owed), true)
    {
        tracing::error!(%error, outcomes = owed.len(), "they stay unrecorded");
    }
}

fn texts(owed: &[(String, String)]) -> Vec<&str> {
    owed.iter().map(|(_, record)| record.as_str()).collect()
}

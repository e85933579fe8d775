//! The thread that writes, and what it has not written yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, mpsc};

use tokio::sync::oneshot;

use super::record::OUTCOME_MAX;
use super::{AuditError, lock};

/// Records that are written and brought to the disk together, at most.
const BATCH: usize = 64;

/// Outcomes that are kept until they can be written, at most.
pub(super) const OWED_MAX: usize = 10_000;

/// What the writer is asked for.
pub(super) struct Entry {
    /// Without one, it is to try again what it owes.
    pub(super) record: Option<Record>,
    /// Whether it has to be on the disk.
    pub(super) durable: bool,
    pub(super) done: oneshot::Sender<Result<(), AuditError>>,
}

/// A call's intent, or its outcome.
pub(super) struct Record {
    pub(super) call: String,
    /// It has happened: if it can't be written now, it is to be written later.
    pub(super) is_outcome: bool,
    pub(super) text: String,
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
    mut append: impl FnMut(&[&str], bool, u64) -> Result<(), AuditError>,
) {
    // The outcomes that are not written yet. They go first; until they are written nothing that
    // comes later is, so that nothing more is sent.
    let mut owed: Vec<Record> = Vec::new();
    // The calls with an intent on record, and no outcome so far: each is to find room for it.
    let mut open: HashSet<String> = HashSet::new();
    while let Ok(first) = entries.recv() {
        let mut batch = vec![first];
        batch.extend(entries.try_iter().take(BATCH - 1));
        let durable = !owed.is_empty() || batch.iter().any(|entry| entry.durable);
        let ends_open = |record: &Record| record.is_outcome && open.contains(&record.call);

        let records: Vec<&Record> = owed
            .iter()
            .chain(batch.iter().filter_map(|e| e.record.as_ref()))
            .collect();
        let of_open: Vec<&Record> = records.iter().copied().filter(|r| ends_open(r)).collect();
        let intents = records.iter().filter(|record| !record.is_outcome).count();
        let left_open = open.len() + intents - of_open.len();
        let mut write = |records: &[&Record], room| match records {
            [] => Ok(()),
            _ => append(&texts(records), durable, room),
        };
        let written = write(&records, left_open as u64 * OUTCOME_MAX);
        // What was sent has its room, and does not go without for what was not.
        let open_written = match written {
            Err(AuditError::NoRoom { .. }) => write(&of_open, 0),
            _ => written.clone(),
        };
        let result_of = |record: &Record| match ends_open(record) {
            true => &open_written,
            false => &written,
        };

        let mut backlog = lock(backlog);
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        owed.retain(|outcome| {
            let is_written = result_of(outcome).is_ok();
            if is_written {
                backlog.waiting.remove(&outcome.call);
                ended.push(outcome.call.clone());
            }
            !is_written
        });
        for Entry { record, done, .. } in batch {
            let result = record.as_ref().map_or(&written, result_of).clone();
            match (&result, record) {
                (Ok(()), Some(outcome)) if outcome.is_outcome => {
                    backlog.waiting.remove(&outcome.call);
                    ended.push(outcome.call);
                }
                (Ok(()), Some(intent)) => begun.push(intent.call),
                (Err(error), Some(outcome)) if outcome.is_outcome => {
                    tracing::error!(%error, "a call's outcome is not recorded");
                    if owed.len() < OWED_MAX {
                        backlog.is_late(&outcome.call, error.clone());
                        owed.push(outcome);
                    } else {
                        backlog.is_lost(&outcome.call, error.clone());
                        ended.push(outcome.call);
                    }
                }
                _ => {}
            }
            let _ = done.send(result);
        }
        open.extend(begun);
        for call in ended {
            open.remove(&call);
        }
    }
    let owed: Vec<&Record> = owed.iter().collect();
    if !owed.is_empty()
        && let Err(error) = append(&texts(&owed), true, 0)
    {
        tracing::error!(%error, outcomes = owed.len(), "they stay unrecorded");
    }
}

fn texts<'a>(records: &[&'a Record]) -> Vec<&'a str> {
    records.iter().map(|record| record.text.as_str()).collect()
}

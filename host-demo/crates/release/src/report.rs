//! What there is to say of a run: how it went for how many, what went wrong, and how its calls kept
//! to the quotas. As values, as a table (CSV), and as a page.
//!
//! Pure: a record goes in. Whatever in it came from outside (comments, names, messages) is made
//! harmless where it is written.

mod html;
mod rolling_window;

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::entry::{Action, Entry, Outcome, Verdict};
use crate::journal::{Call, Record, Standing};
use defender_core::escape::row;
use defender_core::operation::Operation;
use defender_core::shell::Shell;
use defender_quota::Quota;

/// A run, looked at.
pub struct Report<'a> {
    /// What is known of it.
    pub record: &'a Record,
    /// How it stands.
    pub standing: Standing,
    /// When that was.
    pub made: Timestamp,
    /// Which devices have come to which outcome: those that are well first. None of them is empty.
    pub outcomes: Vec<(Outcome, Vec<usize>)>,
    /// What went wrong, the most frequent first.
    pub troubles: Vec<ErrorGroup>,
    /// How fast it called: what it was about first, and then what it read.
    pub paces: Vec<CallRate>,
    /// The command that resumes it.
    pub resume: String,
    /// The command that checks the audit log that its calls are in.
    pub verify: Option<String>,
}

/// What went wrong with one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorDetail {
    /// The contract's reason, or in a word what else it was.
    pub reason: String,
    /// What is said of it.
    pub message: String,
    /// What to do about it, where there is something to say.
    pub advice: Option<String>,
}

/// What went wrong in the same way with some devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorGroup {
    /// What it was. An id that differs from device to device is left out of its message.
    pub wrong: ErrorDetail,
    /// With which, by their places.
    pub devices: Vec<usize>,
}

/// How fast calls of one kind were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRate {
    /// Of which kind.
    pub operation: Operation,
    /// When each began that may have left, in milliseconds, in order. There is at least one.
    calls: Vec<i64>,
}

impl<'a> Report<'a> {
    /// Looks at a run that stands so.
    pub fn new(record: &'a Record, standing: Standing, made: Timestamp) -> Self {
        let by_outcome = |outcome: Outcome| {
            let all = record.entries.iter().enumerate();
            let of_it = all.filter(|(_, entry)| entry.outcome(record.run.follows) == outcome);
            let of_it: Vec<usize> = of_it.map(|(n, _)| n).collect();
            (!of_it.is_empty()).then_some((outcome, of_it))
        };
        Self {
            record,
            standing,
            made,
            outcomes: Outcome::ALL.into_iter().filter_map(by_outcome).collect(),
            troubles: troubles(record),
            paces: paces(record),
            resume: format!("host-demo resume {}", record.run.id),
            verify: record
                .run
                .audit
                .as_deref()
                .map(|file| format!("host-demo audit verify {}", Shell::HERE.quote(file))),
        }
    }

    /// How many devices have come to which outcome.
    pub fn counts(&self) -> Vec<(Outcome, usize)> {
        let counts = self.outcomes.iter().map(|(o, devices)| (*o, devices.len()));
        counts.collect()
    }

    /// How long it took, or has taken, if that is known: of a run that was cut short it is not.
    pub fn duration(&self) -> Option<Duration> {
        let end = match self.standing {
            Standing::Driven(_) => self.made,
            Standing::Ended => self.record.run.ended?,
            Standing::Interrupted => return None,
        };
        let took = end.duration_since(self.record.run.created);
        // A calendar can be set back.
        Some(took.try_into().unwrap_or_default())
    }

    /// The same report, with these commands in its advice.
    #[must_use]
    pub fn with_commands(mut self, resume: String, verify: Option<String>) -> Self {
        self.resume = resume;
        self.verify = verify;
        self
    }

    /// Every device, with all that is known of it: a table with a header.
    pub fn csv(&self) -> String {
        let run = &self.record.run;
        let mut table = row(COLUMNS) + "\n";
        for (n, entry) in self.record.entries.iter().enumerate() {
            let outcome = entry.outcome(run.follows);
            let wrong = wrong(entry, outcome);
            let (number, sends) = ((n + 1).to_string(), entry.sends.to_string());
            let sent = entry.sent.map(|at| at.to_string());
            let action = entry.action.as_ref();
            let error = action.and_then(|action| action.error_h_result).map(hresult);
            let of_action = |of: fn(&Action) -> Option<&str>| action.and_then(of).unwrap_or("");
            let cells: [&str; COLUMNS.len()] = [
                &number,
                entry.machine.as_str(),
                entry.name.as_deref().unwrap_or(""),
                outcome.name(run.kind),
                of_action(|action| Some(&action.status)),
                of_action(|action| Some(&action.id)),
                if entry.is_adopted { "true" } else { "false" },
                &sends,
                sent.as_deref().unwrap_or(""),
                of_action(|action| action.requestor.as_deref()),
                of_action(|action| action.requestor_comment.as_deref()),
                of_action(|action| action.creation_date_time_utc.as_deref()),
                of_action(|action| action.last_update_date_time_utc.as_deref()),
                error.as_deref().unwrap_or(""),
                wrong.as_ref().map_or("", |wrong| &wrong.reason),
                wrong.as_ref().map_or("", |wrong| &wrong.message),
                wrong
                    .as_ref()
                    .and_then(|wrong| wrong.advice.as_deref())
                    .unwrap_or(""),
            ];
            table += &row(cells);
            table.push('\n');
        }
        table
    }

    /// One page that shows all of it, and needs nothing else: a browser loads nothing for it.
    ///
    /// Its fragment says how the devices are shown: `#sort=sent&dir=down&outcome=failed&q=pc-1`.
    pub fn html(&self) -> String {
        html::write(self)
    }
}

/// The first that is a machine id is `machineId`, so that the table is a list of devices as well.
const COLUMNS: [&str; 17] = [
    "n",
    "machineId",
    "computerDnsName",
    "outcome",
    "actionStatus",
    "actionId",
    "adopted",
    "requests",
    "sent",
    "requestor",
    "requestorComment",
    "creationDateTimeUtc",
    "lastUpdateDateTimeUtc",
    "errorHResult",
    "reason",
    "message",
    "advice",
];

impl CallRate {
    /// How many there were.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// When the first and the last began.
    pub fn span(&self) -> [Timestamp; 2] {
        let at = |call: Option<&i64>| {
            let at = call.and_then(|at| Timestamp::from_millisecond(*at).ok());
            at.unwrap_or(Timestamp::UNIX_EPOCH)
        };
        [at(self.calls.first()), at(self.calls.last())]
    }

    /// The most that began within a quota's time.
    pub fn most(&self, quota: Quota) -> u32 {
        rolling_window::most(&self.calls, milliseconds(quota))
    }

    /// How many had begun in the time before, in columns from the first moment to the last.
    fn columns(&self, quota: Quota, columns: usize) -> (Vec<u32>, [i64; 2]) {
        /// What is over in a moment is not stretched over the whole picture.
        const AT_LEAST: i64 = 60_000;

        let (first, last) = (self.calls[0], self.calls[self.calls.len() - 1]);
        let last = last.max(first + AT_LEAST);
        let heights =
            rolling_window::trailing(&self.calls, milliseconds(quota), first, last, columns);
        (heights, [first, last])
    }
}

fn milliseconds(quota: Quota) -> i64 {
    i64::try_from(quota.per.as_millis()).unwrap_or(i64::MAX)
}

fn paces(record: &Record) -> Vec<CallRate> {
    let main = record.run.kind.operation();
    let others = Operation::ALL.into_iter().filter(|other| *other != main);
    let pace = |operation| {
        let of_it = |call: &&Call| call.operation == operation && call.left;
        let of_it = record.calls.iter().filter(of_it);
        let mut calls: Vec<i64> = of_it.map(|call| call.began.as_millisecond()).collect();
        // A calendar can be set back.
        calls.sort_unstable();
        (!calls.is_empty()).then_some(CallRate { operation, calls })
    };
    std::iter::once(main)
        .chain(others)
        .filter_map(pace)
        .collect()
}

/// What went wrong with a device that has come to this, if something did.
pub fn wrong(entry: &Entry, outcome: Outcome) -> Option<ErrorDetail> {
    if let Some(problem) = &entry.problem {
        return Some(ErrorDetail {
            reason: problem.reason().unwrap_or_else(|| "other".to_owned()),
            message: problem.message(),
            advice: problem.advice(),
        });
    }
    let action = entry.action.as_ref()?;
    if outcome.verdict() != Verdict::Failed {
        return None;
    }
    let error = action.error_h_result.filter(|code| *code != 0).map(hresult);
    Some(ErrorDetail {
        reason: "action".to_owned(),
        message: match error {
            Some(code) => format!("the action ended as {}, with error {code}", action.status),
            None => format!("the action ended as {}", action.status),
        },
        advice: None,
    })
}

/// As Windows writes it: what a search finds.
fn hresult(code: i32) -> String {
    format!("0x{code:08X}")
}

fn troubles(record: &Record) -> Vec<ErrorGroup> {
    let mut troubles: Vec<ErrorGroup> = Vec::new();
    let mut known: HashMap<(String, String), usize> = HashMap::new();
    for (n, entry) in record.entries.iter().enumerate() {
        let Some(mut wrong) = wrong(entry, entry.outcome(record.run.follows)) else {
            continue;
        };
        wrong.message = without_ids(&wrong.message);
        let key = (wrong.reason.clone(), wrong.message.clone());
        match known.get(&key) {
            Some(&at) => troubles[at].devices.push(n),
            None => {
                known.insert(key, troubles.len());
                let devices = vec![n];
                troubles.push(ErrorGroup { wrong, devices });
            }
        }
    }
    // Of equally frequent ones the first to occur comes first.
    troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.devices.len()));
    troubles
}

/// A message without the ids in it, which would make every one of its kind another.
fn without_ids(message: &str) -> String {
    /// A GUID without its hyphens; a machine id has more.
    const DIGITS: usize = 32;

    let mut kept = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let is_of_one = |c: char| c.is_ascii_hexdigit() || c == '-';
        let end = rest.find(|c| !is_of_one(c)).unwrap_or(rest.len());
        let digits = rest[..end].chars().filter(char::is_ascii_hexdigit).count();
        if digits >= DIGITS {
            kept.push('…');
            rest = &rest[end..];
        } else {
            let taken = end.max(first.len_utf8());
            kept.push_str(&rest[..taken]);
            rest = &rest[taken..];
        }
    }
    kept
}

/// A time, for people.
pub fn roughly(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil() as u64;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    match (days, hours, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes:02} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests;

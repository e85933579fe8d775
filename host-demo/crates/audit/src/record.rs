//! What a record says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::hash_chain::Torn;
use super::{Audit, AuditError, Written};
use defender_core::clock::{Clock, Moment};
use defender_core::escape::{Cut, cut, cut_text, hex};
use defender_core::operation::{Operation, Target};
use defender_core::summary::{ActionSummary, Count, ResponseSummary};
use defender_quota::Quota;

/// How long a caller waits for the record of a call that has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far beyond the call's deadline, at most.
const OVERTIME: Duration = Duration::from_secs(1);

/// The bytes of a line that holds an outcome, and of a line that closes off what another process
/// left before it. An outcome has at most eighteen texts from outside, which are at most 3,005
/// bytes each where every character is escaped; the rest of it is short.
pub(super) const OUTCOME_MAX: u64 = 64 * 1024;

/// Who has calls made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Who {
    /// The user's name.
    #[serde(serialize_with = "cut_text")]
    pub user: String,
    /// The user's number, as the system has it.
    pub uid: u32,
    /// The machine's name.
    #[serde(serialize_with = "cut_text")]
    pub host: String,
    /// The process.
    pub process: u32,
    /// What it is done for, as the user says: a ticket's number, say.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "cut")]
    pub ticket: Option<String>,
    /// The run that it belongs to, where it is one of many calls: the name of its journal.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "cut")]
    pub run: Option<String>,
}

/// How a call ended, for whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The plugin's success, which the boundary bears out.
    Succeeded,
    /// The plugin's error, or the host's.
    Failed,
    /// The plugin failed, or contradicted what the boundary saw. `observed` is what happened.
    Fault,
    /// Its time was up.
    TimedOut,
    /// Whoever made it did not wait for its end.
    Abandoned,
}

/// What the boundary saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Observed {
    /// `no`, `answered`, or `unanswered`: it may have arrived.
    pub sent: &'static str,
    /// The status of the response.
    pub status: Option<u16>,
    /// From the moment it was handed to the transport until the answer's head came.
    pub milliseconds: Option<u64>,
    /// The length of the request's body.
    pub request_bytes: Option<u64>,
    /// The length of the response's body, as far as it was read.
    pub response_bytes: Option<u64>,
    /// The answer's `mise-correlation-id`: what Microsoft's support asks for.
    #[serde(serialize_with = "cut")]
    pub correlation_id: Option<String>,
    /// The action in the response.
    pub action: Option<ActionSummary>,
    /// In place of an action, where a list was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<Count>,
    /// Why nothing was sent, or no answer came.
    #[serde(serialize_with = "cut")]
    pub failure: Option<String>,
}

/// What the plugin said.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claimed {
    /// A success.
    Ok {
        /// The action that it returned.
        #[serde(skip_serializing_if = "Option::is_none")]
        action: Option<ActionSummary>,
        /// The list that it returned.
        #[serde(skip_serializing_if = "Option::is_none")]
        list: Option<Count>,
    },
    /// An error.
    Err {
        /// The reason, by its name in the contract.
        reason: &'static str,
        /// The effect, by its name in the contract.
        effect: &'static str,
        /// The status that it says the service answered with.
        status: Option<u16>,
    },
}

impl Claimed {
    /// A success.
    pub fn ok(said: &ResponseSummary) -> Self {
        Self::Ok {
            action: said.action().cloned(),
            list: said.count(),
        }
    }
}

/// How a call ended.
pub struct Outcome {
    /// How the call ended.
    pub ended: Ending,
    /// The rule that let the request pass, if one did.
    pub allowed_by: Option<String>,
    /// What was denied, the first few of it.
    pub denied: Vec<String>,
    /// How much was denied.
    pub denials: u32,
    /// What the boundary observed.
    pub observed: Observed,
    /// What the plugin returned, if it returned.
    pub claimed: Option<Claimed>,
    /// What was wrong with the plugin.
    pub fault: Option<String>,
}

/// Writes one call's records.
pub struct Trail {
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    call: String,
    component: String,
    operation: Operation,
    target: Option<Target>,
    comment_sha256: Option<String>,
    quota: Vec<(Quota, usize)>,
    is_concluded: AtomicBool,
}

#[derive(Serialize)]
struct Record<'a> {
    kind: &'static str,
    time: String,
    call: &'a str,
    component: &'a str,
    who: &'a Who,
    operation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    /// The name that devices were looked for by.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// Which page of which list was asked for.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "cut")]
    query: Option<String>,
    /// SHA-256 of the comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    comment_sha256: Option<String>,
    decision: Decision<'a>,
    quota: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ending>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<&'a Observed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed: Option<&'a Claimed>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "cut")]
    fault: Option<String>,
}

/// The boundary's decision about the call's request.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Decision<'a> {
    Allowed {
        rule: &'a str,
        /// Besides, of the same call.
        #[serde(skip_serializing_if = "is_zero")]
        denials: u32,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        denied: &'a [Cut<'a>],
    },
    Denied {
        denials: u32,
        denied: &'a [Cut<'a>],
    },
    /// The plugin did not ask for anything.
    NotAsked,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Trail {
    /// Returns the trail of one call, of which nothing is recorded yet.
    pub fn new(
        audit: Arc<Audit>,
        clock: Arc<dyn Clock>,
        call: String,
        component: String,
        operation: Operation,
        target: Option<Target>,
        quota: Vec<(Quota, usize)>,
    ) -> Self {
        Self {
            audit,
            clock,
            call,
            component,
            operation,
            target,
            comment_sha256: None,
            quota,
            is_concluded: AtomicBool::new(false),
        }
    }

    /// The same, for a call with this comment.
    #[must_use]
    pub fn with_comment(mut self, comment: Option<&str>) -> Self {
        self.comment_sha256 = comment.map(|comment| hex(&Sha256::digest(comment)));
        self
    }

    /// Records what is about to be sent. Where this fails, it must not be.
    pub async fn intend(&self, rule: &str) -> Result<(), AuditError> {
        let decision = Decision::Allowed {
            rule,
            denials: 0,
            denied: &[],
        };
        let record = text(&self.record("intent", decision));
        let written = self.audit.intend(&self.call, record, self.is_durable());
        // The writer answers as long as it lives.
        written.await.unwrap_or(Err(AuditError::TooSlow))
    }

    /// Records how it ended, and waits for it: for five seconds at most, and no longer than a
    /// second after the call's deadline. It is still written then; nobody waits for it any more.
    /// Only the first time counts.
    pub async fn conclude(&self, outcome: &Outcome, deadline: Moment) {
        let Some(written) = self.hand_over(outcome) else {
            return;
        };
        let now = self.clock.now();
        let until = (now + PATIENCE).min(deadline.max(now) + OVERTIME);
        tokio::select! {
            biased;
            // The writer has said itself what it could not write; without one, nobody has.
            Ok(_) = written => {}
            () = self.clock.sleep_until(until) => self.audit.is_late(&self.call),
        }
    }

    /// Records how it ended, where nobody waits any more.
    pub fn abandon(&self, outcome: &Outcome) {
        let _ = self.hand_over(outcome);
    }

    fn hand_over(&self, outcome: &Outcome) -> Option<Written> {
        if self.is_concluded.swap(true, Ordering::AcqRel) {
            return None;
        }
        let denied: Vec<Cut<'_>> = outcome.denied.iter().map(|text| Cut(text)).collect();
        let decision = match &outcome.allowed_by {
            Some(rule) => Decision::Allowed {
                rule,
                denials: outcome.denials,
                denied: &denied,
            },
            None if outcome.denials > 0 => Decision::Denied {
                denials: outcome.denials,
                denied: &denied,
            },
            None => Decision::NotAsked,
        };
        let record = text(&Record {
            ended: Some(outcome.ended),
            observed: Some(&outcome.observed),
            claimed: outcome.claimed.as_ref(),
            fault: outcome.fault.clone(),
            ..self.record("outcome", decision)
        });
        let target = self.target.as_ref().and_then(Target::named);
        let durable = self.is_durable();
        Some(self.audit.conclude(&self.call, target, record, durable))
    }

    fn record<'a>(&'a self, kind: &'static str, decision: Decision<'a>) -> Record<'a> {
        let named = self.target.as_ref().and_then(Target::named);
        let (mut machine, mut action, mut name, mut query) = (None, None, None, None);
        match &self.target {
            Some(Target::Machine(_)) => machine = named,
            Some(Target::Action(_)) => action = named,
            Some(Target::Name(_)) => name = named,
            Some(Target::Actions(list)) => {
                machine = named;
                query = Some(list.to_string());
            }
            None => {}
        }
        Record {
            kind,
            time: self.clock.wall().to_string(),
            call: &self.call,
            component: &self.component,
            who: &self.audit.who,
            operation: self.operation.to_string(),
            machine,
            action,
            name,
            query,
            comment_sha256: self.comment_sha256.clone(),
            decision,
            quota: self
                .quota
                .iter()
                .map(|(quota, used)| {
                    json!({ "seconds": quota.per.as_secs(), "calls": quota.calls, "used": used })
                })
                .collect(),
            ended: None,
            observed: None,
            claimed: None,
            fault: None,
        }
    }

    const fn is_durable(&self) -> bool {
        self.operation.changes_something()
    }
}

/// The record that accounts for what a killed process left. Its time is the machine's: it belongs
/// to no call.
pub(super) fn closing(torn: &Torn) -> String {
    json!({ "kind": "closed-off", "time": jiff::Timestamp::now().to_string(), "torn": torn })
        .to_string()
}

#[expect(
    clippy::expect_used,
    reason = "texts and numbers can always be written"
)]
fn text(record: &Record<'_>) -> String {
    serde_json::to_string(record).expect("a record can be written")
}

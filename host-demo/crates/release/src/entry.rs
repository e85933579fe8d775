//! One device of a run: where it stands, and what is known of its action.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::action_kind::ActionKind;
use defender_core::id::MachineId;
use defender_host::CallError;
use defender_host::bindings::{self, ActionStatus, Effect, MachineAction};
use defender_host::boundary::waiting::Trouble;

/// How far it has come with one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It is certain that nothing was created for it, and nothing is under way.
    Waiting,
    /// A request is about to leave, or under way. After a crash: it may have arrived.
    Sending,
    /// A request may have arrived or not. Its machine's actions are looked at before anything else.
    OutcomeUnknown,
    /// The service says that an action like it is under way. Which one is still to be found.
    AlreadyInProgress,
    /// Its action is known, and has not ended.
    Accepted,
    /// Its action succeeded.
    Done,
    /// Its action ended, and not well.
    Failed,
    /// The service did not do it, and would not the next time.
    Refused,
    /// The opposite action is under way, which is not overtaken.
    Held,
}

impl State {
    /// All of them, as they are called in a journal.
    const NAMES: [(Self, &'static str); 9] = [
        (Self::Waiting, "waiting"),
        (Self::Sending, "sending"),
        (Self::OutcomeUnknown, "unsure"),
        (Self::AlreadyInProgress, "barred"),
        (Self::Accepted, "accepted"),
        (Self::Done, "done"),
        (Self::Failed, "failed"),
        (Self::Refused, "refused"),
        (Self::Held, "held"),
    ];

    /// Its name in a journal.
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(state, _)| *state == self);
        found.map_or("", |(_, name)| name)
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(_, n)| *n == name);
        found.map(|(state, _)| *state)
    }
}

/// What is kept of a machine action: in its fields the service's own names and texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// Its id, a GUID.
    pub id: String,
    /// What is asked for.
    #[serde(rename = "type")]
    pub type_: String,
    /// How far it has come.
    pub status: String,
    /// Who asked for it.
    pub requestor: Option<String>,
    /// Why. Not kept of the run's own actions, whose comment is that of the run.
    pub requestor_comment: Option<String>,
    /// The device's name.
    pub computer_dns_name: Option<String>,
    /// When it was created.
    pub creation_date_time_utc: Option<String>,
    /// When it moved on last.
    pub last_update_date_time_utc: Option<String>,
    /// Why it ended otherwise: an HRESULT.
    pub error_h_result: Option<i32>,
}

/// Of each text so many characters are kept. A million devices' worth must stay small, and a text
/// comes from outside.
const KEPT: usize = 256;

fn cut(text: Option<&String>) -> Option<String> {
    text.map(|text| text.chars().take(KEPT).collect())
}

impl Action {
    /// What is kept of this one, whose comment is the run's own or another.
    pub fn of(action: &MachineAction, is_own: bool) -> Self {
        let comment = cut(action.requestor_comment.as_ref());
        Self {
            id: action.id.clone(),
            type_: action.type_.as_str().chars().take(KEPT).collect(),
            status: action.status.as_str().chars().take(KEPT).collect(),
            requestor: cut(action.requestor.as_ref()),
            requestor_comment: comment.filter(|_| !is_own),
            computer_dns_name: cut(action.computer_dns_name.as_ref()),
            creation_date_time_utc: cut(action.creation_date_time_utc.as_ref()),
            last_update_date_time_utc: cut(action.last_update_date_time_utc.as_ref()),
            error_h_result: action.error_h_result,
        }
    }
}

/// Something that went wrong, as it is kept and shown: a JSON object with at least a `message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(Box<str>);

impl Problem {
    /// From an error, and what else there is to say about it.
    pub fn new(error: &CallError, advice: Option<&str>) -> Self {
        let mut value = error.to_json();
        value["advice"] = json!(advice);
        let text = value.to_string();
        if text.len() <= 4 * KEPT {
            return Self(text.into());
        }
        // Some texts are a server's, of any length.
        let kept = json!({
            "message": error.to_string().chars().take(2 * KEPT).collect::<String>(),
            "effect": value["effect"],
            "reason": value["reason"],
            "advice": advice,
            "required_roles": value["required_roles"],
        });
        Self(kept.to_string().into())
    }

    /// One that is said here, and not by an error.
    pub fn said(message: &str) -> Self {
        let value = json!({
            "message": message,
            "effect": Effect::None.name(),
            "reason": null,
            "advice": null,
        });
        Self(value.to_string().into())
    }

    /// As a journal has kept it.
    pub fn kept(text: &str) -> Self {
        Self(text.into())
    }

    /// The object's text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The object.
    pub fn to_json(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_else(|_| {
            Value::Object(Map::from_iter([("message".to_owned(), json!(&*self.0))]))
        })
    }

    fn part(&self, name: &str) -> Option<String> {
        self.to_json()[name].as_str().map(str::to_owned)
    }

    /// What went wrong.
    pub fn message(&self) -> String {
        self.part("message").unwrap_or_default()
    }

    /// What to do about it, where there is something to say.
    pub fn advice(&self) -> Option<String> {
        self.part("advice")
    }

    /// The contract's reason, where the service or the plugin gave one.
    pub fn reason(&self) -> Option<String> {
        self.part("reason")
    }

    /// The roles one of which the service requires, where it said so.
    pub fn required_roles(&self) -> Vec<String> {
        serde_json::from_value(self.to_json()["required_roles"].clone()).unwrap_or_default()
    }

    /// The same for those who report what is waited for.
    pub(super) fn trouble(&self) -> Trouble {
        let status = self.to_json()["service"]["status"].as_u64();
        Trouble {
            message: self.message(),
            status: status.and_then(|status| status.try_into().ok()),
        }
    }
}

/// One device of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub machine: MachineId,
    /// Its name, as it was asked for by or as the service has it.
    pub name: Option<String>,
    /// How far it has come.
    pub state: State,
    /// How often a request for it may have left.
    pub sends: u32,
    /// When the last of them did, by the host's calendar.
    pub sent: Option<Timestamp>,
    /// Its action.
    pub action: Option<Action>,
    /// Whether the action was there before, or is another's.
    pub is_adopted: bool,
    /// What went wrong last.
    pub problem: Option<Problem>,
}

impl Entry {
    /// One for which nothing has happened.
    pub const fn new(machine: MachineId, name: Option<String>) -> Self {
        Self {
            machine,
            name,
            state: State::Waiting,
            sends: 0,
            sent: None,
            action: None,
            is_adopted: false,
            problem: None,
        }
    }

    /// What is said of it now. `follows`: an accepted action is looked at until it ends.
    pub fn outcome(&self, follows: bool) -> Outcome {
        match self.state {
            State::Waiting => Outcome::NotRun,
            State::Sending | State::OutcomeUnknown => Outcome::Unknown,
            State::AlreadyInProgress => Outcome::InProgress,
            State::Accepted if self.problem.is_some() => Outcome::NotVerifiable,
            State::Accepted if follows => Outcome::Pending,
            State::Accepted => Outcome::Accepted,
            State::Done => Outcome::Done,
            State::Failed => match self.action.as_ref().map(|action| action.status.as_str()) {
                Some("TimeOut") => Outcome::TimedOut,
                Some("Cancelled") => Outcome::Cancelled,
                _ => Outcome::Failed,
            },
            State::Refused => Outcome::Refused,
            State::Held => Outcome::Held,
        }
    }

    /// From now on this is its action: it waits for its end, or has come to it.
    pub fn has(&mut self, action: &MachineAction, is_own: bool) {
        self.is_adopted = !is_own;
        self.name = cut(action.computer_dns_name.as_ref()).or_else(|| self.name.take());
        self.action = Some(Action::of(action, is_own));
        self.problem = None;
        self.state = match ending(&action.status) {
            Some(true) => State::Done,
            Some(false) => State::Failed,
            None => State::Accepted,
        };
    }
}

/// Whether an action with this status has ended, and well.
pub(crate) const fn ending(status: &ActionStatus) -> Option<bool> {
    match status {
        bindings::ActionStatus::Succeeded => Some(true),
        ActionStatus::Failed | ActionStatus::TimeOut | ActionStatus::Cancelled => Some(false),
        ActionStatus::Pending | ActionStatus::InProgress | ActionStatus::Other(_) => None,
    }
}

/// How it ended for one device, or how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Its action succeeded: it is free, or restricted.
    Done,
    /// The service accepted the action. It was not followed.
    Accepted,
    /// The service accepted it, and it has not ended yet.
    Pending,
    /// The service accepted it, but how it goes on can't be read.
    NotVerifiable,
    /// One like it is under way already, and which one could not be found.
    InProgress,
    /// The opposite action is under way, and was not overtaken.
    Held,
    /// The action failed.
    Failed,
    /// The action ran out of time: the device did not take it up in some days.
    TimedOut,
    /// Somebody cancelled the action.
    Cancelled,
    /// The service did not do it. Nothing was created.
    Refused,
    /// It is not known whether the service did it. Look before repeating.
    Unknown,
    /// Nothing was sent, for a reason that has nothing to do with this device, such as that the run
    /// was stopped before.
    NotRun,
}

/// What an outcome comes down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// What was asked for is confirmed.
    Done,
    /// It failed.
    Failed,
    /// It may have happened, or not: look before repeating.
    Unknown,
    /// It may still succeed.
    Open,
    /// It was not tried.
    NotRun,
}

impl Outcome {
    /// All of them: what is well first, what wants doing last.
    pub const ALL: [Self; 12] = [
        Self::Done,
        Self::Accepted,
        Self::Pending,
        Self::NotVerifiable,
        Self::InProgress,
        Self::Held,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Refused,
        Self::Unknown,
        Self::NotRun,
    ];

    /// What it comes down to.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Done | Self::Accepted => Verdict::Done,
            Self::Pending | Self::NotVerifiable | Self::InProgress | Self::Held => Verdict::Open,
            Self::Failed | Self::TimedOut | Self::Cancelled | Self::Refused => Verdict::Failed,
            Self::Unknown => Verdict::Unknown,
            Self::NotRun => Verdict::NotRun,
        }
    }

    /// One word or two, for programs and tables.
    pub const fn name(self, kind: ActionKind) -> &'static str {
        match self {
            Self::Done => kind.done(),
            Self::Accepted => "accepted",
            Self::Pending => "pending",
            Self::NotVerifiable => "not-verifiable",
            Self::InProgress => "already-in-progress",
            Self::Held => "held",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::NotRun => "not-run",
        }
    }

    /// What to do about it for these devices, all of which have come to it: as
    /// [`advice`](Self::advice), with the roles that the service said are missing.
    pub fn advice_for<'a>(
        self,
        kind: ActionKind,
        again: &str,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Option<String> {
        let advice = self.advice(kind, again)?;
        if self != Self::NotVerifiable {
            return Some(advice);
        }
        let problems = entries.into_iter().filter_map(|e| e.problem.as_ref());
        let forbidden = problems.filter(|p| p.reason().as_deref() == Some("forbidden"));
        let mut roles: Vec<String> = forbidden.flat_map(Problem::required_roles).collect();
        roles.sort_unstable();
        roles.dedup();
        Some(match roles.len() {
            0 => advice,
            1 => format!(
                "the service accepted it; to see how it ends, grant the application {}, and then: \
                 {again}",
                roles[0]
            ),
            _ => format!(
                "the service accepted it; to see how it ends, grant the application one of {}, and \
                 then: {again}",
                roles.join(", ")
            ),
        })
    }

    /// What to do about it, where there is something to do. `again` is the command that resumes the
    /// run.
    pub fn advice(self, kind: ActionKind, again: &str) -> Option<String> {
        Some(match self {
            Self::Done => return None,
            Self::Accepted => format!("to see them to their end: {again}"),
            Self::Pending => format!(
                "the device does it when it is next online, which can take days; to go on looking: \
                 {again}"
            ),
            Self::NotVerifiable => format!(
                "the service accepted it, but its state could not be read; to look again: {again}"
            ),
            Self::InProgress => format!("an action like it is under way; to look again: {again}"),
            Self::Held => format!(
                "the opposite ({}) is under way: wait for its end or cancel it, and then: {again}",
                kind.opposite().name()
            ),
            Self::Failed | Self::TimedOut | Self::Cancelled => {
                format!("look at the device, and to try it once more: {again} --retry")
            }
            Self::Refused => {
                format!("mend what is said of each; to try it once more: {again} --retry")
            }
            Self::Unknown => format!(
                "it may have happened; to find out, and repeat it only if it has not: {again}"
            ),
            Self::NotRun => format!("nothing was sent for these; to send them: {again}"),
        })
    }
}

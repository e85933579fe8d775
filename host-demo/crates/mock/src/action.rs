//! A machine action, and how it goes on as time passes.
//!
//! Its way is laid down when it is created, and read off whenever somebody asks.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::machine::Machine;
use super::machine_action::{ActionStatus, ActionType, MachineAction, ticks};
use super::switches::{LateCancel, Switches};

use defender_core::clock::Moment;

/// In a recorded answer, the last update is this much later than the creation.
const FIRST_UPDATE: Duration = Duration::from_nanos(1_100);

/// Both scales of the clock, read once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) moment: Moment,
    pub(super) wall: Timestamp,
}

/// How an action ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The only good end.
    Succeeded,
    /// With the HRESULT `E_FAIL` (made up: no record of a failed one was found).
    Failed,
    /// With the HRESULT of a real one, 0x80190198.
    TimeOut,
    /// By somebody in the portal, with the HRESULT of a real one, 0x80004004.
    Cancelled,
}

impl Ending {
    fn status(self) -> ActionStatus {
        match self {
            Self::Succeeded => ActionStatus::Succeeded,
            Self::Failed => ActionStatus::Failed,
            Self::TimeOut => ActionStatus::TimeOut,
            Self::Cancelled => ActionStatus::Cancelled,
        }
    }

    fn h_result(self) -> i32 {
        match self {
            Self::Succeeded => 0,
            Self::Failed => -2_147_467_259,
            Self::TimeOut => -2_145_844_840,
            Self::Cancelled => -2_147_467_260,
        }
    }
}

/// How a device treats its actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceBehaviour {
    /// After the times that the switches `pending` and `in-progress` say, it ends them so.
    Ends(Ending),
    /// After these times, it ends them so.
    EndsAfter {
        /// How long an action is `Pending`.
        pending: Duration,
        /// How long it is `InProgress` then; with zero it never is.
        in_progress: Duration,
        /// And its end.
        ending: Ending,
    },
    /// Its actions stay `Pending`, until they time out.
    Offline,
}

/// An action, and the way it goes.
pub(super) struct Action {
    /// As it was when it was created.
    birth: MachineAction,
    created: Moment,
    taken_up: Option<Moment>,
    ends: Option<(Moment, Ending)>,
    cancelled: Option<Cancellation>,
}

/// Somebody's, by a call.
struct Cancellation {
    requestor: String,
    comment: String,
    /// When the device does what it was asked for all the same.
    is_done: Option<Moment>,
}

/// What an action is about.
pub(super) struct Subject<'a> {
    pub(super) r#type: ActionType,
    pub(super) machine_id: &'a str,
    pub(super) computer_dns_name: Option<&'a str>,
    pub(super) comment: &'a str,
    pub(super) requestor: &'a str,
}

impl Action {
    pub(super) fn new(
        subject: &Subject<'_>,
        behaviour: DeviceBehaviour,
        now: Now,
        switches: &Switches,
    ) -> Self {
        let created = ticks(now.wall);
        let birth = MachineAction {
            id: Uuid::new_v4(),
            r#type: subject.r#type,
            title: None,
            requestor: subject.requestor.to_owned(),
            requestor_comment: subject.comment.to_owned(),
            status: ActionStatus::Pending,
            machine_id: subject.machine_id.to_owned(),
            computer_dns_name: subject.computer_dns_name.map(str::to_owned),
            creation_date_time_utc: created,
            last_update_date_time_utc: created.saturating_add(FIRST_UPDATE).unwrap_or(created),
            cancellation_requestor: None,
            cancellation_comment: None,
            cancellation_date_time_utc: None,
            error_h_result: 0,
            scope: None,
            external_id: None,
            request_source: "PublicApi",
            related_file_info: None,
            commands: [],
            troubleshoot_info: None,
        };
        let mut action = Self {
            birth,
            created: now.moment,
            taken_up: None,
            ends: None,
            cancelled: None,
        };
        action.lay_down(behaviour, now.moment, switches);
        action
    }

    pub(super) fn id(&self) -> Uuid {
        self.birth.id
    }

    pub(super) fn r#type(&self) -> ActionType {
        self.birth.r#type
    }

    pub(super) fn is_of(&self, machine: &Machine) -> bool {
        self.birth.machine_id == machine.id()
    }

    pub(super) fn created(&self) -> Moment {
        self.created
    }

    /// The way from here on, if the device treats it so.
    pub(super) fn lay_down(
        &mut self,
        behaviour: DeviceBehaviour,
        from: Moment,
        switches: &Switches,
    ) {
        let (pending, in_progress, ending) = match behaviour {
            DeviceBehaviour::Ends(ending) => (switches.pending, switches.in_progress, ending),
            DeviceBehaviour::EndsAfter {
                pending,
                in_progress,
                ending,
            } => (pending, in_progress, ending),
            DeviceBehaviour::Offline => {
                self.taken_up = None;
                self.ends = switches
                    .time_out
                    .map(|t| (self.created + t, Ending::TimeOut));
                return;
            }
        };
        let taken_up = from + pending;
        self.taken_up = Some(taken_up);
        self.ends = Some((taken_up + in_progress, ending));
    }

    /// When and how it ended, if it has.
    pub(super) fn ended(&self, now: Moment) -> Option<(Moment, Ending)> {
        self.ends.filter(|(at, _)| *at <= now)
    }

    /// When the device has done what it was asked for, if it has.
    pub(super) fn done(&self, now: Moment) -> Option<Moment> {
        let done = match (&self.cancelled, self.ends) {
            (Some(cancelled), _) => cancelled.is_done,
            (None, Some((at, Ending::Succeeded))) => Some(at),
            (None, _) => None,
        };
        done.filter(|at| *at <= now)
    }

    /// Ends it now, if it has not ended yet.
    pub(super) fn cancel(
        &mut self,
        requestor: &str,
        comment: &str,
        now: Moment,
        switches: &Switches,
    ) {
        let begun = self.taken_up.is_some_and(|at| at <= now);
        let is_done = match (switches.late_cancel, self.ends) {
            (LateCancel::Finishes, Some((at, Ending::Succeeded))) if begun => Some(at),
            _ => None,
        };
        self.cancelled = Some(Cancellation {
            requestor: requestor.to_owned(),
            comment: comment.to_owned(),
            is_done,
        });
        self.ends = Some((now, Ending::Cancelled));
    }

    /// What it looks like at this moment.
    pub(super) fn at(&self, now: Moment) -> MachineAction {
        let mut action = self.birth.clone();
        let wall = |at: Moment| {
            let created = action.creation_date_time_utc;
            ticks(
                created
                    .saturating_add(at.since(self.created))
                    .unwrap_or(created),
            )
        };
        if let Some((at, ending)) = self.ended(now) {
            let at = wall(at);
            action.status = ending.status();
            action.last_update_date_time_utc = at;
            action.error_h_result = ending.h_result();
            if ending == Ending::Cancelled {
                // In a real cancelled action the requestor is a GUID.
                action.cancellation_requestor =
                    Some("2f6d9a40-7b1e-4c5a-9d28-61c0e3f7a8b5".to_owned());
                action.cancellation_comment = Some("Cancelled in the portal".to_owned());
                action.cancellation_date_time_utc = Some(at);
                if let Some(cancelled) = &self.cancelled {
                    action.cancellation_requestor = Some(cancelled.requestor.clone());
                    action.cancellation_comment = Some(cancelled.comment.clone());
                }
            }
        } else if let Some(at) = self.taken_up.filter(|at| *at <= now) {
            action.last_update_date_time_utc = wall(at);
            action.status = ActionStatus::InProgress;
        }
        action
    }
}

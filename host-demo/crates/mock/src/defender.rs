//! Defender itself: the machines it knows, what it is asked to do with them, and what it remembers.
//!
//! Pure: the time is an argument, and nothing happens between two calls.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use super::action::{Action, DeviceBehaviour, Ending, Now, Subject};
use super::machine::Machine;
use super::machine_action::MachineAction;
use super::machine_action::{ActionStatus, ActionType};
use super::switches::{Case, Duplicate, ListOrder, Lock, MachineName, Switches, Unneeded};
use defender_core::clock::Moment;

/// Actions beyond this many are forgotten, the oldest first.
const ACTIONS_KEPT: usize = 100_000;

/// With `Duplicate::Mixed`, how long after the previous call the running action comes back.
const MIXED_BOUNDARY: Duration = Duration::from_secs(10);

struct Device {
    machine: Machine,
    behaviour: DeviceBehaviour,
    /// For each type, the last action and the last call.
    last: HashMap<ActionType, (Uuid, Moment)>,
}

/// What comes of a request for an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Submission {
    Created(MachineAction),
    Running(MachineAction),
    AlreadyInProgress,
    /// It would not change the device, and the switch says that this is an error.
    Unneeded,
}

/// What comes of a cancelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cancelling {
    Cancelled(MachineAction),
    HasEnded(MachineAction),
    NotFound,
}

/// A request for an action.
pub(super) struct Order<'a> {
    pub(super) r#type: ActionType,
    /// As [`Service::find`] returned it.
    pub(super) machine: usize,
    pub(super) comment: &'a str,
    pub(super) requestor: &'a str,
}

pub(super) struct Service {
    switches: Switches,
    devices: Vec<Device>,
    /// From the lower-case id.
    by_id: HashMap<String, usize>,
    actions: HashMap<Uuid, Action>,
    /// The ids, the oldest first.
    order: VecDeque<Uuid>,
}

impl Service {
    pub(super) fn new(switches: Switches, machines: Vec<Machine>) -> Self {
        let by_id = machines
            .iter()
            .enumerate()
            .map(|(i, m)| (m.id().to_lowercase(), i))
            .collect();
        let devices = machines.into_iter().map(|machine| Device {
            machine,
            behaviour: DeviceBehaviour::Ends(Ending::Succeeded),
            last: HashMap::new(),
        });
        let devices = devices.collect();
        Self {
            switches,
            devices,
            by_id,
            actions: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(super) fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.devices.iter().map(|device| &device.machine)
    }

    pub(super) fn machine(&self, index: usize) -> &Machine {
        &self.devices[index].machine
    }

    /// The machine that the path of an action names.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let by_id = self
            .by_id
            .get(&name.to_lowercase())
            .copied()
            .filter(|&index| {
                self.switches.id_case == Case::Insensitive
                    || self.devices[index].machine.id() == name
            });
        match self.switches.machine_name {
            MachineName::DeviceId => by_id,
            MachineName::Any => by_id.or_else(|| self.find_by_name(name)).or_else(|| {
                let id = name.parse().ok();
                id.and_then(|id| {
                    self.devices
                        .iter()
                        .position(|d| d.machine.entra_id() == Some(id))
                })
            }),
        }
    }

    /// The machine that has this name. `GET /api/machines/{id}` is documented to take one.
    pub(super) fn find_by_name(&self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        let has_name = |m: &Machine| m.dns_name().is_some_and(|n| n.to_lowercase() == name);
        self.devices
            .iter()
            .position(|device| has_name(&device.machine))
    }

    /// From now on the device treats its actions so, those that are still `Pending` included: for
    /// them its time begins now.
    pub(super) fn set_behaviour(&mut self, index: usize, behaviour: DeviceBehaviour, now: Moment) {
        let device = &mut self.devices[index];
        device.behaviour = behaviour;
        for action in self.actions.values_mut() {
            if action.is_of(&device.machine) && action.at(now).status == ActionStatus::Pending {
                action.lay_down(behaviour, now, &self.switches);
            }
        }
    }

    pub(super) fn submit(&mut self, order: &Order<'_>, now: Now) -> Submission {
        if self.unneeded(order, now.moment) == Some(Unneeded::Reject) {
            return Submission::Unneeded;
        }
        let previous_call = self.devices[order.machine]
            .last
            .get_mut(&order.r#type)
            .map(|last| {
                let at = last.1;
                last.1 = now.moment;
                at
            });
        if let Some(running) = self.running(order, now.moment) {
            let recent = previous_call.is_some_and(|at| now.moment.since(at) < MIXED_BOUNDARY);
            // Another type's action is never an answer to this request.
            let same_type = running.r#type == order.r#type;
            match self.switches.duplicate {
                Duplicate::Create => {}
                Duplicate::Return if same_type => return Submission::Running(running),
                Duplicate::Mixed if same_type && recent => return Submission::Running(running),
                Duplicate::Return | Duplicate::Mixed | Duplicate::Reject => {
                    return Submission::AlreadyInProgress;
                }
            }
        }
        Submission::Created(self.create(order, now))
    }

    /// What an action that would not change the device gets, if this is one.
    fn unneeded(&self, order: &Order<'_>, now: Moment) -> Option<Unneeded> {
        let restricts = order.r#type == ActionType::RestrictCodeExecution;
        let is_unneeded = self.is_restricted(order.machine, now) == restricts;
        is_unneeded.then_some(match restricts {
            true => self.switches.restricted_device,
            false => self.switches.unrestricted_device,
        })
    }

    /// An action under way that bars the one asked for.
    fn running(&self, order: &Order<'_>, now: Moment) -> Option<MachineAction> {
        let barred = |r#type| self.switches.lock == Lock::PerDevice || r#type == order.r#type;
        let last = &self.devices[order.machine].last;
        let mut barring: Vec<_> = last
            .iter()
            .filter(|(r#type, _)| barred(**r#type))
            .filter_map(|(_, (id, _))| self.actions.get(id))
            .filter(|action| action.ended(now).is_none())
            .collect();
        barring.sort_by_key(|action| (action.r#type() != order.r#type, action.created()));
        barring.first().map(|action| action.at(now))
    }

    fn create(&mut self, order: &Order<'_>, now: Now) -> MachineAction {
        let mut behaviour = self.devices[order.machine].behaviour;
        if self.unneeded(order, now.moment) == Some(Unneeded::Fail)
            && behaviour != DeviceBehaviour::Offline
        {
            behaviour = DeviceBehaviour::Ends(Ending::Failed);
        }
        let machine = &self.devices[order.machine].machine;
        let subject = Subject {
            r#type: order.r#type,
            machine_id: machine.id(),
            computer_dns_name: machine.dns_name(),
            comment: order.comment,
            requestor: order.requestor,
        };
        let action = Action::new(&subject, behaviour, now, &self.switches);
        let first = action.at(now.moment);
        self.devices[order.machine]
            .last
            .insert(order.r#type, (first.id, now.moment));
        self.actions.insert(action.id(), action);
        self.order.push_back(first.id);
        if self.order.len() > ACTIONS_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.actions.remove(&oldest);
        }
        first
    }

    /// What a reader finds: a new action is not visible at once.
    pub(super) fn read(&self, id: Uuid, now: Moment) -> Option<MachineAction> {
        let action = self.actions.get(&id)?;
        (now >= action.created() + self.switches.visible_after).then(|| action.at(now))
    }

    /// What a reader finds who lists: all that is visible, in the order of the switch.
    pub(super) fn list(&self, now: Moment) -> Vec<MachineAction> {
        let mut list: Vec<_> = self
            .order
            .iter()
            .filter_map(|id| self.read(*id, now))
            .collect();
        if self.switches.list_order == ListOrder::NewestFirst {
            list.reverse();
        }
        list
    }

    /// The machines with this name, in their order.
    pub(super) fn all_by_name(&self, name: &str) -> Vec<&Machine> {
        let has_name = |m: &&Machine| {
            m.dns_name().is_some_and(|n| match self.switches.name_case {
                Case::Insensitive => n.to_lowercase() == name.to_lowercase(),
                Case::Sensitive => n == name,
            })
        };
        self.machines().filter(has_name).collect()
    }

    pub(super) fn cancel(
        &mut self,
        id: Uuid,
        requestor: &str,
        comment: &str,
        now: Moment,
    ) -> Cancelling {
        if self.read(id, now).is_none() {
            return Cancelling::NotFound;
        }
        let Some(action) = self.actions.get_mut(&id) else {
            return Cancelling::NotFound;
        };
        if action.ended(now).is_some() {
            return Cancelling::HasEnded(action.at(now));
        }
        action.cancel(requestor, comment, now, &self.switches);
        Cancelling::Cancelled(action.at(now))
    }

    /// The action in the service's own book, visible or not.
    pub(super) fn action(&self, id: Uuid, now: Moment) -> Option<MachineAction> {
        self.actions.get(&id).map(|action| action.at(now))
    }

    /// All actions, the oldest first.
    pub(super) fn actions(&self, now: Moment) -> Vec<MachineAction> {
        self.order
            .iter()
            .filter_map(|id| self.action(*id, now))
            .collect()
    }

    /// Whether the device is restricted: what succeeded last decides, not what was asked for last.
    pub(super) fn is_restricted(&self, index: usize, now: Moment) -> bool {
        let machine = &self.devices[index].machine;
        let done = self
            .order
            .iter()
            .filter_map(|id| self.actions.get(id))
            .filter(|action| action.is_of(machine))
            .filter_map(|action| Some((action.done(now)?, action.r#type())));
        let last = done.max_by_key(|(at, _)| *at);
        last.map_or(machine.is_restricted_at_first(), |(_, t)| {
            t == ActionType::RestrictCodeExecution
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::switches::LateCancel;

    use ActionType::{RestrictCodeExecution, UnrestrictCodeExecution};

    const SECOND: u64 = 1_000_000_000;

    fn at(nanos: u64) -> Now {
        const START: Timestamp = Timestamp::constant(1_769_807_482, 841_930_399);
        let since = Duration::from_nanos(nanos);
        Now {
            moment: Moment::from_nanos(nanos),
            wall: START.checked_add(since).unwrap(),
        }
    }

    fn service(switches: Switches) -> Service {
        Service::new(switches, vec![Machine::new("AA11", "johns-work-computer")])
    }

    fn submit(service: &mut Service, r#type: ActionType, nanos: u64) -> Submission {
        let order = Order {
            r#type,
            machine: 0,
            comment: "clean",
            requestor: "app",
        };
        service.submit(&order, at(nanos))
    }

    fn created(submission: Submission) -> MachineAction {
        match submission {
            Submission::Created(action) => action,
            other => panic!("no action was created: {other:?}"),
        }
    }

    #[test]
    fn an_action_is_pending_then_in_progress_then_succeeded_at_exact_moments() {
        let mut service = service(Switches::default());
        let action = created(submit(&mut service, UnrestrictCodeExecution, 0));
        for (nanos, status, updated) in [
            (0, ActionStatus::Pending, "2026-01-30T21:11:22.8419314Z"),
            (
                20 * SECOND - 1,
                ActionStatus::Pending,
                "2026-01-30T21:11:22.8419314Z",
            ),
            (
                20 * SECOND,
                ActionStatus::InProgress,
                "2026-01-30T21:11:42.8419303Z",
            ),
            (
                40 * SECOND - 1,
                ActionStatus::InProgress,
                "2026-01-30T21:11:42.8419303Z",
            ),
            (
                40 * SECOND,
                ActionStatus::Succeeded,
                "2026-01-30T21:12:02.8419303Z",
            ),
            (
                9000 * SECOND,
                ActionStatus::Succeeded,
                "2026-01-30T21:12:02.8419303Z",
            ),
        ] {
            let then = service
                .action(action.id, Moment::from_nanos(nanos))
                .unwrap();
            assert_eq!(then.status, status, "after {nanos} ns");
            assert_eq!(
                then.last_update_date_time_utc.to_string(),
                updated,
                "after {nanos} ns"
            );
            assert_eq!(
                then.creation_date_time_utc.to_string(),
                "2026-01-30T21:11:22.8419303Z"
            );
        }
    }

    #[test]
    fn a_device_can_end_its_actions_otherwise() {
        for (ending, status, h_result) in [
            (Ending::Succeeded, ActionStatus::Succeeded, 0),
            (Ending::Failed, ActionStatus::Failed, -2_147_467_259),
            (Ending::TimeOut, ActionStatus::TimeOut, -2_145_844_840),
            (Ending::Cancelled, ActionStatus::Cancelled, -2_147_467_260),
        ] {
            let mut service = service(Switches::default());
            service.set_behaviour(0, DeviceBehaviour::Ends(ending), Moment::ORIGIN);
            let action = created(submit(&mut service, UnrestrictCodeExecution, 0));
            let end = service
                .action(action.id, Moment::from_nanos(40 * SECOND))
                .unwrap();
            assert_eq!((end.status, end.error_h_result), (status, h_result));
            let cancelled = ending == Ending::Cancelled;
            assert_eq!(end.cancellation_requestor.is_some(), cancelled, "{end:?}");
            assert_eq!(
                end.cancellation_date_time_utc.is_some(),
                cancelled,
                "{end:?}"
            );
            assert_eq!(
                service.is_restricted(0, at(40 * SECOND).moment),
                ending != Ending::Succeeded
            );
        }
    }

    #[test]
    fn an_offline_device_leaves_its_action_pending_until_it_comes_back() {
        let mut service = service(Switches::default());
        service.set_behaviour(0, DeviceBehaviour::Offline, Moment::ORIGIN);
        let id = created(submit(&mut service, UnrestrictCodeExecution, 0)).id;
        let status = |service: &Service, nanos| {
            service
                .action(id, Moment::from_nanos(nanos))
                .unwrap()
                .status
        };
        let time_out = 72 * 3600 * SECOND;
        assert_eq!(status(&service, time_out - 1), ActionStatus::Pending);
        assert_eq!(status(&service, time_out), ActionStatus::TimeOut);

        let back = DeviceBehaviour::EndsAfter {
            pending: Duration::from_secs(1),
            in_progress: Duration::ZERO,
            ending: Ending::Succeeded,
        };
        service.set_behaviour(0, back, Moment::from_nanos(100 * SECOND));
        assert_eq!(status(&service, 101 * SECOND - 1), ActionStatus::Pending);
        assert_eq!(status(&service, 101 * SECOND), ActionStatus::Succeeded);
    }

    #[test]
    fn a_second_request_is_answered_as_the_switch_says_until_the_first_has_ended() {
        for duplicate in [Duplicate::Reject, Duplicate::Return, Duplicate::Create] {
            let mut service = service(Switches {
                duplicate,
                ..Switches::default()
            });
            let first = created(submit(&mut service, UnrestrictCodeExecution, 0));
            let second = submit(&mut service, UnrestrictCodeExecution, 40 * SECOND - 1);
            match duplicate {
                Duplicate::Reject => assert_eq!(second, Submission::AlreadyInProgress),
                Duplicate::Create => assert_ne!(created(second).id, first.id),
                _ => match second {
                    Submission::Running(action) => {
                        assert_eq!(
                            (action.id, action.status),
                            (first.id, ActionStatus::InProgress)
                        );
                    }
                    other => panic!("{other:?}"),
                },
            }
            if duplicate != Duplicate::Create {
                let third = created(submit(&mut service, UnrestrictCodeExecution, 40 * SECOND));
                assert_ne!(third.id, first.id);
            }
        }
    }

    /// MicrosoftDocs/microsoft-365-docs#5906
    #[test]
    fn a_mixed_service_decides_by_the_time_since_the_previous_call() {
        let mut service = service(Switches {
            duplicate: Duplicate::Mixed,
            ..Switches::default()
        });
        created(submit(&mut service, UnrestrictCodeExecution, 0));
        let again = submit(&mut service, UnrestrictCodeExecution, 10 * SECOND - 1);
        assert!(matches!(again, Submission::Running(_)), "{again:?}");
        let soon = submit(&mut service, UnrestrictCodeExecution, 20 * SECOND - 2);
        assert!(matches!(soon, Submission::Running(_)), "{soon:?}");
        let late = submit(&mut service, UnrestrictCodeExecution, 30 * SECOND - 2);
        assert_eq!(late, Submission::AlreadyInProgress);
    }

    #[test]
    fn a_pending_restriction_bars_a_release_only_if_the_lock_is_per_device() {
        for (lock, barred) in [(Lock::PerType, false), (Lock::PerDevice, true)] {
            let switches = Switches {
                lock,
                duplicate: Duplicate::Return,
                ..Switches::default()
            };
            let mut service = service(switches);
            created(submit(&mut service, RestrictCodeExecution, 0));
            let release = submit(&mut service, UnrestrictCodeExecution, SECOND);
            assert_eq!(
                release == Submission::AlreadyInProgress,
                barred,
                "{lock:?}: {release:?}"
            );
        }
    }

    /// MicrosoftDocs/microsoft-365-docs#5903
    #[test]
    fn what_ends_last_decides_not_what_was_asked_for_last() {
        let mut service = service(Switches::default());
        let slow = DeviceBehaviour::EndsAfter {
            pending: Duration::from_secs(90),
            in_progress: Duration::ZERO,
            ending: Ending::Succeeded,
        };
        service.set_behaviour(0, slow, Moment::ORIGIN);
        created(submit(&mut service, RestrictCodeExecution, 0));
        service.devices[0].behaviour = DeviceBehaviour::Ends(Ending::Succeeded);
        created(submit(&mut service, UnrestrictCodeExecution, SECOND));
        assert!(!service.is_restricted(0, Moment::from_nanos(41 * SECOND)));
        assert!(service.is_restricted(0, Moment::from_nanos(90 * SECOND)));
    }

    #[test]
    fn a_new_action_is_not_visible_at_once() {
        let mut service = service(Switches::default());
        let id = created(submit(&mut service, UnrestrictCodeExecution, 0)).id;
        assert_eq!(service.read(id, Moment::from_nanos(5 * SECOND - 1)), None);
        assert!(service.read(id, Moment::from_nanos(5 * SECOND)).is_some());
        assert_eq!(
            service.read(Uuid::nil(), Moment::from_nanos(5 * SECOND)),
            None
        );
    }

    #[test]
    fn the_release_of_an_unrestricted_device_goes_as_the_switch_says() {
        for unrestricted_device in [Unneeded::Accept, Unneeded::Fail, Unneeded::Reject] {
            let switches = Switches {
                unrestricted_device,
                ..Switches::default()
            };
            let machine = Machine::new("aa11", "laptop").unrestricted();
            let mut service = Service::new(switches, vec![machine]);
            let release = submit(&mut service, UnrestrictCodeExecution, 0);
            if unrestricted_device == Unneeded::Reject {
                assert_eq!(release, Submission::Unneeded);
                continue;
            }
            let end = service.action(created(release).id, Moment::from_nanos(40 * SECOND));
            let failed = end.unwrap().status == ActionStatus::Failed;
            assert_eq!(failed, unrestricted_device == Unneeded::Fail);
        }
    }

    #[test]
    fn the_restriction_of_a_restricted_device_goes_as_the_switch_says() {
        for restricted_device in [Unneeded::Accept, Unneeded::Fail, Unneeded::Reject] {
            let mut service = service(Switches {
                restricted_device,
                ..Switches::default()
            });
            let restriction = submit(&mut service, RestrictCodeExecution, 0);
            if restricted_device == Unneeded::Reject {
                assert_eq!(restriction, Submission::Unneeded);
                continue;
            }
            let end = service.action(created(restriction).id, Moment::from_nanos(40 * SECOND));
            let failed = end.unwrap().status == ActionStatus::Failed;
            assert_eq!(failed, restricted_device == Unneeded::Fail);
        }
    }

    #[test]
    fn a_cancelled_action_ends_at_once_and_a_device_that_has_begun_does_as_the_switch_says() {
        for (late_cancel, after, is_free) in [
            (LateCancel::Stops, 10, false),
            (LateCancel::Stops, 30, false),
            (LateCancel::Finishes, 10, false),
            (LateCancel::Finishes, 30, true),
        ] {
            let mut service = service(Switches {
                late_cancel,
                ..Switches::default()
            });
            let id = created(submit(&mut service, UnrestrictCodeExecution, 0)).id;
            let then = Moment::from_nanos(after * SECOND);
            let Cancelling::Cancelled(action) = service.cancel(id, "app", "not now", then) else {
                panic!("it is under way")
            };
            assert_eq!(action.status, ActionStatus::Cancelled);
            assert_eq!(action.cancellation_requestor.as_deref(), Some("app"));
            assert_eq!(action.cancellation_comment.as_deref(), Some("not now"));
            let again = service.cancel(id, "app", "not now", then);
            assert!(matches!(again, Cancelling::HasEnded(_)), "{again:?}");
            let later = Moment::from_nanos(60 * SECOND);
            assert_eq!(service.is_restricted(0, later), !is_free);
            assert_eq!(service.action(id, later), Some(action));
        }
        let mut service = service(Switches::default());
        let nothing = service.cancel(Uuid::nil(), "app", "x", Moment::ORIGIN);
        assert_eq!(nothing, Cancelling::NotFound);
    }

    #[test]
    fn machines_are_found_by_id_and_by_other_names_where_the_switches_say_so() {
        let entra = Uuid::from_u128(7);
        let find = |switches: Switches, name: &str| {
            let machine = Machine::new("AA11", "Laptop").with_entra_id(entra);
            Service::new(switches, vec![machine]).find(name)
        };
        let exact = || Switches {
            id_case: Case::Sensitive,
            ..Switches::default()
        };
        let any = || Switches {
            machine_name: MachineName::Any,
            ..Switches::default()
        };
        assert_eq!(find(Switches::default(), "aa11"), Some(0));
        assert_eq!(find(exact(), "aa11"), None);
        assert_eq!(find(exact(), "AA11"), Some(0));
        assert_eq!(find(Switches::default(), "laptop"), None);
        assert_eq!(find(any(), "laptop"), Some(0));
        assert_eq!(find(any(), &entra.to_string()), Some(0));
        assert_eq!(find(any(), "AA12"), None);
    }
}

//! What machine actions say of devices: who is restricted, since when, and what is under way.
//!
//! The service has no property for it (MicrosoftDocs/microsoft-365-docs#8033), so it is read off
//! the actions: the restriction or release that succeeded last decides. Pure: actions in, devices
//! out. What an action says is the service's word, and no more than that.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use jiff::Timestamp;

use crate::action_kind::ActionKind;
use defender_core::id::MachineId;
use defender_host::bindings::{ActionStatus, MachineAction};

/// When something was, as the service says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Then.
    At(Timestamp),
    /// It is not known: the text is not a time.
    Unread(String),
}

impl When {
    /// Reads a time of the service.
    pub fn read(text: &str) -> Self {
        match text.parse() {
            Ok(time) => Self::At(time),
            Err(_) => Self::Unread(text.to_owned()),
        }
    }

    /// The time, if it is one.
    pub const fn at(&self) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(*time),
            Self::Unread(_) => None,
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => time.fmt(f),
            Self::Unread(text) => f.write_str(text),
        }
    }
}

/// How far an action has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has not ended, or in a way that is not known here.
    UnderWay,
    /// The device has done it.
    Succeeded,
    /// It failed, ran out of time, or was cancelled.
    EndedBadly,
}

/// A restriction or a release.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The action's id.
    pub id: String,
    /// What it does.
    pub kind: ActionKind,
    /// How far it has come, in the service's words.
    pub status: ActionStatus,
    /// Who asked for it.
    pub requestor: Option<String>,
    /// Why.
    pub comment: Option<String>,
    /// When it was asked for.
    pub created: Option<When>,
    /// When its status last changed. Once it has succeeded: when it did.
    pub updated: Option<When>,
    /// The device's name then.
    pub computer_dns_name: Option<String>,
}

/// What is compared to find the newest. Where a time is not known it is the oldest.
type Age = (Option<Timestamp>, Option<Timestamp>);

impl Step {
    /// What an action is, if it is a restriction or a release.
    pub fn of(action: &MachineAction) -> Option<Self> {
        let when = |text: &Option<String>| text.as_deref().map(When::read);
        Some(Self {
            id: action.id.clone(),
            kind: ActionKind::of(&action.type_)?,
            status: action.status.clone(),
            requestor: action.requestor.clone(),
            comment: action.requestor_comment.clone(),
            created: when(&action.creation_date_time_utc),
            updated: when(&action.last_update_date_time_utc),
            computer_dns_name: action.computer_dns_name.clone(),
        })
    }

    /// How far it has come.
    pub const fn progress(&self) -> Progress {
        match self.status {
            ActionStatus::Succeeded => Progress::Succeeded,
            ActionStatus::Failed | ActionStatus::TimeOut | ActionStatus::Cancelled => {
                Progress::EndedBadly
            }
            ActionStatus::Pending | ActionStatus::InProgress | ActionStatus::Other(_) => {
                Progress::UnderWay
            }
        }
    }

    /// When it was asked for, where that is known.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.created.as_ref().and_then(When::at)
    }

    /// When its status last changed; where that is not known, when it was asked for.
    pub fn at(&self) -> Option<Timestamp> {
        let updated = self.updated.as_ref().and_then(When::at);
        updated.or_else(|| self.created_at())
    }

    /// Actions can end in another order than they were asked for
    /// (MicrosoftDocs/microsoft-365-docs#5903), so the end comes first.
    fn age(&self) -> Age {
        (self.at(), self.created_at())
    }
}

/// Whether a device is restricted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A restriction succeeded last.
    Restricted,
    /// A release succeeded last.
    Released,
    /// None of either has succeeded, or which one was last can't be told.
    Unknown,
}

impl Standing {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::Released => "released",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Its name, by the newest action that has one.
    pub computer_dns_name: Option<String>,
    /// The restriction that succeeded last.
    pub last_restriction: Option<Step>,
    /// The release that succeeded last.
    pub last_release: Option<Step>,
    /// What ended badly since either succeeded, the newest of it. One that was cancelled late may
    /// have been done all the same.
    pub last_failure: Option<Step>,
    /// What is under way, the newest first.
    pub pending: Vec<Step>,
}

impl Device {
    /// The step that decides where the device stands.
    pub fn decisive(&self) -> Option<&Step> {
        match (&self.last_restriction, &self.last_release) {
            (Some(restriction), Some(release)) => {
                let (a, b) = (restriction.age(), release.age());
                // Where neither time of one is known, it can have been at any.
                if a == b || a.0.is_none() || b.0.is_none() {
                    None
                } else if a > b {
                    Some(restriction)
                } else {
                    Some(release)
                }
            }
            (one, other) => one.as_ref().or(other.as_ref()),
        }
    }

    /// Whether the device is restricted.
    pub fn standing(&self) -> Standing {
        match self.decisive().map(|step| step.kind) {
            Some(ActionKind::Restrict) => Standing::Restricted,
            Some(ActionKind::Release) => Standing::Released,
            None => Standing::Unknown,
        }
    }

    /// The newest of a kind that is under way.
    pub fn running(&self, kind: ActionKind) -> Option<&Step> {
        self.pending.iter().find(|step| step.kind == kind)
    }

    /// The last of a kind that succeeded.
    pub const fn last(&self, kind: ActionKind) -> Option<&Step> {
        match kind {
            ActionKind::Restrict => self.last_restriction.as_ref(),
            ActionKind::Release => self.last_release.as_ref(),
        }
    }

    fn add(&mut self, step: Step) {
        let slot = match (step.progress(), step.kind) {
            (Progress::UnderWay, _) => return self.pending.push(step),
            (Progress::EndedBadly, _) => &mut self.last_failure,
            (Progress::Succeeded, ActionKind::Restrict) => &mut self.last_restriction,
            (Progress::Succeeded, ActionKind::Release) => &mut self.last_release,
        };
        // By their ids in the end, so that their order in a list changes nothing.
        let is_newer = slot
            .as_ref()
            .is_none_or(|last| (last.age(), &last.id) < (step.age(), &step.id));
        if is_newer {
            *slot = Some(step);
        }
    }

    fn settle(&mut self) {
        newest_first(&mut self.pending);
        let succeeded = [&self.last_restriction, &self.last_release];
        let succeeded = succeeded.into_iter().flatten().map(Step::age).max();
        self.last_failure
            .take_if(|failure| succeeded.is_some_and(|succeeded| failure.age() < succeeded));
    }
}

/// Puts those that were asked for last first.
pub fn newest_first(steps: &mut [Step]) {
    steps.sort_by(|a, b| {
        let key = |step: &Step| (step.created_at(), step.at());
        key(b).cmp(&key(a)).then_with(|| a.id.cmp(&b.id))
    });
}

/// What actions say of the devices that they name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    devices: BTreeMap<MachineId, Device>,
}

impl History {
    /// Reads it off actions, in any order. What is neither a restriction nor a release, or names no
    /// device, says nothing. An action that is there more than once counts as it stands there last,
    /// because two pages of a list can overlap.
    pub fn of<'a>(actions: impl IntoIterator<Item = &'a MachineAction>) -> Self {
        let mut latest = HashMap::new();
        for action in actions {
            let machine = action.machine_id.as_deref().and_then(|id| id.parse().ok());
            let machine: Option<MachineId> =
                machine.filter(|_| ActionKind::of(&action.type_).is_some());
            if let Some(machine) = machine {
                latest.insert(action.id.to_ascii_lowercase(), (machine, action));
            }
        }
        let mut history = Self::default();
        let mut named: HashMap<MachineId, (Option<Timestamp>, String)> = HashMap::new();
        for (machine, action) in latest.into_values() {
            let Some(step) = Step::of(action) else {
                continue;
            };
            if let Some(name) = &step.computer_dns_name {
                let name = (step.created_at(), name.clone());
                let newest = named.entry(machine.clone()).or_default();
                *newest = name.max(std::mem::take(newest));
            }
            history.devices.entry(machine).or_default().add(step);
        }
        for (machine, device) in &mut history.devices {
            device.computer_dns_name = named.remove(machine).map(|(_, name)| name);
            device.settle();
        }
        history
    }

    /// What is known of a device. `None`: no restriction and no release of it is among the actions.
    pub fn of_machine(&self, machine: &MachineId) -> Option<&Device> {
        self.devices.get(machine)
    }

    /// All that something is known of, by their ids.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = (&MachineId, &Device)> {
        self.devices.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use defender_host::bindings::ActionType;

    const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

    fn action(id: &str, kind: ActionKind, status: ActionStatus, created: &str) -> MachineAction {
        MachineAction {
            requestor: Some("Ann".to_owned()),
            requestor_comment: Some("INC-42".to_owned()),
            machine_id: Some(MACHINE.to_owned()),
            computer_dns_name: Some("pc-7.contoso.com".to_owned()),
            creation_date_time_utc: Some(created.to_owned()),
            last_update_date_time_utc: Some(created.to_owned()),
            ..MachineAction::blank(id, kind.action_type(), status)
        }
    }

    fn done(id: &str, kind: ActionKind, created: &str, updated: &str) -> MachineAction {
        MachineAction {
            last_update_date_time_utc: Some(updated.to_owned()),
            ..action(id, kind, ActionStatus::Succeeded, created)
        }
    }

    fn device(actions: &[MachineAction]) -> Device {
        let machine = MACHINE.parse().unwrap();
        let forwards = History::of(actions);
        let backwards = History::of(actions.iter().rev());
        assert_eq!(forwards, backwards, "the order changes something");
        forwards.of_machine(&machine).unwrap().clone()
    }

    use ActionKind::{Release, Restrict};
    use ActionStatus::{Cancelled, Failed, InProgress, Pending, Succeeded, TimeOut};

    /// MicrosoftDocs/microsoft-365-docs#5903: released before the restriction was done with.
    #[test]
    fn what_was_done_last_decides_and_not_what_was_asked_for_last() {
        let device = device(&[
            done(
                "r",
                Restrict,
                "2026-01-30T10:00:00Z",
                "2026-01-30T12:00:00Z",
            ),
            done(
                "u",
                Release,
                "2026-01-30T11:00:00Z",
                "2026-01-30T11:30:00.5Z",
            ),
        ]);
        assert_eq!(device.standing(), Standing::Restricted);
        assert_eq!(device.decisive(), device.last_restriction.as_ref());
    }

    #[test]
    fn of_two_that_were_done_at_once_the_one_that_was_asked_for_last_decides() {
        let same = "2026-01-30T12:00:00Z";
        let earlier = "2026-01-30T11:00:00Z";
        let restriction = done("r", Restrict, earlier, same);
        let standing = |release| device(&[restriction.clone(), release]).standing();
        assert_eq!(standing(done("u", Release, same, same)), Standing::Released);
        assert_eq!(
            standing(done("u", Release, "2026-01-30T10:00:00Z", same)),
            Standing::Restricted
        );
        assert_eq!(
            standing(done("u", Release, earlier, same)),
            Standing::Unknown
        );
    }

    #[test]
    fn where_a_time_can_not_be_read_nothing_is_guessed() {
        let restriction = done("r", Restrict, "2026-01-30T10:00:00Z", "soon");
        let timeless = MachineAction {
            creation_date_time_utc: None,
            ..done("u", Release, "", "31/01/2026")
        };
        let one = device(std::slice::from_ref(&timeless));
        assert_eq!(one.standing(), Standing::Released, "there is no other");
        let updated = one.last_release.unwrap().updated.unwrap();
        assert_eq!(updated, When::Unread("31/01/2026".to_owned()));
        let both = device(&[restriction.clone(), timeless]);
        assert_eq!(both.standing(), Standing::Unknown);
        // Its creation stands for the end that can't be read.
        let release = done("u", Release, "2026-01-30T09:00:00Z", "2026-01-30T09:59:59Z");
        assert_eq!(
            device(&[restriction, release]).standing(),
            Standing::Restricted
        );
    }

    #[test]
    fn what_has_not_succeeded_decides_nothing_and_is_told_apart() {
        let at = |hour: u8| format!("2026-01-30T{hour:02}:00:00Z");
        let other = ActionStatus::Other("Queued".to_owned());
        let device = device(&[
            action("1", Release, Failed, &at(1)),
            action("2", Restrict, Succeeded, &at(2)),
            action("3", Release, TimeOut, &at(3)),
            action("4", Release, Cancelled, &at(4)),
            action("5", Release, Pending, &at(5)),
            action("6", Restrict, InProgress, &at(6)),
            action("7", Release, other, &at(7)),
        ]);
        assert_eq!(device.standing(), Standing::Restricted);
        assert_eq!(device.last_release, None);
        assert_eq!(device.last_failure.as_ref().unwrap().id, "4");
        let pending: Vec<_> = device.pending.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(pending, ["7", "6", "5"]);
        assert_eq!(device.running(Release).unwrap().id, "7");
        assert_eq!(device.running(Restrict).unwrap().id, "6");
    }

    #[test]
    fn a_failure_before_the_last_success_is_told_no_more() {
        let device = device(&[
            action("1", Release, Failed, "2026-01-30T01:00:00Z"),
            action("2", Release, Succeeded, "2026-01-30T02:00:00Z"),
        ]);
        assert_eq!(device.last_failure, None);
        assert_eq!(device.standing(), Standing::Released);
    }

    #[test]
    fn what_is_read_twice_counts_once_and_as_it_was_read_later() {
        let early = action("a1", Release, InProgress, "2026-01-30T01:00:00Z");
        let late = MachineAction {
            id: "A1".to_owned(),
            status: Succeeded,
            machine_id: Some(MACHINE.to_uppercase()),
            ..early.clone()
        };
        let history = History::of([&early, &late]);
        let (_, device) = history.devices().next().unwrap();
        assert_eq!(
            (device.pending.len(), device.standing()),
            (0, Standing::Released)
        );
        let history = History::of([&late, &early]);
        let (_, device) = history.devices().next().unwrap();
        assert_eq!(
            (device.pending.len(), device.standing()),
            (1, Standing::Unknown)
        );
    }

    #[test]
    fn what_names_no_device_or_does_something_else_says_nothing() {
        let mut nobody = done("1", Restrict, "2026-01-30T01:00:00Z", "");
        nobody.machine_id = None;
        let mut odd = nobody.clone();
        odd.machine_id = Some("pc-7.contoso.com".to_owned());
        let mut isolation = done("2", Restrict, "2026-01-30T01:00:00Z", "");
        isolation.type_ = ActionType::Isolate;
        let history = History::of(&[nobody, odd, isolation]);
        assert_eq!(history.devices().len(), 0);
    }

    #[test]
    fn a_device_has_the_newest_name_that_is_known() {
        let named = |id: &str, name: Option<&str>, created: &str| MachineAction {
            computer_dns_name: name.map(str::to_owned),
            ..action(id, Release, Failed, created)
        };
        let device = device(&[
            named("1", Some("old"), "2026-01-30T01:00:00Z"),
            named("2", Some("new"), "2026-01-30T02:00:00Z"),
            named("3", None, "2026-01-30T03:00:00Z"),
        ]);
        assert_eq!(device.computer_dns_name.as_deref(), Some("new"));
    }

    #[test]
    fn twenty_thousand_actions_are_no_trouble() {
        let actions: Vec<_> = (0..20_000)
            .map(|n| MachineAction {
                machine_id: Some(format!("{:040x}", n % 7000)),
                ..action(&n.to_string(), Restrict, Succeeded, "2026-01-30T01:00:00Z")
            })
            .collect();
        assert_eq!(History::of(&actions).devices().len(), 7000);
    }

    /// Few of everything, so that much of it meets.
    fn any_action() -> impl Strategy<Value = MachineAction> {
        let time = || {
            prop_oneof![
                6 => (0..6u8).prop_map(|minute| Some(format!("2026-01-30T01:{minute:02}:00.5Z"))),
                1 => Just(Some("never".to_owned())),
                1 => Just(None),
            ]
        };
        let status = prop_oneof![
            4 => Just(Succeeded),
            1 => Just(Failed),
            1 => Just(Pending),
            1 => Just(ActionStatus::Other("Queued".to_owned())),
        ];
        let machine = prop_oneof![
            8 => (0..3u8).prop_map(|n| Some(format!("{n:040x}"))),
            1 => Just(None),
        ];
        let types = prop_oneof![
            4 => Just(ActionType::RestrictCodeExecution),
            4 => Just(ActionType::UnrestrictCodeExecution),
            1 => Just(ActionType::Isolate),
        ];
        let all = (0..9u8, types, status, machine, time(), time());
        all.prop_map(
            |(id, type_, status, machine_id, created, updated)| MachineAction {
                type_,
                machine_id,
                creation_date_time_utc: created,
                last_update_date_time_utc: updated,
                ..action(&format!("{id}"), Release, status, "")
            },
        )
    }

    /// When it was done and when it was asked for, by the letter of the promise.
    fn times(action: &MachineAction) -> Age {
        let time = |text: &Option<String>| text.as_deref()?.parse::<Timestamp>().ok();
        let created = time(&action.creation_date_time_utc);
        (time(&action.last_update_date_time_utc).or(created), created)
    }

    fn expected(actions: &[&MachineAction]) -> Standing {
        let succeeded = |kind: ActionKind| {
            let of_kind = actions
                .iter()
                .filter(move |a| ActionKind::of(&a.type_) == Some(kind));
            of_kind.filter(|a| a.status == Succeeded).map(|a| times(a))
        };
        let last = |kind: ActionKind| succeeded(kind).find(|a| succeeded(kind).all(|b| b <= *a));
        match (last(Restrict), last(Release)) {
            (None, None) => Standing::Unknown,
            (Some(_), None) => Standing::Restricted,
            (None, Some(_)) => Standing::Released,
            (Some((None, _)), _) | (_, Some((None, _))) => Standing::Unknown,
            (Some(a), Some(b)) if a > b => Standing::Restricted,
            (Some(a), Some(b)) if a < b => Standing::Released,
            _ => Standing::Unknown,
        }
    }

    proptest! {
        #[test]
        fn where_a_device_stands_is_what_looking_at_all_of_it_says(
            actions in proptest::collection::vec(any_action(), 0..12),
        ) {
            // Only those count that are not read again later.
            let tells = |a: &MachineAction| a.machine_id.is_some() && ActionKind::of(&a.type_).is_some();
            let counting: Vec<_> = actions
                .iter()
                .enumerate()
                .filter(|(n, a)| tells(a) && !actions[n + 1..].iter().any(|b| tells(b) && b.id == a.id))
                .map(|(_, action)| action)
                .collect();
            let history = History::of(&actions);
            for n in 0..3 {
                let machine: MachineId = format!("{n:040x}").parse().unwrap();
                let of_it: Vec<_> = counting
                    .iter()
                    .filter(|a| a.machine_id.as_deref() == Some(machine.as_str()))
                    .copied()
                    .collect();
                let device = history.of_machine(&machine);
                prop_assert_eq!(device.is_some(), !of_it.is_empty());
                let Some(device) = device else { continue };
                prop_assert_eq!(device.standing(), expected(&of_it));
                let under_way = |a: &&&MachineAction| {
                    matches!(a.status, Pending | ActionStatus::Other(_))
                };
                prop_assert_eq!(device.pending.len(), of_it.iter().filter(under_way).count());
                let failed = of_it.iter().filter(|a| a.status == Failed).map(|a| times(a)).max();
                let succeeded = of_it.iter().filter(|a| a.status == Succeeded);
                let succeeded = succeeded.map(|a| times(a)).max();
                let told = failed.filter(|failed| succeeded.is_none_or(|last| *failed >= last));
                prop_assert_eq!(device.last_failure.as_ref().map(Step::age), told);
            }
        }
    }
}

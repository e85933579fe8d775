//! A pilot: one device is restricted and released, and the service's answers are kept.
//!
//! [`look`] refuses a device that is not free for it. [`Pilot::run`] restricts the device, releases
//! it whatever happens in between, and asks what no documentation says. Every request goes through
//! the boundary as any other does, and all but one through the component: that the service compares
//! ids without regard to case can't be asked by a component that writes them in lower case, so this
//! one list is asked for by the host itself. What was exchanged is on the [`Tape`]; [`Record`] is
//! its redacted form, and [`findings`] reads the answers off it.

mod findings;
mod record;
mod redact;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use tokio::sync::watch;

use crate::action_kind::ActionKind;
use crate::device_history::{History, Progress, Standing};
use crate::list_actions::{Bounds, Survey, survey};
use defender_core::id::MachineId;
use defender_core::query::ActionQuery;
use defender_host::bindings::{ActionStatus, MachineAction, MachineActionFilter, Reason};
use defender_host::boundary::grant::{Grant, Operation, Target};
use defender_host::boundary::waiting::OnWait;
use defender_host::boundary::{Tape, stopped};
use defender_host::{CallError, Host, WaitOptions};

pub use findings::{Finding, findings};
pub use record::{FORMAT, Record, Recorded, Request, Response};

/// What the comment of every action of a pilot begins with.
const COMMENT: &str = "host-demo pilot: a test device is restricted and released";

/// An action that does not exist.
const NO_ACTION: &str = "00000000-0000-0000-0000-000000000000";

/// From one look at an action that does not show yet to the next. A minute of them stays below the
/// quota of 100 calls.
const SHOWS_EVERY: Duration = Duration::from_secs(1);

/// So many looks, until it is given up. Clients allow for five seconds.
const SHOWS_LOOKS: u32 = 40;

/// From one look at an action that has not ended to the next.
const ENDS_EVERY: Duration = Duration::from_secs(5);

/// How long a device has for an action, if it is online.
const ENDS_WITHIN: Duration = Duration::from_secs(600);

/// The same after an interrupt, when a person waits.
const ENDS_WITHIN_INTERRUPTED: Duration = Duration::from_secs(60);

/// How often a release is sent until the service has accepted it. One that may have arrived is sent
/// again too: a second release does no harm.
const RELEASES: u32 = 5;

/// From one of these to the next.
const RELEASE_EVERY: Duration = Duration::from_secs(5);

/// How long a new action may not show in a list. Before that, a list does not say that there is
/// none.
const UNSEEN: Duration = Duration::from_secs(60);

/// What a pilot does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Restricts the device.
    Restrict,
    /// Looks until the restriction shows.
    RestrictShows,
    /// Looks until the restriction has ended.
    RestrictEnds,
    /// Releases the device.
    Release,
    /// Releases it once more, while the first release is under way.
    Duplicate,
    /// Looks until the release shows.
    ReleaseShows,
    /// Lists by one id.
    FilterById,
    /// Lists by several ids.
    FilterByIds,
    /// Lists by the device's id in capital letters.
    IdCase,
    /// Looks the device up by its name.
    Name,
    /// Looks the device up by its name in capital letters.
    NameCase,
    /// Reads an action that does not exist.
    MissingAction,
    /// Looks until the release has ended.
    ReleaseEnds,
}

impl Step {
    /// The step's name, in a record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restrict => "restrict",
            Self::RestrictShows => "restrict-shows",
            Self::RestrictEnds => "restrict-ends",
            Self::Release => "release",
            Self::Duplicate => "duplicate",
            Self::ReleaseShows => "release-shows",
            Self::FilterById => "filter-by-id",
            Self::FilterByIds => "filter-by-ids",
            Self::IdCase => "id-case",
            Self::Name => "name",
            Self::NameCase => "name-case",
            Self::MissingAction => "missing-action",
            Self::ReleaseEnds => "release-ends",
        }
    }

    /// What is being done, for people.
    pub const fn doing(self) -> &'static str {
        match self {
            Self::Restrict => "restricting the device",
            Self::RestrictShows => "waiting until the restriction is visible",
            Self::RestrictEnds => "waiting until the device is restricted",
            Self::Release => "releasing the device",
            Self::Duplicate => "releasing it once more",
            Self::ReleaseShows => "waiting until the release is visible",
            Self::FilterById => "listing actions by id",
            Self::FilterByIds => "listing actions by two ids",
            Self::IdCase => "listing actions by the device's id in capital letters",
            Self::Name => "finding the device by its name",
            Self::NameCase => "finding the device by its name in capital letters",
            Self::MissingAction => "reading an action that does not exist",
            Self::ReleaseEnds => "waiting until the device is released",
        }
    }
}

/// Why a device is not used for a pilot. Nothing was sent but reads.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotFree {
    /// It is restricted.
    #[error("the device is restricted, by action {action} of {requestor}")]
    Restricted {
        /// The restriction.
        action: String,
        /// Who asked for it.
        requestor: String,
    },
    /// It has an action that has not ended.
    #[error("the device has an action that has not ended: {type_} {action}, {status}")]
    Pending {
        /// What the action does.
        type_: String,
        /// The action.
        action: String,
        /// How far it has come.
        status: String,
    },
    /// It can't be told whether it is restricted.
    #[error("the device's actions do not say whether it is restricted")]
    NameError,
    /// Its actions can't be read.
    #[error("the device's actions can't be read: {0}")]
    Unread(CallError),
}

/// A device that is free for a pilot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Free {
    /// The device.
    pub id: MachineId,
    /// Its name, if it is known.
    pub name: Option<String>,
    /// The ids of the actions that the service knows of it.
    pub actions: HashSet<String>,
}

/// Finds out whether a device is free for a pilot: it is not restricted, and nothing is under way
/// for it.
pub async fn look(
    host: &Host,
    id: &MachineId,
    name: Option<String>,
    patience: WaitOptions,
) -> Result<Free, NotFree> {
    let read = of_device(host, id, patience)
        .await
        .map_err(NotFree::Unread)?;
    let is_under_way = |action: &&MachineAction| progress(&action.status) == Progress::UnderWay;
    if let Some(action) = read.actions.iter().find(is_under_way) {
        return Err(NotFree::Pending {
            type_: action.type_.as_str().to_owned(),
            action: action.id.clone(),
            status: action.status.as_str().to_owned(),
        });
    }
    let history = History::of(&read.actions);
    let device = history.of_machine(id);
    match device.map(|device| (device.standing(), device.decisive())) {
        Some((Standing::Restricted, step)) => {
            return Err(NotFree::Restricted {
                action: step.map_or_else(String::new, |step| step.id.clone()),
                requestor: step
                    .and_then(|step| step.requestor.clone())
                    .unwrap_or_else(|| "an unknown requestor".to_owned()),
            });
        }
        Some((Standing::Unknown, _)) if device.is_some_and(|d| d.last_restriction.is_some()) => {
            return Err(NotFree::NameError);
        }
        _ if read.is_cut => return Err(NotFree::NameError),
        _ => {}
    }
    let named = device.and_then(|device| device.computer_dns_name.clone());
    Ok(Free {
        id: id.clone(),
        name: name.or(named),
        actions: read.actions.into_iter().map(|action| action.id).collect(),
    })
}

async fn of_device(
    host: &Host,
    id: &MachineId,
    patience: WaitOptions,
) -> Result<Survey, CallError> {
    survey(host, &filter_of(id), Bounds::default(), patience).await
}

fn filter_of(id: &MachineId) -> MachineActionFilter {
    MachineActionFilter {
        machine_id: Some(id.to_string()),
        ..MachineActionFilter::everything()
    }
}

fn filter_by(ids: &[&str]) -> MachineActionFilter {
    MachineActionFilter {
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..MachineActionFilter::everything()
    }
}

const fn progress(status: &ActionStatus) -> Progress {
    match status {
        ActionStatus::Succeeded => Progress::Succeeded,
        ActionStatus::Failed | ActionStatus::TimeOut | ActionStatus::Cancelled => {
            Progress::EndedBadly
        }
        ActionStatus::Pending | ActionStatus::InProgress | ActionStatus::Other(_) => {
            Progress::UnderWay
        }
    }
}

/// How the device is left.
#[derive(Clone, Debug, PartialEq)]
pub enum Left {
    /// It was not restricted. Why not.
    Untouched(CallError),
    /// Another user restricted it meanwhile, by this action. It is left alone.
    RestrictedByAnother(String),
    /// A release succeeded last, and nothing is under way.
    Released,
    /// The service accepted a release that is not seen to have succeeded.
    ReleasePending,
    /// It may be restricted, and no release is known to be under way. Why the last one failed, where
    /// an error says so.
    MayBeRestricted(Option<CallError>),
}

/// How a pilot ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// How the device is left.
    pub device: Left,
    /// How the restriction ended, if that was seen.
    pub restriction: Option<ActionStatus>,
    /// Whether it was interrupted after the device was restricted.
    pub is_interrupted: bool,
}

/// Returns the comment of a pilot's actions: by a random part a pilot recognizes its own.
pub fn comment() -> String {
    let reference = uuid::Uuid::new_v4().simple().to_string();
    format!("{COMMENT} [{}]", &reference[..12])
}

/// One pilot.
pub struct Pilot<'a> {
    /// Makes the calls. Its policy must allow restricting.
    pub host: &'a Host,
    /// What its boundary keeps the exchanges on.
    pub tape: &'a Tape,
    /// The device.
    pub device: Free,
    /// The comment of its actions: a new [`comment`].
    pub comment: String,
    /// Interrupts it once this becomes true. A device that is restricted by then is released first.
    pub stop: watch::Receiver<bool>,
    /// Receives what a call waits for.
    pub on_wait: Option<OnWait>,
    /// Receives each step.
    pub on_step: &'a (dyn Fn(Step) + Send + Sync),
}

impl Pilot<'_> {
    /// Restricts the device and releases it.
    pub async fn run(&self) -> Ended {
        let ended = self.restrict_and_release().await;
        self.tape.set_step(None);
        ended
    }

    async fn restrict_and_release(&self) -> Ended {
        self.begin(Step::Restrict);
        let patience = WaitOptions {
            stop: Some(self.stop.clone()),
            ..self.patience()
        };
        let restricting =
            self.host
                .restrict_code_execution(self.device.id.as_str(), &self.comment, patience);
        let mut name = self.device.name.clone();
        let restriction = match restricting.await {
            // What came back is an action that was under way already.
            Ok(action) if !self.is_ours(&action) => {
                return Ended {
                    device: Left::RestrictedByAnother(action.id),
                    restriction: None,
                    is_interrupted: *self.stop.borrow(),
                };
            }
            Ok(action) => {
                name = name.or(action.computer_dns_name);
                Some(action.id)
            }
            Err(error) if error.effect() == defender_host::bindings::Effect::None => {
                return Ended {
                    device: Left::Untouched(error),
                    restriction: None,
                    is_interrupted: *self.stop.borrow(),
                };
            }
            // It may be restricted, or become so.
            Err(_) => None,
        };
        let mut status = None;
        if let Some(id) = &restriction {
            let following = async {
                self.shows(Step::RestrictShows, id).await;
                self.ends(Step::RestrictEnds, id, ENDS_WITHIN).await
            };
            status = self.unless_stopped(following).await.flatten();
        }
        let device = self.undo(restriction.as_deref(), name.as_deref()).await;
        Ended {
            device,
            restriction: status,
            is_interrupted: *self.stop.borrow(),
        }
    }

    /// Releases the device, asks what is open, and waits until it is released.
    async fn undo(&self, restriction: Option<&str>, name: Option<&str>) -> Left {
        self.begin(Step::Release);
        // Where that can't be read, the device is released all the same.
        let read = of_device(self.host, &self.device.id, self.patience()).await;
        if let Some(action) = read.ok().and_then(|read| self.anothers(&read)) {
            return Left::RestrictedByAnother(action);
        }
        let mut releases = Vec::new();
        if let Err(error) = self.release(&mut releases).await {
            return Left::MayBeRestricted(Some(error));
        }
        self.unless_stopped(self.ask(restriction, name, &mut releases))
            .await;
        self.settle(releases, restriction.is_none()).await
    }

    /// Whether an action is this pilot's. One without a comment can be.
    fn is_ours(&self, action: &MachineAction) -> bool {
        let comment = action.requestor_comment.as_ref();
        comment.is_none_or(|comment| *comment == self.comment)
    }

    /// A restriction by another user since the pilot began.
    fn anothers(&self, read: &Survey) -> Option<String> {
        let is_anothers = |action: &&MachineAction| {
            ActionKind::of(&action.type_) == Some(ActionKind::Restrict)
                && progress(&action.status) != Progress::EndedBadly
                && !self.is_ours(action)
                && !self.device.actions.contains(&action.id)
        };
        let action = read.actions.iter().find(is_anothers)?;
        Some(action.id.clone())
    }

    /// Releases the device, until the service has accepted it or will not.
    async fn release(&self, releases: &mut Vec<String>) -> Result<(), CallError> {
        self.begin(Step::Release);
        let mut sent = 0;
        loop {
            sent += 1;
            let error = match self.release_once().await {
                Ok(action) => {
                    releases.push(action.id);
                    return Ok(());
                }
                Err(error) if error.reason() == Some(&Reason::AlreadyInProgress) => return Ok(()),
                Err(error) => error,
            };
            if sent == RELEASES || is_final(&error) {
                return Err(error);
            }
            self.sleep(RELEASE_EVERY).await;
        }
    }

    async fn release_once(&self) -> Result<MachineAction, CallError> {
        // Whatever was interrupted: this is not.
        self.host
            .unrestrict_code_execution(self.device.id.as_str(), &self.comment, self.patience())
            .await
    }

    /// Asks what is open, while the release is under way.
    async fn ask(&self, restriction: Option<&str>, name: Option<&str>, releases: &mut Vec<String>) {
        self.begin(Step::Duplicate);
        if let Ok(action) = self.release_once().await
            && !releases.contains(&action.id)
        {
            releases.push(action.id);
        }
        let Some(release) = releases.first() else {
            return;
        };
        self.shows(Step::ReleaseShows, release).await;
        self.begin(Step::FilterById);
        let _ = self.list(&filter_by(&[release])).await;
        if let Some(restriction) = restriction {
            self.begin(Step::FilterByIds);
            let _ = self.list(&filter_by(&[release, restriction])).await;
        }
        self.begin(Step::IdCase);
        self.list_by_capitals().await;
        if let Some(name) = name {
            self.begin(Step::Name);
            let name = name.to_lowercase();
            let _ = self.host.find_machines(&name, self.patience()).await;
            self.begin(Step::NameCase);
            let name = name.to_uppercase();
            let _ = self.host.find_machines(&name, self.patience()).await;
        }
        self.begin(Step::MissingAction);
        let _ = self
            .host
            .get_machine_action(NO_ACTION, self.patience())
            .await;
        self.ends(Step::ReleaseEnds, release, ENDS_WITHIN).await;
    }

    /// Waits until every release has ended and says how the device is left. A device that is
    /// restricted then, because a release failed or ended before the restriction did, is released
    /// again, unless another user restricted it. Where the restriction was not answered (`is_unsure`),
    /// it is waited for as long as it may not show.
    async fn settle(&self, mut releases: Vec<String>, is_unsure: bool) -> Left {
        self.begin(Step::ReleaseEnds);
        let mut began = self.host.clock().now();
        let mut sent = 1;
        loop {
            let within = match *self.stop.borrow() {
                true => ENDS_WITHIN_INTERRUPTED,
                false => ENDS_WITHIN,
            };
            let waited = self.host.clock().now().since(began);
            if let Ok(read) = of_device(self.host, &self.device.id, self.patience()).await {
                let shows = |id: &String| read.actions.iter().any(|action| action.id == *id);
                let is_complete = !read.is_cut
                    && ((!is_unsure && !releases.is_empty() && releases.iter().all(shows))
                        || waited >= UNSEEN);
                let is_over = read.actions.iter().all(|action| {
                    ActionKind::of(&action.type_).is_none()
                        || progress(&action.status) != Progress::UnderWay
                });
                if let Some(action) = self.anothers(&read) {
                    return Left::RestrictedByAnother(action);
                }
                let history = History::of(&read.actions);
                let device = history.of_machine(&self.device.id);
                match device.map(|device| device.standing()) {
                    Some(Standing::Released) if is_complete && is_over => return Left::Released,
                    _ if is_complete && is_over => {
                        if sent == RELEASES {
                            return Left::MayBeRestricted(None);
                        }
                        sent += 1;
                        if let Err(error) = self.release(&mut releases).await {
                            return Left::MayBeRestricted(Some(error));
                        }
                        self.begin(Step::ReleaseEnds);
                        began = self.host.clock().now();
                        continue;
                    }
                    _ => {}
                }
            }
            if waited >= within {
                return Left::ReleasePending;
            }
            self.sleep(ENDS_EVERY).await;
        }
    }

    /// Reads and lists the action until both show it.
    async fn shows(&self, step: Step, id: &str) {
        self.begin(step);
        let (mut is_read, mut is_listed) = (false, false);
        for _ in 0..SHOWS_LOOKS {
            if !is_read {
                is_read = self.read(id).await.is_some();
            }
            if !is_listed {
                let list = self.list(&filter_of(&self.device.id)).await;
                is_listed = list.iter().any(|action| action.id == id);
            }
            if is_read && is_listed {
                return;
            }
            self.sleep(SHOWS_EVERY).await;
        }
    }

    /// Reads the action until it has ended.
    async fn ends(&self, step: Step, id: &str, within: Duration) -> Option<ActionStatus> {
        self.begin(step);
        let until = self.host.clock().now() + within;
        while self.host.clock().now() < until {
            let status = self.read(id).await.map(|action| action.status);
            if let Some(status) = status
                && progress(&status) != Progress::UnderWay
            {
                return Some(status);
            }
            self.sleep(ENDS_EVERY).await;
        }
        None
    }

    async fn read(&self, id: &str) -> Option<MachineAction> {
        self.host.get_machine_action(id, self.patience()).await.ok()
    }

    async fn list(&self, filter: &MachineActionFilter) -> Vec<MachineAction> {
        let page = self
            .host
            .list_machine_actions(filter, 100, 0, self.patience())
            .await;
        page.map(|page| page.items).unwrap_or_default()
    }

    /// The one request that no component makes.
    async fn list_by_capitals(&self) {
        let query = ActionQuery::in_capitals(&self.device.id);
        let origin = self.host.policy().origin();
        let url = format!("{origin}/api/machineactions?{}", query.in_url());
        let request = http::Request::get(url)
            .header(http::header::ACCEPT, "application/json")
            .body(Empty::<Bytes>::new());
        let grant = Grant::new(Operation::ListMachineActions, Some(Target::Actions(query)));
        let (Ok(request), Ok(call)) = (
            request,
            self.host.egress().begin(grant, self.patience()).await,
        ) else {
            return;
        };
        let answer = async {
            if let Ok(answer) = call.send(request).await {
                let _ = answer.into_body().collect().await;
            }
        };
        let _ = call.until_deadline(answer).await;
        call.end().await;
    }

    fn begin(&self, step: Step) {
        self.tape.set_step(Some(step.name()));
        (self.on_step)(step);
    }

    fn patience(&self) -> WaitOptions {
        WaitOptions {
            on_wait: self.on_wait.clone(),
            ..WaitOptions::default()
        }
    }

    async fn sleep(&self, time: Duration) {
        let clock = self.host.clock();
        clock.sleep_until(clock.now() + time).await;
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = stopped(Some(self.stop.clone())) => None,
            done = work => Some(done),
        }
    }
}

/// Whether sending it again would end in the same way.
fn is_final(error: &CallError) -> bool {
    match error {
        CallError::Fault { .. } | CallError::PluginContradicted => true,
        CallError::Answered { error, .. } => matches!(
            error.reason,
            Reason::InvalidArgument(_)
                | Reason::Denied
                | Reason::Unauthorized
                | Reason::Forbidden(_)
        ),
        _ => false,
    }
}

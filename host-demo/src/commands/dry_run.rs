//! `host-demo unrestrict --dry-run` and `restrict --dry-run`: what would happen to each device, by what
//! the service knows of it.

use std::sync::Arc;

use host_demo::contract::MachineActionFilter;
use host_demo::history::{Device, History, Standing, Step};
use host_demo::host::{CallError, Host};
use host_demo::id::MachineId;
use host_demo::kind::ActionKind;
use host_demo::report::roughly;
use host_demo::survey::{Bounds, Lister, Survey};
use serde_json::{Value, json};

use crate::args::{self, Output};
use crate::exit::Exit;
use crate::setup::interrupt::Interrupt;
use crate::setup::prepare::{self, Prepared};
use crate::setup::{forecast, read_actions};
use crate::ui::action_text::{self, asked, counted, done, step_json, when};
use crate::ui::confirm::verb;
use crate::ui::waits::Waits;
use crate::ui::{output, quota_text, unrecorded};

/// Up to so many devices are asked for one by one: that shows all that ever was of each. More of
/// them are looked for among the actions of all devices, which costs no read for each.
const FEW: usize = 5;

/// What would happen to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Would {
    /// It would be sent, and changes something.
    Act,
    /// It would be sent, though nothing says that it is needed.
    ActAnyway,
    /// One is under way, and would be followed.
    Adopt,
    /// What would undo it is under way, so it would wait for somebody to decide.
    Hold,
}

impl Would {
    const ALL: [Self; 4] = [Self::Act, Self::ActAnyway, Self::Adopt, Self::Hold];

    /// Of the two that may be under way, the opposite one matters more: it can come last
    /// (MicrosoftDocs/microsoft-365-docs#5903).
    fn of(device: Option<&Device>, kind: ActionKind) -> Self {
        let Some(device) = device else {
            // A device that nobody has restricted is what a restriction is for.
            return match kind {
                ActionKind::Restrict => Self::Act,
                ActionKind::Release => Self::ActAnyway,
            };
        };
        if device.running(kind.opposite()).is_some() {
            return Self::Hold;
        }
        if device.running(kind).is_some() {
            return Self::Adopt;
        }
        match (kind, device.standing()) {
            (ActionKind::Release, Standing::Restricted)
            | (ActionKind::Restrict, Standing::Released | Standing::Unknown) => Self::Act,
            (ActionKind::Release, Standing::Released | Standing::Unknown)
            | (ActionKind::Restrict, Standing::Restricted) => Self::ActAnyway,
        }
    }

    const fn name(self, kind: ActionKind) -> &'static str {
        match (self, kind) {
            (Self::Act, ActionKind::Release) => "release",
            (Self::Act, ActionKind::Restrict) => "restrict",
            (Self::ActAnyway, ActionKind::Release) => "release-anyway",
            (Self::ActAnyway, ActionKind::Restrict) => "restrict-anyway",
            (Self::Adopt, _) => "adopt",
            (Self::Hold, _) => "hold",
        }
    }

    /// Whether something would be sent.
    const fn sends(self) -> bool {
        matches!(self, Self::Act | Self::ActAnyway)
    }
}

/// Says what would happen to the devices of a run, and sends nothing but reads.
pub(crate) async fn run(
    kind: ActionKind,
    args: args::Batch,
    format: Output,
) -> anyhow::Result<Exit> {
    let Prepared { asked, host, .. } = prepare::prepare(kind, &args, format)?;
    let deadline = prepare::deadline(&args.pace, &host);
    let interrupt = Interrupt::stops();
    let patience = prepare::patience(deadline, &interrupt, &Waits::new(&host, format));
    let devices = asked.devices(&host, verb(kind), patience, format).await?;
    let ids: Vec<String> = devices.iter().map(|device| device.id.to_string()).collect();
    match interrupt
        .unless_pressed(preview(&host, kind, &ids, format))
        .await
    {
        Some(result) => result,
        None => Ok(Exit::Interrupted),
    }
}

async fn preview(
    host: &Host,
    kind: ActionKind,
    ids: &[String],
    format: Output,
) -> anyhow::Result<Exit> {
    let mut lister = Lister::default();
    let read = read(host, &mut lister, ids, &Waits::new(host, format)).await;
    let missing = unrecorded::missing(host).await;
    let survey = read?;
    read_actions::report_rejected(&lister, format);
    let history = History::of(&survey.actions);
    let previews: Vec<_> = ids
        .iter()
        .map(|id| Preview::new(id, kind, &history, survey.is_cut))
        .collect();
    let count = |would| previews.iter().filter(|p| p.would == would).count();

    let operation = kind.operation();
    let calls = previews.iter().filter(|p| p.would.sends()).count();
    let used = host.used(operation).await?;
    let quotas = used.iter().map(|(quota, used)| {
        let left = (quota.calls as usize).saturating_sub(*used);
        (*quota, left)
    });
    let quotas: Vec<_> = quotas.collect();
    let forecast = host.forecast(operation, calls, forecast::ANSWER).await?;

    match format {
        Output::Json => {
            previews.iter().for_each(|p| output::json_line(&p.json()));
            let counts = Would::ALL.map(|would| (would.name(kind), count(would)));
            let quotas = quotas.iter().map(|(quota, left)| {
                json!({ "calls": quota.calls, "per_seconds": quota.per.as_secs(), "left": left })
            });
            output::json_line(&json!({
                "type": "summary",
                "dry_run": true,
                "devices": ids.len(),
                "would": counts.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                "actions": survey.actions.len(),
                "reads": survey.reads,
                "cut": survey.is_cut,
                "quotas": quotas.collect::<Vec<_>>(),
                "forecast": {
                    "calls": calls,
                    "seconds": forecast.map(|time| time.as_secs_f64().ceil()),
                },
                "recorded": missing.is_none(),
                "error": missing.as_ref().map(unrecorded::missing_json),
            }));
        }
        Output::Text => {
            previews
                .iter()
                .flat_map(Preview::lines)
                .for_each(|line| output::line(&line));
            let counts = Would::ALL.map(|w| format!("{} {}", count(w), w.name(kind)));
            let devices = counted(ids.len(), "device", "devices");
            output::line(&format!("{devices}: {}", counts.join(", ")));
            let left = quotas.iter().map(|(quota, left)| {
                format!(
                    "{left} of {} ({})",
                    quota.calls,
                    quota_text::window(quota.per)
                )
            });
            let left: Vec<_> = left.collect();
            let time = match forecast {
                Some(time) => format!("can be sent within {}", roughly(time)),
                None => "can never be sent".to_owned(),
            };
            let calls = counted(calls, "call", "calls");
            output::line(&format!(
                "left of the quota: {}; {calls} {time}",
                left.join(", ")
            ));
        }
    }
    note!("host-demo: nothing was sent but reads ({})", survey.reads);
    if survey.is_cut {
        note!(
            "host-demo: {}",
            action_text::cut(survey.oldest, survey.newest)
        );
    }
    let exit = if survey.is_cut {
        Exit::Open
    } else {
        Exit::Done
    };
    Ok(exit.failed_if(missing.is_some()))
}

/// What the service knows of these devices, and perhaps of others.
async fn read(
    host: &Host,
    lister: &mut Lister,
    ids: &[String],
    waits: &Arc<Waits>,
) -> Result<Survey, CallError> {
    let bounds = Bounds::default();
    let (first, others) = match ids {
        [first, others @ ..] if ids.len() <= FEW => (first, others),
        _ => return read_actions::take(host, lister, &read_actions::filter(), bounds, waits).await,
    };
    let bounds = Bounds {
        reads: bounds.reads / FEW,
        ..bounds
    };
    let of = |id: &String| MachineActionFilter {
        machine_id: Some(id.clone()),
        ..read_actions::filter()
    };
    let mut all = read_actions::take(host, lister, &of(first), bounds, waits).await?;
    for id in others {
        let more = read_actions::take(host, lister, &of(id), bounds, waits).await?;
        all.actions.extend(more.actions);
        all.reads += more.reads;
        all.is_cut |= more.is_cut;
        all.oldest = all.oldest.into_iter().chain(more.oldest).min();
        all.newest = all.newest.max(more.newest);
    }
    Ok(all)
}

/// What would happen to one device, and why.
struct Preview<'a> {
    id: &'a str,
    device: Option<&'a Device>,
    kind: ActionKind,
    would: Would,
    why: String,
}

impl<'a> Preview<'a> {
    fn new(id: &'a str, kind: ActionKind, history: &'a History, is_cut: bool) -> Self {
        let machine: Option<MachineId> = id.parse().ok();
        let device = machine.and_then(|machine| history.of_machine(&machine));
        let would = Would::of(device, kind);
        Self {
            id,
            device,
            kind,
            would,
            why: why(device, kind, would, is_cut),
        }
    }

    fn last(&self, kind: ActionKind) -> Option<&'a Step> {
        self.device.and_then(|device| device.last(kind))
    }

    fn lines(&self) -> Vec<String> {
        let name = self
            .device
            .and_then(|device| device.computer_dns_name.as_deref());
        let mut lines = vec![format!(
            "{:<15}  {}  {}  {}",
            self.would.name(self.kind),
            self.id,
            output::clean(name.unwrap_or("(no name known)")),
            output::clean(&self.why)
        )];
        for step in [ActionKind::Restrict, ActionKind::Release]
            .into_iter()
            .filter_map(|k| self.last(k))
        {
            let (kind, at) = (step.kind.noun(), when(done(step)));
            let text = format!(
                "    last {kind:<11}  {at}, action {}, {}",
                step.id,
                asked(step)
            );
            lines.push(output::clean(&text));
        }
        lines
    }

    fn json(&self) -> Value {
        let pending = self.device.map_or(&[][..], |device| &device.pending);
        json!({
            "type": "device",
            "dry_run": true,
            "machine_id": self.id,
            "computer_dns_name": self.device.and_then(|d| d.computer_dns_name.as_deref()),
            "would": self.would.name(self.kind),
            "why": self.why,
            "last_restriction": self.last(ActionKind::Restrict).map(step_json),
            "last_release": self.last(ActionKind::Release).map(step_json),
            "last_failure": self.device.and_then(|d| d.last_failure.as_ref()).map(step_json),
            "pending": pending.iter().map(step_json).collect::<Vec<_>>(),
        })
    }
}

/// The reason, for people.
fn why(device: Option<&Device>, kind: ActionKind, would: Would, is_cut: bool) -> String {
    let Some(device) = device else {
        return match is_cut {
            false => "no action of it found: is the id right?".to_owned(),
            true => "no action of it among those that were read".to_owned(),
        };
    };
    let under_way = |kind: ActionKind| {
        let step = device.running(kind);
        let step = step.map(|step| format!("action {}, {}", step.id, step.status.as_str()));
        format!(
            "a {} is under way: {}",
            kind.noun(),
            step.unwrap_or_default()
        )
    };
    let mut why = match (would, device.decisive()) {
        (Would::Hold, _) => format!(
            "{}; it would not be overtaken without --override-pending",
            under_way(kind.opposite())
        ),
        (Would::Adopt, _) => under_way(kind),
        (_, Some(step)) => {
            let standing = device.standing().name();
            format!("{standing} since {} {}", when(done(step)), asked(step))
        }
        (_, None) if device.last_restriction.is_some() => {
            "whether a restriction or a release was last can't be told".to_owned()
        }
        (_, None) => "no restriction of it has succeeded".to_owned(),
    };
    if let Some(failure) = &device.last_failure {
        why += &format!(
            "; the {} of {} ended as {}",
            failure.kind.noun(),
            when(failure.created.as_ref()),
            failure.status.as_str()
        );
    }
    why
}

#[cfg(test)]
mod tests {
    use host_demo::contract::ActionStatus;

    use super::*;

    fn step(kind: ActionKind, status: ActionStatus) -> Step {
        Step {
            id: "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".to_owned(),
            kind,
            status,
            requestor: None,
            comment: None,
            created: None,
            updated: None,
            computer_dns_name: None,
        }
    }

    #[test]
    fn what_would_happen_is_the_same_either_way_round() {
        use ActionKind::{Release, Restrict};
        use Would::{Act, ActAnyway, Adopt, Hold};

        let done = |kind| Some(step(kind, ActionStatus::Succeeded));
        let running = |kinds: &[ActionKind]| Device {
            last_restriction: done(Restrict),
            pending: kinds
                .iter()
                .map(|kind| step(*kind, ActionStatus::Pending))
                .collect(),
            ..Device::default()
        };
        let released = Device {
            last_release: done(Release),
            ..Device::default()
        };
        for (device, release, restriction) in [
            (None, ActAnyway, Act),
            (Some(Device::default()), ActAnyway, Act),
            (Some(released), ActAnyway, Act),
            (Some(running(&[])), Act, ActAnyway),
            (Some(running(&[Release])), Adopt, Hold),
            (Some(running(&[Restrict])), Hold, Adopt),
            (Some(running(&[Release, Restrict])), Hold, Hold),
        ] {
            let would = [Release, Restrict].map(|kind| Would::of(device.as_ref(), kind));
            assert_eq!(would, [release, restriction], "{device:?}");
        }
    }
}

//! Reads the devices that arguments and lists name, and looks their ids up.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use host_demo::contract::Reason;
use host_demo::files;
use host_demo::grant::Operation;
use host_demo::host::{CallError, Host, WaitOptions};
use host_demo::id::{DnsName, MachineId};
use host_demo::input::{self, Listed, Named, Wanted};
use host_demo::names::{self, NameError, SearchAborted};

use super::{forecast, interrupt};
use crate::args::{Devices, Output};
use crate::ui::confirm::Verb;
use crate::ui::error_text::Advised;
use crate::ui::step_progress::Steps;
use crate::ui::{list_text, name_text, output};

/// A device that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) id: MachineId,
    /// The name that it was asked for by, if it was.
    pub(crate) name: Option<String>,
}

/// What was asked for, before the service is asked which devices that is.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Each once. Where one stands in a list: its line.
    devices: Vec<(Named, Option<usize>)>,
    /// What the list is called.
    list: String,
    pass_over: bool,
}

/// Every argument and every line is looked at before anything is sent; what stands there twice is
/// one device.
pub(crate) fn asked(args: &Devices, verb: Verb, format: Output) -> anyhow::Result<Asked> {
    let past = verb.past;
    let wanted = match args.by_name {
        true => Wanted::Names,
        false => Wanted::Ids,
    };
    let mut seen = HashSet::new();
    let mut devices = Vec::new();
    let mut wrong = Vec::new();
    for text in &args.machine_ids {
        match wanted.read(text) {
            Ok(device) if seen.insert(device.folded()) => devices.push((device, None)),
            Ok(device) => note!("host-demo: {device} is named more than once; it is {past} once"),
            Err(problem) => wrong.push(problem),
        }
    }
    if let Some(first) = wrong.first() {
        let all: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        bail!(Advised {
            what: format!("machine-id: {}. Nothing was sent", all.join("; ")),
            hint: list_text::advice(first).to_owned(),
        });
    }
    let mut list = String::new();
    if let Some(path) = &args.from {
        list = called(path);
        let (listed, mut repeated) = listed(path, &list, args, wanted, format)?;
        for Listed { line, device } in listed {
            if seen.insert(device.folded()) {
                devices.push((device, Some(line)));
            } else {
                repeated += 1;
            }
        }
        match repeated {
            0 => {}
            1 => note!("host-demo: 1 line names a device once more; it is {past} once"),
            _ => note!("host-demo: {repeated} lines name a device once more; each is {past} once"),
        }
    }
    Ok(Asked {
        devices,
        list,
        pass_over: args.skip_invalid,
    })
}

/// A file's name, for people.
fn called(path: &Path) -> String {
    match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => output::clean(&path.display().to_string()),
    }
}

/// What is in the list, and how many lines repeat another one, if nothing is wrong with it or what
/// is wrong may be skipped.
fn listed(
    path: &Path,
    name: &str,
    args: &Devices,
    wanted: Wanted,
    format: Output,
) -> anyhow::Result<(Vec<Listed>, usize)> {
    /// A million lines of a wide table.
    const MAX: u64 = 512 << 20;
    /// So many problems are shown.
    const SHOWN: usize = 5;

    let file = match path == Path::new("-") {
        true => Path::new("/dev/stdin"),
        false => path,
    };
    let contents = files::read(file, MAX).with_context(|| format!("{name} can't be read"))?;
    let list = input::parse(&contents.bytes, args.column.as_deref(), wanted);
    let list = list.map_err(|error| list_text::unreadable(name, &error, wanted))?;
    match (list.titles.first(), list.titles.last()) {
        (Some(first), Some(last)) if first == last => {
            note!("host-demo: {name}, line {first} is above the header and was skipped");
        }
        (Some(first), Some(last)) => {
            note!(
                "host-demo: {name}, lines {first} to {last} are above the header and were skipped"
            );
        }
        _ => {}
    }
    let Some(first) = list.wrong.first() else {
        return Ok((list.devices, list.repeated));
    };
    let count = list.wrong.len();
    if count == 1 && !args.skip_invalid {
        bail!(Advised {
            what: format!("{name}, {first}. Nothing was sent"),
            hint: format!(
                "{}, or skip it with --skip-invalid",
                list_text::advice(&first.problem)
            ),
        });
    }
    for wrong in list.wrong.iter().take(SHOWN) {
        note!("host-demo: {name}, {}", output::clean(&wrong.to_string()));
    }
    if count > SHOWN {
        note!(
            "host-demo: and {}",
            list_text::problems(count - SHOWN, " more")
        );
    }
    let problems = list_text::problems(count, "");
    if !args.skip_invalid {
        bail!(Advised {
            what: format!("{name} has {problems} (the first: {first}). Nothing was sent"),
            hint: format!(
                "{}, or skip them with --skip-invalid",
                list_text::advice(&first.problem)
            ),
        });
    }
    if list.devices.is_empty() {
        bail!("{name} has {problems}, and no device besides. Nothing was sent");
    }
    if format == Output::Json {
        let skipped = list.wrong.iter();
        let skipped = skipped.map(|wrong| list_text::skipped_json(name, wrong));
        skipped.for_each(|line| output::json_line(&line));
    }
    note!("host-demo: {problems} skipped");
    Ok((list.devices, list.repeated))
}

impl Asked {
    /// How many devices that is, at most.
    pub(crate) fn len(&self) -> usize {
        self.devices.len()
    }

    /// The devices. Names are looked for first, all of them; what leads to no device, or may lead
    /// to several, is reported, and nothing is begun unless it may be skipped.
    ///
    /// Where it is stopped meanwhile, the error is [`CallError::Stopped`].
    pub(crate) async fn devices(
        self,
        host: &Host,
        verb: Verb,
        patience: WaitOptions,
        format: Output,
    ) -> anyhow::Result<Vec<Device>> {
        let name = |(device, _): &(Named, _)| match device {
            Named::Name(name) => Some(name.clone()),
            Named::Id(_) => None,
        };
        let names: Vec<DnsName> = self.devices.iter().filter_map(name).collect();
        let found = match names.is_empty() {
            true => Vec::new(),
            false => find(host, names, patience, format).await?,
        };
        let (devices, unclear) = together(self.devices, found, |id, name, before| {
            note!(
                "host-demo: {name} is {id}, as {before} is; it is {} once",
                verb.past
            );
        });
        for (name, line, why) in &unclear {
            name_text::tell(
                name,
                line.map(|line| (self.list.as_str(), line)),
                why,
                format,
            );
        }
        match (unclear.first(), self.pass_over) {
            (None, _) => Ok(devices),
            (Some(_), true) if devices.is_empty() => bail!("no name leads to a device"),
            (Some(_), true) => {
                let count = unclear.len();
                note!(
                    "host-demo: {count} {} skipped",
                    if count == 1 { "name" } else { "names" }
                );
                Ok(devices)
            }
            (Some((name, _, why)), false) => bail!(Advised {
                what: format!(
                    "{} no device or several (the first: {name}: {why}). Nothing was {}",
                    match unclear.len() {
                        1 => "1 name matches".to_owned(),
                        count => format!("{count} names match"),
                    },
                    verb.past
                ),
                hint: "name these devices by their ids, or skip them with --skip-invalid"
                    .to_owned(),
            }),
        }
    }
}

/// A name without a device, its line, and why.
type Missed = (DnsName, Option<usize>, NameError);

/// What was asked for, with what was found of the names among it, in their order. Those that turn
/// out to be one device are told of.
fn together(
    asked: Vec<(Named, Option<usize>)>,
    found: Vec<Result<MachineId, NameError>>,
    mut on_same: impl FnMut(&MachineId, &Named, &Named),
) -> (Vec<Device>, Vec<Missed>) {
    let mut found = found.into_iter();
    let mut first: HashMap<MachineId, Named> = HashMap::new();
    let (mut devices, mut missed) = (Vec::new(), Vec::new());
    for (device, line) in asked {
        let (id, name) = match &device {
            Named::Id(id) => (id.clone(), None),
            Named::Name(name) => match found.next() {
                Some(Ok(id)) => (id, Some(name.to_string())),
                Some(Err(why)) => {
                    missed.push((name.clone(), line, why));
                    continue;
                }
                None => break,
            },
        };
        match first.get(&id) {
            Some(before) => on_same(&id, &device, before),
            None => {
                first.insert(id.clone(), device);
                devices.push(Device { id, name });
            }
        }
    }
    (devices, missed)
}

/// Asks the service for these names, and shows how far that is.
async fn find(
    host: &Host,
    names: Vec<DnsName>,
    patience: WaitOptions,
    format: Output,
) -> anyhow::Result<Vec<Result<MachineId, NameError>>> {
    let count = names.len();
    let most = names::most_calls(&names);
    let searches = match most == count {
        true => "searches",
        false => "searches at most",
    };
    let stop = patience.stop.clone();
    let steps = Steps::new(host, count, "names looked for", format);
    let waits = Arc::clone(steps.waits());
    let foretold = forecast::foretell(host, Operation::FindMachines, most, searches);
    tokio::select! {
        _ = waits.watch(foretold) => {}
        () = interrupt::pressed(stop) => return Err(CallError::Stopped.into()),
    }
    let patience = WaitOptions {
        on_wait: Some(waits.on_wait()),
        ..patience
    };
    let shown = Arc::clone(&steps);
    let on_answer = move |name: &DnsName| shown.done(name.as_str());
    let found = waits
        .watch(names::find(host, names, patience, on_answer))
        .await;
    steps.end();
    found.map_err(explained)
}

/// What keeps names from being looked for, and what to do about it.
fn explained(stuck: SearchAborted) -> anyhow::Error {
    let SearchAborted { name, error } = stuck;
    if error == CallError::Stopped {
        return error.into();
    }
    let what = match error.reason() {
        Some(Reason::Forbidden(_)) => {
            format!("cannot look for {name}; devices can also be named by their ids")
        }
        _ => format!("looking for {name}"),
    };
    anyhow::Error::from(error).context(what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> MachineId {
        format!("{n:040x}").parse().unwrap()
    }

    fn device(n: usize, name: Option<&str>) -> Device {
        Device {
            id: id(n),
            name: name.map(str::to_owned),
        }
    }

    #[test]
    fn names_and_ids_come_together_in_their_order_and_one_device_comes_once() {
        let name = |name: &str| Named::Name(name.parse().unwrap());
        let asked = vec![
            (name("pc-1"), None),
            (Named::Id(id(2)), None),
            (name("pc-2"), Some(1)),
            (name("gone"), Some(2)),
            (name("pc-1.contoso.com"), Some(3)),
            (Named::Id(id(3)), Some(4)),
        ];
        let found = vec![Ok(id(1)), Ok(id(2)), Err(NameError::Nobody), Ok(id(1))];
        let mut same = Vec::new();
        let (devices, missed) = together(asked, found, |id, name, before| {
            same.push((id.clone(), name.to_string(), before.to_string()));
        });
        let expected = [device(1, Some("pc-1")), device(2, None), device(3, None)];
        assert_eq!(devices, expected);
        let gone = "gone".parse().unwrap();
        assert_eq!(missed, [(gone, Some(2), NameError::Nobody)]);
        assert_eq!(
            same,
            [
                (id(2), "pc-2".to_owned(), id(2).to_string()),
                (id(1), "pc-1.contoso.com".to_owned(), "pc-1".to_owned()),
            ]
        );
    }

    proptest! {
        #[test]
        fn every_name_and_every_id_is_a_device_the_same_as_another_or_missed(
            asked in proptest::collection::vec((any::<bool>(), proptest::option::of(0..4_usize)), 0..12),
        ) {
            let mut found = Vec::new();
            let asked: Vec<(Named, Option<usize>)> = asked
                .into_iter()
                .enumerate()
                .map(|(n, (by_name, is))| match (by_name, is) {
                    (false, is) => (Named::Id(id(is.unwrap_or(9))), Some(n)),
                    (true, is) => {
                        found.push(is.map(id).ok_or(NameError::Nobody));
                        (Named::Name(format!("pc-{n}").parse().unwrap()), Some(n))
                    }
                })
                .collect();
            let (all, mut same) = (asked.len(), 0);
            let (devices, missed) = together(asked, found, |_, _, _| same += 1);
            prop_assert_eq!(devices.len() + missed.len() + same, all);
            let once: HashSet<_> = devices.iter().map(|device| &device.id).collect();
            prop_assert_eq!(once.len(), devices.len());
        }
    }
}

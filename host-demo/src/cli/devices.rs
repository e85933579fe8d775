//! From arguments and lists to the devices that are meant, for every command that does something
//! with devices.

use std::collections::HashSet;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use host_demo::files;
use host_demo::id::MachineId;
use host_demo::input::{self, List};

use super::args::Devices;
use super::output;

/// What is to be done with them, in the words for it.
#[derive(Clone, Copy)]
pub(super) struct Verb {
    pub(super) plain: &'static str,
    pub(super) past: &'static str,
}

/// Every id is looked at before anything is sent; one that stands there twice is one device.
pub(super) fn devices(args: &Devices, verb: Verb) -> anyhow::Result<Vec<String>> {
    let past = verb.past;
    let mut seen = HashSet::new();
    let mut ids = Vec::new();
    let mut wrong = Vec::new();
    for text in &args.machine_ids {
        match text.parse::<MachineId>() {
            Ok(id) if seen.insert(id.clone()) => ids.push(id.to_string()),
            Ok(id) => note!("host-demo: {id} is named more than once; it is {past} once"),
            Err(_) => wrong.push(format!("{text:?}")),
        }
    }
    if !wrong.is_empty() {
        bail!(
            "machine-id: {} - {}. Nothing was sent",
            wrong.join(", "),
            host_demo::id::IdError::Machine,
        );
    }
    if let Some(path) = &args.from {
        let found = listed(path, args)?;
        let before = found.repeated + found.devices.len();
        let new = found
            .devices
            .into_iter()
            .filter(|id| seen.insert(id.clone()));
        let first = ids.len();
        ids.extend(new.map(|id| id.to_string()));
        let repeated = before - (ids.len() - first);
        if repeated > 0 {
            note!("host-demo: {repeated} lines name a device once more; each is {past} once");
        }
    }
    Ok(ids)
}

/// What is in the list, if every line of it names a device or those that don't may be passed over.
fn listed(path: &Path, args: &Devices) -> anyhow::Result<List> {
    /// A million lines of a wide table.
    const MAX: u64 = 512 << 20;
    /// So many mistakes are shown.
    const SHOWN: usize = 20;

    let from_input = path == Path::new("-");
    let (file, name) = match from_input {
        true => (Path::new("/dev/stdin"), "standard input".to_owned()),
        false => (path, output::clean(&path.display().to_string())),
    };
    let contents = files::read(file, MAX).with_context(|| format!("{name} can't be read"))?;
    let list = input::parse(&contents.bytes, args.column.as_deref())
        .with_context(|| format!("{name} is no list of devices"))?;
    for wrong in list.wrong.iter().take(SHOWN) {
        note!("host-demo: {name}, {}", output::clean(&wrong.to_string()));
    }
    if list.wrong.len() > SHOWN {
        note!("host-demo: and {} lines more", list.wrong.len() - SHOWN);
    }
    match (list.wrong.len(), args.skip_invalid) {
        (0, _) => Ok(list),
        (_, true) if list.devices.is_empty() => bail!("no line of {name} names a device"),
        (wrong, true) => {
            note!("host-demo: {wrong} lines are passed over");
            Ok(list)
        }
        (wrong, false) => bail!(
            "{wrong} lines of {name} name no device (the first: {}). Nothing was sent; mend them, \
             or pass over them with --skip-invalid",
            list.wrong[0]
        ),
    }
}

/// Whether so many are meant.
pub(super) fn confirmed(args: &Devices, devices: usize, verb: Verb) -> anyhow::Result<()> {
    if args.yes || devices <= args.confirm_above {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        bail!(
            "{devices} devices are more than {}, and there is nobody to ask: --yes goes on all \
             the same, and --confirm-above sets another number",
            args.confirm_above
        );
    }
    let mut question = format!("{} {devices} devices? [y/N] ", verb.plain);
    question[..1].make_ascii_uppercase();
    let _ = write!(std::io::stderr(), "{question}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was sent"),
    }
}

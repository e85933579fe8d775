//! The queries of lists: what may stand in them, and which answers are to them.
//!
//! Nothing gets into a query but values whose characters need no quoting: ids, names of letters and
//! digits, moments. Letters outside ASCII are escaped byte by byte. So there is no text that ends a
//! literal, and no filter but the one that was asked for. The grammar stands in
//! `wit/connection.wit`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::str::FromStr;

use crate::arguments::{ActionId, DateTime, DnsName, MachineId, refusal};
use crate::types::{InvalidArgument, MachineAction};
use crate::wire;
use crate::{FoundMachines, MachineActionFilter, MachineActionPage};

/// The longest page of actions. The API documents 10,000.
pub const MAX_TOP: u32 = 1000;

/// The most ids in one filter: some five thousand characters of a URL.
pub const MAX_IDS: usize = 100;

/// The most types, or states, in one filter. The API has nine and six.
pub const MAX_NAMES: usize = 20;

/// The most devices of one name that are asked for.
pub const MAX_MACHINES: u32 = 100;

/// The longest name of a type or a state.
const MAX_NAME: usize = 64;

/// A page of the actions that a filter lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionQuery {
    ids: Vec<ActionId>,
    machine: Option<MachineId>,
    types: Vec<String>,
    statuses: Vec<String>,
    since: Option<DateTime>,
    top: u32,
    skip: u32,
}

impl ActionQuery {
    /// Of a filter that fits.
    pub fn new(filter: &MachineActionFilter, top: u32, skip: u32) -> Result<Self, InvalidArgument> {
        let mut ids: Vec<ActionId> = Vec::new();
        bounded("filter.ids", filter.ids.len(), MAX_IDS)?;
        for (at, id) in (1..).zip(&filter.ids) {
            let id = id
                .parse()
                .map_err(|refused: InvalidArgument| entry("filter.ids", at, &refused.problem))?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let machine = filter.machine_id.as_deref().map(str::parse).transpose();
        let since = filter.created_since.as_deref().map(str::parse).transpose();
        if !(1..=MAX_TOP).contains(&top) {
            let problem = format!("it is {top}; a page has 1 to {MAX_TOP} actions");
            return Err(refusal("top", problem));
        }
        let types = filter.types.iter().map(wire::type_name);
        let statuses = filter.statuses.iter().map(wire::status_name);
        Ok(Self {
            ids,
            machine: machine.map_err(|refused| of_filter(&refused))?,
            types: names("filter.types", filter.types.len(), types)?,
            statuses: names("filter.statuses", filter.statuses.len(), statuses)?,
            since: since.map_err(|refused| of_filter(&refused))?,
            top,
            skip,
        })
    }

    /// The device whose actions they are, if it is one.
    pub fn machine(&self) -> Option<&str> {
        self.machine.as_ref().map(MachineId::as_str)
    }

    /// As it stands in a URL.
    pub fn text(&self) -> String {
        let mut clauses = Vec::new();
        let ids: Vec<&str> = self.ids.iter().map(ActionId::as_str).collect();
        clauses.extend(clause("id", &ids));
        clauses.extend(clause("machineId", self.machine().as_slice()));
        clauses.extend(clause("type", &borrowed(&self.types)));
        clauses.extend(clause("status", &borrowed(&self.statuses)));
        if let Some(since) = &self.since {
            clauses.push(format!("creationDateTimeUtc%20ge%20{}", since.as_str()));
        }
        let mut text = String::new();
        if !clauses.is_empty() {
            text = format!("$filter={}&", clauses.join("%20and%20"));
        }
        text.push_str("$top=");
        text.push_str(&self.top.to_string());
        if self.skip > 0 {
            text.push_str("&$skip=");
            text.push_str(&self.skip.to_string());
        }
        text
    }

    /// The page in the body of an answer, if it is the one that was asked for; else what is wrong
    /// with it.
    pub fn page_in(&self, body: &[u8]) -> Result<MachineActionPage, &'static str> {
        let list = wire::List::in_body(body).ok_or("not with a list")?;
        let (items, truncated) = list.read(self.top, wire::action_in_list)?;
        if items.iter().all(|action| self.lets_through(action)) {
            Ok(MachineActionPage { items, truncated })
        } else {
            Err("with actions that were not asked for")
        }
    }

    /// Whether an action is one of those. State and time are not looked at: the one may have
    /// changed meanwhile, and the other needs a calendar.
    fn lets_through(&self, action: &MachineAction) -> bool {
        let same = |id: &ActionId| id.as_str().eq_ignore_ascii_case(&action.id);
        let name = wire::type_name(&action.type_);
        let machine = self.machine().zip(action.machine_id.as_deref());
        (self.ids.is_empty() || self.ids.iter().any(same))
            && (self.types.is_empty() || self.types.iter().any(|wanted| wanted == name))
            && machine.is_none_or(|(wanted, id)| wanted.eq_ignore_ascii_case(id))
    }
}

/// The devices of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineQuery(DnsName);

impl FromStr for MachineQuery {
    type Err = InvalidArgument;

    fn from_str(name: &str) -> Result<Self, InvalidArgument> {
        name.parse().map(Self)
    }
}

impl MachineQuery {
    /// The name.
    pub fn name(&self) -> &str {
        self.0.as_str()
    }

    /// As it stands in a URL.
    pub fn text(&self) -> String {
        let mut text = String::from("$filter=computerDnsName%20eq%20%27");
        for byte in self.name().bytes() {
            if byte.is_ascii() {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
        text.push_str("%27&$top=");
        text.push_str(&MAX_MACHINES.to_string());
        text
    }

    /// The devices in the body of an answer, if they have the name; else what is wrong with it.
    pub fn machines_in(&self, body: &[u8]) -> Result<FoundMachines, &'static str> {
        let list = wire::List::in_body(body).ok_or("not with a list")?;
        let (items, truncated) = list.read(MAX_MACHINES, wire::machine_in_list)?;
        let has_name = |name: &String| self.0.is(name);
        if items
            .iter()
            .all(|machine| machine.computer_dns_name.as_ref().is_some_and(has_name))
        {
            Ok(FoundMachines { items, truncated })
        } else {
            Err("with machines of another name")
        }
    }
}

/// The condition that a property has one of these values, if there are any.
fn clause(property: &str, values: &[&str]) -> Option<String> {
    let list = values.join("%27,%27");
    match values {
        [] => None,
        [_] => Some(format!("{property}%20eq%20%27{list}%27")),
        _ => Some(format!("{property}%20in%20(%27{list}%27)")),
    }
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// Names as the service spells them, each of them once.
fn names<'a>(
    parameter: &str,
    count: usize,
    all: impl Iterator<Item = &'a str>,
) -> Result<Vec<String>, InvalidArgument> {
    bounded(parameter, count, MAX_NAMES)?;
    let mut names: Vec<String> = Vec::new();
    for (at, name) in (1..).zip(all) {
        let fits =
            (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
        if !fits {
            let problem = "a name has 1 to 64 ASCII letters or digits";
            return Err(entry(parameter, at, problem));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_string());
        }
    }
    Ok(names)
}

fn bounded(parameter: &str, count: usize, max: usize) -> Result<(), InvalidArgument> {
    if count <= max {
        return Ok(());
    }
    let problem = format!("it has {count} entries; at most {max} are accepted");
    Err(refusal(parameter, problem))
}

fn entry(parameter: &str, at: usize, problem: &str) -> InvalidArgument {
    refusal(parameter, format!("of entry {at}: {problem}"))
}

/// A refusal of what is a parameter elsewhere, and a field here.
fn of_filter(refused: &InvalidArgument) -> InvalidArgument {
    let InvalidArgument { parameter, problem } = refused;
    refusal(&format!("filter.{parameter}"), problem.clone())
}

#[cfg(test)]
mod tests;

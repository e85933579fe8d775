//! Summaries of actions and devices for the audit log: of the response, and of what the plugin
//! reported.
//!
//! Of each: the id, type, status and device of an action; the id and name of a device; whether a
//! list is cut. A boundary without a guest decides by them whether a call succeeded. A plugin's
//! result is compared as a whole, by the crate `defender-host`.

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _, Serialize};
use serde_json::value::RawValue;

use crate::escape::{cut, cut_text};
use crate::operation::Target;
use crate::query::MACHINES_MAX;

/// What a call's answer says, in a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseSummary {
    /// One action.
    Action(ActionSummary),
    /// A page of actions.
    Actions(Listed<ActionSummary>),
    /// A page of devices.
    Machines(Listed<MachineSummary>),
}

/// What a machine action is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActionSummary {
    /// The action's id.
    #[serde(serialize_with = "cut_text")]
    pub id: String,
    /// What the action does, in the API's words.
    #[serde(rename = "type", serialize_with = "cut_text")]
    pub type_: String,
    /// How far it is, in the API's words.
    #[serde(serialize_with = "cut_text")]
    pub status: String,
    /// The device's id.
    #[serde(serialize_with = "cut")]
    pub machine: Option<String>,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSummary {
    /// The device's id.
    pub id: String,
    /// The device's DNS name.
    pub name: Option<String>,
}

/// A list, and whether there may be more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// The entries that were read.
    pub items: Vec<T>,
    /// Whether there may be more.
    pub truncated: bool,
}

/// A list, for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many entries were read.
    pub items: usize,
    /// Whether there may be more.
    pub truncated: bool,
}

impl ResponseSummary {
    /// What the body of an answer says to a call that is about this, if it says that.
    pub fn in_answer(target: Option<&Target>, body: &[u8]) -> Option<Self> {
        match target {
            None | Some(Target::Machine(_) | Target::Action(_)) => {
                ActionSummary::in_answer(body).map(Self::Action)
            }
            Some(Target::Actions(query)) => {
                list(body, query.top(), ActionSummary::in_answer).map(Self::Actions)
            }
            Some(Target::Name(_)) => {
                list(body, MACHINES_MAX, MachineSummary::in_answer).map(Self::Machines)
            }
        }
    }

    /// What is wrong with it as an answer to a call that is about this, if something is.
    pub fn misses(&self, target: Option<&Target>) -> Option<&'static str> {
        match (self, target) {
            (Self::Action(action), Some(Target::Machine(id))) => action
                .machine
                .as_ref()
                .is_some_and(|named| !named.eq_ignore_ascii_case(id.as_str()))
                .then_some("of another device"),
            (Self::Action(action), Some(Target::Action(id))) => {
                (!action.id.eq_ignore_ascii_case(id.as_str())).then_some("of another action")
            }
            (Self::Actions(list), Some(Target::Actions(query))) => {
                let all = list.items.iter().all(|action| {
                    query.lets_through(&action.id, &action.type_, action.machine.as_deref())
                });
                (!all).then_some("with actions that were not asked for")
            }
            (Self::Machines(list), Some(Target::Name(name))) => {
                let all = list.items.iter().all(|machine| {
                    let named = machine.name.as_deref();
                    named.is_some_and(|named| name.is(named))
                });
                (!all).then_some("with devices of another name")
            }
            _ => Some("of another kind"),
        }
    }

    /// The action, if it is one.
    pub fn action(&self) -> Option<&ActionSummary> {
        match self {
            Self::Action(action) => Some(action),
            _ => None,
        }
    }

    /// How long the list is, if it is one.
    pub fn count(&self) -> Option<Count> {
        let (items, truncated) = match self {
            Self::Action(_) => return None,
            Self::Actions(list) => (list.items.len(), list.truncated),
            Self::Machines(list) => (list.items.len(), list.truncated),
        };
        Some(Count { items, truncated })
    }
}

impl ActionSummary {
    /// The machine action in a JSON text, if there is one.
    pub fn in_answer(json: &[u8]) -> Option<Self> {
        let [id, type_, status, machine] = texts(json, ["id", "type", "status", "machineId"])?;
        let required = |text: Option<String>| text.filter(|text| !text.is_empty());
        Some(Self {
            id: required(id)?,
            type_: required(type_)?,
            status: required(status)?,
            machine,
        })
    }
}

impl MachineSummary {
    fn in_answer(json: &[u8]) -> Option<Self> {
        let [id, name] = texts(json, ["id", "computerDnsName"])?;
        Some(Self {
            id: id.filter(|id| !id.is_empty())?,
            name,
        })
    }
}

/// The list in a body, each of its entries read, if there is one of no more than so many.
fn list<T>(body: &[u8], top: u32, read: impl Fn(&[u8]) -> Option<T>) -> Option<Listed<T>> {
    let [value, link] = raw(body, ["value", "@odata.nextLink"])?;
    let entries: Vec<&RawValue> = serde_json::from_str(value?.get()).ok()?;
    let top = top as usize;
    if entries.len() > top {
        return None;
    }
    let truncated = entries.len() == top || link.is_some_and(|link| link.get() != "null");
    let items = entries.iter().map(|entry| read(entry.get().as_bytes()));
    Some(Listed {
        items: items.collect::<Option<_>>()?,
        truncated,
    })
}

/// The members of these names that are texts.
fn texts<const N: usize>(json: &[u8], names: [&str; N]) -> Option<[Option<String>; N]> {
    let text = |value: &RawValue| serde_json::from_str(value.get()).ok();
    Some(raw(json, names)?.map(|value| value.and_then(text)))
}

/// The members of these names in an object, as they stand there; of several of one name the last.
fn raw<'a, const N: usize>(json: &'a [u8], names: [&str; N]) -> Option<[Option<&'a RawValue>; N]> {
    struct Members<'n, const N: usize>([&'n str; N]);

    impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
        type Value = [Option<&'de RawValue>; N];

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = [None; N];
            while let Some(name) = map.next_key::<Name>()? {
                match self.0.iter().position(|known| *known == name.0) {
                    Some(at) => found[at] = Some(map.next_value()?),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(found)
        }
    }

    /// Owned: with an escape in it, it can't be borrowed.
    #[derive(Deserialize)]
    struct Name(String);

    // RFC 8259, section 8.1: a byte order mark may be ignored.
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    let mut json = serde_json::Deserializer::from_slice(json);
    let found = json.deserialize_map(Members(names)).ok()?;
    json.end().ok()?;
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

    fn target(query: &str) -> Target {
        Target::Actions(crate::query::ActionQuery::parse(query).unwrap())
    }

    fn said(target: &Target, body: &str) -> Option<ResponseSummary> {
        ResponseSummary::in_answer(Some(target), body.as_bytes())
    }

    fn action(id: &str, more: &str) -> String {
        format!(r#"{{"id":"{id}","type":"Isolate","status":"Pending"{more}}}"#)
    }

    #[test]
    fn a_list_says_its_entries_and_whether_it_is_cut() {
        let top_2 = target("$top=2");
        let list = |entries: &[String], more: &str| {
            format!(r#"{{"value":[{}]{more}}}"#, entries.join(","))
        };
        let one = [action("1", "")];
        let two = [action("1", ""), action("2", r#","machineId":"m","id":"3""#)];
        for (body, items, truncated) in [
            (list(&[], ""), 0, false),
            (list(&one, ""), 1, false),
            (list(&one, r#","@odata.nextLink":null"#), 1, false),
            (list(&one, r#","@odata.nextLink":"https://x""#), 1, true),
            (list(&two, ""), 2, true),
        ] {
            let count = said(&top_2, &body).and_then(|said| said.count());
            assert_eq!(count, Some(Count { items, truncated }), "{body}");
        }
        let Some(ResponseSummary::Actions(listed)) = said(&top_2, &list(&two, "")) else {
            panic!("a list")
        };
        assert_eq!(listed.items[1].id, "3", "the last one counts");
        assert_eq!(listed.items[1].machine.as_deref(), Some("m"));
        let three = [&one[..], &two[..]].concat();
        for body in [
            list(&three, ""),
            list(&["null".to_owned()], ""),
            list(&[action("", "")], ""),
            r#"{"value":{}}"#.to_owned(),
            "[]".to_owned(),
            list(&one, "")[1..].to_owned(),
            list(&one, "") + "x",
        ] {
            assert_eq!(said(&top_2, &body), None, "{body}");
        }
    }

    #[test]
    fn a_list_is_an_answer_only_with_what_was_asked_for() {
        let of_machine = target(&format!("$filter=machineId%20eq%20%27{MACHINE}%27&$top=5"));
        let of_type = target("$filter=type%20eq%20%27Isolate%27&$top=5");
        let in_list = |more: &str| format!(r#"{{"value":[{}]}}"#, action("1", more));
        for (target, more, fits) in [
            (&of_machine, String::new(), true),
            (
                &of_machine,
                format!(r#","machineId":"{}""#, MACHINE.to_uppercase()),
                true,
            ),
            (&of_machine, r#","machineId":"other""#.to_owned(), false),
            (&of_type, String::new(), true),
            (&of_type, r#","type":"Offboard""#.to_owned(), false),
        ] {
            let said = said(target, &in_list(&more)).unwrap();
            assert_eq!(said.misses(Some(target)).is_none(), fits, "{more}");
        }
        let name = Target::Name("pc".parse().unwrap());
        for (entry, fits) in [
            (r#"{"id":"1","computerDnsName":"PC"}"#, true),
            (r#"{"id":"1","computerDnsName":"pc."}"#, false),
            (r#"{"id":"1","computerDnsName":"pc2"}"#, false),
            (r#"{"id":"1"}"#, false),
        ] {
            let said = said(&name, &format!(r#"{{"value":[{entry}]}}"#)).unwrap();
            assert_eq!(said.misses(Some(&name)).is_none(), fits, "{entry}");
        }
    }
}

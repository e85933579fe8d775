//! The queries that lists are asked for with: the only ones that may leave.
//!
//! The grammar is that of `wit/connection.wit`, read here without a line of the plugin's: what does
//! not parse does not leave, and what parses is compared, as a value, with what the call was made
//! for.

use std::collections::BTreeSet;
use std::fmt;

use crate::id::{ActionId, DnsName, MachineId};

/// The longest page of actions.
const TOP_MAX: u32 = 1000;

/// The most ids in one filter.
const IDS_MAX: usize = 100;

/// The most types, or states, in one filter.
const NAMES_MAX: usize = 20;

/// The longest name of a type or a state.
const NAME_MAX: usize = 64;

/// The most devices of one name that are asked for.
pub(crate) const MACHINES_MAX: u32 = 100;

const BEFORE_NAME: &str = "$filter=computerDnsName%20eq%20%27";
const BEFORE_MACHINE: &str = "$filter=machineId%20eq%20%27";
const AFTER_NAME: &str = "%27&$top=100";

/// A page of the actions that a filter lets through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ActionQuery {
    ids: BTreeSet<ActionId>,
    machine: Option<MachineId>,
    types: BTreeSet<String>,
    statuses: BTreeSet<String>,
    since: Option<String>,
    top: u32,
    skip: u32,
    /// The device's id is written in capital letters. Only a pilot asks so.
    in_capitals: bool,
}

/// What is asked for, as texts that were not looked at.
#[derive(Default)]
pub struct Asked<'a> {
    /// The ids of actions.
    pub ids: Vec<&'a str>,
    /// The id of a device.
    pub machine: Option<&'a str>,
    /// Types of actions.
    pub types: Vec<&'a str>,
    /// Statuses of actions.
    pub statuses: Vec<&'a str>,
    /// The earliest creation time, RFC 3339.
    pub since: Option<&'a str>,
    /// The size of the page.
    pub top: u32,
    /// How many entries come before the page.
    pub skip: u32,
}

impl Asked<'_> {
    /// The query, if all of it is what it should be.
    pub fn query(&self) -> Option<ActionQuery> {
        let fits = self.ids.len() <= IDS_MAX
            && self.types.len() <= NAMES_MAX
            && self.statuses.len() <= NAMES_MAX
            && (1..=TOP_MAX).contains(&self.top)
            && self.since.is_none_or(is_date_time);
        let ids = self.ids.iter().map(|id| id.parse().ok());
        let names = |names: &[&str]| {
            let checked = names
                .iter()
                .map(|name| is_name(name).then(|| (*name).to_owned()));
            checked.collect::<Option<BTreeSet<String>>>()
        };
        let query = ActionQuery {
            ids: ids.collect::<Option<_>>()?,
            machine: self.machine.map(str::parse).transpose().ok()?,
            types: names(&self.types)?,
            statuses: names(&self.statuses)?,
            since: self.since.map(str::to_owned),
            top: self.top,
            skip: self.skip,
            in_capitals: false,
        };
        fits.then_some(query)
    }
}

impl ActionQuery {
    /// Reads the query of a URL.
    pub fn parse(text: &str) -> Option<Self> {
        let mut asked = Asked::default();
        let mut params = text.split('&').peekable();
        let filter = params.next_if(|param| param.starts_with("$filter="));
        let filter = filter.map(|param| unescaped(&param["$filter=".len()..]));
        if let Some(filter) = &filter {
            clauses(filter.as_ref()?, &mut asked)?;
        }
        asked.top = number(params.next()?.strip_prefix("$top=")?)?;
        if let Some(param) = params.next() {
            asked.skip = number(param.strip_prefix("$skip=")?)?;
        }
        let is_all = params.next().is_none();
        asked.query().filter(|_| is_all)
    }

    /// Returns the first hundred actions of a device, whose id is written in capital letters: what a
    /// pilot asks for, to learn whether the service compares ids with regard to case.
    pub fn in_capitals(machine: &MachineId) -> Self {
        Self {
            ids: BTreeSet::new(),
            machine: Some(machine.clone()),
            types: BTreeSet::new(),
            statuses: BTreeSet::new(),
            since: None,
            top: 100,
            skip: 0,
            in_capitals: true,
        }
    }

    /// Reads the query of a URL, if it is such a one. A grant for the same actions by the id in lower
    /// case does not cover it.
    pub fn parse_in_capitals(text: &str) -> Option<Self> {
        let id = text
            .strip_prefix(BEFORE_MACHINE)?
            .strip_suffix(AFTER_NAME)?;
        let query = Self::in_capitals(&id.parse().ok()?);
        // Digits alone are no capital letters.
        (query.in_url() == text && id.bytes().any(|b| b.is_ascii_uppercase())).then_some(query)
    }

    /// The query of a URL that asks for the actions of a device, by its id in capital letters.
    pub fn in_url(&self) -> String {
        let id = self.machine.as_ref().map_or("", MachineId::as_str);
        format!("{BEFORE_MACHINE}{}{AFTER_NAME}", id.to_ascii_uppercase())
    }

    /// The device whose actions they are, if it is one.
    pub const fn machine(&self) -> Option<&MachineId> {
        self.machine.as_ref()
    }

    /// How long the page is.
    pub const fn top(&self) -> u32 {
        self.top
    }

    /// Whether an action of this id, type and device is one of those that were asked for. One that
    /// names no device may be.
    pub fn lets_through(&self, id: &str, type_: &str, machine: Option<&str>) -> bool {
        let ids = || {
            self.ids
                .iter()
                .any(|wanted| wanted.as_str().eq_ignore_ascii_case(id))
        };
        let machine = self.machine().zip(machine);
        (self.ids.is_empty() || ids())
            && (self.types.is_empty() || self.types.contains(type_))
            && machine.is_none_or(|(wanted, id)| wanted.as_str().eq_ignore_ascii_case(id))
    }
}

impl fmt::Display for ActionQuery {
    /// For people: as it stands in a URL, without its escapes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut clauses = Vec::new();
        let mut add = |property: &str, values: Vec<&str>| match values.as_slice() {
            [] => {}
            [value] => clauses.push(format!("{property} eq '{value}'")),
            _ => clauses.push(format!("{property} in ('{}')", values.join("','"))),
        };
        add("id", self.ids.iter().map(ActionId::as_str).collect());
        let machine = self.machine.as_ref().map(|id| match self.in_capitals {
            true => id.as_str().to_ascii_uppercase(),
            false => id.to_string(),
        });
        add("machineId", machine.as_deref().into_iter().collect());
        add("type", self.types.iter().map(String::as_str).collect());
        add("status", self.statuses.iter().map(String::as_str).collect());
        if let Some(since) = &self.since {
            clauses.push(format!("creationDateTimeUtc ge {since}"));
        }
        if !clauses.is_empty() {
            write!(f, "$filter={}&", clauses.join(" and "))?;
        }
        write!(f, "$top={}&$skip={}", self.top, self.skip)
    }
}

/// The name in the query of a URL that asks for the devices of one.
pub fn name_in(text: &str) -> Option<DnsName> {
    let escaped = text.strip_prefix(BEFORE_NAME)?.strip_suffix(AFTER_NAME)?;
    let name: DnsName = of_bytes(escaped)?.parse().ok()?;
    // On the wire there is one way to write a name, which is not the only one that can be read.
    (as_bytes(&name) == escaped).then_some(name)
}

/// A name as it stands in a URL: each byte outside ASCII is escaped, and nothing else.
fn as_bytes(name: &DnsName) -> String {
    let escaped = |byte: u8| match byte.is_ascii() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    name.as_str().bytes().map(escaped).collect()
}

/// The text whose bytes are escaped in this one.
fn of_bytes(escaped: &str) -> Option<String> {
    let mut parts = escaped.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// The text without the two escapes that there are; with any other one, or with a character that
/// should have been written as one, none.
fn unescaped(text: &str) -> Option<String> {
    if text.contains([' ', '\'']) {
        return None;
    }
    let text = text.replace("%20", " ").replace("%27", "'");
    (!text.contains('%')).then_some(text)
}

fn clauses<'a>(filter: &'a str, asked: &mut Asked<'a>) -> Option<()> {
    for clause in filter.split(" and ") {
        let (property, rest) = clause.split_once(' ')?;
        if property == "creationDateTimeUtc" {
            let since = rest.strip_prefix("ge ")?;
            if asked.since.replace(since).is_some() {
                return None;
            }
            continue;
        }
        let values = values(rest)?;
        let slot = match property {
            "id" => &mut asked.ids,
            "type" => &mut asked.types,
            "status" => &mut asked.statuses,
            "machineId" => match values[..] {
                [id] if id.bytes().all(is_lower) && asked.machine.replace(id).is_none() => continue,
                _ => return None,
            },
            _ => return None,
        };
        if !slot.is_empty()
            || (property == "id" && !values.iter().all(|id| id.bytes().all(is_lower)))
        {
            return None;
        }
        *slot = values;
    }
    Some(())
}

/// The texts of `eq 'a'` or `in ('a','b')`: at least one.
fn values(rest: &str) -> Option<Vec<&str>> {
    let all: Vec<&str> = match rest.strip_prefix("in (") {
        Some(list) => {
            let list = list.strip_prefix('\'')?.strip_suffix("')")?;
            list.split("','").collect()
        }
        None => vec![rest.strip_prefix("eq '")?.strip_suffix('\'')?],
    };
    let fits = |text: &&str| !text.is_empty() && !text.contains('\'');
    all.iter().all(fits).then_some(all)
}

const fn is_lower(b: u8) -> bool {
    !b.is_ascii_uppercase()
}

/// A number as it is usually written: no sign, and no zero before it.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// A moment in UTC by its form, that of RFC 3339, to the tick of .NET. Whether there is such a day
/// is the service's to say.
fn is_date_time(text: &str) -> bool {
    let Some((seconds, fraction)) = text.strip_suffix('Z').and_then(|t| t.split_at_checked(19))
    else {
        return false;
    };
    let has_form = seconds.bytes().enumerate().all(|(at, b)| match at {
        4 | 7 => b == b'-',
        10 => b == b'T',
        13 | 16 => b == b':',
        _ => b.is_ascii_digit(),
    });
    let is_fraction = |digits: &str| {
        (1..=7).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    };
    has_form && (fraction.is_empty() || fraction.strip_prefix('.').is_some_and(is_fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    const A: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
    const B: &str = "9e253ed9-1daf-4a6b-8c50-d8bfc285e015";

    #[test]
    fn a_query_reads_as_it_was_meant() {
        let all = format!(
            "$filter=id%20in%20(%27{A}%27,%27{B}%27)%20and%20machineId%20eq%20%27{MACHINE}%27%20and\
             %20type%20eq%20%27RestrictCodeExecution%27%20and%20status%20in%20(%27Pending%27,%27InP\
             rogress%27)%20and%20creationDateTimeUtc%20ge%202026-01-30T21:11:22.8419303Z&$top=1000\
             &$skip=4294967295"
        );
        let asked = Asked {
            ids: vec![B, A, B],
            machine: Some(MACHINE),
            types: vec!["RestrictCodeExecution"],
            statuses: vec!["InProgress", "Pending"],
            since: Some("2026-01-30T21:11:22.8419303Z"),
            top: 1000,
            skip: u32::MAX,
        };
        let query = ActionQuery::parse(&all);
        assert!(query.is_some() && query == asked.query(), "{query:?}");
        let shown = query.unwrap().to_string();
        assert!(
            shown.contains("and creationDateTimeUtc ge 2026-01-30T21"),
            "{shown}"
        );
        for (text, top, skip) in [
            ("$top=1", 1, 0),
            ("$top=1&$skip=0", 1, 0),
            ("$top=7&$skip=1000", 7, 1000),
        ] {
            let asked = Asked {
                top,
                skip,
                ..Asked::default()
            };
            assert_eq!(ActionQuery::parse(text), asked.query(), "{text}");
        }
    }

    #[test]
    fn what_is_outside_of_the_grammar_is_no_query() {
        let ids: Vec<String> = (0..101)
            .map(|n| format!("%27{n:08x}{}%27", &A[8..]))
            .collect();
        let too_many = format!("$filter=id%20in%20({})&$top=1", ids.join(","));
        let hundred = format!("$filter=id%20in%20({})&$top=1", ids[..100].join(","));
        assert!(ActionQuery::parse(&hundred).is_some());
        let upper = A.to_uppercase();
        let filter = |filter: &str| format!("$filter={filter}&$top=1");
        let of = |property: &str, value: &str| filter(&format!("{property}%20eq%20%27{value}%27"));
        for text in [
            String::new(),
            "$top=".to_owned(),
            "$top=0".to_owned(),
            "$top=1001".to_owned(),
            "$top=+1".to_owned(),
            "$top=01".to_owned(),
            "$top=1&".to_owned(),
            "$top=1&$top=1".to_owned(),
            "$top=1&$skip=".to_owned(),
            "$top=1&$skip=4294967296".to_owned(),
            "$top=1&$skip=1&$skip=2".to_owned(),
            "$skip=1&$top=1".to_owned(),
            "$top=1&$expand=machine".to_owned(),
            "$top=1&$orderby=id".to_owned(),
            "$top=1&$count=true".to_owned(),
            "$top=1&x=1".to_owned(),
            "%24top=1".to_owned(),
            "$TOP=1".to_owned(),
            "$skip=1".to_owned(),
            "$filter=&$top=1".to_owned(),
            format!("$top=1&$filter=id%20eq%20%27{A}%27"),
            format!("$filter=id%20eq%20%27{A}%27"),
            format!("$filter=id%20eq%20%27{A}%27&$filter=id%20eq%20%27{B}%27&$top=1"),
            of("id", ""),
            of("id", &upper),
            of("id", MACHINE),
            of("machineId", A),
            of("machineId", &MACHINE.to_uppercase()),
            of("requestor", "a"),
            of("title", "a"),
            of("type", "a b"),
            of("type", "a%27%27b"),
            of("type", "%41"),
            of("type", "é"),
            of("status", &"x".repeat(65)),
            filter(&format!("id%20EQ%20%27{A}%27")),
            filter(&format!("id%20ne%20%27{A}%27")),
            filter(&format!("id%20eq%20'{A}'")),
            filter(&format!("id+eq+%27{A}%27")),
            filter(&format!("not(id%20eq%20%27{A}%27)")),
            filter(&format!("id%20eq%20%27{A}%27%20or%20id%20eq%20%27{B}%27")),
            filter(&format!("id%20eq%20%27{A}%27%20and%20id%20eq%20%27{B}%27")),
            filter(&format!("id%20eq%20%27{A}%27%20and%20")),
            filter(&format!("id%20in%20(%27{A}%27")),
            filter(&format!("id%20in%20(%27{A}%27,%27%27)")),
            filter("id%20in%20()"),
            filter(&format!(
                "machineId%20in%20(%27{MACHINE}%27,%27{MACHINE}%27)"
            )),
            filter("contains(type,%27a%27)"),
            filter("creationDateTimeUtc%20gt%202026-01-30T21:11:22Z"),
            filter("creationDateTimeUtc%20ge%20%272026-01-30T21:11:22Z%27"),
            filter("creationDateTimeUtc%20ge%202026-01-30T21:11:22.Z"),
            filter("creationDateTimeUtc%20ge%202026-01-30T21:11:22+01:00"),
            filter("creationDateTimeUtc%20ge%202026-01-30"),
            filter("creationDateTimeUtc%20ge%202026-01-30T21:11:22.12345678Z"),
            filter("creationDateTimeUtc%20ge%20now()"),
            too_many,
        ] {
            assert_eq!(ActionQuery::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn capital_letters_are_another_query_and_have_one_form() {
        let id: MachineId = MACHINE.parse().unwrap();
        let query = ActionQuery::in_capitals(&id);
        let text = query.in_url();
        let upper = MACHINE.to_uppercase();
        assert_eq!(
            text,
            format!("$filter=machineId%20eq%20%27{upper}%27&$top=100")
        );
        assert_eq!(ActionQuery::parse_in_capitals(&text), Some(query.clone()));
        assert_eq!(ActionQuery::parse(&text), None);
        let lower = ActionQuery::parse(&text.replace(&upper, MACHINE)).unwrap();
        assert_ne!(lower, query);
        assert_eq!(lower.machine(), query.machine());
        assert!(query.to_string().contains(&upper), "{query}");
        for text in [
            text.replace(&upper, MACHINE),
            text.replace('E', "e"),
            text.replace(&upper, &"1".repeat(40)),
            text.replace("100", "1000"),
            format!("{text}&$skip=0"),
        ] {
            assert_eq!(ActionQuery::parse_in_capitals(&text), None, "{text}");
        }
    }

    #[test]
    fn a_name_is_asked_for_in_one_way() {
        let of = |name: &str| format!("{BEFORE_NAME}{name}{AFTER_NAME}");
        for (name, asked) in [
            (
                "johns_work-computer.contoso.com",
                "johns_work-computer.contoso.com",
            ),
            ("C-Lab-31", "C-Lab-31"),
            ("büro-pc01", "b%C3%BCro-pc01"),
            ("电脑", "%E7%94%B5%E8%84%91"),
        ] {
            assert_eq!(name_in(&of(asked)), name.parse().ok(), "{name}");
        }
        for text in [
            of(""),
            of("pc."),
            of("büro"),
            of("b%c3%bcro"),
            of("b%C3ro"),
            of("b%FCro"),
            of("b%25C3%25BCro"),
            of("bu%CC%88ro"),
            of("pc%E2%80%99"),
            of("pc%CA%BC"),
            of("pc%EF%BC%87"),
            of("pc%+1"),
            of("pc%"),
            of("pc%2"),
            of("pc%00"),
            of("pc%0A"),
            of("pc%27%20or%20%271%27%20eq%20%271"),
            of("pc'"),
            of("p%63"),
            of("pc").replace("100", "101"),
            of("pc").replace("eq", "ne"),
            of("pc") + "&$expand=x",
            "$top=100".to_owned(),
        ] {
            assert_eq!(name_in(&text), None, "{text}");
        }
    }
}

//! JSON, as APIs and shells write it: one value or several, with arrays and pages of lists in them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::{RawValue, Value};

use super::record::Broken;
use super::{Found, Problem, Wanted, has_machine_id, plain};
use defender_core::id::MachineId;

/// The members that have a list: of the API's pages, of advanced hunting, of batches of requests,
/// of other tools. In lower case.
const LISTS: [&str; 8] = [
    "value",
    "results",
    "responses",
    "body",
    "data",
    "items",
    "devices",
    "machines",
];

/// The members beside a list that describe it, in the form that [`plain`] makes.
const DESCRIPTIONS: [&str; 2] = ["schema", "stats"];

/// What tells that a page is not the last one, in the form that [`plain`] makes.
const NEXT: [&str; 5] = ["odatanextlink", "nextlink", "next", "nextpage", "skiptoken"];

/// The members that have such a link in them.
const LINKS: [&str; 3] = ["links", "paging", "pagination"];

/// Lists in lists; a batch of answers with pages has five.
const DEPTH_MAX: usize = 12;

/// Whether a text is JSON rather than lines or a table.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start_matches(is_space).starts_with(['{', '['])
}

/// The marks between the values of a JSON text sequence (RFC 7464), and byte order marks.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1e}' | '\u{feff}')
}

/// Reads all values of a text.
pub(super) fn read(found: &mut Found<'_>, text: &str) {
    let mut reader = Reader {
        found,
        text,
        counted: (0, 1),
        items: 0,
        lists: Vec::new(),
        is_batch: false,
    };
    reader.values();
    for list in std::mem::take(&mut reader.lists) {
        if let Some((line, problem)) = list.missing() {
            reader.found.wrong(line, problem);
        }
    }
}

/// The pages of one list, which follow each other.
struct Pages {
    /// The member that has the list, in lower case.
    name: String,
    /// Where the last page says that there is another one, and the member that says so.
    next: Option<(usize, String)>,
    /// The largest number of items that a page states for the whole list, and where.
    count: Option<(u64, usize)>,
    /// How many items the pages have.
    items: u64,
}

impl Pages {
    /// What shows that items are missing.
    fn missing(self) -> Option<(usize, Problem)> {
        if let Some((line, link)) = self.next {
            return Some((line, Problem::NotTheLastPage(link)));
        }
        let (count, line) = self.count?;
        let items = self.items;
        (count > items).then_some((line, Problem::ItemsMissing { count, items }))
    }
}

struct Reader<'a, 'b> {
    found: &'b mut Found<'a>,
    text: &'b str,
    /// A position, and its line.
    counted: (usize, usize),
    /// How many values were read that are not lists.
    items: u64,
    /// The lists that were found, by the names of their members.
    lists: Vec<Pages>,
    /// Whether the lists are answers to several requests, of which none is the next page of another.
    is_batch: bool,
}

impl<'b> Reader<'_, 'b> {
    fn values(&mut self) {
        let mut at = 0;
        loop {
            let rest = &self.text[at..];
            at += rest.len() - rest.trim_start_matches(is_space).len();
            if at == self.text.len() {
                return;
            }
            let rest = &self.text[at..];
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
            match values.next() {
                Some(Ok(value)) => {
                    self.value(value, 0);
                    at += values.byte_offset();
                }
                Some(Err(error)) => match self.broken(at, &error) {
                    Some(next) => at = next,
                    None => return,
                },
                None => return,
            }
        }
    }

    /// Reports a value that can't be read, and returns where the next one is. That is known only in
    /// JSON lines: where the next line is a value by itself. Otherwise nothing is read any more, as
    /// what follows can be a part of the broken value.
    fn broken(&mut self, at: usize, error: &serde_json::Error) -> Option<usize> {
        let first = self.line(at);
        let (line, problem) = match error.is_eof() {
            true => (first, Problem::CutOff),
            false => (first + error.line() - 1, problem(error)),
        };
        let rest = &self.text[at..];
        let next_line = rest.find('\n').map(|end| &rest[end..]);
        let next = next_line.map(|rest| rest.trim_start_matches(is_space));
        let next = next.filter(|next| {
            let line = next.lines().next().unwrap_or_default();
            rest.starts_with('{')
                && line.starts_with('{')
                && serde_json::from_str::<&RawValue>(line).is_ok()
        });
        let next = next.map(|next| self.text.len() - next.len());
        let last = match next {
            Some(next) => self.line(next) - 1,
            None => self.text.trim_end().matches('\n').count() + 1,
        };
        self.found.broken(Broken {
            line: line.min(last),
            lines: first..=last,
            problem,
        });
        next
    }

    fn value(&mut self, value: &'b RawValue, depth: usize) {
        if depth > DEPTH_MAX {
            return self.reject(value, Problem::TooDeep);
        }
        let text = value.get();
        let read = match text.as_bytes().first() {
            Some(b'{') => serde_json::from_str(text)
                .map(|Members(members)| self.object(value, &members, depth)),
            Some(b'[') => serde_json::from_str(text).map(|items: Vec<&'b RawValue>| {
                for item in items {
                    self.value(item, depth + 1);
                }
            }),
            Some(b'"') => serde_json::from_str(text).map(|text: String| {
                self.items += 1;
                let line = self.start(value);
                self.found.add(line, &text);
            }),
            _ => {
                let problem = self.no_text(value);
                self.reject(value, problem);
                Ok(())
            }
        };
        if let Err(error) = read {
            self.reject(value, problem(&error));
        }
    }

    fn object(&mut self, value: &'b RawValue, members: &[(String, &'b RawValue)], depth: usize) {
        let is_list = |(name, value): &&(String, &'b RawValue)| {
            LISTS.contains(&name.to_ascii_lowercase().as_str())
                && value.get().starts_with(['[', '{'])
        };
        let lists: Vec<_> = members.iter().filter(is_list).collect();
        let same = |wanted: &String| {
            let same = members.iter().filter(|(name, _)| plain(name) == *wanted);
            Some(same.collect::<Vec<_>>()).filter(|same| !same.is_empty())
        };
        let named = self.found.columns.iter().find_map(same).unwrap_or_default();
        let name = named.first().and_then(|(_, value)| text(value));
        let names_one = name.is_some_and(|name| self.found.wanted.read(&name).is_ok());
        let own = text_of(&named);
        match lists[..] {
            [(list, _)] if !names_one && self.others_name_one(members, list) => {
                self.reject(value, Problem::SeveralLists);
            }
            [(name, list)] if !names_one => {
                self.is_batch |= name.eq_ignore_ascii_case("responses");
                self.page(value, members, (name, list), depth);
            }
            [_, _, ..] if !names_one => self.reject(value, Problem::SeveralLists),
            // A device has all sorts of members, but no other devices.
            _ if lists.iter().any(|(_, list)| self.may_name_one(list))
                || names_one
                    && members
                        .iter()
                        .any(|(name, other)| self.has_other(name, other, &own)) =>
            {
                self.reject(value, Problem::SeveralLists);
            }
            _ => self.device(value, members, &named),
        }
    }

    /// Reads an object that has a list, and what it says about the rest of the list.
    fn page(
        &mut self,
        value: &'b RawValue,
        members: &[(String, &'b RawValue)],
        (name, list): (&str, &'b RawValue),
        depth: usize,
    ) {
        let name = name.to_ascii_lowercase();
        let earlier = self.lists.iter().position(|pages| pages.name == name);
        let earlier = earlier.map(|at| self.lists.remove(at));
        let mut pages = earlier.filter(|_| !self.is_batch).unwrap_or(Pages {
            name,
            next: None,
            count: None,
            items: 0,
        });
        pages.next = None;
        let before = self.items;
        self.value(list, depth + 1);
        // A list in a list may have the same name. Its items are counted here.
        self.lists.retain_mut(|inner| {
            let is_same = inner.name == pages.name;
            if is_same {
                pages.count = pages.count.max(inner.count);
                pages.next = inner.next.take();
            }
            !is_same
        });
        pages.items += self.items - before;
        let line = self.start(value);
        let count = members.iter().find_map(|(name, value)| count(name, value));
        pages.count = pages.count.max(count.map(|count| (count, line)));
        let next = members.iter().find_map(|(name, value)| next(name, value));
        pages.next = next.map(|link| (line, link)).or(pages.next);
        match self.is_batch {
            false => self.lists.push(pages),
            true => {
                if let Some((line, problem)) = pages.missing() {
                    self.found.wrong(line, problem);
                }
            }
        }
    }

    fn may_name_one(&self, list: &RawValue) -> bool {
        self.found.wanted == Wanted::Names || has_machine_id(list.get())
    }

    /// Whether a member beside a list names a device, too.
    fn others_name_one(&self, members: &[(String, &RawValue)], list: &str) -> bool {
        members.iter().any(|(name, value)| {
            name != list
                && !DESCRIPTIONS.contains(&plain(name).as_str())
                && match parsed(value) {
                    Value::Array(items) => items.iter().any(|item| match item {
                        Value::String(text) => self.found.wanted.read(text).is_ok(),
                        item => self.names_any(item, &self.found.columns),
                    }),
                    value @ Value::Object(_) => self.names_any(&value, &self.found.columns),
                    Value::String(text) => text.parse::<MachineId>().is_ok(),
                    _ => false,
                }
        })
    }

    /// Whether a member of a device's object names another device.
    ///
    /// A device has parts with names and with hashes of 40 digits. So, of texts in it, only ids in
    /// lists and what stands in a column of devices counts.
    fn has_other(&self, name: &str, value: &RawValue, own: &str) -> bool {
        if !value.get().starts_with(['[', '{']) {
            return false;
        }
        let name = plain(name);
        let is_hashes = name.contains("hash") || name.contains("sha1");
        let columns = self.found.columns.iter();
        let columns: Vec<String> = columns.filter(|name| *name != "name").cloned().collect();
        let mut all = Vec::new();
        let value = parsed(value);
        self.collect(&value, &columns, !is_hashes, &mut all);
        all.iter().any(|other| !is_same(other, own))
    }

    fn names_any(&self, value: &Value, columns: &[String]) -> bool {
        let mut all = Vec::new();
        self.collect(value, columns, true, &mut all);
        !all.is_empty()
    }

    /// Collects what names devices in a value: in these columns, and ids that are items of lists.
    fn collect<'v>(
        &self,
        value: &'v Value,
        columns: &[String],
        has_items: bool,
        all: &mut Vec<&'v str>,
    ) {
        match value {
            Value::Array(items) => {
                for item in items {
                    match item {
                        Value::String(text) if has_items && text.parse::<MachineId>().is_ok() => {
                            all.push(text);
                        }
                        item => self.collect(item, columns, has_items, all),
                    }
                }
            }
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(text) => {
                            let is_column = columns.contains(&plain(name));
                            if is_column && self.found.wanted.read(text).is_ok() {
                                all.push(text);
                            }
                        }
                        value => self.collect(value, columns, has_items, all),
                    }
                }
            }
            _ => {}
        }
    }

    /// Reads an object with these members that should name a device.
    fn device(
        &mut self,
        value: &'b RawValue,
        members: &[(String, &'b RawValue)],
        named: &[&(String, &'b RawValue)],
    ) {
        let kind = members.iter().find(|(name, _)| name == "type");
        let kind = kind.and_then(|(_, value)| text(value));
        match (named, kind.as_deref()) {
            ([(name, first), others @ ..], _) => {
                if others.iter().any(|(_, other)| other.get() != first.get()) {
                    return self.reject(value, Problem::Twice(name.clone()));
                }
                let texts: Vec<_> = members
                    .iter()
                    .filter_map(|(name, value)| Some((name.as_str(), text(value)?)))
                    .collect();
                let cells = texts.iter().map(|(name, text)| (*name, text.as_str()));
                if let Some((one, other)) = self.found.different(cells) {
                    let problem = Problem::Different(one.to_owned(), other.to_owned());
                    return self.reject(value, problem);
                }
                match text(first) {
                    _ if is_empty(first) => self.no_device(value),
                    Some(text) => {
                        self.items += 1;
                        let line = self.start(first);
                        self.found.add(line, &text);
                    }
                    None => {
                        let problem = self.no_text(first);
                        self.reject(value, problem);
                    }
                }
            }
            // What this program prints before its devices, between and after them, or in their place.
            ([], Some("run" | "waiting" | "unreadable" | "line" | "summary" | "error"))
                if !has_id(&parsed(value)) => {}
            _ => self.no_device(value),
        }
    }

    /// What is wrong with a value that should be a text: a number, say.
    fn no_text(&self, value: &RawValue) -> Problem {
        let wanted = self.found.wanted;
        let problem = wanted.read(value.get()).err();
        problem.unwrap_or_else(|| wanted.misses(value.get()))
    }

    fn no_device(&mut self, value: &RawValue) {
        let problem = Problem::Empty {
            wanted: self.found.wanted,
            column: self.found.column.to_owned(),
        };
        self.reject(value, problem);
    }

    /// Reports a value, with all its lines.
    fn reject(&mut self, value: &RawValue, problem: Problem) {
        self.items += 1;
        let line = self.start(value);
        let last = line + value.get().matches('\n').count();
        self.found.broken(Broken {
            line,
            lines: line..=last,
            problem,
        });
    }

    /// The line where a value begins.
    fn start(&mut self, value: &RawValue) -> usize {
        self.line(value.get().as_ptr().addr() - self.text.as_ptr().addr())
    }

    /// The line of a position. Positions mostly come in their order.
    fn line(&mut self, at: usize) -> usize {
        let lines = |from: usize, to: usize| self.text[from..to].matches('\n').count();
        let (before, line) = self.counted;
        let line = match before <= at {
            true => line + lines(before, at),
            false => line - lines(at, before),
        };
        self.counted = (at, line);
        line
    }
}

fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// The value, or null if it is nested too deeply.
fn parsed(value: &RawValue) -> Value {
    serde_json::from_str(value.get()).unwrap_or_default()
}

/// The text of the first of these members.
fn text_of(members: &[&(String, &RawValue)]) -> String {
    let first = members.first().and_then(|(_, value)| text(value));
    first.unwrap_or_default()
}

/// Whether two texts name one device, even if only one of them has its domain.
fn is_same(one: &str, other: &str) -> bool {
    let label = |name: &str| name.split('.').next().unwrap_or_default().to_lowercase();
    let is_short = !one.contains('.') || !other.contains('.');
    one.eq_ignore_ascii_case(other) || is_short && label(one) == label(other)
}

/// Whether one of the texts in a value is a machine id.
fn has_id(value: &Value) -> bool {
    match value {
        Value::String(text) => text.trim().parse::<MachineId>().is_ok(),
        Value::Array(items) => items.iter().any(has_id),
        Value::Object(members) => members.values().any(has_id),
        _ => false,
    }
}

/// The name of the member that tells that there is another page, if this one does.
fn next(name: &str, value: &RawValue) -> Option<String> {
    let is_link = |name: &str, value: &str| {
        NEXT.contains(&plain(name).as_str()) && !matches!(value, "null" | "\"\"" | "false")
    };
    match parsed_links(name, value) {
        Some(links) => {
            let mut links = links.iter();
            let link = links.find(|(name, value)| is_link(name, &value.to_string()));
            link.map(|(link, _)| format!("{name}.{link}"))
        }
        None => is_link(name, value.get()).then(|| name.to_owned()),
    }
}

/// How many items the whole list has, if a member tells that: `@odata.count`, a number or a text.
fn count(name: &str, value: &RawValue) -> Option<u64> {
    let is_count = plain(name) == "odatacount";
    let digits = || value.get().trim_matches('"').parse().ok();
    is_count.then(digits).flatten()
}

fn parsed_links(name: &str, value: &RawValue) -> Option<serde_json::Map<String, Value>> {
    let is_links = LINKS.contains(&plain(name).as_str());
    is_links
        .then(|| serde_json::from_str(value.get()).ok())
        .flatten()
}

fn is_empty(value: &RawValue) -> bool {
    matches!(value.get(), "null" | "\"\"")
}

/// Without the place, which is counted from where the value begins.
fn problem(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(text, _)| text);
    Problem::Json(text.to_owned())
}

/// The members of an object, each as often as it is there.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

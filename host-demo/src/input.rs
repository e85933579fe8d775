//! Lists of devices, as people have them: plain lines, tables with a header, JSON.
//!
//! Pure: text in; ids or names, and what is wrong with which line, out. Nothing is guessed: a line
//! that has neither is told of, with its number.
//!
//! ```
//! use host_demo::input::{Wanted, parse};
//!
//! let table = b"Device ID,Device name\n1e5bc9d7e413ddd7902c2932e418702b84d0cc07,pc-1\nunknown,pc-2\n";
//! let list = parse(table, None, Wanted::Ids)?;
//! assert_eq!(list.devices.len(), 1);
//! assert_eq!(list.wrong[0].line, 3);
//! # Ok::<(), host_demo::input::InputError>(())
//! ```

use std::collections::HashSet;
use std::fmt;

use serde_json::Value;

use crate::id::{ActionId, DnsName, MachineId};

/// What a device is named by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Named {
    /// Defender's id of it.
    Id(MachineId),
    /// Its name, which can be that of others too.
    Name(DnsName),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What devices are expected to be named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Defender's ids.
    Ids,
    /// Names. What has the form of Defender's id is one all the same: an id needs no search.
    Names,
}

impl Wanted {
    /// What a text names, if it is what is wanted.
    pub fn read(self, text: &str) -> Result<Named, Problem> {
        if let Ok(id) = text.parse() {
            return Ok(Named::Id(id));
        }
        // It has the characters of a name, too.
        if text.parse::<ActionId>().is_ok() {
            return Err(Problem::Guid(text.to_owned()));
        }
        let name = text.parse::<DnsName>();
        match self {
            Self::Names => name.map(Named::Name).map_err(|_| self.misses(text)),
            Self::Ids if !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Err(Problem::Digits {
                    text: beginning(text),
                    digits: text.len(),
                })
            }
            Self::Ids if name.is_ok() && text.contains(|c: char| c.is_ascii_alphabetic()) => {
                Err(Problem::Name(beginning(text)))
            }
            Self::Ids => Err(self.misses(text)),
        }
    }

    fn misses(self, text: &str) -> Problem {
        match self {
            Self::Ids => Problem::NoId(beginning(text)),
            Self::Names => Problem::NoName(beginning(text)),
        }
    }

    /// The columns that hold it, the surest first. Written in any way.
    ///
    /// Ids: of this program's own output and the API's actions, of the portal's export, of the
    /// API's machines. Names: of the API, of the portal's export, of other tools.
    const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Ids => &["machineid", "deviceid", "id"],
            Self::Names => &[
                "computerdnsname",
                "devicename",
                "dnsname",
                "hostname",
                "name",
            ],
        }
    }

    /// The column that people know.
    const fn column(self) -> &'static str {
        match self {
            Self::Ids => "Device ID",
            Self::Names => "Device name",
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ids => "id",
            Self::Names => "name",
        })
    }
}

/// What a list has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The devices, in the order of the list. No id and no name is there twice.
    pub devices: Vec<Listed>,
    /// How many lines name a device as an earlier one has named it.
    pub repeated: usize,
    /// The lines that name none.
    pub wrong: Vec<Wrong>,
}

/// A line that names a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number, from 1 on.
    pub line: usize,
    /// What it names the device by.
    pub device: Named,
}

/// A line that names no device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Its number, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Another kind of id.
    #[error(
        "{0:?} is a GUID, as Entra's device ids are; wanted is Defender's machine id, which has 40 \
         hexadecimal digits (\"Device ID\" in the portal's export), or a name with --by-name"
    )]
    Guid(String),
    /// Hexadecimal digits, and not 40.
    #[error("{text:?} has {digits} hexadecimal digits; a machine id has 40")]
    Digits {
        /// The text, or its beginning.
        text: String,
        /// How many it has.
        digits: usize,
    },
    /// What may be a name, where an id is wanted.
    #[error(
        "{0:?} is no machine id (40 hexadecimal digits); if it is a device's name, --by-name finds \
         the device"
    )]
    Name(String),
    /// Something else, where an id is wanted.
    #[error("{0:?} is no machine id (40 hexadecimal digits)")]
    NoId(String),
    /// Something else, where a name is wanted.
    #[error(
        "{0:?} is no device's name, which has letters, digits, hyphens, underscores and full stops"
    )]
    NoName(String),
    /// Nothing, where an id or a name should be.
    #[error("there is no {wanted} in the column {column:?}")]
    Empty {
        /// What should be there.
        wanted: Wanted,
        /// Where.
        column: String,
    },
    /// Not JSON, in a file of JSON lines.
    #[error("is not JSON: {0}")]
    Json(String),
}

/// Why a list can't be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// There is nothing in it.
    #[error("there is no device in it")]
    Empty,
    /// A table without the column.
    #[error(
        "there is no column {wanted:?} in it; there are: {}. Name one with --column",
        .there.join(", ")
    )]
    NoColumn {
        /// What was looked for.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },
    /// A table whose first line has data.
    #[error(
        "its first line has no names of columns; put them there, or leave only the ids or names, one \
         a line"
    )]
    NoHeader,
    /// A text in another encoding.
    #[error("it is UTF-16, as some programs call \"Unicode\"; save it as UTF-8")]
    Utf16,
    /// A table that can't be read.
    #[error("it can't be read as a table: {0}")]
    Table(String),
    /// JSON that can't be read.
    #[error("it can't be read as JSON: {0}")]
    Json(String),
}

/// Reads a list. What form it has is seen from its beginning: `{` or `[` is JSON, several columns
/// or the name of one are a table (with commas, semicolons or tabs), everything else is plain
/// lines. In these, `#` begins a comment.
///
/// `column` names the column, or the member of each JSON object, that has the ids or the names.
pub fn parse(bytes: &[u8], column: Option<&str>, wanted: Wanted) -> Result<List, InputError> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(InputError::Utf16);
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let first = text.lines().find(|line| !line.trim().is_empty());
    let first = first.ok_or(InputError::Empty)?.trim();
    let mut found = Found {
        wanted,
        columns: match column {
            Some(column) => vec![plain(column)],
            None => wanted.columns().iter().map(ToString::to_string).collect(),
        },
        column: column.unwrap_or(wanted.column()),
        list: List::default(),
        seen: HashSet::new(),
    };
    if first.starts_with('[') {
        found.array(text)?;
    } else if first.starts_with('{') {
        found.json_lines(text);
    } else if column.is_some() || found.is_table(text, first) {
        found.rows(text, delimiter(first))?;
    } else {
        found.lines(text);
    }
    let list = found.list;
    if list.devices.is_empty() && list.wrong.is_empty() {
        return Err(InputError::Empty);
    }
    Ok(list)
}

/// So much of a text that it can be shown.
fn beginning(text: &str) -> String {
    text.chars().take(60).collect()
}

/// The name of a column, however it is written.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

const DELIMITERS: [u8; 3] = *b",;\t";

/// What separates the columns of a table that begins like this.
fn delimiter(first: &str) -> u8 {
    let count = |delimiter: &u8| first.bytes().filter(|b| b == delimiter).count();
    let there = DELIMITERS.into_iter().filter(|d| count(d) > 0);
    there.max_by_key(count).unwrap_or(b',')
}

/// What a plain line names, without its comment.
fn named(line: &str) -> &str {
    let line = line.split('#').next().unwrap_or_default();
    bare(line.trim().trim_end_matches([',', ';']))
}

fn bare(text: &str) -> &str {
    text.trim().trim_matches(['"', '\'']).trim()
}

struct Found<'a> {
    wanted: Wanted,
    /// The columns to look for: the first that is there counts.
    columns: Vec<String>,
    /// What that is called where none is there.
    column: &'a str,
    list: List,
    seen: HashSet<Named>,
}

impl Found<'_> {
    fn add(&mut self, line: usize, text: &str) {
        match self.wanted.read(bare(text)) {
            Ok(device) if self.seen.insert(device.clone()) => {
                self.list.devices.push(Listed { line, device });
            }
            Ok(_) => self.list.repeated += 1,
            Err(problem) => self.wrong(line, problem),
        }
    }

    fn wrong(&mut self, line: usize, problem: Problem) {
        self.list.wrong.push(Wrong { line, problem });
    }

    fn empty(&mut self, line: usize, column: &str) {
        let (wanted, column) = (self.wanted, column.to_owned());
        self.wrong(line, Problem::Empty { wanted, column });
    }

    /// Whether it begins as a table does. What has a separator in its first line is none if that
    /// names a device, or is a comment and the next line does.
    fn is_table(&self, text: &str, first: &str) -> bool {
        let is_column = |text: &str| self.columns.contains(&plain(text));
        if !first.bytes().any(|b| DELIMITERS.contains(&b)) {
            return is_column(first);
        }
        let first = text.lines().map(named).find(|named| !named.is_empty());
        !first.is_some_and(|named| self.wanted.read(named).is_ok() && !is_column(named))
    }

    fn lines(&mut self, text: &str) {
        for (n, line) in text.lines().enumerate() {
            let named = named(line);
            if !named.is_empty() {
                self.add(n + 1, named);
            }
        }
    }

    fn rows(&mut self, text: &str, delimiter: u8) -> Result<(), InputError> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let failed = |error: csv::Error| InputError::Table(error.to_string());
        let header = reader.headers().map_err(failed)?.clone();
        if header.iter().any(|name| name.parse::<MachineId>().is_ok()) {
            return Err(InputError::NoHeader);
        }
        let position = |wanted: &String| header.iter().position(|name| plain(name) == *wanted);
        let at = self.columns.iter().find_map(position);
        let at = at.ok_or_else(|| InputError::NoColumn {
            wanted: self.column.to_owned(),
            there: header.iter().map(str::to_owned).collect(),
        })?;
        for row in reader.records() {
            let row = row.map_err(failed)?;
            let line = row
                .position()
                .map_or(0, |position| position.line() as usize);
            match row.get(at).filter(|cell| !cell.is_empty()) {
                Some(cell) => self.add(line, cell),
                // A line of separators only is an empty one.
                None if row.iter().all(str::is_empty) => {}
                None => self.empty(line, &header[at]),
            }
        }
        Ok(())
    }

    fn json_lines(&mut self, text: &str) {
        for (n, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str(line) {
                Ok(value) => self.value(n + 1, &value),
                Err(error) => self.wrong(n + 1, Problem::Json(error.to_string())),
            }
        }
    }

    /// The lines of an array are not known: its elements are counted.
    fn array(&mut self, text: &str) -> Result<(), InputError> {
        let values: Vec<Value> =
            serde_json::from_str(text).map_err(|error| InputError::Json(error.to_string()))?;
        for (n, value) in values.iter().enumerate() {
            self.value(n + 1, value);
        }
        Ok(())
    }

    fn value(&mut self, line: usize, value: &Value) {
        let Value::Object(members) = value else {
            return match value.as_str() {
                Some(text) => self.add(line, text),
                None => self.wrong(line, self.wanted.misses(&value.to_string())),
            };
        };
        let find = |wanted: &String| {
            let mut members = members.iter();
            members.find(|(name, _)| plain(name) == *wanted)
        };
        let found = self.columns.iter().find_map(find);
        match (found, members.get("type").and_then(Value::as_str)) {
            (Some((_, Value::String(text))), _) => self.add(line, text),
            // What this program prints before its devices, after them, or in their place.
            (None, Some("run" | "summary" | "error")) => {}
            _ => self.empty(line, self.column),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    const TWO: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";
    const GUID: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";

    fn named(list: &List) -> Vec<String> {
        let named = |listed: &Listed| listed.device.to_string();
        list.devices.iter().map(named).collect()
    }

    fn devices(text: &str, wanted: Wanted) -> Vec<String> {
        let list = parse(text.as_bytes(), None, wanted).unwrap();
        assert_eq!(list.wrong, [], "{text:?}");
        named(&list)
    }

    fn wrong(text: &str) -> Vec<String> {
        let list = parse(text.as_bytes(), None, Wanted::Ids).unwrap();
        list.wrong.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lists_are_read_as_people_have_them() {
        for text in [
            format!("{ONE}\n{TWO}"),
            // As Windows saves it, with a mark at the beginning.
            format!("\u{feff}{ONE}\r\n{TWO}\r\n"),
            format!("# cleaned on Friday\n\n  {ONE}  # Ann's\n\t\"{TWO}\",\n"),
            format!("{ONE},\n{TWO},\n"),
            format!("{}\n{TWO}\n", ONE.to_uppercase()),
            format!("machineId\n{ONE}\n{TWO}\n"),
            format!("Device ID,Device name\r\n{ONE},PC-1\r\n\"{TWO}\",\"PC, the second\"\r\n"),
            format!("name;machine_id\nPC-1;{ONE}\n;;\nPC-2; {TWO} \n"),
            format!("name\tId\nPC-1\t{ONE}\nPC-2\t{TWO}\n"),
            // Both Entra's and Defender's.
            format!("deviceId,machineId\n{GUID},{ONE}\n{GUID},{TWO}\n"),
            // A line break within a name.
            format!("name,id\n\"PC\n1\",{ONE}\nPC-2,{TWO}\n"),
            format!(
                "{{\"type\":\"run\"}}\n{{\"type\":\"device\",\"machine_id\":\"{ONE}\"}}\n{{\"machineId\":\"{TWO}\"}}\n{{\"type\":\"summary\"}}\n"
            ),
            format!("[\"{ONE}\",\n {{\"id\": \"{TWO}\"}}]"),
        ] {
            assert_eq!(devices(&text, Wanted::Ids), [ONE, TWO], "{text:?}");
        }
    }

    #[test]
    fn names_are_read_from_the_columns_that_have_them() {
        for text in [
            "pc-1.contoso.com\npc-2",
            "\u{feff}PC-1.contoso.com\r\nPC-2\r\n",
            "# cleaned, on Friday\n  pc-1.contoso.com  # Ann's\n'pc-2',\n",
            "hostname\npc-1.contoso.com\npc-2\n",
            "Device ID,Device name,Domain\r\n1,\"PC-1.contoso.com\",x\r\n2,pc-2,x\r\n",
            "name;dns_name\nAnn's;pc-1.contoso.com\n;;\nBob's; pc-2 \n",
            "id\tName\n1\tpc-1.contoso.com\n2\tpc-2\n",
            "{\"computerDnsName\":\"pc-1.contoso.com\",\"id\":\"1\"}\n{\"deviceName\":\"pc-2\"}\n\
             {\"type\":\"summary\"}\n",
            "[\"pc-1.contoso.com\", {\"hostname\": \"pc-2\"}]",
        ] {
            let found = devices(text, Wanted::Names);
            assert_eq!(found, ["pc-1.contoso.com", "pc-2"], "{text:?}");
        }
    }

    #[test]
    fn an_id_among_names_is_an_id_and_a_name_among_ids_is_told_how_it_is_found() {
        let list = format!("pc-1\n{ONE}\n# pc-2\nPC-1\ncafe\n");
        let list = parse(list.as_bytes(), None, Wanted::Names).unwrap();
        let expected = [
            (1, Named::Name("pc-1".parse().unwrap())),
            (2, Named::Id(ONE.parse().unwrap())),
            (5, Named::Name("cafe".parse().unwrap())),
        ];
        let found = list.devices.iter().map(|l| (l.line, l.device.clone()));
        assert_eq!(found.collect::<Vec<_>>(), expected);
        assert_eq!((list.repeated, list.wrong.len()), (1, 0));

        for (text, wanted, is_told) in [
            ("pc-1.contoso.com", Wanted::Ids, "--by-name"),
            (GUID, Wanted::Ids, "GUID"),
            (GUID, Wanted::Names, "GUID"),
            ("cafe", Wanted::Ids, "has 4 hexadecimal digits"),
            ("-.", Wanted::Ids, "is no machine id"),
            ("CONTOSO\\pc-1", Wanted::Names, "is no device's name"),
            ("pc-1'", Wanted::Names, "is no device's name"),
            ("ger\u{e4}t", Wanted::Names, "is no device's name"),
            (&"x".repeat(256), Wanted::Names, "is no device's name"),
        ] {
            let problem = wanted.read(text).unwrap_err().to_string();
            assert!(problem.contains(is_told), "{problem}");
        }
    }

    #[test]
    fn a_summary_names_no_device_and_what_is_no_text_is_no_name() {
        let text = format!(
            "{{\"type\":\"summary\",\"machineId\":\"{ONE}\"}}\n{{\"type\":\"error\"}}\n\
             {{\"type\":\"action\",\"action\":null}}\n7\n"
        );
        let list = parse(text.as_bytes(), Some("machine_id"), Wanted::Ids).unwrap();
        assert_eq!(named(&list), [ONE], "it does name one");
        let lines = |list: &List| list.wrong.iter().map(|w| w.line).collect::<Vec<_>>();
        assert_eq!(lines(&list), [3, 4]);
        let list = parse(b"[7, true, \"pc-1\"]", None, Wanted::Names).unwrap();
        assert_eq!(
            (named(&list), lines(&list)),
            (vec!["pc-1".to_owned()], vec![1, 2])
        );
        let list = parse(b"name,id\n,1\npc-1,2\n", None, Wanted::Names).unwrap();
        let told = "line 2: there is no name in the column \"name\"";
        assert_eq!(list.wrong[0].to_string(), told);
    }

    #[test]
    fn what_is_named_more_than_once_is_counted_and_comes_once() {
        let list = parse(
            format!("{ONE}\n{TWO}\n{}\n", ONE.to_uppercase()).as_bytes(),
            None,
            Wanted::Ids,
        );
        let list = list.unwrap();
        assert_eq!((list.devices.len(), list.repeated), (2, 1));
    }

    #[test]
    fn every_line_that_names_no_device_is_told_of_with_its_number() {
        let told = wrong(&format!("{ONE}\n{GUID}\n\nPC-1.contoso.com\n{TWO}0\n"));
        assert_eq!(told.len(), 3);
        assert!(
            told[0].starts_with("line 2: ") && told[0].contains("GUID"),
            "{}",
            told[0]
        );
        assert!(
            told[1].starts_with("line 4: \"PC-1.contoso.com\""),
            "{}",
            told[1]
        );
        assert!(
            told[2].starts_with("line 5: ") && told[2].contains("41"),
            "{}",
            told[2]
        );

        let told = wrong(&format!("name,id\nPC-1,\n\"PC\n2\",abc\nPC-3,{ONE}\n"));
        assert_eq!(told[0], "line 2: there is no id in the column \"id\"");
        assert!(told[1].starts_with("line 3: \"abc\""), "{}", told[1]);

        let told = wrong(&format!(
            "{{\"id\":\"{ONE}\"}}\n{{\"name\":1}}\n{{\"id\":\n"
        ));
        assert!(told[0].starts_with("line 2: there is no id"), "{}", told[0]);
        assert!(told[1].starts_with("line 3: is not JSON"), "{}", told[1]);
    }

    #[test]
    fn a_column_is_found_by_the_name_that_is_given_and_missed_with_the_names_that_are_there() {
        let text = format!("Asset,Sensor\n7,{ONE}\n");
        let list = parse(text.as_bytes(), Some("sensor"), Wanted::Ids).unwrap();
        assert_eq!(named(&list), [ONE]);
        let missed = parse(text.as_bytes(), Some("Device"), Wanted::Ids).unwrap_err();
        assert_eq!(
            missed.to_string(),
            "there is no column \"Device\" in it; there are: Asset, Sensor. Name one with --column"
        );
        assert!(matches!(
            parse(text.as_bytes(), None, Wanted::Ids),
            Err(InputError::NoColumn { .. })
        ));
        let json = format!("{{\"sensor\":\"{ONE}\",\"id\":\"7\"}}");
        assert_eq!(
            parse(json.as_bytes(), Some("sensor"), Wanted::Ids)
                .unwrap()
                .devices
                .len(),
            1
        );
    }

    #[test]
    fn what_is_no_list_is_refused_with_the_reason() {
        for (bytes, problem) in [
            (&b""[..], InputError::Empty),
            (b"\r\n \n", InputError::Empty),
            (b"# nothing\n", InputError::Empty),
            (b"machineId\n", InputError::Empty),
            (b"[]", InputError::Empty),
            (b"\xff\xfe1\0", InputError::Utf16),
        ] {
            assert_eq!(parse(bytes, None, Wanted::Ids), Err(problem));
        }
        let no_header = format!("PC-1,{ONE}\nPC-2,{TWO}\n");
        assert_eq!(
            parse(no_header.as_bytes(), None, Wanted::Ids),
            Err(InputError::NoHeader)
        );
        assert!(matches!(
            parse(b"[1,", None, Wanted::Ids),
            Err(InputError::Json(_))
        ));
        let no_header = parse(b"pc-1,Ann\npc-2,Bob\n", None, Wanted::Names);
        assert_eq!(
            no_header.unwrap_err().to_string(),
            "there is no column \"Device name\" in it; there are: pc-1, Ann. Name one with --column"
        );
    }

    #[test]
    fn a_million_lines_are_no_trouble() {
        let ids: String = (0..1_000_000).map(|n| format!("{n:040x}\n")).collect();
        let names: String = (0..1_000_000).map(|n| format!("pc-{n}\n")).collect();
        for (text, wanted) in [(ids, Wanted::Ids), (names, Wanted::Names)] {
            let list = parse(text.as_bytes(), None, wanted).unwrap();
            assert_eq!(list.devices.len(), 1_000_000);
        }
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_each_device_comes_once_and_nothing_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            lines in proptest::collection::vec("[0-9a-f]{40}|[a-z,;\t\"{}\\[\\]:]{0,20}|machineId", 0..12),
        ) {
            for text in [bytes, lines.join("\n").into_bytes()] {
                for wanted in [Wanted::Ids, Wanted::Names] {
                    let Ok(list) = parse(&text, None, wanted) else {
                        continue;
                    };
                    let once: HashSet<_> = list.devices.iter().map(|l| &l.device).collect();
                    prop_assert_eq!(once.len(), list.devices.len());
                    let names_one = |listed: &Listed| matches!(listed.device, Named::Name(_));
                    prop_assert!(wanted == Wanted::Names || !list.devices.iter().any(names_one));
                }
            }
        }

        /// Each line is a device, one more time, or wrong, and nothing is lost in between.
        #[test]
        fn of_plain_lines_each_is_accounted_for(
            lines in proptest::collection::vec("[0-9a-f]{40}|[a-f]{2}|pc-[0-9]|[ _.!]{1,4}|x y", 1..20),
        ) {
            for wanted in [Wanted::Ids, Wanted::Names] {
                let list = parse(lines.join("\r\n").as_bytes(), None, wanted);
                let said = lines.iter().filter(|line| !line.trim().is_empty()).count();
                let Ok(list) = list else {
                    prop_assert_eq!(said, 0);
                    continue;
                };
                let sum = list.devices.len() + list.repeated + list.wrong.len();
                prop_assert_eq!(sum, said);
                for listed in &list.devices {
                    let line = lines[listed.line - 1].trim();
                    prop_assert_eq!(listed.device.to_string(), line);
                }
            }
        }
    }
}

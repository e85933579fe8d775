//! Lists of devices, as people have them: plain lines, tables with a header, JSON.
//!
//! Pure: text in; ids, and what is wrong with which line, out. Nothing is guessed: a line that names
//! no device by Defender's id is told of, with its number.

use std::collections::HashSet;
use std::fmt;

use serde_json::Value;

use crate::id::{ActionId, MachineId};

/// What a list has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The devices, each once, in the order of the list.
    pub devices: Vec<MachineId>,
    /// How many lines name a device that an earlier one has named.
    pub repeated: usize,
    /// The lines that name none.
    pub wrong: Vec<Wrong>,
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
         hexadecimal digits (\"Device ID\" in the portal's export)"
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
    /// Something else.
    #[error("{0:?} is no machine id (40 hexadecimal digits)")]
    NoId(String),
    /// Nothing, where an id should be.
    #[error("there is no id in the column {0:?}")]
    Empty(String),
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
        "its first line has no names of columns; put them there, or leave only the ids, one a line"
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

/// The columns that hold Defender's id, the surest first: of this program's own output and the API's
/// actions, of the portal's export, of the API's machines. Written in any way.
const COLUMNS: [&str; 3] = ["machineid", "deviceid", "id"];

/// Reads a list. What form it has is seen from its beginning: `{` or `[` is JSON, several columns or
/// the name of one are a table (with commas, semicolons or tabs), everything else is plain lines. In
/// these, `#` begins a comment.
///
/// `column` names the column, or the member of each JSON object, that has the ids.
pub fn parse(bytes: &[u8], column: Option<&str>) -> Result<List, InputError> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(InputError::Utf16);
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let first = text.lines().find(|line| !line.trim().is_empty());
    let first = first.ok_or(InputError::Empty)?.trim();
    let mut found = Found::default();
    if first.starts_with('[') {
        array(text, column, &mut found)?;
    } else if first.starts_with('{') {
        json_lines(text, column, &mut found);
    } else if let Some(delimiter) = table(first, column) {
        rows(text, delimiter, column, &mut found)?;
    } else {
        for (n, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let id = line.trim().trim_end_matches([',', ';']);
            if !id.is_empty() {
                found.add(n + 1, id);
            }
        }
    }
    let list = found.list;
    if list.devices.is_empty() && list.wrong.is_empty() {
        return Err(InputError::Empty);
    }
    Ok(list)
}

#[derive(Default)]
struct Found {
    list: List,
    seen: HashSet<MachineId>,
}

impl Found {
    fn add(&mut self, line: usize, text: &str) {
        let text = text.trim().trim_matches(['"', '\'']).trim();
        match text.parse::<MachineId>() {
            Ok(id) if self.seen.insert(id.clone()) => self.list.devices.push(id),
            Ok(_) => self.list.repeated += 1,
            Err(_) => self.wrong(line, problem(text)),
        }
    }

    fn wrong(&mut self, line: usize, problem: Problem) {
        self.list.wrong.push(Wrong { line, problem });
    }
}

fn problem(text: &str) -> Problem {
    let shown: String = text.chars().take(60).collect();
    if text.parse::<ActionId>().is_ok() {
        Problem::Guid(shown)
    } else if !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let digits = text.len();
        Problem::Digits {
            text: shown,
            digits,
        }
    } else {
        Problem::NoId(shown)
    }
}

/// The name of a column, however it is written.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// What separates the columns, if this is the first line of a table.
fn table(first: &str, column: Option<&str>) -> Option<u8> {
    let count = |delimiter: &u8| first.bytes().filter(|b| b == delimiter).count();
    let first_is_id = || {
        first
            .trim_end_matches([',', ';'])
            .parse::<MachineId>()
            .is_ok()
    };
    let widest = *b",;\t".iter().max_by_key(|d| count(d))?;
    let is_header = column.is_some() || COLUMNS.contains(&plain(first).as_str());
    match count(&widest) {
        0 => is_header.then_some(b','),
        _ if first_is_id() => None,
        _ => Some(widest),
    }
}

fn rows(
    text: &str,
    delimiter: u8,
    column: Option<&str>,
    found: &mut Found,
) -> Result<(), InputError> {
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
    let position = |wanted: &str| header.iter().position(|name| plain(name) == wanted);
    let at = match column {
        Some(column) => position(&plain(column)),
        None => COLUMNS.iter().find_map(|name| position(name)),
    };
    let at = at.ok_or_else(|| InputError::NoColumn {
        wanted: column.unwrap_or("Device ID").to_owned(),
        there: header.iter().map(str::to_owned).collect(),
    })?;
    for row in reader.records() {
        let row = row.map_err(failed)?;
        let line = row
            .position()
            .map_or(0, |position| position.line() as usize);
        match row.get(at).filter(|id| !id.is_empty()) {
            Some(id) => found.add(line, id),
            // A line of separators only is an empty one.
            None if row.iter().all(str::is_empty) => {}
            None => found.wrong(line, Problem::Empty(header[at].to_owned())),
        }
    }
    Ok(())
}

fn json_lines(text: &str, column: Option<&str>, found: &mut Found) {
    for (n, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(value) => member(n + 1, &value, column, found),
            Err(error) => found.wrong(n + 1, Problem::Json(error.to_string())),
        }
    }
}

/// The lines of an array are not known: its elements are counted.
fn array(text: &str, column: Option<&str>, found: &mut Found) -> Result<(), InputError> {
    let values: Vec<Value> =
        serde_json::from_str(text).map_err(|error| InputError::Json(error.to_string()))?;
    for (n, value) in values.iter().enumerate() {
        member(n + 1, value, column, found);
    }
    Ok(())
}

/// The id in a JSON value. What this program prints besides devices is passed over.
fn member(line: usize, value: &Value, column: Option<&str>, found: &mut Found) {
    let Value::Object(members) = value else {
        return match value.as_str() {
            Some(id) => found.add(line, id),
            None => found.wrong(line, problem(&value.to_string())),
        };
    };
    if column.is_none()
        && members
            .get("type")
            .is_some_and(|t| t == "summary" || t == "error")
    {
        return;
    }
    let get = |wanted: &str| {
        let mut members = members.iter();
        members
            .find(|(name, _)| plain(name) == wanted)
            .map(|(_, value)| value)
    };
    let value = match column {
        Some(column) => get(&plain(column)),
        None => COLUMNS.iter().find_map(|name| get(name)),
    };
    match value.and_then(Value::as_str) {
        Some(id) => found.add(line, id),
        None => found.wrong(
            line,
            Problem::Empty(column.unwrap_or("machineId").to_owned()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    const TWO: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";
    const GUID: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";

    fn devices(text: &str) -> Vec<String> {
        let list = parse(text.as_bytes(), None).unwrap();
        assert_eq!(list.wrong, [], "{text:?}");
        list.devices.iter().map(ToString::to_string).collect()
    }

    fn wrong(text: &str) -> Vec<String> {
        let list = parse(text.as_bytes(), None).unwrap();
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
                "{{\"type\":\"device\",\"machine_id\":\"{ONE}\"}}\n{{\"machineId\":\"{TWO}\"}}\n{{\"type\":\"summary\"}}\n"
            ),
            format!("[\"{ONE}\",\n {{\"id\": \"{TWO}\"}}]"),
        ] {
            assert_eq!(devices(&text), [ONE, TWO], "{text:?}");
        }
    }

    #[test]
    fn what_is_named_more_than_once_is_counted_and_comes_once() {
        let list = parse(
            format!("{ONE}\n{TWO}\n{}\n", ONE.to_uppercase()).as_bytes(),
            None,
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
        let list = parse(text.as_bytes(), Some("sensor")).unwrap();
        assert_eq!(list.devices[0].as_str(), ONE);
        let missed = parse(text.as_bytes(), Some("Device")).unwrap_err();
        assert_eq!(
            missed.to_string(),
            "there is no column \"Device\" in it; there are: Asset, Sensor. Name one with --column"
        );
        assert!(matches!(
            parse(text.as_bytes(), None),
            Err(InputError::NoColumn { .. })
        ));
        let json = format!("{{\"sensor\":\"{ONE}\",\"id\":\"7\"}}");
        assert_eq!(
            parse(json.as_bytes(), Some("sensor"))
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
            assert_eq!(parse(bytes, None), Err(problem));
        }
        let no_header = format!("PC-1,{ONE}\nPC-2,{TWO}\n");
        assert_eq!(parse(no_header.as_bytes(), None), Err(InputError::NoHeader));
        assert!(matches!(parse(b"[1,", None), Err(InputError::Json(_))));
    }

    #[test]
    fn a_million_lines_are_no_trouble() {
        let text: String = (0..1_000_000).map(|n| format!("{n:040x}\n")).collect();
        assert_eq!(
            parse(text.as_bytes(), None).unwrap().devices.len(),
            1_000_000
        );
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_each_device_comes_once_and_nothing_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            lines in proptest::collection::vec("[0-9a-f]{40}|[a-z,;\t\"{}\\[\\]:]{0,20}|machineId", 0..12),
        ) {
            for text in [bytes, lines.join("\n").into_bytes()] {
                if let Ok(list) = parse(&text, None) {
                    let once: HashSet<_> = list.devices.iter().collect();
                    prop_assert_eq!(once.len(), list.devices.len());
                }
            }
        }
    }
}

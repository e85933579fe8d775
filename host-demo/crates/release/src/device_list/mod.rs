//! Lists of devices, as people have them: plain lines, tables with a header, JSON.
//!
//! Pure: bytes in; ids or names, and what is wrong with which line, out. Every line is accounted
//! for: it names a device, repeats one, is blank, a comment, a header or a line above it, or is
//! reported with its number. Nothing is guessed.
//!
//! ```
//! use defender_release::device_list::{Wanted, parse};
//!
//! let table = b"Device ID,Device name\n1e5bc9d7e413ddd7902c2932e418702b84d0cc07,pc-1\nunknown,pc-2\n";
//! let list = parse(table, None, Wanted::Ids)?;
//! assert_eq!(list.devices.len(), 1);
//! assert_eq!(list.wrong[0].line, 3);
//! # Ok::<(), defender_release::device_list::InputError>(())
//! ```

mod json;
mod record;
mod table;
mod text;
mod wanted;

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;

use defender_core::id::MachineId;

use record::Broken;
pub use wanted::{Named, Problem, Wanted};

/// What a list has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The devices, in the order of the list. No id and no name is there twice.
    pub devices: Vec<Listed>,
    /// How many lines name a device as an earlier one has named it. Case does not count.
    pub repeated: usize,
    /// What is wrong. Where there is something, devices may be missing.
    pub wrong: Vec<Wrong>,
    /// The lines above a table's header that are neither blank nor known: its title, say.
    pub titles: Vec<usize>,
}

/// A line that names a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number, from 1 on.
    pub line: usize,
    /// What it names the device by.
    pub device: Named,
}

/// A line that names no device, or lines that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The line where it goes wrong, from 1 on.
    pub line: usize,
    /// All lines that are not read because of it.
    pub lines: RangeInclusive<usize>,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.on_line(self.line, f)?;
        match (self.lines.start(), self.lines.end()) {
            (first, last) if first == last => Ok(()),
            (first, last) => write!(f, "; lines {first} to {last} are not read"),
        }
    }
}

/// Why a list can't be read at all. Worded to follow the list's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// There is nothing in it.
    #[error("has no device in it")]
    Empty,
    /// A table without the column.
    #[error("has no column {wanted:?}; its columns are: {}", some(.there))]
    NoColumn {
        /// What was looked for.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },
    /// A table with two columns of one name.
    #[error("has {count} columns {column:?}")]
    SameColumns {
        /// The name.
        column: String,
        /// How many have it.
        count: usize,
    },
    /// A table whose first line has data.
    #[error("has several columns, but no header: its first line has an id")]
    NoHeader,
    /// A file of another format.
    #[error("is {what}; {instead}")]
    NotAList {
        /// What it is.
        what: &'static str,
        /// What helps.
        instead: &'static str,
    },
}

/// Reads a list. What form it has is seen from its beginning: `{` or `[` is JSON, a header with the
/// column is a table (with commas, semicolons, tabs or vertical bars), everything else is plain
/// lines. In these, `#` at the start of a line or
/// after white space begins a comment.
///
/// `column` names the column, or the member of each JSON object, that has the ids or the names.
pub fn parse(bytes: &[u8], column: Option<&str>, wanted: Wanted) -> Result<List, InputError> {
    let text = text::decode(bytes)?;
    let mut found = Found {
        wanted,
        columns: match column {
            Some(column) => vec![plain(column)],
            None => wanted.columns().iter().map(ToString::to_string).collect(),
        },
        column: column.unwrap_or(wanted.column()),
        is_column_named: column.is_some(),
        list: List::default(),
        seen: HashSet::new(),
    };
    if json::is_json(&text) {
        json::read(&mut found, &text);
    } else if table::read(&mut found, &text)?.is_continue() {
        found.lines(&text);
    }
    let list = found.list;
    if list.devices.is_empty() && list.wrong.is_empty() {
        return Err(InputError::Empty);
    }
    Ok(list)
}

/// The first of these names, and how many more there are.
fn some(names: &[String]) -> String {
    const MOST: usize = 10;
    let first = names.iter().take(MOST);
    let first: Vec<_> = first
        .map(|name| wanted::shown(name).escape_debug().to_string())
        .collect();
    match names.len().saturating_sub(MOST) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The name of a column, however it is written.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// What a plain line names, without its comment, which has white space before it.
fn named(line: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| !line[..*at].ends_with(|c: char| !c.is_whitespace());
    let comment = line.match_indices('#').find(begins);
    let line = comment.map_or(line, |(at, _)| &line[..at]);
    bare(line.trim().trim_end_matches([',', ';']))
}

/// A text without quotation marks around, nor the signs by which a spreadsheet is kept from making a
/// number of it: `="123"` and `'123`.
fn bare(text: &str) -> &str {
    let text = text.trim();
    let text = match text.strip_prefix('=') {
        Some(rest) if rest.starts_with('"') => rest,
        _ => text,
    };
    text.trim_matches(['"', '\'']).trim()
}

/// Whether a text has what may be a machine id: 40 hexadecimal digits.
fn has_machine_id(text: &str) -> bool {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.map(str::parse::<MachineId>).any(|id| id.is_ok())
}

/// What is found in a list, and what is looked for in it.
struct Found<'a> {
    wanted: Wanted,
    /// The columns to look for: the first that is there counts.
    columns: Vec<String>,
    /// What that is called where none is there.
    column: &'a str,
    /// Whether the caller named it.
    is_column_named: bool,
    list: List,
    seen: HashSet<Named>,
}

impl Found<'_> {
    fn add(&mut self, line: usize, text: &str) {
        self.add_of(line..=line, text);
    }

    /// Adds what a text names that stands somewhere on these lines.
    fn add_of(&mut self, lines: RangeInclusive<usize>, text: &str) {
        let line = *lines.start();
        match self.wanted.read(bare(text)) {
            Ok(device) if self.seen.insert(device.folded()) => {
                self.list.devices.push(Listed { line, device });
            }
            Ok(_) => self.list.repeated += 1,
            Err(problem) => self.broken(Broken {
                line,
                lines,
                problem,
            }),
        }
    }

    fn wrong(&mut self, line: usize, problem: Problem) {
        let lines = line..=line;
        self.list.wrong.push(Wrong {
            line,
            lines,
            problem,
        });
    }

    fn broken(&mut self, broken: Broken) {
        let Broken {
            line,
            lines,
            problem,
        } = broken;
        self.list.wrong.push(Wrong {
            line,
            lines,
            problem,
        });
    }

    /// Which of these columns has the devices.
    fn position(&self, columns: &[impl AsRef<str>]) -> Option<usize> {
        let at = |wanted: &String| {
            columns
                .iter()
                .position(|name| plain(name.as_ref()) == *wanted)
        };
        self.columns.iter().find_map(at)
    }

    /// The names of two columns that have ids of different devices.
    fn different<'c>(
        &self,
        cells: impl Iterator<Item = (&'c str, &'c str)>,
    ) -> Option<(&'c str, &'c str)> {
        if self.wanted == Wanted::Names {
            return None;
        }
        let mut first: Option<(&str, Named)> = None;
        for (column, cell) in cells {
            if !self.columns.contains(&plain(column)) {
                continue;
            }
            match (self.wanted.read(bare(cell)), &first) {
                (Ok(id), Some((other, earlier))) if id != *earlier => return Some((other, column)),
                (Ok(id), None) => first = Some((column, id)),
                _ => {}
            }
        }
        None
    }

    fn lines(&mut self, text: &str) {
        for (line, text) in (1..).zip(text.split('\n')) {
            let named = named(text);
            if named.is_empty() || table::is_known(text) {
                continue;
            }
            if text.contains('\0') {
                self.wrong(line, Problem::Nul);
            } else if text.matches('"').count() % 2 == 1 {
                self.wrong(line, Problem::StrayQuote);
            } else {
                self.add(line, named);
            }
        }
    }
}

#[cfg(test)]
mod tests;

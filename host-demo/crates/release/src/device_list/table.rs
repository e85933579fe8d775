//! Tables with a header: which line that is, what may stand above it, and what each row names.

use std::ops::ControlFlow;

use super::record::{Broken, Long, Record, Records};
use super::{Found, InputError, Named, Problem, Wanted, has_machine_id, named, plain};
use defender_core::id::{ActionId, MachineId};

/// What separates columns.
const DELIMITERS: [char; 4] = [',', ';', '\t', '|'];

/// So many lines are looked at for the header; a title above it is shorter.
const TITLE_MAX: usize = 20;

/// Reads a text as a table, if it has a header, or looks as if it should have one.
pub(super) fn read(found: &mut Found<'_>, text: &str) -> Result<ControlFlow<()>, InputError> {
    match look_for_header(found, text) {
        Search::Found(header) => {
            header.check_titles(found);
            header.check_columns(found)?;
            header.rows(found, text);
        }
        // Without a header, no row can be read.
        Search::Broken(broken) => found.broken(Broken {
            lines: *broken.lines.start()..=last_line(text),
            ..broken
        }),
        Search::Plain => return Ok(ControlFlow::Continue(())),
        Search::None { first } => {
            if has_machine_id(first) {
                return Err(InputError::NoHeader);
            }
            let mut records = Records::new(first, 0, 1, delimiters(first)[0]);
            let there = match records.next() {
                Some(Ok(record)) => record.fields.iter().map(ToString::to_string).collect(),
                _ => vec![first.to_owned()],
            };
            return Err(InputError::NoColumn {
                wanted: found.column.to_owned(),
                there,
            });
        }
    }
    Ok(ControlFlow::Break(()))
}

/// What a look for the header comes to.
enum Search<'a> {
    Found(Header<'a>),
    /// The header is there, and can't be read.
    Broken(Broken),
    /// It is no table.
    Plain,
    /// It is a table without a header, or without the column.
    None {
        first: &'a str,
    },
}

struct Header<'a> {
    record: Record<'a>,
    delimiter: char,
    /// Where the first row is.
    next: usize,
    /// The lines above it that are neither blank nor known.
    titles: Vec<(usize, &'a str)>,
}

fn look_for_header<'a>(found: &Found<'_>, text: &'a str) -> Search<'a> {
    let mut declared = None;
    let mut titles: Vec<(usize, &str)> = Vec::new();
    let mut at = 0;
    for (line, raw) in (1..).zip(text.split('\n')) {
        let start = at;
        at += raw.len() + 1;
        if is_blank(raw) {
            continue;
        }
        if let Some(delimiter) = declaration(raw) {
            declared = Some(delimiter);
            continue;
        }
        if begins_declaration(raw) {
            return Search::None { first: raw };
        }
        let candidates = match declared {
            Some(delimiter) => vec![delimiter],
            None => delimiters(raw),
        };
        for delimiter in candidates {
            match Records::new(text, start, line, delimiter).next() {
                Some(Ok(record)) if found.position(&record.fields).is_some() => {
                    // The header and a row in one line, or a quotation mark over both.
                    if let (true, Some(long)) = (has_machine_id(record.raw), record.long.first()) {
                        return Search::Broken(record.broken(long.line, Problem::QuotedRows));
                    }
                    if has_machine_id(record.raw) {
                        return Search::None { first: record.raw };
                    }
                    let header = Header {
                        next: (start + record.raw.len() + 1).min(text.len()),
                        record,
                        delimiter,
                        titles,
                    };
                    return match header.hidden_row(found) {
                        Some(line) => {
                            let broken = header.record.broken(line, Problem::QuotedRows);
                            Search::Broken(broken)
                        }
                        None => Search::Found(header),
                    };
                }
                Some(Err(broken)) => {
                    let cells: Vec<&str> = raw.split(delimiter).collect();
                    if found.position(&cells).is_some() {
                        return Search::Broken(broken);
                    }
                }
                _ => {}
            }
        }
        if raw.trim_start().starts_with('#') || is_type(raw) {
            continue;
        }
        let names_one = found.wanted.read(named(raw)).is_ok();
        if !found.is_column_named && found.wanted == Wanted::Ids && names_one {
            return Search::Plain;
        }
        titles.push((line, raw));
        if has_machine_id(raw) || titles.len() > TITLE_MAX {
            break;
        }
    }
    let Some((_, first)) = titles.first() else {
        return Search::Plain;
    };
    let is_plain = !first.contains(DELIMITERS) || found.wanted.read(named(first)).is_ok();
    match is_plain && !found.is_column_named {
        true => Search::Plain,
        false => Search::None { first },
    }
}

impl Header<'_> {
    fn line(&self) -> usize {
        *self.record.lines.start()
    }

    /// How many columns there are, without those at the end that have no name.
    fn width(&self) -> usize {
        let is_named = |field: &std::borrow::Cow<'_, str>| !field.is_empty();
        let last = self.record.fields.iter().rposition(is_named);
        last.map_or(1, |last| last + 1)
    }

    /// What stands above a header is a title, unless it could name a device.
    fn check_titles(&self, found: &mut Found<'_>) {
        for (line, raw) in &self.titles {
            let cells = raw
                .split(self.delimiter)
                .filter(|cell| !cell.trim().is_empty());
            let cells = cells.count();
            let names_one = cells == 1 && found.wanted.read(named(raw)).is_ok();
            if has_machine_id(raw) || names_one || (cells > 1 && cells == self.width()) {
                let header = self.line();
                found.wrong(*line, Problem::AboveHeader { header });
            } else {
                found.list.titles.push(*line);
            }
        }
    }

    /// One column has the devices, and no second one has its name.
    fn check_columns(&self, found: &Found<'_>) -> Result<(), InputError> {
        let column = &self.record.fields[self.at(found)];
        let same = self
            .record
            .fields
            .iter()
            .filter(|field| plain(field) == plain(column));
        match same.count() {
            1 => Ok(()),
            count => Err(InputError::SameColumns {
                column: column.to_string(),
                count,
            }),
        }
    }

    fn at(&self, found: &Found<'_>) -> usize {
        found.position(&self.record.fields).unwrap_or_default()
    }

    fn rows(&self, found: &mut Found<'_>, text: &str) {
        let at = self.at(found);
        let name = plain(&self.record.fields[at]);
        let next = self.record.lines.end() + 1;
        let last = last_line(text);
        let (before, mut rows, mut fitting) = (found.list.wrong.len(), 0, 0);
        for row in Records::new(text, self.next, next, self.delimiter) {
            let row = match row {
                Ok(row) => row,
                Err(broken) => {
                    found.broken(broken);
                    continue;
                }
            };
            let line = *row.lines.start();
            let is_type = row.long.is_empty() && is_type(row.raw);
            if is_blank(row.raw) || declaration(row.raw).is_some() || is_type {
                continue;
            }
            if row.raw.contains('\0') {
                found.broken(row.broken(line, Problem::Nul));
            } else if let Some(long) = row.long.iter().find(|l| self.hides_rows(l, at, found)) {
                found.broken(row.broken(long.line, Problem::QuotedRows));
            } else if self.is_same(&row) || self.is_comment(&row, at) {
                // The header once more, as where two exports were put together.
            } else if found.wanted == Wanted::Names && row.fields.iter().any(|f| plain(f) == name) {
                found.broken(Broken {
                    line,
                    lines: line..=last,
                    problem: Problem::OtherHeader,
                });
                return;
            } else if !self.fits(&row) {
                rows += 1;
                let problem = Problem::Fields {
                    found: row.fields.len(),
                    header: self.record.fields.len(),
                };
                found.broken(row.broken(line, problem));
            } else if let Some((one, other)) = self
                .different(&row, found)
                .or_else(|| self.stray_id(&row, at))
            {
                fitting += 1;
                found.broken(row.broken(line, Problem::Different(one, other)));
            } else {
                fitting += 1;
                match row.fields.get(at).filter(|cell| !cell.is_empty()) {
                    Some(cell) => found.add_of(row.lines.clone(), cell),
                    None => {
                        let column = self.record.fields[at].to_string();
                        let wanted = found.wanted;
                        found.broken(row.broken(line, Problem::Empty { wanted, column }));
                    }
                }
            }
        }
        // Then it is the header that is wrong.
        if fitting == 0 && rows > 0 {
            found.list.wrong.truncate(before);
            found.broken(Broken {
                line: self.line(),
                lines: self.line()..=last,
                problem: Problem::NoRowFits(self.record.fields.len()),
            });
        }
    }

    /// The columns in which a row has ids of different devices.
    fn different(&self, row: &Record<'_>, found: &Found<'_>) -> Option<(String, String)> {
        let columns = self.record.fields.iter().map(AsRef::as_ref);
        let cells = row.fields.iter().map(AsRef::as_ref);
        let (one, other) = found.different(columns.zip(cells))?;
        Some((one.to_owned(), other.to_owned()))
    }

    /// The devices' own column and another one with an id in a row that has one where no id belongs:
    /// so look two rows that lost the line break between them. Hashes of 40 digits, and the device
    /// that a device was merged into, have columns of their own.
    fn stray_id(&self, row: &Record<'_>, at: usize) -> Option<(String, String)> {
        const WITH_DIGITS: [&str; 6] = [
            "hash",
            "sha1",
            "thumbprint",
            "fingerprint",
            "merged",
            "correlation",
        ];

        let belongs = |column: &str| {
            let name = plain(column);
            ["id", "machineid", "deviceid"].contains(&name.as_str())
                || WITH_DIGITS.iter().any(|word| name.contains(word))
        };
        let own = row.fields.get(at)?.trim();
        let is_stray = |(n, cell): &(usize, &str)| {
            *n != at
                && cell.trim().parse::<MachineId>().is_ok()
                && !cell.trim().eq_ignore_ascii_case(own)
                && !self
                    .record
                    .fields
                    .get(*n)
                    .is_some_and(|column| belongs(column))
        };
        let cells = row.fields.iter().map(AsRef::as_ref).enumerate();
        let (n, _) = cells.into_iter().find(is_stray)?;
        let column = |n: usize| match self.record.fields.get(n) {
            Some(name) if !name.is_empty() => name.to_string(),
            _ => (n + 1).to_string(),
        };
        Some((column(at), column(n)))
    }

    /// Whether a row has a field for each named column, and nothing after the last column.
    /// (Spreadsheets end rows in empty fields.)
    fn fits(&self, row: &Record<'_>) -> bool {
        let most = self.record.fields.len();
        let after = row.fields.iter().skip(most);
        row.fields.len() >= self.width() && after.clone().all(|field| field.is_empty())
    }

    fn is_same(&self, row: &Record<'_>) -> bool {
        let of = |record: &Record<'_>| {
            let mut names: Vec<String> = record.fields.iter().map(|field| plain(field)).collect();
            while names.last().is_some_and(String::is_empty) {
                names.pop();
            }
            names
        };
        of(row) == of(&self.record)
    }

    /// Whether a row is one that was taken out, or a remark. Where a column before the one with the
    /// devices begins with `#`, that can be a number.
    fn is_comment(&self, row: &Record<'_>, at: usize) -> bool {
        let rest = row.fields.iter().skip(1);
        row.fields[0].starts_with('#') && (at == 0 || rest.clone().all(|field| field.is_empty()))
    }

    /// Where a quotation mark is opened in the header that hides rows, if one does. The name of the
    /// devices' own column is known, so there is none in it.
    fn hidden_row(&self, found: &Found<'_>) -> Option<usize> {
        let at = self.at(found);
        let mut others = self.record.long.iter().filter(|long| long.index != at);
        let hides = others.find(|long| self.hides_rows(long, at, found));
        hides.map(|long| long.line)
    }

    /// Whether the text between two quotation marks has rows in it, so that the first mark was not
    /// meant to open a field that goes over several lines.
    ///
    /// A row between two such marks has an id in it, or the separators of a whole row. Where the
    /// second mark is on the very next line, these are divided between the two lines; then it counts
    /// whether that would be a row which names a device.
    ///
    /// In the devices' own column, one line with line breaks around it is read as any other cell.
    fn hides_rows(&self, long: &Long<'_>, at: usize, found: &Found<'_>) -> bool {
        if long.index == at && !long.text.trim().contains(['\n', self.delimiter]) {
            return false;
        }
        let separators = self.record.fields.len() - 1;
        let lines: Vec<&str> = long.text.split('\n').collect();
        let counts: Vec<usize> = lines
            .iter()
            .map(|l| l.matches(self.delimiter).count())
            .collect();
        let inner = &counts[1..counts.len() - 1];
        if has_machine_id(long.text)
            || has_guid(long.text)
            || hides_device(long, found.wanted)
            || inner.iter().any(|count| *count >= separators)
            || counts.iter().sum::<usize>() >= separators && found.wanted == Wanted::Names
            || separators == 0
        {
            return true;
        }
        let is_divided =
            counts.len() == 2 && counts[1] == long.index && counts[0] + counts[1] == separators;
        let cell = match is_divided {
            false => return false,
            true if at < long.index => lines[1].split(self.delimiter).nth(at),
            true => lines[0].split(self.delimiter).nth(at - long.index),
        };
        let read = cell.map(|cell| found.wanted.read(cell.trim()));
        matches!(
            read,
            Some(
                Ok(_)
                    | Err(Problem::Guid(_)
                        | Problem::Digits { .. }
                        | Problem::Number(_)
                        | Problem::Address(_)
                        | Problem::Name(_))
            )
        )
    }
}

/// Whether a line of a field names a device, or would if it were not damaged.
///
/// A line of prose has several words. One word on a line of its own is taken for a name; on the
/// first line and the last, beside a quotation mark, only if it has a digit or a full stop in it.
fn hides_device(long: &Long<'_>, wanted: Wanted) -> bool {
    let last = long.text.matches('\n').count();
    long.text.split('\n').enumerate().any(|(n, line)| {
        let line = line.trim();
        let is_whole = n > 0 && n < last;
        match wanted.read(line) {
            Ok(Named::Name(_)) => is_whole || looks_like_name(line),
            Ok(Named::Id(_)) | Err(Problem::Guid(_) | Problem::Number(_) | Problem::Address(_)) => {
                true
            }
            Err(Problem::Digits { .. }) => is_whole,
            Err(_) => false,
        }
    })
}

/// Whether a word is rather a device's name than a word of prose: `pc-1`, `kiosk.contoso.com`.
fn looks_like_name(word: &str) -> bool {
    let word = word.trim_end_matches('.');
    word.contains(char::is_alphabetic) && word.contains(|c: char| c == '.' || c.is_numeric())
}

impl Record<'_> {
    fn broken(&self, line: usize, problem: Problem) -> Broken {
        Broken {
            line,
            lines: self.lines.clone(),
            problem,
        }
    }
}

/// The last line that is not empty.
fn last_line(text: &str) -> usize {
    text.trim_end_matches('\n').matches('\n').count() + 1
}

/// Whether nothing but separators and white space stands on a line.
fn is_blank(line: &str) -> bool {
    line.chars()
        .all(|c| c.is_whitespace() || DELIMITERS.contains(&c))
}

/// The separator that a line declares for Excel: `sep=;`.
fn declaration(line: &str) -> Option<char> {
    let line = line.trim_start();
    let line = line.strip_prefix('"').unwrap_or(line);
    let declared = line.get(..4).filter(|key| key.eq_ignore_ascii_case("sep="));
    let value = &line[declared?.len()..];
    let mut chars = match value.strip_prefix("\\t") {
        Some(rest) => return is_end(rest).then_some('\t'),
        None => value.chars(),
    };
    let separator = chars.next().filter(|c| !c.is_alphanumeric() && *c != '"')?;
    is_end(chars.as_str()).then_some(separator)
}

fn begins_declaration(line: &str) -> bool {
    let key = line.trim_start().get(..4);
    key.is_some_and(|key| key.eq_ignore_ascii_case("sep="))
}

fn is_end(rest: &str) -> bool {
    rest.chars()
        .all(|c| c == '"' || c.is_whitespace() || DELIMITERS.contains(&c))
}

/// Whether it is the line that Windows PowerShell's `Export-Csv` writes above the header.
fn is_type(line: &str) -> bool {
    line.trim_start_matches('"').starts_with("#TYPE ")
}

/// Whether it is a line that says how to read the others, and names nothing.
pub(super) fn is_known(line: &str) -> bool {
    declaration(line).is_some() || is_type(line)
}

/// What may separate the columns of this line, the most frequent first; a comma where nothing does.
fn delimiters(line: &str) -> Vec<char> {
    let count = |delimiter: &char| line.matches(*delimiter).count();
    let mut there: Vec<char> = DELIMITERS.into_iter().filter(|d| count(d) > 0).collect();
    there.sort_by_key(|delimiter| std::cmp::Reverse(count(delimiter)));
    if there.is_empty() {
        there.push(DELIMITERS[0]);
    }
    there
}

fn has_guid(text: &str) -> bool {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.map(str::parse::<ActionId>).any(|id| id.is_ok())
}

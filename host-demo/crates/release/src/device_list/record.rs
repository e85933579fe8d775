//! The records of a table, by RFC 4180, without its leniency: a quotation mark that is not closed
//! where it should be is an error, and never swallows what follows.
//!
//! (Readers that accept such a mark take the rest of the file for one field:
//! <https://github.com/BurntSushi/rust-csv/issues/289>.)

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::Problem;

/// Reads a text, whose lines end in a line feed, record by record.
pub(super) struct Records<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    delimiter: char,
}

/// A record.
pub(super) struct Record<'a> {
    /// The lines that it takes.
    pub(super) lines: RangeInclusive<usize>,
    /// The lines as they stand there.
    pub(super) raw: &'a str,
    /// The fields, without quotation marks and white space around.
    pub(super) fields: Vec<Cow<'a, str>>,
    /// The fields that go over several lines.
    pub(super) long: Vec<Long<'a>>,
}

/// A field that goes over several lines.
pub(super) struct Long<'a> {
    /// Which one it is.
    pub(super) index: usize,
    /// The line where it begins.
    pub(super) line: usize,
    /// What stands between the quotation marks.
    pub(super) text: &'a str,
}

/// A record that can't be read.
pub(super) struct Broken {
    /// The line where it goes wrong.
    pub(super) line: usize,
    /// All lines that are not read because of it.
    pub(super) lines: RangeInclusive<usize>,
    pub(super) problem: Problem,
}

impl<'a> Records<'a> {
    /// Begins at a position that is the start of this line.
    pub(super) const fn new(text: &'a str, at: usize, line: usize, delimiter: char) -> Self {
        Self {
            text,
            at,
            line,
            delimiter,
        }
    }

    /// The rest of the line that is being read.
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Goes over spaces, unless they separate.
    fn pass_blanks(&mut self) {
        let rest = self.rest();
        let is_blank = |c: char| matches!(c, ' ' | '\t') && c != self.delimiter;
        self.at += rest.len() - rest.trim_start_matches(is_blank).len();
    }

    /// Goes to the beginning of the next line.
    fn pass_line(&mut self) {
        match self.rest().find('\n') {
            Some(end) => {
                self.at += end + 1;
                self.line += 1;
            }
            None => self.at = self.text.len(),
        }
    }

    fn broken(&self, first: usize, line: usize, last: usize, problem: Problem) -> Broken {
        let lines = first..=last;
        Broken {
            line,
            lines,
            problem,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.text.len() {
            return None;
        }
        let (start, first) = (self.at, self.line);
        let (mut fields, mut long) = (Vec::new(), Vec::new());
        let mut has_stray = false;
        loop {
            let unquoted = self.at;
            self.pass_blanks();
            if self.rest().starts_with('"') {
                let opened = self.line;
                self.at += 1;
                let Some(end) = closing(self.rest()) else {
                    let lines = self.rest().trim_end_matches('\n').matches('\n').count();
                    self.at = self.text.len();
                    let last = opened + lines;
                    return Some(Err(self.broken(first, opened, last, Problem::OpenQuote)));
                };
                let text = &self.rest()[..end];
                self.at += end + 1;
                self.line += text.matches('\n').count();
                self.pass_blanks();
                if !self.rest().is_empty() && !self.rest().starts_with([self.delimiter, '\n']) {
                    let (last, is_long) = (self.line, self.line > opened);
                    self.pass_line();
                    let problem = match is_long {
                        true => Problem::QuotedRows,
                        false => Problem::AfterQuote,
                    };
                    return Some(Err(self.broken(first, opened, last, problem)));
                }
                let whole = text;
                let text = text.trim();
                if whole.contains('\n') {
                    long.push(Long {
                        index: fields.len(),
                        line: opened,
                        text: whole,
                    });
                }
                fields.push(match text.contains("\"\"") {
                    true => Cow::Owned(text.replace("\"\"", "\"")),
                    false => Cow::Borrowed(text),
                });
            } else {
                self.at = unquoted;
                let rest = self.rest();
                let end = rest.find([self.delimiter, '\n']).unwrap_or(rest.len());
                let text = &rest[..end];
                has_stray |= text.matches('"').count() % 2 == 1;
                fields.push(Cow::Borrowed(text.trim()));
                self.at += end;
            }
            if self.rest().starts_with(self.delimiter) {
                self.at += self.delimiter.len_utf8();
            } else {
                break;
            }
        }
        let last = self.line;
        let raw = &self.text[start..self.at];
        self.pass_line();
        if has_stray {
            return Some(Err(self.broken(first, last, last, Problem::StrayQuote)));
        }
        let lines = first..=last;
        Some(Ok(Record {
            lines,
            raw,
            fields,
            long,
        }))
    }
}

/// Where the quotation mark is that closes a field: the first that is not doubled.
fn closing(text: &str) -> Option<usize> {
    let mut marks = text.match_indices('"').map(|(at, _)| at).peekable();
    while let Some(at) = marks.next() {
        if marks.next_if_eq(&(at + 1)).is_none() {
            return Some(at);
        }
    }
    None
}

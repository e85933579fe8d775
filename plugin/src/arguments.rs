//! What a caller passes, checked once at the door.
//!
//! Each type here is made by `parse`, and holds nothing that the contract refuses: a [`MachineId`]
//! or [`ActionId`] can stand in a path as it is. What is refused is named by the contract's
//! `invalid-argument`, which says what is wrong and does not repeat the argument.

use alloc::format;
use alloc::string::{String, ToString};
use core::str::FromStr;

use crate::types::InvalidArgument;

/// Defender's own device id: 40 hexadecimal digits, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineId(String);

/// The id of a machine action: a GUID, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionId(String);

/// Why an action is asked for: 1 to 4,096 characters, not all of them blank, and
/// without control characters other than tab, line feed and carriage return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment(String);

/// A device's name, as the caller wrote it, without the root's full stop: at most 255 bytes of
/// letters, digits, hyphens, underscores and full stops, of any script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsName(String);

/// A moment, as RFC 3339 has it, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DateTime(String);

impl DnsName {
    /// The most bytes, those of the DNS (RFC 1035, section 2.3.4).
    pub const MAX_BYTES: usize = 255;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether a text is this name: case is ignored, as Windows and the DNS ignore it.
    pub fn is(&self, other: &str) -> bool {
        self.0
            .chars()
            .map(case_folded)
            .eq(other.chars().map(case_folded))
    }
}

impl DateTime {
    /// The text, as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl MachineId {
    const DIGITS: usize = 40;

    /// The 40 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ActionId {
    /// The GUID.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Comment {
    /// The most characters (Unicode scalar values) that are accepted. The API documents no bound.
    pub const MAX_CHARS: usize = 4096;

    /// The text, as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MachineId {
    type Err = InvalidArgument;

    fn from_str(text: &str) -> Result<Self, InvalidArgument> {
        if is_machine_id(text) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let expected = "Defender's own device id has 40 hexadecimal digits";
        let problem = if text.is_empty() {
            format!("it is empty; {expected}")
        } else if is_guid(text) {
            format!(
                "this looks like a GUID: an Entra device id or an action's id, not Defender's \
                 device id; {expected}"
            )
        } else if let Some(stranger) = first_stranger(text, |c| c.is_ascii_hexdigit()) {
            let hint = if is_like_a_name(text) {
                " (a computer's name is not accepted)"
            } else {
                ""
            };
            format!("{stranger}, not a hexadecimal digit{hint}; {expected}")
        } else {
            format!("it has {} digits; {expected}", text.len())
        };
        Err(refusal("machine-id", problem))
    }
}

impl FromStr for ActionId {
    type Err = InvalidArgument;

    fn from_str(text: &str) -> Result<Self, InvalidArgument> {
        if is_guid(text) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let expected = "an action's id is a GUID, 8-4-4-4-12 hexadecimal digits";
        let problem = if text.is_empty() {
            format!("it is empty; {expected}")
        } else if is_machine_id(text) {
            format!("this looks like a machine's id; {expected}")
        } else if let Some(stranger) = first_stranger(text, |c| c.is_ascii_hexdigit() || c == '-') {
            format!("{stranger}, neither a hexadecimal digit nor a hyphen; {expected}")
        } else {
            format!(
                "its {} characters are not arranged like that; {expected}",
                text.len()
            )
        };
        Err(refusal("action-id", problem))
    }
}

impl FromStr for Comment {
    type Err = InvalidArgument;

    fn from_str(text: &str) -> Result<Self, InvalidArgument> {
        let chars = text.chars().count();
        let problem = if text.is_empty() {
            "it is empty; say why the action is asked for".to_string()
        } else if chars > Self::MAX_CHARS {
            format!(
                "it has {chars} characters; at most {} are accepted",
                Self::MAX_CHARS
            )
        } else if let Some((at, c)) = (1..)
            .zip(text.chars())
            .find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
        {
            format!(
                "character {at} is the control character U+{:04X}; of these only tab, line feed \
                 and carriage return are accepted",
                u32::from(c)
            )
        } else if text.chars().all(is_blank) {
            "it is blank: nothing in it can be seen; say why the action is asked for".to_string()
        } else {
            return Ok(Self(text.to_string()));
        };
        Err(refusal("comment", problem))
    }
}

impl FromStr for DnsName {
    type Err = InvalidArgument;

    fn from_str(text: &str) -> Result<Self, InvalidArgument> {
        let expected = "a device's name has letters, digits, hyphens, underscores and full stops";
        // A name that is fully qualified may end in the root's full stop.
        let name = text.strip_suffix('.').unwrap_or(text);
        let problem = if name.is_empty() {
            format!("it is empty; {expected}")
        } else if let Some(stranger) = first_stranger(name, is_of_a_device_name) {
            format!("{stranger}; {expected}")
        } else if name.len() > Self::MAX_BYTES {
            format!(
                "it has {} bytes; at most {} are accepted",
                name.len(),
                Self::MAX_BYTES
            )
        } else if name.split('.').any(str::is_empty) {
            format!("nothing stands before or between its full stops; {expected}")
        } else {
            return Ok(Self(name.to_string()));
        };
        Err(refusal("computer-dns-name", problem))
    }
}

impl FromStr for DateTime {
    type Err = InvalidArgument;

    fn from_str(text: &str) -> Result<Self, InvalidArgument> {
        if is_date_time(text) {
            return Ok(Self(text.to_string()));
        }
        let problem = "it is no date-time in UTC, such as 2026-01-30T21:11:22.8419303Z (RFC 3339, \
                       with a Z, and at most seven digits of a second)";
        Err(refusal("created-since", problem.to_string()))
    }
}

/// Whether it is `YYYY-MM-DDThh:mm:ssZ`, or has one to seven digits of a second besides. What no
/// calendar has is the service's to refuse.
fn is_date_time(text: &str) -> bool {
    let form = b"0000-00-00T00:00:00.0000000";
    let Some(text) = text.strip_suffix('Z') else {
        return false;
    };
    let fits = |(b, form): (u8, &u8)| match form {
        b'0' => b.is_ascii_digit(),
        _ => b == *form,
    };
    matches!(text.len(), 19 | 21..=27) && text.bytes().zip(form).all(fits)
}

pub(crate) fn refusal(parameter: &str, problem: String) -> InvalidArgument {
    InvalidArgument {
        parameter: parameter.to_string(),
        problem,
    }
}

/// Whether a character leaves nothing to be seen where it stands: it has the property White_Space
/// (Unicode, PropList.txt) or Default_Ignorable_Code_Point (DerivedCoreProperties.txt), or is one
/// of the three marks of an interlinear annotation.
const fn is_blank(c: char) -> bool {
    c.is_whitespace()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn is_machine_id(text: &str) -> bool {
    text.len() == MachineId::DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

fn is_like_a_name(text: &str) -> bool {
    text.chars().all(is_of_a_name)
}

const fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')
}

/// Whether a character can be one of a device's name. Outside ASCII only those are refused that
/// cannot be seen, and those that old code pages make an apostrophe of (modifier letters): which of
/// the others are letters would take a table, and each of them is escaped in a query.
fn is_of_a_device_name(c: char) -> bool {
    is_of_a_name(c)
        || (!c.is_ascii()
            && !c.is_control()
            && !is_blank(c)
            && !matches!(c,
                '\u{b4}' | '\u{2b0}'..='\u{2ff}' | '\u{374}'..='\u{375}' | '\u{384}'
                | '\u{55a}'..='\u{55f}' | '\u{5f3}'..='\u{5f4}' | '\u{7f4}'..='\u{7f5}'
                | '\u{2018}'..='\u{201f}' | '\u{2032}'..='\u{2037}' | '\u{a78b}'..='\u{a78c}'
                | '\u{ff07}'))
}

/// A character without its case, as Windows compares names: its upper case, where that is one
/// character. The dotless i is another letter than the i. (Lower case as well would cost 12 KB.)
fn case_folded(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_uppercase();
    }
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(upper), None) if c != '\u{131}' => upper,
        _ => c,
    }
}

/// Where the first character stands that does not belong, and of what kind it is: `character 4 is a
/// letter`. The character itself is left out, as an argument is not repeated.
fn first_stranger(text: &str, belongs: impl Fn(char) -> bool) -> Option<String> {
    let (at, c) = (1..).zip(text.chars()).find(|(_, c)| !belongs(*c))?;
    let kind = if c.is_control() {
        "a control character"
    } else if c.is_whitespace() {
        "white space"
    } else if !c.is_ascii() {
        "outside ASCII"
    } else if c.is_ascii_alphabetic() {
        "a letter"
    } else if c.is_ascii_digit() {
        "a digit"
    } else {
        "punctuation"
    };
    let at: usize = at;
    Some(format!("character {at} is {kind}"))
}

#[cfg(test)]
mod tests;

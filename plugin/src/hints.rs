//! What is to be read between the lines: waits, windows and roles, which the service tells in a
//! header or only in the text of a message. The text may change any day, so each of these is a
//! number or name more, and never decides what an answer means.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::text::after;
use crate::types::MissingRoles;

/// The most roles that are read from one message. The API has some forty.
pub(crate) const MAX_ROLES: usize = 100;

/// The roles that a refusal names. Two wordings are known:
///
/// - `Missing application roles. API required roles: A,B, application roles: C,D.`
/// - `The application does not have any of the required application permissions (A, B) to access
///   the resource.`
pub(crate) fn missing_roles(text: &str) -> MissingRoles {
    const HELD: &str = "application roles:";
    if let Some(rest) = after(text, "required roles:") {
        let held = after(rest, HELD);
        let end = held.map_or(rest.len(), |held| {
            rest.len().saturating_sub(held.len() + HELD.len())
        });
        MissingRoles {
            required_roles: roles(rest.get(..end).unwrap_or_default()),
            held_roles: roles(held.unwrap_or_default()),
        }
    } else {
        let list = after(text, "required application permissions")
            .and_then(|rest| rest.trim_start().strip_prefix('(')?.split_once(')'));
        MissingRoles {
            required_roles: roles(list.map_or("", |(list, _)| list)),
            held_roles: Vec::new(),
        }
    }
}

/// The names in a list with commas. It ends with the sentence, whose full stop is not part of the
/// last name.
fn roles(list: &str) -> Vec<String> {
    let is_name = |name: &&str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    list.split(',')
        .filter_map(|entry| entry.split_whitespace().next())
        .map(|word| word.trim_end_matches('.'))
        .filter(is_name)
        .take(MAX_ROLES)
        .map(ToString::to_string)
        .collect()
}

/// The `Retry-After` header in its form of seconds (RFC 9110, section 10.2.3). For the form of a
/// date a clock would be needed; the API does not document that form.
pub(crate) fn retry_after(headers: &[(String, Vec<u8>)]) -> Option<u32> {
    headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
        .find_map(|(_, value)| whole_number(core::str::from_utf8(value).ok()?.trim_ascii()))
}

/// The wait in `You can send requests again in 8 seconds.`
pub(crate) fn again_in(text: &str) -> Option<u32> {
    let rest = after(text, "again in ")?;
    let (number, unit) = rest.split_at_checked(digits(rest))?;
    unit.trim_start()
        .get(..6)?
        .eq_ignore_ascii_case("second")
        .then(|| whole_number(number))?
}

/// The window in `maximum allowed 100 per 00:01:00`: a .NET `TimeSpan`, `[d.]hh:mm:ss`.
pub(crate) fn window(text: &str) -> Option<u32> {
    let mut rest = text;
    while let Some(candidate) = after(rest, "per ") {
        if let Some(seconds) = time_span(candidate) {
            return Some(seconds);
        }
        rest = candidate;
    }
    None
}

fn time_span(text: &str) -> Option<u32> {
    let end = text
        .bytes()
        .take_while(|b| b.is_ascii_digit() || matches!(b, b':' | b'.'))
        .count();
    let text = text.get(..end)?;
    let (head, minutes_and_seconds) = text.split_once(':')?;
    let (days, hours) = head.split_once('.').unwrap_or(("0", head));
    let (minutes, seconds) = minutes_and_seconds.split_once(':')?;
    // A fraction of a second, or the full stop of a sentence.
    let seconds = seconds.split('.').next()?;
    let part = |text, limit| whole_number(text).filter(|number| *number < limit);
    // .NET has no more days than 10,675,199; one window of this API is an hour.
    let hours = part(days, 10_000)? * 24 + part(hours, 24)?;
    let total = (hours * 60 + part(minutes, 60)?) * 60 + part(seconds, 60)?;
    (total > 0).then_some(total)
}

/// The number that a text of digits is, or the largest there is where it is larger.
fn whole_number(text: &str) -> Option<u32> {
    if text.is_empty() || digits(text) != text.len() {
        return None;
    }
    Some(text.parse().unwrap_or(u32::MAX))
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

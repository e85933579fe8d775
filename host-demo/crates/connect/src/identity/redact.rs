//! What an authority is told in confidence, and what it says afterwards without that.
//!
//! A debugging page or a gateway in front of an authority may repeat a request in its error, and
//! errors are shown and kept. What is repeated in part, or in a form of somebody's own, is not
//! found.

use std::fmt;

use http::HeaderMap;
use url::Url;

/// The fields of a form that are secrets (RFC 6749, 7521 and 8628).
const FIELDS: [&str; 5] = [
    "client_secret",
    "client_assertion",
    "refresh_token",
    "device_code",
    "assertion",
];

/// What proves to a machine's endpoint that one runs on the machine (Microsoft, "How to use managed
/// identities for App Service and Azure Functions").
const HEADER: &str = "x-identity-header";

const MASK: &str = "****";

/// The secrets in one request.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(****)")
    }
}

impl Secrets {
    /// Those in a request's headers and in the form that is its body.
    pub(super) fn of(headers: &HeaderMap, form: &[u8]) -> Self {
        let header = headers
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        // A URL's query is a form.
        let mut url = Url::parse("form:").ok();
        if let Some(url) = &mut url {
            url.set_query(std::str::from_utf8(form).ok());
        }
        let fields = url.iter().flat_map(Url::query_pairs);
        let fields = fields
            .filter(|(name, _)| FIELDS.contains(&name.as_ref()))
            .map(|(_, value)| value.into_owned());
        let all = header.into_iter().chain(fields);
        Self(all.filter(|secret| !secret.is_empty()).collect())
    }

    /// The text without them, however each of their characters is written: as it is, as in a URL or
    /// a form, or as in JSON.
    pub(super) fn masked(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let lengths = self.0.iter().filter_map(|secret| length(rest, secret));
            if let Some(length) = lengths.max() {
                masked.push_str(MASK);
                rest = rest.get(length..).unwrap_or_default();
            } else {
                masked.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
        masked
    }
}

/// How much of the text's beginning is this secret, if it begins with it.
fn length(text: &str, secret: &str) -> Option<usize> {
    let text = text.as_bytes();
    // A backslash or a percent sign can stand for itself or for more, so there can be several ends.
    let mut ends = vec![0];
    for character in secret.chars() {
        let mut next = Vec::new();
        for end in ends {
            next.extend(forms(&text[end..], character).map(|length| end + length));
        }
        next.dedup();
        if next.is_empty() {
            return None;
        }
        ends = next;
    }
    ends.into_iter().max()
}

/// The lengths of the forms of this character that the text begins with.
fn forms(text: &[u8], character: char) -> impl Iterator<Item = usize> {
    let mut bytes = [0; 4];
    let plain = character.encode_utf8(&mut bytes).as_bytes();
    let mut units = [0; 2];
    let units = character.encode_utf16(&mut units);
    let is_plain = text.starts_with(plain);
    // RFC 8259, section 7: the short escapes of what a secret can have, and the long ones.
    let is_escaped = text
        .strip_prefix(b"\\")
        .is_some_and(|t| t.starts_with(plain));
    let is_form_space = character == ' ' && text.starts_with(b"+");
    [
        is_plain.then_some(plain.len()),
        is_escaped.then_some(plain.len() + 1),
        is_form_space.then_some(1),
        coded(text, b"%", 2, plain.iter().map(|byte| u16::from(*byte))),
        coded(text, b"\\u", 4, units.iter().copied()),
    ]
    .into_iter()
    .flatten()
}

/// The length of these numbers, each in so many hexadecimal digits behind a mark.
fn coded(
    text: &[u8],
    mark: &[u8],
    digits: usize,
    numbers: impl Iterator<Item = u16>,
) -> Option<usize> {
    let mut rest = text;
    for number in numbers {
        let behind = rest.strip_prefix(mark)?;
        let (code, behind) = behind.split_at_checked(digits)?;
        let code = std::str::from_utf8(code).ok()?;
        if u16::from_str_radix(code, 16) != Ok(number) {
            return None;
        }
        rest = behind;
    }
    Some(text.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_whatever_form_it_is_repeated() {
        let form = b"client_id=app&client_secret=a%2Bb%20%22c%5C%C3%A4%25&grant_type=x";
        let secrets = Secrets::of(&HeaderMap::new(), form);
        for repeated in [
            r#"a+b "c\ä%"#,
            "a%2Bb%20%22c%5C%C3%A4%25",
            "a%2bb+%22c%5c%c3%a4%25",
            r#"a+b \"c\\ä%"#,
            r#"a\u002bb \u0022c\u005C\u00e4\u0025"#,
            r#"\u0061%2Bb+\"c\ä%"#,
        ] {
            let text = format!("got <{repeated}> of app, twice: {repeated}{repeated}");
            let masked = secrets.masked(&text);
            assert_eq!(masked, "got <****> of app, twice: ********", "{repeated}");
        }
        for other in ["", "a+b", "a%2", r"a\u00", "100%", "\\", "Ünïcode"] {
            assert_eq!(secrets.masked(other), other);
        }
    }

    #[test]
    fn every_proof_is_a_secret_and_nothing_else_is() {
        let form = b"client_assertion=one&refresh_token=two&device_code=three&scope=four&x=";
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, "five".parse().unwrap());
        let secrets = Secrets::of(&headers, form);
        let masked = secrets.masked("one two three four five");
        assert_eq!(masked, "**** **** **** four ****");
        assert_eq!(format!("{secrets:?}"), "Secrets(****)");
    }

    #[test]
    fn of_two_secrets_of_which_one_begins_the_other_nothing_is_left() {
        let secrets = Secrets(vec!["abc".to_owned(), "abcdef".to_owned()]);
        assert_eq!(secrets.masked("abcdef"), MASK);
    }
}

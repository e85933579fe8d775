//! Characters that cling to a credential: what is removed, and what is reported.
//!
//! A credential passes through editors, shells, clipboards and deployment tools, and these add to
//! it: a byte order mark, a line break at its end, quotation marks (`docker run --env-file` keeps
//! them), braces around a GUID. What can't be part of a value is removed. What could be part of it
//! is kept, and named when the value is rejected.

/// Bytes that are not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not text in UTF-8, nor in UTF-16 with a byte order mark")]
pub struct NotText;

/// Returns the text that a file holds: UTF-8, or UTF-16 with a byte order mark, as PowerShell
/// writes it.
pub fn decode(bytes: &[u8]) -> Result<String, NotText> {
    let utf_16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks(2).map(|pair| match pair {
            [a, b] => unit([*a, *b]),
            // Half a character, which is none.
            _ => 0xD800,
        });
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .map_err(|_| NotText)
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => utf_16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf_16(rest, u16::from_be_bytes),
        _ => {
            let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            let text = std::str::from_utf8(bytes).map_err(|_| NotText)?;
            Ok(text.to_owned())
        }
    }
}

/// Returns the text without what can't be seen at its ends: white space, line breaks, control
/// characters, byte order marks, characters without width.
pub fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c))
}

/// Returns the text without line breaks and characters that can't be seen at its ends; blanks stay,
/// which a password can begin or end with.
pub fn trim_line(text: &str) -> &str {
    text.trim_matches(|c: char| c != '\t' && is_invisible(c))
}

/// Returns the text without what surrounds it: what [`trim`] removes, and pairs of quotation marks
/// or brackets. For values that have neither, such as an ID, a domain or a URL.
pub fn bare(text: &str) -> &str {
    without(text, &WRAPS)
}

/// Returns the text without what [`trim`] removes and without pairs of quotation marks around it.
/// For values that can have brackets, such as a path.
pub fn unquoted(text: &str) -> &str {
    without(text, &QUOTES)
}

/// Whether the text begins and ends with quotation marks that belong together.
pub fn is_quoted(text: &str) -> bool {
    inside(text, &QUOTES).is_some()
}

/// Returns a value that was rejected, in quotation marks, with what can't be seen in it made
/// visible. A value that could be a secret in the wrong place is not shown.
pub fn shown(text: &str) -> String {
    if could_be_secret(text) {
        let length = text.chars().count();
        return format!("(a value of {length} characters, not shown because it could be a secret)");
    }
    format!("\"{}\"", text.escape_default())
}

const QUOTES: [(char, char); 6] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('\u{201C}', '\u{201D}'),
    ('\u{2018}', '\u{2019}'),
    ('\u{AB}', '\u{BB}'),
];

const WRAPS: [(char, char); 10] = {
    let [a, b, c, d, e, f] = QUOTES;
    [
        a,
        b,
        c,
        d,
        e,
        f,
        ('{', '}'),
        ('<', '>'),
        ('(', ')'),
        ('\u{201E}', '\u{201C}'),
    ]
};

fn without<'a>(text: &'a str, pairs: &[(char, char)]) -> &'a str {
    let mut text = trim(text);
    while let Some(inner) = inside(text, pairs).filter(|inner| !inner.is_empty()) {
        text = trim(inner);
    }
    text
}

fn inside<'a>(text: &'a str, pairs: &[(char, char)]) -> Option<&'a str> {
    pairs.iter().find_map(|(open, close)| {
        text.strip_prefix(*open)
            .and_then(|rest| rest.strip_suffix(*close))
    })
}

fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            // Marks without width, and those that change the direction of a text.
            '\u{AD}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' |
            '\u{2060}'..='\u{206F}' | '\u{FEFF}'
        )
}

/// Whether a text looks like a generated secret or a token: long, of one word, and of all kinds of
/// characters.
pub fn could_be_secret(text: &str) -> bool {
    const LONG: usize = 30;

    let has = |is: fn(&char) -> bool| text.chars().any(|c| is(&c));
    let is_mixed =
        has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase) && has(char::is_ascii_digit);
    text.contains('~') || text.contains("eyJ") || (text.len() >= LONG && is_mixed)
}

/// What is odd about a secret: it can be part of one, and hardly ever is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oddity {
    /// It begins and ends with quotation marks.
    Quoted,
    /// It has the form of a GUID.
    Guid,
    /// It begins with the name of a variable and an equals sign.
    Assignment,
    /// It looks like a placeholder in a template.
    Placeholder,
    /// It ends with `\n` or `\r`, written as two characters.
    Escaped,
    /// It has white space or characters that can't be seen in it.
    Blank,
    /// It has characters beyond ASCII.
    NotAscii,
}

impl Oddity {
    /// Returns what is odd about a secret.
    pub(crate) fn of(secret: &str) -> Option<Self> {
        let is_name = |name: &str| {
            let name = name.trim_start_matches("export ").trim();
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
                && name.contains('_')
        };
        let is_assignment = |secret: &str| {
            secret
                .split_once('=')
                .is_some_and(|(name, _)| is_name(name))
        };
        let is_placeholder = [
            ("${", "}"),
            ("$(", ")"),
            ("{{", "}}"),
            ("<", ">"),
            ("%", "%"),
        ]
        .iter()
        .any(|(open, close)| {
            secret.len() > open.len() + close.len()
                && secret.starts_with(open)
                && secret.ends_with(close)
        });
        Some(if is_quoted(secret) {
            Self::Quoted
        } else if uuid::Uuid::try_parse(secret).is_ok() {
            Self::Guid
        } else if is_assignment(secret) {
            Self::Assignment
        } else if is_placeholder {
            Self::Placeholder
        } else if secret.ends_with("\\n") || secret.ends_with("\\r") {
            Self::Escaped
        } else if secret.chars().any(|c| c.is_whitespace() || is_invisible(c)) {
            Self::Blank
        } else if !secret.is_ascii() {
            Self::NotAscii
        } else {
            return None;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f0c1a52-93d7-4b8e-a6f1-0d2e5b7c8a91";

    #[test]
    fn invisible_characters_around_a_value_are_removed() {
        for around in [
            "\n",
            "\r\n",
            " ",
            "\t",
            "\u{FEFF}",
            "\u{200B}",
            "\u{A0}",
            "\0",
            "\u{200E}\r\n ",
        ] {
            assert_eq!(trim(&format!("{around}a b{around}")), "a b", "{around:?}");
        }
        assert_eq!(trim_line("\u{FEFF} user:pass \r\n"), " user:pass ");
    }

    #[test]
    fn pairs_around_an_id_are_removed() {
        for (open, close) in WRAPS {
            let text = format!(" {open}{ID}{close}\n");
            assert_eq!(bare(&text), ID, "{text:?}");
        }
        assert_eq!(bare(&format!("\"{{{ID}}}\"")), ID);
        for kept in ["\"", "\"a", "{}", "contoso com", "a\"b"] {
            assert_eq!(bare(kept), kept);
        }
    }

    #[test]
    fn text_is_read_in_each_encoding_that_tools_write() {
        let wide = |to: fn(u16) -> [u8; 2], text: &str| -> Vec<u8> {
            text.encode_utf16().flat_map(to).collect()
        };
        for bytes in [
            "\u{FEFF}sécret".as_bytes().to_vec(),
            "sécret".as_bytes().to_vec(),
            wide(u16::to_le_bytes, "\u{FEFF}sécret"),
            wide(u16::to_be_bytes, "\u{FEFF}sécret"),
        ] {
            assert_eq!(decode(&bytes).as_deref(), Ok("sécret"));
        }
        for bytes in [&b"\xFF\xFEs"[..], b"\xFF\xFE\x00\xD8", b"s\xE9cret"] {
            assert_eq!(decode(bytes), Err(NotText));
        }
    }

    #[test]
    fn a_rejected_value_is_shown_unless_it_could_be_a_secret() {
        assert_eq!(shown("contoso com"), "\"contoso com\"");
        assert_eq!(shown("4f0c1a52\u{2013}93d7"), "\"4f0c1a52\\u{2013}93d7\"");
        for secret in [
            "Xy78Q~dummy.dummy_dummy-dummy",
            "eyJhbGciOiJub25lIn0.e30.",
            "aB3dEfGhIjKlMnOpQrStUvWxYz012345",
        ] {
            assert!(!shown(secret).contains(&secret[..5]), "{}", shown(secret));
        }
    }

    #[test]
    fn what_is_odd_about_a_secret_is_found() {
        for (secret, oddity) in [
            ("\"s3cret\"", Some(Oddity::Quoted)),
            ("'s3cret'", Some(Oddity::Quoted)),
            (ID, Some(Oddity::Guid)),
            ("AZURE_CLIENT_SECRET=s3cret", Some(Oddity::Assignment)),
            ("export AZURE_CLIENT_SECRET=s", Some(Oddity::Assignment)),
            ("${SECRET}", Some(Oddity::Placeholder)),
            ("<your-secret>", Some(Oddity::Placeholder)),
            ("s3cret\\n", Some(Oddity::Escaped)),
            ("s3 cret", Some(Oddity::Blank)),
            ("s3cr\u{200B}et", Some(Oddity::Blank)),
            ("s3cr\u{2013}et", Some(Oddity::NotAscii)),
            ("Xy78Q~dummy.dummy_dum-my==", None),
            ("abc=", None),
            ("%", None),
            ("\"", None),
        ] {
            assert_eq!(Oddity::of(secret), oddity, "{secret:?}");
        }
    }
}

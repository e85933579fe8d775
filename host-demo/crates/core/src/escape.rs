//! Escapes and shortens text from outside for a terminal, a log, a page or a table's cell.

use serde::{Serialize, Serializer};

/// The most characters of a text from outside in a record of the audit log.
const TEXT_MAX: usize = 500;

/// Text from outside, made harmless for a terminal: control and formatting characters (escape
/// sequences, line breaks, changes of direction) are shown as what they are.
pub fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Whether a character does something to a terminal, or hides.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A row of a table (CSV), without the end of its line.
pub fn row<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let cells: Vec<_> = cells.into_iter().map(cell).collect();
    cells.join(",")
}

/// A cell of a table (CSV, RFC 4180) that is one line, drives no terminal, and is no formula.
///
/// A spreadsheet takes a text for a formula by its beginning, quoted or not (OWASP, "CSV
/// Injection"), and East Asian forms of the characters for the characters. An apostrophe makes it a
/// text.
fn cell(text: &str) -> String {
    const BEGIN_A_FORMULA: [char; 11] =
        ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    let is_formula = |text: &str| text.starts_with(BEGIN_A_FORMULA);
    let guard = match is_formula(text) || is_formula(text.trim_start()) {
        true => "'",
        false => "",
    };
    let text = format!("{guard}{}", clean(text));
    // Semicolons as well: in some countries they are what a spreadsheet separates by.
    match text.contains(['"', ',', ';']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

/// Shortens and escapes a text from outside so that it fits into one line of a log.
pub fn shown(text: &str) -> String {
    const MAX: usize = 100;
    let mut shown: String = text
        .chars()
        .take(MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// A text that serializes as its first 500 characters.
pub struct Cut<'a>(pub &'a str);

impl Serialize for Cut<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0.char_indices().nth(TEXT_MAX) {
            Some((end, _)) => to.collect_str(&format_args!("{}…", &self.0[..end])),
            None => to.serialize_str(self.0),
        }
    }
}

/// Serializes a text, cut to what a record of the audit log has room for.
pub fn cut_text<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    Cut(text).serialize(to)
}

/// Serializes an optional text as [`cut_text`] does.
pub fn cut<S: Serializer>(text: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
    text.as_deref().map(Cut).serialize(to)
}

/// Writes bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_says_cannot_drive_the_terminal() {
        let hostile = "a\u{1b}[2J\u{1b}]0;title\u{7}\r\nb\u{9b}31m\u{202e}c\u{200b}";
        assert_eq!(
            clean(hostile),
            r"a\u{1b}[2J\u{1b}]0;title\u{7}\r\nb\u{9b}31m\u{202e}c\u{200b}"
        );
        assert!(clean("Grüße, 東京 🚀").contains("東京 🚀"));
    }

    #[test]
    fn a_cell_is_no_formula_and_drives_no_terminal() {
        for (text, expected) in [
            ("pc-7.contoso.com", "pc-7.contoso.com"),
            ("", ""),
            ("=cmd|'/C calc'!A0", "'=cmd|'/C calc'!A0"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\\t=1"),
            ("\r\n=1", "'\\r\\n=1"),
            (" =1", "' =1"),
            ("＝1", "'＝1"),
            ("a=1", "a=1"),
            ("two\nlines", "two\\nlines"),
            ("a \"b\", c;d", "\"a \"\"b\"\", c;d\""),
            ("\u{1b}[2J\u{202e}", "\\u{1b}[2J\\u{202e}"),
            ("<b>東京</b>", "<b>東京</b>"),
        ] {
            assert_eq!(cell(text), expected, "{text:?}");
        }
        assert_eq!(row(["a", "", "b,c"]), "a,,\"b,c\"");
    }
}

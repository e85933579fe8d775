//! Tables for other programs (CSV), with cells that are harmless in all of them.

use super::output::clean;

/// A row, without the end of its line.
pub(crate) fn row<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let cells: Vec<_> = cells.into_iter().map(cell).collect();
    cells.join(",")
}

/// A cell that is one line, drives no terminal, and is no formula.
///
/// A spreadsheet takes a text for a formula by its beginning, quoted or not (OWASP, "CSV
/// Injection"), and East Asian forms of the characters for the characters. An apostrophe makes it
/// a text.
fn cell(text: &str) -> String {
    const BEGIN_A_FORMULA: [char; 11] =
        ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    let is_formula = |text: &str| text.starts_with(BEGIN_A_FORMULA);
    let guard = if is_formula(text) || is_formula(text.trim_start()) {
        "'"
    } else {
        ""
    };
    let text = format!("{guard}{}", clean(text));
    // Semicolons as well: in some countries they are what a spreadsheet separates by.
    if text.contains(['"', ',', ';']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

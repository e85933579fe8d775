//! Options that were typed with another dash than the hyphen, as word processors and chats make them:
//! `—comment` for `--comment`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};

/// Takes a positional value, unless it is an option with another dash.
pub(crate) fn text(value: &str) -> Result<String, String> {
    match dash(value) {
        Some((name, _)) => Err(format!("it begins with {name}, not with a hyphen")),
        None => Ok(value.to_owned()),
    }
}

/// The same for a file.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.to_str().map(text) {
        Some(Err(problem)) => Err(problem),
        _ => Ok(path),
    })
}

/// What should have been typed, if an argument is an option with another dash.
pub(crate) fn hint(args: impl IntoIterator<Item = OsString>) -> Option<String> {
    let args = args.into_iter().take_while(|arg| arg != "--");
    args.filter_map(|arg| arg.into_string().ok())
        .find_map(|arg| {
            let (name, option) = dash(&arg)?;
            let hyphens = match option.chars().nth(1) {
                None => "-",
                Some(_) => "--",
            };
            Some(format!(
                "{arg:?} begins with {name}; type {hyphens}{option}"
            ))
        })
}

/// The name of the dash, and what follows, if that may be an option.
fn dash(text: &str) -> Option<(&'static str, &str)> {
    let name = |c: char| {
        Some(match c {
            '\u{2010}' => "a typographic hyphen (U+2010)",
            '\u{2011}' => "a non-breaking hyphen (U+2011)",
            '\u{2012}' => "a figure dash (U+2012)",
            '\u{2013}' => "an en dash (U+2013)",
            '\u{2014}' => "an em dash (U+2014)",
            '\u{2015}' => "a horizontal bar (U+2015)",
            '\u{2212}' => "a minus sign (U+2212)",
            '\u{fe58}' => "a small em dash (U+FE58)",
            '\u{fe63}' => "a small hyphen (U+FE63)",
            '\u{ff0d}' => "a full-width hyphen (U+FF0D)",
            _ => return None,
        })
    };
    let option = text.trim_start_matches(|c| c == '-' || name(c).is_some());
    let dashes = &text[..text.len() - option.len()];
    let name = dashes.chars().find_map(name)?;
    let is_option = option.starts_with(|c: char| c.is_ascii_alphabetic());
    is_option.then_some((name, option))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_with_another_dash_is_named_with_the_right_one() {
        let hint = |args: &[&str]| hint(args.iter().map(OsString::from));
        for (arg, typed) in [
            ("\u{2014}comment", "--comment"),
            ("\u{2013}comment", "--comment"),
            ("\u{2013}\u{2013}comment", "--comment"),
            ("-\u{2013}comment=x", "--comment=x"),
            ("\u{2212}v", "-v"),
            ("\u{2011}\u{2011}by\u{2011}name", "--by\u{2011}name"),
        ] {
            let hint = hint(&["unrestrict", arg, "x"]).unwrap();
            assert!(hint.ends_with(&format!("type {typed}")), "{hint}");
            assert!(text(arg).is_err(), "{arg}");
        }
        for harmless in [
            "--comment",
            "-v",
            "x\u{2014}y",
            "\u{2014} cleaned",
            "\u{2014}",
            "\u{2014}1",
        ] {
            assert_eq!(hint(&["unrestrict", harmless]), None, "{harmless}");
            assert_eq!(text(harmless), Ok(harmless.to_owned()));
        }
        assert_eq!(hint(&["unrestrict", "--", "\u{2014}comment"]), None);
    }
}

//! Words for problems of a device list, each with a hint.

use host_demo::input::{InputError, Problem, Wanted, Wrong};
use serde_json::{Value, json};

use super::error_text::Advised;

/// What to do about a line, or a text.
pub(crate) fn advice(problem: &Problem) -> &'static str {
    match problem {
        Problem::Guid(_) => {
            "give the machine id (\"Device ID\" in the portal's export), or the name with --by-name"
        }
        Problem::Name(_) => "if these are names of devices, add --by-name",
        Problem::Address(_) => "copy the address of the device's page from the portal, or its id",
        Problem::Number(_) => "export the list again, and import the column into the sheet as text",
        Problem::Encoding(_) => "save the list as UTF-8",
        Problem::Fields { .. } | Problem::NoRowFits(_) => {
            "put fields that have a separator in quotation marks, and give each row every field"
        }
        Problem::OpenQuote | Problem::QuotedRows | Problem::AfterQuote | Problem::StrayQuote => {
            "remove the quotation mark, or close it and double those inside"
        }
        Problem::NotTheLastPage(_) => "add the next page to the list",
        Problem::ItemsMissing { .. } => "add the other pages to the list",
        Problem::AboveHeader { .. } => "remove the lines above the header",
        Problem::OtherHeader => "pass the two tables one after the other",
        Problem::CutOff => "get the list again: its end is missing",
        Problem::Digits { .. }
        | Problem::NoId(_)
        | Problem::NoName(_)
        | Problem::Hidden { .. }
        | Problem::Empty { .. }
        | Problem::Nul
        | Problem::Json(_)
        | Problem::Twice(_)
        | Problem::Different(..)
        | Problem::SeveralLists
        | Problem::TooDeep => "correct it",
    }
}

/// The number of problems, in words.
pub(crate) fn problems(count: usize, more: &str) -> String {
    match count {
        1 => format!("1{more} problem"),
        _ => format!("{count}{more} problems"),
    }
}

/// The error for a list that cannot be read.
pub(crate) fn unreadable(name: &str, error: &InputError, wanted: Wanted) -> anyhow::Error {
    let hint = match (error, wanted) {
        (InputError::NotAList { .. }, _) => return anyhow::anyhow!("{name} {error}"),
        (InputError::Empty, _) => "a list has one id a line, a table with a header, or JSON",
        (InputError::NoColumn { .. }, Wanted::Names) => {
            "name the column that has the names with --column"
        }
        (InputError::NoColumn { .. }, Wanted::Ids) => {
            "name the column that has the ids with --column, or add --by-name to use names"
        }
        (InputError::SameColumns { .. }, _) => {
            "rename one of them, or name another column with --column"
        }
        (InputError::NoHeader, _) => "add a header, or leave only the ids, one a line",
    };
    anyhow::Error::from(Advised {
        what: format!("{name} {error}"),
        hint: hint.to_owned(),
    })
}

/// A problem whose lines are skipped, for programs.
pub(crate) fn skipped_json(list: &str, wrong: &Wrong) -> Value {
    json!({
        "type": "line",
        "list": list,
        "line": wrong.line,
        "first_line": wrong.lines.start(),
        "last_line": wrong.lines.end(),
        "error": { "message": wrong.to_string(), "advice": advice(&wrong.problem) },
    })
}

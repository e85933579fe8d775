//! Shows things to people and programs: text and JSON, progress bars, confirmation prompts, hints and
//! suggested commands.

/// Tells people something, on standard error. Unlike `eprintln!` it does not panic where nobody can
/// be told: the work goes on.
macro_rules! note {
    ($($text:tt)*) => { $crate::ui::output::note(&format!($($text)*)) };
}

pub(crate) mod action_text;
pub(crate) mod confirm;
pub(crate) mod error_text;
pub(crate) mod hint;
pub(crate) mod list_text;
pub(crate) mod name_text;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod quota_text;
pub(crate) mod report_text;
pub(crate) mod run_text;
pub(crate) mod step_progress;
pub(crate) mod suggest;
pub(crate) mod time_text;
pub(crate) mod unrecorded;
pub(crate) mod waits;

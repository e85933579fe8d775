//! The exit codes of the command.

use std::process::ExitCode;

/// What a run comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All that was asked for is confirmed.
    Done = 0,
    /// Some of it failed, or is not on record.
    Failed = 1,
    /// It could not run.
    CouldNotRun = 2,
    /// None failed; some are still open.
    Open = 3,
    /// The user pressed Ctrl-C, or the process was told to end.
    Interrupted = 130,
}

impl Exit {
    /// As it is, or a failure if this went wrong besides.
    pub(crate) fn failed_if(self, wrong: bool) -> Self {
        match self {
            Self::Done | Self::Open if wrong => Self::Failed,
            exit => exit,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

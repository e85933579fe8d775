//! The two things that are done with devices.

use defender_core::operation::Operation;
use defender_host::bindings::ActionType;

/// What is done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionKind {
    /// It is to run every program again.
    Release,
    /// It is to run programs signed by Microsoft only.
    Restrict,
}

impl ActionKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Release, Self::Restrict];

    /// What an action of this type does, if it does either.
    pub const fn of(action_type: &ActionType) -> Option<Self> {
        match action_type {
            ActionType::RestrictCodeExecution => Some(Self::Restrict),
            ActionType::UnrestrictCodeExecution => Some(Self::Release),
            _ => None,
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The type of its actions.
    pub const fn action_type(self) -> ActionType {
        match self {
            Self::Release => ActionType::UnrestrictCodeExecution,
            Self::Restrict => ActionType::RestrictCodeExecution,
        }
    }

    /// The operation that asks for it.
    pub const fn operation(self) -> Operation {
        match self {
            Self::Release => Operation::UnrestrictCodeExecution,
            Self::Restrict => Operation::RestrictCodeExecution,
        }
    }

    /// What undoes it.
    pub const fn opposite(self) -> Self {
        match self {
            Self::Release => Self::Restrict,
            Self::Restrict => Self::Release,
        }
    }

    /// What is done, in a word: `release` or `restrict`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Restrict => "restrict",
        }
    }

    /// The thing that is done: `release` or `restriction`.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Restrict => "restriction",
        }
    }

    /// What a device is then: `released` or `restricted`.
    pub const fn done(self) -> &'static str {
        match self {
            Self::Release => "released",
            Self::Restrict => "restricted",
        }
    }
}

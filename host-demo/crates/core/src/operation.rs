//! The API's operations, and what each acts on.

use std::fmt;

use crate::id::{ActionId, DnsName, MachineId};
use crate::query::ActionQuery;

/// What a call does, and what a quota counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Release a device.
    UnrestrictCodeExecution,
    /// Restrict a device.
    RestrictCodeExecution,
    /// Read a machine action.
    GetMachineAction,
    /// Read a page of machine actions.
    ListMachineActions,
    /// Take a machine action back.
    CancelMachineAction,
    /// Find the devices of a name.
    FindMachines,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::UnrestrictCodeExecution,
        Self::RestrictCodeExecution,
        Self::GetMachineAction,
        Self::ListMachineActions,
        Self::CancelMachineAction,
        Self::FindMachines,
    ];

    /// Whether it changes anything at the service.
    pub const fn changes_something(self) -> bool {
        match self {
            Self::UnrestrictCodeExecution
            | Self::RestrictCodeExecution
            | Self::CancelMachineAction => true,
            Self::GetMachineAction | Self::ListMachineActions | Self::FindMachines => false,
        }
    }

    /// Whether it is answered with a list, which can be long.
    pub const fn reads_a_list(self) -> bool {
        matches!(self, Self::ListMachineActions | Self::FindMachines)
    }
}

impl fmt::Display for Operation {
    /// The name that it has in `connection.operation`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnrestrictCodeExecution => "unrestrict-code-execution",
            Self::RestrictCodeExecution => "restrict-code-execution",
            Self::GetMachineAction => "get-machine-action",
            Self::ListMachineActions => "list-machine-actions",
            Self::CancelMachineAction => "cancel-machine-action",
            Self::FindMachines => "find-machines",
        })
    }
}

/// What a call is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A device.
    Machine(MachineId),
    /// A machine action.
    Action(ActionId),
    /// A page of machine actions, by all that narrows it.
    Actions(ActionQuery),
    /// The devices of a name.
    Name(DnsName),
}

impl Target {
    /// The one thing that it is about, as `connection.open` names it.
    pub fn named(&self) -> Option<&str> {
        match self {
            Self::Machine(id) => Some(id.as_str()),
            Self::Action(id) => Some(id.as_str()),
            Self::Actions(query) => query.machine().map(MachineId::as_str),
            Self::Name(name) => Some(name.as_str()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Actions(query) => query.fmt(f),
            _ => f.write_str(self.named().unwrap_or_default()),
        }
    }
}

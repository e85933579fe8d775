//! What one call may do: one operation, on one target, with one request.

use std::fmt;

use crate::id::{ActionId, MachineId};
use crate::policy::{Denial, Route, shown};

/// What a call does, and what a quota counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Release a device.
    UnrestrictCodeExecution,
    /// Read a machine action.
    GetMachineAction,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::UnrestrictCodeExecution, Self::GetMachineAction];

    /// The route of its request.
    pub const fn route(self) -> Route {
        match self {
            Self::UnrestrictCodeExecution => Route::ALL[0],
            Self::GetMachineAction => Route::ALL[1],
        }
    }

    /// Whether it changes anything at the service.
    pub const fn changes_something(self) -> bool {
        match self {
            Self::UnrestrictCodeExecution => true,
            Self::GetMachineAction => false,
        }
    }
}

impl fmt::Display for Operation {
    /// The name that it has in `connection.operation`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnrestrictCodeExecution => "unrestrict-code-execution",
            Self::GetMachineAction => "get-machine-action",
        })
    }
}

/// What a call acts on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A device.
    Machine(MachineId),
    /// A machine action.
    Action(ActionId),
}

impl Target {
    /// The id, as it stands in a URL.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Machine(id) => id.as_str(),
            Self::Action(id) => id.as_str(),
        }
    }
}

/// The right to one request. Made for one call, by whoever makes the call; the plugin has no say in
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    operation: Operation,
    target: Option<Target>,
}

impl Grant {
    /// For an operation on a target. Without a target it covers nothing: the argument that should
    /// have named one was no id, and no request can follow.
    pub const fn new(operation: Operation, target: Option<Target>) -> Self {
        Self { operation, target }
    }

    /// The operation.
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The target, where there is one.
    pub const fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Decides whether the call was made for this.
    pub fn covers(&self, operation: Operation, target: Option<&str>) -> Result<(), Denial> {
        let granted = self.target.as_ref().map(Target::as_str);
        if self.operation == operation && granted.is_some() && granted == target {
            return Ok(());
        }
        let name = |operation: Operation, target: Option<&str>| {
            format!(
                "{operation} of {}",
                target.map_or("nothing".to_owned(), shown)
            )
        };
        Err(Denial::NotThisCall {
            granted: name(self.operation, granted),
            asked: name(operation, target),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    const B: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";

    #[test]
    fn a_grant_covers_its_operation_on_its_target_and_nothing_else() {
        let release = Operation::UnrestrictCodeExecution;
        let grant = Grant::new(release, Some(Target::Machine(A.parse().unwrap())));
        assert_eq!(grant.covers(release, Some(A)), Ok(()));
        for (operation, target) in [
            (release, Some(B)),
            (release, None),
            (release, Some("")),
            (Operation::GetMachineAction, Some(A)),
        ] {
            let denial = grant.covers(operation, target);
            assert!(
                matches!(denial, Err(Denial::NotThisCall { .. })),
                "{operation} {target:?}"
            );
        }
    }

    #[test]
    fn a_grant_without_a_target_covers_nothing() {
        let grant = Grant::new(Operation::UnrestrictCodeExecution, None);
        assert!(
            grant
                .covers(Operation::UnrestrictCodeExecution, None)
                .is_err()
        );
        assert!(
            grant
                .covers(Operation::UnrestrictCodeExecution, Some(A))
                .is_err()
        );
    }
}

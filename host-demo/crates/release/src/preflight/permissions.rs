//! What a token may do.

use defender_connect::identity::Claims;

/// Something that a caller of the API may want to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Lift a restriction.
    Release,
    /// Impose one.
    Restrict,
    /// Follow what was asked for.
    ReadActions,
    /// Find a device by its name.
    FindMachines,
}

/// Whose token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// An application's: its rights are in `roles`.
    Application,
    /// A user's, by way of an application: its rights are in `scp`.
    User,
}

/// What a token may do, by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Whose they are.
    pub bearer: Bearer,
    /// The permissions in the token.
    pub held: Vec<String>,
}

impl Ability {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Release,
        Self::Restrict,
        Self::ReadActions,
        Self::FindMachines,
    ];

    /// The permissions any one of which gives it, the one to ask for first (Microsoft, "Remove app
    /// restriction API", "Restrict app execution API", "Get machineAction API" and "List machines
    /// API", Permissions).
    ///
    /// For reading actions, newer pages give the first only.
    pub const fn permissions(self, bearer: Bearer) -> &'static [&'static str] {
        match (self, bearer) {
            (Self::Release | Self::Restrict, _) => &["Machine.RestrictExecution"],
            (Self::ReadActions, Bearer::Application) => {
                &["Machine.ReadWrite.All", "Machine.Read.All"]
            }
            (Self::ReadActions, Bearer::User) => &["Machine.ReadWrite", "Machine.Read"],
            (Self::FindMachines, Bearer::Application) => {
                &["Machine.Read.All", "Machine.ReadWrite.All"]
            }
            (Self::FindMachines, Bearer::User) => &["Machine.Read", "Machine.ReadWrite"],
        }
    }
}

impl Rights {
    /// What the token says. One that says nothing of itself, because it is no JSON Web Token, has
    /// no known rights.
    pub fn of(claims: &Claims) -> Option<Self> {
        // Every token of Entra's names its audience, also one without a right.
        claims.audiences.first()?;
        Some(if claims.scopes.is_empty() {
            Self {
                bearer: Bearer::Application,
                held: claims.roles.clone(),
            }
        } else {
            Self {
                bearer: Bearer::User,
                held: claims.scopes.clone(),
            }
        })
    }

    /// The permission that gives an ability, if one does.
    pub fn gives(&self, ability: Ability) -> Option<&'static str> {
        let held = |permission: &&&str| self.held.iter().any(|held| held == **permission);
        ability.permissions(self.bearer).iter().find(held).copied()
    }

    /// What it lacks.
    pub fn missing(&self) -> Vec<Ability> {
        let mut missing = Ability::ALL.to_vec();
        missing.retain(|ability| self.gives(*ability).is_none());
        missing
    }
}

//! Which endpoint a request's method and path name.

use http::Method;

use super::machine_action::ActionType;
use super::switches::{Case, Header, Switches};
use super::wire::unescape;

/// The endpoints. Each has its own quota, but those that give out tokens, which have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// `POST /api/machines/{id}/unrestrictCodeExecution`
    UnrestrictCodeExecution,
    /// `POST /api/machines/{id}/restrictCodeExecution`
    RestrictCodeExecution,
    /// `GET /api/machineactions/{id}`
    GetMachineAction,
    /// `GET /api/machineactions`
    ListMachineActions,
    /// `POST /api/machineactions/{id}/cancel`
    CancelMachineAction,
    /// `GET /api/machines/{id}`
    GetMachine,
    /// `GET /api/machines`
    ListMachines,
    /// `POST /{tenant}/oauth2/v2.0/token`
    Token,
    /// `POST /{tenant}/oauth2/v2.0/devicecode`
    DeviceCode,
    /// `GET /metadata/identity/oauth2/token`
    Metadata,
}

impl Api {
    /// Whether it is part of Defender, and so has a quota.
    pub(super) const fn is_defenders(self) -> bool {
        !matches!(self, Self::Token | Self::DeviceCode | Self::Metadata)
    }
}

/// What the API is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Act(ActionType),
    ReadAction,
    ListActions,
    CancelAction,
    ReadMachine,
    ListMachines,
}

/// What a request's method and path name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// A call, and the id in its path; for a list, nothing.
    Api(Call, String),
    /// The tenant.
    Token(String),
    /// The tenant.
    DeviceCode(String),
    /// The virtual machine's own endpoint.
    Metadata,
    OpenIdConfiguration(String),
    Discovery,
    /// A browser's question before the call.
    Preflight,
    /// A known path; the method that it has.
    WrongMethod(&'static str),
    Unknown,
}

impl Route {
    /// The endpoint, if it is one that is counted.
    pub(super) fn api(&self) -> Option<Api> {
        match self {
            Self::Api(Call::Act(ActionType::UnrestrictCodeExecution), _) => {
                Some(Api::UnrestrictCodeExecution)
            }
            Self::Api(Call::Act(ActionType::RestrictCodeExecution), _) => {
                Some(Api::RestrictCodeExecution)
            }
            Self::Api(Call::ReadAction, _) => Some(Api::GetMachineAction),
            Self::Api(Call::ListActions, _) => Some(Api::ListMachineActions),
            Self::Api(Call::CancelAction, _) => Some(Api::CancelMachineAction),
            Self::Api(Call::ReadMachine, _) => Some(Api::GetMachine),
            Self::Api(Call::ListMachines, _) => Some(Api::ListMachines),
            Self::Token(_) => Some(Api::Token),
            Self::DeviceCode(_) => Some(Api::DeviceCode),
            Self::Metadata => Some(Api::Metadata),
            _ => None,
        }
    }
}

pub(super) fn route(method: &Method, path: &str, switches: &Switches) -> Route {
    let path_case = switches.path_case;
    let is = |segment: &str, word: &str| match path_case {
        Case::Insensitive => segment.eq_ignore_ascii_case(word),
        Case::Sensitive => segment == word,
    };
    let all: Vec<&str> = path.split('/').skip(1).collect();
    // The version is optional; without one the latest is meant, which is 1.0.
    let in_api = match all.as_slice() {
        [api, version, rest @ ..] if is(api, "api") && is(version, "v1.0") => rest,
        [api, rest @ ..] if is(api, "api") => rest,
        _ => &[],
    };
    let (allowed, route) = match (in_api, all.as_slice()) {
        ([machines, id, action], _) if is(machines, "machines") && !id.is_empty() => {
            let r#type = if is(action, "unrestrictCodeExecution") {
                ActionType::UnrestrictCodeExecution
            } else if is(action, "restrictCodeExecution") {
                ActionType::RestrictCodeExecution
            } else {
                return Route::Unknown;
            };
            ("POST", Route::Api(Call::Act(r#type), unescape(id, false)))
        }
        ([actions, id], _) if is(actions, "machineactions") && !id.is_empty() => {
            ("GET", Route::Api(Call::ReadAction, unescape(id, false)))
        }
        ([actions, id, cancel], _)
            if is(actions, "machineactions") && !id.is_empty() && is(cancel, "cancel") =>
        {
            ("POST", Route::Api(Call::CancelAction, unescape(id, false)))
        }
        ([actions], _) if is(actions, "machineactions") => {
            ("GET", Route::Api(Call::ListActions, String::new()))
        }
        ([machines, id], _) if is(machines, "machines") && !id.is_empty() => {
            ("GET", Route::Api(Call::ReadMachine, unescape(id, false)))
        }
        ([machines], _) if is(machines, "machines") => {
            ("GET", Route::Api(Call::ListMachines, String::new()))
        }
        (_, [tenant, "oauth2", "v2.0", "token"]) => ("POST", Route::Token(unescape(tenant, false))),
        (_, [tenant, "oauth2", "v2.0", "devicecode"]) => {
            ("POST", Route::DeviceCode(unescape(tenant, false)))
        }
        (_, ["metadata", "identity", "oauth2", "token"]) => ("GET", Route::Metadata),
        (_, [tenant, "v2.0", ".well-known", "openid-configuration"]) => {
            ("GET", Route::OpenIdConfiguration(unescape(tenant, false)))
        }
        (_, ["common", "discovery", "instance"]) => ("GET", Route::Discovery),
        _ => return Route::Unknown,
    };
    if method.as_str() == allowed {
        route
    } else if method == Method::OPTIONS && switches.cors == Header::Present && !in_api.is_empty() {
        Route::Preflight
    } else {
        Route::WrongMethod(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

    #[test]
    fn paths_name_endpoints() {
        let api = |call| Route::Api(call, ID.to_owned());
        let release = || api(Call::Act(ActionType::UnrestrictCodeExecution));
        let restrict = Call::Act(ActionType::RestrictCodeExecution);
        let tenant = "contoso".to_owned();
        for (method, path, expected) in [
            (
                "POST",
                "/api/machines/ID/unrestrictCodeExecution",
                release(),
            ),
            (
                "POST",
                "/api/v1.0/machines/ID/unrestrictCodeExecution",
                release(),
            ),
            (
                "POST",
                "/API/Machines/ID/UNRESTRICTcodeExecution",
                release(),
            ),
            (
                "POST",
                "/api/machines/%31ID/restrictCodeExecution",
                Route::Api(restrict, format!("1{ID}")),
            ),
            ("POST", "/api/machines/ID/offboard", Route::Unknown),
            (
                "POST",
                "/api/machines//unrestrictCodeExecution",
                Route::Unknown,
            ),
            (
                "POST",
                "/api/machines/ID/unrestrictCodeExecution/",
                Route::Unknown,
            ),
            (
                "POST",
                "/api/v2.0/machines/ID/unrestrictCodeExecution",
                Route::Unknown,
            ),
            (
                "GET",
                "/api/machines/ID/unrestrictCodeExecution",
                Route::WrongMethod("POST"),
            ),
            (
                "OPTIONS",
                "/api/machines/ID/unrestrictCodeExecution",
                Route::WrongMethod("POST"),
            ),
            ("GET", "/api/machineactions/ID", api(Call::ReadAction)),
            (
                "DELETE",
                "/api/machineactions/ID",
                Route::WrongMethod("GET"),
            ),
            ("GET", "/api/machines/ID", api(Call::ReadMachine)),
            (
                "POST",
                "/api/machineactions/ID/cancel",
                api(Call::CancelAction),
            ),
            (
                "GET",
                "/api/machineactions/ID/cancel",
                Route::WrongMethod("POST"),
            ),
            (
                "GET",
                "/api/machineactions",
                Route::Api(Call::ListActions, String::new()),
            ),
            (
                "GET",
                "/api/machines",
                Route::Api(Call::ListMachines, String::new()),
            ),
            // MicrosoftDocs/windows-itpro-docs#8830
            ("GET", "/api/machine/ID", Route::Unknown),
            ("GET", "/api", Route::Unknown),
            ("GET", "/", Route::Unknown),
            (
                "POST",
                "/contoso/oauth2/v2.0/token",
                Route::Token(tenant.clone()),
            ),
            (
                "GET",
                "/contoso/oauth2/v2.0/token",
                Route::WrongMethod("POST"),
            ),
            (
                "POST",
                "/contoso/oauth2/v2.0/devicecode",
                Route::DeviceCode(tenant.clone()),
            ),
            ("GET", "/metadata/identity/oauth2/token", Route::Metadata),
            (
                "GET",
                "/contoso/v2.0/.well-known/openid-configuration",
                Route::OpenIdConfiguration(tenant),
            ),
            ("GET", "/common/discovery/instance", Route::Discovery),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let switches = Switches::default();
            assert_eq!(
                route(&method, &path.replace("ID", ID), &switches),
                expected,
                "{path}"
            );
        }
    }
}

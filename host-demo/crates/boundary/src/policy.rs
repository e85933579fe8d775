//! The egress policy: which requests may leave at all. Deny is the default.
//!
//! A policy names one origin and, by [`Route`]s, what may be asked of it. It says nothing of
//! *whose* call it is: that a guest touches only the device it was called for is the
//! [`Grant`](crate::grant::Grant)'s business.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use defender_boundary::grant::{Grant, Operation, Target};
//! use defender_boundary::policy::Policy;
//! use http::Method;
//!
//! let policy = Policy::release_and_read("https://api.security.microsoft.com".parse()?);
//! let id = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
//! let ask = |path: &str| {
//!     let uri = format!("https://api.security.microsoft.com/api/machines/{path}");
//!     policy.check(&Method::POST, &uri.parse().expect("a URI"))
//! };
//!
//! let (operation, target) = ask(&format!("{id}/unrestrictCodeExecution"))?;
//! // Releasing may leave. Whether this call was made for it is another question.
//! let another = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9".parse()?;
//! let grant = Grant::new(Operation::UnrestrictCodeExecution, Some(Target::Machine(another)));
//! assert!(grant.covers(operation, &target).is_err());
//!
//! let denial = ask(&format!("{id}/restrictCodeExecution")).unwrap_err();
//! // What would allow it, as it would stand in a list of rules.
//! assert!(denial.rule().is_some());
//! assert!(ask(&format!("{id}/offboard")).unwrap_err().rule().is_none());
//! # Ok(()) }
//! ```

mod denial;

use std::fmt;
use std::str::FromStr;

use http::{Method, Uri};

use defender_core::escape::shown;
use defender_core::operation::{Operation, Target};
use defender_core::query::{self, ActionQuery};

pub use defender_core::origin::{Origin, OriginError};
pub use denial::Denial;

/// One kind of request, as `METHOD /path/with/{parameters}`.
///
/// The parameters are typed: `{machine-id}` matches 40 lower-case hexadecimal digits, `{action-id}`
/// a lower-case GUID, and neither anything else. Every other segment matches itself, to the letter.
/// A query matches where a route has one, as a whole: `{action-filter}&{page}` and `{dns-name}` are
/// those of the grammar in `wit/connection.wit`, and one more, which only a pilot's grant covers: a
/// device's id in capital letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route(Operation);

impl Route {
    /// Every route there is: one for each operation.
    pub const ALL: [Self; Operation::ALL.len()] = {
        let mut all = [Self(Operation::ALL[0]); Operation::ALL.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = Self(Operation::ALL[at]);
            at += 1;
        }
        all
    };

    /// That of an operation.
    pub const fn of(operation: Operation) -> Self {
        Self(operation)
    }

    const fn parts(self) -> (Method, &'static str, Parameter, &'static str) {
        match self.0 {
            Operation::UnrestrictCodeExecution => (
                Method::POST,
                "/api/machines/",
                Parameter::MachineId,
                "/unrestrictCodeExecution",
            ),
            Operation::RestrictCodeExecution => (
                Method::POST,
                "/api/machines/",
                Parameter::MachineId,
                "/restrictCodeExecution",
            ),
            Operation::GetMachineAction => {
                (Method::GET, "/api/machineactions/", Parameter::ActionId, "")
            }
            Operation::ListMachineActions => {
                (Method::GET, "/api/machineactions?", Parameter::Actions, "")
            }
            Operation::CancelMachineAction => (
                Method::POST,
                "/api/machineactions/",
                Parameter::ActionId,
                "/cancel",
            ),
            Operation::FindMachines => (Method::GET, "/api/machines?", Parameter::Name, ""),
        }
    }

    /// What such a request does.
    pub const fn operation(self) -> Operation {
        self.0
    }

    /// What the request is about, if it is one of this route.
    fn target(self, method: &Method, uri: &Uri) -> Option<Target> {
        let (route_method, before, parameter, after) = self.parts();
        if *method != route_method {
            return None;
        }
        let asked = uri.path_and_query()?.as_str();
        let text = asked.strip_prefix(before)?.strip_suffix(after)?;
        let target = match parameter {
            Parameter::MachineId => Target::Machine(text.parse().ok()?),
            Parameter::ActionId => Target::Action(text.parse().ok()?),
            Parameter::Actions => {
                let query = ActionQuery::parse(text);
                let query = query.or_else(|| ActionQuery::parse_in_capitals(text));
                return query.map(Target::Actions);
            }
            Parameter::Name => return query::name_in(text).map(Target::Name),
        };
        // Parsing lower-cases. On the wire the id must be canonical already.
        (target.named() == Some(text)).then_some(target)
    }
}

#[derive(Clone, Copy)]
enum Parameter {
    MachineId,
    ActionId,
    Actions,
    Name,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, before, parameter, after) = self.parts();
        let parameter = match parameter {
            Parameter::MachineId => "{machine-id}",
            Parameter::ActionId => "{action-id}",
            Parameter::Actions => "{action-filter}&{page}",
            Parameter::Name => "{dns-name}",
        };
        write!(f, "{method} {before}{parameter}{after}")
    }
}

/// A text that is not a [`Route`] this host knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such route; there are: {}", Route::ALL.map(|r| r.to_string()).join(", "))]
pub struct RouteError;

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        Self::ALL
            .into_iter()
            .find(|route| route.to_string() == text)
            .ok_or(RouteError)
    }
}

/// What may leave: requests of the given routes, to one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    origin: Origin,
    routes: Vec<Route>,
}

impl Policy {
    /// Allows nothing.
    pub const fn deny_all(origin: Origin) -> Self {
        Self {
            origin,
            routes: Vec::new(),
        }
    }

    /// Allows releasing a device and all reading: what this host is for. Restricting a device, and
    /// taking an action back, need a rule that says so.
    pub fn release_and_read(origin: Origin) -> Self {
        Self {
            origin,
            routes: Self::RELEASE_AND_READ.to_vec(),
        }
    }

    /// The routes of [`release_and_read`](Self::release_and_read).
    pub const RELEASE_AND_READ: [Route; 4] = [
        Route(Operation::UnrestrictCodeExecution),
        Route(Operation::GetMachineAction),
        Route(Operation::ListMachineActions),
        Route(Operation::FindMachines),
    ];

    /// Allows one route more.
    #[must_use]
    pub fn allow(mut self, route: Route) -> Self {
        if !self.routes.contains(&route) {
            self.routes.push(route);
        }
        self
    }

    /// The one origin.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The routes that are allowed.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Decides about an operation, before there is a request.
    pub fn allows(&self, operation: Operation) -> Result<(), Denial> {
        if self
            .routes
            .iter()
            .any(|route| route.operation() == operation)
        {
            Ok(())
        } else {
            Err(Denial::NotGranted { operation })
        }
    }

    /// Decides about a request: what it is, if it may leave.
    pub fn check(&self, method: &Method, uri: &Uri) -> Result<(Operation, Target), Denial> {
        if Origin::of(uri).as_ref() != Some(&self.origin) {
            let asked = format!(
                "{}://{}",
                uri.scheme_str().unwrap_or("?"),
                uri.authority().map_or("?", |a| a.as_str())
            );
            return Err(Denial::Origin {
                asked: shown(&asked),
                allowed: self.origin.clone(),
            });
        }
        let (route, target) = Route::ALL
            .into_iter()
            .find_map(|route| Some((route, route.target(method, uri)?)))
            .ok_or_else(|| Denial::NoRoute {
                method: shown(method.as_str()),
                path: shown(uri.path_and_query().map_or("", |path| path.as_str())),
            })?;
        self.allows(route.operation())?;
        Ok((route.operation(), target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

    fn policy() -> Policy {
        Policy::release_and_read("https://api.security.microsoft.com".parse().unwrap())
    }

    fn check(method: &str, url: &str) -> Result<(Operation, Target), Denial> {
        let uri: Uri = url.parse().unwrap_or_else(|e| panic!("{url}: {e}"));
        policy().check(&method.parse().unwrap(), &uri)
    }

    #[test]
    fn releasing_and_reading_may_leave() {
        let release =
            format!("https://api.security.microsoft.com/api/machines/{ID}/unrestrictCodeExecution");
        assert_eq!(
            check("POST", &release),
            Ok((
                Operation::UnrestrictCodeExecution,
                Target::Machine(ID.parse().unwrap())
            ))
        );
        let action = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
        assert_eq!(
            check(
                "GET",
                &format!("https://api.security.microsoft.com/api/machineactions/{action}")
            ),
            Ok((
                Operation::GetMachineAction,
                Target::Action(action.parse().unwrap())
            ))
        );
    }

    #[test]
    fn lists_may_leave_with_the_queries_that_they_have() {
        let base = "https://api.security.microsoft.com";
        let query = format!("$filter=machineId%20eq%20%27{ID}%27&$top=100&$skip=100");
        assert_eq!(
            check("GET", &format!("{base}/api/machineactions?{query}")),
            Ok((
                Operation::ListMachineActions,
                Target::Actions(ActionQuery::parse(&query).unwrap())
            ))
        );
        let name = "$filter=computerDnsName%20eq%20%27pc.contoso.com%27&$top=100";
        assert_eq!(
            check("GET", &format!("{base}/api/machines?{name}")),
            Ok((
                Operation::FindMachines,
                Target::Name("pc.contoso.com".parse().unwrap())
            ))
        );
    }

    #[test]
    fn restricting_and_cancelling_need_a_rule() {
        let base = "https://api.security.microsoft.com";
        let action = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
        for (path, operation) in [
            (
                format!("/api/machines/{ID}/restrictCodeExecution"),
                Operation::RestrictCodeExecution,
            ),
            (
                format!("/api/machineactions/{action}/cancel"),
                Operation::CancelMachineAction,
            ),
        ] {
            let url = format!("{base}{path}");
            let denial = check("POST", &url).unwrap_err();
            assert_eq!(denial, Denial::NotGranted { operation });
            let granted = policy().allow(denial.rule().unwrap());
            let uri = url.parse().unwrap();
            let decision = granted.check(&Method::POST, &uri);
            assert_eq!(decision.map(|(operation, _)| operation), Ok(operation));
        }
    }

    #[test]
    fn other_ways_to_write_the_same_origin_are_the_same() {
        for origin in [
            "https://api.security.microsoft.com",
            "https://api.security.microsoft.com/",
            "https://API.Security.Microsoft.com",
            "https://api.security.microsoft.com:443",
        ] {
            assert_eq!(
                origin.parse::<Origin>().as_ref(),
                Ok(policy().origin()),
                "{origin}"
            );
        }
    }

    #[test]
    fn no_other_origin_is_reached() {
        for origin in [
            "http://api.security.microsoft.com",
            "https://api.security.microsoft.com:8443",
            "https://api.security.microsoft.com:80",
            "https://api.security.microsoft.com.",
            "https://api.security.microsoft.com.evil.test",
            "https://evil.api.security.microsoft.com",
            "https://api.security.microsoft.com@evil.test",
            "https://user:pass@api.security.microsoft.com",
            "https://@api.security.microsoft.com",
            "https://api.security.microsoft.com:443@evil.test",
            "https://evil.test",
            "https://127.0.0.1",
            "https://[::1]",
            "https://169.254.169.254",
            "ftp://api.security.microsoft.com",
        ] {
            let url = format!("{origin}/api/machines/{ID}/unrestrictCodeExecution");
            match url.parse::<Uri>() {
                // What is no URI never gets as far as a policy.
                Err(_) => {}
                Ok(uri) => {
                    let decision = policy().check(&Method::POST, &uri);
                    assert!(
                        matches!(decision, Err(Denial::Origin { .. })),
                        "{url}: {decision:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_other_request_is_made_of_it() {
        let base = "https://api.security.microsoft.com";
        let upper = ID.to_ascii_uppercase();
        for (method, path) in [
            ("POST", format!("/api/machines/{ID}/offboard")),
            ("GET", format!("/api/machines/{ID}/restrictCodeExecution")),
            ("GET", format!("/api/machines/{ID}")),
            ("POST", "/api/machineactions?$top=1".to_owned()),
            ("GET", "/api/machineactions?$top=1&$expand=x".to_owned()),
            ("GET", "/api/machineactions/?$top=1".to_owned()),
            ("GET", "/api/machines?$top=1".to_owned()),
            ("GET", format!("/api/machines/{ID}/unrestrictCodeExecution")),
            ("PUT", format!("/api/machines/{ID}/unrestrictCodeExecution")),
            (
                "POST",
                format!("/api/machines/{ID}/unrestrictCodeExecution/"),
            ),
            (
                "POST",
                format!("/api/machines/{ID}/unrestrictCodeExecution?x=1"),
            ),
            (
                "POST",
                format!("/api/machines/{ID}/unrestrictCodeExecution?"),
            ),
            (
                "POST",
                format!("/API/machines/{ID}/unrestrictCodeExecution"),
            ),
            (
                "POST",
                format!("/api/v1.0/machines/{ID}/unrestrictCodeExecution"),
            ),
            (
                "POST",
                format!("/api/machines/{upper}/unrestrictCodeExecution"),
            ),
            (
                "POST",
                "/api/machines/abc/offboard?/unrestrictCodeExecution".to_owned(),
            ),
            (
                "POST",
                format!("/api/machines/../machines/{ID}/unrestrictCodeExecution"),
            ),
            (
                "POST",
                format!("/api/machines/{ID}%2foffboard/unrestrictCodeExecution"),
            ),
            (
                "POST",
                format!("/api/machines/%2e%2e/{ID}/unrestrictCodeExecution"),
            ),
            (
                "POST",
                format!("//api/machines/{ID}/unrestrictCodeExecution"),
            ),
            ("GET", "/api/machineactions".to_owned()),
            ("GET", "/api/machineactions/".to_owned()),
            (
                "GET",
                "/api/machineactions/8A5C34DC-9CA9-4BE4-B3C2-4C70E4BFB69A".to_owned(),
            ),
            ("GET", "/api/machines".to_owned()),
            ("GET", "/".to_owned()),
        ] {
            let decision = check(method, &format!("{base}{path}"));
            assert!(
                matches!(decision, Err(Denial::NoRoute { .. })),
                "{method} {path}: {decision:?}"
            );
        }
    }

    #[test]
    fn a_policy_that_grants_nothing_denies_and_says_which_rule_would_allow() {
        let policy = Policy::deny_all("https://api.security.microsoft.com".parse().unwrap());
        let denial = policy
            .allows(Operation::UnrestrictCodeExecution)
            .unwrap_err();
        assert!(
            denial
                .to_string()
                .ends_with("POST /api/machines/{machine-id}/unrestrictCodeExecution"),
            "{denial}"
        );
        let granted = policy.allow(Route::of(Operation::UnrestrictCodeExecution));
        assert_eq!(granted.allows(Operation::UnrestrictCodeExecution), Ok(()));
        assert!(granted.allows(Operation::GetMachineAction).is_err());
    }

    #[test]
    fn a_route_reads_as_it_prints() {
        for route in Route::ALL {
            assert_eq!(route.to_string().parse(), Ok(route));
        }
        assert_eq!(
            "POST /api/machines/{machine-id}/offboard".parse::<Route>(),
            Err(RouteError)
        );
    }
}

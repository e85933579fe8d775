//! What an engine asks the gateway for: capabilities.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::Shared;
use super::bearer_secret::Secret;
use super::reply::Reply;
use defender_boundary::grant::Grant;
use defender_boundary::{BeginError, WaitOptions, stopped};
use defender_core::operation::{Operation, Target};
use defender_core::query::ActionQuery;

/// How long an engine may have the gateway wait for the quota.
const WAIT_MAX: u32 = 600;

/// What an engine asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    operation: String,
    target: Option<String>,
    query: Option<String>,
    comment: Option<String>,
    #[serde(default)]
    wait_seconds: u32,
}

/// What is wrong with what an engine asks for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Misfit {
    #[error("the body is not what is asked for here: {0}")]
    Form(String),
    #[error("there is no operation {0:?}; there are: {all}", all = operations())]
    Operation(String),
    #[error("{operation} needs {what}")]
    Target {
        operation: Operation,
        what: &'static str,
    },
    #[error("{0} needs the \"comment\" that the guest will send")]
    NoComment(Operation),
    #[error("{0} has no comment")]
    Comment(Operation),
    #[error("wait_seconds is {0}, and {WAIT_MAX} are the most: ask again then")]
    Wait(u32),
}

fn operations() -> String {
    Operation::ALL
        .map(|operation| operation.to_string())
        .join(", ")
}

/// Reads what a capability is wanted for, and how long its quota may be waited for.
fn read(body: &[u8]) -> Result<(Grant, Duration), Misfit> {
    let ask: Ask = serde_json::from_slice(body).map_err(|e| Misfit::Form(e.to_string()))?;
    let operation = Operation::ALL
        .into_iter()
        .find(|operation| operation.to_string() == ask.operation)
        .ok_or(Misfit::Operation(ask.operation))?;
    let (target, query) = (ask.target.as_deref(), ask.query.as_deref());
    let (found, what) = match operation {
        Operation::UnrestrictCodeExecution | Operation::RestrictCodeExecution => (
            target.and_then(|id| id.parse().ok()).map(Target::Machine),
            "a machine id as its \"target\": 40 hexadecimal digits",
        ),
        Operation::GetMachineAction | Operation::CancelMachineAction => (
            target.and_then(|id| id.parse().ok()).map(Target::Action),
            "an action id as its \"target\": a GUID",
        ),
        Operation::FindMachines => (
            target.and_then(|name| name.parse().ok()).map(Target::Name),
            "a DNS name as its \"target\"",
        ),
        Operation::ListMachineActions => (
            query.and_then(ActionQuery::parse).map(Target::Actions),
            "the whole query as its \"query\", as the guest will send it: $top=100, say (the \
             grammar is in wit/connection.wit)",
        ),
    };
    // One of the two, and the right one.
    let is_list = operation == Operation::ListMachineActions;
    let found = found.filter(|_| target.is_none() == is_list && query.is_some() == is_list);
    let target = found.ok_or(Misfit::Target { operation, what })?;
    if ask.wait_seconds > WAIT_MAX {
        return Err(Misfit::Wait(ask.wait_seconds));
    }
    let wait = Duration::from_secs(ask.wait_seconds.into());
    let grant = Grant::new(operation, Some(target));
    let grant = match (ask.comment, operation.changes_something()) {
        (Some(comment), true) => grant.with_comment(&comment),
        (None, false) => grant,
        (None, true) => return Err(Misfit::NoComment(operation)),
        (Some(_), false) => return Err(Misfit::Comment(operation)),
    };
    Ok((grant, wait))
}

impl Shared {
    /// Hands out a capability, or says why not.
    pub(super) async fn issue(&self, body: &Bytes, stop: watch::Receiver<bool>) -> Reply {
        let (grant, wait) = match read(body) {
            Ok(asked) => asked,
            Err(misfit) => {
                return Reply::error(StatusCode::BAD_REQUEST, "BadRequest", &misfit.to_string());
            }
        };
        let (operation, target) = (grant.operation(), grant.target().map(Target::to_string));
        if let Err(denial) = self.egress.policy().allows(operation) {
            return Reply::error(StatusCode::FORBIDDEN, "Denied", &denial.to_string());
        }
        let unavailable =
            |message: &str| Reply::error(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", message);
        let Some(place) = self.capabilities.place() else {
            return unavailable(
                "no more capabilities may be out: use those that are, or wait until they expire",
            )
            .again_in(1);
        };
        let _waiting = match wait.is_zero() {
            true => None,
            false => match self.waiting.try_acquire() {
                Ok(waiting) => Some(waiting),
                Err(_) => {
                    return unavailable(
                        "too many wait already: ask again, or without wait_seconds",
                    )
                    .again_in(1);
                }
            },
        };
        // Who it is counted for may have to be asked for: no part of the wait for the quota.
        let until = self.egress.clock().now() + self.egress.call_timeout();
        let asking = self.egress.in_time(Some(until), self.egress.principal());
        let known = tokio::select! {
            known = asking => known,
            () = stopped(Some(stop.clone())) => return unavailable("the gateway is stopping"),
        };
        if let Err(error) = known {
            return unavailable(&error.to_string());
        }
        let patience = WaitOptions {
            until: Some(self.egress.clock().now() + wait),
            stop: Some(stop),
            ..WaitOptions::default()
        };
        let call = match self.egress.begin(grant, patience).await {
            Ok(call) => call,
            Err(error @ BeginError::Quota { wait, .. }) => {
                let left = wait.at.since(self.egress.clock().now());
                let seconds = u32::try_from(left.as_nanos().div_ceil(1_000_000_000));
                let reply = Reply::error(
                    StatusCode::TOO_MANY_REQUESTS,
                    "QuotaUsed",
                    &error.to_string(),
                );
                return reply.again_in(seconds.unwrap_or(u32::MAX));
            }
            Err(BeginError::Stopped) => return unavailable("the gateway is stopping"),
            Err(error) => return unavailable(&error.to_string()),
        };
        let Ok(secret) = Secret::new() else {
            return unavailable("the system gives no random bytes for a capability");
        };
        let expires = self.egress.calendar(call.deadline());
        let capability = self.capabilities.add(&secret, call, place);
        Reply::json(
            StatusCode::CREATED,
            &json!({
                "capability": capability,
                "base_url": self.base_url,
                "expires_at": expires.to_string(),
                "operation": operation.to_string(),
                "target": target,
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
    const ACTION: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";

    fn ask(text: &str) -> Result<(Grant, Duration), Misfit> {
        read(
            text.replace("MACHINE", MACHINE)
                .replace("ACTION", ACTION)
                .as_bytes(),
        )
    }

    #[test]
    fn what_is_asked_for_names_its_target_in_the_one_way_that_its_operation_has() {
        for good in [
            r#"{"operation":"unrestrict-code-execution","target":"MACHINE","comment":"x"}"#,
            r#"{"operation":"restrict-code-execution","target":"MACHINE","comment":"x","wait_seconds":600}"#,
            r#"{"operation":"get-machine-action","target":"ACTION"}"#,
            r#"{"operation":"cancel-machine-action","target":"ACTION","comment":"x"}"#,
            r#"{"operation":"find-machines","target":"pc-1.contoso.com"}"#,
            r#"{"operation":"list-machine-actions","query":"$top=100"}"#,
        ] {
            assert!(
                ask(good).is_ok_and(|(grant, _)| grant.target().is_some()),
                "{good}"
            );
        }
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"operation":"unrestrict-code-execution","comment":"x"}"#,
            r#"{"operation":"unrestrict-code-execution","target":"ACTION","comment":"x"}"#,
            r#"{"operation":"unrestrict-code-execution","target":"MACHINE/offboard","comment":"x"}"#,
            r#"{"operation":"unrestrict-code-execution","target":"MACHINE","comment":"x","query":"$top=1"}"#,
            r#"{"operation":"unrestrict-code-execution","target":"MACHINE"}"#,
            r#"{"operation":"unrestrict-code-execution","target":"MACHINE","comment":1}"#,
            r#"{"operation":"unrestrict-code-execution","target":"MACHINE","comment":"x","wait_seconds":601}"#,
            r#"{"operation":"unrestrict-code-execution","target":"MACHINE","comment":"x","wait_seconds":-1}"#,
            r#"{"operation":"get-machine-action","target":"ACTION","comment":"x"}"#,
            r#"{"operation":"get-machine-action","target":"MACHINE"}"#,
            r#"{"operation":"list-machine-actions","target":"MACHINE"}"#,
            r#"{"operation":"list-machine-actions","query":"$top=100","target":"MACHINE"}"#,
            r#"{"operation":"list-machine-actions","query":"$expand=x"}"#,
            r#"{"operation":"offboard","target":"MACHINE"}"#,
        ] {
            assert!(ask(bad).is_err(), "{bad}");
        }
    }
}

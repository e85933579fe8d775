//! One step that helps, after an error: what only the command knows, such as flags and variables.

use host_demo::contract::Reason;
use host_demo::host::CallError;
use host_demo::identity::IdentityError;
use host_demo::transport::{TransportError, TransportErrorKind as ActionKind};

/// The variables that other programs take a proxy for HTTPS from.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Returns the steps that help after an error that kept a command from running.
pub(crate) fn after(error: &anyhow::Error) -> Vec<String> {
    if let Some(call) = error.downcast_ref::<CallError>() {
        return of_call(call).into_iter().collect();
    }
    match error.chain().find_map(|cause| cause.downcast_ref()) {
        Some(IdentityError::Certificate(error)) => {
            error.hint().map(str::to_owned).into_iter().collect()
        }
        Some(error) => of_identity(error).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Returns the step that helps after a call that failed.
pub(crate) fn of_call(error: &CallError) -> Option<String> {
    match error {
        CallError::Answered {
            detail: Some(failure),
            ..
        } => of_transport(failure),
        CallError::Identity(error) => of_identity(error),
        error => roles(error),
    }
}

fn of_identity(error: &IdentityError) -> Option<String> {
    match error {
        IdentityError::NoAnswer(failure) => of_transport(failure),
        _ => None,
    }
}

/// Returns the step that helps after a connection that failed.
pub(crate) fn of_transport(failure: &TransportError) -> Option<String> {
    match failure.kind {
        ActionKind::Dns | ActionKind::Refused | ActionKind::ConnectTimeout => unused_proxy(),
        _ => None,
    }
}

/// A connection went out directly, where the environment names a proxy for other programs.
pub(crate) fn unused_proxy() -> Option<String> {
    let is_set = |name: &&&str| std::env::var_os(**name).is_some_and(|value| !value.is_empty());
    let name = PROXY_VARIABLES.iter().find(is_set)?;
    Some(format!(
        "{name} is set but not used; name the proxy with --proxy"
    ))
}

/// Returns what the service says of the roles for a call that it refused with 403.
fn roles(error: &CallError) -> Option<String> {
    let Some(Reason::Forbidden(roles)) = error.reason() else {
        return None;
    };
    Some(match roles.required_roles.as_slice() {
        [] => "the API does not name the role that is missing; host-demo check lists what the \
               token has"
            .to_owned(),
        required => {
            let held = match roles.held_roles.as_slice() {
                [] => String::new(),
                held => format!("; the token has {}", held.join(", ")),
            };
            format!(
                "grant the application {}, with admin consent{held}",
                required.join(" or ")
            )
        }
    })
}

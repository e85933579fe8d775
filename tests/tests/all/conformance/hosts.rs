//! The hosts, and how each is asked for a call.

use std::sync::Arc;

use host_demo::cloud::Service;
use host_demo::contract::{ActionStatus, ActionType, Error, MachineAction, Reason};
use host_demo::host::{CallError, Host, Setup, WaitOptions};
use host_demo::identity::FixedToken;
use host_demo::policy::Policy;
use serde_json::{Value, json};
use tests::foreign::{Asked, CommandLine, Driver, Flavour, Foreign};
use tests::world::real_plugin;

/// A host, with one of the components.
pub(super) struct ActionKind {
    pub(super) name: &'static str,
    kind: Program,
    flavour: Flavour,
    /// Its guest has a capability of a gateway's for a token.
    pub(super) is_through_gateway: bool,
}

#[derive(Clone, Copy)]
enum Program {
    Ours,
    CommandLine,
    Node,
    Python,
}

const fn kind(name: &'static str, kind: Program, flavour: Flavour) -> ActionKind {
    ActionKind {
        name,
        kind,
        flavour,
        is_through_gateway: false,
    }
}

const fn through_gateway(name: &'static str, program: Program) -> ActionKind {
    ActionKind {
        is_through_gateway: true,
        ..kind(name, program, Flavour::Environment)
    }
}

pub(super) const OURS: &str = "host-demo";
pub(super) const COMMAND_LINE: &str = "wasmtime env";
pub(super) const NODE: &str = "node";
pub(super) const NODE_ENV: &str = "node env";
pub(super) const PYTHON: &str = "python";
pub(super) const PYTHON_ENV: &str = "python env";

pub(super) const COMMAND_LINE_GATEWAY: &str = "wasmtime gateway";
pub(super) const NODE_GATEWAY: &str = "node gateway";
pub(super) const PYTHON_GATEWAY: &str = "python gateway";

/// The table's columns: with "env", the component that reads the environment; with "gateway", the
/// same, and a gateway before the service.
pub(super) const HOSTS: [ActionKind; 9] = [
    kind(OURS, Program::Ours, Flavour::Plain),
    kind(COMMAND_LINE, Program::CommandLine, Flavour::Environment),
    kind(NODE, Program::Node, Flavour::Plain),
    kind(NODE_ENV, Program::Node, Flavour::Environment),
    kind(PYTHON, Program::Python, Flavour::Plain),
    kind(PYTHON_ENV, Program::Python, Flavour::Environment),
    through_gateway(COMMAND_LINE_GATEWAY, Program::CommandLine),
    through_gateway(NODE_GATEWAY, Program::Node),
    through_gateway(PYTHON_GATEWAY, Program::Python),
];

/// A host that takes calls.
pub(super) enum AtWork {
    Ours,
    /// With the component that reads the environment, and with the other one.
    CommandLine(Arc<[CommandLine; 2]>),
    Driver(Option<Driver>),
}

pub(super) async fn start(
    host: usize,
    foreign: Arc<Result<Foreign, String>>,
) -> Result<AtWork, String> {
    let start = move || {
        let ActionKind { kind, flavour, .. } = HOSTS[host];
        if matches!(kind, Program::Ours) {
            return Ok(AtWork::Ours);
        }
        let foreign = Result::as_ref(&foreign).map_err(String::clone)?;
        let component = foreign.component(flavour);
        Ok(match kind {
            Program::Ours => AtWork::Ours,
            Program::CommandLine => {
                let both = [flavour, Flavour::Plain];
                AtWork::CommandLine(both.map(|flavour| foreign.command_line(flavour)).into())
            }
            Program::Node => AtWork::Driver(Some(foreign.node_driver(&component))),
            Program::Python => AtWork::Driver(Some(foreign.python_driver(&component))),
        })
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

impl AtWork {
    /// Makes a call: `{"ok": …}`, `{"err": …}` or, where the host itself failed, `{"fault": …}`.
    pub(super) async fn call(&mut self, asked: &Asked) -> Value {
        let asked = asked.clone();
        match self {
            Self::Ours => ours(&asked).await,
            Self::CommandLine(command_line) => {
                let command_line = Arc::clone(command_line);
                let which = usize::from(asked.no_connection);
                let call = move || command_line[which].call(&asked);
                tokio::task::spawn_blocking(call).await.unwrap()
            }
            Self::Driver(driver) => {
                let mut at_work = driver.take().unwrap();
                let call = move || (at_work.call(&asked), at_work);
                let (told, at_work) = tokio::task::spawn_blocking(call).await.unwrap();
                *driver = Some(at_work);
                told
            }
        }
    }
}

/// A host of the library's, set up for one call.
async fn ours(asked: &Asked) -> Value {
    let host = match set_up(asked) {
        Ok(host) => host,
        Err(refused) => return json!({ "fault": refused }),
    };
    let (machine, comment) = (&asked.machine_id, &asked.comment);
    let call = host.unrestrict_code_execution(machine, comment, WaitOptions::default());
    match call.await {
        Ok(action) => json!({ "ok": plain_action(&action) }),
        Err(CallError::Answered { error, .. }) => json!({ "err": plain_error(&error) }),
        Err(other) => json!({ "fault": format!("{other:?}") }),
    }
}

fn set_up(asked: &Asked) -> Result<Host, String> {
    let base_url = &asked.environment["DEFENDER_BASE_URL"];
    let service = Service::custom(base_url, base_url, "https://x/.default");
    let service = service.map_err(|e| e.to_string())?;
    let tokens = FixedToken::new(&asked.environment["DEFENDER_TOKEN"]);
    let tokens = Arc::new(tokens.map_err(|e| e.to_string())?);
    let origin = service.origin().clone();
    let mut setup = Setup::new(service, tokens);
    if asked.refusal.is_some() {
        setup.policy = Policy::deny_all(origin);
    }
    let boundary = setup.build().map_err(|e| e.to_string())?;
    Ok(Host::new(real_plugin(), &boundary))
}

/// The contract's names of what the service calls `UnrestrictCodeExecution` and so on.
fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

fn plain_action(action: &MachineAction) -> Value {
    let kind = match &action.type_ {
        ActionType::Other(other) => json!({ "other": other }),
        known => json!(kebab(known.as_str())),
    };
    let status = match &action.status {
        ActionStatus::Other(other) => json!({ "other": other }),
        known => json!(kebab(known.as_str())),
    };
    let additional = action.additional_properties.iter();
    let additional: Vec<_> = additional
        .map(|property| json!({ "name": property.name, "json": property.json }))
        .collect();
    json!({
        "id": action.id,
        "type": kind,
        "title": action.title,
        "requestor": action.requestor,
        "requestor-comment": action.requestor_comment,
        "status": status,
        "machine-id": action.machine_id,
        "computer-dns-name": action.computer_dns_name,
        "creation-date-time-utc": action.creation_date_time_utc,
        "last-update-date-time-utc": action.last_update_date_time_utc,
        "cancellation-requestor": action.cancellation_requestor,
        "cancellation-comment": action.cancellation_comment,
        "cancellation-date-time-utc": action.cancellation_date_time_utc,
        "error-h-result": action.error_h_result,
        "scope": action.scope,
        "external-id": action.external_id,
        "request-source": action.request_source,
        "related-file-info": action.related_file_info,
        "commands": action.commands,
        "troubleshoot-info": action.troubleshoot_info,
        "additional-properties": additional,
    })
}

fn plain_error(error: &Error) -> Value {
    let name = error.reason.name();
    let reason = match &error.reason {
        Reason::InvalidArgument(argument) => {
            json!({ name: { "parameter": argument.parameter, "problem": argument.problem } })
        }
        Reason::Forbidden(roles) => {
            json!({ name: { "required-roles": roles.required_roles, "held-roles": roles.held_roles } })
        }
        Reason::RateLimited(limit) => json!({ name: {
            "by": kebab(&format!("{:?}", limit.by).replace("Limiter::", "")),
            "retry-after-seconds": limit.retry_after_seconds,
            "window-seconds": limit.window_seconds,
        } }),
        Reason::ServiceFailure(failure) => {
            json!({ name: { "retry-after-seconds": failure.retry_after_seconds } })
        }
        _ => json!(name),
    };
    let service = error.service.as_ref();
    let service = service.map(|service| {
        json!({
            "status": service.status,
            "code": service.code,
            "message": service.message,
            "correlation-id": service.correlation_id,
        })
    });
    json!({
        "effect": error.effect.name(),
        "reason": reason,
        "message": error.message,
        "service": service,
    })
}

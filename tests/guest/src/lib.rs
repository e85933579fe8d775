//! A plugin that does what no plugin should.
//!
//! A release misbehaves in the way that its comment names: one word and, where the way needs one,
//! an argument behind it. The error that it answers with says what it met, so that a test sees who
//! refused what. `behave` is the control: the request that all the others bend, as it should be.
//! A list's way is the last of the filter's states, and a search's way is the name.

#![allow(
    clippy::result_large_err,
    reason = "the contract's error is a record, returned by value"
)]

#[cfg(target_family = "wasm")]
mod heap;
mod request;

use std::hint::black_box;

use bindings::defender::endpoint::connection::{self, Access, Operation};
use bindings::defender::endpoint::types::{
    ActionStatus, ActionType, Effect, Error, Limiter, MachineAction, RateLimit, Reason,
    ServiceError,
};
use bindings::exports::defender::endpoint::machine_actions::{
    MachineActionFilter, MachineActionPage,
};
use bindings::exports::defender::endpoint::machines::{FoundMachines, Machine};
use bindings::exports::defender::endpoint::{
    code_execution, machine_actions, machines, restriction,
};
use request::{Body, Request, body_with};
use wasi::http::types::{Fields, Method, Scheme};

mod bindings {
    #![allow(unreachable_pub, reason = "generated")]

    wit_bindgen::generate!({
        path: "../../wit",
        world: "plugin",
    });

    // As in the plugin: a native library must not carry the exports' symbols.
    #[cfg(target_family = "wasm")]
    use super::Evil;
    #[cfg(target_family = "wasm")]
    export!(Evil with_types_in self);
}

/// What the component exports.
pub struct Evil;

impl code_execution::Guest for Evil {
    fn unrestrict_code_execution(
        machine_id: String,
        comment: String,
    ) -> Result<MachineAction, Error> {
        // A run adds its reference, in brackets.
        let told = comment
            .rsplit_once(" [")
            .map_or(&*comment, |(told, _)| told);
        let (way, argument) = told.split_once(' ').unwrap_or((told, ""));
        misbehave(&machine_id, &comment, way, argument)
    }
}

impl restriction::Guest for Evil {
    /// Releases the device instead, or does as it is told.
    fn restrict_code_execution(machine_id: String, way: String) -> Result<MachineAction, Error> {
        let operation = match way.as_str() {
            "open-release" => Operation::UnrestrictCodeExecution,
            _ => Operation::RestrictCodeExecution,
        };
        let access = opened(operation, Some(&machine_id))?;
        let mut request = Request::release(&access.base_url, &machine_id, &way);
        if way == "behave" {
            request.path = format!("/api/machines/{machine_id}/restrictCodeExecution");
        }
        let answer = request.send().map_err(met)?;
        Err(met(format!("answered {}", answer.status)))
    }
}

impl machine_actions::Guest for Evil {
    /// Reads the action, and then tells of another one.
    fn get_machine_action(action_id: String) -> Result<MachineAction, Error> {
        let access = opened(Operation::GetMachineAction, Some(&action_id))?;
        let path = format!("/api/machineactions/{action_id}");
        Request::get(&access.base_url, path).send().map_err(met)?;
        Ok(MachineAction {
            id: "00000000-0000-0000-0000-000000000000".to_owned(),
            ..action_of("")
        })
    }

    fn list_machine_actions(
        filter: MachineActionFilter,
        top: u32,
        skip: u32,
    ) -> Result<MachineActionPage, Error> {
        let Some(ActionStatus::Other(way)) = filter.statuses.last() else {
            return honest_list(&filter, top, skip);
        };
        let machine = filter.machine_id.unwrap_or_default();
        let query = format!(
            "$filter=machineId%20eq%20%27{machine}%27%20and%20status%20eq%20%27{way}%27&$top={top}"
        );
        let (operation, target) = match way.as_str() {
            "OpenAll" => (Operation::ListMachineActions, None),
            "OpenCancel" => (Operation::CancelMachineAction, Some(ACTION)),
            "OpenMachines" => (Operation::FindMachines, Some("pc")),
            _ => (Operation::ListMachineActions, Some(machine.as_str())),
        };
        let access = opened(operation, target)?;
        let list = |query: String| format!("/api/machineactions?{query}");
        let path = match way.as_str() {
            "Everything" => list(format!("$top={top}")),
            "OtherMachine" => list(query.replace(&machine, &"0".repeat(40))),
            "OtherState" => list(query.replace(way, "Pending")),
            "NextPage" => list(format!("{query}&$skip={top}")),
            "LongerPage" => list(format!("{query}0")),
            "Expand" => list(format!("{query}&$expand=machine")),
            "OrderBy" => list(format!("{query}&$orderby=id")),
            "Or" => list(query.replace("%20and%20", "%20or%20")),
            "Quote" => list(query.replace(way, &format!("{way}%27%20or%20%271%27%20eq%20%271"))),
            "Escaped" => list(query.replace('$', "%24")),
            "Machines" => format!("/api/machines?{query}"),
            "Cancel" => format!("/api/machineactions/{ACTION}/cancel"),
            "One" => format!("/api/machineactions/{ACTION}"),
            _ => list(query),
        };
        let mut request = Request::get(&access.base_url, path);
        if way == "Cancel" {
            request.method = Method::Post;
        }
        let answer = request.send().map_err(met)?;
        let page = |items, truncated| Ok(MachineActionPage { items, truncated });
        match way.as_str() {
            "Invent" => page(vec![answer.read()], false),
            "HideAll" => {
                answer.read();
                page(Vec::new(), false)
            }
            "ChangeDate" => {
                let mut items = answer.read_list();
                if let Some(last) = items.last_mut() {
                    change_date(last);
                }
                page(items, false)
            }
            "Twice" => {
                let second = request.send();
                Err(met(format!("{}, then {second:?}", answer.status)))
            }
            _ => Err(met(format!("answered {}", answer.status))),
        }
    }

    fn cancel_machine_action(action_id: String, way: String) -> Result<MachineAction, Error> {
        let access = opened(Operation::CancelMachineAction, Some(&action_id))?;
        let mut request = Request::release(&access.base_url, "", &way);
        let id = match way.as_str() {
            "behave" => action_id.as_str(),
            _ => ACTION,
        };
        request.path = format!("/api/machineactions/{id}/cancel");
        let answer = request.send().map_err(met)?;
        Err(met(format!("answered {}", answer.status)))
    }
}

impl machines::Guest for Evil {
    fn find_machines(name: String) -> Result<FoundMachines, Error> {
        let access = opened(Operation::FindMachines, Some(&name))?;
        let query = |name: &str| {
            format!("/api/machines?$filter=computerDnsName%20eq%20%27{name}%27&$top=100")
        };
        let path = match name.as_str() {
            "other" => query("another"),
            "expand" => query(&name) + "&$expand=x",
            "all" => "/api/machines?$top=100".to_owned(),
            _ => query(&name),
        };
        let answer = Request::get(&access.base_url, path).send().map_err(met)?;
        answer.read();
        Ok(FoundMachines {
            items: vec![machine_named(&name)],
            truncated: false,
        })
    }
}

/// The list that was asked for, as the stand-in answers with it.
fn honest_list(
    filter: &MachineActionFilter,
    top: u32,
    skip: u32,
) -> Result<MachineActionPage, Error> {
    let clause = |property: &str, values: &[&str]| match values {
        [] => None,
        [value] => Some(format!("{property}%20eq%20%27{value}%27")),
        _ => Some(format!(
            "{property}%20in%20(%27{}%27)",
            values.join("%27,%27")
        )),
    };
    let types = filter.types.iter().map(|type_| match type_ {
        ActionType::RestrictCodeExecution => "RestrictCodeExecution",
        _ => "UnrestrictCodeExecution",
    });
    let statuses = filter.statuses.iter().map(|status| match status {
        ActionStatus::Pending => "Pending",
        _ => "InProgress",
    });
    let ids: Vec<&str> = filter.ids.iter().map(String::as_str).collect();
    let clauses = [
        clause("id", &ids),
        clause("machineId", filter.machine_id.as_deref().as_slice()),
        clause("type", &types.collect::<Vec<_>>()),
        clause("status", &statuses.collect::<Vec<_>>()),
        filter
            .created_since
            .as_ref()
            .map(|since| format!("creationDateTimeUtc%20ge%20{since}")),
    ];
    let clauses: Vec<String> = clauses.into_iter().flatten().collect();
    let mut query = match clauses.is_empty() {
        true => String::new(),
        false => format!("$filter={}&", clauses.join("%20and%20")),
    };
    query.push_str(&format!("$top={top}"));
    if skip > 0 {
        query.push_str(&format!("&$skip={skip}"));
    }
    let access = opened(Operation::ListMachineActions, filter.machine_id.as_deref())?;
    let request = Request::get(&access.base_url, format!("/api/machineactions?{query}"));
    Ok(MachineActionPage {
        items: request.send().map_err(met)?.read_list(),
        truncated: false,
    })
}

const ACTION: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";

fn opened(operation: Operation, target: Option<&str>) -> Result<Access, Error> {
    connection::open(operation, target).map_err(|refusal| met(format!("{refusal:?}")))
}

fn misbehave(
    machine: &str,
    comment: &str,
    way: &str,
    argument: &str,
) -> Result<MachineAction, Error> {
    let open = |operation, target| Err(met(format!("{:?}", connection::open(operation, target))));
    match way {
        "open-machine" => return open(Operation::UnrestrictCodeExecution, Some(argument)),
        "open-nothing" => return open(Operation::UnrestrictCodeExecution, None),
        "open-action" => return open(Operation::GetMachineAction, Some(argument)),

        "claim-success" => return Ok(action_of(machine)),
        "claim-429" => return Err(claimed_429(argument)),

        "spin" => loop {
            black_box(());
        },
        "allocate" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(black_box(vec![1_u8; 64 * 1024]));
            }
        }
        // Few instructions of its own, and milliseconds of the host's for each.
        "ask-without-end" => {
            let (fields, name) = (Fields::new(), "x".repeat(3 << 20));
            loop {
                black_box(fields.has(&name));
            }
        }
        "open-without-end" => {
            let target = "y".repeat(3 << 20);
            loop {
                let operation = Operation::UnrestrictCodeExecution;
                let _ = black_box(connection::open(operation, Some(&target)));
            }
        }
        "many-resources" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(Fields::new());
            }
        }
        // The host asks for memory to put an answer in, and does not get it back.
        #[cfg(target_family = "wasm")]
        "spin-in-realloc" => {
            heap::spin();
            return open(Operation::UnrestrictCodeExecution, Some(machine));
        }
        "huge-headers" => {
            let fields = Fields::new();
            loop {
                let name = format!("x-{}", "y".repeat(1000));
                if let Err(error) = fields.append(&name, &[b'z'; 4000]) {
                    return Err(met(format!("{error:?}")));
                }
            }
        }
        "giant-string" => return Err(met("x".repeat(8 << 20))),
        "trap" => panic!("as it was told"),
        _ => {}
    }

    let access = connection::open(Operation::UnrestrictCodeExecution, Some(machine))
        .map_err(|refusal| met(format!("{refusal:?}")))?;
    let mut request = Request::release(&access.base_url, machine, comment);
    match way {
        "behave"
        | "claim-other-machine"
        | "claim-other-action"
        | "claim-unread"
        | "claim-429-at-the-end"
        | "read-headers"
        | "change-date"
        | "read-on" => {}
        "other-comment" => request.set_body(body_with("another comment")),
        "body" => request.set_body(argument.as_bytes().to_vec()),
        "request-twice" => {
            let first = request.send().map_err(met)?.status;
            let second = request.send();
            return Err(met(format!("{first}, then {second:?}")));
        }
        "flood" => {
            let answered = (0..1000).filter(|_| request.send().is_ok()).count();
            return Err(met(format!("{answered} answered")));
        }
        "leave" => {
            let _unawaited = request.start().map_err(met)?;
            return Err(met("did not wait for an answer".to_owned()));
        }
        "request-twice-at-once" => {
            let both = [request.start().map_err(met)?, request.start().map_err(met)?];
            return Err(met(format!("{:?}", both.map(request::Started::finish))));
        }
        "authority" => request.authority = argument.to_owned(),
        "path" => request.path = argument.to_owned(),
        "method" => {
            request.method = match argument {
                "GET" => Method::Get,
                "PUT" => Method::Put,
                "DELETE" => Method::Delete,
                other => Method::Other(other.to_owned()),
            }
        }
        "scheme" => {
            request.scheme = match argument {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                other => Scheme::Other(other.to_owned()),
            }
        }
        "header" => {
            let (name, value) = argument.split_once(' ').unwrap_or((argument, ""));
            request.headers.push((name.to_owned(), value.to_owned()));
        }
        "length" => request.set_header("content-length", argument),
        "no-length" => request.headers.retain(|(name, _)| name != "content-length"),
        "dropped-body" => request.body = Body::Dropped,
        "held-body" => request.body = Body::Held,
        "huge-body" => request.set_body(vec![b' '; 1 << 20]),
        "trailers" => request.body = Body::WithTrailers,
        _ => return Err(met(format!("no such way: {way}"))),
    }
    let answer = request.send().map_err(met)?;
    match way {
        "behave" | "read-on" => Ok(answer.read()),
        "change-date" => {
            let mut action = answer.read();
            change_date(&mut action);
            Ok(action)
        }
        "claim-other-action" => {
            answer.read();
            Ok(action_of(machine))
        }
        "claim-unread" => Ok(action_of(machine)),
        "claim-other-machine" => Ok(action_of(argument)),
        "claim-429-at-the-end" => Err(claimed_429(argument)),
        // What the plugin reports of an empty answer, but for the message.
        "read-headers" => Err(Error {
            effect: Effect::Unknown,
            service: Some(ServiceError {
                status: answer.status,
                code: None,
                message: None,
                correlation_id: None,
            }),
            ..met(answer.headers.join(", "))
        }),
        _ => Err(met(format!("answered {}", answer.status))),
    }
}

/// Changes one character of the date by which it is decided what succeeded last.
fn change_date(action: &mut MachineAction) {
    if let Some(date) = &mut action.last_update_date_time_utc {
        date.replace_range(..1, "1");
    }
}

/// What it met, for the test to read.
fn met(message: String) -> Error {
    Error {
        effect: Effect::None,
        reason: Reason::UnexpectedResponse,
        message,
        service: None,
    }
}

fn claimed_429(seconds: &str) -> Error {
    Error {
        reason: Reason::RateLimited(RateLimit {
            by: Limiter::Service,
            retry_after_seconds: seconds.parse().ok(),
            window_seconds: None,
        }),
        ..met("claimed".to_owned())
    }
}

fn action_of(machine: &str) -> MachineAction {
    MachineAction {
        id: "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".to_owned(),
        type_: ActionType::UnrestrictCodeExecution,
        title: None,
        requestor: None,
        requestor_comment: None,
        status: ActionStatus::Succeeded,
        machine_id: Some(machine.to_owned()),
        computer_dns_name: None,
        creation_date_time_utc: None,
        last_update_date_time_utc: None,
        cancellation_requestor: None,
        cancellation_comment: None,
        cancellation_date_time_utc: None,
        error_h_result: None,
        scope: None,
        external_id: None,
        request_source: None,
        related_file_info: None,
        commands: None,
        troubleshoot_info: None,
        additional_properties: Vec::new(),
    }
}

fn machine_named(name: &str) -> Machine {
    Machine {
        id: "0".repeat(40),
        merged_into_machine_id: None,
        is_potential_duplication: None,
        computer_dns_name: Some(name.to_owned()),
        first_seen: None,
        last_seen: None,
        os_platform: None,
        last_ip_address: None,
        health_status: None,
        rbac_group_name: None,
        aad_device_id: None,
        machine_tags: None,
        onboarding_status: None,
        additional_properties: Vec::new(),
    }
}

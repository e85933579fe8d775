//! Reads a response natively, with the plugin's own code as a library.
//!
//! The only place that names the plugin's types. They are generated from the same contract as
//! [`bindings`], and converted here.

#![expect(
    clippy::result_large_err,
    reason = "the contract's own error, once a call"
)]

use http::HeaderMap;
use plugin::api::{Answer, Call, Extent, MAX_ANSWER, MAX_LIST};
use plugin::query::{ActionQuery, MachineQuery};
use plugin::types;

use crate::bindings::{
    self, ActionStatus, ActionType, Effect, FoundMachines, Limiter, Machine, MachineAction,
    MachineActionFilter, MachineActionPage, Property, Reason,
};
use defender_boundary::Observation;
use defender_core::operation::Operation;

/// Reads the response to one call.
pub(crate) struct Reader<T>(Box<Read<T>>);

type Read<T> = dyn Fn(&Answer) -> Result<T, bindings::Error> + Send + Sync;

impl<T> Reader<T> {
    fn new<P: Into<T>>(
        read: impl Fn(&Answer) -> Result<P, types::Error> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(move |answer| {
            read(answer).map(Into::into).map_err(Into::into)
        }))
    }

    /// Returns the call's result by the response that the guest got, if it got one.
    pub(crate) fn read(
        &self,
        seen: &Observation,
        operation: Operation,
    ) -> Option<Result<T, bindings::Error>> {
        let max = answer_max(operation);
        let (body, extent) = match (seen.answer.get(..max), &seen.unread) {
            (Some(start), _) if seen.answer.len() > max => (start, Extent::TooLong),
            (_, None) => (&*seen.answer, Extent::Complete),
            (_, Some(_)) => (&*seen.answer, Extent::Broken),
        };
        let answer = Answer {
            status: seen.status?,
            headers: headers(seen.headers.as_ref()?),
            body: body.to_vec(),
            extent,
        };
        Some((self.0)(&answer))
    }
}

/// The most bytes of a response's body that the plugin reads.
pub(crate) const fn answer_max(operation: Operation) -> usize {
    match operation.reads_a_list() {
        true => MAX_LIST,
        false => MAX_ANSWER,
    }
}

fn headers(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), value.as_bytes().to_vec())
    };
    headers.iter().map(header).collect()
}

/// The reader of a release's response; `None` if the plugin refuses these arguments. The same holds
/// for the functions below.
pub(crate) fn unrestrict(machine: &str, comment: &str) -> Option<Reader<MachineAction>> {
    Some(action(Call::UnrestrictCodeExecution {
        machine: machine.parse().ok()?,
        comment: comment.parse().ok()?,
    }))
}

pub(crate) fn restrict(machine: &str, comment: &str) -> Option<Reader<MachineAction>> {
    Some(action(Call::RestrictCodeExecution {
        machine: machine.parse().ok()?,
        comment: comment.parse().ok()?,
    }))
}

pub(crate) fn get(id: &str) -> Option<Reader<MachineAction>> {
    let id = id.parse().ok()?;
    Some(action(Call::GetMachineAction { action: id }))
}

pub(crate) fn cancel(id: &str, comment: &str) -> Option<Reader<MachineAction>> {
    Some(action(Call::CancelMachineAction {
        action: id.parse().ok()?,
        comment: comment.parse().ok()?,
    }))
}

pub(crate) fn list(
    filter: &MachineActionFilter,
    top: u32,
    skip: u32,
) -> Option<Reader<MachineActionPage>> {
    let query = ActionQuery::new(&filter.into(), top, skip).ok()?;
    Some(Reader::new(move |answer| {
        Call::ListMachineActions(&query).interpret_as(answer, |body| query.page_in(body))
    }))
}

pub(crate) fn find(name: &str) -> Option<Reader<FoundMachines>> {
    let query: MachineQuery = name.parse().ok()?;
    Some(Reader::new(move |answer| {
        Call::FindMachines(&query).interpret_as(answer, |body| query.machines_in(body))
    }))
}

fn action(call: Call<'static>) -> Reader<MachineAction> {
    Reader::new(move |answer| call.interpret(answer))
}

impl From<&MachineActionFilter> for plugin::MachineActionFilter {
    fn from(filter: &MachineActionFilter) -> Self {
        // Names are all that a query contains.
        let types = filter.types.iter().map(ActionType::as_str);
        let statuses = filter.statuses.iter().map(ActionStatus::as_str);
        Self {
            ids: filter.ids.clone(),
            machine_id: filter.machine_id.clone(),
            types: types
                .map(|name| types::ActionType::Other(name.to_owned()))
                .collect(),
            statuses: statuses
                .map(|name| types::ActionStatus::Other(name.to_owned()))
                .collect(),
            created_since: filter.created_since.clone(),
        }
    }
}

impl From<types::MachineAction> for MachineAction {
    fn from(action: types::MachineAction) -> Self {
        Self {
            id: action.id,
            type_: action.type_.into(),
            title: action.title,
            requestor: action.requestor,
            requestor_comment: action.requestor_comment,
            status: action.status.into(),
            machine_id: action.machine_id,
            computer_dns_name: action.computer_dns_name,
            creation_date_time_utc: action.creation_date_time_utc,
            last_update_date_time_utc: action.last_update_date_time_utc,
            cancellation_requestor: action.cancellation_requestor,
            cancellation_comment: action.cancellation_comment,
            cancellation_date_time_utc: action.cancellation_date_time_utc,
            error_h_result: action.error_h_result,
            scope: action.scope,
            external_id: action.external_id,
            request_source: action.request_source,
            related_file_info: action.related_file_info,
            commands: action.commands,
            troubleshoot_info: action.troubleshoot_info,
            additional_properties: properties(action.additional_properties),
        }
    }
}

impl From<plugin::MachineActionPage> for MachineActionPage {
    fn from(page: plugin::MachineActionPage) -> Self {
        Self {
            items: page.items.into_iter().map(Into::into).collect(),
            truncated: page.truncated,
        }
    }
}

impl From<plugin::FoundMachines> for FoundMachines {
    fn from(found: plugin::FoundMachines) -> Self {
        Self {
            items: found.items.into_iter().map(Into::into).collect(),
            truncated: found.truncated,
        }
    }
}

impl From<plugin::Machine> for Machine {
    fn from(machine: plugin::Machine) -> Self {
        Self {
            id: machine.id,
            merged_into_machine_id: machine.merged_into_machine_id,
            is_potential_duplication: machine.is_potential_duplication,
            computer_dns_name: machine.computer_dns_name,
            first_seen: machine.first_seen,
            last_seen: machine.last_seen,
            os_platform: machine.os_platform,
            last_ip_address: machine.last_ip_address,
            health_status: machine.health_status,
            rbac_group_name: machine.rbac_group_name,
            aad_device_id: machine.aad_device_id,
            machine_tags: machine.machine_tags,
            onboarding_status: machine.onboarding_status,
            additional_properties: properties(machine.additional_properties),
        }
    }
}

fn properties(all: Vec<types::Property>) -> Vec<Property> {
    let property = |types::Property { name, json }| Property { name, json };
    all.into_iter().map(property).collect()
}

impl From<types::ActionType> for ActionType {
    fn from(type_: types::ActionType) -> Self {
        use types::ActionType as From;
        match type_ {
            From::RunAntiVirusScan => Self::RunAntiVirusScan,
            From::Offboard => Self::Offboard,
            From::LiveResponse => Self::LiveResponse,
            From::CollectInvestigationPackage => Self::CollectInvestigationPackage,
            From::Isolate => Self::Isolate,
            From::Unisolate => Self::Unisolate,
            From::StopAndQuarantineFile => Self::StopAndQuarantineFile,
            From::RestrictCodeExecution => Self::RestrictCodeExecution,
            From::UnrestrictCodeExecution => Self::UnrestrictCodeExecution,
            From::Other(name) => Self::Other(name),
        }
    }
}

impl From<types::ActionStatus> for ActionStatus {
    fn from(status: types::ActionStatus) -> Self {
        use types::ActionStatus as From;
        match status {
            From::Pending => Self::Pending,
            From::InProgress => Self::InProgress,
            From::Succeeded => Self::Succeeded,
            From::Failed => Self::Failed,
            From::TimeOut => Self::TimeOut,
            From::Cancelled => Self::Cancelled,
            From::Other(name) => Self::Other(name),
        }
    }
}

impl From<types::Error> for bindings::Error {
    fn from(error: types::Error) -> Self {
        let service = error.service.map(|service| bindings::ServiceError {
            status: service.status,
            code: service.code,
            message: service.message,
            correlation_id: service.correlation_id,
        });
        Self {
            effect: match error.effect {
                types::Effect::None => Effect::None,
                types::Effect::Unknown => Effect::Unknown,
            },
            reason: error.reason.into(),
            message: error.message,
            service,
        }
    }
}

impl From<types::Reason> for Reason {
    fn from(reason: types::Reason) -> Self {
        use types::Reason as From;
        match reason {
            From::InvalidArgument(argument) => Self::InvalidArgument(bindings::InvalidArgument {
                parameter: argument.parameter,
                problem: argument.problem,
            }),
            From::Denied => Self::Denied,
            From::Unavailable => Self::Unavailable,
            From::AlreadyInProgress => Self::AlreadyInProgress,
            From::Rejected => Self::Rejected,
            From::Unauthorized => Self::Unauthorized,
            From::Forbidden(roles) => Self::Forbidden(bindings::MissingRoles {
                required_roles: roles.required_roles,
                held_roles: roles.held_roles,
            }),
            From::NotFound => Self::NotFound,
            From::RateLimited(limit) => Self::RateLimited(bindings::RateLimit {
                by: match limit.by {
                    types::Limiter::Host => Limiter::Host,
                    types::Limiter::Service => Limiter::Service,
                },
                retry_after_seconds: limit.retry_after_seconds,
                window_seconds: limit.window_seconds,
            }),
            From::ServiceFailure(failure) => Self::ServiceFailure(bindings::Failure {
                retry_after_seconds: failure.retry_after_seconds,
            }),
            From::Transport => Self::Transport,
            From::UnexpectedResponse => Self::UnexpectedResponse,
        }
    }
}

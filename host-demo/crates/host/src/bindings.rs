//! The contract in `wit/`, as Rust types.
//!
//! They are generated from it, and named here once; nothing else in this library knows how they
//! came about.

use serde_json::{Map, Value, json};

/// What `bindgen!` makes.
mod generated {
    #![expect(missing_docs, reason = "generated; the documentation is in wit/")]
    #![allow(unreachable_pub, clippy::pedantic, reason = "generated")]

    wasmtime::component::bindgen!({
        path: "../../../wit",
        world: "plugin",
        exports: { default: async },
        additional_derives: [PartialEq, Clone],
    });
}

pub use generated::defender::endpoint::connection;
pub use generated::defender::endpoint::types::{
    ActionStatus, ActionType, Effect, Error, Failure, InvalidArgument, Limiter, MachineAction,
    MissingRoles, Property, RateLimit, Reason, ServiceError,
};
pub use generated::exports::defender::endpoint::machine_actions::{
    MachineActionFilter, MachineActionPage,
};
pub use generated::exports::defender::endpoint::machines::{FoundMachines, Machine};
pub use generated::{Plugin, PluginPre};

use defender_core::query::{ActionQuery, Asked};

impl MachineActionFilter {
    /// All actions.
    pub const fn everything() -> Self {
        Self {
            ids: Vec::new(),
            machine_id: None,
            types: Vec::new(),
            statuses: Vec::new(),
            created_since: None,
        }
    }

    /// The query that asks for a page of what it lets through, if it fits.
    pub fn query(&self, top: u32, skip: u32) -> Option<ActionQuery> {
        let asked = Asked {
            ids: self.ids.iter().map(String::as_str).collect(),
            machine: self.machine_id.as_deref(),
            types: self.types.iter().map(ActionType::as_str).collect(),
            statuses: self.statuses.iter().map(ActionStatus::as_str).collect(),
            since: self.created_since.as_deref(),
            top,
            skip,
        };
        asked.query()
    }
}

impl Default for MachineActionFilter {
    fn default() -> Self {
        Self::everything()
    }
}

impl ActionStatus {
    /// As the service spells it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::TimeOut => "TimeOut",
            Self::Cancelled => "Cancelled",
            Self::Other(other) => other,
        }
    }
}

impl ActionType {
    /// As the service spells it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::RunAntiVirusScan => "RunAntiVirusScan",
            Self::Offboard => "Offboard",
            Self::LiveResponse => "LiveResponse",
            Self::CollectInvestigationPackage => "CollectInvestigationPackage",
            Self::Isolate => "Isolate",
            Self::Unisolate => "Unisolate",
            Self::StopAndQuarantineFile => "StopAndQuarantineFile",
            Self::RestrictCodeExecution => "RestrictCodeExecution",
            Self::UnrestrictCodeExecution => "UnrestrictCodeExecution",
            Self::Other(other) => other,
        }
    }
}

impl MachineAction {
    /// The action as a JSON object, with the service's own names and order, and all that it sent.
    pub fn to_json(&self) -> Value {
        // What a plugin hands over as JSON text and is none is kept as a text.
        let raw = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        let optional_raw = |text: &Option<String>| text.as_deref().map_or(Value::Null, raw);
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("id", json!(self.id));
        put("type", json!(self.type_.as_str()));
        put("title", json!(self.title));
        put("requestor", json!(self.requestor));
        put("requestorComment", json!(self.requestor_comment));
        put("status", json!(self.status.as_str()));
        put("machineId", json!(self.machine_id));
        put("computerDnsName", json!(self.computer_dns_name));
        put("creationDateTimeUtc", json!(self.creation_date_time_utc));
        put(
            "lastUpdateDateTimeUtc",
            json!(self.last_update_date_time_utc),
        );
        put("cancellationRequestor", json!(self.cancellation_requestor));
        put("cancellationComment", json!(self.cancellation_comment));
        put(
            "cancellationDateTimeUtc",
            json!(self.cancellation_date_time_utc),
        );
        put("errorHResult", json!(self.error_h_result));
        put("scope", json!(self.scope));
        put("externalId", json!(self.external_id));
        put("requestSource", json!(self.request_source));
        put("relatedFileInfo", optional_raw(&self.related_file_info));
        put("commands", optional_raw(&self.commands));
        put("troubleshootInfo", optional_raw(&self.troubleshoot_info));
        for property in &self.additional_properties {
            // One that has the name of a field stands for it only where the field is absent: the
            // fields are what was compared with the service's answer.
            if object.get(&property.name).is_none_or(Value::is_null) {
                object.insert(property.name.clone(), raw(&property.json));
            }
        }
        Value::Object(object)
    }
}

impl Reason {
    /// The case's name in the contract.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::InvalidArgument(_) => "invalid-argument",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::AlreadyInProgress => "already-in-progress",
            Self::Rejected => "rejected",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound => "not-found",
            Self::RateLimited(_) => "rate-limited",
            Self::ServiceFailure(_) => "service-failure",
            Self::Transport => "transport",
            Self::UnexpectedResponse => "unexpected-response",
        }
    }
}

impl Effect {
    /// The case's name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

impl MachineAction {
    /// Returns an action of which only this is known.
    pub fn blank(id: &str, type_: ActionType, status: ActionStatus) -> Self {
        Self {
            id: id.to_owned(),
            type_,
            title: None,
            requestor: None,
            requestor_comment: None,
            status,
            machine_id: None,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_additional_property_takes_the_place_of_a_field() {
        let property = |name: &str, json: &str| Property {
            name: name.to_owned(),
            json: json.to_owned(),
        };
        let action = MachineAction {
            additional_properties: vec![
                property("status", "\"Succeeded\""),
                property("id", "\"another\""),
                property("title", "5"),
                property("isNew", "[true]"),
            ],
            ..MachineAction::blank(
                "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a",
                ActionType::UnrestrictCodeExecution,
                ActionStatus::Pending,
            )
        };
        let json = action.to_json();
        assert_eq!(json["status"], "Pending");
        assert_eq!(json["id"], "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a");
        assert_eq!(
            (&json["title"], &json["isNew"]),
            (&json!(5), &json!([true]))
        );
    }
}

//! The JSON of the Defender API, in one place.
//!
//! What is sent is one property. What is read is taken tolerantly: a value of an unexpected form is
//! kept as it came, and text that is no JSON is a `None`. Values stay raw text until their form is
//! known, so numbers keep their digits, and no nesting is deep enough to reach the end of the
//! stack.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::Machine;
use crate::types::{ActionStatus, ActionType, MachineAction, Property};

/// The most properties that an object of the service can have. The known ones are 20. An answer of
/// 1 MiB has room for 200,000, and then costs many times its size in memory.
pub const MAX_PROPERTIES: usize = 1000;

/// The most properties of an entry of a list, of which there can be a thousand. The known ones are
/// 30.
pub const MAX_ENTRY_PROPERTIES: usize = 100;

/// The most entries of an array that this module looks into.
const MAX_ENTRIES: usize = 1000;

/// The body of a request for an action on a machine. The key's case matters to the service.
pub fn comment_body(comment: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(rename = "Comment")]
        comment: &'a str,
    }
    // A string in a struct can always be written.
    serde_json::to_vec(&Body { comment }).unwrap_or_default()
}

/// The machine action in the body of an answer, if there is one: an object in which at least `id`,
/// `type` and `status` are texts that are not empty.
pub fn machine_action(body: &[u8]) -> Option<MachineAction> {
    action(Object::in_body(body)?)
}

fn action(mut object: Object<'_>) -> Option<MachineAction> {
    let id = object.required("id")?;
    let r#type = object.required("type")?;
    let status = object.required("status")?;
    Some(MachineAction {
        id,
        type_: action_type(r#type),
        title: object.text("title"),
        requestor: object.text("requestor"),
        requestor_comment: object.text("requestorComment"),
        status: action_status(status),
        machine_id: object.text("machineId"),
        computer_dns_name: object.text("computerDnsName"),
        creation_date_time_utc: object.text("creationDateTimeUtc"),
        last_update_date_time_utc: object.text("lastUpdateDateTimeUtc"),
        cancellation_requestor: object.text("cancellationRequestor"),
        cancellation_comment: object.text("cancellationComment"),
        cancellation_date_time_utc: object.text("cancellationDateTimeUtc"),
        error_h_result: object.number("errorHResult"),
        scope: object.text("scope"),
        external_id: object.text("externalId"),
        request_source: object.text("requestSource"),
        related_file_info: object.nested("relatedFileInfo", '{'),
        commands: object.nested("commands", '['),
        troubleshoot_info: object.take("troubleshootInfo", |json| Some(json.to_owned())),
        additional_properties: object.rest(),
    })
}

fn machine(mut object: Object<'_>) -> Option<Machine> {
    Some(Machine {
        id: object.required("id")?,
        merged_into_machine_id: object.text("mergedIntoMachineId"),
        is_potential_duplication: object.flag("isPotentialDuplication"),
        computer_dns_name: object.text("computerDnsName"),
        first_seen: object.text("firstSeen"),
        last_seen: object.text("lastSeen"),
        os_platform: object.text("osPlatform"),
        last_ip_address: object.text("lastIpAddress"),
        health_status: object.text("healthStatus"),
        rbac_group_name: object.text("rbacGroupName"),
        aad_device_id: object.text("aadDeviceId"),
        machine_tags: object.nested("machineTags", '['),
        onboarding_status: object.text("onboardingStatus"),
        additional_properties: object.rest(),
    })
}

/// A list, as OData has it: an object whose `value` is an array.
pub struct List<'a> {
    entries: Vec<&'a RawValue>,
    has_more: bool,
}

/// What an entry of a list is, if it is what it should be.
pub struct Entry<'a>(Object<'a>);

/// An entry as a machine action: see [`machine_action`].
pub fn action_in_list(entry: Entry<'_>) -> Option<MachineAction> {
    action(entry.0)
}

/// An entry as a machine: an object in which at least `id` is a text that is not empty.
pub fn machine_in_list(entry: Entry<'_>) -> Option<Machine> {
    machine(entry.0)
}

impl<'a> List<'a> {
    /// The list in the body of an answer, if there is one of no more than a thousand entries.
    pub fn in_body(body: &'a [u8]) -> Option<Self> {
        let mut object = Object::in_body(body)?;
        let entries = object.take("value", |json| match serde_json::from_str(json) {
            Ok(Shape::Array(entries)) => Some(entries),
            _ => None,
        })?;
        Some(Self {
            entries,
            has_more: object.has("@odata.nextLink"),
        })
    }

    /// Its entries, if they are no more than were asked for and each is what it should be, and
    /// whether there may be more.
    pub fn read<T>(
        self,
        top: u32,
        read: impl Fn(Entry<'a>) -> Option<T>,
    ) -> Result<(Vec<T>, bool), &'static str> {
        let top = top as usize;
        if self.entries.len() > top {
            return Err("with more than was asked for");
        }
        let is_full = self.entries.len() == top;
        let entry = |json: &'a RawValue| {
            let object = Object::parse(json.get())?;
            let fits = object.0.len() <= MAX_ENTRY_PROPERTIES;
            fits.then_some(Entry(object)).and_then(&read)
        };
        let mut items = Vec::with_capacity(self.entries.len());
        for json in self.entries {
            items.push(entry(json).ok_or("with an entry that is not what it should be")?);
        }
        Ok((items, is_full || self.has_more))
    }
}

/// What an answer says of a failure. Everything is absent where the body is no error document.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ErrorDocument {
    /// The error's code, if it is not empty.
    pub code: Option<String>,
    /// The text for people, if it is not empty.
    pub message: Option<String>,
    /// The correlation id, if it is not empty.
    pub target: Option<String>,
}

impl ErrorDocument {
    /// Reads the forms that are known of the service and of what stands before it:
    ///
    /// - `{"error":{"code","message","target"}}`, the API's own;
    /// - `{"error":"invalid_request","error_description"}`, OAuth's;
    /// - `{"code","message"}` and `{"Message"}`, of gateways and older frameworks.
    pub fn parse(body: &[u8]) -> Self {
        let Some(mut document) = Object::in_body(body) else {
            return Self::default();
        };
        document.fold_names();
        if let Some(mut error) = document.take("error", Object::parse) {
            error.fold_names();
            return Self::take_from(&mut error, "code", "message");
        }
        if document.has_text("error") {
            return Self::take_from(&mut document, "error", "error_description");
        }
        Self::take_from(&mut document, "code", "message")
    }

    fn take_from(object: &mut Object<'_>, code: &str, message: &str) -> Self {
        let mut text = |name| object.required(name);
        Self {
            code: text(code),
            message: text(message).or_else(|| text("message")),
            target: text("target"),
        }
    }
}

/// As the service spells it.
pub fn type_name(r#type: &ActionType) -> &str {
    match r#type {
        ActionType::RunAntiVirusScan => "RunAntiVirusScan",
        ActionType::Offboard => "Offboard",
        ActionType::LiveResponse => "LiveResponse",
        ActionType::CollectInvestigationPackage => "CollectInvestigationPackage",
        ActionType::Isolate => "Isolate",
        ActionType::Unisolate => "Unisolate",
        ActionType::StopAndQuarantineFile => "StopAndQuarantineFile",
        ActionType::RestrictCodeExecution => "RestrictCodeExecution",
        ActionType::UnrestrictCodeExecution => "UnrestrictCodeExecution",
        ActionType::Other(name) => name,
    }
}

/// As the service spells it.
pub fn status_name(status: &ActionStatus) -> &str {
    match status {
        ActionStatus::Pending => "Pending",
        ActionStatus::InProgress => "InProgress",
        ActionStatus::Succeeded => "Succeeded",
        ActionStatus::Failed => "Failed",
        ActionStatus::TimeOut => "TimeOut",
        ActionStatus::Cancelled => "Cancelled",
        ActionStatus::Other(name) => name,
    }
}

fn action_type(name: String) -> ActionType {
    match name.as_str() {
        "RunAntiVirusScan" => ActionType::RunAntiVirusScan,
        "Offboard" => ActionType::Offboard,
        "LiveResponse" => ActionType::LiveResponse,
        "CollectInvestigationPackage" => ActionType::CollectInvestigationPackage,
        "Isolate" => ActionType::Isolate,
        "Unisolate" => ActionType::Unisolate,
        "StopAndQuarantineFile" => ActionType::StopAndQuarantineFile,
        "RestrictCodeExecution" => ActionType::RestrictCodeExecution,
        "UnrestrictCodeExecution" => ActionType::UnrestrictCodeExecution,
        _ => ActionType::Other(name),
    }
}

fn action_status(name: String) -> ActionStatus {
    match name.as_str() {
        "Pending" => ActionStatus::Pending,
        "InProgress" => ActionStatus::InProgress,
        "Succeeded" => ActionStatus::Succeeded,
        "Failed" => ActionStatus::Failed,
        "TimeOut" => ActionStatus::TimeOut,
        "Cancelled" => ActionStatus::Cancelled,
        _ => ActionStatus::Other(name),
    }
}

/// A JSON object: its properties in order, with the values as they came.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        match serde_json::from_str(text) {
            Ok(Shape::Object(object)) => Some(object),
            _ => None,
        }
    }

    fn in_body(body: &'a [u8]) -> Option<Self> {
        let text = core::str::from_utf8(body).ok()?;
        // A byte order mark is no JSON, but RFC 8259, section 8.1, lets a reader ignore it.
        Self::parse(text.strip_prefix('\u{feff}').unwrap_or(text))
    }

    /// Takes a property out, if it has the form that `decode` knows. A `null` is taken out too, as
    /// absent; a value of another form stays. Of several properties of one name the last one
    /// counts, as it does for most readers.
    fn take<T>(&mut self, name: &str, decode: impl FnOnce(&'a str) -> Option<T>) -> Option<T> {
        let at = self.0.iter().rposition(|(n, _)| n == name)?;
        let json = self.0.get(at)?.1.get();
        let value = if json == "null" {
            None
        } else {
            Some(decode(json)?)
        };
        self.0.remove(at);
        value
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.take(name, |json| match serde_json::from_str(json) {
            Ok(Shape::Text(text)) => Some(text),
            _ => None,
        })
    }

    /// A text that is not empty.
    fn required(&mut self, name: &str) -> Option<String> {
        self.text(name).filter(|text| !text.is_empty())
    }

    fn number(&mut self, name: &str) -> Option<i32> {
        self.take(name, |json| json.parse().ok())
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.take(name, |json| json.parse().ok())
    }

    /// The JSON text of a value that begins with this bracket.
    fn nested(&mut self, name: &str, bracket: char) -> Option<String> {
        self.take(name, |json| {
            json.starts_with(bracket).then(|| json.to_owned())
        })
    }

    /// Whether there is a property of this name that is not `null`.
    fn has(&self, name: &str) -> bool {
        let last = self.0.iter().rfind(|(n, _)| n == name);
        last.is_some_and(|(_, json)| json.get() != "null")
    }

    fn has_text(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|(n, json)| n == name && json.get().starts_with('"'))
    }

    fn fold_names(&mut self) {
        self.0
            .iter_mut()
            .for_each(|(name, _)| name.make_ascii_lowercase());
    }

    fn rest(self) -> Vec<Property> {
        self.0
            .into_iter()
            .map(|(name, json)| Property {
                name,
                json: json.get().to_owned(),
            })
            .collect()
    }
}

/// A JSON value, as far as this module looks into one. That any form is welcome here keeps the
/// texts of serde's errors, and all that it takes to write them, out of the component.
enum Shape<'a> {
    Object(Object<'a>),
    Array(Vec<&'a RawValue>),
    Text(String),
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Shape<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;

        impl<'de> Visitor<'de> for Look {
            type Value = Shape<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape<'de>, A::Error> {
                let mut properties = Vec::new();
                while let Some(property) = map.next_entry()? {
                    if properties.len() == MAX_PROPERTIES {
                        return Ok(Shape::Other);
                    }
                    properties.push(property);
                }
                Ok(Shape::Object(Object(properties)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Shape<'de>, E> {
                Ok(Shape::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Shape<'de>, E> {
                Ok(Shape::Other)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Shape<'de>, E> {
                Ok(Shape::Other)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Shape<'de>, E> {
                Ok(Shape::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Shape<'de>, E> {
                Ok(Shape::Other)
            }

            fn visit_unit<E>(self) -> Result<Shape<'de>, E> {
                Ok(Shape::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    if entries.len() == MAX_ENTRIES {
                        return Ok(Shape::Other);
                    }
                    entries.push(entry);
                }
                Ok(Shape::Array(entries))
            }
        }

        deserializer.deserialize_any(Look)
    }
}

#[cfg(test)]
pub(crate) mod tests;

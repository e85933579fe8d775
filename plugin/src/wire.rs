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

use crate::types::{ActionStatus, ActionType, MachineAction, Property};

/// The most properties that an object of the service can have. The known ones are 20. An answer of
/// 1 MiB has room for 200,000, and then costs many times its size in memory.
pub const MAX_PROPERTIES: usize = 1000;

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
    let mut object = Object::in_body(body)?;
    let mut required = |name| object.text(name).filter(|text| !text.is_empty());
    let id = required("id")?;
    let r#type = required("type")?;
    let status = required("status")?;
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
        error_h_result: object.take("errorHResult", |json| json.parse().ok()),
        scope: object.text("scope"),
        external_id: object.text("externalId"),
        request_source: object.text("requestSource"),
        related_file_info: object.take("relatedFileInfo", |json| starting_with('{', json)),
        commands: object.take("commands", |json| starting_with('[', json)),
        troubleshoot_info: object.take("troubleshootInfo", |json| Some(json.to_owned())),
        additional_properties: object.rest(),
    })
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
        let mut text = |name| object.text(name).filter(|text| !text.is_empty());
        Self {
            code: text(code),
            message: text(message).or_else(|| text("message")),
            target: text("target"),
        }
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

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Shape<'de>, A::Error> {
                Ok(Shape::Other)
            }
        }

        deserializer.deserialize_any(Look)
    }
}

fn starting_with(bracket: char, json: &str) -> Option<String> {
    json.starts_with(bracket).then(|| json.to_owned())
}

#[cfg(test)]
pub(crate) mod tests;

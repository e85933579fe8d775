//! The document of a machine action: its properties in the order in which they are sent.
//!
//! It is Microsoft's "Machine action resource type" as it is really sent: 20 properties, some of
//! which the page does not list (MicrosoftDocs/microsoft-365-docs#5896).

use std::fmt::Display;

use jiff::{Timestamp, TimestampRound, Unit};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// What a device is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum ActionType {
    /// Run programs signed by Microsoft only.
    RestrictCodeExecution,
    /// Run every program again.
    UnrestrictCodeExecution,
}

/// How far an action has come, spelled as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are Microsoft's and say it")]
pub enum ActionStatus {
    Pending,
    InProgress,
    Succeeded,
    Failed,
    TimeOut,
    Cancelled,
}

/// A machine action, with the properties that are sent, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineAction {
    /// The action's id.
    #[serde(serialize_with = "text")]
    pub id: Uuid,
    /// What the device is asked to do.
    pub r#type: ActionType,
    /// Null in every record.
    pub title: Option<String>,
    /// The application (its name or its id) or the user who asked.
    pub requestor: String,
    /// The request's `Comment`.
    pub requestor_comment: String,
    /// How far it has come.
    pub status: ActionStatus,
    /// The device's id.
    pub machine_id: String,
    /// The device's name.
    pub computer_dns_name: Option<String>,
    /// When it was asked for.
    #[serde(serialize_with = "text")]
    pub creation_date_time_utc: Timestamp,
    /// When its status last changed.
    #[serde(serialize_with = "text")]
    pub last_update_date_time_utc: Timestamp,
    /// Who cancelled it.
    pub cancellation_requestor: Option<String>,
    /// Why.
    pub cancellation_comment: Option<String>,
    /// When.
    #[serde(serialize_with = "optional_text")]
    pub cancellation_date_time_utc: Option<Timestamp>,
    /// The device's result: an HRESULT, negative for a failure.
    #[serde(rename = "errorHResult")]
    pub error_h_result: i32,
    /// Null for these actions.
    pub scope: Option<String>,
    /// Null in every record.
    pub external_id: Option<String>,
    /// `PublicApi` for what was asked for through this API.
    pub request_source: &'static str,
    /// Null for these actions.
    pub related_file_info: Option<String>,
    /// Empty for these actions.
    pub commands: [String; 0],
    /// Null in every record.
    pub troubleshoot_info: Option<String>,
}

fn text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn optional_text<T: Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// A time to the tick of .NET, 100 nanoseconds.
///
/// In RFC 3339 it then has up to seven digits of a second without trailing zeros, as the service's
/// times have, and none at all on the full second.
pub(super) fn ticks(time: Timestamp) -> Timestamp {
    let round = TimestampRound::new()
        .smallest(Unit::Nanosecond)
        .increment(100);
    time.round(round.mode(jiff::RoundMode::Trunc))
        .unwrap_or(time)
}

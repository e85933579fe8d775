//! Reports results of calls that could not be written to the audit log.

use std::sync::Arc;

use host_demo::audit::{Audit, AuditError};
use host_demo::host::Host;
use serde_json::{Value, json};

use super::output;

const NOT_RECORDED: &str = "what came of a call is not recorded";
const KEEP_THIS: &str = "keep what is printed here in its place";

/// Why what was done is not on record, if it is not after a last attempt. What was done is not
/// affected.
pub(crate) async fn missing(host: &Host) -> Option<AuditError> {
    missing_of(host.audit()).await
}

/// The same, of a record.
pub(crate) async fn missing_of(audit: Option<&Arc<Audit>>) -> Option<AuditError> {
    let audit = audit?;
    audit.catch_up().await;
    let error = audit.unwritten()?;
    let text = format!("{NOT_RECORDED}: {error}; {KEEP_THIS}");
    note!("host-demo: {}", output::clean(&text));
    Some(error)
}

/// The same, for programs.
pub(crate) fn missing_json(error: &AuditError) -> Value {
    json!({ "message": format!("{NOT_RECORDED}: {error}"), "advice": KEEP_THIS })
}

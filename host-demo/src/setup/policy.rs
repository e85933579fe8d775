//! Checks that the configuration's policy allows an operation, before a subcommand begins.

use anyhow::bail;
use host_demo::grant::Operation;
use host_demo::host::Host;

use crate::ui::suggest;

/// Whether the configuration allows it. If not: what to write there, which is all that is allowed
/// now and this besides.
pub(crate) fn granted(host: &Host, operation: Operation, what: &str) -> anyhow::Result<()> {
    let policy = host.policy();
    let Err(denial) = policy.allows(operation) else {
        return Ok(());
    };
    let routes = policy.routes().iter().copied().chain(denial.rule());
    let allow: Vec<String> = routes
        .map(|route| format!("{:?}", route.to_string()))
        .collect();
    bail!(
        "the configuration does not allow {what}. This line in its [policy] would (`{}` names \
         the file): allow = [{}]. Nothing was sent",
        suggest::command(&["config", "show"]),
        allow.join(", ")
    )
}

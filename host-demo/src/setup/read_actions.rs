//! Reads the machine actions of many devices.

use std::sync::Arc;

use host_demo::contract::MachineActionFilter;
use host_demo::host::{CallError, Host, WaitOptions};
use host_demo::kind::ActionKind;
use host_demo::survey::{Bounds, Lister, Survey};

use crate::args::Output;
use crate::ui::waits::Waits;
use crate::ui::{action_text, error_text, output};

/// Restrictions and releases.
pub(crate) fn filter() -> MachineActionFilter {
    MachineActionFilter {
        types: [ActionKind::Restrict, ActionKind::Release]
            .map(ActionKind::action_type)
            .to_vec(),
        ..MachineActionFilter::everything()
    }
}

/// Reads them, and reports what it waits for.
pub(crate) async fn take(
    host: &Host,
    lister: &mut Lister,
    filter: &MachineActionFilter,
    bounds: Bounds,
    waits: &Arc<Waits>,
) -> Result<Survey, CallError> {
    let reading = lister.survey(host, filter, bounds, patience(waits));
    waits.watch(reading).await
}

/// Reports a filter that the service rejected, and what was asked for instead.
pub(crate) fn report_rejected(lister: &Lister, format: Output) {
    if let Some(rejected) = lister.rejected() {
        let (text, error) = (rejected.to_string(), &rejected.error);
        if format == Output::Json {
            output::json_line(&action_text::unreadable_json("filter", &text, error));
        }
        note!(
            "warning: {text}: {}",
            output::clean(&error_text::explain(error))
        );
    }
}

/// As long as it takes, and not in silence.
pub(crate) fn patience(waits: &Arc<Waits>) -> WaitOptions {
    WaitOptions {
        on_wait: Some(waits.on_wait()),
        ..WaitOptions::default()
    }
}

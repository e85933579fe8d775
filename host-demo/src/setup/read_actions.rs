//! Reads the machine actions of many devices.

use std::sync::Arc;

use host_demo::contract::MachineActionFilter;
use host_demo::host::{CallError, Host, Patience};
use host_demo::kind::Kind;
use host_demo::survey::{self, Bounds, Survey};

use crate::ui::waits::Waits;

/// Restrictions and releases.
pub(crate) fn filter() -> MachineActionFilter {
    MachineActionFilter {
        types: [Kind::Restrict, Kind::Release]
            .map(Kind::action_type)
            .to_vec(),
        ..MachineActionFilter::everything()
    }
}

/// Reads them, and reports what it waits for.
pub(crate) async fn take(
    host: &Host,
    filter: &MachineActionFilter,
    bounds: Bounds,
    waits: &Arc<Waits>,
) -> Result<Survey, CallError> {
    let reading = survey::survey(host, filter, bounds, patience(waits));
    waits.watch(reading).await
}

/// As long as it takes, and not in silence.
pub(crate) fn patience(waits: &Arc<Waits>) -> Patience {
    Patience {
        on_wait: Some(waits.on_wait()),
        ..Patience::default()
    }
}

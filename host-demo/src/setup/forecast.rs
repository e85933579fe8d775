//! Forecasts how long calls will take, by what is left of the quota.

use std::time::Duration;

use host_demo::clock::Moment;
use host_demo::grant::Operation;
use host_demo::host::Host;
use host_demo::report::roughly;

/// What a forecast takes an answer to need. The service's are faster as a rule; what matters is the
/// quota.
pub(crate) const ANSWER: Duration = Duration::from_secs(1);

/// Says how long it will take to send them all, where the quota makes that long, and returns when
/// they are sent then. What keeps it from being known keeps the calls from being made as well, and
/// is told there.
pub(crate) async fn foretell(
    host: &Host,
    operation: Operation,
    calls: usize,
    what: &str,
) -> Option<Moment> {
    const LONG: Duration = Duration::from_secs(60);
    let forecast = host.forecast(operation, calls, ANSWER).await;
    let time = forecast.ok().flatten().filter(|time| *time >= LONG)?;
    let roughly = roughly(time);
    note!("host-demo: by what is left of the quota, {calls} {what} take {roughly} to be sent");
    Some(host.clock().now() + time)
}

//! Services that misbehave: for each, what the caller is told, and that it costs one request, a
//! bounded time and a bounded memory, and is never the plugin's fault.

mod bodies;
mod connections;
mod heads;
mod http2;
pub(super) mod server;
mod time;

use host_demo::contract::MachineAction;
use host_demo::host::CallError;
use host_demo::transport::TransportErrorKind as ActionKind;
use server::{Stage, Then, count};

/// More than the buffers of both sides and the largest answer.
const BOUNDED: usize = 24 << 20;

/// The result, in one word or two.
fn word(result: &Result<MachineAction, CallError>) -> String {
    match result {
        Ok(_) => "success".to_owned(),
        Err(CallError::TimedOut { effect, .. }) => format!("timed-out {}", effect.name()),
        Err(error) => match error.reason() {
            Some(reason) => format!("{} {}", reason.name(), error.effect().name()),
            None => format!("{error:?}"),
        },
    }
}

fn kind(result: &Result<MachineAction, CallError>) -> Option<ActionKind> {
    match result {
        Err(CallError::Answered { detail, .. }) => detail.as_ref().map(|d| d.kind),
        _ => None,
    }
}

/// What comes of each of these answers.
async fn each(cases: impl IntoIterator<Item = (&'static str, Vec<u8>, Then, &'static str)>) {
    for (name, bytes, then, expected) in cases {
        let stage = Stage::answering(bytes, then).await;
        let result = stage.release().await;
        assert_eq!(word(&result), expected, "{name}: {result:?}");
        assert_eq!(count(&stage.met.requests), 1, "{name}");
        let endless = count(&stage.met.endless);
        assert!(endless < BOUNDED, "{name}: {endless} bytes were taken");
    }
}

//! Prepares a run or a dry run: the devices that are asked for, and the host.

use std::sync::Arc;

use host_demo::batch;
use host_demo::clock::Moment;
use host_demo::cloud::Service;
use host_demo::host::{Host, TOKEN_RETRY_RUN, WaitOptions};
use host_demo::journal::Runs;
use host_demo::kind::ActionKind;

use super::devices::{self, Asked};
use super::host::{self, Recording};
use super::interrupt::Interrupt;
use super::settings;
use crate::args::{self, Output};
use crate::ui::confirm::{confirmed, verb};
use crate::ui::waits::Waits;

/// A run that can begin. Nothing was sent yet.
pub(crate) struct Prepared {
    /// The run's name.
    pub(crate) id: String,
    pub(crate) asked: Asked,
    /// The arguments, with what the settings add to them.
    pub(crate) connection: args::Connection,
    pub(crate) host: Host,
    pub(crate) service: Service,
}

/// Reads the devices and the settings. Where many devices are meant, it asks; not for a dry run.
pub(crate) fn prepare(
    kind: ActionKind,
    args: &args::Batch,
    format: Output,
) -> anyhow::Result<Prepared> {
    batch::check_comment(&args.comment)?;
    let asked = devices::asked(&args.devices, verb(kind), format)?;
    let (above, yes) = (args.devices.confirm_above, args.devices.yes);
    let yes = yes || args.dry_run;
    confirmed(above, yes, asked.len(), "devices", verb(kind))?;
    let (connection, settings) = settings::settle(&args.connection)?;
    let id = Runs::name(jiff::Timestamp::now());
    let recording = Recording {
        run: Some(id.clone()),
        tape: None,
    };
    let (host, service) = host::settled(&connection, &settings, recording)?;
    Ok(Prepared {
        id,
        asked,
        connection,
        host,
        service,
    })
}

/// The moment at which a run has to be over, if there is one.
pub(crate) fn deadline(args: &args::Pace, host: &Host) -> Option<Moment> {
    args.deadline.map(|time| host.clock().now() + time)
}

/// How long a run waits before it begins.
pub(crate) fn patience(
    deadline: Option<Moment>,
    interrupt: &Interrupt,
    waits: &Arc<Waits>,
) -> WaitOptions {
    WaitOptions {
        until: deadline,
        stop: Some(interrupt.stop.clone()),
        token_retry: deadline.is_none().then_some(TOKEN_RETRY_RUN),
        on_wait: Some(waits.on_wait()),
        ..WaitOptions::default()
    }
}

//! Builds the host that a subcommand calls through, and the boundary around it.

use std::path::Path;
use std::sync::Arc;

use crate::settings::Settings;
use anyhow::{Context as _, bail};
use host_demo::clock::{Clock, SystemClock};
use host_demo::cloud::Service;
use host_demo::egress::{Egress, Setup, Tape};
use host_demo::host::Host;
use host_demo::network::Network;
use host_demo::stray;
use host_demo::transport;

use super::{audit, identity, ledger, plugin, read, settings};
use crate::args;

/// What a subcommand adds to the record of its calls.
#[derive(Default)]
pub(crate) struct Recording {
    /// The run that they belong to.
    pub(crate) run: Option<String>,
    /// What a pilot keeps its exchanges on.
    pub(crate) tape: Option<Tape>,
}

/// A host for the service and the identity that the arguments and the environment name.
pub(crate) fn host(args: &args::Connection) -> anyhow::Result<Host> {
    let (args, settings) = settings::settle(args)?;
    Ok(settled(&args, &settings, Recording::default())?.0)
}

/// The same, with the service that it is for, from arguments that are complete.
pub(crate) fn settled(
    args: &args::Connection,
    settings: &Settings,
    recording: Recording,
) -> anyhow::Result<(Host, Service)> {
    let (egress, service) = boundary(args, settings, recording)?;
    Ok((Host::new(plugin::load(&args.plugin)?, &egress), service))
}

/// Builds the boundary that every call passes.
pub(crate) fn boundary(
    args: &args::Connection,
    settings: &Settings,
    recording: Recording,
) -> anyhow::Result<(Egress, Service)> {
    let service = service(args, settings)?;
    let clock = clock(args.time_scale, &service)?;
    let tokens = identity::tokens(args, settings, &service, Arc::clone(&clock))?;
    let setup = Setup {
        call_timeout: settings.timeout()?,
        quotas: settings.quotas().to_vec(),
        policy: settings.policy(service.origin().clone()),
        clock,
        audit: Some(audit::open(args, recording.run)?),
        ledger: Some(ledger::open(&args.ledger, args.time_scale)?),
        name: ledger::name(),
        tape: recording.tape,
        ..Setup::new(service.clone(), tokens)
    };
    Ok((setup.build()?, service))
}

fn service(args: &args::Connection, settings: &Settings) -> anyhow::Result<Service> {
    let mut service = settings.service()?;
    if let Some(path) = &args.ca_file {
        service = service.with_ca(read_ca(path, "the CA file")?);
    }
    if let Some(path) = &args.authority_ca_file {
        service = service.with_authority_ca(read_ca(path, "the authority's CA file")?);
    }
    Ok(service.with_network(network(args, settings)?))
}

fn read_ca(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    let pem = read::file(path, what)?;
    transport::check_ca(&pem).with_context(|| format!("{what} {}", path.display()))?;
    Ok(pem)
}

fn network(args: &args::Connection, settings: &Settings) -> anyhow::Result<Network> {
    let network = settings.network()?;
    let Some(mut proxy) = settings.proxy()? else {
        return Ok(network);
    };
    if let Some(path) = &args.proxy_credentials_file {
        let what = "the proxy credentials' file";
        // A password can begin or end with a blank.
        proxy = proxy.with_credentials(stray::trim_line(&read::text(path, what)?))?;
    }
    Ok(network.through(proxy))
}

fn clock(scale: u32, service: &Service) -> anyhow::Result<Arc<dyn Clock>> {
    if scale > 1 && !service.origin().is_loopback() {
        bail!(
            "--time-scale is for a stand-in on loopback; {} counts in real time",
            service.origin()
        );
    }
    Ok(Arc::new(SystemClock::scaled(scale)))
}

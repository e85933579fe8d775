//! `host-demo mock`

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, bail};
use host_demo::clock::SystemClock;
use host_demo::id::MachineId;
use host_demo::mock::{Grant, Machine, Mock, Replay, Switches};
use serde_json::json;

use super::args::{self, Output};
use super::{Exit, connect, output};

/// What `--set` can be given, from the switches themselves.
pub(crate) static SWITCHES_HELP: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::from(
        "It listens on loopback only. Press Ctrl-C to stop it.\n\nWhat --set can be given:\n",
    );
    for switch in Switches::describe() {
        let _ = writeln!(text, "  {}={}", switch.name, switch.default);
        let _ = writeln!(text, "      {}", switch.question);
        let _ = writeln!(text, "      One of: {}", switch.values);
    }
    let _ = write!(text, "\n{}", args::help::PLAIN_EXIT_CODES);
    text
});

pub(crate) async fn run(args: args::Mock, format: Output) -> anyhow::Result<Exit> {
    if args.ca_out.is_none() && !args.plain_http {
        bail!(
            "name a file with --ca-out FILE, for the certificate that clients have to trust; or \
             serve without TLS: --plain-http"
        )
    }
    let mut switches = Switches::default();
    for setting in &args.switches {
        let (name, value) = setting.split_once('=').with_context(|| {
            format!("--set {setting:?} is not of the form NAME=VALUE; `host-demo mock --help` lists them")
        })?;
        switches.set(name, value)?;
    }
    let mut builder = Mock::builder()
        .clock(Arc::new(SystemClock::scaled(args.time_scale)))
        .machines(args.machines as u64)
        .switches(switches)
        .port(args.port)
        .plain_http(args.plain_http);
    if let Some(path) = &args.replay {
        let json = connect::read(path, "the record")?;
        let replay = Replay::read(&json).with_context(|| {
            let path = output::clean(&path.display().to_string());
            format!("the record {path} can't be replayed")
        })?;
        builder = builder.replay(replay);
    }
    for (n, id) in args.machine_ids.iter().enumerate() {
        let id: MachineId = id.parse().with_context(|| format!("--machine {id:?}"))?;
        builder = builder.machine(Machine::new(id.as_str(), format!("named-{n}.example.test")));
    }
    let mock = builder.start().await?;
    if let (Some(path), Some(pem)) = (&args.ca_out, mock.ca_pem()) {
        write(path, pem)?;
    }
    if let Some(path) = &args.token_out {
        write(path, &mock.token(Grant::new()))?;
    }
    introduce(&mock, &args, format);
    tokio::signal::ctrl_c()
        .await
        .context("Ctrl-C can't be waited for")?;
    mock.shutdown().await;
    Ok(Exit::Done)
}

/// Readable for this user only: one of the files holds a token.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("{} can't be written", path.display()))
}

/// What a client needs, ready to paste.
fn introduce(mock: &Mock, args: &args::Mock, format: Output) {
    let ids = mock.machine_ids();
    if format == Output::Json {
        output::json_line(&json!({
            "type": "mock",
            "base_url": mock.base_url(),
            "authority": mock.authority(),
            "scope": mock.scope(),
            "tenant_id": mock.tenant_id(),
            "client_id": mock.client_id(),
            "client_secret": mock.client_secret(),
            "ca_file": args.ca_out,
            "token_file": args.token_out,
            "machine_ids": ids,
        }));
        return;
    }
    output::line(&format!(
        "# A stand-in for Defender and Entra listens at {}.",
        mock.base_url()
    ));
    output::line("# In another terminal:");
    output::line(&format!("export AZURE_TENANT_ID={}", mock.tenant_id()));
    output::line(&format!("export AZURE_CLIENT_ID={}", mock.client_id()));
    output::line(&format!(
        "export AZURE_CLIENT_SECRET='{}'",
        mock.client_secret()
    ));
    let ca = args
        .ca_out
        .as_ref()
        .map(|p| {
            format!(
                " --ca-file {}",
                p.canonicalize().as_ref().unwrap_or(p).display()
            )
        })
        .unwrap_or_default();
    let scale = if args.time_scale > 1 {
        format!(" --time-scale {}", args.time_scale)
    } else {
        String::new()
    };
    output::line(&format!(
        "host-demo unrestrict {} --comment 'trying it out' --base-url {} --authority {} --scope {}{ca}{scale}",
        ids.first().map_or("MACHINE_ID", String::as_str),
        mock.base_url(),
        mock.authority(),
        mock.scope(),
    ));
    output::line("# The devices it knows:");
    for id in &ids {
        output::line(&format!("#   {id}"));
    }
}

//! `defender-mock`: the stand-in as a program, to try clients out. See `defender-mock --help`.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use defender_core::clock::SystemClock;
use defender_core::files;
use defender_core::id::MachineId;
use defender_core::shell::Shell;
use defender_mock::{Grant, Machine, Mock, Replay, Switches};
use etcetera::BaseStrategy as _;
use serde_json::json;

/// Serves a stand-in for Defender and Entra on loopback, to try clients out.
#[derive(Debug, Parser)]
#[command(name = "defender-mock", version, after_help = &**SWITCHES_HELP)]
struct Args {
    /// The port to listen on, on 127.0.0.1. 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// Write the certificate of its throw-away authority to this file (PEM). Required, unless
    /// --plain-http is given.
    #[arg(long, value_name = "FILE", conflicts_with = "plain_http")]
    ca_out: Option<PathBuf>,

    /// Write a token that it accepts to this file, for clients that cannot request one [default with
    /// --plain-http: host-demo/stand-in-PORT.token in the user's state directory, removed at the
    /// end].
    #[arg(long, value_name = "FILE")]
    token_out: Option<PathBuf>,

    /// How many devices it knows.
    #[arg(long, default_value_t = 10, value_name = "N")]
    machines: usize,

    /// A further device that it knows.
    #[arg(long = "machine", value_name = "MACHINE_ID")]
    machine_ids: Vec<String>,

    /// Answer an open question about the real service, as NAME=VALUE. See below.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    switches: Vec<String>,

    /// Answer as the service did whose answers are in this file, which `host-demo check --pilot`
    /// wrote. Switches then change only tokens and quotas.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,

    /// Serve without TLS, for clients that cannot be given a certificate authority.
    #[arg(long)]
    plain_http: bool,

    /// What to print: text for people, or JSON Lines for programs.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,

    /// Let time run so many times as fast.
    #[arg(long, value_name = "N", hide = true, default_value_t = 1)]
    time_scale: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

/// The largest record that is replayed, in bytes.
const RECORD_MAX: u64 = 16 << 20;

/// What `--set` can be given, from the switches themselves.
static SWITCHES_HELP: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::from(
        "It listens on loopback only. Press Ctrl-C to stop it.\n\nWhat --set can be given:\n",
    );
    for switch in Switches::describe() {
        let _ = writeln!(text, "  {}={}", switch.name, switch.default);
        let _ = writeln!(text, "      {}", switch.question);
        let _ = writeln!(text, "      One of: {}", switch.values);
    }
    text + "\nExit codes:\n  0  ended by Ctrl-C\n  2  it could not start, and says why"
});

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    if args.ca_out.is_none() && !args.plain_http {
        bail!(
            "name a file with --ca-out FILE, for the certificate that clients have to trust; or \
             serve without TLS: --plain-http"
        )
    }
    let mut switches = Switches::default();
    for setting in &args.switches {
        let (name, value) = setting.split_once('=').with_context(|| {
            format!(
                "--set {setting:?} is not of the form NAME=VALUE; `defender-mock --help` lists them"
            )
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
        let shown = path.display();
        let json = files::read(path, RECORD_MAX)
            .with_context(|| format!("the record {shown} can't be read"))?;
        let replay = Replay::read(&json.bytes)
            .with_context(|| format!("the record {shown} can't be replayed"))?;
        builder = builder.replay(replay);
    }
    for (n, id) in args.machine_ids.iter().enumerate() {
        let id: MachineId = id.parse().with_context(|| format!("--machine {id:?}"))?;
        builder = builder.machine(Machine::new(id.as_str(), format!("named-{n}.example.test")));
    }
    let ended = ended()?;
    let mock = builder.start().await?;
    if let (Some(path), Some(pem)) = (&args.ca_out, mock.ca_pem()) {
        write(path, pem)?;
    }
    let (token_file, _removed_in_the_end) = token_file(&mock, &args)?;
    let text = introduction(&mock, &args, token_file.as_deref())?;
    // A reader that has seen enough may close the pipe; the stand-in goes on.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    ended.await;
    mock.shutdown().await;
    Ok(())
}

/// Completes with the first signal that ends a program. It is listened for from the call on.
#[cfg(unix)]
fn ended() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// Completes with Ctrl-C. It is listened for from the call on.
#[cfg(windows)]
fn ended() -> std::io::Result<impl Future<Output = ()>> {
    let mut pressed = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        pressed.recv().await;
    })
}

/// A file that is removed at the end.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes a token where a client needs one: the secret is sent over TLS only, so a stand-in without
/// TLS can't be asked for one.
fn token_file(mock: &Mock, args: &Args) -> anyhow::Result<(Option<PathBuf>, Option<Removed>)> {
    /// Long enough to try things out.
    const DAY: Duration = Duration::from_secs(24 * 3600);

    let grant = Grant::new().lifetime(DAY * args.time_scale.max(1));
    match &args.token_out {
        Some(path) => {
            write(path, &mock.token(grant))?;
            Ok((Some(path.clone()), None))
        }
        None if args.plain_http => {
            let port = mock.base_url().rsplit(':').next().unwrap_or_default();
            let folder = state_folder().context("name a file for the token: --token-out FILE")?;
            let path = folder.join(format!("stand-in-{port}.token"));
            files::write(&path, mock.token(grant).as_bytes())
                .with_context(|| format!("{} can't be written", path.display()))?;
            Ok((Some(path.clone()), Some(Removed(path))))
        }
        None => Ok((None, None)),
    }
}

/// Readable for this user only: one of the files holds a token.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("{} can't be written", path.display()))
}

/// Returns what a client needs, ready to paste.
fn introduction(mock: &Mock, args: &Args, token_file: Option<&Path>) -> anyhow::Result<String> {
    let ids = mock.machine_ids();
    let absolute = |path: &Path| std::path::absolute(path);
    let token_file = token_file.map(absolute).transpose()?;
    let ca_file = args.ca_out.as_deref().map(absolute).transpose()?;
    if args.output == Output::Json {
        let about = json!({
            "type": "mock",
            "base_url": mock.base_url(),
            "authority": mock.authority(),
            "scope": mock.scope(),
            "tenant_id": mock.tenant_id(),
            "client_id": mock.client_id(),
            "client_secret": mock.client_secret(),
            "ca_file": ca_file,
            "token_file": token_file,
            "machine_ids": ids,
        });
        return Ok(format!("{about}\n"));
    }
    let connection = Connection {
        base_url: mock.base_url(),
        authority: mock.authority(),
        scope: &mock.scope(),
        ca_file: ca_file.as_deref(),
        credential: match token_file.as_deref().filter(|_| args.plain_http) {
            Some(token_file) => Credential::Token(token_file),
            None => Credential::Secret {
                tenant_id: mock.tenant_id(),
                client_id: mock.client_id(),
                secret: mock.client_secret(),
            },
        },
        time_scale: args.time_scale,
    };
    let id = ids.first().map_or("MACHINE_ID", String::as_str);
    let mut text = format!(
        "# A stand-in for Defender and Entra listens at {}.\n# In another terminal:\n",
        mock.base_url()
    );
    for line in connection.lines(Shell::HERE, &program(), id) {
        text += &format!("{line}\n");
    }
    text += "# The devices it knows:\n";
    for id in &ids {
        text += &format!("#   {id}\n");
    }
    Ok(text)
}

/// What a client names to reach the stand-in.
struct Connection<'a> {
    base_url: &'a str,
    authority: &'a str,
    scope: &'a str,
    ca_file: Option<&'a Path>,
    credential: Credential<'a>,
    time_scale: u32,
}

enum Credential<'a> {
    Secret {
        tenant_id: &'a str,
        client_id: &'a str,
        secret: &'a str,
    },
    Token(&'a Path),
}

impl Connection<'_> {
    /// The lines that release a device. They name the way to sign in: the configuration may name
    /// another one.
    fn lines(&self, shell: Shell, program: &str, id: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = format!(
            "{} unrestrict {id} --comment 'trying it out' --base-url {} --authority {} --scope {}",
            shell.program(program),
            shell.quote(self.base_url),
            shell.quote(self.authority),
            shell.quote(self.scope),
        );
        let path = |path: &Path| shell.quote(&path.display().to_string());
        match self.credential {
            Credential::Secret {
                tenant_id,
                client_id,
                secret,
            } => {
                lines.push(shell.set("AZURE_TENANT_ID", tenant_id));
                lines.push(shell.set("AZURE_CLIENT_ID", client_id));
                lines.push(shell.set("AZURE_CLIENT_SECRET", secret));
                line += " --auth client-secret";
            }
            Credential::Token(file) => {
                line += &format!(" --auth token-file --token-file {}", path(file));
            }
        }
        if let Some(file) = self.ca_file {
            line += &format!(" --ca-file {}", path(file));
        }
        if self.time_scale > 1 {
            line += &format!(" --time-scale {}", self.time_scale);
        }
        lines.push(line);
        lines
    }
}

/// Returns what starts `host-demo` in another terminal: its name where the search path has it, else
/// the file beside this program.
fn program() -> String {
    const NAME: &str = "host-demo";

    let file = format!("{NAME}{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok();
    let beside = beside.map(|this| this.with_file_name(&file));
    let Some(beside) = beside.filter(|beside| beside.is_file()) else {
        return NAME.to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(&file))
        .find(|program| program.is_file());
    match found.and_then(|found| found.canonicalize().ok()) {
        Some(found) if beside.canonicalize().is_ok_and(|beside| beside == found) => NAME.to_owned(),
        _ => beside.display().to_string(),
    }
}

/// The folder for the state of both programs, for this user only.
fn state_folder() -> anyhow::Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy()?;
    let folder = strategy.state_dir().unwrap_or_else(|| strategy.data_dir());
    let folder = folder.join("host-demo");
    files::make_private(&folder)
        .with_context(|| format!("the folder {} can't be used", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_have_the_form_of_their_shell() {
        let connection = Connection {
            base_url: "http://127.0.0.1:1",
            authority: "http://127.0.0.1:1",
            scope: "https://x/.default",
            ca_file: None,
            credential: Credential::Token(Path::new("my token")),
            time_scale: 1,
        };
        assert_eq!(
            connection.lines(Shell::PowerShell, r"C:\my tools\host-demo.exe", "ID"),
            [
                r"& 'C:\my tools\host-demo.exe' unrestrict ID --comment 'trying it out' --base-url \
http://127.0.0.1:1 --authority http://127.0.0.1:1 --scope https://x/.default --auth token-file \
--token-file 'my token'"
                    .replace("\\\n", "")
            ]
        );
        let secret = Connection {
            ca_file: Some(Path::new("/tmp/ca.pem")),
            credential: Credential::Secret {
                tenant_id: "T",
                client_id: "C",
                secret: "it's",
            },
            time_scale: 5,
            ..connection
        };
        assert_eq!(
            secret.lines(Shell::Posix, "host-demo", "ID"),
            [
                "export AZURE_TENANT_ID=T",
                "export AZURE_CLIENT_ID=C",
                r"export AZURE_CLIENT_SECRET='it'\''s'",
                "host-demo unrestrict ID --comment 'trying it out' --base-url http://127.0.0.1:1 \
                 --authority http://127.0.0.1:1 --scope https://x/.default --auth client-secret \
                 --ca-file /tmp/ca.pem --time-scale 5",
            ]
        );
    }
}

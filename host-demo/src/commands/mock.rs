//! `host-demo mock`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::settings::TOKEN_FILE;
use anyhow::{Context as _, bail};
use defender_mock::{Grant, Machine, Mock, Replay, Switches};
use host_demo::clock::SystemClock;
use host_demo::files;
use host_demo::id::MachineId;
use host_demo::identity::Method;
use host_demo::shell::Shell;
use serde_json::json;

use crate::args::{self, Output};
use crate::exit::Exit;
use crate::setup::interrupt::Interrupt;
use crate::setup::own_file::OwnFile;
use crate::setup::{paths, read};
use crate::ui::output;

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
        let json = read::file(path, "the record")?;
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
    let interrupt = Interrupt::stops();
    let mock = builder.start().await?;
    if let (Some(path), Some(pem)) = (&args.ca_out, mock.ca_pem()) {
        write(path, pem)?;
    }
    let (token_file, _removed_in_the_end) = token_file(&mock, &args)?;
    introduce(&mock, &args, token_file.as_deref(), format)?;
    interrupt.pressed().await;
    mock.shutdown().await;
    Ok(Exit::Done)
}

/// Writes a token where a client needs one: the secret is sent over TLS only, so a stand-in without
/// TLS can't be asked for one.
fn token_file(
    mock: &Mock,
    args: &args::Mock,
) -> anyhow::Result<(Option<PathBuf>, Option<OwnFile>)> {
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
            let folder = paths::state_folder().and_then(paths::private);
            let folder = folder.context("name a file for the token with --token-out FILE")?;
            let path = folder.join(format!("stand-in-{port}.token"));
            files::write(&path, mock.token(grant).as_bytes())
                .with_context(|| format!("{} can't be written", path.display()))?;
            Ok((Some(path.clone()), Some(OwnFile::new(path))))
        }
        None => Ok((None, None)),
    }
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
fn introduce(
    mock: &Mock,
    args: &args::Mock,
    token_file: Option<&Path>,
    format: Output,
) -> anyhow::Result<()> {
    let ids = mock.machine_ids();
    let absolute = |path: &Path| std::path::absolute(path);
    let token_file = token_file.map(absolute).transpose()?;
    let ca_file = args.ca_out.as_deref().map(absolute).transpose()?;
    if format == Output::Json {
        output::json_line(&json!({
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
        }));
        return Ok(());
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
    output::line(&format!(
        "# A stand-in for Defender and Entra listens at {}.",
        mock.base_url()
    ));
    output::line("# In another terminal:");
    let id = ids.first().map_or("MACHINE_ID", String::as_str);
    connection
        .lines(Shell::HERE, &program(), id)
        .iter()
        .for_each(|line| output::line(line));
    output::line("# The devices it knows:");
    for id in &ids {
        output::line(&format!("#   {id}"));
    }
    Ok(())
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
                line += &format!(" --auth {}", Method::ClientSecret);
            }
            Credential::Token(file) => {
                line += &format!(" --auth {TOKEN_FILE} --token-file {}", path(file));
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

/// What starts this program in another terminal: its name, where the search path leads to it.
fn program() -> String {
    const NAME: &str = "host-demo";

    let Ok(this) = std::env::current_exe() else {
        return NAME.to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let file = format!("{NAME}{}", std::env::consts::EXE_SUFFIX);
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(&file))
        .find(|program| program.is_file());
    match found.and_then(|found| found.canonicalize().ok()) {
        Some(found) if this.canonicalize().is_ok_and(|this| this == found) => NAME.to_owned(),
        _ => this.display().to_string(),
    }
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

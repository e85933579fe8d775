//! `host-demo config`, and where the configuration is found.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use etcetera::BaseStrategy as _;
use host_demo::config::{EXAMPLE, File, Key, Settings, Source};
use serde_json::{Value, json};

use super::args::{self, Config, Output};
use super::connect::environment;
use super::{Exit, output};

pub(crate) fn run(args: &Config, format: Output) -> anyhow::Result<Exit> {
    match args {
        Config::Example => output::line(EXAMPLE.trim_end()),
        Config::Show(args) => {
            let connection = &args.connection;
            let (settings, file) =
                settings(connection.plugin.config.as_deref(), flags(connection))?;
            // What can't be is said here too.
            settings.service()?;
            show(&settings, file.as_deref(), format);
        }
    }
    Ok(Exit::Done)
}

/// The arguments, with what the environment and the configuration add to them, and all of it.
pub(crate) fn settle(args: &args::Connection) -> anyhow::Result<(args::Connection, Settings)> {
    let (settings, _) = settings(args.plugin.config.as_deref(), flags(args))?;
    let text = |key| settings.text(key).map(str::to_owned);
    let path = |key| settings.text(key).map(PathBuf::from);
    // A path from a flag stays as it was given: it need not be text.
    let file = |given: &Option<PathBuf>, key| given.clone().or_else(|| path(key));
    let settled = args::Connection {
        plugin: plugin(&args.plugin, &settings)?,
        ca_file: file(&args.ca_file, Key::CaFile),
        authority_ca_file: file(&args.authority_ca_file, Key::AuthorityCaFile),
        tenant_id: text(Key::TenantId),
        client_id: text(Key::ClientId),
        client_secret_file: file(&args.client_secret_file, Key::ClientSecretFile),
        token_file: file(&args.token_file, Key::TokenFile),
        proxy: text(Key::Proxy),
        proxy_credentials_file: file(&args.proxy_credentials_file, Key::ProxyCredentialsFile),
        ..args.clone()
    };
    Ok((settled, settings))
}

/// Which component to run.
pub(crate) fn plugin(args: &args::Plugin, settings: &Settings) -> anyhow::Result<args::Plugin> {
    let configured = || settings.text(Key::Plugin).map(PathBuf::from);
    let pin = settings
        .get(Key::PluginSha256)
        .map(|value| {
            let pin = value.text.parse();
            pin.with_context(|| format!("{}, from {}", Key::PluginSha256, value.source))
        })
        .transpose()?;
    Ok(args::Plugin {
        file: args.file.clone().or_else(configured),
        sha256: args.sha256.or(pin),
        ..args.clone()
    })
}

/// What the flags say, as text.
fn flags(args: &args::Connection) -> Vec<(Key, String)> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
    let timeout = args.timeout.map(|time| {
        let time = jiff::SignedDuration::try_from(time).unwrap_or(jiff::SignedDuration::MAX);
        format!("{time:#}")
    });
    [
        (Key::Cloud, args.cloud.map(|cloud| cloud.to_string())),
        (Key::Region, args.region.map(|region| region.to_string())),
        (Key::BaseUrl, args.base_url.clone()),
        (Key::Authority, args.authority.clone()),
        (Key::Scope, args.scope.clone()),
        (Key::CaFile, path(&args.ca_file)),
        (Key::AuthorityCaFile, path(&args.authority_ca_file)),
        (Key::TenantId, args.tenant_id.clone()),
        (Key::ClientId, args.client_id.clone()),
        (Key::ClientSecretFile, path(&args.client_secret_file)),
        (Key::TokenFile, path(&args.token_file)),
        (Key::Auth, args.auth.map(|method| method.to_string())),
        (Key::Proxy, args.proxy.clone()),
        (
            Key::ProxyCredentialsFile,
            path(&args.proxy_credentials_file),
        ),
        (Key::Timeout, timeout),
        (Key::Plugin, path(&args.plugin.file)),
        (
            Key::PluginSha256,
            args.plugin.sha256.as_ref().map(ToString::to_string),
        ),
    ]
    .into_iter()
    .filter_map(|(key, text)| Some((key, text?)))
    .collect()
}

/// What the file, the environment and these flags come to, and which file it was.
pub(crate) fn settings(
    named: Option<&Path>,
    flags: impl IntoIterator<Item = (Key, String)>,
) -> anyhow::Result<(Settings, Option<PathBuf>)> {
    let found = find(named)?;
    let file = match &found {
        Some((path, text)) => parse(path, text)?,
        None => File::default(),
    };
    let settings = Settings::resolve(file, environment, flags);
    Ok((settings, found.map(|(path, _)| path)))
}

/// The file that was named, or the user's own if there is one. Never one of the current directory:
/// whoever could put a file there would say where the token goes.
fn find(named: Option<&Path>) -> anyhow::Result<Option<(PathBuf, String)>> {
    let path = match named {
        Some(path) => std::path::absolute(path)?,
        None => match etcetera::choose_base_strategy() {
            Ok(base) => base.config_dir().join("host-demo/config.toml"),
            Err(_) => return Ok(None),
        },
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error)
            .with_context(|| format!("the configuration {} can't be read", path.display())),
    }
}

fn parse(path: &Path, text: &str) -> anyhow::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::parse(text, folder).or_else(|errors| {
        let lines = errors
            .iter()
            .map(|error| format!("{}:{}: {}", path.display(), error.line, error.problem));
        bail!("{}", lines.collect::<Vec<_>>().join("; "))
    })
}

fn show(settings: &Settings, file: Option<&Path>, format: Output) {
    let rows = Key::all().filter_map(|key| Some((key, settings.get(key)?)));
    if format == Output::Json {
        let rows = rows.map(|(key, value)| {
            let text = if key.is_secret() || key == Key::Proxy && value.text.contains('@') {
                Value::Null
            } else {
                json!(value.text)
            };
            let mut row =
                json!({ "key": key.to_string(), "value": text, "hidden": key.is_secret() });
            let (source, name) = match value.source {
                Source::Default => ("default", Value::Null),
                Source::File(line) => ("file", json!(line)),
                Source::Environment(name) => ("environment", json!(name)),
                Source::Flag(flag) => ("flag", json!(flag)),
            };
            row["source"] = json!(source);
            row["where"] = name;
            row
        });
        output::json_line(&json!({
            "type": "config",
            "file": file.map(|path| path.display().to_string()),
            "values": rows.collect::<Vec<_>>(),
        }));
        return;
    }
    match file {
        Some(path) => output::line(&format!("# {}", output::clean(&path.display().to_string()))),
        None => output::line("# no configuration file"),
    }
    for (key, value) in rows {
        // A proxy's URL has no place for credentials here, but somebody may have put some there.
        let text = if key.is_secret() || key == Key::Proxy && value.text.contains('@') {
            "set, hidden"
        } else {
            &value.text
        };
        let source = match (value.source, file) {
            (Source::File(line), Some(path)) => format!("{}:{line}", path.display()),
            (source, _) => source.to_string(),
        };
        let (text, source) = (output::clean(text), output::clean(&source));
        output::line(&format!("{key:<28} {text}  ({source})"));
    }
}

//! Finds the configuration file, and joins it with the environment and the flags to settings.

use std::path::{Path, PathBuf};

use crate::settings::{File, Key, Replaced, Settings, SettingsError, Source, TOKEN_FILE, about};
use anyhow::{Context as _, bail};
use etcetera::BaseStrategy as _;
use host_demo::files::{self, FileError};
use host_demo::identity::Method;

use super::read::{self, environment};
use crate::args;
use crate::ui::output;

/// What the flags of a connection, the environment and the file come to, and which file it was.
pub(crate) fn of(args: &args::Connection) -> anyhow::Result<(Settings, Option<PathBuf>)> {
    settings(args.plugin.config.as_deref(), flags(args))
}

/// The arguments, with what the environment and the configuration add to them, and all of it.
pub(crate) fn settle(args: &args::Connection) -> anyhow::Result<(args::Connection, Settings)> {
    let (settings, file) = of(args)?;
    tell_replaced(&settings, file.as_deref());
    let text = |key| settings.text(key).map(str::to_owned);
    let path = |key| settings.text(key).map(PathBuf::from);
    // A path from a flag stays as it was given: it need not be text.
    let file = |given: &Option<PathBuf>, key| given.clone().or_else(|| path(key));
    let settled = args::Connection {
        plugin: plugin(&args.plugin, &settings),
        ca_file: file(&args.ca_file, Key::CaFile),
        authority_ca_file: file(&args.authority_ca_file, Key::AuthorityCaFile),
        tenant_id: text(Key::TenantId),
        client_id: text(Key::ClientId),
        client_secret_file: file(&args.client_secret_file, Key::ClientSecretFile),
        token_file: file(&args.token_file, Key::TokenFile),
        proxy: text(Key::Proxy),
        proxy_credentials_file: file(&args.proxy_credentials_file, Key::ProxyCredentialsFile),
        audit: file(&args.audit, Key::AuditFile),
        audit_key: file(&args.audit_key, Key::AuditKey),
        ticket: text(Key::Ticket),
        ledger: ledger(&args.ledger, &settings),
        ..args.clone()
    };
    Ok((settled, settings))
}

/// The same, where nothing else is needed, and what is kept to.
pub(crate) fn counted(args: &args::Counted) -> anyhow::Result<(args::Ledger, Settings)> {
    let (settings, _) = settings(args.config.as_deref(), ledger_flags(&args.ledger))?;
    Ok((ledger(&args.ledger, &settings), settings))
}

/// Which component to run.
pub(crate) fn plugin(args: &args::Plugin, settings: &Settings) -> args::Plugin {
    let configured = || settings.text(Key::Plugin).map(PathBuf::from);
    let pin = settings.text(Key::PluginSha256);
    args::Plugin {
        file: args.file.clone().or_else(configured),
        // What was judged parses.
        sha256: args.sha256.or_else(|| pin?.parse().ok()),
        ..args.clone()
    }
}

/// Which record to verify, and by which key.
pub(crate) fn verify(args: args::Verify) -> anyhow::Result<args::Verify> {
    if args.file.is_some() && args.key.is_some() {
        return Ok(args);
    }
    // Not judged: what the service is has nothing to do with it.
    let (settings, _) = resolve(args.config.as_deref(), [])?;
    let path = |key| settings.text(key).map(PathBuf::from);
    Ok(args::Verify {
        file: args.file.clone().or_else(|| path(Key::AuditFile)),
        key: args.key.clone().or_else(|| path(Key::AuditKey)),
        ..args
    })
}

/// What the file, the environment and these flags come to, if it can be, and which file it was.
pub(crate) fn settings(
    named: Option<&Path>,
    flags: impl IntoIterator<Item = (Key, String)>,
) -> anyhow::Result<(Settings, Option<PathBuf>)> {
    let (settings, file) = resolve(named, flags)?;
    let problems = settings.problems();
    if problems.is_empty() {
        return Ok((settings, file));
    }
    let tell = |problem: &SettingsError| match problem {
        SettingsError::Value {
            key,
            source_of_it,
            error,
        } => about(&called(*key, *source_of_it, file.as_deref()), error),
        incomplete => incomplete.to_string(),
    };
    let told: Vec<String> = problems.iter().map(tell).collect();
    bail!("{}", told.join("; "))
}

/// Where calls are counted.
fn ledger(args: &args::Ledger, settings: &Settings) -> args::Ledger {
    let file = |given: &Option<PathBuf>, key| {
        let configured = || settings.text(key).map(PathBuf::from);
        given.clone().or_else(configured)
    };
    args::Ledger {
        at: settings.text(Key::Ledger).map(str::to_owned),
        password_file: file(&args.password_file, Key::LedgerPasswordFile),
        ca_file: file(&args.ca_file, Key::LedgerCaFile),
    }
}

fn ledger_flags(args: &args::Ledger) -> Vec<(Key, String)> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
    [
        (Key::Ledger, args.at.clone()),
        (Key::LedgerPasswordFile, path(&args.password_file)),
        (Key::LedgerCaFile, path(&args.ca_file)),
    ]
    .into_iter()
    .filter_map(|(key, text)| Some((key, text?)))
    .collect()
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
        (Key::Auth, args.auth.clone()),
        (Key::Proxy, args.proxy.clone()),
        (
            Key::ProxyCredentialsFile,
            path(&args.proxy_credentials_file),
        ),
        (
            Key::AllowAddresses,
            (!args.allow_addresses.is_empty()).then(|| args.allow_addresses.join(", ")),
        ),
        (Key::Timeout, timeout),
        (Key::Plugin, path(&args.plugin.file)),
        (
            Key::PluginSha256,
            args.plugin.sha256.as_ref().map(ToString::to_string),
        ),
        (Key::AuditFile, path(&args.audit)),
        (Key::AuditKey, path(&args.audit_key)),
        (Key::Ticket, args.ticket.clone()),
    ]
    .into_iter()
    .filter_map(|(key, text)| Some((key, text?)))
    .chain(ledger_flags(&args.ledger))
    .collect()
}

fn resolve(
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

/// Returns the file that was named, or the user's own if there is one. It is never taken from the current
/// directory, and never from another user: the configuration decides where the token goes.
fn find(named: Option<&Path>) -> anyhow::Result<Option<(PathBuf, String)>> {
    let path = match named {
        Some(path) => std::path::absolute(path)?,
        None => match etcetera::choose_base_strategy() {
            Ok(base) => base.config_dir().join("host-demo/config.toml"),
            Err(_) => return Ok(None),
        },
    };
    let shown = path.display();
    let bytes = match read::file(&path, "the configuration") {
        Err(error) if named.is_none() && is_absent(&error) => {
            files::check_absent(&path).with_context(|| {
                format!("the configuration {shown} is missing, and may have been removed")
            })?;
            return Ok(None);
        }
        found => found?,
    };
    let text = String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("the configuration {shown} is not text (UTF-8)"))?;
    Ok(Some((path, text)))
}

fn is_absent(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<FileError>();
    matches!(io, Some(FileError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound)
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

/// Warns where a variable of the environment replaces a credential of the file's.
pub(crate) fn tell_replaced(settings: &Settings, file: Option<&Path>) {
    for Replaced { key, source, by } in settings.replaced() {
        let text = format!(
            "{} is not used, because {by} is set in the environment",
            called(*key, *source, file)
        );
        note!("warning: {}", output::clean(&text));
        let method = match key {
            Key::TokenFile => TOKEN_FILE,
            Key::CertificateFile => Method::ClientCertificate.name(),
            Key::FederatedTokenFile => Method::WorkloadIdentity.name(),
            _ => Method::ClientSecret.name(),
        };
        note!("hint: unset {by}, or set auth = \"{method}\" under [identity]");
    }
}

/// What a value is called where it came from.
pub(crate) fn called(key: Key, source: Source, file: Option<&Path>) -> String {
    match source {
        Source::Flag(name) | Source::Environment(name) => name.to_owned(),
        Source::File(_) => format!("{}: {key}", place(source, file)),
        Source::Default => key.to_string(),
    }
}

/// Where a value came from, with the file's name.
pub(crate) fn place(source: Source, file: Option<&Path>) -> String {
    match (source, file) {
        (Source::File(line), Some(path)) => format!("{}:{line}", path.display()),
        (source, _) => source.to_string(),
    }
}

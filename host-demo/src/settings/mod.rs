//! What can be configured, and where each value came from.
//!
//! Pure: [`File::parse`] takes a text, [`Settings::resolve`] takes what the file, the environment
//! and the flags say, in rising order. Who finds the file and reads the environment is the caller.
//! No secret can stand in the file, and none is ever held here.

mod file;
mod resolve;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub(crate) use file::File;
pub(crate) use resolve::{Replaced, Settings, SettingsError};

use defender_connect::cloud::{Cloud, Region};
use defender_connect::identity::Method;
use defender_connect::proxy::{Network, Proxy};
use defender_connect::stray;
use defender_core::origin::{Origin, OriginError};
use defender_host::plugin::Digest;
use defender_quota::LedgerName;

/// A configuration with every key, commented.
pub(crate) const EXAMPLE: &str = include_str!("../../../docs/config.example.toml");

/// Something that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    clippy::enum_variant_names,
    reason = "`AuditKey` is the setting of a key file"
)]
pub(crate) enum Key {
    /// Which of Microsoft's clouds.
    Cloud,
    /// Which part of it.
    Region,
    /// Another service's origin.
    BaseUrl,
    /// Who issues tokens for it.
    Authority,
    /// What a token for it is asked for.
    Scope,
    /// Whom to trust at the service, besides the system's certificate authorities.
    CaFile,
    /// Whom to trust at its authority, besides those.
    AuthorityCaFile,
    /// How to sign in.
    Auth,
    /// The tenant.
    TenantId,
    /// The application.
    ClientId,
    /// The application's secret. Only the environment has it.
    ClientSecret,
    /// The file that has it.
    ClientSecretFile,
    /// A file with a token.
    TokenFile,
    /// A file with the application's certificate and its key.
    CertificateFile,
    /// A file with another issuer's token, which the application trusts.
    FederatedTokenFile,
    /// The proxy to go through.
    Proxy,
    /// A file with what the proxy wants to know.
    ProxyCredentialsFile,
    /// Which private networks names may lead to.
    AllowAddresses,
    /// How long one call may take.
    Timeout,
    /// Which component is run.
    Plugin,
    /// The digest that it must have.
    PluginSha256,
    /// Which requests may leave.
    Allow,
    /// The file that every call is recorded in.
    AuditFile,
    /// The file with the key that chains the records.
    AuditKey,
    /// What it is done for.
    Ticket,
    /// Where calls are counted.
    Ledger,
    /// A file with the password of the server that counts them.
    LedgerPasswordFile,
    /// Whom to trust at that server, instead of the system's certificate authorities.
    LedgerCaFile,
    /// How many calls may be made.
    Quota,
}

/// What form a value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Path,
    Cloud,
    Region,
    Origin,
    Authority,
    Scope,
    Auth,
    Tenant,
    Application,
    Proxy,
    Duration,
    Digest,
    /// A path, unless it is `memory` or a URL.
    Ledger,
    /// Not in the file, and never shown.
    Secret,
    Networks,
    Routes,
    Quotas,
}

impl Form {
    /// What is wrong with a value of this form, by itself. It is not repeated where it could be a
    /// secret that got into the wrong place.
    fn judge(self, text: &str) -> Result<(), String> {
        fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<(), String> {
            text.parse::<T>().map(drop).map_err(|e| e.to_string())
        }

        /// The example is one of the parameter's own.
        fn origin(text: &str, example: &str) -> Result<(), String> {
            text.parse::<Origin>()
                .map(drop)
                .map_err(|error| match error {
                    OriginError::Form => {
                        format!("{error}, such as {example}: {}", stray::shown(text))
                    }
                    OriginError::Insecure => error.to_string(),
                })
        }

        // No route at all is what a policy can say, and leaving it out says something else.
        if text.trim().is_empty() && !matches!(self, Self::Secret | Self::Routes) {
            return Err("is empty; leave it out".to_owned());
        }
        match self {
            Self::Cloud => one_of(text, Cloud::NAMES),
            Self::Region => one_of(text, Region::NAMES),
            Self::Auth => one_of(text, &auth_names()),
            Self::Origin => origin(text, "https://api.security.microsoft.com"),
            Self::Authority => origin(text, "https://login.microsoftonline.com"),
            Self::Scope if text.ends_with("/.default") => Ok(()),
            Self::Scope => Err(
                "must end in /.default: it is the service's resource, followed by that".to_owned(),
            ),
            // What Entra takes in the path of a token endpoint.
            Self::Tenant
                if !text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)) =>
            {
                let shown = stray::shown(text);
                Err(format!("is not a tenant ID (GUID) or domain: {shown}"))
            }
            // Other authorities than Entra need not use GUIDs. A secret would be sent and recorded.
            Self::Application
                if !is_guid(text)
                    && (stray::could_be_secret(text)
                        || !text
                            .chars()
                            .all(|c| c.is_ascii_graphic() && !"\"'`<>{}()".contains(c))) =>
            {
                Err(not_an_application(text))
            }
            Self::Proxy => Proxy::new(text).map(drop).map_err(|e| e.to_string()),
            Self::Networks => text
                .split(LIST)
                .try_fold(Network::default(), Network::permitting)
                .map(drop)
                .map_err(|e| e.to_string()),
            Self::Duration => duration(text).map(drop),
            Self::Digest => parsed::<Digest>(text),
            Self::Ledger => parsed::<LedgerName>(text),
            Self::Tenant
            | Self::Application
            | Self::Text
            | Self::Path
            | Self::Secret
            | Self::Routes
            | Self::Quotas => Ok(()),
        }
    }

    /// Returns a value without stray characters around it, as far as they can't be part of it, and
    /// with what is understood.
    fn completed(self, text: &str) -> String {
        match self {
            // They can be part of a text, and a list has its own form.
            Self::Text | Self::Secret | Self::Networks | Self::Routes | Self::Quotas => {
                text.to_owned()
            }
            Self::Path | Self::Ledger => stray::unquoted(text).to_owned(),
            Self::Authority => with_scheme(stray::bare(text)),
            _ => stray::bare(text).to_owned(),
        }
    }
}

/// Returns whether a text is a GUID as Entra writes its IDs.
fn is_guid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

/// Returns what is wrong with a client ID.
fn not_an_application(text: &str) -> String {
    let swapped = match stray::could_be_secret(text) {
        true => "; the client secret seems to be in its place",
        false => "",
    };
    let shown = stray::shown(text);
    format!("is not an application (client) ID: {shown}{swapped}")
}

/// Joins a name and what is wrong with its value: `NAME is …`, or `NAME: …`.
pub(crate) fn about(name: &str, problem: &str) -> String {
    let is_predicate = ["is not ", "is empty", "must "]
        .iter()
        .any(|verb| problem.starts_with(verb));
    let colon = if is_predicate { "" } else { ":" };
    format!("{name}{colon} {problem}")
}

/// Returns an authority's URL; like Azure's SDKs it takes a host alone to be reached over `https://`.
fn with_scheme(authority: &str) -> String {
    let is_host = !authority.contains("://") && !authority.is_empty();
    let scheme = if is_host { "https://" } else { "" };
    format!("{scheme}{authority}")
}

/// Every name of a way to sign in.
pub(crate) fn auth_names() -> Vec<&'static str> {
    let mut names = Method::ALL.map(Method::name).to_vec();
    names.push(TOKEN_FILE);
    names
}

/// How to sign in by a token at hand, which is no [`Method`] of getting one.
pub(crate) const TOKEN_FILE: &str = "token-file";

/// What is between the texts of a list, where it is shown as one.
const LIST: &str = ", ";

fn one_of(text: &str, names: &[&'static str]) -> Result<(), String> {
    if names.contains(&text) {
        return Ok(());
    }
    Err(match nearest(text, names.iter().copied()) {
        Some(meant) => format!("there is no {text:?}; did you mean {meant:?}?"),
        None => format!("there is no {text:?}; there are: {}", names.join(", ")),
    })
}

struct Doc {
    key: Key,
    section: &'static str,
    name: &'static str,
    form: Form,
    environment: Option<&'static str>,
    flag: Option<&'static str>,
}

const fn doc(key: Key, section: &'static str, name: &'static str, form: Form) -> Doc {
    Doc {
        key,
        section,
        name,
        form,
        environment: None,
        flag: None,
    }
}

impl Doc {
    const fn or(mut self, environment: &'static str) -> Self {
        self.environment = Some(environment);
        self
    }

    const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }
}

/// Every key: where it stands in the file, and what else sets it.
const KEYS: &[Doc] = &[
    doc(Key::Cloud, "service", "cloud", Form::Cloud).flag("--cloud"),
    doc(Key::Region, "service", "region", Form::Region).flag("--region"),
    doc(Key::BaseUrl, "service", "base-url", Form::Origin).flag("--base-url"),
    doc(Key::Authority, "service", "authority", Form::Authority)
        .or("AZURE_AUTHORITY_HOST")
        .flag("--authority"),
    doc(Key::Scope, "service", "scope", Form::Scope).flag("--scope"),
    doc(Key::CaFile, "service", "ca-file", Form::Path).flag("--ca-file"),
    doc(
        Key::AuthorityCaFile,
        "service",
        "authority-ca-file",
        Form::Path,
    )
    .flag("--authority-ca-file"),
    doc(Key::Auth, "identity", "auth", Form::Auth).flag("--auth"),
    doc(Key::TenantId, "identity", "tenant-id", Form::Tenant)
        .or("AZURE_TENANT_ID")
        .flag("--tenant-id"),
    doc(Key::ClientId, "identity", "client-id", Form::Application)
        .or("AZURE_CLIENT_ID")
        .flag("--client-id"),
    doc(Key::ClientSecret, "identity", "client-secret", Form::Secret).or("AZURE_CLIENT_SECRET"),
    doc(
        Key::ClientSecretFile,
        "identity",
        "client-secret-file",
        Form::Path,
    )
    .flag("--client-secret-file"),
    doc(Key::TokenFile, "identity", "token-file", Form::Path).flag("--token-file"),
    doc(
        Key::CertificateFile,
        "identity",
        "certificate-file",
        Form::Path,
    )
    .or("AZURE_CLIENT_CERTIFICATE_PATH"),
    doc(
        Key::FederatedTokenFile,
        "identity",
        "federated-token-file",
        Form::Path,
    )
    .or("AZURE_FEDERATED_TOKEN_FILE"),
    doc(Key::Proxy, "network", "proxy", Form::Proxy).flag("--proxy"),
    doc(
        Key::ProxyCredentialsFile,
        "network",
        "proxy-credentials-file",
        Form::Path,
    )
    .flag("--proxy-credentials-file"),
    doc(
        Key::AllowAddresses,
        "network",
        "allow-addresses",
        Form::Networks,
    )
    .flag("--allow-address"),
    doc(Key::Timeout, "call", "timeout", Form::Duration).flag("--timeout"),
    doc(Key::Plugin, "plugin", "file", Form::Path).flag("--plugin"),
    doc(Key::PluginSha256, "plugin", "sha256", Form::Digest).flag("--plugin-sha256"),
    doc(Key::Allow, "policy", "allow", Form::Routes),
    doc(Key::AuditFile, "audit", "file", Form::Path).flag("--audit"),
    doc(Key::AuditKey, "audit", "key", Form::Path).flag("--audit-key"),
    doc(Key::Ticket, "audit", "ticket", Form::Text).flag("--ticket"),
    doc(Key::Ledger, "ledger", "at", Form::Ledger).flag("--ledger"),
    doc(
        Key::LedgerPasswordFile,
        "ledger",
        "password-file",
        Form::Path,
    )
    .flag("--ledger-password-file"),
    doc(Key::LedgerCaFile, "ledger", "ca-file", Form::Path).flag("--ledger-ca-file"),
    doc(Key::Quota, "", "quota", Form::Quotas),
];

impl Key {
    /// All of them, in the order in which the file has them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        KEYS.iter().map(|doc| doc.key)
    }

    fn doc(self) -> &'static Doc {
        // Each has its row: a test counts them.
        KEYS.iter()
            .find(|doc| doc.key == self)
            .unwrap_or_else(|| unreachable!("{self:?} has no row"))
    }

    /// The variable of the environment that sets it.
    pub(crate) fn environment(self) -> Option<&'static str> {
        self.doc().environment
    }

    /// The flag that sets it.
    pub(crate) fn flag(self) -> Option<&'static str> {
        self.doc().flag
    }

    /// Whether its value must not be shown.
    pub(crate) fn is_secret(self) -> bool {
        self.doc().form == Form::Secret
    }

    /// Whether it names a file that has to be there: what is recorded in can be made.
    pub(crate) fn is_file_to_read(self) -> bool {
        self.doc().form == Form::Path && !matches!(self, Self::AuditFile | Self::AuditKey)
    }
}

impl fmt::Display for Key {
    /// As it is named in the file, with its section.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doc = self.doc();
        let dot = if doc.section.is_empty() { "" } else { "." };
        f.pad(&format!("{}{dot}{}", doc.section, doc.name))
    }
}

/// Where a value came from. The later ones go before the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// Nobody set it.
    Default,
    /// The file's line, counted from 1.
    File(usize),
    /// A variable of the environment.
    Environment(&'static str),
    /// A flag.
    Flag(&'static str),
}

impl Source {
    /// Whether both are of the same kind.
    const fn rank(self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(line) => write!(f, "line {line} of the configuration"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value, as text, and where it came from. That of a secret is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    /// The value. A relative path in a file counts from the file's folder, and is shown so.
    pub text: String,
    /// Where it came from.
    pub source: Source,
}

/// A length of time as people write it: 90s, 10m, 1h30m.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "expected a length of time such as 90s, 10m or 1h30m".to_owned())?;
    match Duration::try_from(span) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("must be longer than nothing".to_owned()),
    }
}

/// The name that was probably meant.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Below this, what two short words share is chance.
    const ALIKE: f64 = 0.75;

    let name = name.to_lowercase().replace('_', "-");
    known
        .into_iter()
        .filter(|known| strsim::jaro_winkler(&name, &known.to_lowercase()) >= ALIKE)
        // Of those that are like it, the one that takes the fewest strokes: by likeness alone, what
        // was written for releasing a device can be nearer to what restricts one.
        .min_by_key(|known| strsim::levenshtein(&name, &known.to_lowercase()))
}

#[cfg(test)]
mod tests;

//! From arguments, files and the environment to a host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use etcetera::BaseStrategy as _;
use host_demo::clock::{Clock, SystemClock};
use host_demo::cloud::Service;
use host_demo::config::{Key, Settings, TOKEN_FILE};
use host_demo::egress::{Egress, Setup};
pub(crate) use host_demo::files::make_private;
use host_demo::files::{self, Contents};
use host_demo::host::Host;
use host_demo::identity::{
    self, FixedToken, Identity, IdentityError, Method, Prompt, SignIn, TokenSource,
};
use host_demo::network::Network;
use host_demo::plugin::{self, Digest, LoadError, Plugin};
use host_demo::stray;
use host_demo::transport;

use crate::args;
use crate::commands::{audit, config, quota};
use crate::ui::output::clean;

/// A host for the service and the identity that the arguments and the environment name.
pub(crate) fn host(args: &args::Connection) -> anyhow::Result<Host> {
    let (args, settings) = config::settle(args)?;
    Ok(settled(&args, &settings)?.0)
}

/// The same, with the service that it is for, from arguments that are complete.
pub(crate) fn settled(
    args: &args::Connection,
    settings: &Settings,
) -> anyhow::Result<(Host, Service)> {
    let (egress, service) = boundary(args, settings)?;
    Ok((Host::new(load(&args.plugin)?, &egress), service))
}

/// What any call goes through, whoever makes it.
pub(crate) fn boundary(
    args: &args::Connection,
    settings: &Settings,
) -> anyhow::Result<(Egress, Service)> {
    let service = service(args, settings)?;
    let clock = clock(args.time_scale, &service)?;
    let tokens = tokens(args, settings, &service, Arc::clone(&clock))?;
    let setup = Setup {
        call_timeout: settings.timeout()?,
        quotas: settings.quotas().to_vec(),
        policy: settings.policy(service.origin().clone()),
        clock,
        audit: Some(audit::open(args)?),
        ledger: Some(quota::ledger(&args.ledger, args.time_scale)?),
        name: quota::name(),
        tape: args.tape.clone(),
        ..Setup::new(service.clone(), tokens)
    };
    Ok((setup.build()?, service))
}

/// The plugin in the file that was named, or the one that is built in.
pub(crate) fn load(args: &args::Plugin) -> anyhow::Result<Plugin> {
    let engine = plugin::engine(cache().as_deref())?;
    let pin = args.sha256.as_ref();
    match &args.file {
        Some(path) => match pin {
            Some(pin) => Plugin::from_file_pinned(&engine, path, pin),
            None => Plugin::from_file(&engine, path),
        }
        .map_err(|error| match error {
            LoadError::Unreadable { .. } => anyhow::Error::from(error).context("no plugin"),
            _ => anyhow::Error::from(error)
                .context(format!("the plugin {} is not loaded", path.display())),
        }),
        None => bundled(&engine, pin),
    }
}

#[cfg(feature = "bundled-plugin")]
fn bundled(engine: &wasmtime::Engine, pin: Option<&Digest>) -> anyhow::Result<Plugin> {
    match pin {
        Some(pin) => Plugin::from_bytes_pinned(engine, plugin::BUNDLED, pin),
        None => Plugin::bundled(engine),
    }
    .context("the plugin that is built in is not loaded")
}

#[cfg(not(feature = "bundled-plugin"))]
fn bundled(_: &wasmtime::Engine, _: Option<&Digest>) -> anyhow::Result<Plugin> {
    bail!("this host-demo was built without a plugin: name one with --plugin FILE")
}

/// Where compiled code is kept: a directory of the user's own, out of everyone else's reach,
/// because what lies in it is run. Without one, the plugin is compiled anew each time.
fn cache() -> Option<PathBuf> {
    let directory = etcetera::choose_base_strategy()
        .ok()?
        .cache_dir()
        .join("host-demo/compiled");
    make_private(&directory)
        .and_then(|()| files::out_of_reach(&directory))
        .inspect_err(|error| {
            tracing::warn!(%error, directory = %directory.display(), "compiled code is not kept");
        })
        .ok()
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
    let pem = read(path, what)?;
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
        proxy = proxy.with_credentials(stray::trim_line(&text(path, what)?))?;
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

fn tokens(
    args: &args::Connection,
    settings: &Settings,
    service: &Service,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn TokenSource>> {
    let method = match (settings.text(Key::Auth), args.token_file.as_deref()) {
        (None | Some(TOKEN_FILE), Some(path)) => return fixed(path),
        // One that is no method's was refused as the settings were judged.
        (Some(name), _) => Some(name.parse::<Method>()?),
        (None, None) => None,
    };
    expect_legible(method, settings)?;
    // What another method would need is not read: it may be there for another tool, and broken.
    let is_used =
        |by: Method| method.is_none_or(|method| method == by || method == Method::Default);
    let certificate = settings.text(Key::CertificateFile);
    let certificate = certificate
        .filter(|_| is_used(Method::ClientCertificate))
        .map(|path| {
            let what = "the certificate file";
            let pem = read_secret(Path::new(path), what)?;
            expect_content(&pem, what, Path::new(path))?;
            Ok::<_, anyhow::Error>(pem)
        })
        .transpose()?;
    let client_secret = match &args.client_secret_file {
        _ if !is_used(Method::ClientSecret) => None,
        Some(path) => Some(read_secret_text(path, "the client secret file")?),
        // Where a later source names another credential, the environment's is not meant.
        None if settings.get(Key::ClientSecret).is_some() => secret("AZURE_CLIENT_SECRET")?,
        None => None,
    };
    let credentials = identity::Settings {
        tenant_id: args.tenant_id.clone(),
        client_id: args.client_id.clone(),
        client_secret,
        certificate,
        federated_token_file: settings.text(Key::FederatedTokenFile).map(PathBuf::from),
        // Azure CLI sees of it what the library lets through.
        environment: std::env::vars_os().collect(),
        prompt: Some(Arc::new(OnStandardError)),
        timeout: Some(settings.timeout()?),
        names: NAMES,
        ..identity::Settings::default()
    };
    let method = match method {
        Some(method) => method,
        None => usual(&credentials)?,
    };
    let identity = Identity::new(method, credentials, service, clock);
    Ok(Arc::new(identity.map_err(|error| named(error, settings))?))
}

/// What the settings are called here.
const NAMES: identity::Names = identity::Names {
    tenant_id: "the tenant id (AZURE_TENANT_ID)",
    client_id: "the client id (AZURE_CLIENT_ID)",
    client_secret: "the client secret (AZURE_CLIENT_SECRET or identity.client-secret-file)",
    certificate: "the certificate (AZURE_CLIENT_CERTIFICATE_PATH or identity.certificate-file)",
    federated_token_file: "the federated token's file (AZURE_FEDERATED_TOKEN_FILE or \
                           identity.federated-token-file)",
};

/// Rejects a file with nothing in it but white space.
fn expect_content(bytes: &[u8], what: &str, path: &Path) -> anyhow::Result<()> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        bail!("{what} {} is empty", path.display());
    }
    Ok(())
}

/// Reports a variable that the method needs and that has no usable value, which is not to be called
/// missing.
fn expect_legible(method: Option<Method>, settings: &Settings) -> anyhow::Result<()> {
    use Key::{CertificateFile, ClientId, ClientSecret, FederatedTokenFile, TenantId};

    let is_set = |key: &Key| settings.get(*key).is_some();
    let has_secret = is_set(&ClientSecret) || is_set(&Key::ClientSecretFile);
    let needed: &[Key] = match method {
        Some(Method::ClientSecret) if has_secret => &[TenantId, ClientId],
        Some(Method::ClientSecret) => &[TenantId, ClientId, ClientSecret],
        Some(Method::ClientCertificate) => &[TenantId, ClientId, CertificateFile],
        Some(Method::WorkloadIdentity) => &[TenantId, ClientId, FederatedTokenFile],
        Some(Method::DeviceCode) => &[TenantId, ClientId],
        // They do without.
        Some(Method::ManagedIdentity | Method::AzureCli | Method::Default) => &[],
        None if has_secret || is_set(&CertificateFile) || is_set(&FederatedTokenFile) => {
            &[TenantId, ClientId]
        }
        None => &[
            TenantId,
            ClientId,
            ClientSecret,
            CertificateFile,
            FederatedTokenFile,
        ],
    };
    let missing = needed.iter().filter(|key| !is_set(key));
    for name in missing.filter_map(|key| key.environment()) {
        // One that has a value was dropped for another source.
        secret(name)?;
    }
    Ok(())
}

/// Names the file of a credential that can't be used.
fn named(error: IdentityError, settings: &Settings) -> anyhow::Error {
    let file = settings.text(Key::CertificateFile).unwrap_or_default();
    match &error {
        IdentityError::Certificate(_) => {
            anyhow::Error::from(error).context(format!("the certificate file {file} is not usable"))
        }
        _ => error.into(),
    }
}

fn fixed(path: &Path) -> anyhow::Result<Arc<dyn TokenSource>> {
    let token = FixedToken::new(&text(path, "the token file")?)
        .with_context(|| format!("the token file {} is not usable", path.display()))?;
    Ok(Arc::new(token))
}

/// How to sign in where nobody says how: as an application, with what there is, and if there is
/// nothing with what is missing said. Another way is asked for by its name.
fn usual(credentials: &identity::Settings) -> anyhow::Result<Method> {
    let missing: Vec<&str> = [
        ("AZURE_TENANT_ID", credentials.tenant_id.is_none()),
        ("AZURE_CLIENT_ID", credentials.client_id.is_none()),
        (
            "AZURE_CLIENT_SECRET",
            credentials.client_secret.is_none()
                && credentials.certificate.is_none()
                && credentials.federated_token_file.is_none(),
        ),
    ]
    .into_iter()
    .filter_map(|(name, missing)| missing.then_some(name))
    .collect();
    if !missing.is_empty() {
        bail!(
            "no credentials: {} not set. Set them for an application with the permission \
             Machine.RestrictExecution, or name a file with --client-secret-file or --token-file, \
             or another way with --auth",
            if missing.len() == 1 {
                format!("{} is", missing[0])
            } else {
                format!("{} are", missing.join(", "))
            }
        )
    }
    // Azure's own order.
    Ok(if credentials.client_secret.is_some() {
        Method::ClientSecret
    } else if credentials.certificate.is_some() {
        Method::ClientCertificate
    } else {
        Method::WorkloadIdentity
    })
}

/// What that comes to, by what is set.
pub(crate) fn usual_way(settings: &Settings) -> &'static str {
    let is_set = |key| settings.get(key).is_some();
    if is_set(Key::TokenFile) {
        TOKEN_FILE
    } else if is_set(Key::ClientSecret) || is_set(Key::ClientSecretFile) {
        Method::ClientSecret.name()
    } else if is_set(Key::CertificateFile) {
        Method::ClientCertificate.name()
    } else if is_set(Key::FederatedTokenFile) {
        Method::WorkloadIdentity.name()
    } else {
        Method::ClientSecret.name()
    }
}

/// Shows how to sign in, beside what is printed for programs.
struct OnStandardError;

impl Prompt for OnStandardError {
    fn show(&self, sign_in: &SignIn) {
        note!(
            "To sign in, open {} and enter the code {} within {} minutes.",
            clean(&sign_in.page),
            clean(&sign_in.code),
            sign_in.expires_in.as_secs() / 60
        );
    }
}

/// Returns a value of the environment, without the stray characters that a file's would lose. One that
/// is there and can't be used is an error, not missing.
pub(crate) fn secret(name: &str) -> anyhow::Result<Option<String>> {
    let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let Some(text) = value.to_str() else {
        bail!("{name} is not text (UTF-8)");
    };
    let text = stray::trim(text);
    if text.is_empty() {
        bail!("{name} is blank");
    }
    Ok(Some(text.to_owned()))
}

pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub(crate) fn read(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    Ok(contents(path, what)?.bytes)
}

/// Reads what nobody else should be able to, and says so where somebody is.
fn read_secret(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    let found = contents(path, what)?;
    if found.is_open() {
        let path = clean(&path.display().to_string());
        note!("host-demo: {what} {path} is open to others; close it: chmod 600 {path}");
    }
    Ok(found.bytes)
}

/// Reads a secret; stray characters around it are dropped, and without it the file is an error.
pub(crate) fn read_secret_text(path: &Path, what: &str) -> anyhow::Result<String> {
    let text = text(path, what)?;
    let secret = stray::trim(&text);
    expect_content(secret.as_bytes(), what, path)?;
    Ok(secret.to_owned())
}

fn text(path: &Path, what: &str) -> anyhow::Result<String> {
    stray::decode(&read_secret(path, what)?)
        .with_context(|| format!("{what} {} can't be read", path.display()))
}

pub(crate) fn contents(path: &Path, what: &str) -> anyhow::Result<Contents> {
    /// Far more than any certificate, secret, token or configuration has.
    const MAX: u64 = 1 << 20;

    files::read(path, MAX).with_context(|| format!("{what} {} can't be read", path.display()))
}

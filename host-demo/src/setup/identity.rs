//! Builds the source of tokens that the arguments and the settings name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::settings::{Key, Settings, TOKEN_FILE};
use anyhow::{Context as _, bail};
use host_demo::clock::Clock;
use host_demo::cloud::Service;
use host_demo::identity::{
    self, FixedToken, Identity, IdentityError, Method, Prompt, SignIn, TokenSource,
};

use super::read::{expect_content, secret, secret_bytes, secret_text, text};
use crate::args;
use crate::ui::output::clean;

/// Builds the source of tokens.
pub(super) fn tokens(
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
            let pem = secret_bytes(Path::new(path), what)?;
            expect_content(&pem, what, Path::new(path))?;
            Ok::<_, anyhow::Error>(pem)
        })
        .transpose()?;
    let client_secret = match &args.client_secret_file {
        _ if !is_used(Method::ClientSecret) => None,
        Some(path) => Some(secret_text(path, "the client secret file")?),
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

/// What the settings are called here.
const NAMES: identity::Names = identity::Names {
    tenant_id: "the tenant id (AZURE_TENANT_ID)",
    client_id: "the client id (AZURE_CLIENT_ID)",
    client_secret: "the client secret (AZURE_CLIENT_SECRET or identity.client-secret-file)",
    certificate: "the certificate (AZURE_CLIENT_CERTIFICATE_PATH or identity.certificate-file)",
    federated_token_file: "the federated token's file (AZURE_FEDERATED_TOKEN_FILE or \
                           identity.federated-token-file)",
};

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

//! Which way to a token, and what it takes.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::Secret;

use super::azure_cli::AzureCli;
use super::cache::Fetch;
use super::client_assertion::Certificate;
use super::client_credentials::{Application, Proof};
use super::default_chain::Chain;
use super::device_code::DeviceCode;
use super::managed_identity::Managed;
use super::token_endpoint::TIMEOUT;
use super::{IdentityError, Prompt};
use crate::cloud::{self, Service};
use crate::transport::Transport;
use defender_core::clock::Clock;
use defender_core::origin::Origin;

/// A way to a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// An application's secret.
    ClientSecret,
    /// An application's certificate, with its private key.
    ClientCertificate,
    /// A token of another issuer that an application trusts (workload identity federation).
    WorkloadIdentity,
    /// The identity of the Azure machine that this runs on.
    ManagedIdentity,
    /// The user who is signed in to Azure CLI.
    AzureCli,
    /// A user who signs in with a browser, here or elsewhere.
    DeviceCode,
    /// The first that is there: the client secret or the certificate, workload identity, managed
    /// identity, Azure CLI.
    #[default]
    Default,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ClientSecret,
        Self::ClientCertificate,
        Self::WorkloadIdentity,
        Self::ManagedIdentity,
        Self::AzureCli,
        Self::DeviceCode,
        Self::Default,
    ];

    /// What is tried by [`Default`](Self::Default), in Azure's usual order.
    const CHAIN: [Self; 5] = [
        Self::ClientSecret,
        Self::ClientCertificate,
        Self::WorkloadIdentity,
        Self::ManagedIdentity,
        Self::AzureCli,
    ];

    /// Its name on a command line and in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientSecret => "client-secret",
            Self::ClientCertificate => "client-certificate",
            Self::WorkloadIdentity => "workload-identity",
            Self::ManagedIdentity => "managed-identity",
            Self::AzureCli => "azure-cli",
            Self::DeviceCode => "device-code",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no method's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no way to a token; there are: {}", Method::ALL.map(Method::name).join(", "))]
pub struct UnknownMethod {
    name: String,
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, UnknownMethod> {
        Self::ALL
            .into_iter()
            .find(|method| method.name() == text)
            .ok_or_else(|| UnknownMethod {
                name: text.to_owned(),
            })
    }
}

/// What the settings are called in errors, in the words of the caller's users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// The name of [`Settings::tenant_id`].
    pub tenant_id: &'static str,
    /// The name of [`Settings::client_id`].
    pub client_id: &'static str,
    /// The name of [`Settings::client_secret`].
    pub client_secret: &'static str,
    /// The name of [`Settings::certificate`].
    pub certificate: &'static str,
    /// The name of [`Settings::federated_token_file`].
    pub federated_token_file: &'static str,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            tenant_id: "the tenant id",
            client_id: "the client id",
            client_secret: "the client secret",
            certificate: "the certificate",
            federated_token_file: "the federated token's file",
        }
    }
}

/// What the methods need; each takes what it needs and ignores the rest.
#[derive(Clone, Default)]
pub struct Settings {
    /// The tenant: its id or a domain of it.
    pub tenant_id: Option<String>,
    /// The application: its id. For managed identity, that of a user-assigned identity.
    pub client_id: Option<String>,
    /// The application's secret.
    pub client_secret: Option<String>,
    /// The application's certificate and its private key, not encrypted: PEM text with both.
    pub certificate: Option<Vec<u8>>,
    /// The file with the other issuer's token. It is read anew for each fetch.
    pub federated_token_file: Option<PathBuf>,
    /// In place of the metadata service's address, for tests: a loopback origin.
    pub metadata_endpoint: Option<Origin>,
    /// The environment that Azure CLI may see a part of: `PATH`, `HOME`, `AZURE_CONFIG_DIR`, the
    /// language, proxy and CA. The rest is dropped here.
    pub environment: Vec<(OsString, OsString)>,
    /// Who shows a person how to sign in.
    pub prompt: Option<Arc<dyn Prompt>>,
    /// How long the authority may take for each answer, if less than 20 s. A person who signs in
    /// may take longer.
    pub timeout: Option<Duration>,
    /// What the settings are called where one is missing.
    pub names: Names,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("tenant_id", &self.tenant_id)
            .field("client_id", &self.client_id)
            .field("federated_token_file", &self.federated_token_file)
            .finish_non_exhaustive()
    }
}

/// What a method needs and does not have, in the words of the caller's users.
struct Lacks(Vec<&'static str>);

impl Lacks {
    fn why(&self) -> String {
        match self.0.as_slice() {
            [one] => format!("{one} is not set"),
            several => format!("{} are not set", several.join(", ")),
        }
    }
}

/// How a method's tokens are fetched.
pub(super) fn fetch(
    method: Method,
    settings: &Settings,
    service: &Service,
    clock: &Arc<dyn Clock>,
) -> Result<Box<dyn Fetch>, IdentityError> {
    let parts = Parts {
        settings,
        service,
        clock,
    };
    if method == Method::Default {
        let mut links = Vec::new();
        for method in Method::CHAIN {
            let link = match parts.fetch(method) {
                Ok(fetch) => Ok(fetch),
                Err(IdentityError::NotAvailable { why, .. }) => Err(why),
                // It is there, and broken: not a reason to be somebody else.
                Err(error) => return Err(error),
            };
            links.push((method, link));
        }
        return Ok(Box::new(Chain::new(links)));
    }
    parts.fetch(method)
}

struct Parts<'a> {
    settings: &'a Settings,
    service: &'a Service,
    clock: &'a Arc<dyn Clock>,
}

impl Parts<'_> {
    fn fetch(&self, method: Method) -> Result<Box<dyn Fetch>, IdentityError> {
        let settings = self.settings;
        let lacks = |lacks: Lacks| IdentityError::NotAvailable {
            method,
            why: lacks.why(),
        };
        match method {
            Method::ClientSecret => {
                let secret = settings.client_secret.clone();
                let (tenant, client_id, secret) = self
                    .application(settings.names.client_secret, secret)
                    .map_err(lacks)?;
                self.proven(tenant, client_id, Proof::Secret(Secret::new(secret)))
            }
            Method::ClientCertificate => {
                let pem = settings.certificate.as_deref();
                let (tenant, client_id, pem) = self
                    .application(settings.names.certificate, pem)
                    .map_err(lacks)?;
                let certificate = Certificate::from_pem(pem, self.clock.wall())?;
                self.proven(tenant, client_id, Proof::Certificate(certificate))
            }
            Method::WorkloadIdentity => {
                let file = settings.federated_token_file.clone();
                let (tenant, client_id, file) = self
                    .application(settings.names.federated_token_file, file)
                    .map_err(lacks)?;
                self.proven(tenant, client_id, Proof::Federated(file))
            }
            Method::ManagedIdentity => {
                self.expect_entra(method)?;
                let instead = settings.metadata_endpoint.clone();
                if instead.as_ref().is_some_and(|origin| !origin.is_loopback()) {
                    return Err(IdentityError::Unusable(
                        "another metadata endpoint can only be on loopback".to_owned(),
                    ));
                }
                Ok(Box::new(Managed {
                    client_id: settings.client_id.clone(),
                    instead,
                    service: self.service.clone(),
                    transport: Transport::to_machine()?,
                    clock: Arc::clone(self.clock),
                }))
            }
            Method::AzureCli => {
                self.expect_entra(method)?;
                Ok(Box::new(AzureCli::new(
                    settings.tenant_id.clone(),
                    &settings.environment,
                    self.service.clone(),
                    Arc::clone(self.clock),
                )))
            }
            Method::DeviceCode => {
                let client_id = settings.client_id.clone();
                let client_id =
                    client_id.ok_or_else(|| lacks(Lacks(vec![settings.names.client_id])))?;
                let prompt = settings.prompt.clone();
                let prompt =
                    prompt.ok_or_else(|| lacks(Lacks(vec!["a way to show a person the code"])))?;
                Ok(Box::new(DeviceCode::new(
                    settings.tenant_id.as_deref(),
                    client_id,
                    prompt,
                    self.service.clone(),
                    self.to_authority()?,
                    Arc::clone(self.clock),
                )?))
            }
            Method::Default => Err(IdentityError::NoneAvailable(Vec::new())),
        }
    }

    fn to_authority(&self) -> Result<Transport, IdentityError> {
        let timeout = self.settings.timeout.unwrap_or(TIMEOUT).min(TIMEOUT);
        Ok(Transport::to_authority(self.service, timeout)?)
    }

    /// What every application has, and its proof.
    fn application<T>(
        &self,
        name: &'static str,
        proof: Option<T>,
    ) -> Result<(String, String, T), Lacks> {
        let names = self.settings.names;
        let tenant = self.settings.tenant_id.clone();
        let client_id = self.settings.client_id.clone();
        match (tenant, client_id, proof) {
            (Some(tenant), Some(client_id), Some(proof)) => Ok((tenant, client_id, proof)),
            (tenant, client_id, proof) => Err(Lacks(
                [
                    (names.tenant_id, tenant.is_none()),
                    (names.client_id, client_id.is_none()),
                    (name, proof.is_none()),
                ]
                .into_iter()
                .filter_map(|(name, missing)| missing.then_some(name))
                .collect(),
            )),
        }
    }

    /// Refuses an authority of one's own where it would not be asked: whoever named it expects its
    /// tokens, and would get Entra's.
    fn expect_entra(&self, method: Method) -> Result<(), IdentityError> {
        let authority = self.service.authority();
        if cloud::is_entra(authority) || authority.is_loopback() {
            return Ok(());
        }
        Err(IdentityError::NotAvailable {
            method,
            why: format!(
                "its tokens come from Microsoft Entra, and this service takes those of {authority}"
            ),
        })
    }

    fn proven(
        &self,
        tenant: String,
        client_id: String,
        proof: Proof,
    ) -> Result<Box<dyn Fetch>, IdentityError> {
        Ok(Box::new(Application {
            tenant,
            client_id,
            proof,
            service: self.service.clone(),
            transport: self.to_authority()?,
            clock: Arc::clone(self.clock),
        }))
    }
}

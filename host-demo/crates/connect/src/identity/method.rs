//! Which way to a token, and what it takes.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::Prompt;
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
    pub(super) const CHAIN: [Self; 5] = [
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
#[error("unknown sign-in method {name:?}; use one of: {}", Method::ALL.map(Method::name).join(", "))]
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

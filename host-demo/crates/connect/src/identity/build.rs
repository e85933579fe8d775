//! Builds an identity: the match over the sign-in methods, and what each of them requires.

use std::sync::Arc;

use azure_core::credentials::Secret;

use super::azure_cli::AzureCli;
use super::cache::Identity;
use super::client_assertion::Certificate;
use super::client_credentials::{Application, Proof};
use super::default_chain::Chain;
use super::device_code::DeviceCode;
use super::fetch::Fetch;
use super::managed_identity::Managed;
use super::token_endpoint::TIMEOUT;
use super::{IdentityError, Method, Settings};
use crate::cloud::{self, Service};
use crate::transport::Transport;
use defender_core::clock::Clock;

impl Identity {
    /// Tokens for a service, by a method, with what `settings` has for it. Asks nobody yet.
    ///
    /// The service's authority is reached as the service says: by its proxy, and trusting whom it
    /// trusts there.
    pub fn new(
        method: Method,
        settings: Settings,
        service: &Service,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IdentityError> {
        let fetch = fetch(method, &settings, service, &clock)?;
        Ok(Self::keeping(method, fetch, clock))
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

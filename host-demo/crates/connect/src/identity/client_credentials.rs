//! An application that proves itself: OAuth's client credentials grant (RFC 6749, section 4.4).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, Secret, TokenCredential};
use azure_core::http::ClientMethodOptions;
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions,
    ClientSecretCredential, ClientSecretCredentialOptions,
};

use super::client_assertion::Certificate;
use super::fetch::{Fetch, Fetched};
use super::token_endpoint::{Endpoint, Whom};
use super::{BearerToken, Credential, CredentialKind, IdentityError, Principal};
use crate::cloud::Service;
use crate::stray::{self, Oddity};
use crate::transport::Transport;
use defender_core::clock::Clock;
use defender_core::files;

/// What an application proves itself with.
pub(super) enum Proof {
    Secret(Secret),
    /// A key that the authority knows the certificate of: a signed assertion (RFC 7523).
    Certificate(Certificate),
    /// A token of another issuer that the application trusts, in a file that somebody else renews.
    Federated(PathBuf),
}

pub(super) struct Application {
    pub(super) tenant: String,
    pub(super) client_id: String,
    pub(super) proof: Proof,
    pub(super) service: Service,
    pub(super) transport: Transport,
    pub(super) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Fetch for Application {
    async fn fetch(&self) -> Result<Fetched, IdentityError> {
        let authority = self.service.authority();
        let endpoint = Endpoint::new(
            &self.transport,
            Whom::Authority(authority.clone()),
            &self.clock,
        );
        // A new credential for each token: the library's own cache can't be told that a token is no
        // longer wanted.
        let credential = self.credential(&endpoint).await?;
        let asked = self.clock.now();
        let token = credential
            .get_token(&[self.service.scope()], None)
            .await
            .map_err(|error| {
                let error = endpoint.failure(&error).into_error(&authority.to_string());
                self.explained(error)
            })?;
        // The answer says how long it holds, and the library adds it to the machine's calendar.
        let lifetime = token.expires_on - azure_core::time::OffsetDateTime::now_utc();
        Ok(Fetched {
            token: bearer(&token)?,
            expires: asked + lifetime.try_into().unwrap_or_default(),
        })
    }

    fn principal(&self) -> Option<Principal> {
        Some(Principal {
            tenant: self.tenant.clone(),
            application: self.client_id.clone(),
        })
    }

    async fn credential(&self) -> Option<Credential> {
        match &self.proof {
            Proof::Secret(_) => Some(Credential {
                kind: CredentialKind::ClientSecret,
                from: None,
                until: None,
            }),
            Proof::Certificate(certificate) => Some(certificate.validity),
            Proof::Federated(file) => {
                let token = federated(file).await.ok()?;
                Some(Credential {
                    kind: CredentialKind::FederatedToken,
                    from: token.claims().issued,
                    until: token.claims().expires,
                })
            }
        }
    }
}

impl Application {
    /// The error, with what is odd about a secret that was rejected.
    fn explained(&self, error: IdentityError) -> IdentityError {
        match (error, &self.proof) {
            (
                IdentityError::Refused {
                    authority,
                    error,
                    advice: Some(advice),
                },
                Proof::Secret(secret),
            ) if advice == super::error::WRONG_SECRET => IdentityError::Refused {
                authority,
                error,
                advice: Some(super::error::wrong_secret(Oddity::of(secret.secret()))),
            },
            (error, _) => error,
        }
    }

    async fn credential(
        &self,
        endpoint: &Arc<Endpoint>,
    ) -> Result<Arc<dyn TokenCredential>, IdentityError> {
        let assertion = match &self.proof {
            Proof::Secret(secret) => {
                let options = ClientSecretCredentialOptions {
                    client_options: endpoint.options(),
                };
                let (id, secret) = (self.client_id.clone(), secret.clone());
                let made = ClientSecretCredential::new(&self.tenant, id, secret, Some(options));
                return Ok(made.map_err(|e| IdentityError::Unusable(e.to_string()))?);
            }
            Proof::Certificate(certificate) => {
                let audience = format!(
                    "{}/{}/oauth2/v2.0/token",
                    self.service.authority(),
                    self.tenant
                );
                certificate.assertion(&self.client_id, &audience, self.clock.wall())?
            }
            Proof::Federated(file) => federated(file).await?.text().to_owned(),
        };
        let options = ClientAssertionCredentialOptions {
            client_options: endpoint.options(),
        };
        let made = ClientAssertionCredential::new(
            self.tenant.clone(),
            self.client_id.clone(),
            Given(assertion),
            Some(options),
        );
        Ok(made.map_err(|e| IdentityError::Unusable(e.to_string()))?)
    }
}

pub(super) fn bearer(token: &AccessToken) -> Result<BearerToken, IdentityError> {
    BearerToken::new(token.token.secret())
}

/// The token in the file, as it is now: such tokens live for an hour or less.
async fn federated(file: &Path) -> Result<BearerToken, IdentityError> {
    /// Far more than any token has.
    const MAX: u64 = 1 << 20;

    let unusable = |problem: &dyn fmt::Display| {
        let file = file.display();
        IdentityError::Unusable(format!("the federated token's file {file}: {problem}"))
    };
    let path = file.to_owned();
    let found = tokio::task::spawn_blocking(move || files::read_trusted(&path, MAX))
        .await
        .map_err(|_| unusable(&"it can't be read"))?
        .map_err(|error| unusable(&format!("it can't be read: {error}")))?;
    let text = stray::decode(&found.bytes).map_err(|error| unusable(&error))?;
    super::token::token_in(&text).map_err(|error| unusable(&error))
}

/// An assertion that was made beforehand.
struct Given(String);

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given(****)")
    }
}

#[async_trait]
impl ClientAssertion for Given {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.clone())
    }
}

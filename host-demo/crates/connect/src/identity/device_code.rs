//! Device-code sign-in (RFC 8628): a person signs in with a browser, here or elsewhere, and this
//! program gets their token.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::{
    AuthType, ClientId, DeviceAuthorizationUrl, EndpointNotSet, EndpointSet, RefreshToken, Scope,
    StandardDeviceAuthorizationResponse, TokenResponse as _, TokenUrl,
};

use super::fetch::{Fetch, Fetched};
use super::token_endpoint::{Endpoint, Failure, Whom};
use super::{BearerToken, IdentityError};
use crate::cloud::Service;
use crate::transport::Transport;
use defender_core::clock::{Clock, Moment};

/// Users of any tenant (Microsoft identity platform, "OAuth 2.0 device authorization grant").
const ANY_TENANT: &str = "organizations";

/// Where the answer does not say how long a token holds.
const UNSAID_LIFETIME: Duration = Duration::from_secs(600);

/// What a person has to do to sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// The page to open.
    pub page: String,
    /// What to type there.
    pub code: String,
    /// For how long the code is good.
    pub expires_in: Duration,
}

/// Shows a person how to sign in. What it is given came over the network: escape it for a terminal.
pub trait Prompt: Send + Sync {
    /// Begins to show it. Returns at once; the sign-in is waited for afterwards.
    fn show(&self, sign_in: &SignIn);
}

pub(super) struct DeviceCode {
    client: Client,
    prompt: Arc<dyn Prompt>,
    service: Service,
    transport: Transport,
    clock: Arc<dyn Clock>,
    /// In memory only: a program that is started again asks again.
    refresh: Mutex<Option<RefreshToken>>,
}

type Client = BasicClient<EndpointNotSet, EndpointSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

impl DeviceCode {
    pub(super) fn new(
        tenant: Option<&str>,
        client_id: String,
        prompt: Arc<dyn Prompt>,
        service: Service,
        transport: Transport,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IdentityError> {
        let tenant = tenant.unwrap_or(ANY_TENANT);
        if !tenant
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
        {
            return Err(IdentityError::Unusable(format!(
                "{tenant:?} is not a tenant id"
            )));
        }
        let url = |what: &str| format!("{}/{tenant}/oauth2/v2.0/{what}", service.authority());
        let not_a_url = |error| IdentityError::Unusable(format!("the authority: {error}"));
        let client = BasicClient::new(ClientId::new(client_id))
            .set_auth_type(AuthType::RequestBody)
            .set_device_authorization_url(
                DeviceAuthorizationUrl::new(url("devicecode")).map_err(not_a_url)?,
            )
            .set_token_uri(TokenUrl::new(url("token")).map_err(not_a_url)?);
        Ok(Self {
            client,
            prompt,
            service,
            transport,
            clock,
            refresh: Mutex::new(None),
        })
    }

    fn refresh_token(&self) -> Option<RefreshToken> {
        self.refresh
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The rights to ask for; the second one is to be able to renew the token without the person.
    fn scopes(&self) -> [Scope; 2] {
        [self.service.scope(), "offline_access"].map(|scope| Scope::new(scope.to_owned()))
    }

    fn explain(&self, endpoint: &Endpoint, error: &dyn std::error::Error) -> IdentityError {
        endpoint
            .failure(error)
            .into_error(&self.service.authority().to_string())
    }

    /// Asks the person.
    async fn sign_in(&self, endpoint: &Arc<Endpoint>) -> Result<BasicTokenResponse, IdentityError> {
        let http = endpoint.client();
        let details: StandardDeviceAuthorizationResponse = self
            .client
            .exchange_device_code()
            .add_scopes(self.scopes())
            .request_async(&http)
            .await
            .map_err(|error| self.explain(endpoint, &error))?;
        self.prompt.show(&SignIn {
            page: details.verification_uri().to_string(),
            code: details.user_code().secret().clone(),
            expires_in: details.expires_in(),
        });
        let clock = Arc::clone(&self.clock);
        let sleep = move |time| clock.sleep_until(clock.now() + time);
        self.client
            .exchange_device_access_token(&details)
            .request_async(&http, sleep, None)
            .await
            .map_err(|error| self.explain(endpoint, &error))
    }

    /// Without the person, as long as the authority agrees. `None` where it wants to see them
    /// again.
    async fn renew(
        &self,
        endpoint: &Arc<Endpoint>,
        refresh: &RefreshToken,
    ) -> Result<Option<BasicTokenResponse>, IdentityError> {
        let http = endpoint.client();
        let renewed = self
            .client
            .exchange_refresh_token(refresh)
            .add_scopes(self.scopes())
            .request_async(&http)
            .await;
        match renewed {
            Ok(token) => Ok(Some(token)),
            Err(error) => match endpoint.failure(&error) {
                busy if busy.is_transient() => {
                    Err(busy.into_busy(&self.service.authority().to_string()))
                }
                Failure::Refused(refusal, _)
                    if ["invalid_grant", "interaction_required"]
                        .contains(&refusal.error.as_str()) =>
                {
                    Ok(None)
                }
                other => Err(other.into_error(&self.service.authority().to_string())),
            },
        }
    }

    fn keep(&self, answer: &BasicTokenResponse, asked: Moment) -> Result<Fetched, IdentityError> {
        if let Some(refresh) = answer.refresh_token() {
            *self.refresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(refresh.clone());
        }
        Ok(Fetched {
            token: BearerToken::new(answer.access_token().secret())?,
            expires: asked + answer.expires_in().unwrap_or(UNSAID_LIFETIME),
        })
    }
}

#[async_trait]
impl Fetch for DeviceCode {
    async fn fetch(&self) -> Result<Fetched, IdentityError> {
        let authority = self.service.authority().clone();
        let endpoint = Endpoint::new(&self.transport, Whom::Authority(authority), &self.clock);
        if let Some(refresh) = self.refresh_token() {
            let asked = self.clock.now();
            if let Some(answer) = self.renew(&endpoint, &refresh).await? {
                return self.keep(&answer, asked);
            }
        }
        let answer = self.sign_in(&endpoint).await?;
        self.keep(&answer, self.clock.now())
    }
}

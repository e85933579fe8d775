//! Who we are to the service: bearer tokens, and where they come from.
//!
//! A [`TokenSource`] keeps its token and renews it in time, so nobody else should hold on to one.
//! Tokens and secrets have no `Display`, and a `Debug` that hides them.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::{
    AsyncRawResponse, Body, ClientOptions, HttpClient, Request, RetryOptions,
    Transport as AzureTransport,
};
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};
use base64::Engine as _;
use http::HeaderValue;
use http_body_util::{BodyExt as _, Limited};

use crate::clock::{Clock, Moment};
use crate::cloud::Service;
use crate::transport::{self, SetupError, Transport, TransportError};

/// A token is renewed so long before it ends: a call may wait for its answer, and clocks differ.
const EXPIRY_MARGIN: Duration = Duration::from_secs(300);

/// How long the authority may take for an answer.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// More than any answer of a token endpoint.
const TOKEN_ANSWER_MAX: usize = 256 * 1024;

/// A bearer token, ready to be sent.
#[derive(Clone)]
pub struct BearerToken {
    header: HeaderValue,
    claims: Claims,
}

/// What a token says of itself. Read for display and for the quota's key, never trusted for a
/// decision: it is the service that verifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Claims {
    /// The tenant that issued it.
    #[serde(rename = "tid")]
    pub tenant: Option<String>,
    /// The application it was issued to.
    #[serde(rename = "appid", alias = "azp")]
    pub application: Option<String>,
    /// What it may do, for an application.
    #[serde(default)]
    pub roles: Vec<String>,
    /// What it may do, for a user: words with spaces between them.
    #[serde(rename = "scp")]
    pub scopes: Option<String>,
    /// Which resource it is for.
    #[serde(rename = "aud")]
    pub audience: Option<String>,
    /// When it ends: seconds since 1970.
    #[serde(rename = "exp")]
    pub expires: Option<i64>,
}

impl BearerToken {
    /// From the token's text, without the word `Bearer`.
    pub fn new(token: &str) -> Result<Self, IdentityError> {
        // RFC 6750, section 2.1. The text itself is not shown: it may be a real token with a line
        // break in it.
        let well_formed = !token.is_empty()
            && token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b));
        let header = transport::bearer(token)
            .filter(|_| well_formed)
            .ok_or(IdentityError::Malformed)?;
        Ok(Self {
            header,
            claims: claims(token),
        })
    }

    pub(crate) const fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// What it says of itself; empty where it is no JSON Web Token.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(****)")
    }
}

/// The middle part of a JSON Web Token (RFC 7519), unverified.
fn claims(token: &str) -> Claims {
    let payload = token.split('.').nth(1).unwrap_or_default();
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload.trim_end_matches('='))
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default()
}

/// Why there is no token. Nothing was sent to the service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The authority refused, and said why.
    #[error("{authority} gave no token: {error}{}", .advice.map(|a| format!(" - {a}")).unwrap_or_default())]
    Refused {
        /// Who refused.
        authority: String,
        /// OAuth's error name, and the first sentence of the description, which starts with the
        /// AADSTS code.
        error: String,
        /// What to do about it, for the codes that we know.
        advice: Option<&'static str>,
    },
    /// No answer came from the authority.
    #[error("no token: {0}")]
    NoAnswer(TransportError),
    /// The authority answered, but not as one does.
    #[error("no token could be had from {authority}: {detail}")]
    NotAnAnswer {
        /// Who was asked.
        authority: String,
        /// What happened.
        detail: String,
    },
    /// What should be a bearer token is none.
    #[error(
        "the token is not one that can be sent (RFC 6750: letters, digits and -._~+/ only, in one line)"
    )]
    Malformed,
    /// The token is for another service than the one that it would go to.
    #[error("the token is for {audience} and is not sent to {origin}")]
    NotForThisService {
        /// Whom it is for.
        audience: String,
        /// Where it would have gone.
        origin: String,
    },
    /// The credential can't be used as it is.
    #[error("the credential is not usable: {0}")]
    Unusable(String),
}

/// Supplies tokens for one service.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// A token that holds for at least one call more.
    ///
    /// However many ask at once, the authority is asked once.
    async fn token(&self) -> Result<BearerToken, IdentityError>;

    /// Whose tokens they are. Unless it is known otherwise, a token is asked for and read.
    async fn principal(&self) -> Result<Principal, IdentityError> {
        Ok(Principal::of(&self.token().await?))
    }
}

/// Who a token is for, which is who a quota is counted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The tenant.
    pub tenant: String,
    /// The application.
    pub application: String,
}

impl Principal {
    /// What the token says. What it does not say is empty: such tokens share a quota, which errs on
    /// the safe side.
    fn of(token: &BearerToken) -> Self {
        Self {
            tenant: token.claims.tenant.clone().unwrap_or_default(),
            application: token.claims.application.clone().unwrap_or_default(),
        }
    }
}

/// One token, from elsewhere, for as long as it holds.
#[derive(Clone, Debug)]
pub struct FixedToken(BearerToken);

impl FixedToken {
    /// From the token's text; white space around it is dropped.
    pub fn new(token: &str) -> Result<Self, IdentityError> {
        BearerToken::new(token.trim()).map(Self)
    }
}

#[async_trait]
impl TokenSource for FixedToken {
    async fn token(&self) -> Result<BearerToken, IdentityError> {
        Ok(self.0.clone())
    }
}

/// An application with a secret: OAuth's client credentials grant (RFC 6749, section 4.4).
pub struct ClientSecret {
    tenant: String,
    client_id: String,
    secret: Secret,
    authority: String,
    scope: String,
    transport: Transport,
    clock: Arc<dyn Clock>,
    cached: RwLock<Option<Cached>>,
    renewal: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Cached {
    token: BearerToken,
    expires: Moment,
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSecret")
            .field("tenant", &self.tenant)
            .field("client_id", &self.client_id)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl ClientSecret {
    /// For an application in a tenant. Its requests go to the service's authority, over a transport
    /// of their own.
    pub fn new(
        service: &Service,
        tenant: &str,
        client_id: &str,
        secret: String,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            tenant: tenant.to_owned(),
            client_id: client_id.to_owned(),
            secret: Secret::new(secret),
            authority: service.authority().to_string(),
            scope: service.scope().to_owned(),
            transport: Transport::new(service)?,
            clock,
            cached: RwLock::new(None),
            renewal: tokio::sync::Mutex::new(()),
        })
    }

    fn cached(&self, margin: Duration) -> Option<BearerToken> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        let cached = cached.as_ref()?;
        (cached.expires > self.clock.now() + margin).then(|| cached.token.clone())
    }

    async fn fetch(&self) -> Result<Cached, IdentityError> {
        let http = Arc::new(TokenEndpoint {
            transport: self.transport.clone(),
            failure: std::sync::Mutex::new(None),
        });
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host.clone_from(&self.authority);
        let options = ClientSecretCredentialOptions {
            client_options: ClientOptions {
                transport: Some(AzureTransport::new(Arc::clone(&http) as Arc<dyn HttpClient>)),
                // By default a 503 is repeated nine times, over 83 seconds.
                retry: RetryOptions::none(),
                cloud: Some(Arc::new(CloudConfiguration::from(cloud))),
                ..ClientOptions::default()
            },
        };
        // A new credential for each token: the crate's own cache can't be told that a token is no
        // longer wanted.
        let credential = ClientSecretCredential::new(
            &self.tenant,
            self.client_id.clone(),
            self.secret.clone(),
            Some(options),
        )
        .map_err(|e| IdentityError::Unusable(e.to_string()))?;
        let asked = self.clock.now();
        let answer = credential.get_token(&[&self.scope], None).await;
        let token = answer.map_err(|error| {
            let failure = http
                .failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            match failure {
                Some(Failure::Refused(refusal)) => refusal.into_error(&self.authority),
                Some(Failure::NoAnswer(error)) => IdentityError::NoAnswer(error),
                Some(Failure::NotAnAnswer(detail)) => self.not_an_answer(detail),
                None => self.not_an_answer(error.to_string()),
            }
        })?;
        let lifetime = token.expires_on - azure_core::time::OffsetDateTime::now_utc();
        Ok(Cached {
            token: BearerToken::new(token.token.secret())?,
            expires: asked + Duration::try_from(lifetime).unwrap_or_default(),
        })
    }

    fn not_an_answer(&self, detail: String) -> IdentityError {
        IdentityError::NotAnAnswer {
            authority: self.authority.clone(),
            detail,
        }
    }
}

#[async_trait]
impl TokenSource for ClientSecret {
    async fn token(&self) -> Result<BearerToken, IdentityError> {
        if let Some(token) = self.cached(EXPIRY_MARGIN) {
            return Ok(token);
        }
        let _one_at_a_time = self.renewal.lock().await;
        // Whoever held the lock before may have renewed it.
        if let Some(token) = self.cached(EXPIRY_MARGIN) {
            return Ok(token);
        }
        match self.fetch().await {
            Ok(fresh) => {
                let token = fresh.token.clone();
                *self.cached.write().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
                Ok(token)
            }
            // The one at hand still holds.
            Err(error) => self.cached(Duration::ZERO).ok_or(error),
        }
    }

    async fn principal(&self) -> Result<Principal, IdentityError> {
        Ok(Principal {
            tenant: self.tenant.clone(),
            application: self.client_id.clone(),
        })
    }
}

/// The transport that the identity library uses. It reads the authority's error document, which the
/// library loses as soon as it holds an escaped character (and Entra's always does: `\r\n` before
/// the trace id).
#[derive(Debug)]
struct TokenEndpoint {
    transport: Transport,
    failure: std::sync::Mutex<Option<Failure>>,
}

#[derive(Debug)]
enum Failure {
    Refused(Refusal),
    NoAnswer(TransportError),
    NotAnAnswer(String),
}

/// The authority's error document (Microsoft identity platform, "Authentication and authorization
/// error codes").
#[derive(Debug, serde::Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: String,
    #[serde(default)]
    error_codes: Vec<u32>,
}

impl Refusal {
    fn into_error(self, authority: &str) -> IdentityError {
        let advice = self.error_codes.iter().find_map(|code| advice(*code));
        // Behind the first line come trace ids and times.
        let sentence = self.error_description.lines().next().unwrap_or_default();
        let sentence: String = sentence.chars().take(300).collect();
        let error = if sentence.is_empty() {
            self.error
        } else {
            format!("{sentence} ({})", self.error)
        };
        IdentityError::Refused {
            authority: authority.to_owned(),
            error,
            advice,
        }
    }
}

/// What to do about an AADSTS code.
const fn advice(code: u32) -> Option<&'static str> {
    Some(match code {
        7_000_215 => {
            "the client secret is wrong: use the secret's value, not its id, of this application"
        }
        7_000_222 => "the client secret has expired: create a new one for this application",
        700_016 => {
            "there is no such application in this tenant: check the client id and the tenant id"
        }
        90_002 => "there is no such tenant: check the tenant id",
        500_011 => {
            "the tenant does not know the Defender API: check that Defender for Endpoint is set up in it, \
             and that cloud and scope belong together"
        }
        70_011 => "the scope is not valid: it is the resource followed by /.default",
        _ => return None,
    })
}

impl TokenEndpoint {
    async fn ask(&self, request: &Request) -> Result<(http::StatusCode, bytes::Bytes), Failure> {
        let Body::Bytes(body) = request.body().clone() else {
            return Err(Failure::NotAnAnswer(
                "the request has a body that can't be sent".to_owned(),
            ));
        };
        self.transport
            .allows(request.url())
            .map_err(Failure::NoAnswer)?;
        let mut outgoing = self
            .transport
            .client()
            .request(reqwest::Method::POST, request.url().clone())
            .timeout(TOKEN_TIMEOUT)
            .body(body);
        for (name, value) in request.headers().iter() {
            outgoing = outgoing.header(name.as_str(), value.as_str());
        }
        let origin = request.url().authority().to_owned();
        let answer = outgoing
            .send()
            .await
            .map_err(|e| Failure::NoAnswer(transport::describe(&e, &origin)))?;
        let (head, body) = http::Response::from(answer).into_parts();
        let body = Limited::new(body, TOKEN_ANSWER_MAX)
            .collect()
            .await
            .map_err(|e| Failure::NotAnAnswer(format!("its answer could not be read: {e}")))?;
        Ok((head.status, body.to_bytes()))
    }
}

#[async_trait]
impl HttpClient for TokenEndpoint {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let note = |failure: Failure| {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        };
        let (status, body) = match self.ask(request).await {
            Ok(answer) => answer,
            Err(failure) => {
                note(failure);
                let kind = azure_core::error::ErrorKind::Io;
                return Err(azure_core::Error::with_message(
                    kind,
                    "the authority did not answer",
                ));
            }
        };
        if !status.is_success() {
            note(match serde_json::from_slice(&body) {
                Ok(refusal) => Failure::Refused(refusal),
                Err(_) => {
                    Failure::NotAnAnswer(format!("it answered {status}, without an error document"))
                }
            });
        }
        let headers = azure_core::http::headers::Headers::default();
        Ok(AsyncRawResponse::from_bytes(
            status.as_u16().into(),
            headers,
            body,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"tid":"t-1","appid":"a-1","roles":["Machine.RestrictExecution"],"aud":"x"}`
    const JWT: &str = "e30.eyJ0aWQiOiJ0LTEiLCJhcHBpZCI6ImEtMSIsInJvbGVzIjpbIk1hY2hpbmUuUmVzdHJpY3RFeGVjdXRpb24iXSwiYXVkIjoieCJ9.c2ln";

    #[test]
    fn a_token_tells_its_tenant_its_application_and_its_roles() {
        let token = BearerToken::new(JWT).unwrap();
        let expected = Claims {
            tenant: Some("t-1".into()),
            application: Some("a-1".into()),
            roles: vec!["Machine.RestrictExecution".into()],
            audience: Some("x".into()),
            ..Claims::default()
        };
        assert_eq!(token.claims(), &expected);
        assert_eq!(
            BearerToken::new("opaque").unwrap().claims(),
            &Claims::default()
        );
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        for not_one in [
            "",
            "two words",
            "line\nbreak",
            "quote\"",
            "ümlaut",
            "a\r\nX-Injected: 1",
        ] {
            let error = BearerToken::new(not_one).unwrap_err();
            assert_eq!(error, IdentityError::Malformed);
            assert!(not_one.is_empty() || !error.to_string().contains(not_one));
        }
    }

    #[test]
    fn a_token_hides_in_debug_output() {
        let token = BearerToken::new(JWT).unwrap();
        let fixed = FixedToken::new(&format!(" {JWT}\n")).unwrap();
        let shown = format!("{token:?} {fixed:?} {:?}", token.header());
        assert!(!shown.contains("e30") && !shown.contains("eyJ0"), "{shown}");
    }

    #[test]
    fn entras_refusal_becomes_its_code_its_first_sentence_and_what_to_do() {
        // Microsoft identity platform, "Authentication and authorization error codes", with another
        // code.
        let body = r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1\r\nTimestamp: 2016","error_codes":[7000215],"trace_id":"1"}"#;
        let refusal: Refusal = serde_json::from_str(body).unwrap();
        let error = refusal.into_error("https://login.test");
        assert_eq!(
            error.to_string(),
            "https://login.test gave no token: AADSTS7000215: Invalid client secret provided. (invalid_client) - \
             the client secret is wrong: use the secret's value, not its id, of this application"
        );
    }
}

//! Who we are to the service: bearer tokens, and where they come from.
//!
//! A [`TokenSource`] keeps its token and renews it in time, so nobody else should hold on to one.
//! Tokens and secrets have no `Display`, and a `Debug` that hides them.
//!
//! [`Identity`] is the one source that fetches: a [`Method`] says how, [`Settings`] with what.
//! A fetch that fails is an error, while an earlier token that still holds is handed out. After a
//! failure that may pass ([`IdentityError::is_transient`]) the authority is left alone until
//! [`TokenSource::retry`]; who asks sooner gets the same error at once. Who is to wait, and how long,
//! is decided by the callers: see `WaitOptions` of the boundary.
//!
//! ```no_run
//! # async fn example(secret: String) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use defender_core::clock::SystemClock;
//! use defender_connect::cloud::Service;
//! use defender_connect::identity::{Identity, Method, Settings, TokenSource};
//!
//! let settings = Settings {
//!     tenant_id: Some("contoso.onmicrosoft.com".into()),
//!     client_id: Some("00000000-0000-0000-0000-000000000000".into()),
//!     client_secret: Some(secret),
//!     ..Settings::default()
//! };
//! let clock = Arc::new(SystemClock::new());
//! let identity = Identity::new(Method::ClientSecret, settings, &Service::commercial(), clock)?;
//! let token = identity.token().await?;
//! // It is marked as sensitive, and shows in no log.
//! println!("{:?} until {:?}", token.header(), token.claims().expires);
//! # Ok(()) }
//! ```

mod azure_cli;
mod build;
mod cache;
mod certificate;
mod client_assertion;
mod client_credentials;
mod default_chain;
mod device_code;
mod error;
mod fetch;
mod managed_identity;
mod method;
mod redact;
#[cfg(test)]
mod tests;
mod token;
mod token_endpoint;

use async_trait::async_trait;
use jiff::Timestamp;

use defender_core::clock::Moment;

pub use self::cache::Identity;
pub use self::certificate::CertificateError;
pub use self::device_code::{Prompt, SignIn};
pub use self::error::IdentityError;
pub use self::method::{Method, Names, Settings, UnknownMethod};
pub use self::token::{BearerToken, Claims, FixedToken, NotAToken};

/// Supplies tokens for one service.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// A token that holds for at least one call more.
    ///
    /// However many ask at once, the authority is asked once.
    async fn token(&self) -> Result<BearerToken, IdentityError>;

    /// The service refused this token with 401. Whether [`token`](Self::token) has another one from
    /// now on: one that was fetched for this, or one that somebody else has put in its place.
    async fn renew(&self, _rejected: &BearerToken) -> Result<bool, IdentityError> {
        Ok(false)
    }

    /// After a failure that may pass: when it is worth asking again. Without it, after growing waits
    /// that the caller keeps.
    fn retry(&self) -> Option<Retry> {
        None
    }

    /// Whose tokens they are. Unless it is known otherwise, a token is asked for and read.
    async fn principal(&self) -> Result<Principal, IdentityError> {
        Ok(Principal::of(&self.token().await?))
    }

    /// Returns the credential that tokens are obtained with, where there is one.
    async fn credential(&self) -> Option<Credential> {
        None
    }
}

/// A credential that tokens are obtained with, and when it is valid, as far as it says so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential {
    /// What it is.
    pub kind: CredentialKind,
    /// The moment from which on it is valid.
    pub from: Option<Timestamp>,
    /// The moment at which it expires. A client secret does not say.
    pub until: Option<Timestamp>,
}

/// The kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// An application's secret.
    ClientSecret,
    /// An application's certificate.
    Certificate,
    /// A token of another issuer that the application trusts.
    FederatedToken,
}

impl CredentialKind {
    /// Returns its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientSecret => "client secret",
            Self::Certificate => "certificate",
            Self::FederatedToken => "federated token",
        }
    }
}

/// When to ask for a token again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Not before this moment.
    pub at: Moment,
    /// How many attempts in a row have failed.
    pub failures: u32,
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
        let claims = token.claims();
        Self {
            tenant: claims.tenant.clone().unwrap_or_default(),
            application: claims.application.clone().unwrap_or_default(),
        }
    }
}

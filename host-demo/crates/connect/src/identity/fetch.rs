//! What each sign-in method implements: fetching one token.

use async_trait::async_trait;

use super::{BearerToken, Credential, IdentityError, Principal};
use defender_core::clock::Moment;

/// How a token is had. The cache sees to it that only one fetch runs at a time.
#[async_trait]
pub(super) trait Fetch: Send + Sync {
    async fn fetch(&self) -> Result<Fetched, IdentityError>;

    /// Whose tokens they are, where that is known before there is one.
    fn principal(&self) -> Option<Principal> {
        None
    }

    /// The credential that tokens are obtained with, where there is one.
    async fn credential(&self) -> Option<Credential> {
        None
    }
}

/// A new token.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) token: BearerToken,
    pub(super) expires: Moment,
}

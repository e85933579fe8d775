//! Which service: its origin, and who issues tokens for it.

use crate::policy::{Origin, OriginError};

/// A Defender service and the authority whose tokens it takes.
///
/// The three belong together: a token that was issued for the scope goes to this origin and to no
/// other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    origin: Origin,
    authority: Origin,
    scope: String,
    ca: Option<Vec<u8>>,
}

/// A service that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The base URL is no origin.
    #[error("the base URL {text:?} is not usable: {source}")]
    BaseUrl {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        source: OriginError,
    },
    /// The authority is no origin.
    #[error("the authority {text:?} is not usable: {source}")]
    Authority {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        source: OriginError,
    },
    /// The scope does not end in `/.default`, which is the only form that an application can ask
    /// for (Microsoft identity platform, "OAuth 2.0 client credentials flow").
    #[error("the scope {0:?} must end in /.default")]
    Scope(String),
}

impl Service {
    /// The commercial cloud (Microsoft, "Supported Microsoft Defender for Endpoint APIs").
    ///
    /// The audience stays the older resource on the newer host: a token for
    /// `api.security.microsoft.com` would be refused with 403 (Microsoft, "Use Microsoft Defender
    /// for Endpoint APIs").
    ///
    /// # Panics
    ///
    /// Never: its parts are constants, and a test reads them.
    pub fn commercial() -> Self {
        Self::custom(
            "https://api.security.microsoft.com",
            "https://login.microsoftonline.com",
            "https://api.securitycenter.microsoft.com/.default",
        )
        .unwrap_or_else(|e| unreachable!("constants: {e}"))
    }

    /// Another service, named by all that belongs together.
    pub fn custom(base_url: &str, authority: &str, scope: &str) -> Result<Self, ServiceError> {
        let origin = base_url.parse().map_err(|source| ServiceError::BaseUrl {
            text: base_url.to_owned(),
            source,
        })?;
        let authority = authority
            .parse()
            .map_err(|source| ServiceError::Authority {
                text: authority.to_owned(),
                source,
            })?;
        if !scope.ends_with("/.default") {
            return Err(ServiceError::Scope(scope.to_owned()));
        }
        Ok(Self {
            origin,
            authority,
            scope: scope.to_owned(),
            ca: None,
        })
    }

    /// Trusts, at this service's two origins, the certificate authorities in this PEM text, and no
    /// others.
    #[must_use]
    pub fn with_ca(mut self, pem: Vec<u8>) -> Self {
        self.ca = Some(pem);
        self
    }

    /// Takes tokens from another authority, such as a national cloud's.
    pub fn with_authority(mut self, authority: &str) -> Result<Self, ServiceError> {
        self.authority = authority
            .parse()
            .map_err(|source| ServiceError::Authority {
                text: authority.to_owned(),
                source,
            })?;
        Ok(self)
    }

    /// Where the API is.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Who issues the tokens.
    pub const fn authority(&self) -> &Origin {
        &self.authority
    }

    /// What a token is asked for.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The certificate authorities to trust instead of the operating system's, as PEM.
    pub fn ca(&self) -> Option<&[u8]> {
        self.ca.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commercial_cloud_asks_for_tokens_of_the_older_resource() {
        let cloud = Service::commercial();
        assert_eq!(
            cloud.origin().to_string(),
            "https://api.security.microsoft.com"
        );
        assert_eq!(
            cloud.authority().to_string(),
            "https://login.microsoftonline.com"
        );
        assert_eq!(
            cloud.scope(),
            "https://api.securitycenter.microsoft.com/.default"
        );
    }

    #[test]
    fn a_service_names_which_of_its_parts_is_wrong() {
        let error = |base: &str, authority: &str, scope: &str| {
            Service::custom(base, authority, scope).unwrap_err()
        };
        let (base, authority, scope) = (
            "https://localhost:1",
            "https://localhost:2",
            "https://x/.default",
        );
        assert!(matches!(
            error("localhost:1", authority, scope),
            ServiceError::BaseUrl { .. }
        ));
        assert!(matches!(
            error(base, "http://login.test", scope),
            ServiceError::Authority { .. }
        ));
        assert!(matches!(
            error(base, authority, "https://x"),
            ServiceError::Scope(_)
        ));
    }
}

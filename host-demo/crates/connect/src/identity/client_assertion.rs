//! A certificate, and the assertions that are signed with its key (RFC 7523; Microsoft identity
//! platform, "Application authentication certificate credentials").
//!
//! Signing is `rustls`'s, on ring, as for TLS. The JWT libraries sign RSA with AWS-LC or with the
//! crate `rsa`, whose timing can leak the key (RUSTSEC-2023-0071), and choose between them for the
//! whole process; OpenSSL, which `azure_identity` uses for certificates, is another C library to
//! build.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::certificate;
use super::{Credential, CredentialKind, IdentityError};

/// Microsoft advises five to ten minutes.
const LIFETIME: Duration = Duration::from_secs(300);

/// A certificate with its private key.
pub(super) struct Certificate {
    key: Arc<dyn SigningKey>,
    /// `x5t#S256` (RFC 7515, section 4.1.8).
    thumbprint: String,
    /// When the certificate is valid.
    pub(super) validity: Credential,
}

impl Certificate {
    /// Reads PEM text that holds both.
    pub(super) fn from_pem(pem: &[u8], now: Timestamp) -> Result<Self, IdentityError> {
        let pair = certificate::read(pem, now)?;
        Ok(Self {
            key: pair.key,
            thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(&pair.certificate)),
            validity: Credential {
                kind: CredentialKind::Certificate,
                from: pair.from,
                until: pair.until,
            },
        })
    }

    /// An assertion that the application `client_id` is the one that has this key, for once.
    pub(super) fn assertion(
        &self,
        client_id: &str,
        audience: &str,
        now: Timestamp,
    ) -> Result<String, IdentityError> {
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint });
        let now = now.as_second();
        let claims = json!({
            "aud": audience,
            "iss": client_id,
            "sub": client_id,
            "jti": Uuid::new_v4().to_string(),
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME.as_secs().cast_signed(),
        });
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self
            .key
            .choose_scheme(&[SignatureScheme::RSA_PSS_SHA256])
            .and_then(|signer| signer.sign(signed.as_bytes()).ok())
            .ok_or_else(|| {
                IdentityError::Unusable("the certificate's key can't sign".to_owned())
            })?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

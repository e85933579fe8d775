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
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::IdentityError;

/// Microsoft advises five to ten minutes.
const LIFETIME: Duration = Duration::from_secs(300);

/// A certificate with its private key.
pub(super) struct Certificate {
    key: Arc<dyn SigningKey>,
    /// `x5t#S256` (RFC 7515, section 4.1.8).
    thumbprint: String,
}

impl Certificate {
    /// From PEM text that holds both. Of several certificates the first one is the application's.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let unusable =
            |problem: &str| IdentityError::Unusable(format!("the certificate {problem}"));
        if pem
            .windows(21)
            .any(|bytes| bytes == b"ENCRYPTED PRIVATE KEY")
        {
            return Err(unusable(
                "has a key that is locked with a password: store the key without one \
                 (openssl pkey -in FILE)",
            ));
        }
        let key = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| unusable("has no private key beside it (PEM with both is expected)"))?;
        let certificate = CertificateDer::pem_slice_iter(pem)
            .next()
            .and_then(Result::ok)
            .ok_or_else(|| unusable("is not in the file (PEM with it and its key is expected)"))?;
        let key = any_supported_type(&key).map_err(|_| unusable("has a key of an unknown kind"))?;
        if key
            .choose_scheme(&[SignatureScheme::RSA_PSS_SHA256])
            .is_none()
        {
            return Err(unusable("has a key that is not RSA; Entra takes no other"));
        }
        let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(&certificate));
        CertifiedKey::new(vec![certificate], Arc::clone(&key))
            .keys_match()
            .map_err(|_| unusable("and the private key do not belong together"))?;
        Ok(Self { key, thumbprint })
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

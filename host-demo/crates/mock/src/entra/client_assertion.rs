//! Assertions by which an application proves itself: signed by its own key, or by an issuer that it
//! trusts (Microsoft identity platform, "Application authentication certificate credentials" and
//! "Workload identity federation").

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rustls::pki_types::SignatureVerificationAlgorithm;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Failure;

/// Leeway for clocks that differ. How much Entra gives is not documented; five minutes is what its
/// libraries give.
const LEEWAY: i64 = 300;

/// An issuer whose tokens stand for the application, if they name this subject and audience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federation {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`; `api://AzureADTokenExchange` unless the issuer can't say that.
    pub audience: String,
    /// A certificate (DER) with the issuer's public key, in place of its published keys.
    pub certificate: Vec<u8>,
}

/// What of earlier assertions is remembered: their `jti`, until they have expired.
#[derive(Default)]
pub(crate) struct Used(HashMap<String, i64>);

/// What an application has registered.
#[derive(Clone, Default)]
pub(crate) struct Registered {
    /// Certificates, DER.
    pub(crate) certificates: Vec<Vec<u8>>,
    pub(crate) federations: Vec<Federation>,
}

/// A JSON Web Signature in its compact form (RFC 7515, section 7.1).
struct Signed<'a> {
    header: Value,
    claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Signed<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let part = |part: &str| {
            serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?)
                .ok()
                .filter(Value::is_object)
        };
        Some(Self {
            header: part(header)?,
            claims: part(claims)?,
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    fn claim(&self, name: &str) -> &str {
        self.claims[name].as_str().unwrap_or_default()
    }

    /// Whether the certificate's key signed it.
    fn is_signed_by(&self, certificate: &[u8]) -> bool {
        let algorithm: &dyn SignatureVerificationAlgorithm = match self.header["alg"].as_str() {
            Some("PS256") => webpki::ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
            Some("RS256") => webpki::ring::RSA_PKCS1_2048_8192_SHA256,
            _ => return false,
        };
        // A certificate of any version: it only has to have the key.
        X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
            let key = &certificate.public_key().subject_public_key.data;
            algorithm
                .verify_signature(key, self.signed.as_bytes(), &self.signature)
                .is_ok()
        })
    }

    fn holds(&self, now: Timestamp) -> bool {
        let (Some(until), now) = (self.claims["exp"].as_i64(), now.as_second()) else {
            return false;
        };
        let from = self.claims["nbf"].as_i64().unwrap_or(now);
        from - LEEWAY <= now && now < until + LEEWAY
    }
}

/// Who must have sent the assertion, to whom, and when.
pub(crate) struct Expected<'a> {
    pub(crate) client_id: &'a str,
    /// The token endpoint that was asked.
    pub(crate) endpoint: &'a str,
    pub(crate) now: Timestamp,
}

impl Registered {
    /// Decides whether an assertion stands for the application.
    pub(crate) fn check(
        &self,
        assertion: &str,
        expected: &Expected<'_>,
        used: &mut Used,
    ) -> Result<(), Failure> {
        let Some(token) = Signed::read(assertion) else {
            let text = "JWT token is invalid or malformed.";
            return Err(Failure::client(50027, text.to_owned()));
        };
        if token.claim("iss").eq_ignore_ascii_case(expected.client_id) {
            self.own(&token, expected, used)
        } else {
            self.foreign(&token, expected)
        }
    }

    /// Signed by the application itself.
    fn own(
        &self,
        token: &Signed<'_>,
        expected: &Expected<'_>,
        used: &mut Used,
    ) -> Result<(), Failure> {
        let refused = |number, text: &str| Err(Failure::client(number, text.to_owned()));
        if !token.claim("sub").eq_ignore_ascii_case(expected.client_id) {
            let text =
                "Client assertion application identifier doesn't match 'client_id' parameter.";
            return refused(700021, text);
        }
        // The newer claim is the SHA-256 thumbprint, the older one SHA-1; this one knows the newer.
        let thumbprint = token.header["x5t#S256"].as_str().unwrap_or_default();
        let certificate = self
            .certificates
            .iter()
            .find(|der| URL_SAFE_NO_PAD.encode(Sha256::digest(der)) == thumbprint);
        let Some(certificate) = certificate else {
            let text = format!(
                "The certificate with identifier used to sign the client assertion is not \
                 registered on application. [Reason - The key was not found., Thumbprint of key \
                 used by client: '{thumbprint}']"
            );
            return refused(700027, &text);
        };
        if !token.is_signed_by(certificate) {
            let text = "Client assertion failed signature validation. [Reason - The provided \
                        signature value did not match the expected signature value.]";
            return refused(700027, text);
        }
        if token.claim("aud") != expected.endpoint {
            let text = "Client assertion audience claim does not match Realm issuer.";
            return refused(700023, text);
        }
        if !token.holds(expected.now) {
            let text = "Client assertion is not within its valid time range.";
            return refused(700024, text);
        }
        // That one is used twice is not said to be refused, but that each has a `jti` of its own is
        // demanded: the stricter way.
        used.0.retain(|_, until| expected.now.as_second() < *until);
        let jti = token.claim("jti");
        let until = token.claims["exp"].as_i64().unwrap_or_default() + LEEWAY;
        if jti.is_empty() || used.0.insert(jti.to_owned(), until).is_some() {
            return refused(50027, "JWT token is invalid or malformed.");
        }
        Ok(())
    }

    /// Signed by somebody else. In which order Entra compares is not documented.
    fn foreign(&self, token: &Signed<'_>, expected: &Expected<'_>) -> Result<(), Failure> {
        let refused = |number, text: String| Err(Failure::client(number, text));
        if self.federations.is_empty() {
            let text = format!(
                "The client '{}' has no configured federated identity credentials.",
                expected.client_id
            );
            return refused(70025, text);
        }
        let no_match = |number, what: &str, value: &str| {
            let text = format!(
                "No matching federated identity record found for presented assertion {what} \
                 '{value}'. Check your federated identity credential Subject, Audience and Issuer \
                 against the presented assertion."
            );
            Err(Failure::client(number, text))
        };
        let (issuer, subject, audience) =
            (token.claim("iss"), token.claim("sub"), token.claim("aud"));
        let mut trusted = self
            .federations
            .iter()
            .filter(|f| f.issuer == issuer)
            .peekable();
        if trusted.peek().is_none() {
            return no_match(700211, "issuer", issuer);
        }
        let mut trusted = trusted.filter(|f| f.subject == subject).peekable();
        if trusted.peek().is_none() {
            return no_match(700213, "subject", subject);
        }
        let Some(federation) = trusted.find(|f| f.audience == audience) else {
            return no_match(700212, "audience", audience);
        };
        if !token.is_signed_by(&federation.certificate) {
            let text = "Client assertion failed signature validation.";
            return refused(700027, text.to_owned());
        }
        if !token.holds(expected.now) {
            let text = "Client assertion is not within its valid time range.";
            return refused(700024, text.to_owned());
        }
        Ok(())
    }
}

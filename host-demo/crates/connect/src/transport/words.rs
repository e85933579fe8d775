//! What is wrong with a certificate, in words.

use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, OtherError};

/// What is wrong with a server's certificate.
pub(super) fn of(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "it was issued by a certificate authority that is not trusted here, or is self-signed"
                .to_owned()
        }
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it expired at {}", time(*not_after))
        }
        CertificateError::NotValidYet => "it is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "it is not valid before {}; check this machine's clock",
            time(*not_before)
        ),
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } => match presented.as_slice() {
            [] => "it names no host (it has no subjectAltName)".to_owned(),
            names => format!("it is for another name: {}", names.join(", ")),
        },
        CertificateError::Revoked => "it was revoked".to_owned(),
        CertificateError::BadSignature => {
            "its signature does not match the certificate authority of this name".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for servers (its extended key usage has no serverAuth)".to_owned()
        }
        CertificateError::BadEncoding => "it can't be read".to_owned(),
        CertificateError::Other(other) => webpki_in(other).map_or_else(
            || error.to_string(),
            |problem| of_webpki(problem).map_or_else(|| error.to_string(), str::to_owned),
        ),
        other => other.to_string(),
    }
}

/// What is wrong with a certificate that is named as a certificate authority.
pub(super) fn why(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => of(error),
        other => other.to_string(),
    }
}

fn webpki_in(other: &OtherError) -> Option<&webpki::Error> {
    other.0.downcast_ref()
}

const fn of_webpki(error: &webpki::Error) -> Option<&'static str> {
    Some(match error {
        webpki::Error::CaUsedAsEndEntity => {
            "it is a certificate authority's own (CA:TRUE), used as a server's; name exactly this \
             certificate as the CA file, or create it with -addext basicConstraints=CA:FALSE"
        }
        webpki::Error::EndEntityUsedAsCa => {
            "it was issued by a certificate that is not a certificate authority's (CA:FALSE)"
        }
        webpki::Error::UnsupportedCertVersion => {
            "it is an X.509 certificate of version 1, which has no host names; create one of \
             version 3, with a subjectAltName"
        }
        webpki::Error::PathLenConstraintViolated => {
            "its certificate authority may not issue through so many others"
        }
        webpki::Error::NameConstraintViolation => {
            "its certificate authority may not issue for this name"
        }
        webpki::Error::UnsupportedCriticalExtension => {
            "it has a critical extension that is not supported"
        }
        _ => return None,
    })
}

fn time(time: UnixTime) -> String {
    let time = Duration::from_secs(time.as_secs());
    Timestamp::try_from(std::time::UNIX_EPOCH + time)
        .map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
}

//! A certification authority that lives as long as the stand-in, and is good for nothing else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CidrSubnet, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::StartError;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Clients whose clock is behind accept the certificates all the same.
const DATED_BACK: Duration = Duration::from_secs(3600);

/// A server's TLS set-up, and the certificate (PEM) that a client has to trust for it.
///
/// Nothing is written to disk, the authority's key is gone when this returns, and its name
/// constraints let it vouch for this machine's loopback only, should somebody trust it for good.
/// Validity is by the machine's calendar, as clients see it, not by the stand-in's clock.
pub(super) fn throw_away() -> Result<(Arc<ServerConfig>, String), StartError> {
    let now = SystemTime::now();
    let (from, until) = (now - DATED_BACK, now + DAY);

    let ca = authority(from, until)?;
    let names = ["localhost", "127.0.0.1", "::1"];
    let (certificate, key) = leaf(&ca, &names, from, until)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((Arc::new(config), ca.pem()))
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(from: SystemTime, until: SystemTime) -> Result<Authority, StartError> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "Throw-away CA of a stand-in service");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 1], 32)),
            GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(
                std::net::Ipv6Addr::LOCALHOST.octets(),
                128,
            )),
        ],
        excluded_subtrees: Vec::new(),
    });
    (ca.not_before, ca.not_after) = (from.into(), until.into());
    Ok(CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?)
}

fn leaf(
    ca: &Authority,
    names: &[&str],
    from: SystemTime,
    until: SystemTime,
) -> Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>), StartError> {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name
        .push(DnType::CommonName, "Stand-in service");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    (leaf.not_before, leaf.not_after) = (from.into(), until.into());
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, ca)?;
    Ok((
        certificate.der().clone(),
        PrivatePkcs8KeyDer::from(key.serialize_der()),
    ))
}

#[cfg(test)]
mod tests {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{CertificateError, Error, RootCertStore};

    use super::*;

    #[test]
    fn the_authority_can_vouch_for_loopback_only_and_for_a_day() {
        let now = SystemTime::now();
        let ca = authority(now - DATED_BACK, now + DAY).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = builder.build().unwrap();
        let verify = |name: &'static str, at: SystemTime| {
            let (certificate, _) = leaf(&ca, &[name], now - DATED_BACK, now + DAY).unwrap();
            let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
            let server = ServerName::try_from(name).unwrap();
            verifier
                .verify_server_cert(&certificate, &[], &server, &[], at)
                .map(|_| ())
        };
        for name in ["localhost", "127.0.0.1", "::1"] {
            verify(name, now).unwrap_or_else(|e| panic!("{name}: {e}"));
            let tomorrow = verify(name, now + DAY + Duration::from_secs(1)).unwrap_err();
            let expired = matches!(
                tomorrow,
                Error::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. }
                )
            );
            assert!(expired, "{name}: {tomorrow:?}");
        }
        for name in [
            "api.security.microsoft.com",
            "127.0.0.2",
            "192.0.2.1",
            "::2",
        ] {
            let error = verify(name, now).unwrap_err();
            assert!(
                format!("{error:?}").contains("NameConstraint"),
                "{name}: {error:?}"
            );
        }
    }
}

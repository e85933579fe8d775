//! The file with an application's certificate and its private key: what can be used, and what is
//! there instead.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};

use crate::stray;

/// Why a file's certificate can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The file is PKCS#12.
    #[error("the file is PKCS#12 (PFX), and PEM is expected")]
    Pkcs12,
    /// The file is PKCS#12, in base64, as Azure Key Vault gives it out.
    #[error("the file is PKCS#12 (PFX) in base64, and PEM is expected")]
    Pkcs12InBase64,
    /// The file is a Java keystore.
    #[error("the file is a Java keystore, and PEM is expected")]
    JavaKeystore,
    /// The file has a certificate in DER.
    #[error("the file has a certificate in DER and no private key; PEM with both is expected")]
    CertificateInDer,
    /// The file has a private key in DER.
    #[error("the file has a private key in DER and no certificate; PEM with both is expected")]
    KeyInDer,
    /// The file has a private key in DER that is encrypted.
    #[error("the file has an encrypted private key in DER; PEM with a certificate is expected")]
    EncryptedKeyInDer,
    /// The certificates are in a PKCS#7 container.
    #[error(
        "the file has certificates in PKCS#7, and PEM with a certificate and its key is expected"
    )]
    Pkcs7,
    /// The private key is encrypted.
    #[error("the private key is encrypted with a password ({0})")]
    Encrypted(&'static str),
    /// The private key has OpenSSH's own format.
    #[error("the private key is in OpenSSH's format, and PKCS#8 or PKCS#1 is expected")]
    OpenSsh,
    /// The private key has PuTTY's own format.
    #[error("the private key is in PuTTY's format, and PKCS#8 or PKCS#1 is expected")]
    Putty,
    /// The private key is of another kind.
    #[error("the private key is {0}, not RSA; Entra accepts RSA keys only")]
    NotRsa(&'static str),
    /// The RSA key is too short, too long, or damaged.
    #[error("the RSA key can't be used: it needs 2048 to 4096 bits, and must not be damaged")]
    Key,
    /// There is a certificate alone.
    #[error("the file has a certificate and no private key")]
    NoKey,
    /// There is a key alone.
    #[error("the file has a private key and no certificate")]
    NoCertificate,
    /// There is a public key.
    #[error("the file has a public key; a certificate and its private key are expected")]
    PublicKey,
    /// There is a request for a certificate.
    #[error(
        "the file has a certificate signing request, not the certificate that was issued for it"
    )]
    Request,
    /// The certificate is in a variant of PEM that OpenSSL alone reads.
    #[error("the certificate is in the form BEGIN {0}, and BEGIN CERTIFICATE is expected")]
    OtherLabel(&'static str),
    /// The PEM text is in one line.
    #[error("the file has PEM without its line breaks")]
    LineBreaksLost,
    /// The PEM text ends within the key or the certificate.
    #[error("the {0} is cut off (no END line)")]
    CutOff(&'static str),
    /// The PEM text can't be decoded.
    #[error("the file has PEM that is damaged: {0}")]
    Damaged(String),
    /// There is no PEM.
    #[error("the file is not PEM: there is no line -----BEGIN …-----")]
    NotPem,
    /// No certificate is for the key.
    #[error("the certificate and the private key do not belong together")]
    Strangers,
}

impl CertificateError {
    /// Returns one step that helps: a command in which `FILE` is the file, where there is one.
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Pkcs12 => "convert it: openssl pkcs12 -in FILE -nodes -out application.pem",
            Self::Pkcs12InBase64 => {
                "convert it: base64 -d FILE | openssl pkcs12 -nodes -out application.pem"
            }
            Self::JavaKeystore => {
                "convert it, and then with openssl pkcs12: keytool -importkeystore -srckeystore \
                 FILE -destkeystore application.p12 -deststoretype PKCS12"
            }
            Self::CertificateInDer => {
                "convert it, and add the key: openssl x509 -inform DER -in FILE -out application.pem"
            }
            Self::KeyInDer | Self::EncryptedKeyInDer => {
                "convert it, and add the certificate: openssl pkey -inform DER -in FILE -out \
                 application.pem"
            }
            Self::Pkcs7 => {
                "convert it, and add the key: openssl pkcs7 -print_certs -in FILE -out \
                 application.pem (with -inform DER for a binary file)"
            }
            Self::Encrypted(_) => {
                "store the key without a password, and add the certificate: openssl pkey -in FILE \
                 -out application.pem"
            }
            Self::OpenSsh => "convert a copy of it in place: ssh-keygen -p -N '' -m PKCS8 -f FILE",
            Self::Putty => "convert it: puttygen FILE -O private-openssh -o key.pem",
            Self::NotRsa(_) => {
                "create an RSA key and a certificate, and upload the certificate to the \
                 application: openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out \
                 certificate.pem -days 365 -subj /CN=host-demo"
            }
            Self::NoKey => "put both into one file: cat FILE key.pem > application.pem",
            Self::NoCertificate => {
                "put both into one file: cat FILE certificate.pem > application.pem"
            }
            Self::OtherLabel(_) => "convert it: openssl x509 -in FILE -out certificate.pem",
            Self::LineBreaksLost => {
                "write the file again with its line breaks: in a shell, quote the variable: \"$PEM\""
            }
            Self::Strangers => {
                "use the certificate that was issued for this key: openssl x509 -noout -pubkey -in \
                 FILE prints its public key, openssl pkey -pubout -in FILE that of the key"
            }
            Self::Key
            | Self::PublicKey
            | Self::Request
            | Self::CutOff(_)
            | Self::Damaged(_)
            | Self::NotPem => return None,
        })
    }
}

/// A certificate and its private key.
pub(super) struct Pair {
    pub(super) key: Arc<dyn SigningKey>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) from: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
}

impl Pair {
    fn is_valid(&self, now: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

/// Reads the certificate and its private key from PEM text that has both, in any order. Of several
/// certificates, the one that is for the key is the application's; of several for the key, the first
/// that is valid now.
pub(super) fn read(bytes: &[u8], now: Timestamp) -> Result<Pair, CertificateError> {
    if let Some(found) = binary(bytes) {
        return Err(found);
    }
    let text = stray::decode(bytes).map_err(|_| CertificateError::NotPem)?;
    let pem = tidied(&text);
    let is_joined = |line: &str| line.contains("-----BEGIN") && line.contains("-----END");
    if pem.lines().any(is_joined) {
        return Err(CertificateError::LineBreaksLost);
    }
    let labels = labels(&pem);
    if labels.is_empty() {
        return Err(without_pem(&text));
    }
    let has = |label: &str| labels.contains(&label);
    if has("ENCRYPTED PRIVATE KEY") {
        return Err(CertificateError::Encrypted("PKCS#8"));
    }
    if pem.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateError::Encrypted("Proc-Type: 4,ENCRYPTED"));
    }

    let keys = PrivateKeyDer::pem_slice_iter(pem.as_bytes());
    let keys: Vec<_> = keys.collect::<Result<_, _>>().map_err(damaged)?;
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(damaged)?;
    let Some(key) = keys.first() else {
        return Err(if has("OPENSSH PRIVATE KEY") {
            CertificateError::OpenSsh
        } else if has("DSA PRIVATE KEY") {
            CertificateError::NotRsa("DSA")
        } else if !certificates.is_empty() {
            CertificateError::NoKey
        } else {
            without_certificate(&labels).unwrap_or(CertificateError::NotPem)
        });
    };
    let key = signing_key(key)?;
    if certificates.is_empty() {
        return Err(without_certificate(&labels).unwrap_or(CertificateError::NoCertificate));
    }
    let pairs = certificates.into_iter();
    let mut pairs: Vec<Pair> = pairs.filter_map(|found| pair(&key, found)).collect();
    if pairs.is_empty() {
        return Err(CertificateError::Strangers);
    }
    let valid = pairs.iter().position(|pair| pair.is_valid(now));
    Ok(pairs.swap_remove(valid.unwrap_or_default()))
}

/// What is wrong with PEM text that can't be decoded.
fn damaged(error: pem::Error) -> CertificateError {
    match error {
        // The marker is given as its bytes.
        pem::Error::MissingSectionEnd { end_marker } => {
            let is_key = String::from_utf8_lossy(&end_marker).contains("PRIVATE KEY");
            CertificateError::CutOff(if is_key { "private key" } else { "certificate" })
        }
        error => CertificateError::Damaged(error.to_string()),
    }
}

/// The pair, if the certificate is for the key.
///
/// The public keys are compared. The TLS library would check the certificate for its own purpose,
/// and rejects one of version 1, which `openssl x509 -req -signkey` makes; it only has to be the
/// one that the authority knows.
fn pair(key: &Arc<dyn SigningKey>, certificate: CertificateDer<'static>) -> Option<Pair> {
    let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
    let own = key.public_key()?;
    let (_, own) = SubjectPublicKeyInfo::from_der(&own).ok()?;
    // Without the algorithm: a key for PSS alone is the same key.
    if parsed.public_key().subject_public_key.data != own.subject_public_key.data {
        return None;
    }
    let time = |seconds: i64| Timestamp::from_second(seconds).ok();
    let validity = parsed.validity();
    let (from, until) = (
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    );
    Some(Pair {
        key: Arc::clone(key),
        from,
        until,
        certificate,
    })
}

fn signing_key(key: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, CertificateError> {
    /// The algorithms' object identifiers in DER (RFC 5480, RFC 3279, RFC 8410, RFC 4055).
    const OTHERS: [(&[u8], &str); 5] = [
        (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01], "EC"),
        (&[0x2A, 0x86, 0x48, 0xCE, 0x38, 0x04, 0x01], "DSA"),
        (&[0x06, 0x03, 0x2B, 0x65, 0x70], "Ed25519"),
        (&[0x06, 0x03, 0x2B, 0x65, 0x71], "Ed448"),
        (
            &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0A],
            "for RSASSA-PSS alone",
        ),
    ];

    // The algorithm stands at the beginning.
    let head = key.secret_der();
    let head = head.get(..64).unwrap_or(head);
    let other = match key {
        PrivateKeyDer::Sec1(_) => Some("EC"),
        PrivateKeyDer::Pkcs8(_) => OTHERS
            .iter()
            .find(|(oid, _)| head.windows(oid.len()).any(|at| at == *oid))
            .map(|(_, name)| *name),
        _ => None,
    };
    if let Some(name) = other {
        return Err(CertificateError::NotRsa(name));
    }
    any_supported_type(key)
        .ok()
        .filter(|key| {
            key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256])
                .is_some()
        })
        .ok_or(CertificateError::Key)
}

/// What a binary file is, or one that is base64 alone.
fn binary(bytes: &[u8]) -> Option<CertificateError> {
    const PKCS_7: [u8; 11] = [
        0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x02,
    ];

    if bytes.starts_with(&[0xFE, 0xED, 0xFE, 0xED]) {
        return Some(CertificateError::JavaKeystore);
    }
    let inside = sequence(bytes)?;
    Some(if inside.starts_with(&[2, 1, 3]) {
        CertificateError::Pkcs12
    } else if inside.starts_with(&[2, 1, 0]) {
        CertificateError::KeyInDer
    } else if inside.starts_with(&[2, 1, 1]) {
        // RFC 5915.
        CertificateError::NotRsa("EC")
    } else if inside.starts_with(&PKCS_7) {
        CertificateError::Pkcs7
    } else if X509Certificate::from_der(bytes).is_ok() {
        CertificateError::CertificateInDer
    } else if sequence(inside).is_some_and(|inside| inside.starts_with(&[6])) {
        CertificateError::EncryptedKeyInDer
    } else {
        return None;
    })
}

/// What is inside of a sequence in DER (or BER) that begins these bytes.
fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    let (0x30, length) = (*bytes.first()?, *bytes.get(1)?) else {
        return None;
    };
    let more = if length > 0x80 { length & 0x7F } else { 0 };
    bytes.get(2 + usize::from(more)..)
}

/// The text with a line for each line: without blanks around it, and with the line breaks that a
/// variable's value has in the form `\n`.
fn tidied(text: &str) -> String {
    let broken = match text.trim().lines().count() {
        1 => text.replace("\\r", "").replace("\\n", "\n"),
        _ => text.to_owned(),
    };
    let lines = broken.lines().flat_map(|line| line.split('\r'));
    lines
        .map(|line| stray::unquoted(line).to_owned() + "\n")
        .collect()
}

fn labels(pem: &str) -> Vec<&str> {
    pem.lines()
        .filter_map(|line| line.strip_prefix("-----BEGIN ")?.split_once("-----"))
        .map(|(label, _)| label)
        .collect()
}

fn without_pem(text: &str) -> CertificateError {
    let text = stray::trim(text);
    if text.starts_with("PuTTY-User-Key-File") {
        return CertificateError::Putty;
    }
    if text.starts_with("ssh-") || text.starts_with("---- BEGIN SSH2") {
        return CertificateError::PublicKey;
    }
    let joined: String = text.split_whitespace().collect();
    match STANDARD.decode(joined).ok().as_deref().and_then(binary) {
        Some(CertificateError::Pkcs12) => CertificateError::Pkcs12InBase64,
        _ => CertificateError::NotPem,
    }
}

/// What stands in the place of a certificate.
fn without_certificate(labels: &[&str]) -> Option<CertificateError> {
    labels.iter().find_map(|label| {
        Some(match *label {
            "PKCS7" | "CMS" => CertificateError::Pkcs7,
            "TRUSTED CERTIFICATE" => CertificateError::OtherLabel("TRUSTED CERTIFICATE"),
            "X509 CERTIFICATE" => CertificateError::OtherLabel("X509 CERTIFICATE"),
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => CertificateError::Request,
            "PUBLIC KEY" | "RSA PUBLIC KEY" => CertificateError::PublicKey,
            _ => return None,
        })
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const KEY: &str = include_str!("tests/key.pem");
    const VERSION_1: &str = include_str!("tests/version-1.pem");

    fn certificate() -> String {
        let key = KeyPair::from_pem(KEY).unwrap();
        CertificateParams::default()
            .self_signed(&key)
            .unwrap()
            .pem()
    }

    fn other() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        (key.serialize_pem(), certificate.pem())
    }

    fn problem(file: impl AsRef<[u8]>) -> CertificateError {
        read(file.as_ref(), Timestamp::now()).err().unwrap()
    }

    /// A DER value in PEM.
    fn pem(label: &str, der: &[u8]) -> String {
        let lines: Vec<u8> = STANDARD.encode(der).into_bytes();
        let lines = lines.chunks(64).map(|line| str::from_utf8(line).unwrap());
        let lines: Vec<&str> = lines.collect();
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            lines.join("\n")
        )
    }

    fn der(pem: &str) -> Vec<u8> {
        match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(key) => key.secret_der().to_vec(),
            Err(_) => CertificateDer::from_pem_slice(pem.as_bytes())
                .unwrap()
                .to_vec(),
        }
    }

    #[test]
    fn order_line_ends_and_what_stands_between_do_not_matter() {
        let own = certificate();
        let (_, other) = other();
        let pkcs_1 = {
            // The key proper is the last octet string of PKCS#8.
            let pkcs_8 = der(KEY);
            pem("RSA PRIVATE KEY", &pkcs_8[26..])
        };
        let both = format!("{KEY}{own}");
        let utf_16: Vec<u8> = format!("\u{FEFF}{both}")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        for file in [
            both.clone().into_bytes(),
            format!("{own}{KEY}").into_bytes(),
            format!("{KEY}{VERSION_1}").into_bytes(),
            format!("{pkcs_1}{own}").into_bytes(),
            both.replace('\n', "\r\n").into_bytes(),
            both.replace('\n', "\r").into_bytes(),
            format!("\u{FEFF}{both}").into_bytes(),
            utf_16,
            format!(
                "Bag Attributes\n    localKeyID: EA 97\nKey Attributes: <No Attributes>\n{both}"
            )
            .into_bytes(),
            both.replace('\n', "\n    ").into_bytes(),
            both.replace('\n', "\\n").into_bytes(),
            format!("\"{}\"", both.replace('\n', "\\n")).into_bytes(),
            // The one that is for the key is the application's, wherever it stands.
            format!("{KEY}{own}{other}").into_bytes(),
            format!("{KEY}{other}{own}").into_bytes(),
        ] {
            let found = read(&file, Timestamp::now());
            assert!(found.is_ok(), "{}", String::from_utf8_lossy(&file));
        }
    }

    #[test]
    fn each_format_that_can_not_be_used_has_a_message_of_its_own() {
        use CertificateError as E;

        let own = certificate();
        let (elliptic, strange) = other();
        let own_der = der(&own);
        let key_der = der(KEY);
        let pkcs_12 = [&[0x30, 0x82, 0x09, 0x5F, 2, 1, 3][..], &[0; 64]].concat();
        let pkcs_7 = STANDARD.decode("MIICwQYJKoZIhvcNAQcCoIICsjCC").unwrap();
        let locked = STANDARD
            .decode("MIIFLTBXBgkqhkiG9w0BBQ0wSjApBgkqhkiG9w0BBQww")
            .unwrap();
        let algorithm = |oid: &[u8]| {
            let mut key = vec![0x30, 0x20, 2, 1, 0, 0x30, oid.len() as u8];
            key.extend_from_slice(oid);
            pem("PRIVATE KEY", &key)
        };
        let traditional = KEY.replace("PRIVATE", "RSA PRIVATE").replacen(
            '\n',
            "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n",
            1,
        );
        let text = |text: &str| text.as_bytes().to_vec();
        for (file, expected) in [
            (pkcs_12.clone(), E::Pkcs12),
            (text(&STANDARD.encode(&pkcs_12)), E::Pkcs12InBase64),
            (
                text("\u{FEFF}MIIJXwIBAzCCCRUGCSqGSIb3\r\nDQEH\r\n"),
                E::Pkcs12InBase64,
            ),
            (vec![0xFE, 0xED, 0xFE, 0xED, 0, 0, 0, 2], E::JavaKeystore),
            (own_der.clone(), E::CertificateInDer),
            (der(VERSION_1), E::CertificateInDer),
            (key_der, E::KeyInDer),
            (locked, E::EncryptedKeyInDer),
            (pkcs_7.clone(), E::Pkcs7),
            (text(&format!("{KEY}{}", pem("PKCS7", &pkcs_7))), E::Pkcs7),
            (
                text(&format!(
                    "{}{own}",
                    KEY.replace("PRIVATE", "ENCRYPTED PRIVATE")
                )),
                E::Encrypted("PKCS#8"),
            ),
            (
                text(&format!("{traditional}{own}")),
                E::Encrypted("Proc-Type: 4,ENCRYPTED"),
            ),
            (
                text(&format!(
                    "{}{own}",
                    pem("OPENSSH PRIVATE KEY", b"openssh-key-v1\0")
                )),
                E::OpenSsh,
            ),
            (
                text("PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\n"),
                E::Putty,
            ),
            (text(&format!("{elliptic}{strange}")), E::NotRsa("EC")),
            (
                text(&format!("{}{own}", pem("EC PRIVATE KEY", &[0x30, 0]))),
                E::NotRsa("EC"),
            ),
            (
                text(&format!("{}{own}", pem("DSA PRIVATE KEY", &[0x30, 0]))),
                E::NotRsa("DSA"),
            ),
            (
                text(&format!(
                    "{}{own}",
                    algorithm(&[6, 7, 0x2A, 0x86, 0x48, 0xCE, 0x38, 4, 1])
                )),
                E::NotRsa("DSA"),
            ),
            (
                text(&format!("{}{own}", algorithm(&[6, 3, 0x2B, 0x65, 0x70]))),
                E::NotRsa("Ed25519"),
            ),
            (
                text(&format!(
                    "{}{own}",
                    algorithm(&[6, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 0x0A])
                )),
                E::NotRsa("for RSASSA-PSS alone"),
            ),
            (
                text(&format!("{}{own}", pem("RSA PRIVATE KEY", &[0x30, 0]))),
                E::Key,
            ),
            (text(&own), E::NoKey),
            (text(KEY), E::NoCertificate),
            (
                text(&format!("{KEY}{}", pem("PUBLIC KEY", &[0x30, 0]))),
                E::PublicKey,
            ),
            (text(&pem("PUBLIC KEY", &[0x30, 0])), E::PublicKey),
            (text("ssh-rsa AAAAB3NzaC1yc2E x@y\n"), E::PublicKey),
            (
                text(&format!("{KEY}{}", pem("CERTIFICATE REQUEST", &[0x30, 0]))),
                E::Request,
            ),
            (
                text(&format!(
                    "{KEY}{}",
                    own.replace("CERTIFICATE", "TRUSTED CERTIFICATE")
                )),
                E::OtherLabel("TRUSTED CERTIFICATE"),
            ),
            (
                text(&format!("{KEY}{own}").replace('\n', " ")),
                E::LineBreaksLost,
            ),
            (text(&format!("{KEY}{strange}")), E::Strangers),
            (text("hunter2"), E::NotPem),
            (text(""), E::NotPem),
            (vec![0xFF, 0x00, 0x80], E::NotPem),
        ] {
            let shown = String::from_utf8_lossy(&file).into_owned();
            assert_eq!(problem(&file), expected, "{shown}");
            let told = expected.to_string();
            assert!(!told.contains("MII"), "{told}");
        }
        let cut = format!("{own}{}", KEY.rsplit_once("-----END").unwrap().0);
        assert_eq!(problem(cut), E::CutOff("private key"));
        let cut = format!("{KEY}{}", own.rsplit_once("-----END").unwrap().0);
        let found = problem(cut);
        assert_eq!(
            found.to_string(),
            "the certificate is cut off (no END line)"
        );
    }

    #[test]
    fn of_certificates_for_one_key_a_valid_one_is_used() {
        let issued = |from: i32, until: i32| {
            let mut params = CertificateParams::default();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            params
                .self_signed(&KeyPair::from_pem(KEY).unwrap())
                .unwrap()
                .pem()
        };
        let (old, new) = (issued(2020, 2025), issued(2024, 2040));
        let now = |text: &str| text.parse().unwrap();
        for file in [format!("{KEY}{old}{new}"), format!("{new}{old}{KEY}")] {
            let found = read(file.as_bytes(), now("2026-01-01T00:00:00Z"))
                .ok()
                .unwrap();
            assert_eq!(found.until, Some(now("2040-01-01T00:00:00Z")));
        }
        // None is valid: the authority says so.
        let file = format!("{KEY}{old}{new}");
        let found = read(file.as_bytes(), now("2050-01-01T00:00:00Z"))
            .ok()
            .unwrap();
        assert_eq!(found.until, Some(now("2025-01-01T00:00:00Z")));
    }
}

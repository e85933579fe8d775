//! The call without plugin and host: `reqwest` alone, as a script would use it. What the benchmarks
//! compare with.

use std::sync::Arc;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use reqwest::{Client, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

/// Whatever went wrong.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The comment of every release.
pub const COMMENT: &str = "INC-42: cleaned and validated";

/// A client with the TLS settings of the host's transport, that trusts the authorities in `ca`
/// (PEM) and no others.
pub fn client(ca: &[u8]) -> Result<Client, Error> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .tcp_nodelay(true)
        .build()?)
}

/// Asks for a token by the client credentials grant (RFC 6749, section 4.4).
pub async fn token(
    client: &Client,
    authority: &str,
    tenant: &str,
    fields: &[(&str, &str)],
) -> Result<String, Error> {
    let url = format!("{authority}/{tenant}/oauth2/v2.0/token");
    // A query is encoded as a form is.
    let form = Url::parse_with_params(&url, fields)?;
    let answer = client
        .post(url)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form.query().unwrap_or_default().to_owned())
        .send()
        .await?
        .error_for_status()?;
    let answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
    let token = answer["access_token"].as_str().ok_or("no access_token")?;
    Ok(token.to_owned())
}

/// Asks for a device's release with the headers and the body that the plugin sends, and reads the
/// whole answer.
pub async fn release(
    client: &Client,
    base_url: &str,
    token: &str,
    machine_id: &str,
) -> Result<Value, Error> {
    let answer = client
        .post(format!(
            "{base_url}/api/machines/{machine_id}/unrestrictCodeExecution"
        ))
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, "defender-endpoint-plugin/0.1.0")
        .header(CONTENT_TYPE, "application/json")
        .body(json!({ "Comment": COMMENT }).to_string())
        .send()
        .await?
        .error_for_status()?;
    Ok(serde_json::from_slice(&answer.bytes().await?)?)
}

//! Why a proxy makes no tunnel, in its own words.
//!
//! The HTTP client keeps no more of a proxy's refusal than whether it was 407. So the proxy is
//! asked once more, on request of `check`; nothing is sent through it, whatever it answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::address_guard::Guard;
use crate::proxy::Proxy;
use crate::resolve::Lookup;
use defender_core::origin::Origin;

/// More than the head of any refusal.
const HEAD_MAX: usize = 32 * 1024;

/// How long the proxy may take, for each of dialling and answering.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a proxy answers to a request for a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyAnswer {
    /// It answered with a status.
    Status {
        /// The status.
        status: u16,
        /// The authentication schemes that it offers.
        schemes: Vec<String>,
        /// What a Squid says of the cause (`X-Squid-Error`).
        detail: Option<String>,
        /// Whether it was given credentials by the configuration.
        has_credentials: bool,
    },
    /// It answered as a TLS server does.
    Tls,
    /// It answered as a SOCKS server does.
    Socks,
    /// It answered with something else than HTTP.
    NotHttp,
    /// It closed the connection without an answer.
    Closed,
    /// It did not answer in time.
    Silent,
}

impl ProxyAnswer {
    /// Whether it refuses for want of an authentication scheme that is supported.
    pub fn offers_other_schemes_only(&self) -> bool {
        matches!(self, Self::Status { status: 407, schemes, .. }
            if !schemes.is_empty() && !schemes.iter().any(|scheme| is_basic(scheme)))
    }
}

fn is_basic(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("basic")
}

impl fmt::Display for ProxyAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, schemes, detail, has_credentials) = match self {
            Self::Status {
                status,
                schemes,
                detail,
                has_credentials,
            } => (*status, schemes.join(", "), detail, *has_credentials),
            Self::Tls => return f.write_str("it expects TLS, so its URL begins with https://"),
            Self::Socks => {
                return f.write_str("it is a SOCKS proxy, and only HTTP proxies are supported");
            }
            Self::NotHttp => return f.write_str("its answer is not HTTP"),
            Self::Closed => return f.write_str("it closed the connection without an answer"),
            Self::Silent => return f.write_str("it did not answer in time"),
        };
        match status {
            407 if schemes.is_empty() => f.write_str(
                "it requires authentication (407) and names no scheme; only Basic is supported",
            ),
            407 if self.offers_other_schemes_only() => write!(
                f,
                "it requires authentication (407) and offers {schemes}; only Basic is supported"
            ),
            407 if has_credentials => {
                write!(
                    f,
                    "it does not accept the credentials (407; it offers {schemes})"
                )
            }
            407 => write!(f, "it requires credentials (407; it offers {schemes})"),
            403 => f.write_str("it does not allow this destination (403)"),
            400 | 404 | 405 | 501 => write!(
                f,
                "it does not make tunnels ({status}): it is no HTTP proxy, or CONNECT is not allowed"
            ),
            502 => f.write_str("it can't reach the destination (502)"),
            503 => f.write_str("it can't reach the destination, or is overloaded (503)"),
            504 => f.write_str("the destination does not answer it in time (504)"),
            300..=399 => write!(
                f,
                "it answers with a redirect ({status}), as a captive portal or a sign-in page does"
            ),
            200 => f.write_str("it refused, and allows it now"),
            other => write!(f, "it answered {other}"),
        }?;
        match detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

/// What is needed to ask a proxy.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) proxy: Proxy,
    pub(super) guard: Arc<Guard>,
    pub(super) lookup: Lookup,
    /// For a proxy that is reached over TLS.
    pub(super) tls: Arc<ClientConfig>,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").finish_non_exhaustive()
    }
}

impl Asking {
    /// Asks for a tunnel to an origin, and closes the connection. `None` where the proxy can't be
    /// reached.
    ///
    /// Credentials that were rejected are not sent again: some directories lock an account after a
    /// few attempts.
    pub(super) async fn ask(&self, origin: &Origin, with_credentials: bool) -> Option<ProxyAnswer> {
        let credentials = self.proxy.credentials();
        let authorization = credentials
            .filter(|_| with_credentials)
            .and_then(|value| value.to_str().ok())
            .map(|value| format!("Proxy-Authorization: {value}\r\n"))
            .unwrap_or_default();
        let (host, port) = (origin.host(), origin.port());
        let request =
            format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
        let tcp = tokio::time::timeout(PATIENCE, self.dial()).await.ok()??;
        let answering = async {
            if self.proxy.url().scheme() != "https" {
                return Some(answer(tcp, &request, credentials.is_some()).await);
            }
            let name = ServerName::try_from(self.host()?.to_owned()).ok()?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
            let tls = connector.connect(name, tcp).await.ok()?;
            Some(answer(tls, &request, credentials.is_some()).await)
        };
        match tokio::time::timeout(PATIENCE, answering).await {
            Ok(answer) => answer,
            Err(_) => Some(ProxyAnswer::Silent),
        }
    }

    fn host(&self) -> Option<&str> {
        Some(self.proxy.url().host_str()?.trim_matches(['[', ']']))
    }

    async fn dial(&self) -> Option<TcpStream> {
        let (host, port) = (self.host()?, self.proxy.url().port_or_known_default()?);
        let addresses: Vec<IpAddr> = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => {
                let found = (self.lookup)(host.to_owned()).await.ok()?;
                self.guard.answer(host, &found).ok()?;
                found
            }
        };
        for address in addresses {
            if let Ok(tcp) = TcpStream::connect((address, port)).await {
                return Some(tcp);
            }
        }
        None
    }
}

async fn answer(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    has_credentials: bool,
) -> ProxyAnswer {
    if connection.write_all(request.as_bytes()).await.is_err() {
        return ProxyAnswer::Closed;
    }
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = connection.read(&mut buffer).await.unwrap_or(0);
        head.extend_from_slice(&buffer[..read]);
        if let Some(answer) = understood(&head, has_credentials) {
            return answer;
        }
        if read == 0 || head.len() > HEAD_MAX {
            return match head.is_empty() {
                true => ProxyAnswer::Closed,
                false => ProxyAnswer::NotHttp,
            };
        }
    }
}

/// What these first bytes mean, if they are enough.
fn understood(head: &[u8], has_credentials: bool) -> Option<ProxyAnswer> {
    match head {
        // An alert.
        [0x15, 3, ..] => return Some(ProxyAnswer::Tls),
        [5, _, ..] | [0, 0x5A..=0x5D, ..] => return Some(ProxyAnswer::Socks),
        _ => {}
    }
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some(ProxyAnswer::NotHttp),
        Ok(httparse::Status::Complete(_)) => {}
    }
    let values = |name: &'static str| {
        let named = response
            .headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.filter_map(|header| std::str::from_utf8(header.value).ok())
    };
    Some(ProxyAnswer::Status {
        status: response.code?,
        schemes: schemes(values("proxy-authenticate")),
        detail: values("x-squid-error").next().map(squid),
        has_credentials,
    })
}

/// The schemes in these challenges (RFC 9110, section 11.6.1), each once.
fn schemes<'a>(challenges: impl Iterator<Item = &'a str>) -> Vec<String> {
    const MOST: usize = 10;

    let mut schemes: Vec<String> = Vec::new();
    // A part that begins with a word and no equals sign begins a challenge; the others are
    // parameters.
    let parts = challenges.flat_map(|challenge| challenge.split(','));
    for word in parts.filter_map(|part| part.split_whitespace().next()) {
        let is_token = word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let is_new = !schemes.iter().any(|known| known.eq_ignore_ascii_case(word));
        if is_token && is_new && word.len() <= 32 && schemes.len() < MOST {
            schemes.push(word.to_owned());
        }
    }
    schemes
}

/// `ERR_DNS_FAIL 0`: the name of the error, and a number.
fn squid(detail: &str) -> String {
    let name = detail.split_whitespace().next().unwrap_or_default();
    let kept = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    name.chars().filter(kept).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(head: &str, has_credentials: bool) -> String {
        understood(head.as_bytes(), has_credentials)
            .unwrap()
            .to_string()
    }

    #[test]
    fn each_refusal_has_a_message_of_its_own() {
        let challenge = |value: &str| {
            format!(
                "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: {value}\r\n\r\n"
            )
        };
        let both = challenge("Negotiate\r\nProxy-Authenticate: NTLM");
        let basic = challenge("Basic realm=\"a, b\"");
        for (head, has_credentials, message) in [
            (
                both.as_str(),
                true,
                "it requires authentication (407) and offers Negotiate, NTLM; only Basic is supported",
            ),
            (
                &challenge("Digest realm=\"x\", nonce=\"abc\", qop=\"auth\""),
                true,
                "it requires authentication (407) and offers Digest; only Basic is supported",
            ),
            (
                &challenge("Negotiate, NTLM, Basic realm=\"x\""),
                false,
                "it requires credentials (407; it offers Negotiate, NTLM, Basic)",
            ),
            (
                &basic,
                false,
                "it requires credentials (407; it offers Basic)",
            ),
            (
                &basic,
                true,
                "it does not accept the credentials (407; it offers Basic)",
            ),
            (
                "HTTP/1.1 407 X\r\n\r\n",
                true,
                "it requires authentication (407) and names no scheme; only Basic is supported",
            ),
            (
                "HTTP/1.1 403 Forbidden\r\n\r\n",
                true,
                "it does not allow this destination (403)",
            ),
            (
                "HTTP/1.1 405 X\r\n\r\n",
                true,
                "it does not make tunnels (405): it is no HTTP proxy, or CONNECT is not allowed",
            ),
            (
                "HTTP/1.1 502 X\r\n\r\n",
                true,
                "it can't reach the destination (502)",
            ),
            (
                "HTTP/1.1 503 X\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n",
                true,
                "it can't reach the destination, or is overloaded (503) (ERR_DNS_FAIL)",
            ),
            (
                "HTTP/1.1 504 X\r\n\r\n",
                true,
                "the destination does not answer it in time (504)",
            ),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n",
                true,
                "it answers with a redirect (302), as a captive portal or a sign-in page does",
            ),
            ("HTTP/1.1 418 X\r\n\r\n", true, "it answered 418"),
            (
                "\u{15}\u{3}\u{1}\0\u{2}",
                true,
                "it expects TLS, so its URL begins with https://",
            ),
            (
                "\u{5}\u{0}",
                true,
                "it is a SOCKS proxy, and only HTTP proxies are supported",
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n", true, "its answer is not HTTP"),
        ] {
            assert_eq!(said(head, has_credentials), message);
        }
        assert_eq!(understood(b"HTTP/1.1 407 X\r\n", true), None);
    }
}

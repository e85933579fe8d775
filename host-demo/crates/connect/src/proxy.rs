//! How a service is reached: the way out of the operator's network, and what the operator permits
//! on it.
//!
//! Nothing of it comes from the environment: `HTTPS_PROXY`, `NO_PROXY` and the like are not read.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use http::HeaderValue;
use ipnet::IpNet;
use url::Url;

use crate::stray;

/// How a service's two origins are reached. By default directly, at public addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    proxy: Option<Proxy>,
    permitted: Vec<IpNet>,
}

/// A setting that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not a proxy's URL. It is not repeated: it may have a password in it.
    #[error("the proxy's URL must be http:// or https:// with a host and a port, and nothing else")]
    Proxy,
    /// A proxy of another kind.
    #[error(
        "it is a {0} proxy, and only HTTP proxies are supported: the URL must be http:// or https:// \
         with a host and a port"
    )]
    Kind(&'static str),
    /// A proxy's URL with a user or a password.
    #[error(
        "the proxy's URL has credentials in it, which is where they get seen; put them, as \
         user:password, into a file that only you can read, and name that: \
         proxy-credentials-file, --proxy-credentials-file"
    )]
    CredentialsInUrl,
    /// Not credentials.
    #[error("the proxy's credentials must be one line of the form user:password")]
    Credentials,
    /// Not a network.
    #[error("{0:?} is not a network or an address, such as 10.1.0.0/16 or 10.1.2.3")]
    Permitted(String),
}

impl Network {
    /// Through a proxy.
    ///
    /// All `https://` origins are then reached through a tunnel (HTTP CONNECT), in which TLS is
    /// between this host and the service: the proxy sees the service's name and no more. Only the
    /// proxy's own name is resolved here. `http://` origins, which are loopback, are dialled
    /// directly: a proxy would see their tokens.
    #[must_use]
    pub fn through(mut self, proxy: Proxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Lets the service's names lead to this network too: `10.1.0.0/16`, or one address.
    ///
    /// For a service in a private network. What [`guard`](crate::address_guard) never dials stays so.
    pub fn permitting(mut self, network: &str) -> Result<Self, NetworkError> {
        let parsed = network
            .parse()
            .or_else(|_| network.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| NetworkError::Permitted(network.to_owned()))?;
        self.permitted.push(parsed);
        Ok(self)
    }

    /// The proxy.
    pub const fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// The networks that names may lead to besides public addresses.
    pub fn permitted(&self) -> &[IpNet] {
        &self.permitted
    }
}

/// An HTTP proxy that makes tunnels.
///
/// Over `https://` its certificate is checked against the operating system's certificate
/// authorities. Those that are named for a service vouch for the service's name, and so for a proxy
/// only where it has the same one.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    url: Url,
    credentials: Option<HeaderValue>,
    oddity: Option<&'static str>,
}

impl Proxy {
    /// From its URL, such as `http://proxy.example:3128`.
    pub fn new(url: &str) -> Result<Self, NetworkError> {
        /// The others that are in use. What else stands before a colon could be a user's name.
        const OTHERS: [&str; 9] = [
            "socks", "socks4", "socks4a", "socks5", "socks5h", "ftp", "ssh", "quic", "file",
        ];

        let url: Url = url.parse().map_err(|_| NetworkError::Proxy)?;
        if let Some(other) = OTHERS.iter().find(|other| url.scheme() == **other) {
            return Err(NetworkError::Kind(other));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(NetworkError::CredentialsInUrl);
        }
        let is_origin = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        if !is_origin {
            return Err(NetworkError::Proxy);
        }
        Ok(Self {
            url,
            credentials: None,
            oddity: None,
        })
    }

    /// With a user and a password (RFC 7617), as `user:password`.
    ///
    /// To a proxy that is reached over `http://` they go unencrypted.
    pub fn with_credentials(mut self, credentials: &str) -> Result<Self, NetworkError> {
        if !credentials.contains(':') || credentials.chars().any(char::is_control) {
            return Err(NetworkError::Credentials);
        }
        let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
        let mut value = HeaderValue::try_from(format!("Basic {encoded}"))
            .map_err(|_| NetworkError::Credentials)?;
        value.set_sensitive(true);
        self.credentials = Some(value);
        self.oddity = oddity(credentials);
        Ok(self)
    }

    /// Its URL. There are no credentials in it.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// What is odd about its credentials: a possible reason where it rejects them.
    pub const fn oddity(&self) -> Option<&'static str> {
        self.oddity
    }

    /// Returns the value of `Proxy-Authorization`, if there are credentials.
    pub const fn credentials(&self) -> Option<&HeaderValue> {
        self.credentials.as_ref()
    }
}

fn oddity(credentials: &str) -> Option<&'static str> {
    let password = credentials.split_once(':').map(|(_, password)| password);
    if stray::is_quoted(credentials) || password.is_some_and(stray::is_quoted) {
        Some("credentials are in quotation marks, which are sent as part of them")
    } else if stray::trim(credentials) != credentials {
        Some("credentials begin or end with white space, which is sent as part of them")
    } else {
        None
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("url", &self.url.as_str())
            .field("credentials", &self.credentials.as_ref().map(|_| "****"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_an_origin_and_its_credentials_are_apart() {
        for good in [
            "http://proxy.corp:3128",
            "https://proxy.corp",
            "http://10.0.0.1:1/",
        ] {
            assert!(Proxy::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "proxy.corp:3128",
            "http://",
            "http://proxy.corp/pac",
            "http://proxy.corp?x",
            "http://proxy.corp#x",
        ] {
            let error = Proxy::new(bad).unwrap_err();
            assert_eq!(error, NetworkError::Proxy, "{bad}");
        }
        let error = Proxy::new("socks5://proxy.corp:1080").unwrap_err();
        assert_eq!(error, NetworkError::Kind("socks5"));
        for bad in [
            "http://user:hunter2@proxy.corp",
            "http://:hunter2@proxy.corp:3128",
            "http://hunter2@proxy.corp",
        ] {
            let error = Proxy::new(bad).unwrap_err();
            assert_eq!(error, NetworkError::CredentialsInUrl, "{bad}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let proxy = Proxy::new("http://proxy.corp:3128").unwrap();
        let proxy = proxy.with_credentials("user:hunter2").unwrap();
        let network = Network::default().through(proxy.clone());
        let shown = format!("{network:?} {:?}", proxy.credentials());
        // "dXNlcjpodW50ZXIy" is the same in base 64.
        assert!(
            !shown.contains("hunter2") && !shown.contains("dXNl"),
            "{shown}"
        );
        assert!(shown.contains("proxy.corp:3128"), "{shown}");
        for bad in ["", "user", "user:pass\nword"] {
            let error = proxy.clone().with_credentials(bad).unwrap_err();
            assert_eq!(error, NetworkError::Credentials);
        }
    }

    #[test]
    fn a_permitted_network_is_a_network_or_one_address() {
        let network = Network::default().permitting("10.1.0.0/16").unwrap();
        let network = network.permitting("fd12::1").unwrap();
        let shown: Vec<_> = network
            .permitted()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["10.1.0.0/16", "fd12::1/128"]);
        for bad in ["", "all", "10.0.0.0/33", "example.com"] {
            let error = Network::default().permitting(bad).unwrap_err();
            assert_eq!(error, NetworkError::Permitted(bad.to_owned()));
        }
    }
}

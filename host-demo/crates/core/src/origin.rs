//! Origins: scheme, host and port, which a token is bound to.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// Scheme, host and port, in one canonical form: what a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

/// A text that is not an origin that this host will talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Not of the form `scheme://host[:port]`.
    #[error("expected scheme, host and optional port, and nothing else")]
    Form,
    /// A scheme other than `https`, or `http` beyond loopback.
    #[error(
        "only https:// is allowed (and http:// for loopback): a token must not cross a network in the clear"
    )]
    Insecure,
}

impl Origin {
    /// The origin of a request, or `None` where it is one that no origin here can equal: with user
    /// information, without a host, with an unknown scheme or a port that is not a number.
    pub fn of(uri: &Uri) -> Option<Self> {
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        // `Authority` lets user information pass, and a port that is empty or not a number.
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host)? {
            "" if secure => 443,
            "" => 80,
            rest => rest
                .strip_prefix(':')
                .filter(|p| p.bytes().all(|b| b.is_ascii_digit()))?
                .parse()
                .ok()?,
        };
        if host.is_empty() || port == 0 {
            return None;
        }
        Some(Self {
            secure,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// The host: a name, an IPv4 address, or an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether the connection is protected by TLS.
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether the host is this machine: a loopback address, or the name `localhost`.
    pub fn is_loopback(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        self.host == "localhost"
            || bare
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let uri: Uri = text.parse().map_err(|_| OriginError::Form)?;
        if uri.path_and_query().is_some_and(|p| p.as_str() != "/") {
            return Err(OriginError::Form);
        }
        let origin = Self::of(&uri).ok_or(OriginError::Form)?;
        if !origin.secure && !origin.is_loopback() {
            return Err(OriginError::Insecure);
        }
        Ok(origin)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.secure {
            ("https", 443)
        } else {
            ("http", 80)
        };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != usual {
            write!(f, ":{}", self.port)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_secure_or_loopback_and_nothing_more_than_an_origin() {
        for good in [
            "http://localhost:8080",
            "http://127.0.0.1:1",
            "http://[::1]:9",
            "https://10.0.0.1",
        ] {
            assert_eq!(
                good.parse::<Origin>().map(|o| o.to_string()).as_deref(),
                Ok(good)
            );
        }
        for insecure in [
            "http://api.security.microsoft.com",
            "http://127.0.0.1.evil.test",
        ] {
            assert_eq!(
                insecure.parse::<Origin>(),
                Err(OriginError::Insecure),
                "{insecure}"
            );
        }
        for not_one in [
            "",
            "api.security.microsoft.com",
            "https://",
            "https://h/api",
            "https://h?x",
            "https://u@h",
            "https://h:x",
        ] {
            assert_eq!(
                not_one.parse::<Origin>(),
                Err(OriginError::Form),
                "{not_one}"
            );
        }
    }
}

//! What the host grants, checked before it is used.
//!
//! A base URL is an origin and nothing more, so that the path of a request is this crate's alone; a
//! token is of the characters that a header can carry. Otherwise the call ends as `unavailable`,
//! and the message tells what to repair without showing what it was.

use alloc::string::String;

/// Scheme and authority of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whether the scheme is `https`, not `http`.
    pub is_secure: bool,
    /// The host and, where one was given, the port: `api.security.microsoft.com`, `[::1]:8443`.
    pub authority: String,
}

/// A base URL is not an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAnOrigin;

impl core::str::FromStr for Origin {
    type Err = NotAnOrigin;

    fn from_str(url: &str) -> Result<Self, NotAnOrigin> {
        let (scheme, rest) = url.split_once(':').ok_or(NotAnOrigin)?;
        let rest = rest.strip_prefix("//").ok_or(NotAnOrigin)?;
        let is_secure = if scheme.eq_ignore_ascii_case("https") {
            true
        } else if scheme.eq_ignore_ascii_case("http") {
            false
        } else {
            return Err(NotAnOrigin);
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if !is_authority(authority) {
            return Err(NotAnOrigin);
        }
        Ok(Self {
            is_secure,
            authority: authority.into(),
        })
    }
}

/// Whether it is a host with an optional port. Names are those of the DNS (with the underscore that
/// some networks use), so user information, a path, a query, a fragment, an escape or white space
/// does not pass.
fn is_authority(text: &str) -> bool {
    let (is_host, port) = if let Some(literal) = text.strip_prefix('[') {
        // The colons of an IPv6 address are not those of a port.
        let Some((address, port)) = literal.split_once(']') else {
            return false;
        };
        // Parsing one takes four kilobytes of code, and says no more: what has these characters and
        // is no address, nobody reaches.
        let is_of_one = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
        (
            address.contains(':') && address.bytes().all(is_of_one),
            port,
        )
    } else {
        let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        (!name.is_empty() && name.bytes().all(is_name), port)
    };
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_port(text: &str) -> bool {
    // `parse` alone would take a sign.
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Whether it is a `b64token`, what a bearer token is made of by RFC 6750, section 2.1.
pub fn is_bearer_token(text: &str) -> bool {
    let token = text.trim_end_matches('=');
    !token.is_empty()
        && token.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_perhaps_a_port() {
        for (url, is_secure, authority) in [
            (
                "https://api.security.microsoft.com",
                true,
                "api.security.microsoft.com",
            ),
            (
                "https://api.security.microsoft.com/",
                true,
                "api.security.microsoft.com",
            ),
            (
                "HTTPS://api-gov.securitycenter.microsoft.us:443",
                true,
                "api-gov.securitycenter.microsoft.us:443",
            ),
            ("http://127.0.0.1:8080", false, "127.0.0.1:8080"),
            ("http://stand_in:65535/", false, "stand_in:65535"),
            ("http://[::1]:8443", false, "[::1]:8443"),
            ("https://[2001:db8::1]", true, "[2001:db8::1]"),
        ] {
            assert_eq!(
                url.parse(),
                Ok(Origin {
                    is_secure,
                    authority: authority.into()
                }),
                "{url}"
            );
        }
    }

    #[test]
    fn whatever_else_a_url_can_have_is_not_an_origin() {
        for url in [
            "",
            "https",
            "https://",
            "https:///",
            "://api.security.microsoft.com",
            "api.security.microsoft.com",
            "//api.security.microsoft.com",
            "ftp://api.security.microsoft.com",
            " https://api.security.microsoft.com",
            "https ://api.security.microsoft.com",
            "https://api.security.microsoft.com ",
            "https://api.security.microsoft.com\n",
            "https://api.security.microsoft.com\u{a0}",
            "https://api.security.microsoft.com\0",
            "https://api.security.microsoft.com//",
            "https://api.security.microsoft.com/api",
            "https://api.security.microsoft.com?x",
            "https://api.security.microsoft.com/?x",
            "https://api.security.microsoft.com#x",
            "https://api.security.microsoft.com\\x",
            "https://api.security.microsoft.com@evil.test",
            "https://user:secret@api.security.microsoft.com",
            "https://api.security.microsoft.com:",
            "https://api.security.microsoft.com:0",
            "https://api.security.microsoft.com:65536",
            "https://api.security.microsoft.com:+443",
            "https://api.security.microsoft.com:44a",
            "https://api.security.microsoft.com:443:443",
            "https://:443",
            "https://%61pi.security.microsoft.com",
            "https://\u{430}pi.security.microsoft.com",
            "https://::1",
            "https://[::1",
            "https://[]",
            "https://[::1]443",
            "https://[::1]x:443",
            "https://[fe80::1%25eth0]",
            "https://[api.security.microsoft.com]",
        ] {
            assert_eq!(url.parse::<Origin>(), Err(NotAnOrigin), "{url}");
        }
    }

    #[test]
    fn a_bearer_token_is_a_b64token_of_rfc_6750() {
        // https://datatracker.ietf.org/doc/html/rfc6750#section-2.1
        for token in ["mF_9.B5f-4.1JqM", "a", "aGVsbG8+d29ybGQ/Cg==", "~"] {
            assert!(is_bearer_token(token), "{token}");
        }
        for token in [
            "",
            "=",
            "==",
            "a=b",
            "a b",
            " a",
            "a\r\nx-evil: 1",
            "a\"",
            "Bearer a",
            "ä",
            "a\0",
        ] {
            assert!(!is_bearer_token(token), "{token}");
        }
    }
}

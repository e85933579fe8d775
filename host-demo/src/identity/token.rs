//! Bearer tokens, and what they say of themselves.

use std::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use http::HeaderValue;
use jiff::Timestamp;
use serde_json::Value;

use super::{IdentityError, TokenSource};
use crate::transport;

/// Longer than any token, and as much as Windows takes for one header, unless told otherwise
/// (Microsoft, "Http.sys registry settings for Windows", `MaxFieldLength`).
const TOKEN_MAX: usize = 16 * 1024;

/// A bearer token, ready to be sent.
#[derive(Clone)]
pub struct BearerToken {
    header: HeaderValue,
    claims: Claims,
}

/// What a token says of itself. Read for display, for the quota's key, and to keep it from those
/// whom it is not for; never trusted beyond that: it is the service that verifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The tenant that issued it (`tid`).
    pub tenant: Option<String>,
    /// The application it was issued to (`appid`, or `azp` in version 2).
    pub application: Option<String>,
    /// The user it was issued for, where it is a person's (`upn` or `preferred_username`).
    pub user: Option<String>,
    /// What it may do, for an application (`roles`).
    pub roles: Vec<String>,
    /// What it may do on a user's behalf (`scp`), which that user's own rights bound further.
    pub scopes: Vec<String>,
    /// Which API it is for, or which several (`aud`).
    pub audiences: Vec<String>,
    /// When it ends (`exp`).
    pub expires: Option<Timestamp>,
}

impl BearerToken {
    /// From the token's text, without the word `Bearer`.
    pub fn new(token: &str) -> Result<Self, IdentityError> {
        // RFC 6750, section 2.1. The text itself is not shown: it may be a real token with a line
        // break in it.
        let well_formed = (1..=TOKEN_MAX).contains(&token.len())
            && token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b));
        let header = transport::bearer(token)
            .filter(|_| well_formed)
            .ok_or(IdentityError::Malformed)?;
        Ok(Self {
            header,
            claims: Claims::of(token),
        })
    }

    /// The `authorization` header of a request with it: the one way to get at the token. It is marked
    /// as sensitive, so its `Debug` hides it; what sends it elsewhere than to the service it is for
    /// is not this library.
    pub const fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// Whether it is the same token.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.header == other.header
    }

    /// What it says of itself; empty where it is no JSON Web Token.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(****)")
    }
}

impl Claims {
    /// The middle part of a JSON Web Token (RFC 7519), unverified. A claim of another type than it
    /// should have counts as absent, and leaves the others as they are.
    fn of(token: &str) -> Self {
        let payload = token.split('.').nth(1).unwrap_or_default();
        let payload: Value = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(payload.trim_end_matches('='))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        let text = |name: &str| payload[name].as_str().map(str::to_owned);
        let texts = |value: &Value| match value {
            Value::Array(all) => all
                .iter()
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        };
        Self {
            tenant: text("tid"),
            application: text("appid").or_else(|| text("azp")),
            user: text("upn").or_else(|| text("preferred_username")),
            roles: texts(&payload["roles"]),
            scopes: text("scp")
                .map(|scp| scp.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            audiences: match text("aud") {
                Some(one) => vec![one],
                None => texts(&payload["aud"]),
            },
            expires: payload["exp"]
                .as_i64()
                .and_then(|second| Timestamp::from_second(second).ok()),
        }
    }
}

/// One token, from elsewhere, for as long as it holds.
#[derive(Clone, Debug)]
pub struct FixedToken(BearerToken);

impl FixedToken {
    /// From the token's text; white space around it is dropped.
    pub fn new(token: &str) -> Result<Self, IdentityError> {
        BearerToken::new(token.trim()).map(Self)
    }
}

#[async_trait]
impl TokenSource for FixedToken {
    async fn token(&self) -> Result<BearerToken, IdentityError> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"tid":"t-1","appid":"a-1","roles":["Machine.RestrictExecution"],"aud":"x"}`
    const JWT: &str = "e30.eyJ0aWQiOiJ0LTEiLCJhcHBpZCI6ImEtMSIsInJvbGVzIjpbIk1hY2hpbmUuUmVzdHJpY3RFeGVjdXRpb24iXSwiYXVkIjoieCJ9.c2ln";

    fn claims(payload: &str) -> Claims {
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(payload);
        let token = BearerToken::new(&format!("e30.{payload}.c2ln")).unwrap();
        token.claims().clone()
    }

    #[test]
    fn a_token_tells_its_tenant_its_application_and_its_roles() {
        let token = BearerToken::new(JWT).unwrap();
        let expected = Claims {
            tenant: Some("t-1".into()),
            application: Some("a-1".into()),
            roles: vec!["Machine.RestrictExecution".into()],
            audiences: vec!["x".into()],
            ..Claims::default()
        };
        assert_eq!(token.claims(), &expected);
        assert_eq!(
            BearerToken::new("opaque").unwrap().claims(),
            &Claims::default()
        );
    }

    #[test]
    fn a_users_token_tells_the_user_the_delegated_rights_and_its_end() {
        let claims = claims(
            r#"{"azp":"a-2","upn":"ann@contoso.com","exp":1769807482,
                "scp":"Machine.Read Machine.RestrictExecution"}"#,
        );
        let expected = Claims {
            application: Some("a-2".into()),
            user: Some("ann@contoso.com".into()),
            scopes: vec!["Machine.Read".into(), "Machine.RestrictExecution".into()],
            expires: Some("2026-01-30T21:11:22Z".parse().unwrap()),
            ..Claims::default()
        };
        assert_eq!(claims, expected);
    }

    #[test]
    fn a_token_for_several_names_them_all() {
        assert_eq!(claims(r#"{"aud":["x",7,"y"]}"#).audiences, ["x", "y"]);
    }

    #[test]
    fn a_claim_of_the_wrong_type_hides_no_other() {
        let claims = claims(r#"{"tid":7,"roles":"all","exp":"soon","scp":[],"appid":"a-1"}"#);
        let expected = Claims {
            application: Some("a-1".into()),
            ..Claims::default()
        };
        assert_eq!(claims, expected);
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        for not_one in [
            "",
            "two words",
            "line\nbreak",
            "quote\"",
            "ümlaut",
            "a\r\nX-Injected: 1",
        ] {
            let error = BearerToken::new(not_one).unwrap_err();
            assert_eq!(error, IdentityError::Malformed);
            assert!(not_one.is_empty() || !error.to_string().contains(not_one));
        }
    }

    #[test]
    fn a_token_that_no_service_would_read_to_its_end_is_refused() {
        assert!(BearerToken::new(&"x".repeat(TOKEN_MAX)).is_ok());
        let error = BearerToken::new(&"x".repeat(TOKEN_MAX + 1)).unwrap_err();
        assert_eq!(error, IdentityError::Malformed);
    }

    #[test]
    fn a_token_hides_in_debug_output() {
        let token = BearerToken::new(JWT).unwrap();
        let fixed = FixedToken::new(&format!(" {JWT}\n")).unwrap();
        let shown = format!("{token:?} {fixed:?} {:?}", token.header());
        assert!(!shown.contains("e30") && !shown.contains("eyJ0"), "{shown}");
    }
}

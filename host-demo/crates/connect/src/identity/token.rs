//! Bearer tokens, and what they say of themselves.

use std::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use http::HeaderValue;
use jiff::Timestamp;
use serde_json::Value;

use super::{IdentityError, TokenSource};
use crate::stray;
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
    /// When it was issued (`iat`, or `nbf`, which Entra dates back by five minutes).
    pub issued: Option<Timestamp>,
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

    /// The `authorization` header of a request with it: the one way to get at the token. It is
    /// marked as sensitive, so its `Debug` hides it; what sends it elsewhere than to the service it
    /// is for is not this library.
    pub const fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// The token itself.
    pub(super) fn text(&self) -> &str {
        let header = self.header.to_str().unwrap_or_default();
        header.strip_prefix("Bearer ").unwrap_or_default()
    }

    /// Whether it is the same token.
    pub fn is(&self, other: &Self) -> bool {
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
        let time = |name: &str| Timestamp::from_second(payload[name].as_i64()?).ok();
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
            issued: time("iat").or_else(|| time("nbf")),
            expires: time("exp"),
        }
    }
}

/// One token, from elsewhere, for as long as it holds.
#[derive(Clone, Debug)]
pub struct FixedToken(BearerToken);

impl FixedToken {
    /// Reads a token from what a file holds or a command prints: with the word `Bearer`, in
    /// quotation marks or as Azure CLI's JSON, too.
    pub fn new(text: &str) -> Result<Self, IdentityError> {
        match token_in(text) {
            Ok(token) => Ok(Self(token)),
            Err(found) => Err(IdentityError::NotAToken(found)),
        }
    }
}

#[async_trait]
impl TokenSource for FixedToken {
    async fn token(&self) -> Result<BearerToken, IdentityError> {
        Ok(self.0.clone())
    }
}

/// What is in the place of a bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAToken {
    /// There is nothing.
    #[error("there is nothing")]
    Empty,
    /// There is JSON, without a token in it.
    #[error("there is JSON without an accessToken")]
    Json,
    /// There is a document that tells of an error.
    #[error(
        "there is an error in JSON, as an authority or Azure CLI answers where it has no token"
    )]
    Failure,
    /// There is a page.
    #[error("there is HTML or XML")]
    Html,
    /// There is a certificate or a key.
    #[error("there is PEM: a certificate or a key, which is named elsewhere")]
    Pem,
    /// There are several lines.
    #[error("there are {0} lines, and a token is one")]
    Lines(usize),
    /// There are several words.
    #[error("there are {0} words with blanks between them, and a token is one")]
    Words(usize),
    /// There are other characters.
    #[error("there are characters that no token has (RFC 6750: letters, digits and -._~+/ only)")]
    Characters,
    /// It is too long.
    #[error("there are more than 16 KiB")]
    TooLong,
}

/// The bearer token in what a file holds or a command prints.
///
/// What clings to it is removed as far as it can't be part of it: a byte order mark, white space,
/// quotation marks, the word `Bearer`. Of JSON, the member that Azure CLI, an authority or an
/// issuer of federated tokens gives it is taken.
pub(super) fn token_in(text: &str) -> Result<BearerToken, NotAToken> {
    const MEMBERS: [&str; 4] = ["accessToken", "access_token", "id_token", "value"];

    let mut text = stray::unquoted(text).to_owned();
    if text.starts_with(['{', '[']) {
        let json: Value = serde_json::from_str(&text).map_err(|_| NotAToken::Json)?;
        let member = MEMBERS.iter().find_map(|name| json[name].as_str());
        text = match member {
            Some(token) => stray::trim(token).to_owned(),
            None if json["error"].is_null() => return Err(NotAToken::Json),
            None => return Err(NotAToken::Failure),
        };
    }
    let mut token = text.as_str();
    for word in ["authorization:", "bearer"] {
        let (begins, behind) = token.split_at_checked(word.len()).unwrap_or_default();
        // `Bearer` alone is no word in front of something.
        let is_apart = word.ends_with(':') || behind.starts_with(char::is_whitespace);
        if begins.eq_ignore_ascii_case(word) && is_apart {
            token = stray::unquoted(behind);
        }
    }
    if token.is_empty() {
        return Err(NotAToken::Empty);
    }
    if token.starts_with('<') {
        return Err(NotAToken::Html);
    }
    if token.starts_with("-----BEGIN") {
        return Err(NotAToken::Pem);
    }
    let lines = token.split(['\r', '\n']).filter(|line| !line.is_empty());
    let (lines, words) = (lines.count(), token.split_whitespace().count());
    if lines > 1 {
        return Err(NotAToken::Lines(lines));
    }
    if words > 1 {
        return Err(NotAToken::Words(words));
    }
    if token.len() > TOKEN_MAX {
        return Err(NotAToken::TooLong);
    }
    BearerToken::new(token).map_err(|_| NotAToken::Characters)
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
    fn what_clings_to_a_token_is_removed() {
        for text in [
            format!("{JWT}\n"),
            format!("{JWT}\r\n"),
            format!("\u{FEFF}{JWT}"),
            format!("Bearer {JWT}"),
            format!("bearer  {JWT}\n"),
            format!("Authorization: Bearer {JWT}"),
            format!("\"{JWT}\"\n"),
            format!("'Bearer {JWT}'"),
            format!(r#"{{"accessToken": "{JWT}", "expiresOn": "2026-11-29 00:01:59.000000"}}"#),
            format!("{{\n  \"token_type\": \"Bearer\",\n  \"access_token\": \"{JWT}\"\n}}\n"),
        ] {
            let token = token_in(&text).unwrap();
            assert_eq!(token.text(), JWT, "{text:?}");
        }
    }

    #[test]
    fn what_is_in_the_place_of_a_token_is_named_and_not_shown() {
        for (text, found) in [
            ("", NotAToken::Empty),
            (" \n", NotAToken::Empty),
            ("{}", NotAToken::Json),
            ("{\"accessToken\": 7}", NotAToken::Json),
            ("{\"accessToken", NotAToken::Json),
            ("[1]", NotAToken::Json),
            ("{\"error\": \"invalid_client\"}", NotAToken::Failure),
            ("<html>", NotAToken::Html),
            ("-----BEGIN CERTIFICATE-----\nMII", NotAToken::Pem),
            ("eyJhbGci\nOiJub25l\nIn0.e30.", NotAToken::Lines(3)),
            ("eyJhbGci\r\nOiJub25l", NotAToken::Lines(2)),
            ("my token is", NotAToken::Words(3)),
            ("{\"accessToken\": \"a b\"}", NotAToken::Words(2)),
            ("ümlaut", NotAToken::Characters),
            ("quote\"", NotAToken::Characters),
        ] {
            assert_eq!(token_in(text).err(), Some(found), "{text:?}");
            let error = FixedToken::new(text).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("the token is not one that can be sent: there ")
            );
        }
        let long = "x".repeat(TOKEN_MAX + 1);
        assert_eq!(token_in(&long).err(), Some(NotAToken::TooLong));
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

//! Access tokens: what they say, who issued them, and whether the API takes them.
//!
//! They look like Entra's (version 1.0, as the legacy resource gets them). The signature is not
//! computed but random: the stand-in knows its own tokens, and a changed one is not among them.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::api_error::Refusal;
use super::switches::{ForbiddenWording, Switches};

/// Entra dates a token back by five minutes, for clocks that are behind.
const DATED_BACK: i64 = 300;

/// Beyond this many, tokens that have expired are forgotten.
const TOKENS_KEPT: usize = 1_000;

/// What a token is to say, where it differs from what the token endpoint would give out.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    pub(super) roles: Option<Vec<String>>,
    pub(super) scopes: Option<Vec<String>>,
    pub(super) audience: Option<String>,
    pub(super) lifetime: Option<Duration>,
    pub(super) tenant: Option<String>,
    pub(super) app: Option<String>,
}

impl Grant {
    /// As the token endpoint would.
    pub fn new() -> Self {
        Self::default()
    }

    /// With these application roles.
    #[must_use]
    pub fn roles<S: Into<String>>(self, roles: impl IntoIterator<Item = S>) -> Self {
        Self {
            roles: Some(roles.into_iter().map(Into::into).collect()),
            ..self
        }
    }

    /// For a user: with these delegated permissions (`scp`), and no roles.
    #[must_use]
    pub fn delegated<S: Into<String>>(self, scopes: impl IntoIterator<Item = S>) -> Self {
        Self {
            scopes: Some(scopes.into_iter().map(Into::into).collect()),
            ..self
        }
    }

    /// For this audience.
    #[must_use]
    pub fn audience(self, audience: impl Into<String>) -> Self {
        Self {
            audience: Some(audience.into()),
            ..self
        }
    }

    /// Holding for so long from now. One with no lifetime has expired.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self {
            lifetime: Some(lifetime),
            ..self
        }
    }

    /// Of another tenant, which has no machine here.
    #[must_use]
    pub fn tenant(self, id: impl Into<String>) -> Self {
        Self {
            tenant: Some(id.into()),
            ..self
        }
    }

    /// Of another application.
    #[must_use]
    pub fn app(self, id: impl Into<String>) -> Self {
        Self {
            app: Some(id.into()),
            ..self
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Claims {
    pub(super) aud: String,
    pub(super) iss: String,
    pub(super) iat: i64,
    pub(super) nbf: i64,
    pub(super) exp: i64,
    pub(super) appid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) roles: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scp: Option<String>,
    pub(super) tid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upn: Option<String>,
    pub(super) uti: String,
    pub(super) ver: &'static str,
}

impl Claims {
    /// `tenant` and `app` are those of the stand-in, `audience` is the one that was asked for.
    pub(super) fn new(
        grant: Grant,
        (tenant, app): (&str, &str),
        audience: &str,
        switches: &Switches,
        now: Timestamp,
    ) -> Self {
        let tid = grant.tenant.unwrap_or_else(|| tenant.to_owned());
        let lifetime = grant.lifetime.unwrap_or(switches.token_lifetime).as_secs();
        let delegated = grant.scopes.is_some();
        let roles = grant.roles.unwrap_or_else(|| switches.roles.clone());
        Self {
            aud: grant
                .audience
                .or_else(|| switches.token_audience.clone())
                .unwrap_or_else(|| audience.to_owned()),
            iss: format!("https://sts.windows.net/{tid}/"),
            iat: now.as_second() - DATED_BACK,
            nbf: now.as_second() - DATED_BACK,
            exp: now
                .as_second()
                .saturating_add(i64::try_from(lifetime).unwrap_or(i64::MAX)),
            appid: grant.app.unwrap_or_else(|| app.to_owned()),
            // Entra leaves the claim out where nothing is assigned.
            roles: Some(roles).filter(|roles| !delegated && !roles.is_empty()),
            scp: grant.scopes.map(|scopes| scopes.join(" ")),
            tid,
            upn: delegated.then(|| "analyst@contoso.com".to_owned()),
            uti: URL_SAFE_NO_PAD.encode(Uuid::new_v4()),
            ver: "1.0",
        }
    }
}

/// A token that was issued.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) claims: Claims,
    /// Counted from 1.
    pub(super) number: u64,
    revoked: bool,
}

#[derive(Default)]
pub(super) struct Tokens {
    issued: HashMap<String, Issued>,
    count: u64,
}

impl Tokens {
    pub(super) fn issue(&mut self, claims: Claims, now: Timestamp) -> String {
        if self.issued.len() >= TOKENS_KEPT {
            self.issued
                .retain(|_, token| token.claims.exp > now.as_second());
        }
        let part = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
        let payload = serde_json::to_vec(&claims).expect("claims have string keys and no maps");
        let signature = [*Uuid::new_v4().as_bytes(), *Uuid::new_v4().as_bytes()].concat();
        let header = br#"{"typ":"JWT","alg":"HS256"}"#.to_vec();
        let token = format!("{}.{}.{}", part(header), part(payload), part(signature));
        self.count += 1;
        self.issued.insert(
            token.clone(),
            Issued {
                claims,
                number: self.count,
                revoked: false,
            },
        );
        token
    }

    /// Of those that were issued until now, none holds any more.
    pub(super) fn revoke(&mut self) {
        for token in self.issued.values_mut() {
            token.revoked = true;
        }
    }

    /// The token of a request, if it is one that was issued; whether it holds is another question.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<&Issued> {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("Bearer")
            .then(|| self.issued.get(token.trim()))?
    }

    /// The claims of a request's token, if it holds now and is for this API.
    ///
    /// The words for a token that does not hold are those of a sibling API on the same host
    /// (elastic/beats#41926); for one that is none they are unknown, and so they are for a wrong
    /// audience. No leeway is given for clocks that are wrong.
    pub(super) fn accept(
        &self,
        headers: &HeaderMap,
        switches: &Switches,
        now: Timestamp,
    ) -> Result<&Claims, Refusal> {
        let unauthorized =
            |message| Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized", message);
        let Some(Issued { claims, .. }) = self.of(headers).filter(|token| !token.revoked) else {
            return Err(unauthorized(
                "Invalid or expired authorization header".to_owned(),
            ));
        };
        if !(claims.nbf..claims.exp).contains(&now.as_second()) {
            let second = |s| Timestamp::from_second(s).unwrap_or(now);
            return Err(unauthorized(format!(
                "Invalid Authorization payload. AppId: {}, Audience: {}, Issuer: {}, \
                 Validity: valid from {} to {}",
                claims.appid,
                claims.aud,
                claims.iss,
                second(claims.nbf),
                second(claims.exp)
            )));
        }
        if !switches.audiences.contains(&claims.aud) {
            let message = format!("Invalid audience: {}", claims.aud);
            return Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message));
        }
        Ok(claims)
    }
}

/// What a call needs: one of these, as an application or for a user.
pub(super) struct Permission {
    pub(super) roles: &'static [&'static str],
    pub(super) scopes: &'static [&'static str],
}

impl Permission {
    pub(super) fn check(&self, claims: &Claims, switches: &Switches) -> Result<(), Refusal> {
        let delegated: Option<Vec<_>> = claims.scp.as_deref().map(|s| s.split(' ').collect());
        let roles = || claims.roles.iter().flatten().map(String::as_str).collect();
        let (needed, held) = match delegated {
            Some(scopes) => (self.scopes, scopes),
            None => (self.roles, roles()),
        };
        if needed.iter().any(|permission| held.contains(permission)) {
            return Ok(());
        }
        let message = match switches.forbidden_wording {
            // The words for users are unknown; they are put as for applications.
            ForbiddenWording::Current if claims.scp.is_some() => format!(
                "Missing user scopes. API required scopes: {}, user scopes: {}.",
                needed.join(","),
                held.join(",")
            ),
            ForbiddenWording::Current => format!(
                "Missing application roles. API required roles: {}, application roles: {}.",
                needed.join(","),
                held.join(",")
            ),
            ForbiddenWording::Old => format!(
                "The application does not have any of the required application permissions ({}) to \
                 access the resource.",
                needed.join(", ")
            ),
        };
        Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_769_807_482, 0);

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    fn issue(tokens: &mut Tokens, grant: Grant) -> String {
        let switches = Switches::default();
        let claims = Claims::new(grant, ("t", "a"), &switches.audiences[0], &switches, NOW);
        tokens.issue(claims, NOW)
    }

    #[test]
    fn a_token_holds_to_the_second_before_it_expires() {
        let mut tokens = Tokens::default();
        let token = issue(&mut tokens, Grant::new().lifetime(Duration::from_secs(10)));
        let headers = headers(&format!("Bearer {token}"));
        let accept = |seconds| {
            let now = NOW.checked_add(Duration::from_secs(seconds)).unwrap();
            tokens
                .accept(&headers, &Switches::default(), now)
                .map(|_| ())
        };
        accept(0).unwrap();
        accept(9).unwrap();
        let refusal = accept(10).unwrap_err();
        assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
        assert_eq!(
            refusal.message,
            "Invalid Authorization payload. AppId: a, \
             Audience: https://api.securitycenter.microsoft.com, \
             Issuer: https://sts.windows.net/t/, \
             Validity: valid from 2026-01-30T21:06:22Z to 2026-01-30T21:11:32Z"
        );
    }

    #[test]
    fn only_a_token_that_was_issued_counts() {
        let mut tokens = Tokens::default();
        let token = issue(&mut tokens, Grant::new());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let other = URL_SAFE_NO_PAD.encode(r#"{"roles":["Machine.RestrictExecution"]}"#);
        assert!(tokens.of(&headers(&format!("bearer {token}"))).is_some());
        for forged in [
            format!("Bearer {header}.{other}.{signature}"),
            format!("Bearer {signed}."),
            format!("Basic {token}"),
            format!("Bearer{token}"),
            "Bearer".to_owned(),
        ] {
            assert!(tokens.of(&headers(&forged)).is_none(), "{forged}");
        }
    }

    #[test]
    fn the_payload_reads_like_entras() {
        let mut tokens = Tokens::default();
        for (grant, roles, scp) in [
            (Grant::new().roles(["Machine.Read.All"]), Some(1), None),
            (Grant::new().roles::<String>([]), None, None),
            (
                Grant::new().delegated(["Machine.Read", "Alert.Read"]),
                None,
                Some("Machine.Read Alert.Read"),
            ),
        ] {
            let token = issue(&mut tokens, grant);
            let payload = URL_SAFE_NO_PAD
                .decode(token.split('.').nth(1).unwrap())
                .unwrap();
            let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(claims["aud"], "https://api.securitycenter.microsoft.com");
            assert_eq!(claims["exp"], 1_769_807_482 + 3599);
            assert_eq!(claims["roles"].as_array().map(Vec::len), roles, "{claims}");
            assert_eq!(claims["scp"].as_str(), scp, "{claims}");
        }
    }
}

//! Why there is no token, and what to do about it.

use std::fmt::Write as _;
use std::time::Duration;

use http::StatusCode;

use super::redact::Secrets;
use super::token::NotAToken;
use super::{CertificateError, Method};
use crate::stray::Oddity;
use crate::transport::{SetupError, TransportError, TransportErrorKind};

/// Why there is no token. Nothing was sent to the service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The authority refused, and said why.
    #[error("{authority} gave no token: {error}{}", .advice.map(|a| format!(" - {a}")).unwrap_or_default())]
    Refused {
        /// Who refused.
        authority: String,
        /// OAuth's error name, and the first sentence of the description, which starts with the
        /// AADSTS code.
        error: String,
        /// What to do about it, for the codes that we know.
        advice: Option<&'static str>,
    },
    /// The authority answered that it has no token now, and may have one later.
    #[error("{authority} gives no token now: {error}")]
    Busy {
        /// Who was asked.
        authority: String,
        /// What it said.
        error: String,
        /// The status of its answer, where it was asked over HTTP.
        status: Option<u16>,
        /// How long it said to wait.
        retry_after: Option<Duration>,
    },
    /// No answer came from the authority.
    #[error("no token: {0}")]
    NoAnswer(TransportError),
    /// The authority answered, but not as one does.
    #[error("no token could be had from {authority}: {detail}")]
    NotAnAnswer {
        /// Who was asked.
        authority: String,
        /// What happened.
        detail: String,
    },
    /// The caller's time was up before there was one.
    #[error(
        "no token came in time, and nothing was sent: allow more time, or find out what the \
         authority, or whoever was to sign in, was waiting for"
    )]
    NotInTime,
    /// What should be a bearer token is none.
    #[error(
        "the token is not one that can be sent (RFC 6750: letters, digits and -._~+/ only, in one line; \
         and 16 KiB at most): see that nothing else is in its place"
    )]
    Malformed,
    /// What should hold a bearer token holds something else.
    #[error("the token is not one that can be sent: {0}")]
    NotAToken(NotAToken),
    /// The certificate can't be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Azure CLI's token is for another tenant than the one that was asked for.
    #[error("Azure CLI gave a token for the tenant {got}, and {wanted} was asked for")]
    OtherTenant {
        /// The tenant that was asked for.
        wanted: String,
        /// The tenant that the token is for.
        got: String,
    },
    /// The token is for another service than the one that it would go to.
    #[error(
        "the token is for {audience} and is not sent to {origin}: get one for the scope {scope}, or, \
         if the token is right, name its service or its scope"
    )]
    NotForThisService {
        /// Whom it is for.
        audience: String,
        /// Where it would have gone.
        origin: String,
        /// What tokens for there are asked for.
        scope: String,
    },
    /// The credential can't be used as it is.
    #[error("the credential is not usable: {0}")]
    Unusable(String),
    /// There is no credential of this kind here. Another kind may do.
    #[error("{method} can't be used here: {why}")]
    NotAvailable {
        /// What was to be used.
        method: Method,
        /// What is missing.
        why: String,
    },
    /// None of the usual ways led to a credential.
    #[error("no credential is available here{}", listed(.0))]
    NoneAvailable(Vec<(Method, String)>),
}

impl IdentityError {
    /// Returns whether asking again may help, although nobody changes anything.
    ///
    /// `has_worked` says whether this source has given a token before. Then a missing answer, a
    /// damaged one, or a missing file is a passing disturbance; before, it is probably a mistake in
    /// the configuration. A refusal by the authority (a wrong secret, an unknown tenant) is always
    /// permanent.
    pub const fn is_transient(&self, has_worked: bool) -> bool {
        match self {
            Self::Busy { .. } => true,
            Self::NoAnswer(error) => match error.kind {
                TransportErrorKind::Dns
                | TransportErrorKind::Refused
                | TransportErrorKind::ConnectTimeout
                | TransportErrorKind::Tls
                | TransportErrorKind::TooLate
                | TransportErrorKind::Broken => true,
                // It wants credentials, say.
                TransportErrorKind::Proxy | TransportErrorKind::ProxyAuthentication => has_worked,
                TransportErrorKind::Address
                | TransportErrorKind::Certificate
                | TransportErrorKind::NotARequest => false,
            },
            Self::NotAnAnswer { .. } | Self::NotAvailable { .. } | Self::Unusable(_) => has_worked,
            Self::Refused { .. }
            | Self::NotInTime
            | Self::Malformed
            | Self::NotAToken(_)
            | Self::Certificate(_)
            | Self::OtherTenant { .. }
            | Self::NotForThisService { .. }
            | Self::NoneAvailable(_) => false,
        }
    }

    /// Returns whether an authority answered that it is only busy. A metadata service's 404 does not
    /// count: another platform's service may answer the same.
    pub const fn is_from_an_authority(&self) -> bool {
        match self {
            Self::Busy { status, .. } => !matches!(status, Some(404)),
            _ => false,
        }
    }

    /// Returns the status of the authority's answer, if that is the reason.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Busy { status, .. } => *status,
            _ => None,
        }
    }

    /// Returns how long the authority said to wait.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl From<SetupError> for IdentityError {
    fn from(error: SetupError) -> Self {
        Self::Unusable(error.to_string())
    }
}

fn listed(tried: &[(Method, String)]) -> String {
    tried.iter().fold(String::new(), |mut list, (method, why)| {
        let separator = if list.is_empty() { ": " } else { "; " };
        let _ = write!(list, "{separator}{method}: {why}");
        list
    })
}

/// The authority's error document (Microsoft identity platform, "Authentication and authorization
/// error codes"; RFC 6749, section 5.2, has its first two members).
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Refusal {
    pub(super) error: String,
    #[serde(default)]
    pub(super) error_description: String,
    #[serde(default)]
    error_codes: Vec<u32>,
}

impl Refusal {
    pub(super) fn without(self, secrets: &Secrets) -> Self {
        Self {
            error: secrets.masked(&self.error),
            error_description: secrets.masked(&self.error_description),
            error_codes: self.error_codes,
        }
    }

    /// Returns whether the authority says that it can't answer now.
    pub(super) fn is_transient(&self) -> bool {
        ["temporarily_unavailable", "server_error"].contains(&self.error.as_str())
            || self.error_codes.iter().any(|code| is_transient(*code))
    }

    /// Returns the shortest wait before the next request, whatever the headers say.
    pub(super) fn least_wait(&self) -> Option<Duration> {
        self.error_codes
            .contains(&CLIENT_LOOP)
            .then_some(CLIENT_LOOP_WAIT)
    }

    /// What it says, in one line.
    pub(super) fn text(&self) -> String {
        let sentence = first_sentence(&self.error_description);
        match sentence.is_empty() {
            true => first_sentence(&self.error),
            false => format!("{sentence} ({})", first_sentence(&self.error)),
        }
    }

    /// The error of a refusal that came without a status.
    pub(super) fn into_error(self, authority: &str) -> IdentityError {
        let (authority, error) = (authority.to_owned(), self.text());
        if self.is_transient() {
            return IdentityError::Busy {
                authority,
                error,
                status: None,
                retry_after: self.least_wait(),
            };
        }
        let advice = self
            .error_codes
            .iter()
            .find_map(|code| advice(*code))
            .or_else(|| advice_for_name(&self.error));
        IdentityError::Refused {
            authority,
            error,
            advice,
        }
    }
}

/// Returns whether a status says that the same request may be answered later.
pub(super) fn is_transient_status(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// AADSTS50196, LoopDetected: "The app has made too many of the same request in too short a period".
const CLIENT_LOOP: u32 = 50_196;

/// For a client loop Entra's 429 says 60 s (Microsoft, "MSAL.NET: Throttling"). Sooner requests would
/// be part of the loop.
const CLIENT_LOOP_WAIT: Duration = Duration::from_secs(60);

/// Returns whether an AADSTS code is documented as passing (Microsoft, "Microsoft Entra
/// authentication and authorization error codes", whose words are quoted).
const fn is_transient(code: u32) -> bool {
    matches!(
        code,
        // RetryableError: "a transient error".
        50_033
        // SasRetryableError: "A transient error has occurred during strong authentication."
        | 50_087
        | CLIENT_LOOP
        // ExternalServerRetryableError: "The service is temporarily unavailable."
        | 90_006
        // RequestTimeout: "The requested has timed out."
        | 90_012
        // RequestBudgetExceededError: "A transient error has occurred. Try again."
        | 90_024
        // MsodsServiceUnavailable: "isn't available".
        | 90_033
        // TenantThrottlingError: "There are too many incoming requests."
        | 90_055
        // GraphRetryableError: "The service is temporarily unavailable."
        | 90_090
        // GraphServiceUnreachable.
        | 90_091
    )
}

const SENTENCE_MAX: usize = 300;

/// What a tool printed that passes the authority's error on, if it is one.
pub(super) fn refusal_in(text: &str) -> Option<Refusal> {
    let (_, from_code) = text.split_once("AADSTS")?;
    let digits: String = from_code.chars().take_while(char::is_ascii_digit).collect();
    Some(Refusal {
        error: "refused".to_owned(),
        error_description: format!("AADSTS{from_code}"),
        error_codes: vec![digits.parse().ok()?],
    })
}

/// Behind the first sentence comes what is said to developers, and trace ids and times. Control
/// characters would reach a terminal.
pub(super) fn first_sentence(text: &str) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default();
    let line = line.split(" Trace ID:").next().unwrap_or_default();
    let sentence = line.find(". ").map_or(line, |end| &line[..=end]);
    sentence
        .chars()
        .filter(|c| !c.is_control())
        .take(SENTENCE_MAX)
        .collect::<String>()
        .trim_end()
        .to_owned()
}

/// What the identity library says, without its own name in front and the address of its
/// troubleshooting guide behind.
pub(super) fn library_message(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let said = text.split_once("authentication failed.");
    first_sentence(said.map_or(text.as_str(), |(_, said)| said))
}

pub(super) const WRONG_SECRET: &str =
    "the client secret is wrong: use the secret's value, not its id, of this application";

/// What to do about a client secret that was rejected. The secret itself is not shown.
pub(super) const fn wrong_secret(oddity: Option<Oddity>) -> &'static str {
    match oddity {
        None => WRONG_SECRET,
        Some(Oddity::Quoted) => {
            "the client secret is wrong: it begins and ends with quotation marks, which the secrets \
             of Entra never do; remove them (docker run --env-file keeps them)"
        }
        Some(Oddity::Guid) => {
            "the client secret is wrong: it is a GUID, as a secret's ID is; use the secret's value"
        }
        Some(Oddity::Assignment) => {
            "the client secret is wrong: it begins with the name of a variable and an equals sign; \
             keep what is behind that"
        }
        Some(Oddity::Placeholder) => {
            "the client secret is wrong: it looks like a placeholder of a template; put the \
             secret's value in its place"
        }
        Some(Oddity::Escaped) => {
            "the client secret is wrong: it ends with \\n, written as two characters; remove them"
        }
        Some(Oddity::Blank) => {
            "the client secret is wrong: it has white space or invisible characters in it, which \
             the secrets of Entra never have"
        }
        Some(Oddity::NotAscii) => {
            "the client secret is wrong: it has characters beyond ASCII in it, which the secrets of \
             Entra never have"
        }
    }
}

/// What to do about an AADSTS code (Microsoft, "Microsoft Entra authentication and authorization
/// error codes", and the troubleshooting pages of the flows).
pub(super) const fn advice(code: u32) -> Option<&'static str> {
    Some(match code {
        7_000_215 => WRONG_SECRET,
        7_000_222 => "the client secret has expired: create a new one for this application",
        7_000_216 => {
            "the application has to prove itself: give a secret, a certificate or a federated token"
        }
        7_000_218 => {
            "the application is not a public client: allow public client flows in its \
             registration, or use a secret or a certificate"
        }
        7_000_112 => "the application is disabled in this tenant: have an administrator enable it",
        700_016 => {
            "there is no such application in this tenant: check the client id and the tenant id"
        }
        90_002 | 900_023 => "there is no such tenant: check the tenant id",
        500_011 => {
            "the tenant does not know the Defender API: check that Defender for Endpoint is set up in it, \
             and that cloud and scope belong together"
        }
        70_011 => "the scope is not valid: it is the resource followed by /.default",
        700_027 => {
            "the certificate is not one of this application's, or its key is another: upload the \
             certificate to the application, and check that the file holds the same one"
        }
        700_030 => "the certificate's subject is not one that this application accepts",
        700_021 | 700_023 => {
            "the assertion is for another application or authority: check the client id, the \
             tenant id and the cloud"
        }
        700_024 => {
            "the assertion is not valid at this time: check this machine's clock, and that the \
             federated token is being renewed"
        }
        700_211 | 700_212 | 700_213 | 7_002_137 | 7_002_138 | 70_021 => {
            "no federated credential of this application fits the token: compare its issuer, \
             subject and audience with those of the token, to the letter"
        }
        70_025 => "the application has no federated credential: add one, or check the client id",
        50_034 => "there is no such user in this tenant: check the account and the tenant id",
        50_020 => {
            "the user is of another tenant: sign in with an account of this tenant, or be invited"
        }
        50_126 => "the user name or password is wrong",
        50_055 | 50_144 => {
            "the user's password has expired: sign in once in a browser to change it"
        }
        50_057 => "the account is disabled",
        50_053 => "the account is locked after too many attempts: wait, or have it unlocked",
        50_173 | 70_008 | 700_082 | 700_084 | 54_005 => "the sign-in has expired: sign in again",
        50_076 | 50_079 | 50_074 => {
            "a second factor is asked for: sign in again where you can give it (device-code, or \
             az login)"
        }
        53_000 | 53_001 | 53_003 => {
            "a policy of the tenant (Conditional Access) does not allow this sign-in: ask its \
             administrator"
        }
        50_105 => "the user is not assigned to this application: have an administrator assign it",
        65_001 => {
            "consent is missing: have an administrator grant the application its permissions for \
             the Defender API"
        }
        65_004 => "consent was declined: sign in again and accept, or ask an administrator",
        70_018..=70_020 => "the sign-in code is no longer valid: begin again",
        _ => return None,
    })
}

/// What to do about an error that names no code we know: OAuth's names (RFC 8628, section 3.5, and
/// Microsoft's own for the same things).
fn advice_for_name(error: &str) -> Option<&'static str> {
    Some(match error {
        "expired_token" | "code_expired" | "bad_verification_code" => {
            "the sign-in code is no longer valid: begin again"
        }
        "authorization_declined" | "access_denied" => "the sign-in was declined",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(error: &str, code: u32) -> Refusal {
        let body = serde_json::json!({
            "error": error, "error_description": format!("AADSTS{code}: x."), "error_codes": [code],
        });
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn documented_transient_codes_are_transient_whatever_the_error_name() {
        for (error, code, transient) in [
            ("temporarily_unavailable", 1, true),
            ("server_error", 1, true),
            ("invalid_request", 90_024, true),
            ("invalid_grant", 90_033, true),
            ("invalid_grant", 50_196, true),
            ("invalid_request", 90_006, true),
            ("invalid_request", 90_012, true),
            ("invalid_request", 90_055, true),
            ("invalid_request", 90_090, true),
            ("invalid_client", 7_000_215, false),
            ("unauthorized_client", 700_016, false),
            ("invalid_request", 90_002, false),
            // "An unexpected, non-retryable error".
            ("invalid_request", 90_036, false),
            ("invalid_resource", 500_011, false),
        ] {
            let found = refusal(error, code).into_error("x");
            assert_eq!(found.is_transient(true), transient, "{error} {code}");
            assert_eq!(found.is_transient(false), transient, "{error} {code}");
        }
        let after_a_loop = refusal("invalid_grant", 50_196).into_error("x");
        assert_eq!(after_a_loop.retry_after(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn unclear_failures_are_transient_only_after_a_success() {
        let why = || "x".to_owned();
        let failure = |kind| {
            IdentityError::NoAnswer(TransportError {
                kind,
                detail: why(),
            })
        };
        let unclear = [
            IdentityError::NotAnAnswer {
                authority: why(),
                detail: why(),
            },
            IdentityError::NotAvailable {
                method: Method::ManagedIdentity,
                why: why(),
            },
            IdentityError::Unusable(why()),
        ];
        for error in unclear {
            assert!(!error.is_transient(false) && error.is_transient(true));
        }
        let certificate = failure(TransportErrorKind::Certificate);
        assert!(!certificate.is_transient(true));
        assert!(failure(TransportErrorKind::Refused).is_transient(false));
    }

    #[test]
    fn entras_refusal_becomes_its_code_its_first_sentence_and_what_to_do() {
        // Microsoft identity platform, "Authentication and authorization error codes", with another
        // code.
        let body = r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1\r\nTimestamp: 2016","error_codes":[7000215],"trace_id":"1"}"#;
        let refusal: Refusal = serde_json::from_str(body).unwrap();
        let error = refusal.into_error("https://login.test");
        assert_eq!(
            error.to_string(),
            "https://login.test gave no token: AADSTS7000215: Invalid client secret provided. (invalid_client) - \
             the client secret is wrong: use the secret's value, not its id, of this application"
        );
    }

    #[test]
    fn of_what_is_said_the_first_sentence_is_shown() {
        // Microsoft Learn, "Troubleshoot AADSTS7000215".
        for (said, shown) in [
            (
                "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the \
                 request is the client secret value, not the client secret ID.\r\nTrace ID: 1",
                "AADSTS7000215: Invalid client secret provided.",
            ),
            ("of version 2.0 only\nmore", "of version 2.0 only"),
            ("It ends.", "It ends."),
            ("", ""),
        ] {
            assert_eq!(first_sentence(said), shown);
        }
        let library = std::io::Error::other(
            "ClientSecretCredential authentication failed. missing field `expires_in` at line 1 \
             column 2\nTo troubleshoot, visit https://aka.ms/azsdk/rust/identity/troubleshoot",
        );
        let shown = "missing field `expires_in` at line 1 column 2";
        assert_eq!(library_message(&library), shown);
    }

    #[test]
    fn an_error_without_a_known_code_is_read_by_its_name() {
        let body =
            r#"{"error":"authorization_declined","error_description":"AADSTS999: \u001b[2Jno"}"#;
        let refusal: Refusal = serde_json::from_str(body).unwrap();
        assert_eq!(
            refusal.into_error("x").to_string(),
            "x gave no token: AADSTS999: [2Jno (authorization_declined) - the sign-in was declined"
        );
    }

    #[test]
    fn a_refusal_is_found_in_what_a_tool_prints() {
        let text = "ERROR: AADSTS50076: Due to a configuration change, you must use multi-factor \
                    authentication. Trace ID: 1 Correlation ID: 2\nInteractive login is needed";
        let error = refusal_in(text).unwrap().into_error("Azure CLI");
        let IdentityError::Refused { error, advice, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(
            error,
            "AADSTS50076: Due to a configuration change, you must use multi-factor authentication. \
             (refused)"
        );
        assert!(advice.unwrap().contains("second factor"));
        assert_eq!(refusal_in("ERROR: Please run 'az login'"), None);
    }
}

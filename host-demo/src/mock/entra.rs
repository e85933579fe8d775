//! Entra's token endpoint for the client-credentials grant, and the two documents around it.
//!
//! Shapes and codes are those of Microsoft, "OAuth 2.0 client credentials flow" and "Microsoft
//! Entra authentication and authorization error codes"; the sentences are what the service says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::switches::Switches;
use super::token::{Claims, Grant, Tokens};
use super::wire::{Reply, header_text, unescape};

/// Resources that a tenant knows beside the API's own: tokens for them are given out, and the API
/// refuses them. The first is the host that is called, which is the most natural mistake.
const OTHER_RESOURCES: [&str; 3] = [
    "https://api.security.microsoft.com",
    "https://graph.microsoft.com",
    "https://management.azure.com",
];

const JSON: &str = "application/json; charset=utf-8";

/// The one tenant that there is, with the one application in it.
#[derive(Clone)]
pub(super) struct Directory {
    pub(super) tenant_id: String,
    pub(super) client_id: String,
    pub(super) client_secret: String,
}

#[derive(Serialize)]
struct TokenAnswer {
    token_type: &'static str,
    expires_in: u64,
    ext_expires_in: u64,
    access_token: String,
}

#[derive(Serialize)]
struct ErrorAnswer {
    error: &'static str,
    error_description: String,
    error_codes: [u32; 1],
    timestamp: String,
    trace_id: String,
    correlation_id: String,
    error_uri: String,
}

/// `error`, the number after `AADSTS`, and the sentence.
struct Failure(StatusCode, &'static str, u32, String);

/// Answers a request to `/{tenant}/oauth2/v2.0/token`.
pub(super) fn token(
    directory: &Directory,
    tokens: &mut Tokens,
    switches: &Switches,
    (tenant, headers, form): (&str, &HeaderMap, &[u8]),
    now: Timestamp,
) -> Reply {
    let reply = match grant(directory, switches, tenant, headers, form) {
        Ok(audience) => {
            let ids = (directory.tenant_id.as_str(), directory.client_id.as_str());
            let claims = Claims::new(Grant::new(), ids, &audience, switches, now);
            let lifetime = switches.token_lifetime.as_secs();
            let answer = TokenAnswer {
                token_type: "Bearer",
                expires_in: lifetime,
                ext_expires_in: lifetime,
                access_token: tokens.issue(claims, now),
            };
            Reply::json(StatusCode::OK, JSON, &answer)
        }
        Err(failure) => failed(failure, headers, now),
    };
    reply.with(
        CACHE_CONTROL,
        HeaderValue::from_static("no-store, no-cache"),
    )
}

/// The audience of the token that this form earns.
///
/// In which order Entra looks is not documented; this one goes from the whole to the particular.
fn grant(
    directory: &Directory,
    switches: &Switches,
    tenant: &str,
    headers: &HeaderMap,
    form: &[u8],
) -> Result<String, Failure> {
    let bad = |error, number, text| Err(Failure(StatusCode::BAD_REQUEST, error, number, text));
    if !tenant.eq_ignore_ascii_case(&directory.tenant_id) {
        return bad("invalid_request", 90002, tenant_not_found(tenant));
    }
    let form = fields(form);
    let field = |name: &str| {
        form.iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    };
    let Some(grant_type) = field("grant_type") else {
        let text = "The request body must contain the following parameter: 'grant_type'.";
        return bad("invalid_request", 900144, text.to_owned());
    };
    if grant_type != "client_credentials" {
        let text = format!("The app requested an unsupported grant type '{grant_type}'.");
        return bad("unsupported_grant_type", 70003, text);
    }
    if let Some(origin) = headers.get(ORIGIN) {
        let text = format!(
            "Cross-origin token redemption is permitted only for the 'Single-Page Application' \
             client-type. Request origin: '{}'.",
            String::from_utf8_lossy(origin.as_bytes())
        );
        return bad("invalid_request", 9002326, text);
    }

    let basic = basic_credentials(headers);
    let basic = basic
        .as_ref()
        .map(|(id, secret)| (id.as_str(), secret.as_str()));
    let (id, secret) = (basic.map(|b| b.0), basic.map(|b| b.1));
    let Some(id) = field("client_id").or(id) else {
        let text = "The request body must contain the following parameter: 'client_id'.";
        return bad("invalid_request", 900144, text.to_owned());
    };
    if !id.eq_ignore_ascii_case(&directory.client_id) {
        let text = format!(
            "Application with identifier '{id}' was not found in the directory '{tenant}'. This can \
             happen if the application has not been installed by the administrator of the tenant or \
             consented to by any user in the tenant. You may have sent your authentication request \
             to the wrong tenant."
        );
        return bad("unauthorized_client", 700016, text);
    }
    let unauthorized = |number, text| {
        Err(Failure(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            number,
            text,
        ))
    };
    let Some(secret) = field("client_secret").or(secret) else {
        let text = "'client_assertion', 'client_secret' or 'request' is required for the \
                    'client_credentials' grant type.";
        return unauthorized(7000216, text.to_owned());
    };
    if secret != directory.client_secret {
        let text = format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the \
             client secret value, not the client secret ID, for a secret added to app '{id}'."
        );
        return unauthorized(7000215, text);
    }

    let Some(scope) = field("scope") else {
        let text = "The request body must contain the following parameter: 'scope'.";
        return bad("invalid_request", 900144, text.to_owned());
    };
    let Some(resource) = scope.strip_suffix("/.default") else {
        let text = format!(
            "The provided request must include a 'scope' input parameter. The provided value for \
             the input parameter 'scope' is not valid. The scope {scope} is not valid."
        );
        return bad("invalid_scope", 70011, text);
    };
    if !switches.audiences.iter().any(|a| a == resource) && !OTHER_RESOURCES.contains(&resource) {
        let text = format!(
            "The resource principal named {resource} was not found in the tenant named {tenant}. \
             This can happen if the application has not been installed by the administrator of the \
             tenant or consented to by any user in the tenant. You might have sent your \
             authentication request to the wrong tenant."
        );
        return bad("invalid_resource", 500011, text);
    }
    Ok(resource.to_owned())
}

fn tenant_not_found(tenant: &str) -> String {
    format!(
        "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are \
         signing into the correct cloud. Check with your subscription administrator, this may \
         happen if there are no active subscriptions for the tenant."
    )
}

fn failed(
    Failure(status, error, number, text): Failure,
    headers: &HeaderMap,
    now: Timestamp,
) -> Reply {
    // A client that names its request finds the name in the answer.
    let named = headers
        .get("client-request-id")
        .and_then(|v| v.to_str().ok()?.parse().ok());
    let correlation = named.unwrap_or_else(Uuid::new_v4);
    let trace = Uuid::new_v4();
    let timestamp = now.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let body = ErrorAnswer {
        error,
        error_description: format!(
            "AADSTS{number}: {text}\r\nTrace ID: {trace}\r\nCorrelation ID: {correlation}\r\n\
             Timestamp: {timestamp}"
        ),
        error_codes: [number],
        timestamp,
        trace_id: trace.to_string(),
        correlation_id: correlation.to_string(),
        error_uri: format!("https://login.microsoftonline.com/error?code={number}"),
    };
    Reply::json(status, JSON, &body).with(
        HeaderName::from_static("x-ms-request-id"),
        header_text(trace),
    )
}

/// The fields of a form, in their order.
fn fields(form: &[u8]) -> Vec<(String, String)> {
    let form = String::from_utf8_lossy(form);
    let pairs = form.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (unescape(name, true), unescape(value, true)))
        .collect()
}

/// A form without its secrets.
pub(super) fn masked(form: &[u8]) -> String {
    const SECRETS: [&str; 3] = ["client_secret", "client_assertion", "password"];
    let form = String::from_utf8_lossy(form);
    let masked = form.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if SECRETS.contains(&unescape(name, true).as_str()) => {
            format!("{name}=***")
        }
        _ => pair.to_owned(),
    });
    masked.collect::<Vec<_>>().join("&")
}

/// Id and secret from a Basic header; both are form-encoded in it (RFC 6749, section 2.3.1).
fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let text = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    let basic = scheme.eq_ignore_ascii_case("Basic");
    basic.then(|| (unescape(id, true), unescape(secret, true)))
}

#[derive(Serialize)]
struct OpenIdConfiguration {
    token_endpoint: String,
    token_endpoint_auth_methods_supported: [&'static str; 2],
    issuer: String,
    authorization_endpoint: String,
    response_types_supported: [&'static str; 1],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: [&'static str; 1],
}

/// Answers `/{tenant}/v2.0/.well-known/openid-configuration`.
pub(super) fn openid_configuration(
    directory: &Directory,
    authority: &str,
    tenant: &str,
    headers: &HeaderMap,
    now: Timestamp,
) -> Reply {
    if !tenant.eq_ignore_ascii_case(&directory.tenant_id) {
        let text = tenant_not_found(tenant);
        return failed(
            Failure(StatusCode::BAD_REQUEST, "invalid_tenant", 90002, text),
            headers,
            now,
        );
    }
    let body = OpenIdConfiguration {
        token_endpoint: format!("{authority}/{tenant}/oauth2/v2.0/token"),
        token_endpoint_auth_methods_supported: ["client_secret_post", "client_secret_basic"],
        issuer: format!("{authority}/{tenant}/v2.0"),
        authorization_endpoint: format!("{authority}/{tenant}/oauth2/v2.0/authorize"),
        response_types_supported: ["token"],
        subject_types_supported: ["pairwise"],
        id_token_signing_alg_values_supported: ["RS256"],
    };
    Reply::json(StatusCode::OK, JSON, &body)
}

#[derive(Serialize)]
struct Discovery {
    tenant_discovery_endpoint: String,
    #[serde(rename = "api-version")]
    api_version: &'static str,
    metadata: [(); 0],
}

/// Answers `/common/discovery/instance`, by which MSAL checks an authority.
pub(super) fn discovery(directory: &Directory, authority: &str) -> Reply {
    let tenant = &directory.tenant_id;
    let body = Discovery {
        tenant_discovery_endpoint: format!(
            "{authority}/{tenant}/v2.0/.well-known/openid-configuration"
        ),
        api_version: "1.1",
        metadata: [],
    };
    Reply::json(StatusCode::OK, JSON, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "client_id=app&client_secret=s%2Be+cret&grant_type=client_credentials\
                        &scope=https%3A%2F%2Fapi.securitycenter.microsoft.com%2F.default";

    fn ask(tenant: &str, headers: &HeaderMap, form: &str) -> (u16, serde_json::Value) {
        let directory = Directory {
            tenant_id: "contoso".to_owned(),
            client_id: "app".to_owned(),
            client_secret: "s+e cret".to_owned(),
        };
        let now = Timestamp::constant(1_769_807_482, 0);
        let request = (tenant, headers, form.as_bytes());
        let reply = token(
            &directory,
            &mut Tokens::default(),
            &Switches::default(),
            request,
            now,
        );
        (
            reply.status.as_u16(),
            serde_json::from_slice(&reply.body).unwrap(),
        )
    }

    #[test]
    fn the_right_form_earns_a_token() {
        let (status, body) = ask("CONTOSO", &HeaderMap::new(), FORM);
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["token_type"], "Bearer");
        assert_eq!(body["expires_in"], 3599);
        assert_eq!(body["access_token"].as_str().unwrap().split('.').count(), 3);
    }

    #[test]
    fn a_basic_header_does_in_place_of_the_form() {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", STANDARD.encode("app:s%2Be+cret"));
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        let form = FORM.replace("client_id=app&client_secret=s%2Be+cret&", "");
        let (status, body) = ask("contoso", &headers, &form);
        assert_eq!(status, 200, "{body}");
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        let api = "https%3A%2F%2Fapi.securitycenter.microsoft.com";
        for (tenant, from, to, status, error, number) in [
            ("fabrikam", "", "", 400, "invalid_request", 90002),
            (
                "contoso",
                "grant_type=",
                "other=",
                400,
                "invalid_request",
                900144,
            ),
            (
                "contoso",
                "=client_credentials",
                "=password",
                400,
                "unsupported_grant_type",
                70003,
            ),
            (
                "contoso",
                "client_id=",
                "other=",
                400,
                "invalid_request",
                900144,
            ),
            (
                "contoso",
                "=app",
                "=other",
                400,
                "unauthorized_client",
                700016,
            ),
            (
                "contoso",
                "client_secret=",
                "other=",
                401,
                "invalid_client",
                7000216,
            ),
            ("contoso", "s%2Be", "s+e", 401, "invalid_client", 7000215),
            (
                "contoso",
                "scope=",
                "resource=",
                400,
                "invalid_request",
                900144,
            ),
            (
                "contoso",
                ".default",
                "Machine.Read",
                400,
                "invalid_scope",
                70011,
            ),
            (
                "contoso",
                api,
                "https://contoso.com",
                400,
                "invalid_resource",
                500011,
            ),
        ] {
            let (got, body) = ask(tenant, &HeaderMap::new(), &FORM.replacen(from, to, 1));
            assert_eq!(got, status, "{from} -> {to}: {body}");
            assert_eq!(body["error"], error, "{from} -> {to}: {body}");
            assert_eq!(body["error_codes"], serde_json::json!([number]), "{body}");
            let description = body["error_description"].as_str().unwrap();
            assert!(
                description.starts_with(&format!("AADSTS{number}: ")),
                "{description}"
            );
            let trace = body["trace_id"].as_str().unwrap();
            let end = format!("\r\nTimestamp: {}", body["timestamp"].as_str().unwrap());
            assert!(
                description.contains(&format!("\r\nTrace ID: {trace}\r\n")),
                "{description}"
            );
            assert!(description.ends_with(&end), "{description}");
            assert_eq!(body["timestamp"], "2026-01-30 21:11:22Z");
        }
    }

    /// MicrosoftDocs/azure-docs#76480
    #[test]
    fn a_request_from_a_browsers_page_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, "https://soar.contoso.com".parse().unwrap());
        let (status, body) = ask("contoso", &headers, FORM);
        assert_eq!(
            (status, &body["error_codes"][0]),
            (400, &9_002_326.into()),
            "{body}"
        );
    }

    #[test]
    fn a_masked_form_has_no_secret() {
        let masked = masked(b"client_id=a&client%5Fsecret=b&scope=c&client_assertion=d");
        assert_eq!(
            masked,
            "client_id=a&client%5Fsecret=***&scope=c&client_assertion=***"
        );
    }
}

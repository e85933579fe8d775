//! Entra's token endpoint, the device-code endpoint beside it, and the two documents around them.
//!
//! Shapes and codes are those of Microsoft, "OAuth 2.0 client credentials flow", "OAuth 2.0 device
//! authorization grant" and "Microsoft Entra authentication and authorization error codes"; the
//! sentences are what the service says.

pub(super) mod client_assertion;
pub(super) mod device_code;

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
use client_assertion::{Expected, Registered, Used};
use device_code::SignIns;

/// Resources that a tenant knows beside the API's own: tokens for them are given out, and the API
/// refuses them. The first is the host that is called, which is the most natural mistake.
const OTHER_RESOURCES: [&str; 3] = [
    "https://api.security.microsoft.com",
    "https://graph.microsoft.com",
    "https://management.azure.com",
];

/// Device code's grant type (RFC 8628, section 3.4).
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// RFC 7523, section 2.2.
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// In place of a tenant, where users of any may sign in.
const ANY_TENANT: &str = "organizations";

const JSON: &str = "application/json; charset=utf-8";

/// The one tenant that there is, with the one application in it.
#[derive(Clone)]
pub(super) struct Directory {
    pub(super) tenant_id: String,
    pub(super) client_id: String,
    pub(super) client_secret: String,
    /// What else the application may prove itself with.
    pub(super) registered: Registered,
}

/// What gives out tokens, and what it remembers.
pub(super) struct Issuer<'a> {
    pub(super) tokens: &'a mut Tokens,
    pub(super) sign_ins: &'a mut SignIns,
    pub(super) used: &'a mut Used,
    pub(super) switches: &'a Switches,
}

impl Issuer<'_> {
    pub(super) fn issue(
        &mut self,
        directory: &Directory,
        grant: Grant,
        audience: &str,
        now: Timestamp,
    ) -> String {
        let ids = (directory.tenant_id.as_str(), directory.client_id.as_str());
        let claims = Claims::new(grant, ids, audience, self.switches, now);
        self.tokens.issue(claims, now)
    }
}

/// What a form earns.
struct Earned {
    grant: Grant,
    audience: String,
    refresh_token: Option<String>,
}

#[derive(Serialize)]
struct TokenAnswer {
    token_type: &'static str,
    expires_in: u64,
    ext_expires_in: u64,
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
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
pub(super) struct Failure(
    pub(super) StatusCode,
    pub(super) &'static str,
    pub(super) u32,
    pub(super) String,
);

impl Failure {
    /// The application has not proven itself.
    pub(super) fn client(number: u32, text: String) -> Self {
        Self(StatusCode::UNAUTHORIZED, "invalid_client", number, text)
    }

    fn bad(error: &'static str, number: u32, text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, error, number, text.into())
    }

    fn missing(field: &str) -> Self {
        let text = format!("The request body must contain the following parameter: '{field}'.");
        Self::bad("invalid_request", 900144, text)
    }
}

/// Answers a request to `/{tenant}/oauth2/v2.0/token`. `authority` is this origin.
pub(super) fn token(
    directory: &Directory,
    issuer: &mut Issuer<'_>,
    authority: &str,
    (tenant, headers, form): (&str, &HeaderMap, &[u8]),
    now: Timestamp,
) -> Reply {
    let form = Form::read(form);
    let endpoint = format!("{authority}/{tenant}/oauth2/v2.0/token");
    let earned = application(directory, tenant, headers, &form)
        .and_then(|id| grant(directory, issuer, (&id, &endpoint), headers, &form, now));
    let reply = match earned {
        Ok(earned) => {
            let lifetime = issuer.switches.token_lifetime.as_secs();
            let answer = TokenAnswer {
                token_type: "Bearer",
                expires_in: lifetime,
                ext_expires_in: lifetime,
                access_token: issuer.issue(directory, earned.grant, &earned.audience, now),
                refresh_token: earned.refresh_token,
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

/// Answers a request to `/{tenant}/oauth2/v2.0/devicecode`.
pub(super) fn device_code(
    directory: &Directory,
    issuer: &mut Issuer<'_>,
    (tenant, headers, form): (&str, &HeaderMap, &[u8]),
    now: Timestamp,
) -> Reply {
    let form = Form::read(form);
    let asked = any_tenant(directory, tenant, headers, &form)
        .and_then(|()| delegated(issuer.switches, tenant, &form));
    match asked {
        Ok((audience, offline)) => {
            let switches = issuer.switches;
            let answer = issuer.sign_ins.begin(audience, offline, switches, now);
            Reply::json(StatusCode::OK, JSON, &answer)
        }
        Err(failure) => failed(failure, headers, now),
    }
}

/// What every request has, in an order that goes from the whole to the particular: which one Entra
/// has is not documented. The application's id.
fn application(
    directory: &Directory,
    tenant: &str,
    headers: &HeaderMap,
    form: &Form,
) -> Result<String, Failure> {
    let users = form
        .field("grant_type")
        .is_some_and(|grant| grant == DEVICE_CODE || grant == "refresh_token");
    let any = users && tenant == ANY_TENANT;
    if !any && !tenant.eq_ignore_ascii_case(&directory.tenant_id) {
        let text = tenant_not_found(tenant);
        return Err(Failure::bad("invalid_request", 90002, text));
    }
    let grant_type = form.need("grant_type")?;
    if !["client_credentials", DEVICE_CODE, "refresh_token"].contains(&grant_type) {
        let text = format!("The app requested an unsupported grant type '{grant_type}'.");
        return Err(Failure::bad("unsupported_grant_type", 70003, text));
    }
    if let Some(origin) = headers.get(ORIGIN) {
        let text = format!(
            "Cross-origin token redemption is permitted only for the 'Single-Page Application' \
             client-type. Request origin: '{}'.",
            String::from_utf8_lossy(origin.as_bytes())
        );
        return Err(Failure::bad("invalid_request", 9002326, text));
    }
    known_application(directory, tenant, headers, form)
}

fn any_tenant(
    directory: &Directory,
    tenant: &str,
    headers: &HeaderMap,
    form: &Form,
) -> Result<(), Failure> {
    if !tenant.eq_ignore_ascii_case(&directory.tenant_id) && tenant != ANY_TENANT {
        let text = tenant_not_found(tenant);
        return Err(Failure::bad("invalid_request", 90002, text));
    }
    known_application(directory, tenant, headers, form).map(|_| ())
}

fn known_application(
    directory: &Directory,
    tenant: &str,
    headers: &HeaderMap,
    form: &Form,
) -> Result<String, Failure> {
    let basic = basic_credentials(headers).map(|(id, _)| id);
    let id = form.field("client_id").map(str::to_owned).or(basic);
    let id = id.ok_or_else(|| Failure::missing("client_id"))?;
    if !id.eq_ignore_ascii_case(&directory.client_id) {
        let text = format!(
            "Application with identifier '{id}' was not found in the directory '{tenant}'. This can \
             happen if the application has not been installed by the administrator of the tenant or \
             consented to by any user in the tenant. You may have sent your authentication request \
             to the wrong tenant."
        );
        return Err(Failure::bad("unauthorized_client", 700016, text));
    }
    Ok(id)
}

/// What the form earns.
fn grant(
    directory: &Directory,
    issuer: &mut Issuer<'_>,
    (id, endpoint): (&str, &str),
    headers: &HeaderMap,
    form: &Form,
    now: Timestamp,
) -> Result<Earned, Failure> {
    let tenant = &directory.tenant_id;
    let users = |switches: &Switches| Grant::new().delegated(switches.user_scopes.iter().cloned());
    match form.need("grant_type")? {
        DEVICE_CODE => {
            let code = form.need("device_code")?;
            let signed_in = issuer.sign_ins.poll(code, issuer.switches, now)?;
            Ok(Earned {
                grant: users(issuer.switches),
                audience: signed_in.audience,
                refresh_token: signed_in.refresh_token,
            })
        }
        "refresh_token" => {
            let token = form.need("refresh_token")?;
            let refresh_token = Some(issuer.sign_ins.refresh(token, issuer.switches)?);
            Ok(Earned {
                grant: users(issuer.switches),
                audience: delegated(issuer.switches, tenant, form)?.0,
                refresh_token,
            })
        }
        _ => {
            prove(directory, issuer.used, (id, endpoint), headers, form, now)?;
            Ok(Earned {
                grant: Grant::new(),
                audience: audience(issuer.switches, tenant, form.need("scope")?)?,
                refresh_token: None,
            })
        }
    }
}

/// Whether the application is the one that it says it is.
fn prove(
    directory: &Directory,
    used: &mut Used,
    (id, endpoint): (&str, &str),
    headers: &HeaderMap,
    form: &Form,
    now: Timestamp,
) -> Result<(), Failure> {
    if let Some(assertion) = form.field("client_assertion") {
        if form.field("client_assertion_type") != Some(ASSERTION) {
            let text = format!("The client_assertion_type must be '{ASSERTION}'.");
            return Err(Failure::bad("invalid_request", 50027, text));
        }
        let expected = Expected {
            client_id: id,
            endpoint,
            now,
        };
        return directory.registered.check(assertion, &expected, used);
    }
    let basic = basic_credentials(headers).map(|(_, secret)| secret);
    let Some(secret) = form.field("client_secret").or(basic.as_deref()) else {
        let text = "'client_assertion', 'client_secret' or 'request' is required for the \
                    'client_credentials' grant type.";
        return Err(Failure::client(7000216, text.to_owned()));
    };
    if secret != directory.client_secret {
        let text = format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the \
             client secret value, not the client secret ID, for a secret added to app '{id}'."
        );
        return Err(Failure::client(7000215, text));
    }
    Ok(())
}

/// The audience that a user's scopes name, and whether a refresh token is asked for.
fn delegated(switches: &Switches, tenant: &str, form: &Form) -> Result<(String, bool), Failure> {
    let mut scopes: Vec<&str> = form.need("scope")?.split(' ').collect();
    let before = scopes.len();
    scopes.retain(|scope| *scope != "offline_access");
    let audience = audience(switches, tenant, &scopes.join(" "))?;
    Ok((audience, scopes.len() < before))
}

/// The audience of a scope.
fn audience(switches: &Switches, tenant: &str, scope: &str) -> Result<String, Failure> {
    let Some(resource) = scope.strip_suffix("/.default") else {
        let text = format!(
            "The provided request must include a 'scope' input parameter. The provided value for \
             the input parameter 'scope' is not valid. The scope {scope} is not valid."
        );
        return Err(Failure::bad("invalid_scope", 70011, text));
    };
    if !knows(switches, resource) {
        let text = format!(
            "The resource principal named {resource} was not found in the tenant named {tenant}. \
             This can happen if the application has not been installed by the administrator of the \
             tenant or consented to by any user in the tenant. You might have sent your \
             authentication request to the wrong tenant."
        );
        return Err(Failure::bad("invalid_resource", 500011, text));
    }
    Ok(resource.to_owned())
}

/// Whether the tenant has this resource.
pub(super) fn knows(switches: &Switches, resource: &str) -> bool {
    switches.audiences.iter().any(|a| a == resource) || OTHER_RESOURCES.contains(&resource)
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
struct Form(Vec<(String, String)>);

impl Form {
    fn read(form: &[u8]) -> Self {
        let form = String::from_utf8_lossy(form);
        let pairs = form.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (unescape(name, true), unescape(value, true)))
                .collect(),
        )
    }

    fn field(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|(n, _)| n == name);
        field.map(|(_, value)| value.as_str())
    }

    fn need(&self, name: &str) -> Result<&str, Failure> {
        self.field(name).ok_or_else(|| Failure::missing(name))
    }
}

/// A form without its secrets.
pub(super) fn masked(form: &[u8]) -> String {
    const SECRETS: [&str; 5] = [
        "client_secret",
        "client_assertion",
        "password",
        "device_code",
        "refresh_token",
    ];
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
    device_authorization_endpoint: String,
    token_endpoint_auth_methods_supported: [&'static str; 3],
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
        device_authorization_endpoint: format!("{authority}/{tenant}/oauth2/v2.0/devicecode"),
        token_endpoint_auth_methods_supported: [
            "client_secret_post",
            "private_key_jwt",
            "client_secret_basic",
        ],
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
            registered: Registered::default(),
        };
        let mut issuer = Issuer {
            tokens: &mut Tokens::default(),
            sign_ins: &mut SignIns::default(),
            used: &mut Used::default(),
            switches: &Switches::default(),
        };
        let now = Timestamp::constant(1_769_807_482, 0);
        let request = (tenant, headers, form.as_bytes());
        let reply = token(&directory, &mut issuer, "https://localhost", request, now);
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

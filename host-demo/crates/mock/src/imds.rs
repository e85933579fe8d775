//! A virtual machine's metadata service, as far as it gives out tokens (Microsoft, "How to use
//! managed identities for Azure resources on an Azure VM to acquire an access token").

use http::header::HeaderName;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

use super::entra::{Directory, Issuer, knows};
use super::token::Grant;
use super::wire::{Reply, unescape};

const JSON: &str = "application/json; charset=utf-8";

/// Numbers are text here.
#[derive(Serialize)]
struct Answer {
    access_token: String,
    client_id: String,
    expires_in: String,
    expires_on: String,
    ext_expires_in: String,
    not_before: String,
    resource: String,
    token_type: &'static str,
}

#[derive(Serialize)]
struct Problem {
    error: &'static str,
    error_description: &'static str,
}

/// Answers `/metadata/identity/oauth2/token`.
pub(super) fn token(
    directory: &Directory,
    issuer: &mut Issuer<'_>,
    query: &str,
    headers: &HeaderMap,
    now: Timestamp,
) -> Reply {
    let problem = |error, error_description| {
        let body = Problem {
            error,
            error_description,
        };
        Reply::json(StatusCode::BAD_REQUEST, JSON, &body)
    };
    let is_metadata = headers
        .get(HeaderName::from_static("metadata"))
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    // A request that came by way of a proxy is refused: somebody outside may have made it.
    if !is_metadata || headers.contains_key("x-forwarded-for") {
        return problem("bad_request_102", "Required metadata header not specified");
    }
    let field = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(n, _)| *n == name)
            .map(|(_, value)| unescape(value, true))
    };
    if field("api-version").is_none() {
        return problem("invalid_request", "api-version is not specified");
    }
    let Some(resource) = field("resource") else {
        return problem("invalid_request", "resource is not specified");
    };
    if field("client_id").is_some_and(|id| !id.eq_ignore_ascii_case(&directory.client_id)) {
        return problem("invalid_request", "Identity not found");
    }
    if !knows(issuer.switches, &resource) {
        return problem(
            "invalid_resource",
            "AADSTS500011: The resource principal was not found",
        );
    }
    let lifetime = issuer.switches.token_lifetime.as_secs();
    let second = now.as_second();
    let body = Answer {
        access_token: issuer.issue(directory, Grant::new(), &resource, now),
        client_id: directory.client_id.clone(),
        expires_in: lifetime.to_string(),
        expires_on: (second + i64::try_from(lifetime).unwrap_or(i64::MAX / 2)).to_string(),
        ext_expires_in: lifetime.to_string(),
        not_before: (second - 300).to_string(),
        resource,
        token_type: "Bearer",
    };
    Reply::json(StatusCode::OK, JSON, &body)
}

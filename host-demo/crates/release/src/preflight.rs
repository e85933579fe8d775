//! Whether releases would work: what is found out about it, and what that means.
//!
//! [`look`] asks and changes nothing: it resolves the service's name, connects without a token,
//! fetches a token, and makes one call of the plugin's that reads an action that does not exist.
//! [`Facts::judge`] is pure.

mod findings;
mod permissions;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::DATE;
use jiff::{SignedDuration, Timestamp};

use defender_connect::cloud::Service;
use defender_connect::identity::{Claims, Credential, IdentityError};
use defender_connect::transport::{ProxyAnswer, TransportError, TransportErrorKind};
use defender_core::clock::Moment;
use defender_host::bindings::Reason;
use defender_host::boundary::policy::Policy;
use defender_host::{CallError, Host, WaitOptions};

pub use findings::{Finding, Level, Report, Topic, Verdict};
pub use permissions::{Ability, Bearer, Rights};

/// What is read: no action has this id.
const NO_ACTION: &str = "00000000-0000-0000-0000-000000000000";

/// How long the name and the connection may take, each, unless a call may take less.
const PATIENCE: Duration = Duration::from_secs(15);

/// How the service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The file of the certificate authorities that are trusted besides the operating system's.
    pub ca_file: Option<String>,
    /// What the environment names in the place of the operating system's.
    pub store: Option<String>,
    /// The proxy in between.
    pub proxy: Option<String>,
}

/// What was found out.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Which service it is about.
    pub service: Service,
    /// How it was reached.
    pub way: Way,
    /// What this host lets out.
    pub policy: Policy,
    /// The addresses of its name, or why there are none. Absent behind a proxy, which looks for
    /// itself.
    pub addresses: Option<Result<Vec<IpAddr>, String>>,
    /// Whether a connection came about.
    pub connection: Result<(), TransportError>,
    /// How far the service's clock is ahead of ours, to the second.
    pub skew: Option<SignedDuration>,
    /// When it was looked.
    pub now: Timestamp,
    /// What the token says.
    pub token: Result<Claims, IdentityError>,
    /// The credential that it is obtained with, where there is one.
    pub credential: Option<Credential>,
    /// Why the proxy makes no tunnel to the service and to its authority, where it makes none.
    pub proxy_answers: [Option<ProxyAnswer>; 2],
    /// How the reading ended: well, if the service said that there is no such action. Absent where
    /// it was of no use to try.
    pub read: Option<Result<(), CallError>>,
}

/// Finds out. Costs one call of the quota for reading, if there is a connection and a token, which is
/// waited for as long as `patience` allows.
pub async fn look(host: &Host, service: &Service, way: Way, patience: &WaitOptions) -> Facts {
    let addresses = match way.proxy {
        Some(_) => None,
        None => Some(resolve(host, service).await),
    };
    let (connection, skew) = match connect(host, service).await {
        Ok(date) => (Ok(()), date),
        Err(error) => (Err(error), None),
    };
    let egress = host.egress();
    let token = egress.token_within(patience).await;
    let token = token.map(|token| token.claims().clone());
    let credential = egress.credential().await;
    let failures = [
        connection.as_ref().err(),
        match &token {
            Err(IdentityError::NoAnswer(error)) => Some(error),
            _ => None,
        },
    ];
    let mut proxy_answers = [None, None];
    let origins = [service.origin(), service.authority()];
    for ((answer, failure), origin) in proxy_answers.iter_mut().zip(failures).zip(origins) {
        if let Some(failure) = failure {
            *answer = egress.transport().ask_proxy(origin, failure.kind).await;
        }
    }
    let now = host.clock().wall();
    let read = if connection.is_ok() && token.is_ok() {
        // The quota alone: after a 401 another token is fetched, which takes its time.
        let no_waiting = WaitOptions {
            quota_until: Some(host.clock().now()),
            ..patience.clone()
        };
        Some(match host.get_machine_action(NO_ACTION, no_waiting).await {
            Err(error) if matches!(error.reason(), Some(Reason::NotFound)) => Ok(()),
            other => other.map(|_| ()),
        })
    } else {
        None
    };
    Facts {
        service: service.clone(),
        way,
        policy: host.policy().clone(),
        addresses,
        connection,
        skew,
        now,
        token,
        credential,
        proxy_answers,
        read,
    }
}

/// How long a step may take.
fn patience(host: &Host) -> Duration {
    PATIENCE.min(host.call_timeout())
}

async fn resolve(host: &Host, service: &Service) -> Result<Vec<IpAddr>, String> {
    let origin = service.origin();
    let name = origin.host().trim_matches(['[', ']']);
    let deadline = host.clock().now() + patience(host);
    let found = tokio::select! {
        found = tokio::net::lookup_host((name, origin.port())) => found,
        () = host.clock().sleep_until(deadline) => return Err("no answer in time".to_owned()),
    };
    let mut addresses: Vec<IpAddr> = found
        .map_err(|error| error.to_string())?
        .map(|socket| socket.ip())
        .collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    Ok(addresses)
}

/// Asks for the origin's first page, without a token. Whatever the answer, it is one, and dated.
async fn connect(host: &Host, service: &Service) -> Result<Option<SignedDuration>, TransportError> {
    let origin = service.origin();
    let unusable = |_| TransportError {
        kind: TransportErrorKind::NotARequest,
        detail: format!("the request to {origin} could not be made"),
    };
    let request = http::Request::get(format!("{origin}/"));
    let (head, ()) = request.body(()).map_err(unusable)?.into_parts();
    let clock = host.clock();
    let patience = patience(host);
    let deadline: Moment = clock.now() + patience;
    let transport = host.egress().transport();
    let sending = transport.send(head, Bytes::new(), std::sync::Arc::clone(clock), deadline);
    let answer = tokio::select! {
        answer = sending => answer?,
        () = clock.sleep_until(deadline) => return Err(TransportError {
            kind: TransportErrorKind::ConnectTimeout,
            detail: format!("no answer from {origin} within {} s", patience.as_secs_f64()),
        }),
    };
    let now = clock.wall();
    let date = answer
        .headers()
        .get(DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(|date| {
            jiff::fmt::rfc2822::DateTimeParser::new()
                .parse_timestamp(date)
                .ok()
        });
    // The header names the second that has begun: on the average it is half a second behind.
    let half = SignedDuration::from_millis(500);
    Ok(date.map(|date| {
        let ahead = date.duration_since(now) + half;
        ahead.round(jiff::Unit::Second).unwrap_or(ahead)
    }))
}

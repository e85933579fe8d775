//! The stand-in as a client sees it: over TCP and TLS, on a clock that is moved by hand.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;

use super::*;
use defender_core::clock::ManualClock;

mod answers;
mod faults;

const SECOND: Duration = Duration::from_secs(1);

struct World {
    mock: Mock,
    clock: ManualClock,
    http: Client,
    token: String,
}

/// What a client got, with everything that one needs to see why.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self}"))
    }

    fn error_code(&self) -> String {
        let body = self.json();
        body["error"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no code: {self}"))
            .to_owned()
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{:#?}\n\n{}", self.status, self.headers, self.body)
    }
}

fn client(ca_pem: Option<&str>, http1: bool) -> Client {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder().no_proxy().retry(reqwest::retry::never());
    if let Some(ca) = ca_pem {
        builder = builder.tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes()).unwrap()]);
    }
    if http1 { builder.http1_only() } else { builder }
        .build()
        .unwrap()
}

async fn world(switches: Switches) -> World {
    let clock = ManualClock::new();
    let builder = Mock::builder()
        .clock(Arc::new(clock.clone()))
        .switches(switches);
    let mock = builder.start().await.unwrap();
    let http = client(mock.ca_pem(), false);
    let token = mock.token(Grant::new());
    World {
        mock,
        clock,
        http,
        token,
    }
}

async fn got(request: RequestBuilder) -> Got {
    let answer = request
        .send()
        .await
        .unwrap_or_else(|e| panic!("no answer: {e:?}"));
    let (status, headers) = (answer.status(), answer.headers().clone());
    Got {
        status,
        headers,
        body: answer.text().await.unwrap(),
    }
}

/// What the operating system said.
fn io_kind(error: &reqwest::Error) -> Option<std::io::ErrorKind> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

impl World {
    fn url(&self, path: &str) -> String {
        format!(
            "{}{}",
            self.mock.base_url(),
            path.replace("{id}", &self.mock.machine_ids()[0])
        )
    }

    fn release(&self) -> RequestBuilder {
        self.release_with("application/json", r#"{"Comment":"clean"}"#)
    }

    fn release_with(&self, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self
            .post("/api/machines/{id}/unrestrictCodeExecution")
            .body(body);
        request
            .bearer_auth(&self.token)
            .header("content-type", content_type)
    }

    /// Without a token, a body and its type.
    fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(self.url(path))
    }

    fn read(&self, action: &str) -> RequestBuilder {
        self.http
            .get(self.url(&format!("/api/machineactions/{action}")))
            .bearer_auth(&self.token)
    }

    fn ask_token(&self) -> RequestBuilder {
        let url = format!(
            "{}/{}/oauth2/v2.0/token",
            self.mock.authority(),
            self.mock.tenant_id()
        );
        let form = format!(
            "client_id={}&client_secret={}&scope={}&grant_type=client_credentials",
            self.mock.client_id(),
            self.mock.client_secret().replace('+', "%2B"),
            self.mock.scope()
        );
        self.http
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
    }
}

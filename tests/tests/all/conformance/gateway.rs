//! The gateway between a host and the case's service, and what an engine does with it.

use std::sync::Arc;

use host_demo::clock::ManualClock;
use host_demo::cloud::Service;
use host_demo::egress::Setup;
use host_demo::identity::FixedToken;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tests::foreign::Asked;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::hosts::AtWork;
use crate::gateway::listen;

/// A gateway to the service that a host would else call itself.
pub(super) struct Gate {
    base_url: String,
    key: String,
    token: String,
    client: Client,
    serving: JoinHandle<()>,
    _stop: watch::Sender<bool>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Gate {
    pub(super) async fn before(asked: &Asked) -> Self {
        let base_url = &asked.environment["DEFENDER_BASE_URL"];
        let token = asked.environment["DEFENDER_TOKEN"].clone();
        let service = Service::custom(base_url, base_url, "https://x/.default").unwrap();
        let mut setup = Setup::new(service, Arc::new(FixedToken::new(&token).unwrap()));
        setup.clock = Arc::new(ManualClock::new());
        let (gateway, key) = listen(&setup.build().unwrap()).await;
        let (stop, stopped) = watch::channel(false);
        Self {
            base_url: gateway.base_url().to_owned(),
            key,
            token,
            client: tests::bare::client(b"").unwrap(),
            serving: tokio::spawn(gateway.serve(stopped)),
            _stop: stop,
        }
    }

    /// An engine's call, with a capability of its own for its guest. Where the gateway hands out
    /// none, that is the engine's failure; a guest that uses it while it says that it sent nothing,
    /// or does not use it while it says otherwise, has crashed.
    pub(super) async fn call(&self, host: &mut AtWork, asked: &Asked) -> Value {
        let wanted = json!({
            "operation": "unrestrict-code-execution",
            "target": asked.machine_id,
            "comment": asked.comment,
        });
        let asking = self.client.post(format!("{}/capabilities", self.base_url));
        let asking = asking.body(wanted.to_string());
        let (status, granted) = self.send(asking, &self.key).await;
        let Some(capability) = granted["capability"].as_str() else {
            return json!({ "fault": format!("{status} {granted}") });
        };
        let mut asked = asked.clone();
        asked.environment = [
            ("DEFENDER_BASE_URL", self.base_url.as_str()),
            ("DEFENDER_TOKEN", capability),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let told = host.call(&asked).await;
        let is_refused_by_the_guest = told["err"]["reason"]["invalid-argument"].is_object();
        match self.is_used(capability).await {
            true if is_refused_by_the_guest => json!({ "crash": "its capability is used" }),
            false if !is_refused_by_the_guest => json!({ "crash": "its capability is not used" }),
            _ => told,
        }
    }

    /// Tries it with a request that is never sent.
    async fn is_used(&self, capability: &str) -> bool {
        let nowhere = self.client.get(format!("{}/nowhere", self.base_url));
        let (status, answer) = self.send(nowhere, capability).await;
        match answer["error"]["code"].as_str() {
            Some("CapabilityUsed") => true,
            Some("Denied") => false,
            _ => panic!("{status} {answer}"),
        }
    }

    /// What the gateway answers, which is never the token.
    async fn send(&self, request: RequestBuilder, bearer: &str) -> (StatusCode, Value) {
        let answer = request.bearer_auth(bearer).send().await.unwrap();
        let status = answer.status();
        let body = answer.bytes().await.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(!text.contains(&self.token), "the token is in {text}");
        (status, serde_json::from_slice(&body).unwrap())
    }
}

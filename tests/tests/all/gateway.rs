//! The boundary as a service: the component through the gateway, and whoever else tries.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use defender_mock::{Api, ContentEncoding, Duplicate, Fault, Grant};
use host_demo::audit::{Audit, Who};
use host_demo::contract::{Effect, Error, MachineAction, Reason};
use host_demo::egress::Egress;
use host_demo::gateway::{Gateway, GatewayError};
use host_demo::host::Host;
use host_demo::limits::Quota;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use serde_json::{Value, json};
use tests::naive;
use tests::world::{Scene, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wasmtime::{Config, Engine};

const RELEASE: &str = "unrestrict-code-execution";
const COMMENT: &str = "INC-42: cleaned";

/// What an engine asks for, to release a device.
fn release_of(machine: &str) -> Value {
    json!({ "operation": RELEASE, "target": machine, "comment": COMMENT })
}

/// A gateway to the world's service.
struct Stage {
    world: World,
    base_url: String,
    authority: String,
    key: String,
    client: reqwest::Client,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// A gateway that listens, and the engine's key to it.
pub(crate) async fn listen(egress: &Egress) -> (Gateway, String) {
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let gateway = Gateway::bind(egress, at).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    gateway.write_key(&file).unwrap();
    let key = std::fs::read_to_string(file).unwrap();
    assert!(!format!("{gateway:?}").contains(&key));
    (gateway, key)
}

/// An answer of the gateway's.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    retry_after: Option<u64>,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Stage {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(bend: impl FnOnce(&mut Scene)) -> Self {
        let world = World::with(bend).await;
        let host = world.host.clone();
        Self::before(world, &host).await
    }

    /// With the boundary of another host than the world's own.
    async fn before(world: World, host: &Host) -> Self {
        let (gateway, key) = listen(host.egress()).await;
        let base_url = gateway.base_url().to_owned();
        let authority = gateway.address().unwrap().to_string();
        let (stop, stopped) = watch::channel(false);
        Self {
            world,
            base_url,
            authority,
            key,
            client: tests::bare::client(b"").unwrap(),
            stop,
            serving: tokio::spawn(gateway.serve(stopped)),
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let retry_after = answer.headers().get(RETRY_AFTER);
        Answer {
            status: answer.status(),
            retry_after: retry_after.map(|value| value.to_str().unwrap().parse().unwrap()),
            text: String::from_utf8(answer.bytes().await.unwrap().to_vec()).unwrap(),
        }
    }

    async fn ask_with(&self, key: &str, body: String) -> Answer {
        let request = self.client.post(format!("{}/capabilities", self.base_url));
        let request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        self.send(request.body(body)).await
    }

    async fn ask(&self, body: Value) -> Answer {
        self.ask_with(&self.key, body.to_string()).await
    }

    /// A capability to release a device.
    async fn capability(&self, machine: &str) -> String {
        let answer = self.ask(release_of(machine)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        answer.json()["capability"].as_str().unwrap().to_owned()
    }

    /// The component's release of a device, in an engine that hands it a capability as its token.
    async fn release_at(
        &self,
        base_url: &str,
        capability: &str,
        machine: &str,
    ) -> Result<MachineAction, Error> {
        static ENGINE: OnceLock<Engine> = OnceLock::new();
        let engine = ENGINE.get_or_init(|| Engine::new(Config::new().consume_fuel(true)).unwrap());
        let service = naive::Service {
            base_url: base_url.to_owned(),
            token: capability.to_owned(),
        };
        naive::release(engine, service, machine, COMMENT).await
    }

    async fn release(&self, capability: &str, machine: &str) -> Result<MachineAction, Error> {
        self.release_at(&self.base_url, capability, machine).await
    }

    /// A request as a script makes it.
    async fn post(&self, capability: &str, path: &str) -> Answer {
        let request = self.client.post(format!("{}{path}", self.base_url));
        let request = request.header(AUTHORIZATION, format!("Bearer {capability}"));
        let request = request.header(CONTENT_TYPE, "application/json");
        self.send(request.body(json!({ "Comment": COMMENT }).to_string()))
            .await
    }

    /// What comes back to these bytes.
    async fn raw(&self, bytes: &str) -> String {
        let mut tcp = TcpStream::connect(&self.authority).await.unwrap();
        tcp.write_all(bytes.as_bytes()).await.unwrap();
        let mut back = Vec::new();
        // An answer to what was not read to its end may be cut off by a reset.
        let _ = tcp.read_to_end(&mut back).await;
        String::from_utf8(back).unwrap()
    }

    /// Moves the clock beyond every deadline of now.
    fn let_time_pass(&self) {
        let time = self.world.host.call_timeout() + Duration::from_secs(1);
        self.world.clock.advance(time);
    }

    async fn until_used_is(&self, wanted: usize) {
        for _ in 0..100_000 {
            if self.world.used().await == wanted {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{} are used, not {wanted}", self.world.used().await);
    }
}

fn path(machine: &str) -> String {
    format!("/api/machines/{machine}/unrestrictCodeExecution")
}

#[track_caller]
fn is(result: Result<MachineAction, Error>, reason: &str, effect: Effect, says: &str) {
    let error = result.expect_err("no success");
    assert_eq!(
        (error.reason.name(), error.effect),
        (reason, effect),
        "{error:?}"
    );
    assert!(
        error.message.contains(says),
        "nothing of {says:?} in {error:?}"
    );
}

#[tokio::test]
async fn through_the_gateway_the_component_releases_the_device_and_no_token_comes_back() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    let answer = stage.ask(release_of(&device)).await;
    let granted = answer.json();
    assert_eq!(granted["base_url"], stage.base_url);
    assert_eq!(
        (&granted["operation"], &granted["target"]),
        (&json!(RELEASE), &json!(device))
    );
    let ends: jiff::Timestamp = granted["expires_at"].as_str().unwrap().parse().unwrap();
    let begun: jiff::Timestamp = "2026-01-30T21:11:22Z".parse().unwrap();
    assert_eq!(ends.duration_since(begun).as_secs(), 30);

    let capability = granted["capability"].as_str().unwrap();
    let action = stage.release(capability, &device).await.unwrap();
    assert_eq!(action.machine_id.as_deref(), Some(device.as_str()));
    let [release] = &stage.world.requests(Api::UnrestrictCodeExecution)[..] else {
        panic!("one request")
    };
    assert_eq!(release.token, Some(1), "with the real token");
    assert_eq!(release.body, r#"{"Comment":"INC-42: cleaned"}"#);
    let mut headers: Vec<&str> = release.headers.keys().map(|name| name.as_str()).collect();
    headers.sort_unstable();
    let expected = [
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    ];
    assert_eq!(headers, expected);
    assert_eq!(stage.world.used().await, 1);
}

#[tokio::test]
async fn reading_lists_and_finding_go_through_it_too_each_as_it_was_asked_for() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    let action = stage.world.release("cleaned").await.unwrap();
    let query = "$filter=machineId%20eq%20%27DEVICE%27&$top=10".replace("DEVICE", &device);
    let find = "$filter=computerDnsName%20eq%20%27pc.contoso.com%27&$top=100";
    for (asked, path) in [
        (
            json!({ "operation": "get-machine-action", "target": action.id }),
            format!("machineactions/{}", action.id),
        ),
        (
            json!({ "operation": "list-machine-actions", "query": query }),
            format!("machineactions?{query}"),
        ),
        (
            json!({ "operation": "find-machines", "target": "pc.contoso.com" }),
            format!("machines?{find}"),
        ),
    ] {
        let granted = stage.ask(asked).await.json();
        let url = format!("{}/api/{path}", stage.base_url);
        let capability = granted["capability"].as_str().unwrap();
        let request = stage
            .client
            .get(url)
            .header(AUTHORIZATION, format!("Bearer {capability}"));
        let answer = stage.send(request).await;
        assert_ne!(answer.code(), "Denied", "{path}: {answer:?}");
        assert!(
            answer.json()["error"]["code"] != "NoSuchCapability",
            "{answer:?}"
        );
    }
    for api in [
        Api::GetMachineAction,
        Api::ListMachineActions,
        Api::ListMachines,
    ] {
        assert_eq!(stage.world.mock.arrivals(api), 1, "{api:?}");
    }
    // Another page of the same list is another query.
    let asked = json!({ "operation": "list-machine-actions", "query": query });
    let capability = stage.ask(asked).await.json()["capability"]
        .as_str()
        .unwrap()
        .to_owned();
    let url = format!("{}/api/machineactions?{query}&$skip=10", stage.base_url);
    let request = stage
        .client
        .get(url)
        .header(AUTHORIZATION, format!("Bearer {capability}"));
    assert_eq!(stage.send(request).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_capability_is_good_for_one_request_of_what_it_was_asked_for() {
    let stage = Stage::new().await;
    let (device, other) = (stage.world.machine(0), stage.world.machine(1));
    let none = Effect::None;

    // Perhaps one of an earlier gateway's, whose request arrived.
    is(
        stage.release(&"0".repeat(80), &device).await,
        "service-failure",
        Effect::Unknown,
        "no capability of this gateway's",
    );
    let absent = stage
        .client
        .post(format!("{}{}", stage.base_url, path(&device)));
    let absent = stage.send(absent.body("{}")).await;
    assert_eq!(
        (absent.status, absent.code().as_str()),
        (StatusCode::UNAUTHORIZED, "NoCapability")
    );
    // The engine's key is none.
    is(
        stage.release(&stage.key, &device).await,
        "service-failure",
        Effect::Unknown,
        "no capability of this gateway's",
    );

    let capability = stage.capability(&device).await;
    is(
        stage.release(&capability, &other).await,
        "forbidden",
        none,
        "call was made for",
    );
    // A request that was denied was the one, too.
    let again = stage.release(&capability, &device).await;
    is(
        again,
        "service-failure",
        Effect::Unknown,
        "has been made already",
    );

    for path in [
        format!("/api/machines/{device}/restrictCodeExecution"),
        format!("/api/machines/{device}/offboard"),
        format!("/api/machines/{device}/../{device}/unrestrictCodeExecution"),
        format!("/api/machines/{device}%2funrestrictCodeExecution"),
        format!("//{}", path(&device)),
        "/".to_owned(),
    ] {
        let capability = stage.capability(&device).await;
        let answer = stage.post(&capability, &path).await;
        // reqwest resolves the dots by itself, which makes it the right path.
        if path.contains("..") {
            continue;
        }
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::FORBIDDEN, "Denied"),
            "{path}"
        );
    }
    assert_eq!(stage.world.releases(), 1, "the one with the dots");
    assert_eq!(
        stage.world.used().await,
        1,
        "what was denied was given back"
    );

    let capability = stage.capability(&other).await;
    stage.release(&capability, &other).await.unwrap();
    let used = stage.release(&capability, &other).await;
    is(used, "service-failure", Effect::Unknown, "may have arrived");
    assert_eq!(stage.world.releases(), 2);
}

#[tokio::test]
async fn a_capability_that_is_not_used_in_time_is_nothing_and_the_quota_has_its_call_back() {
    let stage = Stage::with(|scene| {
        scene.quotas = vec![Quota {
            calls: 1,
            per: Duration::from_secs(3600),
        }];
    })
    .await;
    let device = stage.world.machine(0);
    let capability = stage.capability(&device).await;
    let full = stage.ask(release_of(&device)).await;
    assert_eq!(
        (full.status, full.code().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "QuotaUsed")
    );
    assert!(
        full.retry_after
            .is_some_and(|seconds| (1..=3700).contains(&seconds)),
        "{full:?}"
    );

    stage.let_time_pass();
    stage.until_used_is(0).await;
    is(
        stage.release(&capability, &device).await,
        "unauthorized",
        Effect::None,
        "Nothing was sent",
    );
    let next = stage.capability(&device).await;
    stage.release(&next, &device).await.unwrap();
    assert_eq!(stage.world.releases(), 1);
}

#[tokio::test]
async fn a_capability_is_good_for_one_comment() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    for body in [
        json!({ "Comment": "INC-43: cleaned" }),
        json!({ "Comment": COMMENT, "IsolationType": "Full" }),
        json!([COMMENT]),
        json!({}),
    ] {
        let capability = stage.capability(&device).await;
        let request = stage
            .client
            .post(format!("{}{}", stage.base_url, path(&device)));
        let request = request.header(AUTHORIZATION, format!("Bearer {capability}"));
        let answer = stage.send(request.body(body.to_string())).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{body}: {answer:?}");
        assert_eq!(answer.code(), "Denied");
        assert!(answer.text.contains("request body"), "{answer:?}");
    }
    assert_eq!((stage.world.releases(), stage.world.used().await), (0, 0));
    let capability = stage.capability(&device).await;
    let answer = stage.post(&capability, &path(&device)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
}

#[tokio::test]
async fn an_engine_can_have_the_gateway_wait_for_the_quota() {
    let stage = Stage::with(|scene| {
        scene.quotas = vec![Quota {
            calls: 1,
            per: Duration::from_secs(60),
        }];
    })
    .await;
    let device = stage.world.machine(0);
    let first = stage.capability(&device).await;
    stage.release(&first, &device).await.unwrap();
    let asked =
        json!({ "operation": RELEASE, "target": device, "comment": COMMENT, "wait_seconds": 120 });
    let waiting = stage.ask(asked);
    tokio::pin!(waiting);
    let patience = stage.world.now() + Duration::from_secs(120);
    let queued = stage.world.until_host_waits_for(patience);
    tests::world::meanwhile(&mut waiting, queued).await;
    stage.world.clock.advance(Duration::from_secs(61));
    let answer = waiting.await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    // While the quota has no room within so long, it is said at once.
    let asked =
        json!({ "operation": RELEASE, "target": device, "comment": COMMENT, "wait_seconds": 1 });
    let answer = stage.ask(asked).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
}

#[tokio::test]
async fn a_thousand_capabilities_that_nobody_uses_give_their_calls_back_and_more_there_are_not() {
    let stage = Stage::with(|scene| {
        scene.quotas = vec![Quota {
            calls: 2000,
            per: Duration::from_secs(3600),
        }];
    })
    .await;
    let device = stage.world.machine(0);
    let asked = || release_of(&device);
    for n in 0..1000 {
        let answer = stage.ask(asked()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{n}: {answer:?}");
    }
    let one_more = stage.ask(asked()).await;
    assert_eq!(
        one_more.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{one_more:?}"
    );
    assert_eq!(stage.world.used().await, 1000);
    stage.let_time_pass();
    stage.until_used_is(0).await;
    assert_eq!(stage.ask(asked()).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn what_the_gateway_answers_itself_has_the_effect_that_it_had() {
    let stage = Stage::with(|scene| scene.switches.duplicate = Duplicate::Create).await;
    let device = stage.world.machine(0);
    let (none, unknown) = (Effect::None, Effect::Unknown);

    // By another name it is not reached.
    let capability = stage.capability(&device).await;
    let by_name = stage.base_url.replace("127.0.0.1", "localhost");
    let result = stage.release_at(&by_name, &capability, &device).await;
    is(result, "rejected", none, "does not name");

    stage.world.inject(Fault::reset().after_acting());
    let result = stage.release(&capability, &device).await;
    is(result, "service-failure", unknown, "No answer");
    assert_eq!(stage.world.releases(), 1);

    // The service closes the quota after two have theirs.
    let (first, second) = (
        stage.capability(&device).await,
        stage.capability(&device).await,
    );
    let full = r#"{"error":{"code":"TooManyRequests","message":"full"}}"#;
    stage
        .world
        .inject(Fault::answer(429, full).header("retry-after", "7"));
    for (capability, says) in [(first, "full"), (second, "nothing was sent")] {
        let result = stage.release(&capability, &device).await;
        let Err(Error {
            reason: Reason::RateLimited(limit),
            ..
        }) = &result
        else {
            panic!("{result:?}")
        };
        assert_eq!(limit.retry_after_seconds, Some(7));
        is(result, "rate-limited", none, says);
    }
    assert_eq!(stage.world.releases(), 2);
    stage.world.clock.advance(Duration::from_secs(8));

    // No answer in time; one that breaks off.
    let capability = stage.capability(&device).await;
    stage.world.inject(Fault::delay(Duration::from_secs(3600)));
    let releasing = stage.release(&capability, &device);
    tokio::pin!(releasing);
    let sent = stage
        .world
        .until("the release arrives", || stage.world.releases() == 3);
    tests::world::meanwhile(&mut releasing, sent).await;
    stage.let_time_pass();
    is(releasing.await, "service-failure", unknown, "time was up");
    let capability = stage.capability(&device).await;
    stage.world.inject(Fault::truncated_body());
    let result = stage.release(&capability, &device).await;
    is(result, "service-failure", unknown, "broke off");
}

#[tokio::test]
async fn what_certainly_was_not_sent_is_a_refusal_that_says_why() {
    // Nothing listens there.
    let world = World::with(|scene| scene.plain_http = true).await;
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let host = world.host_at(&nobody, None);
    let stage = Stage::before(world, &host).await;
    let device = stage.world.machine(0);
    let capability = stage.capability(&device).await;
    let result = stage.release(&capability, &device).await;
    is(result, "rejected", Effect::None, "Connection refused");

    // The authority gives no token.
    let stage = Stage::new().await;
    let refusal = r#"{"error":"unauthorized_client","error_description":"AADSTS700016: no"}"#;
    let refusal = Fault::answer(400, refusal).on(Api::Token).always();
    stage.world.mock.inject(refusal);
    let device = stage.world.machine(0);
    let capability = stage.capability(&device).await;
    let result = stage.release(&capability, &device).await;
    is(result, "rejected", Effect::None, "there is no token");

    // The record is cut while the gateway runs.
    let world = World::with(|scene| scene.plain_http = true).await;
    let folder = tempfile::tempdir().unwrap();
    let [file, key] = ["audit.jsonl", "audit.key"].map(|name| folder.path().join(name));
    let audit = Arc::new(Audit::open(&file, &key, Who::default()).unwrap());
    let host = world.another_host(|setup| setup.audit = Some(Arc::clone(&audit)));
    let stage = Stage::before(world, &host).await;
    let device = stage.world.machine(0);
    let capability = stage.capability(&device).await;
    stage.release(&capability, &device).await.unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(0)
        .unwrap();
    let capability = stage.capability(&device).await;
    let result = stage.release(&capability, &device).await;
    is(result, "rejected", Effect::None, "could not be recorded");
    assert_eq!(stage.world.releases(), 1);
}

#[tokio::test]
async fn an_answer_with_the_token_in_it_is_withheld() {
    let world = World::with(|scene| scene.plain_http = true).await;
    let token = world.mock.token(Grant::new());
    let host = world.host_with_token(&token);
    let stage = Stage::before(world, &host).await;
    let device = stage.world.machine(0);
    for (status, reason, effect) in [
        (200, "service-failure", Effect::Unknown),
        (400, "rejected", Effect::None),
        (403, "forbidden", Effect::None),
        (500, "service-failure", Effect::Unknown),
    ] {
        let body = json!({ "error": { "code": "x", "message": format!("you sent {token}") } });
        stage.world.inject(Fault::answer(status, body.to_string()));
        let capability = stage.capability(&device).await;
        is(
            stage.release(&capability, &device).await,
            reason,
            effect,
            "repeats the token",
        );
        stage.world.inject(Fault::answer(status, body.to_string()));
        let capability = stage.capability(&device).await;
        let answer = stage.post(&capability, &path(&device)).await;
        assert!(!answer.text.contains(&token), "{answer:?}");
    }
    // How long to wait is no secret.
    let fault = Fault::answer(429, format!("you sent {token}")).header("Retry-After", "17");
    stage.world.inject(fault);
    let capability = stage.capability(&device).await;
    let answer = stage.post(&capability, &path(&device)).await;
    assert_eq!(
        (answer.status, answer.code().as_str(), answer.retry_after),
        (StatusCode::TOO_MANY_REQUESTS, "AnswerWithheld", Some(17))
    );
}

#[tokio::test]
async fn a_compressed_response_is_searched_and_passed_on_decoded() {
    let world = World::with(|scene| {
        scene.plain_http = true;
        scene.switches.content_encoding = ContentEncoding::Gzip;
    })
    .await;
    let token = world.mock.token(Grant::new());
    let host = world.host_with_token(&token);
    let stage = Stage::before(world, &host).await;
    let device = stage.world.machine(0);
    let capability = stage.capability(&device).await;
    let answer = stage.post(&capability, &path(&device)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    assert!(answer.text.contains(&device), "{answer:?}");
    let body = json!({ "error": { "code": "x", "message": format!("you sent {token}") } });
    stage.world.inject(Fault::answer(400, body.to_string()));
    let capability = stage.capability(&device).await;
    let answer = stage.post(&capability, &path(&device)).await;
    assert_eq!(answer.code(), "AnswerWithheld", "{answer:?}");
    assert!(!answer.text.contains(&token), "{answer:?}");
}

#[tokio::test]
async fn a_response_in_an_encoding_that_cannot_be_searched_is_withheld() {
    let world = World::with(|scene| {
        scene.plain_http = true;
        scene.switches.content_encoding = ContentEncoding::Brotli;
    })
    .await;
    let host = world.host_with_token(&world.mock.token(Grant::new()));
    let stage = Stage::before(world, &host).await;
    let device = stage.world.machine(0);
    let capability = stage.capability(&device).await;
    let answer = stage.post(&capability, &path(&device)).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{answer:?}");
    assert_eq!(answer.code(), "AnswerWithheld");
    assert!(answer.text.contains("compressed (br)"), "{answer:?}");
}

/// A restarted gateway does not know what its predecessor sent.
#[tokio::test]
async fn a_capability_of_an_earlier_gateway_is_possibly_used() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    let capability = stage.capability(&device).await;
    stage.release(&capability, &device).await.unwrap();
    let (later, _) = listen(stage.world.host.egress()).await;
    let base_url = later.base_url().to_owned();
    tokio::spawn(later.serve(watch::channel(false).1));
    is(
        stage.release_at(&base_url, &capability, &device).await,
        "service-failure",
        Effect::Unknown,
        "may have arrived",
    );
    assert_eq!(stage.world.releases(), 1);
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answer() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    let capability = stage.capability(&device).await;
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {capability}\r\n\
         Content-Type: application/json\r\nContent-Length: 29\r\n\r\n{{\"Comment\":\"{COMMENT}\"}}",
        path(&device),
        stage.authority
    );
    let mut tcp = TcpStream::connect(&stage.authority).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut back = String::new();
    tcp.read_to_string(&mut back).await.unwrap();
    assert!(back.starts_with("HTTP/1.1 201"), "{back:?}");
    assert_eq!(stage.world.releases(), 1);
}

#[tokio::test]
async fn after_a_401_the_next_capability_is_used_with_another_token() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    let first = stage.capability(&device).await;
    stage.release(&first, &device).await.unwrap();
    stage.world.mock.revoke_tokens();
    let second = stage.capability(&device).await;
    is(
        stage.release(&second, &device).await,
        "unauthorized",
        Effect::None,
        "401",
    );
    let third = stage.capability(&device).await;
    let _ = stage.release(&third, &device).await;
    let tokens: Vec<_> = stage
        .world
        .requests(Api::UnrestrictCodeExecution)
        .iter()
        .map(|release| (release.token, release.status == Some(401)))
        .collect();
    assert_eq!(
        tokens,
        [(Some(1), false), (Some(1), true), (Some(2), false)]
    );
}

#[tokio::test]
async fn who_has_not_the_key_gets_no_capability_and_a_wrong_question_says_what_is_wrong() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    let good = release_of(&device).to_string();
    let capability = stage.capability(&device).await;
    for key in ["", "x", &stage.key[1..], &"0".repeat(64), &capability] {
        let answer = stage.ask_with(key, good.clone()).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::UNAUTHORIZED, "NotTheKey")
        );
    }
    for (asked, status, says) in [
        (json!({}), 400, "operation"),
        (
            json!({ "operation": "offboard", "target": device }),
            400,
            "unrestrict-code-execution",
        ),
        (
            json!({ "operation": RELEASE, "target": "abc" }),
            400,
            "40 hexadecimal digits",
        ),
        (
            json!({ "operation": RELEASE, "target": device }),
            400,
            "the \\\"comment\\\" that the guest will send",
        ),
        (
            json!({ "operation": "find-machines", "target": "pc", "comment": COMMENT }),
            400,
            "has no comment",
        ),
        (
            json!({
                "operation": "restrict-code-execution", "target": device, "comment": COMMENT
            }),
            403,
            "restrictCodeExecution",
        ),
    ] {
        let answer = stage.ask(asked).await;
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
        assert!(answer.text.contains(says), "{answer:?}");
    }
    let long = format!("{{\"operation\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(
        stage.ask_with(&stage.key, long).await.status,
        StatusCode::BAD_REQUEST
    );
    let get = stage.client.get(format!("{}/capabilities", stage.base_url));
    let get = get.header(AUTHORIZATION, format!("Bearer {}", stage.key));
    assert_eq!(stage.send(get).await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(stage.world.used().await, 1);
}

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_not_taken_or_taken_in_one() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    let authority = stage.authority.clone();
    let body = r#"{"Comment":"INC-42: cleaned"}"#;
    let length = body.len();
    for (target, hosts, more) in [
        (
            format!("http://{authority}{}", path(&device)),
            format!("Host: {authority}\r\n"),
            "",
        ),
        (
            format!("http://evil.test{}", path(&device)),
            format!("Host: {authority}\r\n"),
            "",
        ),
        (
            path(&device),
            format!("Host: {authority}\r\nHost: {authority}\r\n"),
            "",
        ),
        (path(&device), "Host: evil.test\r\n".to_owned(), ""),
        (path(&device), "Host: localhost\r\n".to_owned(), ""),
        (path(&device), String::new(), ""),
        (
            path(&device),
            format!("Host: {authority}\r\n"),
            "Content-Length: 5\r\n",
        ),
        (
            path(&device),
            format!("Host: {authority}\r\n"),
            "Transfer-Encoding: xchunked\r\n",
        ),
    ] {
        let capability = stage.capability(&device).await;
        let answer = stage
            .raw(&format!(
                "POST {target} HTTP/1.1\r\n{hosts}Authorization: Bearer {capability}\r\n\
                 Content-Length: {length}\r\n{more}\r\n{body}"
            ))
            .await;
        let status: u16 = answer.split(' ').nth(1).unwrap_or("400").parse().unwrap();
        assert!(
            (400..500).contains(&status),
            "{target} {hosts}{more}: {answer}"
        );
    }
    assert_eq!(stage.world.releases(), 0);

    // Framed twice: read by its chunks, sent with one length, and what follows is no request.
    let capability = stage.capability(&device).await;
    let other = stage.capability(&stage.world.machine(1)).await;
    let behind = format!(
        "POST {} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {other}\r\n\
         Content-Length: {length}\r\n\r\n{body}",
        path(&stage.world.machine(1))
    );
    let answer = stage
        .raw(&format!(
            "POST {} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {capability}\r\n\
             Content-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
             {length:x}\r\n{body}\r\n0\r\n\r\n{behind}",
            path(&device)
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let [release] = &stage.world.requests(Api::UnrestrictCodeExecution)[..] else {
        panic!("one request")
    };
    assert_eq!(release.path_and_query, path(&device));
    assert_eq!(release.body, body);
    assert!(!release.headers.contains_key("transfer-encoding"));
    assert_eq!(
        release.headers["content-length"].to_str().unwrap(),
        length.to_string()
    );
}

#[tokio::test]
async fn whoever_is_slow_is_cut_off() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    // In the middle of its head.
    let mut tcp = TcpStream::connect(&stage.authority).await.unwrap();
    tcp.write_all(b"POST /capabilities HTTP/1.1\r\nHost:")
        .await
        .unwrap();
    let mut byte = [0];
    let end = tcp.read(&mut byte);
    tokio::pin!(end);
    stage
        .world
        .until("the gateway waits for a head", || {
            stage.world.waits().len() == 1
        })
        .await;
    stage.world.clock.advance(Duration::from_secs(11));
    assert_eq!(end.await.unwrap_or(0), 0);

    // In the middle of its body: until the capability's time is up, and nothing was sent.
    let capability = stage.capability(&device).await;
    let text = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {capability}\r\nContent-Length: 30\r\n\r\n{{",
        path(&device),
        stage.authority
    );
    let deadline = stage.world.now() + stage.world.host.call_timeout();
    let answer = stage.raw(&text);
    tokio::pin!(answer);
    let taken = stage.world.until("the request is being read", || {
        let waits = stage.world.waits();
        waits.iter().filter(|until| **until == deadline).count() == 2
    });
    tests::world::meanwhile(&mut answer, taken).await;
    stage.let_time_pass();
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(stage.world.releases(), 0);
    stage.until_used_is(0).await;
}

#[tokio::test]
async fn what_is_under_way_is_brought_to_its_end_and_what_is_not_used_is_given_back() {
    let stage = Stage::new().await;
    let device = stage.world.machine(0);
    let (used, _unused) = (
        stage.capability(&device).await,
        stage.capability(&device).await,
    );
    stage.world.inject(Fault::delay(Duration::from_secs(5)));
    {
        let releasing = stage.release(&used, &device);
        tokio::pin!(releasing);
        let sent = stage
            .world
            .until("the release arrives", || stage.world.releases() == 1);
        tests::world::meanwhile(&mut releasing, sent).await;
        stage.stop.send(true).unwrap();
        tests::world::meanwhile(&mut releasing, stage.until_used_is(1)).await;
        stage.world.clock.advance(Duration::from_secs(6));
        releasing.await.unwrap();
    }
    stage.serving.await.unwrap();
    assert!(TcpStream::connect(&stage.authority).await.is_err());
}

#[tokio::test]
async fn a_gateway_listens_on_loopback_and_nowhere_else() {
    let world = World::new().await;
    for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
        let error = Gateway::bind(world.host.egress(), address.parse().unwrap())
            .await
            .unwrap_err();
        assert!(
            matches!(error, GatewayError::NotLoopback(_)),
            "{address}: {error}"
        );
    }
}

#[tokio::test]
async fn the_record_says_that_a_call_came_through_the_gateway() {
    let world = World::with(|scene| scene.plain_http = true).await;
    let audit = Arc::new(Audit::memory(Who::default()).unwrap());
    let host = world.another_host(|setup| setup.audit = Some(Arc::clone(&audit)));
    let stage = Stage::before(world, &host).await;
    let device = stage.world.machine(0);
    let capability = stage.capability(&device).await;
    stage.release(&capability, &device).await.unwrap();
    let kept = audit.kept();
    let records: Vec<Value> = kept
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len(), 2);
    for record in &records {
        assert_eq!(
            (&record["component"], &record["machine"]),
            (&json!("gateway"), &json!(device))
        );
        assert_eq!(record["claimed"], Value::Null);
    }
    assert_eq!(records[1]["ended"], "succeeded");
    assert!(!kept.concat().contains(&capability));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guests_at_once_have_each_their_own_call() {
    let world = World::with(|scene| scene.machines = 40).await;
    let host = world.host.clone();
    let stage = Arc::new(Stage::before(world, &host).await);
    let mut all = tokio::task::JoinSet::new();
    for n in 0..40 {
        let stage = Arc::clone(&stage);
        all.spawn(async move {
            let device = stage.world.machine(n);
            let capability = stage.capability(&device).await;
            stage.post(&capability, &path(&device)).await.json()["machineId"] == device
        });
    }
    assert!(all.join_all().await.iter().all(|own| *own));
    assert_eq!(stage.world.releases(), 40);
}

//! Whatever a service answers, the plugin does not fault, and a success is one.

use std::sync::{Arc, Mutex, OnceLock};

use defender_mock::{Api, Fault};
use host_demo::clock::SystemClock;
use host_demo::contract::{Effect, MachineAction};
use host_demo::host::{CallError, Host};
use proptest::prelude::*;
use serde_json::{Value, json};
use tests::world::{World, release};
use tokio::runtime::Runtime;

/// One of each for all cases.
struct Stage {
    runtime: Runtime,
    world: World,
    host: Mutex<Host>,
}

impl Stage {
    fn new(plain_http: bool) -> Self {
        let runtime = Runtime::new().unwrap();
        let world = runtime.block_on(World::with(|scene| {
            scene.plain_http = plain_http;
            scene.switches.per_minute = None;
            scene.switches.per_hour = None;
        }));
        Self {
            host: Mutex::new(host(&world)),
            runtime,
            world,
        }
    }

    async fn release(&self, answer: &Answer) -> Result<MachineAction, CallError> {
        let mut fault = Fault::answer(answer.status, answer.body.clone());
        for (name, value) in &answer.headers {
            fault = fault.header(name, value);
        }
        // Always: after a 401 the call is made again with a new token.
        let fault = fault.on(Api::UnrestrictCodeExecution).always();
        self.world.inject(fault);
        let machine = self.world.machine(0);
        let before = self.host.lock().unwrap().clone();
        let result = release(&before, &machine, "cleaned").await;
        self.world.mock.clear_faults();
        if answer.status == 429 {
            // This one keeps still for a minute now.
            *self.host.lock().unwrap() = host(&self.world);
        }
        result
    }
}

/// By the machine's clock: nobody is there to move the hands, if a call waits.
fn host(world: &World) -> Host {
    world.another_host(|setup| {
        setup.clock = Arc::new(SystemClock::new());
        setup.quotas = Vec::new();
    })
}

#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// What the contract calls a machine action of this machine's release, decided by another reader of
/// JSON.
fn is_a_release_of(machine: &str, body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else {
        return false;
    };
    let Ok(Value::Object(action)) =
        serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(text))
    else {
        return false;
    };
    let text = |name: &str| action.get(name).and_then(Value::as_str);
    let has = |name: &str| text(name).is_some_and(|text| !text.is_empty());
    let other_types = [
        "RunAntiVirusScan",
        "Offboard",
        "LiveResponse",
        "CollectInvestigationPackage",
        "Isolate",
        "Unisolate",
        "StopAndQuarantineFile",
        "RestrictCodeExecution",
    ];
    has("id")
        && has("status")
        && has("type")
        && !text("type").is_some_and(|kind| other_types.contains(&kind))
        && text("machineId").is_none_or(|id| id.eq_ignore_ascii_case(machine))
}

fn real_action(machine: &str) -> Value {
    json!({
        "@odata.context": "https://api.security.microsoft.com/api/$metadata#MachineActions/$entity",
        "id": "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a", "type": "UnrestrictCodeExecution", "title": null,
        "requestor": "Defender for Endpoint API", "requestorComment": "cleaned", "status": "Pending",
        "machineId": machine, "computerDnsName": "johns-work-computer",
        "creationDateTimeUtc": "2026-01-30T21:11:22.8419303Z",
        "errorHResult": 0, "commands": [], "troubleshootInfo": null,
    })
}

fn real_error() -> Value {
    json!({"error": {
        "code": "429",
        "message": "API calls quota exceeded! Maximum allowed 100 per 00:01:00 for the key \
                    Destination+TenantID+AppID. You can send requests again in 8 seconds.",
        "target": "7b1e4c5a-9d28-61c0-e3f7-a8b52f6d9a40",
    }})
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::from("UnrestrictCodeExecution")),
        Just(Value::from("Pending")),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "id",
            "type",
            "status",
            "machineId",
            "error",
            "code",
            "message",
            "target",
            "commands",
            "errorHResult",
            "relatedFileInfo",
            "ID",
            "",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ]
}

/// A real document in which properties were replaced, added or left out.
fn bent(document: Value) -> impl Strategy<Value = Vec<u8>> {
    let bends = prop::collection::vec((name(), prop::option::of(json_value())), 0..4);
    bends.prop_map(move |bends| {
        let mut document = document.clone();
        let members = document.as_object_mut().unwrap();
        for (name, value) in bends {
            match value {
                Some(value) => drop(members.insert(name, value)),
                None => drop(members.remove(&name)),
            }
        }
        document.to_string().into_bytes()
    })
}

/// A real document of which bytes were changed, or that was cut.
fn broken(document: Value) -> impl Strategy<Value = Vec<u8>> {
    let whole = document.to_string().into_bytes();
    let length = whole.len();
    let changes = prop::collection::vec((0..length, any::<u8>()), 0..4);
    (changes, 0..=length).prop_map(move |(changes, cut)| {
        let mut bytes = whole.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(cut.max(length / 2));
        bytes
    })
}

fn body(machine: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    prop_oneof![
        3 => bent(real_action(machine)),
        2 => broken(real_action(machine)),
        1 => bent(real_error()),
        1 => broken(real_error()),
        1 => json_value().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..2000),
        1 => Just(Vec::new()),
    ]
}

fn answer(machine: &str) -> impl Strategy<Value = Answer> + use<> {
    let status = prop_oneof![
        3 => 200_u16..=202,
        2 => 100_u16..=999,
        1 => prop::sample::select(vec![204_u16, 304, 400, 401, 403, 404, 429, 500, 503]),
    ];
    let header = prop_oneof![
        "[0-9]{1,12}".prop_map(|value| ("retry-after".to_owned(), value)),
        "[ -~]{0,40}".prop_map(|value| ("retry-after".to_owned(), value)),
        "[ -~]{0,40}".prop_map(|value| ("content-type".to_owned(), value)),
        ("x-[a-z]{1,10}", "[ -~]{0,200}"),
        (
            "set-cookie|location|www-authenticate|content-encoding",
            "[ -~]{0,40}"
        ),
    ];
    let headers = prop::collection::vec(header, 0..8);
    (status, headers, body(machine)).prop_map(|(status, headers, body)| Answer {
        status,
        headers,
        body,
    })
}

/// Over TLS and HTTP/2, and over plain HTTP/1.1. The machines are the same.
fn stages() -> &'static [Stage; 2] {
    static STAGES: OnceLock<[Stage; 2]> = OnceLock::new();
    STAGES.get_or_init(|| [Stage::new(false), Stage::new(true)])
}

fn machine() -> String {
    stages()[0].world.machine(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_makes_the_plugin_fault_or_a_success_of_what_is_none(
        http_1 in any::<bool>(),
        answer in answer(&machine()),
    ) {
        // In what encoding the body would be, nobody can say.
        let is_withheld = answer.headers.iter().any(|(name, _)| name == "content-encoding");
        let is_success = (200..300).contains(&answer.status);
        let is_release = is_a_release_of(&machine(), &answer.body);
        let stage = &stages()[usize::from(http_1)];
        match stage.runtime.block_on(stage.release(&answer)) {
            Ok(action) => {
                prop_assert!(is_success && is_release, "{answer:?}");
                let said: Value = serde_json::from_slice(&answer.body).unwrap();
                prop_assert_eq!(&json!(action.id), &said["id"]);
            }
            Err(CallError::Answered { error, .. }) => {
                // To a 204 or 205 belongs no body, so what stood in it was lost.
                let has_body = ![204, 205].contains(&answer.status);
                prop_assert!(
                    !(is_success && is_release && has_body) || is_withheld,
                    "{answer:?} {error:?}"
                );
                let refused = (300..500).contains(&answer.status);
                prop_assert_eq!(error.effect == Effect::None, refused, "{:?} {:?}", answer, error);
            }
            Err(other) => prop_assert!(false, "{answer:?}: {other:?}"),
        }
    }
}

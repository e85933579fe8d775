//! The cases, each with its one result, and where a host has another one.

use defender_mock::{Grant, Switches};
use serde_json::{Value, json};
use tests::foreign::Asked;

use super::hosts::{
    COMMAND_LINE, COMMAND_LINE_GATEWAY, NODE, NODE_ENV, NODE_GATEWAY, OURS, PYTHON, PYTHON_ENV,
    PYTHON_GATEWAY,
};
use crate::hostile_servers::server::{MACHINE, TOKEN, action, answer};

/// Who answers.
pub(super) enum Service {
    /// The stand-in, bent by its switches.
    StandIn(fn(&mut Switches)),
    /// Somebody who answers each request with these bytes.
    Answers { bytes: Vec<u8>, goes_on: bool },
    /// Nobody: connections are refused.
    Nobody,
}

/// What a host is to give.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// The plugin's result; `"*"` stands for any text.
    Told(Value),
    /// A failure of its own, which names this, before anything is sent.
    Fault(&'static str),
    /// The same, once the service has answered.
    FaultOnAnswer(&'static str),
    /// The host has no such case.
    DidNotRun,
}

impl Expected {
    /// Whether a request leaves: not where the plugin knows for certain that it did not, and nobody
    /// answered.
    pub(super) fn was_sent(&self) -> bool {
        match self {
            Self::Told(told) => {
                !(told["err"]["effect"] == "none" && told["err"]["service"].is_null())
            }
            Self::FaultOnAnswer(_) => true,
            Self::Fault(_) | Self::DidNotRun => false,
        }
    }
}

/// Some hosts, of which something else is expected, and why.
pub(super) struct Except {
    pub(super) hosts: Vec<&'static str>,
    pub(super) expected: Expected,
    pub(super) why: &'static str,
}

/// What is asked of every host.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) service: Service,
    /// What the token is, at the stand-in.
    pub(super) grant: fn(Grant) -> Grant,
    /// So many times in a row; the last result counts.
    pub(super) calls: usize,
    pub(super) comment: &'static str,
    pub(super) refusal: Option<Value>,
    pub(super) no_connection: bool,
    /// What else is to be different.
    pub(super) bend: fn(&mut Asked),
    pub(super) expected: Expected,
    pub(super) except: Vec<Except>,
}

impl Case {
    fn new(name: &'static str, service: Service, expected: Value) -> Self {
        Self {
            name,
            service,
            grant: |grant| grant,
            calls: 1,
            comment: "cleaned",
            refusal: None,
            no_connection: false,
            bend: |_| {},
            expected: Expected::Told(expected),
            except: Vec::new(),
        }
    }

    fn twice(self) -> Self {
        Self { calls: 2, ..self }
    }

    fn bend(self, bend: fn(&mut Asked)) -> Self {
        Self { bend, ..self }
    }

    fn except(mut self, hosts: &[&'static str], expected: Expected, why: &'static str) -> Self {
        let hosts = hosts.to_vec();
        self.except.push(Except {
            hosts,
            expected,
            why,
        });
        self
    }

    /// Why a host does not have this case.
    pub(super) fn is_not_for(&self, host: &str) -> Option<&'static str> {
        let mut not_run = self
            .except
            .iter()
            .filter(|except| matches!(except.expected, Expected::DidNotRun));
        not_run
            .find(|except| except.hosts.contains(&host))
            .map(|except| except.why)
    }
}

/// Whether two results are the same.
pub(super) fn is_like(expected: &Value, told: &Value) -> bool {
    match (expected, told) {
        (Value::String(any), Value::String(_)) if any == "*" => true,
        (Value::Object(expected), Value::Object(told)) => {
            expected.len() == told.len()
                && expected
                    .iter()
                    .all(|(name, value)| told.get(name).is_some_and(|t| is_like(value, t)))
        }
        (Value::Array(expected), Value::Array(told)) => {
            expected.len() == told.len() && expected.iter().zip(told).all(|(e, t)| is_like(e, t))
        }
        _ => expected == told,
    }
}

fn failed(effect: &str, reason: impl Into<Value>, service: Value) -> Value {
    json!({ "err": { "effect": effect, "reason": reason.into(), "service": service } })
}

/// An answer of this status, of which the service says nothing that can be read.
fn mute(effect: &str, reason: impl Into<Value>, status: u16) -> Value {
    failed(effect, reason, json!({ "status": status }))
}

/// What a guest makes of an answer that is the gateway's own.
fn by_the_gateway(effect: &str, reason: impl Into<Value>, status: u16, code: &str) -> Value {
    let service = json!({ "status": status, "code": code, "message": "*" });
    failed(effect, reason, service)
}

fn withheld(effect: &str, reason: impl Into<Value>, status: u16) -> Value {
    by_the_gateway(effect, reason, status, "AnswerWithheld")
}

fn unsent(reason: impl Into<Value>) -> Value {
    failed("none", reason, Value::Null)
}

fn answers(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Service {
    let bytes = answer(status, headers, body);
    Service::Answers {
        bytes,
        goes_on: true,
    }
}

/// Its end is the connection's.
fn breaks_off(bytes: impl Into<Vec<u8>>) -> Service {
    let bytes = bytes.into();
    Service::Answers {
        bytes,
        goes_on: false,
    }
}

const STAND_IN: Service = Service::StandIn(|_| {});

/// What [`action`] is, as the contract has it.
fn told_action() -> Value {
    json!({
        "id": "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a",
        "type": "unrestrict-code-execution",
        "status": "pending",
        "machine-id": MACHINE,
        "additional-properties": [],
    })
}

/// The columns with a gateway.
const GATEWAY: [&str; 3] = [COMMAND_LINE_GATEWAY, NODE_GATEWAY, PYTHON_GATEWAY];

const CONTEXT: &str = "@odata.context";

const SET_UP: &str =
    "host-demo checks its connection once, as it is set up, and calls no plugin without one";
const NO_VARIABLES: &str = "host-demo's library reads no environment";
const OWN_PACE: &str = "host-demo waits for its quota, or says so itself, before it calls a plugin";
const NO_REFUSAL: &str = "the environment can't refuse";
const NO_ID: &str = "the gateway hands out no capability for what is no machine id";
const NO_CONNECTION: &str = "the gateway tells its guest by 424 that it has no connection";
const NO_ANSWER: &str = "the gateway tells its guest by 502 that there is no answer";
const WITHHELD: &str = "the gateway passes on answers that are whole, not long, and without the \
    token; of a refusal the status, else 502";
const NOT_FOR_THE_CALLER: &str =
    "host-demo tells its caller nothing of an answer with the token in it but its effect";
const IN_THE_GUEST: &str = "the guest has the token itself, and nobody searches answers for it";
const BEFORE_IT: &str = "no request leaves, to a gateway or elsewhere";
const NO_IMPORT: &str = "the component has no such import, or the host always supplies it";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = by_the_stand_in();
    cases.extend(by_status());
    cases.extend(by_body());
    cases.extend(unsent_by_the_host());
    cases.extend(without_a_connection());
    cases
}

fn by_the_stand_in() -> Vec<Case> {
    vec![
        Case {
            comment: "INC-42: \"geprüft\" \\ 確認\u{1f600}",
            ..Case::new(
                "a release",
                STAND_IN,
                json!({ "ok": {
                    "id": "*",
                    "type": "unrestrict-code-execution",
                    "requestor": "*",
                    "requestor-comment": "INC-42: \"geprüft\" \\ 確認\u{1f600}",
                    "status": "pending",
                    "machine-id": "e220a8397b1dcdaf6e789e6aa1b965f406c45d18",
                    "computer-dns-name": "*",
                    "creation-date-time-utc": "*",
                    "last-update-date-time-utc": "*",
                    "error-h-result": 0,
                    "request-source": "PublicApi",
                    "commands": "[]",
                    "additional-properties": [{ "name": CONTEXT, "json": "*" }],
                }}),
            )
        },
        Case::new(
            "a second release",
            STAND_IN,
            failed(
                "none",
                "already-in-progress",
                json!({ "status": 400, "code": "ActiveRequestAlreadyExists", "message": "*" }),
            ),
        )
        .twice(),
        Case::new(
            "a comment that the service finds too long",
            Service::StandIn(|switches| switches.max_comment = Some(6)),
            failed(
                "none",
                "rejected",
                json!({ "status": 400, "code": "*", "message": "*" }),
            ),
        ),
        Case {
            grant: |grant| grant.lifetime(std::time::Duration::ZERO),
            ..Case::new(
                "a token that has expired",
                STAND_IN,
                failed(
                    "none",
                    "unauthorized",
                    json!({ "status": 401, "code": "Unauthorized", "message": "*" }),
                ),
            )
        },
        Case {
            grant: |grant| grant.roles(["Machine.Read.All", "Alert.Read.All"]),
            ..Case::new(
                "a token without the role",
                STAND_IN,
                failed(
                    "none",
                    json!({ "forbidden": {
                        "required-roles": ["Machine.RestrictExecution"],
                        "held-roles": ["Machine.Read.All", "Alert.Read.All"],
                    }}),
                    json!({ "status": 403, "code": "Forbidden", "message": "*" }),
                ),
            )
        },
        Case::new(
            "a device that is not there",
            STAND_IN,
            failed(
                "none",
                "not-found",
                json!({
                    "status": 404,
                    "code": "ResourceNotFound",
                    "message": "Machine 0000000000000000000000000000000000000000 was not found",
                }),
            ),
        )
        .bend(|asked| asked.machine_id = "0".repeat(40)),
        Case::new(
            "the service's quota, used up",
            Service::StandIn(|switches| switches.per_minute = Some(1)),
            failed(
                "none",
                json!({ "rate-limited": {
                    "by": "service",
                    "retry-after-seconds": 60,
                    "window-seconds": 60,
                }}),
                json!({ "status": 429, "code": "429", "message": "*" }),
            ),
        )
        .twice(),
    ]
}

fn by_status() -> Vec<Case> {
    let failure = || json!({ "service-failure": {} });
    let no_answer = || Expected::Told(by_the_gateway("unknown", failure(), 502, "NoAnswer"));
    let quota = r#"{"error":{"code":"429","message":"API calls quota exceeded! Maximum allowed 100 per 00:01:00. You can send requests again in 8 seconds."}}"#;
    vec![
        Case::new(
            "429 with Retry-After",
            answers(429, "Retry-After: 17\r\n", ""),
            mute(
                "none",
                json!({ "rate-limited": { "by": "service", "retry-after-seconds": 17 } }),
                429,
            ),
        ),
        Case::new(
            "429 that says how long in its message",
            answers(429, "", quota),
            failed(
                "none",
                json!({ "rate-limited": {
                    "by": "service",
                    "retry-after-seconds": 8,
                    "window-seconds": 60,
                }}),
                json!({ "status": 429, "code": "429", "message": "*" }),
            ),
        ),
        Case::new(
            "503 with Retry-After and a page",
            answers(503, "Retry-After: 120\r\n", "<html>busy</html>"),
            mute(
                "unknown",
                json!({ "service-failure": { "retry-after-seconds": 120 } }),
                503,
            ),
        ),
        Case::new(
            "500 with an error document",
            answers(
                500,
                "",
                r#"{"error":{"code":"InternalServerError","message":"x","target":"|3.4."}}"#,
            ),
            failed(
                "unknown",
                json!({ "service-failure": {} }),
                json!({ "status": 500, "code": "InternalServerError", "message": "x" }),
            ),
        ),
        Case::new(
            "409, which has no line of its own",
            answers(409, "", r#"{"error":{"code":"Conflict","message":"x"}}"#),
            failed(
                "none",
                "rejected",
                json!({ "status": 409, "code": "Conflict", "message": "x" }),
            ),
        ),
        Case::new(
            "a redirect",
            answers(307, "Location: /elsewhere\r\n", ""),
            mute("none", "unexpected-response", 307),
        ),
        Case::new(
            "a connection that is refused",
            Service::Nobody,
            unsent("transport"),
        )
        .except(
            &GATEWAY,
            Expected::Told(by_the_gateway("none", "rejected", 424, "NothingSent")),
            NO_CONNECTION,
        ),
        Case::new(
            "a connection that closes unanswered",
            breaks_off(""),
            failed("unknown", "transport", Value::Null),
        )
        .except(&GATEWAY, no_answer(), NO_ANSWER),
        Case::new(
            "what is no HTTP",
            breaks_off("SSH-2.0-x\r\n"),
            failed("unknown", "transport", Value::Null),
        )
        .except(&GATEWAY, no_answer(), NO_ANSWER),
    ]
}

fn by_body() -> Vec<Case> {
    let forbidden = || json!({ "forbidden": { "required-roles": [], "held-roles": [] } });
    let failure = || json!({ "service-failure": {} });
    let lost = || Expected::Told(withheld("unknown", failure(), 502));
    let repeats_the_token = |name, service, told, fault| {
        let have_it = [COMMAND_LINE, NODE, NODE_ENV, PYTHON, PYTHON_ENV];
        Case::new(name, service, told)
            .except(&[OURS], Expected::FaultOnAnswer(fault), NOT_FOR_THE_CALLER)
            .except(&have_it, Expected::DidNotRun, IN_THE_GUEST)
    };
    let nothing = |status| mute("unknown", "unexpected-response", status);
    let not_utf8 = action().into_bytes();
    let not_utf8: Vec<_> = not_utf8
        .iter()
        .map(|&b| if b == b'P' { 0xff } else { b })
        .collect();
    let deep = "[".repeat(9000) + &"]".repeat(9000);
    let mut told_deep = told_action();
    told_deep["additional-properties"] = json!([{ "name": "deep", "json": deep }]);
    let mut told_twice = told_action();
    told_twice["status"] = json!("succeeded");
    told_twice["additional-properties"] = json!([{ "name": "status", "json": r#""Pending""# }]);
    let with = |property: &str| action().replace('}', &format!(",{property}}}"));
    vec![
        Case::new(
            "every property",
            answers(200, "", EVERY_PROPERTY),
            told_every_property(),
        ),
        Case::new("nothing at all", answers(204, "", ""), nothing(204)),
        Case::new("a page", answers(200, "", "<!doctype html>"), nothing(200)),
        Case::new(
            "brackets, a mebibyte",
            answers(200, "", vec![b'['; 1 << 20]),
            nothing(200),
        ),
        Case::new(
            "more than a mebibyte",
            answers(
                200,
                "",
                [vec![b' '; 2 << 20], action().into_bytes()].concat(),
            ),
            nothing(200),
        )
        .except(&GATEWAY, lost(), WITHHELD),
        Case::new(
            "a property nested 9,000 deep",
            answers(200, "", with(&format!(r#""deep":{deep}"#))),
            json!({ "ok": told_deep }),
        ),
        Case::new(
            "a property twice",
            answers(200, "", with(r#""status":"Succeeded""#)),
            json!({ "ok": told_twice }),
        ),
        Case::new("not UTF-8", answers(200, "", not_utf8), nothing(200)),
        Case::new(
            "another device's action",
            answers(200, "", action().replace("1e5b", "0000")),
            nothing(200),
        ),
        Case::new(
            "an action that breaks off",
            breaks_off(&answer(201, "", action())[..150]),
            nothing(201),
        )
        .except(&GATEWAY, lost(), WITHHELD),
        Case::new(
            "a refusal that breaks off",
            breaks_off("HTTP/1.1 403 X\r\ncontent-length: 99\r\n\r\n{"),
            mute("none", forbidden(), 403),
        )
        .except(
            &GATEWAY,
            Expected::Told(withheld("none", forbidden(), 403)),
            WITHHELD,
        ),
        repeats_the_token(
            "an action that repeats the token",
            answers(200, "", with(&format!(r#""scope":"{TOKEN}""#))),
            withheld("unknown", failure(), 502),
            "TokenEchoed { effect: Effect::Unknown }",
        ),
        repeats_the_token(
            "a refusal that repeats the token",
            answers(
                403,
                "",
                json!({ "error": { "message": TOKEN } }).to_string(),
            ),
            withheld("none", forbidden(), 403),
            "TokenEchoed { effect: Effect::None }",
        ),
    ]
}

fn unsent_by_the_host() -> Vec<Case> {
    let refused = |name, refusal, reason: Value| Case {
        refusal: Some(refusal),
        ..Case::new(name, STAND_IN, unsent(reason))
            .except(
                &[COMMAND_LINE, NODE_ENV, PYTHON_ENV],
                Expected::DidNotRun,
                NO_REFUSAL,
            )
            .except(&GATEWAY, Expected::DidNotRun, NO_REFUSAL)
    };
    let invalid =
        |parameter: &str| json!({ "invalid-argument": { "parameter": parameter, "problem": "*" } });
    vec![
        Case::new(
            "an id that is none",
            STAND_IN,
            unsent(invalid("machine-id")),
        )
        .bend(|asked| asked.machine_id = "device-001.contoso.com".to_owned())
        .except(&GATEWAY, Expected::Fault("40 hexadecimal digits"), NO_ID),
        Case {
            comment: " \u{200b}",
            ..Case::new(
                "a comment that can't be seen",
                STAND_IN,
                unsent(invalid("comment")),
            )
        },
        refused(
            "denied by the host",
            json!({ "denied": "ask for it" }),
            json!("denied"),
        ),
        refused(
            "rate-limited by the host",
            json!({ "rate-limited": 17 }),
            json!({ "rate-limited": { "by": "host", "retry-after-seconds": 17 } }),
        )
        .except(&[OURS], Expected::DidNotRun, OWN_PACE),
        refused(
            "unavailable at the host",
            json!({ "unavailable": "down" }),
            json!("unavailable"),
        )
        .except(&[OURS], Expected::DidNotRun, SET_UP),
        Case {
            no_connection: true,
            expected: Expected::Fault("defender:endpoint/connection"),
            ..Case::new("a host without the import", STAND_IN, Value::Null)
                .except(
                    &[OURS, NODE_ENV, PYTHON_ENV],
                    Expected::DidNotRun,
                    NO_IMPORT,
                )
                .except(&GATEWAY, Expected::DidNotRun, NO_IMPORT)
        },
    ]
}

fn without_a_connection() -> Vec<Case> {
    let case = |name, bend| {
        Case::new(name, STAND_IN, unsent("unavailable"))
            .bend(bend)
            .except(&GATEWAY, Expected::DidNotRun, BEFORE_IT)
    };
    let missing = |name, bend| case(name, bend).except(&[OURS], Expected::DidNotRun, NO_VARIABLES);
    let bad =
        |name, bend, problem| case(name, bend).except(&[OURS], Expected::Fault(problem), SET_UP);
    let origin = "not usable";
    let token = "token";
    vec![
        missing("no base URL", |asked| {
            asked.environment.remove("DEFENDER_BASE_URL");
        }),
        missing("no token", |asked| {
            asked.environment.remove("DEFENDER_TOKEN");
        }),
        missing("an empty token", |asked| {
            set(asked, "DEFENDER_TOKEN", |_| String::new())
        }),
        bad(
            "a base URL without a scheme",
            |asked| base_url(asked, |url| url.replace("http://", "")),
            origin,
        ),
        bad(
            "a base URL with a path",
            |asked| base_url(asked, |url| format!("{url}/api")),
            origin,
        ),
        bad(
            "a base URL with a query",
            |asked| base_url(asked, |url| format!("{url}?x=1")),
            origin,
        ),
        bad(
            "a base URL with a user",
            |asked| base_url(asked, |url| url.replace("//", "//user@")),
            origin,
        ),
        // Of the addresses for documentation (RFC 5737).
        bad(
            "http:// that leads elsewhere",
            |asked| base_url(asked, |_| "http://192.0.2.1".to_owned()),
            "https://",
        ),
        bad(
            "a token with a line break",
            |asked| {
                set(asked, "DEFENDER_TOKEN", |token| {
                    format!("{token}\r\nx-evil: 1")
                })
            },
            token,
        ),
        bad(
            "a token of other characters",
            |asked| set(asked, "DEFENDER_TOKEN", |token| format!("{token};")),
            token,
        ),
    ]
}

fn base_url(asked: &mut Asked, change: fn(&str) -> String) {
    set(asked, "DEFENDER_BASE_URL", change);
}

fn set(asked: &mut Asked, name: &str, change: fn(&str) -> String) {
    let value = change(&asked.environment[name]);
    asked.environment.insert(name.to_owned(), value);
}

/// Each with a value, and two that the contract does not know.
const EVERY_PROPERTY: &str = r#"{"@odata.context":"x","id":"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a",
 "type":"UnrestrictCodeExecution","title":"t","requestor":"r","requestorComment":"c\n\u0000\ud83d\ude00",
 "status":"OnHold","machineId":"1e5bc9d7e413ddd7902c2932e418702b84d0cc07","computerDnsName":"d",
 "creationDateTimeUtc":"2026-01-30T21:11:22.8419303Z","lastUpdateDateTimeUtc":"2026-01-30T21:11:22Z",
 "cancellationRequestor":"cr","cancellationComment":"cc","cancellationDateTimeUtc":"2026-01-31T00:00:00.1Z",
 "errorHResult":-2147024891,"scope":"Full","externalId":"e","requestSource":"Portal",
 "relatedFileInfo":{"fileIdentifier":"f"},"commands":[{"index":0}],"troubleshootInfo":[1.0e2],
 "isNew":true}"#;

fn told_every_property() -> Value {
    json!({ "ok": {
        "id": "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a",
        "type": "unrestrict-code-execution",
        "title": "t",
        "requestor": "r",
        "requestor-comment": "c\n\0\u{1f600}",
        "status": { "other": "OnHold" },
        "machine-id": MACHINE,
        "computer-dns-name": "d",
        "creation-date-time-utc": "2026-01-30T21:11:22.8419303Z",
        "last-update-date-time-utc": "2026-01-30T21:11:22Z",
        "cancellation-requestor": "cr",
        "cancellation-comment": "cc",
        "cancellation-date-time-utc": "2026-01-31T00:00:00.1Z",
        "error-h-result": -2147024891,
        "scope": "Full",
        "external-id": "e",
        "request-source": "Portal",
        "related-file-info": r#"{"fileIdentifier":"f"}"#,
        "commands": r#"[{"index":0}]"#,
        "troubleshoot-info": "[1.0e2]",
        "additional-properties": [
            { "name": CONTEXT, "json": r#""x""# },
            { "name": "isNew", "json": "true" },
        ],
    }})
}

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::hints::MAX_ROLES;
use crate::types::MissingRoles;
use crate::wire::tests::RECORDED;

const MACHINE: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";
const ACTION: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
const LIMIT: &str = "API calls quota exceeded! maximum allowed 100 per 00:01:00";

fn release() -> Call<'static> {
    Call::UnrestrictCodeExecution {
        machine: MACHINE.parse().expect("a machine id"),
        comment: "Device cleared, removing app restriction"
            .parse()
            .expect("a comment"),
    }
}

fn restriction() -> Call<'static> {
    Call::RestrictCodeExecution {
        machine: MACHINE.parse().expect("a machine id"),
        comment: "Suspicious".parse().expect("a comment"),
    }
}

fn cancelling() -> Call<'static> {
    Call::CancelMachineAction {
        action: ACTION.parse().expect("an action id"),
        comment: "Not needed any more".parse().expect("a comment"),
    }
}

fn reading() -> Call<'static> {
    Call::GetMachineAction {
        action: ACTION.parse().expect("an action id"),
    }
}

fn answer(status: u16, body: &str) -> Answer {
    let body = body.as_bytes().to_vec();
    Answer {
        status,
        headers: Vec::new(),
        body,
        extent: Extent::Complete,
    }
}

fn error(call: &Call<'_>, answer: &Answer) -> Error {
    call.interpret(answer).expect_err("an error")
}

fn message(code: &str, message: &str) -> String {
    serde_json::json!({ "error": { "code": code, "message": message } }).to_string()
}

fn access(base_url: &str, token: Option<&str>) -> Access {
    Access {
        base_url: base_url.into(),
        authorization: match token {
            Some(token) => Authorization::Bearer(token.into()),
            None => Authorization::AttachedByHost,
        },
    }
}

fn request(call: &Call<'_>, access: &Access) -> Request {
    call.request(access)
        .unwrap_or_else(|error| panic!("{error:?}"))
}

fn headers(request: &Request) -> BTreeMap<&str, &str> {
    request
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

#[test]
fn a_release_is_a_post_of_the_comment_to_the_machine() {
    let request = request(
        &release(),
        &access("https://api.security.microsoft.com/", None),
    );
    assert!(request.origin.is_secure);
    assert_eq!(request.origin.authority, "api.security.microsoft.com");
    assert_eq!(
        request.path,
        format!("/api/machines/{MACHINE}/unrestrictCodeExecution")
    );
    let body = br#"{"Comment":"Device cleared, removing app restriction"}"#;
    assert_eq!(request.body.as_deref(), Some(&body[..]));
    assert_eq!(
        headers(&request),
        BTreeMap::from([
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
            ("content-length", "54"),
            ("content-type", "application/json"),
            ("user-agent", "defender-endpoint-plugin/0.1.0"),
        ])
    );
}

#[test]
fn a_restriction_and_a_cancellation_are_posts_of_the_comment_too() {
    for (call, path, body, target) in [
        (
            restriction(),
            format!("/api/machines/{MACHINE}/restrictCodeExecution"),
            &br#"{"Comment":"Suspicious"}"#[..],
            MACHINE,
        ),
        (
            cancelling(),
            format!("/api/machineactions/{ACTION}/cancel"),
            br#"{"Comment":"Not needed any more"}"#,
            ACTION,
        ),
    ] {
        assert_eq!(call.target(), Some(target));
        let request = request(&call, &access("https://api.security.microsoft.com", None));
        assert_eq!(request.path, path);
        assert_eq!(request.body.as_deref(), Some(body));
        assert_eq!(request.max_answer, MAX_ANSWER);
    }
}

#[test]
fn the_content_length_counts_bytes() {
    let call = Call::UnrestrictCodeExecution {
        machine: MACHINE.parse().expect("a machine id"),
        comment: "🦀\n".repeat(2048).parse().expect("a comment"),
    };
    let request = request(&call, &access("http://127.0.0.1:8080", None));
    let length = request.body.as_ref().map(Vec::len);
    assert_eq!(headers(&request)["content-length"], "12302");
    assert_eq!(length, Some(12302));
}

#[test]
fn reading_an_action_is_a_get_without_body() {
    let request = request(&reading(), &access("http://[::1]:8080", None));
    assert!(!request.origin.is_secure);
    assert_eq!(request.path, format!("/api/machineactions/{ACTION}"));
    assert_eq!(request.body, None);
    let names: Vec<&str> = headers(&request).into_keys().collect();
    assert_eq!(names, ["accept", "accept-encoding", "user-agent"]);
}

#[test]
fn a_token_is_sent_only_where_the_host_gave_one() {
    let with = request(
        &reading(),
        &access("https://api.security.microsoft.com", Some("eyJ0.e-_~+/=")),
    );
    assert_eq!(headers(&with)["authorization"], "Bearer eyJ0.e-_~+/=");
    let without = request(
        &reading(),
        &access("https://api.security.microsoft.com", None),
    );
    assert_eq!(headers(&without).get("authorization"), None);
}

#[test]
fn an_unusable_connection_is_unavailable_and_its_token_is_not_shown() {
    for access in [
        access("https://api.security.microsoft.com/api", Some("s3cret")),
        access("https://s3cret@api.security.microsoft.com", None),
        access(
            "https://api.security.microsoft.com",
            Some("s3cret\r\nx-evil: 1"),
        ),
        access("https://api.security.microsoft.com", Some("")),
    ] {
        let Err(error) = release().request(&access) else {
            panic!("{access:?}")
        };
        assert_eq!(
            (error.effect, &error.reason),
            (Effect::None, &Reason::Unavailable)
        );
        assert!(!error.message.contains("s3cret"), "{}", error.message);
        assert_eq!(error.service, None);
    }
}

#[test]
fn what_the_host_refuses_keeps_its_reason() {
    let limit = RateLimit {
        by: Limiter::Host,
        retry_after_seconds: Some(37),
        window_seconds: None,
    };
    for (refusal, reason, said) in [
        (
            Refusal::Denied("machine not in scope".into()),
            Reason::Denied,
            "machine not in scope.",
        ),
        (
            Refusal::RateLimited(37),
            Reason::RateLimited(limit),
            "in 37 s.",
        ),
        (
            Refusal::Unavailable("no token!".into()),
            Reason::Unavailable,
            "no token!",
        ),
    ] {
        let error = refused(refusal);
        assert_eq!(
            (error.effect, error.reason, error.service),
            (Effect::None, reason, None)
        );
        assert!(error.message.ends_with(said), "{}", error.message);
    }
}

#[test]
fn a_refused_argument_is_an_error_without_effect() {
    let problem = "abc".parse::<MachineId>().expect_err("a refusal");
    let error = refused_argument(problem.clone());
    assert!(error.message.contains(&problem.problem) && error.message.contains("machine-id"));
    assert_eq!(
        (error.effect, error.reason),
        (Effect::None, Reason::InvalidArgument(problem))
    );
}

#[test]
fn no_answer_to_a_read_has_no_effect() {
    for (reason, effect) in [
        (Reason::Transport, Effect::None),
        (Reason::Transport, Effect::Unknown),
        (Reason::Denied, Effect::None),
        (Reason::Unavailable, Effect::None),
    ] {
        let failure = Failure {
            reason: reason.clone(),
            effect,
            what: "it broke".into(),
        };
        let error = release().unanswered(failure.clone());
        assert_eq!((error.effect, &error.reason), (effect, &reason));
        assert_eq!(
            error.message.contains("look at the machine's actions"),
            effect == Effect::Unknown
        );
        let error = reading().unanswered(failure);
        assert_eq!((error.effect, error.reason), (Effect::None, reason));
        assert!(!error.message.contains("machine's actions"));
    }
}

#[test]
fn any_2xx_with_the_machine_s_action_is_a_success() {
    for status in [200, 201, 202, 204, 299] {
        let action = release()
            .interpret(&answer(status, RECORDED))
            .expect("a success");
        assert_eq!(action.id, ACTION);
        assert_eq!(reading().interpret(&answer(status, RECORDED)), Ok(action));
    }
}

#[test]
fn an_action_is_this_call_s_if_machine_and_type_do_not_say_otherwise() {
    let upper = MACHINE.to_uppercase();
    let table = [
        (r#""type":"UnrestrictCodeExecution""#.to_string(), true),
        (
            format!(r#""type":"UnrestrictCodeExecution","machineId":"{upper}""#),
            true,
        ),
        (
            r#""type":"UnrestrictCodeExecution","machineId":null"#.to_string(),
            true,
        ),
        (
            r#""type":"UnrestrictCodeExecution","machineId":5"#.to_string(),
            true,
        ),
        (r#""type":"LiftCodeExecutionRestriction""#.to_string(), true),
        (r#""type":"RestrictCodeExecution""#.to_string(), false),
        (r#""type":"Isolate""#.to_string(), false),
        (
            r#""type":"UnrestrictCodeExecution","machineId":"""#.to_string(),
            false,
        ),
        (
            format!(r#""type":"UnrestrictCodeExecution","machineId":"{MACHINE}0""#),
            false,
        ),
        (
            format!(
                r#""type":"UnrestrictCodeExecution","machineId":"{}""#,
                "0".repeat(40)
            ),
            false,
        ),
    ];
    for (properties, expected) in table {
        let body = format!(r#"{{"id":"1","status":"Pending",{properties}}}"#);
        match release().interpret(&answer(201, &body)) {
            Ok(_) => assert!(expected, "{body}"),
            Err(error) => {
                assert!(!expected, "{body}");
                assert_eq!(error.reason, Reason::UnexpectedResponse);
                assert_eq!(error.effect, Effect::Unknown);
            }
        }
    }
}

#[test]
fn a_read_action_is_the_one_asked_for_of_whatever_type() {
    let upper = ACTION.to_uppercase();
    for (id, expected) in [(ACTION, true), (upper.as_str(), true), ("1", false)] {
        let body = format!(r#"{{"id":"{id}","status":"Pending","type":"Isolate"}}"#);
        match reading().interpret(&answer(200, &body)) {
            Ok(action) => assert!(expected && action.id == id),
            Err(error) => {
                assert!(!expected);
                assert_eq!(
                    (error.effect, error.reason),
                    (Effect::None, Reason::UnexpectedResponse)
                );
            }
        }
    }
}

#[test]
fn a_2xx_without_the_whole_action_may_have_taken_effect() {
    let whole = || answer(201, RECORDED);
    for answer in [
        answer(204, ""),
        answer(200, "{}"),
        answer(200, "[]"),
        answer(200, "<html>Sign in</html>"),
        answer(201, &message("InternalServerError", "x")),
        Answer {
            extent: Extent::TooLong,
            ..whole()
        },
        Answer {
            extent: Extent::Broken,
            ..whole()
        },
    ] {
        let error = error(&release(), &answer);
        assert_eq!(
            (error.effect, &error.reason),
            (Effect::Unknown, &Reason::UnexpectedResponse)
        );
        assert!(
            error.message.contains("look at the machine's actions"),
            "{}",
            error.message
        );
        assert_eq!(
            error.service.map(|service| service.status),
            Some(answer.status)
        );
    }
}

#[test]
fn an_encoding_that_the_host_did_not_decode_is_named() {
    for (value, is_named) in [
        ("br", true),
        ("gzip", true),
        ("identity", false),
        ("", false),
    ] {
        let answer = Answer {
            headers: vec![("Content-Encoding".to_string(), value.as_bytes().to_vec())],
            ..answer(200, "\u{1f}\u{8b}")
        };
        let message = error(&release(), &answer).message;
        let says = format!("the response is compressed ({value}), which was not requested");
        assert_eq!(message.contains(&says), is_named, "{message}");
    }
}

#[test]
fn the_recorded_answer_cut_at_any_byte_is_never_a_success() {
    for end in 0..RECORDED.len() {
        let cut = answer(201, &RECORDED[..end]);
        assert_eq!(error(&release(), &cut).reason, Reason::UnexpectedResponse);
        assert_eq!(error(&reading(), &cut).reason, Reason::UnexpectedResponse);
    }
}

#[test]
fn each_status_has_the_reason_and_the_effect_of_the_contract() {
    let nobody = MissingRoles {
        required_roles: Vec::new(),
        held_roles: Vec::new(),
    };
    let limit = RateLimit {
        by: Limiter::Service,
        retry_after_seconds: None,
        window_seconds: None,
    };
    let failure = ServiceFailure {
        retry_after_seconds: None,
    };
    for status in 100..1000 {
        let (reason, effect) = match status {
            200..=299 => (Reason::UnexpectedResponse, Effect::Unknown),
            300..=399 => (Reason::UnexpectedResponse, Effect::None),
            401 => (Reason::Unauthorized, Effect::None),
            403 => (Reason::Forbidden(nobody.clone()), Effect::None),
            404 => (Reason::NotFound, Effect::None),
            429 => (Reason::RateLimited(limit), Effect::None),
            400..=499 => (Reason::Rejected, Effect::None),
            500..=599 => (Reason::ServiceFailure(failure), Effect::Unknown),
            _ => (Reason::UnexpectedResponse, Effect::Unknown),
        };
        let answer = answer(status, "");
        let error = error(&release(), &answer);
        assert_eq!((error.effect, &error.reason), (effect, &reason), "{status}");
        assert!(
            error.message.contains(&status.to_string()),
            "{}",
            error.message
        );
        assert_eq!(
            error.message.contains("machine's actions"),
            effect == Effect::Unknown
        );
        let service = ServiceError {
            status,
            code: None,
            message: None,
            correlation_id: None,
        };
        assert_eq!(error.service, Some(service));
        let error = self::error(&reading(), &answer);
        assert_eq!(
            (error.effect, error.reason),
            (Effect::None, reason),
            "{status}"
        );
        assert!(
            !error.message.contains("machine's actions"),
            "{}",
            error.message
        );
    }
}

#[test]
fn a_release_that_is_under_way_is_told_by_code_or_by_message() {
    // The code is named by
    // https://learn.microsoft.com/en-us/defender-endpoint/api/run-live-response, the message by
    // https://github.com/MicrosoftDocs/microsoft-365-docs/issues/5906.
    for (status, code, text, expected) in [
        (
            400,
            "ActiveRequestAlreadyExists",
            "Action is already in progress",
            true,
        ),
        (400, "ActiveRequestAlreadyExists", "", true),
        (
            400,
            "BadRequest",
            "Action is Already In Progress. Please wait",
            true,
        ),
        (400, "", "already in progress", true),
        (400, "BadRequest", "Action is in progress", false),
        (400, "InvalidInput", "x", false),
        (
            409,
            "ActiveRequestAlreadyExists",
            "Action is already in progress",
            false,
        ),
    ] {
        let answer = answer(status, &message(code, text));
        let reason = if expected {
            Reason::AlreadyInProgress
        } else {
            Reason::Rejected
        };
        assert_eq!(
            error(&release(), &answer).reason,
            reason,
            "{status} {code} {text}"
        );
        assert_eq!(error(&reading(), &answer).reason, Reason::Rejected);
    }
}

#[test]
fn the_service_s_words_are_passed_on_and_quoted() {
    let body = r#"{"error":{"code":"ResourceNotFound","message":"Machine x\u001b[2J was\n<b>not</b> found",
        "target":"|3xxxxx"}}"#;
    let error = error(&release(), &answer(404, body));
    assert_eq!(
        error.message,
        "The service finds no such machine (404 ResourceNotFound): Machine x [2J was <b>not</b> found. \
         Look at the id, and at whether the token may see this machine."
    );
    assert_eq!(
        error.service,
        Some(ServiceError {
            status: 404,
            code: Some("ResourceNotFound".into()),
            message: Some("Machine x\u{1b}[2J was\n<b>not</b> found".into()),
            correlation_id: Some("|3xxxxx".into()),
        })
    );
}

#[test]
fn an_answer_that_is_no_error_document_is_quoted_in_short() {
    let page = format!(
        "<html>\r\n  <h1>502 Bad Gateway</h1>{}</html>",
        "é".repeat(5000)
    );
    let error = error(&release(), &answer(502, &page));
    let service = error.service.expect("there was an answer");
    assert_eq!((service.code, service.message), (None, None));
    assert!(
        error
            .message
            .starts_with("The service failed (502): <html> <h1>502 Bad Gateway</h1>é")
    );
    assert!(
        error.message.contains("é… It may have taken effect"),
        "{}",
        error.message
    );
    assert!(error.message.chars().count() < 350);
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let text = "🦀".repeat(20_000);
    let error = error(&release(), &answer(400, &message("Code", &text)));
    assert_eq!(error.message.matches('🦀').count(), MAX_QUOTE);
    assert_eq!(
        error.service.and_then(|service| service.message),
        Some(text)
    );
}

#[test]
fn a_status_decides_even_if_the_body_is_unusable() {
    for extent in [Extent::TooLong, Extent::Broken] {
        let answer = Answer {
            extent,
            ..answer(403, "{\"error\":{\"code\":\"Forb")
        };
        assert!(matches!(
            error(&release(), &answer).reason,
            Reason::Forbidden(_)
        ));
    }
}

#[test]
fn the_roles_of_a_refusal_are_read_from_its_message() {
    type Row = (
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
    );
    let table: [Row; 11] = [
        (
            "Missing application roles. API required roles: Machine.RestrictExecution, application \
             roles: Machine.Read.All,Vulnerability.Read.All.",
            &["Machine.RestrictExecution"],
            &["Machine.Read.All", "Vulnerability.Read.All"],
        ),
        (
            "Missing application roles. API required roles: A.B, C.D , application roles: .",
            &["A.B", "C.D"],
            &[],
        ),
        (
            "API required roles: Machine.Read.All",
            &["Machine.Read.All"],
            &[],
        ),
        (
            "API REQUIRED ROLES: Machine.Read.All. Ask an admin.",
            &["Machine.Read.All"],
            &[],
        ),
        ("required roles:, application roles: A", &[], &["A"]),
        ("required roles: \u{1f980}, <b>, A", &["A"], &[]),
        // https://github.com/MicrosoftDocs/microsoft-365-docs/issues/6062
        (
            "The application does not have any of the required application permissions \
             (Machine.Isolate, Machine.Scan, …) to access the resource.",
            &["Machine.Isolate", "Machine.Scan"],
            &[],
        ),
        (
            "any of the required application permissions Machine.Isolate",
            &[],
            &[],
        ),
        ("any of the required application permissions (", &[], &[]),
        ("Authorization has been denied for this request.", &[], &[]),
        ("", &[], &[]),
    ];
    for (text, required, held) in table {
        let Reason::Forbidden(roles) =
            error(&release(), &answer(403, &message("Forbidden", text))).reason
        else {
            panic!("{text}")
        };
        assert_eq!(roles.required_roles, required, "{text}");
        assert_eq!(roles.held_roles, held, "{text}");
    }
    let many = format!("API required roles: {}", "A,".repeat(100_000));
    assert_eq!(missing_roles(&many).required_roles.len(), MAX_ROLES);
    let far = format!("{}🦀 required roles: A", "x".repeat(4094));
    assert!(matches!(
        error(&release(), &answer(403, &message("Forbidden", &far))).reason,
        Reason::Forbidden(roles) if roles.required_roles.is_empty()
    ));
}

#[test]
fn the_longer_wait_of_header_and_message_counts() {
    // The first wording is of https://github.com/MicrosoftDocs/microsoft-365-docs/issues/4616.
    let keyed = "API calls quota exceeded! Maximum allowed 30 per 00:01:00 for the key \
                 Destination+TenantID+AppID. You can send requests again in 8 seconds.";
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, Option<u32>, Option<u32>);
    let table: [Row<'_>; 19] = [
        (&[], LIMIT, None, Some(60)),
        (&[], keyed, Some(8), Some(60)),
        (&[("Retry-After", "37")], keyed, Some(37), Some(60)),
        (&[("retry-after", " 37\t")], LIMIT, Some(37), Some(60)),
        (&[("RETRY-AFTER", "0")], "", Some(0), None),
        (
            &[("retry-after", "0")],
            "Rate limit is exceeded. Try again in 2 seconds.",
            Some(2),
            None,
        ),
        (&[("retry-after", "3")], keyed, Some(8), Some(60)),
        (&[("retry-after", "99999999999")], "", Some(u32::MAX), None),
        (
            &[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")],
            keyed,
            Some(8),
            Some(60),
        ),
        (
            &[
                ("retry-after", "-1"),
                ("retry-after", "+5"),
                ("retry-after", "7"),
            ],
            "",
            Some(7),
            None,
        ),
        (
            &[("retry-after", ""), ("x-retry-after", "5")],
            "",
            None,
            None,
        ),
        (
            &[("retry-after", "1.5")],
            "Try AGAIN IN 1 Second",
            Some(1),
            None,
        ),
        (&[], "again in 5 minutes, again in ", None, None),
        (&[], "maximum allowed 1500 per 01:00:00.", None, Some(3600)),
        (&[], "100 per 1.00:00:00", None, Some(86_400)),
        (
            &[],
            "100 per minute, 1500 per 01:00:00.0000000",
            None,
            Some(3600),
        ),
        (&[], "per 00:00:00", None, None),
        (
            &[],
            "per 00:99:00, per 24:00:00, per ::, per 1:2, per 99999999999.00:00:01",
            None,
            None,
        ),
        (&[], "per é00:01:00", None, None),
    ];
    for (headers, text, retry_after_seconds, window_seconds) in table {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect();
        let answer = Answer {
            headers,
            ..answer(429, &message("429", text))
        };
        let limit = RateLimit {
            by: Limiter::Service,
            retry_after_seconds,
            window_seconds,
        };
        for call in [release(), reading()] {
            assert_eq!(
                error(&call, &answer).reason,
                Reason::RateLimited(limit),
                "{text}"
            );
        }
    }
}

#[test]
fn what_is_under_way_already_is_told_to_who_wanted_to_begin_it() {
    let body = message(
        "ActiveRequestAlreadyExists",
        "Action is already in progress",
    );
    for (call, reason) in [
        (release(), Reason::AlreadyInProgress),
        (restriction(), Reason::AlreadyInProgress),
        (cancelling(), Reason::Rejected),
        (reading(), Reason::Rejected),
    ] {
        assert_eq!(error(&call, &answer(400, &body)).reason, reason, "{call:?}");
    }
}

#[test]
fn a_cancellation_that_may_have_been_done_is_read_before_it_is_repeated() {
    let error = error(&cancelling(), &answer(500, ""));
    assert_eq!(error.effect, Effect::Unknown);
    assert!(error.message.contains("read the action"), "{error:?}");
}

#[test]
fn a_failing_service_may_say_how_long_to_wait() {
    let headers = vec![("Retry-After".to_string(), b"120".to_vec())];
    for status in [500, 503] {
        let answer = Answer {
            headers: headers.clone(),
            ..answer(status, "")
        };
        let failure = ServiceFailure {
            retry_after_seconds: Some(120),
        };
        assert_eq!(
            error(&release(), &answer).reason,
            Reason::ServiceFailure(failure)
        );
    }
}

#[test]
fn a_429_does_not_repeat_its_status_as_its_code() {
    let error = error(&release(), &answer(429, &message("429", LIMIT)));
    assert_eq!(
        error.message,
        format!(
            "The API's quota is used up (429): {LIMIT}. Wait for a whole window before you try again."
        )
    );
    assert_eq!(
        error.service.and_then(|service| service.code).as_deref(),
        Some("429")
    );
}

/// Whether a body is an action that the call can have led to: the contract's sentence, by another
/// reader.
fn is_own_action(call: &Call<'_>, body: &[u8]) -> bool {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return false;
    };
    let has = |name: &str| value[name].as_str().is_some_and(|text| !text.is_empty());
    has("id")
        && has("type")
        && has("status")
        && match call {
            Call::UnrestrictCodeExecution { machine, .. } => {
                let other = [
                    "RunAntiVirusScan",
                    "Offboard",
                    "Isolate",
                    "RestrictCodeExecution",
                ];
                value["machineId"]
                    .as_str()
                    .is_none_or(|id| id.to_lowercase() == machine.as_str())
                    && value["type"]
                        .as_str()
                        .is_none_or(|name| !other.contains(&name))
            }
            Call::RestrictCodeExecution { machine, .. } => {
                let other = [
                    "RunAntiVirusScan",
                    "Offboard",
                    "Isolate",
                    "UnrestrictCodeExecution",
                ];
                value["machineId"]
                    .as_str()
                    .is_none_or(|id| id.to_lowercase() == machine.as_str())
                    && value["type"]
                        .as_str()
                        .is_none_or(|name| !other.contains(&name))
            }
            Call::GetMachineAction { action } | Call::CancelMachineAction { action, .. } => {
                value["id"]
                    .as_str()
                    .is_some_and(|id| id.to_lowercase() == action.as_str())
            }
            Call::ListMachineActions(_) | Call::FindMachines(_) => false,
        }
}

/// A value as the service might send one, or might not.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_string()),
        Just("{\"a\":[1e3,{}]}".to_string()),
        Just("[]".to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
        Just(format!("\"{ACTION}\"")),
        Just(format!("\"{}\"", MACHINE.to_uppercase())),
        "\"(UnrestrictCodeExecution|RestrictCodeExecution|Isolate|New|Pending|Succeeded)\"",
    ]
}

/// An object of known and unknown properties, in any order and number.
fn any_object() -> impl Strategy<Value = String> {
    let name = "id|type|status|machineId|title|errorHResult|commands|error|code|message|Message|x";
    let properties = proptest::collection::vec((name, any_value()), 0..12);
    let start = prop_oneof![
        Just(String::new()),
        Just(format!(
            "\"id\":\"{ACTION}\",\"type\":\"UnrestrictCodeExecution\",\"status\":\"Pending\""
        )),
    ];
    (start, properties).prop_map(|(start, properties)| {
        let mut members: Vec<String> = Vec::new();
        if !start.is_empty() {
            members.push(start);
        }
        members.extend(
            properties
                .iter()
                .map(|(name, value)| format!("\"{name}\":{value}")),
        );
        format!("{{{}}}", members.join(","))
    })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        any::<String>().prop_map(String::into_bytes),
        any_object().prop_map(String::into_bytes),
        any::<String>().prop_map(|text| message("Code", &text).into_bytes()),
        "(required roles:|application roles:|again in |per |[0-9:., A-Z()]|second){0,20}"
            .prop_map(|text| message("Code", &text).into_bytes()),
        (0..RECORDED.len(), any::<u8>()).prop_map(|(at, byte)| {
            let mut body = RECORDED.as_bytes().to_vec();
            body[at] = byte;
            body
        }),
    ]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let status = prop_oneof![any::<u16>(), 200..=204_u16, 400..=430_u16, 500..=504_u16];
    let header = (
        "retry-after|Retry-After|\\PC*",
        proptest::collection::vec(any::<u8>(), 0..12),
    );
    let extent = prop_oneof![
        4 => Just(Extent::Complete),
        1 => Just(Extent::TooLong),
        1 => Just(Extent::Broken),
    ];
    (
        status,
        proptest::collection::vec(header, 0..4),
        any_body(),
        extent,
    )
        .prop_map(|(status, headers, body, extent)| Answer {
            status,
            headers,
            body,
            extent,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_answer_panics_or_passes_for_a_success_that_it_is_not(answer in any_answer()) {
        for call in [release(), restriction(), cancelling(), reading()] {
            let is_success = (200..=299).contains(&answer.status)
                && answer.extent == Extent::Complete
                && is_own_action(&call, &answer.body);
            match call.interpret(&answer) {
                Ok(_) => prop_assert!(is_success),
                Err(error) => {
                    prop_assert!(!is_success, "{error:?}");
                    let reads = matches!(call, Call::GetMachineAction { .. });
                    let none = reads || (300..=499).contains(&answer.status);
                    prop_assert_eq!(error.effect == Effect::None, none);
                    let status = error.service.map(|service| service.status);
                    prop_assert_eq!(status, Some(answer.status));
                    prop_assert!(error.message.chars().count() <= MAX_QUOTE + MAX_EXCERPT + 250);
                    prop_assert!(!error.message.contains(char::is_control));
                }
            }
        }
    }

    #[test]
    fn nothing_in_an_action_is_lost(body in any_object()) {
        let Some(action) = wire::machine_action(body.as_bytes()) else { return Ok(()) };
        let Ok(Value::Object(sent)) = serde_json::from_str(&body) else { panic!("{body}") };
        let kept = |name: &str, json: &Value| {
            action.additional_properties.iter().any(|property| {
                let value = serde_json::from_str::<Value>(&property.json).ok();
                property.name == name && value.as_ref() == Some(json)
            })
        };
        for (name, json) in &sent {
            let read = match name.as_str() {
                "id" | "type" | "status" => true,
                "machineId" => action.machine_id.as_deref() == json.as_str(),
                "title" => action.title.as_deref() == json.as_str(),
                "errorHResult" => action.error_h_result.map(i64::from) == json.as_i64(),
                "commands" => action.commands.is_some() == json.is_array(),
                _ => false,
            };
            prop_assert!(json.is_null() || kept(name, json) || read, "{name}");
        }
    }
}

use super::*;
use crate::bindings::{ActionStatus, ActionType, Failure, MissingRoles, RateLimit, ServiceError};
use crate::native;

const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
const ACTION: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
const RELEASE: Operation = Operation::UnrestrictCodeExecution;

fn answered(status: u16, body: &str) -> Observation {
    let mut seen = Observation::default();
    seen.may_have_arrived = true;
    seen.status = Some(status);
    seen.headers = Some(http::HeaderMap::new());
    seen.answer = body.as_bytes().to_vec().into();
    seen
}

fn body(id: &str, type_: &str, status: &str, machine: &str) -> String {
    serde_json::json!({
        "id": id, "type": type_, "status": status, "machineId": machine,
        "lastUpdateDateTimeUtc": "2026-11-29T17:12:08.1Z",
    })
    .to_string()
}

fn claimed() -> MachineAction {
    MachineAction {
        machine_id: Some(MACHINE.to_owned()),
        last_update_date_time_utc: Some("2026-11-29T17:12:08.1Z".to_owned()),
        ..MachineAction::blank(
            ACTION,
            ActionType::UnrestrictCodeExecution,
            ActionStatus::Pending,
        )
    }
}

fn read(seen: &Observation) -> Option<Result<MachineAction, bindings::Error>> {
    let reader = native::unrestrict(MACHINE, "cleaned").unwrap();
    reader.read(seen, RELEASE)
}

#[test]
fn a_success_is_one_only_if_it_is_the_whole_record() {
    let other = &MACHINE.replace('1', "2");
    let (kind, pending) = ("UnrestrictCodeExecution", "Pending");
    let good = body(ACTION, kind, pending, MACHINE);
    for (status, body, is_the_same) in [
        (201, good.clone(), true),
        (200, good.clone(), true),
        (302, good.clone(), false),
        (400, good.clone(), false),
        (500, good.clone(), false),
        (200, String::new(), false),
        (200, good[..good.len() - 1].to_owned(), false),
        (200, good.replace("8a5c", "9a5c"), false),
        (200, body(ACTION, "Offboard", pending, MACHINE), false),
        (200, body(ACTION, kind, "Failed", MACHINE), false),
        (200, body(ACTION, kind, pending, other), false),
        (200, good.replace("08.1Z", "08.2Z"), false),
        (200, good.replace('}', r#","title":"x"}"#), false),
        (200, good.replace('}', r#","isNew":1}"#), false),
    ] {
        let read = read(&answered(status, &body)).unwrap();
        let difference = difference(&Ok(claimed()), &read);
        assert_eq!(difference.is_none(), is_the_same, "{body}: {difference:?}");
    }
}

#[test]
fn a_difference_names_the_property_and_both_values() {
    let seen = answered(
        201,
        &body(ACTION, "UnrestrictCodeExecution", "Pending", MACHINE),
    );
    let claimed = MachineAction {
        last_update_date_time_utc: Some("2025-11-29T17:12:08.1Z".to_owned()),
        ..claimed()
    };
    let read = read(&seen).unwrap().unwrap();
    let page = |item: &MachineAction| MachineActionPage {
        items: vec![read.clone(), item.clone()],
        truncated: false,
    };
    let expected = "it reported lastUpdateDateTimeUtc as \"2025-11-29T17:12:08.1Z\"; the response \
                    has \"2026-11-29T17:12:08.1Z\"";
    assert_eq!(claimed.difference(&read), expected);
    assert_eq!(
        page(&claimed).difference(&page(&read)),
        format!("entry 2: {expected}")
    );
    let shorter = MachineActionPage {
        items: vec![read.clone()],
        truncated: true,
    };
    assert_eq!(
        shorter.difference(&page(&read)),
        "it reported 1 entries, and more; the response has 2 entries"
    );
}

#[test]
fn an_error_is_one_only_with_its_reason_effect_and_service_part() {
    let seen = answered(
        404,
        r#"{"error":{"code":"ResourceNotFound","message":"none","target":"t"}}"#,
    );
    let read = read(&seen).unwrap();
    let error = read.clone().unwrap_err();
    assert_eq!(
        (&error.reason, error.effect),
        (&Reason::NotFound, Effect::None)
    );
    let same = bindings::Error {
        message: "in other words".to_owned(),
        ..error.clone()
    };
    assert_eq!(difference(&Err(same), &read), None);
    let service = error.service.clone().unwrap();
    for other in [
        bindings::Error {
            reason: Reason::Rejected,
            ..error.clone()
        },
        bindings::Error {
            effect: Effect::Unknown,
            ..error.clone()
        },
        bindings::Error {
            service: None,
            ..error.clone()
        },
        bindings::Error {
            service: Some(ServiceError {
                message: None,
                ..service
            }),
            ..error
        },
    ] {
        assert!(
            difference(&Err(other.clone()), &read).is_some(),
            "{other:?}"
        );
    }
}

#[test]
fn without_a_response_there_is_no_error_of_the_services() {
    assert!(read(&Observation::default()).is_none());
    let error = |reason| bindings::Error {
        effect: Effect::None,
        reason,
        message: String::new(),
        service: None,
    };
    let limit = |by| {
        error(Reason::RateLimited(RateLimit {
            by,
            retry_after_seconds: Some(1),
            window_seconds: None,
        }))
    };
    let forbidden = error(Reason::Forbidden(MissingRoles {
        required_roles: Vec::new(),
        held_roles: Vec::new(),
    }));
    let failure = error(Reason::ServiceFailure(Failure {
        retry_after_seconds: None,
    }));
    let with_status = bindings::Error {
        service: Some(ServiceError {
            status: 400,
            code: None,
            message: None,
            correlation_id: None,
        }),
        ..error(Reason::Transport)
    };
    let mut held_back = Observation::default();
    held_back.is_held_back = true;
    let nothing = Observation::default();
    for (seen, error, can_be) in [
        (&nothing, error(Reason::Transport), true),
        (&nothing, error(Reason::Denied), true),
        (&nothing, error(Reason::Unavailable), true),
        (&nothing, error(Reason::AlreadyInProgress), false),
        (&nothing, error(Reason::Unauthorized), false),
        (&nothing, error(Reason::NotFound), false),
        (&nothing, error(Reason::Rejected), false),
        (&nothing, forbidden, false),
        (&nothing, failure, false),
        (&nothing, with_status, false),
        (&nothing, limit(Limiter::Service), false),
        (&nothing, limit(Limiter::Host), false),
        (&held_back, limit(Limiter::Host), true),
    ] {
        assert_eq!(can_be_without_response(&error, seen), can_be, "{error:?}");
    }
}

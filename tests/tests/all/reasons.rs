//! Every way in which the service can refuse, through the real component.

use std::time::Duration;

use defender_mock::{
    Api, Fault, ForbiddenWording, Grant, QuotaCode, QuotaWording, RetryAfter, ServerErrorBody,
};
use host_demo::contract::{Effect, Failure, Limiter, MissingRoles, RateLimit, Reason};
use host_demo::host::{CallError, WaitOptions};
use tests::world::{World, meanwhile, release};

const SECOND: Duration = Duration::from_secs(1);

/// Reason, effect, and the service's own status and code.
fn told(error: &CallError) -> (Reason, Effect, Option<(u16, Option<&str>)>) {
    let CallError::Answered { error, detail } = error else {
        panic!("{error:?}");
    };
    assert_eq!(detail, &None, "an answer came");
    let service = error.service.as_ref();
    (
        error.reason.clone(),
        error.effect,
        service.map(|s| (s.status, s.code.as_deref())),
    )
}

fn roles(required: &[&str], held: &[&str]) -> Reason {
    let owned = |roles: &[&str]| roles.iter().map(|&role| role.to_owned()).collect();
    Reason::Forbidden(MissingRoles {
        required_roles: owned(required),
        held_roles: owned(held),
    })
}

fn limited(retry_after_seconds: Option<u32>, window_seconds: Option<u32>) -> Reason {
    Reason::RateLimited(RateLimit {
        by: Limiter::Service,
        retry_after_seconds,
        window_seconds,
    })
}

fn failed(retry_after_seconds: Option<u32>) -> Reason {
    Reason::ServiceFailure(Failure {
        retry_after_seconds,
    })
}

#[tokio::test]
async fn a_second_release_is_already_in_progress() {
    let world = World::new().await;
    world.release("cleaned").await.unwrap();
    let error = world.release("cleaned").await.unwrap_err();
    let service = (400, Some("ActiveRequestAlreadyExists"));
    assert_eq!(
        told(&error),
        (Reason::AlreadyInProgress, Effect::None, Some(service))
    );
    assert_eq!(world.mock.actions().len(), 1);
}

#[tokio::test]
async fn a_token_that_does_not_hold_is_unauthorized() {
    let world = World::new().await;
    let expired = world.mock.token(Grant::new().lifetime(Duration::ZERO));
    for token in [expired.as_str(), "garbage", "e30.e30.e30"] {
        let host = world.host_with_token(token);
        let error = release(&host, &world.machine(0), "cleaned")
            .await
            .unwrap_err();
        let service = (401, Some("Unauthorized"));
        assert_eq!(
            told(&error),
            (Reason::Unauthorized, Effect::None, Some(service))
        );
    }
    assert_eq!(world.releases(), 3, "none was sent twice");
}

#[tokio::test]
async fn a_token_for_another_audience_is_forbidden_and_no_role_is_to_blame() {
    let world = World::new().await;
    let grant = Grant::new().audience("https://api.security.microsoft.com");
    let host = world.host_with_token(&world.mock.token(grant));
    let error = release(&host, &world.machine(0), "cleaned")
        .await
        .unwrap_err();
    let service = (403, Some("Forbidden"));
    assert_eq!(told(&error), (roles(&[], &[]), Effect::None, Some(service)));
}

#[tokio::test]
async fn a_missing_role_is_named_beside_those_that_are_held() {
    for (wording, held) in [
        (
            ForbiddenWording::Current,
            &["Machine.Read.All", "Alert.Read.All"][..],
        ),
        (ForbiddenWording::Old, &[]),
    ] {
        let world = World::with(|scene| scene.switches.forbidden_wording = wording).await;
        let grant = Grant::new().roles(["Machine.Read.All", "Alert.Read.All"]);
        let host = world.host_with_token(&world.mock.token(grant));
        let error = release(&host, &world.machine(0), "cleaned")
            .await
            .unwrap_err();
        let reason = roles(&["Machine.RestrictExecution"], held);
        let service = (403, Some("Forbidden"));
        assert_eq!(told(&error), (reason, Effect::None, Some(service)));
    }
}

#[tokio::test]
async fn an_unknown_machine_or_action_is_not_found() {
    let world = World::new().await;
    let expected = (
        Reason::NotFound,
        Effect::None,
        Some((404, Some("ResourceNotFound"))),
    );
    let machine = "0".repeat(40);
    let error = world.release_of(&machine, "cleaned").await.unwrap_err();
    assert_eq!(told(&error), expected);
    let action = "00000000-0000-0000-0000-000000000000";
    let read = world
        .host
        .get_machine_action(action, WaitOptions::default());
    assert_eq!(told(&read.await.unwrap_err()), expected);
}

#[tokio::test]
async fn a_call_over_the_services_quota_says_how_long_to_wait_as_far_as_the_service_does() {
    for (retry_after, wording, code, wait) in [
        (
            RetryAfter::Seconds,
            QuotaWording::KeyAndWait,
            QuotaCode::Number,
            Some(60),
        ),
        (
            RetryAfter::Seconds,
            QuotaWording::Short,
            QuotaCode::Name,
            Some(60),
        ),
        (
            RetryAfter::Absent,
            QuotaWording::KeyAndWait,
            QuotaCode::Number,
            Some(60),
        ),
        (
            RetryAfter::Absent,
            QuotaWording::Short,
            QuotaCode::Name,
            None,
        ),
    ] {
        let world = World::with(|scene| {
            scene.switches.per_minute = Some(1);
            scene.switches.retry_after = retry_after;
            scene.switches.quota_wording = wording;
            scene.switches.quota_code = code;
        })
        .await;
        world.release("cleaned").await.unwrap();
        let machine = world.machine(1);
        let error = world.release_of(&machine, "cleaned").await.unwrap_err();
        let code = match code {
            QuotaCode::Number => "429",
            QuotaCode::Name => "TooManyRequests",
        };
        let expected = (
            limited(wait, Some(60)),
            Effect::None,
            Some((429, Some(code))),
        );
        assert_eq!(told(&error), expected, "{retry_after:?} {wording:?}");
    }
}

#[tokio::test]
async fn after_a_429_the_host_holds_the_next_call_back_for_as_long_as_it_was_told() {
    const MESSAGE: &str = "API calls quota exceeded! Maximum allowed 100 per 00:01:00 for the key \
                           Destination+TenantID+AppID. You can send requests again in 8 seconds.";
    let document = format!(r#"{{"error":{{"code":"429","message":"{MESSAGE}"}}}}"#);
    let short = r#"{"error":{"code":"429","message":"maximum allowed 1500 per 01:00:00"}}"#;
    let day = (24 * 3600).to_string();
    for (fault, wait) in [
        (Fault::answer(429, "").header("Retry-After", "17"), 17),
        (Fault::answer(429, document), 8),
        (Fault::answer(429, short), 3600),
        (Fault::answer(429, ""), 60),
        (
            Fault::answer(429, "").header("Retry-After", &day),
            24 * 3600,
        ),
    ] {
        let world = World::new().await;
        world.inject(fault);
        let error = world.release("cleaned").await.unwrap_err();
        assert!(
            matches!(error.reason(), Some(Reason::RateLimited(_))),
            "{error:?}"
        );
        let opens = world.now() + wait * SECOND;

        let mut next = Box::pin(world.release("cleaned"));
        meanwhile(&mut next, world.until_rest()).await;
        world.clock.advance(wait * SECOND - Duration::from_nanos(1));
        meanwhile(&mut next, world.until_rest()).await;
        assert_eq!(world.releases(), 1, "a nanosecond too early");
        world.clock.advance(Duration::from_nanos(1));
        next.await.unwrap();
        assert_eq!(world.requests(Api::UnrestrictCodeExecution)[1].at, opens);
    }
}

#[tokio::test]
async fn what_the_service_does_not_accept_is_rejected_and_changes_nothing() {
    for (status, body, code) in [
        (
            400,
            r#"{"error":{"code":"InvalidRequestBody","message":"Request body is incorrect"}}"#,
            Some("InvalidRequestBody"),
        ),
        (
            400,
            r#"{"error":{"code":"","message":"The query is not valid.","details":[]}}"#,
            None,
        ),
        (405, "", None),
        (
            409,
            r#"{"error":{"code":"Conflict","message":"x","target":"|3.4."}}"#,
            Some("Conflict"),
        ),
        (413, "<html>413</html>", None),
        (
            415,
            r#"{"error":"invalid_request"}"#,
            Some("invalid_request"),
        ),
        (499, "\u{0}", None),
    ] {
        let world = World::new().await;
        world.inject(Fault::answer(status, body));
        let error = world.release("cleaned").await.unwrap_err();
        let expected = (Reason::Rejected, Effect::None, Some((status, code)));
        assert_eq!(told(&error), expected);
        assert_eq!(world.releases(), 1);
    }
}

#[tokio::test]
async fn a_failure_of_the_service_leaves_open_whether_it_acted() {
    for (body, code) in [
        (ServerErrorBody::Envelope, Some("InternalServerError")),
        (ServerErrorBody::Html, None),
        (ServerErrorBody::Empty, None),
    ] {
        let world = World::with(|scene| scene.switches.server_error_body = body).await;
        for status in [500, 502, 503, 504, 599] {
            world.inject(Fault::server_error(status));
            let error = world.release("cleaned").await.unwrap_err();
            assert_eq!(
                told(&error),
                (failed(None), Effect::Unknown, Some((status, code)))
            );
        }
        world.inject(Fault::answer(503, "").header("Retry-After", "120"));
        let error = world.release("cleaned").await.unwrap_err();
        assert_eq!(
            told(&error),
            (failed(Some(120)), Effect::Unknown, Some((503, None)))
        );
        assert_eq!(world.releases(), 6, "none was sent twice");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308, 300, 304] {
        let world = World::new().await;
        let elsewhere = world.machine(1);
        let location = format!(
            "{}/api/machines/{elsewhere}/unrestrictCodeExecution",
            world.mock.base_url()
        );
        world.inject(Fault::answer(status, "").header("Location", &location));
        let error = world.release("cleaned").await.unwrap_err();
        let service = Some((status, None));
        assert_eq!(
            told(&error),
            (Reason::UnexpectedResponse, Effect::None, service)
        );
        assert_eq!(world.releases(), 1);
        assert!(world.mock.actions().is_empty());
    }
}

#[tokio::test]
async fn a_success_that_is_none_is_an_unexpected_response_of_unknown_effect() {
    let other = r#"{"id":"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a","type":"UnrestrictCodeExecution","status":"Pending","machineId":"49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9"}"#;
    let isolation = r#"{"id":"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a","type":"Unisolate","status":"Pending","machineId":null}"#;
    for (status, body) in [
        (201, "<html><body>Sign in to your proxy</body></html>"),
        (200, ""),
        (204, ""),
        (201, "{}"),
        (201, "null"),
        (201, r#"{"value":[]}"#),
        (201, r#"{"id":"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a"}"#),
        (200, other),
        (201, isolation),
    ] {
        let world = World::new().await;
        world.inject(Fault::answer(status, body));
        let error = world.release("cleaned").await.unwrap_err();
        let expected = (
            Reason::UnexpectedResponse,
            Effect::Unknown,
            Some((status, None)),
        );
        assert_eq!(told(&error), expected, "{body}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_never_ends_is_an_unexpected_response() {
    for plain_http in [false, true] {
        for fault in [Fault::truncated_body(), Fault::endless_body()] {
            let world = World::with(|scene| scene.plain_http = plain_http).await;
            world.inject(fault);
            let error = world.release("cleaned").await.unwrap_err();
            let expected = (
                Reason::UnexpectedResponse,
                Effect::Unknown,
                Some((201, None)),
            );
            assert_eq!(told(&error), expected);
            assert_eq!(world.mock.actions().len(), 1, "it did act");
        }
    }
}

#[tokio::test]
async fn a_429_is_heeded_for_as_long_as_its_header_says_in_seconds_or_as_a_date() {
    for (said, seconds) in [
        ("7200".to_owned(), 7200),
        ("99999999999".to_owned(), 24 * 3600),
        // The stand-in's clock stands at 21:11:22 on that day.
        ("Fri, 30 Jan 2026 22:11:22 GMT".to_owned(), 3601),
    ] {
        let world = World::new().await;
        world.inject(Fault::answer(429, "").header("Retry-After", &said));
        world.release("cleaned").await.unwrap_err();
        let opens = world.now() + Duration::from_secs(seconds);
        let mut next = Box::pin(world.release("cleaned"));
        meanwhile(&mut next, world.until_rest()).await;
        world.advance_to(opens);
        next.await.unwrap();
    }
}

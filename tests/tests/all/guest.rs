//! What the boundary does with a hostile guest.
//!
//! The guest's comment says how it misbehaves, and its message what it met; the stand-in's book
//! says what came of it.

use std::collections::HashSet;

use defender_mock::{Api, Fault};
use host_demo::contract::Effect;
use host_demo::host::{CALL_TIMEOUT, CallError};
use tests::world::{World, evil_plugin, meanwhile};

const DENIED: &str = "ErrorCode::HttpRequestDenied";
const FORBIDDEN: &str = "HeaderError::Forbidden";

/// What the guest says that it met.
fn met(error: &CallError) -> &str {
    match error {
        CallError::Answered { error, .. } => &error.message,
        other => panic!("{other:?}"),
    }
}

/// The next call finds everything in order: nothing is used up, or left over from the call before.
pub(super) async fn assert_the_host_goes_on(world: &World) {
    let before = world.releases();
    world.release("behave").await.unwrap();
    assert_eq!(world.releases(), before + 1);
}

#[tokio::test]
async fn the_request_that_all_the_others_bend_does_arrive() {
    let world = World::evil().await;
    let action = world.release("behave").await.unwrap();
    assert_eq!(action.machine_id, Some(world.machine(0)));
    assert_eq!(
        world.requests(Api::UnrestrictCodeExecution)[0].status,
        Some(201)
    );
}

#[tokio::test]
async fn a_grant_for_one_device_opens_no_connection_for_anything_else() {
    let world = World::evil().await;
    let other = world.machine(1);
    for way in [
        format!("open-machine {other}"),
        format!("open-machine {}", world.machine(0).to_ascii_uppercase()),
        "open-machine ".to_owned(),
        "open-nothing".to_owned(),
        format!("open-action {}", world.machine(0)),
        "open-action 8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".to_owned(),
    ] {
        let error = world.release(&way).await.unwrap_err();
        assert!(
            met(&error).starts_with("Err(Refusal::Denied("),
            "{way}: {error:?}"
        );
        assert_eq!(error.effect(), Effect::None);
    }
    assert!(world.mock.requests().is_empty());
    assert_eq!(world.used().await, 0);
}

/// Look-alikes of the path, the method and the origin. Some are refused as the guest puts the
/// request together, by the types of `wasi:http`; all others by the policy.
#[tokio::test]
async fn a_request_that_is_not_this_calls_does_not_leave() {
    let world = World::evil().await;
    let (mine, other) = (world.machine(0), world.machine(1));
    let port = world.service().origin().port();
    let release = format!("/api/machines/{mine}/unrestrictCodeExecution");
    let first_digit = mine.as_bytes()[0];
    let ways = [
        format!("path /api/machines/{other}/unrestrictCodeExecution"),
        format!("path /api/machines/{mine}/restrictCodeExecution"),
        format!("path /api/machines/{mine}/offboard"),
        format!("path {release}?x=1"),
        format!("path {release}?"),
        format!("path {release}/"),
        format!("path /{release}"),
        format!("path /x/..{release}"),
        format!("path {release} HTTP/1.1\r\nx-evil: 1"),
        format!("path https://localhost:{port}{release}"),
        format!("path /API/machines/{mine}/unrestrictCodeExecution"),
        format!("path /api/v1.0/machines/{mine}/unrestrictCodeExecution"),
        format!("path {}", release.to_ascii_uppercase()),
        format!(
            "path /api/machines/%{first_digit:x}{}/unrestrictCodeExecution",
            &mine[1..]
        ),
        format!("path /api/machines/{mine}/%75nrestrictCodeExecution"),
        format!("path /api/machines/{mine}%2foffboard/unrestrictCodeExecution"),
        format!("path /api/machines/{other}/../{mine}/unrestrictCodeExecution"),
        format!("path /api/machines/{other}%2f%2e%2e%2f{mine}/unrestrictCodeExecution"),
        "path *".to_owned(),
        "path ".to_owned(),
        "method GET".to_owned(),
        "method PUT".to_owned(),
        "method DELETE".to_owned(),
        "method post".to_owned(),
        "method CONNECT".to_owned(),
        "method PO ST".to_owned(),
        "scheme http".to_owned(),
        "scheme ftp".to_owned(),
        format!("authority 127.0.0.1:{port}"),
        format!("authority [::1]:{port}"),
        format!("authority [::ffff:127.0.0.1]:{port}"),
        format!("authority [fe80::1%25lo]:{port}"),
        format!("authority [::1%lo]:{port}"),
        format!("authority localhost:{}", port.wrapping_add(1)),
        "authority localhost".to_owned(),
        "authority localhost:443".to_owned(),
        format!("authority localhost.:{port}"),
        format!("authority evil.localhost:{port}"),
        format!("authority localhost.evil.test:{port}"),
        format!("authority user@localhost:{port}"),
        format!("authority localhost:{port}@evil.test"),
        format!("authority localhost:{port}@127.0.0.1:{port}"),
        format!("authority localhost:{port}/x"),
        format!("authority localhost:{port}\r\nx: 1"),
        "authority 169.254.169.254".to_owned(),
        "authority evil.test".to_owned(),
    ];
    for way in ways {
        let error = world.release(&way).await.unwrap_err();
        let met = met(&error);
        let refused = [DENIED, "ErrorCode::HttpProtocolError"].contains(&met);
        let refused = refused || met.ends_with(": refused");
        assert!(refused, "{way}: {error:?}");
        assert_eq!(error.effect(), Effect::None, "{way}");
    }
    assert!(world.mock.requests().is_empty(), "not even for a token");
    assert_eq!(world.used().await, 0);
    assert_the_host_goes_on(&world).await;
}

#[tokio::test]
async fn other_ways_to_write_this_calls_request_are_the_same() {
    let world = World::evil().await;
    let port = world.service().origin().port();
    let path = format!("/api/machines/{}/unrestrictCodeExecution", world.machine(0));
    for way in [
        format!("authority LocalHost:{port}"),
        format!("path {path}#fragment"),
    ] {
        world.release(&way).await.unwrap();
        let arrived = world.requests(Api::UnrestrictCodeExecution).pop().unwrap();
        assert_eq!(arrived.path_and_query, path, "{way}");
    }
}

#[tokio::test]
async fn the_guest_sets_the_headers_of_a_short_list_and_no_others() {
    let world = World::evil().await;
    for (header, expected) in [
        ("authorization Bearer e30.e30.e30", FORBIDDEN),
        ("Authorization Bearer e30.e30.e30", FORBIDDEN),
        ("cookie a=b", FORBIDDEN),
        ("set-cookie a=b", FORBIDDEN),
        ("host evil.test", FORBIDDEN),
        ("transfer-encoding chunked", FORBIDDEN),
        ("connection upgrade", FORBIDDEN),
        ("upgrade h2c", FORBIDDEN),
        ("proxy-authorization Basic eDp5", FORBIDDEN),
        ("x-evil 1", DENIED),
        ("x-http-method-override DELETE", DENIED),
        ("x-forwarded-for 127.0.0.1", DENIED),
        ("x-original-url /api/machines", DENIED),
        ("forwarded host=evil.test", DENIED),
        ("expect 100-continue", DENIED),
        ("te trailers", DENIED),
        ("content-encoding gzip", DENIED),
        ("prefer respond-async", DENIED),
        ("accept a\r\nx-evil: 1", "HeaderError::InvalidSyntax"),
        ("accept\r\nx-evil 1", "HeaderError::InvalidSyntax"),
    ] {
        let error = world
            .release(&format!("header {header}"))
            .await
            .unwrap_err();
        assert!(met(&error).ends_with(expected), "{header}: {error:?}");
        assert_eq!(error.effect(), Effect::None, "{header}");
    }
    assert!(world.mock.requests().is_empty());
    assert_eq!(world.used().await, 0);
}

#[tokio::test]
async fn a_body_leaves_with_its_own_length_or_not_at_all() {
    let world = World::evil().await;
    for (length, expected) in [
        ("0", DENIED),
        ("22", DENIED),
        ("24", DENIED),
        ("500", DENIED),
        ("x", "header content-length: HeaderError::InvalidSyntax"),
        ("-1", "header content-length: HeaderError::InvalidSyntax"),
    ] {
        let error = world
            .release(&format!("length {length}"))
            .await
            .unwrap_err();
        assert_eq!(
            (met(&error), error.effect()),
            (expected, Effect::None),
            "{length}"
        );
    }
    assert!(world.mock.requests().is_empty());

    world.release("no-length").await.unwrap();
    let arrived = &world.requests(Api::UnrestrictCodeExecution)[0];
    assert_eq!(arrived.headers["content-length"], "23");
    assert!(!arrived.headers.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn a_call_has_one_request_whatever_the_guest_does() {
    let world = World::evil().await;
    world.release("request-twice").await.unwrap();
    assert_eq!(world.releases(), 1);

    world.release("request-twice-at-once").await.unwrap();
    assert_eq!(world.releases(), 2);
    assert_eq!(world.used().await, 2);
}

/// On several threads, since the request that is left behind has a task of its own. Each call is
/// another machine's, so that an arrival that comes late is still known for whose it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_of_a_call_stays_true_when_its_guest_does_not_wait_for_the_answer() {
    let world = World::with(|scene| {
        scene.plugin = evil_plugin();
        scene.machines = 500;
        scene.switches.per_minute = None;
        scene.quotas = Vec::new();
    })
    .await;
    let mut harmless = HashSet::new();
    for machine in world.mock.machine_ids() {
        match world.release_of(&machine, "leave").await {
            Err(error) if error.effect() == Effect::None => harmless.insert(machine),
            // The response can have come before the guest left.
            _ => false,
        };
    }
    world.until_rest().await;
    for arrival in world.requests(Api::UnrestrictCodeExecution) {
        let machine = arrival.path_and_query.split('/').nth(3).unwrap();
        assert!(!harmless.contains(machine), "{machine} has arrived");
    }
}

#[tokio::test]
async fn a_body_that_is_not_whole_or_not_a_bodys_size_does_not_leave() {
    let world = World::evil().await;
    for way in ["dropped-body", "huge-body", "trailers"] {
        let error = world.release(way).await.unwrap_err();
        assert_eq!(
            (met(&error), error.effect()),
            (DENIED, Effect::None),
            "{way}"
        );
    }
    assert!(world.mock.requests().is_empty());
    assert_eq!(world.used().await, 0);
}

#[tokio::test]
async fn another_comment_than_the_callers_does_not_leave() {
    let world = World::evil().await;
    for way in [
        "other-comment",
        r#"body {"Comment":"cleaned"}"#,
        r#"body {"Comment":"x","IsolationType":"Full"}"#,
        r#"body {"Comment":"x","Comment":"x"}"#,
        r#"body ["x"]"#,
        r#"body {"Comment":"x""#,
        r#"body {"Comment":"x"}{"Comment":"x"}"#,
        "body ",
    ] {
        let error = world.release(way).await.unwrap_err();
        let refused = (DENIED, Effect::None);
        assert_eq!((met(&error), error.effect()), refused, "{way}");
    }
    assert!(world.mock.requests().is_empty());
    assert_eq!(world.used().await, 0);
    assert_the_host_goes_on(&world).await;
    let arrived = &world.requests(Api::UnrestrictCodeExecution)[0];
    assert_eq!(arrived.body, r#"{"Comment":"behave"}"#);
}

#[tokio::test]
async fn a_body_that_is_never_finished_holds_the_call_up_to_its_deadline_and_no_longer() {
    let world = World::evil().await;
    let deadline = world.now() + CALL_TIMEOUT;
    let mut call = Box::pin(world.release("held-body"));
    meanwhile(&mut call, world.until_host_waits_for(deadline)).await;
    world.advance_to(deadline);
    let error = call.await.unwrap_err();
    let expected = CallError::TimedOut {
        after: CALL_TIMEOUT,
        effect: Effect::None,
    };
    assert_eq!(error, expected);
    // The guest's request goes down with it, in a task of its own.
    world.until_rest().await;
    assert!(world.mock.requests().is_empty());
    assert_eq!(world.used().await, 0);
}

#[tokio::test]
async fn of_an_answers_headers_the_guest_sees_two() {
    let world = World::evil().await;
    let mut answer = Fault::answer(201, "");
    for (name, value) in [
        ("content-type", "application/json"),
        ("retry-after", "7"),
        ("set-cookie", "session=secret"),
        ("www-authenticate", "Bearer realm=x"),
        ("authorization", "Bearer e30"),
        ("location", "https://evil.test"),
        ("x-ms-request-id", "1"),
        ("mise-correlation-id", "1"),
        ("strict-transport-security", "max-age=1"),
    ] {
        answer = answer.header(name, value);
    }
    world.inject(answer);
    let error = world.release("read-headers").await.unwrap_err();
    let mut seen: Vec<_> = met(&error).split(", ").collect();
    seen.sort_unstable();
    assert_eq!(seen, ["content-type", "retry-after"]);
}

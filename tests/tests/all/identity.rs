//! Tokens: how often the authority is asked, and what is told when it gives none.

use std::sync::Arc;
use std::time::Duration;

use defender_mock::{Api, Fault};
use host_demo::cloud::Service;
use host_demo::host::CallError;
use host_demo::identity::{IdentityError, TokenSource as _};
use host_demo::transport::TransportErrorKind;
use tests::world::{World, release};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// How long the stand-in's tokens hold.
const LIFETIME: Duration = Duration::from_secs(3599);

/// How long before its end a token is renewed.
const MARGIN: Duration = Duration::from_secs(300);

/// More than what a test takes by the machine's calendar, which the identity library goes by.
const LEEWAY: Duration = Duration::from_secs(150);

#[tokio::test]
async fn fifty_callers_ask_for_one_token() {
    let world = World::with(|scene| scene.machines = 50).await;
    let mut calls = JoinSet::new();
    for machine in world.mock.machine_ids() {
        let host = world.host.clone();
        calls.spawn(async move { release(&host, &machine, "cleaned").await });
    }
    for result in calls.join_all().await {
        result.unwrap();
    }
    assert_eq!(world.releases(), 50);
    assert_eq!(world.mock.arrivals(Api::Token), 1);
}

#[tokio::test]
async fn a_token_is_used_until_shortly_before_its_end_and_then_renewed() {
    let world = World::new().await;
    world
        .release_of(&world.machine(0), "cleaned")
        .await
        .unwrap();
    world.clock.advance(LIFETIME - MARGIN - LEEWAY);
    world
        .release_of(&world.machine(1), "cleaned")
        .await
        .unwrap();
    assert_eq!(world.mock.arrivals(Api::Token), 1);
    world.clock.advance(LEEWAY);
    world
        .release_of(&world.machine(2), "cleaned")
        .await
        .unwrap();
    let tokens: Vec<_> = world
        .requests(Api::UnrestrictCodeExecution)
        .iter()
        .map(|release| release.token)
        .collect();
    assert_eq!(tokens, [Some(1), Some(1), Some(2)]);
}

#[tokio::test]
async fn a_token_that_still_holds_is_used_while_it_can_not_be_renewed() {
    let world = World::new().await;
    world
        .release_of(&world.machine(0), "cleaned")
        .await
        .unwrap();
    world
        .mock
        .inject(Fault::server_error(503).on(Api::Token).always());
    world.clock.advance(LIFETIME - MARGIN);
    world
        .release_of(&world.machine(1), "cleaned")
        .await
        .unwrap();
    world.clock.advance(MARGIN);
    let id = world.machine(2);
    let error = world
        .play(world.release_of(&id, "cleaned"))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Identity(_)), "{error:?}");
    assert_eq!(world.releases(), 2);
}

#[tokio::test]
async fn entras_refusals_come_with_their_code_and_what_to_do() {
    let world = World::new().await;
    let [tenant, id, secret] = world.application();
    let wrong = "a-wrong~secret";
    for (application, code, what_to_do) in [
        (
            [tenant, id, wrong],
            "AADSTS7000215",
            "the client secret is wrong",
        ),
        (
            [tenant, "no-such-app", secret],
            "AADSTS700016",
            "there is no such application",
        ),
        (
            ["no-such-tenant", id, secret],
            "AADSTS90002",
            "there is no such tenant",
        ),
    ] {
        let tokens = world.client_secret(world.service(), application);
        let refused = tokens.token().await.unwrap_err();
        let IdentityError::Refused {
            authority,
            error,
            advice,
        } = &refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(authority, world.mock.authority());
        assert!(error.starts_with(code), "{error}");
        assert!(advice.unwrap().starts_with(what_to_do), "{advice:?}");
        let told = format!("{refused} {refused:?}");
        assert!(!told.contains(secret) && !told.contains(wrong), "{told}");
        assert!(!told.contains("Trace ID"), "{told}");
    }
}

#[tokio::test]
async fn a_scope_that_is_not_the_services_is_refused_with_what_to_do() {
    let world = World::new().await;
    let (authority, ca) = (world.mock.authority(), world.mock.ca_pem().unwrap());
    let other = "https://no-such-resource.contoso.com/.default";
    let service = Service::custom(authority, authority, other).unwrap();
    let service = service.with_ca(ca.as_bytes().to_vec());
    let tokens = world.client_secret(&service, world.application());
    let refused = tokens.token().await.unwrap_err();
    let IdentityError::Refused { error, advice, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(error.starts_with("AADSTS500011"), "{error}");
    assert!(advice.unwrap().contains("the Defender API"), "{advice:?}");
}

#[tokio::test]
async fn an_authority_that_can_not_be_reached_is_told_from_one_that_refuses() {
    let world = World::new().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = format!("https://{}", socket.local_addr().unwrap());
    let service = Service::custom(world.mock.base_url(), &nobody, &world.mock.scope()).unwrap();
    let tokens = world.client_secret(&service, world.application());
    let host = world.another_host(|setup| setup.tokens = Arc::new(tokens));
    let id = world.machine(0);
    let error = world
        .play(release(&host, &id, "cleaned"))
        .await
        .unwrap_err();
    match error {
        CallError::Identity(IdentityError::NoAnswer(error)) => {
            assert_eq!(error.kind, TransportErrorKind::Refused);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.releases(), 0);
}

#[tokio::test]
async fn an_answer_that_is_no_token_is_not_taken_for_one() {
    let world = World::new().await;
    for (fault, busy) in [
        (Fault::answer(200, "<html>"), false),
        (Fault::answer(200, ""), false),
        (Fault::answer(200, "{}"), false),
        (
            Fault::answer(
                200,
                r#"{"token_type":"Bearer","expires_in":3599,"access_token":"a b\r\nx: 1"}"#,
            ),
            false,
        ),
        (
            Fault::answer(302, "").header("location", "https://localhost:1/"),
            false,
        ),
        (Fault::answer(400, "<html>"), false),
        (
            Fault::answer(400, r#"{"error":"temporarily_unavailable"}"#),
            true,
        ),
        (Fault::answer(400, r#"{"error":{"code":"x"}}"#), false),
        (Fault::server_error(503), true),
        (Fault::answer(429, ""), true),
        (Fault::reset(), false),
        (Fault::truncated_body(), false),
    ] {
        world.mock.inject(fault.clone().on(Api::Token));
        let tokens = world.client_secret(world.service(), world.application());
        let before = world.mock.arrivals(Api::Token);
        let error = tokens.token().await.unwrap_err();
        let is_busy = matches!(error, IdentityError::Busy { .. });
        assert_eq!(is_busy, busy, "{fault:?}: {error:?}");
        assert_eq!(
            world.mock.arrivals(Api::Token),
            before + 1,
            "none was asked for twice"
        );
        world.clock.advance(Duration::from_secs(2));
        tokens.token().await.unwrap();
    }
}

#[tokio::test]
async fn a_read_renews_what_a_release_would() {
    let world = World::new().await;
    let action = world.release("cleaned").await.unwrap();
    world.clock.advance(LIFETIME);
    let read = world
        .host
        .get_machine_action(&action.id, Default::default());
    assert_eq!(read.await.unwrap().id, action.id);
    assert_eq!(world.mock.arrivals(Api::Token), 2);
}

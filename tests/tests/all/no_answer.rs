//! Calls that get no answer: what is known of their effect, and what they cost.

use std::sync::Arc;
use std::time::Duration;

use defender_mock::{Api, Fault, Grant, Mock};
use host_demo::cloud::Service;
use host_demo::contract::{Effect, Reason};
use host_demo::host::{CALL_TIMEOUT, CallError, Host};
use host_demo::identity::FixedToken;
use host_demo::limits::{GRACE, Quota};
use host_demo::policy::Policy;
use host_demo::transport::TransportErrorKind::{
    self, Broken, Certificate, ConnectTimeout, Refused,
};
use tests::world::{World, meanwhile, release};
use tokio::net::{TcpListener, TcpSocket};

const HOUR: Duration = Duration::from_secs(3600);

fn kind_and_effect(error: &CallError) -> (TransportErrorKind, Effect) {
    let CallError::Answered { error, detail } = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.reason, Reason::Transport, "{error:?}");
    assert_eq!(error.service, None);
    (detail.as_ref().unwrap().kind, error.effect)
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_open_whether_the_service_acted() {
    for plain_http in [false, true] {
        for (fault, actions) in [
            (Fault::reset(), 0),
            (Fault::reset().after_acting(), 1),
            (Fault::garbage(), 1),
        ] {
            let world = World::with(|scene| scene.plain_http = plain_http).await;
            world.inject(fault);
            let error = world.release("cleaned").await.unwrap_err();
            assert_eq!(kind_and_effect(&error), (Broken, Effect::Unknown));
            assert_eq!(world.mock.actions().len(), actions);
            assert_eq!(world.releases(), 1, "it was not sent again");
            assert_eq!(world.used().await, 1);
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_it_is_one_carries_nothing_and_costs_nothing() {
    let world = World::with(|scene| scene.token = Some(Grant::new())).await;
    world.mock.inject(Fault::refused_connection());
    let error = world.release("cleaned").await.unwrap_err();
    assert_eq!(kind_and_effect(&error), (Refused, Effect::None));
    assert_eq!(world.releases(), 0);
    assert_eq!(world.used().await, 0);
}

#[tokio::test]
async fn a_refused_connection_has_no_effect_and_gives_the_slot_back() {
    let world = World::new().await;
    // Bound, so that nobody else gets the port, and not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let host = world.host_at(&url, None);
    let error = release(&host, &world.machine(0), "cleaned")
        .await
        .unwrap_err();
    assert_eq!(kind_and_effect(&error), (Refused, Effect::None));
    assert_eq!(used(&host).await, 0);
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_while_the_call_can_still_say_that_nothing_was_sent() {
    let world = World::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let service = Service::custom(&url, &url, &world.mock.scope()).unwrap();
    let token = FixedToken::new(&world.mock.token(Grant::new())).unwrap();
    let host = world.another_host(|setup| {
        setup.policy = Policy::release_and_read(service.origin().clone());
        setup.service = service;
        setup.tokens = Arc::new(token);
        setup.call_timeout = Duration::from_millis(200);
    });
    // The clock of the call stands still: it is not its deadline that ends it.
    let machine = world.machine(0);
    let call = release(&host, &machine, "cleaned");
    let (result, connection) = tokio::join!(call, silent.accept());
    let error = result.unwrap_err();
    assert_eq!(kind_and_effect(&error), (ConnectTimeout, Effect::None));
    assert!(error.to_string().contains("within 0.1 s"), "{error}");
    assert_eq!(used(&host).await, 0);
    drop(connection);
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_ends_the_call_before_anything_is_sent() {
    let world = World::new().await;
    let stranger = Mock::start().await.unwrap();
    let host = world.host_at(world.mock.base_url(), stranger.ca_pem());
    let error = release(&host, &world.machine(0), "cleaned")
        .await
        .unwrap_err();
    assert_eq!(kind_and_effect(&error), (Certificate, Effect::None));
    let text = error.to_string();
    assert!(text.contains("certificate"), "{text}");
    assert!(world.mock.requests().is_empty());
    assert_eq!(used(&host).await, 0);
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_may_have_had_its_effect() {
    let world = World::new().await;
    world.inject(Fault::delay(HOUR));
    let mut call = Box::pin(world.release("cleaned"));
    meanwhile(
        &mut call,
        world.until("it arrives", || world.releases() == 1),
    )
    .await;
    world.clock.advance(CALL_TIMEOUT - Duration::from_nanos(1));
    meanwhile(&mut call, settle()).await;
    world.clock.advance(Duration::from_nanos(1));
    let error = call.await.unwrap_err();
    let expected = CallError::TimedOut {
        after: CALL_TIMEOUT,
        effect: Effect::Unknown,
    };
    assert_eq!(error, expected);
}

#[tokio::test]
async fn reading_that_gets_no_answer_has_no_effect_all_the_same() {
    let world = World::new().await;
    let id = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
    world.mock.inject(Fault::reset().on(Api::GetMachineAction));
    let read = world.host.get_machine_action(id, Default::default());
    assert_eq!(
        kind_and_effect(&read.await.unwrap_err()),
        (Broken, Effect::None)
    );
    world
        .mock
        .inject(Fault::delay(HOUR).on(Api::GetMachineAction));
    let mut call = Box::pin(world.host.get_machine_action(id, Default::default()));
    let arrived = || world.mock.arrivals(Api::GetMachineAction) == 2;
    meanwhile(&mut call, world.until("it arrives", arrived)).await;
    world.clock.advance(CALL_TIMEOUT);
    assert_eq!(call.await.unwrap_err().effect(), Effect::None);
}

#[tokio::test]
async fn a_call_without_an_answer_counts_from_its_deadline_and_the_grace_behind_it() {
    let one_a_minute = Quota {
        calls: 1,
        per: Duration::from_secs(60),
    };
    let world = World::with(|scene| scene.quotas = vec![one_a_minute]).await;
    let began = world.now();
    world.inject(Fault::delay(HOUR));
    let mut call = Box::pin(world.release("cleaned"));
    meanwhile(
        &mut call,
        world.until("it arrives", || world.releases() == 1),
    )
    .await;
    world.clock.advance(CALL_TIMEOUT);
    call.await.unwrap_err();

    let machine = world.machine(1);
    let mut next = Box::pin(world.release_of(&machine, "cleaned"));
    // The window is kept a thousandth longer than the service's.
    let free = began + CALL_TIMEOUT + GRACE + Duration::from_millis(60_060);
    meanwhile(&mut next, world.until_host_waits_for(free)).await;
    world.advance_to(free);
    next.await.unwrap();
    assert_eq!(world.releases(), 2);
}

#[tokio::test]
async fn a_call_that_its_caller_drops_counts_as_sent() {
    let world = World::new().await;
    world.inject(Fault::delay(HOUR));
    {
        let mut call = Box::pin(world.release("cleaned"));
        meanwhile(
            &mut call,
            world.until("it arrives", || world.releases() == 1),
        )
        .await;
    }
    assert_eq!(world.used().await, 1);
    world.mock.clear_faults();
    world
        .release_of(&world.machine(1), "cleaned")
        .await
        .unwrap();
}

async fn used(host: &Host) -> usize {
    let operation = host_demo::grant::Operation::UnrestrictCodeExecution;
    host.used(operation).await.unwrap()[0].1
}

/// Gives everybody many turns.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

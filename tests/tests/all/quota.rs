//! The quotas, as the service sees them kept.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use defender_mock::{Api, Fault};
use host_demo::clock::Moment;
use host_demo::contract::Effect;
use host_demo::host::{CALL_TIMEOUT, CallError, WaitOptions};
use host_demo::identity::{BearerToken, IdentityError, TokenSource};
use host_demo::limits::{Quota, Why};
use tests::world::{World, meanwhile, release};
use tokio::sync::watch;
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How long the host keeps a minute: a thousandth longer than the service does.
const KEPT: Duration = Duration::from_millis(60_060);

fn a_minute(calls: u32) -> Quota {
    Quota { calls, per: MINUTE }
}

/// Releases so many machines at once.
async fn release_all(world: &World, n: usize) {
    let mut calls = JoinSet::new();
    for machine in world.mock.machine_ids().into_iter().take(n) {
        let host = world.host.clone();
        calls.spawn(async move { release(&host, &machine, "cleaned").await });
    }
    for result in world.play(calls.join_all()).await {
        result.unwrap();
    }
}

fn arrival_times(world: &World) -> Vec<Moment> {
    let releases = world.requests(Api::UnrestrictCodeExecution);
    releases.iter().map(|arrival| arrival.at).collect()
}

#[tokio::test]
async fn the_101st_call_waits_until_the_first_has_left_the_window() {
    let world = World::with(|scene| scene.machines = 101).await;
    let began = world.now();
    release_all(&world, 100).await;
    assert_eq!((world.now(), world.used().await), (began, 100));

    let last = world.machine(100);
    let mut call = Box::pin(world.release_of(&last, "cleaned"));
    meanwhile(&mut call, world.until_host_waits_for(began + KEPT)).await;
    world.clock.advance(KEPT - Duration::from_nanos(1));
    meanwhile(&mut call, world.until_rest()).await;
    assert_eq!(world.releases(), 100);
    world.clock.advance(Duration::from_nanos(1));
    call.await.unwrap();
    assert_eq!(arrival_times(&world)[100], began + KEPT);
}

#[tokio::test]
async fn no_window_of_the_services_holds_more_than_its_quota() {
    let world = World::with(|scene| scene.machines = 150).await;
    release_all(&world, 150).await;
    let most = |window| {
        world
            .mock
            .most_in_any_window(Api::UnrestrictCodeExecution, window)
    };
    assert_eq!((most(MINUTE), most(HOUR)), (100, 150));
    let statuses: Vec<_> = world.mock.requests().iter().map(|r| r.status).collect();
    assert!(!statuses.contains(&Some(429)), "{statuses:?}");
}

#[tokio::test]
async fn the_hours_quota_holds_where_the_minutes_has_room() {
    let an_hour = Quota {
        calls: 5,
        per: HOUR,
    };
    let world = World::with(|scene| {
        scene.machines = 12;
        scene.quotas = vec![a_minute(3), an_hour];
    })
    .await;
    let began = world.now();
    release_all(&world, 12).await;
    let waits: Vec<Duration> = arrival_times(&world)
        .into_iter()
        .map(|at| at.since(began))
        .collect();
    let hour = Duration::from_millis(3_603_600);
    let expected: Vec<Duration> = [
        (Duration::ZERO, 3),
        (KEPT, 2),
        (hour, 3),
        (hour + KEPT, 2),
        (2 * hour, 2),
    ]
    .into_iter()
    .flat_map(|(at, n)| [at].repeat(n))
    .collect();
    assert_eq!(waits, expected);
}

#[tokio::test]
async fn a_slot_counts_from_the_moment_its_answer_came() {
    let world = World::with(|scene| scene.quotas = vec![a_minute(1)]).await;
    let (began, delay) = (world.now(), Duration::from_secs(10));
    world.inject(Fault::delay(delay));
    let mut slow = Box::pin(world.release("cleaned"));
    meanwhile(
        &mut slow,
        world.until("it arrives", || world.releases() == 1),
    )
    .await;
    world.clock.advance(delay);
    slow.await.unwrap();

    let machine = world.machine(1);
    let mut next = Box::pin(world.release_of(&machine, "cleaned"));
    meanwhile(&mut next, world.until_host_waits_for(began + delay + KEPT)).await;
}

#[tokio::test]
async fn an_answer_to_a_slow_call_lets_the_next_one_go_before_the_worst_case() {
    let world = World::with(|scene| scene.quotas = vec![a_minute(1)]).await;
    let began = world.now();
    world.inject(Fault::delay(Duration::from_secs(10)));
    let machines = [world.machine(0), world.machine(1)];
    let mut slow = Box::pin(world.release_of(&machines[0], "cleaned"));
    meanwhile(
        &mut slow,
        world.until("it arrives", || world.releases() == 1),
    )
    .await;
    let mut next = Box::pin(world.release_of(&machines[1], "cleaned"));
    let worst = began + Duration::from_secs(60) + KEPT;
    meanwhile(&mut next, world.until_host_waits_for(worst)).await;
    world.clock.advance(Duration::from_secs(10));
    slow.await.unwrap();
    let settled = world.now() + KEPT;
    meanwhile(&mut next, world.until_host_waits_for(settled)).await;
    world.advance_to(settled);
    next.await.unwrap();
}

#[tokio::test]
async fn a_token_that_can_not_be_had_spends_no_slot() {
    let world = World::new().await;
    let fault = Fault::server_error(500).on(Api::Token).always();
    world.mock.inject(fault);
    let error = world.play(world.release("cleaned")).await.unwrap_err();
    assert!(matches!(error, CallError::Identity(_)), "{error:?}");
    assert_eq!((world.releases(), world.used().await), (0, 0));
}

#[tokio::test]
async fn a_token_that_does_not_come_in_time_spends_no_slot() {
    let world = World::new().await;
    world.mock.inject(Fault::delay(HOUR).on(Api::Token));
    let mut call = Box::pin(world.release("cleaned"));
    let asked = || world.mock.arrivals(Api::Token) == 1;
    meanwhile(&mut call, world.until("a token is asked for", asked)).await;
    world.clock.advance(CALL_TIMEOUT);
    let error = call.await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");
    assert_eq!(error.effect(), Effect::None);
    assert_eq!((world.releases(), world.used().await), (0, 0));
}

#[tokio::test]
async fn releasing_and_reading_have_a_quota_each() {
    let world = World::with(|scene| {
        scene.quotas = vec![a_minute(1)];
        scene.switches.visible_after = Duration::ZERO;
    })
    .await;
    let action = world.release("cleaned").await.unwrap();
    let read = world
        .host
        .get_machine_action(&action.id, WaitOptions::default());
    assert_eq!(read.await.unwrap().id, action.id);
}

#[tokio::test]
async fn a_caller_that_will_not_wait_as_long_hears_so_at_once() {
    let world = World::with(|scene| scene.quotas = vec![a_minute(1)]).await;
    world.release("cleaned").await.unwrap();
    let free = world.now() + KEPT;
    let patience = WaitOptions {
        until: Some(world.now() + MINUTE),
        ..WaitOptions::default()
    };
    let machine = world.machine(1);
    let call = world
        .host
        .unrestrict_code_execution(&machine, "cleaned", patience);
    match call.await.unwrap_err() {
        CallError::Quota { wait, until } => {
            assert_eq!((wait.at, wait.why), (free, Why::Quota));
            assert_eq!(until, world.host.calendar(free));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.releases(), 1);
}

#[tokio::test]
async fn a_caller_that_stops_waiting_has_sent_and_spent_nothing() {
    let world = World::with(|scene| scene.quotas = vec![a_minute(1)]).await;
    world.release("cleaned").await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let patience = WaitOptions {
        stop: Some(stopped),
        ..WaitOptions::default()
    };
    let machine = world.machine(1);
    let mut call = Box::pin(
        world
            .host
            .unrestrict_code_execution(&machine, "cleaned", patience),
    );
    meanwhile(&mut call, world.until_host_waits_for(world.now() + KEPT)).await;
    stop.send(true).unwrap();
    assert_eq!(call.await.unwrap_err(), CallError::Stopped);
    assert_eq!((world.releases(), world.used().await), (1, 1));
}

/// An authority that never answers.
struct Never;

#[async_trait]
impl TokenSource for Never {
    async fn token(&self) -> Result<BearerToken, IdentityError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_caller_that_stops_waiting_for_a_token_is_let_go() {
    let world = World::new().await;
    let host = world.another_host(|setup| setup.tokens = Arc::new(Never));
    let (stop, stopped) = watch::channel(false);
    let patience = WaitOptions {
        stop: Some(stopped),
        ..WaitOptions::default()
    };
    let machine = world.machine(1);
    let call = host.unrestrict_code_execution(&machine, "cleaned", patience);
    stop.send(true).unwrap();
    assert_eq!(call.await.unwrap_err(), CallError::Stopped);
    assert_eq!(world.releases(), 0);
}

#[tokio::test]
async fn a_caller_that_has_a_deadline_does_not_wait_longer_for_a_token() {
    let world = World::new().await;
    let host = world.another_host(|setup| setup.tokens = Arc::new(Never));
    let until = world.now() + Duration::from_secs(3);
    let patience = WaitOptions {
        until: Some(until),
        ..WaitOptions::default()
    };
    let machine = world.machine(1);
    let call = async {
        let call = host.unrestrict_code_execution(&machine, "cleaned", patience);
        assert_eq!(
            call.await.unwrap_err(),
            CallError::Identity(IdentityError::NotInTime)
        );
    };
    world.play(call).await;
    assert_eq!((world.now(), world.releases()), (until, 0));
}

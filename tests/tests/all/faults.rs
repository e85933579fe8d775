//! A guest that claims what is not so, or takes more than it may have.

use std::time::Duration;

use defender_mock::{Api, Fault};
use host_demo::contract::{ActionStatus, Effect, MachineAction, Reason};
use host_demo::host::{CallError, WaitOptions};
use host_demo::plugin::Fault as PluginFault;
use tests::world::{World, meanwhile, release};

use super::guest::assert_the_host_goes_on;

fn fault(error: CallError) -> (PluginFault, Effect) {
    match error {
        CallError::Fault { fault, effect } => (fault, effect),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_success_without_a_response_is_a_fault() {
    let world = World::evil().await;
    let (found, effect) = fault(world.release("claim-success").await.unwrap_err());
    assert!(matches!(found, PluginFault::Contradiction(_)), "{found:?}");
    assert_eq!((effect, world.releases()), (Effect::None, 0));
}

#[tokio::test]
async fn the_response_is_the_result_whatever_the_guest_claims() {
    let world = World::evil().await;
    let true_action = |result: Result<MachineAction, CallError>| {
        let action = result.unwrap();
        let there = &world.mock.actions_of(&world.machine(0));
        let there = there.iter().find(|there| there.id.to_string() == action.id);
        let there = there.expect("the service has it");
        assert_eq!(action.machine_id, Some(world.machine(0)));
        assert_eq!(action.status, ActionStatus::Pending);
        assert_eq!(
            action.last_update_date_time_utc,
            Some(there.last_update_date_time_utc.to_string())
        );
    };
    for way in [
        "change-date".to_owned(),
        format!("claim-other-machine {}", world.machine(1)),
        "claim-other-action".to_owned(),
        "claim-unread".to_owned(),
        "claim-429-at-the-end 3600".to_owned(),
    ] {
        true_action(world.release(&way).await);
    }
    world.inject(Fault::answer(404, ""));
    let error = world.release("behave").await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::NotFound));
    assert_eq!((error.effect(), world.releases()), (Effect::None, 6));
}

#[tokio::test]
async fn a_plugin_that_contradicted_the_service_is_not_used_again() {
    let world = World::evil().await;
    let host = world.new_host();
    let machine = world.machine(0);
    release(&host, &machine, "behave").await.unwrap();
    release(&host, &machine, "behave").await.unwrap();
    release(&host, &machine, "change-date").await.unwrap();
    assert_eq!(world.releases(), 3);
    let clone = host.clone();
    for host in [&host, &clone] {
        let error = release(host, &machine, "behave").await.unwrap_err();
        assert_eq!(error, CallError::PluginContradicted);
        assert_eq!(error.effect(), Effect::None);
    }
    let error = host.find_machines("pc", WaitOptions::default()).await;
    assert_eq!(error.unwrap_err(), CallError::PluginContradicted);
    assert_eq!((world.releases(), world.used().await), (3, 3));
    assert_eq!(world.mock.arrivals(Api::ListMachines), 0);
}

#[tokio::test]
async fn an_action_that_was_not_asked_for_is_an_unexpected_response() {
    let world = World::evil().await;
    let id = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
    world
        .mock
        .inject(Fault::answer(200, "").on(Api::GetMachineAction));
    let read = world.host.get_machine_action(id, Default::default()).await;
    let error = read.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::UnexpectedResponse));
    assert_eq!(error.effect(), Effect::None);
}

#[tokio::test]
async fn a_guests_word_that_the_quota_is_used_up_holds_nobody_back() {
    let world = World::evil().await;
    let (found, _) = fault(world.release("claim-429 3600").await.unwrap_err());
    assert!(matches!(found, PluginFault::Contradiction(_)), "{found:?}");
    world.release("claim-429-at-the-end 3600").await.unwrap();
    assert_the_host_goes_on(&world).await;
}

#[tokio::test]
async fn the_response_says_how_long_a_429_lasts_and_not_the_guest() {
    let world = World::evil().await;
    world.inject(Fault::answer(429, "").header("Retry-After", "1"));
    let error = world.release("claim-429-at-the-end 4294967295").await;
    match error.unwrap_err().reason() {
        Some(Reason::RateLimited(limit)) => assert_eq!(limit.retry_after_seconds, Some(1)),
        other => panic!("{other:?}"),
    }
    let mut next = Box::pin(world.release("behave"));
    meanwhile(&mut next, world.until_rest()).await;
    world.clock.advance(Duration::from_secs(60));
    next.await.unwrap();
}

#[tokio::test]
async fn a_guest_that_computes_without_end_runs_out_of_fuel() {
    let world = World::evil().await;
    let (found, effect) = fault(world.release("spin").await.unwrap_err());
    assert_eq!((found, effect), (PluginFault::OutOfFuel, Effect::None));
    assert_eq!(world.used().await, 0);
    assert_the_host_goes_on(&world).await;
}

#[tokio::test]
async fn a_guest_that_spins_while_the_host_hands_it_something_runs_out_of_fuel_too() {
    let world = World::evil().await;
    let (found, effect) = fault(world.release("spin-in-realloc").await.unwrap_err());
    assert_eq!((found, effect), (PluginFault::OutOfFuel, Effect::None));
    assert_the_host_goes_on(&world).await;
}

#[tokio::test]
async fn a_guest_that_floods_gets_one_request_out() {
    let world = World::evil().await;
    world.release("flood").await.unwrap();
    assert_eq!(world.releases(), 1);
    assert_eq!(world.used().await, 1);
}

#[tokio::test]
async fn headers_without_end_are_refused_before_they_cost_much() {
    let world = World::evil().await;
    let error = world.release("huge-headers").await.unwrap_err();
    match &error {
        CallError::Answered { error, .. } => {
            assert!(error.message.contains("SizeExceeded"), "{error:?}");
        }
        // As the engine sees it: more than one call may hold.
        other => assert!(
            matches!(fault(other.clone()).0, PluginFault::Engine(_)),
            "{other:?}"
        ),
    }
    assert!(world.mock.requests().is_empty());
    assert_the_host_goes_on(&world).await;
}

#[tokio::test]
async fn a_guest_that_reads_an_answer_without_end_gets_a_bounded_part_of_it() {
    let world = World::evil().await;
    world.inject(Fault::endless_body().on(Api::UnrestrictCodeExecution));
    let error = world.release("read-on").await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
    assert_the_host_goes_on(&world).await;
}

#[tokio::test]
async fn others_get_their_turn_while_a_guest_computes() {
    let world = World::evil().await;
    let mut spinning = Box::pin(world.release("spin"));
    let machine = world.machine(1);
    let behaved = async {
        world.release_of(&machine, "behave").await.unwrap();
    };
    meanwhile(&mut spinning, behaved).await;
    spinning.await.unwrap_err();
}

#[tokio::test]
async fn a_guest_that_takes_more_than_it_may_have_is_stopped() {
    for way in ["allocate", "many-resources", "giant-string", "trap"] {
        let world = World::evil().await;
        let (found, effect) = fault(world.release(way).await.unwrap_err());
        let stopped = match way {
            // Memory that it does not get stops it by its own hand.
            "allocate" | "trap" => matches!(found, PluginFault::Trap { .. }),
            _ => matches!(found, PluginFault::Engine(_)),
        };
        assert!(stopped, "{way}: {found:?}");
        assert_eq!(effect, Effect::None, "{way}");
        assert!(world.mock.requests().is_empty(), "{way}");
        assert_eq!(world.used().await, 0, "{way}");
        assert_the_host_goes_on(&world).await;
    }
}

//! A guest that claims what is not so, or takes more than it may have.

use std::time::Duration;

use defender_mock::{Api, Fault};
use host_demo::contract::Effect;
use host_demo::host::CallError;
use host_demo::plugin::Fault as PluginFault;
use tests::world::{World, meanwhile};

use super::guest::assert_the_host_goes_on;

fn fault(error: CallError) -> (PluginFault, Effect) {
    match error {
        CallError::Fault { fault, effect } => (fault, effect),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_success_that_the_boundary_did_not_see_is_a_fault() {
    let world = World::evil().await;
    let (found, effect) = fault(world.release("claim-success").await.unwrap_err());
    assert!(
        matches!(found, PluginFault::UnfoundedSuccess(_)),
        "{found:?}"
    );
    assert_eq!((effect, world.releases()), (Effect::None, 0));

    // The service did not accept it, whatever the guest says.
    world.inject(Fault::answer(404, ""));
    let (found, effect) = fault(world.release("behave").await.unwrap_err());
    assert!(
        matches!(found, PluginFault::UnfoundedSuccess(_)),
        "{found:?}"
    );
    assert_eq!((effect, world.releases()), (Effect::None, 1));

    let other = format!("claim-other-machine {}", world.machine(1));
    let (found, effect) = fault(world.release(&other).await.unwrap_err());
    assert_eq!(found, PluginFault::UnfoundedSuccess("of another device"));
    assert_eq!((effect, world.releases()), (Effect::Unknown, 2));
}

#[tokio::test]
async fn an_action_that_was_not_asked_for_is_a_fault() {
    let world = World::evil().await;
    let id = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
    world
        .mock
        .inject(Fault::answer(200, "").on(Api::GetMachineAction));
    let read = world.host.get_machine_action(id, Default::default()).await;
    let (found, effect) = fault(read.unwrap_err());
    assert_eq!(found, PluginFault::UnfoundedSuccess("of another action"));
    assert_eq!(effect, Effect::None);
}

#[tokio::test]
async fn a_guests_word_that_the_quota_is_used_up_holds_nobody_back() {
    let world = World::evil().await;
    for way in ["claim-429 3600", "claim-429-at-the-end 3600"] {
        let (found, _) = fault(world.release(way).await.unwrap_err());
        assert!(matches!(found, PluginFault::UnfoundedError(_)), "{found:?}");
    }
    assert_the_host_goes_on(&world).await;
}

#[tokio::test]
async fn of_a_real_429_the_guests_word_counts_for_one_window_at_most() {
    let world = World::evil().await;
    world.inject(Fault::answer(429, "").header("Retry-After", "1"));
    world
        .release("claim-429-at-the-end 4294967295")
        .await
        .unwrap_err();
    let opens = world.now() + Duration::from_secs(3600);
    let mut next = Box::pin(world.release("behave"));
    meanwhile(&mut next, world.until_rest()).await;
    world.clock.advance(Duration::from_secs(3599));
    meanwhile(&mut next, world.until_rest()).await;
    world.advance_to(opens);
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
    match world.release("flood").await.unwrap_err() {
        CallError::Answered { error, .. } => assert_eq!(error.message, "1 answered"),
        other => panic!("{other:?}"),
    }
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

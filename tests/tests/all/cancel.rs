//! Machine actions, taken back.

use std::sync::Arc;
use std::time::Duration;

use defender_mock::{Api, EndedCancel, Fault, Grant};
use host_demo::cancel::{self, Outcome};
use host_demo::contract::{ActionStatus, Reason};
use host_demo::host::{CallError, Host, WaitOptions};
use host_demo::id::ActionId;
use host_demo::identity::FixedToken;
use tests::world::World;
use tokio::sync::watch;

const CANCEL: Api = Api::CancelMachineAction;
const READ: Api = Api::GetMachineAction;

/// A service where a new action is visible at once.
async fn world() -> World {
    World::with(|scene| scene.switches.visible_after = Duration::ZERO).await
}

/// A release of each machine.
async fn released(world: &World) -> Vec<String> {
    let mut ids = Vec::new();
    for machine in world.mock.machine_ids() {
        ids.push(world.release_of(&machine, "cleaned").await.unwrap().id);
    }
    ids
}

async fn cancel(world: &World, host: &Host, ids: &[String]) -> Vec<Outcome> {
    cancel_with(world, host, ids, WaitOptions::default()).await
}

async fn cancel_with(
    world: &World,
    host: &Host,
    ids: &[String],
    patience: WaitOptions,
) -> Vec<Outcome> {
    let ids = ids.iter().map(|id| id.parse().unwrap()).collect();
    let on_outcome = |_: &ActionId, _: &Outcome| {};
    let cancelling = cancel::cancel(host, ids, "INC-42: not yet", patience, on_outcome);
    world.play(cancelling).await
}

fn names(outcomes: &[Outcome]) -> Vec<&'static str> {
    outcomes.iter().map(Outcome::name).collect()
}

#[tokio::test]
async fn each_action_is_cancelled_and_one_that_is_already_is_so_and_no_failure() {
    let world = world().await;
    let host = world.host_that_may_do_all();
    let ids = released(&world).await;
    let outcomes = cancel(&world, &host, &ids[1..]).await;
    assert_eq!(names(&outcomes), ["cancelled"; 2]);
    assert_eq!(world.mock.arrivals(READ), 0);

    let outcomes = cancel(&world, &host, &ids).await;
    assert_eq!(names(&outcomes), ["cancelled"; 3]);
    for (id, outcome) in ids.iter().zip(&outcomes) {
        assert_eq!(&outcome.action().unwrap().id, id, "in their order");
    }
    assert_eq!(
        world.mock.arrivals(READ),
        2,
        "what was rejected is looked at"
    );
}

#[tokio::test]
async fn an_action_that_has_ended_is_told_of_as_it_ended_whatever_the_service_answers() {
    for ended_cancel in [EndedCancel::Reject, EndedCancel::Return] {
        let world = World::with(|scene| scene.switches.ended_cancel = ended_cancel).await;
        let host = world.host_that_may_do_all();
        let ids = released(&world).await;
        world.clock.advance(Duration::from_secs(60));
        let outcomes = cancel(&world, &host, &ids[..1]).await;
        let status = outcomes[0].action().map(|action| &action.status);
        assert_eq!(names(&outcomes), ["ended-before"]);
        assert_eq!(status, Some(&ActionStatus::Succeeded));
    }
}

#[tokio::test]
async fn what_may_have_arrived_is_looked_at_and_said_and_not_sent_again() {
    let world = world().await;
    let host = world.host_that_may_do_all();
    let ids = released(&world).await;
    let lost = Fault::server_error(503).on(CANCEL);
    for (fault, name, status) in [
        (
            lost.clone().after_acting(),
            "cancelled",
            Some(ActionStatus::Cancelled),
        ),
        (
            Fault::reset().on(CANCEL),
            "unknown",
            Some(ActionStatus::Pending),
        ),
    ] {
        world.mock.inject(fault);
        let id = &ids[usize::from(name == "unknown")];
        let outcomes = cancel(&world, &host, std::slice::from_ref(id)).await;
        assert_eq!(names(&outcomes), [name]);
        assert_eq!(
            outcomes[0].action().map(|action| action.status.clone()),
            status
        );
    }
    world.mock.inject(lost);
    world.mock.inject(Fault::server_error(500).on(READ));
    let outcomes = cancel(&world, &host, &ids[2..]).await;
    assert!(
        matches!(&outcomes[..], [Outcome::Unknown(_, None)]),
        "{outcomes:?}"
    );
    assert_eq!(world.mock.arrivals(CANCEL), 3);
}

#[tokio::test]
async fn what_the_service_refuses_is_refused_and_the_others_are_cancelled() {
    let world = world().await;
    let host = world.host_that_may_do_all();
    let mut ids = released(&world).await;
    ids.insert(1, "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".to_owned());
    let outcomes = cancel(&world, &host, &ids).await;
    assert_eq!(
        names(&outcomes),
        ["cancelled", "refused", "cancelled", "cancelled"]
    );
    let reason = outcomes[1].error().and_then(CallError::reason);
    assert_eq!(reason, Some(&Reason::NotFound));

    let ids = released(&world).await;
    let rejected = Fault::answer(400, "{}").on(CANCEL);
    world.mock.inject(rejected.clone());
    let outcomes = cancel(&world, &host, &ids[..1]).await;
    let [Outcome::Refused(_, Some(seen))] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(seen.status, ActionStatus::Pending);

    let token = world.mock.token(Grant::new().roles(["Machine.Read.All"]));
    let reader = world.another_host(|setup| {
        setup.policy = host.policy().clone();
        setup.tokens = Arc::new(FixedToken::new(&token).unwrap());
    });
    let outcomes = cancel(&world, &reader, &ids).await;
    assert_eq!(names(&outcomes), ["refused"; 3]);
}

#[tokio::test]
async fn one_that_the_service_puts_off_is_sent_again_when_it_may_be() {
    let world = world().await;
    let host = world.host_that_may_do_all();
    let ids = released(&world).await;
    let put_off = Fault::answer(429, "{}").header("retry-after", "9");
    world.mock.inject(put_off.on(CANCEL).times(2));
    let began = world.now();
    let outcomes = cancel(&world, &host, &ids[..1]).await;
    assert_eq!(names(&outcomes), ["cancelled"]);
    assert!(world.now().since(began) >= Duration::from_secs(18));
    assert_eq!(world.mock.arrivals(CANCEL), 3);
}

#[tokio::test]
async fn what_is_not_allowed_or_stopped_is_not_sent() {
    let world = world().await;
    let ids = released(&world).await;
    let outcomes = cancel(&world, &world.host, &ids).await;
    assert_eq!(names(&outcomes), ["not-run"; 3]);
    assert_eq!(outcomes[2].error().unwrap().reason(), Some(&Reason::Denied));

    let (_stopping, stop) = watch::channel(true);
    let patience = WaitOptions {
        stop: Some(stop),
        ..WaitOptions::default()
    };
    // What needs no wait is not stopped by it: so there is one.
    let put_off = Fault::answer(429, "{}").header("retry-after", "9");
    world.mock.inject(put_off.on(CANCEL).always());
    let host = world.host_that_may_do_all();
    let outcomes = cancel_with(&world, &host, &ids, patience).await;
    assert_eq!(names(&outcomes), ["not-run"; 3]);
    for outcome in &outcomes {
        assert_eq!(outcome.error(), Some(&CallError::Stopped));
    }
}

//! What has to be granted apart: restricting a device, and taking an action back.

use std::time::Duration;

use defender_mock::{Api, EndedCancel, Fault, Grant};
use host_demo::contract::{ActionStatus, ActionType, Effect, Reason};
use host_demo::grant::Operation;
use host_demo::host::{CallError, Host, WaitOptions};
use host_demo::policy::Route;
use tests::world::{World, evil_plugin};

const LATER: Duration = Duration::from_secs(60);

fn reason(error: &CallError) -> (&Reason, Effect) {
    match error {
        CallError::Answered { error, .. } => (&error.reason, error.effect),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn neither_is_allowed_unless_a_rule_says_so() {
    let world = World::new().await;
    let id = world.release("cleaned").await.unwrap().id;
    let before = world.mock.requests().len();
    let machine = world.machine(1);
    let restricting =
        world
            .host
            .restrict_code_execution(&machine, "suspicious", WaitOptions::default());
    let error = restricting.await.unwrap_err();
    assert_eq!(reason(&error), (&Reason::Denied, Effect::None));
    let rule = "POST /api/machines/{machine-id}/restrictCodeExecution";
    assert!(error.to_string().contains(rule), "{error}");
    let cancelling = world
        .host
        .cancel_machine_action(&id, "not now", WaitOptions::default());
    let error = cancelling.await.unwrap_err();
    assert_eq!(reason(&error), (&Reason::Denied, Effect::None));
    let rule = "POST /api/machineactions/{action-id}/cancel";
    assert!(error.to_string().contains(rule), "{error}");
    assert_eq!(world.mock.requests().len(), before);
}

#[tokio::test]
async fn a_restriction_is_one_request_and_comes_to_its_end() {
    let world = World::new().await;
    let host = world.host_that_may_do_all();
    let machine = world.machine(0);
    world.release("cleaned").await.unwrap();
    world.clock.advance(LATER);
    assert_eq!(world.mock.is_restricted(&machine), Some(false));

    let upper = machine.to_uppercase();
    let action = host.restrict_code_execution(&upper, "INC-43: suspicious", WaitOptions::default());
    let action = action.await.unwrap();
    assert_eq!(action.type_, ActionType::RestrictCodeExecution);
    assert_eq!(action.status, ActionStatus::Pending);
    assert_eq!(action.machine_id.as_ref(), Some(&machine));
    let [request] = &world.requests(Api::RestrictCodeExecution)[..] else {
        panic!("one request")
    };
    let path = format!("/api/machines/{machine}/restrictCodeExecution");
    assert_eq!(request.path_and_query, path);
    assert_eq!(request.body, r#"{"Comment":"INC-43: suspicious"}"#);

    let again = host.restrict_code_execution(&machine, "suspicious", WaitOptions::default());
    let error = again.await.unwrap_err();
    assert_eq!(reason(&error), (&Reason::AlreadyInProgress, Effect::None));
    world.clock.advance(LATER);
    assert_eq!(world.mock.is_restricted(&machine), Some(true));
}

#[tokio::test]
async fn a_restriction_without_an_answer_may_have_had_its_effect() {
    let world = World::new().await;
    let host = world.host_that_may_do_all();
    for api in [Api::RestrictCodeExecution, Api::CancelMachineAction] {
        world.mock.inject(Fault::reset().on(api));
    }
    let machine = world.machine(0);
    let restricting = host.restrict_code_execution(&machine, "suspicious", WaitOptions::default());
    let error = restricting.await.unwrap_err();
    assert_eq!(reason(&error), (&Reason::Transport, Effect::Unknown));
    let id = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
    let cancelling = host.cancel_machine_action(id, "not now", WaitOptions::default());
    let error = cancelling.await.unwrap_err();
    assert_eq!(reason(&error), (&Reason::Transport, Effect::Unknown));
    assert!(error.to_string().contains("read the action"), "{error}");
}

#[tokio::test]
async fn an_action_under_way_is_taken_back_and_one_that_has_ended_is_not() {
    let world = World::with(|scene| scene.switches.visible_after = Duration::ZERO).await;
    let host = world.host_that_may_do_all();
    let cancel = async |id: &str| {
        let patience = WaitOptions::default();
        host.cancel_machine_action(id, "INC-42: not yet", patience)
            .await
    };
    let id = world.release("cleaned").await.unwrap().id;
    let action = cancel(&id.to_uppercase()).await.unwrap();
    assert_eq!(
        (&action.id, &action.status),
        (&id, &ActionStatus::Cancelled)
    );
    assert_eq!(
        action.cancellation_comment.as_deref(),
        Some("INC-42: not yet")
    );
    let [request] = &world.requests(Api::CancelMachineAction)[..] else {
        panic!("one request")
    };
    assert_eq!(
        request.path_and_query,
        format!("/api/machineactions/{id}/cancel")
    );
    assert_eq!(request.body, r#"{"Comment":"INC-42: not yet"}"#);

    let error = cancel(&id).await.unwrap_err();
    assert_eq!(reason(&error), (&Reason::Rejected, Effect::None));
    let unknown = cancel("8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a")
        .await
        .unwrap_err();
    assert_eq!(reason(&unknown), (&Reason::NotFound, Effect::None));
    for (id, comment, parameter) in [("x", "not yet", "action-id"), (&id, " ", "comment")] {
        let refused = host
            .cancel_machine_action(id, comment, WaitOptions::default())
            .await;
        match refused.unwrap_err().reason() {
            Some(Reason::InvalidArgument(refused)) => assert_eq!(refused.parameter, parameter),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.mock.arrivals(Api::CancelMachineAction), 3);
    assert_eq!(world.mock.is_restricted(&world.machine(0)), Some(true));
}

#[tokio::test]
async fn the_service_may_answer_the_cancelling_of_an_ended_action_with_it() {
    let world = World::with(|scene| {
        scene.switches.visible_after = Duration::ZERO;
        scene.switches.ended_cancel = EndedCancel::Return;
    })
    .await;
    let host = world.host_that_may_do_all();
    let id = world.release("cleaned").await.unwrap().id;
    world.clock.advance(LATER);
    let action = host.cancel_machine_action(&id, "too late", WaitOptions::default());
    assert_eq!(action.await.unwrap().status, ActionStatus::Succeeded);
}

#[tokio::test]
async fn any_right_to_an_action_is_one_to_take_it_back() {
    let world = World::with(|scene| scene.switches.visible_after = Duration::ZERO).await;
    let id = world.release("cleaned").await.unwrap().id;
    for (role, may) in [("Machine.Read.All", false), ("Machine.Scan", true)] {
        let token = world.mock.token(Grant::new().roles([role]));
        let host = world.another_host(|setup| {
            let cancel = Route::of(Operation::CancelMachineAction);
            setup.policy = setup.policy.clone().allow(cancel);
            let token = host_demo::identity::FixedToken::new(&token).unwrap();
            setup.tokens = std::sync::Arc::new(token);
        });
        let result = host
            .cancel_machine_action(&id, "not now", WaitOptions::default())
            .await;
        match result {
            Ok(_) => assert!(may, "{role}"),
            Err(error) => {
                assert!(!may, "{role}: {error:?}");
                let Some(Reason::Forbidden(roles)) = error.reason() else {
                    panic!("{error:?}")
                };
                let restrict = "Machine.RestrictExecution".to_owned();
                assert!(roles.required_roles.contains(&restrict), "{roles:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_guest_that_was_called_to_restrict_or_cancel_does_nothing_else() {
    let world = World::evil().await;
    let host = world.host_that_may_do_all();
    let machine = world.machine(0);
    let met = |error: CallError| match error {
        CallError::Answered { error, .. } => error.message,
        other => panic!("{other:?}"),
    };
    let restrict = async |way: &str| {
        let host = Host::new(evil_plugin(), host.egress());
        let restricting = host.restrict_code_execution(&machine, way, WaitOptions::default());
        met(restricting.await.unwrap_err())
    };
    assert!(
        restrict("open-release")
            .await
            .starts_with("Refusal::Denied(")
    );
    assert_eq!(restrict("release").await, "ErrorCode::HttpRequestDenied");
    let other = "9a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
    let cancelling = host.cancel_machine_action(other, "another", WaitOptions::default());
    assert_eq!(
        met(cancelling.await.unwrap_err()),
        "ErrorCode::HttpRequestDenied"
    );
    assert!(world.mock.requests().is_empty());

    // The response is the result, whatever the guest reports.
    let restricting = host.restrict_code_execution(&machine, "behave", WaitOptions::default());
    assert_eq!(restricting.await.unwrap().machine_id, Some(machine.clone()));
    let host = Host::new(evil_plugin(), host.egress());
    let cancelling = host.cancel_machine_action(other, "behave", WaitOptions::default());
    let error = cancelling.await.unwrap_err();
    assert_eq!(reason(&error), (&Reason::NotFound, Effect::None));
}

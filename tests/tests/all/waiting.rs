//! A run says why it waits, and does what is still possible where something cannot be read.

use std::sync::Arc;
use std::time::Duration;

use defender_mock::{Api, ContentEncoding, DeviceBehaviour, Fault, Grant, ListFilter};
use host_demo::batch::{Finished, Follow, Outcome, Plan};
use host_demo::clock::Moment;
use host_demo::host::CallError;
use host_demo::kind::ActionKind;
use host_demo::limits::Quota;
use tests::batch::{Told, drive, names, release};
use tests::world::World;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The status and the message that the service answers lists with, for good.
const REJECTED: &str = r#"{"error":{"code":"BadRequest","message":"The query specified in the URI is not valid. The 'in' operator is not supported.","target":"x"}}"#;

const MISSING: &str = r#"{"error":{"code":"Forbidden","message":"Missing application roles. API required roles: Machine.ReadWrite.All, application roles: Machine.RestrictExecution,Machine.Read.All.","target":"x"}}"#;

async fn until(world: &World, ids: &[String], deadline: Duration) -> (Finished, Arc<Told>) {
    let mut plan = Plan::new(Follow::ToTheEnd);
    plan.deadline = Some(world.now() + deadline);
    drive(world, &world.host, ActionKind::Release, ids, &plan).await
}

fn message(finished: &Finished) -> String {
    let problem = finished.entries[0].problem.as_ref();
    problem.map(|problem| problem.message()).unwrap_or_default()
}

/// What the responder is advised to do about the first device.
fn advice(finished: &Finished) -> String {
    let outcome = finished.outcomes().next().unwrap();
    let advice = outcome.advice_for(ActionKind::Release, "RUN", &finished.entries);
    advice.unwrap_or_default()
}

fn first_release(world: &World, began: Moment) -> Duration {
    let releases = world.requests(Api::UnrestrictCodeExecution);
    releases[0].at.since(began)
}

#[tokio::test]
async fn each_action_is_read_by_itself_where_a_filter_by_id_is_rejected() {
    let world = World::with(|scene| scene.switches.list_filter = ListFilter::NoId).await;
    let ids = [world.machine(0)];
    let (finished, told) = release(&world, &ids).await;
    assert_eq!(names(&finished), ["released"]);
    assert!(world.mock.arrivals(Api::GetMachineAction) > 0);
    let told = told.of("");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("unreadable (filter-by-id): "),
        "{told:?}"
    );
    assert!(told[0].contains("400"), "{told:?}");
}

/// One by one they would use up the quota.
#[tokio::test]
async fn many_actions_are_listed_by_time_where_a_filter_by_id_is_rejected() {
    let world = World::with(|scene| {
        scene.machines = 60;
        scene.switches.list_filter = ListFilter::NoId;
    })
    .await;
    let (finished, _) = release(&world, &world.mock.machine_ids()).await;
    assert!(names(&finished).iter().all(|name| *name == "released"));
    assert_eq!(world.mock.arrivals(Api::GetMachineAction), 0);
    assert!(world.mock.arrivals(Api::ListMachineActions) < 20);
}

#[tokio::test]
async fn a_rejected_filter_is_replaced_by_a_simpler_one() {
    for filter in [ListFilter::Simple, ListFilter::Nothing] {
        let world = World::with(|scene| scene.switches.list_filter = filter).await;
        let ids = world.mock.machine_ids();
        let opposite = world.host_that_may_do_all();
        world.mock.set_device(&ids[1], DeviceBehaviour::Offline);
        let restricting = opposite.restrict_code_execution(&ids[1], "x", Default::default());
        world.play(restricting).await.unwrap();
        world.clock.advance(MINUTE);
        // Its answer is lost, so it is looked up in a list.
        let lost = Fault::server_error(503).after_acting();
        world.inject(lost);
        let (finished, told) = until(&world, &ids, HOUR).await;
        assert_eq!(
            names(&finished),
            ["released", "held", "released"],
            "{filter:?}"
        );
        assert_eq!(world.releases(), 2, "{filter:?}");
        assert!(told.of("")[0].starts_with("unreadable (filter): "));
    }
}

#[tokio::test]
async fn lists_that_are_rejected_for_good_do_not_hold_up_a_release() {
    let world = World::new().await;
    let began = world.now();
    let rejected = Fault::answer(400, REJECTED).always();
    world.mock.inject(rejected.on(Api::ListMachineActions));
    let ids = world.mock.machine_ids();
    let (finished, told) = until(&world, &ids, MINUTE * 5).await;
    assert_eq!(names(&finished), ["released"; 3]);
    assert_eq!(first_release(&world, began), Duration::ZERO);
    let told = told.of("");
    let last = told.last().unwrap();
    assert!(last.starts_with("unreadable (list): "), "{told:?}");
    assert!(
        last.contains("The 'in' operator is not supported"),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_device_whose_state_cannot_be_read_is_not_pending() {
    let world = World::new().await;
    let began = world.now();
    for api in [Api::ListMachineActions, Api::GetMachineAction] {
        let rejected = Fault::answer(400, REJECTED).always();
        world.mock.inject(rejected.on(api));
    }
    let (finished, told) = until(&world, &world.mock.machine_ids(), MINUTE / 2).await;
    assert_eq!(names(&finished), ["not-verifiable"; 3]);
    assert!(message(&finished).contains("(400 BadRequest)"));
    assert!(
        !advice(&finished).contains("Machine."),
        "{}",
        advice(&finished)
    );
    assert!(world.now().since(began) < Duration::from_secs(10));
    let told = told.of("");
    let last = told.last().unwrap();
    assert!(last.starts_with("unreadable (everything): "), "{told:?}");
}

#[tokio::test]
async fn an_action_that_is_not_found_in_time_is_not_pending() {
    let world = World::with(|scene| scene.switches.list_filter = ListFilter::NoId).await;
    let began = world.now();
    let missing = Fault::answer(404, "").always();
    world.mock.inject(missing.on(Api::GetMachineAction));
    let (finished, _) = release(&world, &[world.machine(0)]).await;
    assert_eq!(names(&finished), ["not-verifiable"]);
    assert!(message(&finished).contains("404"), "{}", message(&finished));
    let took = world.now().since(began);
    assert!(took >= MINUTE && took < 2 * MINUTE, "{took:?}");
}

#[tokio::test]
async fn after_a_403_the_roles_are_those_that_the_response_names() {
    for (status, body, roles) in [
        (403, MISSING, Some("Machine.ReadWrite.All")),
        (403, "{}", None),
        (401, "{}", None),
    ] {
        let world = World::new().await;
        let refused = Fault::answer(status, body).always();
        // The first is of what is under way.
        let first = Fault::delay(Duration::ZERO);
        world.mock.inject(first.on(Api::ListMachineActions));
        world.mock.inject(refused.on(Api::ListMachineActions));
        let (finished, _) = release(&world, &[world.machine(0)]).await;
        assert_eq!(names(&finished), ["not-verifiable"], "{status}");
        let advice = advice(&finished);
        assert_eq!(roles.is_some(), advice.contains("Machine."), "{advice}");
        if let Some(role) = roles {
            assert!(advice.contains(&format!("grant the application {role}")));
            assert!(!advice.contains("Machine.Read.All"), "{advice}");
        }
    }
}

#[tokio::test]
async fn a_read_that_keeps_failing_is_reported_and_named_at_the_deadline() {
    let world = World::new().await;
    let began = world.now();
    let failing = Fault::server_error(503).always();
    world.mock.inject(failing.on(Api::ListMachineActions));
    let (finished, told) = until(&world, &world.mock.machine_ids(), MINUTE / 2).await;
    assert_eq!(names(&finished), ["not-run"; 3]);
    for entry in &finished.entries {
        let message = entry.problem.as_ref().unwrap().message();
        assert!(
            message.contains("deadline") && message.contains("503"),
            "{message}"
        );
    }
    assert_eq!(world.now().since(began), MINUTE / 2);
    // At 0, 4, 12 and 28 seconds. The first is no delay of more than five.
    let reads: Vec<_> = told.of("");
    assert_eq!(reads.len(), 3, "{reads:?}");
    assert!(
        reads
            .iter()
            .all(|read| read.starts_with("read: 20") && read.contains("503"))
    );
}

#[tokio::test]
async fn what_was_accepted_and_cannot_be_read_at_the_deadline_is_not_verifiable() {
    let world = World::new().await;
    let first = Fault::delay(Duration::ZERO);
    world.mock.inject(first.on(Api::ListMachineActions));
    let failing = Fault::server_error(500).always();
    world.mock.inject(failing.on(Api::ListMachineActions));
    let (finished, _) = until(&world, &[world.machine(0)], MINUTE / 2).await;
    assert_eq!(names(&finished), ["not-verifiable"]);
    assert!(message(&finished).contains("500"), "{}", message(&finished));
}

#[tokio::test]
async fn a_single_failed_read_is_not_reported() {
    let world = World::new().await;
    let failing = Fault::server_error(503);
    world.mock.inject(failing.on(Api::ListMachineActions));
    let (finished, told) = release(&world, &[world.machine(0)]).await;
    assert_eq!(names(&finished), ["released"]);
    assert_eq!(told.of(""), Vec::<String>::new());
}

/// It may not pass: a page of a proxy's, say.
#[tokio::test]
async fn a_response_that_is_no_list_is_reported_at_once() {
    let world = World::new().await;
    let page = Fault::answer(200, "<html>Web page blocked by policy</html>");
    world.mock.inject(page.on(Api::ListMachineActions));
    let (_, told) = release(&world, &[world.machine(0)]).await;
    assert_eq!(told.of("").len(), 1, "{:?}", told.of(""));
}

#[tokio::test]
async fn a_quota_that_leaves_no_read_is_no_failure() {
    const ONE_A_MINUTE: Quota = Quota {
        calls: 1,
        per: MINUTE,
    };
    let world = World::with(|scene| scene.quotas = vec![ONE_A_MINUTE]).await;
    world
        .mock
        .set_device(&world.machine(0), DeviceBehaviour::Offline);
    let (finished, told) = until(&world, &[world.machine(0)], MINUTE / 2).await;
    let outcome = finished.outcomes().next().unwrap();
    assert_eq!(outcome, Outcome::Pending);
    assert!(told.of("").iter().all(|told| told.starts_with("host: ")));
}

#[tokio::test]
async fn a_compressed_response_is_decoded() {
    for encoding in [
        ContentEncoding::Gzip,
        ContentEncoding::Deflate,
        ContentEncoding::RawDeflate,
    ] {
        let world = World::with(|scene| scene.switches.content_encoding = encoding).await;
        let (finished, _) = release(&world, &[world.machine(0)]).await;
        assert_eq!(names(&finished), ["released"], "{encoding:?}");
    }
}

#[tokio::test]
async fn a_response_in_another_encoding_is_reported_by_its_name() {
    let world = World::with(|scene| {
        scene.switches.content_encoding = ContentEncoding::Brotli;
        scene.token = Some(Grant::new());
    })
    .await;
    let (finished, told) = until(&world, &[world.machine(0)], MINUTE / 2).await;
    assert_eq!(names(&finished), ["not-run"]);
    let says = "the response is compressed (br), which was not requested";
    assert!(message(&finished).contains(says), "{}", message(&finished));
    assert!(told.of("")[0].contains(says), "{:?}", told.of(""));
}

#[tokio::test]
async fn the_token_is_found_in_a_compressed_response() {
    let world = World::with(|scene| {
        scene.switches.content_encoding = ContentEncoding::Gzip;
        scene.plain_http = true;
    })
    .await;
    let token = world.mock.token(Grant::new());
    let host = world.host_with_token(&token);
    let body = format!(r#"{{"error":{{"code":"x","message":"you sent {token}"}}}}"#);
    world.inject(Fault::answer(403, body));
    let releasing = tests::world::release(&host, &world.machine(0), "x").await;
    let error = releasing.unwrap_err();
    assert!(matches!(error, CallError::TokenEchoed { .. }), "{error}");
    assert!(!format!("{error:?}").contains(&token));
}

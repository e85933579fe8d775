//! Many actions, read page by page from the stand-in, and what they say of its devices.

use std::time::Duration;

use defender_mock::{Api, DeviceBehaviour, Fault, Grant, Header, ListFilter, ListOrder};
use host_demo::contract::{MachineActionFilter, Reason};
use host_demo::history::{History, Standing};
use host_demo::host::{CallError, WaitOptions};
use host_demo::id::MachineId;
use host_demo::kind::ActionKind;
use host_demo::survey::{Bounds, Lister, Survey, survey};
use tests::world::{Scene, World};

const EVERYTHING: MachineActionFilter = MachineActionFilter::everything();

const PAGES_OF_FOUR: Bounds = Bounds {
    reads: 20,
    actions: 20_000,
    page: 4,
};

/// Ten actions of five machines: all were restricted, four of them released, of which one failed,
/// one has not ended, and the last one was restricted again.
async fn ten_actions(bend: impl FnOnce(&mut Scene)) -> World {
    let world = World::with(|scene| {
        scene.switches.visible_after = Duration::ZERO;
        scene.machines = 5;
        bend(scene);
    })
    .await;
    let host = world.host_that_may_do_all();
    let restrict = |n: usize| {
        let (host, machine) = (host.clone(), world.machine(n));
        async move {
            let done = host.restrict_code_execution(&machine, "suspicious", WaitOptions::default());
            done.await.unwrap();
        }
    };
    for n in 0..5 {
        restrict(n).await;
    }
    world.clock.advance(Duration::from_secs(60));
    let ends = DeviceBehaviour::Ends(defender_mock::Ending::Failed);
    world.mock.set_device(&world.machine(1), ends);
    world
        .mock
        .set_device(&world.machine(2), DeviceBehaviour::Offline);
    for n in 0..4 {
        world
            .release_of(&world.machine(n), "cleaned")
            .await
            .unwrap();
        world.clock.advance(Duration::from_secs(1));
    }
    world.clock.advance(Duration::from_secs(60));
    restrict(3).await;
    world.clock.advance(Duration::from_secs(60));
    world
}

async fn read(world: &World, bounds: Bounds) -> Result<Survey, CallError> {
    survey(&world.host, &EVERYTHING, bounds, WaitOptions::default()).await
}

#[tokio::test]
async fn every_page_is_read_once_in_either_order_and_what_is_read_says_where_each_device_stands() {
    for order in [ListOrder::NewestFirst, ListOrder::OldestFirst] {
        for next_link in [Header::Present, Header::Absent] {
            let world = ten_actions(|scene| {
                scene.switches.list_order = order;
                scene.switches.next_link = next_link;
            })
            .await;
            let survey = read(&world, PAGES_OF_FOUR).await.unwrap();
            assert!(!survey.is_cut);
            let mut book: Vec<_> = world.mock.actions();
            if order == ListOrder::NewestFirst {
                book.reverse();
            }
            let ids: Vec<_> = book.iter().map(|action| action.id.to_string()).collect();
            let got: Vec<_> = survey.actions.iter().map(|action| &action.id).collect();
            assert_eq!(got, ids.iter().collect::<Vec<_>>());
            let created = book.iter().map(|action| action.creation_date_time_utc);
            assert_eq!(
                (survey.oldest, survey.newest),
                (created.clone().min(), created.max())
            );
            let asked = world.requests(Api::ListMachineActions);
            assert_eq!(asked.len(), survey.reads);
            let pages = asked.iter().map(|page| page.path_and_query.as_str());
            let skips = ["", "&$skip=3", "&$skip=6", "&$skip=9"];
            let expected = skips.map(|skip| format!("/api/machineactions?$top=4{skip}"));
            assert!(pages.eq(expected), "{asked:?}");

            let history = History::of(&survey.actions);
            for n in 0..5 {
                let machine: MachineId = world.machine(n).parse().unwrap();
                let device = history.of_machine(&machine).unwrap();
                let expected = match world.mock.is_restricted(machine.as_str()).unwrap() {
                    true => Standing::Restricted,
                    false => Standing::Released,
                };
                assert_eq!(device.standing(), expected, "{n}");
                assert_eq!(device.running(ActionKind::Release).is_some(), n == 2);
                assert_eq!(device.last_failure.is_some(), n == 1);
            }
        }
    }
}

#[tokio::test]
async fn what_is_beyond_the_bounds_is_not_read_and_the_survey_says_that_it_is_cut() {
    let world = ten_actions(|_| {}).await;
    for (reads, actions, got) in [(2, 100, 7), (9, 5, 7), (1, 1, 4)] {
        let bounds = Bounds {
            reads,
            actions,
            page: 4,
        };
        let survey = read(&world, bounds).await.unwrap();
        assert_eq!((survey.actions.len(), survey.is_cut), (got, true));
        assert!(survey.reads <= reads);
    }
    let whole = read(&world, Bounds::default()).await.unwrap();
    assert_eq!(
        (whole.actions.len(), whole.reads, whole.is_cut),
        (10, 1, false)
    );
}

#[tokio::test]
async fn where_there_is_nothing_one_read_says_so() {
    let world = World::new().await;
    let began = host_demo::clock::Clock::wall(&world.clock);
    let survey = read(&world, Bounds::default()).await.unwrap();
    assert_eq!(
        (survey.actions.len(), survey.reads, survey.is_cut),
        (0, 1, false)
    );
    assert_eq!((survey.oldest, survey.began), (None, began));
}

#[tokio::test]
async fn a_page_that_is_put_off_is_asked_for_again_when_the_service_said_and_counts_each_time() {
    let world = ten_actions(|_| {}).await;
    let put_off = || {
        let fault = Fault::answer(429, "").header("Retry-After", "7");
        fault.on(Api::ListMachineActions)
    };
    world.mock.inject(put_off());
    let began = world.now();
    let survey = world.play(read(&world, Bounds::default())).await.unwrap();
    assert_eq!((survey.actions.len(), survey.reads), (10, 2));
    assert!(world.now().since(began) >= Duration::from_secs(7));

    world.mock.inject(put_off().times(3));
    let bounds = Bounds {
        reads: 2,
        ..Bounds::default()
    };
    let error = world.play(read(&world, bounds)).await.unwrap_err();
    assert!(
        matches!(error.reason(), Some(Reason::RateLimited(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_page_that_can_not_be_read_ends_it_with_the_reason() {
    let world = ten_actions(|_| {}).await;
    let roles = Grant::new().roles(["Machine.RestrictExecution"]);
    let host = world.host_with_token(&world.mock.token(roles));
    let forbidden = survey(&host, &EVERYTHING, PAGES_OF_FOUR, WaitOptions::default()).await;
    let forbidden = forbidden.unwrap_err();
    assert!(
        matches!(forbidden.reason(), Some(Reason::Forbidden(_))),
        "{forbidden:?}"
    );
    let broken = Fault::answer(200, r#"{"value":[{"id":1}]}"#);
    world.mock.inject(broken.on(Api::ListMachineActions));
    let broken = read(&world, PAGES_OF_FOUR).await.unwrap_err();
    assert_eq!(broken.reason(), Some(&Reason::UnexpectedResponse));
}

/// The releases of one machine, of the last minutes.
fn releases_of(world: &World, n: usize) -> MachineActionFilter {
    MachineActionFilter {
        machine_id: Some(world.machine(n)),
        types: vec![ActionKind::Release.action_type()],
        created_since: Some("2020-01-01T00:00:00Z".to_owned()),
        ..EVERYTHING
    }
}

#[tokio::test]
async fn a_rejected_filter_is_replaced_and_its_conditions_still_hold() {
    for (takes, asked, instead) in [
        (ListFilter::Any, 2, None),
        (
            ListFilter::Simple,
            3,
            Some("they were listed by device only"),
        ),
        (
            ListFilter::Nothing,
            3,
            Some("the actions of all devices were listed without a filter"),
        ),
    ] {
        let world = ten_actions(|scene| scene.switches.list_filter = takes).await;
        let mut lister = Lister::default();
        let mut reads = 0;
        for n in [1, 2] {
            let filter = releases_of(&world, n);
            let read = lister.survey(
                &world.host,
                &filter,
                Bounds::default(),
                WaitOptions::default(),
            );
            let survey = read.await.unwrap();
            reads += survey.reads;
            let ids: Vec<_> = survey
                .actions
                .iter()
                .map(|a| a.machine_id.clone())
                .collect();
            assert_eq!(ids, [Some(world.machine(n))], "{takes:?}");
            let kind = ActionKind::of(&survey.actions[0].type_);
            assert_eq!(kind, Some(ActionKind::Release), "{takes:?}");
        }
        assert_eq!(reads, asked, "{takes:?}");
        assert_eq!(world.requests(Api::ListMachineActions).len(), asked);
        let said = lister.rejected().map(ToString::to_string);
        assert_eq!(said.is_some(), instead.is_some(), "{takes:?}");
        if let (Some(said), Some(instead)) = (said, instead) {
            let rejected = "(by device and type and creation time)";
            assert!(said.contains(rejected) && said.contains(instead), "{said}");
        }
    }
}

#[tokio::test]
async fn a_service_that_rejects_every_list_is_asked_three_times() {
    let world = ten_actions(|_| {}).await;
    let rejected = Fault::answer(400, "{}").always();
    world.mock.inject(rejected.on(Api::ListMachineActions));
    let mut lister = Lister::default();
    let filter = releases_of(&world, 1);
    let read = lister.survey(
        &world.host,
        &filter,
        Bounds::default(),
        WaitOptions::default(),
    );
    let error = read.await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::Rejected));
    assert_eq!(world.requests(Api::ListMachineActions).len(), 3);
}

#[tokio::test]
async fn a_later_page_that_is_rejected_is_not_the_filters_fault() {
    let world = ten_actions(|_| {}).await;
    let mut lister = Lister::default();
    let filter = MachineActionFilter {
        types: vec![
            ActionKind::Release.action_type(),
            ActionKind::Restrict.action_type(),
        ],
        ..EVERYTHING
    };
    let first = Fault::answer(200, FULL_PAGE);
    world.mock.inject(first.on(Api::ListMachineActions));
    let rejected = Fault::answer(400, "{}");
    world.mock.inject(rejected.on(Api::ListMachineActions));
    let bounds = Bounds {
        page: 1,
        ..PAGES_OF_FOUR
    };
    let read = lister.survey(&world.host, &filter, bounds, WaitOptions::default());
    let error = read.await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::Rejected));
    assert!(lister.rejected().is_none());
}

const FULL_PAGE: &str = r#"{"value":[{"id":"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a","type":"RestrictCodeExecution","status":"Succeeded"}],"@odata.nextLink":"x"}"#;

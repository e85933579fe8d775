//! Lists: of actions, by what narrows them, and of the devices of a name.

use std::time::Duration;

use defender_mock::{Api, Case, Fault, Grant, Header, Machine, Mock, NoMachines, ReadRole};
use host_demo::contract::{
    ActionStatus, ActionType, Effect, FoundMachines, MachineActionFilter, MachineActionPage,
    MissingRoles, Reason,
};
use host_demo::grant::Operation;
use host_demo::host::{CallError, WaitOptions};
use serde_json::{Value, json};
use tests::world::{Scene, World};

const EVERYTHING: MachineActionFilter = MachineActionFilter::everything();

/// Six actions: of each of three machines a restriction that has ended, and a release that has not.
/// They can be read at once.
async fn six_actions(bend: impl FnOnce(&mut Scene)) -> World {
    let world = World::with(|scene| {
        scene.switches.visible_after = Duration::ZERO;
        bend(scene);
    })
    .await;
    let host = world.host_that_may_do_all();
    for machine in world.mock.machine_ids() {
        let patience = WaitOptions::default();
        let restricted = host.restrict_code_execution(&machine, "suspicious", patience);
        restricted.await.unwrap();
        world.clock.advance(Duration::from_secs(40));
    }
    for machine in world.mock.machine_ids() {
        world.release_of(&machine, "cleaned").await.unwrap();
        world.clock.advance(Duration::from_secs(1));
    }
    world
}

async fn list(
    world: &World,
    filter: &MachineActionFilter,
    top: u32,
    skip: u32,
) -> Result<MachineActionPage, CallError> {
    let patience = WaitOptions::default();
    world
        .new_host()
        .list_machine_actions(filter, top, skip, patience)
        .await
}

async fn find(world: &World, name: &str) -> Result<FoundMachines, CallError> {
    world
        .new_host()
        .find_machines(name, WaitOptions::default())
        .await
}

fn ids(page: &MachineActionPage) -> Vec<&str> {
    page.items.iter().map(|action| action.id.as_str()).collect()
}

/// The ids in the service's own book, the newest first.
fn in_the_book(mock: &Mock) -> Vec<String> {
    let actions = mock.actions().into_iter().rev();
    actions.map(|action| action.id.to_string()).collect()
}

#[tokio::test]
async fn one_call_reads_what_a_filter_lets_through() {
    let world = six_actions(|_| {}).await;
    let all = in_the_book(&world.mock);
    let machine = world.machine(1);
    let created = world.mock.action(&all[1]).unwrap().creation_date_time_utc;
    for (filter, expected) in [
        (EVERYTHING, &all[..]),
        (
            MachineActionFilter {
                ids: vec![all[4].clone(), all[1].to_uppercase()],
                ..EVERYTHING
            },
            &[all[1].clone(), all[4].clone()],
        ),
        (
            MachineActionFilter {
                machine_id: Some(machine.to_uppercase()),
                ..EVERYTHING
            },
            &[all[1].clone(), all[4].clone()],
        ),
        (
            MachineActionFilter {
                types: vec![ActionType::RestrictCodeExecution],
                ..EVERYTHING
            },
            &all[3..],
        ),
        (
            MachineActionFilter {
                types: vec![
                    ActionType::RestrictCodeExecution,
                    ActionType::UnrestrictCodeExecution,
                ],
                statuses: vec![ActionStatus::Pending, ActionStatus::InProgress],
                ..EVERYTHING
            },
            &all[..3],
        ),
        (
            MachineActionFilter {
                created_since: Some(created.to_string()),
                ..EVERYTHING
            },
            &all[..2],
        ),
        (
            MachineActionFilter {
                machine_id: Some(machine.clone()),
                types: vec![ActionType::UnrestrictCodeExecution],
                statuses: vec![ActionStatus::Succeeded],
                ..EVERYTHING
            },
            &[],
        ),
        (
            MachineActionFilter {
                types: vec![ActionType::Other("Isolate2".to_owned())],
                ..EVERYTHING
            },
            &[],
        ),
    ] {
        let page = list(&world, &filter, 1000, 0).await.unwrap();
        assert_eq!(ids(&page), expected, "{filter:?}");
        assert!(!page.truncated);
    }
    let used = world
        .host
        .used(Operation::ListMachineActions)
        .await
        .unwrap();
    assert_eq!(used[0].1, 8);
    assert_eq!(world.used().await, 3, "releases have their own");
}

#[tokio::test]
async fn a_list_comes_in_pages_each_of_them_a_call() {
    for next_link in [Header::Present, Header::Absent] {
        let world = six_actions(|scene| scene.switches.next_link = next_link).await;
        let all = in_the_book(&world.mock);
        for (top, skip, expected, truncated) in [
            (4, 0, &all[..4], true),
            (4, 4, &all[4..], false),
            (4, 6, &[], false),
            // Full, so there may be more.
            (6, 0, &all[..], true),
            (2, 4, &all[4..], true),
        ] {
            let before = world.mock.arrivals(Api::ListMachineActions);
            let page = list(&world, &EVERYTHING, top, skip).await.unwrap();
            assert_eq!(ids(&page), expected, "{top} {skip}");
            assert_eq!(page.truncated, truncated, "{top} {skip}");
            assert_eq!(world.mock.arrivals(Api::ListMachineActions), before + 1);
        }
    }
}

#[tokio::test]
async fn a_list_is_one_request_whose_query_has_nothing_but_what_was_asked_for() {
    let world = six_actions(|_| {}).await;
    let machine = world.machine(0);
    let filter = MachineActionFilter {
        machine_id: Some(machine.clone()),
        types: vec![
            ActionType::RestrictCodeExecution,
            ActionType::UnrestrictCodeExecution,
        ],
        created_since: Some("2026-01-30T21:11:22.8419303Z".to_owned()),
        ..EVERYTHING
    };
    list(&world, &filter, 10, 20).await.unwrap();
    let [read] = &world.requests(Api::ListMachineActions)[..] else {
        panic!("one request")
    };
    assert_eq!(read.method, "GET");
    assert_eq!(
        read.path_and_query,
        format!(
            "/api/machineactions?$filter=machineId%20eq%20%27{machine}%27%20and%20type%20in%20\
             (%27RestrictCodeExecution%27,%27UnrestrictCodeExecution%27)%20and%20\
             creationDateTimeUtc%20ge%202026-01-30T21:11:22.8419303Z&$top=10&$skip=20"
        )
    );
    let mut names: Vec<_> = read.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "accept-encoding",
        "authorization",
        "host",
        "user-agent",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn what_fits_no_filter_is_refused_and_spends_nothing() {
    let world = World::new().await;
    let other = |name: &str| MachineActionFilter {
        types: vec![ActionType::Other(name.to_owned())],
        ..EVERYTHING
    };
    for (filter, top, parameter) in [
        (EVERYTHING, 0, "top"),
        (EVERYTHING, 1001, "top"),
        (other("Isolate' or '1' eq '1"), 1, "filter.types"),
        (other(""), 1, "filter.types"),
        (
            MachineActionFilter {
                ids: vec!["x".to_owned()],
                ..EVERYTHING
            },
            1,
            "filter.ids",
        ),
        (
            MachineActionFilter {
                machine_id: Some("pc.contoso.com".to_owned()),
                ..EVERYTHING
            },
            1,
            "filter.machine-id",
        ),
        (
            MachineActionFilter {
                created_since: Some("yesterday".to_owned()),
                ..EVERYTHING
            },
            1,
            "filter.created-since",
        ),
    ] {
        let error = list(&world, &filter, top, 0).await.unwrap_err();
        let Some(Reason::InvalidArgument(refused)) = error.reason() else {
            panic!("{error:?}")
        };
        assert_eq!(refused.parameter, parameter);
        assert_eq!(error.effect(), Effect::None);
    }
    for name in [
        "",
        ".",
        "pc'",
        "pc or 1",
        "pc%27",
        "pc\u{2019}",
        &"x".repeat(256),
    ] {
        let error = find(&world, name).await.unwrap_err();
        assert!(
            matches!(error.reason(), Some(Reason::InvalidArgument(_))),
            "{error:?}"
        );
    }
    assert!(world.mock.requests().is_empty(), "not even a token");
}

fn said(id: &str, kind: &str, machine: &str) -> Value {
    json!({"id": id, "type": kind, "status": "Pending", "machineId": machine})
}

#[tokio::test]
async fn what_is_no_list_of_what_was_asked_for_is_none() {
    let world = World::new().await;
    let machine = world.machine(0);
    let filter = MachineActionFilter {
        machine_id: Some(machine.clone()),
        types: vec![ActionType::Isolate],
        ..EVERYTHING
    };
    let good = said("1", "Isolate", &machine);
    for (body, fits) in [
        (json!({"value": [good, good]}), true),
        (json!({"value": []}), true),
        (json!({"value": [good, good, good]}), false),
        (json!({"value": [good, null]}), false),
        (
            json!({"value": [said("1", "Isolate", &"0".repeat(40))]}),
            false,
        ),
        (json!({"value": [said("1", "Offboard", &machine)]}), false),
        (json!({"value": good}), false),
        (json!([good]), false),
        (good.clone(), false),
    ] {
        let fault = Fault::answer(200, body.to_string());
        world.mock.inject(fault.on(Api::ListMachineActions));
        match list(&world, &filter, 2, 0).await {
            Ok(_) => assert!(fits, "{body}"),
            Err(CallError::Answered { error, .. }) => {
                assert!(!fits, "{body}: {error:?}");
                assert_eq!(
                    (&error.reason, error.effect),
                    (&Reason::UnexpectedResponse, Effect::None)
                );
            }
            Err(other) => panic!("{body}: {other:?}"),
        }
    }
    let endless = Fault::endless_body().on(Api::ListMachineActions);
    world.mock.inject(endless);
    let error = list(&world, &filter, 2, 0).await.unwrap_err();
    assert!(error.to_string().contains("longer than 16 MiB"), "{error}");
}

/// A page of the longest texts there are, and the longest body that is read.
#[tokio::test]
async fn the_longest_list_fits_into_what_a_call_may_use() {
    const LONGEST: usize = 16 << 20;
    let world = World::new().await;
    let machine = world.machine(0);
    let body = |entry: &Value| {
        let entries = vec![entry.to_string(); 1000].join(",");
        format!("{{\"value\":[{entries}]}}").into_bytes()
    };
    let mut long = said("1", "Isolate", &machine);
    long["requestorComment"] = json!("🦀".repeat(4090));
    let mut crowded = said("1", "Isolate", &machine);
    for n in 0..96 {
        crowded[format!("p{n}")] = json!(n);
    }
    let mut padded = body(&long);
    assert!(padded.len() < LONGEST, "{} bytes", padded.len());
    padded.resize(LONGEST, b' ');
    for body in [padded, body(&crowded)] {
        let fault = Fault::answer(200, body);
        world.mock.inject(fault.on(Api::ListMachineActions));
        let page = list(&world, &EVERYTHING, 1000, 0).await.unwrap();
        assert_eq!((page.items.len(), page.truncated), (1000, true));
    }
}

#[tokio::test]
async fn reading_lists_has_a_right_of_its_own() {
    let world = World::with(|scene| scene.switches.read_role = ReadRole::ReadWrite).await;
    let error = list(&world, &EVERYTHING, 1, 0).await.unwrap_err();
    let roles = MissingRoles {
        required_roles: vec!["Machine.ReadWrite.All".to_owned()],
        held_roles: vec![
            "Machine.RestrictExecution".to_owned(),
            "Machine.Read.All".to_owned(),
        ],
    };
    assert_eq!(error.reason(), Some(&Reason::Forbidden(roles)));
    find(&world, "device-001.contoso.com").await.unwrap();

    let token = world
        .mock
        .token(Grant::new().roles(["Machine.RestrictExecution"]));
    let host = world.host_with_token(&token);
    let found = host.find_machines("pc", WaitOptions::default()).await;
    assert!(matches!(
        found.unwrap_err().reason(),
        Some(Reason::Forbidden(_))
    ));
}

#[tokio::test]
async fn every_device_of_a_name_is_found() {
    let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(40));
    let world = World::with(|scene| {
        scene.machines = 1;
        scene.more_machines = vec![
            Machine::new(&a, "pc-7.contoso.com")
                .inactive()
                .merged_into(&b),
            Machine::new(&c, "pc-77.contoso.com"),
            Machine::new(&b, "pc-7.contoso.com"),
            Machine::new("d".repeat(40), "x").nameless(),
        ];
    })
    .await;
    let found = find(&world, "pc-7.contoso.com.").await.unwrap();
    assert!(!found.truncated);
    let [old, new] = &found.items[..] else {
        panic!("two: {found:?}")
    };
    assert_eq!((&old.id, &new.id), (&a, &b));
    assert_eq!(old.merged_into_machine_id.as_ref(), Some(&b));
    assert_eq!(old.health_status.as_deref(), Some("Inactive"));
    assert_eq!(new.health_status.as_deref(), Some("Active"));
    assert_eq!(new.onboarding_status.as_deref(), Some("Onboarded"));
    assert_eq!(new.os_platform.as_deref(), Some("Windows11"));
    assert!(old.last_seen < new.last_seen);
    let names: Vec<_> = new
        .additional_properties
        .iter()
        .map(|p| p.name.as_str())
        .collect();
    assert_eq!(names.len(), 17, "{names:?}");
    assert!(names.contains(&"osBuild"));

    assert!(
        find(&world, "pc-8.contoso.com")
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let asked: Vec<_> = world.requests(Api::ListMachines);
    assert_eq!(
        asked[0].path_and_query,
        "/api/machines?$filter=computerDnsName%20eq%20%27pc-7.contoso.com%27&$top=100"
    );
}

#[tokio::test]
async fn a_name_may_have_letters_of_any_script() {
    let id = "a".repeat(40);
    for (switch, name, recorded) in [
        (Case::Sensitive, "büro-pc01", "büro-pc01"),
        (Case::Sensitive, "bu\u{308}ro-pc01", "büro-pc01"),
        (Case::Insensitive, "BÜRO-PC01", "büro-pc01"),
        (Case::Sensitive, "电脑-1", "电脑-1"),
        (Case::Sensitive, "น้ำ-1", "น้ำ-1"),
    ] {
        let world = World::with(|scene| {
            scene.switches.name_case = switch;
            scene.more_machines = vec![Machine::new(&id, recorded)];
        })
        .await;
        let found = find(&world, name).await.unwrap();
        assert_eq!(found.items[0].id, id, "{name}");
        let [asked] = &world.requests(Api::ListMachines)[..] else {
            panic!("one request")
        };
        assert!(asked.path_and_query.is_ascii(), "{asked:?}");
    }
}

#[tokio::test]
async fn a_name_of_nobody_can_be_not_found() {
    let world = World::with(|scene| scene.switches.no_machines = NoMachines::NotFound).await;
    let error = find(&world, "pc-8.contoso.com").await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::NotFound));
}

fn met(error: &CallError) -> &str {
    match error {
        CallError::Answered { error, .. } => &error.message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_that_was_called_for_a_page_gets_that_page_and_nothing_else() {
    let world = World::evil().await;
    let way = |way: &str| MachineActionFilter {
        machine_id: Some(world.machine(0)),
        statuses: vec![ActionStatus::Other(way.to_owned())],
        ..EVERYTHING
    };
    for name in ["OpenAll", "OpenCancel", "OpenMachines"] {
        let error = list(&world, &way(name), 10, 0).await.unwrap_err();
        assert!(
            met(&error).starts_with("Refusal::Denied("),
            "{name}: {error:?}"
        );
    }
    for name in [
        "Everything",
        "OtherMachine",
        "OtherState",
        "NextPage",
        "LongerPage",
        "Expand",
        "OrderBy",
        "Or",
        "Quote",
        "Escaped",
        "Machines",
        "Cancel",
        "One",
    ] {
        let error = list(&world, &way(name), 10, 0).await.unwrap_err();
        assert_eq!(met(&error), "ErrorCode::HttpRequestDenied", "{name}");
        assert_eq!(error.effect(), Effect::None);
    }
    for name in ["all", "other", "expand"] {
        let error = find(&world, name).await.unwrap_err();
        assert_eq!(met(&error), "ErrorCode::HttpRequestDenied", "{name}");
    }
    assert!(world.mock.requests().is_empty(), "not even for a token");

    list(&world, &way("Behave"), 10, 0).await.unwrap();
    list(&world, &way("Twice"), 10, 0).await.unwrap();
    assert_eq!(world.mock.arrivals(Api::ListMachineActions), 2);
}

#[tokio::test]
async fn the_list_is_the_responses_whatever_the_guest_claims() {
    let world = World::evil().await;
    let machine = world.machine(0);
    let date = "2026-01-30T21:11:22.1234567Z";
    let mut entry = said("1", "Isolate", &machine);
    entry["lastUpdateDateTimeUtc"] = json!(date);
    for (way, body, entries, truncated) in [
        ("Invent", json!({ "value": [] }), 0, false),
        ("Invent", json!({ "value": [entry] }), 1, false),
        ("HideAll", json!({ "value": [entry] }), 1, false),
        (
            "HideAll",
            json!({ "value": [], "@odata.nextLink": "https://x" }),
            0,
            true,
        ),
        ("ChangeDate", json!({ "value": [entry] }), 1, false),
        ("ChangeDate", json!({ "value": [entry, entry] }), 2, false),
    ] {
        let fault = Fault::answer(200, body.to_string());
        world.mock.inject(fault.on(Api::ListMachineActions));
        let filter = MachineActionFilter {
            machine_id: Some(machine.clone()),
            statuses: vec![ActionStatus::Other(way.to_owned())],
            ..EVERYTHING
        };
        let host = world.new_host();
        let page = host.list_machine_actions(&filter, 10, 0, WaitOptions::default());
        let page = page.await.unwrap();
        assert_eq!((page.items.len(), page.truncated), (entries, truncated));
        for item in &page.items {
            assert_eq!(item.id, "1", "{way}");
            assert_eq!(item.last_update_date_time_utc.as_deref(), Some(date));
        }
        let next = host.list_machine_actions(&filter, 10, 0, WaitOptions::default());
        assert_eq!(next.await, Err(CallError::PluginContradicted), "{way}");
    }
    let found = find(&world, "device-001.contoso.com").await.unwrap();
    assert_eq!(found.items.len(), 1);
    assert_eq!(found.items[0].id, world.machine(0));
}

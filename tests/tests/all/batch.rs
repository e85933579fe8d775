//! Many devices, released and followed to the end.

use std::sync::Arc;
use std::time::Duration;

use defender_mock::{Api, DeviceBehaviour, Duplicate, Ending, Fault};
use host_demo::batch::{Finished, Follow, Outcome, Plan, Reporter, State, Verdict};
use host_demo::clock::Moment;
use host_demo::host::CallError;
use host_demo::journal::{Call, Journal, Standing};
use host_demo::kind::ActionKind;
use host_demo::limits::Quota;
use host_demo::policy::Policy;
use host_demo::report::Report;
use tests::batch::{Told, begun, drive, entries, go_on, names, release};
use tests::world::{World, evil_plugin, meanwhile};
use tokio::net::TcpSocket;
use tokio::sync::watch;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const ONE_A_MINUTE: Quota = Quota {
    calls: 1,
    per: MINUTE,
};

async fn run(world: &World, ids: &[String], follow: Follow) -> (Finished, Arc<Told>) {
    drive(
        world,
        &world.host,
        ActionKind::Release,
        ids,
        &Plan::new(follow),
    )
    .await
}

/// The first machine, followed for an hour.
async fn one(world: &World) -> Finished {
    run(world, &[world.machine(0)], Follow::For(HOUR)).await.0
}

/// When each release arrived, in seconds.
fn times(world: &World, began: Moment) -> Vec<u64> {
    world
        .requests(Api::UnrestrictCodeExecution)
        .iter()
        .map(|release| release.at.since(began).as_secs())
        .collect()
}

fn reason(finished: &Finished) -> Option<String> {
    finished.entries[0].problem.as_ref()?.reason()
}

#[tokio::test]
async fn a_device_is_followed_until_it_is_free() {
    let world = World::new().await;
    let began = world.now();
    let ids = [world.machine(0)];
    let (finished, told) = run(&world, &ids, Follow::For(HOUR)).await;
    assert_eq!(names(&finished), ["released"]);
    let entry = &finished.entries[0];
    assert_eq!(entry.action.as_ref().unwrap().status, "Succeeded");
    assert!(!entry.is_adopted);
    assert_eq!(entry.sends, 1);
    assert_eq!(world.mock.is_restricted(&ids[0]), Some(false));
    // What is under way, and then the action.
    let looks: Vec<_> = world
        .requests(Api::ListMachineActions)
        .iter()
        .map(|look| look.at.since(began).as_millis())
        .collect();
    assert_eq!(looks, [0, 5_000, 12_500, 23_750, 40_625]);
    let expected = ["Pending", "InProgress", "Succeeded", "released"];
    assert_eq!(told.of(&ids[0]), expected);
}

#[tokio::test]
async fn a_device_that_is_not_followed_is_done_with_when_the_service_accepts() {
    let world = World::new().await;
    let ids = [world.machine(0)];
    let (finished, _) = run(&world, &ids, Follow::Not).await;
    assert_eq!(names(&finished), ["accepted"]);
    let outcome = finished.outcomes().next().unwrap();
    assert_eq!(outcome.verdict(), Verdict::Done);
    let reads = world.mock.arrivals(Api::ListMachineActions);
    assert_eq!(reads, 1, "of what was under way before");
}

#[tokio::test]
async fn a_device_that_is_offline_is_pending_when_the_time_is_up() {
    let world = World::new().await;
    let (began, time) = (world.now(), 10 * MINUTE);
    let ids = [world.machine(0)];
    world.mock.set_device(&ids[0], DeviceBehaviour::Offline);
    let (finished, _) = run(&world, &ids, Follow::For(time)).await;
    assert_eq!(names(&finished), ["pending"]);
    let outcome = finished.outcomes().next().unwrap();
    assert_eq!(outcome.verdict(), Verdict::Open);
    let last = world.requests(Api::ListMachineActions).pop().unwrap().at;
    let after = last.since(began);
    assert!(after <= time && after > time - MINUTE, "{after:?}");
}

#[tokio::test]
async fn a_plugin_that_contradicts_the_service_stops_the_run() {
    let world = World::with(|scene| {
        scene.plugin = evil_plugin();
        scene.machines = 20;
    })
    .await;
    let (host, ids) = (world.new_host(), world.mock.machine_ids());
    let (mut run, entries) = (begun(ActionKind::Release, &host), entries(&ids));
    run.comment = "change-date".to_owned();
    let journal = Journal::in_memory(&run, &entries).unwrap();
    let plan = Plan::new(Follow::Not);
    let (finished, _) = go_on(&world, &host, &journal, entries, &plan).await;
    let names = names(&finished);
    let count = |name: &str| names.iter().filter(|n| **n == name).count();
    // What was in flight is accepted, as the service said.
    let accepted = count("accepted");
    assert!((1..ids.len()).contains(&accepted), "{names:?}");
    assert_eq!(world.releases(), accepted, "each once");
    assert_eq!(count("not-run"), ids.len() - accepted, "{names:?}");
    assert_eq!(finished.hopeless, Some(CallError::PluginContradicted));
}

#[tokio::test]
async fn a_deadline_ends_all_of_it() {
    let world = World::with(|scene| scene.quotas = vec![ONE_A_MINUTE]).await;
    let (began, ids) = (world.now(), world.mock.machine_ids());
    for id in &ids {
        world.mock.set_device(id, DeviceBehaviour::Offline);
    }
    let mut plan = Plan::new(Follow::ToTheEnd);
    plan.deadline = Some(began + 3 * MINUTE / 2);
    let (finished, _) = drive(&world, &world.host, ActionKind::Release, &ids, &plan).await;
    let mut names = names(&finished);
    names.sort_unstable();
    assert_eq!(names, ["not-run", "pending", "pending"]);
    assert!(world.now().since(began) <= 3 * MINUTE / 2);
}

#[tokio::test]
async fn an_action_that_ends_otherwise_is_never_a_success() {
    for (ending, name) in [
        (Ending::Failed, "failed"),
        (Ending::TimeOut, "timed-out"),
        (Ending::Cancelled, "cancelled"),
    ] {
        let world = World::new().await;
        let behaviour = DeviceBehaviour::Ends(ending);
        world.mock.set_device(&world.machine(0), behaviour);
        let finished = one(&world).await;
        assert_eq!(names(&finished), [name]);
        let outcome = finished.outcomes().next().unwrap();
        assert_eq!(outcome.verdict(), Verdict::Failed);
    }
}

#[tokio::test]
async fn a_release_that_may_not_be_read_is_accepted_and_not_verifiable() {
    let roles = vec!["Machine.RestrictExecution".to_owned()];
    let world = World::with(|scene| scene.switches.roles = roles).await;
    let ids = [world.machine(0)];
    let (finished, told) = run(&world, &ids, Follow::For(HOUR)).await;
    assert_eq!(names(&finished), ["not-verifiable"]);
    assert_eq!(reason(&finished).as_deref(), Some("forbidden"));
    let outcome = finished.outcomes().next().unwrap();
    assert_eq!(outcome.verdict(), Verdict::Open);
    assert_eq!(world.mock.arrivals(Api::ListMachineActions), 1);
    let told = told.of("").pop().unwrap();
    assert!(told.starts_with("unreadable (everything): "), "{told}");
    assert!(told.contains("Machine.Read"), "{told}");
}

#[tokio::test]
async fn whatever_a_reading_meets_there_is_another() {
    let world = World::with(|scene| {
        scene.switches.visible_after = MINUTE / 6;
        scene.switches.in_progress = 5 * MINUTE;
    })
    .await;
    for fault in [
        // The first is of what is under way.
        Fault::delay(Duration::ZERO),
        // The second finds nothing yet.
        Fault::delay(Duration::ZERO),
        Fault::server_error(503),
        Fault::reset(),
        Fault::answer(200, "<html>"),
        Fault::answer(429, "").header("Retry-After", "7"),
    ] {
        world.mock.inject(fault.on(Api::ListMachineActions));
    }
    let finished = one(&world).await;
    assert_eq!(names(&finished), ["released"]);
    let looks = world.requests(Api::ListMachineActions);
    let statuses: Vec<_> = looks.iter().map(|look| look.status).collect();
    let met = [Some(200), Some(200), Some(503), None, Some(200), Some(429)];
    assert_eq!(statuses[..6], met);
    assert!(
        statuses[6..].iter().all(|s| *s == Some(200)),
        "{statuses:?}"
    );
}

/// Nothing has been answered by then.
#[tokio::test]
async fn a_connection_that_breaks_at_the_first_reading_is_not_the_end() {
    let world = World::new().await;
    let resets = Fault::reset().times(2);
    world.mock.inject(resets.on(Api::ListMachineActions));
    let finished = one(&world).await;
    assert_eq!(names(&finished), ["released"]);
    assert_eq!(world.releases(), 1);
}

#[tokio::test]
async fn what_the_service_refuses_is_not_repeated() {
    for status in [404, 403, 307, 400] {
        let world = World::new().await;
        world.inject(Fault::answer(status, ""));
        let finished = one(&world).await;
        assert_eq!(names(&finished), ["refused"]);
        let outcome = finished.outcomes().next().unwrap();
        assert_eq!(outcome.verdict(), Verdict::Failed);
        assert_eq!(world.releases(), 1);
    }
}

/// It is done, and the answer is lost.
#[tokio::test]
async fn what_may_have_arrived_is_looked_up_and_not_repeated_where_it_has() {
    for visible_after in [0, 5, 30, 59] {
        for fault in [
            Fault::reset().after_acting(),
            Fault::server_error(500).after_acting(),
            Fault::answer(201, "<html>").after_acting(),
        ] {
            let world = World::with(|scene| {
                scene.switches.visible_after = Duration::from_secs(visible_after);
            })
            .await;
            world.inject(fault.clone());
            let finished = one(&world).await;
            assert_eq!(
                names(&finished),
                ["released"],
                "{fault:?}, {visible_after} s"
            );
            assert!(!finished.entries[0].is_adopted);
            assert_eq!(world.releases(), 1, "{fault:?}, {visible_after} s");
        }
    }
}

/// It is not done, and there is no answer that says so.
#[tokio::test]
async fn what_may_have_arrived_is_repeated_where_it_has_not_and_not_before_it_would_show() {
    for fault in [
        Fault::reset(),
        Fault::server_error(500),
        Fault::answer(201, "<html>"),
    ] {
        let world = World::new().await;
        let began = world.now();
        world.inject(fault.clone());
        let finished = one(&world).await;
        assert_eq!(names(&finished), ["released"], "{fault:?}");
        let times = times(&world, began);
        assert_eq!(times.len(), 2, "{fault:?}");
        assert!(times[1] >= 60, "{fault:?}: {times:?}");
        assert_eq!(world.mock.actions_of(&world.machine(0)).len(), 1);
    }
}

#[tokio::test]
async fn what_is_never_done_is_given_up_after_five_times() {
    let world = World::new().await;
    world.inject(Fault::server_error(500).always());
    let finished = one(&world).await;
    assert_eq!(names(&finished), ["refused"]);
    assert_eq!(reason(&finished).as_deref(), Some("service-failure"));
    assert_eq!(world.releases(), 5);
}

#[tokio::test]
async fn what_can_not_be_looked_up_stays_unknown() {
    let roles = vec!["Machine.RestrictExecution".to_owned()];
    let world = World::with(|scene| scene.switches.roles = roles).await;
    world.inject(Fault::reset().after_acting());
    let finished = one(&world).await;
    assert_eq!(names(&finished), ["unknown"]);
    let outcome = finished.outcomes().next().unwrap();
    assert_eq!(outcome.verdict(), Verdict::Unknown);
    assert_eq!(world.releases(), 1);
}

#[tokio::test]
async fn an_action_that_is_under_way_is_followed_and_nothing_is_sent() {
    let world = World::new().await;
    let first = world.release("by somebody else").await.unwrap();
    world.clock.advance(MINUTE / 6);
    let finished = one(&world).await;
    assert_eq!(names(&finished), ["released"]);
    let entry = &finished.entries[0];
    assert_eq!(entry.action.as_ref().unwrap().id, first.id);
    assert!(entry.is_adopted);
    assert_eq!(entry.sends, 0);
    assert_eq!(world.releases(), 1, "somebody else's");
}

/// Begun after what is under way was read, as another program would.
#[tokio::test]
async fn an_action_that_the_service_says_is_under_way_is_found_and_followed() {
    for duplicate in [Duplicate::Reject, Duplicate::Return] {
        let world = World::with(|scene| {
            scene.switches.duplicate = duplicate;
            scene.switches.visible_after = MINUTE / 6;
        })
        .await;
        // Not visible when it is looked for.
        let first = world.release("by somebody else").await.unwrap();
        let finished = one(&world).await;
        assert_eq!(names(&finished), ["released"], "{duplicate:?}");
        let entry = &finished.entries[0];
        assert_eq!(entry.action.as_ref().unwrap().id, first.id);
        assert!(entry.is_adopted);
        assert_eq!(
            world.releases(),
            2,
            "somebody else's, and one that was refused"
        );
    }
}

/// The service says so, and there is none.
#[tokio::test]
async fn an_action_that_is_never_found_is_in_progress() {
    let world = World::new().await;
    let body = r#"{"error":{"code":"ActiveRequestAlreadyExists","message":"Action is already in progress"}}"#;
    world.inject(Fault::answer(400, body));
    let finished = one(&world).await;
    assert_eq!(names(&finished), ["already-in-progress"]);
    let outcome = finished.outcomes().next().unwrap();
    assert_eq!(outcome.verdict(), Verdict::Open);
    assert_eq!(world.releases(), 1);
}

#[tokio::test]
async fn the_opposite_under_way_is_reported_and_overtaken_only_where_that_is_asked_for() {
    let world = World::new().await;
    let host = world.host_that_may_do_all();
    let ids = world.mock.machine_ids();
    world.mock.set_device(&ids[0], DeviceBehaviour::Offline);
    let pending = host
        .restrict_code_execution(&ids[0], "contain", host_demo::host::WaitOptions::default())
        .await
        .unwrap();
    world.clock.advance(MINUTE / 6);
    let (finished, _) = run(&world, &ids, Follow::ToTheEnd).await;
    assert_eq!(names(&finished), ["held", "released", "released"]);
    assert_eq!(world.releases(), 2);
    let held = finished.entries[0].problem.as_ref().unwrap().message();
    assert!(held.contains(&pending.id), "{held}");

    let mut run = begun(ActionKind::Release, &world.host);
    run.override_pending = true;
    let entries = entries(&ids[..1]);
    let journal = Journal::in_memory(&run, &entries).unwrap();
    let plan = Plan::new(Follow::Not);
    let (finished, _) = go_on(&world, &world.host, &journal, entries, &plan).await;
    assert_eq!(names(&finished), ["accepted"]);
}

#[tokio::test]
async fn restricting_goes_the_same_way() {
    let world = World::new().await;
    let ids = world.mock.machine_ids();
    let (finished, _) = release(&world, &ids).await;
    assert_eq!(names(&finished), ["released"; 3]);
    let plan = Plan::new(Follow::ToTheEnd);
    let (finished, _) = drive(&world, &world.host, ActionKind::Restrict, &ids, &plan).await;
    assert!(
        finished.outcomes().all(|o| o == Outcome::NotRun),
        "{finished:?}"
    );
    assert!(finished.hopeless.unwrap().to_string().contains("restrict"));

    let host = world.host_that_may_do_all();
    world.inject(Fault::reset());
    let fault = Fault::reset().after_acting();
    world.mock.inject(fault.on(Api::RestrictCodeExecution));
    let (finished, _) = drive(&world, &host, ActionKind::Restrict, &ids, &plan).await;
    assert!(
        finished.outcomes().all(|o| o == Outcome::Done),
        "{finished:?}"
    );
    assert!(
        ids.iter()
            .all(|id| world.mock.is_restricted(id) == Some(true))
    );
    assert_eq!(world.mock.arrivals(Api::RestrictCodeExecution), 3);
}

#[tokio::test]
async fn a_release_that_the_service_put_off_is_sent_again_when_it_said() {
    let world = World::new().await;
    let began = world.now();
    world.inject(Fault::answer(429, "").header("Retry-After", "17"));
    let ids = [world.machine(0)];
    let (finished, told) = run(&world, &ids, Follow::Not).await;
    assert_eq!(names(&finished), ["accepted"]);
    assert_eq!(times(&world, began), [0, 17]);
    let expected = [
        "waiting",
        "service: 2026-01-30T21:11:39Z",
        "Pending",
        "accepted",
    ];
    assert_eq!(told.of(&ids[0]), expected);
}

#[tokio::test]
async fn a_release_that_the_service_puts_off_each_time_is_given_up_after_ten_times_more() {
    let world = World::new().await;
    let began = world.now();
    world.inject(Fault::answer(429, "").header("Retry-After", "60").always());
    let finished = one(&world).await;
    assert_eq!(names(&finished), ["not-run"]);
    assert_eq!(reason(&finished).as_deref(), Some("rate-limited"));
    let minutes: Vec<u64> = (0..=10).map(|minute| minute * 60).collect();
    assert_eq!(times(&world, began), minutes);
}

#[tokio::test]
async fn when_the_service_puts_everything_off_no_further_release_is_begun() {
    let world = World::with(|scene| scene.machines = 30).await;
    world.inject(Fault::answer(429, "").header("Retry-After", "60").always());
    let ids = world.mock.machine_ids();
    let (finished, _) = run(&world, &ids, Follow::For(HOUR)).await;
    assert_eq!(names(&finished), ["not-run"; 30]);
    let tried = finished.entries.iter().filter(|entry| entry.sends > 0);
    assert_eq!(tried.count(), 8, "those in flight: {finished:?}");
}

/// One call a minute, for two devices in turn.
#[tokio::test]
async fn as_long_as_the_service_takes_a_release_now_and_then_none_is_given_up() {
    let world = World::with(|scene| scene.quotas = vec![ONE_A_MINUTE]).await;
    let put_off = |times| {
        Fault::answer(429, "")
            .header("Retry-After", "1")
            .times(times)
    };
    let take = || Fault::delay(Duration::ZERO);
    for fault in [put_off(18), take(), put_off(5), take()] {
        world.inject(fault);
    }
    let ids = [world.machine(0), world.machine(1)];
    let (finished, told) = run(&world, &ids, Follow::Not).await;
    assert_eq!(names(&finished), ["accepted"; 2]);
    assert_eq!(world.releases(), 25);
    let waits = told.of(&ids[1]);
    assert!(waits[0].starts_with("host: "), "{waits:?}");
}

#[tokio::test]
async fn who_waits_to_look_at_actions_is_told_too() {
    let world = World::with(|scene| scene.quotas = vec![ONE_A_MINUTE]).await;
    let ids = [world.machine(0)];
    let (_, told) = run(&world, &ids, Follow::For(2 * MINUTE)).await;
    // The second reading, after the first one's minute.
    assert_eq!(told.of("")[0], "host: 2026-01-30T21:12:22.06Z");
}

#[tokio::test]
async fn outcomes_come_in_the_order_of_the_devices_whatever_becomes_of_each() {
    let world = World::with(|scene| scene.machines = 20).await;
    let mut ids = world.mock.machine_ids();
    world.mock.set_device(&ids[2], DeviceBehaviour::Offline);
    world
        .mock
        .set_device(&ids[3], DeviceBehaviour::Ends(Ending::Failed));
    world.release_of(&ids[5], "by somebody else").await.unwrap();
    ids[7] = "0".repeat(40);
    let (finished, told) = run(&world, &ids, Follow::For(10 * MINUTE)).await;
    for (index, name) in names(&finished).into_iter().enumerate() {
        let expected = match index {
            2 => "pending",
            3 => "failed",
            7 => "refused",
            _ => "released",
        };
        assert_eq!(name, expected, "{index}: {:?}", finished.entries[index]);
        let last = told.of(&ids[index]).pop();
        assert_eq!(last.as_deref(), Some(expected), "the reporter heard it");
    }
    assert_eq!(
        world.releases(),
        21,
        "one for each, and one by somebody else"
    );
}

/// A hundred actions need no more calls than one.
#[tokio::test]
async fn one_reading_answers_for_a_hundred_actions() {
    let world = World::with(|scene| scene.machines = 100).await;
    let began = world.now();
    let (finished, _) = release(&world, &world.mock.machine_ids()).await;
    assert_eq!(names(&finished), ["released"; 100]);
    let reads = world.requests(Api::ListMachineActions);
    let times: Vec<_> = reads
        .iter()
        .map(|read| read.at.since(began).as_secs())
        .collect();
    assert!(times.len() <= 6, "{times:?}");
}

#[tokio::test]
async fn what_would_meet_every_device_ends_the_run() {
    let world = World::with(|scene| scene.machines = 30).await;
    let ids = world.mock.machine_ids();
    let [tenant, id, _] = world.application();
    let wrong = Arc::new(world.client_secret(world.service(), [tenant, id, "wrong"]));
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = format!("http://{}", socket.local_addr().unwrap());
    let origin = world.service().origin().clone();
    let hosts = [
        world.another_host(|setup| setup.tokens = wrong),
        world.another_host(|setup| setup.policy = Policy::deny_all(origin)),
        world.host_at(&nobody, None),
        world.host_with_token("garbage"),
    ];
    for host in &hosts {
        let plan = Plan::new(Follow::For(HOUR));
        let (finished, _) = drive(&world, host, ActionKind::Release, &ids, &plan).await;
        assert_eq!(names(&finished), ["not-run"; 30]);
        assert!(finished.hopeless.is_some());
    }
    let tokens = world.mock.arrivals(Api::Token);
    assert!(
        tokens <= 8,
        "{tokens}: those in flight at one time, and no more"
    );
    assert!(world.releases() <= 8, "those with the token that is none");
}

#[tokio::test]
async fn where_all_are_forbidden_the_quota_is_not_spent_on_the_rest() {
    let roles = vec!["Machine.Read.All".to_owned()];
    let world = World::with(|scene| {
        scene.machines = 1500;
        scene.switches.roles = roles;
    })
    .await;
    let (finished, _) = run(&world, &world.mock.machine_ids(), Follow::ToTheEnd).await;
    assert!(world.releases() < 20, "{}", world.releases());
    let count = |name| names(&finished).iter().filter(|n| **n == name).count();
    assert_eq!(count("refused"), world.releases());
    assert_eq!(count("not-run"), 1500 - world.releases());
    let why = finished.hopeless.unwrap().to_string();
    assert!(why.contains("Machine.RestrictExecution"), "{why}");
}

#[tokio::test]
async fn where_too_much_goes_wrong_it_pauses_and_says_why() {
    let world = World::with(|scene| scene.machines = 40).await;
    let began = world.now();
    world.inject(Fault::answer(404, "").times(12));
    let mut plan = Plan::new(Follow::ToTheEnd);
    plan.at_once = 1;
    let ids = world.mock.machine_ids();
    let (finished, told) = drive(&world, &world.host, ActionKind::Release, &ids, &plan).await;
    let count = |name| names(&finished).iter().filter(|n| **n == name).count();
    assert_eq!((count("refused"), count("released")), (12, 28));
    let pauses: Vec<_> = told
        .of("")
        .into_iter()
        .filter(|t| t.starts_with("paused"))
        .collect();
    // After one minute, two and four more, one is sent, to see.
    assert_eq!(
        pauses,
        [
            "paused: 2026-01-30T21:12:22Z, 10 of 10",
            "paused: 2026-01-30T21:14:22Z, 11 of 11",
            "paused: 2026-01-30T21:18:22Z, 12 of 12",
        ]
    );
    let mut expected = vec![0; 10];
    expected.extend([60, 180]);
    expected.extend([420; 28]);
    assert_eq!(times(&world, began), expected);
}

/// The network is away for some minutes.
#[tokio::test]
async fn a_service_that_goes_away_is_waited_for() {
    let world = World::with(|scene| scene.machines = 30).await;
    let host = world.another_host(|setup| {
        setup.quotas = vec![ONE_A_MINUTE];
    });
    world.inject(Fault::delay(Duration::ZERO).times(5));
    world.inject(Fault::reset().times(3));
    let ids = &world.mock.machine_ids()[..10];
    let plan = Plan::new(Follow::ToTheEnd);
    let (finished, _) = drive(&world, &host, ActionKind::Release, ids, &plan).await;
    assert_eq!(names(&finished), ["released"; 10]);
    assert_eq!(world.mock.actions().len(), 10);
}

#[tokio::test]
async fn a_run_that_is_stopped_brings_its_calls_to_their_answers_and_begins_nothing_else() {
    let world = World::with(|scene| scene.quotas = vec![ONE_A_MINUTE]).await;
    let ids = world.mock.machine_ids();
    let told = Arc::new(Told::default());
    let (stop, stopped) = watch::channel(false);
    world.inject(Fault::delay(MINUTE / 6));
    let plan = Plan::new(Follow::For(HOUR));
    let reporter = Arc::clone(&told) as Arc<dyn Reporter>;
    let entries = entries(&ids);
    let journal = Journal::in_memory(&begun(ActionKind::Release, &world.host), &entries).unwrap();
    let driven = host_demo::batch::drive(&world.host, &journal, entries, &plan, reporter, stopped);
    let mut run = Box::pin(driven);
    meanwhile(
        &mut run,
        world.until("it arrives", || world.releases() == 1),
    )
    .await;
    stop.send(true).unwrap();
    meanwhile(&mut run, async {
        world
            .until("those who wait leave", || {
                let has_left = |id: &String| told.of(id).contains(&"not-run".to_owned());
                ids[1..].iter().all(has_left)
            })
            .await;
    })
    .await;
    world.clock.advance(MINUTE / 6);
    let finished = run.await.unwrap();
    assert_eq!(names(&finished), ["pending", "not-run", "not-run"]);
    assert_eq!(world.releases(), 1);
    let reads = world.mock.arrivals(Api::ListMachineActions);
    assert_eq!(reads, 1, "of what was under way before");
}

#[tokio::test]
async fn what_was_interrupted_goes_on_where_it_was() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let runs = host_demo::journal::Runs::new(folder.path().join("runs"));
    let ids = world.mock.machine_ids();
    let run = begun(ActionKind::Release, &world.host);
    let mut left = entries(&ids);
    // As a process leaves it that is killed while the first one is under way, after the second was
    // accepted.
    let accepted = world.release_of(&ids[1], "cleaned").await.unwrap();
    left[0].state = State::Sending;
    left[0].sends = 1;
    left[0].sent = Some(run.created);
    left[1].state = State::Accepted;
    left[1].action = Some(serde_json::from_value(accepted.to_json()).unwrap());
    drop(runs.create(&run, &left).unwrap());

    let (journal, record) = runs.resume(&run.id).unwrap();
    assert_eq!(record.entries, left);
    let plan = Plan::new(Follow::ToTheEnd);
    let (finished, _) = go_on(&world, &world.host, &journal, record.entries, &plan).await;
    assert_eq!(names(&finished), ["released"; 3]);
    drop(journal);
    let record = runs.read(&run.id).unwrap();
    assert_eq!(record.entries, finished.entries);
    assert!(record.run.ended.is_some());
    assert_eq!(world.mock.actions().len(), 3);
    // Each call is in it: two releases, and the readings.
    let sent: Vec<_> = record
        .calls
        .iter()
        .filter(|call| call.device.is_some())
        .collect();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(
        record
            .calls
            .iter()
            .all(|call| call.result.as_deref() == Some("ok"))
    );
    let reads = record.calls.len() - sent.len();
    assert_eq!(reads, world.mock.arrivals(Api::ListMachineActions));
}

#[tokio::test]
async fn what_did_not_leave_is_in_the_journal_and_not_in_the_reports_pace() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let runs = host_demo::journal::Runs::new(folder.path().join("runs"));
    let run = begun(ActionKind::Release, &world.host);
    let devices = entries(&world.mock.machine_ids());
    drop(runs.create(&run, &devices).unwrap());
    let origin = world.service().origin().clone();
    let denying = world.another_host(|setup| setup.policy = Policy::deny_all(origin));
    for host in [&denying, &world.host] {
        let (journal, record) = runs.resume(&run.id).unwrap();
        let plan = Plan::new(Follow::ToTheEnd);
        go_on(&world, host, &journal, record.entries, &plan).await;
    }
    let record = runs.read(&run.id).unwrap();
    let (left, stayed): (Vec<_>, _) = record.calls.iter().partition(|call| call.left);
    assert!(!stayed.is_empty(), "{left:?}");
    let is_of_one = |name: &'static str| move |call: &&Call| call.result.as_deref() == Some(name);
    assert!(stayed.iter().all(is_of_one("denied")), "{stayed:?}");
    assert!(left.iter().all(is_of_one("ok")), "{left:?}");
    let report = Report::new(&record, Standing::Ended, run.created);
    let paces: Vec<usize> = report.paces.iter().map(|pace| pace.calls()).collect();
    let reads = world.mock.arrivals(Api::ListMachineActions);
    assert_eq!(paces, [world.releases(), reads]);
}

/// What is under way is read before a minute's worth is sent, and not for each device. One that
/// waited for the next minute, or the next hour, is looked at once more.
#[tokio::test]
async fn an_opposite_that_began_while_a_device_waited_for_the_quota_is_not_overtaken() {
    let seldom = Quota {
        calls: 1,
        per: 10 * MINUTE,
    };
    let world = World::with(|scene| {
        scene.quotas = vec![seldom];
        scene.switches.visible_after = 2 * MINUTE;
    })
    .await;
    let ids = &world.mock.machine_ids()[..2];
    world.mock.set_device(&ids[1], DeviceBehaviour::Offline);
    let host = world.host_that_may_do_all();
    let patience = host_demo::host::WaitOptions::default();
    let pending = host.restrict_code_execution(&ids[1], "contain", patience);
    pending.await.unwrap();
    let (finished, _) = run(&world, ids, Follow::Not).await;
    assert_eq!(names(&finished), ["accepted", "held"]);
    assert_eq!(world.releases(), 1);
}

/// As long as a token and longer than the quotas' windows.
const NAP: Duration = Duration::from_secs(2 * 3600);

/// A run of 150, of which a hundred are sent when the machine falls asleep for two hours.
async fn after_a_nap(deadline: Option<Duration>) -> (World, Finished) {
    let world = World::with(|scene| scene.machines = 150).await;
    let ids = world.mock.machine_ids();
    for id in &ids[..10] {
        world.mock.set_device(id, DeviceBehaviour::Offline);
    }
    let mut plan = Plan::new(Follow::For(HOUR));
    plan.deadline = deadline.map(|time| world.now() + time);
    let entries = entries(&ids);
    let journal = Journal::in_memory(&begun(ActionKind::Release, &world.host), &entries).unwrap();
    let reporter = Arc::new(Told::default()) as Arc<dyn Reporter>;
    let (_go_on, stop) = watch::channel(false);
    world.watch(&journal);
    let driven = host_demo::batch::drive(&world.host, &journal, entries, &plan, reporter, stop);
    let mut driven = Box::pin(driven);
    let a_minutes_worth = || world.releases() == 100 && !world.waits().is_empty();
    meanwhile(
        &mut driven,
        world.until("the quota is used", a_minutes_worth),
    )
    .await;
    meanwhile(&mut driven, world.until_rest()).await;
    world.clock.advance(NAP);
    let finished = world.play(driven).await.unwrap();
    world.unwatch();
    (world, finished)
}

#[tokio::test]
async fn a_machine_that_slept_for_hours_goes_on_with_a_new_token_and_free_windows() {
    let (world, finished) = after_a_nap(None).await;
    let names = names(&finished);
    assert_eq!(names[10..], ["released"; 140]);
    assert_eq!(names[..10], ["pending"; 10]);
    assert_eq!(world.releases(), 150, "each once");
    assert_eq!(world.mock.arrivals(Api::Token), 2);
    let rejected = world.mock.requests().iter().any(|r| r.status == Some(401));
    assert!(!rejected, "the old token was not tried");
    let releases = world.requests(Api::UnrestrictCodeExecution);
    let (before, after) = (releases[99].at, releases[149].at);
    assert!(
        after.since(before) < NAP + MINUTE,
        "{:?}",
        after.since(before)
    );
}

#[tokio::test]
async fn a_deadline_that_passed_while_the_machine_slept_has_passed() {
    let (world, finished) = after_a_nap(Some(HOUR)).await;
    let names = names(&finished);
    assert_eq!(names[..100], ["pending"; 100]);
    assert_eq!(names[100..], ["not-run"; 50]);
    assert_eq!(world.releases(), 100);
}

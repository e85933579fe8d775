//! Devices, released and followed to the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use host_demo::clock::Moment;
use host_demo::contract::{ActionStatus, MachineAction, Reason};
use host_demo::host::{CallError, Host};
use host_demo::limits::{Quota, Why};
use host_demo::mock::{Api, DeviceBehaviour, Duplicate, Ending, Fault};
use host_demo::policy::Policy;
use host_demo::release::{self, Outcome, Plan, Reporter, Verdict, Wait};
use tests::world::{World, meanwhile};
use tokio::net::TcpSocket;
use tokio::sync::watch;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const ONE_A_MINUTE: Quota = Quota {
    calls: 1,
    per: MINUTE,
};

/// Remembers what it is told: a machine, and what it waits for, its action's status or its outcome.
#[derive(Default)]
struct Told(Mutex<Vec<(String, String)>>);

impl Told {
    fn add(&self, machine_id: &str, what: &str) {
        let told = (machine_id.to_owned(), what.to_owned());
        self.0.lock().unwrap().push(told);
    }

    fn of(&self, machine_id: &str) -> Vec<String> {
        let told = self.0.lock().unwrap();
        told.iter()
            .filter(|(id, _)| id == machine_id)
            .map(|(_, what)| what.clone())
            .collect()
    }
}

impl Reporter for Told {
    fn waiting(&self, machine_id: &str, wait: Wait) {
        let by = match wait.why {
            Why::Service => "service",
            Why::Quota => "host",
            Why::Lost => "loss",
        };
        self.add(machine_id, &format!("{by}: {}", wait.until));
    }

    fn progress(&self, machine_id: &str, action: &MachineAction) {
        self.add(machine_id, action.status.as_str());
    }

    fn finished(&self, machine_id: &str, outcome: &Outcome) {
        self.add(machine_id, outcome.name());
    }
}

fn plan(follow: Option<Duration>) -> Plan {
    Plan {
        comment: "cleaned".to_owned(),
        follow,
        deadline: None,
    }
}

/// Runs it without anybody who could stop it.
async fn run(world: &World, host: &Host, ids: &[String], plan: &Plan) -> (Vec<Outcome>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let (_go_on, stop) = watch::channel(false);
    let reporter = Arc::clone(&told) as Arc<dyn Reporter>;
    let run = release::release(host, ids, plan, reporter, stop);
    (world.play(run).await, told)
}

/// The outcome for the first machine, followed for an hour.
async fn outcome_of_one(world: &World) -> Outcome {
    let ids = [world.machine(0)];
    let (mut outcomes, _) = run(world, &world.host, &ids, &plan(Some(HOUR))).await;
    outcomes.pop().unwrap()
}

fn error_of(outcome: &Outcome) -> &CallError {
    outcome.error().unwrap_or_else(|| panic!("{outcome:?}"))
}

#[tokio::test]
async fn a_device_is_followed_until_it_is_free() {
    let world = World::new().await;
    let began = world.now();
    let ids = [world.machine(0)];
    let (outcomes, told) = run(&world, &world.host, &ids, &plan(Some(HOUR))).await;
    let [Outcome::Released(action)] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(action.status, ActionStatus::Succeeded);
    assert_eq!(outcomes[0].verdict(), Verdict::Done);
    assert_eq!(world.mock.is_restricted(&ids[0]), Some(false));
    let looks: Vec<_> = world
        .requests(Api::GetMachineAction)
        .iter()
        .map(|look| look.at.since(began).as_millis())
        .collect();
    assert_eq!(looks, [5_000, 12_500, 23_750, 40_625]);
    let expected = [
        "Pending",
        "Pending",
        "Pending",
        "InProgress",
        "Succeeded",
        "released",
    ];
    assert_eq!(told.of(&ids[0]), expected);
}

#[tokio::test]
async fn a_device_that_is_not_followed_is_done_with_when_the_service_accepts() {
    let world = World::new().await;
    let ids = [world.machine(0)];
    let (outcomes, _) = run(&world, &world.host, &ids, &plan(None)).await;
    assert!(
        matches!(outcomes[..], [Outcome::Accepted(_)]),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[0].verdict(), Verdict::Done);
    assert_eq!(world.mock.arrivals(Api::GetMachineAction), 0);
}

#[tokio::test]
async fn a_device_that_is_offline_is_pending_when_the_time_is_up() {
    let world = World::new().await;
    let (began, time) = (world.now(), 10 * MINUTE);
    let ids = [world.machine(0)];
    world.mock.set_device(&ids[0], DeviceBehaviour::Offline);
    let (outcomes, _) = run(&world, &world.host, &ids, &plan(Some(time))).await;
    assert!(
        matches!(outcomes[..], [Outcome::Pending(_)]),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[0].verdict(), Verdict::Open);
    let last = world.requests(Api::GetMachineAction).pop().unwrap().at;
    let after = last.since(began);
    assert!(after <= time && after > time - MINUTE, "{after:?}");
}

#[tokio::test]
async fn an_action_that_ends_otherwise_is_never_a_success() {
    for (ending, status) in [
        (Ending::Failed, ActionStatus::Failed),
        (Ending::TimeOut, ActionStatus::TimeOut),
        (Ending::Cancelled, ActionStatus::Cancelled),
    ] {
        let world = World::new().await;
        let behaviour = DeviceBehaviour::Ends(ending);
        world.mock.set_device(&world.machine(0), behaviour);
        let outcome = outcome_of_one(&world).await;
        match &outcome {
            Outcome::Failed(action) => assert_eq!(action.status, status),
            other => panic!("{other:?}"),
        }
        assert_eq!(outcome.verdict(), Verdict::Failed);
    }
}

#[tokio::test]
async fn a_release_that_may_not_be_read_is_accepted_and_not_verifiable() {
    let roles = vec!["Machine.RestrictExecution".to_owned()];
    let world = World::with(|scene| scene.switches.roles = roles).await;
    let outcome = outcome_of_one(&world).await;
    assert!(matches!(outcome, Outcome::NotVerifiable(..)), "{outcome:?}");
    let reason = error_of(&outcome).reason();
    assert!(matches!(reason, Some(Reason::Forbidden(_))), "{reason:?}");
    assert_eq!(outcome.verdict(), Verdict::Open);
    assert_eq!(world.mock.arrivals(Api::GetMachineAction), 1);
}

#[tokio::test]
async fn whatever_a_look_meets_there_is_another() {
    let world = World::with(|scene| {
        scene.switches.visible_after = MINUTE / 6;
        scene.switches.in_progress = 5 * MINUTE;
    })
    .await;
    for fault in [
        // The first look finds nothing yet.
        Fault::delay(Duration::ZERO),
        Fault::server_error(503),
        Fault::reset(),
        Fault::answer(200, "<html>"),
        Fault::answer(429, "").header("Retry-After", "7"),
    ] {
        world.mock.inject(fault.on(Api::GetMachineAction));
    }
    let outcome = outcome_of_one(&world).await;
    assert!(matches!(outcome, Outcome::Released(_)), "{outcome:?}");
    let looks = world.requests(Api::GetMachineAction);
    let statuses: Vec<_> = looks.iter().map(|look| look.status).collect();
    let met = [Some(404), Some(503), None, Some(200), Some(429)];
    assert_eq!(statuses[..5], met);
    assert!(
        statuses[5..].iter().all(|s| *s == Some(200)),
        "{statuses:?}"
    );
}

#[tokio::test]
async fn a_release_that_fails_is_refused_or_unknown_and_is_not_repeated() {
    for (fault, name) in [
        (Fault::answer(404, ""), "refused"),
        (Fault::answer(403, ""), "refused"),
        (Fault::answer(307, ""), "refused"),
        (Fault::reset().after_acting(), "unknown"),
        (Fault::server_error(500), "unknown"),
        (Fault::answer(201, "<html>"), "unknown"),
    ] {
        let verdict = match name {
            "unknown" => Verdict::Unknown,
            _ => Verdict::Failed,
        };
        let world = World::new().await;
        world.inject(fault);
        let outcome = outcome_of_one(&world).await;
        assert_eq!(outcome.name(), name, "{outcome:?}");
        assert_eq!(outcome.verdict(), verdict);
        assert_eq!(world.releases(), 1);
    }
}

#[tokio::test]
async fn a_second_release_is_in_progress_or_follows_the_running_one_as_the_service_has_it() {
    let world = World::new().await;
    world.release("cleaned").await.unwrap();
    let outcome = outcome_of_one(&world).await;
    assert!(matches!(outcome, Outcome::InProgress(_)), "{outcome:?}");
    assert_eq!(outcome.verdict(), Verdict::Open);

    let world = World::with(|scene| scene.switches.duplicate = Duplicate::Return).await;
    let first = world.release("cleaned").await.unwrap();
    match outcome_of_one(&world).await {
        Outcome::Released(action) => assert_eq!(action.id, first.id),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_release_that_the_service_put_off_is_sent_again_when_it_said() {
    let world = World::new().await;
    let began = world.now();
    world.inject(Fault::answer(429, "").header("Retry-After", "17"));
    let ids = [world.machine(0)];
    let (outcomes, told) = run(&world, &world.host, &ids, &plan(None)).await;
    assert!(
        matches!(outcomes[..], [Outcome::Accepted(_)]),
        "{outcomes:?}"
    );
    assert_eq!(times(&world, began), [0, 17]);
    let expected = ["service: 2026-01-30T21:11:39Z", "Pending", "accepted"];
    assert_eq!(told.of(&ids[0]), expected);
}

/// When each release arrived, in seconds.
fn times(world: &World, began: Moment) -> Vec<u64> {
    world
        .requests(Api::UnrestrictCodeExecution)
        .iter()
        .map(|release| release.at.since(began).as_secs())
        .collect()
}

#[tokio::test]
async fn a_release_that_the_service_puts_off_each_time_is_given_up_after_ten_times_more() {
    let world = World::new().await;
    let began = world.now();
    world.inject(Fault::answer(429, "").header("Retry-After", "60").always());
    let ids = [world.machine(0)];
    let (outcomes, told) = run(&world, &world.host, &ids, &plan(Some(HOUR))).await;
    assert!(
        matches!(outcomes[..], [Outcome::Refused(_)]),
        "{outcomes:?}"
    );
    let reason = error_of(&outcomes[0]).reason();
    assert!(matches!(reason, Some(Reason::RateLimited(_))), "{reason:?}");
    let minutes: Vec<u64> = (0..=10).map(|minute| minute * 60).collect();
    assert_eq!(times(&world, began), minutes);
    assert_eq!(told.of(&ids[0]).len(), 11, "ten waits, and the outcome");
}

#[tokio::test]
async fn when_the_service_puts_everything_off_no_further_release_is_begun() {
    let world = World::with(|scene| scene.machines = 30).await;
    world.inject(Fault::answer(429, "").header("Retry-After", "60").always());
    let ids = world.mock.machine_ids();
    let (outcomes, _) = run(&world, &world.host, &ids, &plan(Some(HOUR))).await;
    let refused = outcomes.iter().filter(|o| matches!(o, Outcome::Refused(_)));
    assert_eq!(refused.count(), 8, "those in flight: {outcomes:?}");
    let not_run = outcomes.iter().filter(|o| matches!(o, Outcome::NotRun(_)));
    assert_eq!(not_run.count(), 22, "{outcomes:?}");
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
    let (outcomes, told) = run(&world, &world.host, &ids, &plan(None)).await;
    for outcome in outcomes {
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }
    assert_eq!(world.releases(), 25);
    let waits = told.of(&ids[1]);
    assert!(waits[0].starts_with("host: "), "{waits:?}");
}

#[tokio::test]
async fn who_waits_to_look_at_an_action_is_told_too() {
    let world = World::with(|scene| scene.quotas = vec![ONE_A_MINUTE]).await;
    let ids = [world.machine(0)];
    let (_, told) = run(&world, &world.host, &ids, &plan(Some(2 * MINUTE))).await;
    let told = told.of(&ids[0]);
    // The second look, after the first one's minute.
    assert_eq!(
        told[..3],
        ["Pending", "Pending", "host: 2026-01-30T21:12:27.06Z"]
    );
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
    ids[8] = "johns-work-computer".to_owned();
    let (outcomes, told) = run(&world, &world.host, &ids, &plan(Some(10 * MINUTE))).await;
    for (index, outcome) in outcomes.iter().enumerate() {
        let expected = match index {
            2 => "pending",
            3 => "failed",
            5 => "already-in-progress",
            7 | 8 => "refused",
            _ => "released",
        };
        assert_eq!(outcome.name(), expected, "{index}: {outcome:?}");
        let last = told.of(&ids[index]).pop();
        assert_eq!(last.as_deref(), Some(expected), "the reporter heard it");
    }
    assert_eq!(
        world.releases(),
        20,
        "one for each id that is one, and one by somebody else"
    );
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
    ];
    for host in &hosts {
        let (outcomes, _) = run(&world, host, &ids, &plan(Some(HOUR))).await;
        for outcome in &outcomes {
            assert!(matches!(outcome, Outcome::NotRun(_)), "{outcome:?}");
            assert_eq!(outcome.verdict(), Verdict::NotRun);
        }
    }
    let tokens = world.mock.arrivals(Api::Token);
    assert!(
        tokens <= 8,
        "{tokens}: those in flight at one time, and no more"
    );
    assert_eq!(world.releases(), 0);

    let blank = Plan {
        comment: " ".to_owned(),
        follow: None,
        deadline: None,
    };
    let (outcomes, _) = run(&world, &world.host, &ids, &blank).await;
    let not_run = |outcome: &Outcome| matches!(outcome, Outcome::NotRun(_));
    assert!(outcomes.iter().all(not_run), "{outcomes:?}");
    assert_eq!(world.releases(), 0);
}

#[tokio::test]
async fn after_a_token_was_refused_by_the_service_no_further_release_is_begun() {
    let world = World::with(|scene| scene.machines = 30).await;
    let host = world.host_with_token("garbage");
    let ids = world.mock.machine_ids();
    let (outcomes, _) = run(&world, &host, &ids, &plan(Some(HOUR))).await;
    let refused = outcomes.iter().filter(|o| matches!(o, Outcome::Refused(_)));
    let refused = refused.count();
    assert!((1..=8).contains(&refused), "{outcomes:?}");
    let not_run = outcomes.iter().filter(|o| matches!(o, Outcome::NotRun(_)));
    assert_eq!(not_run.count(), 30 - refused, "{outcomes:?}");
    assert_eq!(world.releases(), refused);
}

#[tokio::test]
async fn a_run_that_is_stopped_brings_its_calls_to_their_answers_and_begins_nothing_else() {
    let world = World::with(|scene| scene.quotas = vec![ONE_A_MINUTE]).await;
    let ids = world.mock.machine_ids();
    let told = Arc::new(Told::default());
    let (stop, stopped) = watch::channel(false);
    world.inject(Fault::delay(MINUTE / 6));
    let plan = plan(Some(HOUR));
    let reporter = Arc::clone(&told) as Arc<dyn Reporter>;
    let mut run = Box::pin(release::release(
        &world.host,
        &ids,
        &plan,
        reporter,
        stopped,
    ));
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
    let outcomes = run.await;
    assert!(
        matches!(
            outcomes[..],
            [
                Outcome::Pending(_),
                Outcome::NotRun(CallError::Stopped),
                Outcome::NotRun(CallError::Stopped)
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(world.releases(), 1);
    assert_eq!(world.mock.arrivals(Api::GetMachineAction), 0);
}

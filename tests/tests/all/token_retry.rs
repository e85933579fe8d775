//! Failures that pass: of the authority, and of a service that says to wait no time at all.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use defender_mock::{Api, Fault};
use host_demo::batch::{Finished, Follow, Plan, Reporter};
use host_demo::check::{self, Verdict, Way};
use host_demo::clock::Moment;
use host_demo::host::{
    CallError, TOKEN_RETRY_CALL, TOKEN_RETRY_FIRST, TOKEN_RETRY_RUN, WaitOptions,
};
use host_demo::identity::IdentityError;
use host_demo::journal::Journal;
use host_demo::kind::ActionKind;
use host_demo::retry::{BACKOFF, RETRY_AFTER_MAX};
use host_demo::waiting::Waiting;
use tests::batch::{Told, begun, drive, entries, names};
use tests::world::{World, meanwhile};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// As Entra says it.
fn busy(status: u16) -> Fault {
    let document = r#"{"error":"temporarily_unavailable","error_codes":[90033],
        "error_description":"AADSTS90033: A transient error has occurred. Please try again."}"#;
    Fault::answer(status, document).on(Api::Token)
}

/// Two devices, released and followed to the end or the deadline.
async fn two(world: &World, deadline: Option<Duration>) -> (Finished, Arc<Told>) {
    let plan = Plan {
        deadline: deadline.map(|time| world.now() + time),
        ..Plan::new(Follow::ToTheEnd)
    };
    let ids = [world.machine(0), world.machine(1)];
    drive(world, &world.host, ActionKind::Release, &ids, &plan).await
}

async fn slow() -> World {
    World::with(|scene| {
        scene.switches.token_lifetime = 6 * SECOND;
        scene.switches.in_progress = MINUTE;
    })
    .await
}

/// Whether the pauses between requests for a token, from one of them on, are these and up to a quarter
/// more.
fn assert_pauses(world: &World, from: usize, pauses: &[u64]) {
    let tokens = world.requests(Api::Token);
    assert!(tokens.len() > from + pauses.len());
    for (two, pause) in tokens[from..].windows(2).zip(pauses) {
        let paused = two[1].at.since(two[0].at);
        let least = *pause as u32 * SECOND;
        assert!(
            paused >= least && paused < least * 5 / 4,
            "{paused:?}, not {least:?}"
        );
    }
}

/// When tokens were asked for.
fn asked(world: &World, began: Moment) -> Vec<u64> {
    let all = world.requests(Api::Token);
    let asked = all.iter().map(|request| request.at.since(began).as_secs());
    asked.collect()
}

#[tokio::test]
async fn a_renewal_that_fails_once_ends_no_run() {
    let transient = [
        busy(503).header("Retry-After", "1"),
        busy(400),
        busy(429).header("Retry-After", "1"),
        Fault::answer(500, "<html>oops</html>").on(Api::Token),
        Fault::server_error(504).on(Api::Token),
        Fault::reset().on(Api::Token),
        Fault::truncated_body().on(Api::Token),
        Fault::garbage().on(Api::Token),
        Fault::answer(200, "<html>").on(Api::Token),
    ];
    for fault in transient {
        let world = slow().await;
        // The two devices are accepted, and their token has ended, when this one is asked for.
        world.mock.inject(fault.clone().after(2));
        let (finished, _) = two(&world, None).await;
        assert_eq!(names(&finished), ["released"; 2], "{fault:?}");
        assert!(finished.hopeless.is_none());
        assert_eq!(world.releases(), 2);
        let tokens = world.requests(Api::Token);
        assert!(tokens.len() > 3, "{fault:?}");
        let again = tokens[3].at.since(tokens[2].at);
        assert!(again <= 2 * SECOND, "{fault:?}: {again:?}");
    }
}

#[tokio::test]
async fn a_failed_renewal_is_not_noticed_while_the_token_holds() {
    let world = World::with(|scene| {
        scene.switches.token_lifetime = 30 * SECOND;
        scene.switches.in_progress = MINUTE;
    })
    .await;
    world
        .mock
        .inject(busy(503).header("Retry-After", "1").after(1));
    let (finished, told) = two(&world, None).await;
    assert_eq!(names(&finished), ["released"; 2]);
    assert_eq!(told.of(""), [""; 0]);
}

#[tokio::test]
async fn an_outage_of_hours_ends_no_run_and_is_asked_about_less_and_less() {
    let world = slow().await;
    world.mock.inject(busy(503).after(2).times(100));
    let (finished, _) = two(&world, None).await;
    assert_eq!(names(&finished), ["released"; 2]);
    let mut pauses = vec![1, 2, 4, 8, 16, 32];
    pauses.resize(100, 60);
    assert_pauses(&world, 2, &pauses);
}

#[tokio::test]
async fn an_outage_that_does_not_end_ends_the_run_so_that_it_can_be_resumed() {
    let world = slow().await;
    world.mock.inject(busy(503).after(2).always());
    let began = world.now();
    let (finished, _) = two(&world, None).await;
    assert_eq!(names(&finished), ["not-verifiable"; 2]);
    let took = world.now().since(began);
    assert!(took > TOKEN_RETRY_RUN - 2 * MINUTE, "{took:?}");
    assert!(took < TOKEN_RETRY_RUN + 2 * MINUTE, "{took:?}");
    let states: Vec<_> = finished.entries.iter().map(|e| e.state.name()).collect();
    assert_eq!(states, ["accepted"; 2], "a resumed run follows them");
    assert_eq!(world.releases(), 2);
}

#[tokio::test]
async fn an_outage_at_the_deadline_leaves_devices_not_verifiable() {
    let world = slow().await;
    let an_hour = busy(503).header("Retry-After", "3600");
    world.mock.inject(an_hour.after(2).always());
    let began = world.now();
    let (finished, _) = two(&world, Some(10 * MINUTE)).await;
    assert_eq!(names(&finished), ["not-verifiable"; 2]);
    assert_eq!(world.now().since(began), 10 * MINUTE);
}

#[tokio::test]
async fn a_run_waits_for_its_first_token_and_counts_no_failure_of_a_device() {
    let world = World::with(|scene| scene.machines = 30).await;
    world.mock.inject(busy(503).times(12));
    let plan = Plan::new(Follow::Not);
    let ids = world.mock.machine_ids();
    let (finished, told) = drive(&world, &world.host, ActionKind::Release, &ids, &plan).await;
    assert_eq!(names(&finished), ["accepted"; 30]);
    assert!(finished.entries.iter().all(|entry| entry.sends == 1));
    let of_no_device = told.of("");
    assert!(
        of_no_device.iter().all(|what| what.starts_with("token: ")),
        "a pause: {of_no_device:?}"
    );
    assert_pauses(&world, 0, &[1, 2, 4, 8, 16, 32, 60]);
}

#[tokio::test]
async fn a_permanent_refusal_ends_a_run_at_once() {
    let world = slow().await;
    let expired = r#"{"error":"invalid_client","error_codes":[7000222],
        "error_description":"AADSTS7000222: The provided client secret keys are expired."}"#;
    let expired = Fault::answer(401, expired).on(Api::Token);
    world.mock.inject(expired.after(2).always());
    let began = world.now();
    let (finished, _) = two(&world, None).await;
    assert_eq!(names(&finished), ["not-verifiable"; 2]);
    assert!(world.now().since(began) < MINUTE);
    assert_eq!(world.mock.arrivals(Api::Token), 3);
}

#[tokio::test]
async fn retry_after_of_the_authority_is_obeyed_as_seconds_and_as_a_date() {
    for (said, wait) in [
        ("7", 7),
        ("0", 1),
        ("-5", 1),
        // The stand-in's clock stands at 21:11:22 on that day.
        ("Fri, 30 Jan 2026 21:11:32 GMT", 11),
        ("Fri, 30 Jan 2026 21:00:00 GMT", 1),
    ] {
        let world = World::new().await;
        let began = world.now();
        world.mock.inject(busy(503).header("Retry-After", said));
        world.play(world.release("cleaned")).await.unwrap();
        assert_eq!(asked(&world, began), [0, wait], "{said}");
    }
    // Longer than a single call waits: it ends at once, and spends nothing.
    for said in ["3600", "99999999999999999999"] {
        let world = World::new().await;
        let began = world.now();
        world.mock.inject(busy(503).header("Retry-After", said));
        let error = world.release("cleaned").await.unwrap_err();
        let CallError::Identity(IdentityError::Busy { retry_after, .. }) = &error else {
            panic!("{error:?}");
        };
        assert!(retry_after.is_some());
        assert_eq!((asked(&world, began), world.used().await), (vec![0], 0));
        // The next caller does not disturb the authority either, and after a day it is asked.
        world.clock.advance(HOUR - MINUTE);
        world.release("cleaned").await.unwrap_err();
        assert_eq!(world.mock.arrivals(Api::Token), 1);
        world.clock.advance(RETRY_AFTER_MAX);
        world.play(world.release("cleaned")).await.unwrap();
    }
}

#[tokio::test]
async fn a_single_call_gives_up_soon_and_says_what_it_waits_for() {
    let world = World::new().await;
    world.mock.inject(busy(503).always());
    let began = world.now();
    let began_at = world.host.calendar(began);
    let waits = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&waits);
    let patience = WaitOptions {
        on_wait: Some(Arc::new(move |waiting: Waiting| {
            noted.lock().unwrap().push(waiting);
        })),
        ..WaitOptions::default()
    };
    let id = world.machine(0);
    let call = world
        .host
        .unrestrict_code_execution(&id, "cleaned", patience);
    let error = world.play(call).await.unwrap_err();
    assert!(error.to_string().contains("AADSTS90033"), "{error}");
    assert!(world.now().since(began) <= TOKEN_RETRY_CALL);
    assert_pauses(&world, 0, &[1, 2, 4, 8]);
    let waits = waits.lock().unwrap().clone();
    let told: Vec<_> = waits.iter().map(|waiting| waiting.until).collect();
    let tokens = world.requests(Api::Token);
    let again: Vec<_> = tokens[1..]
        .iter()
        .map(|token| Some(began_at + token.at.since(began)))
        .collect();
    assert_eq!(told, again);
    assert!(
        waits
            .iter()
            .all(|waiting| (waiting.reason(), waiting.status()) == ("token", Some(503)))
    );
    assert_eq!(world.used().await, 0);
}

#[tokio::test]
async fn an_authority_that_was_never_there_is_not_waited_for_long() {
    let world = World::new().await;
    world.mock.inject(Fault::refused_connection().always());
    let began = world.now();
    let (finished, _) = two(&world, None).await;
    assert_eq!(names(&finished), ["not-run"; 2]);
    assert!(world.now().since(began) <= TOKEN_RETRY_FIRST);
}

#[tokio::test]
async fn callers_wait_for_one_attempt_and_obey_their_own_deadlines() {
    let world = World::new().await;
    world.mock.inject(busy(503).header("Retry-After", "10"));
    let began = world.now();
    let (patient, hurried) = (world.machine(0), world.machine(1));
    let hurry = WaitOptions {
        until: Some(began + 5 * SECOND),
        ..WaitOptions::default()
    };
    let (patient, hurried) = world
        .play(async {
            tokio::join!(
                world.release_of(&patient, "cleaned"),
                world
                    .host
                    .unrestrict_code_execution(&hurried, "cleaned", hurry),
            )
        })
        .await;
    patient.unwrap();
    let error = hurried.unwrap_err();
    assert!(
        matches!(&error, CallError::Identity(error) if error.is_transient(false)),
        "{error:?}"
    );
    assert_eq!(asked(&world, began), [0, 10]);
}

#[tokio::test]
async fn a_stop_ends_the_wait_for_a_token() {
    let world = World::new().await;
    world.mock.inject(busy(503).always());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let patience = WaitOptions {
        stop: Some(stopped),
        ..WaitOptions::default()
    };
    let id = world.machine(0);
    let mut call = Box::pin(
        world
            .host
            .unrestrict_code_execution(&id, "cleaned", patience),
    );
    let next = world.now() + SECOND;
    meanwhile(&mut call, world.until_host_waits_for(next)).await;
    stop.send(true).unwrap();
    assert_eq!(call.await.unwrap_err(), CallError::Stopped);
    assert_eq!(world.used().await, 0);
}

#[tokio::test]
async fn a_renewal_after_a_401_is_asked_for_again_too() {
    let world = World::new().await;
    world.release("cleaned").await.unwrap();
    world.mock.revoke_tokens();
    world.mock.inject(busy(503));
    let id = world.machine(1);
    world.play(world.release_of(&id, "cleaned")).await.unwrap();
    assert_eq!(world.mock.arrivals(Api::Token), 3);
}

#[tokio::test]
async fn check_asks_again_for_a_token_but_not_for_long() {
    let way = || Way {
        ca_file: None,
        store: None,
        proxy: None,
    };
    // Each of its steps is a call for the clock.
    let short = || World::with(|scene| scene.call_timeout = 10 * SECOND);
    let world = short().await;
    world.mock.inject(busy(503).times(2));
    let patience = WaitOptions::default();
    let looking = check::look(&world.host, world.service(), way(), &patience);
    let facts = world.play(looking).await;
    assert_eq!(facts.judge().verdict, Verdict::Ready);

    let world = short().await;
    world.mock.inject(busy(503).always());
    let began = world.now();
    let looking = check::look(&world.host, world.service(), way(), &patience);
    let facts = world.play(looking).await;
    assert_eq!(facts.judge().verdict, Verdict::Unusable);
    assert!(world.now().since(began) <= TOKEN_RETRY_CALL);
}

/// A service that says for two seconds to try again in two seconds, with a header of no use.
async fn no_wait(header: Option<&str>, message: &str) -> (usize, Vec<&'static str>) {
    let world = World::new().await;
    let began = world.now();
    let document = format!(r#"{{"error":{{"code":"429","message":"{message}"}}}}"#);
    let mut fault = Fault::answer(429, document).until(began + 2 * SECOND);
    if let Some(header) = header {
        fault = fault.header("Retry-After", header);
    }
    world.inject(fault);
    let ids = world.mock.machine_ids();
    let plan = Plan::new(Follow::Not);
    let (finished, _) = drive(&world, &world.host, ActionKind::Release, &ids, &plan).await;
    (world.releases(), names(&finished))
}

#[tokio::test]
async fn a_retry_after_of_no_time_is_no_hot_loop() {
    let message = "Rate limit is exceeded. Try again in 2 seconds.";
    let past = Some("Fri, 30 Jan 2026 21:10:52 GMT");
    for header in [Some("0"), Some("-5"), Some("1.5"), past, None] {
        for message in [message, "Rate limit is exceeded."] {
            let (calls, names) = no_wait(header, message).await;
            assert_eq!(names, ["accepted"; 3], "{header:?} {message}");
            // Three devices, each put off twice at most.
            assert!(calls <= 9, "{header:?} {message}: {calls}");
        }
    }
}

#[tokio::test]
async fn a_service_that_says_no_wait_for_minutes_is_asked_less_and_less() {
    let world = World::new().await;
    let began = world.now();
    let fault = Fault::answer(429, "").header("Retry-After", "0");
    world.inject(fault.until(began + 3 * MINUTE));
    let ids = [world.machine(0)];
    let plan = Plan::new(Follow::Not);
    let (finished, _) = drive(&world, &world.host, ActionKind::Release, &ids, &plan).await;
    assert_eq!(names(&finished), ["accepted"]);
    let times: Vec<u64> = world
        .requests(Api::UnrestrictCodeExecution)
        .iter()
        .map(|release| release.at.since(began).as_secs())
        .collect();
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
}

/// What the operator's guide says in numbers.
#[test]
fn the_guide_has_the_times_that_hold() {
    let page = include_str!("../../../docs/operator.md").replace('\n', " ");
    let [first, longest] = BACKOFF;
    for said in [
        format!("after {} s", first.as_secs()),
        format!("up to {} s", longest.as_secs()),
        format!("{} hours", TOKEN_RETRY_RUN.as_secs() / 3600),
        format!("{} minutes", TOKEN_RETRY_FIRST.as_secs() / 60),
        format!("for {} s", TOKEN_RETRY_CALL.as_secs()),
        format!("at most {} hours", RETRY_AFTER_MAX.as_secs() / 3600),
    ] {
        assert!(page.contains(&said), "{said}");
    }
}

/// Whether a stopped run names the token as the reason, on the line of each device.
async fn stopped_without_a_token(world: &World, outcome: &str) {
    let ids = [world.machine(0), world.machine(1)];
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let told = Arc::new(Told::default());
    let reporter = Arc::clone(&told) as Arc<dyn Reporter>;
    let entries = entries(&ids);
    let journal = Journal::in_memory(&begun(ActionKind::Release, &world.host), &entries).unwrap();
    let plan = Plan::new(Follow::ToTheEnd);
    let driven = host_demo::batch::drive(&world.host, &journal, entries, &plan, reporter, stopped);
    world.watch(&journal);
    let stops = async {
        while !told.of("").iter().any(|what| what.starts_with("token: ")) {
            tokio::task::yield_now().await;
        }
        stop.send(true).unwrap();
    };
    let (finished, ()) = world.play(async { tokio::join!(driven, stops) }).await;
    world.unwatch();
    let finished = finished.unwrap();
    assert_eq!(names(&finished), [outcome; 2]);
    for entry in &finished.entries {
        let message = entry.problem.as_ref().unwrap().message();
        assert!(message.contains("AADSTS90033"), "{message}");
        assert!(!message.contains("no response"), "{message}");
    }
}

#[tokio::test]
async fn a_stop_in_an_outage_names_the_token_as_the_reason() {
    let world = World::new().await;
    world.mock.inject(busy(503).always());
    stopped_without_a_token(&world, "not-run").await;

    let world = slow().await;
    world.mock.inject(busy(503).after(2).always());
    stopped_without_a_token(&world, "not-verifiable").await;
}

#[tokio::test]
async fn a_stop_after_an_outage_does_not_name_it() {
    let world = slow().await;
    world
        .mock
        .inject(busy(503).header("Retry-After", "1").after(2));
    let ids = [world.machine(0)];
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let told = Arc::new(Told::default());
    let reporter = Arc::clone(&told) as Arc<dyn Reporter>;
    let entries = entries(&ids);
    let journal = Journal::in_memory(&begun(ActionKind::Release, &world.host), &entries).unwrap();
    let plan = Plan::new(Follow::ToTheEnd);
    let driven = host_demo::batch::drive(&world.host, &journal, entries, &plan, reporter, stopped);
    world.watch(&journal);
    let reads = || {
        let of = |api| world.mock.arrivals(api);
        of(Api::ListMachineActions) + of(Api::GetMachineAction)
    };
    let stops = async {
        while !told.of("").iter().any(|what| what.starts_with("token: ")) {
            tokio::task::yield_now().await;
        }
        let before = reads();
        while reads() == before {
            tokio::task::yield_now().await;
        }
        stop.send(true).unwrap();
    };
    let (finished, ()) = world.play(async { tokio::join!(driven, stops) }).await;
    world.unwatch();
    assert_eq!(names(&finished.unwrap()), ["pending"]);
}

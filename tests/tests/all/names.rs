//! Devices, found by their names.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use defender_mock::{Api, Fault, Grant, Machine, NoMachines};
use host_demo::contract::Reason;
use host_demo::host::{CallError, Host, WaitOptions};
use host_demo::id::{DnsName, MachineId};
use host_demo::limits::Quota;
use host_demo::names::{self, NameError, SearchAborted};
use serde_json::json;
use tests::world::{World, meanwhile};
use tokio::sync::watch;

const FIND: Api = Api::ListMachines;

const OLD: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
const NEW: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";

/// The name of one of the made-up devices, counted from 1.
fn made_up(n: usize) -> String {
    format!("device-{n:03}.contoso.com")
}

async fn find(
    host: &Host,
    names: &[&str],
    patience: WaitOptions,
) -> Result<Vec<Result<MachineId, NameError>>, SearchAborted> {
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    names::find(host, names, patience, |_: &DnsName| {}).await
}

async fn found(world: &World, names: &[&str]) -> Vec<Result<MachineId, NameError>> {
    let finding = find(&world.host, names, WaitOptions::default());
    world.play(finding).await.unwrap()
}

async fn stuck(world: &World, names: &[&str]) -> CallError {
    let finding = find(&world.host, names, WaitOptions::default());
    world.play(finding).await.unwrap_err().error
}

#[tokio::test]
async fn each_name_is_one_call_and_the_answers_come_in_the_order_of_the_names() {
    let world = World::with(|scene| scene.machines = 30).await;
    let asked: Vec<String> = (1..=30).rev().map(made_up).collect();
    let answered = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&answered);
    let on_answer = move |name: &DnsName| told.lock().unwrap().push(name.to_string());
    let names = asked.iter().map(|name| name.parse().unwrap()).collect();
    let finding = names::find(&world.host, names, WaitOptions::default(), on_answer);
    let found = world.play(finding).await.unwrap();
    let ids: Vec<_> = found
        .into_iter()
        .map(|id| id.unwrap().to_string())
        .collect();
    let mut expected = world.mock.machine_ids();
    expected.reverse();
    assert_eq!(ids, expected);
    assert_eq!(world.mock.arrivals(FIND), 30);
    let mut answered = answered.lock().unwrap().clone();
    answered.sort_unstable();
    let mut asked = asked;
    asked.sort_unstable();
    assert_eq!(answered, asked);
}

#[tokio::test]
async fn of_several_devices_of_one_name_none_is_taken_not_even_the_active_one() {
    let name = "pc-7.contoso.com";
    let world = World::with(|scene| {
        scene.more_machines = vec![
            Machine::new(OLD, name).inactive().merged_into(NEW),
            Machine::new(NEW, name),
            Machine::new("a".repeat(40), "pc-8").merged_into(NEW),
        ];
    })
    .await;
    let [several, merged, nobody] = &found(&world, &["PC-7.contoso.com", "pc-8", "pc-9"]).await[..]
    else {
        panic!("three answers")
    };
    let Err(NameError::Several(candidates)) = several else {
        panic!("{several:?}")
    };
    let told: Vec<_> = candidates
        .iter()
        .map(|m| {
            (
                m.id.as_str(),
                m.health_status.as_deref(),
                m.merged_into_machine_id.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (OLD, Some("Inactive"), Some(NEW)),
            (NEW, Some("Active"), None)
        ]
    );
    let Err(NameError::Merged { machine, into }) = merged else {
        panic!("{merged:?}")
    };
    assert_eq!((machine.id.len(), into.as_str()), (40, NEW));
    assert_eq!(nobody, &Err(NameError::Nobody));
}

#[tokio::test]
async fn a_name_that_nobody_has_as_written_is_looked_for_in_lower_case() {
    let world = World::with(|scene| {
        scene.more_machines = vec![Machine::new(OLD, "C-Lab-31"), Machine::new(NEW, "c-lab-32")];
    })
    .await;
    let names = ["C-Lab-31", "C-Lab-32", "c-lab-33", "C-LAB-31"];
    let answers = found(&world, &names).await;
    let ids: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().map(MachineId::as_str))
        .collect();
    let nobody = Err(&NameError::Nobody);
    assert_eq!(ids, [Ok(OLD), Ok(NEW), nobody, nobody]);
    let names: Vec<DnsName> = names.iter().map(|name| name.parse().unwrap()).collect();
    assert_eq!(names::most_calls(&names), 7);
    assert_eq!(world.mock.arrivals(FIND), 6);
}

#[tokio::test]
async fn nobody_has_a_name_that_is_not_found_and_an_answer_that_is_cut_names_no_device() {
    let world = World::with(|scene| scene.switches.no_machines = NoMachines::NotFound).await;
    assert_eq!(found(&world, &["pc-9"]).await, [Err(NameError::Nobody)]);

    let one = json!({ "id": NEW, "computerDnsName": "pc-9" });
    let cut = json!({ "value": [one], "@odata.nextLink": "https://x" });
    world
        .mock
        .inject(Fault::answer(200, cut.to_string()).on(FIND));
    let answers = found(&world, &["pc-9"]).await;
    let is_cut = matches!(&answers[0], Err(NameError::Truncated(one)) if one.len() == 1);
    assert!(is_cut, "{answers:?}");
}

#[tokio::test]
async fn a_name_whose_answer_is_unusable_is_told_of_and_the_others_are_found() {
    let world = World::new().await;
    let other = json!({ "value": [{ "id": NEW, "computerDnsName": "other" }] });
    world
        .mock
        .inject(Fault::answer(200, other.to_string()).on(FIND));
    let answers = found(&world, &[&made_up(1)]).await;
    let is_told = match &answers[0] {
        Err(NameError::Unanswered(error)) => error.reason() == Some(&Reason::UnexpectedResponse),
        _ => false,
    };
    assert!(is_told, "{answers:?}");
    world.mock.inject(Fault::answer(400, "{}").on(FIND));
    let answers = found(&world, &[&made_up(1), &made_up(2), &made_up(3)]).await;
    let known = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(known, 2, "{answers:?}");
}

#[tokio::test]
async fn what_fails_is_asked_for_again_and_given_up_in_the_end() {
    let world = World::new().await;
    for fault in [Fault::server_error(503), Fault::reset()] {
        world.mock.inject(fault.clone().on(FIND).times(3));
        let answers = found(&world, &[&made_up(1)]).await;
        assert!(answers[0].is_ok(), "{answers:?}");
    }
    let before = world.mock.arrivals(FIND);
    world
        .mock
        .inject(Fault::server_error(503).on(FIND).times(4));
    let error = stuck(&world, &[&made_up(1)]).await;
    let is_failure = matches!(error.reason(), Some(Reason::ServiceFailure(_)));
    assert!(is_failure, "{error:?}");
    assert_eq!(world.mock.arrivals(FIND), before + 4);
}

#[tokio::test]
async fn where_reading_is_forbidden_no_further_name_is_asked_for() {
    let world = World::with(|scene| {
        scene.token = Some(Grant::new().roles(["Machine.RestrictExecution"]));
    })
    .await;
    let names: Vec<String> = (0..100).map(|n| format!("pc-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let error = stuck(&world, &names).await;
    assert!(
        matches!(error.reason(), Some(Reason::Forbidden(_))),
        "{error:?}"
    );
    let asked = world.mock.arrivals(FIND);
    assert!(asked <= 8, "{asked} were in flight at one time");
}

#[tokio::test]
async fn a_search_that_the_service_puts_off_is_made_again_and_one_that_the_quota_does_is_waited_for()
 {
    const TWO_A_MINUTE: Quota = Quota {
        calls: 2,
        per: Duration::from_secs(60),
    };
    let world = World::with(|scene| scene.quotas = vec![TWO_A_MINUTE]).await;
    world
        .mock
        .inject(Fault::answer(429, "{}").header("retry-after", "9").on(FIND));
    let began = world.now();
    assert!(found(&world, &[&made_up(1)]).await[0].is_ok());
    assert_eq!(world.now().since(began), Duration::from_secs(9));

    let waited = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&waited);
    let patience = WaitOptions {
        on_wait: Some(Arc::new(move |_| *counted.lock().unwrap() += 1)),
        ..WaitOptions::default()
    };
    let names = [made_up(2), made_up(3)];
    let names = [names[0].as_str(), &names[1]];
    let finding = find(&world.host, &names, patience);
    let answers = world.play(finding).await.unwrap();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(*waited.lock().unwrap() > 0, "it is told");
}

#[tokio::test]
async fn a_search_that_is_stopped_asks_for_nothing_more() {
    const ONE_AN_HOUR: Quota = Quota {
        calls: 1,
        per: Duration::from_secs(3600),
    };
    let world = World::with(|scene| scene.quotas = vec![ONE_AN_HOUR]).await;
    let (stopping, stop) = watch::channel(false);
    let patience = WaitOptions {
        stop: Some(stop),
        ..WaitOptions::default()
    };
    let names = [made_up(1), made_up(2), made_up(3)];
    let names = [names[0].as_str(), &names[1], &names[2]];
    let mut finding = Box::pin(find(&world.host, &names, patience.clone()));
    let first = world.until("the first is asked for", || world.mock.arrivals(FIND) == 1);
    meanwhile(&mut finding, first).await;
    meanwhile(&mut finding, world.until_rest()).await;
    stopping.send(true).unwrap();
    assert_eq!(finding.await.unwrap_err().error, CallError::Stopped);
    assert_eq!(world.mock.arrivals(FIND), 1);

    // While it leaves a failing service alone, too.
    let other = World::new().await;
    let (stopping, stop) = watch::channel(false);
    other.mock.inject(Fault::server_error(503).on(FIND));
    let patience = WaitOptions {
        stop: Some(stop),
        ..WaitOptions::default()
    };
    let mut finding = Box::pin(find(&other.host, &names[..1], patience));
    let failed = other.until("it is asked for", || other.mock.arrivals(FIND) == 1);
    meanwhile(&mut finding, failed).await;
    meanwhile(&mut finding, other.until_rest()).await;
    stopping.send(true).unwrap();
    assert_eq!(finding.await.unwrap_err().error, CallError::Stopped);
    assert_eq!(other.mock.arrivals(FIND), 1);
}

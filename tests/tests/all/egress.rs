//! The boundary as a building block: with an engine of one's own, and without a guest.

use std::process::Command;
use std::sync::Arc;

use defender_mock::{Api, Grant as Granted, Mock};
use host_demo::audit::{Audit, Who};
use host_demo::clock::Clock as _;
use host_demo::egress::{SendError, Setup, WaitOptions};
use host_demo::grant::{Grant, Operation, Target};
use host_demo::identity::FixedToken;
use host_demo::policy::Denial;
use http::HeaderValue;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use tests::binary::example;
use tests::world::World;

fn release_of(machine: &str) -> Grant {
    let target = Target::Machine(machine.parse().unwrap());
    Grant::new(Operation::UnrestrictCodeExecution, Some(target)).with_comment("cleaned")
}

fn request(base_url: &str, machine: &str) -> http::Request<Full<bytes::Bytes>> {
    http::Request::post(format!(
        "{base_url}/api/machines/{machine}/unrestrictCodeExecution"
    ))
    .header("content-type", "application/json")
    .body(Full::from(r#"{"Comment":"cleaned"}"#))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_ones_own_releases_a_device_on_the_librarys_boundary() {
    let mock = Mock::builder().plain_http(true).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, mock.token(Granted::new())).unwrap();
    let run = |machine: String| {
        let (base_url, scope, token) = (mock.base_url().to_owned(), mock.scope(), token.clone());
        tokio::task::spawn_blocking(move || {
            Command::new(example("engine"))
                .args([&base_url, &base_url, &scope])
                .arg(token)
                .args([&machine, "INC-42: cleaned"])
                .output()
                .unwrap()
        })
    };
    let machine = mock.machine_ids()[0].clone();
    let output = run(machine.clone()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let id = mock.actions_of(&machine)[0].id.to_string();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains(&id),
        "{output:?}"
    );
    assert_eq!(mock.arrivals(Api::UnrestrictCodeExecution), 1);

    // What the plugin says of a failure comes out, too.
    let output = run("0".repeat(40)).await.unwrap();
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no such machine"), "{said}");
}

#[tokio::test]
async fn without_a_guest_a_call_sends_what_its_grant_names_and_once() {
    let world = World::new().await;
    let egress = world.host.egress();
    let (device, other) = (world.machine(0), world.machine(1));
    let base_url = egress.policy().origin().to_string();
    let release = Operation::UnrestrictCodeExecution;

    let call = egress
        .begin(release_of(&device), WaitOptions::default())
        .await
        .unwrap();
    assert_eq!(call.open(release, Some(&device)), Ok(()));
    assert!(call.open(release, Some(&other)).is_err());
    let error = call.send(request(&base_url, &other)).await.unwrap_err();
    assert!(!error.may_have_arrived());
    assert!(
        matches!(error, SendError::Denied(Denial::NotThisCall { .. })),
        "{error:?}"
    );

    let answer = call.send(request(&base_url, &device)).await.unwrap();
    let body: Value = {
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    };
    assert_eq!(body["machineId"], device);
    let error = call.send(request(&base_url, &device)).await.unwrap_err();
    assert_eq!(error, SendError::Denied(Denial::Spent));

    let seen = call.end().await;
    assert_eq!((seen.status, seen.denials), (Some(201), 3));
    assert!(seen.may_have_arrived && seen.may_have_changed_something(release));
    assert_eq!((world.releases(), world.used().await), (1, 1));
}

#[tokio::test]
async fn a_request_names_the_host_that_was_checked_and_asks_for_what_can_be_searched_for_the_token()
{
    let world = World::with(|scene| scene.plain_http = true).await;
    let egress = world.host.egress();
    let origin = egress.policy().origin().to_string();
    let device = world.machine(0);
    let mut request = request(&origin, &device);
    for (name, value) in [("host", "evil.test"), ("accept-encoding", "gzip")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let call = egress
        .begin(release_of(&device), WaitOptions::default())
        .await
        .unwrap();
    call.send(request).await.unwrap();
    let [arrival] = &world.requests(Api::UnrestrictCodeExecution)[..] else {
        panic!("one request")
    };
    let authority = origin.trim_start_matches("http://");
    assert_eq!(
        (
            &arrival.headers["host"],
            &arrival.headers["accept-encoding"]
        ),
        (
            &authority.parse::<HeaderValue>().unwrap(),
            &HeaderValue::from_static("identity")
        )
    );
}

#[tokio::test]
async fn a_call_that_nobody_uses_gives_its_permit_back_and_is_on_record() {
    let world = World::with(|scene| scene.plain_http = true).await;
    let audit = Arc::new(Audit::memory(Who::default()).unwrap());
    let token = FixedToken::new(&world.mock.token(Granted::new())).unwrap();
    let mut setup = Setup::new(world.service().clone(), Arc::new(token));
    setup.clock = Arc::new(world.clock.clone());
    setup.audit = Some(Arc::clone(&audit));
    let egress = setup.build().unwrap().made_for("a digest");
    let begin = || egress.begin(release_of(&world.machine(0)), WaitOptions::default());
    let used = async || {
        let reading = egress.limiter().read().await.unwrap();
        let quota = egress.limiter().quotas()[0];
        let logs = reading
            .budgets
            .values()
            .map(|budget| budget.log().used(quota, reading.now));
        logs.sum::<usize>()
    };

    let call = begin().await.unwrap();
    assert_eq!(
        call.deadline().since(world.clock.now()),
        egress.call_timeout()
    );
    assert_eq!(used().await, 1);
    drop(call);
    assert_eq!(used().await, 0);
    let seen = begin().await.unwrap().end().await;
    assert_eq!((seen.status, used().await), (None, 0));
    let call = begin().await.unwrap();
    let base_url = world.service().origin().to_string();
    let request = request(&base_url, &world.machine(0));
    let answer = call
        .until_deadline(call.send(request))
        .await
        .unwrap()
        .unwrap();
    answer.into_body().collect().await.unwrap();
    call.end().await;
    assert_eq!(used().await, 1);

    let kept: Vec<Value> = audit
        .kept()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<[&str; 3]> = kept
        .iter()
        .map(|record| {
            let text = |value: &'_ Value| value.as_str().map(str::to_owned);
            assert_eq!(text(&record["component"]).as_deref(), Some("a digest"));
            assert_eq!(
                record["claimed"],
                Value::Null,
                "nobody claims anything: {record}"
            );
            ["kind", "ended", "decision"].map(|name| record[name].as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ["outcome", "abandoned", "not-asked"],
            ["outcome", "failed", "not-asked"],
            ["intent", "-", "-"],
            ["outcome", "succeeded", "-"]
        ]
    );
}

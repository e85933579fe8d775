//! A call that goes well: what is on the wire, and what comes back.

use defender_mock::{Api, Arrival, Duplicate, Fault};
use host_demo::contract::{ActionStatus, ActionType};
use host_demo::host::WaitOptions;
use serde_json::{Value, json};
use tests::world::World;

/// Recorded in January 2026, for this very action (Ping Identity, "Microsoft Defender connector"),
/// with another machine's id in it.
const RECORDED: &str = r##"{"@odata.context":"https://api.security.microsoft.com/api/$metadata#MachineActions/$entity",
 "id":"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a","type":"UnrestrictCodeExecution","title":null,
 "requestor":"Defender for Endpoint API","requestorComment":"Device cleared, removing app restriction",
 "status":"Pending","machineId":"MACHINE",
 "computerDnsName":"johns-work-computer",
 "creationDateTimeUtc":"2026-01-30T21:11:22.8419303Z","lastUpdateDateTimeUtc":"2026-01-30T21:11:22.8419314Z",
 "cancellationRequestor":null,"cancellationComment":null,"cancellationDateTimeUtc":null,
 "errorHResult":0,"scope":null,"externalId":null,"requestSource":"PublicApi",
 "relatedFileInfo":null,"commands":[],"troubleshootInfo":null}"##;

fn headers(arrival: &Arrival) -> Vec<(&str, &str)> {
    let mut headers: Vec<_> = arrival
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    headers.sort_unstable();
    headers
}

#[tokio::test]
async fn a_release_is_one_request_and_nothing_in_it_is_left_to_chance() {
    for plain_http in [false, true] {
        let world = World::with(|scene| scene.plain_http = plain_http).await;
        world.release("INC-42: cleaned").await.unwrap();
        let [release] = &world.requests(Api::UnrestrictCodeExecution)[..] else {
            panic!("one request")
        };
        assert_eq!(release.method, "POST");
        let path = format!("/api/machines/{}/unrestrictCodeExecution", world.machine(0));
        assert_eq!(release.path_and_query, path);
        let host = world.service().origin().to_string();
        let host = host.split_once("://").unwrap().1;
        let expected = [
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
            ("authorization", "Bearer ***"),
            ("content-length", "29"),
            ("content-type", "application/json"),
            ("host", host),
            ("user-agent", "defender-endpoint-plugin/0.1.0"),
        ];
        assert_eq!(headers(release), expected);
        assert_eq!(release.token, Some(1));
        assert_eq!(release.body, r#"{"Comment":"INC-42: cleaned"}"#);
    }
}

#[tokio::test]
async fn reading_an_action_is_one_request_without_a_body() {
    let world = World::with(|scene| scene.switches.visible_after = Default::default()).await;
    let id = world.release("cleaned").await.unwrap().id;
    let action = world.host.get_machine_action(&id, WaitOptions::default());
    assert_eq!(action.await.unwrap().id, id);
    let [read] = &world.requests(Api::GetMachineAction)[..] else {
        panic!("one request")
    };
    assert_eq!(read.method, "GET");
    assert_eq!(read.path_and_query, format!("/api/machineactions/{id}"));
    let names: Vec<_> = headers(read).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "accept",
        "accept-encoding",
        "authorization",
        "host",
        "user-agent",
    ];
    assert_eq!(names, expected);
    assert!(read.body.is_empty());
}

#[tokio::test]
async fn a_comment_arrives_as_it_was_written() {
    let world = World::with(|scene| scene.switches.duplicate = Duplicate::Create).await;
    let longest = "é".repeat(4096);
    for comment in [
        "Bereinigt – Gerät ist sauber (Müller)",
        "確認済み 🧹👩‍💻 \u{1F1E8}\u{1F1ED}",
        r#"{"Comment":"in a \"comment\""} \ \u0041 \n </script> %7e & ' + ?"#,
        "line one\nline two\r\n\tindented",
        "\u{feff}\u{202e}\u{2028}\u{fffd}\u{10ffff}",
        &longest,
    ] {
        let action = world.release(comment).await.unwrap();
        assert_eq!(action.requestor_comment.as_deref(), Some(comment));
        let arrived = world.requests(Api::UnrestrictCodeExecution).pop().unwrap();
        let body: Value = serde_json::from_slice(&arrived.body).unwrap();
        assert_eq!(body, json!({ "Comment": comment }));
        let length = arrived.headers["content-length"].to_str().unwrap();
        assert_eq!(length, arrived.body.len().to_string());
    }
}

#[tokio::test]
async fn all_that_the_service_says_of_an_action_comes_back() {
    let world = World::new().await;
    let action = world.release("cleaned").await.unwrap();
    assert_eq!(action.type_, ActionType::UnrestrictCodeExecution);
    assert_eq!(action.status, ActionStatus::Pending);

    let in_its_book = world.mock.action(&action.id).unwrap();
    let mut expected = serde_json::to_value(in_its_book).unwrap();
    let names: Vec<String> = expected.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names.len(), 20);
    let got = action.to_json();
    let got_names: Vec<&String> = got.as_object().unwrap().keys().take(20).collect();
    assert_eq!(got_names, names.iter().collect::<Vec<_>>(), "in its order");
    expected["@odata.context"] =
        "https://api.security.microsoft.com/api/$metadata#MachineActions/$entity".into();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_recorded_answer_and_what_may_be_added_to_it_come_back_unchanged() {
    let world = World::new().await;
    let recorded: Value =
        serde_json::from_str(&RECORDED.replace("MACHINE", &world.machine(0))).unwrap();
    let mut rich = recorded.clone();
    rich["errorHResult"] = json!(-2_145_844_840);
    rich["computerDnsName"] = Value::Null;
    rich["status"] = json!("WaitingForGodot");
    rich["type"] = json!("UnrestrictCodeExecutionV2");
    rich["relatedFileInfo"] =
        json!({"fileIdentifier": "87662bc3d60e", "fileIdentifierType": "Sha1"});
    rich["commands"] = json!([{"index": 0, "errors": [], "command": {"type": "GetFile"}}]);
    rich["troubleshootInfo"] = json!({"a": [1, 2.5, null]});
    rich["externalId"] = json!(42);
    rich["severity"] = json!({"deep": [[[["er"]]]], "number": 9_007_199_254_740_993_u64});
    for body in [recorded, rich] {
        for status in [200, 201, 202] {
            world.inject(Fault::answer(status, body.to_string()));
            let action = world.release("cleaned").await.unwrap();
            assert_eq!(action.to_json(), body, "with {status}");
        }
    }
}

#[tokio::test]
async fn the_service_may_answer_a_second_release_with_the_running_action() {
    let world = World::with(|scene| scene.switches.duplicate = Duplicate::Return).await;
    let first = world.release("cleaned").await.unwrap();
    let second = world.release("cleaned, as I said").await.unwrap();
    assert_eq!(first, second);
    assert_eq!(world.releases(), 2);
}

//! What delays a command for more than five seconds, as people and programs are told of it.

use std::time::Duration;

use serde_json::json;

use super::*;

const LIST: Api = Api::ListMachineActions;

/// A run that is over in half a minute.
fn brief<'a>(stage: &'a Stage, more: &[&str]) -> Run<'a> {
    let id = stage.id();
    stage
        .run(["unrestrict", &id, "--comment", "x", "--deadline", "30s"])
        .with_args(more)
}

#[test]
fn programs_are_told_of_a_failing_read() {
    let stage = Stage::new();
    stage
        .mock
        .inject(Fault::server_error(503).on(LIST).always());
    let said = brief(&stage, &["--output", "json"]).exits(2);
    let waits = said.waits();
    let read = waits.iter().find(|wait| wait["reason"] == "read");
    let read = read.unwrap_or_else(|| panic!("{said}"));
    assert_eq!(read["status"], 503, "{said}");
    let until = read["until"].as_str().unwrap();
    assert!(until.parse::<jiff::Timestamp>().is_ok(), "{until}");
    assert!(read["message"].as_str().unwrap().contains("(503"), "{said}");
    let fields: Vec<_> = read.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["type", "reason", "until", "message", "status"]);
    // And why nothing was sent, with the device.
    let lines = said.json();
    let device = lines.iter().find(|line| line["type"] == "device").unwrap();
    assert_eq!(device["outcome"], "not-run");
    let message = device["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("deadline") && message.contains("(503"),
        "{said}"
    );
}

#[test]
fn people_are_told_of_a_failing_read_and_why_nothing_was_sent() {
    let stage = Stage::new();
    stage
        .mock
        .inject(Fault::server_error(503).on(LIST).always());
    let said = brief(&stage, &[]).exits(2);
    assert!(said.err.contains("(503"), "{said}");
    assert!(said.err.contains("; next attempt at "), "{said}");
    let device = said.out.lines().find(|line| line.contains("not-run"));
    let device = device.unwrap_or_else(|| panic!("{said}"));
    assert!(
        device.contains("deadline") && device.contains("(503"),
        "{said}"
    );
}

#[test]
fn programs_are_told_what_cannot_be_read() {
    let stage = Stage::new();
    stage
        .mock
        .inject(Fault::answer(400, "{}").on(LIST).always());
    let said = brief(&stage, &["--no-wait", "--output", "json"]).exits(0);
    let lines = said.json();
    let last = lines.iter().rfind(|line| line["type"] == "unreadable");
    let last = last.unwrap_or_else(|| panic!("{said}"));
    assert_eq!(
        (&last["what"], &last["status"]),
        (&json!("list"), &json!(400))
    );
    assert_eq!(last["error"]["reason"], "rejected");
    assert!(last["message"].is_string());
}

#[test]
fn a_quota_is_waited_for_with_its_time() {
    let stage = Stage::new();
    let config = "[[quota]]\ncalls = 1\nper = \"60s\"\n";
    std::fs::write(stage.folder.path().join("slow.toml"), config).unwrap();
    let said = stage
        .run([
            "unrestrict",
            "--comment",
            "x",
            "--no-wait",
            "--output",
            "json",
        ])
        .with_args(["--config", "slow.toml"])
        .with_args(stage.mock.machine_ids())
        .exits(0);
    let waits = said.waits();
    let quota = waits.iter().find(|wait| wait["reason"] == "quota");
    let quota = quota.unwrap_or_else(|| panic!("{said}"));
    assert!(quota["until"].is_string() && quota["status"].is_null());
}

/// The delay is in the message only.
#[test]
fn a_429_is_waited_for_with_the_command_that_ends_the_wait() {
    let stage = Stage::new();
    let body = r#"{"error":{"code":"TooManyRequests","message":"Too many requests. Try again in 50 seconds."}}"#;
    stage.mock.inject(Fault::answer(429, body).on(LIST));
    let said = stage.run(["restricted", "--output", "json"]).exits(0);
    let waits = said.waits();
    let quota = waits.iter().find(|wait| wait["reason"] == "quota");
    let quota = quota.unwrap_or_else(|| panic!("{said}"));
    let message = quota["message"].as_str().unwrap();
    assert!(message.contains("`host-demo quota open"), "{message}");
    said.mentions("the service said to wait (429); to call sooner: ");
}

#[test]
fn a_response_that_does_not_come_is_waited_for_aloud() {
    let stage = Stage::new();
    let id = stage.id();
    for command in [
        &["status", &id][..],
        &["restricted"],
        &["unrestrict", &id, "--comment", "x", "--dry-run"],
    ] {
        let slow = Fault::delay(Duration::from_secs(20));
        stage.mock.inject(slow.on(LIST));
        let mut run = stage.run(command).with_args(["--output", "json"]);
        let said = Said::new(&run.command.output().unwrap());
        let waits = said.waits();
        assert!(
            waits.iter().any(|wait| wait["reason"] == "response"),
            "{command:?}: {said}"
        );
        said.mentions("no response for 5 s");
    }
}

#[test]
fn a_name_that_is_asked_for_in_vain_is_waited_for_aloud() {
    let stage = Stage::new();
    let failing = Fault::server_error(503).on(Api::ListMachines);
    stage.mock.inject(failing.times(3));
    let said = stage
        .run(["unrestrict", "--by-name", "device-001.contoso.com"])
        .with_args(["--comment", "x", "--no-wait"])
        .exits(0);
    said.mentions("(503").mentions("; next attempt at ");
}

/// The responder's guide names every reason, and every `what`.
#[test]
fn the_guide_has_the_lines_for_programs() {
    let page = include_str!("../../../../docs/responder.md");
    for name in [
        "waiting",
        "unreadable",
        "quota",
        "pause",
        "read",
        "request",
        "not-visible",
        "token",
        "response",
        "filter-by-id",
        "single-action",
        "filter",
        "list",
        "everything",
    ] {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}

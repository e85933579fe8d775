use std::ops::Range;

use super::*;
use crate::action_kind::ActionKind;
use crate::device_list::{Named, Wanted};
use crate::entry::{Action, Problem, State};
use crate::journal::Run;
use defender_host::CallError;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_769_807_482 + seconds).unwrap()
}

fn device(n: usize, state: State) -> Entry {
    Entry {
        name: Some(format!("pc-{n}.contoso.com")),
        state,
        ..Entry::new(format!("{n:040x}").parse().unwrap(), None)
    }
}

fn with_action(mut entry: Entry, status: &str) -> Entry {
    entry.action = Some(Action {
        id: "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".to_owned(),
        type_: "UnrestrictCodeExecution".to_owned(),
        status: status.to_owned(),
        requestor: Some("b7a1e6d3-5c28-4f94-8e0b-62f9d1c3a7e5".to_owned()),
        requestor_comment: None,
        computer_dns_name: entry.name.clone(),
        creation_date_time_utc: Some("2026-01-30T21:11:22.1234567Z".to_owned()),
        last_update_date_time_utc: None,
        error_h_result: (status == "Failed").then_some(-2_147_024_891),
    });
    (entry.sends, entry.sent) = (1, Some(at(1)));
    entry
}

fn with_problem(mut entry: Entry, message: &str) -> Entry {
    let error = CallError::Aborted(message.to_owned());
    entry.problem = Some(Problem::new(&error, Some("make room")));
    entry
}

fn calls(operation: Operation, began: Range<i64>, apart: i64) -> Vec<Call> {
    let call = |n| Call {
        operation,
        device: None,
        began: Timestamp::from_millisecond(at(0).as_millisecond() + n * apart).unwrap(),
        ended: None,
        result: Some("ok".to_owned()),
        left: true,
    };
    began.map(call).collect()
}

fn record(entries: Vec<Entry>, calls: Vec<Call>) -> Record {
    Record {
        run: Run {
            id: "20260130-211122-abcd".to_owned(),
            kind: ActionKind::Release,
            comment: "INC-42: cleaned and validated".to_owned(),
            nonce: [7; 16],
            service: "https://api.security.microsoft.com".to_owned(),
            tenant: Some("tenant".to_owned()),
            application: Some("application".to_owned()),
            who: "ann@soc".to_owned(),
            audit: Some("/home/ann/.local/state/host-demo/audit.jsonl".to_owned()),
            override_pending: false,
            follows: true,
            created: at(0),
            ended: Some(at(4000)),
            ending: None,
            flags: Vec::new(),
        },
        entries,
        calls,
    }
}

fn report(record: &Record) -> Report<'_> {
    Report::new(record, Standing::Ended, at(5000))
}

#[test]
fn what_goes_wrong_in_the_same_way_is_one_trouble_whatever_ids_are_in_it() {
    let said = |n: usize| {
        format!("no room for {n:040x}, correlation id 8A5C34DC-9ca9-4be4-b3c2-4c70e4bf{n:04x}.")
    };
    let record = record(
        vec![
            with_action(device(0, State::Failed), "Failed"),
            with_problem(device(1, State::Refused), &said(1)),
            device(2, State::Waiting),
            with_problem(device(3, State::Refused), &said(3)),
            with_problem(device(4, State::Refused), "another matter"),
            with_action(device(5, State::Done), "Succeeded"),
        ],
        Vec::new(),
    );
    let report = report(&record);
    let troubles: Vec<_> = report
        .troubles
        .iter()
        .map(|t| (t.wrong.message.as_str(), t.devices.as_slice()))
        .collect();
    assert_eq!(
        troubles,
        [
            (
                "nothing was sent: no room for …, correlation id ….",
                &[1, 3][..]
            ),
            ("the action ended as Failed, with error 0x80070005", &[0]),
            ("nothing was sent: another matter", &[4]),
        ]
    );
    assert_eq!(
        report.troubles[0].wrong.advice.as_deref(),
        Some("make room")
    );
    let outcomes: Vec<_> = report.outcomes.iter().map(|(o, d)| (*o, d.len())).collect();
    assert_eq!(
        outcomes,
        [
            (Outcome::Done, 1),
            (Outcome::Failed, 1),
            (Outcome::Refused, 3),
            (Outcome::NotRun, 1)
        ]
    );
}

#[test]
fn words_and_numbers_that_are_no_ids_stay() {
    for kept in [
        "",
        "facade",
        "error 0x80070005 at 12:00, ä-ö",
        "2026-01-30T21:11:22.1234567Z",
    ] {
        assert_eq!(without_ids(kept), kept);
    }
    let id = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
    assert_eq!(without_ids(&format!("ä{id}ö {id}")), "ä…ö …");
}

#[test]
fn a_pace_counts_what_may_have_left_and_the_main_one_comes_first() {
    let mut all = calls(Operation::ListMachineActions, 0..3, 1000);
    // Two in each second, for two minutes; and some that never left.
    all.extend(calls(Operation::UnrestrictCodeExecution, 0..240, 500));
    let mut stayed = calls(Operation::UnrestrictCodeExecution, 5..8, 500);
    stayed.iter_mut().for_each(|call| call.left = false);
    all.extend(stayed);
    let record = record(vec![device(0, State::Waiting)], all);
    let report = report(&record);
    let operations: Vec<_> = report.paces.iter().map(|pace| pace.operation).collect();
    assert_eq!(
        operations,
        [
            Operation::UnrestrictCodeExecution,
            Operation::ListMachineActions
        ]
    );
    let [minute, hour] = Quota::DOCUMENTED;
    let pace = &report.paces[0];
    assert_eq!(
        (pace.calls(), pace.most(minute), pace.most(hour)),
        (240, 120, 240)
    );
    assert_eq!(pace.span()[0], at(0));
}

#[test]
fn a_run_took_as_long_as_it_did_and_one_that_was_cut_short_does_not_say() {
    let mut record = record(vec![device(0, State::Waiting)], Vec::new());
    let took = |record: &Record, standing| {
        let report = Report::new(record, standing, at(5000));
        report.duration().map(|took| took.as_secs())
    };
    assert_eq!(took(&record, Standing::Ended), Some(4000));
    record.run.ended = None;
    assert_eq!(
        took(&record, Standing::Driven("process 1".to_owned())),
        Some(5000)
    );
    assert_eq!(took(&record, Standing::Interrupted), None);
}

#[test]
fn the_table_is_a_list_of_devices_too_and_its_cells_are_harmless() {
    let mut hostile = with_problem(device(1, State::Refused), "a \"b\", c\n\u{1b}[2J");
    hostile.name = Some("=HYPERLINK(\"https://evil.test\")".to_owned());
    let record = record(
        vec![with_action(device(0, State::Done), "Succeeded"), hostile],
        Vec::new(),
    );
    let csv = report(&record).csv();
    let list = crate::device_list::parse(csv.as_bytes(), None, Wanted::Ids).unwrap();
    let listed: Vec<_> = list.devices.into_iter().map(|line| line.device).collect();
    let machines = record.entries.iter().map(|entry| entry.machine.clone());
    assert_eq!(listed, machines.map(Named::Id).collect::<Vec<_>>());
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3, "{csv}");
    assert!(
        lines[1].starts_with(
            "1,0000000000000000000000000000000000000000,pc-0.contoso.com,released,Succeeded,\
             8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a,false,1,2026-01-30T21:11:23Z,"
        ),
        "{csv}"
    );
    assert!(
        lines[2].contains("\"'=HYPERLINK(\"\"https://evil.test\"\")\""),
        "{csv}"
    );
    assert!(
        lines[2].contains(r#""nothing was sent: a ""b"", c\n\u{1b}[2J""#),
        "{csv}"
    );
}

#[test]
fn nothing_from_outside_becomes_a_part_of_the_page() {
    const HOSTILE: &str =
        "</script><img src=x onerror=alert(1)> \"q\" 'a' &amp; =1+1 \u{1b}[2J \u{202e}gpj.exe";

    let mut entry = with_problem(device(0, State::Refused), HOSTILE);
    entry.name = Some(HOSTILE.to_owned());
    let mut entry = with_action(entry, HOSTILE);
    if let Some(action) = &mut entry.action {
        action.id = HOSTILE.to_owned();
    }
    let mut record = record(vec![entry], Vec::new());
    let run = &mut record.run;
    for text in [
        &mut run.comment,
        &mut run.service,
        &mut run.who,
        &mut run.id,
    ] {
        *text = HOSTILE.to_owned();
    }
    for text in [
        &mut run.tenant,
        &mut run.application,
        &mut run.audit,
        &mut run.ending,
    ] {
        *text = Some(HOSTILE.to_owned());
    }
    let by = Standing::Driven(HOSTILE.to_owned());
    let page = Report::new(&record, by, at(5000)).html();
    assert!(!page.contains("<img"), "{page}");
    assert_eq!(page.matches("</script>").count(), 1, "its own");
    assert!(
        !page
            .chars()
            .any(|c| defender_core::escape::is_harmful(c) && c != '\n')
    );
    let harmless = "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; &quot;q&quot; &#39;a&#39; \
                    &amp;amp; =1+1 \\u{1b}[2J \\u{202e}gpj.exe";
    assert!(page.matches(harmless).count() >= 12);
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn ten_thousand_devices_are_a_page_of_six_megabytes_at_most() {
    let entry = |n: usize| match n % 10 {
        0 => with_problem(
            device(n, State::Refused),
            &"the service says so, at some length, and more than once. ".repeat(6),
        ),
        _ => with_action(device(n, State::Done), "Succeeded"),
    };
    let entries = (0..10_000).map(entry).collect();
    let record = record(
        entries,
        calls(Operation::UnrestrictCodeExecution, 0..10_000, 2_400),
    );
    let page = report(&record).html();
    assert!(
        (1_000_000..=6 << 20).contains(&page.len()),
        "{} bytes",
        page.len()
    );
}

#[test]
fn a_time_is_said_as_exactly_as_people_need_it() {
    let said =
        [59, 60, 3599, 3600, 4325, 183_600].map(|seconds| roughly(Duration::from_secs(seconds)));
    assert_eq!(
        said,
        [
            "59 s",
            "1 min 00 s",
            "59 min 59 s",
            "1 h 00 min",
            "1 h 12 min",
            "2 d 3 h"
        ]
    );
}

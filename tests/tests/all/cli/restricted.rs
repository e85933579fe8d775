//! Who is restricted, where a device stands, and what a release would do.

use std::time::Duration;

use defender_mock::ListFilter;
use host_demo::cloud::Service;
use host_demo::grant::Operation;
use host_demo::host::{Host, Setup, WaitOptions};
use host_demo::identity::FixedToken;
use host_demo::policy::Route;
use serde_json::json;
use tests::world::real_plugin;

use super::*;

const LIST: Api = Api::ListMachineActions;
const ONE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
const TWO: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";

impl Stage {
    /// On which every action is done and can be read at once.
    pub(super) fn quick(machine_ids: &[&str]) -> Self {
        let switches = Switches {
            visible_after: Duration::ZERO,
            pending: Duration::ZERO,
            in_progress: Duration::ZERO,
            ..Switches::default()
        };
        Self::with(switches, machine_ids)
    }

    /// Somebody else restricts a device.
    pub(super) fn restrict(&self, id: &str, comment: &str) {
        let mock = &self.mock;
        let service = Service::custom(mock.base_url(), mock.authority(), &mock.scope()).unwrap();
        let service = service.with_ca(mock.ca_pem().unwrap().as_bytes().to_vec());
        let token = Arc::new(FixedToken::new(&mock.token(Grant::new())).unwrap());
        let mut setup = Setup::new(service, token);
        let route = Route::of(Operation::RestrictCodeExecution);
        setup.policy = setup.policy.allow(route);
        let host = Host::new(real_plugin(), &setup.build().unwrap());
        let restriction = host.restrict_code_execution(id, comment, WaitOptions::default());
        self.runtime.block_on(restriction).unwrap();
    }

    fn answers(&self, value: &[Value]) {
        let page = json!({ "value": value }).to_string();
        self.mock.inject(Fault::answer(200, page).on(LIST));
    }

    fn restricted(&self, args: &[&str]) -> Run<'_> {
        self.run(["restricted"]).with_args(args)
    }
}

/// An action, `minute` minutes into the stand-in's own time or thereabouts.
fn action(machine: &str, kind: &str, status: &str, minute: u32) -> Value {
    let time = format!("2026-01-30T21:{minute:02}:00.5Z");
    json!({
        "id": format!("8a5c34dc-9ca9-4be4-{:04x}-{minute:012}", kind.len()),
        "type": kind,
        "status": status,
        "machineId": machine,
        "computerDnsName": "pc-7.contoso.com",
        "requestor": "ann@contoso.com",
        "requestorComment": "INC-42: Suspicious",
        "creationDateTimeUtc": time,
        "lastUpdateDateTimeUtc": time,
    })
}

const RESTRICT: &str = "RestrictCodeExecution";
const UNRESTRICT: &str = "UnrestrictCodeExecution";

#[test]
fn who_is_restricted_is_a_table_that_a_release_reads() {
    let stage = Stage::quick(&[ONE, TWO]);
    let other = stage.mock.machine_ids().swap_remove(2);
    stage.restrict(ONE, "inc-42: suspicious");
    stage.restrict(TWO, "INC-42, and \"more\"");
    stage.restrict(&other, "INC-43");
    let listed = stage.restricted(&["--comment-contains", "INC-42"]).exits(0);
    let lines: Vec<_> = listed.out.lines().collect();
    assert_eq!(
        lines[0],
        "machineId,computerDnsName,restrictedSince,requestor,comment,pending"
    );
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(
        lines[1].starts_with(&format!("{TWO},named.contoso.com,2")),
        "the newest: {listed}"
    );
    assert!(lines[1].ends_with(",Defender for Endpoint API,\"INC-42, and \"\"more\"\"\","));
    assert!(listed.err.contains("2 devices are restricted"), "{listed}");

    // As it stands in the manual.
    let pipe = format!(
        "host-demo restricted --comment-contains INC-42{CONNECTION} | host-demo unrestrict --from - \
         --comment 'INC-42: cleaned'"
    );
    shell(&stage, &pipe, CONNECTION)
        .exits(0)
        .mentions("2 devices:\n      2  released");
    for (id, is_restricted) in [(ONE, false), (TWO, false), (&other, true)] {
        assert_eq!(stage.mock.is_restricted(id), Some(is_restricted), "{id}");
    }
    let rest = stage.restricted(&["--output", "json"]).exits(0).json();
    assert_eq!(rest.len(), 2, "{rest:?}");
    assert_eq!(
        (&rest[0]["type"], &rest[0]["machine_id"]),
        (&json!("device"), &json!(other))
    );
    assert_eq!(rest[1]["type"], "summary");
    assert_eq!(
        (&rest[1]["actions"], &rest[1]["cut"]),
        (&json!(5), &json!(false))
    );
}

#[test]
fn what_is_under_way_is_told_of_and_a_release_that_failed_releases_nobody() {
    let stage = Stage::new();
    let three = "f".repeat(40);
    stage.answers(&[
        action(&three, RESTRICT, "InProgress", 5),
        action(TWO, UNRESTRICT, "Failed", 4),
        action(ONE, UNRESTRICT, "Pending", 3),
        action(TWO, RESTRICT, "Succeeded", 2),
        action(ONE, RESTRICT, "Succeeded", 1),
    ]);
    let said = stage.restricted(&["--output", "json"]).exits(0);
    let lines = said.json();
    assert_eq!(
        (&lines[0]["machine_id"], &lines[1]["machine_id"]),
        (&json!(TWO), &json!(ONE))
    );
    assert_eq!(lines[1]["pending"][0]["type"], UNRESTRICT);
    assert_eq!(lines[0]["pending"], json!([]));
    assert_eq!(lines[2]["restricting"], 1);
    said.mentions("1 device more has a restriction under way");

    stage.answers(&[
        action(TWO, RESTRICT, "Succeeded", 2),
        action(TWO, UNRESTRICT, "Succeeded", 2),
    ]);
    let said = stage.restricted(&[]).exits(3);
    said.mentions("of 1 device more it can't be told");
}

#[test]
fn what_others_wrote_is_no_formula_and_drives_no_terminal() {
    let stage = Stage::new();
    let mut hostile = action(ONE, RESTRICT, "Succeeded", 1);
    hostile["computerDnsName"] = json!("=cmd|'/C calc'!A0");
    hostile["requestor"] = json!("@SUM(1)\u{1b}[2J");
    hostile["requestorComment"] = json!("<script>\"x\"</script>\r\n\u{202e}\u{9b}31m,+1");
    hostile["lastUpdateDateTimeUtc"] = json!("-1+\u{1b}]0;title\u{7}");
    let status = json!("Odd\u{1b}[31m");
    let mut pending = action(ONE, UNRESTRICT, "Pending", 2);
    pending["status"] = status;
    pending["computerDnsName"] = Value::Null;
    let page = [pending, hostile];
    let runs: [&[&str]; 4] = [
        &["restricted"],
        &["restricted", "--output", "json"],
        &["status", ONE],
        &["unrestrict", ONE, "--comment", "x", "--dry-run"],
    ];
    for (n, args) in runs.into_iter().enumerate() {
        stage.answers(&page);
        let said = stage.run(args).exits(if n == 2 { 3 } else { 0 });
        for code in ["\u{1b}", "\u{7}", "\u{9b}", "\u{202e}", "\r"] {
            said.hides(code);
        }
        said.mentions("<script>");
        if n == 0 {
            let row = said.out.lines().nth(1).unwrap();
            let begin = format!("{ONE},'=cmd|'/C calc'!A0,\"'-1+");
            assert!(row.starts_with(&begin), "{row}");
            assert!(row.contains(",'@SUM(1)"), "{row}");
            assert_eq!(said.out.lines().count(), 2, "{said}");
        }
    }
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn a_picture_that_is_cut_says_so_in_its_exit_code_and_how_far_it_reaches() {
    let stage = Stage::new();
    let page = json!({ "value": [action(ONE, RESTRICT, "Succeeded", 1)], "@odata.nextLink": "x" });
    let endless = Fault::answer(200, page.to_string()).on(LIST).always();
    stage.mock.inject(endless);
    let said = stage.restricted(&["--output", "json"]).exits(3);
    assert_eq!(
        (&said.json()[1]["cut"], &said.json()[1]["reads"]),
        (&json!(true), &json!(20))
    );
    said.mentions("the picture is cut")
        .mentions("from 2026-01-30 21:01:00 UTC");

    let ids: Vec<_> = (0..6).map(|n| format!("{n:040x}")).collect();
    let run = stage.run(["unrestrict", "--comment", "x", "--dry-run"]);
    let said = run.with_args(&ids).exits(3);
    said.mentions("the picture is cut")
        .mentions("no action of it among those that were read");
    let said = stage.run(["status", ONE]).exits(3);
    said.mentions("more actions than are read");
}

#[test]
fn a_time_is_looked_back_that_people_name_and_no_further() {
    let stage = Stage::quick(&[ONE]);
    stage.restrict(ONE, "x");
    for (since, wrong) in [
        ("0d", "longer than nothing"),
        ("x", "7d"),
        ("9999w", "ten years"),
    ] {
        stage
            .restricted(&["--since", since])
            .exits(2)
            .mentions(wrong);
    }
    assert_eq!(stage.mock.arrivals(LIST), 0);
    stage.restricted(&["--since", "2w"]).exits(0).mentions(ONE);
    let asked = stage.mock.requests();
    let asked = asked
        .iter()
        .find(|request| request.api == Some(LIST))
        .unwrap();
    let query = &asked.path_and_query;
    let (_, since) = query.split_once("creationDateTimeUtc%20ge%20").unwrap();
    let since: jiff::Timestamp = since.split('&').next().unwrap().parse().unwrap();
    let now = host_demo::clock::Clock::wall(&SystemClock::scaled(SCALE));
    let ago = now.duration_since(since).as_secs_f64() / 86400.0;
    assert!((13.9..14.5).contains(&ago), "{ago} days: {query}");
}

#[test]
fn nobody_restricted_is_an_empty_table_and_no_failure() {
    let stage = Stage::new();
    let said = stage.restricted(&[]).exits(0);
    assert_eq!(said.out.lines().count(), 1, "{said}");
    said.mentions("0 devices are restricted");
    let lines = stage.restricted(&["--output", "json"]).exits(0).json();
    assert_eq!((lines.len(), &lines[0]["restricted"]), (1, &json!(0)));
}

#[test]
fn who_may_not_read_is_told_which_permission_is_missing() {
    let stage = Stage::quick(&[ONE]);
    let token = stage
        .mock
        .token(Grant::new().roles(["Machine.RestrictExecution"]));
    std::fs::write(stage.folder.path().join("token"), &token).unwrap();
    let runs: [(&[&str], i32); 3] = [
        (&["restricted"], 2),
        (&["unrestrict", ONE, "--comment", "x", "--dry-run"], 2),
        (&["status", ONE], 1),
    ];
    for (args, code) in runs {
        let said = stage
            .run(args)
            .with_args(["--token-file", "token"])
            .exits(code);
        said.mentions("grant the application Machine.Read.All or Machine.ReadWrite.All")
            .hides(&token);
        assert_eq!(said.out, "", "{said}");
        let run = stage.run(args).with_args(["--token-file", "token"]);
        let lines = run.with_args(["--output", "json"]).exits(code).json();
        assert_eq!(lines[0]["error"]["reason"], "forbidden");
    }
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn a_devices_standing_is_shown_with_what_led_to_it_and_its_exit_code_says_whether_it_is_settled() {
    let stage = Stage::quick(&[ONE]);
    let upper = ONE.to_uppercase();
    let said = stage.run(["status", ONE]).exits(3);
    said.mentions("unknown").mentions("is the id right?");
    stage.restrict(ONE, "suspicious");
    let said = stage.run(["status", &upper]).exits(0);
    said.mentions("restricted since 2").mentions("suspicious");
    let _ = stage
        .run(["unrestrict", ONE, "--comment", "cleaned"])
        .exits(0);
    let lines = stage
        .run(["status", ONE, "--output", "json"])
        .exits(0)
        .json();
    let device = &lines[0];
    assert_eq!(
        (&device["type"], &device["standing"]),
        (&json!("device"), &json!("released"))
    );
    let history: Vec<_> = device["history"].as_array().unwrap().iter().collect();
    assert_eq!(history.len(), 2);
    let comment = history[0]["comment"].as_str().unwrap();
    assert!(comment.starts_with("cleaned ["), "{comment}");

    stage.mock.set_device(ONE, DeviceBehaviour::Offline);
    let no_wait = ["unrestrict", ONE, "--comment", "again", "--no-wait"];
    let _ = stage.run(no_wait).exits(0);
    stage
        .run(["status", ONE])
        .exits(3)
        .mentions("released since")
        .mentions("Pending");
    let neither = stage.run(["status", "pc-7"]).exits(2);
    neither.mentions("machine-id").mentions("action-id");
}

#[test]
fn of_a_long_history_the_newest_fifty_are_shown_in_either_order() {
    let stage = Stage::new();
    let mut history: Vec<_> = (0..60)
        .map(|n| action(ONE, RESTRICT, "Succeeded", n))
        .collect();
    for _ in 0..2 {
        stage.answers(&history);
        let said = stage.run(["status", ONE]).exits(0);
        assert_eq!(said.out.lines().count(), 51, "{said}");
        said.mentions("2026-01-30 21:59:00")
            .mentions("and 10 older ones");
        said.hides("2026-01-30 21:09:00");
        history.reverse();
    }
}

#[test]
fn a_dry_run_says_what_would_happen_to_each_device_and_sends_nothing_but_reads() {
    let stage = Stage::new();
    let ids: Vec<_> = (1..=6).map(|n| format!("{n:040x}")).collect();
    stage.answers(&[
        action(&ids[4], RESTRICT, "Pending", 9),
        action(&ids[4], UNRESTRICT, "Pending", 8),
        action(&ids[3], RESTRICT, "Pending", 7),
        action(&ids[2], UNRESTRICT, "InProgress", 6),
        action(&ids[1], UNRESTRICT, "Succeeded", 5),
        action(&ids[0], UNRESTRICT, "TimeOut", 4),
        action(&ids[2], RESTRICT, "Succeeded", 3),
        action(&ids[1], RESTRICT, "Succeeded", 2),
        action(&ids[0], RESTRICT, "Succeeded", 1),
    ]);
    let args = ["unrestrict", "--comment", "x", "--dry-run"];
    let said = stage.run(args).with_args(&ids).exits(0);
    let line = |id: &str| said.out.lines().find(|line| line.contains(id)).unwrap();
    for (id, would, why) in [
        (
            0,
            "release ",
            "restricted since 2026-01-30 21:01:00 UTC by ann@contoso.com: INC-42",
        ),
        (
            0,
            "release ",
            "the release of 2026-01-30 21:04:00 UTC ended as TimeOut",
        ),
        (
            1,
            "release-anyway",
            "released since 2026-01-30 21:05:00 UTC",
        ),
        (
            2,
            "adopt",
            "a release is under way: action 8a5c34dc-9ca9-4be4-0017-000000000006",
        ),
        (
            3,
            "hold",
            "a restriction is under way: action 8a5c34dc-9ca9-4be4-0015-000000000007",
        ),
        (
            4,
            "hold",
            "a restriction is under way: action 8a5c34dc-9ca9-4be4-0015-000000000009",
        ),
        (
            5,
            "release-anyway",
            "no action of it found: is the id right?",
        ),
    ] {
        let line = line(&ids[id]);
        assert!(line.starts_with(would) && line.contains(why), "{line}");
    }
    said.mentions("6 devices: 1 release, 2 release-anyway, 1 adopt, 2 hold")
        .mentions("100 of 100 (minute), 1500 of 1500 (hour); 3 calls can be sent within 1 s");
    assert_eq!(stage.mock.arrivals(LIST), 1, "not one for each device");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn a_dry_run_for_a_few_devices_asks_for_each_and_asks_nobody_to_confirm() {
    let stage = Stage::quick(&[ONE, TWO]);
    stage.restrict(ONE, "suspicious");
    let args = [
        "unrestrict",
        ONE,
        TWO,
        "--comment",
        "x",
        "--dry-run",
        "--confirm-above",
        "1",
    ];
    let run = stage.run(args).with_args(["--output", "json"]);
    let lines = run.exits(0).json();
    assert_eq!(
        (&lines[0]["machine_id"], &lines[0]["would"]),
        (&json!(ONE), &json!("release"))
    );
    assert_eq!(lines[0]["last_restriction"]["comment"], "suspicious");
    assert_eq!(lines[1]["would"], "release-anyway");
    let summary = &lines[2];
    assert_eq!(
        summary["would"],
        json!({ "release": 1, "release-anyway": 1, "adopt": 0, "hold": 0 })
    );
    assert_eq!(
        (&summary["reads"], &summary["forecast"]["calls"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(summary["quotas"][0]["left"], 100);
    assert_eq!(stage.mock.arrivals(LIST), 2);
    let filtered = |request: &defender_mock::Arrival| {
        request.api != Some(LIST) || request.path_and_query.contains("machineId%20eq")
    };
    assert!(stage.mock.requests().iter().all(filtered));
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn a_rejected_filter_is_replaced_with_one_warning() {
    for takes in [ListFilter::Simple, ListFilter::Nothing] {
        let switches = Switches {
            visible_after: Duration::ZERO,
            pending: Duration::ZERO,
            in_progress: Duration::ZERO,
            list_filter: takes,
            ..Switches::default()
        };
        let stage = Stage::with(switches, &[ONE, TWO]);
        stage.restrict(ONE, "suspicious");
        stage.restrict(TWO, "other");
        let runs: [&[&str]; 4] = [
            &["restricted", "--comment-contains", "suspicious"],
            &["status", ONE],
            &["unrestrict", ONE, "--comment", "x", "--dry-run"],
            &[
                "unrestrict",
                ONE,
                "1",
                "2",
                "3",
                "4",
                "5",
                "--comment",
                "x",
                "--dry-run",
            ],
        ];
        for args in runs {
            let args: Vec<String> = args
                .iter()
                .map(|arg| match arg.parse::<u8>() {
                    Ok(n) => format!("{n:040x}"),
                    Err(_) => (*arg).to_owned(),
                })
                .collect();
            let said = stage.run(&args).exits(0);
            said.mentions(ONE).mentions("400").hides(TWO);
            let warnings = said
                .err
                .matches("warning: the service rejected a filter")
                .count();
            assert_eq!(warnings, 1, "{args:?}: {said}");
            let lines = stage.run(&args).with_args(["--output", "json"]).exits(0);
            let lines = lines.json();
            let mut unreadable = lines.iter().filter(|line| line["type"] == "unreadable");
            let first = unreadable.next().unwrap();
            assert_eq!(
                (&first["what"], &first["status"]),
                (&json!("filter"), &json!(400)),
                "{args:?}"
            );
            assert!(unreadable.next().is_none(), "{lines:?}");
            let device = lines.iter().find(|line| line["type"] == "device").unwrap();
            assert_eq!(device["machine_id"], ONE, "{lines:?}");
        }
        assert_eq!(stage.mock.arrivals(RELEASE), 0);
    }
}

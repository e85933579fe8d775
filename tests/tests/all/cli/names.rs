//! Devices, named to the command by their names.

use std::io::{BufRead as _, BufReader};

use serde_json::json;

use super::*;

const FIND: Api = Api::ListMachines;

const OLD: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
const NEW: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";

/// Three devices whose names say which they are, and some whose do not.
fn stage() -> Stage {
    Stage::with_machines(
        Switches::default(),
        [
            Machine::new(OLD, "pc-7.contoso.com").inactive(),
            Machine::new(NEW, "pc-7.contoso.com"),
            Machine::new("a".repeat(40), "pc-8.contoso.com").merged_into(NEW),
        ],
    )
}

impl Stage {
    fn release_by_name(&self, args: &[&str]) -> Run<'_> {
        self.run([
            "unrestrict",
            "--no-wait",
            "--comment",
            "cleaned",
            "--by-name",
        ])
        .with_args(args)
    }
}

#[test]
fn devices_are_released_by_their_names_and_one_that_has_two_names_once() {
    let stage = stage();
    let ids = stage.mock.machine_ids();
    std::fs::write(
        stage.folder.path().join("export.csv"),
        format!(
            "Device ID,Device name\r\n1,device-002.contoso.com\r\n2,{}\r\n3,device-003.contoso.com\r\n",
            ids[1]
        ),
    )
    .unwrap();
    let run = stage.release_by_name(&["DEVICE-001.contoso.com", "--from", "export.csv"]);
    let said = run.exits(0);
    said.mentions(&format!("{} is {0}, as device-002.contoso.com is", ids[1]))
        .mentions("3 devices:");
    for id in &ids[..3] {
        said.mentions(&format!("accepted             {id}"));
    }
    assert_eq!(stage.mock.arrivals(RELEASE), 3);
    // The one in upper case is looked for in lower case, too. An id is not looked for.
    assert_eq!(stage.mock.arrivals(FIND), 4);

    let run = stage.release_by_name(&["device-001.contoso.com", "--output", "json"]);
    let lines = run.exits(0).json();
    let device = lines.iter().find(|line| line["type"] == "device").unwrap();
    assert_eq!(device["machine_id"], ids[0].as_str());
}

#[test]
fn a_name_that_does_not_lead_to_one_device_is_told_of_with_all_that_it_may_be_and_nothing_is_sent()
{
    let stage = stage();
    std::fs::write(
        stage.folder.path().join("names.txt"),
        "device-001.contoso.com\npc-7.contoso.com\n\nPC-8.contoso.com\npc-9\n",
    )
    .unwrap();
    let said = stage.release_by_name(&["--from", "names.txt"]).exits(2);
    said.mentions("names.txt, line 2: pc-7.contoso.com: 2 devices have this name")
        .mentions(&format!("  {OLD}  Inactive  Onboarded  last seen "))
        .mentions(&format!("  {NEW}  Active    Onboarded  last seen "))
        .mentions(
            "names.txt, line 4: PC-8.contoso.com: the one record of this name was merged into",
        )
        .mentions(&format!("merged into {NEW}"))
        .mentions("names.txt, line 5: pc-9: no device has this name")
        .mentions("3 names match no device or several")
        .mentions("Nothing was released");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);

    let run = stage.release_by_name(&["--from", "names.txt", "--skip-invalid"]);
    let run = run.with_args(["--output", "json"]);
    let said = run.exits(0);
    said.mentions("3 names skipped");
    let lines = said.json();
    let problems: Vec<_> = lines.iter().filter(|line| line["type"] == "name").collect();
    let told = problems
        .iter()
        .map(|line| (&line["name"], &line["line"], &line["problem"]));
    let expected = [
        (&json!("pc-7.contoso.com"), &json!(2), &json!("ambiguous")),
        (&json!("PC-8.contoso.com"), &json!(4), &json!("merged")),
        (&json!("pc-9"), &json!(5), &json!("not-found")),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let candidates = problems[0]["candidates"].as_array().unwrap();
    assert_eq!(candidates[1]["machine_id"], NEW);
    assert_eq!(stage.mock.arrivals(RELEASE), 1);

    let run = stage.release_by_name(&["pc-9", "--skip-invalid"]);
    let _ = run.exits(2).mentions("no name leads to a device");
}

#[test]
fn what_is_no_name_is_told_of_before_any_is_looked_for_and_a_name_among_ids_how_it_is_found() {
    let stage = stage();
    for (bad, told) in [
        ("CONTOSO\\pc-7", "not a device name"),
        ("8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a", "a GUID"),
        ("", "not a device name"),
        ("\u{1b}[2J", "invisible character U+001B"),
    ] {
        let said = stage
            .release_by_name(&["device-001.contoso.com", bad])
            .exits(2);
        said.mentions(told)
            .mentions("Nothing was sent")
            .hides("\u{1b}");
    }
    let by_id = ["unrestrict", "device-001.contoso.com", "--comment", "x"];
    let _ = stage.run(by_id).exits(2).mentions("--by-name");
    assert_eq!(stage.mock.requests().len(), 0, "not even for a token");
}

#[test]
fn where_devices_may_not_be_read_the_permission_is_named() {
    let stage = stage();
    let token = stage
        .mock
        .token(Grant::new().roles(["Machine.RestrictExecution"]));
    std::fs::write(stage.folder.path().join("token"), &token).unwrap();
    let run = stage.release_by_name(&["device-001.contoso.com", "--token-file", "token"]);
    let said = run.with_args(["--output", "json"]).exits(2);
    let lines = said.json();
    let message = lines[0]["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("Machine.Read.All") && message.contains("by their ids"),
        "{message}"
    );
    assert_eq!(lines[0]["error"]["reason"], "forbidden");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn what_a_service_says_of_a_device_cannot_drive_the_terminal() {
    let stage = stage();
    let hostile = "\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{202e}";
    let machine = |id: &str| {
        json!({
            "id": format!("{id}{hostile}"),
            "computerDnsName": "pc-1",
            "healthStatus": hostile,
            "osPlatform": hostile,
            "mergedIntoMachineId": hostile,
        })
    };
    for machines in [vec![machine("1"), machine("2")], vec![machine("1")]] {
        let answer = json!({ "value": machines }).to_string();
        stage
            .mock
            .inject(Fault::answer(200, answer).on(FIND).times(2));
        for more in [&[][..], &["--output", "json"]] {
            let said = stage.release_by_name(&["pc-1"]).with_args(more).exits(2);
            for code in ["\u{1b}", "\u{7}", "\u{9b}", "\u{202e}", "\r"] {
                said.hides(code);
            }
            said.mentions("owned");
        }
    }
}

#[test]
fn who_waits_for_the_quota_of_searches_is_told_and_an_interrupt_ends_it_before_anything_is_sent() {
    let stage = stage();
    std::fs::write(
        stage.folder.path().join("slow.toml"),
        "[[quota]]\ncalls = 1\nper = \"9h\"\n",
    )
    .unwrap();
    let names = ["device-001.contoso.com", "device-002.contoso.com"];
    let mut run =
        stage
            .release_by_name(&names)
            .with_args(["--config", "slow.toml", "--output", "json"]);
    let mut child = run
        .command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    while !told.contains("waiting for the service's quota, until ") {
        let read = err.read_line(&mut told).unwrap();
        assert_ne!(read, 0, "it ended after: {told}");
    }
    while stage.mock.arrivals(FIND) == 0 {
        std::thread::yield_now();
    }
    assert!(told.contains("2 searches take 9 h"), "{told}");
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupted.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = Said::new(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let lines = said.json();
    assert_eq!(lines[0]["error"]["message"], "stopped before it was sent");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn a_name_is_looked_for_as_typed_and_then_in_lower_case() {
    let [mixed, umlaut] = ["b", "c"].map(|digit| digit.repeat(40));
    let stage = Stage::with_machines(
        Switches::default(),
        [
            Machine::new(&mixed, "C-Lab-31"),
            Machine::new(&umlaut, "büro-pc01.contoso.com"),
        ],
    );
    for (name, id, searches) in [
        ("C-Lab-31", mixed.as_str(), 1),
        ("BÜRO-PC01.contoso.com", &umlaut, 2),
        ("bu\u{308}ro-pc01.contoso.com.", &umlaut, 1),
        ("DEVICE-001.CONTOSO.COM", &stage.id(), 2),
        ("device-001.contoso.com.", &stage.id(), 1),
    ] {
        let before = stage.mock.arrivals(FIND);
        let run = stage.release_by_name(&[name, "--dry-run", "--output", "json"]);
        let lines = run.exits(0).json();
        assert!(
            lines.iter().any(|line| line["machine_id"] == id),
            "{name}: {lines:?}"
        );
        assert_eq!(stage.mock.arrivals(FIND) - before, searches, "{name}");
    }
    // Neither spelling is anybody's.
    let before = stage.mock.arrivals(FIND);
    let said = stage.release_by_name(&["C-LAB-31"]).exits(2);
    said.mentions("C-LAB-31: no device has this name");
    assert_eq!(stage.mock.arrivals(FIND) - before, 2);
}

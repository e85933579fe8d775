//! Lists of devices, as the command takes them.

use std::io::Write as _;

use super::*;

impl Stage {
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn release_from(&self, from: &[&str]) -> Run<'_> {
        self.run(["unrestrict", "--no-wait", "--comment", "cleaned"])
            .with_args(["--from"])
            .with_args(from)
    }
}

#[test]
fn devices_come_from_a_table_and_from_arguments_and_each_is_released_once() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids().to_vec();
    let table = format!(
        "\u{feff}Device name;Device ID\r\nPC-1;{}\r\nPC-2;{}\r\nPC-1;{}\r\n",
        ids[0],
        ids[1],
        ids[0].to_uppercase()
    );
    stage.write("devices.csv", &table);
    let run = stage.release_from(&["devices.csv", &ids[2], &ids[1]]);
    run.exits(0)
        .mentions("2 lines name a device once more")
        .mentions("3 devices:\n      3  accepted");
    assert_eq!(stage.mock.arrivals(RELEASE), 3);
}

#[test]
fn devices_come_from_standard_input_and_from_what_the_command_printed() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids().to_vec();
    let mut run = stage.release_from(&["-", "--output", "json"]).command;
    let mut run = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let list = format!("# cleaned\n{}\n{}\n", ids[0], ids[1]);
    run.stdin
        .take()
        .unwrap()
        .write_all(list.as_bytes())
        .unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    stage.write(
        "printed.jsonl",
        std::str::from_utf8(&output.stdout).unwrap(),
    );
    // They are under way, and the running actions are taken for it.
    let _ = stage.release_from(&["printed.jsonl"]).exits(0);
    for id in &ids[..2] {
        assert_eq!(stage.mock.actions_of(id).len(), 1);
    }
}

#[test]
fn every_bad_line_is_told_of_before_anything_is_sent_and_can_be_passed_over() {
    let stage = Stage::new();
    let text = format!(
        "{}\nPC-1\n8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a\n",
        stage.id()
    );
    stage.write("list.txt", &text);
    let said = stage.release_from(&["list.txt"]).exits(2);
    said.mentions("list.txt, line 2: \"PC-1\" is no machine id")
        .mentions("line 3: \"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a\" is a GUID")
        .mentions("Nothing was sent")
        .mentions("--skip-invalid");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
    let said = stage.release_from(&["list.txt", "--skip-invalid"]).exits(0);
    said.mentions("2 lines are passed over");
    assert_eq!(stage.mock.arrivals(RELEASE), 1);
}

#[test]
fn a_list_that_is_none_is_refused_with_the_reason() {
    let stage = Stage::new();
    stage.write("empty.txt", "\n");
    stage.write("table.csv", "Asset,Owner\n1,Ann\n");
    stage.write("hostile.csv", "id\n\u{1b}[2Jx\n");
    for (args, problem) in [
        (&["empty.txt"][..], "there is no device in it"),
        (&["gone.txt"], "gone.txt can't be read"),
        (&["."], "a folder"),
        (&["table.csv"], "there are: Asset, Owner"),
        (&["table.csv", "--column", "Sensor"], "no column \"Sensor\""),
        (&["hostile.csv"], "no machine id"),
    ] {
        let said = stage.release_from(args).exits(2);
        said.mentions(problem).hides("\u{1b}");
    }
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn many_devices_are_not_released_without_somebody_who_means_it() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids().to_vec();
    stage.write("list.txt", &ids.join("\n"));
    let said = stage
        .release_from(&["list.txt", "--confirm-above", "2"])
        .exits(2);
    said.mentions("3 devices are more than 2").mentions("--yes");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
    stage
        .release_from(&["list.txt", "--confirm-above", "2", "--yes"])
        .exits(0);
    assert_eq!(stage.mock.arrivals(RELEASE), 3);
}

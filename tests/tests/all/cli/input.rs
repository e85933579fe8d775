//! Lists of devices, as the command takes them.

use std::io::Write as _;

use super::*;

impl Stage {
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
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
    said.mentions("list.txt, line 2: \"PC-1\" is not a machine id")
        .mentions("line 3: \"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a\" is a GUID")
        .mentions("Nothing was sent")
        .mentions("--skip-invalid");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
    let said = stage.release_from(&["list.txt", "--skip-invalid"]).exits(0);
    said.mentions("2 problems skipped");
    assert_eq!(stage.mock.arrivals(RELEASE), 1);
    let args = ["list.txt", "--skip-invalid", "--output", "json"];
    let lines = stage.release_from(&args).exits(0).json();
    let skipped = lines.iter().filter(|line| line["type"] == "line");
    let skipped: Vec<_> = skipped
        .map(|line| (line["line"].as_u64(), line["error"]["message"].as_str()))
        .collect();
    assert_eq!(skipped.len(), 2, "{lines:?}");
    assert_eq!((skipped[0].0, skipped[1].0), (Some(2), Some(3)));
    assert!(
        skipped[0]
            .1
            .unwrap()
            .contains("\"PC-1\" is not a machine id")
    );
}

#[test]
fn a_list_that_is_none_is_refused_with_the_reason() {
    let stage = Stage::new();
    stage.write("empty.txt", "\n");
    stage.write("table.csv", "Asset,Owner\n1,Ann\n");
    stage.write("hostile.csv", "id\n\u{1b}[2Jx\n");
    for (args, problem) in [
        (&["empty.txt"][..], "has no device in it"),
        (&["gone.txt"], "gone.txt can't be read"),
        (&["."], "a folder"),
        (&["table.csv"], "its columns are: Asset, Owner"),
        (&["table.csv", "--column", "Sensor"], "no column \"Sensor\""),
        (&["hostile.csv"], "invisible character U+001B"),
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
    stage.write("list.txt", ids.join("\n"));
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

/// The same list in the forms that tools write it.
#[test]
fn a_list_is_read_in_the_form_that_its_tool_wrote_it() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids().to_vec();
    let [a, b, c] = &ids[..3] else {
        panic!("three devices")
    };
    let page = |id: &str, more: &str| {
        format!("{{\"@odata.context\":\"x\",\"value\":[{{\"id\":\"{id}\"}}]{more}}}\n")
    };
    let wide = |text: &str| {
        text.encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>()
    };
    for (name, list, devices) in [
        (
            "sep.csv",
            format!("sep=;\r\nDevice ID;Device name;OS\r\n{a};d-1;W\r\n{b};d-2;W\r\n").into_bytes(),
            2,
        ),
        (
            "pretty.json",
            format!("{{\r\n    \"id\":  \"{a}\",\r\n    \"healthStatus\":  \"Active\"\r\n}}\r\n").into_bytes(),
            1,
        ),
        (
            "pages.json",
            (page(a, ",\"@odata.nextLink\":\"https://x\"") + &page(b, "")).into_bytes(),
            2,
        ),
        ("mac.txt", format!("{a}\r{b}\r{c}\r").into_bytes(), 3),
        (
            "mac.csv",
            format!("Device ID,Device name\r{a},d-1\r{b},d-2\r").into_bytes(),
            2,
        ),
        ("redirected.txt", wide(&format!("{a}\r\n{b}\r\n")), 2),
        (
            "urls.txt",
            format!(
                "https://security.microsoft.com/machines/v2/{a}/overview?tid=00000000-0000-0000-0000-000000000000\n\
                 https://security.microsoft.com/machines/{b}\n"
            )
            .into_bytes(),
            2,
        ),
        (
            "notes.csv",
            format!(
                "\u{feff}\"Device ID\";\"Tags\";\"Device name\"\r\n\"{a}\";\"VIP\r\nLab; 2\";\"d-1\"\r\n\"{b}\";\"\";\"d-2\"\r\n"
            )
            .into_bytes(),
            2,
        ),
        (
            "two.csv",
            format!("\u{feff}Device ID,OS\r\n{a},W\r\n\u{feff}Device ID,OS\r\n{b},W\r\n").into_bytes(),
            2,
        ),
    ] {
        stage.write(name, list);
        let run = stage.release_from(&[name, "--output", "json", "--dry-run"]);
        let lines = run.exits(0).json();
        let device = |line: &&Value| line["type"] == "device";
        assert_eq!(lines.iter().filter(device).count(), devices, "{name}: {lines:?}");
    }
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
}

#[test]
fn a_list_that_cannot_be_read_completely_is_rejected_with_the_line() {
    let stage = Stage::new();
    let ids = stage.mock.machine_ids().to_vec();
    let [a, b, c] = &ids[..3] else {
        panic!("three devices")
    };
    let table = |rows: &str| format!("Device ID,Note,Device name\n{a},ok,d-1\n{rows}");
    for (name, list, said, hint) in [
        (
            "quote.csv",
            table(&format!("{b},\"kiosk 21 inch,d-2\n{c},ok,d-3\n")),
            "quote.csv, line 3 opens a quotation mark that is never closed; lines 3 to 4 are not read",
            "remove the quotation mark",
        ),
        (
            "fields.csv",
            table(&format!("{b},d-2\n")),
            "fields.csv, line 3 has 2 fields, the header has 3",
            "quotation marks",
        ),
        (
            "nul.csv",
            table(&format!("{b},o\0k,d-2\n")),
            "nul.csv, line 3 has a NUL byte",
            "--skip-invalid",
        ),
        (
            "number.csv",
            table("1.23457E+39,ok,d-2\n"),
            "number.csv, line 3: \"1.23457E+39\" is a number that a spreadsheet made of an id",
            "as text",
        ),
        (
            "page.json",
            format!("{{\"value\":[{{\"id\":\"{a}\"}}],\"@odata.nextLink\":\"https://x\"}}"),
            "page.json, line 1 has a link to a next page (@odata.nextLink)",
            "add the next page",
        ),
        (
            "cut.json",
            format!("{{\"id\":\"{a}\"}}\n[\"{b}\",\n\"{c}"),
            "cut.json, line 2 begins a JSON value that is cut off; lines 2 to 3 are not read",
            "its end is missing",
        ),
        (
            "cut.txt",
            format!(
                "{a}\nhttps://security.microsoft.com/machines/v2/{}\n",
                &b[1..]
            ),
            &format!(
                "/machines/v2/{}\" is not the address of a device page",
                &b[1..]
            ),
            "from the portal",
        ),
        (
            "hidden.txt",
            format!("\u{200b}{a}\n"),
            "has the invisible character U+200B",
            "--skip-invalid",
        ),
        (
            "guid.csv",
            "id\n8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a\n".to_owned(),
            "is a GUID, as Entra's device ids are",
            "--by-name",
        ),
    ] {
        stage.write(name, list);
        let run = stage.release_from(&[name]).exits(2);
        run.mentions(said)
            .mentions("Nothing was sent")
            .mentions("\nhint: ")
            .mentions(hint);
        assert!(run.err.lines().count() <= 4, "{run}");
        let lines = stage
            .release_from(&[name, "--output", "json"])
            .exits(2)
            .json();
        let error = &lines[0]["error"];
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
        assert!(error["advice"].as_str().unwrap().contains(hint), "{error}");
    }
    assert_eq!(stage.mock.arrivals(RELEASE), 0);

    // What is skipped is reported.
    let run = stage
        .release_from(&["quote.csv", "--skip-invalid"])
        .exits(0);
    run.mentions("lines 3 to 4 are not read")
        .mentions("1 problem skipped");
    assert_eq!(stage.mock.arrivals(RELEASE), 1);
}

#[test]
fn a_file_of_another_format_is_named_in_one_line() {
    let stage = Stage::new();
    for (name, bytes, said) in [
        (
            "list.xlsx",
            &b"PK\x03\x04\x14\0\x06\0\x08\0[Content_Types].xml\x9c\xed xl/workbook.xml"[..],
            "list.xlsx is an Excel workbook; save it as CSV",
        ),
        (
            "list.pdf",
            b"%PDF-1.7\n\xe2\xe3",
            "list.pdf is a PDF; export the devices as CSV",
        ),
        (
            "list.gz",
            b"\x1f\x8b\x08\0",
            "list.gz is a compressed file; decompress it first",
        ),
    ] {
        stage.write(name, bytes);
        let run = stage.release_from(&[name]).exits(2);
        assert_eq!(run.err, format!("host-demo: {said}\n"));
    }
}

#[test]
fn an_option_with_another_dash_is_pointed_out_in_every_command() {
    let stage = Stage::new();
    let id = stage.id();
    for args in [
        &["unrestrict", &id, "\u{2014}comment", "x"][..],
        &["unrestrict", &id, "--comment", "x", "\u{2013}dry-run"],
        &["restrict", &id, "\u{2014}comment", "x"],
        &["resume", "\u{2014}retry"],
        &["cancel", "\u{2014}comment", "x"],
        &["status", "\u{2212}\u{2212}token-file"],
        &["runs", "show", "\u{2014}runs"],
        &["runs", "purge", "\u{2014}older-than"],
        &["report", "\u{2014}html"],
        &["audit", "verify", "\u{2014}key"],
        &["check", "\u{2014}base-url"],
        &["completion", "\u{2014}verbose"],
        &["\u{2014}version"],
    ] {
        let typed = args.iter().find(|arg| !arg.is_ascii()).unwrap();
        let option = typed.trim_start_matches(|c: char| !c.is_ascii());
        let said = stage.bare(args).exits(2);
        said.mentions(&format!("hint: \"{typed}\" begins with "))
            .mentions(&format!("; type --{option}\n"));
    }
    let lines = stage
        .bare(["status", "\u{2014}output", "--output", "json"])
        .exits(2)
        .json();
    let advice = lines[0]["error"]["advice"].as_str().unwrap();
    assert_eq!(
        advice,
        "\"\u{2014}output\" begins with an em dash (U+2014); type --output"
    );
    // A comment may begin with one.
    let said = stage.run([
        "unrestrict",
        &id,
        "--no-wait",
        "--comment",
        "\u{2014} cleaned",
    ]);
    let _ = said.exits(0);
}

#[test]
fn an_argument_error_cannot_control_the_terminal() {
    let stage = Stage::new();
    let id = stage.id();
    for args in [
        &["unrestrict", &id, "--\u{1b}[2Jx"][..],
        &["unrestrict", &id, "--comment", "x", "--from\u{9b}2J"],
        &["\u{1b}]0;title\u{7}"],
        &["quota", "--watch=\u{1b}[31m"],
        &["check", "--cloud", "\u{9b}1m"],
    ] {
        for format in ["text", "json"] {
            let said = stage
                .bare(["--output", format])
                .with_args(args.iter().copied())
                .exits(2);
            let all = format!("{}{}", said.out, said.err);
            let harmful = |c: &char| c.is_control() && *c != '\n';
            assert_eq!(all.chars().find(harmful), None, "{args:?}: {all:?}");
        }
    }
}

/// After `--`, nothing is an option: a foreign text that looks like one is a wrong id.
#[test]
fn an_option_in_place_of_an_id_is_no_option_after_two_hyphens() {
    let stage = Stage::new();
    stage.write("devices", format!("{}\n", stage.id()).as_bytes());
    let run = stage.run(["unrestrict", "--comment", "x", "--", "--from=devices"]);
    run.exits(2).mentions("is not a machine id");
    assert!(stage.mock.requests().is_empty());
}

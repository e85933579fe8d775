use proptest::prelude::*;

use super::*;

const ONE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
const TWO: &str = "49e96a8dd67ac4f1ce9952ccedcde711f0ce28e9";
const GUID: &str = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";

fn named(list: &List) -> Vec<String> {
    let named = |listed: &Listed| listed.device.to_string();
    list.devices.iter().map(named).collect()
}

fn devices(text: &str, wanted: Wanted) -> Vec<String> {
    let list = parse(text.as_bytes(), None, wanted).unwrap();
    assert_eq!(list.wrong, [], "{text:?}");
    named(&list)
}

fn wrong(text: &str) -> Vec<String> {
    let list = parse(text.as_bytes(), None, Wanted::Ids).unwrap();
    list.wrong.iter().map(ToString::to_string).collect()
}

#[test]
fn two_rows_without_a_line_break_between_them_are_reported() {
    let table = format!("Device ID,Device name,Note,\n{ONE},pc-1,{TWO},pc-2,\n");
    for wanted in [Wanted::Ids, Wanted::Names] {
        let list = parse(table.as_bytes(), None, wanted).unwrap();
        assert_eq!(list.devices, []);
        assert_eq!(list.wrong.len(), 1, "{:?}", list.wrong);
    }
    // A hash is not a device.
    let table = format!("Device ID,SHA1\n{ONE},{TWO}\n");
    let list = parse(table.as_bytes(), None, Wanted::Ids).unwrap();
    assert_eq!((list.devices.len(), list.wrong.len()), (1, 0));
}

#[test]
fn lists_are_read_as_people_have_them() {
    for text in [
        format!("{ONE}\n{TWO}"),
        // As Windows saves it, with a mark at the beginning.
        format!("\u{feff}{ONE}\r\n{TWO}\r\n"),
        format!("# cleaned on Friday\n\n  {ONE}  # Ann's\n\t\"{TWO}\",\n"),
        format!("{ONE},\n{TWO},\n"),
        format!("{}\n{TWO}\n", ONE.to_uppercase()),
        format!("machineId\n{ONE}\n{TWO}\n"),
        format!("Device ID,Device name\r\n{ONE},PC-1\r\n\"{TWO}\",\"PC, the second\"\r\n"),
        format!("name;machine_id\nPC-1;{ONE}\n;;\nPC-2; {TWO} \n"),
        format!("name\tId\nPC-1\t{ONE}\nPC-2\t{TWO}\n"),
        // Both Entra's and Defender's.
        format!("deviceId,machineId\n{GUID},{ONE}\n{GUID},{TWO}\n"),
        // A line break within a name.
        format!("name,id\n\"PC\n1\",{ONE}\nPC-2,{TWO}\n"),
        format!(
            "{{\"type\":\"run\"}}\n{{\"type\":\"device\",\"machine_id\":\"{ONE}\"}}\n{{\"machineId\":\"{TWO}\"}}\n{{\"type\":\"summary\"}}\n"
        ),
        format!("[\"{ONE}\",\n {{\"id\": \"{TWO}\"}}]"),
    ] {
        assert_eq!(devices(&text, Wanted::Ids), [ONE, TWO], "{text:?}");
    }
}

#[test]
fn names_are_read_from_the_columns_that_have_them() {
    for text in [
        "pc-1.contoso.com\npc-2",
        "\u{feff}PC-1.contoso.com\r\nPC-2\r\n",
        "# cleaned, on Friday\n  pc-1.contoso.com  # Ann's\n'pc-2',\n",
        "hostname\npc-1.contoso.com\npc-2\n",
        "Device ID,Device name,Domain\r\n1,\"PC-1.contoso.com\",x\r\n2,pc-2,x\r\n",
        "name;dns_name\nAnn's;pc-1.contoso.com\n;;\nBob's; pc-2 \n",
        "id\tName\n1\tpc-1.contoso.com\n2\tpc-2\n",
        "{\"computerDnsName\":\"pc-1.contoso.com\",\"id\":\"1\"}\n{\"deviceName\":\"pc-2\"}\n\
         {\"type\":\"summary\"}\n",
        "[\"pc-1.contoso.com\", {\"hostname\": \"pc-2\"}]",
    ] {
        let found = devices(text, Wanted::Names);
        let found: Vec<_> = found.iter().map(|name| name.to_lowercase()).collect();
        assert_eq!(found, ["pc-1.contoso.com", "pc-2"], "{text:?}");
    }
}

#[test]
fn an_id_among_names_is_an_id_and_a_name_among_ids_is_told_how_it_is_found() {
    let list = format!("pc-1\n{ONE}\n# pc-2\nPC-1\ncafe\n");
    let list = parse(list.as_bytes(), None, Wanted::Names).unwrap();
    let expected = [
        (1, Named::Name("pc-1".parse().unwrap())),
        (2, Named::Id(ONE.parse().unwrap())),
        (5, Named::Name("cafe".parse().unwrap())),
    ];
    let found = list.devices.iter().map(|l| (l.line, l.device.clone()));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert_eq!((list.repeated, list.wrong.len()), (1, 0));

    for (text, wanted, is_told) in [
        ("pc-1.contoso.com", Wanted::Ids, "is not a machine id"),
        (GUID, Wanted::Ids, "GUID"),
        (GUID, Wanted::Names, "GUID"),
        ("cafe", Wanted::Ids, "is not a machine id"),
        ("5", Wanted::Ids, "\"5\" is not a machine id"),
        (&ONE[..20], Wanted::Ids, "has 20 hexadecimal digits"),
        ("-.", Wanted::Ids, "is not a machine id"),
        ("CONTOSO\\pc-1", Wanted::Names, "is not a device name"),
        ("pc-1'", Wanted::Names, "is not a device name"),
        ("ger\u{fffd}t", Wanted::Names, "not UTF-8"),
        ("pc\u{200b}", Wanted::Names, "U+200B"),
        (&"x".repeat(256), Wanted::Names, "is not a device name"),
    ] {
        let problem = wanted.read(text).unwrap_err().to_string();
        assert!(problem.contains(is_told), "{problem}");
    }
}

#[test]
fn a_summary_names_no_device_and_what_is_no_text_is_no_name() {
    let text = format!(
        "{{\"type\":\"summary\",\"machineId\":\"{ONE}\"}}\n{{\"type\":\"error\"}}\n\
         {{\"type\":\"action\",\"action\":null}}\n7\n"
    );
    let list = parse(text.as_bytes(), Some("machine_id"), Wanted::Ids).unwrap();
    assert_eq!(named(&list), [ONE], "it does name one");
    let lines = |list: &List| list.wrong.iter().map(|w| w.line).collect::<Vec<_>>();
    assert_eq!(lines(&list), [3, 4]);
    // What a busy machine or a rejected filter adds to the printed lines.
    let printed = format!(
        "{{\"type\":\"waiting\",\"reason\":\"response\"}}\n{{\"type\":\"unreadable\",\"what\":\"list\"}}\n\
         {{\"type\":\"line\",\"line\":3,\"error\":{{}}}}\n{{\"type\":\"device\",\"machine_id\":\"{ONE}\"}}\n"
    );
    let list = ids(&printed);
    assert_eq!((named(&list), lines(&list)), (vec![ONE.to_owned()], vec![]));
    let list = parse(b"[7, true, \"pc-1\"]", None, Wanted::Names).unwrap();
    assert_eq!(
        (named(&list), lines(&list)),
        (vec!["pc-1".to_owned()], vec![1, 1])
    );
    let list = parse(b"name,id\n,1\npc-1,2\n", None, Wanted::Names).unwrap();
    let told = "line 2 has no name in the column \"name\"";
    assert_eq!(list.wrong[0].to_string(), told);
}

#[test]
fn what_is_named_more_than_once_is_counted_and_comes_once() {
    let list = parse(
        format!("{ONE}\n{TWO}\n{}\n", ONE.to_uppercase()).as_bytes(),
        None,
        Wanted::Ids,
    );
    let list = list.unwrap();
    assert_eq!((list.devices.len(), list.repeated), (2, 1));
}

#[test]
fn every_line_that_names_no_device_is_told_of_with_its_number() {
    let told = wrong(&format!("{ONE}\n{GUID}\n\nPC-1.contoso.com\n{TWO}0\n"));
    assert_eq!(told.len(), 3);
    assert!(
        told[0].starts_with("line 2: ") && told[0].contains("GUID"),
        "{}",
        told[0]
    );
    assert!(
        told[1].starts_with("line 4: \"PC-1.contoso.com\""),
        "{}",
        told[1]
    );
    assert!(
        told[2].starts_with("line 5: ") && told[2].contains("41"),
        "{}",
        told[2]
    );

    let told = wrong(&format!("name,id\nPC-1,\n\"PC\n2\",abc\nPC-3,{ONE}\n"));
    assert_eq!(told[0], "line 2 has no id in the column \"id\"");
    assert!(told[1].starts_with("line 3: \"abc\""), "{}", told[1]);

    let told = wrong(&format!(
        "{{\"id\":\"{ONE}\"}}\n{{\"name\":1}}\n{{\"id\":\n"
    ));
    assert!(told[0].starts_with("line 2 has no id"), "{}", told[0]);
    assert!(
        told[1].starts_with("line 3 begins a JSON value that is cut off"),
        "{}",
        told[1]
    );
}

#[test]
fn a_column_is_found_by_the_name_that_is_given_and_missed_with_the_names_that_are_there() {
    let text = format!("Asset,Sensor\n7,{ONE}\n");
    let list = parse(text.as_bytes(), Some("sensor"), Wanted::Ids).unwrap();
    assert_eq!(named(&list), [ONE]);
    let missed = parse(text.as_bytes(), Some("Device"), Wanted::Ids).unwrap_err();
    assert_eq!(
        missed.to_string(),
        "has no column \"Device\"; its columns are: Asset, Sensor"
    );
    assert!(matches!(
        parse(text.as_bytes(), None, Wanted::Ids),
        Err(InputError::NoColumn { .. })
    ));
    let json = format!("{{\"sensor\":\"{ONE}\",\"id\":\"7\"}}");
    assert_eq!(
        parse(json.as_bytes(), Some("sensor"), Wanted::Ids)
            .unwrap()
            .devices
            .len(),
        1
    );
}

#[test]
fn what_is_no_list_is_refused_with_the_reason() {
    for (bytes, problem) in [
        (&b""[..], InputError::Empty),
        (b"\r\n \n", InputError::Empty),
        (b"# nothing\n", InputError::Empty),
        (b"machineId\n", InputError::Empty),
        (b"[]", InputError::Empty),
        (b"\xff\xfe", InputError::Empty),
    ] {
        assert_eq!(parse(bytes, None, Wanted::Ids), Err(problem));
    }
    let no_header = format!("PC-1,{ONE}\nPC-2,{TWO}\n");
    assert_eq!(
        parse(no_header.as_bytes(), None, Wanted::Ids),
        Err(InputError::NoHeader)
    );
    let cut = parse(b"[1,", None, Wanted::Ids).unwrap();
    assert_eq!(cut.wrong[0].problem, Problem::CutOff);
    let no_header = parse(b"pc-1,Ann\npc-2,Bob\n", None, Wanted::Names);
    assert_eq!(
        no_header.unwrap_err().to_string(),
        "has no column \"Device name\"; its columns are: pc-1, Ann"
    );
}

const THREE: &str = "2c829abe1f4532e1c584133ac916ab3c3ee57890";
const FOUR: &str = "f3b8488c368cb0a6657eecdd3cb13d09c2d326e0";

fn ids(text: &str) -> List {
    parse(text.as_bytes(), None, Wanted::Ids).unwrap()
}

/// What is wrong, each with its line and the lines that are not read.
fn problems(list: &List) -> Vec<(usize, (usize, usize), Problem)> {
    let each = |w: &Wrong| {
        (
            w.line,
            (*w.lines.start(), *w.lines.end()),
            w.problem.clone(),
        )
    };
    list.wrong.iter().map(each).collect()
}

#[test]
fn lines_that_other_tools_put_above_the_header_are_skipped() {
    for (above, titles) in [
        ("sep=;\r\n", &[][..]),
        ("\u{feff}sep=;\r\n", &[]),
        ("\"sep=;\"\r\n", &[]),
        ("SEP=;\r\n\r\n", &[]),
        (
            "#TYPE Selected.System.Management.Automation.PSCustomObject\r\n",
            &[],
        ),
        (
            "\"#TYPE System.Management.Automation.PSCustomObject\"\r\n",
            &[],
        ),
        ("# exported on Friday; by Ann\r\n", &[]),
        ("\r\n;;\r\n", &[]),
        (
            "Restricted devices\r\nTenant: 8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a\r\n\r\n",
            &[1, 2],
        ),
        ("Device inventory;;\r\nGenerated;2026-01-30;\r\n", &[1, 2]),
    ] {
        let table = format!("{above}Device ID;Device name;OS\r\n{ONE};pc-1;W\r\n{TWO};pc-2;W\r\n");
        let list = ids(&table);
        assert_eq!(list.wrong, [], "{above:?}");
        assert_eq!(named(&list), [ONE, TWO], "{above:?}");
        assert_eq!(list.titles, titles, "{above:?}");
    }
    for (separator, declared) in [
        (',', ","),
        ('\t', "\t"),
        ('\t', "\\t"),
        ('|', "|"),
        ('^', "^"),
    ] {
        let table = format!("sep={declared}\nDevice ID{separator}Note\n{ONE}{separator}a;b\n");
        assert_eq!(named(&ids(&table)), [ONE], "{declared:?}");
    }
}

#[test]
fn what_could_be_a_device_above_the_header_is_reported() {
    let list = ids(&format!(
        "PC-9;abc;W\nDevice ID;Device name;OS\n{ONE};pc-1;W\n"
    ));
    assert_eq!(
        problems(&list),
        [(1, (1, 1), Problem::AboveHeader { header: 2 })]
    );
    let text = "pc-1\npc-2.\nDevice name,OS\npc-3,W\n";
    let list = parse(text.as_bytes(), None, Wanted::Names).unwrap();
    assert_eq!(
        list.wrong.iter().map(|w| w.line).collect::<Vec<_>>(),
        [1, 2]
    );
    // Ids, and then a table: they are lines.
    let list = ids(&format!("{ONE}\nDevice ID,OS\n{TWO},W\n"));
    assert_eq!((named(&list).len(), list.wrong.len()), (1, 2));
}

#[test]
fn two_exports_put_together_are_one_list() {
    let table = format!("\u{feff}Device ID,Device name\r\n{ONE},pc-1\r\n");
    let list = ids(&format!("{table}{}", table.replace(ONE, TWO)));
    assert_eq!(
        (named(&list), list.wrong.len()),
        (vec![ONE.to_owned(), TWO.to_owned()], 0)
    );
    // With other columns, a name would be taken from a wrong one.
    let text = "Device name,Domain\npc-1,x\nDomain,Device name\nx,pc-2\nx,pc-3\n";
    let list = parse(text.as_bytes(), None, Wanted::Names).unwrap();
    assert_eq!(named(&list), ["pc-1"]);
    assert_eq!(problems(&list), [(3, (3, 5), Problem::OtherHeader)]);
}

#[test]
fn a_row_has_as_many_fields_as_the_header() {
    let row = |row: &str| {
        let text = format!("Device ID,Device name,OS\n{ONE},pc-1,W\n{row}\n{THREE},pc-3,W\n");
        problems(&ids(&text))
    };
    let fields = |found| [(3, (3, 3), Problem::Fields { found, header: 3 })];
    assert_eq!(row(&format!("{TWO},pc-2")), fields(2));
    assert_eq!(row(TWO), fields(1));
    assert_eq!(row(&format!("{TWO},pc-2,W,x")), fields(4));
    assert_eq!(row(&format!("{TWO},pc-2,W,,x,")), fields(6));
    assert_eq!(row("Total: 2 devices"), fields(1));
    // Empty ones at the end, as spreadsheets write them, and empty rows.
    for harmless in [
        &format!("{TWO},pc-2,W,,"),
        &format!("{TWO},,"),
        "",
        ",,",
        ",,,,",
        "  ",
    ] {
        assert_eq!(row(harmless), [], "{harmless}");
    }
    let text = format!("Device ID,Device name,,\n{ONE},pc-1\n{TWO},pc-2,,note\n{THREE}\n");
    let expected = [(
        4,
        (4, 4),
        Problem::Fields {
            found: 1,
            header: 4,
        },
    )];
    assert_eq!(problems(&ids(&text)), expected);
    let said = ids(&text).wrong[0].to_string();
    assert_eq!(said, "line 4 has 1 field, the header has 4");
}

#[test]
fn an_opened_quotation_mark_swallows_no_device() {
    let table = |rows: &str| format!("Device ID,Note,Device name\n{ONE},ok,pc-1\n{rows}");
    for (rows, wrong) in [
        // Never closed.
        (
            format!("{TWO},\"kiosk 21 inch,pc-2\n{THREE},ok,pc-3\n{FOUR},ok,pc-4\n"),
            (3, (3, 5), Problem::OpenQuote),
        ),
        // Closed where the next one is opened.
        (
            format!("{TWO},\"kiosk,pc-2\n{THREE},\"ok\",pc-3\n{FOUR},ok,pc-4\n"),
            (3, (3, 4), Problem::QuotedRows),
        ),
        (
            format!("{TWO},\"kiosk,pc-2\n{THREE},\"\",pc-3\n{FOUR},ok,pc-4\n"),
            (3, (3, 5), Problem::OpenQuote),
        ),
        // Closed by another stray one, so that the row has the right number of fields.
        (
            format!("{TWO},\"kiosk,pc-2\n{THREE},ok,pc-3\n{FOUR},kiosk\",pc-4\n"),
            (3, (3, 5), Problem::QuotedRows),
        ),
        (
            format!("{TWO},\"kiosk,pc-2\n1.23E+39,kiosk\",pc-3\n"),
            (3, (3, 4), Problem::QuotedRows),
        ),
        (
            format!("{TWO},\"kiosk,pc-2\nabc,x,\n\",pc-3\n"),
            (3, (3, 5), Problem::QuotedRows),
        ),
        (
            format!("{TWO},\"moved\nsee {GUID}\",pc-3\n"),
            (3, (3, 4), Problem::QuotedRows),
        ),
        // On one line.
        (
            format!("{TWO},\"kiosk\" 21,pc-2\n{THREE},ok,pc-3\n"),
            (3, (3, 3), Problem::AfterQuote),
        ),
        (
            format!("{TWO},kiosk 21\" wide,pc-2\n{THREE},ok,pc-3\n"),
            (3, (3, 3), Problem::StrayQuote),
        ),
        // After a field that goes over lines.
        (
            format!("{TWO},\"a\nb\",\"pc-2\n{THREE},ok,pc-3\n"),
            (4, (3, 5), Problem::OpenQuote),
        ),
    ] {
        let list = ids(&table(&rows));
        assert_eq!(problems(&list)[0], wrong, "{rows}");
        for id in [ONE, TWO, THREE, FOUR] {
            let line = table(&rows).lines().position(|line| line.contains(id));
            let is_reported =
                |line: usize| list.wrong.iter().any(|w| w.lines.contains(&(line + 1)));
            let is_found = named(&list).contains(&id.to_owned());
            assert!(
                line.is_none_or(|line| is_found || is_reported(line)),
                "{rows} {id}"
            );
        }
    }
    let said = ids(&table(&format!("{TWO},\"kiosk,pc-2\n{THREE},ok,pc-3\n")));
    assert_eq!(
        said.wrong[0].to_string(),
        "line 3 opens a quotation mark that is never closed; lines 3 to 4 are not read"
    );
}

#[test]
fn a_quotation_mark_swallows_no_name() {
    for rows in [
        "\"kiosk,pc-1\nok,pc-2\nkiosk\",pc-3\n",
        "\"kiosk,pc-1\nkiosk\",pc-2\n",
        "\"kiosk,pc-1\n\",pc-2\n",
    ] {
        let table = format!("Note,Device name\n{rows}");
        let list = parse(table.as_bytes(), None, Wanted::Names).unwrap();
        assert_eq!(list.wrong[0].problem, Problem::QuotedRows, "{rows}");
        assert_eq!(list.devices, [], "{rows}");
    }
    for header in [
        "Device name,\"Note\nkiosk,\"",
        "Device name,\"Note\nkiosk,x\nlobby,\"",
        "Device name,\"Note\nkiosk\nlobby\"",
        "\"Note\nx,kiosk\ny\",Device name",
        "Device name,Note,\"Owner\nkiosk,a,b\nlobby,c,\"",
    ] {
        let table = format!("{header}\npc-1,x\n");
        let list = parse(table.as_bytes(), None, Wanted::Names).unwrap();
        assert_eq!(list.wrong[0].problem, Problem::QuotedRows, "{header}");
        assert_eq!(list.devices, [], "{header}");
    }
    for header in [
        "\"Device\nname\",Note",
        "Device name,\"Note\n(of the owner)\"",
        "Device name,\"Last\nseen\",\"Exposure\nlevel\"",
        "\"Device\nname\"",
    ] {
        let row = "pc-1".to_owned() + &",".repeat(header.matches(',').count());
        let table = format!("{header}\n{row}\n");
        let list = parse(table.as_bytes(), None, Wanted::Names).unwrap();
        assert_eq!(
            (problems(&list).len(), list.devices.len()),
            (0, 1),
            "{header}"
        );
    }
    let list = parse(b"Device name\n\"pc-1\npc-2\"\npc-3\n", None, Wanted::Names).unwrap();
    assert_eq!(problems(&list), [(2, (2, 3), Problem::QuotedRows)]);
    assert_eq!(named(&list), ["pc-3"]);
}

#[test]
fn a_quotation_mark_swallows_no_single_line() {
    let (a, b, c) = (ONE, TWO, THREE);
    for (text, wrong) in [
        (
            format!("Device ID,Note\n{a},\"\n{b}\"\n{c},x\n"),
            (2, (2, 3)),
        ),
        (
            format!("Device ID,Name,Note\n{a},pc1,\"\n{b}\n\"\n{c},pc3,x\n"),
            (2, (2, 4)),
        ),
        (
            format!("Device ID,Note,OS\n{a},\"\n{b}\n\",win\n"),
            (2, (2, 4)),
        ),
        (format!("Note,Device ID\n\"\n{a}\",{b}\n"), (2, (2, 3))),
        (format!("Device ID,\n{a},\"\n{b}\",\n"), (2, (2, 3))),
        (format!("Device ID,Note\n{a},\"{b}\n\"\n"), (2, (2, 3))),
        (
            format!("Device ID;Note\n{a};\"\n{b},x,y\n\"\n"),
            (2, (2, 4)),
        ),
        (
            format!("Device ID,Note\n{a},\"\n1.23E+39\n\"\n"),
            (2, (2, 4)),
        ),
        (
            format!("Device ID,Note\n#TYPE x,\"\n{b}\n\"\n"),
            (2, (2, 4)),
        ),
    ] {
        let (line, lines) = wrong;
        assert_eq!(
            problems(&ids(&text)),
            [(line, lines, Problem::QuotedRows)],
            "{text}"
        );
    }
    let names = |text: &str| parse(text.as_bytes(), None, Wanted::Names).unwrap();
    for note in [
        "\ndevice-002\n",
        "\nkiosk\n",
        "\ndevice-002",
        "device-002\n",
        "\nx.contoso.com",
    ] {
        let list = names(&format!("Device name,Note\ndevice-001,\"{note}\"\npc-3,\n"));
        let problems: Vec<_> = list.wrong.iter().map(|w| &w.problem).collect();
        assert_eq!(problems, [&Problem::QuotedRows], "{note:?}");
        assert_eq!(named(&list), ["pc-3"], "{note:?}");
    }
    for note in [
        "VIP\nLab",
        "cleaned.\n",
        "\nsee below",
        "cleaned\nby Ann on Friday\n\nreturned",
    ] {
        let list = names(&format!("Device name,Note\npc-1,\"{note}\"\n"));
        assert_eq!(
            (named(&list), list.wrong),
            (vec!["pc-1".to_owned()], vec![])
        );
    }
    // In their own column nothing is lost.
    let list = ids(&format!("Device ID,Note\n\"{a}\n\",x\n\"\n{b}\n\",\n"));
    assert_eq!(
        (named(&list), list.wrong.len()),
        (vec![a.into(), b.into()], 0)
    );
}

#[test]
fn a_note_may_go_over_several_lines() {
    for note in [
        "cleaned\nand returned",
        "VIP\r\nLab, 2",
        "cleaned, checked\nand returned, all ok",
        "one\n\ntwo\n",
        "a \"\"big\"\" one\nkiosk",
    ] {
        let table =
            format!("Device ID,Note,Device name,OS\n{ONE},\"{note}\",pc-1,W\n{TWO},\"\",pc-2,W\n");
        let list = ids(&table);
        assert_eq!(list.wrong, [], "{note:?}");
        assert_eq!(named(&list), [ONE, TWO], "{note:?}");
        let lines = note.replace('\r', "").matches('\n').count();
        assert_eq!(list.devices[1].line, 3 + lines, "{note:?}");
    }
    let table = format!("Device ID, Note\n{ONE}, \"PC, the second\" \n=\"{TWO}\",\n'{THREE},\n");
    assert_eq!(named(&ids(&table)), [ONE, TWO, THREE]);
}

#[test]
fn a_nul_byte_is_reported_with_its_line() {
    let list = ids(&format!("{ONE}\n{TWO}\0\n{THREE}\n"));
    assert_eq!(problems(&list), [(2, (2, 2), Problem::Nul)]);
    let list = ids(&format!("Device ID,Note\n{ONE},a\0b\n{TWO},\n"));
    assert_eq!(problems(&list), [(2, (2, 2), Problem::Nul)]);
    assert_eq!(named(&list), [TWO]);
}

#[test]
fn lines_end_as_on_any_system_and_letters_are_of_any_unicode_encoding() {
    let utf_16 = |text: &str, bytes: fn(u16) -> [u8; 2]| {
        text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()
    };
    let lists = [
        (Wanted::Ids, format!("{ONE}\n{TWO}\n"), [ONE, TWO]),
        (
            Wanted::Ids,
            format!("Device ID,Note\n{ONE},ü\n{TWO},\n"),
            [ONE, TWO],
        ),
        (
            Wanted::Ids,
            format!("[{{\"id\":\"{ONE}\"}},\n{{\"id\":\"{TWO}\"}}]\n"),
            [ONE, TWO],
        ),
        (
            Wanted::Names,
            "büro-pc01\n一-电脑\n".to_owned(),
            ["büro-pc01", "一-电脑"],
        ),
    ];
    for (wanted, list, expected) in lists {
        for end in ["\n", "\r\n", "\r"] {
            let text = list.replace('\n', end);
            let marked = format!("\u{feff}{text}");
            for bytes in [
                text.clone().into_bytes(),
                marked.clone().into_bytes(),
                utf_16(&text, u16::to_le_bytes),
                utf_16(&text, u16::to_be_bytes),
                utf_16(&marked, u16::to_le_bytes),
                utf_16(&marked, u16::to_be_bytes),
            ] {
                let list = parse(&bytes, None, wanted).unwrap();
                assert_eq!(
                    (named(&list), list.wrong),
                    (expected.map(str::to_owned).to_vec(), vec![]),
                    "{bytes:?}"
                );
            }
        }
    }
    let mixed = format!("{ONE}\r{TWO}\r\n{THREE}\n");
    assert_eq!(
        ids(&mixed)
            .devices
            .iter()
            .map(|d| d.line)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    // Of an old code page, which could be any.
    let list = parse(b"Device name\nb\xfcro\n", None, Wanted::Names).unwrap();
    assert!(matches!(list.wrong[0].problem, Problem::Encoding(_)));
    let table = [b"Device ID,Note\n", ONE.as_bytes(), b",b\xfcro\n"].concat();
    assert_eq!(named(&parse(&table, None, Wanted::Ids).unwrap()), [ONE]);
}

#[test]
fn json_is_read_in_every_form_that_apis_and_shells_write() {
    let object =
        |id: &str| format!("{{\r\n    \"id\":  \"{id}\",\r\n    \"name\":  \"x\"\r\n}}\r\n");
    let page = |id: &str, more: &str| {
        format!("{{\"@odata.context\":\"c\",\"value\":[{{\"id\":\"{id}\"}}]{more}}}")
    };
    for text in [
        object(ONE) + &object(TWO),
        format!("[\"{ONE}\",\"{TWO}\"]"),
        format!("[{},{}]", object(ONE), object(TWO)),
        format!("{{\"id\":\"{ONE}\"}}\n{{\"id\":\"{TWO}\"}}"),
        format!("{{\"id\":\"{ONE}\"}}{{\"id\":\"{TWO}\"}}"),
        format!("\u{1e}{{\"id\":\"{ONE}\"}}\n\u{1e}{{\"id\":\"{TWO}\"}}\n"),
        format!(
            "{}\n{}",
            page(ONE, ",\"@odata.nextLink\":\"https://x\""),
            page(TWO, "")
        ),
        format!(
            "[{},{}]",
            page(ONE, ",\"@odata.nextLink\":\"https://x\""),
            page(TWO, "")
        ),
        page(ONE, ",\"@odata.nextLink\":null") + &page(TWO, ""),
        format!("{{\"value\":[{{\"id\":\"{ONE}\"}},{{\"id\":\"{TWO}\"}}],\"Count\":2}}"),
        format!(
            "{{\"Schema\":[{{\"Name\":\"DeviceId\"}}],\"Results\":[{{\"DeviceId\":\"{ONE}\"}},{{\"DeviceId\":\"{TWO}\"}}]}}"
        ),
        format!(
            "{{\"schema\":[],\"results\":[{{\"DeviceId\":\"{ONE}\"}},{{\"DeviceId\":\"{TWO}\"}}]}}"
        ),
        format!(
            "{{\"responses\":[{{\"id\":\"1\",\"status\":200,\"body\":{}}},{{\"id\":\"2\",\"body\":{}}}]}}",
            page(ONE, ""),
            page(TWO, "")
        ),
        format!("{{\"value\":{{\"id\":\"{ONE}\"}}}}\n\"{TWO}\"\n"),
        format!(
            "{{\"id\":\"{ONE}\",\"data\":{{\"x\":[1]}}}}\n{{\"id\":\"{TWO}\",\"items\":[]}}\n\u{1a}"
        ),
        format!("{{\"id\":\"{ONE}\",\"id\":\"{ONE}\"}}\n{{\"id\":\"7\",\"machineId\":\"{TWO}\"}}"),
    ] {
        let list = ids(&text);
        assert_eq!(list.wrong, [], "{text}");
        assert_eq!(named(&list), [ONE, TWO], "{text}");
    }
    assert_eq!(named(&ids(&format!("\"{ONE}\""))), [ONE]);
    let lines = ids(&(object(ONE) + "\n" + &format!("[\n\"{TWO}\",\n\"{THREE}\"]")));
    assert_eq!(
        lines.devices.iter().map(|d| d.line).collect::<Vec<_>>(),
        [2, 7, 8]
    );
}

#[test]
fn the_link_to_a_missing_page_is_named() {
    let one = format!("[{{\"id\":\"{ONE}\"}}]");
    for (member, name) in [
        ("\"nextLink\":\"x\"", "nextLink"),
        ("\"$skipToken\":\"x\"", "$skipToken"),
        ("\"paging\":{\"a\":1,\"next\":\"x\"}", "paging.next"),
    ] {
        let list = ids(&format!("{{{member},\"value\":{one}}}"));
        assert_eq!(
            problems(&list),
            [(1, (1, 1), Problem::NotTheLastPage(name.to_owned()))]
        );
        let said = list.wrong[0].to_string();
        assert!(said.contains(&format!("({name})")), "{said}");
    }
}

#[test]
fn another_list_is_not_the_next_page() {
    let page = |member: &str, id: &str, more: &str| {
        format!("{{\"{member}\":[{{\"id\":\"{id}\"}}]{more}}}\n")
    };
    let link = ",\"nextLink\":\"x\"";
    let problem = || Problem::NotTheLastPage("nextLink".to_owned());
    let other = page("value", ONE, link) + &page("results", TWO, "");
    assert_eq!(problems(&ids(&other)), [(1, (1, 1), problem())]);
    let both = page("value", ONE, link) + &page("results", TWO, link);
    assert_eq!(
        problems(&ids(&both)),
        [(1, (1, 1), problem()), (2, (2, 2), problem())]
    );
    let mixed = page("value", ONE, link) + &page("results", TWO, "") + &page("Value", THREE, "");
    assert_eq!(ids(&mixed).wrong, []);
    let nested = format!("{{\"data\":{}}}", page("value", ONE, link).trim());
    assert_eq!(problems(&ids(&nested)), [(1, (1, 1), problem())]);
    assert_eq!(ids(&(nested + &page("value", TWO, ""))).wrong, []);
}

#[test]
fn a_list_with_fewer_items_than_it_states_is_reported() {
    let page = |count: &str, ids: &[&str]| {
        let items: Vec<_> = ids
            .iter()
            .map(|id| format!("{{\"id\":\"{id}\"}}"))
            .collect();
        format!("{{{count}\"value\":[{}]}}\n", items.join(","))
    };
    let three = "\"@odata.count\":3,";
    for whole in [
        page(three, &[ONE, TWO, THREE]),
        page(three, &[ONE]) + &page(three, &[TWO, THREE]),
        page(three, &[ONE]) + &page("", &[TWO]) + &page("", &[THREE]),
        page("\"@odata.count\":\"3\",", &[ONE, ONE, TWO]),
        page("\"@odata.count\":1,", &[ONE]) + &page("\"@odata.count\":1,", &[TWO]),
        page("\"@odata.count\":null,", &[ONE]),
        format!("{{\"@odata.count\":2,\"value\":{}}}", page("", &[ONE, TWO])),
    ] {
        assert_eq!(ids(&whole).wrong, [], "{whole}");
    }
    let missing = |items| Problem::ItemsMissing { count: 3, items };
    for (text, items) in [
        (page(three, &[ONE, TWO]), 2),
        (page("\"odata.count\":\"3\",", &[]), 0),
        (page(three, &[ONE]) + &page(three, &[TWO]), 2),
        (page(three, &[ONE]) + "{\"results\":[{\"id\":\"2\"},7]}", 1),
        (
            format!("{{\"@odata.count\":3,\"value\":{}}}", page("", &[ONE, TWO])),
            2,
        ),
        (
            format!("{{\"responses\":[{{\"body\":{}}}]}}", page(three, &[ONE])),
            1,
        ),
    ] {
        let wrong = problems(&ids(&text));
        assert!(
            wrong.iter().any(|wrong| wrong.2 == missing(items)),
            "{text}: {wrong:?}"
        );
    }
    let said = ids(&page(three, &[ONE])).wrong[0].to_string();
    assert_eq!(
        said,
        "line 1 states that the list has 3 items (@odata.count), but it has 1"
    );
}

#[test]
fn json_that_loses_devices_is_reported() {
    let one = format!("{{\"id\":\"{ONE}\"}}");
    let cases = [
        (
            format!("{{\"id\":\"{ONE}\",\n\"id\":\"{TWO}\"}}"),
            (1, (1, 2), Problem::Twice("id".to_owned())),
        ),
        (
            format!("[{one},\n{{\"id\":\"{TWO}\"}}"),
            (1, (1, 2), Problem::CutOff),
        ),
        (
            format!("{one}\n{{\n\"id\":\"{TWO}\",\n"),
            (2, (2, 3), Problem::CutOff),
        ),
        (
            format!("{{\"value\":[{one}],\n\"@odata.nextLink\":\"https://x\"}}"),
            (
                1,
                (1, 1),
                Problem::NotTheLastPage("@odata.nextLink".to_owned()),
            ),
        ),
        (
            format!("{{\"id\":\"{ONE}\",\"value\":[\"{TWO}\"]}}"),
            (1, (1, 1), Problem::SeveralLists),
        ),
        (
            format!("{{\"value\":[{one}],\n\"results\":[]}}"),
            (1, (1, 2), Problem::SeveralLists),
        ),
        (
            format!("{{\"a\":{one}}}"),
            (
                1,
                (1, 1),
                Problem::Empty {
                    wanted: Wanted::Ids,
                    column: "Device ID".to_owned(),
                },
            ),
        ),
        (
            format!(
                "{{\"responses\":[{{\"id\":\"1\",\"body\":{{\"value\":[{one}],\"@odata.nextLink\":\"x\"}}}},\n\
                 {{\"id\":\"2\",\"body\":{{\"value\":[]}}}}]}}"
            ),
            (
                1,
                (1, 1),
                Problem::NotTheLastPage("@odata.nextLink".to_owned()),
            ),
        ),
        (
            format!("{{\"value\":[{{\"value\":[{one}]}}],\"nextLink\":\"x\"}}"),
            (1, (1, 1), Problem::NotTheLastPage("nextLink".to_owned())),
        ),
        (
            "[".repeat(200) + &one + &"]".repeat(200),
            (1, (1, 1), Problem::TooDeep),
        ),
        (
            format!("[1.23457e+39,{one}]"),
            (1, (1, 1), Problem::Number("1.23457e+39".to_owned())),
        ),
    ];
    for (text, wrong) in cases {
        assert_eq!(problems(&ids(&text))[0], wrong, "{text}");
    }
    // In JSON lines the others are known; the number is the file's.
    let list = ids(&format!(
        "{one}\n{{\"id\":\"{TWO}\n{{\"id\":\"{THREE}\"}}\n{{\"id\" 7}}\n"
    ));
    assert_eq!(named(&list), [ONE, THREE]);
    assert_eq!(
        list.wrong.iter().map(|w| w.line).collect::<Vec<_>>(),
        [2, 4]
    );
    assert!(
        list.wrong[1]
            .to_string()
            .starts_with("line 4 is not JSON: expected `:`"),
        "{}",
        list.wrong[1]
    );
    assert!(
        !list.wrong[1].to_string().contains("line 1"),
        "{}",
        list.wrong[1]
    );
}

#[test]
fn json_members_with_other_devices_are_reported() {
    let (a, b) = (ONE, TWO);
    for text in [
        format!("{{\"machines\":[{{\"id\":\"{a}\"}}],\"servers\":[{{\"id\":\"{b}\"}}]}}"),
        format!("{{\"devices\":[\"{a}\"],\"groups\":[{{\"devices\":[\"{b}\"]}}]}}"),
        format!("{{\"value\":[\"{a}\"],\"value2\":[\"{b}\"]}}"),
        format!("{{\"value\":[\"{a}\"],\"first\":\"{b}\"}}"),
        format!("{{\"id\":\"{a}\",\"others\":[{{\"id\":\"{b}\"}}]}}"),
        format!("{{\"id\":\"{a}\",\"others\":[\"{b}\"]}}"),
    ] {
        let found = problems(&ids(&text));
        assert_eq!(found, [(1, (1, 1), Problem::SeveralLists)], "{text}");
    }
    for text in [
        r#"{"machines":[{"name":"pc-1"}],"servers":[{"name":"pc-2"}]}"#,
        r#"{"devices":["pc-1"],"more":["pc-2"]}"#,
        r#"{"deviceName":"pc-1","others":[{"deviceName":"pc-2"}]}"#,
    ] {
        let list = parse(text.as_bytes(), None, Wanted::Names).unwrap();
        let found = problems(&list);
        assert_eq!(found, [(1, (1, 1), Problem::SeveralLists)], "{text}");
    }
    for kind in ["run", "summary", "error"] {
        let list = ids(&format!("{{\"type\":\"{kind}\",\"machine\":\"{a}\"}}"));
        assert!(
            matches!(list.wrong[0].problem, Problem::Empty { .. }),
            "{kind}"
        );
    }
    // What this program prints, and what the service answers.
    for text in [
        format!(
            "{{\"type\":\"error\",\"error\":{{\"message\":\"unknown device {b}\"}}}}\n\
             {{\"type\":\"device\",\"machine_id\":\"{a}\",\"name\":\"pc-1\",\
             \"action\":{{\"id\":\"{GUID}\",\"machineId\":\"{a}\"}}}}"
        ),
        format!(
            "{{\"id\":\"{a}\",\"computerDnsName\":\"pc-1\",\"machineTags\":[\"lab\"],\
             \"vmMetadata\":{{\"vmId\":\"{GUID}\",\"name\":\"vm-7\"}},\"hashes\":[\"{b}\"],\
             \"ipAddresses\":[{{\"ipAddress\":\"10.0.0.1\"}}],\"evidence\":[{{\"sha1\":\"{b}\"}}]}}"
        ),
        format!(
            "{{\"Stats\":{{\"name\":\"x\"}},\"Schema\":[{{\"Name\":\"DeviceId\"}}],\
             \"Results\":[{{\"DeviceId\":\"{a}\",\"DeviceName\":\"pc-1\"}}]}}"
        ),
    ] {
        assert_eq!(devices(&text, Wanted::Ids), [ONE], "{text}");
        assert_eq!(devices(&text, Wanted::Names), ["pc-1"], "{text}");
    }
}

#[test]
fn a_comment_has_white_space_before_it() {
    let list = ids(&format!("{ONE}#{TWO}\n#{THREE}\n{FOUR}\t#x\n"));
    assert_eq!(named(&list), [FOUR]);
    assert_eq!(list.wrong.iter().map(|w| w.line).collect::<Vec<_>>(), [1]);
}

#[test]
fn two_columns_with_different_ids_are_reported() {
    let different = Problem::Different("machineId".to_owned(), "Device ID".to_owned());
    for text in [
        format!("machineId,Device ID\n{ONE},{TWO}\n"),
        format!("{{\"machineId\":\"{ONE}\",\"Device ID\":\"{TWO}\"}}"),
    ] {
        let list = ids(&text);
        assert_eq!(
            (list.devices.len(), &list.wrong[0].problem),
            (0, &different)
        );
    }
    let text = format!(
        "machineId,Device ID\n{ONE},{}\n{TWO},{GUID}\n",
        ONE.to_uppercase()
    );
    assert_eq!(devices(&text, Wanted::Ids), [ONE, TWO]);
}

#[test]
fn a_missing_column_is_reported_with_ten_that_are_there() {
    let names: Vec<_> = (0..100_000).map(|n| format!("x{n}")).collect();
    let error = parse(
        names.join(",").replacen("x9", "\u{1b}", 1).as_bytes(),
        Some("sensor"),
        Wanted::Ids,
    );
    let told = error.unwrap_err().to_string();
    assert!(told.ends_with(", x8, \\u{1b} and 99990 more"), "{told}");
    assert!(told.len() < 250, "{told}");
}

#[test]
fn a_quotation_mark_in_the_header_is_reported_with_its_line() {
    let list = ids(&format!("\nDevice ID,\"Note\n{ONE},\"\n{TWO},x\n"));
    assert_eq!(problems(&list), [(2, (2, 4), Problem::QuotedRows)]);
}

#[test]
fn a_next_page_is_seen_in_other_shapes() {
    let page = |link: &str| ids(&format!("{{\"value\":[\"{ONE}\"],{link}}}"));
    for (link, name) in [
        (r#""next":"https://x""#, "next"),
        (r#""links":{"next":"https://x"}"#, "links.next"),
        (r#""_links":{"next":{"href":"https://x"}}"#, "_links.next"),
        (r#""$skipToken":"x""#, "$skipToken"),
    ] {
        let list = page(link);
        assert_eq!(
            problems(&list),
            [(1, (1, 1), Problem::NotTheLastPage(name.to_owned()))],
            "{link}"
        );
    }
    for link in [
        r#""next":null"#,
        r#""links":{"self":"https://x","next":null}"#,
    ] {
        assert_eq!(page(link).wrong, [], "{link}");
    }
}

#[test]
fn an_id_is_taken_from_the_address_of_a_device_page() {
    for address in [
        format!("https://security.microsoft.com/machines/v2/{ONE}/overview?tid={GUID}"),
        format!("https://security.microsoft.com/machines/v2/{ONE}"),
        format!("https://security.microsoft.com/machines/{ONE}"),
        format!(
            "HTTPS://Security.Microsoft.com/machines/{}/timeline#x",
            ONE.to_uppercase()
        ),
        format!("security.microsoft.com/machines/v2/{ONE}/"),
        format!("https://security.microsoft.us/machines/v2/{ONE}?tid={GUID}"),
        format!("https://securitycenter.windows.com/machines/{ONE}/main"),
    ] {
        for wanted in [Wanted::Ids, Wanted::Names] {
            assert_eq!(
                wanted.read(&address),
                Ok(Named::Id(ONE.parse().unwrap())),
                "{address}"
            );
        }
        assert_eq!(named(&ids(&format!("{address}\n{TWO}\n"))), [ONE, TWO]);
    }
    for address in [
        format!("https://security.microsoft.com/machines/v2/{}", &ONE[1..]),
        format!("https://security.microsoft.com/machines/v2/{ONE}0"),
        format!("https://security.microsoft.com/machines/v3/{ONE}"),
        format!("https://security.microsoft.com/machines/v2/v2/{ONE}"),
        format!("https://security.microsoft.com/users/{ONE}"),
        format!("https://security.microsoft.com/x?u=/machines/{ONE}"),
        format!("https://security.microsoft.com.evil.test/machines/{ONE}"),
        format!("https://security.microsoft.com@evil.test/machines/{ONE}"),
        format!("https://security.microsoft.com:443@evil.test/machines/{ONE}"),
        format!("http://security.microsoft.com/machines/{ONE}"),
        "https://security.microsoft.com/machines".to_owned(),
    ] {
        for wanted in [Wanted::Ids, Wanted::Names] {
            assert_eq!(
                wanted.read(&address),
                Err(Problem::Address(address.clone()))
            );
        }
    }
}

#[test]
fn what_a_spreadsheet_made_a_number_of_is_no_id() {
    for number in [
        "1.23457E+39",
        "1,23457E+39",
        "1E+39",
        "1.2e39",
        &format!("12345{}", "0".repeat(35)),
    ] {
        let problem = Wanted::Ids.read(number).unwrap_err();
        assert_eq!(problem, Problem::Number(number.to_owned()));
    }
    assert!(Wanted::Ids.read(&"0".repeat(40)).is_ok());
    assert!(matches!(Wanted::Ids.read("12e39"), Err(Problem::Name(_))));
}

#[test]
fn a_file_that_is_no_text_is_refused_in_one_line() {
    let what = |bytes: &[u8]| match parse(bytes, None, Wanted::Ids) {
        Err(InputError::NotAList { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let wide = |text: &str| {
        text.encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>()
    };
    let old = |part: &str| {
        [
            &[0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1][..],
            &wide(part),
        ]
        .concat()
    };
    for (bytes, expected) in [
        (
            b"PK\x03\x04\x14\0\x06\0[Content_Types].xml xl/workbook.xml".to_vec(),
            "an Excel workbook",
        ),
        (
            b"PK\x03\x04mimetypeapplication/vnd.oasis.opendocument.spreadsheet".to_vec(),
            "an OpenDocument spreadsheet",
        ),
        (
            b"PK\x03\x04 Index/Document.iwa".to_vec(),
            "a Numbers spreadsheet",
        ),
        (b"PK\x03\x04 list.csv".to_vec(), "a ZIP archive"),
        (old("Workbook"), "an Excel workbook"),
        (old("EncryptedPackage"), "an Office document"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3".to_vec(), "a PDF"),
        (b"\x1f\x8b\x08\0".to_vec(), "a compressed file"),
        (b"\x89PNG\r\n\x1a\n".to_vec(), "an image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF".to_vec(), "an image"),
        (b"SQLite format 3\0".to_vec(), "a database"),
        ((0..=255).cycle().take(4000).collect(), "a binary file"),
        (b"\n <!DOCTYPE html><html>".to_vec(), "a web page"),
        (b"<?xml version=\"1.0\"?>".to_vec(), "an XML file"),
        (b"{\\rtf1\\ansi}".to_vec(), "a text with formatting (RTF)"),
    ] {
        assert_eq!(what(&bytes), expected, "{bytes:?}");
    }
    let workbook = parse(b"PK\x03\x04 xl/", None, Wanted::Ids).unwrap_err();
    assert_eq!(workbook.to_string(), "is an Excel workbook; save it as CSV");
}

#[test]
fn names_are_those_that_windows_allows_and_compared_without_case() {
    let text = "Device name\nbüro-pc01.contoso.com\nBÜRO-PC01.CONTOSO.COM.\ndevice-001.contoso.com\n电脑\n";
    let list = parse(text.as_bytes(), None, Wanted::Names).unwrap();
    assert_eq!(
        named(&list),
        ["büro-pc01.contoso.com", "device-001.contoso.com", "电脑"]
    );
    assert_eq!((list.repeated, list.wrong.len()), (1, 0));
}

#[test]
fn comments_and_repeated_lines_are_accounted_for() {
    let list = ids(&format!(
        "Device ID,Note\n{ONE},\n#{TWO},not this one\n# or these\n{ONE},\n"
    ));
    assert_eq!(
        (named(&list), list.repeated, list.wrong.len()),
        (vec![ONE.to_owned()], 1, 0)
    );
    // A number is no comment.
    let list = ids(&format!("#,Device ID\n1,{ONE}\n#2,{TWO}\n#3,x\n"));
    assert_eq!(named(&list), [ONE, TWO]);
    assert_eq!(list.wrong[0].line, 4);
    let twice = parse(
        format!("Device ID,OS,DeviceId\n{ONE},W,{TWO}\n").as_bytes(),
        None,
        Wanted::Ids,
    );
    let same = InputError::SameColumns {
        column: "Device ID".to_owned(),
        count: 2,
    };
    assert_eq!(twice, Err(same));
}

#[test]
fn a_million_lines_are_no_trouble() {
    let ids: String = (0..1_000_000).map(|n| format!("{n:040x}\n")).collect();
    let names: String = (0..1_000_000).map(|n| format!("pc-{n}\n")).collect();
    for (text, wanted) in [(ids, Wanted::Ids), (names, Wanted::Names)] {
        let list = parse(text.as_bytes(), None, wanted).unwrap();
        assert_eq!(list.devices.len(), 1_000_000);
    }
}

proptest! {
    #[test]
    fn whatever_the_bytes_each_device_comes_once_and_nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        lines in proptest::collection::vec("[0-9a-f]{40}|[a-z,;\t\"{}\\[\\]:]{0,20}|machineId", 0..12),
    ) {
        for text in [bytes, lines.join("\n").into_bytes()] {
            for wanted in [Wanted::Ids, Wanted::Names] {
                let Ok(list) = parse(&text, None, wanted) else {
                    continue;
                };
                let once: HashSet<_> = list.devices.iter().map(|l| &l.device).collect();
                prop_assert_eq!(once.len(), list.devices.len());
                let names_one = |listed: &Listed| matches!(listed.device, Named::Name(_));
                prop_assert!(wanted == Wanted::Names || !list.devices.iter().any(names_one));
            }
        }
    }

    /// Each line is a device, one more time, or wrong, and nothing is lost in between.
    #[test]
    fn of_plain_lines_each_is_accounted_for(
        lines in proptest::collection::vec("[0-9a-f]{40}|[a-f]{2}|pc-[0-9]|[ _.!]{1,4}|x y", 1..20),
    ) {
        for wanted in [Wanted::Ids, Wanted::Names] {
            let list = parse(lines.join("\r\n").as_bytes(), None, wanted);
            let said = lines.iter().filter(|line| !line.trim().is_empty()).count();
            let Ok(list) = list else {
                prop_assert_eq!(said, 0);
                continue;
            };
            let sum = list.devices.len() + list.repeated + list.wrong.len();
            prop_assert_eq!(sum, said);
            for listed in &list.devices {
                let line = lines[listed.line - 1].trim();
                // The root's full stop is no part of a name.
                let line = line.strip_suffix('.').unwrap_or(line);
                prop_assert_eq!(listed.device.to_string(), line);
            }
        }
    }
}

/// Lists as real tools write them, whole and damaged, and what they have by an independent count.
mod shapes {
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Shape {
        Plain,
        /// Excel's "CSV": quotes where needed, a declaration, empty fields at the end.
        Excel(char),
        /// `Export-Csv` of Windows PowerShell: a type, and everything in quotes.
        ExportCsv,
        /// A report of the portal: lines above the header, many columns.
        Portal,
        /// A note at the end of each row, and a column without a name after it.
        Noted,
        /// Each object over several lines, as `jq` and `ConvertTo-Json` print them.
        Pretty,
        Lines,
        Array,
        Texts,
        /// Pages of the API, one after another.
        Pages,
        /// `{"value": […], "Count": n}` of Windows PowerShell.
        Counted,
        Hunting,
    }

    #[derive(Clone, Copy, Debug)]
    enum Encoding {
        Utf8,
        Utf8Marked,
        Utf16Le,
        Utf16LeMarked,
        Utf16Be,
        Utf16BeMarked,
    }

    /// What goes wrong with a list on its way, at a place between 0 and 1.
    #[derive(Clone, Copy, Debug)]
    enum Damage {
        None,
        QuoteAdded(f64),
        QuoteRemoved(f64),
        SeparatorAdded(f64),
        SeparatorRemoved(f64),
        LineBreakAdded(f64),
        LineBreakRemoved(f64),
        /// A quotation mark at the end of a line, and the next at either end of the line after it.
        LineQuoted(f64),
        /// Such a line, which has lost everything but its device.
        DeviceQuoted(f64),
        CutOff(f64),
    }

    const NOTES: [&str; 8] = [
        "",
        "cleaned",
        "cleaned, and returned",
        "VIP\nLab",
        "a; b",
        "the \"big\" one",
        "büro 一",
        "one\n\nthree",
    ];

    fn shape() -> impl Strategy<Value = Shape> {
        proptest::sample::select(vec![
            Shape::Plain,
            Shape::Excel(','),
            Shape::Excel(';'),
            Shape::Excel('\t'),
            Shape::ExportCsv,
            Shape::Portal,
            Shape::Noted,
            Shape::Pretty,
            Shape::Lines,
            Shape::Array,
            Shape::Texts,
            Shape::Pages,
            Shape::Counted,
            Shape::Hunting,
        ])
    }

    fn damage() -> impl Strategy<Value = Damage> {
        let kinds: [fn(f64) -> Damage; 10] = [
            |_| Damage::None,
            Damage::QuoteAdded,
            Damage::QuoteRemoved,
            Damage::SeparatorAdded,
            Damage::SeparatorRemoved,
            Damage::LineBreakAdded,
            Damage::LineBreakRemoved,
            Damage::LineQuoted,
            Damage::DeviceQuoted,
            Damage::CutOff,
        ];
        (0..kinds.len(), 0.0..1.0).prop_map(move |(kind, place)| kinds[kind](place))
    }

    fn encoding() -> impl Strategy<Value = Encoding> {
        proptest::sample::select(vec![
            Encoding::Utf8,
            Encoding::Utf8Marked,
            Encoding::Utf16Le,
            Encoding::Utf16LeMarked,
            Encoding::Utf16Be,
            Encoding::Utf16BeMarked,
        ])
    }

    fn quoted(text: &str) -> String {
        format!("\"{}\"", text.replace('"', "\"\""))
    }

    fn write(shape: Shape, devices: &[(String, usize)]) -> String {
        let rows = devices.iter().enumerate();
        let rows = rows.map(|(n, (id, note))| (id, NOTES[*note], format!("pc-{n}.contoso.com")));
        let rows: Vec<_> = rows.collect();
        let object = |(id, note, name): &(&String, &str, String)| serde_json::json!({ "id": id, "note": note, "computerDnsName": name });
        let objects: Vec<_> = rows.iter().map(object).collect();
        let mut text = String::new();
        match shape {
            Shape::Plain => {
                text += "# cleaned on Friday\n\n";
                for (n, (id, _, _)) in rows.iter().enumerate() {
                    text += &match n % 4 {
                        0 => format!("{id}\n"),
                        1 => format!("  \"{id}\",\n"),
                        2 => format!("{id}  # Ann's\n"),
                        _ => format!("{id};\n\n"),
                    };
                }
            }
            Shape::Excel(d) => {
                text += &format!("sep={d}\nDevice name{d}Note{d}Device ID{d}OS\n");
                let cell = |cell: &str| match cell.contains([d, '"', '\n']) {
                    true => quoted(cell),
                    false => cell.to_owned(),
                };
                for (id, note, name) in &rows {
                    text += &format!("{name}{d}{}{d}{id}{d}W{d}{d}\n", cell(note));
                }
                text += &format!("{d}{d}{d}\n");
            }
            Shape::ExportCsv => {
                text += "#TYPE Selected.System.Object\n\"id\",\"name\",\"note\"\n";
                for (id, note, name) in &rows {
                    text += &format!("\"{id}\",\"{name}\",{}\n", quoted(note));
                }
            }
            Shape::Portal => {
                text += "Device inventory,,,,\nExported 2026-01-30,,,,\n\n";
                text += "Device ID,Device name,Tags,OS,Risk level\n";
                for (id, note, name) in &rows {
                    text += &format!("{id},\"{name}\",{},Windows11,High\n", quoted(note));
                }
            }
            Shape::Noted => {
                text += "Device ID,Device name,Note,\n";
                for (id, note, name) in &rows {
                    let note = match *note {
                        "" => String::new(),
                        note => quoted(note),
                    };
                    text += &format!("{id},{name},{note}\n");
                }
            }
            Shape::Pretty => {
                for object in &objects {
                    text += &format!("{object:#}\n");
                }
            }
            Shape::Lines => {
                for object in &objects {
                    text += &format!("{object}\n");
                }
            }
            Shape::Array => text = format!("{:#}\n", serde_json::json!(objects)),
            Shape::Texts => {
                let ids: Vec<_> = rows.iter().map(|(id, _, _)| id).collect();
                text = format!("{:#}\n", serde_json::json!(ids));
            }
            Shape::Pages => {
                let pages = objects.chunks(2).collect::<Vec<_>>();
                for (n, page) in pages.iter().enumerate() {
                    let mut envelope = serde_json::json!({ "@odata.context": "x", "value": page });
                    if n + 1 < pages.len() {
                        envelope["@odata.nextLink"] = "https://x".into();
                    }
                    text += &format!("{envelope}\n");
                }
            }
            Shape::Counted => {
                let counted = serde_json::json!({ "value": objects, "Count": objects.len() });
                text = format!("{counted:#}\n");
            }
            Shape::Hunting => {
                let results = rows
                    .iter()
                    .map(|(id, _, name)| serde_json::json!({ "DeviceName": name, "DeviceId": id }));
                let schema = [serde_json::json!({ "Name": "DeviceId", "Type": "String" })];
                let results: Vec<_> = results.collect();
                text = serde_json::json!({ "Schema": schema, "Results": results }).to_string();
            }
        }
        text
    }

    /// Puts quotation marks around the line break before a line and the line itself, or its device.
    fn swallowed(text: &str, at: f64, is_whole: bool) -> String {
        let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
        let at = at * lines.len().saturating_sub(1) as f64;
        let (n, variant) = (at as usize, (at.fract() * 4.0) as usize);
        if n + 1 >= lines.len() {
            return text.to_owned();
        }
        if !is_whole {
            let next = &lines[n + 1];
            let mut words = next.split(|c: char| !c.is_ascii_alphanumeric() && !"-.".contains(c));
            let device = words.find(|w| w.len() == 40 || w.ends_with(".contoso.com"));
            lines[n + 1] = device.unwrap_or(next).to_owned();
        }
        lines[n] += match variant % 2 {
            0 => ",\"",
            _ => "\"",
        };
        match variant / 2 {
            0 => lines[n + 1].push('"'),
            _ => lines[n + 1] += "\n\"",
        }
        lines.join("\n")
    }

    fn damaged(text: &str, damage: Damage) -> String {
        match damage {
            Damage::LineQuoted(at) => return swallowed(text, at, true),
            Damage::DeviceQuoted(at) => return swallowed(text, at, false),
            _ => {}
        }
        let mut chars: Vec<char> = text.chars().collect();
        let place = |place: f64, of: usize| (place * of as f64) as usize;
        let remove = |chars: &mut Vec<char>, at: f64, what: &[char]| {
            let there: Vec<usize> = (0..chars.len())
                .filter(|n| what.contains(&chars[*n]))
                .collect();
            if let Some(at) = there.get(place(at, there.len())) {
                chars.remove(*at);
            }
        };
        let len = chars.len();
        match damage {
            Damage::None | Damage::LineQuoted(_) | Damage::DeviceQuoted(_) => {}
            Damage::QuoteAdded(at) => chars.insert(place(at, len), '"'),
            Damage::SeparatorAdded(at) => chars.insert(place(at, len), ','),
            Damage::LineBreakAdded(at) => chars.insert(place(at, len), '\n'),
            Damage::QuoteRemoved(at) => remove(&mut chars, at, &['"']),
            Damage::SeparatorRemoved(at) => remove(&mut chars, at, &[',', ';', '\t']),
            Damage::LineBreakRemoved(at) => remove(&mut chars, at, &['\n']),
            Damage::CutOff(at) => chars.truncate(place(at, len)),
        }
        chars.into_iter().collect()
    }

    fn encoded(text: &str, encoding: Encoding) -> Vec<u8> {
        let marked = format!("\u{feff}{text}");
        let utf_16 = |text: &str, bytes: fn(u16) -> [u8; 2]| {
            text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()
        };
        match encoding {
            Encoding::Utf8 => text.as_bytes().to_vec(),
            Encoding::Utf8Marked => marked.into_bytes(),
            Encoding::Utf16Le => utf_16(text, u16::to_le_bytes),
            Encoding::Utf16LeMarked => utf_16(&marked, u16::to_le_bytes),
            Encoding::Utf16Be => utf_16(text, u16::to_be_bytes),
            Encoding::Utf16BeMarked => utf_16(&marked, u16::to_be_bytes),
        }
    }

    /// Everything in a text that has the form of an id or of a name that is given here, by brute
    /// force, with the line where it stands.
    fn counted(text: &str, wanted: Wanted) -> Vec<(usize, String)> {
        let is_part = |c: char| match wanted {
            Wanted::Ids => c.is_ascii_alphanumeric(),
            Wanted::Names => c.is_ascii_alphanumeric() || c == '.' || c == '-',
        };
        let is_one = |word: &str| match wanted {
            Wanted::Ids => word.len() == 40 && word.chars().all(|c| c.is_ascii_hexdigit()),
            Wanted::Names => {
                let number = word
                    .strip_prefix("pc-")
                    .and_then(|w| w.strip_suffix(".contoso.com"));
                number.is_some_and(|n| n.len() == 1 && n.chars().all(|c| c.is_ascii_digit()))
            }
        };
        let mut all = Vec::new();
        for (n, line) in text.split('\n').enumerate() {
            let words = line.split(|c| !is_part(c)).filter(|word| is_one(word));
            all.extend(words.map(|word| (n + 1, word.to_ascii_lowercase())));
        }
        all
    }

    fn devices() -> impl Strategy<Value = Vec<(String, usize)>> {
        let id = prop_oneof![8 => "[0-9a-f]{39}[a-f]", 1 => Just(ONE.to_owned()), 1 => Just(ONE.to_uppercase())];
        proptest::collection::vec((id, 0..NOTES.len()), 1..9)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn every_device_is_found_repeated_or_on_a_reported_line(
            devices in devices(),
            shape in shape(),
            encoding in encoding(),
            end in proptest::sample::select(vec!["\n", "\r\n", "\r"]),
            damage in damage(),
        ) {
            let text = damaged(&write(shape, &devices), damage);
            let bytes = encoded(&text.replace('\n', end), encoding);
            check(&text, &bytes, Wanted::Ids, devices.len(), damage)?;
            // Where a separator is missing or there twice, what is a name depends on the columns.
            let moves_columns = matches!(
                damage,
                Damage::SeparatorAdded(_) | Damage::SeparatorRemoved(_) | Damage::LineQuoted(_) | Damage::DeviceQuoted(_)
            );
            // A header without its first column fits such rows, and then an id is what names a device.
            let moves_columns = moves_columns
                || matches!((shape, damage), (Shape::Noted, Damage::LineBreakAdded(_)));
            if !moves_columns && !matches!(shape, Shape::Plain | Shape::Texts) {
                check(&text, &bytes, Wanted::Names, devices.len(), damage)?;
            }
        }
    }

    fn check(
        text: &str,
        bytes: &[u8],
        wanted: Wanted,
        count: usize,
        damage: Damage,
    ) -> Result<(), TestCaseError> {
        let is_whole = matches!(damage, Damage::None);
        let there = counted(text, wanted);
        // A list that is rejected loses nothing.
        let Ok(list) = parse(bytes, None, wanted) else {
            prop_assert!(!is_whole, "{text}");
            return Ok(());
        };
        let found: HashSet<String> = list.devices.iter().map(|d| d.device.to_string()).collect();
        for (line, device) in &there {
            let is_reported = list.wrong.iter().any(|wrong| wrong.lines.contains(line));
            prop_assert!(
                found.contains(device) || is_reported,
                "line {line} of:\n{text}\n{list:?}"
            );
        }
        for listed in &list.devices {
            // A row begins before its device where a field in front of it goes over lines.
            let device = listed.device.to_string();
            let is_it = |(line, found): &(usize, String)| *line >= listed.line && *found == device;
            let is_one = wanted == Wanted::Ids || is_whole;
            prop_assert!(!is_one || there.iter().any(is_it), "{listed:?} of:\n{text}");
        }
        if is_whole {
            prop_assert_eq!(&list.wrong, &vec![], "{}", text);
            prop_assert_eq!(list.devices.len() + list.repeated, count, "{}", text);
        }
        Ok(())
    }
}

//! Every value of an option that the help or a page names is accepted.

use std::collections::BTreeSet;

use super::*;

/// The subcommands, with those that have some of their own.
const COMMANDS: &[&[&str]] = &[
    &["unrestrict"],
    &["restrict"],
    &["resume"],
    &["cancel"],
    &["restricted"],
    &["status"],
    &["check"],
    &["config", "show"],
    &["config", "example"],
    &["inspect"],
    &["quota"],
    &["quota", "open"],
    &["quota", "renew"],
    &["runs"],
    &["runs", "show"],
    &["runs", "purge"],
    &["report"],
    &["audit", "verify"],
    &["gateway"],
    &["completion"],
];

const OPERATOR: &str = include_str!("../../../../docs/operator.md");

/// What the settings say to an option.
fn shows(stage: &Stage, option: &str, value: &str, code: i32) -> Said {
    let mut args = vec!["config", "show", option, value];
    if (option, value) == ("--auth", "token-file") {
        args.extend(["--token-file", "token"]);
    }
    stage.bare(args).exits(code)
}

/// The possible values of each option, as the help lists them.
fn listed(help: &str) -> Vec<(String, Vec<String>)> {
    let one_line = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = one_line[from..].find("[possible values: ") {
        let start = from + at + "[possible values: ".len();
        let end = start + one_line[start..].find(']').unwrap();
        let before = &one_line[..start];
        let option = before.rfind(" --").map(|at| &before[at + 1..]);
        let option = option.and_then(|text| text.split([' ', '=']).next());
        let values = one_line[start..end].split(", ").map(str::to_owned);
        found.push((option.unwrap_or_default().to_owned(), values.collect()));
        from = end;
    }
    found
}

#[test]
fn every_value_that_the_help_lists_is_accepted() {
    let stage = Stage::new();
    let mut seen = BTreeSet::new();
    for command in COMMANDS {
        let help = stage.bare(*command).with_args(["--help"]).exits(0).out;
        for (option, values) in listed(&help) {
            for value in values {
                if !seen.insert((option.clone(), value.clone())) {
                    continue;
                }
                if *command == ["completion"] && option != "--output" {
                    let _ = stage.bare(["completion", &value]).exits(0);
                } else {
                    shows(&stage, &option, &value, 0);
                }
            }
        }
    }
    let options: BTreeSet<&str> = seen.iter().map(|(option, _)| option.as_str()).collect();
    for option in ["--auth", "--cloud", "--region", "--output"] {
        assert!(options.contains(option), "{option}: {seen:?}");
        shows(&stage, option, "nonsense", 2);
    }
}

#[test]
fn every_way_to_sign_in_that_the_help_explains_is_accepted() {
    let stage = Stage::new();
    let help = stage.bare(["check", "--help"]).exits(0).out;
    let (_, list) = help
        .split_once("With --auth METHOD, from elsewhere:\n")
        .unwrap();
    let names = list.lines().map_while(|line| line.strip_prefix("  "));
    let names: BTreeSet<&str> = names.filter_map(|line| line.split(' ').next()).collect();
    let (_, possible) = listed(&help)
        .into_iter()
        .find(|(o, _)| o == "--auth")
        .unwrap();
    let possible: BTreeSet<&str> = possible.iter().map(String::as_str).collect();
    assert_eq!(names, possible);
}

#[test]
fn every_value_that_a_page_names_for_an_option_is_accepted() {
    let stage = Stage::new();
    let mut seen = BTreeSet::new();
    // A table whose first column is headed by an option.
    let mut option = None;
    for line in OPERATOR.lines() {
        let Some(cell) = line
            .strip_prefix("| ")
            .and_then(|rest| rest.split(" | ").next())
        else {
            if !line.starts_with("|---") {
                option = None;
            }
            continue;
        };
        let quoted: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        match (option, quoted.first()) {
            (None, Some(first)) if first.starts_with("--") => option = Some(*first),
            (Some(option), _) => seen.extend(quoted.iter().map(|value| (option, *value))),
            (None, _) => {}
        }
    }
    // Names in a sentence behind the option.
    for option in ["--cloud", "--region"] {
        let Some((_, text)) = OPERATOR.split_once(&format!("`{option}` names")) else {
            continue;
        };
        let Some((names, _)) = text
            .split_once('(')
            .and_then(|(_, text)| text.split_once(')'))
        else {
            continue;
        };
        seen.extend(
            names
                .split('`')
                .skip(1)
                .step_by(2)
                .map(|value| (option, value)),
        );
    }
    for (option, value) in &seen {
        shows(&stage, option, value, 0);
    }
    for expected in [
        ("--auth", "token-file"),
        ("--ledger", "rediss://HOST"),
        ("--cloud", "dod"),
    ] {
        assert!(seen.contains(&expected), "{seen:?}");
    }
}

/// In the configuration's own comments.
#[test]
fn every_value_that_the_example_of_a_configuration_names_is_accepted() {
    let stage = Stage::new();
    let example = stage.bare(["config", "example"]).exits(0).out;
    let comment = |before: &str| {
        let (_, text) = example
            .split_once(before)
            .unwrap_or_else(|| panic!("{before:?}"));
        let text = text.replace("\n# ", " ");
        let (names, _) = text.split_once([';', '.', '[']).unwrap();
        let names = names
            .split([',', ' '])
            .filter(|name| !matches!(*name, "" | "or" | "and"));
        let names = names.take_while(|name| *name != "which");
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    for (section, key, before) in [
        ("service", "cloud", "Which of Microsoft's clouds: "),
        (
            "service",
            "region",
            "A part of the commercial cloud that is nearer: ",
        ),
        ("identity", "auth", "How to sign in: "),
    ] {
        let values = comment(before);
        assert!(values.len() > 4, "{values:?}");
        for value in values {
            let mut text = format!("[{section}]\n{key} = {value:?}\n");
            if value == "token-file" {
                text += "token-file = \"token\"\n";
            }
            std::fs::write(stage.folder.path().join("c.toml"), &text).unwrap();
            let _ = stage
                .bare(["config", "show", "--config", "c.toml"])
                .exits(0);
        }
    }
}

#[test]
fn a_token_at_hand_is_asked_for_by_its_name_as_in_a_configuration() {
    let stage = Stage::new();
    let id = stage.id();
    let token = stage.folder.path().join("token");
    std::fs::write(&token, stage.mock.token(Grant::new())).unwrap();
    let release = |more: &[&str]| {
        let args = ["unrestrict", &id, "--comment", "x", "--no-wait"];
        stage.run(args).with_args(more)
    };
    let _ = release(&["--auth", "token-file", "--token-file", "token"]).exits(0);
    release(&["--auth", "token-file"])
        .exits(2)
        .mentions("no token file is named");
    release(&["--auth", "azure-cli", "--token-file", "token"])
        .exits(2)
        .mentions("--token-file");
    assert_eq!(stage.mock.arrivals(RELEASE), 1);
}

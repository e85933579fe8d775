//! The commands that messages suggest: each works as it is printed.

use super::*;

/// What a shell needs to run them: the environment has the credentials, and nothing else.
fn paste(stage: &Stage, command: &str) -> Output {
    paste_in(stage, "", command)
}

fn paste_in(stage: &Stage, folder: &str, command: &str) -> Output {
    assert!(command.starts_with("host-demo "), "{command}");
    Command::new("sh")
        .args(["-c", command])
        .env_clear()
        .env("PATH", path_with_the_command())
        .env("HOME", stage.folder.path())
        .env("XDG_CACHE_HOME", cache())
        .env("AZURE_TENANT_ID", stage.mock.tenant_id())
        .env("AZURE_CLIENT_ID", stage.mock.client_id())
        .env("AZURE_CLIENT_SECRET", stage.mock.client_secret())
        .current_dir(stage.folder.path().join(folder))
        .output()
        .unwrap()
}

/// The first command of these words in a text, to the end of its line.
#[track_caller]
fn suggested(text: &str, words: &str) -> String {
    let from = text
        .find(words)
        .unwrap_or_else(|| panic!("no {words:?} in:\n{text}"));
    let line = text[from..].lines().next().unwrap();
    let line = line.split("; to remove it").next().unwrap();
    line.trim_end_matches(['`', ')']).to_owned()
}

/// Flags for everything that a command works with, with blanks in their values.
const FILES: [&str; 8] = [
    "--runs",
    "my runs",
    "--ledger",
    "my ledger",
    "--audit",
    "my audit",
    "--audit-key",
    "my key",
];

/// Three devices that are offline, in a run that has followed them for some time.
fn begun(stage: &Stage) -> Said {
    for id in stage.mock.machine_ids() {
        stage.mock.set_device(&id, DeviceBehaviour::Offline);
    }
    std::fs::write(stage.folder.path().join("my config.toml"), "").unwrap();
    stage
        .run(["unrestrict", "--comment", "x", "--deadline", "3m"])
        .with_args(stage.mock.machine_ids())
        .with_args(FILES)
        .with_args(["--config", "my config.toml"])
        .exits(3)
}

#[test]
fn a_run_is_resumed_by_the_command_that_it_suggests() {
    let stage = Stage::new();
    let said = begun(&stage);
    let resume = suggested(&said.out, "host-demo resume ");
    for flag in [
        "--base-url ",
        "--runs 'my runs'",
        "--config 'my config.toml'",
    ] {
        assert!(resume.contains(flag), "{resume}");
    }
    let output = paste(&stage, &format!("{resume} --deadline 20s"));
    let said = Said::new(&output);
    assert_eq!(output.status.code(), Some(3), "{resume}\n{said}");
    said.mentions("3 to be followed");
    let again = suggested(&said.out, "host-demo resume ");
    assert_eq!(again, resume);
}

#[test]
fn a_report_suggests_commands_that_work_in_any_folder() {
    let stage = Stage::new();
    let _ = begun(&stage);
    let report = ["report", "last", "--runs", "my runs"];
    let said = stage.bare(report).exits(0);
    let elsewhere = stage.folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let runs = stage.folder.path().join("my runs");
    let said_elsewhere = stage
        .bare(["report", "last", "--output", "json", "--runs"])
        .with_args([&runs])
        .exits(0);
    let resume = suggested(&said.out, "host-demo resume ");
    let output = paste(&stage, &format!("{resume} --deadline 20s"));
    assert_eq!(
        output.status.code(),
        Some(3),
        "{resume}\n{}",
        Said::new(&output)
    );
    let verify = suggested(&said.out, "host-demo audit verify ");
    let output = paste(&stage, &verify);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{verify}\n{}",
        Said::new(&output)
    );

    let advice = said_elsewhere.json()[0]["advice"]["pending"]
        .as_str()
        .unwrap()
        .to_owned();
    let resume = suggested(&advice, "host-demo resume ");
    let output = paste_in(&stage, "elsewhere", &format!("{resume} --deadline 20s"));
    assert_eq!(
        output.status.code(),
        Some(3),
        "{resume}\n{}",
        Said::new(&output)
    );

    let page = stage.bare(["report", "last", "--runs", "my runs", "--html", "page.html"]);
    let _ = page.exits(0);
    let page = std::fs::read_to_string(stage.folder.path().join("page.html")).unwrap();
    assert!(page.contains("<span>--base-url</span>"), "{page}");

    let purge = stage
        .bare(["runs", "purge", "last", "--runs", "my runs"])
        .exits(1);
    let resume = suggested(&purge.err, "host-demo resume ");
    let output = paste(&stage, &format!("{resume} --deadline 20s"));
    assert_eq!(
        output.status.code(),
        Some(3),
        "{resume}\n{}",
        Said::new(&output)
    );
}

#[test]
fn a_device_is_shown_and_a_run_found_by_the_commands_that_are_suggested() {
    let switches = Switches {
        visible_after: std::time::Duration::ZERO,
        ..Switches::default()
    };
    let stage = Stage::with(switches, &[]);
    let _ = begun(&stage);
    let unknown = stage.bare(["report", "nope", "--runs", "my runs"]).exits(2);
    let runs = suggested(&unknown.err, "host-demo runs");
    let output = paste(&stage, &runs);
    Said::new(&output).mentions("3 pending");

    let id = stage.id();
    stage.restrict(&id, "INC-42");
    let restricting = defender_mock::ActionType::RestrictCodeExecution;
    let other = stage.mock.machine_ids()[1].clone();
    assert!(stage.mock.begin(restricting, &other, "INC-42", "somebody"));
    let said = stage.run(["restricted", "--ledger", "my ledger"]).exits(0);
    let status = suggested(&said.err, "host-demo status MACHINE_ID");
    let output = paste(&stage, &status.replace("MACHINE_ID", &id));
    Said::new(&output).mentions("restriction");
}

#[test]
fn a_lost_and_a_damaged_ledger_are_opened_and_renewed_by_the_commands_that_are_suggested() {
    let stage = Stage::new();
    let ledger = stage.folder.path().join("my ledger");
    std::fs::write(
        &ledger,
        b"no database, and longer than its header".repeat(9),
    )
    .unwrap();
    let id = stage.id();
    let args = ["unrestrict", &id, "--comment", "x", "--no-wait"];
    let release = || {
        let mut run = stage
            .bare(args)
            .connected_without_ca()
            .with_args(["--ca-file", "ca.pem"]);
        run.command
            .args(["--ledger", "my ledger", "--deadline", "10m"]);
        run.env("AZURE_CLIENT_SECRET", stage.mock.client_secret())
    };
    let said = release().exits(2);
    let renew = suggested(&said.err, "host-demo quota renew");
    let output = paste(&stage, &renew);
    let said = Said::new(&output);
    assert!(output.status.success(), "{renew}\n{said}");
    let open = suggested(&said.out, "host-demo quota open");
    let output = paste(&stage, &open);
    assert!(output.status.success(), "{open}\n{}", Said::new(&output));
    let _ = release().exits(0);
}

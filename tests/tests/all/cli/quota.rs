//! The quotas, as the processes of one user share them.

use std::io::{BufRead as _, BufReader};
use std::process::Child;

use tests::redis::RedisServer;

use super::*;

/// A stand-in in real time, and a configuration with a quota of two calls in an hour.
pub(super) fn strict() -> Stage {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mock = runtime
        .block_on(Mock::builder().machines(5).start())
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), mock.ca_pem().unwrap()).unwrap();
    let quotas = "[[quota]]\ncalls = 2\nper = \"1h\"\n";
    std::fs::write(folder.path().join("strict.toml"), quotas).unwrap();
    Stage {
        mock,
        folder,
        runtime,
    }
}

impl Stage {
    fn release(&self, n: usize) -> Run<'_> {
        let id = &self.mock.machine_ids()[n];
        let secret = self.mock.client_secret();
        self.bare(["unrestrict", id, "--no-wait", "--comment", "cleaned"])
            .connected_without_ca()
            .with_args(["--ca-file", "ca.pem", "--config", "strict.toml"])
            .env("AZURE_CLIENT_SECRET", secret)
    }

    fn quota(&self, args: &[&str]) -> Run<'_> {
        self.bare(["quota", "--config", "strict.toml"])
            .with_args(args)
    }

    fn ledger(&self) -> PathBuf {
        self.folder
            .path()
            .join(".local/state/host-demo/ledger.sqlite")
    }
}

#[track_caller]
fn counted(said: &Said, used: u64) -> Value {
    let lines = said.json();
    let releases = lines
        .into_iter()
        .find(|line| line["operation"] == "unrestrict-code-execution");
    let releases = releases.unwrap_or_else(|| panic!("no releases in {said}"));
    assert_eq!(releases["quotas"][0]["used"], used, "{releases}");
    releases
}

/// As Ctrl-C does.
fn interrupt(process: &Child) {
    let id = process.id().to_string();
    let mut kill = Command::new("kill");
    assert!(kill.args(["-INT", &id]).status().unwrap().success());
}

#[test]
fn what_one_process_sent_the_next_one_counts() {
    let stage = strict();
    let forecast = ["--forecast", "5"];
    stage
        .quota(&forecast)
        .exits(0)
        .mentions("no call was counted yet")
        .mentions("0 of 2, 2 left")
        .mentions("next     now")
        .mentions("5 more calls take 2 h 00 min");
    let said = stage.quota(&["--output", "json"]).with_args(forecast);
    let views = said.exits(0).json();
    let [unused] = &views[..] else {
        panic!("{views:?}")
    };
    assert_eq!(unused["operation"], Value::Null);
    assert_eq!(unused["quotas"][0]["left"], 2);
    assert_eq!(unused["forecast"]["calls"], 5);
    let seconds = unused["forecast"]["seconds"].as_f64().unwrap();
    assert!((7200.0..7212.0).contains(&seconds), "{seconds}");
    stage.release(0).exits(0);
    stage.release(1).exits(0);
    let said = stage
        .quota(&["--output", "json", "--forecast", "2"])
        .exits(0);
    let releases = counted(&said, 2);
    assert_eq!(
        (&releases["quotas"][0]["left"], &releases["why"]),
        (&0.into(), &"quota".into())
    );
    let seconds = releases["forecast"]["seconds"].as_f64().unwrap();
    assert!((3500.0..3606.0).contains(&seconds), "{seconds}");
    stage
        .quota(&["--forecast", "2"])
        .exits(0)
        .mentions("2 of 2, 0 left")
        .mentions("as many were made as it allows")
        .mentions("2 more calls take 1 h 00 min");

    // The third one waits, says until when, and is held back until it is told to stop.
    let mut third = stage.release(2).command;
    let mut third = third
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(third.stderr.take().unwrap()).lines();
    let told = lines
        .map(Result::unwrap)
        .find(|line| line.contains("waiting for the service's quota"));
    assert!(told.unwrap().contains("as many were sent as it allows"));
    interrupt(&third);
    assert_eq!(third.wait().unwrap().code(), Some(130));
    assert_eq!(stage.mock.arrivals(RELEASE), 2);
    counted(&stage.quota(&["--output", "json"]).exits(0), 2);
}

#[test]
fn who_watches_the_quota_sees_it_again_and_again_until_they_have_seen_enough() {
    let stage = strict();
    let watch = || {
        let mut command = stage.quota(&["--watch", "--output", "json"]).command;
        let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let views = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        (watch, views)
    };
    let (mut one, mut views) = watch();
    assert_eq!(views.next().unwrap()["operation"], Value::Null);
    stage.release(0).exits(0);
    let seen = views.find(|view| view["operation"] == "unrestrict-code-execution");
    assert_eq!(seen.unwrap()["quotas"][0]["used"], 1);
    interrupt(&one);
    assert_eq!(one.wait().unwrap().code(), Some(0));

    // Whoever reads no further need not press anything.
    let (mut other, mut views) = watch();
    let mut of_releases = views
        .by_ref()
        .filter(|view| view["operation"] == "unrestrict-code-execution");
    assert_eq!(of_releases.next().unwrap(), of_releases.next().unwrap());
    drop(views);
    assert_eq!(other.wait().unwrap().code(), Some(0));
}

#[test]
fn a_lost_ledger_lets_nothing_be_sent_until_somebody_says_that_nothing_was() {
    let stage = strict();
    stage.release(0).exits(0);
    std::fs::remove_file(stage.ledger()).unwrap();
    // Known only once somebody wants to send something.
    let mut waiting = stage.release(1).command;
    let mut waiting = waiting
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let told = lines
        .map(Result::unwrap)
        .find(|line| line.contains("waiting for the service's quota"));
    assert!(told.unwrap().contains("is not known"));
    let said = stage.quota(&[]).exits(0);
    said.mentions("is lost").mentions("host-demo quota open");
    stage
        .bare(["quota", "open", "--config", "strict.toml"])
        .exits(0);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    assert_eq!(stage.mock.arrivals(RELEASE), 2);
}

#[test]
fn a_damaged_ledger_lets_nothing_be_sent_and_is_put_aside_by_hand() {
    let stage = strict();
    stage.release(0).exits(0);
    std::fs::write(
        stage.ledger(),
        b"no database, and longer than its header".repeat(9),
    )
    .unwrap();
    stage
        .release(1)
        .exits(2)
        .mentions("is damaged")
        .mentions("host-demo quota renew");
    let renewed = stage
        .bare(["quota", "renew", "--config", "strict.toml"])
        .exits(0);
    renewed.mentions("put aside").mentions("quota open");
    stage
        .quota(&["--forecast", "2"])
        .exits(0)
        .mentions("no call was counted yet")
        .mentions("0 of 2, 0 left")
        .mentions("is lost")
        .mentions("2 more calls take 1 h 01 min");
    stage
        .bare(["quota", "open", "--config", "strict.toml"])
        .exits(0);
    stage.release(1).exits(0);
    assert_eq!(stage.mock.arrivals(RELEASE), 2);
}

#[test]
fn where_calls_are_counted_can_be_said_and_what_cannot_be_used_is_refused() {
    let stage = strict();
    for (ledger, problem) in [
        (
            "redis://user:hunter2@localhost",
            "HOST_DEMO_LEDGER_PASSWORD",
        ),
        ("https://localhost", "redis://"),
        (
            "ca.pem/ledger",
            "nothing is sent while calls can't be counted",
        ),
    ] {
        let said = stage.release(0).with_args(["--ledger", ledger]).exits(2);
        said.mentions(problem).hides("hunter2");
    }
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
    stage
        .release(0)
        .with_args(["--ledger", "elsewhere/calls"])
        .exits(0);
    assert!(stage.folder.path().join("elsewhere/calls").exists());
    let elsewhere = ["--output", "json", "--ledger", "elsewhere/calls"];
    counted(&stage.quota(&elsewhere).exits(0), 1);
    stage.release(1).with_args(["--ledger", "memory"]).exits(0);
    counted(&stage.quota(&elsewhere).exits(0), 1);
    assert!(!stage.ledger().exists());
}

#[test]
fn how_long_a_batch_takes_by_the_quota_is_said_before_it_is_sent() {
    let stage = strict();
    let ids = stage.mock.machine_ids().to_vec();
    let mut run = stage.release(0).with_args(&ids[1..]).command;
    let mut run = run
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(run.stderr.take().unwrap()).lines();
    let told = lines
        .map(Result::unwrap)
        .find(|line| line.contains("by what is left"));
    assert!(told.unwrap().contains("5 releases take 2 h 00 min"));
    run.kill().unwrap();
    run.wait().unwrap();
}

#[test]
fn what_the_quota_puts_off_beyond_the_deadline_is_not_sent_and_says_when_it_can_be() {
    let stage = strict();
    let ids = stage.mock.machine_ids().to_vec();
    let run = stage
        .release(0)
        .with_args(&ids[1..])
        .with_args(["--deadline", "30m"]);
    let said = run.with_args(["--output", "json"]).exits(1);
    let lines = said.json();
    let outcomes: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["outcome"].as_str())
        .collect();
    let count = |what: &str| outcomes.iter().filter(|outcome| **outcome == what).count();
    assert_eq!((count("accepted"), count("not-run")), (2, 3), "{said}");
    assert_eq!(stage.mock.arrivals(RELEASE), 2);
    // Alone, it could not run at all.
    stage
        .release(2)
        .with_args(["--deadline", "30m"])
        .exits(2)
        .mentions("no call is left before 20")
        .mentions("UTC, because as many were made as the quota allows; nothing was sent");
}

#[test]
fn machines_count_together_on_a_server_whose_password_is_shown_to_nobody() {
    let Some(server) = RedisServer::with(&["--appendonly", "yes", "--requirepass", "hunter2"])
    else {
        return;
    };
    let stage = strict();
    let url = server.url();
    std::fs::write(stage.folder.path().join("password"), "hunter2\n").unwrap();
    let run = |run: Run<'_>, code| {
        let run = run.with_args(["--ledger", &url, "-vvv"]);
        let said = run.env("HOST_DEMO_LEDGER_PASSWORD", "hunter2").exits(code);
        said.hides("hunter2");
        said
    };
    stage
        .release(0)
        .with_args(["--ledger", &url])
        .exits(2)
        .mentions(&url)
        .mentions("HOST_DEMO_LEDGER_PASSWORD");
    // It is new, which looks as if it had been lost.
    run(stage.release(0).with_args(["--deadline", "1m"]), 2).mentions("is lost");
    run(stage.bare(["quota", "open", "--config", "strict.toml"]), 0);
    run(stage.release(0), 0);
    let from_file = ["--ledger", &url, "--ledger-password-file", "password"];
    stage.release(1).with_args(from_file).exits(0);
    run(stage.release(2).with_args(["--deadline", "1m"]), 2).mentions("no call is left before");
    counted(&run(stage.quota(&["--output", "json"]), 0), 2);
    assert_eq!(stage.mock.arrivals(RELEASE), 2);
    drop(server);
    run(stage.release(2), 2).mentions("nothing is sent while calls can't be counted");
}

//! `check --pilot`: one device, restricted and released, and what is kept of it.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use defender_mock::{ActionType, Case, Header, ListFilter, Replay};
use host_demo::cloud::Service;
use host_demo::contract::MachineActionFilter;
use host_demo::host::{CallError, Host, Setup, WaitOptions};
use host_demo::identity::FixedToken;
use tests::world::real_plugin;

use super::*;

const RESTRICT: Api = Api::RestrictCodeExecution;
const RELEASE: Api = Api::UnrestrictCodeExecution;

const POLICY: &str = r#"[policy]
allow = [
    "POST /api/machines/{machine-id}/unrestrictCodeExecution",
    "POST /api/machines/{machine-id}/restrictCodeExecution",
    "GET /api/machineactions/{action-id}",
    "GET /api/machineactions?{action-filter}&{page}",
    "GET /api/machines?{dns-name}",
]
"#;

const DEVICE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

impl Stage {
    fn pilot(&self, device: &str, record: &str) -> Run<'_> {
        std::fs::write(self.folder.path().join("pilot.toml"), POLICY).unwrap();
        self.run(["check", "--pilot", device, "--record", record])
            .with_args(["--config", "pilot.toml"])
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap()
    }
}

/// What a finding says, and which switch it names.
fn found<'a>(pilot: &'a Value, question: &str) -> (&'a str, Option<&'a str>) {
    let findings = pilot["findings"].as_array().unwrap();
    let found = findings
        .iter()
        .find(|finding| finding["question"] == question);
    let found = found.unwrap_or_else(|| panic!("{question} in {pilot:#}"));
    (found["answer"].as_str().unwrap(), found["switch"].as_str())
}

#[test]
fn a_pilot_answers_the_open_questions_and_releases_the_device() {
    let usual = Switches::default();
    let unusual = Switches {
        duplicate: Duplicate::Return,
        list_filter: ListFilter::NoId,
        filter_case: Case::Insensitive,
        location: Header::Present,
        ..Switches::default()
    };
    for (switches, duplicate, by_id, case, location) in [
        (usual, "duplicate=reject", "any", "sensitive", "absent"),
        (
            unusual,
            "duplicate=return",
            "no-id",
            "insensitive",
            "present",
        ),
    ] {
        let stage = Stage::with(switches, &[DEVICE]);
        let run = stage.pilot(&DEVICE.to_uppercase(), "pilot.json");
        let lines = run.with_args(["--yes", "--output", "json"]).exits(0).json();
        let [check, pilot] = &lines[..] else {
            panic!("{lines:#?}")
        };
        assert_eq!(
            (&check["type"], &pilot["type"]),
            (&"check".into(), &"pilot".into())
        );
        assert_eq!(pilot["device"], "released");
        assert_eq!(pilot["restriction"], "Succeeded");
        assert_eq!(stage.mock.is_restricted(DEVICE), Some(false));
        assert_eq!(stage.mock.arrivals(RESTRICT), 1);
        assert_eq!(stage.mock.arrivals(RELEASE), 2, "one, and a duplicate");
        let switch = |question| found(pilot, question).1;
        assert_eq!(switch("a second release"), Some(duplicate));
        let by_id = format!("list-filter={by_id}");
        assert_eq!(switch("filter by id (eq)"), Some(by_id.as_str()));
        assert_eq!(switch("filter by ids (in)"), Some(by_id.as_str()));
        let case = format!("filter-case={case}");
        assert_eq!(switch("machineId eq, in capitals"), Some(case.as_str()));
        let location = format!("location={location}");
        assert_eq!(switch("headers of a POST"), Some(location.as_str()));
        assert_eq!(found(pilot, "status of a POST").0, "201");
        assert_eq!(found(pilot, "what a 429 contains").0, "none was met");
        assert!(found(pilot, "release ends").0.starts_with("Succeeded"));
        assert!(
            found(pilot, "an action that does not exist")
                .0
                .starts_with("404")
        );
        let visible = switch("visible by GET").unwrap();
        let seconds = visible.strip_prefix("visible-after=").unwrap();
        let seconds: u32 = seconds.strip_suffix('s').unwrap().parse().unwrap();
        assert!(seconds >= 5, "{visible}");

        // Whatever names anybody is not in the record.
        let text = stage.read("pilot.json");
        for secret in [
            DEVICE,
            "named.contoso.com",
            "Defender for Endpoint API",
            "host-demo pilot",
            stage.mock.tenant_id(),
            stage.mock.client_id(),
            stage.mock.client_secret(),
            "localhost",
            "Bearer",
        ] {
            let text = text.to_lowercase();
            assert!(!text.contains(&secret.to_lowercase()), "{secret} in {text}");
        }
        for action in stage.mock.actions() {
            assert!(!text.contains(&action.id.to_string()), "{text}");
        }
        let path = stage.folder.path().join("pilot.json");
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_pilot_by_name_prints_a_table() {
    let stage = Stage::with(Switches::default(), &[DEVICE]);
    let run = stage.pilot("Named.contoso.com", "pilot.json");
    let said = run.with_args(["--yes"]).exits(0);
    said.mentions("What the service answered")
        .mentions("stand-in: --set duplicate=reject")
        .mentions(&format!("{DEVICE} (named.contoso.com) is released"));
}

#[test]
fn a_pilot_needs_a_rule_a_confirmation_and_a_new_file() {
    let stage = Stage::with(Switches::default(), &[DEVICE]);
    let run = stage.run([
        "check",
        "--pilot",
        DEVICE,
        "--record",
        "pilot.json",
        "--yes",
    ]);
    run.exits(2)
        .mentions("the configuration does not allow restricting")
        .mentions("POST /api/machines/{machine-id}/restrictCodeExecution");
    assert!(stage.mock.requests().is_empty(), "not even a token");

    let said = stage.pilot(DEVICE, "pilot.json").exits(2);
    said.mentions("cannot ask for confirmation here; add --yes");

    std::fs::write(stage.folder.path().join("pilot.json"), "mine").unwrap();
    let run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
    run.exits(2).mentions("pilot.json can't be created");
    assert_eq!(stage.read("pilot.json"), "mine");

    let _ = stage.run(["check", "--pilot", DEVICE]).exits(2);
    let _ = stage.run(["check", "--yes"]).exits(2);
    assert_eq!(stage.mock.arrivals(RESTRICT), 0);
}

#[test]
fn a_device_that_is_restricted_or_busy_is_refused() {
    let stage = Stage::with(
        Switches {
            visible_after: Duration::ZERO,
            ..Switches::default()
        },
        &[DEVICE],
    );
    let refused = |why: &str| {
        let run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
        run.exits(2).mentions(why);
        assert_eq!(stage.mock.arrivals(RESTRICT), 0);
        assert!(!stage.folder.path().join("pilot.json").exists());
    };
    let restrict = ActionType::RestrictCodeExecution;
    stage.mock.set_device(DEVICE, DeviceBehaviour::Offline);
    assert!(
        stage
            .mock
            .begin(restrict, DEVICE, "INC-7", "alice@contoso.com")
    );
    refused("has an action that has not ended: RestrictCodeExecution");
    let at_once = DeviceBehaviour::EndsAfter {
        pending: Duration::ZERO,
        in_progress: Duration::ZERO,
        ending: Ending::Succeeded,
    };
    stage.mock.set_device(DEVICE, at_once);
    refused("the device is restricted, by action");
}

#[test]
fn an_interrupted_pilot_releases_the_device_and_says_how_to() {
    let stage = Stage::with(Switches::default(), &[DEVICE]);
    // Its restriction does not end, so the pilot waits.
    stage.mock.set_device(DEVICE, DeviceBehaviour::Offline);
    let mut run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
    let command = run.command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while stage.mock.arrivals(RESTRICT) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::yield_now();
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = Said::new(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    said.mentions("warning: interrupted")
        .mentions("MAY STILL BE RESTRICTED")
        .mentions(&format!("host-demo unrestrict {DEVICE} --override-pending"))
        .mentions(stage.mock.base_url());
    let actions = stage.mock.actions_of(DEVICE);
    let is_release = |action: &&defender_mock::MachineAction| {
        action.r#type == ActionType::UnrestrictCodeExecution
    };
    assert!(actions.iter().any(|action| is_release(&action)), "{said}");
    assert!(stage.read("pilot.json").contains("host-demo-pilot/1"));
}

#[test]
fn a_second_interrupt_leaves_no_empty_record() {
    let stage = Stage::with(Switches::default(), &[DEVICE]);
    stage.mock.set_device(DEVICE, DeviceBehaviour::Offline);
    let mut run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
    let command = run.command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while stage.mock.arrivals(RESTRICT) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::yield_now();
    }
    while child.try_wait().unwrap().is_none() {
        let id = child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &id]).status().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = Said::new(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let files = std::fs::read_dir(stage.folder.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let records: Vec<_> = names
        .filter(|name| name.starts_with("pilot.json"))
        .collect();
    assert_eq!(records, [""; 0]);
}

#[test]
fn a_pilot_by_name_tells_whether_names_are_compared_by_case() {
    for (case, name) in [
        (Case::Sensitive, "sensitive"),
        (Case::Insensitive, "insensitive"),
    ] {
        let switches = Switches {
            name_case: case,
            ..Switches::default()
        };
        let stage = Stage::with(switches, &[DEVICE]);
        let run = stage.pilot("named.contoso.com", "pilot.json");
        let lines = run.with_args(["--yes", "--output", "json"]).exits(0).json();
        let (answer, switch) = found(&lines[1], "computerDnsName eq, in capitals");
        let regard = match case {
            Case::Sensitive => "with regard to case",
            Case::Insensitive => "without regard to case",
        };
        assert_eq!(answer, format!("compared {regard}"));
        assert_eq!(switch, Some(format!("name-case={name}").as_str()));
    }
}

#[test]
fn a_device_that_can_not_be_released_is_named_with_the_command() {
    let stage = Stage::with(Switches::default(), &[DEVICE]);
    let body = r#"{"error":{"code":"Forbidden","message":"Missing application roles."}}"#;
    stage
        .mock
        .inject(Fault::answer(403, body).on(RELEASE).always());
    let run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
    let said = run.exits(1);
    said.mentions("MAY STILL BE RESTRICTED")
        .mentions(&format!("host-demo unrestrict {DEVICE} --override-pending"));
    assert_eq!(stage.mock.is_restricted(DEVICE), Some(true));
}

#[test]
fn a_release_is_sent_again_until_it_is_accepted() {
    let stage = Stage::with(Switches::default(), &[DEVICE]);
    stage
        .mock
        .inject(Fault::server_error(503).on(RELEASE).times(2));
    let message = "API calls quota exceeded! maximum allowed 45 per 00:01:00";
    let body = format!(r#"{{"error":{{"code":"429","message":"{message}"}}}}"#);
    let quota = Fault::answer(429, body).header("retry-after", "8");
    stage.mock.inject(quota.on(RELEASE));
    stage.mock.inject(Fault::reset().after_acting().on(RELEASE));
    let run = stage
        .pilot(DEVICE, "pilot.json")
        .with_args(["--yes", "--output", "json"]);
    let lines = run.exits(0).json();
    assert_eq!(stage.mock.is_restricted(DEVICE), Some(false));
    let (answer, switch) = found(&lines[1], "what a 429 contains");
    assert_eq!(answer, format!("429 \"429\", retry-after 8, {message:?}"));
    assert_eq!(switch, Some("retry-after=seconds"));
}

#[test]
fn a_restriction_without_an_answer_is_released() {
    let stage = Stage::with(Switches::default(), &[DEVICE]);
    stage
        .mock
        .inject(Fault::reset().after_acting().on(RESTRICT));
    let run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
    run.exits(1).mentions(&format!("{DEVICE} is released"));
    assert_eq!(stage.mock.is_restricted(DEVICE), Some(false));
}

#[test]
fn a_restriction_that_is_refused_changes_nothing() {
    let stage = Stage::with(Switches::default(), &[DEVICE]);
    let body = r#"{"error":{"code":"DisallowedOperation","message":"no"}}"#;
    stage.mock.inject(Fault::answer(403, body).on(RESTRICT));
    let run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
    run.exits(2).mentions("was not restricted");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
    assert!(stage.read("pilot.json").contains("DisallowedOperation"));
}

#[test]
fn another_restriction_is_left_alone() {
    let stage = Stage::with(
        Switches {
            duplicate: Duplicate::Create,
            visible_after: Duration::ZERO,
            ..Switches::default()
        },
        &[DEVICE],
    );
    stage.mock.set_device(DEVICE, DeviceBehaviour::Offline);
    let mut run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
    let command = run.command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while stage.mock.actions_of(DEVICE).is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::yield_now();
    }
    let restrict = ActionType::RestrictCodeExecution;
    assert!(
        stage
            .mock
            .begin(restrict, DEVICE, "INC-7", "alice@contoso.com")
    );
    let at_once = DeviceBehaviour::EndsAfter {
        pending: Duration::ZERO,
        in_progress: Duration::ZERO,
        ending: Ending::Succeeded,
    };
    stage.mock.set_device(DEVICE, at_once);
    let output = child.wait_with_output().unwrap();
    let said = Said::new(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    said.mentions("IS RESTRICTED by another action");
    assert_eq!(stage.mock.arrivals(RELEASE), 0);
    assert_eq!(stage.mock.is_restricted(DEVICE), Some(true));
}

/// A host that calls this stand-in, on its time.
fn host(mock: &Mock) -> Host {
    let service = Service::custom(mock.base_url(), mock.authority(), &mock.scope()).unwrap();
    let service = match mock.ca_pem() {
        Some(ca) => service.with_ca(ca.as_bytes().to_vec()),
        None => service,
    };
    let token = FixedToken::new(&mock.token(Grant::new())).unwrap();
    let mut setup = Setup::new(service, Arc::new(token));
    setup.clock = Arc::new(SystemClock::scaled(SCALE));
    Host::new(real_plugin(), &setup.build().unwrap())
}

/// What a call comes to, without what differs from one service to the next.
fn said<T>(result: &Result<T, CallError>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(CallError::Answered { error, .. }) => {
            let service = error.service.as_ref().unwrap();
            let message = service.message.as_deref().unwrap_or_default();
            // Ids differ.
            let message: Vec<&str> = message.split(' ').filter(|word| word.len() < 30).collect();
            format!(
                "{} {} {:?} {}",
                error.reason.name(),
                service.status,
                service.code,
                message.join(" ")
            )
        }
        Err(error) => panic!("{error}"),
    }
}

/// The answers that a service gives to a release.
async fn answers(mock: &Mock) -> Vec<String> {
    let host = host(mock);
    let device = mock.machine_ids()[0].clone();
    let patience = WaitOptions::default;
    let mut answers = Vec::new();
    let release = || host.unrestrict_code_execution(&device, "INC-42: cleaned", patience());
    let first = release().await.unwrap();
    assert_eq!(first.requestor_comment.as_deref(), Some("INC-42: cleaned"));
    assert_eq!(first.machine_id.as_deref(), Some(device.as_str()));
    let again = release().await;
    answers.push(said(&again));
    answers.push(format!("{}", again.is_ok_and(|again| again.id == first.id)));
    let missing = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a";
    answers.push(said(&host.get_machine_action(missing, patience()).await));
    let end = loop {
        match host.get_machine_action(&first.id, patience()).await {
            Ok(action) if !matches!(action.status.as_str(), "Pending" | "InProgress") => {
                break action;
            }
            _ => {
                let clock = host.clock();
                clock
                    .sleep_until(clock.now() + Duration::from_secs(3))
                    .await;
            }
        }
    };
    answers.push(end.status.as_str().to_owned());
    let by_machine = MachineActionFilter {
        machine_id: Some(device.clone()),
        ..MachineActionFilter::everything()
    };
    let listed = host.list_machine_actions(&by_machine, 100, 0, patience());
    let listed = listed.await.unwrap().items;
    answers.push(
        listed
            .iter()
            .any(|action| action.id == first.id)
            .to_string(),
    );
    for ids in [
        vec![first.id.clone()],
        vec![first.id.clone(), missing.to_owned()],
    ] {
        let by_id = MachineActionFilter {
            ids,
            ..MachineActionFilter::everything()
        };
        let listed = host.list_machine_actions(&by_id, 100, 0, patience()).await;
        answers.push(said(&listed));
        let found = listed.map_or(0, |page| page.items.len());
        answers.push(found.to_string());
    }
    answers
}

#[test]
fn a_replay_answers_as_the_recorded_service_did() {
    let unusual = [
        Switches::default(),
        Switches {
            duplicate: Duplicate::Return,
            list_filter: ListFilter::NoId,
            filter_case: Case::Insensitive,
            ..Switches::default()
        },
        Switches {
            duplicate: Duplicate::Create,
            visible_after: Duration::ZERO,
            ..Switches::default()
        },
    ];
    for switches in unusual {
        let stage = Stage::with(switches.clone(), &[DEVICE]);
        let run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
        let _ = run.exits(0);
        let original = stage.runtime.block_on(answers(&stage.mock));

        let replay = Replay::read(stage.read("pilot.json").as_bytes()).unwrap();
        let mock = Mock::builder()
            .clock(Arc::new(SystemClock::scaled(SCALE)))
            .machines(3)
            .replay(replay);
        let replayed = stage.runtime.block_on(mock.start()).unwrap();
        let replayed = stage.runtime.block_on(answers(&replayed));
        assert_eq!(replayed, original, "{switches:?}");
    }
}

#[test]
fn a_run_against_a_replay_ends_as_against_the_recorded_service() {
    let stage = Stage::with(
        Switches {
            list_filter: ListFilter::NoId,
            ..Switches::default()
        },
        &[DEVICE],
    );
    let run = stage.pilot(DEVICE, "pilot.json").with_args(["--yes"]);
    let _ = run.exits(0);
    let replay = Replay::read(stage.read("pilot.json").as_bytes()).unwrap();
    let mock = Mock::builder()
        .clock(Arc::new(SystemClock::scaled(SCALE)))
        .machines(3)
        .replay(replay);
    let mut replayed = Stage::new();
    replayed.mock = replayed.runtime.block_on(mock.start()).unwrap();
    let ca = replayed.mock.ca_pem().unwrap();
    std::fs::write(replayed.folder.path().join("ca.pem"), ca).unwrap();
    let outcome = |stage: &Stage| {
        let mut run = stage.run(["unrestrict", &stage.id(), "--comment", "x"]);
        let output = run.command.args(["--output", "json"]).output().unwrap();
        let lines = Said::new(&output).json();
        let device = lines.iter().find(|line| line["type"] == "device").unwrap();
        let error = &device["error"]["service"];
        let status = device["action"]["status"].clone();
        (
            output.status.code(),
            device["outcome"].clone(),
            status,
            error["status"].clone(),
        )
    };
    assert_eq!(outcome(&replayed), outcome(&stage));
}

#[test]
fn what_is_no_record_is_not_replayed() {
    let stage = Stage::new();
    for (text, why) in [
        ("{", "it is not a record of a pilot"),
        (
            r#"{"format":"host-demo-pilot/9","exchanges":[]}"#,
            "host-demo-pilot/9",
        ),
        (
            r#"{"format":"host-demo-pilot/1","exchanges":[]}"#,
            "no request in it was answered",
        ),
    ] {
        std::fs::write(stage.folder.path().join("record.json"), text).unwrap();
        let run = stage.stand_in(["--plain-http", "--replay", "record.json"]);
        run.exits(2).mentions("record.json").mentions(why);
    }
}

//! Actions, taken back by the command.

use super::*;

const CANCEL: Api = Api::CancelMachineAction;

const RULE: &str = "POST /api/machineactions/{action-id}/cancel";

impl Stage {
    /// A stand-in where new actions are visible at once, and the ids of one for each device.
    fn with_actions() -> (Self, Vec<String>) {
        let stage = Self::with(
            Switches {
                visible_after: std::time::Duration::ZERO,
                ..Switches::default()
            },
            &[],
        );
        let ids = stage.mock.machine_ids();
        for id in &ids {
            stage.mock.set_device(id, DeviceBehaviour::Offline);
        }
        let run = stage.run(["unrestrict", "--no-wait", "--comment", "x"]);
        let _ = run.with_args(&ids).exits(0);
        let actions = ids
            .iter()
            .map(|id| stage.mock.actions_of(id)[0].id.to_string());
        let actions = actions.collect();
        (stage, actions)
    }

    fn cancel(&self, ids: &[String]) -> Run<'_> {
        let allow =
            format!("[policy]\nallow = [\"GET /api/machineactions/{{action-id}}\", {RULE:?}]");
        std::fs::write(self.folder.path().join("allow.toml"), allow).unwrap();
        self.run(["cancel", "--comment", "not yet", "--config", "allow.toml"])
            .with_args(ids)
    }
}

#[test]
fn actions_are_cancelled_in_the_order_of_the_arguments_and_what_that_means_is_said() {
    let (stage, mut ids) = Stage::with_actions();
    ids.reverse();
    ids.push(ids[0].to_uppercase());
    let said = stage.cancel(&ids).exits(0);
    said.mentions("named more than once")
        .mentions("3 actions: 3 cancelled")
        .mentions("may have been done all the same");
    let shown: Vec<&str> = said.out.lines().collect();
    for (id, line) in ids.iter().zip(&shown[..3]) {
        assert!(
            line.starts_with(&format!("cancelled     {id}  Unrestrict")),
            "{line}"
        );
    }
    assert_eq!(stage.mock.arrivals(CANCEL), 3);

    // Once more: they are cancelled.
    let lines = stage
        .cancel(&ids)
        .with_args(["--output", "json"])
        .exits(0)
        .json();
    assert_eq!(lines.len(), 4);
    for (id, line) in ids.iter().zip(&lines[..3]) {
        assert_eq!(
            (&line["type"], &line["action_id"]),
            (&"action".into(), &id.as_str().into())
        );
        assert_eq!(
            (&line["outcome"], &line["recorded"]),
            (&"cancelled".into(), &true.into())
        );
        assert_eq!(line["action"]["cancellationComment"], "not yet");
    }
    assert_eq!(
        (&lines[3]["type"], &lines[3]["cancelled"]),
        (&"summary".into(), &3.into())
    );
}

#[test]
fn without_a_rule_for_it_nothing_is_cancelled_and_the_line_to_add_is_said() {
    let (stage, ids) = Stage::with_actions();
    let before = stage.mock.requests().len();
    let said = stage.run(["cancel", &ids[0], "--comment", "x"]).exits(2);
    said.mentions("Nothing was sent");
    let (_, line) = said.err.split_once("allow = ").unwrap();
    let (line, _) = line.split_once("]").unwrap();
    assert_eq!(stage.mock.requests().len(), before, "not even for a token");

    // As it was said, it works, and what was allowed before is allowed still.
    let written = format!("[policy]\nallow = {line}]\n");
    std::fs::write(stage.folder.path().join("said.toml"), written).unwrap();
    let with = ["--config", "said.toml", "--comment", "x"];
    let _ = stage.run(["cancel", &ids[0]]).with_args(with).exits(0);
    let id = stage.id();
    let run = stage.run(["unrestrict", &id, "--no-wait"]);
    let _ = run.with_args(with).exits(0);
}

#[test]
fn what_is_not_cancelled_is_said_by_its_outcome_and_in_the_exit_code() {
    let (stage, mut ids) = Stage::with_actions();
    let device = stage.id();
    let ends_now = DeviceBehaviour::EndsAfter {
        pending: std::time::Duration::ZERO,
        in_progress: std::time::Duration::ZERO,
        ending: Ending::Succeeded,
    };
    stage.mock.set_device(&device, ends_now);
    let nobodys = "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".to_owned();
    ids.insert(1, nobodys.clone());
    let said = stage.cancel(&ids).exits(1);
    said.mentions(&format!(
        "ended-before  {}  UnrestrictCodeExecution",
        ids[0]
    ))
    .mentions("is Succeeded")
    .mentions(&format!("refused       {nobodys}"))
    .mentions("4 actions: 2 cancelled, 1 ended-before, 1 refused");

    let (stage, ids) = Stage::with_actions();
    stage.mock.inject(Fault::reset().on(CANCEL));
    let said = stage.cancel(&ids[..1]).exits(1);
    said.mentions("unknown ")
        .mentions("it is Pending; cancelling again does no harm");
}

#[test]
fn ids_are_checked_before_anything_is_sent_and_many_are_not_cancelled_without_somebody_who_means_it()
 {
    let (stage, ids) = Stage::with_actions();
    let before = stage.mock.requests().len();
    let wrong = [ids[0].clone(), stage.id(), "\u{1b}[2J".to_owned()];
    let said = stage.cancel(&wrong).exits(2);
    said.mentions("action-id")
        .mentions("Nothing was sent")
        .hides("\u{1b}");
    let said = stage
        .cancel(&ids)
        .with_args(["--confirm-above", "2"])
        .exits(2);
    said.mentions("3 actions are more than 2").mentions("--yes");
    let _ = stage.cancel(&[]).exits(2);
    assert_eq!(stage.mock.requests().len(), before);
    let run = stage
        .cancel(&ids)
        .with_args(["--confirm-above", "2", "--yes"]);
    let _ = run.exits(0);
}

#[test]
fn what_a_service_says_of_a_cancelling_cannot_drive_the_terminal() {
    let (stage, ids) = Stage::with_actions();
    let hostile =
        r#"{"error":{"code":"Bad\u001b[31m","message":"\u001b]0;owned\u0007\u009b2J\u202e"}}"#;
    stage.mock.inject(Fault::answer(403, hostile).on(CANCEL));
    let said = stage.cancel(&ids[..1]).exits(1);
    for code in ["\u{1b}", "\u{7}", "\u{9b}", "\u{202e}"] {
        said.hides(code);
    }
    said.mentions("owned");
}

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::hash_chain::{self, Head, Torn};
use super::log_file::LogFile;
use super::*;
use defender_core::clock::{Clock as _, ManualClock};
use defender_core::operation::{Operation, Target};
use defender_core::summary::ActionSummary;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("audit.jsonl")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("audit.key")
    }

    fn file(&self) -> Result<LogFile, AuditError> {
        LogFile::open(&self.log(), &self.key(), log_file::PAUSE)
    }

    /// A file of so many records.
    fn with(records: usize) -> Self {
        let folder = Self::new();
        let mut file = folder.file().unwrap();
        for n in 0..records {
            append(&mut file, &format!("record {n}")).unwrap();
        }
        folder
    }

    fn verify(&self) -> Result<Verified, VerifyError> {
        verify(&self.log(), &Key::load(&self.key()).unwrap(), None)
    }

    #[track_caller]
    fn assert_damaged(&self, expected: u64) -> Problem {
        match self.verify() {
            Err(VerifyError::Damaged { line, problem }) if line == expected => problem,
            other => panic!(
                "line {expected} is damaged, but {other:?}:\n{}",
                String::from_utf8_lossy(&fs::read(self.log()).unwrap())
            ),
        }
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.log()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or(Value::Null))
            .collect()
    }

    /// What a process leaves that is killed as it writes.
    fn leave(&self, bytes: &[u8]) {
        let mut file = File::options().append(true).open(self.log()).unwrap();
        file.write_all(bytes).unwrap();
    }
}

fn record(text: &str) -> String {
    json!({ "time": "2026-01-30T21:11:22Z", "text": text }).to_string()
}

fn append(file: &mut LogFile, text: &str) -> Result<(), AuditError> {
    file.append(&[&record(text)], record::closing, false, 0)
}

#[test]
fn records_follow_one_another_and_the_head_is_the_last_ones_hash() {
    let folder = Folder::with(3);
    let lines = folder.lines();
    let numbers: Vec<_> = lines.iter().map(|line| line["seq"].as_u64()).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    assert_eq!(lines[1]["previous"], lines[0]["hash"]);
    let found = folder.verify().unwrap();
    assert_eq!((found.records, found.torn), (3, 0));
    assert_eq!(found.head, lines[2]["hash"]);
    assert_eq!(found.first.as_deref(), Some("2026-01-30T21:11:22Z"));
}

#[test]
fn a_file_without_records_is_intact() {
    let folder = Folder::with(0);
    let found = folder.verify().unwrap();
    assert_eq!((found.records, found.first), (0, None));
    assert_eq!(found.head, Head::start().hash);
}

#[test]
fn the_file_and_its_key_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::with(1);
    for path in [folder.log(), folder.key()] {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    fs::set_permissions(folder.key(), fs::Permissions::from_mode(0o640)).unwrap();
    let refused = folder.file().err();
    assert!(
        matches!(refused, Some(AuditError::KeyIsOpen { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_log_that_other_users_can_write_to_is_rejected() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::with(1);
    for (mode, is_trusted) in [(0o644, true), (0o666, false), (0o602, false)] {
        fs::set_permissions(folder.log(), fs::Permissions::from_mode(mode)).unwrap();
        match folder.file() {
            Ok(_) => assert!(is_trusted, "{mode:o}"),
            Err(error @ AuditError::Untrusted(_)) => {
                let path = folder.log().canonicalize().unwrap();
                let remedy = format!("chmod go-w {}", path.display());
                assert!(
                    !is_trusted && error.to_string().contains(&remedy),
                    "{error}"
                );
            }
            Err(error) => panic!("{mode:o}: {error}"),
        }
    }
}

#[test]
fn a_link_is_not_followed_wherever_it_leads() {
    let folder = Folder::with(1);
    let before = fs::read(folder.log()).unwrap();
    let link = folder.0.path().join("link");
    for target in [folder.log(), folder.0.path().join("new")] {
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let refused = LogFile::open(&link, &folder.key(), log_file::PAUSE).err();
        assert!(
            matches!(refused, Some(AuditError::Link { .. })),
            "{refused:?}"
        );
        fs::remove_file(&link).unwrap();
    }
    assert!(!folder.0.path().join("new").exists(), "nor is it made");
    // Nor where it was put there since.
    let mut file = folder.file().unwrap();
    let away = folder.0.path().join("away");
    fs::rename(folder.log(), &away).unwrap();
    std::os::unix::fs::symlink(&away, folder.log()).unwrap();
    let refused = append(&mut file, "x").err();
    assert!(
        matches!(refused, Some(AuditError::Link { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read(away).unwrap(), before);
}

#[test]
fn a_cut_off_end_is_seen_by_a_hash_that_was_noted_and_only_by_it() {
    let folder = Folder::with(4);
    let key = Key::load(&folder.key()).unwrap();
    let hashes: Vec<String> = folder
        .lines()
        .iter()
        .map(|line| line["hash"].as_str().unwrap().to_owned())
        .collect();
    let after = |noted: &str| {
        verify(&folder.log(), &key, Some(noted))
            .unwrap()
            .after_noted
    };
    assert_eq!(after(&hashes[3]), Some(0));
    assert_eq!(after(&hashes[1]), Some(2));
    assert_eq!(after(&Head::start().hash), Some(4));
    assert_eq!(after(&"ab".repeat(32)), None);

    let text = fs::read_to_string(folder.log()).unwrap();
    let cut: String = text.split_inclusive('\n').take(3).collect();
    fs::write(folder.log(), cut).unwrap();
    assert_eq!(folder.verify().unwrap().records, 3);
    assert_eq!(after(&hashes[3]), None);
}

#[test]
fn another_key_is_told_from_a_change() {
    let folder = Folder::with(2);
    fs::remove_file(folder.key()).unwrap();
    let refused = folder.file().err();
    assert!(
        matches!(refused, Some(AuditError::NoKey { .. })),
        "a new key would not fit: {refused:?}"
    );
    let remedy = refused.unwrap().to_string();
    assert!(
        remedy.contains("Put it back") && remedy.contains("put the audit file away"),
        "{remedy}"
    );
    let other = Folder::with(1);
    fs::copy(other.key(), folder.key()).unwrap();
    let problem = folder.assert_damaged(1);
    assert!(matches!(problem, Problem::OtherKey { .. }), "{problem:?}");
    let refused = folder.file().err();
    assert!(
        matches!(refused, Some(AuditError::Damaged { .. })),
        "{refused:?}"
    );
}

#[test]
fn what_a_killed_process_left_stays_and_is_accounted_for() {
    for left in [&br#"{"seq":3,"previous":"00"#[..], b"{", &[0; 300]] {
        let folder = Folder::with(2);
        folder.leave(left);
        let problem = folder.assert_damaged(3);
        assert_eq!(problem, Problem::CutOff);
        let mut file = folder.file().unwrap();
        append(&mut file, "after it").unwrap();
        let found = folder.verify().unwrap();
        assert_eq!((found.records, found.torn), (4, 1));
        let bytes = fs::read(folder.log()).unwrap();
        let still_there = bytes.windows(left.len()).any(|window| window == left);
        assert!(still_there, "it is not rewritten");
        let lines = folder.lines();
        assert_eq!(
            (&lines[3]["kind"], &lines[3]["seq"]),
            (&json!("closed-off"), &json!(3))
        );
        assert_eq!(lines[3]["torn"]["bytes"], left.len());

        // Nobody can change it any more, either.
        let mut changed = bytes.clone();
        let at = lines[3]["torn"]["offset"].as_u64().unwrap() as usize;
        changed[at] ^= 1;
        fs::write(folder.log(), changed).unwrap();
        folder.assert_damaged(3);
    }
}

#[test]
fn a_process_that_is_killed_as_it_closes_off_what_another_left_is_closed_off_too() {
    let folder = Folder::with(1);
    folder.leave(br#"{"seq":2,"previous""#);
    folder.leave(b"\n{\"seq\":2,\"prev");
    append(&mut folder.file().unwrap(), "after both").unwrap();
    let found = folder.verify().unwrap();
    assert_eq!((found.records, found.torn), (3, 1));
}

#[test]
fn a_record_that_lacks_only_its_lines_end_is_a_record() {
    let folder = Folder::with(2);
    let text = fs::read(folder.log()).unwrap();
    fs::write(folder.log(), &text[..text.len() - 1]).unwrap();
    assert_eq!(folder.assert_damaged(2), Problem::CutOff);
    append(&mut folder.file().unwrap(), "after it").unwrap();
    let found = folder.verify().unwrap();
    assert_eq!((found.records, found.torn), (3, 0));
}

#[test]
fn an_altered_record_does_not_pass_for_what_a_killed_process_left() {
    for ending in ["", " ", "x", "\0\0", "{"] {
        let folder = Folder::with(3);
        let whole = fs::read_to_string(folder.log()).unwrap();
        let altered = whole.trim_end().replace("record 2", "record 7") + ending;
        fs::write(folder.log(), &altered).unwrap();
        folder.assert_damaged(3);
        let refused = folder.file().err();
        assert!(
            matches!(refused, Some(AuditError::Damaged { .. })),
            "{ending:?}: {refused:?}"
        );
        let remedy = refused.unwrap().to_string();
        assert!(remedy.contains("Put it away"), "{remedy}");
        assert_eq!(fs::read_to_string(folder.log()).unwrap(), altered);
    }
}

#[test]
fn nothing_is_appended_to_a_damaged_end_or_to_a_file_that_was_cut() {
    let folder = Folder::with(3);
    let mut file = folder.file().unwrap();
    let whole = fs::read_to_string(folder.log()).unwrap();
    fs::write(folder.log(), whole.replace("record 2", "record 7")).unwrap();
    for refused in [append(&mut file, "x").err(), folder.file().err()] {
        assert!(
            matches!(refused, Some(AuditError::Damaged { .. })),
            "{refused:?}"
        );
    }
    let cut: String = whole.split_inclusive('\n').take(2).collect();
    fs::write(folder.log(), cut).unwrap();
    let refused = append(&mut file, "x").err();
    assert!(
        matches!(refused, Some(AuditError::Shorter { .. })),
        "{refused:?}"
    );
}

#[test]
fn what_is_no_file_of_records_is_refused_at_once() {
    let folder = Folder::new();
    for (path, expected) in [
        (PathBuf::from("/dev/full"), "it is a device"),
        (folder.0.path().to_owned(), "it is a folder"),
        (folder.0.path().join("no/such/folder/x"), "it has no folder"),
    ] {
        let refused = LogFile::open(&path, &folder.key(), log_file::PAUSE).err();
        assert!(refused.is_some(), "{expected}");
    }
    fs::write(folder.log(), "something else\n").unwrap();
    drop(Key::load(&folder.key()));
    assert!(folder.file().is_err());
    assert_eq!(
        fs::read_to_string(folder.log()).unwrap(),
        "something else\n"
    );
}

#[test]
fn threads_append_without_losing_or_mixing_a_record() {
    let folder = Folder::new();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let mut file = folder.file().unwrap();
            scope.spawn(move || {
                for n in 0..50 {
                    append(&mut file, &format!("{writer} {n}")).unwrap();
                }
            });
        }
    });
    assert_eq!(folder.verify().unwrap().records, 200);
}

/// Not a test of its own: what the processes of the next one do.
#[test]
fn a_process_appends_where_it_is_told_to() {
    let Some(folder) = std::env::var_os("AUDIT_TEST_FOLDER").map(PathBuf::from) else {
        return;
    };
    let mut file = LogFile::open(
        &folder.join("audit.jsonl"),
        &folder.join("audit.key"),
        log_file::PAUSE,
    )
    .unwrap();
    for n in 0..50 {
        append(&mut file, &format!("{} {n}", std::process::id())).unwrap();
    }
}

#[test]
fn processes_append_in_turn_and_make_one_key() {
    let folder = Folder::new();
    let mut processes: Vec<_> = (0..3)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::a_process_appends_where_it_is_told_to"])
                .env("AUDIT_TEST_FOLDER", folder.0.path())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(folder.verify().unwrap().records, 150);
    let left: Vec<_> = fs::read_dir(folder.0.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "the file and its key: {left:?}");
}

#[test]
fn a_lock_that_is_never_let_go_is_waited_for_a_while_and_then_told_of() {
    let folder = Folder::with(1);
    let open = || LogFile::open(&folder.log(), &folder.key(), Duration::ZERO);
    let mut file = open().unwrap();
    let other = File::open(folder.log()).unwrap();
    other.lock().unwrap();
    let reading = log_file::records(&folder.log(), Duration::ZERO).err();
    for refused in [append(&mut file, "x").err(), open().err(), reading] {
        let Some(error @ AuditError::Held { .. }) = refused else {
            panic!("{refused:?}")
        };
        assert!(error.to_string().contains("another process holds"));
    }
    other.unlock().unwrap();
    append(&mut file, "y").unwrap();
    assert_eq!(folder.verify().unwrap().records, 2);
}

#[test]
fn who_verifies_holds_nobody_up_and_sees_no_half_a_record() {
    let folder = Folder::with(2);
    let records = log_file::records(&folder.log(), Duration::ZERO).unwrap();
    append(&mut folder.file().unwrap(), "meanwhile").unwrap();
    let key = Key::load(&folder.key()).unwrap();
    let found = hash_chain::verify(BufReader::new(records), &key, None).unwrap();
    assert_eq!(found.records, 2);
}

#[test]
fn calls_with_an_intent_and_no_outcome_are_listed() {
    let folder = Folder::new();
    let mut file = folder.file().unwrap();
    let mut write = |kind: &str, call: &str, time: &str, target: (&str, &str)| {
        let record = json!({
            "kind": kind, "time": time, "call": call,
            "operation": "an operation", target.0: target.1,
        });
        let record = record.to_string();
        file.append(&[&record], record::closing, false, 0).unwrap();
    };
    write("intent", "cut short", "1", ("machine", "m1"));
    write("intent", "ended", "2", ("machine", "m2"));
    write("outcome", "denied", "3", ("machine", "m3"));
    write("outcome", "ended", "4", ("machine", "m2"));
    write("intent", "cut short too", "5", ("action", "a1"));
    let open = folder.verify().unwrap().open;
    let told: Vec<_> = open
        .iter()
        .map(|o| {
            (
                &*o.call,
                &*o.time,
                o.machine.as_deref(),
                o.action.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("cut short", "1", Some("m1"), None),
            ("cut short too", "5", None, Some("a1")),
        ]
    );
    assert_eq!(open[0].operation, "an operation");
}

/// An audit over a writer that fails as it is told to, and what it has written.
fn failing(works: &Arc<Mutex<bool>>) -> (Audit, Arc<Mutex<Vec<String>>>) {
    let works = Arc::clone(works);
    let written = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&written);
    let audit = Audit::start(Who::default(), move |records, _, _| {
        if *lock(&works) {
            lock(&lines).extend(records.iter().map(|record| (*record).to_owned()));
            Ok(())
        } else {
            Err(AuditError::TooSlow)
        }
    });
    (audit, written)
}

fn outcome(audit: &Audit, call: &str) -> Written {
    audit.conclude(call, Some("m1"), format!("outcome of {call}"), true)
}

#[tokio::test]
async fn an_outcome_that_could_not_be_written_goes_before_everything_that_comes_later() {
    let works = Arc::new(Mutex::new(true));
    let (audit, written) = failing(&works);
    let intend = |text: &str| audit.intend(text, text.to_owned(), true);
    assert_eq!(intend("intent 1").await, Ok(Ok(())));
    *lock(&works) = false;
    assert!(outcome(&audit, "1").await.unwrap().is_err());
    assert_eq!(audit.unwritten(), Some(AuditError::TooSlow));
    assert!(!audit.has_all_of("m1") && audit.has_all_of("m2"));
    assert!(
        intend("intent 2").await.unwrap().is_err(),
        "so it is not sent"
    );
    *lock(&works) = true;
    assert_eq!(intend("intent 3").await, Ok(Ok(())));
    assert_eq!(*lock(&written), ["intent 1", "outcome of 1", "intent 3"]);
    assert_eq!(audit.unwritten(), None, "it is written now");
    assert!(audit.has_all_of("m1"));
}

#[tokio::test]
async fn what_is_owed_is_tried_again_when_asked_for_and_a_last_time_at_the_end() {
    let works = Arc::new(Mutex::new(false));
    let (audit, written) = failing(&works);
    let _ = outcome(&audit, "1").await;
    audit.catch_up().await;
    assert_eq!(audit.unwritten(), Some(AuditError::TooSlow));
    *lock(&works) = true;
    audit.catch_up().await;
    assert_eq!(audit.unwritten(), None);
    audit.catch_up().await;
    assert_eq!(*lock(&written), ["outcome of 1"]);

    *lock(&works) = false;
    let _ = outcome(&audit, "2").await;
    *lock(&works) = true;
    drop(audit);
    assert_eq!(*lock(&written), ["outcome of 1", "outcome of 2"]);
}

#[tokio::test]
async fn what_there_was_no_room_to_keep_stays_missing() {
    let works = Arc::new(Mutex::new(false));
    let (audit, written) = failing(&works);
    for call in 0..=writer_thread::OWED_MAX {
        let _nobody_listens = outcome(&audit, &call.to_string());
    }
    audit.catch_up().await;
    *lock(&works) = true;
    audit.catch_up().await;
    assert_eq!(lock(&written).len(), writer_thread::OWED_MAX);
    assert_eq!(audit.unwritten(), Some(AuditError::TooSlow));
    assert!(!audit.has_all_of("m2"), "it is not known whose it was");
}

#[tokio::test]
async fn what_was_sent_has_room_for_its_outcome_whatever_else_is_refused() {
    let bytes_left = Arc::new(Mutex::new(2 * record::OUTCOME_MAX + 20));
    let left = Arc::clone(&bytes_left);
    let written = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&written);
    let audit = Audit::start(Who::default(), move |records, _, room| {
        let bytes: u64 = records.iter().map(|record| record.len() as u64).sum();
        let mut left = lock(&left);
        if *left < bytes + room {
            return Err(AuditError::NoRoom {
                path: PathBuf::new(),
                bytes,
                problem: String::new(),
            });
        }
        *left -= bytes;
        lock(&lines).extend(records.iter().map(|record| (*record).to_owned()));
        Ok(())
    });
    let intend = async |call: &str| audit.intend(call, call.to_owned(), true).await.unwrap();
    let conclude = async |call: &str, text: &str| {
        let concluded = audit.conclude(call, Some(call), text.to_owned(), true);
        concluded.await.unwrap()
    };
    let full = |result: Result<(), AuditError>| matches!(result, Err(AuditError::NoRoom { .. }));
    assert_eq!(intend("a").await, Ok(()));
    assert_eq!(intend("b").await, Ok(()));
    assert!(
        full(intend("c").await),
        "room for the intent, none for the outcome"
    );
    // What came of those that were sent is written, and of the one that was not when there is room.
    let long = "x".repeat(record::OUTCOME_MAX as usize);
    assert!(full(conclude("c", &long).await));
    assert_eq!(conclude("a", &long).await, Ok(()));
    assert_eq!(conclude("b", &long).await, Ok(()));
    assert!(audit.has_all_of("a") && audit.has_all_of("b") && !audit.has_all_of("c"));
    assert_eq!(*lock(&written), ["a", "b", &long, &long]);
    *lock(&bytes_left) = 2 * record::OUTCOME_MAX + 1;
    assert_eq!(
        intend("d").await,
        Ok(()),
        "the others are not open any more"
    );
    assert_eq!(audit.unwritten(), None);
}

/// Written behind the file's end: what the file system keeps for it.
#[cfg(target_os = "linux")]
#[test]
fn the_room_that_is_asked_for_is_the_files_before_a_record_is_written() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = Folder::with(1);
    let room = 3 * record::OUTCOME_MAX;
    let mut file = folder.file().unwrap();
    file.append(&[&record("an intent")], record::closing, false, room)
        .unwrap();
    let about = fs::metadata(folder.log()).unwrap();
    assert!(about.blocks() * 512 >= about.len() + room, "{about:?}");
    assert!(about.len() < 2000, "it is no longer than what it says");
    append(&mut file, "an outcome").unwrap();
    assert_eq!(folder.verify().unwrap().records, 3);
}

#[test]
fn without_room_for_what_is_to_follow_nothing_is_written() {
    let folder = Folder::with(1);
    let before = fs::read(folder.log()).unwrap();
    let mut file = folder.file().unwrap();
    // Larger than any file can be.
    let refused = file.append(
        &[&record("x")],
        record::closing,
        false,
        i64::MAX as u64 - 4096,
    );
    assert!(
        matches!(refused, Err(AuditError::NoRoom { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read(folder.log()).unwrap(), before);
}

/// All that comes from outside is as long as it can be, and written as long as it can be.
#[tokio::test]
async fn the_longest_outcome_has_room_in_what_is_kept_for_one() {
    let text = || "\u{1}".repeat(10_000);
    let who = Who {
        user: text(),
        host: text(),
        ticket: Some(text()),
        ..Who::default()
    };
    let audit = Arc::new(Audit::memory(who).unwrap());
    let target = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07".parse().unwrap();
    let minute = defender_quota::Quota {
        calls: u32::MAX,
        per: Duration::from_secs(u64::MAX),
    };
    let trail = Trail::new(
        Arc::clone(&audit),
        Arc::new(ManualClock::new()),
        "a call".repeat(10),
        "0".repeat(64),
        Operation::UnrestrictCodeExecution,
        Some(Target::Machine(target)),
        vec![(minute, usize::MAX); 4],
    );
    let action = || ActionSummary {
        id: text(),
        type_: text(),
        status: text(),
        machine: Some(text()),
    };
    trail.abandon(&Outcome {
        ended: Ending::Succeeded,
        allowed_by: Some("POST /api/machines/{machine-id}/unrestrictCodeExecution".to_owned()),
        denied: vec![text(); 4],
        denials: u32::MAX,
        observed: Observed {
            sent: "unanswered",
            status: Some(999),
            milliseconds: Some(u64::MAX),
            request_bytes: Some(u64::MAX),
            response_bytes: Some(u64::MAX),
            correlation_id: Some(text()),
            action: Some(action()),
            list: None,
            failure: Some(text()),
        },
        claimed: Some(Claimed::Ok {
            action: Some(action()),
            list: None,
        }),
        fault: Some(text()),
    });
    audit.catch_up().await;
    let [outcome] = &audit.kept()[..] else {
        panic!("one record")
    };
    let torn = record::closing(&Torn {
        offset: u64::MAX,
        bytes: u64::MAX,
        sha256: "0".repeat(64),
    });
    let (closing, _) = hash_chain::link(&Key::fleeting().unwrap(), &Head::start(), &torn);
    let longest = outcome.len() + closing.len();
    assert!(longest > 50_000, "{longest} bytes: texts are cut further");
    assert!(longest as u64 + 3 < record::OUTCOME_MAX, "{longest} bytes");
}

/// The disk hangs until it is let go.
#[tokio::test]
async fn a_caller_waits_five_seconds_for_the_disk_and_a_second_beyond_its_deadline_at_most() {
    const SECOND: Duration = Duration::from_secs(1);
    for (left, waits) in [(30, 5), (2, 3), (0, 1)] {
        let clock = ManualClock::new();
        let (let_go, hangs) = mpsc::channel::<()>();
        let audit = Arc::new(Audit::start(Who::default(), move |_, _, _| {
            let _ = hangs.recv();
            Ok(())
        }));
        let machine = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";
        let target = Target::Machine(machine.parse().unwrap());
        let trail = Trail::new(
            Arc::clone(&audit),
            Arc::new(clock.clone()),
            "a call".to_owned(),
            String::new(),
            Operation::UnrestrictCodeExecution,
            Some(target),
            Vec::new(),
        );
        let ended = Outcome {
            ended: Ending::TimedOut,
            allowed_by: None,
            denied: Vec::new(),
            denials: 0,
            observed: Observed::default(),
            claimed: None,
            fault: None,
        };
        let deadline = clock.now() + left * SECOND;
        let concluding = tokio::spawn(async move { trail.conclude(&ended, deadline).await });
        while clock.next_wake().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(clock.next_wake(), Some(clock.now() + waits * SECOND));
        assert_eq!(audit.unwritten(), None, "not yet");
        clock.advance(waits * SECOND);
        concluding.await.unwrap();
        assert_eq!(audit.unwritten(), Some(AuditError::TooSlow));
        assert!(!audit.has_all_of(machine));
        drop(let_go);
        audit.catch_up().await;
        assert_eq!(audit.unwritten(), None, "late, and written");
        assert!(audit.has_all_of(machine));
    }
}

#[test]
fn a_text_from_outside_is_cut_to_a_length_that_a_record_has_room_for() {
    let said = ActionSummary {
        id: "é".repeat(100_000),
        type_: String::new(),
        status: String::new(),
        machine: Some("x".repeat(100_000)),
    };
    let text = serde_json::to_string(&said).unwrap();
    assert!(text.len() < 2000, "{} bytes", text.len());
}

#[test]
fn the_action_in_an_answer_is_read_as_the_contract_has_it() {
    let said =
        |body: &str| ActionSummary::in_answer(body.as_bytes()).map(|said| (said.id, said.machine));
    let id = |id: &str, machine: Option<&str>| Some((id.to_owned(), machine.map(str::to_owned)));
    let deep = "[".repeat(5000) + &"]".repeat(5000);
    for (body, expected) in [
        (r#"{"id":"a","type":"t","status":"s"}"#, id("a", None)),
        (
            "\u{feff}{\"id\":\"a\",\"type\":\"t\",\"status\":\"s\",\"machineId\":null}",
            id("a", None),
        ),
        (
            r#"{"id":"a","id":"b","type":"t","status":"s","machineId":"m"}"#,
            id("b", Some("m")),
        ),
        (
            r#"{"id":"a","type":"t","status":"s","machineId":7}"#,
            id("a", None),
        ),
        (
            &format!(r#"{{"x":{deep},"id":"a","type":"t","status":"s"}}"#),
            id("a", None),
        ),
        (r#"{"id":"","type":"t","status":"s"}"#, None),
        (r#"{"id":"a","id":7,"type":"t","status":"s"}"#, None),
        (r#"{"id":"a","type":"t"}"#, None),
        (r#"{"id":"a","type":"t","status":"s"}x"#, None),
        (r#"[{"id":"a","type":"t","status":"s"}]"#, None),
        (r#"{"id":"a","type":"t","status":"s""#, None),
        ("", None),
    ] {
        assert_eq!(said(body), expected, "{body:.100}");
    }
}

/// The chain's text, and where each of its lines begins.
fn chain_of(key: &Key, records: usize) -> Vec<u8> {
    let (mut head, mut text) = (Head::start(), String::new());
    for n in 0..records {
        let (line, next) = hash_chain::link(key, &head, &record(&format!("record {n}")));
        text.push_str(&line);
        text.push('\n');
        head = next;
    }
    text.into_bytes()
}

fn damage(key: &Key, text: &[u8]) -> Option<u64> {
    match hash_chain::verify(text, key, None) {
        Ok(_) => None,
        Err(VerifyError::Damaged { line, .. }) => Some(line),
        Err(error) => panic!("{error}"),
    }
}

fn line_at(text: &[u8], at: usize) -> u64 {
    1 + text[..at].iter().filter(|b| **b == b'\n').count() as u64
}

proptest! {
    #[test]
    fn any_change_of_a_byte_is_found_at_its_line(
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let key = Key::fleeting().unwrap();
        let mut text = chain_of(&key, 6);
        let at = at.index(text.len());
        let line = line_at(&text, at);
        text[at] ^= change;
        prop_assert_eq!(damage(&key, &text), Some(line));
    }

    #[test]
    fn any_byte_that_is_taken_out_or_put_in_is_found_at_its_line(
        at in any::<prop::sample::Index>(),
        byte in prop::option::of(any::<u8>()),
    ) {
        let key = Key::fleeting().unwrap();
        let mut text = chain_of(&key, 6);
        let at = at.index(text.len());
        let line = line_at(&text, at);
        let before = text.clone();
        match byte {
            Some(byte) => text.insert(at, byte),
            None => drop(text.remove(at)),
        }
        prop_assume!(text != before);
        let found = damage(&key, &text);
        // A byte put in right before a line's end, equal to it, makes the next line an empty one.
        let at_most = line + u64::from(byte == Some(b'\n'));
        prop_assert!(found.is_some_and(|found| (line..=at_most).contains(&found)), "{:?}", found);
    }

    #[test]
    fn lines_that_are_swapped_are_found_at_the_first_of_them(a in 0..7_usize, b in 0..7_usize) {
        prop_assume!(a < b);
        let key = Key::fleeting().unwrap();
        let text = chain_of(&key, 7);
        let mut lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
        lines.swap(a, b);
        prop_assert_eq!(damage(&key, &lines.concat()), Some(a as u64 + 1));
    }

    #[test]
    fn a_line_that_is_gone_or_there_twice_is_found(at in 0..6_usize, twice in any::<bool>()) {
        let key = Key::fleeting().unwrap();
        let text = chain_of(&key, 7);
        let mut lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
        let line = if twice {
            lines.insert(at, lines[at]);
            at as u64 + 2
        } else {
            lines.remove(at);
            at as u64 + 1
        };
        prop_assert_eq!(damage(&key, &lines.concat()), Some(line));
    }

    #[test]
    fn what_is_left_behind_never_passes_for_anything_else(
        left in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        // A killed process leaves a beginning of what it wrote, in one line.
        let left: Vec<u8> = left.into_iter().filter(|b| *b != b'\n').collect();
        prop_assume!(!left.is_empty());
        let folder = Folder::with(1);
        folder.leave(&left);
        append(&mut folder.file().unwrap(), "after it").unwrap();
        let found = folder.verify().unwrap();
        prop_assert_eq!((found.records, found.torn), (3, 1));
    }
}

#[test]
fn a_closing_record_accounts_for_exactly_what_it_names() {
    let key = Key::fleeting().unwrap();
    let text = chain_of(&key, 1);
    let (line, head) = (String::from_utf8(text.clone()).unwrap(), text.len() as u64);
    let (_, after) = hash_chain::check(&key, line.trim_end().as_bytes()).unwrap();
    let closed_off = |offset, bytes, hashed: &[u8], left: &[u8]| {
        let sha256 = defender_core::escape::hex(&<sha2::Sha256 as sha2::Digest>::digest(hashed));
        let closing = record::closing(&Torn {
            offset,
            bytes,
            sha256,
        });
        let (closing, _) = hash_chain::link(&key, &after, &closing);
        [line.as_bytes(), left, b"\n", closing.as_bytes(), b"\n"].concat()
    };
    let torn = |offset, bytes, hashed: &[u8]| closed_off(offset, bytes, hashed, b"left");
    assert_eq!(damage(&key, &torn(head, 4, b"left")), None);
    assert_eq!(damage(&key, &torn(head, 5, b"left")), Some(2));
    assert_eq!(damage(&key, &torn(head, 4, b"lost")), Some(2));
    assert_eq!(damage(&key, &torn(0, 4, b"left")), Some(2));

    // Nor does it account for what is a whole object: no killed process leaves that.
    let (record, _) = hash_chain::link(&key, &after, &record("record 2"));
    for whole in [
        record.replace("record 2", "record 7"),
        r#"{"a":1} "#.to_owned(),
    ] {
        let whole = whole.as_bytes();
        let closed_off = closed_off(head, whole.len() as u64, whole, whole);
        assert_eq!(damage(&key, &closed_off), Some(2));
    }
}

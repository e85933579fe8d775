use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::entry::{Action, Problem, State};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn runs(&self) -> Runs {
        Runs::new(self.folder.path().join("state/runs"))
    }

    /// From outside, with any tool.
    fn sql(&self, id: &str, what: &str) {
        let connection = Connection::open(self.runs().path(id)).unwrap();
        connection.execute_batch(what).unwrap();
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_769_807_482 + seconds).unwrap()
}

fn run(id: &str) -> Run {
    Run {
        id: id.to_owned(),
        kind: ActionKind::Release,
        comment: "INC-42: cleaned".to_owned(),
        nonce: [7; 16],
        service: "https://api.security.microsoft.com".to_owned(),
        tenant: Some("tenant".to_owned()),
        application: None,
        who: "ann@soc".to_owned(),
        audit: None,
        override_pending: false,
        follows: true,
        created: at(0),
        ended: None,
        ending: None,
        flags: vec![("base-url".to_owned(), "https://localhost:1".to_owned())],
    }
}

fn devices(count: usize) -> Vec<Entry> {
    let device = |n| Entry::new(format!("{n:040x}").parse().unwrap(), None);
    (0..count).map(device).collect()
}

fn call(device: Option<usize>, began: i64) -> Call {
    Call {
        operation: Operation::UnrestrictCodeExecution,
        device,
        began: at(began),
        ended: None,
        result: None,
        left: true,
    }
}

fn action(status: &str) -> Action {
    Action {
        id: "8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a".to_owned(),
        type_: "UnrestrictCodeExecution".to_owned(),
        status: status.to_owned(),
        requestor: Some("b7a1e6d3-5c28-4f94-8e0b-62f9d1c3a7e5".to_owned()),
        requestor_comment: None,
        computer_dns_name: Some("pc-1.contoso.com".to_owned()),
        creation_date_time_utc: Some("2026-01-30T21:11:22.1234567Z".to_owned()),
        last_update_date_time_utc: Some("2026-01-30T21:12:03.7654321Z".to_owned()),
        error_h_result: Some(0),
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

prop_compose! {
    /// To the millisecond, as it is kept.
    fn any_time()(milliseconds in 0_i64..4_000_000_000_000) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        Just("'); DROP TABLE run; --\0\u{1b}".to_owned())
    ]
}

fn any_option<T: std::fmt::Debug>(
    of: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    prop::option::of(of)
}

prop_compose! {
    fn any_action()(
        id in any_text(),
        type_ in any_text(),
        status in any_text(),
        texts in prop::array::uniform5(any_option(any_text())),
        error_h_result in any::<Option<i32>>(),
    ) -> Action {
        let [requestor, requestor_comment, computer_dns_name, created, updated] = texts;
        Action {
            id,
            type_,
            status,
            requestor,
            requestor_comment,
            computer_dns_name,
            creation_date_time_utc: created,
            last_update_date_time_utc: updated,
            error_h_result,
        }
    }
}

fn any_state() -> impl Strategy<Value = State> {
    prop::sample::select(vec![
        State::Waiting,
        State::Sending,
        State::OutcomeUnknown,
        State::AlreadyInProgress,
        State::Accepted,
        State::Done,
        State::Failed,
        State::Refused,
        State::Held,
    ])
}

prop_compose! {
    fn any_entry()(
        machine in "[0-9a-f]{40}",
        name in any_option(any_text()),
        state in any_state(),
        sends in any::<u32>(),
        sent in any_option(any_time()),
        action in any_option(any_action()),
        is_adopted in any::<bool>(),
        problem in any_option(any_text()),
    ) -> Entry {
        Entry {
            machine: machine.parse().unwrap(),
            name,
            state,
            sends,
            sent,
            action,
            is_adopted,
            problem: problem.as_deref().map(Problem::kept),
        }
    }
}

prop_compose! {
    fn any_run()(
        is_release in any::<bool>(),
        nonce in any::<[u8; 16]>(),
        texts in prop::array::uniform3(any_text()),
        more in prop::array::uniform3(any_option(any_text())),
        flags in any::<[bool; 2]>(),
        created in any_time(),
    ) -> Run {
        let ([comment, service, who], [tenant, application, audit]) = (texts, more);
        Run {
            id: "one".to_owned(),
            kind: if is_release { ActionKind::Release } else { ActionKind::Restrict },
            comment,
            nonce,
            service,
            tenant,
            application,
            who,
            audit,
            override_pending: flags[0],
            follows: flags[1],
            created,
            ended: None,
            ending: None,
            flags: Vec::new(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_read_again_as_it_was(
        run in any_run(),
        entries in prop::collection::vec(any_entry(), 1..5),
        changed in any_entry(),
        times in prop::array::uniform3(any_time()),
        ending in any_option(any_text()),
    ) {
        let place = Place::new();
        let runs = place.runs();
        let journal = runs.create(&run, &entries).unwrap();
        let expected = Record { run: run.clone(), entries: entries.clone(), calls: Vec::new() };
        prop_assert_eq!(runs.read("one").unwrap(), expected);

        let last = entries.len() - 1;
        let reading = Call {
            operation: Operation::ListMachineActions,
            device: None,
            began: times[0],
            ended: None,
            result: None,
            left: true,
        };
        let sending = Call { device: Some(last), began: times[1], ..call(None, 0) };
        let read = wait(journal.begin(reading.clone(), None)).unwrap();
        let _ = wait(journal.begin(sending.clone(), Some((last, changed.clone())))).unwrap();
        journal.note_answer(read, times[2], "no-token", false);
        wait(journal.end(Some(times[2]), ending.clone())).unwrap();
        drop(journal);

        let (_, record) = runs.resume("one").unwrap();
        let mut entries = entries;
        entries[last] = changed;
        let answered = Call {
            ended: Some(times[2]),
            result: Some("no-token".to_owned()),
            left: false,
            ..reading
        };
        prop_assert_eq!(record.run, Run { ended: Some(times[2]), ending, ..run });
        prop_assert_eq!(record.entries, entries);
        prop_assert_eq!(record.calls, [answered, sending]);
    }
}

#[test]
fn a_run_is_driven_by_one_and_others_are_told_by_whom() {
    let place = Place::new();
    let runs = place.runs();
    let journal = runs.create(&run("one"), &devices(1)).unwrap();
    let me = format!("process {}", std::process::id());
    let held = JournalError::Held {
        run: "one".to_owned(),
        by: me.clone(),
    };
    assert_eq!(runs.resume("one").err(), Some(held.clone()));
    assert_eq!(runs.purge("one"), Err(held));
    assert_eq!(runs.overview("one").unwrap().standing, Standing::Driven(me));

    drop(journal);
    assert_eq!(
        runs.overview("one").unwrap().standing,
        Standing::Interrupted
    );
    let (journal, _) = runs.resume("one").unwrap();
    wait(journal.end(Some(at(9)), None)).unwrap();
    assert_eq!(runs.overview("one").unwrap().standing, Standing::Ended);
}

#[test]
fn who_looks_at_a_run_does_not_keep_another_from_driving_it() {
    let place = Place::new();
    let runs = place.runs();
    drop(runs.create(&run("one"), &devices(1)).unwrap());
    let lock = File::open(runs.folder.join("one.lock")).unwrap();
    lock.try_lock_shared().unwrap();
    let standing = runs.overview("one").unwrap().standing;
    assert_eq!(standing, Standing::Interrupted, "it looks as well");
    let looking = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(2));
        drop(lock);
    });
    assert!(runs.resume("one").is_ok());
    looking.join().unwrap();
}

#[test]
fn a_run_is_read_while_another_drives_it_and_as_it_was_when_that_one_was_killed() {
    let place = Place::new();
    let runs = place.runs();
    let mut entries = devices(2);
    let journal = runs.create(&run("one"), &entries).unwrap();
    entries[1].state = State::Sending;
    wait(journal.begin(call(Some(1), 1), Some((1, entries[1].clone())))).unwrap();
    let record = runs.read("one").unwrap();
    assert_eq!(record.entries, entries);
    assert_eq!(record.calls, [call(Some(1), 1)]);

    // What a process leaves that dies now.
    let left = Runs::new(place.folder.path().join("left"));
    std::fs::create_dir(&left.folder).unwrap();
    for file in std::fs::read_dir(&runs.folder).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), left.folder.join(file.file_name())).unwrap();
    }
    assert_eq!(left.read("one").unwrap(), record);
    let (_, resumed) = left.resume("one").unwrap();
    assert_eq!(resumed, record);
}

#[test]
fn a_run_is_named_by_its_beginning_or_as_the_last() {
    let place = Place::new();
    let runs = place.runs();
    assert!(matches!(
        runs.find("last"),
        Err(JournalError::NoSuchRun { .. })
    ));
    for id in [
        "20260130-211122-abcd",
        "20260130-211122-abce",
        "20260131-080000-aaaa",
    ] {
        drop(runs.create(&run(id), &devices(1)).unwrap());
    }
    // Killed as it was made.
    std::fs::write(runs.path("20260201-080000-aaaa"), "").unwrap();
    for (name, found) in [
        ("last", Some("20260131-080000-aaaa")),
        ("20260131", Some("20260131-080000-aaaa")),
        ("20260130-211122-abcd", Some("20260130-211122-abcd")),
        ("abcd", None),
        ("", None),
        ("../runs/20260131-080000-aaaa", None),
    ] {
        assert_eq!(runs.find(name).ok().as_deref(), found, "{name:?}");
    }
    let ambiguous = JournalError::Ambiguous {
        name: "20260130".to_owned(),
        runs: vec![
            "20260130-211122-abcd".to_owned(),
            "20260130-211122-abce".to_owned(),
        ],
    };
    assert_eq!(runs.find("20260130"), Err(ambiguous));
    let [earlier, later] = [at(0), at(1)].map(Runs::name);
    assert!(
        earlier < later && earlier.starts_with("20260130-211122-"),
        "{earlier}"
    );
}

#[test]
fn a_newer_or_an_older_programs_run_is_left_alone() {
    let place = Place::new();
    drop(place.runs().create(&run("one"), &devices(1)).unwrap());
    for found in [FORMAT - 1, FORMAT + 1] {
        place.sql("one", &format!("PRAGMA user_version = {found}"));
        let other = JournalError::OtherFormat {
            run: "one".to_owned(),
            found,
        };
        assert_eq!(place.runs().read("one"), Err(other.clone()));
        assert_eq!(place.runs().resume("one").err(), Some(other));
    }
}

#[test]
fn what_is_damaged_is_said_to_be_and_drives_nothing() {
    let wrong_in = |what: &str| {
        let place = Place::new();
        drop(place.runs().create(&run("one"), &devices(3)).unwrap());
        place.sql("one", what);
        place.runs().resume("one").err()
    };
    for what in [
        "DELETE FROM device WHERE n = 1",
        "UPDATE device SET state = 'free' WHERE n = 1",
        "UPDATE device SET machine = 'abc/offboard?' WHERE n = 1",
        "UPDATE device SET action = '{' WHERE n = 1",
        "UPDATE device SET sends = -1 WHERE n = 1",
        "INSERT INTO call (operation, began, left) VALUES ('format-disk', 0, 1)",
        "UPDATE run SET kind = 'wipe'",
        "UPDATE run SET nonce = x'00'",
        "DELETE FROM run",
        "DROP TABLE device",
    ] {
        let error = wrong_in(what);
        assert!(
            matches!(error, Some(JournalError::Damaged { .. })),
            "{what}: {error:?}"
        );
    }

    let place = Place::new();
    drop(place.runs().create(&run("one"), &devices(3)).unwrap());
    let path = place.runs().path("one");
    for bytes in [&b"SQLite format 3\0 but no more"[..], &[0x55; 8192], b""] {
        std::fs::write(&path, bytes).unwrap();
        let error = place.runs().read("one").unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error:?}");
        assert!(place.runs().overview("one").is_err());
    }
    place.runs().purge("one").unwrap();
}

#[test]
fn on_a_full_disk_nothing_is_begun_and_what_was_noted_is_written_once_there_is_room() {
    let place = Place::new();
    let runs = place.runs();
    let mut entries = devices(200);
    drop(runs.create(&run("one"), &entries).unwrap());
    place.sql(
        "one",
        "CREATE TABLE filler (x BLOB); INSERT INTO filler VALUES (zeroblob(400000))",
    );
    let store = Store::open(&runs.path("one")).unwrap();
    let pages = store
        .connection
        .pragma_query_value(None, "page_count", |row| row.get(0));
    let pages: u32 = pages.unwrap();
    let limit = format!("PRAGMA max_page_count = {}", pages + 8);
    store.connection.execute_batch(&limit).unwrap();
    let journal = Journal::start(store, None, run("one"));

    let begin = |entries: &[Entry], n: usize| {
        let mut entry = entries[n].clone();
        entry.state = State::Sending;
        entry.problem = Some(Problem::kept(&"x".repeat(4000)));
        let began = i64::try_from(n).unwrap();
        (
            wait(journal.begin(call(Some(n), began), Some((n, entry.clone())))),
            entry,
        )
    };
    let mut begun = Vec::new();
    let failed = loop {
        let n = begun.len();
        match begin(&entries, n) {
            (Ok(call), entry) => {
                entries[n] = entry;
                begun.push(call);
            }
            (Err(error), _) => break error,
        }
    };
    assert!(failed.to_string().contains("the disk is full"), "{failed}");
    assert!(begun.len() < 199, "it never fills up");

    // What comes of what was sent before is noted all the same, more than once, in its order.
    let (first, left) = (0, begun.len());
    entries[first].state = State::Accepted;
    entries[first].problem = Some(Problem::kept(&"y".repeat(9000)));
    journal.note(first, &entries[first], at(500));
    assert!(begin(&entries, left).0.is_err(), "still full");
    entries[first].state = State::Done;
    journal.note(first, &entries[first], at(501));
    journal.note_answer(begun[first], at(502), "ok", true);

    place.sql("one", "DROP TABLE filler");
    wait(journal.end(Some(at(600)), None)).unwrap();
    let record = runs.read("one").unwrap();
    assert_eq!(record.entries, entries, "what was not begun waits");
    assert_eq!(record.calls.len(), begun.len());
    assert_eq!(record.calls[first].result.as_deref(), Some("ok"));
    assert_eq!(record.run.ended, Some(at(600)));
    let (after, entry) = begin(&entries, left);
    entries[left] = entry;
    assert!(after.is_ok());
    assert_eq!(runs.read("one").unwrap().entries, entries);
}

#[test]
fn a_journal_is_its_owners_alone() {
    let place = Place::new();
    let runs = place.runs();
    let journal = runs.create(&run("one"), &devices(1)).unwrap();
    wait(journal.begin(call(None, 1), None)).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&runs.folder), 0o700);
    let mut names = Vec::new();
    for file in std::fs::read_dir(&runs.folder).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(
        names,
        ["one.lock", "one.sqlite", "one.sqlite-shm", "one.sqlite-wal"]
    );
}

#[test]
fn a_device_takes_two_kibibytes_at_most() {
    const DEVICES: usize = 10_000;

    let place = Place::new();
    let runs = place.runs();
    let mut entries = devices(DEVICES);
    let journal = runs.create(&run("one"), &entries).unwrap();
    for (n, entry) in entries.iter_mut().enumerate() {
        entry.state = State::Done;
        entry.sends = 1;
        entry.sent = Some(at(1));
        entry.name = Some(format!("pc-{n}.contoso.com"));
        entry.action = Some(action("Succeeded"));
    }
    let mut changes: Vec<Change> = Vec::new();
    for (n, entry) in entries.iter().enumerate() {
        changes.push(Change::Call(call(Some(n), 1)));
        changes.push(Change::Entry(n, Box::new(entry.clone()), at(2)));
        let place = i64::try_from(n).unwrap() + 1;
        changes.push(Change::Answered(place, at(2), "ok", true));
    }
    wait(journal.wait_for(changes)).unwrap();
    drop(journal);
    let overview = runs.overview("one").unwrap();
    assert_eq!(overview.outcomes, [(Outcome::Done, DEVICES)]);
    assert_eq!(overview.touched, at(2));
    let each = overview.size / DEVICES as u64;
    assert!((200..=2048).contains(&each), "{each} bytes");
}

#[test]
fn what_is_purged_is_gone_and_nothing_else_is() {
    let place = Place::new();
    let runs = place.runs();
    for id in ["one", "one-more"] {
        drop(runs.create(&run(id), &devices(1)).unwrap());
    }
    runs.purge("one").unwrap();
    assert_eq!(runs.names().unwrap(), ["one-more"]);
    assert!(runs.read("one-more").is_ok());
    let left = std::fs::read_dir(&runs.folder).unwrap();
    assert!(
        left.flatten()
            .all(|file| file.file_name().to_str().unwrap().starts_with("one-more."))
    );
    assert!(matches!(
        runs.purge("one"),
        Err(JournalError::NoSuchRun { .. })
    ));
    assert!(
        !runs.folder.join("one.lock").exists(),
        "nothing is made for what is not there"
    );
}

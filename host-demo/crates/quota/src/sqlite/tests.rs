use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::{Holder, NotUntil, Quota, Slot, Why};
use defender_core::clock::Sleep;
use defender_core::operation::Operation;

const SECOND: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(30);
const KEPT: Duration = Duration::from_millis(60_060);

/// Hands that a test moves, of the boot's clock and of the calendar apart.
#[derive(Clone)]
struct Hands(Arc<Mutex<(Moment, jiff::Timestamp)>>);

impl Hands {
    fn new() -> Self {
        let boot = Moment::ORIGIN + 1000 * SECOND;
        let calendar = "2026-01-30T21:11:22Z".parse().unwrap();
        Self(Arc::new(Mutex::new((boot, calendar))))
    }

    fn advance(&self, by: Duration) {
        let mut hands = self.0.lock().unwrap();
        hands.0 = hands.0 + by;
        hands.1 += by;
    }

    /// Another boot: its clock begins anew.
    fn reboot(&self, calendar: jiff::SignedDuration) {
        let mut hands = self.0.lock().unwrap();
        hands.0 = Moment::ORIGIN + 5 * SECOND;
        hands.1 += calendar;
    }
}

impl Clock for Hands {
    fn now(&self) -> Moment {
        self.0.lock().unwrap().0
    }

    fn wall(&self) -> jiff::Timestamp {
        self.0.lock().unwrap().1
    }

    fn sleep_until(&self, _: Moment) -> Sleep {
        unreachable!("a ledger does not sleep")
    }
}

struct Place {
    folder: tempfile::TempDir,
    hands: Hands,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            hands: Hands::new(),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("state/ledger.sqlite")
    }

    fn open(&self) -> Sqlite {
        self.open_in("this boot").unwrap()
    }

    fn open_in(&self, boot: &str) -> Result<Sqlite, LedgerError> {
        Sqlite::open(&self.file(), Arc::new(self.hands.clone()), boot)
    }

    fn now(&self) -> Moment {
        self.hands.now()
    }

    fn refusal(&self) -> LedgerProblem {
        match self.open_in("this boot") {
            Err(error) => {
                assert_eq!(error.ledger, self.file().display().to_string());
                error.problem
            }
            Ok(_) => panic!("it opens"),
        }
    }
}

fn key() -> Key {
    Key {
        tenant: "a tenant/with%signs".to_owned(),
        application: "application".to_owned(),
        operation: Operation::UnrestrictCodeExecution,
    }
}

fn ask(calls: u32) -> Ask {
    let per = 60 * SECOND;
    Ask {
        quotas: [Quota { calls, per }].into(),
        holder: Holder {
            id: 7,
            name: "a test".into(),
        },
        ticket: None,
        call: CALL,
        patience: Some(Duration::ZERO),
    }
}

async fn admit(ledger: &Sqlite, calls: u32) -> Result<Slot, NotUntil> {
    match ledger.ask(&key(), ask(calls)).await.unwrap() {
        Reply::Admitted { slot, .. } => Ok(slot),
        Reply::NotNow(free) => Err(free),
        other @ Reply::Wait { .. } => panic!("{other:?}"),
    }
}

async fn used(ledger: &Sqlite) -> usize {
    let Reading { now, budgets, .. } = ledger.read().await.unwrap();
    let quota = ask(1).quotas[0];
    budgets.get(&key()).map_or(0, |b| b.log().used(quota, now))
}

#[tokio::test]
async fn those_who_open_one_file_share_a_quota() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    let slot = admit(&one, 2).await.unwrap();
    admit(&other, 2).await.unwrap();
    one.tell(&key(), Update::Settled(slot, place.now()));
    let refused = admit(&one, 2).await.unwrap_err();
    assert_eq!(refused.at, place.now() + KEPT);
    assert_eq!(admit(&other, 2).await.unwrap_err(), refused);
    place.hands.advance(KEPT);
    admit(&other, 2).await.unwrap();
    admit(&one, 2).await.unwrap_err();
}

#[tokio::test]
async fn what_was_told_is_there_for_the_next_one() {
    let place = Place::new();
    let ledger = place.open();
    let slot = admit(&ledger, 5).await.unwrap();
    admit(&ledger, 5).await.unwrap();
    ledger.tell(&key(), Update::Cancelled(slot));
    ledger.tell(&key(), Update::ClosedUntil(place.now() + 8 * SECOND));
    drop(ledger);
    let ledger = place.open();
    assert_eq!(used(&ledger).await, 1);
    let closed = NotUntil {
        at: place.now() + 8 * SECOND,
        why: Why::Service,
    };
    assert_eq!(admit(&ledger, 5).await, Err(closed));
    ledger.reopen().await.unwrap();
    admit(&place.open(), 5).await.unwrap();
}

#[tokio::test]
async fn a_slot_whose_process_died_counts_from_its_deadline_and_the_grace() {
    let place = Place::new();
    admit(&place.open(), 1).await.unwrap();
    let refused = admit(&place.open(), 1).await.unwrap_err();
    assert_eq!(refused.at, place.now() + CALL + GRACE + KEPT);
}

#[tokio::test]
async fn across_boots_time_goes_on_by_the_calendar_and_never_back() {
    for (calendar, passed) in [(40, 40), (0, 0), (-1_000_000, 0)] {
        let place = Place::new();
        let ledger = place.open();
        let slot = admit(&ledger, 1).await.unwrap();
        ledger.tell(&key(), Update::Settled(slot, place.now()));
        drop(ledger);
        place
            .hands
            .reboot(jiff::SignedDuration::from_secs(calendar));
        let ledger = place.open_in("next boot").unwrap();
        let refused = admit(&ledger, 1).await.unwrap_err();
        let left = KEPT - passed * SECOND;
        assert_eq!(refused.at, place.now() + left, "{calendar}");
        place.hands.advance(left);
        admit(&ledger, 1).await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_undone() {
    let place = Place::new();
    let ledger = place.open();
    for _ in 0..20 {
        // Polled once, so that it is asked, and dropped.
        let key = key();
        let mut asking = Box::pin(ledger.ask(&key, ask(1)));
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        let _ = asking.as_mut().poll(&mut context);
        drop(asking);
    }
    // Whatever was in time is undone before this is asked, or in the batch with it.
    let free = async || {
        for _ in 0..1000 {
            if used(&ledger).await == 0 {
                return true;
            }
        }
        false
    };
    assert!(free().await, "{} are left", used(&ledger).await);
    admit(&ledger, 1).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_gone_closes_its_keys_for_a_window_until_somebody_knows_better() {
    let place = Place::new();
    admit(&place.open(), 5).await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(with_suffix(&place.file(), suffix));
    }
    let ledger = place.open();
    let lost = NotUntil {
        at: place.now() + CALL + GRACE + KEPT,
        why: Why::Lost,
    };
    assert_eq!(admit(&ledger, 5).await, Err(lost));
    // Neither coming back nor waiting a little changes that.
    place.hands.advance(10 * SECOND);
    drop(ledger);
    let ledger = place.open();
    assert_eq!(admit(&ledger, 5).await, Err(lost));
    ledger.reopen().await.unwrap();
    admit(&ledger, 5).await.unwrap();
}

#[tokio::test]
async fn another_file_in_its_place_is_taken_for_a_loss() {
    let (place, other) = (Place::new(), Place::new());
    admit(&place.open(), 5).await.unwrap();
    admit(&other.open(), 5).await.unwrap();
    fs::copy(other.file(), place.file()).unwrap();
    let refused = admit(&place.open(), 5).await.unwrap_err();
    assert_eq!(refused.why, Why::Lost);
}

#[tokio::test]
async fn the_first_use_is_no_loss() {
    let place = Place::new();
    admit(&place.open(), 1).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.file()), 0o600);
    assert_eq!(mode(&id_file(&place.file())), 0o600);
    assert_eq!(mode(place.file().parent().unwrap()), 0o700);
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_can_be_put_aside() {
    let place = Place::new();
    for damage in ["cut", "overwritten", "not one"] {
        let ledger = place.open();
        ledger.reopen().await.unwrap();
        admit(&ledger, 5).await.unwrap();
        drop(ledger);
        let mut bytes = fs::read(place.file()).unwrap();
        match damage {
            "cut" => bytes.truncate(bytes.len() / 2),
            "overwritten" => bytes[100..4096].fill(0xff),
            _ => bytes = b"this is no database, and long enough to be read as one".repeat(20),
        }
        fs::write(place.file(), bytes).unwrap();
        // Found when it is opened, or when it is read.
        let problem = match place.open_in("this boot") {
            Err(error) => error.problem,
            Ok(ledger) => match ledger.ask(&key(), ask(5)).await {
                Err(error) => error.problem,
                Ok(reply) => panic!("{damage}: {reply:?}"),
            },
        };
        assert!(matches!(problem, LedgerProblem::Damaged(_)), "{problem:?}");
        let aside = Sqlite::renew(&place.file()).unwrap();
        assert!(aside.exists());
        let refused = admit(&place.open(), 5).await.unwrap_err();
        assert_eq!(refused.why, Why::Lost, "{damage}");
    }
}

#[tokio::test]
async fn a_file_of_a_later_version_is_left_alone() {
    let place = Place::new();
    drop(place.open());
    let connection = Connection::open(place.file()).unwrap();
    connection.execute_batch("PRAGMA user_version = 2").unwrap();
    drop(connection);
    let (found, known) = (2, 1);
    assert_eq!(place.refusal(), LedgerProblem::Newer { found, known });
}

#[tokio::test]
async fn a_file_that_cannot_be_there_is_refused_with_the_reason() {
    let place = Place::new();
    fs::write(place.folder.path().join("state"), "a file").unwrap();
    let problem = place.refusal();
    assert!(
        matches!(problem, LedgerProblem::Unreachable(_)),
        "{problem:?}"
    );
}

#[tokio::test]
async fn a_file_that_another_process_has_for_too_long_lets_no_call_be_made() {
    let place = Place::new();
    let ledger = place.open();
    let other = Connection::open(place.file()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = ledger.ask(&key(), ask(5)).await.unwrap_err();
    assert_eq!(error.problem, LedgerProblem::Held(HELD_MAX));
    other.execute_batch("COMMIT").unwrap();
    admit(&ledger, 5).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_replaced_in_use_lets_no_call_be_made() {
    let place = Place::new();
    let ledger = place.open();
    fs::rename(place.file(), with_suffix(&place.file(), ".moved")).unwrap();
    let error = ledger.ask(&key(), ask(5)).await.unwrap_err();
    assert!(error.to_string().contains("replaced"), "{error}");
}

#[tokio::test]
async fn a_full_disk_lets_no_call_be_made_and_what_was_told_is_told_later() {
    let place = Place::new();
    let mut file = File::open(&place.file(), Arc::new(place.hands.clone()), "this boot").unwrap();
    let mut one = |request: Request| file.handle(&[request]);
    let Ok(response) = one(Request::Ask(key(), ask(2000))) else {
        panic!("refused");
    };
    assert!(matches!(
        response[0],
        Response::Reply(Reply::Admitted { .. })
    ));
    // A full disk, as SQLite sees it: the file can't have one page more.
    file.connection
        .execute_batch("PRAGMA max_page_count = 1")
        .unwrap();
    let fill = |file: &mut File| {
        let mut error = None;
        for _ in 0..2000 {
            let result = file.handle(&[Request::Ask(key(), ask(2000))]);
            if let Err(problem) = result {
                error = Some(problem);
                break;
            }
        }
        error
    };
    let error = fill(&mut file).expect("there is room without end");
    assert!(
        matches!(error.problem, LedgerProblem::Unreachable(_)),
        "{error}"
    );
    let counted = |file: &mut File| match file.handle(&[Request::Read]).unwrap().remove(0) {
        Response::Read(reading) => reading.budgets[&key()].log().in_flight(),
        other => panic!("{other:?}"),
    };
    let before = counted(&mut file);
    file.handle(&[Request::Ask(key(), ask(2000))]).unwrap_err();
    assert_eq!(counted(&mut file), before, "nothing was reserved");
    file.connection
        .execute_batch("PRAGMA max_page_count = 100000")
        .unwrap();
    file.handle(&[Request::Ask(key(), ask(2000))]).unwrap();
    assert_eq!(counted(&mut file), before + 1);
}

#[tokio::test]
async fn a_second_handle_of_one_process_takes_no_lock_from_the_first() {
    let place = Place::new();
    let one = place.open();
    admit(&one, 3).await.unwrap();
    let other = place.open();
    admit(&other, 3).await.unwrap();
    drop(other);
    // A process that is the last to close the file, as far as it can see, clears it up.
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sqlite::tests::opens_and_closes"])
        .env("LEDGER_TO_OPEN", place.file())
        .status();
    assert!(status.unwrap().success());
    admit(&one, 3).await.unwrap();
    assert_eq!(used(&place.open()).await, 3);
}

/// Not a test by itself: the other process.
#[test]
fn opens_and_closes() {
    if let Some(path) = std::env::var_os("LEDGER_TO_OPEN") {
        let clock = Arc::new(Hands::new());
        Sqlite::open(Path::new(&path), clock, "this boot").unwrap();
    }
}

#[tokio::test]
async fn a_part_of_it_that_is_removed_in_use_lets_no_call_be_made() {
    for suffix in ["-wal", "-shm"] {
        let place = Place::new();
        let ledger = place.open();
        admit(&ledger, 5).await.unwrap();
        fs::remove_file(with_suffix(&place.file(), suffix)).unwrap();
        let error = ledger.ask(&key(), ask(5)).await.unwrap_err();
        assert!(error.to_string().contains("replaced"), "{error}");
    }
}

#[tokio::test]
async fn what_is_lost_is_seen_before_anybody_asks() {
    let place = Place::new();
    admit(&place.open(), 5).await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(with_suffix(&place.file(), suffix));
    }
    let ledger = place.open();
    let reading = ledger.read().await.unwrap();
    let log = reading.budget(&key()).log().clone();
    assert_eq!(log.lost_until(), reading.now + LOSS);
    let hour = Duration::from_secs(3600);
    let forecast = log.forecast(&Quota::DOCUMENTED, reading.now, 1, SECOND);
    assert!(forecast.unwrap() > reading.now + hour);
    ledger.reopen().await.unwrap();
    assert_eq!(ledger.read().await.unwrap().lost_until, None);
}

#[test]
fn a_new_one_that_somebody_else_is_about_to_prepare_is_waited_for() {
    let place = Place::new();
    make_folder(place.file().parent().unwrap()).unwrap();
    let other = Connection::open(place.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let error = place.open_in("this boot").map(drop).unwrap_err();
    assert_eq!(error.problem, LedgerProblem::Held(HELD_MAX));
    assert!(begun.elapsed() >= HELD_MAX);
}

#[test]
fn many_can_use_it_for_the_first_time_at_once() {
    let place = Place::new();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| place.open_in("this boot").map(drop)))
            .collect();
        for one in all {
            assert_eq!(one.join().unwrap(), Ok(()));
        }
    });
    let id = fs::read_to_string(id_file(&place.file())).unwrap();
    assert_eq!(id.trim().len(), 36);
    // One that a crash left empty says nothing.
    fs::write(id_file(&place.file()), "").unwrap();
    assert!(place.open_in("this boot").is_ok());
    assert_eq!(fs::read_to_string(id_file(&place.file())).unwrap(), id);
}

#[cfg(target_os = "linux")]
#[test]
fn file_systems_that_machines_share_are_known() {
    assert_eq!(shared_by_machines(0x6969), Some("NFS"));
    // As a signed number of 32 bits, on some architectures.
    #[expect(clippy::cast_possible_wrap, reason = "what is meant")]
    let negative = 0xff53_4d42_u32 as i32;
    assert_eq!(shared_by_machines(negative.into()), Some("SMB"));
    // ext4, tmpfs, overlayfs.
    for local in [0xef53, 0x0102_1994, 0x794c_7630] {
        assert_eq!(shared_by_machines(local), None);
    }
}

#[test]
fn a_key_is_what_its_name_says() {
    assert_eq!(
        key().to_string(),
        "a%20tenant%2Fwith%25signs/application/unrestrict-code-execution"
    );
    assert_eq!(key().to_string().parse(), Ok(key()));
    for no_key in [
        "",
        "a/b",
        "a/b/other",
        "a/b/get-machine-action/",
        "%/b/get-machine-action",
    ] {
        assert!(no_key.parse::<Key>().is_err(), "{no_key}");
    }
}

/// What happens to a fleet of processes.
#[derive(Clone, Copy, Debug)]
enum Event {
    Pause(u64),
    /// By one of three processes.
    Call(usize),
    /// The oldest call under way of a process is answered, after being counted at some moment since
    /// it was sent, in thousandths.
    Answer(usize, u64),
    /// It is not sent after all.
    Cancel(usize),
    Kill(usize),
    Reboot(i64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..8_000_u64).prop_map(Event::Pause),
        8 => (0..3_usize).prop_map(Event::Call),
        4 => (0..3_usize, 0..1000_u64).prop_map(|(who, when)| Event::Answer(who, when)),
        1 => (0..3_usize).prop_map(Event::Cancel),
        1 => (0..3_usize).prop_map(Event::Kill),
        1 => (-5_000..5_000_i64).prop_map(Event::Reboot),
    ];
    proptest::collection::vec(event, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Brute force: every call is counted by the service at some moment between its sending and its
    /// answer, or for lack of one its deadline and the grace; true time goes on through boots.
    #[test]
    fn in_no_window_does_the_service_count_more_whoever_dies(events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let place = Place::new();
        let quotas: Arc<[Quota]> = [
            Quota { calls: 3, per: 10 * SECOND },
            Quota { calls: 5, per: 40 * SECOND },
        ].into();
        let call = 4 * SECOND;
        let mut boot = 0;
        let open = |boot: i32| place.open_in(&boot.to_string()).unwrap();
        let mut processes: Vec<Sqlite> = (0..3).map(|_| open(boot)).collect();
        // What has been sent: when, in true time, by whom, with which slot.
        let mut running: Vec<(Duration, usize, Slot)> = Vec::new();
        let mut counted: Vec<Duration> = Vec::new();
        let mut truth = Duration::ZERO;
        for event in events {
            let found = |who: usize, running: &[(Duration, usize, Slot)]| {
                running.iter().position(|(_, by, _)| *by == who)
            };
            match event {
                Event::Pause(ms) => {
                    truth += Duration::from_millis(ms);
                    place.hands.advance(Duration::from_millis(ms));
                }
                Event::Call(who) => {
                    let ask = Ask { quotas: Arc::clone(&quotas), call, ..ask(0) };
                    let reply = runtime.block_on(processes[who].ask(&key(), ask)).unwrap();
                    if let Reply::Admitted { slot, .. } = reply {
                        running.push((truth, who, slot));
                    }
                }
                Event::Answer(who, thousandths) => if let Some(at) = found(who, &running) {
                    let (sent, _, slot) = running[at];
                    // No answer is waited for any longer than that.
                    if truth - sent <= call {
                        running.remove(at);
                        let after = (truth - sent) * u32::try_from(thousandths).unwrap() / 1000;
                        counted.push(sent + after);
                        processes[who].tell(&key(), Update::Settled(slot, place.now()));
                    }
                }
                Event::Cancel(who) => if let Some(at) = found(who, &running) {
                    let (_, _, slot) = running.remove(at);
                    processes[who].tell(&key(), Update::Cancelled(slot));
                }
                Event::Kill(who) => {
                    processes[who] = open(boot);
                    // As late as can be.
                    counted.extend(running.extract_if(.., |(_, by, _)| *by == who)
                        .map(|(sent, ..)| sent + call + GRACE));
                }
                Event::Reboot(seconds) => {
                    boot += 1;
                    // The calendar may lag behind the truth, but not run ahead of it.
                    let down = Duration::from_secs(seconds.unsigned_abs());
                    truth += down;
                    let calendar = jiff::SignedDuration::from_secs(seconds);
                    processes.clear();
                    place.hands.reboot(calendar);
                    processes.extend((0..3).map(|_| open(boot)));
                    counted.extend(running.drain(..).map(|(sent, ..)| sent + call + GRACE));
                }
            }
        }
        counted.extend(running.iter().map(|(sent, ..)| *sent + call + GRACE));
        counted.sort();
        for quota in quotas.iter() {
            for first in &counted {
                let in_window = counted.iter().filter(|c| *c >= first && **c - *first < quota.per).count();
                prop_assert!(in_window <= quota.calls as usize, "{in_window} from {first:?} in {quota:?}: {counted:?}");
            }
        }
    }
}

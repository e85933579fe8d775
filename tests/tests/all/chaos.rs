//! Two thousand devices, and everything that can go wrong with each of them at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use defender_mock::{
    ActionStatus, ActionType, Api, DeviceBehaviour, Duplicate, Ending, Fault, Grant, MachineAction,
};
use host_demo::batch::{Follow, Outcome, Plan};
use host_demo::clock::{Clock as _, Moment};
use host_demo::grant::Operation;
use host_demo::host::{CALL_TIMEOUT, WaitOptions};
use host_demo::identity::FixedToken;
use host_demo::kind::ActionKind;
use host_demo::limits::Quota;
use host_demo::policy::Route;
use tests::batch::{COMMENT, drive};
use tests::lot::Lot;
use tests::world::World;

const RELEASE: Api = Api::UnrestrictCodeExecution;

const DEVICES: usize = 2000;

/// The hour's quota lets the last of them wait for an hour. Besides, a connection that is reset takes
/// all the requests along that share it, which is often enough to pause for some minutes.
const DEADLINE: Duration = Duration::from_secs(8 * 3600);

/// Who the others are.
const ANOTHER: &str = "5e3c0a51-2f64-4d0b-9a57-6b1f0c8d7e21";
const ROLES: [&str; 2] = ["Machine.RestrictExecution", "Machine.Read.All"];

/// The calendar is finer than what the service writes down.
const HAIR: Duration = Duration::from_millis(1);

/// What meets each request, drawn anew: of twenty, so many are spoiled.
fn spoil(world: &World, lot: &mut Lot) {
    let well = || Fault::delay(Duration::ZERO);
    for _ in 0..2 * DEVICES {
        let fault = match lot.below(20) {
            0 => Fault::reset(),
            1 => Fault::reset().after_acting(),
            2 => Fault::server_error(503),
            3 => Fault::server_error(500).after_acting(),
            4 => Fault::answer(201, "<html>").after_acting(),
            5 => match lot.below(8) {
                0 => Fault::answer(429, "").header("Retry-After", "17"),
                1 => Fault::answer(429, ""),
                _ => Fault::truncated_body(),
            },
            _ => well(),
        };
        world.mock.inject(fault.on(RELEASE));
    }
    for n in 0..DEVICES {
        // A service that does not answer at all is not tried a second time.
        let fault = match lot.below(20).max(usize::from(n == 0) * 19) {
            0 => Fault::reset(),
            1 => Fault::server_error(503),
            2 => Fault::answer(200, "<html>"),
            3 => Fault::answer(429, "").header("Retry-After", "7"),
            _ => well(),
        };
        world.mock.inject(fault.on(Api::ListMachineActions));
    }
}

#[tokio::test]
async fn whatever_becomes_of_two_thousand_devices_is_what_the_service_has_in_its_book() {
    let mut lot = Lot::drawn();
    let seed = format!("{lot:?}");
    println!("{seed}");
    let world = World::with(|scene| {
        scene.machines = DEVICES as u64;
        scene.switches.duplicate = Duplicate::Mixed;
        scene.switches.visible_after = Duration::from_secs(50);
        // Nobody waits for so long by chance.
        scene.call_timeout = CALL_TIMEOUT + Duration::from_nanos(1);
    })
    .await;
    let ids = world.mock.machine_ids();
    for id in &ids {
        let behaviour = match lot.below(40) {
            0 | 1 => DeviceBehaviour::Ends(Ending::Failed),
            2 => DeviceBehaviour::Ends(Ending::TimeOut),
            3 => DeviceBehaviour::Ends(Ending::Cancelled),
            4 | 5 => DeviceBehaviour::Offline,
            n => DeviceBehaviour::EndsAfter {
                pending: Duration::from_secs(lot.below(20 * n) as u64),
                in_progress: Duration::from_secs(lot.below(60) as u64),
                ending: Ending::Succeeded,
            },
        };
        world.mock.set_device(id, behaviour);
    }
    // Somebody else's, of whom some can't be seen yet.
    let token = world.mock.token(Grant::new().app(ANOTHER).roles(ROLES));
    let others = world.another_host(|setup| {
        setup.tokens = Arc::new(FixedToken::new(&token).unwrap());
        let restricting = Route::of(Operation::RestrictCodeExecution);
        setup.policy = setup.policy.clone().allow(restricting);
    });
    let mut restricted = Vec::new();
    for n in 0..90 {
        let id = &ids[20 * n + lot.below(20)];
        if n % 3 == 0 {
            world.mock.set_device(id, DeviceBehaviour::Offline);
            let restriction = others.restrict_code_execution(id, "theirs", WaitOptions::default());
            restriction.await.unwrap();
            restricted.push(id.clone());
        } else {
            // One that is under way already is not begun once more.
            let patience = WaitOptions::default();
            let _ = others
                .unrestrict_code_execution(id, "theirs", patience)
                .await;
        }
        if n == 45 {
            world.clock.advance(Duration::from_secs(50));
        }
    }
    spoil(&world, &mut lot);

    let (began, calendar) = (world.now(), world.clock.wall());
    let mut plan = Plan::new(Follow::ToTheEnd);
    plan.deadline = Some(began + DEADLINE);
    let (finished, _) = drive(&world, &world.host, ActionKind::Release, &ids, &plan).await;
    world.mock.clear_faults();

    let book = Book::of(&world);
    let mut counts: HashMap<Outcome, usize> = HashMap::new();
    for (entry, outcome) in finished.entries.iter().zip(finished.outcomes()) {
        *counts.entry(outcome).or_default() += 1;
        let machine = entry.machine.as_str();
        let own = book.own(machine);
        let story = format!("{seed}\n{entry:?}\n{own:?}\n{:?}", book.posts.get(machine));
        assert!(own.len() <= 1, "twice: {story}");
        let known = entry.action.as_ref().map(|action| {
            let of_it = book.actions.get(machine);
            let known =
                of_it.and_then(|of_it| of_it.iter().find(|a| a.id.to_string() == action.id));
            known.unwrap_or_else(|| panic!("no such action: {story}"))
        });
        if let Some(known) = known {
            assert_eq!(known.r#type, ActionType::UnrestrictCodeExecution, "{story}");
            let is_own = own.first().is_some_and(|own| own.id == known.id);
            assert_eq!(is_own, !entry.is_adopted, "{story}");
        }
        let status = known.map(|known| known.status);
        match outcome {
            Outcome::Done => assert_eq!(status, Some(ActionStatus::Succeeded), "{story}"),
            Outcome::Failed => assert_eq!(status, Some(ActionStatus::Failed), "{story}"),
            Outcome::TimedOut => assert_eq!(status, Some(ActionStatus::TimeOut), "{story}"),
            Outcome::Cancelled => assert_eq!(status, Some(ActionStatus::Cancelled), "{story}"),
            Outcome::Pending => assert_eq!(status, Some(ActionStatus::Pending), "{story}"),
            Outcome::Held => {
                assert!(own.is_empty() && restricted.contains(&machine.to_owned()));
            }
            Outcome::Refused => assert!(own.is_empty(), "{story}"),
            _ => panic!("{outcome:?}: {story}"),
        }
        // When its action was there, nothing more was sent for it.
        if let Some(own) = own.first() {
            let last = book.posts[machine].last().unwrap();
            let created = own.creation_date_time_utc.duration_since(calendar);
            let created = began + created.unsigned_abs();
            assert!(*last <= created + HAIR, "{story}");
        }
    }
    println!("{counts:?} after {:?}", world.now().since(began));
    for outcome in [
        Outcome::Done,
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::Cancelled,
        Outcome::Pending,
        Outcome::Held,
    ] {
        assert!(counts.contains_key(&outcome), "{outcome:?}: {counts:?}");
    }
    for quota in Quota::DOCUMENTED {
        for api in [RELEASE, Api::ListMachineActions] {
            let most = world.mock.most_in_any_window(api, quota.per);
            assert!(most <= quota.calls as usize, "{most} of {quota:?}; {seed}");
        }
    }
}

/// What the service has, by device.
struct Book {
    actions: HashMap<String, Vec<MachineAction>>,
    /// When each request of ours arrived.
    posts: HashMap<String, Vec<Moment>>,
}

impl Book {
    fn of(world: &World) -> Self {
        let mut actions: HashMap<String, Vec<MachineAction>> = HashMap::new();
        for action in world.mock.actions() {
            let of_it = actions.entry(action.machine_id.clone()).or_default();
            of_it.push(action);
        }
        let mut posts: HashMap<String, Vec<Moment>> = HashMap::new();
        for post in world.requests(RELEASE) {
            let machine = post.path_and_query.split('/').nth(3).unwrap();
            if !String::from_utf8_lossy(&post.body).contains("theirs") {
                posts.entry(machine.to_owned()).or_default().push(post.at);
            }
        }
        Self { actions, posts }
    }

    /// Those of the run.
    fn own(&self, machine: &str) -> Vec<&MachineAction> {
        let actions = self.actions.get(machine).map_or(&[][..], Vec::as_slice);
        let is_own = |action: &&MachineAction| action.requestor_comment.starts_with(COMMENT);
        actions.iter().filter(is_own).collect()
    }
}

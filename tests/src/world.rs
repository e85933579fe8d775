//! A host and a stand-in service, over loopback, on one clock that is moved by hand.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use defender_mock::{Api, Arrival, Duplicate, Fault, Grant, Machine, Mock, Switches};
use host_demo::clock::{Clock as _, ManualClock, Moment};
use host_demo::cloud::Service;
use host_demo::contract::MachineAction;
use host_demo::grant::Operation;
use host_demo::host::{CALL_TIMEOUT, CallError, Host, Setup, WaitOptions};
use host_demo::identity::{
    BearerToken, FixedToken, Identity, IdentityError, Method, Principal, Retry, Settings,
    TokenSource,
};
use host_demo::journal::Journal;
use host_demo::limits::Quota;
use host_demo::plugin::{self, Plugin};
use host_demo::policy::{Policy, Route};
use tokio::task::yield_now;
use wasmtime::Engine;

use crate::watched::Watched;

/// How long, by the machine's clock, a test waits for what must happen before it fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// After so many turns in which nothing changed, nothing will.
const REST: usize = 100;

/// The hostile guest.
pub const EVIL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/evil-guest.wasm"));

/// An engine as the library sets it up. Each plugin has one: it counts on all places of its
/// engine's pool.
pub fn engine() -> Engine {
    plugin::engine(None).expect("the engine is set up")
}

/// The plugin, compiled once.
pub fn real_plugin() -> Plugin {
    static PLUGIN: OnceLock<Plugin> = OnceLock::new();
    PLUGIN
        .get_or_init(|| Plugin::bundled(&engine()).expect("the plugin loads"))
        .clone()
}

/// The hostile guest, compiled once.
pub fn evil_plugin() -> Plugin {
    static PLUGIN: OnceLock<Plugin> = OnceLock::new();
    PLUGIN
        .get_or_init(|| Plugin::from_bytes(&engine(), EVIL).expect("the hostile guest loads"))
        .clone()
}

/// What a [`World`] is to be like. By default as real as it gets.
pub struct Scene {
    /// Who the guest is.
    pub plugin: Plugin,
    /// How the service is.
    pub switches: Switches,
    /// How many machines it has.
    pub machines: u64,
    /// Which others it has.
    pub more_machines: Vec<Machine>,
    /// Without TLS, and with a token that is not fetched: the identity library asks for TLS.
    pub plain_http: bool,
    /// A token that is not fetched but given.
    pub token: Option<Grant>,
    /// What the host keeps.
    pub quotas: Vec<Quota>,
    /// How long a call may take. Who waits for exactly as long is taken for a call.
    pub call_timeout: Duration,
}

/// A host and a stand-in service.
pub struct World {
    /// The service.
    pub mock: Mock,
    /// The clock of both.
    pub clock: ManualClock,
    /// The host.
    pub host: Host,
    watched: Watched,
    call_timeout: Duration,
    plugin: Plugin,
    tokens: Arc<dyn TokenSource>,
    /// How many wait for the authority's answer at this moment.
    asking: Arc<AtomicUsize>,
    service: Service,
    /// Journals that somebody may wait for.
    journals: Mutex<Vec<Journal>>,
}

impl World {
    /// As it is by default.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With the hostile guest, and a service that takes every request.
    pub async fn evil() -> Self {
        Self::with(|scene| {
            scene.plugin = evil_plugin();
            scene.switches.duplicate = Duplicate::Create;
        })
        .await
    }

    /// As `bend` wants it.
    pub async fn with(bend: impl FnOnce(&mut Scene)) -> Self {
        let mut scene = Scene {
            plugin: real_plugin(),
            switches: Switches::default(),
            machines: 3,
            more_machines: Vec::new(),
            plain_http: false,
            token: None,
            quotas: Quota::DOCUMENTED.to_vec(),
            call_timeout: CALL_TIMEOUT,
        };
        bend(&mut scene);

        let clock = ManualClock::new();
        let watched = Watched::new(clock.clone());
        let mut mock = Mock::builder()
            .clock(Arc::new(clock.clone()))
            .switches(scene.switches)
            .machines(scene.machines)
            .plain_http(scene.plain_http);
        for machine in scene.more_machines {
            mock = mock.machine(machine);
        }
        let mock = mock.start().await.expect("the stand-in starts");
        let mut service = Service::custom(mock.base_url(), mock.authority(), &mock.scope())
            .expect("the stand-in is a service");
        if let Some(ca) = mock.ca_pem() {
            service = service.with_ca(ca.as_bytes().to_vec());
        }
        let given = scene
            .token
            .or_else(|| scene.plain_http.then(Grant::default));
        let tokens: Arc<dyn TokenSource> = match given {
            Some(grant) => Arc::new(FixedToken::new(&mock.token(grant)).expect("it is a token")),
            None => Arc::new(client_secret(&service, application(&mock), &watched)),
        };
        let asking = Arc::new(AtomicUsize::new(0));
        let tokens: Arc<dyn TokenSource> = Arc::new(Asked {
            tokens,
            asking: Arc::clone(&asking),
        });
        let mut setup = setup(&service, &tokens, &watched);
        setup.quotas = scene.quotas;
        setup.call_timeout = scene.call_timeout;
        Self {
            host: host(&scene.plugin, setup),
            call_timeout: scene.call_timeout,
            mock,
            clock,
            watched,
            plugin: scene.plugin,
            tokens,
            asking,
            service,
            journals: Mutex::default(),
        }
    }

    /// From now on the clock stands still while somebody waits for this journal's disk.
    pub fn watch(&self, journal: &Journal) {
        self.journals().push(journal.clone());
    }

    /// Lets go of all journals.
    pub fn unwatch(&self) {
        self.journals().clear();
    }

    fn journals(&self) -> MutexGuard<'_, Vec<Journal>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host beside this one, on the same clock, with quotas and connections of its own.
    pub fn another_host(&self, bend: impl FnOnce(&mut Setup)) -> Host {
        self.host_of(&self.plugin, bend)
    }

    /// The same, with a plugin of its own.
    pub fn host_of(&self, plugin: &Plugin, bend: impl FnOnce(&mut Setup)) -> Host {
        let mut setup = setup(&self.service, &self.tokens, &self.watched);
        setup.call_timeout = self.call_timeout;
        bend(&mut setup);
        host(plugin, setup)
    }

    /// A host that has this token, and does not care what it is.
    pub fn host_with_token(&self, token: &str) -> Host {
        let token = FixedToken::new(token).expect("it is a token");
        self.another_host(|setup| setup.tokens = Arc::new(token))
    }

    /// A host beside this one that may do everything.
    pub fn host_that_may_do_all(&self) -> Host {
        self.another_host(|setup| {
            setup.policy = Operation::ALL
                .into_iter()
                .fold(setup.policy.clone(), |policy, operation| {
                    policy.allow(Route::of(operation))
                });
        })
    }

    /// A host for another service, that trusts this authority there and has a token of this
    /// world's.
    pub fn host_at(&self, base_url: &str, ca: Option<&str>) -> Host {
        let scope = self.mock.scope();
        let mut service = Service::custom(base_url, base_url, &scope).expect("it is a service");
        if let Some(ca) = ca {
            service = service.with_ca(ca.as_bytes().to_vec());
        }
        let token = FixedToken::new(&self.mock.token(Grant::new())).expect("it is a token");
        self.another_host(|setup| {
            setup.policy = Policy::release_and_read(service.origin().clone());
            setup.tokens = Arc::new(token);
            setup.service = service;
        })
    }

    /// The service, as the host knows it.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The token source of an application (its tenant, its id and its secret), for a service.
    pub fn client_secret(&self, service: &Service, application: [&str; 3]) -> Identity {
        client_secret(service, application, &self.watched)
    }

    /// The tenant, the id and the secret that the stand-in knows.
    pub fn application(&self) -> [&str; 3] {
        application(&self.mock)
    }

    /// The id of a machine, counted from 0.
    pub fn machine(&self, index: usize) -> String {
        self.mock.machine_ids().swap_remove(index)
    }

    /// The same host, but one that trusts its plugin: it has made no call yet.
    pub fn new_host(&self) -> Host {
        Host::new(self.plugin.clone(), self.host.egress())
    }

    /// Releases the first machine. With the hostile guest the comment says what it does instead.
    pub async fn release(&self, comment: &str) -> Result<MachineAction, CallError> {
        self.release_of(&self.machine(0), comment).await
    }

    /// Releases a machine.
    pub async fn release_of(
        &self,
        machine: &str,
        comment: &str,
    ) -> Result<MachineAction, CallError> {
        release(&self.new_host(), machine, comment).await
    }

    /// Has something go wrong with the next release, or with more of them.
    pub fn inject(&self, fault: Fault) {
        self.mock.inject(fault.on(Api::UnrestrictCodeExecution));
    }

    /// How many releases have arrived.
    pub fn releases(&self) -> usize {
        self.mock.arrivals(Api::UnrestrictCodeExecution)
    }

    /// What arrived at an endpoint.
    pub fn requests(&self, api: Api) -> Vec<Arrival> {
        let mut requests = self.mock.requests();
        requests.retain(|arrival| arrival.api == Some(api));
        requests
    }

    /// How many releases count in the shortest window.
    pub async fn used(&self) -> usize {
        let used = self.host.used(Operation::UnrestrictCodeExecution).await;
        used.expect("the key is known")[0].1
    }

    /// The moments that the host waits for, the first one first.
    pub fn waits(&self) -> Vec<Moment> {
        let mut waits: Vec<_> = self.watched.asleep().iter().map(|s| s.until).collect();
        waits.sort_unstable();
        waits
    }

    /// What time it is.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Moves the hands on to a moment.
    pub fn advance_to(&self, moment: Moment) {
        self.clock.advance(moment.since(self.clock.now()));
    }

    /// Waits until something holds that needs no other time than the computer's.
    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            let waits = self.waits();
            assert!(
                began.elapsed() < PATIENCE,
                "in vain: {what}; the host waits for {waits:?}"
            );
            yield_now().await;
        }
    }

    /// Waits until the host waits for this moment.
    pub async fn until_host_waits_for(&self, moment: Moment) {
        self.until(&format!("a wait for {moment:?}"), || {
            self.waits().contains(&moment)
        })
        .await;
    }

    /// Waits until nothing more happens unless the clock goes on: no call is under way, and whoever
    /// could begin one has had the time to.
    pub async fn until_rest(&self) {
        let began = Instant::now();
        let mut quiet = 0;
        while quiet < REST {
            assert!(began.elapsed() < PATIENCE, "the host does not come to rest");
            yield_now().await;
            let is_busy = self.is_calling() || self.journals().iter().any(Journal::is_busy);
            quiet = if is_busy { 0 } else { quiet + 1 };
        }
    }

    /// Drives a future to its end. Whenever the host does nothing but wait, the clock goes on to
    /// the first of the moments that it waits for; while a call is under way the clock stands
    /// still.
    pub async fn play<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                result = &mut future => return result,
                () = self.until_rest() => {}
            }
            match self.waits().first() {
                Some(first) => self.advance_to(*first),
                None => yield_now().await,
            }
        }
    }

    fn is_calling(&self) -> bool {
        let mut asleep = self.watched.asleep().clone().into_iter();
        self.asking.load(Ordering::SeqCst) > 0
            || asleep.any(|s| s.until.since(s.since) == self.call_timeout)
    }
}

/// Counts those who wait for an answer of the authority.
struct Asked {
    tokens: Arc<dyn TokenSource>,
    asking: Arc<AtomicUsize>,
}

impl Asked {
    async fn count<T>(&self, asking: impl Future<Output = T>) -> T {
        struct One<'a>(&'a AtomicUsize);

        impl Drop for One<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }

        self.asking.fetch_add(1, Ordering::SeqCst);
        let _one = One(&self.asking);
        asking.await
    }
}

#[async_trait]
impl TokenSource for Asked {
    async fn token(&self) -> Result<BearerToken, IdentityError> {
        self.count(self.tokens.token()).await
    }

    async fn renew(&self, rejected: &BearerToken) -> Result<bool, IdentityError> {
        self.count(self.tokens.renew(rejected)).await
    }

    fn retry(&self) -> Option<Retry> {
        self.tokens.retry()
    }

    async fn principal(&self) -> Result<Principal, IdentityError> {
        self.count(self.tokens.principal()).await
    }
}

/// What a test that fails needs to be understood.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("now {:?}; what arrived:", self.clock.now());
        for arrival in self.mock.requests() {
            eprintln!(
                "  {:?} {} {} -> {:?} {:?}",
                arrival.at,
                arrival.method,
                arrival.path_and_query,
                arrival.status,
                String::from_utf8_lossy(&arrival.body)
            );
        }
    }
}

/// Waits for something, during which another thing must not come to its end.
pub async fn meanwhile<T: Debug>(pending: impl Future<Output = T>, what: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        early = pending => panic!("too early: {early:?}"),
        () = what => {}
    }
}

/// Releases a machine.
pub async fn release(
    host: &Host,
    machine: &str,
    comment: &str,
) -> Result<MachineAction, CallError> {
    host.unrestrict_code_execution(machine, comment, WaitOptions::default())
        .await
}

fn setup(service: &Service, tokens: &Arc<dyn TokenSource>, clock: &Watched) -> Setup {
    let mut setup = Setup::new(service.clone(), Arc::clone(tokens));
    setup.clock = Arc::new(clock.clone());
    setup
}

fn host(plugin: &Plugin, setup: Setup) -> Host {
    Host::new(plugin.clone(), &setup.build().expect("the host is set up"))
}

fn application(mock: &Mock) -> [&str; 3] {
    [mock.tenant_id(), mock.client_id(), mock.client_secret()]
}

fn client_secret(service: &Service, [tenant, id, secret]: [&str; 3], clock: &Watched) -> Identity {
    let settings = Settings {
        tenant_id: Some(tenant.to_owned()),
        client_id: Some(id.to_owned()),
        client_secret: Some(secret.to_owned()),
        ..Settings::default()
    };
    let clock = Arc::new(clock.clone());
    Identity::new(Method::ClientSecret, settings, service, clock).expect("the identity is set up")
}

//! A stand-in for Microsoft Defender for Endpoint's machine-action API and for Entra's token
//! endpoint: a small model of both, on loopback.
//!
//! It remembers actions and runs their life cycle, checks the bearer, counts arrivals, and answers
//! with the documents and headers that were recorded. What it knows comes from Microsoft's pages
//! ("Remove app restriction API", "Machine action resource type", "Common REST API error codes"),
//! from issues against them, and from records published by others; nothing was taken from the code
//! that is tested with it. Nothing was verified against a real tenant.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # use defender_mock::{Api, Duplicate, Fault, Mock, Switches};
//! let mock = Mock::builder()
//!     .machines(3)
//!     .switches(Switches { duplicate: Duplicate::Return, ..Switches::default() })
//!     .start()
//!     .await?;
//! mock.inject(Fault::reset().after_acting().on(Api::UnrestrictCodeExecution));
//! println!("{} {}", mock.base_url(), mock.machine_ids()[0]);
//! # Ok(()) }
//! ```
//!
//! # What it answers
//!
//! | request | answer |
//! |---|---|
//! | `POST /api/machines/{id}/unrestrictCodeExecution`, `…/restrictCodeExecution` | 201 and the action |
//! | `GET /api/machineactions/{id}` | 200 and the action as it stands |
//! | `GET /api/machineactions` (`$filter`, `$top`, `$skip`) | 200 and a page of the actions |
//! | `POST /api/machineactions/{id}/cancel` | 200 and the action, `Cancelled` |
//! | `GET /api/machines/{id}` (id or name) | 200 and the machine |
//! | `GET /api/machines` (`$filter` by `computerDnsName`, `$top`, `$skip`) | 200 and a page of the machines |
//! | `POST /{tenant}/oauth2/v2.0/token` | a token, for client credentials (a secret, an assertion), a device code or a refresh token |
//! | `POST /{tenant}/oauth2/v2.0/devicecode` | a code for a user to type, who comes or does not |
//! | `GET /metadata/identity/oauth2/token` | a token, as a virtual machine's metadata service has it |
//! | `GET /{tenant}/v2.0/.well-known/openid-configuration`, `/common/discovery/instance` | a minimum |
//!
//! `/api/v1.0/…` is the same as `/api/…`. A known path with another method gets 405, any other path
//! a bare 404. API and token endpoint are one origin.
//!
//! A request goes through this order: it is counted; the quota; the token (signature, validity,
//! audience); the role; the request itself; the machine; actions under way. A call counts when its
//! head has arrived, whatever becomes of it, for its endpoint and the tenant and application that
//! its token names, even an expired one. Calls with no known token share one count.
//!
//! # What is open
//!
//! Where sources are silent or disagree, [`Switches`] has the question. These have no switch:
//!
//! - *filters in other forms* than clients are known to send: they get the OData layer's error;
//! - *5xx of its own*: when the service fails is not known, so a server error is a [`Fault`], and
//!   the switch says only which body it has; the same goes for a 404 for a machine that exists
//!   (microsoft-365-docs#13047) and a 401 for a licence;
//! - *government clouds*: they differ in host and audience; set `audiences`;
//! - *leeway for wrong clocks*: none is given, the stricter way;
//! - *compression*: real answers can be deflated; these never are.
//!
//! # Replay
//!
//! With [`Builder::replay`] the API answers as a recorded service did, in place of the model.
//!
//! # What it costs
//!
//! Each call leaves eight bytes behind, for [`Mock::most_in_any_window`]. The newest 10,000
//! requests are kept in full ([`Builder::keep_requests`]), and the newest 100,000 actions.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod action;
mod api_error;
mod api_handlers;
mod defender;
mod entra;
mod fault;
mod faulty_body;
mod faulty_connection;
mod imds;
mod machine;
mod machine_action;
mod odata;
mod quota;
mod replay;
mod request_log;
mod route;
mod server;
mod setting;
mod switches;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod wire;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

pub use self::action::{DeviceBehaviour, Ending};
pub use self::entra::client_assertion::Federation;
pub use self::fault::Fault;
pub use self::machine::Machine;
pub use self::machine_action::{ActionStatus, ActionType, MachineAction};
pub use self::replay::{Replay, ReplayError};
pub use self::request_log::Arrival;
pub use self::route::Api;
pub use self::switches::{
    Case, CheckOrder, ContentEncoding, ContentType, Doubtful, Duplicate, EndedCancel,
    ForbiddenWording, Header, LateCancel, ListFilter, ListOrder, Lock, MachineName, MissingComment,
    NoMachines, QuotaCode, QuotaWording, ReadRole, Requestor, RetryAfter, ReturnedStatus,
    ServerErrorBody, SwitchDoc, SwitchError, Switches, Target, Unneeded, UserSignIn, Window,
};
pub use self::token::Grant;

use self::defender::{Order, Service, Submission};
use self::entra::Directory;
use self::entra::client_assertion::{Registered, Used};
use self::entra::device_code::SignIns;
use self::fault::Faults;
use self::quota::Quotas;
use self::request_log::Record;
use self::server::{Shared, State};
use self::token::{Claims, Tokens};
use defender_core::clock::{Clock, SystemClock};

/// Made up, and the same in every run: they name the key of a quota, which outlives a run.
const TENANT_ID: &str = "4f0c1a52-93d7-4b8e-a6f1-0d2e5b7c8a91";
const CLIENT_ID: &str = "b7a1e6d3-5c28-4f94-8e0b-62f9d1c3a7e5";

/// How many machines there are where none was asked for.
const MACHINES: u64 = 3;

const REQUESTS_KEPT: usize = 10_000;

/// Why the stand-in could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else has the port.
    #[error("port {0} of 127.0.0.1 is in use; name another one, or 0 for any that is free")]
    PortInUse(u16),
    /// It is not for this user to listen there, say.
    #[error("can't listen on port {port} of 127.0.0.1")]
    Listen {
        /// The port that was wanted.
        port: u16,
        /// Why not.
        source: std::io::Error,
    },
    /// The throw-away certificates could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// They could not be used.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// How the stand-in is to be.
#[must_use]
pub struct Builder {
    clock: Arc<dyn Clock>,
    machines: Vec<Machine>,
    switches: Switches,
    replay: Option<Replay>,
    registered: Registered,
    port: u16,
    plain_http: bool,
    keep_requests: usize,
}

impl Builder {
    /// The time that it goes by; the machine's own by default. Certificates are outside of it.
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// One more machine. Without any, there are three made-up ones.
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machines.push(machine);
        self
    }

    /// So many more made-up machines, the same ones in every run.
    pub fn machines(mut self, n: u64) -> Self {
        let first = self.machines.len() as u64;
        self.machines
            .extend((first..first + n).map(Machine::made_up));
        self
    }

    /// The answers to open questions.
    pub fn switches(self, switches: Switches) -> Self {
        Self { switches, ..self }
    }

    /// Answers as a record of a pilot does, in place of the model. Tokens and quotas stay the
    /// model's.
    pub fn replay(self, replay: Replay) -> Self {
        Self {
            replay: Some(replay),
            ..self
        }
    }

    /// A certificate (DER) that the application may prove itself with.
    pub fn certificate(mut self, der: Vec<u8>) -> Self {
        self.registered.certificates.push(der);
        self
    }

    /// An issuer whose tokens stand for the application.
    pub fn federation(mut self, federation: Federation) -> Self {
        self.registered.federations.push(federation);
        self
    }

    /// The port; 0, the default, has the system choose one.
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Without TLS: HTTP/1.1, or HTTP/2 for clients that know beforehand.
    pub fn plain_http(self, plain_http: bool) -> Self {
        Self { plain_http, ..self }
    }

    /// How many requests [`Mock::requests`] remembers.
    pub fn keep_requests(self, n: usize) -> Self {
        Self {
            keep_requests: n,
            ..self
        }
    }

    /// Starts it, on the runtime that this is called on.
    ///
    /// # Errors
    ///
    /// When the port is taken, or a certificate can't be made.
    pub async fn start(self) -> Result<Mock, StartError> {
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => StartError::PortInUse(self.port),
            _ => StartError::Listen {
                port: self.port,
                source,
            },
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))
            .await
            .map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let (tls, ca_pem) = match self.plain_http {
            true => (None, None),
            false => {
                let (config, ca_pem) = tls::throw_away()?;
                (Some(TlsAcceptor::from(config)), Some(ca_pem))
            }
        };
        let mut machines = self.machines;
        if machines.is_empty() {
            machines.extend((0..MACHINES).map(Machine::made_up));
        }
        let scheme = if self.plain_http { "http" } else { "https" };
        let shared = Arc::new(Shared {
            clock: self.clock,
            directory: Directory {
                tenant_id: TENANT_ID.to_owned(),
                client_id: CLIENT_ID.to_owned(),
                // Of a form that wants escaping in a form and in a Basic header.
                client_secret: format!(
                    "{}~+/={}",
                    Uuid::new_v4().simple(),
                    Uuid::new_v4().simple()
                ),
                registered: self.registered,
            },
            base_url: format!("{scheme}://localhost:{port}"),
            state: Mutex::new(State {
                service: Service::new(self.switches.clone(), machines),
                quotas: Quotas::new(&self.switches),
                tokens: Tokens::default(),
                sign_ins: SignIns::default(),
                used: Used::default(),
                record: Record::new(self.keep_requests),
                faults: Faults::default(),
                replay: self.replay,
            }),
            switches: self.switches,
        });
        let server = tokio::spawn(server::serve(listener, tls, Arc::clone(&shared)));
        Ok(Mock {
            shared,
            server,
            ca_pem,
        })
    }
}

/// A stand-in that is running. Dropping it stops it.
pub struct Mock {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    ca_pem: Option<String>,
}

impl Mock {
    /// To say how it is to be.
    pub fn builder() -> Builder {
        Builder {
            clock: Arc::new(SystemClock::new()),
            machines: Vec::new(),
            switches: Switches::default(),
            replay: None,
            registered: Registered::default(),
            port: 0,
            plain_http: false,
            keep_requests: REQUESTS_KEPT,
        }
    }

    /// Starts one as it is by default.
    ///
    /// # Errors
    ///
    /// See [`Builder::start`].
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Stops it, and waits until it no longer listens.
    pub async fn shutdown(mut self) {
        self.server.abort();
        // It ends by being cancelled, which is what this would report.
        let _ = (&mut self.server).await;
    }

    /// The API's origin, such as `https://localhost:40123`.
    pub fn base_url(&self) -> &str {
        &self.shared.base_url
    }

    /// The origin of the token endpoint; the same one.
    pub fn authority(&self) -> &str {
        &self.shared.base_url
    }

    /// The scope to ask for: that of the first of the accepted audiences.
    pub fn scope(&self) -> String {
        format!("{}/.default", self.audience())
    }

    /// The tenant's id.
    pub fn tenant_id(&self) -> &str {
        &self.shared.directory.tenant_id
    }

    /// The application's id.
    pub fn client_id(&self) -> &str {
        &self.shared.directory.client_id
    }

    /// The application's secret, another one in every run.
    pub fn client_secret(&self) -> &str {
        &self.shared.directory.client_secret
    }

    /// The certificate that a client has to trust; none without TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// A bearer token for clients that don't fetch their own.
    pub fn token(&self, grant: Grant) -> String {
        let now = self.shared.now().wall;
        let ids = (self.tenant_id(), self.client_id());
        let claims = Claims::new(grant, ids, self.audience(), &self.shared.switches, now);
        self.shared.lock().tokens.issue(claims, now)
    }

    fn audience(&self) -> &str {
        self.shared
            .switches
            .audiences
            .first()
            .map_or("", String::as_str)
    }

    /// From now on, none of the tokens that were given out is accepted, as if they had been
    /// revoked.
    pub fn revoke_tokens(&self) {
        self.shared.lock().tokens.revoke();
    }

    /// The ids of the machines, in the order in which they were given.
    pub fn machine_ids(&self) -> Vec<String> {
        self.shared
            .lock()
            .service
            .machines()
            .map(|machine| machine.id().to_owned())
            .collect()
    }

    /// The newest requests of any kind, the oldest of them first.
    pub fn requests(&self) -> Vec<Arrival> {
        self.shared.lock().record.kept()
    }

    /// How many calls of an endpoint have arrived.
    pub fn arrivals(&self, api: Api) -> usize {
        self.shared.lock().record.count(api)
    }

    /// The most calls that one tenant's application made to an endpoint within any half-open window
    /// of this length, wherever it begins. Exact, and independent of how the quota is counted.
    pub fn most_in_any_window(&self, api: Api, window: Duration) -> usize {
        self.shared.lock().record.most_in_any_window(api, window)
    }

    /// All actions as they stand, the oldest first, also those that can't be read yet.
    pub fn actions(&self) -> Vec<MachineAction> {
        let now = self.shared.clock.now();
        self.shared.lock().service.actions(now)
    }

    /// An action as it stands.
    pub fn action(&self, id: &str) -> Option<MachineAction> {
        let now = self.shared.clock.now();
        self.shared.lock().service.action(id.parse().ok()?, now)
    }

    /// The actions of a machine, the oldest first.
    pub fn actions_of(&self, machine_id: &str) -> Vec<MachineAction> {
        let mut actions = self.actions();
        actions.retain(|action| action.machine_id.eq_ignore_ascii_case(machine_id));
        actions
    }

    /// Whether a machine is restricted now: what succeeded last decides. None for an unknown one.
    pub fn is_restricted(&self, machine_id: &str) -> Option<bool> {
        let now = self.shared.clock.now();
        let state = self.shared.lock();
        let index = state.service.find(machine_id)?;
        Some(state.service.is_restricted(index, now))
    }

    /// From now on a machine treats its actions so, those still pending included. Returns whether
    /// there is such a machine.
    pub fn set_device(&self, machine_id: &str, behaviour: DeviceBehaviour) -> bool {
        let now = self.shared.clock.now();
        let service = &mut self.shared.lock().service;
        match service.find(machine_id) {
            Some(index) => {
                service.set_behaviour(index, behaviour, now);
                true
            }
            None => false,
        }
    }

    /// Somebody else asks for an action, past the quotas. Returns whether one was created.
    pub fn begin(&self, r#type: ActionType, machine_id: &str, comment: &str, by: &str) -> bool {
        let now = self.shared.now();
        let service = &mut self.shared.lock().service;
        let Some(machine) = service.find(machine_id) else {
            return false;
        };
        let order = Order {
            r#type,
            machine,
            comment,
            requestor: by,
        };
        matches!(service.submit(&order, now), Submission::Created(_))
    }

    /// Has something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().faults.add(fault);
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.server.abort();
    }
}

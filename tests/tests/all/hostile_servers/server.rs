//! Servers that do as they are told, byte for byte, and a host that calls them.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use host_demo::clock::{Clock, ManualClock};
use host_demo::cloud::Service;
use host_demo::contract::MachineAction;
use host_demo::host::{CallError, Host, Setup, WaitOptions};
use host_demo::identity::FixedToken;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tests::world::real_plugin;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

/// What no error may show.
pub(crate) const TOKEN: &str = "eyJ0eXAiOiJKV1Qi/LCJhbGciOiJSUzI1.NiIsImtpZCI6Ijdkb-Rzc0Q";

/// How long, by the machine's clock, a test waits for what must happen before it fails.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A certification authority.
pub(crate) static CA: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(authority);

pub(crate) fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap()
}

/// What a server has met, and what it did.
#[derive(Clone, Default)]
pub(crate) struct Met {
    /// Connections that were accepted.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Requests that were read to their end.
    pub(crate) requests: Arc<AtomicUsize>,
    /// Bytes that were written without end, until the other side had enough.
    pub(crate) endless: Arc<AtomicUsize>,
    /// Turns of whoever is done, or goes on and on.
    pub(crate) turns: Arc<AtomicUsize>,
}

pub(crate) fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

/// What a server does with a connection.
type Behaviour = Arc<
    dyn Fn(TcpStream, Met, ManualClock) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync,
>;

/// A server, and a host that takes it for the service.
pub(crate) struct Stage {
    pub(crate) host: Host,
    pub(crate) clock: ManualClock,
    pub(crate) met: Met,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Stage {
    /// `origin` has `PORT` in the port's place.
    pub(crate) async fn new<F, R>(origin: &str, behaviour: F) -> Self
    where
        F: Fn(TcpStream, Met, ManualClock) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let behaviour: Behaviour =
            Arc::new(move |tcp, met, clock| Box::pin(behaviour(tcp, met, clock)));
        let clock = ManualClock::new();
        let met = Met::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let origin = origin.replace("PORT", &port.to_string());
        let service = Service::custom(&origin, &origin, "https://x/.default").unwrap();
        let service = service.with_ca(CA.pem().into_bytes());
        let tokens = Arc::new(FixedToken::new(TOKEN).unwrap());
        let mut setup = Setup::new(service, tokens);
        setup.clock = Arc::new(clock.clone());
        let host = Host::new(real_plugin(), &setup.build().unwrap());
        let (for_server, hands) = (met.clone(), clock.clone());
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                for_server.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(behaviour(tcp, for_server.clone(), hands.clone()));
            }
        });
        Self {
            host,
            clock,
            met,
            server,
        }
    }

    /// A server without TLS that reads a request, answers each with these bytes, and then does
    /// this.
    pub(crate) async fn answering(bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        let bytes: Arc<[u8]> = bytes.into().into();
        Self::new("http://127.0.0.1:PORT", move |mut tcp, met, clock| {
            let (bytes, then) = (Arc::clone(&bytes), then.clone());
            async move {
                while read_request(&mut tcp, &met).await.is_some() {
                    if tcp.write_all(&bytes).await.is_err() {
                        return;
                    }
                    if !then.run(&mut tcp, &met, &clock).await {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Releases a machine, to whatever end it comes without the clock.
    pub(crate) async fn release(&self) -> Result<MachineAction, CallError> {
        let patience = WaitOptions::default();
        let calling = self
            .host
            .unrestrict_code_execution(MACHINE, "cleaned", patience);
        let result = tokio::time::timeout(WATCHDOG, calling).await;
        let result = result.expect("the call ends without the clock");
        if let Err(error) = &result {
            assert!(
                !matches!(error, CallError::Fault { .. }),
                "the plugin is not at fault: {error:?}"
            );
            let shown = format!("{error:?} {error}");
            assert!(!shown.contains(&TOKEN[..20]), "the token is in it: {shown}");
        }
        assert!(count(&self.met.requests) <= 1, "one request for one permit");
        result
    }

    /// Releases a machine; whenever the server has had its turn, so much time goes by.
    pub(crate) async fn release_while(&self, step: Duration) -> Result<MachineAction, CallError> {
        let clock = self.clock.clone();
        let turns = Arc::clone(&self.met.turns);
        let hands = tokio::spawn(async move {
            let mut seen = 0;
            loop {
                until("the server's turn", || count(&turns) > seen).await;
                seen = count(&turns);
                // What the server wrote is to be read before the clock goes on.
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                clock.advance(step);
            }
        });
        let result = self.release().await;
        hands.abort();
        result
    }

    pub(crate) fn elapsed_since(&self, began: host_demo::clock::Moment) -> Duration {
        self.clock.now().since(began)
    }
}

/// Waits until something holds that needs no other time than the computer's.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < WATCHDOG, "in vain: {what}");
        tokio::task::yield_now().await;
    }
}

/// What a server does when it has written its answer.
#[derive(Clone)]
pub(crate) enum Then {
    /// Reads the next request.
    GoOn,
    /// Closes the connection.
    Close,
    /// Neither writes nor closes.
    Hold,
    /// Writes this again and again, as fast as it is read.
    Flood(Vec<u8>),
    /// Writes this byte each time so much time has gone by.
    Drip(u8, Duration),
}

impl Then {
    /// Whether the connection goes on.
    async fn run(&self, tcp: &mut TcpStream, met: &Met, clock: &ManualClock) -> bool {
        let turn = || met.turns.fetch_add(1, Ordering::SeqCst);
        match self {
            Self::GoOn => return true,
            Self::Close => {}
            Self::Hold => {
                turn();
                std::future::pending().await
            }
            Self::Flood(bytes) => {
                while tcp.write_all(bytes).await.is_ok() {
                    met.endless.fetch_add(bytes.len(), Ordering::SeqCst);
                }
            }
            Self::Drip(byte, time) => {
                while tcp.write_all(&[*byte]).await.is_ok() {
                    let next = clock.sleep_until(clock.now() + *time);
                    turn();
                    next.await;
                }
            }
        }
        false
    }
}

/// Reads one request to its end: head and body. `None` where the other side has closed.
pub(crate) async fn read_request(
    connection: &mut (impl AsyncRead + Unpin),
    met: &Met,
) -> Option<String> {
    let head = read_head(connection).await?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.ok()?;
    met.requests.fetch_add(1, Ordering::SeqCst);
    Some(head + &String::from_utf8(body).unwrap())
}

/// Reads a request's head.
pub(crate) async fn read_head(connection: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// An action as the service would answer it.
pub(crate) fn action() -> String {
    format!(
        r#"{{"id":"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a","type":"UnrestrictCodeExecution","status":"Pending","machineId":"{MACHINE}"}}"#
    )
}

/// An answer with these headers (each with its line end) and this body.
pub(crate) fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// A server's TLS for `localhost`, with this protocol, its certificate bent as a test wants it.
pub(crate) fn tls(protocol: &str, bend: impl FnOnce(&mut Leaf)) -> tokio_rustls::TlsAcceptor {
    let mut leaf = Leaf {
        params: CertificateParams::new(vec!["localhost".to_owned()]).unwrap(),
        issuer: Issuer::Ca,
    };
    bend(&mut leaf);
    let key = KeyPair::generate().unwrap();
    let certificate = match leaf.issuer {
        Issuer::Ca => leaf.params.signed_by(&key, &*CA).unwrap(),
        Issuer::Stranger => leaf.params.signed_by(&key, &authority()).unwrap(),
        Issuer::Itself => leaf.params.self_signed(&key).unwrap(),
    };
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config).into()
}

/// A certificate in the making.
pub(crate) struct Leaf {
    pub(crate) params: CertificateParams,
    pub(crate) issuer: Issuer,
}

/// Who signs it.
pub(crate) enum Issuer {
    Ca,
    Stranger,
    Itself,
}

/// Both ways of a connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

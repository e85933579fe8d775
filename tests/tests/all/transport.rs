//! One call is one transmission, whatever the other side does to tempt the client into another.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use host_demo::contract::Effect;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tests::world::{World, release};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const ACTION: &str = r#"{"id":"8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a","type":"UnrestrictCodeExecution","status":"Pending"}"#;

/// What an HTTP/2 server does with each request.
#[derive(Clone, Copy)]
enum Then {
    Answer,
    /// RFC 9113, section 8.7: the client may repeat a request that was refused so.
    RefuseStream,
    /// Section 6.8: so it may when the server goes away and says that it has not looked at the
    /// request.
    GoAway,
}

/// An HTTP/2 server with TLS.
struct Http2 {
    url: String,
    certificate: CertificateDer<'static>,
    ca: String,
    arrivals: Arc<AtomicUsize>,
    /// What was agreed on, for each connection.
    protocols: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Http2 {
    async fn start(then: Then) -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));

        let (listener, address) = listen().await;
        let server = Self {
            url: format!("https://localhost:{}", address.port()),
            certificate: certified.cert.der().clone(),
            ca: certified.cert.pem(),
            arrivals: Arc::default(),
            protocols: Arc::default(),
        };
        let (arrivals, protocols) = (Arc::clone(&server.arrivals), Arc::clone(&server.protocols));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let tls = acceptor.accept(tcp).await.unwrap();
                let protocol = tls.get_ref().1.alpn_protocol().unwrap().to_vec();
                protocols.lock().unwrap().push(protocol);
                tokio::spawn(serve(tls, then, Arc::clone(&arrivals)));
            }
        });
        server
    }

    fn arrivals(&self) -> usize {
        self.arrivals.load(Ordering::Relaxed)
    }
}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;

async fn serve(tls: Tls, then: Then, arrivals: Arc<AtomicUsize>) {
    if let Then::GoAway = then {
        let _client_gone = go_away(tls, &arrivals).await;
        return;
    }
    let mut connection = h2::server::handshake(tls).await.unwrap();
    while let Some(Ok((_request, mut respond))) = connection.accept().await {
        arrivals.fetch_add(1, Ordering::Relaxed);
        if let Then::RefuseStream = then {
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        let head = http::Response::builder().status(201).body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(Bytes::from_static(ACTION.as_bytes()), true)
            .unwrap();
    }
}

/// Frame by frame: `h2` would not deny that it has seen a request.
async fn go_away(mut tls: Tls, arrivals: &AtomicUsize) -> std::io::Result<()> {
    const NO_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    /// No stream was looked at, and nothing was wrong.
    const GO_AWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    tls.write_all(&NO_SETTINGS).await?;
    let mut preface = [0; 24];
    tls.read_exact(&mut preface).await?;
    let mut head = [0; 9];
    while tls.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        tls.read_exact(&mut vec![0; length as usize]).await?;
        // Of data or headers, and with the flag that ends a request.
        if head[3] <= 1 && head[4] & 1 == 1 {
            arrivals.fetch_add(1, Ordering::Relaxed);
            tls.write_all(&GO_AWAY).await?;
            tls.flush().await?;
        }
    }
    Ok(())
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_service_that_speaks_http_2_is_spoken_to_in_it_over_one_connection() {
    let world = World::new().await;
    let server = Http2::start(Then::Answer).await;
    let host = world.host_at(&server.url, Some(&server.ca));
    for _ in 0..3 {
        release(&host, &world.machine(0), "cleaned").await.unwrap();
    }
    assert_eq!(server.arrivals(), 3);
    assert_eq!(*server.protocols.lock().unwrap(), [b"h2"]);
}

#[tokio::test]
async fn a_request_that_an_http_2_server_sends_back_is_not_sent_again() {
    for then in [Then::RefuseStream, Then::GoAway] {
        let world = World::new().await;
        let server = Http2::start(then).await;
        let host = world.host_at(&server.url, Some(&server.ca));
        for calls in 1..=3 {
            let error = release(&host, &world.machine(0), "cleaned")
                .await
                .unwrap_err();
            assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
            assert_eq!(server.arrivals(), calls);
        }
    }
}

/// The control: these servers do tempt a client that is made with its defaults.
#[tokio::test]
async fn a_client_with_its_defaults_sends_such_a_request_again() {
    for then in [Then::RefuseStream, Then::GoAway] {
        let server = Http2::start(then).await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(server.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls);
        let client = client.no_proxy().build().unwrap();
        let request = client.post(&server.url).body("{}");
        request.send().await.unwrap_err();
        assert!(server.arrivals() > 1, "{}", server.arrivals());
    }
}

/// An HTTP/1.1 server that answers the first request of each connection, and closes it when the
/// second one arrives or, with `at_once`, without waiting for it.
async fn http_1_server(at_once: bool) -> (String, Arc<AtomicUsize>) {
    let (listener, address) = listen().await;
    let arrivals = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&arrivals);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                if read_request(&mut tcp).await {
                    count.fetch_add(1, Ordering::Relaxed);
                    let length = ACTION.len();
                    let answer =
                        format!("HTTP/1.1 201 Created\r\ncontent-length: {length}\r\n\r\n{ACTION}");
                    tcp.write_all(answer.as_bytes()).await.unwrap();
                }
                if !at_once && read_request(&mut tcp).await {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (format!("http://{address}"), arrivals)
}

/// Reads a whole request; `false` where the connection ended before.
async fn read_request(tcp: &mut TcpStream) -> bool {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    // The body is one JSON object without another in it.
    while !request.ends_with(b"}") {
        match tcp.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(n) => request.extend_from_slice(&buffer[..n]),
        }
    }
    true
}

#[tokio::test]
async fn a_kept_connection_that_closes_on_the_next_request_costs_that_call_and_no_other() {
    let world = World::new().await;
    let (url, arrivals) = http_1_server(false).await;
    let host = world.host_at(&url, None);
    for call in 1..=6 {
        let result = release(&host, &world.machine(0), "cleaned").await;
        match result {
            Ok(_) => assert_eq!(call % 2, 1, "the server does not answer the second"),
            Err(error) => assert_eq!((call % 2, error.effect()), (0, Effect::Unknown)),
        }
        assert_eq!(arrivals.load(Ordering::Relaxed), call);
    }
}

#[tokio::test]
async fn a_connection_that_closes_unannounced_makes_no_call_arrive_twice() {
    let world = World::new().await;
    let (url, arrivals) = http_1_server(true).await;
    let host = world.host_at(&url, None);
    for _ in 0..30 {
        let before = arrivals.load(Ordering::Relaxed);
        let result = release(&host, &world.machine(0), "cleaned").await;
        let arrived = arrivals.load(Ordering::Relaxed) - before;
        assert!(arrived <= 1, "{result:?}");
        assert!(arrived == 1 || result.is_err(), "{result:?}");
    }
}

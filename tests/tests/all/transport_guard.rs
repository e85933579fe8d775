//! The way out: through a proxy only where one is configured, and back in without the token.

use std::process::Command;
use std::sync::{Arc, Mutex};

use defender_mock::{Duplicate, Fault, Grant, Mock};
use host_demo::cloud::Service;
use host_demo::contract::Effect;
use host_demo::host::{CallError, Host};
use host_demo::identity::IdentityError;
use host_demo::network::{Network, Proxy as Settings};
use host_demo::transport::TransportErrorKind as ActionKind;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tests::binary::host_demo_binary;
use tests::world::{World, release};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A proxy that makes tunnels, or does not, and reads all that goes through them.
struct Proxy {
    url: String,
    read: Arc<Mutex<Read>>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Read {
    /// The requests for tunnels.
    requests: Vec<String>,
    /// What went through them, both ways.
    bytes: Vec<u8>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Proxy {
    /// That answers every request with this status, and tunnels where it is 200.
    async fn answering(status: u16) -> Self {
        Self::start(status, None).await
    }

    /// That tunnels, and is reached over TLS, with this certificate.
    async fn over_tls(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Self {
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        Self::start(200, Some(TlsAcceptor::from(Arc::new(tls)))).await
    }

    async fn start(status: u16, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let read = Arc::new(Mutex::new(Read::default()));
        let for_server = Arc::clone(&read);
        let server = tokio::spawn(async move {
            let mut tunnels = tokio::task::JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (tls, read) = (tls.clone(), Arc::clone(&for_server));
                tunnels.spawn(async move {
                    match tls {
                        None => tunnel(client, status, read).await,
                        Some(tls) => {
                            if let Ok(client) = tls.accept(client).await {
                                tunnel(client, status, read).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, read, server }
    }

    fn requests(&self) -> Vec<String> {
        self.read.lock().unwrap().requests.clone()
    }

    fn saw(&self, text: &str) -> bool {
        let read = self.read.lock().unwrap();
        let mut windows = read.bytes.windows(text.len());
        windows.any(|window| window == text.as_bytes())
    }

    /// The way through it, with credentials.
    fn settings(&self) -> Network {
        let proxy = Settings::new(&self.url).unwrap();
        Network::default().through(proxy.with_credentials("user:hunter2").unwrap())
    }
}

async fn tunnel(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    status: u16,
    read: Arc<Mutex<Read>>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    let authority = request.split(' ').nth(1).unwrap().to_owned();
    read.lock().unwrap().requests.push(request);
    let answer = format!("HTTP/1.1 {status} X\r\n\r\n");
    let _ = client.write_all(answer.as_bytes()).await;
    if status != 200 {
        return;
    }
    let mut server = TcpStream::connect(&authority).await.unwrap();
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    loop {
        let (is_up, n) = tokio::select! {
            n = client.read(&mut up) => (true, n.unwrap_or(0)),
            n = server.read(&mut down) => (false, n.unwrap_or(0)),
        };
        let bytes = if is_up { &up[..n] } else { &down[..n] };
        read.lock().unwrap().bytes.extend_from_slice(bytes);
        let written = if is_up {
            server.write_all(bytes).await
        } else {
            client.write_all(bytes).await
        };
        if bytes.is_empty() || written.is_err() {
            return;
        }
    }
}

/// The world's host, with another way to the service, for its identity too.
fn host_through(world: &World, network: Network) -> Host {
    world.another_host(|setup| {
        setup.service = setup.service.clone().with_network(network);
        let tokens = world.client_secret(&setup.service, world.application());
        setup.tokens = Arc::new(tokens);
    })
}

#[tokio::test]
async fn through_a_proxy_go_tunnels_and_it_learns_where_to_and_no_more() {
    let world = World::new().await;
    let proxy = Proxy::answering(200).await;
    let host = host_through(&world, proxy.settings());
    release(&host, &world.machine(0), "a comment of ours")
        .await
        .unwrap();
    assert_eq!(world.releases(), 1);

    let authority = world.mock.base_url().strip_prefix("https://").unwrap();
    // One for the token, and one for the release.
    let requests = proxy.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    for request in requests {
        let mut lines: Vec<&str> = request.lines().filter(|line| !line.is_empty()).collect();
        lines[1..].sort_unstable();
        let expected = [
            format!("CONNECT {authority} HTTP/1.1"),
            format!("Host: {authority}"),
            // "user:hunter2" (RFC 7617, section 2).
            "proxy-authorization: Basic dXNlcjpodW50ZXIy".to_owned(),
        ];
        assert!(
            lines
                .iter()
                .map(|l| l.to_lowercase())
                .eq(expected.iter().map(|l| l.to_lowercase())),
            "{lines:?}"
        );
    }
    for secret in [
        "Bearer",
        "eyJ",
        "unrestrict",
        "a comment of ours",
        world.mock.client_secret(),
    ] {
        assert!(!proxy.saw(secret), "the proxy saw {secret}");
    }
}

#[tokio::test]
async fn behind_a_proxy_the_services_certificate_is_checked_all_the_same() {
    let world = World::new().await;
    let other = Mock::builder().start().await.unwrap();
    let proxy = Proxy::answering(200).await;
    let host = world.another_host(|setup| {
        let ca = other.ca_pem().unwrap().as_bytes().to_vec();
        let base = world.mock.base_url();
        let service = Service::custom(base, base, &world.mock.scope()).unwrap();
        setup.service = service.with_ca(ca).with_network(proxy.settings());
    });
    let error = release(&host, &world.machine(0), "x").await.unwrap_err();
    let CallError::Answered {
        detail: Some(detail),
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(detail.kind, ActionKind::Certificate, "{detail}");
    assert_eq!((proxy.requests().len(), world.releases()), (1, 0));
}

#[tokio::test]
async fn who_vouches_for_a_service_does_not_vouch_for_a_proxy_by_another_name() {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let certified = rcgen::generate_simple_self_signed(names).unwrap();
    let world = World::new().await;
    let proxy = Proxy::over_tls(&certified).await;
    let by_another_name = proxy.url.clone();
    let by_the_services = by_another_name.replace("127.0.0.1", "localhost");
    for (url, is_trusted) in [(by_another_name, false), (by_the_services, true)] {
        let network = Network::default().through(Settings::new(&url).unwrap());
        let host = world.another_host(|setup| {
            let service = setup.service.clone().with_network(network);
            setup.service = service.with_ca(certified.cert.pem().into_bytes());
        });
        let result = release(&host, &world.machine(0), "x").await;
        match result {
            Ok(_) => assert!(is_trusted, "{url}"),
            Err(CallError::Answered { detail, .. }) => {
                assert!(!is_trusted, "{url}: {detail:?}");
                assert_eq!(detail.unwrap().kind, ActionKind::Certificate);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(proxy.requests().len(), usize::from(is_trusted), "{url}");
    }
}

#[tokio::test]
async fn a_proxy_that_makes_no_tunnel_means_that_nothing_was_sent() {
    let world = World::new().await;
    for status in [204, 301, 403, 407, 502] {
        let proxy = Proxy::answering(status).await;
        let host = world.another_host(|setup| {
            setup.service = setup.service.clone().with_network(proxy.settings());
        });
        let error = release(&host, &world.machine(0), "x").await.unwrap_err();
        assert_eq!(error.effect(), Effect::None, "{status}: {error:?}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("made no tunnel to"), "{status}: {shown}");
        assert_eq!(shown.contains("it answered 407"), status == 407, "{shown}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("dXNl"),
            "{shown}"
        );
        assert_eq!(proxy.requests().len(), 1, "{status}: it is asked once");
        // Nor is there another way to a token.
        let host = host_through(&world, proxy.settings());
        let error = release(&host, &world.machine(0), "x").await.unwrap_err();
        assert!(
            matches!(error, CallError::Identity(IdentityError::NoAnswer(_))),
            "{status}: {error:?}"
        );
    }
    assert_eq!(world.releases(), 0);
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named_and_not_the_service() {
    let world = World::new().await;
    // Bound, so that nobody else gets the port, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let network = Network::default().through(Settings::new(&url).unwrap());
    let host = world.another_host(|setup| {
        setup.service = setup.service.clone().with_network(network);
    });
    let error = release(&host, &world.machine(0), "x").await.unwrap_err();
    let CallError::Answered {
        detail: Some(detail),
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(
        (detail.kind, error.effect()),
        (ActionKind::Proxy, Effect::None)
    );
    let named = format!("no connection to the proxy {url}: ");
    assert!(detail.detail.starts_with(&named), "{detail}");
}

/// Handed to a proxy, it would be a request with a token in it, for the proxy to read.
#[tokio::test]
async fn what_is_not_encrypted_goes_through_no_proxy() {
    let world = World::with(|scene| scene.plain_http = true).await;
    let proxy = Proxy::answering(200).await;
    let host = world.another_host(|setup| {
        setup.service = setup.service.clone().with_network(proxy.settings());
    });
    release(&host, &world.machine(0), "x").await.unwrap();
    assert!(proxy.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_comes_from_an_argument_and_none_from_the_environment() {
    let world = World::with(|scene| scene.switches.duplicate = Duplicate::Create).await;
    let named = Proxy::answering(200).await;
    let in_the_environment = Proxy::answering(200).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = file("ca.pem", world.mock.ca_pem().unwrap());
    let token = file("token", &world.mock.token(Grant::default()));
    let credentials = file("credentials", "user:hunter2\n");
    let (base, scope, machine) = (world.mock.base_url(), world.mock.scope(), world.machine(0));
    let binary = host_demo_binary();
    let run = |more: &[&str]| {
        let mut command = Command::new(&binary);
        command
            .args([
                "unrestrict",
                &machine,
                "--comment",
                "x",
                "--no-wait",
                "-vvv",
            ])
            .args(["--base-url", base, "--authority", base, "--scope", &scope])
            .args(["--ca-file", &ca, "--token-file", &token])
            .args(more)
            .env_clear()
            .env("HOME", folder.path())
            .env("XDG_CACHE_HOME", binary.with_file_name("host-demo-cache"))
            .env("NO_PROXY", "*");
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(name, &in_the_environment.url);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !said.contains("hunter2") && !said.contains("dXNl"),
            "{said}"
        );
        (output.status.code(), said)
    };

    let (code, said) = run(&[]);
    assert_eq!((code, named.requests().len()), (Some(0), 0), "{said}");
    let (code, said) = run(&[
        "--proxy",
        &named.url,
        "--proxy-credentials-file",
        &credentials,
    ]);
    assert_eq!((code, named.requests().len()), (Some(0), 1), "{said}");
    assert!(in_the_environment.requests().is_empty());

    for (arguments, problem) in [
        (
            &["--proxy", "http://user:hunter2@proxy.corp:3128"][..],
            "has credentials in it",
        ),
        (&["--proxy", "socks5://proxy.corp"], "http:// or https://"),
        (&["--proxy", "http://169.254.169.254"], "metadata service"),
        (&["--proxy-credentials-file", &credentials], "--proxy"),
        (
            &[
                "--proxy",
                "http://proxy.corp",
                "--proxy-credentials-file",
                &ca,
            ],
            "user:password",
        ),
        (&["--allow-address", "everything"], "not a network"),
    ] {
        let (code, said) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(problem), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn an_answer_that_repeats_the_token_fails_the_call_and_shows_nobody_the_token() {
    let world = World::new().await;
    let token = world.mock.token(Grant::default());
    let escaped: String = token.bytes().map(|b| format!("\\u{b:04x}")).collect();
    let host = world.host_with_token(&token);
    let body = |text: &str| format!(r#"{{"error":{{"code":"x","message":"got Bearer {text}"}}}}"#);
    for (status, fault, effect) in [
        (200, Fault::answer(200, body(&token)), Effect::Unknown),
        (400, Fault::answer(400, body(&token)), Effect::None),
        (403, Fault::answer(403, body(&escaped)), Effect::None),
        (429, Fault::answer(429, body(&token)), Effect::None),
        (500, Fault::answer(500, body(&token)), Effect::Unknown),
        (
            502,
            Fault::answer(502, "").header("content-type", &token),
            Effect::Unknown,
        ),
    ] {
        world.mock.inject(fault);
        let before = world.releases();
        let error = world
            .play(release(&host, &world.machine(0), "x"))
            .await
            .unwrap_err();
        assert_eq!(error, CallError::TokenEchoed { effect }, "{status}");
        assert_eq!(world.releases(), before + 1, "{status}: one request");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(&token[..20]), "{shown}");
    }
}

/// A 429 is heeded, whatever else is in it.
#[tokio::test]
async fn an_answer_that_repeats_the_token_still_closes_the_quota() {
    let world = World::new().await;
    let token = world.mock.token(Grant::default());
    let host = world.host_with_token(&token);
    world
        .mock
        .inject(Fault::answer(429, &*token.leak()).header("retry-after", "7"));
    release(&host, &world.machine(0), "x").await.unwrap_err();
    let impatient = host_demo::host::WaitOptions {
        until: Some(host_demo::clock::Clock::now(&world.clock)),
        ..Default::default()
    };
    let machine = world.machine(0);
    let refused = host
        .unrestrict_code_execution(&machine, "x", impatient)
        .await;
    assert!(
        matches!(refused, Err(CallError::Quota { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_header_that_no_guest_sees_may_say_what_it_likes() {
    let world = World::new().await;
    let token = world.mock.token(Grant::default());
    let host = world.host_with_token(&token);
    world
        .mock
        .inject(Fault::answer(404, "{}").header("x-debug", &token));
    let error = release(&host, &world.machine(0), "x").await.unwrap_err();
    assert_eq!(error.reason().map(|r| r.name()), Some("not-found"));
}

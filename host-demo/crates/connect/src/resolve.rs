//! From a name to the addresses that may be dialled.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address_guard::Guard;

/// Asks for a name's addresses. A parameter, so that tests need no name service.
pub(crate) type Lookup = Arc<dyn Fn(String) -> Found + Send + Sync>;

/// The addresses that a name has.
pub(crate) type Found = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Asks the operating system.
pub(crate) fn platform() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Resolves once for each connection, and gives out what was checked and nothing else: between the
/// check and the use no second answer can come.
pub(crate) struct Guarded {
    pub guard: Arc<Guard>,
    pub(crate) lookup: Lookup,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Arc::clone(&self.guard);
        let found = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move {
            let found = found.await?;
            if found.is_empty() {
                return Err(io::Error::other("the name has no address").into());
            }
            guard.answer(name.as_str(), &found)?;
            // The client puts the URL's port in the place of 0.
            let addresses: Addrs =
                Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::cloud::Service;
    use crate::proxy::{Network, Proxy};
    use crate::transport::{Transport, TransportError, TransportErrorKind};
    use defender_core::clock::{Clock as _, ManualClock};

    /// A name service that tells what it was asked, and gives the n-th asker the n-th answer.
    #[derive(Clone, Default)]
    struct Names(Arc<Mutex<Vec<String>>>);

    impl Names {
        fn lookup(&self, answers: &'static [&'static [&'static str]]) -> Lookup {
            let asked = Arc::clone(&self.0);
            Arc::new(move |name| {
                let mut asked = asked.lock().unwrap();
                let answer = answers.get(asked.len()).copied();
                asked.push(name);
                Box::pin(async move {
                    let answer = answer.ok_or_else(|| io::Error::other("no such name"))?;
                    Ok(answer.iter().map(|ip| ip.parse().unwrap()).collect())
                })
            })
        }

        fn asked(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    fn service(network: Network) -> Service {
        let (origin, scope) = ("https://defender.test", "https://x/.default");
        Service::custom(origin, origin, scope)
            .unwrap()
            .with_network(network)
    }

    fn transport(service: &Service, lookup: Lookup) -> Transport {
        let patience = Duration::from_secs(10);
        Transport::with_lookup(service, service.origin(), patience, lookup).unwrap()
    }

    async fn get(transport: &Transport, url: &str) -> Result<Bytes, TransportError> {
        let (head, ()) = http::Request::get(url).body(()).unwrap().into_parts();
        let clock = Arc::new(ManualClock::new());
        let deadline = clock.now() + Duration::from_secs(30);
        let answer = transport.send(head, Bytes::new(), clock, deadline).await?;
        Ok(answer.into_body().collect().await.unwrap().to_bytes())
    }

    async fn listen() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    async fn answer(connection: &mut TcpStream, with: &str) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(connection.read_u8().await.unwrap());
        }
        connection.write_all(with.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_dialled() {
        for answers in [
            [&["127.0.0.1"][..]],
            [&["1.1.1.1", "127.0.0.1"]],
            [&["::ffff:127.0.0.1"]],
        ] {
            let (listener, port) = listen().await;
            let names = Names::default();
            let answers: &'static [&'static [&'static str]] = Box::leak(Box::new(answers));
            let transport = transport(&service(Network::default()), names.lookup(answers));
            let error = get(&transport, &format!("http://defender.test:{port}/"))
                .await
                .unwrap_err();
            assert_eq!(error.kind, TransportErrorKind::Address, "{error}");
            assert!(!error.kind.may_have_arrived());
            assert!(error.detail.contains("defender.test leads to"), "{error}");
            assert!(nobody_knocked(listener), "it was dialled: {answers:?}");
        }
    }

    fn nobody_knocked(listener: TcpListener) -> bool {
        let knock = listener.into_std().unwrap().accept();
        knock.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn a_name_is_resolved_once_for_a_connection_and_what_was_checked_is_dialled() {
        let (listener, port) = listen().await;
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            [
                answer(&mut connection, OK).await,
                answer(&mut connection, OK).await,
            ]
        });
        let names = Names::default();
        let network = Network::default().permitting("127.0.0.1").unwrap();
        // The second answer, of a name that is being rebound, is never asked for.
        let lookup = names.lookup(&[&["127.0.0.1"], &["169.254.169.254"]]);
        let transport = transport(&service(network), lookup);
        for _ in 0..2 {
            let body = get(&transport, &format!("http://defender.test:{port}/")).await;
            assert_eq!(body.unwrap(), "ok");
        }
        assert_eq!(names.asked(), ["defender.test"]);
        let [first, _] = server.await.unwrap();
        assert!(
            first.contains(&format!("host: defender.test:{port}")),
            "{first}"
        );
    }

    #[tokio::test]
    async fn an_address_in_the_url_is_checked_however_it_is_written() {
        let names = Names::default();
        let transport = transport(&service(Network::default()), names.lookup(&[]));
        for host in [
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "0251.0376.0251.0376",
            "169.254.43518",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[fd00:ec2::254]",
            "0.0.0.0",
            "0",
            "[::]",
        ] {
            let error = get(&transport, &format!("https://{host}/"))
                .await
                .unwrap_err();
            assert_eq!(error.kind, TransportErrorKind::Address, "{host}: {error}");
        }
        assert!(names.asked().is_empty());
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_an_error_of_the_name() {
        let names = Names::default();
        let lookup = names.lookup(&[&[]]);
        let transport = transport(&service(Network::default()), lookup);
        for _ in 0..2 {
            let error = get(&transport, "https://defender.test/").await.unwrap_err();
            assert_eq!(error.kind, TransportErrorKind::Dns, "{error}");
        }
    }

    #[tokio::test]
    async fn with_a_proxy_its_name_is_resolved_and_no_other() {
        let (listener, port) = listen().await;
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            answer(&mut connection, "HTTP/1.1 502 No\r\n\r\n").await
        });
        let proxy = Proxy::new(&format!("http://proxy.corp:{port}")).unwrap();
        let names = Names::default();
        let service = service(Network::default().through(proxy));
        let lookup = names.lookup(&[&["127.0.0.1"], &["127.0.0.1"]]);
        let transport = transport(&service, lookup);
        let error = get(&transport, "https://defender.test/").await.unwrap_err();
        assert!(!error.kind.may_have_arrived(), "{error:?}");
        assert_eq!(names.asked(), ["proxy.corp"]);
        let request = server.await.unwrap();
        assert!(
            request.starts_with("CONNECT defender.test:443 HTTP/1.1"),
            "{request}"
        );
    }

    #[test]
    fn a_service_that_is_named_by_an_address_that_is_never_one_is_refused_at_once() {
        for (origin, proxy) in [
            ("https://169.254.169.254", None),
            ("https://[::ffff:10.0.0.1]", None),
            ("https://defender.test", Some("http://169.254.169.254:3128")),
        ] {
            let scope = "https://x/.default";
            let mut service = Service::custom(origin, "https://login.test", scope).unwrap();
            if let Some(proxy) = proxy {
                let proxy = Proxy::new(proxy).unwrap();
                service = service.with_network(Network::default().through(proxy));
            }
            let error = Transport::to_service(&service, Duration::from_secs(30)).unwrap_err();
            assert!(error.to_string().contains("may not be dialled"), "{error}");
        }
    }
}

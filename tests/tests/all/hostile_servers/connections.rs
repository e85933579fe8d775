//! Connections that break, and TLS that fails.

use host_demo::transport::TransportErrorKind as ActionKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::server::{
    Issuer, Leaf, Met, Stage, Then, action, answer, count, read_head, read_request, tls,
};
use super::{kind, word};

#[tokio::test]
async fn an_answer_that_comes_before_the_request_was_read_is_an_answer() {
    let stage = Stage::new("http://127.0.0.1:PORT", |mut tcp, _, _| async move {
        read_head(&mut tcp).await;
        let too_large = answer(413, "connection: close\r\n", "{}");
        tcp.write_all(&too_large).await.unwrap();
    })
    .await;
    let result = stage.release().await;
    assert_eq!(word(&result), "rejected none", "{result:?}");
}

#[tokio::test]
async fn a_connection_that_is_closed_or_reset_on_a_request_gets_no_second_request() {
    for reset in [false, true] {
        let stage = Stage::new(
            "http://127.0.0.1:PORT",
            move |mut tcp, met: Met, _| async move {
                read_request(&mut tcp, &met).await;
                if reset {
                    tcp.set_zero_linger().unwrap();
                }
            },
        )
        .await;
        let result = stage.release().await;
        assert_eq!(word(&result), "transport unknown", "{result:?}");
        assert_eq!(kind(&result), Some(ActionKind::Broken));
        assert_eq!(
            (count(&stage.met.requests), count(&stage.met.connections)),
            (1, 1)
        );
    }
}

#[tokio::test]
async fn a_kept_connection_that_breaks_on_the_second_call_is_not_tried_again() {
    let stage = Stage::new("http://127.0.0.1:PORT", |mut tcp, met: Met, _| async move {
        read_head(&mut tcp).await;
        let mut body = [0; 21];
        tcp.read_exact(&mut body).await.unwrap();
        tcp.write_all(&answer(200, "", action())).await.unwrap();
        // The second request, and no answer to it.
        read_request(&mut tcp, &met).await;
    })
    .await;
    assert_eq!(word(&stage.release().await), "success");
    let second = stage.release().await;
    assert_eq!(word(&second), "transport unknown", "{second:?}");
    assert_eq!(
        (count(&stage.met.requests), count(&stage.met.connections)),
        (1, 1)
    );
}

#[tokio::test]
async fn an_answer_that_was_slipped_in_answers_nothing() {
    let mut forged = answer(200, "", action());
    forged.extend(answer(200, "", action().replace("8a5c34dc", "ffffffff")));
    let stage = Stage::answering(forged, Then::GoOn).await;
    let first = stage.release().await.unwrap();
    stage
        .met
        .requests
        .store(0, std::sync::atomic::Ordering::SeqCst);
    let second = stage.release().await.unwrap();
    assert_eq!(
        second.id, first.id,
        "not the answer to a request that was not sent"
    );
    assert_eq!(
        (count(&stage.met.requests), count(&stage.met.connections)),
        (1, 2)
    );
}

/// A release from a server that does this behind TLS.
async fn over_tls(
    origin: &str,
    protocol: &'static str,
    bend: fn(&mut Leaf),
) -> (Stage, String, Option<ActionKind>) {
    let acceptor = tls(protocol, bend);
    let stage = Stage::new(origin, move |tcp, met, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                return;
            };
            while read_request(&mut tls, &met).await.is_some() {
                tls.write_all(&answer(200, "", action())).await.unwrap();
            }
        }
    })
    .await;
    let result = stage.release().await;
    (stage, word(&result), kind(&result))
}

#[tokio::test]
async fn a_certificate_that_is_not_the_services_gets_no_request() {
    let localhost = "https://localhost:PORT";
    let (_, good, _) = over_tls(localhost, "http/1.1", |_| {}).await;
    assert_eq!(good, "success", "the control");

    let expired: fn(&mut Leaf) = |leaf| {
        leaf.params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        leaf.params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let not_yet: fn(&mut Leaf) = |leaf| leaf.params.not_before = rcgen::date_time_ymd(3000, 1, 1);
    let another: fn(&mut Leaf) = |leaf| {
        leaf.params = rcgen::CertificateParams::new(vec!["other.test".to_owned()]).unwrap();
    };
    let for_clients: fn(&mut Leaf) = |leaf| {
        leaf.params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    for (name, origin, bend) in [
        ("expired", localhost, expired),
        ("not yet valid", localhost, not_yet),
        ("another name's", localhost, another),
        (
            "the name's, for an address",
            "https://127.0.0.1:PORT",
            |_: &mut Leaf| {},
        ),
        ("a client's", localhost, for_clients),
        ("a stranger's", localhost, |leaf: &mut Leaf| {
            leaf.issuer = Issuer::Stranger
        }),
        ("signed by itself", localhost, |leaf: &mut Leaf| {
            leaf.issuer = Issuer::Itself
        }),
    ] {
        let (stage, word, kind) = over_tls(origin, "http/1.1", bend).await;
        assert_eq!(word, "transport none", "{name}");
        assert_eq!(kind, Some(ActionKind::Certificate), "{name}");
        assert_eq!(count(&stage.met.requests), 0, "{name}");
    }
}

#[tokio::test]
async fn a_handshake_that_fails_sends_nothing() {
    // A record of version 3.2 with a ServerHello of TLS 1.1 (RFC 4346, section 7.4.1.3).
    let mut old = vec![22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    old.extend([7; 32]);
    old.extend([0, 0xc0, 0x13, 0]);
    for (name, bytes) in [
        ("TLS 1.1", old),
        ("no TLS", answer(200, "", action())),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("nothing", Vec::new()),
        ("garbage", vec![0xff; 1000]),
    ] {
        let stage = Stage::new("https://localhost:PORT", move |mut tcp, _, _| {
            let bytes = bytes.clone();
            async move {
                let _hello = tcp.read_u8().await;
                let _ = tcp.write_all(&bytes).await;
                let _ = tcp.shutdown().await;
                // Closing with something unread would be a reset.
                let _ = tcp.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let result = stage.release().await;
        assert_eq!(word(&result), "transport none", "{name}: {result:?}");
        assert_eq!(count(&stage.met.connections), 1, "{name}");
    }
}

#[tokio::test]
async fn a_service_that_speaks_tls_where_none_is_expected_is_not_understood() {
    let stage = Stage::new("http://127.0.0.1:PORT", |mut tcp, met, _| async move {
        read_request(&mut tcp, &met).await;
        let _ = tcp.write_all(&[21, 3, 3, 0, 2, 2, 40]).await;
    })
    .await;
    let result = stage.release().await;
    assert_eq!(word(&result), "transport unknown", "{result:?}");
}

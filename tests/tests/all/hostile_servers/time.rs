//! Services that take their time.

use std::time::Duration;

use host_demo::clock::Clock as _;
use host_demo::host::{CALL_TIMEOUT, CallError, WaitOptions};
use host_demo::limits::Why;
use tokio::io::AsyncReadExt as _;

use super::server::{MACHINE, Met, Stage, Then, count, until};
use super::word;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn slow_headers_end_with_the_calls_deadline() {
    for start in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nx-slow: "] {
        let stage = Stage::answering(start, Then::Drip(b'H', SECOND)).await;
        let began = stage.clock.now();
        let result = stage.release_while(SECOND).await;
        assert_eq!(word(&result), "timed-out unknown", "{start}: {result:?}");
        assert_eq!(stage.elapsed_since(began), CALL_TIMEOUT, "{start}");
    }
}

#[tokio::test]
async fn interim_answers_without_end_end_with_the_calls_deadline() {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    let stage = Stage::answering(interim.repeat(1000), Then::Hold).await;
    let result = stage.release_while(CALL_TIMEOUT).await;
    assert_eq!(word(&result), "timed-out unknown", "{result:?}");
}

#[tokio::test]
async fn a_body_that_falls_silent_is_given_up_before_the_deadline() {
    let head = "HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\n{";
    for (bytes, expected) in [
        (head.to_owned(), "unexpected-response unknown"),
        (head.replace("200", "500"), "service-failure unknown"),
        (head.replace("200", "404"), "not-found none"),
    ] {
        let stage = Stage::answering(bytes, Then::Hold).await;
        let began = stage.clock.now();
        let idle = began + 10 * SECOND;
        let clock = stage.clock.clone();
        let hands = tokio::spawn(async move {
            until("somebody who waits for the body", || {
                clock.next_wake() == Some(idle)
            })
            .await;
            clock.advance(10 * SECOND);
        });
        let result = stage.release().await;
        hands.await.unwrap();
        assert_eq!(word(&result), expected, "{result:?}");
        assert_eq!(stage.elapsed_since(began), 10 * SECOND);
    }
}

#[tokio::test]
async fn a_body_that_drips_ends_with_the_calls_deadline() {
    let head = "HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\n";
    let stage = Stage::answering(head, Then::Drip(b' ', 5 * SECOND)).await;
    let began = stage.clock.now();
    let result = stage.release_while(5 * SECOND).await;
    assert_eq!(word(&result), "timed-out unknown", "{result:?}");
    assert_eq!(stage.elapsed_since(began), CALL_TIMEOUT);
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_with_the_calls_deadline() {
    let stage = Stage::new(
        "https://localhost:PORT",
        |mut tcp, met: Met, _| async move {
            let _hello = tcp.read_u8().await;
            met.turns.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            std::future::pending().await
        },
    )
    .await;
    let result = stage.release_while(CALL_TIMEOUT).await;
    assert_eq!(word(&result), "timed-out unknown", "{result:?}");
    assert_eq!(count(&stage.met.requests), 0);
}

#[tokio::test]
async fn a_429_that_nobody_waits_for_to_its_end_is_heeded_all_the_same() {
    for (header, wait) in [("", 60), ("retry-after: 90\r\n", 90)] {
        let head = format!("HTTP/1.1 429 X\r\n{header}content-length: 100\r\n\r\n{{");
        let stage = Stage::answering(head, Then::Hold).await;
        let opens = stage.clock.now() + wait * SECOND;
        let idle = stage.clock.now() + 10 * SECOND;
        // It waits for the rest of the answer, and is given up.
        tokio::select! {
            result = stage.release() => panic!("{result:?}"),
            () = until("somebody who waits for the body", || stage.clock.next_wake() == Some(idle)) => {}
        }
        let hurried = WaitOptions {
            until: Some(stage.clock.now()),
            ..WaitOptions::default()
        };
        let next = stage.host.unrestrict_code_execution(MACHINE, "x", hurried);
        match next.await {
            Err(CallError::Quota { wait, .. }) => {
                assert_eq!((wait.at, wait.why), (opens, Why::Service), "{header}");
            }
            other => panic!("{header}: {other:?}"),
        }
        assert_eq!(count(&stage.met.requests), 1);
    }
}

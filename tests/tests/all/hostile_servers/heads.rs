//! What comes in an answer's place, and heads that are none.

use host_demo::contract::Effect;

use super::each;
use super::server::{Stage, Then, action, answer};

#[tokio::test]
async fn a_server_that_behaves_is_understood() {
    let body = action();
    each([
        ("plain", answer(200, "", &body), Then::GoOn, "success"),
        (
            "closing",
            answer(200, "connection: close\r\n", &body),
            Then::Close,
            "success",
        ),
        (
            "chunked",
            format!(
                "HTTP/1.1 201 X\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            )
            .into_bytes(),
            Then::GoOn,
            "success",
        ),
        (
            "HTTP/1.0, ended by closing",
            format!("HTTP/1.0 200 OK\r\n\r\n{body}").into_bytes(),
            Then::Close,
            "success",
        ),
        (
            "after interim answers",
            [
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
                    .to_vec(),
                answer(200, "", &body),
            ]
            .concat(),
            Then::GoOn,
            "success",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_head_that_is_none_is_no_answer() {
    let filler = |n: usize| "a".repeat(n);
    each([
        ("nothing", Vec::new(), Then::Close, "transport unknown"),
        (
            "half a head",
            b"HTTP/1.1 200 OK\r\ncontent-".to_vec(),
            Then::Close,
            "transport unknown",
        ),
        (
            "another protocol",
            b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
            Then::Close,
            "transport unknown",
        ),
        (
            "an older protocol",
            b"<html>hello</html>\r\n\r\n".to_vec(),
            Then::Close,
            "transport unknown",
        ),
        (
            "no status",
            b"HTTP/1.1 \r\n\r\n".to_vec(),
            Then::Close,
            "transport unknown",
        ),
        (
            "a name with a space",
            answer(200, "bad name: x\r\n", "{}"),
            Then::Close,
            "transport unknown",
        ),
        (
            "a zero byte",
            answer(200, "x: a\0b\r\n", "{}"),
            Then::Close,
            "transport unknown",
        ),
        (
            "two lengths",
            b"HTTP/1.1 200 X\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}".to_vec(),
            Then::Close,
            "transport unknown",
        ),
        (
            "a length that is no number",
            b"HTTP/1.1 200 X\r\ncontent-length: -1\r\n\r\n{}".to_vec(),
            Then::Close,
            "transport unknown",
        ),
        (
            "headers without end",
            b"HTTP/1.1 200 OK\r\n".to_vec(),
            Then::Flood(format!("x-filler: {}\r\n", filler(1000)).into_bytes()),
            "transport unknown",
        ),
        (
            "a header without end",
            b"HTTP/1.1 200 OK\r\nx-filler: ".to_vec(),
            Then::Flood(filler(1 << 16).into_bytes()),
            "transport unknown",
        ),
        (
            "a hundred and one headers",
            answer(200, &"x: y\r\n".repeat(101), action()),
            Then::GoOn,
            "transport unknown",
        ),
        (
            "80 KiB of headers",
            answer(
                200,
                &format!("x: {}\r\n", filler(8 << 10)).repeat(10),
                action(),
            ),
            Then::GoOn,
            "transport unknown",
        ),
        (
            // The status was seen, and says that nothing happened.
            "80 KiB of headers, and a refusal",
            answer(404, &format!("x: {}\r\n", filler(8 << 10)).repeat(10), "{}"),
            Then::GoOn,
            "transport none",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_status_that_means_nothing_here_is_not_what_was_expected() {
    each([
        (
            "204",
            b"HTTP/1.1 204 X\r\n\r\n".to_vec(),
            Then::GoOn,
            "unexpected-response unknown",
        ),
        (
            "304",
            b"HTTP/1.1 304 X\r\n\r\n".to_vec(),
            Then::GoOn,
            "unexpected-response none",
        ),
        (
            "999",
            answer(999, "", "{}"),
            Then::GoOn,
            "unexpected-response unknown",
        ),
        (
            "a redirect",
            answer(307, "location: https://169.254.169.254/\r\n", ""),
            Then::GoOn,
            "unexpected-response none",
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_none() {
    for headers in ["", "connection: upgrade\r\nupgrade: websocket\r\n"] {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n{}",
            action()
        );
        let stage = Stage::answering(head, Then::Close).await;
        let result = stage.release().await;
        let error = result.unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
    }
}

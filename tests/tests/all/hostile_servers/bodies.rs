//! Bodies that are not what their heads say, or no action.

use super::server::{Stage, Then, action, answer};
use super::{each, word};

#[tokio::test]
async fn a_body_that_is_not_what_its_head_says_is_not_believed() {
    let body = action();
    let short = format!(
        "HTTP/1.1 200 X\r\ncontent-length: {}\r\n\r\n{body}",
        body.len() + 1
    );
    let long = format!(
        "HTTP/1.1 200 X\r\ncontent-length: {}\r\n\r\n{body}",
        body.len() - 1
    );
    let chunked = |chunks: String| {
        format!("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{chunks}").into_bytes()
    };
    let size = body.len();
    let expected = "unexpected-response unknown";
    each([
        (
            "shorter than it says",
            short.into_bytes(),
            Then::Close,
            expected,
        ),
        (
            "longer than it says",
            long.into_bytes(),
            Then::Close,
            expected,
        ),
        (
            "no chunk",
            chunked("ZZ\r\n".to_owned()),
            Then::Close,
            expected,
        ),
        (
            "a chunk too long to count",
            chunked("F".repeat(17) + "\r\n"),
            Then::Close,
            expected,
        ),
        (
            "a chunk that goes on",
            chunked(format!("{:x}\r\n{body}more\r\n0\r\n\r\n", size)),
            Then::Close,
            expected,
        ),
        (
            "no last chunk",
            chunked(format!("{size:x}\r\n{body}\r\n")),
            Then::Close,
            expected,
        ),
        (
            "an extension without end",
            chunked(format!("{size:x};")),
            Then::Flood(vec![b'x'; 1 << 16]),
            expected,
        ),
        (
            "trailers without end",
            chunked(format!("{size:x}\r\n{body}\r\n0\r\n")),
            Then::Flood(b"x-trailer: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".to_vec()),
            expected,
        ),
        (
            "a body without end",
            b"HTTP/1.1 200 X\r\n\r\n".to_vec(),
            Then::Flood(vec![b' '; 1 << 16]),
            expected,
        ),
        (
            "chunks without end",
            chunked(String::new()),
            Then::Flood(b"1\r\n \r\n".repeat(10_000)),
            expected,
        ),
        // A status that says that nothing happened says so however its body ends.
        (
            "a refusal that breaks off",
            b"HTTP/1.1 403 X\r\ncontent-length: 99\r\n\r\n{".to_vec(),
            Then::Close,
            "forbidden none",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_is_no_action_is_not_one() {
    let mebibyte = 1 << 20;
    let many: String = (0..5000).map(|n| format!(",\"p{n}\":{n}")).collect();
    let many = action().replace("}", &format!("{many}}}"));
    let utf16: Vec<u8> = action().encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, body) in [
        ("nothing", Vec::new()),
        (
            "a page",
            b"<!doctype html><h1>Sign in to the hotel's network</h1>".to_vec(),
        ),
        ("brackets", vec![b'['; mebibyte]),
        ("braces", b"{\"a\":".repeat(mebibyte / 5)),
        ("quotes", vec![b'"'; mebibyte]),
        ("backslashes", vec![b'\\'; mebibyte]),
        ("zeros", vec![0; mebibyte]),
        ("a number without end", vec![b'9'; mebibyte]),
        (
            "more than a mebibyte",
            [vec![b' '; mebibyte], action().into_bytes()].concat(),
        ),
        ("two", action().repeat(2).into_bytes()),
        ("half", action().as_bytes()[..50].to_vec()),
        ("too many properties", many.into_bytes()),
        ("UTF-16", utf16),
        (
            "not UTF-8",
            action()
                .into_bytes()
                .into_iter()
                .map(|b| if b == b'P' { 0xff } else { b })
                .collect(),
        ),
        ("a list", format!("[{}]", action()).into_bytes()),
        ("no object", b"null".to_vec()),
        (
            "another machine's",
            action().replace("1e5b", "0000").into_bytes(),
        ),
        (
            "another kind's",
            action().replace("Unrestrict", "Restrict").into_bytes(),
        ),
    ] {
        let stage = Stage::answering(answer(200, "", body), Then::GoOn).await;
        let result = stage.release().await;
        assert_eq!(
            word(&result),
            "unexpected-response unknown",
            "{name}: {result:?}"
        );
        // A message, not the answer.
        assert!(format!("{result:?}").len() < 16 << 10, "{name}");
    }
}

/// What the service may add makes no call fail, and whoever reads it as JSON finds a text.
#[tokio::test]
async fn a_property_that_is_too_deep_to_read_is_passed_on_as_it_is() {
    let deep = "[".repeat(9000) + &"]".repeat(9000);
    let body = action().replace("}", &format!(",\"deep\":{deep}}}"));
    let stage = Stage::answering(answer(200, "", body), Then::GoOn).await;
    let action = stage.release().await.unwrap();
    assert_eq!(action.to_json()["deep"], deep);
}

#[tokio::test]
async fn an_unrequested_encoding_is_decoded_or_named() {
    let body = action();
    let (length, inverse) = (body.len() as u16, !(body.len() as u16));
    let packed = [
        // RFC 1952, section 2.3; RFC 1951, section 3.2.4: one block, stored.
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1][..],
        &length.to_le_bytes(),
        &inverse.to_le_bytes(),
        body.as_bytes(),
        &crc32(body.as_bytes()).to_le_bytes(),
        &u32::from(length).to_le_bytes(),
    ]
    .concat();
    for coding in ["gzip", "x-gzip"] {
        let headers = format!("content-encoding: {coding}\r\n");
        let stage = Stage::answering(answer(200, &headers, &packed), Then::GoOn).await;
        let result = stage.release().await;
        assert!(result.is_ok(), "{coding}: {result:?}");
    }
    for (coding, says) in [
        ("deflate", "the response is not valid deflate"),
        (
            "br",
            "the response is compressed (br), which was not requested",
        ),
        (
            "zstd",
            "the response is compressed (zstd), which was not requested",
        ),
    ] {
        let headers = format!("content-encoding: {coding}\r\n");
        let stage = Stage::answering(answer(200, &headers, &packed), Then::GoOn).await;
        let result = stage.release().await;
        assert_eq!(
            word(&result),
            "unexpected-response unknown",
            "{coding}: {result:?}"
        );
        let message = result.unwrap_err().to_string();
        assert!(message.contains(says), "{coding}: {message}");
    }
}

/// RFC 1952, section 8.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

//! The same over HTTP/2.

use host_demo::host::CALL_TIMEOUT;

use super::server::{self, Met, Stage, action, count, tls};
use super::word;

/// What a server over HTTP/2 does with a request whose body it has read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Http2 {
    Answer,
    Trailers,
    ManyHeaders,
    Refuse,
    GoAway,
    Reset,
    MoreThanItSays,
    LessThanItSays,
    Silence,
}

async fn serve_http2(stream: impl server::Stream + 'static, does: Http2, met: Met) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let mut body = request.into_body();
        let reading = async {
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
        };
        // The connection has to be driven while the body is read.
        tokio::select! {
            () = reading => {}
            _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => return,
        }
        met.requests
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut head = http::Response::new(());
        let action = bytes::Bytes::from(action());
        match does {
            Http2::Refuse => respond.send_reset(h2::Reason::REFUSED_STREAM),
            Http2::GoAway => connection.abrupt_shutdown(h2::Reason::NO_ERROR),
            Http2::Silence => {
                // The stream must not be dropped: that would reset it.
                met.turns.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let _ = std::future::poll_fn(|cx| connection.poll_closed(cx)).await;
            }
            Http2::ManyHeaders => {
                for n in 0..90 {
                    let name: http::HeaderName = format!("x-filler-{n}").parse().unwrap();
                    head.headers_mut()
                        .insert(name, "a".repeat(1000).parse().unwrap());
                }
                let _ = respond.send_response(head, true);
            }
            _ => {
                let length = match does {
                    Http2::MoreThanItSays => action.len() - 1,
                    Http2::LessThanItSays => action.len() + 1,
                    _ => action.len(),
                };
                head.headers_mut().insert("content-length", length.into());
                let mut stream = respond.send_response(head, false).unwrap();
                match does {
                    Http2::Reset => stream.send_reset(h2::Reason::INTERNAL_ERROR),
                    Http2::Trailers => {
                        let _ = stream.send_data(action, false);
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("x-trailer", "1".parse().unwrap());
                        let _ = stream.send_trailers(trailers);
                    }
                    _ => drop(stream.send_data(action, true)),
                }
            }
        }
    }
}

#[tokio::test]
async fn over_http2_a_request_is_sent_once_whatever_becomes_of_it() {
    for (does, expected) in [
        (Http2::Answer, "success"),
        (Http2::Trailers, "success"),
        (Http2::ManyHeaders, "transport unknown"),
        (Http2::Refuse, "transport unknown"),
        (Http2::GoAway, "transport unknown"),
        (Http2::Reset, "transport unknown"),
        (Http2::MoreThanItSays, "unexpected-response unknown"),
        (Http2::LessThanItSays, "unexpected-response unknown"),
        (Http2::Silence, "timed-out unknown"),
    ] {
        let acceptor = tls("h2", |_| {});
        let stage = Stage::new("https://localhost:PORT", move |tcp, met, _| {
            let acceptor = acceptor.clone();
            async move { serve_http2(acceptor.accept(tcp).await.unwrap(), does, met).await }
        })
        .await;
        let result = stage.release_while(CALL_TIMEOUT).await;
        assert_eq!(word(&result), expected, "{does:?}: {result:?}");
        assert_eq!(count(&stage.met.requests), 1, "{does:?}");
    }
}

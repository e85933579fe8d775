//! The body of an answer, which can be spoiled.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// How long the first half of a truncated body has, by the real clock, to get on its way: the end
/// of an HTTP/2 stream would overtake it.
const HALF_BODY_LEAD: Duration = Duration::from_millis(20);

/// What is sent, again and again, as an endless body: white space, which JSON allows.
static ENDLESS: [u8; 16 * 1024] = [b' '; 16 * 1024];

/// The body of an answer, whole or spoiled.
pub(super) enum Sent {
    Whole(Bytes),
    Half {
        half: Bytes,
        whole: u64,
        end: Pin<Box<tokio::time::Sleep>>,
    },
    Endless,
}

impl Sent {
    pub(super) fn half_of(body: Bytes) -> Self {
        Self::Half {
            half: body.slice(..body.len() / 2),
            whole: (body.len() as u64).max(1),
            end: Box::pin(tokio::time::sleep(HALF_BODY_LEAD)),
        }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let next = match &mut *self {
            Self::Whole(bytes) => std::mem::take(bytes),
            Self::Half { half, end, .. } => match std::mem::take(half) {
                empty if empty.is_empty() => {
                    ready!(end.as_mut().poll(cx));
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
                }
                half => half,
            },
            Self::Endless => Bytes::from_static(&ENDLESS),
        };
        Poll::Ready((!next.is_empty()).then(|| Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Half { whole, .. } => SizeHint::with_exact(*whole),
            Self::Endless => SizeHint::default(),
        }
    }
}

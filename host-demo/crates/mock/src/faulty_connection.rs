//! A connection that can be told to misbehave, below HTTP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// No HTTP of any version.
const GARBAGE: &[u8] = b"\0\x01\x02 this is not HTTP \xff\xfe\r\n\r\n";

/// What the handler of a request can do to the connection that it came on.
#[derive(Default)]
pub(super) struct Line {
    reset: AtomicBool,
    garbled: AtomicBool,
    cut: Notify,
}

impl Line {
    /// Has the connection end with a TCP reset. Whoever serves it waits for [`Line::is_cut`].
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
        self.cut.notify_one();
    }

    /// Has garbage written in place of what comes next, and the connection end then.
    pub(super) fn garble(&self) {
        self.garbled.store(true, Ordering::Release);
    }

    pub(super) async fn is_cut(&self) {
        self.cut.notified().await;
    }
}

/// The TCP connection. It is reset, not closed, when it is dropped after [`Line::reset`].
pub(super) struct Socket(pub(super) TcpStream, pub(super) Arc<Line>);

impl Drop for Socket {
    fn drop(&mut self) {
        if self.1.reset.load(Ordering::Acquire) {
            // Without it the close is an orderly one, which clients take for a disconnect, too.
            let _ = self.0.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// What HTTP is spoken over, with or without TLS. After [`Line::garble`] it writes garbage, once.
pub(super) struct Stream<S> {
    inner: S,
    line: Arc<Line>,
    written: usize,
}

impl<S> Stream<S> {
    pub(super) fn new(inner: S, line: Arc<Line>) -> Self {
        Self {
            inner,
            line,
            written: 0,
        }
    }

    fn is_garbled(&self) -> bool {
        self.line.garbled.load(Ordering::Acquire)
    }
}

impl<S: AsyncWrite + Unpin> Stream<S> {
    /// Completes, with an error, when all the garbage is out.
    fn poll_garbage(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.written < GARBAGE.len() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &GARBAGE[self.written..])) {
                Ok(n) => self.written += n,
                Err(error) => return Poll::Ready(error),
            }
        }
        match ready!(Pin::new(&mut self.inner).poll_flush(cx)) {
            Ok(()) => Poll::Ready(io::ErrorKind::ConnectionAborted.into()),
            Err(error) => Poll::Ready(error),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_garbled() {
            return self.poll_garbage(cx).map(Err);
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_garbled() {
            return self.poll_garbage(cx).map(Err);
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

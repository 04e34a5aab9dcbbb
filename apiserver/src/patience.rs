//! A connection that gives up on a peer that says nothing or takes nothing.
//!
//! The HTTP library counts the time of a request's headers only once it knows
//! which version of HTTP is spoken. It learns that from the first bytes, so
//! they have a deadline of their own here.
//!
//! TCP waits for a reader for ever: whoever asks for a large list and then
//! reads nothing would hold the connection and what is buffered for it. A
//! tunnel is another matter, for a terminal may be stopped by its user for an
//! afternoon: once the connection carries one, nobody is hurried.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Length of what HTTP/2 begins with, and less than HTTP/1 can.
const PREFACE: usize = 24;

/// A stream whose first read fails when the peer does not begin, and whose
/// writes fail when the peer takes none of them for a while.
pub(crate) struct Patient<S> {
    stream: S,
    limit: Duration,
    /// Runs until the peer has said enough to tell which HTTP it speaks.
    beginning: Option<Pin<Box<Sleep>>>,
    heard: usize,
    /// Runs while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
    tunnel: Tunnel,
}

/// Says that a connection has become a tunnel.
#[derive(Clone, Default)]
pub(crate) struct Tunnel(Arc<AtomicBool>);

impl Tunnel {
    /// From now on writes may wait for as long as they like.
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S> Patient<S> {
    /// The stream, and the way to say that it has become a tunnel. The peer
    /// begins within `beginning` and may let us wait for `limit`.
    pub(crate) fn new(stream: S, beginning: Duration, limit: Duration) -> (Self, Tunnel) {
        let tunnel = Tunnel::default();
        let beginning = Some(Box::pin(tokio::time::sleep(beginning)));
        let patient =
            Self { stream, limit, beginning, heard: 0, timer: None, tunnel: tunnel.clone() };
        (patient, tunnel)
    }

    /// The stream itself.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Passes a finished write on; a waiting one only until the time is up.
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() || self.tunnel.0.load(Ordering::Relaxed) {
            self.timer = None;
            return result;
        }
        let deadline = Instant::now() + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.heard = self.heard.saturating_add(buffer.filled().len() - before);
        if self.heard >= PREFACE {
            self.beginning = None;
        }
        if let (Poll::Pending, Some(beginning)) = (&result, &mut self.beginning) {
            ready!(beginning.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer does not begin",
            )));
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.bounded(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const BEGINNING: Duration = Duration::from_secs(30);
    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_begin_is_given_up() {
        for words in ["", "PRI * HTTP"] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let (mut ours, _tunnel) = Patient::new(ours, BEGINNING, LIMIT);
            theirs.write_all(words.as_bytes()).await.unwrap();
            let error = ours.read_exact(&mut [0; 24]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{words}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_begun_may_be_silent() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (mut ours, _tunnel) = Patient::new(ours, BEGINNING, LIMIT);
        theirs.write_all(&[b'x'; 24]).await.unwrap();
        ours.read_exact(&mut [0; 24]).await.unwrap();
        let reader = tokio::spawn(async move { ours.read_u8().await });
        tokio::time::sleep(BEGINNING * 100).await;
        assert!(!reader.is_finished());
        theirs.write_all(b"y").await.unwrap();
        assert_eq!(reader.await.unwrap().unwrap(), b'y');
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let (mut ours, _tunnel) = Patient::new(ours, BEGINNING, LIMIT);
        let begun = Instant::now();
        let error = ours.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut ours, _tunnel) = Patient::new(ours, BEGINNING, LIMIT);
        let reader = tokio::spawn(async move {
            let mut all = [0; 64];
            for piece in all.chunks_mut(16) {
                tokio::time::sleep(LIMIT / 2).await;
                theirs.read_exact(piece).await.unwrap();
            }
        });
        ours.write_all(&[0; 64]).await.unwrap();
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_waits_for_ever() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut ours, tunnel) = Patient::new(ours, BEGINNING, LIMIT);
        tunnel.begin();
        let writer = tokio::spawn(async move { ours.write_all(&[0; 64]).await });
        tokio::time::sleep(LIMIT * 100).await;
        assert!(!writer.is_finished());
        theirs.read_exact(&mut [0; 64]).await.unwrap();
        writer.await.unwrap().unwrap();
    }
}

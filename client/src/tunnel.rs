//! Bytes between two connections.
//!
//! What an end has sent arrives, also when it breaks off right after: it may be
//! the end of a file or an exit code. `tokio::io::copy_bidirectional` gives up
//! all that is on its way as soon as one of both reports an error, and a server
//! that leaves a TLS connection without `close_notify` reports one.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a client may go on after its server has ended.
const LINGER: Duration = Duration::from_secs(30);

/// Moves bytes between `client` and `server` until both have ended. An error is
/// an end, and one that has ended for writing may still be read. So many bytes are
/// held in each direction; then the faster side waits.
pub async fn tunnel<C, S>(client: C, server: S, held: usize)
where
    C: AsyncRead + AsyncWrite,
    S: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let there = async {
        if pass(&mut from_client, &mut to_server, held).await.is_err() {
            // What is left unread when a connection is closed takes with it what
            // is still on its way to the client.
            while let Ok(1..) = from_client.read(&mut [0; 1024]).await {}
        }
    };
    let back = pass(&mut from_server, &mut to_client, held);
    tokio::pin!(there, back);
    tokio::select! {
        // Whether the client takes the rest is up to it.
        () = &mut there => drop(back.await),
        _ = &mut back => drop(timeout(LINGER, there).await),
    }
}

/// Passes on what comes, each piece at once, and then the end. Errors are those
/// of `writer`.
async fn pass(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    held: usize,
) -> io::Result<()> {
    let mut buffer = vec![0; held];
    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
        writer.write_all(&buffer[..count]).await?;
        writer.flush().await?;
    }
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{DuplexStream, ReadBuf, duplex};

    use super::*;

    /// A server that has said `left` and then breaks off, and takes nothing.
    struct BreaksOff {
        left: usize,
    }

    impl AsyncRead for BreaksOff {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.left == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let count = self.left.min(buffer.remaining()).min(1000);
            buffer.put_slice(&vec![b'x'; count]);
            self.left -= count;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for BreaksOff {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn all(mut stream: DuplexStream) -> usize {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard.len()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_before_an_end_arrives() {
        for says in [0, 10] {
            // The client reads slowly, and the server hears nothing of what it says.
            let (near, mut client) = duplex(64);
            let moving = tokio::spawn(tunnel(near, BreaksOff { left: 100_000 }, 1000));
            client.write_all(&vec![b'y'; says]).await.unwrap();
            assert_eq!(all(client).await, 100_000, "after {says}");
            moving.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_has_said_all_still_hears() {
        let (near, mut client) = duplex(64);
        let (far, mut server) = duplex(64);
        let moving = tokio::spawn(tunnel(near, far, 1000));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        tokio::time::sleep(2 * LINGER).await;
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(all(client).await, 6);
        moving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_is_left_in_the_end() {
        let (near, client) = duplex(64);
        let (far, server) = duplex(64);
        let moving = tokio::spawn(tunnel(near, far, 1000));
        drop(server);
        moving.await.unwrap();
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_talks_to_nobody_is_left() {
        let (near, client) = duplex(64);
        let (far, server) = duplex(64);
        let (_hears_nothing, mut says) = tokio::io::split(server);
        let moving = tokio::spawn(tunnel(near, far, 1000));
        drop(client);
        let says = tokio::spawn(async move { while says.write_all(b"more").await.is_ok() {} });
        moving.await.unwrap();
        says.await.unwrap();
    }
}

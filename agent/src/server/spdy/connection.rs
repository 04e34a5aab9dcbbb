//! A SPDY connection on the accepting side: frames to streams and back.
//!
//! One task reads, one writes. Queues are bounded: when a stream's reader is
//! slow, the connection's reader waits and TCP holds the client back; when the
//! client is slow, writers wait.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

use super::{
    SpdyError,
    frame::{self, Frame, Reset},
    headers::{Decoder, Encoder, Headers},
};

/// How long a client has to leave when all is said.
const FAREWELL: Duration = Duration::from_secs(5);
/// Frames waiting in either direction; then the sender waits.
const QUEUE: usize = 32;
/// Streams open at once on one connection; more are refused.
const MAX_STREAMS: usize = 256;
/// Bytes in one data frame of ours.
const CHUNK: usize = 32 << 10;

/// A stream that the client opened.
pub struct Stream {
    /// What the client says about it.
    pub headers: Headers,
    /// What it sends; ends when it is done.
    pub incoming: mpsc::Receiver<Bytes>,
    /// What it is sent.
    pub outgoing: StreamWriter,
}

impl Stream {
    /// A header by its name in lower case; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// Sends on one stream.
#[derive(Clone)]
pub struct StreamWriter {
    id: u32,
    frames: mpsc::Sender<Command>,
}

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub struct Gone;

impl StreamWriter {
    /// Sends bytes.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let payload = bytes.split_to(bytes.len().min(CHUNK));
            self.frame(Frame::Data { id: self.id, fin: false, payload }).await?;
        }
        Ok(())
    }

    /// Says that nothing follows.
    pub async fn finish(&self) -> Result<(), Gone> {
        self.frame(Frame::Data { id: self.id, fin: true, payload: Bytes::new() }).await
    }

    /// Ends the stream in both directions.
    pub async fn reset(&self) -> Result<(), Gone> {
        self.frame(Frame::Reset { id: self.id, status: Reset::Cancel as u32 }).await
    }

    async fn frame(&self, frame: Frame) -> Result<(), Gone> {
        self.frames.send(Command::Frame(frame)).await.map_err(|_| Gone)
    }
}

/// What the writing task does next.
enum Command {
    Frame(Frame),
    /// Accept a stream; its headers are compressed in the order of writing.
    Reply(u32),
}

/// Serves a connection until the client leaves or breaks the protocol. Streams
/// are handed to `accepted`; when its other end is dropped the connection ends.
pub async fn serve<T>(transport: T, accepted: mpsc::Sender<Stream>) -> Result<(), SpdyError>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, writer) = tokio::io::split(transport);
    let (frames_tx, frames_rx) = mpsc::channel(QUEUE);
    // The writer ends by itself when the last holder of `frames_tx` is gone,
    // after everything in the queue has been written. A broken protocol ends
    // it at once: whoever still holds a stream finds the client gone.
    tokio::try_join!(read(&mut reader, accepted, frames_tx), write(writer, frames_rx))?;
    // What is closed with something unread loses what is still on its way.
    let heard = async { while let Ok(1..) = reader.read(&mut [0; 1024]).await {} };
    let _ = timeout(FAREWELL, heard).await;
    Ok(())
}

async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut frames: mpsc::Receiver<Command>,
) -> Result<(), SpdyError> {
    let mut encoder = Encoder::new()?;
    let mut out = BytesMut::new();
    while let Some(command) = frames.recv().await {
        let mut next = Some(command);
        // What is queued goes out in one write.
        while let Some(command) = next {
            match command {
                Command::Frame(frame) => frame::encode(&frame, &mut out),
                Command::Reply(id) => {
                    let block = encoder.encode(&Headers::new())?;
                    frame::encode(&Frame::SynReply { id, fin: false, block }, &mut out);
                }
            }
            next = if out.len() < CHUNK { frames.try_recv().ok() } else { None };
        }
        writer.write_all_buf(&mut out).await?;
        writer.flush().await?;
    }
    writer.shutdown().await?;
    Ok(())
}

async fn read<R: AsyncRead + Unpin>(
    reader: &mut R,
    accepted: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Command>,
) -> Result<(), SpdyError> {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut newest = 0;
    loop {
        while let Some(frame) = frame::decode(&mut buffer)? {
            let reply = match frame {
                Frame::SynStream { id, fin, block } => {
                    let headers = decoder.decode(&block)?;
                    if id % 2 == 0 || id <= newest {
                        return Err(SpdyError::Protocol("stream ids must be odd and rise"));
                    }
                    newest = id;
                    if streams.len() >= MAX_STREAMS {
                        Some(Command::Frame(Frame::Reset { id, status: Reset::Refused as u32 }))
                    } else {
                        let (incoming_tx, incoming) = mpsc::channel(QUEUE);
                        if !fin {
                            streams.insert(id, incoming_tx);
                        }
                        let outgoing = StreamWriter { id, frames: frames.clone() };
                        // Accept before handing over: nothing of ours may be
                        // written on the stream before the reply.
                        if frames.send(Command::Reply(id)).await.is_err()
                            || accepted.send(Stream { headers, incoming, outgoing }).await.is_err()
                        {
                            return Ok(());
                        }
                        None
                    }
                }
                Frame::Data { id, fin, payload } => match streams.get(&id) {
                    Some(stream) => {
                        // A reader that has gone wants no more; what comes is
                        // dropped until the client hears of it.
                        if !payload.is_empty() && stream.send(payload).await.is_err() || fin {
                            streams.remove(&id);
                        }
                        None
                    }
                    // Bytes for a stream that was open may still be under way.
                    None if id <= newest && id % 2 == 1 => None,
                    None => Some(Command::Frame(Frame::Reset {
                        id,
                        status: Reset::InvalidStream as u32,
                    })),
                },
                Frame::Headers { id, fin, block } => {
                    // Decoded whatever it says: the compression is one stream.
                    decoder.decode(&block)?;
                    if fin {
                        streams.remove(&id);
                    }
                    None
                }
                Frame::SynReply { .. } => {
                    return Err(SpdyError::Protocol("a reply to a stream nobody opened"));
                }
                Frame::Reset { id, .. } => {
                    streams.remove(&id);
                    None
                }
                Frame::Ping { id } => Some(Command::Frame(Frame::Ping { id })),
                Frame::GoAway => return Ok(()),
                Frame::Ignored => None,
            };
            if let Some(reply) = reply
                && frames.send(reply).await.is_err()
            {
                return Ok(());
            }
        }
        // Whoever took the streams may have finished while the client idles.
        tokio::select! {
            read = reader.read_buf(&mut buffer) => if read? == 0 { return Ok(()) },
            () = accepted.closed() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that speaks frames, over a pipe in memory.
    struct Client {
        transport: tokio::io::DuplexStream,
        encoder: Encoder,
        buffer: BytesMut,
    }

    impl Client {
        async fn send(&mut self, frame: Frame) {
            let mut out = BytesMut::new();
            frame::encode(&frame, &mut out);
            self.transport.write_all(&out).await.unwrap();
        }

        async fn open(&mut self, id: u32, kind: &str) {
            let headers = vec![("streamtype".to_owned(), kind.to_owned())];
            let block = self.encoder.encode(&headers).unwrap();
            self.send(Frame::SynStream { id, fin: false, block }).await;
        }

        async fn next(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = frame::decode(&mut self.buffer).unwrap() {
                    return Some(frame);
                }
                if self.transport.read_buf(&mut self.buffer).await.unwrap() == 0 {
                    return None;
                }
            }
        }
    }

    type Served = tokio::task::JoinHandle<Result<(), SpdyError>>;

    fn start() -> (Client, mpsc::Receiver<Stream>, Served) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (accepted_tx, accepted_rx) = mpsc::channel(8);
        let served = tokio::spawn(serve(theirs, accepted_tx));
        let client =
            Client { transport: ours, encoder: Encoder::new().unwrap(), buffer: BytesMut::new() };
        (client, accepted_rx, served)
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways() {
        let (mut client, mut accepted, served) = start();
        client.open(1, "stdin").await;
        let mut stream = accepted.recv().await.unwrap();
        assert_eq!(stream.header("streamtype"), "stdin");
        assert!(matches!(client.next().await, Some(Frame::SynReply { id: 1, .. })));

        client.send(Frame::Data { id: 1, fin: true, payload: Bytes::from_static(b"in") }).await;
        assert_eq!(stream.incoming.recv().await.unwrap(), "in");
        assert_eq!(stream.incoming.recv().await, None);

        stream.outgoing.send(Bytes::from(vec![7; CHUNK + 1])).await.unwrap();
        stream.outgoing.finish().await.unwrap();
        let mut lengths = Vec::new();
        while let Some(Frame::Data { payload, fin, .. }) = client.next().await {
            lengths.push(payload.len());
            if fin {
                break;
            }
        }
        assert_eq!(lengths, [CHUNK, 1, 0]);

        client.send(Frame::Ping { id: 5 }).await;
        assert_eq!(client.next().await, Some(Frame::Ping { id: 5 }));
        drop((stream, client));
        assert!(served.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn broken_protocol_ends_the_connection() {
        let block = || Encoder::new().unwrap().encode(&Headers::new()).unwrap();
        let cases = [
            ("even id", Frame::SynStream { id: 2, fin: false, block: block() }),
            ("reply", Frame::SynReply { id: 1, fin: false, block: block() }),
            (
                "bad headers",
                Frame::SynStream { id: 1, fin: false, block: Bytes::from_static(b"x") },
            ),
        ];
        for (name, frame) in cases {
            let (mut client, _accepted, served) = start();
            client.send(frame).await;
            assert!(served.await.unwrap().is_err(), "{name}");
        }
        let (mut client, _accepted, served) = start();
        client.open(3, "a").await;
        client.open(1, "b").await;
        assert!(served.await.unwrap().is_err(), "falling id");
    }

    #[tokio::test]
    async fn data_for_no_stream_is_reset() {
        let (mut client, _accepted, _served) = start();
        client.send(Frame::Data { id: 9, fin: false, payload: Bytes::from_static(b"x") }).await;
        let expected = Frame::Reset { id: 9, status: Reset::InvalidStream as u32 };
        assert_eq!(client.next().await, Some(expected));
    }

    #[tokio::test]
    async fn dropping_the_receiver_ends_the_connection() {
        let (mut client, accepted, served) = start();
        drop(accepted);
        assert!(served.await.unwrap().is_ok());
        assert_eq!(client.next().await, None);
    }
}

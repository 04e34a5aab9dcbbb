//! Frames of SPDY/3.1: bytes in, frames out, and back.
//!
//! ```text
//! control  1 version(15) type(16) flags(8) length(24) payload
//! data     0 stream-id(31)       flags(8) length(24) payload
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SpdyError;

const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const ID_MASK: u32 = 0x7fff_ffff;
/// The sender is done with the stream.
pub const FIN: u8 = 1;

/// Longest payload of a control frame; headers of streams are a few words.
const MAX_CONTROL: usize = 64 << 10;
/// Longest payload of a data frame; clients send 32 KiB.
const MAX_DATA: usize = 1 << 20;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The frame names a stream that is not open.
    InvalidStream = 2,
    /// The stream is not wanted.
    Refused = 3,
    /// The stream is no longer wanted.
    Cancel = 5,
}

/// One frame. Header blocks are still compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Its number: odd when the client opens it.
        id: u32,
        /// Nothing follows from the opener.
        fin: bool,
        /// Compressed headers.
        block: Bytes,
    },
    /// Accepts a stream.
    SynReply {
        /// Its number.
        id: u32,
        /// Nothing follows from the accepter.
        fin: bool,
        /// Compressed headers.
        block: Bytes,
    },
    /// Ends a stream at once.
    Reset {
        /// Its number.
        id: u32,
        /// The reason's code.
        status: u32,
    },
    /// Is to be sent back.
    Ping {
        /// Which one.
        id: u32,
    },
    /// No more streams.
    GoAway,
    /// Further headers of a stream.
    Headers {
        /// Its number.
        id: u32,
        /// Nothing follows.
        fin: bool,
        /// Compressed headers.
        block: Bytes,
    },
    /// Settings or a window update: of no meaning here.
    Ignored,
    /// Bytes of a stream.
    Data {
        /// Its number.
        id: u32,
        /// Nothing follows.
        fin: bool,
        /// The bytes.
        payload: Bytes,
    },
}

/// Takes the first whole frame out of `buffer`; `None` until there is one.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
    if buffer.len() < 8 {
        return Ok(None);
    }
    let flags = buffer[4];
    let length = u32::from_be_bytes([0, buffer[5], buffer[6], buffer[7]]) as usize;
    let first = u16::from_be_bytes([buffer[0], buffer[1]]);
    let control = first & CONTROL != 0;
    // Judged by the header alone, so that a lie about the length costs nothing.
    if control && first & !CONTROL != VERSION {
        return Err(SpdyError::Protocol("unsupported version"));
    }
    if length > if control { MAX_CONTROL } else { MAX_DATA } {
        return Err(SpdyError::Protocol("frame too large"));
    }
    if buffer.len() < 8 + length {
        buffer.reserve(8 + length - buffer.len());
        return Ok(None);
    }
    let head = buffer.split_to(8);
    let mut payload = buffer.split_to(length).freeze();
    let fin = flags & FIN != 0;
    if !control {
        let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) & ID_MASK;
        return Ok(Some(Frame::Data { id, fin, payload }));
    }
    let needed = |payload: &Bytes, count: usize| {
        if payload.len() < count { Err(SpdyError::Protocol("frame too short")) } else { Ok(()) }
    };
    let kind = u16::from_be_bytes([head[2], head[3]]);
    Ok(Some(match kind {
        SYN_STREAM => {
            needed(&payload, 10)?;
            let id = payload.get_u32() & ID_MASK;
            // Associated stream, priority and slot.
            payload.advance(6);
            Frame::SynStream { id, fin, block: payload }
        }
        SYN_REPLY => {
            needed(&payload, 4)?;
            let id = payload.get_u32() & ID_MASK;
            Frame::SynReply { id, fin, block: payload }
        }
        RST_STREAM => {
            needed(&payload, 8)?;
            Frame::Reset { id: payload.get_u32() & ID_MASK, status: payload.get_u32() }
        }
        PING => {
            needed(&payload, 4)?;
            Frame::Ping { id: payload.get_u32() }
        }
        GOAWAY => {
            needed(&payload, 8)?;
            Frame::GoAway
        }
        HEADERS => {
            needed(&payload, 4)?;
            let id = payload.get_u32() & ID_MASK;
            Frame::Headers { id, fin, block: payload }
        }
        SETTINGS | WINDOW_UPDATE => Frame::Ignored,
        _ => return Err(SpdyError::Protocol("unknown frame type")),
    }))
}

/// Appends a frame to `out`.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    let flag = |fin: bool| if fin { FIN } else { 0 };
    match frame {
        Frame::SynStream { id, fin, block } => {
            control(out, SYN_STREAM, flag(*fin), 10 + block.len());
            out.put_u32(*id);
            out.put_bytes(0, 6);
            out.put_slice(block);
        }
        Frame::SynReply { id, fin, block } => {
            control(out, SYN_REPLY, flag(*fin), 4 + block.len());
            out.put_u32(*id);
            out.put_slice(block);
        }
        Frame::Headers { id, fin, block } => {
            control(out, HEADERS, flag(*fin), 4 + block.len());
            out.put_u32(*id);
            out.put_slice(block);
        }
        Frame::Reset { id, status } => {
            control(out, RST_STREAM, 0, 8);
            out.put_u32(*id);
            out.put_u32(*status);
        }
        Frame::Ping { id } => {
            control(out, PING, 0, 4);
            out.put_u32(*id);
        }
        Frame::GoAway => {
            control(out, GOAWAY, 0, 8);
            out.put_u64(0);
        }
        Frame::Ignored => {}
        Frame::Data { id, fin, payload } => {
            out.put_u32(*id & ID_MASK);
            out.put_u8(flag(*fin));
            put_length(out, payload.len());
            out.put_slice(payload);
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(CONTROL | VERSION);
    out.put_u16(kind);
    out.put_u8(flags);
    put_length(out, length);
}

/// 24 bits. Callers cut what they send into pieces far below that.
fn put_length(out: &mut BytesMut, length: usize) {
    debug_assert!(length < 1 << 24);
    out.put_uint(length as u64 & 0xff_ffff, 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire_in_any_cut() {
        let block = Bytes::from_static(b"headers");
        let frames = [
            Frame::SynStream { id: 1, fin: false, block: block.clone() },
            Frame::SynReply { id: 1, fin: true, block: block.clone() },
            Frame::Headers { id: 3, fin: false, block },
            Frame::Data { id: 1, fin: false, payload: Bytes::from_static(b"hello") },
            Frame::Data { id: 1, fin: true, payload: Bytes::new() },
            Frame::Reset { id: 1, status: Reset::Cancel as u32 },
            Frame::Ping { id: 7 },
            Frame::GoAway,
        ];
        let mut wire = BytesMut::new();
        frames.iter().for_each(|frame| encode(frame, &mut wire));
        for cut in [1, 3, 8, 1000] {
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decode(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames, "pieces of {cut}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn bad_frames_are_refused_by_their_header() {
        #[rustfmt::skip]
        let cases: [(&str, &[u8]); 7] = [
            ("version 2", &[0x80, 2, 0, 1, 0, 0, 0, 0]),
            ("unknown type", &[0x80, 3, 0, 99, 0, 0, 0, 0]),
            ("control too large", &[0x80, 3, 0, 1, 0, 0x10, 0, 0]),
            ("data too large", &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]),
            ("stream too short", &[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1]),
            ("reset too short", &[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1]),
            ("ping too short", &[0x80, 3, 0, 6, 0, 0, 0, 0]),
        ];
        for (name, bytes) in cases {
            assert!(decode(&mut BytesMut::from(bytes)).is_err(), "{name}");
        }
    }
}

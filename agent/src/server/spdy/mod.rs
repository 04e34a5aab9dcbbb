//! SPDY/3.1, as much of it as Kubernetes streams use: many byte streams in one
//! upgraded connection, all opened by the client.
//!
//! [`frame`] is the wire format and [`headers`] its compression, both pure;
//! [`connection`] runs them over a transport.
//!
//! Left out: flow control. The peers (Go's spdystream) neither send nor heed
//! window updates; a slow stream holds its connection back instead.

pub mod connection;
pub mod frame;
pub mod headers;

/// What breaks a connection.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// The peer broke the protocol.
    #[error("SPDY: {0}")]
    Protocol(&'static str),
    /// The transport failed.
    #[error("SPDY: {0}")]
    Io(#[from] std::io::Error),
}

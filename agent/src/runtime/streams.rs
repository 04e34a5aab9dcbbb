//! What goes in and out of containers: logs, commands, terminals.

use std::pin::Pin;

use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::AsyncWrite;

use super::Result;

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From standard output, or from the terminal.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
}

/// Which log lines.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogOptions {
    /// Go on as lines come, until the container ends.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<i64>,
    /// Only lines after this time.
    pub since: Option<Timestamp>,
    /// Put each line's time (RFC 3339) before it.
    pub timestamps: bool,
    /// Whether to include standard output.
    pub stdout: bool,
    /// Whether to include standard error.
    pub stderr: bool,
}

/// What to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOptions {
    /// The command and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// Give it a terminal.
    pub tty: bool,
    /// Connect standard input.
    pub stdin: bool,
    /// Connect standard output.
    pub stdout: bool,
    /// Connect standard error; with a terminal it arrives as output.
    pub stderr: bool,
}

/// What to connect of a running container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachOptions {
    /// Connect standard input.
    pub stdin: bool,
    /// Connect standard output.
    pub stdout: bool,
    /// Connect standard error.
    pub stderr: bool,
}

/// The streams of an exec or attach.
pub struct Session {
    /// The runtime's id of the exec session; the container's id for an attach.
    pub id: String,
    /// What it writes. Ends when the process does.
    pub output: BoxStream<'static, Result<Output>>,
    /// What it reads. Shutting it down closes the process's standard input.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// Whose terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminal {
    /// Of an exec session, by session id.
    Exec(String),
    /// Of a container's first process, by container id.
    Container(String),
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

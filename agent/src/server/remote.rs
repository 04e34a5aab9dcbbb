//! Exec and attach: a process's streams over whatever the client speaks.
//!
//! A transport turns its frames into [`Incoming`] and [`Outgoing`] into frames.
//! [`run`] pumps between those and the runtime's session, and says at the end
//! how it went, as a `Status` on the error channel.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, RawQuery, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::{
    Node,
    backend::{Backend, BackendError},
    upgrade::{self, Asked},
    websocket::Channels,
};
use crate::runtime::{AttachOptions, ExecOptions, Output, Session, Terminal, TerminalSize};

/// Pieces waiting in either direction; then the faster side waits.
pub(super) const QUEUE: usize = 32;
/// The runtime reports an exit code a moment after the output ends.
const EXIT_POLLS: u32 = 50;
const EXIT_POLL: Duration = Duration::from_millis(20);

const SPDY: [&str; 1] = ["v4.channel.k8s.io"];

/// From the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// Standard input is at its end.
    StdinClosed,
    /// The client's window changed.
    Resize(TerminalSize),
}

/// To the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// From standard output or the terminal.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
    /// How it ended: a `Status`. Nothing follows.
    Status(Value),
}

/// Which streams a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Wanted {
    /// Reads a query. kubelets call the streams input, output and error; the
    /// API stdin, stdout and stderr. Both will do.
    fn read(query: &str) -> Result<Self, &'static str> {
        let mut wanted = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let on = matches!(&*value, "1" | "true");
            match &*key {
                "command" => wanted.command.push(value.into_owned()),
                "stdin" | "input" => wanted.stdin |= on,
                "stdout" | "output" => wanted.stdout |= on,
                "stderr" | "error" => wanted.stderr |= on,
                "tty" => wanted.tty |= on,
                _ => {}
            }
        }
        // A terminal has one output.
        wanted.stderr &= !wanted.tty;
        if wanted.stdin || wanted.stdout || wanted.stderr {
            Ok(wanted)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr")
        }
    }
}

/// What to run once the client's streams are open.
enum Job {
    Exec { container: String, wanted: Wanted },
    Attach { container: String, wanted: Wanted },
}

pub(super) async fn exec(
    State(node): State<Node>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let wanted = match Wanted::read(&query.unwrap_or_default()) {
        Ok(wanted) if wanted.command.is_empty() => {
            return (StatusCode::BAD_REQUEST, "you must specify a command").into_response();
        }
        Ok(wanted) => wanted,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    match running(&node, &namespace, &pod, &container).await {
        Ok(container) => answer(node, Job::Exec { container, wanted }, request).await,
        Err(error) => error.into_response(),
    }
}

pub(super) async fn attach(
    State(node): State<Node>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let wanted = match Wanted::read(&query.unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    match running(&node, &namespace, &pod, &container).await {
        Ok(container) => answer(node, Job::Attach { container, wanted }, request).await,
        Err(error) => error.into_response(),
    }
}

/// The id of a container that runs.
async fn running(
    node: &Node,
    namespace: &str,
    pod: &str,
    name: &str,
) -> Result<String, BackendError> {
    let container = node.container(namespace, pod, name, false).await?;
    if container.is_running() {
        Ok(container.id)
    } else {
        Err(BackendError::BadState(format!("container {name:?} in pod {pod:?} is not running")))
    }
}

async fn answer(node: Node, job: Job, request: Request) -> Response {
    let asked: Asked = match upgrade::asked(request, &Channels::NAMES, &SPDY).await {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let (job, node) = (Arc::new(job), node);
    let (spdy_job, spdy_node) = (Arc::clone(&job), Arc::clone(&node));
    asked.answer(
        async move |socket, protocol| {
            let (incoming_tx, incoming_rx) = mpsc::channel(QUEUE);
            let (outgoing_tx, outgoing_rx) = mpsc::channel(QUEUE);
            tokio::join!(
                Channels::of(protocol).run(socket, incoming_tx, outgoing_rx),
                run(&*node, &job, incoming_rx, outgoing_tx),
            );
        },
        async move |transport| {
            let wanted = match &*spdy_job {
                Job::Exec { wanted, .. } | Job::Attach { wanted, .. } => wanted.clone(),
            };
            let (incoming_tx, incoming_rx) = mpsc::channel(QUEUE);
            let (outgoing_tx, outgoing_rx) = mpsc::channel(QUEUE);
            tokio::join!(
                super::spdy_remote::channels(transport, &wanted, incoming_tx, outgoing_rx),
                run(&*spdy_node, &spdy_job, incoming_rx, outgoing_tx),
            );
        },
    )
}

/// Runs a job until its process ends or the client leaves.
async fn run(
    node: &dyn Backend,
    job: &Job,
    incoming: mpsc::Receiver<Incoming>,
    outgoing: mpsc::Sender<Outgoing>,
) {
    let status = match start(node, job).await {
        Ok((session, terminal)) => pump(node, job, session, terminal, incoming, &outgoing).await,
        Err(error) => Some(failure(&error.to_string())),
    };
    if let Some(status) = status {
        // The client has left; nobody wants to know.
        let _ = outgoing.send(Outgoing::Status(status)).await;
    }
}

async fn start(node: &dyn Backend, job: &Job) -> Result<(Session, Terminal), BackendError> {
    match job {
        Job::Exec { container, wanted } => {
            let options = ExecOptions {
                command: wanted.command.clone(),
                tty: wanted.tty,
                stdin: wanted.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
            };
            let session = node.runtime().exec(container, &options).await?;
            let terminal = Terminal::Exec(session.id.clone());
            Ok((session, terminal))
        }
        Job::Attach { container, wanted } => {
            let options =
                AttachOptions { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr };
            let session = node.runtime().attach(container, &options).await?;
            Ok((session, Terminal::Container(container.clone())))
        }
    }
}

/// Moves bytes both ways. Returns the status to report; `None` when the client
/// has left.
async fn pump(
    node: &dyn Backend,
    job: &Job,
    session: Session,
    terminal: Terminal,
    mut incoming: mpsc::Receiver<Incoming>,
    outgoing: &mpsc::Sender<Outgoing>,
) -> Option<Value> {
    let Session { id, mut output, input } = session;
    let feed = async {
        let mut input = Some(input);
        while let Some(piece) = incoming.recv().await {
            match piece {
                Incoming::Stdin(bytes) => {
                    if let Some(open) = &mut input
                        && let Err(error) = open.write_all(&bytes).await
                    {
                        // The process closed its input; its output goes on.
                        tracing::debug!(%error, "standard input was closed");
                        input = None;
                    } else if let Some(open) = &mut input {
                        // A write above may still sit in a buffer.
                        if open.flush().await.is_err() {
                            input = None;
                        }
                    }
                }
                Incoming::StdinClosed => {
                    if let Some(mut open) = input.take()
                        && let Err(error) = open.shutdown().await
                    {
                        tracing::debug!(%error, "standard input was closed");
                    }
                }
                Incoming::Resize(size) => {
                    // Comes also a moment after the process has ended.
                    if let Err(error) = node.runtime().resize(&terminal, size).await {
                        tracing::debug!(%error, "cannot resize a terminal");
                    }
                }
            }
        }
    };
    let drain = async {
        while let Some(piece) = output.next().await {
            let piece = match piece {
                Ok(Output::Stdout(bytes)) => Outgoing::Stdout(bytes),
                Ok(Output::Stderr(bytes)) => Outgoing::Stderr(bytes),
                Err(error) => return Some(failure(&error.to_string())),
            };
            if outgoing.send(piece).await.is_err() {
                // The client has left, which is noticed below.
                std::future::pending::<()>().await;
            }
        }
        Some(match job {
            Job::Exec { .. } => exit_status(node, &id).await,
            Job::Attach { .. } => success(),
        })
    };
    // Who only stopped talking may still listen.
    let feed = async {
        feed.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = drain => return status,
        () = feed => {}
        () = outgoing.closed() => {}
    }
    // A command that nobody listens to would run for ever, and its output would
    // still be read; what a container itself runs is not the client's to end.
    if let Job::Exec { .. } = job
        && let Err(error) = node.runtime().end_exec(&id).await
    {
        tracing::debug!(%error, "cannot end a command whose client has left");
    }
    None
}

async fn exit_status(node: &dyn Backend, session: &str) -> Value {
    for _ in 0..EXIT_POLLS {
        match node.runtime().exec_exit_code(session).await {
            Ok(Some(0)) => return success(),
            Ok(Some(code)) => return exited(code),
            Ok(None) => tokio::time::sleep(EXIT_POLL).await,
            Err(error) => return failure(&error.to_string()),
        }
    }
    failure("the command closed its output and runs on")
}

fn success() -> Value {
    json!({ "metadata": {}, "status": "Success" })
}

fn exited(code: i64) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn failure(why: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "InternalError",
        "message": why,
        "code": 500,
    })
}

/// Reads `{"Width":80,"Height":24}`.
pub(super) fn read_size(text: &[u8]) -> Option<TerminalSize> {
    let size: Value = serde_json::from_slice(text).ok()?;
    let side = |key: &str| u16::try_from(size[key].as_u64()?).ok();
    Some(TerminalSize { width: side("Width")?, height: side("Height")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_say_which_streams() {
        let read = Wanted::read(
            "command=sh&command=-c&command=a%26b&stdin=true&stdout=1&tty=true&stderr=true",
        );
        let expected = Wanted {
            command: vec!["sh".into(), "-c".into(), "a&b".into()],
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        assert_eq!(read, Ok(expected));
        assert_eq!(Wanted::read("input=1").map(|wanted| wanted.stdin), Ok(true));
        assert!(Wanted::read("command=ls").is_err());
        assert!(Wanted::read("command=ls&stdout=false").is_err());
    }

    #[test]
    fn sizes_are_two_small_numbers() {
        assert_eq!(
            read_size(br#"{"Width":80,"Height":24}"#),
            Some(TerminalSize { width: 80, height: 24 })
        );
        for bad in [
            "",
            "{}",
            r#"{"Width":80}"#,
            r#"{"Width":-1,"Height":1}"#,
            r#"{"Width":99999,"Height":1}"#,
        ] {
            assert_eq!(read_size(bad.as_bytes()), None, "{bad}");
        }
    }
}

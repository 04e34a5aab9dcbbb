//! Asks once: a command in the container, an HTTP request, a connection, or
//! gRPC's health service. Connections come from the node to the pod's address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Target, grpc, http};
use crate::pod::hooks::{begin, ended, port_number};
use crate::runtime::{Runtime, RuntimeError};

const NO_ADDRESS: &str = "the pod has no such port or no address";

/// What came of it; the texts are what events tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The answer was good, at most worth a warning.
    Success(Option<String>),
    /// The answer was bad, or there was none.
    Failure(String),
    /// It could not be asked, which says nothing of the container.
    Unknown(String),
}

impl From<Result<Option<String>, String>> for Outcome {
    fn from(answer: Result<Option<String>, String>) -> Self {
        answer.map_or_else(Self::Failure, Self::Success)
    }
}

/// One question, ready to be asked.
pub(super) struct Check {
    id: String,
    timeout: Duration,
    action: Action,
}

enum Action {
    Exec(Vec<String>),
    Http(Result<http::Request, String>),
    Tcp(Option<SocketAddr>),
    Grpc { to: Option<SocketAddr>, service: String },
}

impl Check {
    pub(super) fn of(probe: &Probe, target: &Target) -> Self {
        let timeout = u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1);
        let address = |host: Option<IpAddr>, port: Option<u16>| Some(SocketAddr::new(host?, port?));
        let action = if let Some(exec) = &probe.exec {
            Action::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(get) = &probe.http_get {
            Action::Http(http::Request::of(get, target.host, &target.container))
        } else if let Some(socket) = &probe.tcp_socket {
            let host = socket.host.as_deref().and_then(|host| host.parse().ok()).or(target.host);
            Action::Tcp(address(host, port_number(&socket.port, &target.container)))
        } else if let Some(grpc) = &probe.grpc {
            let to = address(target.host, u16::try_from(grpc.port).ok());
            Action::Grpc { to, service: grpc.service.clone().unwrap_or_default() }
        } else {
            Action::Exec(Vec::new())
        };
        Self { id: target.id.clone(), timeout: Duration::from_secs(timeout), action }
    }

    pub(super) async fn run(self, runtime: &dyn Runtime) -> Outcome {
        match &self.action {
            Action::Exec(command) => self.exec(runtime, command).await,
            Action::Http(request) => self.get(request).await.into(),
            Action::Tcp(to) => self.connect(*to).await.into(),
            Action::Grpc { to, service } => self.grpc(*to, service).await.into(),
        }
    }

    /// Runs the command. A runtime that is away or hangs is not the
    /// container's fault: as long as it has not begun, nothing is known.
    async fn exec(&self, runtime: &dyn Runtime, command: &[String]) -> Outcome {
        let in_time = self.timeout;
        let until = Instant::now() + in_time;
        let session = match timeout_at(until, begin(runtime, &self.id, command)).await {
            Ok(session) => session,
            Err(_) => {
                let told = format!("the container runtime does not answer within {in_time:?}");
                return Outcome::Unknown(told);
            }
        };
        let run = async { ended(runtime, session?).await };
        match timeout_at(until, run).await {
            Ok(Ok((0, _))) => Outcome::Success(None),
            Ok(Ok((_, output))) => Outcome::Failure(output),
            Ok(Err(error @ RuntimeError::Unavailable(_))) => Outcome::Unknown(error.to_string()),
            Ok(Err(error)) => Outcome::Failure(error.to_string()),
            Err(_) => {
                let command = command.join(" ");
                let told = format!("command timed out: {command:?} timed out after {in_time:?}");
                Outcome::Failure(told)
            }
        }
    }

    async fn get(&self, request: &Result<http::Request, String>) -> Result<Option<String>, String> {
        let request = request.as_ref().map_err(Clone::clone)?;
        let answer = http::get(request, self.timeout).await?;
        match answer.status {
            // It leads to another host, where nobody looks.
            300..400 => {
                Ok(Some(format!("Probe terminated redirects, Response body: {}", answer.body)))
            }
            200..300 => Ok(None),
            status => Err(format!("HTTP probe failed with statuscode: {status}")),
        }
    }

    async fn connect(&self, to: Option<SocketAddr>) -> Result<Option<String>, String> {
        let to = to.ok_or(NO_ADDRESS)?;
        match timeout(self.timeout, TcpStream::connect(to)).await {
            Ok(Ok(_)) => Ok(None),
            Ok(Err(error)) => Err(http::dial_error(&to.to_string(), &error)),
            Err(_) => Err(format!("dial tcp {to}: i/o timeout")),
        }
    }

    async fn grpc(&self, to: Option<SocketAddr>, service: &str) -> Result<Option<String>, String> {
        let to = to.ok_or(NO_ADDRESS)?;
        grpc::health(to, service, self.timeout).await.map(|()| None)
    }
}

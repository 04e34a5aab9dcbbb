//! Asks once: a command in the container, an HTTP request, a connection, or
//! gRPC's health service. Connections come from the node to the pod's address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::net::TcpStream;

use super::{Target, grpc, http};
use crate::pod::hooks::{port_number, run_command};
use crate::runtime::Runtime;

/// What came of it: an error says what the event tells, and so does a success
/// that is worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome(pub(super) Result<Option<String>, String>);

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
        Outcome(self.ask(runtime).await)
    }

    async fn ask(&self, runtime: &dyn Runtime) -> Result<Option<String>, String> {
        let in_time = self.timeout;
        match &self.action {
            Action::Exec(command) => {
                let run = tokio::time::timeout(in_time, run_command(runtime, &self.id, command));
                match run.await {
                    Ok(Ok((0, _))) => Ok(None),
                    Ok(Ok((_, output))) => Err(output),
                    Ok(Err(error)) => Err(error),
                    Err(_) => {
                        let command = command.join(" ");
                        Err(format!("command timed out: {command:?} timed out after {in_time:?}"))
                    }
                }
            }
            Action::Http(request) => {
                let request = request.as_ref().map_err(Clone::clone)?;
                let answer = http::get(request, in_time).await?;
                match answer.status {
                    // It leads to another host, where nobody looks.
                    300..400 => Ok(Some(format!(
                        "Probe terminated redirects, Response body: {}",
                        answer.body
                    ))),
                    200..300 => Ok(None),
                    status => Err(format!("HTTP probe failed with statuscode: {status}")),
                }
            }
            Action::Tcp(to) => {
                let to = to.ok_or("the pod has no such port or no address")?;
                match tokio::time::timeout(in_time, TcpStream::connect(to)).await {
                    Ok(Ok(_)) => Ok(None),
                    Ok(Err(error)) => Err(http::dial_error(&to.to_string(), &error)),
                    Err(_) => Err(format!("dial tcp {to}: i/o timeout")),
                }
            }
            Action::Grpc { to, service } => {
                let to = to.ok_or("the pod has no such port or no address")?;
                grpc::health(to, service, in_time).await.map(|()| None)
            }
        }
    }
}

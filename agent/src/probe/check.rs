//! Asks once: a command in the container, an HTTP request, a connection, or
//! gRPC's health service. Connections come from the node to the pod's address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::net::TcpStream;

use super::{Target, http};
use crate::pod::hooks::{port_number, run_command};
use crate::runtime::Runtime;

/// What came of it: an error says what the event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome(pub(super) Result<(), String>);

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
        let asked = async {
            match &self.action {
                Action::Exec(command) => match run_command(runtime, &self.id, command).await? {
                    (0, _) => Ok(()),
                    (_, output) => Err(output),
                },
                Action::Http(request) => {
                    let request = request.as_ref().map_err(Clone::clone)?;
                    let answer = http::get(request, self.timeout).await?;
                    if (200..400).contains(&answer.status) {
                        Ok(())
                    } else {
                        Err(format!("HTTP probe failed with statuscode: {}", answer.status))
                    }
                }
                Action::Tcp(to) => {
                    let to = to.ok_or("the pod has no such port or no address")?;
                    TcpStream::connect(to)
                        .await
                        .map(drop)
                        .map_err(|error| format!("dial tcp {to}: {error}"))
                }
                Action::Grpc { to, service } => {
                    let to = to.ok_or("the pod has no such port or no address")?;
                    http::grpc_health(to, service, self.timeout).await
                }
            }
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(result) => Outcome(result),
            Err(_) => Outcome(Err(match &self.action {
                Action::Exec(command) => {
                    format!(
                        "command timed out: {:?} timed out after {:?}",
                        command.join(" "),
                        self.timeout
                    )
                }
                _ => format!("no answer within {:?}", self.timeout),
            })),
        }
    }
}

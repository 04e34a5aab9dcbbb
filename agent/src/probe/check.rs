//! Asks once: a command in the container, an HTTP request, a connection, or
//! gRPC's health service. Connections come from the node to the pod's address.

use std::net::SocketAddr;
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
    Http(http::Request),
    Tcp(String, u16),
    Grpc {
        to: SocketAddr,
        service: String,
    },
    /// There is nobody to ask.
    Nobody(String),
}

impl Check {
    pub(super) fn of(probe: &Probe, target: &Target) -> Self {
        let timeout = u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1);
        let action = if let Some(exec) = &probe.exec {
            Action::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(get) = &probe.http_get {
            let request =
                http::Request::of(get, target.host, &target.container, http::Purpose::Probe);
            request.map_or_else(Action::Nobody, Action::Http)
        } else if let Some(socket) = &probe.tcp_socket {
            let host = socket.host.clone().filter(|host| !host.is_empty());
            let host = host.or(target.host.map(|host| host.to_string()));
            match host.zip(port_number(&socket.port, &target.container)) {
                Some((host, port)) => Action::Tcp(host, port),
                None => Action::Nobody(NO_ADDRESS.to_owned()),
            }
        } else if let Some(grpc) = &probe.grpc {
            match target.host.zip(u16::try_from(grpc.port).ok()) {
                Some(to) => Action::Grpc {
                    to: to.into(),
                    service: grpc.service.clone().unwrap_or_default(),
                },
                None => Action::Nobody(NO_ADDRESS.to_owned()),
            }
        } else {
            Action::Exec(Vec::new())
        };
        Self { id: target.id.clone(), timeout: Duration::from_secs(timeout), action }
    }

    pub(super) async fn run(self, runtime: &dyn Runtime) -> Outcome {
        match &self.action {
            Action::Exec(command) => self.exec(runtime, command).await,
            Action::Http(request) => self.get(request).await.into(),
            Action::Tcp(host, port) => self.connect(host, *port).await.into(),
            Action::Grpc { to, service } => {
                grpc::health(*to, service, self.timeout).await.map(|()| None).into()
            }
            Action::Nobody(why) => Outcome::Unknown(why.clone()),
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
        let id = session.as_ref().ok().map(|session| session.id.clone());
        let run = async { ended(runtime, session?).await };
        match timeout_at(until, run).await {
            Ok(Ok((0, _))) => Outcome::Success(None),
            Ok(Ok((_, output))) => Outcome::Failure(output),
            Ok(Err(error @ RuntimeError::Unavailable(_))) => Outcome::Unknown(error.to_string()),
            Ok(Err(error)) => Outcome::Failure(error.to_string()),
            Err(_) => {
                if let Some(id) = id {
                    end(runtime, &id).await;
                }
                let command = command.join(" ");
                let told = format!("command timed out: {command:?} timed out after {in_time:?}");
                Outcome::Failure(told)
            }
        }
    }

    async fn get(&self, request: &http::Request) -> Result<Option<String>, String> {
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

    async fn connect(&self, host: &str, port: u16) -> Result<Option<String>, String> {
        let to = http::authority(host, port);
        match timeout(self.timeout, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => Ok(None),
            Ok(Err(error)) => Err(http::dial_error(&to, &error)),
            Err(_) => Err(format!("dial tcp {to}: i/o timeout")),
        }
    }
}

/// How long a command that took too long may take to be ended.
const END: Duration = Duration::from_secs(2);

/// Ends a command that took too long, so that they do not pile up in the
/// container.
async fn end(runtime: &dyn Runtime, session: &str) {
    match timeout(END, runtime.end_exec(session)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, session, "the command of a probe goes on"),
        Err(_) => tracing::debug!(session, "the command of a probe goes on"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;
    use crate::runtime::ContainerSpec;
    use crate::runtime::memory::Memory;

    async fn ask(probe: Value, host: Option<IpAddr>) -> Outcome {
        let probe: Probe = serde_json::from_value(probe).unwrap();
        Check::of(&probe, &target("a", host)).run(&Memory::new()).await
    }

    fn target(id: &str, host: Option<IpAddr>) -> Target {
        Target {
            about: crate::events::About::default(),
            container: Default::default(),
            id: id.to_owned(),
            host,
            known: Default::default(),
        }
    }

    #[tokio::test]
    async fn who_cannot_be_asked_is_not_blamed() {
        let host = Some(IpAddr::from([127, 0, 0, 1]));
        let cases = [
            (json!({"httpGet": {"port": "nope"}}), host),
            (json!({"httpGet": {"port": 80}}), None),
            (json!({"tcpSocket": {"port": "nope"}}), host),
            (json!({"tcpSocket": {"port": 80}}), None),
            (json!({"grpc": {"port": 80}}), None),
        ];
        for (probe, host) in cases {
            let outcome = ask(probe.clone(), host).await;
            assert!(matches!(outcome, Outcome::Unknown(_)), "{probe}: {outcome:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_takes_too_long_is_ended() {
        let runtime = Memory::new();
        runtime.add_image("img");
        let spec = ContainerSpec { image: "img".into(), ..ContainerSpec::default() };
        let id = runtime.create(&spec).await.unwrap();
        runtime.start(&id).await.unwrap();
        let probe = serde_json::from_value(json!({"exec": {"command": ["sleep", "9"]}})).unwrap();
        let outcome = Check::of(&probe, &target(&id, None)).run(&runtime).await;
        assert!(matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
        let calls = runtime.calls();
        assert!(calls.last().unwrap().starts_with("end_exec exec-"), "{calls:?}");
    }

    #[tokio::test]
    async fn a_connection_goes_to_the_host_that_is_named() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let probe = json!({"tcpSocket": {"host": "localhost", "port": port}});
        assert_eq!(ask(probe, None).await, Outcome::Success(None));
    }
}

//! Lifecycle hooks: what a container wants done after its start and before its
//! end, and running a command in it to the end.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::probe::http;
use crate::runtime::{ExecOptions, Output, Runtime, RuntimeError, Session};

/// Output of a command that is kept for messages.
const OUTPUT_BYTES: usize = 10 * 1024;
/// How long an HTTP hook may take; upstream's own limit.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs one hook. The caller limits its time.
pub async fn run(
    runtime: &dyn Runtime,
    id: &str,
    hook: &LifecycleHandler,
    host: Option<IpAddr>,
    container: &Container,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let run = async { ended(runtime, begin(runtime, id, &command).await?).await };
        let (code, output) = run.await.map_err(|error: RuntimeError| error.to_string())?;
        return match code {
            0 => Ok(()),
            _ => Err(format!("command '{}' exited with {code}: {output}", command.join(" "))),
        };
    }
    if let Some(get) = &hook.http_get {
        let request = http::Request::of(get, host, container)?;
        let answer = http::get(&request, HTTP_TIMEOUT).await?;
        return if answer.status < 400 {
            Ok(())
        } else {
            Err(format!("HTTP hook answered {}", answer.status))
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default()))
            .await;
    }
    Ok(())
}

/// Begins a command in a container.
pub async fn begin(
    runtime: &dyn Runtime,
    id: &str,
    command: &[String],
) -> Result<Session, RuntimeError> {
    let options = ExecOptions {
        command: command.to_vec(),
        stdout: true,
        stderr: true,
        ..ExecOptions::default()
    };
    runtime.exec(id, &options).await
}

/// Waits for the end of a command. Returns its exit code and the beginning of
/// its output.
pub async fn ended(
    runtime: &dyn Runtime,
    mut session: Session,
) -> Result<(i64, String), RuntimeError> {
    let mut output = Vec::new();
    while let Some(piece) = session.output.next().await {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece?;
        let room = OUTPUT_BYTES.saturating_sub(output.len());
        output.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    let code = runtime.exec_exit_code(&session.id).await?;
    // The output has ended, so the process has: an engine that has not noticed
    // yet reports no code.
    Ok((code.unwrap_or(-1), String::from_utf8_lossy(&output).into_owned()))
}

/// The number of a port that is given by number or by the name it has in the
/// container.
pub fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named = ports.clone().find(|port| port.name.as_deref() == Some(name));
            named
                .and_then(|port| u16::try_from(port.container_port).ok())
                .or_else(|| name.parse().ok())
        }
    }
}

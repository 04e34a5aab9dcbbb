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

/// Runs one hook. The caller limits its time. What an HTTP server answers does
/// not count, only that it does. One that has no TLS where the hook wants it is
/// asked without, and the caller is told.
pub async fn run(
    runtime: &dyn Runtime,
    id: &str,
    hook: &LifecycleHandler,
    host: Option<IpAddr>,
    container: &Container,
) -> Result<Option<String>, String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let run = async { ended(runtime, begin(runtime, id, &command).await?).await };
        let (code, output) = run.await.map_err(|error: RuntimeError| error.to_string())?;
        return match code {
            0 => Ok(None),
            _ => Err(format!("command '{}' exited with {code}: {output}", command.join(" "))),
        };
    }
    if let Some(get) = &hook.http_get {
        let request = http::Request::of(get, host, container, http::Purpose::Hook)?;
        return match http::get(&request, HTTP_TIMEOUT).await {
            Ok(_) => Ok(None),
            Err(error) if http::is_plain_answer(&error) => {
                let to = request.authority();
                http::get(&request.in_plain(), HTTP_TIMEOUT).await.map_err(|_| error)?;
                Ok(Some(format!(
                    "request to HTTPS lifecycle hook {to} got HTTP response, retry with HTTP succeeded"
                )))
            }
            Err(error) => Err(error),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default()))
            .await;
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::runtime::memory::Memory;

    /// Answers every connection with `500`, in plain HTTP. The port, and what
    /// was asked last.
    async fn server() -> (u16, tokio::sync::watch::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked_tx, asked_rx) = tokio::sync::watch::channel(String::new());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 2048];
                let read = stream.read(&mut request).await.unwrap();
                asked_tx.send_replace(String::from_utf8_lossy(&request[..read]).to_lowercase());
                let answer = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        (port, asked_rx)
    }

    async fn hook(get: serde_json::Value) -> Result<Option<String>, String> {
        let hook = serde_json::from_value(json!({"httpGet": get})).unwrap();
        let host = Some(IpAddr::from([127, 0, 0, 1]));
        run(&Memory::new(), "a", &hook, host, &Container::default()).await
    }

    #[tokio::test]
    async fn an_http_hook_is_done_when_it_was_answered() {
        let (port, asked) = server().await;
        assert_eq!(hook(json!({"port": port, "path": "/stop"})).await, Ok(None));
        let asked = asked.borrow().clone();
        assert!(asked.starts_with("get /stop http/1.1"), "{asked}");
        assert!(asked.contains("user-agent: kube-lifecycle/1.35"), "{asked}");
        assert!(hook(json!({"port": "nope"})).await.is_err());
    }

    #[tokio::test]
    async fn a_hook_falls_back_to_plain_http_without_its_credentials() {
        let (port, asked) = server().await;
        let headers = json!([
            {"name": "Authorization", "value": "Bearer x"}, {"name": "X-A", "value": "b"},
        ]);
        let get = json!({"port": port, "scheme": "HTTPS", "httpHeaders": headers});
        let told = hook(get).await.unwrap().unwrap();
        assert!(told.contains(&format!("127.0.0.1:{port} got HTTP response")), "{told}");
        let asked = asked.borrow().clone();
        assert!(asked.contains("x-a: b") && !asked.contains("bearer"), "{asked}");
    }
}

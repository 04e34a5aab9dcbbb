//! The server's streams as a WebSocket client sees them, in every subprotocol,
//! on an in-memory runtime.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::Extension;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use super::{
    backend::{Backend, BackendError, Node as RealNode},
    router,
    tls::Caller,
};
use crate::images::Images;
use crate::runtime::{Container, ContainerSpec, Output, Runtime, labels, memory::Memory};
use crate::usage::Meter;

const LIMIT: Duration = Duration::from_secs(30);

/// A node whose pods listen on one port of this machine, whatever is dialled
/// but 81.
struct Node {
    inner: RealNode,
    listens: u16,
    logs: tempfile::TempDir,
}

#[async_trait]
impl Backend for Node {
    fn runtime(&self) -> &dyn Runtime {
        self.inner.runtime()
    }

    async fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<Container, BackendError> {
        self.inner.container(namespace, pod, container, previous).await
    }

    async fn dial(&self, _: &str, _: &str, port: u16) -> Result<TcpStream, BackendError> {
        if port == 81 {
            return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
        }
        Ok(TcpStream::connect(("127.0.0.1", self.listens)).await?)
    }

    fn pods(&self) -> Value {
        self.inner.pods()
    }

    async fn running_pods(&self) -> Result<Value, BackendError> {
        self.inner.running_pods().await
    }

    fn metrics(&self) -> String {
        self.inner.metrics()
    }

    fn images(&self) -> &Images {
        self.inner.images()
    }

    fn volumes_dir(&self) -> &Path {
        self.inner.volumes_dir()
    }

    fn meter(&self) -> &Meter {
        self.inner.meter()
    }

    fn settings(&self) -> &Value {
        self.inner.settings()
    }

    fn log_dir(&self) -> &Path {
        self.logs.path()
    }
}

/// A server with pod `ns/p`, whose container `c` has logged a line.
async fn server() -> u16 {
    server_on(Arc::new(Memory::new())).await
}

async fn server_on(runtime: Arc<Memory>) -> u16 {
    runtime.add_image("img");
    for name in ["c", labels::SANDBOX] {
        let spec = ContainerSpec {
            name: name.into(),
            labels: labels::of_container("i", "n", "ns", "p", name),
            image: "img".into(),
            ..ContainerSpec::default()
        };
        let id = runtime.create(&spec).await.unwrap();
        runtime.start(&id).await.unwrap();
        runtime.write_log(&id, Output::Stdout("alive\n".into()));
    }
    runtime.set_exec_code("false", 1);
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listens = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = echo.accept().await.unwrap();
            let mut asked = [0; 4];
            socket.read_exact(&mut asked).await.unwrap();
            socket.write_all(b"pong").await.unwrap();
        }
    });
    let inner = RealNode::new(runtime, "i", "n", || json!({"items": []}), String::new);
    let logs = tempfile::tempdir().unwrap();
    std::fs::create_dir(logs.path().join("apt")).unwrap();
    std::fs::write(logs.path().join("apt/a & b.log"), "news\n").unwrap();
    std::os::unix::fs::symlink("/etc", logs.path().join("out")).unwrap();
    let router =
        router(Arc::new(Node { inner, listens, logs })).layer(Extension(Caller::ApiServer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

/// What a client that offers `protocol`, if any, gets to hear until the end,
/// after it has said `says`.
async fn hears(
    port: u16,
    path: &str,
    protocol: Option<&str>,
    says: &[Message],
) -> Result<Vec<Message>, String> {
    let mut request = format!("ws://127.0.0.1:{port}{path}").into_client_request().unwrap();
    if let Some(protocol) = protocol {
        let name = HeaderValue::from_str(protocol).unwrap();
        request.headers_mut().insert("sec-websocket-protocol", name);
    }
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut socket, response) =
        client_async(request, stream).await.map_err(|error| error.to_string())?;
    let chosen = response.headers().get("sec-websocket-protocol");
    assert_eq!(chosen.map(|name| name.to_str().unwrap()), protocol);
    for message in says {
        socket.send(message.clone()).await.unwrap();
    }
    let mut heard = Vec::new();
    let listen = async {
        while let Some(message) = socket.next().await {
            match message.unwrap() {
                Message::Close(_) => return,
                other => heard.push(other),
            }
        }
    };
    tokio::time::timeout(LIMIT, listen).await.expect("the server ends the stream");
    Ok(heard)
}

fn binary(bytes: &'static [u8]) -> Message {
    Message::binary(bytes)
}

#[tokio::test]
async fn a_command_ends_as_the_clients_version_tells() {
    let port = server().await;
    let run = async |program: &str, protocol: Option<&str>| {
        let path = format!("/exec/ns/p/c?command={program}&stdout=1");
        hears(port, &path, protocol, &[]).await.unwrap()
    };
    let with_channel = |text: &[u8]| Message::binary([b"\x03", text].concat());
    let success = br#"{"metadata":{},"status":"Success"}"#;
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        assert_eq!(run("true", Some(protocol)).await, [with_channel(success)], "{protocol}");
        let heard = run("false", Some(protocol)).await;
        let status: Value = serde_json::from_slice(&heard[0].clone().into_data()[1..]).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "1", "{protocol}");
    }
    let failed = "command terminated with non-zero exit code: exit status 1";
    for protocol in [Some("channel.k8s.io"), None] {
        assert_eq!(run("true", protocol).await, [], "{protocol:?}");
        assert_eq!(run("false", protocol).await, [with_channel(failed.as_bytes())]);
    }
    let text = run("false", Some("base64.channel.k8s.io")).await;
    assert!(matches!(&text[..], [Message::Text(text)] if text.starts_with('3')), "{text:?}");

    let refused = hears(port, "/exec/ns/p/c?command=true&stdout=1", Some("v9.io"), &[]).await;
    assert!(refused.unwrap_err().contains("400"));
}

#[tokio::test]
async fn a_command_does_not_outlive_its_client() {
    let runtime = Arc::new(Memory::new());
    let port = server_on(runtime.clone()).await;
    let url = format!("ws://127.0.0.1:{port}/exec/ns/p/c?command=sleep&stdout=1");
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (client, _) = client_async(url, stream).await.unwrap();
    drop(client);
    let ended = async {
        // The runtime numbers all that it makes.
        while runtime.exec_exit_code("exec-5").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.expect("the command is ended");
}

#[tokio::test]
async fn logs_come_as_messages_too() {
    let port = server().await;
    let log = async |protocol| hears(port, "/containerLogs/ns/p/c", protocol, &[]).await;
    assert_eq!(log(Some("binary.k8s.io")).await.unwrap(), [binary(b"alive\n")]);
    assert_eq!(log(None).await.unwrap(), [binary(b"alive\n")]);
    assert_eq!(log(Some("base64.binary.k8s.io")).await.unwrap(), [Message::text("YWxpdmUK")]);
    assert!(log(Some("v4.channel.k8s.io")).await.unwrap_err().contains("400"));
    let missing = hears(port, "/containerLogs/ns/p/none", None, &[]).await;
    assert!(missing.unwrap_err().contains("404"));
}

#[tokio::test]
async fn ports_are_forwarded_over_numbered_channels() {
    let port = server().await;
    let path = "/portForward/ns/p?ports=80&ports=81";
    let ping = [binary(b"\0ping")];
    let heard = hears(port, path, Some("v4.channel.k8s.io"), &ping).await.unwrap();
    let mut channels: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
    for message in heard {
        let bytes = message.into_data();
        channels.entry(bytes[0]).or_default().push(bytes[1..].to_vec());
    }
    assert_eq!(channels[&0], [b"\x50\0".to_vec(), b"pong".to_vec()]);
    assert_eq!(channels[&1], [b"\x50\0".to_vec()]);
    assert_eq!(channels[&2], [b"\x51\0".to_vec()]);
    assert_eq!(channels[&3][0], b"\x51\0");
    let why = String::from_utf8(channels[&3][1].clone()).unwrap();
    assert!(why.contains("port 81") && why.contains("connection refused"), "{why}");

    for (path, says) in [
        ("/portForward/ns/p", "400"),
        ("/portForward/ns/p?ports=0", "400"),
        ("/portForward/ns/none?ports=80", "404"),
    ] {
        let refused = hears(port, path, Some("v4.channel.k8s.io"), &[]).await.unwrap_err();
        assert!(refused.contains(says), "{path}: {refused}");
    }
}

/// The answer to a GET: its status line, headers and body.
async fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: n\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_machines_logs_are_listed_and_read_and_nothing_else() {
    let port = server().await;
    let cases = [
        ("/logs/", "200", "<a href=\"apt/\">apt/</a>\n<a href=\"out\">out</a>"),
        ("/logs/apt", "301", "location: apt/"),
        ("/logs/apt/", "200", "<a href=\"a%20%26%20b.log\">a &amp; b.log</a>"),
        ("/logs/apt/a%20%26%20b.log", "200", "\r\n\r\nnews\n"),
        ("/logs/none", "404", ""),
        ("/logs/out/passwd", "403", ""),
        ("/logs/%2e%2e/passwd", "403", ""),
        ("/configz", "200", "{\"kubeletconfig\":"),
        ("/runningpods/", "200", "\"name\":\"c\""),
    ];
    for (path, status, part) in cases {
        let answer = get(port, path).await;
        let told = answer.split(' ').nth(1).unwrap();
        assert!(told == status && answer.contains(part), "{path}: {answer}");
        assert!(!answer.contains("root:"), "{path}");
    }
}

//! Requests for a stream to an agent that says no, or sends elsewhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use skiff_apiserver::pki::Leaf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::common::{Server, pod, start};
use crate::{PODS, exchange, parse, refused, serves};

/// An agent that gives every connection the same answer and keeps what it was
/// sent. A node `n1` and a pod on it lead there.
async fn agent(
    server: &Server,
    answer: &'static str,
) -> (Arc<std::sync::Mutex<Vec<u8>>>, SocketAddr) {
    let pki = server.server.pki();
    let leaf = Leaf::server("n1", vec!["n1".to_owned()], Vec::new());
    let issued = pki.ca().issue(&leaf, jiff::Timestamp::now()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, kept) = (tls.clone(), Arc::clone(&kept));
            tokio::spawn(async move {
                let Ok(mut stream) = tls.accept(socket).await else { return };
                let mut buffer = [0; 4096];
                let mut answered = false;
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    kept.lock().unwrap().extend_from_slice(&buffer[..count]);
                    if !answered {
                        answered = true;
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    let node = json!({"metadata": {"name": "n1"}});
    server.post("/api/v1/nodes", node).await.expect(201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    server.patch("/api/v1/nodes/n1/status", "merge-patch", status).await.expect(200);
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = json!("n1");
    server.post(PODS, bound).await.expect(201);
    (seen, address)
}

fn upgrade(uri: &str) -> String {
    format!(
        "GET {uri} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    )
}

const EXEC: &str = "/api/v1/namespaces/default/pods/p/exec?command=true&stdout=1";

#[tokio::test]
async fn requests_behind_an_upgrade_that_failed() {
    let server = start().await;
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let (seen, _) = agent(&server, refusal).await;
    // What is sent in advance would reach the agent under the master's name,
    // were the tunnel opened before the agent has agreed to one.
    let behind = "POST /run/default/p/c?cmd=id HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let secrets = "GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = exchange(&server, (upgrade(EXEC) + behind + secrets).into_bytes()).await;
    refused("the upgrade", &parse(&answer), 403);
    let answers = String::from_utf8_lossy(&answer);
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    let seen = String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
    assert!(seen.contains("/exec/default/p/c"), "{seen}");
    assert!(!seen.contains("/run/"), "{seen}");
    // A pod that is nowhere, or not there, fails before anybody is asked.
    server.post(PODS, pod("unbound")).await.expect(201);
    for (name, code) in [("unbound", 400), ("missing", 404)] {
        let uri = format!("/api/v1/namespaces/default/pods/{name}/exec?command=true");
        let answer =
            exchange(&server, (upgrade(&uri) + "\r\n" + secrets + "GARBAGE\r\n\r\n").into_bytes())
                .await;
        refused(name, &parse(&answer), code);
        assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count(), 1, "{name}");
    }
    serves(&server).await;
}

#[tokio::test]
async fn an_agent_that_answers_an_upgrade_with_a_redirect() {
    let server = start().await;
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = elsewhere.local_addr().unwrap();
    let redirect: &'static str = Box::leak(
        format!(
            "HTTP/1.1 302 Found\r\nLocation: https://{target}/exec\r\nContent-Length: 0\r\n\r\n"
        )
        .into_boxed_str(),
    );
    agent(&server, redirect).await;
    let answer = exchange(&server, upgrade(EXEC).into_bytes()).await;
    refused("the redirect", &parse(&answer), 500);
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(!head.contains("\r\nlocation:"), "nobody is sent elsewhere: {head}");
    let nobody = timeout(Duration::from_millis(200), elsewhere.accept()).await;
    assert!(nobody.is_err(), "the redirect was followed");
    serves(&server).await;
}

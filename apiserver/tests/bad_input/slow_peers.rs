//! Clients that send or read as slowly as they can.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::common::{DEADLINE, configmap, start_with};
use crate::{JSON, MAPS, connect, parse, refused, serves};

#[tokio::test]
async fn a_body_that_comes_a_byte_at_a_time() {
    let short = Duration::from_millis(500);
    let server =
        start_with(|config| skiff_apiserver::Config { request_timeout: short, ..config }).await;
    let (mut reader, mut writer) = tokio::io::split(connect(&server).await);
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {JSON}\r\nContent-Length: 1000000\r\n\r\n"
    );
    writer.write_all(head.as_bytes()).await.unwrap();
    let drip = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, reader.read_to_end(&mut answer)).await.expect("an end");
    refused("a dripping body", &parse(&answer), 504);
    drip.abort();
    serves(&server).await;
}

#[tokio::test]
async fn a_watch_that_nobody_reads() {
    let short = Duration::from_millis(500);
    let server =
        start_with(|config| skiff_apiserver::Config { write_timeout: short, ..config }).await;
    let mut stream = connect(&server).await;
    let request = format!("GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    // More than the kernel and TLS hold back for a reader; it stays unread.
    let mut map = configmap("loud");
    map["data"]["k"] = json!("x".repeat(900_000));
    server.post(MAPS, map.clone()).await.expect(201);
    for turn in 0..15 {
        map["data"]["turn"] = json!(turn.to_string());
        server.put(&format!("{MAPS}/loud"), map.clone()).await.expect(200);
    }
    tokio::time::sleep(short * 3).await;
    // What was under way is there, and then it ends.
    let mut rest = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("a closed connection");
    assert!(rest.len() < 14_000_000, "the server went on sending: {}", rest.len());
    serves(&server).await;
}

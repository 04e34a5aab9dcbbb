//! The whole proxy beside a small stand-in for the API server: watches in,
//! packets and names out. Needs root, `ip` and `nft`; says so and passes
//! without.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use http::{Request, Response};
use http_body_util::StreamBody;
use kube::client::Body;
use serde_json::{Value, json};
use skiff_proxy::Config;
use support::{Namespace, is_root};
use tokio_util::sync::CancellationToken;

type Frames = mpsc::UnboundedSender<Result<http_body::Frame<Bytes>, Infallible>>;

/// Lists a fixed set of objects and passes on watch events by hand.
#[derive(Clone, Default)]
struct Api {
    services: Vec<Value>,
    slices: Vec<Value>,
    slice_watches: Arc<Mutex<Vec<Frames>>>,
    /// Kept open, or the watch would start over.
    other_watches: Arc<Mutex<Vec<Frames>>>,
}

impl Api {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let response = api.respond(request.uri());
            async move { Ok::<_, Infallible>(response) }
        });
        kube::Client::new(service, "default")
    }

    fn respond(&self, uri: &http::Uri) -> Response<kube_body::Stream> {
        let is_slices = uri.path().ends_with("/endpointslices");
        let query = uri.query().unwrap_or_default();
        let (frames_tx, frames_rx) = mpsc::unbounded();
        if query.contains("watch=true") || query.contains("watch=1") {
            let watches = if is_slices { &self.slice_watches } else { &self.other_watches };
            watches.lock().unwrap().push(frames_tx);
        } else {
            let (kind, version, items) = match is_slices {
                true => ("EndpointSliceList", "discovery.k8s.io/v1", &self.slices),
                false => ("ServiceList", "v1", &self.services),
            };
            let list = json!({
                "kind": kind, "apiVersion": version, "items": items,
                "metadata": {"resourceVersion": "1"},
            });
            send(&frames_tx, &list);
        }
        Response::new(StreamBody::new(frames_rx.boxed()))
    }

    /// Sends an event to whoever watches slices.
    fn change_slice(&self, slice: &Value) {
        let event = json!({"type": "MODIFIED", "object": slice});
        for watch in self.slice_watches.lock().unwrap().iter() {
            send(watch, &event);
        }
    }
}

mod kube_body {
    use super::{Bytes, Infallible, StreamBody};

    pub(crate) type Stream = StreamBody<
        futures::stream::BoxStream<'static, Result<http_body::Frame<Bytes>, Infallible>>,
    >;
}

fn send(frames: &Frames, value: &Value) {
    let line = Bytes::from(format!("{value}\n"));
    frames.unbounded_send(Ok(http_body::Frame::data(line))).unwrap();
}

fn web() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web", "resourceVersion": "1"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    })
}

fn web_slice(version: u32, ip: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "shop", "name": "web-1", "resourceVersion": version.to_string(),
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}, "nodeName": "here"}],
    })
}

fn config() -> Config {
    Config {
        node_name: "here".to_owned(),
        node_ips: vec![[192, 0, 2, 10].into()],
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_dns: [10, 96, 0, 10].into(),
        cluster_domain: "cluster.local".to_owned(),
        data_dir: "/nonexistent".into(),
    }
}

fn question(name: &str) -> Vec<u8> {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    question.to_vec().unwrap()
}

fn answers(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// Asks cluster DNS over TCP.
fn resolve_by_tcp(namespace: &Namespace, name: &str) -> Vec<String> {
    let bytes = question(name);
    let answer = namespace.enter(move || {
        let mut stream = TcpStream::connect("10.96.0.10:53").unwrap();
        stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    });
    answers(&answer)
}

/// Asks cluster DNS from a namespace; the code and the answers.
fn resolve(namespace: &Namespace, name: &str) -> (ResponseCode, Vec<String>) {
    let bytes = question(name);
    let answer = namespace.enter(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        socket.send_to(&bytes, "10.96.0.10:53").unwrap();
        let mut buffer = [0; 1500];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from.to_string(), "10.96.0.10:53");
        Message::from_vec(&buffer[..length]).unwrap()
    });
    (answer.metadata.response_code, answers(&answer))
}

#[test]
fn from_watch_to_packet_and_name() {
    if !is_root() {
        return;
    }
    let (node, outside) = (Namespace::new(), Namespace::new());
    node.join(("eth0", "192.0.2.10/24"), &outside, ("eth0", "192.0.2.20/24"));
    node.exec("sysctl -q -w net.ipv4.ip_forward=1");
    let one = node.plug_pod(1, [10, 244, 1, 1].into());
    let two = node.plug_pod(2, [10, 244, 1, 2].into());
    one.serve("one", 8080);
    two.serve("two", 8080);
    let before = node.dump();

    let api =
        Api { services: vec![web()], slices: vec![web_slice(1, "10.244.1.1")], ..Api::default() };
    let (ready_tx, mut ready_rx) = tokio::sync::watch::channel(false);
    let cancel = CancellationToken::new();
    let proxy = {
        let (api, cancel) = (api.clone(), cancel.clone());
        let run = move || async move {
            skiff_proxy::run(config(), api.client(), ready_tx, cancel).await.unwrap();
        };
        let namespace = Arc::new(node);
        let there = Arc::clone(&namespace);
        let thread = thread::spawn(move || there.block_on(run));
        (namespace, thread)
    };
    let (node, thread) = proxy;
    let started = Instant::now();
    futures::executor::block_on(ready_rx.wait_for(|ready| *ready)).unwrap();
    println!("ready after {:?}", started.elapsed());

    for client in [&*node, &two] {
        assert_eq!(client.call("10.96.0.7:80").unwrap().split(' ').next(), Some("one"));
        let (code, answers) = resolve(client, "web.shop.svc.cluster.local.");
        assert_eq!((code, answers), (ResponseCode::NoError, vec!["10.96.0.7".to_owned()]));
        let (code, _) = resolve(client, "nothing.shop.svc.cluster.local.");
        assert_eq!(code, ResponseCode::NXDomain);
        // There is no way to any upstream server from here.
        let asked = Instant::now();
        let (code, _) = resolve(client, "example.org.");
        assert_eq!(code, ResponseCode::ServFail);
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!(resolve_by_tcp(client, "web.shop.svc.cluster.local."), ["10.96.0.7"]);
    }

    api.change_slice(&web_slice(2, "10.244.1.2"));
    let started = Instant::now();
    while node.call("10.96.0.7:80").unwrap().starts_with("one") {
        assert!(started.elapsed() < Duration::from_secs(5), "the endpoint did not change");
    }
    println!("an endpoint change was in force after {:?}", started.elapsed());

    cancel.cancel();
    thread.join().unwrap();
    assert_eq!(node.call("10.96.0.7:80").unwrap().split(' ').next(), Some("two"), "goes on");
    node.block_on(|| async { skiff_proxy::teardown().await.unwrap() });
    assert_eq!(node.dump(), before);
}

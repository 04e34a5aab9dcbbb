//! Services on real packets: a node, its pods and a neighbour, each a network
//! namespace. Needs root, `ip` and `nft`; says so and passes without.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use skiff_proxy::host;
use skiff_proxy::rules::base::BaseConfig;
use skiff_proxy::rules::service::NodeContext;
use skiff_proxy::sync::Rules;
use skiff_proxy::view::{Endpoint, ObjectName, Protocol, Service, ServicePort, Slice, View};
use support::{Namespace, ask, echo, is_root};
use tokio::sync::Mutex;

const VIP: &str = "10.96.0.7:80";
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// A node with two pods, `one` and `two`, and a neighbour on its network.
struct Scene {
    node: Namespace,
    neighbour: Namespace,
    one: Namespace,
    two: Namespace,
    rules: Arc<Mutex<Rules>>,
    view: Arc<RwLock<View>>,
}

impl Scene {
    fn new() -> Self {
        let (node, neighbour) = (Namespace::new(), Namespace::new());
        node.join(("eth0", "192.0.2.10/24"), &neighbour, ("eth0", "192.0.2.20/24"));
        node.exec("sysctl -q -w net.ipv4.ip_forward=1");
        // Somebody who is not us routes the service range to the node.
        neighbour.ip("route add 10.96.0.0/16 via 192.0.2.10");
        let one = node.plug_pod(1, [10, 244, 1, 1].into());
        let two = node.plug_pod(2, [10, 244, 1, 2].into());
        one.serve("one", 8080);
        two.serve("two", 8080);
        let rules = Rules::new(base(), context());
        let scene = Self {
            node,
            neighbour,
            one,
            two,
            rules: Arc::new(Mutex::new(rules)),
            view: Arc::default(),
        };
        scene.node.block_on(|| async {
            host::apply_switch("net.ipv4.conf.all.route_localnet=1").unwrap();
            host::ensure_service_route(base().service_cidr, NODE).await.unwrap();
        });
        scene.sync(&[]);
        scene
    }

    /// Changes the service `web` and its endpoints, and applies that.
    fn put(&self, service: &Service, endpoints: &[Endpoint]) {
        let name = ObjectName::new("shop", "web");
        let ports = service.ports.iter().map(|p| ((p.name.clone(), p.protocol), 8080)).collect();
        let slice = Slice { ports, endpoints: endpoints.to_vec() };
        {
            let mut view = self.view.write().unwrap();
            view.put_service(&name, service.clone());
            view.put_slice(&name, &name, slice);
        }
        self.sync(&[name]);
    }

    fn sync(&self, dirty: &[ObjectName]) {
        let (rules, view) = (Arc::clone(&self.rules), Arc::clone(&self.view));
        let dirty: BTreeSet<_> = dirty.iter().cloned().collect();
        self.node.block_on(move || async move {
            rules.lock().await.apply(&view, dirty).await.unwrap();
        });
    }

    /// Who answers, over many calls.
    fn who(&self, client: &Namespace, to: &str) -> BTreeSet<String> {
        let first = |greeting: String| greeting.split(' ').next().unwrap().to_owned();
        (0..24).map(|_| first(client.call(to).unwrap())).collect()
    }
}

fn base() -> BaseConfig {
    BaseConfig {
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_dns: [10, 96, 0, 10].into(),
        dns_server: "127.0.0.1:10053".parse().unwrap(),
        saved: vec!["net.ipv4.conf.all.route_localnet=0".to_owned()],
    }
}

fn context() -> NodeContext {
    NodeContext {
        node_name: "here".to_owned(),
        cluster_cidr: base().cluster_cidr,
        cluster_dns: base().cluster_dns,
    }
}

fn service() -> Service {
    let port = |name: &str, protocol| ServicePort {
        name: name.to_owned(),
        protocol,
        port: 80,
        node_port: Some(30080),
    };
    Service {
        cluster_ips: vec![[10, 96, 0, 7].into()],
        external_ips: BTreeSet::from([[203, 0, 113, 7].into()]),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        ..Service::default()
    }
}

fn pod(last: u8) -> Endpoint {
    Endpoint {
        addresses: vec![[10, 244, 1, last].into()],
        ready: true,
        serving: true,
        terminating: false,
        node: Some("here".to_owned()),
        hostname: None,
    }
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn every_frontend_reaches_every_endpoint() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.put(&service(), &[pod(1), pod(2)]);
    let both = names(&["one", "two"]);
    let (node, pod, neighbour) = (&scene.node, &scene.one, &scene.neighbour);
    assert_eq!(scene.who(node, VIP), both, "a host without a default route");
    neighbour.ip("route add 203.0.113.7/32 via 192.0.2.10");
    node.ip("route add default via 192.0.2.20");
    for (client, name) in [(node, "host"), (pod, "pod"), (neighbour, "neighbour")] {
        for to in [VIP, "192.0.2.10:30080", "203.0.113.7:80"] {
            assert_eq!(scene.who(client, to), both, "{name} to {to}");
        }
        let udp = client.udp_client();
        assert!(ask(&udp, VIP).is_ok(), "{name} over UDP");
    }
    assert_eq!(scene.who(node, "127.0.0.1:30080"), both, "localhost");
    // A pod that meets itself through its service sees the node's address.
    let greetings: BTreeSet<_> = (0..24).map(|_| pod.call(VIP).unwrap()).collect();
    assert!(greetings.contains("two 10.244.1.1"), "{greetings:?}: pods keep their source");
    assert!(!greetings.contains("one 10.244.1.1"), "{greetings:?}: hairpin");
}

#[test]
fn without_endpoints_a_client_is_told_at_once() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.put(&service(), &[]);
    let started = Instant::now();
    for client in [&scene.node, &scene.one] {
        for to in [VIP, "10.96.0.7:81", "10.96.9.9:80", "192.0.2.10:30080"] {
            assert_eq!(client.call(to), Err(ErrorKind::ConnectionRefused), "{to}");
        }
        let refused = ask(&client.udp_client(), VIP).unwrap_err();
        // On the host itself the kernel refuses the sending already.
        let expected = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
        assert!(expected.contains(&refused), "UDP: {refused:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn who_asks_for_a_name_during_a_restart_asks_again() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let clients = [scene.node.udp_client(), scene.one.udp_client()];
    for client in &clients {
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(ask(client, "10.96.0.10:53"), Err(ErrorKind::WouldBlock), "nothing is said");
    }
    // Another address of the host says that nobody listens there.
    let refused = ask(&scene.one.udp_client(), "192.0.2.10:10053");
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    let server = scene.node.enter(|| UdpSocket::bind(base().dns_server).unwrap());
    std::thread::spawn(move || {
        for _ in 0..2 {
            let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
            server.send_to(b"an answer", from).unwrap();
        }
    });
    for client in &clients {
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(ask(client, "10.96.0.10:53").unwrap(), "an answer");
    }
}

#[test]
fn removing_an_endpoint_breaks_no_connection() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.put(&service(), &[pod(1)]);
    let (greeting, mut stream) = scene.two.connect(VIP).unwrap();
    assert_eq!(greeting, "one 10.244.1.2");
    let udp = scene.two.udp_client();
    assert_eq!(ask(&udp, VIP).unwrap(), "one 10.244.1.2");

    // The pod leaves; it is still there, but only for those it knows.
    let leaving = Endpoint { ready: false, terminating: true, ..pod(1) };
    scene.put(&service(), &[leaving.clone(), pod(2)]);
    assert_eq!(scene.who(&scene.neighbour, VIP), names(&["two"]));
    assert_eq!(echo(&mut stream, "still there"), "still there");
    assert_eq!(ask(&udp, VIP).unwrap().split(' ').next(), Some("two"), "a UDP client moves on");

    // Nobody else is left: better one that leaves than none.
    scene.put(&service(), &[leaving]);
    assert_eq!(scene.who(&scene.two, VIP), names(&["one"]));
    scene.put(&service(), &[]);
    assert_eq!(echo(&mut stream, "still there"), "still there");
}

#[test]
fn affinity_keeps_a_client_with_its_endpoint() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let sticky = Service { affinity_seconds: Some(600), ..service() };
    scene.put(&sticky, &[pod(1), pod(2)]);
    let chosen = scene.who(&scene.neighbour, VIP);
    assert_eq!(chosen.len(), 1);
    assert_eq!(scene.who(&scene.neighbour, "192.0.2.10:30080"), chosen, "by any frontend");
    // Another endpoint more does not move anybody.
    let third = Endpoint { addresses: vec![[10, 244, 1, 3].into()], ..pod(3) };
    scene.put(&sticky, &[pod(1), pod(2), third]);
    assert_eq!(scene.who(&scene.neighbour, VIP), chosen);
    // When its endpoint goes, the client gets another, and stays there.
    let rest = if chosen.contains("one") { pod(2) } else { pod(1) };
    scene.put(&sticky, &[rest]);
    let moved = scene.who(&scene.neighbour, VIP);
    assert!(moved.len() == 1 && moved != chosen);
}

#[test]
fn local_policies_stay_on_the_node() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let remote = Endpoint { node: Some("there".to_owned()), ..pod(2) };
    let local = Service { internal_local: true, external_local: true, ..service() };
    scene.put(&local, &[pod(1), remote.clone()]);
    assert_eq!(scene.who(&scene.two, VIP), names(&["one"]), "internal");
    assert_eq!(scene.who(&scene.neighbour, "192.0.2.10:30080"), names(&["one"]), "external");
    let greeting = scene.neighbour.call("192.0.2.10:30080").unwrap();
    assert_eq!(greeting, "one 192.0.2.20", "the source is kept");
    assert_eq!(scene.who(&scene.node, "192.0.2.10:30080"), names(&["one", "two"]), "the host");

    scene.put(&local, &[remote]);
    assert_eq!(scene.two.call(VIP), Err(ErrorKind::ConnectionRefused));
    assert_eq!(scene.neighbour.call("192.0.2.10:30080"), Err(ErrorKind::TimedOut), "dropped");
}

#[test]
fn the_host_s_loopback_stays_closed() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.node.serve("private", 9999);
    scene.one.ip("route add 127.0.0.1/32 via 169.254.1.1 dev eth0 table 100");
    scene.one.ip("rule add to 127.0.0.1 table 100 pref 1");
    scene.one.ip("rule del pref 0");
    scene.one.ip("rule add table local pref 10");
    scene.one.exec("sysctl -q -w net.ipv4.conf.all.route_localnet=1");
    let err = scene.one.call("127.0.0.1:9999").unwrap_err();
    assert!(matches!(err, ErrorKind::TimedOut | ErrorKind::WouldBlock), "{err:?}");
}

#[test]
fn teardown_leaves_what_was_there() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.node.block_on(|| async { skiff_proxy::teardown().await.unwrap() });
    scene.node.exec("nft add table ip somebody-else");
    let before = scene.node.dump();
    scene.node.block_on(|| async {
        host::apply_switch("net.ipv4.conf.all.route_localnet=1").unwrap();
        host::ensure_service_route(base().service_cidr, NODE).await.unwrap();
    });
    *scene.rules.blocking_lock() = Rules::new(base(), context());
    let sticky = Service { affinity_seconds: Some(60), ..service() };
    scene.put(&sticky, &[pod(1), pod(2)]);
    assert_ne!(scene.node.dump(), before);
    for _ in 0..2 {
        scene.node.block_on(|| async { skiff_proxy::teardown().await.unwrap() });
        assert_eq!(scene.node.dump(), before);
    }
}

#[test]
fn a_full_load_interrupts_nobody() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.put(&service(), &[pod(1)]);
    let (_, mut stream) = scene.two.connect(VIP).unwrap();
    let (rules, view) = (Rules::new(base(), context()), Arc::clone(&scene.view));
    scene.node.block_on(move || async move {
        let mut rules = rules;
        rules.apply_base().await.unwrap();
        assert!(rules.is_stale());
        rules.apply(&view, BTreeSet::new()).await.unwrap();
        rules.check().await.unwrap();
        assert!(!rules.is_stale());
    });
    assert_eq!(echo(&mut stream, "hello"), "hello");
    assert_eq!(scene.who(&scene.two, VIP), names(&["one"]));
}

//! What a change costs among ten thousand services. Ignored by default; run
//! with `cargo test -p skiff-proxy --release --test scale -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use skiff_proxy::rules::base::BaseConfig;
use skiff_proxy::rules::service::NodeContext;
use skiff_proxy::sync::Rules;
use skiff_proxy::view::{Endpoint, ObjectName, Protocol, Service, ServicePort, Slice, View};
use support::{Namespace, is_root};

const SERVICES: u32 = 10_000;
const CHANGES: u32 = 200;

fn put(view: &mut View, number: u32, endpoints: u32) -> ObjectName {
    let name = ObjectName::new("scale", &format!("service-{number}"));
    let address = |base: u32, number: u32| std::net::Ipv4Addr::from(base + number);
    let port =
        ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
    let service = Service {
        cluster_ips: vec![address(0x0a60_0100, number)],
        ports: vec![port],
        ..Service::default()
    };
    let endpoint = |n| Endpoint {
        addresses: vec![address(0x0af4_0000, number * 4 + n).into()],
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        hostname: None,
    };
    let ports = BTreeMap::from([(("http".to_owned(), Protocol::Tcp), 8080)]);
    view.put_service(&name, service);
    view.put_slice(
        &name,
        &name,
        Slice { ports, endpoints: (0..endpoints).map(endpoint).collect() },
    );
    name
}

#[test]
#[ignore = "a measurement, not a test"]
fn one_change_among_ten_thousand_services() {
    if !is_root() {
        return;
    }
    let node = Namespace::new();
    let mut times: Vec<Duration> = node.block_on(|| async {
        let cluster_cidr = "10.244.0.0/16".parse().unwrap();
        let base = BaseConfig {
            cluster_cidr,
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            cluster_dns: [10, 96, 0, 10].into(),
            dns_server: "127.0.0.1:10053".parse().unwrap(),
            saved: Vec::new(),
        };
        let context = NodeContext {
            node_name: "here".to_owned(),
            cluster_cidr,
            cluster_dns: base.cluster_dns,
        };
        let view = RwLock::new(View::default());
        for number in 0..SERVICES {
            put(&mut view.write().unwrap(), number, 2);
        }
        let mut rules = Rules::new(base, context);
        let started = Instant::now();
        rules.apply(&view, BTreeSet::new()).await.unwrap();
        println!("full load of {SERVICES} services: {:?}", started.elapsed());
        let mut times = Vec::new();
        for number in 0..CHANGES {
            let endpoints = 1 + (number % 2) * 2;
            let name = put(&mut view.write().unwrap(), number * 37 % SERVICES, endpoints);
            let started = Instant::now();
            rules.apply(&view, BTreeSet::from([name])).await.unwrap();
            times.push(started.elapsed());
        }
        times
    });
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("one change: median {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
}

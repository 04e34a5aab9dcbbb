//! Which chains and map elements a Service turns into.

use super::*;
use crate::rules::Scope;
use crate::view::{Endpoint, Protocol, Slice};

const READY: (bool, bool, bool) = (true, true, false);
const LEAVING: (bool, bool, bool) = (false, true, true);
const STARTING: (bool, bool, bool) = (false, false, false);

fn endpoint(last: u8, node: &str, (ready, serving, terminating): (bool, bool, bool)) -> Endpoint {
    Endpoint {
        addresses: vec![IpAddr::from([10, 244, 1, last])],
        ready,
        serving,
        terminating,
        node: Some(node.to_owned()),
        hostname: None,
    }
}

fn service() -> Service {
    let port =
        ServicePort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 80, node_port: None };
    Service { cluster_ips: vec![[10, 96, 0, 7].into()], ports: vec![port], ..Service::default() }
}

fn entry(service: Service, endpoints: Vec<Endpoint>) -> Entry {
    let ports = BTreeMap::from([(("http".to_owned(), Protocol::Tcp), 8080)]);
    let slices = BTreeMap::from([("web-1".to_owned(), Slice { ports, endpoints })]);
    Entry { service: Some(service), slices }
}

fn plan(service: Service, endpoints: Vec<Endpoint>) -> Fragment {
    let node = NodeContext {
        node_name: "here".to_owned(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        cluster_dns: [10, 96, 0, 10].into(),
    };
    plan_service(&ObjectName::new("a", "web"), &entry(service, endpoints), &node, |_, _| true)
}

/// `frontend -> chain`, one line each.
fn verdicts(fragment: &Fragment) -> Vec<String> {
    let line = |((map, key), element): (&(MapName, Key), &Element)| match &element.value {
        Value::Verdict(target) => Some(format!("{map} {} {target}", describe(key))),
        Value::Member => Some(format!("{map} {}", describe(key))),
        Value::Address(_) | Value::Port(_) => None,
    };
    fragment.elements.iter().filter_map(line).collect()
}

fn describe(key: &Key) -> String {
    match key {
        Key::Address(ip, protocol, port) => format!("{ip}:{port}/{}", protocol.as_str()),
        Key::NodePort(protocol, port) => format!("{port}/{}", protocol.as_str()),
    }
}

#[test]
fn the_usable_endpoints_are_chosen_and_ordered() {
    let here = |last, state| endpoint(last, "here", state);
    let there = |last, state| endpoint(last, "there", state);
    let local = Service { internal_local: true, ..service() };
    // Service, endpoints, then: order, local span, whole span.
    let cases = [
        ("none", service(), vec![], vec![], 0..0, 0..0),
        ("not ready", service(), vec![here(1, STARTING)], vec![], 0..0, 0..0),
        (
            "local first",
            service(),
            vec![there(1, READY), here(2, READY), there(3, STARTING)],
            vec![2, 1],
            0..1,
            0..2,
        ),
        (
            "ready beats leaving",
            service(),
            vec![here(1, LEAVING), there(2, READY)],
            vec![2],
            0..0,
            0..1,
        ),
        (
            "leaving beats none",
            service(),
            vec![here(1, LEAVING), there(2, LEAVING)],
            vec![1, 2],
            0..1,
            0..2,
        ),
        (
            "a local one that leaves serves local policy only",
            local.clone(),
            vec![here(1, LEAVING), there(2, READY)],
            vec![1, 2],
            0..1,
            1..2,
        ),
        ("local and ready", local, vec![here(1, READY), here(3, LEAVING)], vec![1], 0..1, 0..1),
    ];
    for (name, service, endpoints, order, local, all) in cases {
        let entry = entry(service.clone(), endpoints);
        let choice = choose(&entry, &service, &service.ports[0], "here");
        let chosen: Vec<_> = choice.endpoints.iter().map(|e| e.ip().octets()[3]).collect();
        assert_eq!((chosen, choice.local, choice.all), (order, local, all), "{name}");
    }
}

#[test]
fn each_frontend_goes_where_its_policy_says() {
    let both = || vec![endpoint(1, "here", READY), endpoint(2, "there", READY)];
    let remote = || vec![endpoint(2, "there", READY)];
    let mut exposed = service();
    exposed.external_ips.insert([192, 0, 2, 9].into());
    exposed.ports[0].node_port = Some(30080);
    let cases = [
        ("plain", service(), both(), vec!["services 10.96.0.7:80/tcp service-pick-0-2"]),
        (
            "internal local",
            Service { internal_local: true, ..service() },
            both(),
            vec!["services 10.96.0.7:80/tcp service-pick-0-1"],
        ),
        (
            "internal local, none here",
            Service { internal_local: true, ..service() },
            remote(),
            vec![],
        ),
        (
            "exposed",
            exposed.clone(),
            both(),
            vec![
                "services 10.96.0.7:80/tcp service-pick-0-2",
                "services 192.0.2.9:80/tcp service-external-0-2",
                "node-ports 30080/tcp node-port-external-0-2",
            ],
        ),
        (
            "external local, none here",
            Service { external_local: true, ..exposed.clone() },
            remote(),
            vec![
                "services 10.96.0.7:80/tcp service-pick-0-1",
                "services 192.0.2.9:80/tcp service-local-0-0-0-1",
                "node-ports 30080/tcp node-port-local-0-0-0-1",
            ],
        ),
        ("no endpoints", exposed.clone(), vec![], vec!["refused 192.0.2.9:80/tcp"]),
        ("somebody else's", Service { foreign_proxy: true, ..exposed }, both(), vec![]),
    ];
    for (name, service, endpoints, expected) in cases {
        assert_eq!(verdicts(&plan(service, endpoints)), expected, "{name}");
    }
}

#[test]
fn every_endpoint_has_its_address_and_port() {
    let fragment = plan(service(), vec![endpoint(5, "here", READY)]);
    let key = Key::Address([10, 96, 0, 7].into(), Protocol::Tcp, 80);
    let value = |map| fragment.elements[&(map, key)].value.clone();
    let scope = Scope::Address;
    assert_eq!(value(MapName::EndpointAddress(scope, 0)), Value::Address([10, 244, 1, 5].into()));
    assert_eq!(value(MapName::EndpointPort(scope, 0)), Value::Port(8080));
    assert_eq!(fragment.elements.len(), 3);
}

#[test]
fn affinity_has_chains_of_its_own() {
    let sticky = Service { affinity_seconds: Some(60), ..service() };
    let fragment = plan(sticky, vec![endpoint(1, "here", READY), endpoint(2, "here", READY)]);
    assert_eq!(fragment.sets.len(), 2, "a set of clients for each endpoint");
    let Some(Target::Own(entry)) = fragment.targets().next() else { panic!("no own chain") };
    assert_eq!(fragment.chains[entry].rules.len(), 3, "two known clients, then any");
    for chain in fragment.chains.keys().chain(fragment.sets.keys()) {
        assert!(chain.len() < 128, "{chain}");
    }
}

#[test]
fn taken_frontends_and_the_dns_port_are_left_out() {
    let name = ObjectName::new("kube-system", "kube-dns");
    let node = NodeContext {
        node_name: "here".to_owned(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        cluster_dns: [10, 96, 0, 7].into(),
    };
    let mut dns = service();
    dns.ports[0].port = 53;
    let entry = entry(dns, vec![endpoint(1, "here", READY)]);
    assert!(plan_service(&name, &entry, &node, |_, _| true).elements.is_empty());
    let elsewhere = NodeContext { cluster_dns: [10, 96, 0, 10].into(), ..node };
    assert!(!plan_service(&name, &entry, &elsewhere, |_, _| true).elements.is_empty());
    assert!(plan_service(&name, &entry, &elsewhere, |_, _| false).elements.is_empty());
}

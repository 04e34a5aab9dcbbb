//! Answers by the rules of the Kubernetes DNS specification.

use std::collections::BTreeMap;

use super::*;
use crate::view::{ServicePort, Slice};

fn zone() -> Zone {
    let (pods, services) = ("10.244.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap());
    Zone::new("cluster.local", [10, 96, 0, 10].into(), pods, services)
}

fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: name.to_owned(), protocol, port, node_port: None }
}

fn endpoint(last: u8, hostname: Option<&str>, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![[10, 244, 1, last].into()],
        ready,
        serving: ready,
        terminating: false,
        node: None,
        hostname: hostname.map(str::to_owned),
    }
}

/// `web` has a cluster IP, `db` is headless, `ext` and its kin are aliases.
fn view() -> View {
    let mut view = View::default();
    let mut put = |name: &str, service| view.put_service(&ObjectName::new("shop", name), service);
    put(
        "web",
        Service {
            cluster_ips: vec![[10, 96, 0, 7].into()],
            ports: vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
            ..Service::default()
        },
    );
    let headless = Service { headless: true, ..Service::default() };
    put("db", Service { ports: vec![port("sql", Protocol::Tcp, 5432)], ..headless.clone() });
    put("empty", headless.clone());
    put("eager", Service { publish_not_ready: true, ..headless });
    for (name, target) in [
        ("ext", "example.org"),
        ("alias", "web.shop.svc.cluster.local"),
        ("far", "ext.shop.svc.cluster.local."),
        ("loop", "loop.shop.svc.cluster.local"),
        ("void", "gone.shop.svc.cluster.local"),
    ] {
        put(name, Service { external_name: Some(target.to_owned()), ..Service::default() });
    }
    let ports = BTreeMap::from([(("sql".to_owned(), Protocol::Tcp), 5432)]);
    let endpoints =
        vec![endpoint(1, Some("db-0"), true), endpoint(2, None, true), endpoint(3, None, false)];
    let at =
        |name: &str| (ObjectName::new("shop", &format!("{name}-1")), ObjectName::new("shop", name));
    let (slice, db) = at("db");
    view.put_slice(&slice, &db, Slice { ports, endpoints });
    let (slice, eager) = at("eager");
    let endpoints = vec![endpoint(4, None, false)];
    view.put_slice(&slice, &eager, Slice { endpoints, ..Slice::default() });
    view
}

fn ask(name: &str, kind: RecordType) -> String {
    let name = Name::from_ascii(format!("{name}.")).unwrap();
    let line = |record: &Record| format!("{} {}", record.record_type(), record.data);
    let lines = |records: &[Record]| records.iter().map(line).collect::<Vec<_>>().join(", ");
    match answer(&name, kind, &zone(), &view()) {
        Answer::Records { answers, additionals } if additionals.is_empty() => lines(&answers),
        Answer::Records { answers, additionals } => {
            format!("{} + {}", lines(&answers), lines(&additionals))
        }
        Answer::Alias { records, target } => format!("{} -> {target}", lines(&records)),
        Answer::NoData => "nodata".to_owned(),
        Answer::NoName => "nxdomain".to_owned(),
        Answer::Elsewhere => "forward".to_owned(),
    }
}

#[test]
fn questions_and_answers() {
    use RecordType as R;
    let cases = [
        // Services with a cluster IP.
        ("web.shop.svc.cluster.local", R::A, "A 10.96.0.7"),
        ("WEB.Shop.svc.Cluster.Local", R::A, "A 10.96.0.7"),
        ("web.shop.svc.cluster.local", R::AAAA, "nodata"),
        ("nothing.shop.svc.cluster.local", R::A, "nxdomain"),
        ("web.nowhere.svc.cluster.local", R::A, "nxdomain"),
        ("any.web.shop.svc.cluster.local", R::A, "nxdomain"),
        (
            "_http._tcp.web.shop.svc.cluster.local",
            R::SRV,
            "SRV 0 100 80 web.shop.svc.cluster.local. + A 10.96.0.7",
        ),
        ("_http._tcp.web.shop.svc.cluster.local", R::A, "nodata"),
        ("_http._udp.web.shop.svc.cluster.local", R::SRV, "nxdomain"),
        ("_tcp.web.shop.svc.cluster.local", R::SRV, "nodata"),
        ("7.0.96.10.in-addr.arpa", R::PTR, "PTR web.shop.svc.cluster.local."),
        ("7.0.96.10.in-addr.arpa", R::A, "nodata"),
        // Headless services.
        ("db.shop.svc.cluster.local", R::A, "A 10.244.1.1, A 10.244.1.2"),
        ("db-0.db.shop.svc.cluster.local", R::A, "A 10.244.1.1"),
        ("10-244-1-2.db.shop.svc.cluster.local", R::A, "A 10.244.1.2"),
        ("10-244-1-3.db.shop.svc.cluster.local", R::A, "nxdomain"),
        ("db-0.db.shop.svc.cluster.local", R::AAAA, "nodata"),
        (
            "_sql._tcp.db.shop.svc.cluster.local",
            R::SRV,
            "SRV 0 50 5432 db-0.db.shop.svc.cluster.local., \
             SRV 0 50 5432 10-244-1-2.db.shop.svc.cluster.local. + A 10.244.1.1, A 10.244.1.2",
        ),
        ("1.1.244.10.in-addr.arpa", R::PTR, "PTR db-0.db.shop.svc.cluster.local."),
        ("empty.shop.svc.cluster.local", R::A, "nodata"),
        ("eager.shop.svc.cluster.local", R::A, "A 10.244.1.4"),
        // Aliases.
        ("ext.shop.svc.cluster.local", R::A, "CNAME example.org. -> example.org."),
        ("ext.shop.svc.cluster.local", R::CNAME, "CNAME example.org."),
        ("alias.shop.svc.cluster.local", R::A, "CNAME web.shop.svc.cluster.local., A 10.96.0.7"),
        (
            "far.shop.svc.cluster.local",
            R::AAAA,
            "CNAME ext.shop.svc.cluster.local., CNAME example.org. -> example.org.",
        ),
        ("loop.shop.svc.cluster.local", R::A, "nodata"),
        ("void.shop.svc.cluster.local", R::A, "CNAME gone.shop.svc.cluster.local."),
        // Pods.
        ("10-244-1-9.shop.pod.cluster.local", R::A, "A 10.244.1.9"),
        ("10-244-1.shop.pod.cluster.local", R::A, "nxdomain"),
        // The zone itself, and what lies between names.
        ("dns-version.cluster.local", R::TXT, "TXT 1.1.0"),
        ("dns-version.cluster.local", R::A, "nodata"),
        ("cluster.local", R::A, "nodata"),
        ("cluster.local", R::NS, "NS ns.dns.cluster.local."),
        ("ns.dns.cluster.local", R::A, "A 10.96.0.10"),
        ("svc.cluster.local", R::A, "nodata"),
        ("shop.svc.cluster.local", R::A, "nodata"),
        ("nowhere.svc.cluster.local", R::A, "nxdomain"),
        ("example.org.cluster.local", R::A, "nxdomain"),
        // Everybody else's.
        ("example.org", R::A, "forward"),
        ("mycluster.local", R::A, "forward"),
        ("9.9.244.10.in-addr.arpa", R::PTR, "nxdomain"),
        ("1.2.0.192.in-addr.arpa", R::PTR, "forward"),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(ask(name, kind), expected, "{name} {kind}");
    }
}

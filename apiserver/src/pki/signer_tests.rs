//! Who gets which certificate, as a table; and what happens when the API fails.

use std::sync::atomic::{AtomicU32, Ordering};

use kube::client::Body;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::*;
use crate::pki::PkiConfig;
use crate::pki::ca::CertificateAuthority;
use tokio::sync::mpsc;

fn wish_of(name: &str, organization: &str, dns_names: &[&str], addresses: &[&str]) -> Wish {
    Wish {
        common_name: name.to_owned(),
        organizations: vec![organization.to_owned()],
        dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        other_names: false,
    }
}

fn request(
    signer: &str,
    user: &str,
    group: &str,
    usage: &str,
    conditions: &[&str],
) -> CertificateSigningRequest {
    let mut request = CertificateSigningRequest::default();
    request.spec.signer_name = signer.to_owned();
    request.spec.username = Some(user.to_owned());
    request.spec.groups = Some(vec![group.to_owned()]);
    request.spec.usages = Some(vec!["digital signature".to_owned(), usage.to_owned()]);
    request.status.get_or_insert_default().conditions =
        Some(conditions.iter().map(|kind| condition(kind, "", "")).collect());
    request
}

#[test]
fn each_signer_has_its_rules() {
    let own = NodeNames {
        dns_names: ["n1".to_owned()].into(),
        addresses: ["192.0.2.1".parse().unwrap()].into(),
    };
    let reserved = NodeNames {
        dns_names: ["kubernetes".to_owned()].into(),
        addresses: ["192.0.2.10".parse().unwrap()].into(),
    };
    let node = |name: &str| wish_of(name, NODES, &[], &[]);
    let serving = |dns: &[&str], ips: &[&str]| wish_of("system:node:n1", NODES, dns, ips);
    let boot = ("system:bootstrap:abcdef", BOOTSTRAPPERS);
    let n1 = ("system:node:n1", NODES);
    let jane = ("jane", "dev");
    #[rustfmt::skip]
    let cases = [
        ("a bootstrapper becomes a node", NODE_CLIENT, boot, node("system:node:n9"), "client auth", "approve"),
        ("a node renews", NODE_CLIENT, n1, node("system:node:n1"), "client auth", "approve"),
        ("a node as another", NODE_CLIENT, n1, node("system:node:n2"), "client auth", "wait"),
        ("a user as a node", NODE_CLIENT, jane, node("system:node:n1"), "client auth", "wait"),
        ("a user who calls himself a node", NODE_CLIENT, ("system:node:n1", "dev"), node("system:node:n1"), "client auth", "wait"),
        ("a bootstrapper as master", NODE_CLIENT, boot, wish_of("system:node:n1", MASTERS, &[], &[]), "client auth", "fail"),
        ("a bootstrapper as a user", NODE_CLIENT, boot, node("admin"), "client auth", "fail"),
        ("a client that serves", NODE_CLIENT, boot, node("system:node:n1"), "server auth", "fail"),
        ("a client with names", NODE_CLIENT, boot, serving(&["n1"], &[]), "client auth", "fail"),
        ("own name and address", NODE_SERVING, n1, serving(&["n1"], &["192.0.2.1"]), "server auth", "approve"),
        ("another's name", NODE_SERVING, n1, serving(&["n2"], &[]), "server auth", "wait"),
        ("another's address", NODE_SERVING, n1, serving(&["n1"], &["192.0.2.2"]), "server auth", "wait"),
        ("the API server's name", NODE_SERVING, n1, serving(&["kubernetes"], &[]), "server auth", "fail"),
        ("the API server's address", NODE_SERVING, n1, serving(&["n1"], &["192.0.2.10"]), "server auth", "fail"),
        ("no name", NODE_SERVING, n1, serving(&[], &[]), "server auth", "fail"),
        ("a bootstrapper serves", NODE_SERVING, boot, serving(&["n1"], &[]), "server auth", "wait"),
        ("people decide on users", USER_CLIENT, jane, wish_of("jane", "dev", &[], &[]), "client auth", "wait"),
        ("masters are not made", USER_CLIENT, jane, wish_of("jane", MASTERS, &[], &[]), "client auth", "fail"),
        ("the API server is not made", USER_CLIENT, jane, wish_of(AGENT_CLIENT_USER, "dev", &[], &[]), "client auth", "fail"),
        ("another signer", "example.com/mine", jane, wish_of("jane", "dev", &[], &[]), "client auth", "wait"),
    ];
    for (name, signer, (user, group), wish, usage, expected) in cases {
        let request = request(signer, user, group, usage, &[]);
        let step = match plan_request(&request, Ok(wish), &own, &reserved) {
            Step::Wait => "wait",
            Step::Approve(_) => "approve",
            Step::Sign(_) => "sign",
            Step::Fail(_) => "fail",
        };
        assert_eq!(step, expected, "{name}");
    }
}

#[test]
fn only_what_is_approved_and_nothing_else_is_signed() {
    let none = NodeNames::default();
    let wish = wish_of("jane", "dev", &["ignored.example"], &[]);
    let plan = |conditions: &[&str]| {
        let request = request(USER_CLIENT, "jane", "dev", "client auth", conditions);
        plan_request(&request, Ok(wish.clone()), &none, &none)
    };
    let Step::Sign(leaf) = plan(&["Approved"]) else { panic!("not signed") };
    assert_eq!(leaf, Leaf::client("jane", &["dev"]), "names of the request are dropped");
    for conditions in [&["Denied"][..], &["Approved", "Denied"], &["Approved", "Failed"], &[]] {
        assert_eq!(plan(conditions), Step::Wait, "{conditions:?}");
    }
}

#[test]
fn validity_is_bounded() {
    let none = NodeNames::default();
    for (asked, given) in [
        (None, LEAF_VALIDITY),
        (Some(60), MIN_VALIDITY),
        (Some(7200), Duration::from_secs(7200)),
        (Some(i32::MAX), LEAF_VALIDITY),
    ] {
        let mut request = request(USER_CLIENT, "jane", "dev", "client auth", &["Approved"]);
        request.spec.expiration_seconds = asked;
        let wish = wish_of("jane", "dev", &[], &[]);
        let Step::Sign(leaf) = plan_request(&request, Ok(wish), &none, &none) else { panic!() };
        assert_eq!(leaf.validity, given);
    }
}

#[test]
fn a_request_is_read_and_signed() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, NODES);
    params.distinguished_name.push(DnType::CommonName, "system:node:n1");
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let parsed = parse(pem.as_bytes()).unwrap();
    assert_eq!(wish(&parsed), wish_of("system:node:n1", NODES, &["n1"], &[]));

    let made = CertificateAuthority::generate(Timestamp::now()).unwrap();
    let ca = CertificateAuthority::from_pem(&made.certificate_pem, &made.key_pem).unwrap();
    let leaf = Leaf::client("system:node:n1", &[NODES]);
    let signed = ca.sign(parsed, &leaf, Timestamp::now()).unwrap();
    assert_eq!(ca.misfit(&signed, &leaf, Timestamp::now()), None);
    assert!(parse(b"no request").is_err());
}

fn pki_in(dir: &tempfile::TempDir) -> Arc<Pki> {
    let pki = Pki::open(PkiConfig {
        data_dir: dir.path().to_owned(),
        advertise: [127, 0, 0, 1].into(),
        service_ip: [10, 96, 0, 1].into(),
        cluster_domain: "cluster.local".to_owned(),
        names: Vec::new(),
    });
    Arc::new(pki.unwrap())
}

#[test]
fn pauses_grow_up_to_a_minute() {
    let pauses = [0, 1, 2, 6, 7, 40].map(|failures| pause_after(failures).as_millis());
    assert_eq!(pauses, [500, 1000, 2000, 32_000, 60_000, 60_000]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_is_tried_again() {
    let mut wanted = request(USER_CLIENT, "jane", "dev", "client auth", &["Approved"]);
    wanted.metadata.name = Some("janes".to_owned());
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "jane");
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    wanted.spec.request = ByteString(pem.into_bytes());

    // An API server with one request, whose disk takes the third write.
    let (wrote_tx, mut wrote_rx) = mpsc::unbounded_channel();
    let writes = Arc::new(AtomicU32::new(0));
    let service = tower::service_fn(move |asked: http::Request<Body>| {
        let (wanted, wrote_tx, writes) = (wanted.clone(), wrote_tx.clone(), Arc::clone(&writes));
        async move {
            let path = asked.uri().path().to_owned();
            let watches = asked.uri().query().is_some_and(|query| query.contains("watch"));
            let (code, body) = match (asked.method().as_str(), path.rsplit('/').next()) {
                ("GET", Some("certificatesigningrequests")) if watches => {
                    std::future::pending().await
                }
                ("GET", Some("certificatesigningrequests")) => {
                    let list = serde_json::json!({
                        "metadata": { "resourceVersion": "1" }, "items": [wanted],
                    });
                    (200, list.to_string())
                }
                ("GET", Some("janes")) => (200, serde_json::to_string(&wanted).unwrap()),
                ("PUT", Some("status")) if writes.fetch_add(1, Ordering::Relaxed) < 2 => {
                    (500, "no space left".to_owned())
                }
                ("PUT", Some("status")) => {
                    let body = asked.into_body().collect_bytes().await.unwrap();
                    let _ = wrote_tx.send(body.clone());
                    (200, String::from_utf8(body.to_vec()).unwrap())
                }
                _ => panic!("{} {path}", asked.method()),
            };
            let answer = http::Response::builder().status(code).body(Body::from(body.into_bytes()));
            Ok::<_, std::io::Error>(answer.unwrap())
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let signing = tokio::spawn(sign(pki_in(&dir), Client::new(service, "default")));
    let wrote = wrote_rx.recv().await.unwrap();
    let wrote: CertificateSigningRequest = serde_json::from_slice(&wrote).unwrap();
    assert!(wrote.status.unwrap().certificate.is_some());
    signing.abort();
}

//! The store on etcd: what happens when etcd, or another master, goes away.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::EtcdServer;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use skiff_store::{
    Compare, Draft, Entry, EtcdConfig, EtcdTls, Key, KeyRange, Revision, Store, StoreError, Txn,
    Write,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(30);

fn put(name: &str, text: &str) -> Txn {
    sealed(name, text, false)
}

fn sealed(name: &str, text: &str, sealed: bool) -> Txn {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Txn::default().write(Write::Put(Key::from(name), Draft { bytes, revision_at: None, sealed }))
}

fn entries(store: &Store) -> Vec<Arc<Entry>> {
    store.snapshot().range(&KeyRange::all()).cloned().collect()
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("in time")
}

async fn leads(store: &Store) {
    in_time(store.leadership().wait_for(|leadership| leadership.is_leader)).await.unwrap();
}

/// A way to an address that can be cut.
struct Cable {
    listener: Arc<TcpListener>,
    to: String,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Cable {
    async fn to(to: &str) -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let mut cable = Self { listener, to: to.to_owned(), task: None };
        cable.mend();
        cable
    }

    fn endpoint(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    fn mend(&mut self) {
        let (listener, to) = (self.listener.clone(), self.to.clone());
        self.task = Some(tokio::spawn(async move {
            let mut streams = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(&to).await.unwrap();
                streams
                    .spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
            }
        }));
    }

    async fn cut(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }
}

#[tokio::test]
async fn an_etcd_that_is_killed_and_comes_back_is_followed_without_a_gap() {
    if !common::etcd_is_there() {
        return;
    }
    let mut etcd = EtcdServer::start();
    let config = EtcdConfig { request_timeout: Duration::from_secs(3), ..etcd.config() };
    let store = Store::etcd(config).await.unwrap();
    leads(&store).await;
    let before = store.revision();
    let mut watch = store.watch(KeyRange::prefix("k/"), before).unwrap();
    store.commit(put("k/1", "before")).await.unwrap();

    etcd.kill();
    let error = store.commit(put("k/2", "meanwhile")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)) && error.is_retryable(), "{error}");
    assert!(matches!(store.snapshot_latest().await, Err(StoreError::Unavailable(_))));
    assert!(store.snapshot().get("k/1").is_some(), "what is known may be read");
    in_time(store.leadership().wait_for(|leadership| leadership.leader.is_none())).await.unwrap();

    etcd.restart();
    leads(&store).await;
    let after = store.commit(put("k/3", "after")).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&after.revision) {
        seen.extend(in_time(watch.next()).await.unwrap().iter().map(|event| event.revision));
    }
    assert_eq!(seen[0], Revision(before.0 + 1));
    assert!(seen.is_sorted() && seen.len() <= 3, "{seen:?}");
    assert_eq!(store.snapshot_latest().await.unwrap().get("k/3").unwrap().value, "after");
    store.close().await.unwrap();
}

#[tokio::test]
async fn of_two_masters_one_leads_and_both_see_everything() {
    if !common::etcd_is_there() {
        return;
    }
    let etcd = EtcdServer::start();
    let (first, second) = (etcd.store().await, Store::etcd(etcd.config()).await.unwrap());
    let term = first.leadership().borrow().term;
    let settled = |leadership: &skiff_store::Leadership| leadership.leader.is_some();
    in_time(second.leadership().wait_for(settled)).await.unwrap();
    assert!(!second.leadership().borrow().is_leader);

    first.commit(put("a", "first")).await.unwrap();
    assert_eq!(second.snapshot_latest().await.unwrap().get("a").unwrap().value, "first");
    second.commit(put("b", "second")).await.unwrap();
    first.snapshot_latest().await.unwrap();
    assert_eq!(entries(&first), entries(&second));

    let as_leader = |name: &str| put(name, "led").when(Compare::Term(term));
    first.commit(as_leader("c")).await.unwrap();
    first.close().await.unwrap();
    leads(&second).await;
    assert!(second.leadership().borrow().term > term);
    let error = second.commit(as_leader("d")).await.unwrap_err();
    assert!(matches!(error, StoreError::Deposed { term: over } if over == term), "{error}");
    second.close().await.unwrap();
}

#[tokio::test]
async fn a_mirror_that_fell_behind_a_compaction_loads_anew_and_says_so() {
    if !common::etcd_is_there() {
        return;
    }
    let etcd = EtcdServer::start();
    let window = Duration::from_millis(50);
    let compacting = EtcdConfig { history_window: window, ..etcd.config() };
    let leader = Store::etcd(compacting).await.unwrap();
    leads(&leader).await;
    let mut cable = Cable::to(&etcd.endpoint).await;
    let config = EtcdConfig { endpoints: vec![cable.endpoint()], ..etcd.config() };
    let store = Store::etcd(config).await.unwrap();
    store.commit(put("a", "old")).await.unwrap();
    let mut watch = store.watch(KeyRange::all(), store.revision()).unwrap();

    cable.cut().await;
    leader.commit(put("gone", "soon")).await.unwrap();
    for n in 0..20 {
        tokio::time::sleep(window / 5).await;
        leader.commit(put("a", &n.to_string())).await.unwrap();
    }
    leader.commit(Txn::default().write(Write::Delete(Key::from("gone")))).await.unwrap();
    cable.mend();

    let error = in_time(async {
        loop {
            match watch.next().await {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    store.snapshot_latest().await.unwrap();
    assert_eq!(entries(&store), entries(&leader));
    let mut watch = store.watch(KeyRange::all(), store.revision()).unwrap();
    let committed = store.commit(put("b", "new")).await.unwrap();
    assert_eq!(in_time(watch.next()).await.unwrap()[0].revision, committed.revision);
}

#[tokio::test]
async fn secrets_are_sealed_and_another_key_is_refused() {
    if !common::etcd_is_there() {
        return;
    }
    let etcd = EtcdServer::start();
    let store = etcd.store().await;
    for n in 0..700 {
        store.commit(sealed(&format!("s/{n}"), "TOP-SECRET", true)).await.unwrap();
    }
    store.commit(put("p", "in the clear")).await.unwrap();
    store.close().await.unwrap();
    assert!(etcd.holds(b"in the clear") && !etcd.holds(b"TOP-SECRET"));

    let other = EtcdConfig { sealing_key: [2; 32], ..etcd.config() };
    let error = Store::etcd(other).await.unwrap_err();
    assert!(error.to_string().contains("another sealing key"), "{error}");
    // More than one page of keys.
    let store = etcd.store().await;
    assert_eq!(entries(&store).len(), 701);
    assert_eq!(store.snapshot().get("s/77").unwrap().value, "TOP-SECRET");
    // Others' keys do not concern us.
    let other = EtcdConfig { prefix: "/other".into(), ..etcd.config() };
    let other = Store::etcd(other).await.unwrap();
    assert!(entries(&other).is_empty());
    let committed = other.commit(put("a", "1")).await.unwrap();
    store.snapshot_latest().await.unwrap();
    assert!(store.revision() >= committed.revision);
    assert!(store.snapshot().get("a").is_none());
}

#[tokio::test]
async fn what_etcd_refuses_is_refused() {
    if !common::etcd_is_there() {
        return;
    }
    let etcd = EtcdServer::start();
    let config = EtcdConfig { max_txn_bytes: 4 << 20, ..etcd.config() };
    let store = Store::etcd(config).await.unwrap();
    let error = store.commit(put("a", &"x".repeat(1_800_000))).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    let many = (0..200).fold(Txn::default(), |txn, n| {
        let [write] = put(&format!("k{n}"), "").writes.try_into().unwrap();
        txn.write(write)
    });
    let error = store.commit(many).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    let nobody = EtcdConfig::new(vec!["127.0.0.1:1".into()], [1; 32]);
    let error = Store::etcd(nobody).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable(why) if why.contains("127.0.0.1:1")),
        "{error}"
    );
    // A dead endpoint is passed over.
    let endpoints = vec!["127.0.0.1:1".into(), etcd.endpoint.clone()];
    Store::etcd(EtcdConfig { endpoints, ..etcd.config() }).await.unwrap();
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// A certificate for loopback and its key.
    fn issue(&self) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

#[tokio::test]
async fn tls_checks_both_sides() {
    if !common::etcd_is_there() {
        return;
    }
    let (ours, foreign) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = ours.issue();
    let file = |name: &str, content: Vec<u8>| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, certificate, key) =
        (file("ca", ours.pem()), file("crt", certificate), file("key", key));
    let etcd = EtcdServer::start_tls(&[
        "--client-cert-auth",
        "--trusted-ca-file",
        &ca,
        "--cert-file",
        &certificate,
        "--key-file",
        &key,
    ]);
    let open = async |ca: &Authority, identity: Option<&Authority>| {
        let tls = EtcdTls { ca: ca.pem(), identity: identity.map(Authority::issue) };
        let request_timeout = Duration::from_secs(5);
        Store::etcd(EtcdConfig { tls: Some(tls), request_timeout, ..etcd.config() }).await
    };
    let store = open(&ours, Some(&ours)).await.unwrap();
    store.commit(put("a", "1")).await.unwrap();
    for (name, tried) in [
        ("no certificate", open(&ours, None).await),
        ("a foreign certificate", open(&ours, Some(&foreign)).await),
        ("a foreign server", open(&foreign, Some(&ours)).await),
    ] {
        assert!(matches!(tried, Err(StoreError::Unavailable(_))), "{name}: {tried:?}");
    }
    let nonsense = EtcdTls { ca: b"no PEM".to_vec(), identity: None };
    let error = Store::etcd(EtcdConfig { tls: Some(nonsense), ..etcd.config() }).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
}

//! Members on disks, over TLS on the loopback: they join, survive, move and
//! begin anew.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use skiff_store::{
    Change, Contact, Draft, Key, PeerConfig, Store, StoreConfig, StoreError, Txn, Write,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(20);

/// An authority with one certificate that all members show.
struct Authority {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
        let key = || PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key())
            .unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key())
            .unwrap();
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    async fn open(&self, dir: &Path) -> Member {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.open_with(dir, listener, |_| ()).await
    }

    async fn open_with(
        &self,
        dir: &Path,
        listener: TcpListener,
        adjust: impl FnOnce(&mut StoreConfig),
    ) -> Member {
        let address = listener.local_addr().unwrap();
        let mut config = StoreConfig::new(dir, [5; 32]);
        config.peers = Some(PeerConfig {
            contact: Contact {
                address: address.to_string(),
                name: dir.file_name().unwrap().to_string_lossy().into_owned(),
                promote: false,
            },
            tls: self.client.clone(),
        });
        // Often enough that joining needs snapshots.
        config.snapshot_log_bytes = 16 << 10;
        config.request_timeout = Duration::from_secs(3);
        adjust(&mut config);
        let store = Store::open(config).await.unwrap();
        let acceptor = TlsAcceptor::from(self.server.clone());
        let accepting = tokio::spawn({
            let store = store.clone();
            async move {
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    let (acceptor, store) = (acceptor.clone(), store.clone());
                    tokio::spawn(async move {
                        if let Ok(stream) = acceptor.accept(tcp).await {
                            let _ = store.accept_peer(stream).await;
                        }
                    });
                }
            }
        });
        Member { store, address, accepting }
    }
}

struct Member {
    store: Store,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Member {
    async fn stop(self) {
        self.accepting.abort();
        self.store.close().await.unwrap();
    }

    /// Waits for something about this member's knowledge of the group.
    async fn until(&self, what: &str, holds: impl Fn(&Store) -> bool) {
        let began = Instant::now();
        while !holds(&self.store) {
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", self.store.members());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn put(&self, key: &str, text: &str) -> u64 {
        timeout(PATIENCE, async {
            loop {
                match self.store.commit(put(key, text)).await {
                    Ok(committed) => return committed.revision.0,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
        })
        .await
        .unwrap()
    }

    async fn get(&self, key: &str) -> Option<String> {
        let snapshot = timeout(PATIENCE, async {
            loop {
                match self.store.snapshot_latest().await {
                    Ok(snapshot) => return snapshot,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
        });
        let entry = snapshot.await.unwrap().get(key)?;
        Some(String::from_utf8(entry.value.to_vec()).unwrap())
    }
}

fn put(key: &str, text: &str) -> Txn {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Txn::default()
        .write(Write::Put(Key::from(key), Draft { bytes, revision_at: None, sealed: true }))
}

/// Joins a new member in `dir` as a voter.
async fn join(authority: &Authority, dir: &Path, group: &Member) -> Member {
    // As `skiff server --join` does: the address is known before the id.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let contact = Contact { address, name: String::new(), promote: true };
    let id = group.store.change_members(Change::AddLearner { id: 0, contact }).await.unwrap();
    let member = authority.open_with(dir, listener, |config| config.joined_as = Some(id)).await;
    group
        .until("becomes a voter", |store| {
            store.members().iter().any(|member| member.id == id && member.voter)
        })
        .await;
    member
}

async fn three(authority: &Authority, dir: &Path) -> Vec<Member> {
    let first = authority.open(&dir.join("1")).await;
    for n in 0..200 {
        first.put(&format!("k{n}"), &"x".repeat(300)).await;
    }
    let second = join(authority, &dir.join("2"), &first).await;
    let third = join(authority, &dir.join("3"), &first).await;
    vec![first, second, third]
}

#[tokio::test(flavor = "multi_thread")]
async fn members_join_and_the_loss_of_one_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut members = three(&authority, dir.path()).await;
    assert_eq!(members[2].get("k199").await.unwrap().len(), 300);
    let revision = members[1].put("a", "from the second").await;
    assert_eq!(members[2].get("a").await.as_deref(), Some("from the second"));

    // The first member, which leads, ends.
    let leader = members.remove(0);
    leader.stop().await;
    assert_eq!(members[0].put("a", "without the first").await, revision + 1);
    assert_eq!(members[1].get("a").await.as_deref(), Some("without the first"));

    // It comes back at another address and says so.
    let first = authority.open(&dir.path().join("1")).await;
    assert_eq!(first.get("a").await.as_deref(), Some("without the first"));
    let moved = first.address.to_string();
    members[0].until("the new address", |store| store.members()[0].contact.address == moved).await;
    let digests = |members: &[&Member]| -> Vec<_> {
        members.iter().map(|member| member.store.stats().digest).collect()
    };
    let all = digests(&[&first, &members[0], &members[1]]);
    assert!(all.iter().all(|digest| *digest == all[0]), "{all:?}");
    for member in members.into_iter().chain([first]) {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_removed_while_away_learns_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut members = three(&authority, dir.path()).await;
    members.pop().unwrap().stop().await;
    let removed = members[0].store.change_members(Change::Remove { id: 3 }).await;
    assert_eq!(removed, Ok(3));

    let back = authority.open(&dir.path().join("3")).await;
    let told = timeout(PATIENCE, back.store.failed()).await.expect("it waits for ever");
    assert_eq!(told, StoreError::Removed);
    let read = back.store.snapshot_latest().await;
    assert!(matches!(read, Err(StoreError::Removed)), "{read:?}");
    // The others have not noticed.
    assert_eq!(members[1].get("k7").await.unwrap().len(), 300);
    back.accepting.abort();
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_group_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    for member in three(&authority, dir.path()).await {
        member.stop().await;
    }
    // All addresses are new, and the first two find each other all the same...
    let first = authority.open(&dir.path().join("1")).await;
    let error = timeout(Duration::from_secs(15), first.store.commit(put("a", "1"))).await.unwrap();
    assert!(matches!(error, Err(StoreError::Unavailable(_))), "one of three decides nothing");
    // ...only if somebody knows where: here the old addresses are gone, so the
    // survivor begins a new group.
    first.stop().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forced = authority
        .open_with(&dir.path().join("1"), listener, |config| config.force_new_group = true)
        .await;
    assert_eq!(forced.store.members().len(), 1);
    assert_eq!(forced.get("k7").await.unwrap().len(), 300);
    forced.put("a", "2").await;
    let group = forced.store.group();
    assert_ne!(group, 0);
    forced.stop().await;

    let again = authority.open(&dir.path().join("1")).await;
    assert_eq!((again.store.group(), again.store.members().len()), (group, 1));
    assert_eq!(again.get("a").await.as_deref(), Some("2"));
    // New members take the place of the lost ones, under new ids.
    let fourth = join(&authority, &dir.path().join("4"), &again).await;
    let ids: Vec<_> = fourth.store.members().iter().map(|member| member.id).collect();
    assert_eq!(ids, [1, 4]);
    again.stop().await;
    fourth.stop().await;
}

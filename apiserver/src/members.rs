//! `/skiff/v1/members` and `/skiff/v1/join`: the masters of the cluster.
//!
//! Paths of ours beside Kubernetes' own, allowed by RBAC as non-resource URLs:
//! of the roles every cluster starts with, `cluster-admin` may everything here,
//! and `skiff:join-master` may join. Whoever joins gets the cluster's keys and
//! so becomes a master as good as any other; therefore its token says so (see
//! [`crate::join::Purpose`]), and one for nodes is not enough.
//!
//! | request | does |
//! |---|---|
//! | `GET members` | who belongs to the group, who leads, how far they are |
//! | `DELETE members/ID` | removes a member for good |
//! | `POST members/ID/promote` | gives a learner a vote |
//! | `POST join` | adds the caller, which becomes a voter when it has caught up |

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use skiff_store::{Change, Contact, MemberStatus, Store, StoreError};

use crate::config::Config;
use crate::pki::{self, files};
use crate::registry;
use crate::status::ApiError;

/// Who the masters are.
pub const MEMBERS_PATH: &str = "/skiff/v1/members";
/// Where a new one asks to join.
pub const JOIN_PATH: &str = "/skiff/v1/join";

/// Longest body.
const LIMIT: usize = 16 << 10;

/// How often a change is tried that the group is busy for, and how long is
/// waited in between: a leader hands over, another change comes to its end.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// The group as one of its members knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Who says so.
    pub member: u64,
    /// The Raft term.
    pub term: u64,
    /// The newest applied log entry.
    pub applied_index: u64,
    /// The newest revision.
    pub revision: u64,
    /// Bytes of log, and of state on disk.
    pub log_bytes: u64,
    /// See above.
    pub state_bytes: u64,
    /// Durable writes, and the average time of one in microseconds.
    pub syncs: u64,
    /// See above.
    pub sync_micros: u64,
    /// Everybody, by id.
    pub members: Vec<Member>,
}

/// One master.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its id, never used again.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `HOST:PORT` of its API server, which its peers use too.
    pub address: String,
    /// Whether it has a vote.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// The newest log entry it is known to hold; the leader alone knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched_index: Option<u64>,
    /// Whether it was heard of lately; the leader alone knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
}

/// What a new master says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Its name.
    pub name: String,
    /// `HOST:PORT` at which its API server will be found.
    pub address: String,
}

/// What a new master gets: its id, the cluster's keys and settings.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinAnswer {
    /// Its id in the group.
    pub id: u64,
    /// Files of the key store, by name.
    pub keys: Vec<(String, String)>,
    /// Addresses of pods.
    pub cluster_cidr: ipnet::IpNet,
    /// Addresses of services.
    pub service_cidr: ipnet::IpNet,
}

/// The files that all masters share.
const SHARED_KEYS: [&str; 4] = ["ca.crt", "ca.key", "sa.key", "sealing.key"];

/// Answers a request on one of the paths; `None` for any other path.
pub(crate) async fn answer(
    method: &Method,
    path: &str,
    body: Body,
    store: &Store,
    config: &Config,
) -> Option<Result<Response<Body>, ApiError>> {
    let rest = match path.strip_prefix(MEMBERS_PATH) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ if path == JOIN_PATH && *method == Method::POST => {
            return Some(join(body, store, config).await);
        }
        _ => return None,
    };
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    let id = |text: &str| {
        text.parse::<u64>().map_err(|_| ApiError::bad_request("a member's id is a number"))
    };
    let change = match (method, &parts[..]) {
        (&Method::GET, []) => return Some(json(&group(store))),
        (&Method::DELETE, [member]) => id(member).map(|id| Change::Remove { id }),
        (&Method::POST, [member, "promote"]) => {
            id(member).map(|id| Change::Promote { id, replaces: None })
        }
        _ => return Some(Err(ApiError::method_not_allowed())),
    };
    let changed = async { Ok(changed(store, change?).await?) };
    Some(changed.await.and_then(|_| json(&group(store))))
}

/// Changes the group, as soon as it is not busy.
async fn changed(store: &Store, change: Change) -> Result<u64, StoreError> {
    let mut tries = 0;
    loop {
        match store.change_members(change.clone()).await {
            Err(StoreError::MembershipBusy(_)) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

fn group(store: &Store) -> Group {
    let stats = store.stats();
    Group {
        member: stats.member,
        term: stats.term,
        applied_index: stats.applied_index,
        revision: stats.revision.0,
        log_bytes: stats.log_bytes,
        state_bytes: stats.state_bytes,
        syncs: stats.syncs,
        sync_micros: (stats.sync_time.as_micros() / u128::from(stats.syncs.max(1))) as u64,
        members: store.members().into_iter().map(Member::from).collect(),
    }
}

impl From<MemberStatus> for Member {
    fn from(status: MemberStatus) -> Self {
        Self {
            id: status.id,
            name: status.contact.name,
            address: status.contact.address,
            voter: status.voter,
            leader: status.leader,
            matched_index: status.matched_index,
            active: status.active,
        }
    }
}

async fn join(body: Body, store: &Store, config: &Config) -> Result<Response<Body>, ApiError> {
    let request: JoinRequest = serde_json::from_slice(&read(body).await?)
        .map_err(|error| ApiError::bad_request(format!("not a request to join: {error}")))?;
    if request.address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(ApiError::bad_request("the address of a master is HOST:PORT"));
    }
    let keys = shared_keys(&config.data_dir)?;
    let contact = Contact { address: request.address, name: request.name, promote: true };
    let id = changed(store, Change::AddLearner { id: 0, contact }).await?;
    let (cluster_cidr, service_cidr) = (config.cluster_cidr, config.service_cidr);
    json(&JoinAnswer { id, keys, cluster_cidr, service_cidr })
}

fn shared_keys(data_dir: &Path) -> Result<Vec<(String, String)>, ApiError> {
    let dir = pki::dir(data_dir);
    let read = |name: &str| match files::read(&dir.join(name)) {
        Ok(Some(text)) => Ok((name.to_owned(), text)),
        Ok(None) => Err(ApiError::internal(format!("this master has no {name}"))),
        Err(error) => Err(ApiError::internal(error.to_string())),
    };
    SHARED_KEYS.into_iter().map(read).collect()
}

/// Writes what a new master got into its key store.
pub fn save_keys(data_dir: &Path, keys: &[(String, String)]) -> Result<(), pki::PkiError> {
    let dir = pki::dir(data_dir);
    files::ensure_dir(&dir)?;
    // The certificate last: without it the authority would be made anew.
    let (certificates, secrets): (Vec<_>, Vec<_>) =
        keys.iter().partition(|(name, _)| name.ends_with(".crt"));
    for (name, text) in secrets.into_iter().chain(certificates) {
        if !SHARED_KEYS.contains(&name.as_str()) {
            continue;
        }
        let public = name.ends_with(".crt");
        let access = if public { files::Access::Public } else { files::Access::Private };
        files::write(&dir.join(name), text.as_bytes(), access)?;
    }
    Ok(())
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(_) => Err(ApiError::bad_request("the request body could not be read")),
    }
}

fn json(value: &impl Serialize) -> Result<Response<Body>, ApiError> {
    let text = serde_json::to_vec(value).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(registry::json_response(StatusCode::OK, Body::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(store: &Store, config: &Config, method: Method, path: &str, body: &str) -> u16 {
        match answer(&method, path, Body::from(body.to_owned()), store, config).await {
            None => 0,
            Some(Ok(response)) => response.status().as_u16(),
            Some(Err(error)) => error.into_response().status().as_u16(),
        }
    }

    #[tokio::test]
    async fn members_are_listed_joined_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path(), ([127, 0, 0, 1], 0).into(), [127, 0, 0, 1].into());
        let store = Store::memory().await.unwrap();
        let join = r#"{"name":"two","address":"10.0.0.2:6443"}"#;
        let cases = [
            (Method::GET, MEMBERS_PATH, "", 200),
            (Method::GET, "/skiff/v1/membersonly", "", 0),
            (Method::PUT, MEMBERS_PATH, "", 405),
            (Method::DELETE, "/skiff/v1/members/x", "", 400),
            (Method::DELETE, "/skiff/v1/members/1", "", 400),
            // Without keys nobody is let in.
            (Method::POST, JOIN_PATH, join, 500),
            (Method::POST, JOIN_PATH, r#"{"name":"two","address":"nowhere"}"#, 400),
        ];
        for (method, path, body, expected) in cases {
            let name = format!("{method} {path} {body}");
            assert_eq!(ask(&store, &config, method, path, body).await, expected, "{name}");
        }
        assert_eq!(group(&store).members.len(), 1);
        drop(crate::open_pki(&config).unwrap());
        pki::sealing_key(dir.path()).unwrap();
        assert_eq!(ask(&store, &config, Method::POST, JOIN_PATH, join).await, 200);
        let joined = group(&store).members;
        assert_eq!((joined[1].id, joined[1].voter, &*joined[1].name), (2, false, "two"));
        assert_eq!(ask(&store, &config, Method::POST, JOIN_PATH, join).await, 400, "twice");
        assert_eq!(ask(&store, &config, Method::DELETE, "/skiff/v1/members/2", "").await, 200);
        assert_eq!(group(&store).members.len(), 1);
    }

    #[test]
    fn a_new_master_takes_shared_keys_only() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config::new(from.path(), ([127, 0, 0, 1], 0).into(), [127, 0, 0, 1].into());
        drop(crate::open_pki(&config).unwrap());
        let sealing = pki::sealing_key(from.path()).unwrap();
        let mut keys = shared_keys(from.path()).unwrap();
        keys.push(("../elsewhere".into(), "no".into()));
        save_keys(to.path(), &keys).unwrap();
        assert_eq!(pki::sealing_key(to.path()).unwrap(), sealing);
        assert!(!to.path().join("elsewhere").exists());
        let joined = Config { data_dir: to.path().to_owned(), ..config.clone() };
        let (ours, theirs) = (crate::open_pki(&config).unwrap(), crate::open_pki(&joined).unwrap());
        assert_eq!(ours.ca_pem(), theirs.ca_pem());
    }
}

//! Signs CertificateSigningRequests.
//!
//! `plan_request` decides, `sign` watches and writes. Three signers are
//! served:
//!
//! | signer | approved by | gets |
//! |---|---|---|
//! | `kubernetes.io/kube-apiserver-client-kubelet` | us, for bootstrappers and for the node itself | a node's client certificate |
//! | `kubernetes.io/kubelet-serving` | us, for the node itself | a certificate for the node's name and addresses |
//! | `kubernetes.io/kube-apiserver-client` | people | a user's client certificate |
//!
//! Of a request only the key is signed; subject and usages are rebuilt from
//! what was checked. Requests to other signers are left to others.
//!
//! Only the leading master signs, as with controllers: two that answer the same
//! request would give out two certificates, of which the object keeps one. What
//! cannot be read or written is tried again, less and less often.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{
            CertificateSigningRequest, CertificateSigningRequestCondition as Condition,
        },
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Client, api::PostParams, runtime::watcher};
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};
use skiff_client::Api;

use super::{AGENT_CLIENT_USER, Leaf, Pki, ca::LEAF_VALIDITY};
use crate::{
    authn::bootstrap_token::GROUP as BOOTSTRAPPERS,
    authz::{MASTERS, node::GROUP as NODES},
};

const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const USER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// How long is waited before a failed step is tried again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

const MIN_VALIDITY: Duration = Duration::from_secs(600);
const NODE_PREFIX: &str = "system:node:";

/// What to do about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Nothing: it is done, it waits for people, or it is not ours.
    Wait,
    /// Approve it, with a message that says why.
    Approve(&'static str),
    /// It is approved: sign it as this.
    Sign(Leaf),
    /// It can never be signed; say why.
    Fail(String),
}

/// What a request asks for, read from its PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Wish {
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
    /// It carries names of kinds that no signer of ours gives out.
    other_names: bool,
}

/// What a node is known by, for its serving certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct NodeNames {
    dns_names: HashSet<String>,
    addresses: HashSet<IpAddr>,
}

/// Watches and signs for ever.
pub(crate) async fn sign(pki: Arc<Pki>, client: Client) {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client);
    let mut events = skiff_client::watch(api.clone(), watcher::Config::default());
    let mut retries: FuturesUnordered<BoxFuture<'static, String>> = FuturesUnordered::new();
    // How often in a row a request could not be served. One retry is on its way
    // for each that is in here.
    let mut failures: HashMap<String, u32> = HashMap::new();
    loop {
        let (name, again, served) = tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(request) | watcher::Event::InitApply(request))) => {
                    let name = request.metadata.name.clone().unwrap_or_default();
                    (name, false, apply_request(&pki, &api, &nodes, &request).await)
                }
                Some(Ok(_)) => continue,
                // The watch waits and lists again by itself.
                Some(Err(error)) => {
                    tracing::warn!(%error, "watching certificate signing requests");
                    continue;
                }
                None => return,
            },
            Some(name) = retries.next() => {
                let served = look_again(&pki, &api, &nodes, &name).await;
                (name, true, served)
            }
        };
        let Err(error) = served else {
            failures.remove(&name);
            continue;
        };
        tracing::warn!(name, %error, "cannot serve a certificate signing request, will try again");
        let tries = failures.entry(name.clone()).or_default();
        if again || *tries == 0 {
            let pause = pause_after(*tries);
            *tries += 1;
            retries.push(Box::pin(async move {
                tokio::time::sleep(pause).await;
                name
            }));
        }
    }
}

/// How long is waited after so many failures in a row before this one.
fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}

/// Serves a request as it is now, if it is still there.
async fn look_again(
    pki: &Pki,
    api: &Api<CertificateSigningRequest>,
    nodes: &Api<Node>,
    name: &str,
) -> Result<(), kube::Error> {
    match api.get_opt(name).await? {
        Some(request) => apply_request(pki, api, nodes, &request).await,
        None => Ok(()),
    }
}

/// Does the next step for one request. A lost race is no error: the other
/// write wakes us again.
async fn apply_request(
    pki: &Pki,
    api: &Api<CertificateSigningRequest>,
    nodes: &Api<Node>,
    request: &CertificateSigningRequest,
) -> Result<(), kube::Error> {
    let own = match node_of(&request.spec.username.clone().unwrap_or_default()) {
        Some(name) if request.spec.signer_name == NODE_SERVING => {
            node_names(name, nodes.get_opt(name).await?.as_ref())
        }
        _ => NodeNames::default(),
    };
    let parsed = parse(&request.spec.request.0);
    let wish = parsed.as_ref().map(wish).map_err(Clone::clone);
    let name = request.metadata.name.clone().unwrap_or_default();
    let mut updated = request.clone();
    let status = updated.status.get_or_insert_default();
    let subresource = match plan_request(request, wish, &own, &reserved(pki)) {
        Step::Wait => return Ok(()),
        Step::Approve(message) => {
            tracing::info!(name, message, "approving certificate signing request");
            let conditions = status.conditions.get_or_insert_default();
            conditions.push(condition("Approved", "AutoApproved", message));
            "approval"
        }
        Step::Sign(leaf) => {
            let Ok(parsed) = parsed else { return Ok(()) };
            match pki.ca().sign(parsed, &leaf, Timestamp::now()) {
                Ok(pem) => {
                    tracing::info!(name, subject = leaf.common_name, "signed a certificate");
                    status.certificate = Some(ByteString(pem.into_bytes()));
                }
                Err(error) => {
                    let conditions = status.conditions.get_or_insert_default();
                    conditions.push(condition("Failed", "SigningError", &error.to_string()));
                }
            }
            "status"
        }
        Step::Fail(why) => {
            tracing::info!(name, why, "refusing certificate signing request");
            let conditions = status.conditions.get_or_insert_default();
            conditions.push(condition("Failed", "SignerValidationFailure", &why));
            "status"
        }
    };
    let written =
        api.replace_subresource(subresource, &name, &PostParams::default(), &updated).await;
    match written {
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(()),
        written => written.map(drop),
    }
}

/// The next step for a request. `own` is what its node is known by; `reserved`
/// are the names of the API server, which no node may take.
fn plan_request(
    request: &CertificateSigningRequest,
    wish: Result<Wish, String>,
    own: &NodeNames,
    reserved: &NodeNames,
) -> Step {
    let spec = &request.spec;
    let signer = spec.signer_name.as_str();
    if !matches!(signer, NODE_CLIENT | NODE_SERVING | USER_CLIENT) {
        return Step::Wait;
    }
    let conditions =
        request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let has = |kind: &str| conditions.iter().any(|condition| condition.type_ == kind);
    let signed = request.status.as_ref().is_some_and(|status| status.certificate.is_some());
    if signed || has("Denied") || has("Failed") {
        return Step::Wait;
    }
    let approved = has("Approved");
    let usages: BTreeSet<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    let checked = wish.and_then(|wish| {
        let leaf = match signer {
            NODE_CLIENT => node_client(&wish, &usages),
            NODE_SERVING => node_serving(&wish, &usages, reserved),
            _ => user_client(&wish, &usages),
        };
        leaf.map(|leaf| (wish, leaf))
    });
    let (wish, leaf) = match checked {
        Ok(checked) => checked,
        Err(why) => return Step::Fail(why),
    };
    if approved {
        let asked = spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let validity =
            asked.map_or(LEAF_VALIDITY, Duration::from_secs).clamp(MIN_VALIDITY, LEAF_VALIDITY);
        return Step::Sign(Leaf { validity, ..leaf });
    }
    let user = spec.username.as_deref().unwrap_or_default();
    let in_group = |group: &str| spec.groups.iter().flatten().any(|one| one == group);
    let is_node = in_group(NODES) && user == wish.common_name;
    match signer {
        NODE_CLIENT if in_group(BOOTSTRAPPERS) => {
            Step::Approve("a bootstrap token asks for a node's client certificate")
        }
        NODE_CLIENT if is_node => Step::Approve("a node renews its client certificate"),
        NODE_SERVING if is_node => {
            let foreign = wish.dns_names.iter().any(|name| !own.dns_names.contains(name))
                || wish.addresses.iter().any(|address| !own.addresses.contains(address));
            // The node may not have reported its addresses yet; somebody else's
            // name never becomes its own, but waiting is all it costs.
            if foreign { Step::Wait } else { Step::Approve("a node asks for its own names") }
        }
        _ => Step::Wait,
    }
}

fn node_client(wish: &Wish, usages: &BTreeSet<&str>) -> Result<Leaf, String> {
    let name = check_node_subject(wish)?;
    if !wish.dns_names.is_empty() || !wish.addresses.is_empty() || wish.other_names {
        return Err("a node's client certificate has no alternative names".to_owned());
    }
    check_usages(usages, "client auth")?;
    Ok(Leaf::client(&format!("{NODE_PREFIX}{name}"), &[NODES]))
}

fn node_serving(
    wish: &Wish,
    usages: &BTreeSet<&str>,
    reserved: &NodeNames,
) -> Result<Leaf, String> {
    check_node_subject(wish)?;
    if wish.dns_names.is_empty() && wish.addresses.is_empty() {
        return Err("a serving certificate needs a DNS name or an address".to_owned());
    }
    if wish.other_names {
        return Err("only DNS names and addresses are allowed".to_owned());
    }
    // With such a certificate a node could pose as the API server.
    if let Some(name) = wish.dns_names.iter().find(|name| reserved.dns_names.contains(*name)) {
        return Err(format!("{name} is a name of the API server"));
    }
    if let Some(address) =
        wish.addresses.iter().find(|address| reserved.addresses.contains(address))
    {
        return Err(format!("{address} is an address of the API server"));
    }
    check_usages(usages, "server auth")?;
    let leaf = Leaf::server(&wish.common_name, wish.dns_names.clone(), wish.addresses.clone());
    Ok(Leaf { organizations: vec![NODES.to_owned()], ..leaf })
}

fn user_client(wish: &Wish, usages: &BTreeSet<&str>) -> Result<Leaf, String> {
    if wish.common_name.is_empty() {
        return Err("the subject has no common name".to_owned());
    }
    if wish.organizations.iter().any(|group| group == MASTERS) {
        return Err(format!("the group {MASTERS} is not given out"));
    }
    if wish.common_name == AGENT_CLIENT_USER {
        return Err(format!("the name {AGENT_CLIENT_USER} is the API server's"));
    }
    if wish.organizations.len() > 1 {
        return Err("more than one organization is not supported".to_owned());
    }
    check_usages(usages, "client auth")?;
    let groups: Vec<&str> = wish.organizations.iter().map(String::as_str).collect();
    Ok(Leaf::client(&wish.common_name, &groups))
}

/// The node's name, if the subject is a node's.
fn check_node_subject(wish: &Wish) -> Result<&str, String> {
    if wish.organizations != [NODES] {
        return Err(format!("the subject's organization must be {NODES}"));
    }
    match node_of(&wish.common_name) {
        Some(name) => Ok(name),
        None => Err(format!("the subject's common name must start with {NODE_PREFIX}")),
    }
}

fn check_usages(usages: &BTreeSet<&str>, required: &str) -> Result<(), String> {
    let allowed = |usage: &&str| {
        *usage == required || matches!(*usage, "digital signature" | "key encipherment")
    };
    if !usages.contains(required) || !usages.iter().all(allowed) {
        return Err(format!(
            "usages must be digital signature and {required}, and may be key encipherment"
        ));
    }
    Ok(())
}

fn node_of(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty())
}

/// A node's own name, and the addresses it has reported.
fn node_names(name: &str, node: Option<&Node>) -> NodeNames {
    let mut names = NodeNames::default();
    names.dns_names.insert(name.to_owned());
    let reported =
        node.and_then(|node| node.status.as_ref()).and_then(|status| status.addresses.as_deref());
    for address in reported.unwrap_or_default() {
        if address.type_.ends_with("IP")
            && let Ok(address) = address.address.parse()
        {
            names.addresses.insert(address);
        }
    }
    names
}

/// The names of the API server. The machine's own name is not among them: on
/// an all-in-one machine it is the node's as well.
fn reserved(pki: &Pki) -> NodeNames {
    let leaf = super::serving_leaf(&pki.config);
    let host = super::host_name();
    NodeNames {
        dns_names: leaf.dns_names.into_iter().filter(|name| Some(name) != host.as_ref()).collect(),
        addresses: leaf.addresses.into_iter().collect(),
    }
}

fn parse(pem: &[u8]) -> Result<CertificateSigningRequestParams, String> {
    let text = std::str::from_utf8(pem).map_err(|error| error.to_string())?;
    CertificateSigningRequestParams::from_pem(text).map_err(|error| error.to_string())
}

fn wish(request: &CertificateSigningRequestParams) -> Wish {
    let mut wish = Wish::default();
    for (kind, value) in request.params.distinguished_name.iter() {
        let text = match value {
            DnValue::Utf8String(text) => text.clone(),
            DnValue::PrintableString(text) => text.as_str().to_owned(),
            DnValue::Ia5String(text) => text.as_str().to_owned(),
            _ => continue,
        };
        match kind {
            DnType::CommonName => wish.common_name = text,
            DnType::OrganizationName => wish.organizations.push(text),
            _ => {}
        }
    }
    for name in &request.params.subject_alt_names {
        match name {
            SanType::DnsName(name) => wish.dns_names.push(name.as_str().to_owned()),
            SanType::IpAddress(address) => wish.addresses.push(*address),
            _ => wish.other_names = true,
        }
    }
    wish
}

fn condition(kind: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(Timestamp::now())),
        last_transition_time: Some(Time(Timestamp::now())),
    }
}

#[cfg(test)]
#[path = "signer_tests.rs"]
mod tests;

//! What every cluster starts with: namespaces, the API's own Service, the DNS
//! Service, the range of service addresses, the system priority classes, the
//! storage class of local folders, and an APIService for each group version.
//!
//! Goes through the API like everybody else. Each object is compared with what
//! is there and written only where it differs, so a restart writes nothing
//! unless the server's address has changed.

mod api_services;

use std::net::SocketAddr;

use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use skiff_api::volume::{DEFAULT_CLASS, LOCAL_PROVISIONER, WAIT_FOR_CONSUMER};

use crate::config::Config;

/// One object that has to be there.
struct Desired {
    /// Path of its collection.
    collection: &'static str,
    object: Value,
    /// Made once; from then on it is the user's.
    once: bool,
}

impl Desired {
    fn new(collection: &'static str, object: Value) -> Self {
        Self { collection, object, once: false }
    }
}

/// Writes what is missing or differs.
pub(crate) async fn ensure(
    client: &Client,
    config: &Config,
    masters: &[SocketAddr],
) -> Result<(), kube::Error> {
    for desired in plan(config, masters) {
        apply(client, &desired).await?;
    }
    api_services::ensure(client).await
}

/// All objects, in an order in which each finds what it needs.
fn plan(config: &Config, masters: &[SocketAddr]) -> Vec<Desired> {
    let mut plan: Vec<Desired> = ["default", "kube-system", "kube-public", "kube-node-lease"]
        .into_iter()
        .map(|name| Desired::new("/api/v1/namespaces", json!({"metadata": {"name": name}})))
        .collect();
    for (name, value, what) in [
        ("system-cluster-critical", 2_000_000_000, "cluster"),
        ("system-node-critical", 2_000_001_000, "node"),
    ] {
        plan.push(Desired::new(
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            json!({
                "metadata": {"name": name},
                "value": value,
                "description": format!("Used for system critical pods that must run in the cluster, and must not be moved from their {what}."),
            }),
        ));
    }
    plan.extend(kubernetes_service(config, masters));
    plan.push(service_range(config));
    plan.push(dns_service(config));
    plan.push(local_class());
    plan
}

/// Writes what is missing or differs of how pods reach the masters.
pub(crate) async fn ensure_masters(
    client: &Client,
    config: &Config,
    masters: &[SocketAddr],
) -> Result<(), kube::Error> {
    for desired in kubernetes_service(config, masters) {
        apply(client, &desired).await?;
    }
    Ok(())
}

/// default/kubernetes: how pods reach the masters. The first one's port is the
/// port of all.
fn kubernetes_service(config: &Config, masters: &[SocketAddr]) -> Vec<Desired> {
    let Some((address, port)) = masters.first().map(|first| (first.ip(), first.port())) else {
        return Vec::new();
    };
    let same: Vec<String> = masters
        .iter()
        .filter(|master| master.port() == port && master.is_ipv4() == address.is_ipv4())
        .map(|master| master.ip().to_string())
        .collect();
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    // There is no selector, so no controller touches these endpoints.
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": config.api_service_ip().to_string(),
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    });
    let service = Desired::new("/api/v1/namespaces/default/services", service);
    if address.is_loopback() {
        // No pod reaches it, and the API refuses it in endpoints.
        tracing::warn!(%address, "the advertised address is a loopback one: pods cannot reach the API");
        return vec![service];
    }
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": same.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": same
            .iter()
            .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
            .collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    vec![
        service,
        Desired::new("/api/v1/namespaces/default/endpoints", endpoints),
        Desired::new("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice),
    ]
}

/// The range of service addresses. What is there stays: a range does not change.
fn service_range(config: &Config) -> Desired {
    let range = json!({
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [config.service_cidr.to_string()]},
    });
    Desired { once: true, ..Desired::new("/apis/networking.k8s.io/v1/servicecidrs", range) }
}

/// kube-system/kube-dns: holds the address at which every node answers DNS.
fn dns_service(config: &Config) -> Desired {
    Desired::new(
        "/api/v1/namespaces/kube-system/services",
        json!({
            "metadata": {
                "name": "kube-dns",
                "labels": {
                    "k8s-app": "kube-dns",
                    "kubernetes.io/cluster-service": "true",
                    "kubernetes.io/name": "CoreDNS",
                },
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": config.dns_service_ip().to_string(),
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
                    {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
                ],
            },
        }),
    )
}

/// The class of volumes that are folders on nodes, which claims without a class
/// get.
fn local_class() -> Desired {
    let class = json!({
        "metadata": {"name": "local", "annotations": {DEFAULT_CLASS: "true"}},
        "provisioner": LOCAL_PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": WAIT_FOR_CONSUMER,
    });
    Desired { once: true, ..Desired::new("/apis/storage.k8s.io/v1/storageclasses", class) }
}

async fn apply(client: &Client, desired: &Desired) -> Result<(), kube::Error> {
    let name = desired.object["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("{}/{name}", desired.collection);
    let observed = match send(client, Method::GET, &path, None).await {
        Ok(observed) => Some(observed),
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        Err(other) => return Err(other),
    };
    match observed {
        None => {
            match send(client, Method::POST, desired.collection, Some(&desired.object)).await {
                // Another master was faster.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => {
                    other?;
                }
            }
        }
        Some(_) if desired.once => {}
        Some(observed) if contains(&observed, &desired.object) => {}
        Some(_) => {
            tracing::info!(path, "is not as it should be, writing it anew");
            send(client, Method::PATCH, &path, Some(&desired.object)).await?;
        }
    }
    Ok(())
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, kube::Error> {
    let media =
        if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, media)
        .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

/// Whether `observed` has everything that `desired` says.
fn contains(observed: &Value, desired: &Value) -> bool {
    match (observed, desired) {
        (Value::Object(observed), Value::Object(desired)) => desired
            .iter()
            .all(|(key, value)| observed.get(key).is_some_and(|own| contains(own, value))),
        (Value::Array(observed), Value::Array(desired)) => {
            observed.len() == desired.len()
                && observed.iter().zip(desired).all(|(own, value)| contains(own, value))
        }
        (observed, desired) => observed == desired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_written() {
        let desired = json!({"spec": {"ports": [{"port": 443}]}});
        let cases = [
            (json!({"spec": {"ports": [{"port": 443, "name": "x"}], "y": 1}}), true),
            (json!({"spec": {"ports": [{"port": 444}]}}), false),
            (json!({"spec": {"ports": [{"port": 443}, {"port": 444}]}}), false),
            (json!({}), false),
        ];
        for (observed, expected) in cases {
            assert_eq!(contains(&observed, &desired), expected, "{observed}");
        }
    }

    #[test]
    fn the_plan_names_the_reserved_addresses() {
        let config = Config::new("/x", ([0, 0, 0, 0], 6443).into(), [192, 168, 0, 1].into());
        let plan = plan(&config, &[([192, 168, 0, 1], 6443).into()]);
        let addresses: Vec<&str> = plan
            .iter()
            .filter_map(|desired| desired.object["spec"]["clusterIP"].as_str())
            .collect();
        assert_eq!(addresses, ["10.96.0.1", "10.96.0.10"]);
    }
}

//! Endpoints controller: the same pods as the EndpointSlices, in the older
//! object that clients of today's `kubectl get endpoints` still read.
//!
//! Reads Services, pods and nodes. Writes Endpoints of services that have a
//! selector, nothing else. One object holds them all, so it is cut at a
//! thousand addresses and says so in an annotation.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use skiff_client::Api;

use super::backend::{Backend, Port, families, is_headless, publishes_not_ready};
use super::{HEADLESS, backends_of};
use crate::context::Context;
use crate::error::{Doing, Error, ignore_not_found, is_namespace_terminating};
use crate::expectations::Expectations;
use crate::meta::{self, Key};
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// Label that says who wrote the object.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Our value of it.
const MANAGER: &str = "endpoint-controller";
/// Annotation of an object that does not hold all addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object at most.
const CAPACITY: usize = 1000;

/// The Endpoints controller.
pub(crate) struct LegacyEndpoints {
    context: Context,
    /// What was written, so that no pass works on an older picture.
    own: Expectations<Key>,
}

impl LegacyEndpoints {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = super::queue(context);
        let tx = queue.clone();
        context.caches.endpoints.subscribe(move |old, new| {
            if let Some(endpoints) = new.or(old) {
                tx.add(Key::of(&endpoints.metadata));
            }
        });
        (Arc::new(Self { context: context.clone(), own: Expectations::new() }), queue)
    }
}

impl Controller for LegacyEndpoints {
    type Key = Key;
    const NAME: &'static str = "endpoints";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let caches = &self.context.caches;
        let revision = caches.endpoints.revision();
        let observed = caches.endpoints.get(key);
        if let Some(wait) = self.own.wait(key, revision, |_| false) {
            return Ok(Next::After(wait));
        }
        let api: Api<Endpoints> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let Some(service) = caches.services.get(key) else {
            // Hand-made Endpoints may well have no service.
            let ours = |observed: &Endpoints| {
                meta::labels(&observed.metadata)
                    .get(MANAGED_BY)
                    .is_some_and(|manager| manager == MANAGER)
            };
            if observed.is_some_and(|observed| ours(&observed)) {
                let deleted = api.delete(&key.name, &DeleteParams::default()).await;
                ignore_not_found(deleted).doing(|| format!("delete endpoints {key}"))?;
            }
            return Ok(Next::OnChange);
        };
        let Some(backends) = backends_of(caches, &service) else { return Ok(Next::OnChange) };
        let desired = plan_endpoints(&service, &backends, observed.as_deref());
        match observed {
            Some(observed) if *observed == desired => {}
            Some(_) => {
                let written = api.replace(&key.name, &PostParams::default(), &desired).await;
                let written = written.doing(|| format!("update endpoints {key}"))?;
                self.own.wrote(key, &written.metadata);
            }
            None => match api.create(&PostParams::default(), &desired).await {
                Ok(written) => self.own.wrote(key, &written.metadata),
                Err(err) if is_namespace_terminating(&err) => {}
                Err(err) => return Err(err).doing(|| format!("create endpoints {key}")),
            },
        }
        Ok(Next::OnChange)
    }
}

/// The object as it should be, on top of the one observed.
fn plan_endpoints(
    service: &Service,
    backends: &[Backend],
    observed: Option<&Endpoints>,
) -> Endpoints {
    let mut desired = observed.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        ..Endpoints::default()
    });
    let mut labels = meta::labels(&service.metadata).clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    desired.metadata.labels = Some(labels);

    // Only this kind's one family, and going pods only where the service
    // publishes whatever there is.
    let family = families(service).first().copied();
    let all =
        backends.iter().filter(|backend| !backend.terminating || publishes_not_ready(service));
    let mut usable: Vec<(&Backend, &str)> =
        all.filter_map(|backend| Some((backend, backend.address(family?)?))).collect();
    if usable.len() > CAPACITY {
        // Ready ones first: they are the ones that serve.
        usable.sort_by_key(|(backend, _)| !backend.is_ready(service));
        usable.truncate(CAPACITY);
        desired
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(OVER_CAPACITY.into(), "truncated".into());
    } else if let Some(annotations) = &mut desired.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
        if annotations.is_empty() {
            desired.metadata.annotations = None;
        }
    }
    desired.subsets = subsets(service, usable);
    desired
}

fn subsets(service: &Service, backends: Vec<(&Backend, &str)>) -> Option<Vec<EndpointSubset>> {
    #[derive(Default)]
    struct Group {
        ready: Vec<EndpointAddress>,
        not_ready: Vec<EndpointAddress>,
    }
    let mut groups: BTreeMap<Vec<Port>, Group> = BTreeMap::new();
    for (backend, ip) in backends {
        // Without a port there is nothing to connect to, save by name.
        if backend.ports.is_empty() && !is_headless(service) {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: backend.hostname.clone(),
            node_name: backend.node.clone(),
            target_ref: Some(backend.target.clone()),
        };
        let group = groups.entry(backend.ports.clone()).or_default();
        if backend.is_ready(service) {
            group.ready.push(address)
        } else {
            group.not_ready.push(address)
        }
    }
    let subset = |(ports, mut group): (Vec<Port>, Group)| {
        group.ready.sort_by(|one, two| one.ip.cmp(&two.ip));
        group.not_ready.sort_by(|one, two| one.ip.cmp(&two.ip));
        let filled = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
        let ports: Vec<EndpointPort> = ports
            .into_iter()
            .map(|port| EndpointPort {
                name: (!port.name.is_empty()).then_some(port.name),
                port: port.number,
                protocol: Some(port.protocol),
                app_protocol: port.app_protocol,
            })
            .collect();
        EndpointSubset {
            addresses: filled(group.ready),
            not_ready_addresses: filled(group.not_ready),
            ports: (!ports.is_empty()).then_some(ports),
        }
    };
    let subsets: Vec<EndpointSubset> = groups.into_iter().map(subset).collect();
    (!subsets.is_empty()).then_some(subsets)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::endpoints::backend::plan_backends;
    use crate::endpoints::fixtures::{pod, service};

    #[test]
    fn ready_and_not_ready_are_told_apart() {
        let mut service = service(80, None);
        let mut unready = pod("b", "10.0.0.2");
        unready.status.as_mut().unwrap().conditions = None;
        let mut going = pod("c", "10.0.0.3");
        going.metadata.deletion_timestamp = Some(meta::time(meta::now()));
        let pods: Vec<Arc<Pod>> =
            [pod("a", "10.0.0.1"), unready, going].into_iter().map(Arc::new).collect();
        let ips = |addresses: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            addresses.iter().flatten().map(|address| address.ip.clone()).collect()
        };
        let cases = [
            ("usual", false, vec!["10.0.0.1"], vec!["10.0.0.2"]),
            ("publish all", true, vec!["10.0.0.1", "10.0.0.2", "10.0.0.3"], vec![]),
        ];
        for (name, publish, ready, not_ready) in cases {
            service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(publish);
            let backends = plan_backends(&service, &pods, |_| None);
            let endpoints = plan_endpoints(&service, &backends, None);
            let subset = &endpoints.subsets.as_ref().unwrap()[0];
            assert_eq!(ips(&subset.addresses), ready, "{name}");
            assert_eq!(ips(&subset.not_ready_addresses), not_ready, "{name}");
            assert_eq!(
                plan_endpoints(&service, &backends, Some(&endpoints)),
                endpoints,
                "{name}: stable"
            );
        }
    }
}

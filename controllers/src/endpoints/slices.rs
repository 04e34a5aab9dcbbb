//! EndpointSlice controller: the pods behind each service, in slices of up to
//! a hundred.
//!
//! Reads Services, pods and the zones of nodes. Writes EndpointSlices of
//! services that have a selector, nothing else.
//!
//! Every proxy and every DNS server on every node receives each slice that
//! changes, so a pass changes as few of them as it can: endpoints stay in the
//! slice they are in, new ones fill slices that change anyway before others,
//! and slices are never rebalanced.
//!
//! Left out: topology hints, and mirroring of hand-made Endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use skiff_client::Api;

use super::backend::{Backend, Family, Port, families, is_headless};
use super::{HEADLESS, SERVICE_NAME, backends_of};
use crate::context::{Context, service_term};
use crate::error::{Doing, Error, ignore_not_found, is_namespace_terminating};
use crate::expectations::Expectations;
use crate::meta::{self, Key};
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// Label that says whose slice it is.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our value of it.
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in a slice at most.
const SLICE_CAPACITY: usize = 100;

/// The EndpointSlice controller.
pub(crate) struct Slices {
    context: Context,
    expectations: Expectations<Key>,
}

impl Slices {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = super::queue(context);
        let tx = queue.clone();
        context.caches.slices.subscribe(move |old, new| {
            for slice in old.into_iter().chain(new).filter(|slice| is_ours(slice)) {
                if let Some(service) = meta::labels(&slice.metadata).get(SERVICE_NAME) {
                    tx.add(Key::new(meta::namespace(&slice.metadata), service));
                }
            }
        });
        (Arc::new(Self { context: context.clone(), expectations: Expectations::new() }), queue)
    }

    async fn apply(&self, key: &Key, plan: SlicePlan) -> Result<(), Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client.clone(), &key.namespace);
        for slice in plan.update {
            let name = meta::name(&slice.metadata);
            let written = api.replace(name, &PostParams::default(), &slice).await;
            let written =
                written.doing(|| format!("update endpoint slice {}/{name}", key.namespace))?;
            self.expectations.wrote(key, &written.metadata);
        }
        for slice in plan.create {
            match api.create(&PostParams::default(), &slice).await {
                Ok(written) => self.expectations.wrote(key, &written.metadata),
                Err(err) if is_namespace_terminating(&err) => return Ok(()),
                Err(err) => {
                    return Err(err).doing(|| format!("create endpoint slice for service {key}"));
                }
            }
        }
        for slice in plan.delete {
            let (name, uid) = (meta::name(&slice.metadata), meta::uid(&slice.metadata));
            self.expectations.deleting(key, uid);
            let deleted = ignore_not_found(api.delete(name, &DeleteParams::default()).await);
            if let Err(err) = deleted {
                self.expectations.kept(key, uid);
                return Err(err)
                    .doing(|| format!("delete endpoint slice {}/{name}", key.namespace));
            }
        }
        Ok(())
    }
}

impl Controller for Slices {
    type Key = Key;
    const NAME: &'static str = "endpointslice";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let caches = &self.context.caches;
        let revision = caches.slices.revision();
        let Some(service) = caches.services.get(key) else {
            // The collector deletes the slices with their owner.
            self.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        let mut observed = caches.slices.indexed(&service_term(&key.namespace, &key.name));
        observed.retain(|slice| is_ours(slice));
        let stays = |uid: &str| observed.iter().any(|slice| meta::uid(&slice.metadata) == uid);
        if let Some(wait) = self.expectations.wait(key, revision, stays) {
            return Ok(Next::After(wait));
        }
        if meta::is_deleting(&service.metadata) {
            return Ok(Next::OnChange);
        }
        let Some(backends) = backends_of(caches, &service) else { return Ok(Next::OnChange) };
        self.apply(key, plan_slices(&service, &backends, observed)).await?;
        Ok(Next::OnChange)
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    meta::labels(&slice.metadata).get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// What to write.
#[derive(Debug, Default, PartialEq)]
struct SlicePlan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

/// A slice in the making.
struct Draft {
    observed: Option<Arc<EndpointSlice>>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// Compares the slices that `backends` need with those `observed`.
fn plan_slices(
    service: &Service,
    backends: &[Backend],
    observed: Vec<Arc<EndpointSlice>>,
) -> SlicePlan {
    let mut plan = SlicePlan::default();
    let mut groups: BTreeMap<(Family, Vec<Port>), Vec<Endpoint>> = BTreeMap::new();
    for family in families(service) {
        for backend in backends {
            if let Some(address) = backend.address(family) {
                let group = groups.entry((family, backend.ports.clone())).or_default();
                group.push(endpoint(service, backend, address));
            }
        }
        // An empty slice says that there is nothing, which is more than not
        // saying anything.
        if !groups.keys().any(|(known, _)| *known == family) {
            groups.insert((family, Vec::new()), Vec::new());
        }
    }
    let mut observed = observed;
    for ((family, ports), endpoints) in groups {
        let ports = slice_ports(&ports);
        let belongs = |slice: &Arc<EndpointSlice>| {
            slice.address_type == family.as_str()
                && slice.ports.as_deref().unwrap_or_default() == ports
        };
        let (own, rest): (Vec<_>, Vec<_>) = observed.into_iter().partition(belongs);
        observed = rest;
        plan_group(service, family, &ports, endpoints, own, &mut plan);
    }
    plan.delete.extend(observed);
    plan
}

fn plan_group(
    service: &Service,
    family: Family,
    ports: &[EndpointPort],
    desired: Vec<Endpoint>,
    observed: Vec<Arc<EndpointSlice>>,
    plan: &mut SlicePlan,
) {
    let order: Vec<String> = desired.iter().map(identity).collect();
    let mut missing: HashMap<String, Endpoint> = order.iter().cloned().zip(desired).collect();
    let mut drafts: Vec<Draft> = observed
        .into_iter()
        .map(|slice| {
            // Each endpoint stays where it is, as it should be now.
            let kept: Vec<Endpoint> = slice
                .endpoints
                .iter()
                .filter_map(|known| missing.remove(&identity(known)))
                .collect();
            Draft { changed: kept != slice.endpoints, endpoints: kept, observed: Some(slice) }
        })
        .collect();
    let mut left = order
        .iter()
        .filter_map(|identity| missing.remove(identity))
        .collect::<Vec<_>>()
        .into_iter();
    // Slices that are written anyway take new endpoints first.
    drafts.sort_by_key(|draft| !draft.changed);
    for draft in &mut drafts {
        let room = SLICE_CAPACITY.saturating_sub(draft.endpoints.len());
        let before = draft.endpoints.len();
        draft.endpoints.extend(left.by_ref().take(room));
        draft.changed |= draft.endpoints.len() != before;
    }
    loop {
        let endpoints: Vec<Endpoint> = left.by_ref().take(SLICE_CAPACITY).collect();
        if endpoints.is_empty() && !drafts.is_empty() {
            break;
        }
        drafts.push(Draft { observed: None, endpoints, changed: true });
    }
    // Of the empty ones one stays if nothing else does.
    let mut keep_empty = usize::from(drafts.iter().all(|draft| draft.endpoints.is_empty()));
    for draft in drafts {
        if draft.endpoints.is_empty() {
            if keep_empty == 0 {
                plan.delete.extend(draft.observed);
                continue;
            }
            keep_empty -= 1;
        }
        let labels = slice_labels(service);
        match draft.observed {
            None => plan.create.push(new_slice(service, family, ports, draft.endpoints)),
            Some(slice) if draft.changed || slice.metadata.labels.as_ref() != Some(&labels) => {
                let mut slice = Arc::unwrap_or_clone(slice);
                slice.endpoints = draft.endpoints;
                slice.metadata.labels = Some(labels);
                plan.update.push(slice);
            }
            Some(_) => {}
        }
    }
}

/// What makes two endpoints the same one in different states.
fn identity(endpoint: &Endpoint) -> String {
    let uid =
        endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
    format!("{uid}/{}", endpoint.addresses.join(","))
}

fn endpoint(service: &Service, backend: &Backend, address: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.is_ready(service)),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        zone: backend.zone.clone(),
        target_ref: Some(backend.target.clone()),
        ..Endpoint::default()
    }
}

fn slice_ports(ports: &[Port]) -> Vec<EndpointPort> {
    let port = |port: &Port| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    ports.iter().map(port).collect()
}

fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = meta::labels(&service.metadata).clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), meta::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn new_slice(
    service: &Service,
    family: Family,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", meta::name(&service.metadata))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(slice_labels(service)),
            owner_references: Some(vec![meta::controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.as_str().to_owned(),
        endpoints,
        ports: Some(ports.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::endpoints::backend::plan_backends;
    use crate::endpoints::fixtures::{pod, service};

    fn backends(service: &Service, pods: &[Pod]) -> Vec<Backend> {
        let pods: Vec<Arc<Pod>> = pods.iter().cloned().map(Arc::new).collect();
        plan_backends(service, &pods, |_| None)
    }

    fn many(range: std::ops::Range<u32>) -> Vec<Pod> {
        range
            .map(|n| pod(&format!("web-{n:04}"), &Ipv4Addr::from(0x0a00_0000 + n).to_string()))
            .collect()
    }

    /// The slices as they are after the plan, with names and revisions.
    fn after(plan: &SlicePlan, mut observed: Vec<Arc<EndpointSlice>>) -> Vec<Arc<EndpointSlice>> {
        observed.retain(|slice| !plan.delete.contains(slice));
        for update in &plan.update {
            let position = observed
                .iter()
                .position(|slice| slice.metadata.name == update.metadata.name)
                .unwrap();
            observed[position] = Arc::new(update.clone());
        }
        for create in &plan.create {
            let mut slice = create.clone();
            slice.metadata.name = Some(format!("web-slice-{}", observed.len()));
            observed.push(Arc::new(slice));
        }
        observed
    }

    fn shape(plan: &SlicePlan) -> (usize, usize, usize) {
        (plan.create.len(), plan.update.len(), plan.delete.len())
    }

    #[test]
    fn slices_change_as_little_as_possible() {
        let service = service(80, None);
        let plan = plan_slices(&service, &[], vec![]);
        assert_eq!(shape(&plan), (1, 0, 0), "an empty slice for an empty service");
        let slices = after(&plan, vec![]);
        assert_eq!(
            shape(&plan_slices(&service, &[], slices.clone())),
            (0, 0, 0),
            "and nothing twice"
        );

        let plan = plan_slices(&service, &backends(&service, &many(0..250)), slices.clone());
        assert_eq!(shape(&plan), (3, 0, 1), "the empty one had no ports");
        let slices = after(&plan, slices);
        assert_eq!(
            slices.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(),
            [100, 100, 50]
        );
        assert_eq!(
            shape(&plan_slices(&service, &backends(&service, &many(0..250)), slices.clone())),
            (0, 0, 0)
        );

        let plan = plan_slices(&service, &backends(&service, &many(0..251)), slices.clone());
        assert_eq!(shape(&plan), (0, 1, 0), "a new pod goes where there is room");
        let plan = plan_slices(&service, &backends(&service, &many(1..251)), slices.clone());
        assert_eq!(shape(&plan), (0, 1, 0), "a pod that replaces another takes its place");
        let plan = plan_slices(&service, &backends(&service, &many(0..200)), slices.clone());
        assert_eq!(shape(&plan), (0, 0, 1), "an empty slice goes");
    }

    #[test]
    fn a_pod_that_turns_unready_is_one_update() {
        let service = service(80, None);
        let mut pods = many(0..3);
        let slices = after(&plan_slices(&service, &backends(&service, &pods), vec![]), vec![]);
        pods[1].status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".into();
        let plan = plan_slices(&service, &backends(&service, &pods), slices);
        assert_eq!(shape(&plan), (0, 1, 0));
        let ready: Vec<Option<bool>> = plan.update[0]
            .endpoints
            .iter()
            .map(|endpoint| endpoint.conditions.as_ref().unwrap().ready)
            .collect();
        assert_eq!(ready, [Some(true), Some(false), Some(true)]);
    }

    #[test]
    fn labels_follow_the_service() {
        let mut service = service(80, None);
        service.spec.as_mut().unwrap().cluster_ip = Some("None".into());
        service.metadata.labels = crate::testing::labels(&[("team", "shop")]);
        let plan = plan_slices(&service, &[], vec![]);
        let labels = plan.create[0].metadata.labels.clone().unwrap();
        let expected =
            [(MANAGED_BY, MANAGER), (SERVICE_NAME, "web"), (HEADLESS, ""), ("team", "shop")];
        assert_eq!(Some(labels), crate::testing::labels(&expected));
    }
}

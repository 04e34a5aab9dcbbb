//! Keeps the kernel's table equal to the plan.
//!
//! Remembers what was applied, per Service, so that a change costs what
//! changed. When a transaction fails, what is in force is no longer known for
//! sure; the next pass loads everything again, in one transaction, so packets
//! see the old table or the new one and never none.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddrV4;

use serde_json::Value as Json;
use skiff_client::chain;
use tracing::{debug, warn};

use crate::conntrack::forget_flows;
use crate::nft::{NftError, apply_commands, observe_chain};
use crate::rules::base::{BaseConfig, plan_base};
use crate::rules::service::{NodeContext, plan_service};
use crate::rules::shared::{Target, plan_shared};
use crate::rules::{Fragment, Key, TABLE, plan_changes, plan_replacement};
use crate::view::{ObjectName, View};

/// The table as it should be, and as it was last applied.
#[derive(Debug)]
pub struct Rules {
    base: BaseConfig,
    node: NodeContext,
    /// `None`: load everything.
    applied: Option<Applied>,
}

#[derive(Debug, Default)]
struct Applied {
    services: HashMap<ObjectName, Fragment>,
    targets: BTreeSet<Target>,
    /// Which Service has which frontend.
    owners: HashMap<Key, ObjectName>,
    /// Services that want a frontend another one has; looked at again with
    /// every change, since the owner may have let go.
    contested: BTreeSet<ObjectName>,
}

/// A change as commands, and the UDP flows it makes stale.
#[derive(Debug, Default)]
struct Change {
    commands: Vec<Json>,
    stale_flows: BTreeSet<(Key, SocketAddrV4)>,
}

/// The whole ruleset for a view; what a full load applies.
pub fn plan_ruleset(view: &View, base: &BaseConfig, node: &NodeContext) -> Fragment {
    let (fragment, _) = plan_all(view, base, node);
    fragment
}

fn plan_all(view: &View, base: &BaseConfig, node: &NodeContext) -> (Fragment, Applied) {
    let mut applied = Applied::default();
    let names: BTreeSet<_> = view.entries().map(|(name, _)| name.clone()).collect();
    let services = applied.plan_services(view, node, &names);
    let mut whole = plan_base(base);
    applied.targets = services.targets().cloned().collect();
    whole.merge(plan_shared(&applied.targets, node.cluster_cidr));
    whole.merge(services);
    (whole, applied)
}

impl Applied {
    /// Plans these services anew, claims their frontends, and returns their
    /// parts merged.
    fn plan_services(
        &mut self,
        view: &View,
        node: &NodeContext,
        names: &BTreeSet<ObjectName>,
    ) -> Fragment {
        let mut merged = Fragment::default();
        for name in names {
            self.contested.remove(name);
            let Some(entry) = view.entry(name) else { continue };
            let refused = RefCell::new(false);
            let fragment = plan_service(name, entry, node, |_, key| {
                let free = self.owners.get(&key).is_none_or(|owner| owner == name);
                *refused.borrow_mut() |= !free;
                free
            });
            if refused.into_inner() {
                debug!(service = %name, "another service has one of its addresses and ports");
                self.contested.insert(name.clone());
            }
            let keys = fragment.elements.keys().map(|(_, key)| (*key, name.clone()));
            self.owners.extend(keys);
            merged.merge(fragment.clone());
            if fragment != Fragment::default() {
                self.services.insert(name.clone(), fragment);
            }
        }
        merged
    }

    /// The change for these services, which becomes what is applied.
    fn plan_update(
        &mut self,
        view: &View,
        node: &NodeContext,
        mut dirty: BTreeSet<ObjectName>,
    ) -> Change {
        dirty.extend(self.contested.iter().cloned());
        let mut observed = Fragment::default();
        for name in &dirty {
            let Some(fragment) = self.services.remove(name) else { continue };
            for (_, key) in fragment.elements.keys() {
                self.owners.remove(key);
            }
            observed.merge(fragment);
        }
        let desired = self.plan_services(view, node, &dirty);

        let mut commands = Vec::new();
        let added: Vec<_> =
            desired.targets().filter(|target| !self.targets.contains(target)).cloned().collect();
        if !added.is_empty() {
            let before = plan_shared(&self.targets, node.cluster_cidr);
            self.targets.extend(added);
            let after = plan_shared(&self.targets, node.cluster_cidr);
            commands.extend(plan_changes(&before, &after));
        }
        commands.extend(plan_changes(&observed, &desired));
        let stale_flows = observed.datagrams.difference(&desired.datagrams).copied().collect();
        Change { commands, stale_flows }
    }
}

impl Rules {
    /// Rules that have not been loaded yet.
    pub fn new(base: BaseConfig, node: NodeContext) -> Self {
        Self { base, node, applied: None }
    }

    /// True when the next pass loads everything.
    pub fn is_stale(&self) -> bool {
        self.applied.is_none()
    }

    /// Puts the base in place before any Service is known, so that names are
    /// answered and unknown VIPs refused. A table that an earlier run left
    /// goes on serving; only its way to the DNS server is renewed.
    pub async fn apply_base(&self) -> Result<(), NftError> {
        let base = plan_base(&self.base);
        if observe_chain(TABLE, "dns").await?.is_none() {
            return apply_commands(plan_replacement(&base)).await;
        }
        let only_dns = |rules| Fragment {
            chains: BTreeMap::from([("dns".to_owned(), rules)]),
            ..Fragment::default()
        };
        let desired = only_dns(base.chains.get("dns").cloned().unwrap_or_default());
        let unknown = only_dns(crate::rules::Chain::default());
        apply_commands(plan_changes(&unknown, &desired)).await
    }

    /// Brings the kernel up to date: the services in `dirty`, or everything
    /// when what is in force is not known.
    pub async fn apply(
        &mut self,
        view: &std::sync::RwLock<View>,
        dirty: BTreeSet<ObjectName>,
    ) -> Result<(), NftError> {
        // Planned under the lock, applied without it: DNS reads meanwhile.
        let (change, applied) = {
            let view = view.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            match self.applied.take() {
                Some(mut applied) => {
                    let change = applied.plan_update(&view, &self.node, dirty);
                    (change, applied)
                }
                None => {
                    let (whole, applied) = plan_all(&view, &self.base, &self.node);
                    let commands = plan_replacement(&whole);
                    (Change { commands, ..Change::default() }, applied)
                }
            }
        };
        apply_commands(change.commands).await?;
        self.applied = Some(applied);
        if !change.stale_flows.is_empty() {
            forget(change.stale_flows).await;
        }
        Ok(())
    }

    /// Notices a table that somebody else removed; the next pass loads it.
    pub async fn check(&mut self) -> Result<(), NftError> {
        if observe_chain(TABLE, "dispatch").await?.is_none() {
            warn!("somebody removed table {TABLE}, loading it again");
            self.applied = None;
        }
        Ok(())
    }
}

/// Best effort: a flow that stays costs its client a timeout, no more.
async fn forget(stale: BTreeSet<(Key, SocketAddrV4)>) {
    match tokio::task::spawn_blocking(move || forget_flows(&stale)).await {
        Ok(Ok(count)) => debug!(count, "forgot UDP flows to endpoints that are gone"),
        Ok(Err(err)) => {
            warn!(error = chain(&err), "cannot forget UDP flows to endpoints that are gone")
        }
        Err(err) => warn!(error = chain(&err), "forgetting UDP flows was interrupted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Endpoint, Protocol, Service, ServicePort, Slice};

    fn node() -> NodeContext {
        NodeContext {
            node_name: "here".to_owned(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            cluster_dns: [10, 96, 0, 10].into(),
        }
    }

    /// A service with one external address and this many endpoints.
    fn put(view: &mut View, name: &str, external: [u8; 4], endpoints: u8) -> ObjectName {
        let name = ObjectName::new("a", name);
        let port =
            ServicePort { name: String::new(), protocol: Protocol::Udp, port: 80, node_port: None };
        let service = Service {
            ports: vec![port],
            external_ips: BTreeSet::from([external.into()]),
            ..Service::default()
        };
        let endpoint = |last: u8| Endpoint {
            addresses: vec![[10, 244, 0, last].into()],
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            hostname: None,
        };
        let slice = Slice {
            ports: BTreeMap::from([((String::new(), Protocol::Udp), 8080)]),
            endpoints: (1..=endpoints).map(endpoint).collect(),
        };
        view.put_service(&name, service);
        view.put_slice(&name, &name, slice);
        name
    }

    fn update(applied: &mut Applied, view: &View, names: &[&ObjectName]) -> Change {
        applied.plan_update(view, &node(), names.iter().map(|name| (*name).clone()).collect())
    }

    #[test]
    fn a_change_touches_its_service_only() {
        let (mut view, mut applied) = (View::default(), Applied::default());
        let one = put(&mut view, "one", [192, 0, 2, 1], 2);
        let two = put(&mut view, "two", [192, 0, 2, 2], 2);
        let first = update(&mut applied, &view, &[&one, &two]);
        assert!(first.commands.len() > 4, "shared chains and elements");
        assert!(update(&mut applied, &view, &[&one]).commands.is_empty(), "nothing changed");

        put(&mut view, "one", [192, 0, 2, 1], 1);
        let change = update(&mut applied, &view, &[&one]);
        let text = serde_json::to_string(&change.commands).unwrap();
        assert!(text.contains("192.0.2.1") && !text.contains("192.0.2.2"), "{text}");
        assert_eq!(change.stale_flows.len(), 1, "the second endpoint's flows");
    }

    #[test]
    fn a_contested_frontend_changes_hands() {
        let (mut view, mut applied) = (View::default(), Applied::default());
        let one = put(&mut view, "one", [192, 0, 2, 1], 1);
        let two = put(&mut view, "two", [192, 0, 2, 1], 2);
        update(&mut applied, &view, &[&one, &two]);
        assert!(!applied.services.contains_key(&two), "the first name wins");
        view.remove_service(&one);
        update(&mut applied, &view, &[&one]);
        assert!(applied.services.contains_key(&two) && applied.contested.is_empty());
    }
}

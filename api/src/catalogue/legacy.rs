//! Group versions that Kubernetes has dropped and that old manifests still
//! carry. Each is a view of the kind that took its place.
//!
//! They are in no category, so that `kubectl get all` shows an object once, and
//! come last in the catalogue, so that clients prefer the current groups.
//!
//! Since when each is deprecated and gone is from the [deprecation
//! guide](https://kubernetes.io/docs/reference/using-api/deprecation-guide/).

use serde_json::Value;

use super::convert::{budget, ingress, slices, workloads};
use super::{Legacy, Resource, Subresource};

/// A dropped group version with the kinds that it served.
struct Dropped {
    group: &'static str,
    version: &'static str,
    deprecated: &'static str,
    removed: &'static str,
    kinds: &'static [Moved],
}

/// Where a kind is now, and how its two shapes map.
struct Moved {
    group: &'static str,
    plural: &'static str,
    reshaped: bool,
    to_current: fn(&mut Value),
    from_current: fn(&mut Value),
}

/// A kind of which nothing changed but the version's name.
const fn renamed(group: &'static str, plural: &'static str) -> Moved {
    Moved { group, plural, reshaped: false, to_current: same, from_current: same }
}

fn same(_: &mut Value) {}

/// A workload of a version that defaulted its selector.
const fn workload(plural: &'static str) -> Moved {
    Moved { to_current: workloads::to_v1, ..renamed("apps", plural) }
}

const INGRESSES: Moved = Moved {
    reshaped: true,
    to_current: ingress::to_v1,
    from_current: ingress::from_v1,
    ..renamed("networking.k8s.io", "ingresses")
};

const SLICES: Moved = Moved {
    reshaped: true,
    to_current: slices::to_v1,
    from_current: slices::from_v1,
    ..renamed("discovery.k8s.io", "endpointslices")
};

const BUDGETS: Moved = Moved {
    to_current: budget::to_v1,
    from_current: budget::from_v1,
    ..renamed("policy", "poddisruptionbudgets")
};

const DROPPED: &[Dropped] = &[
    Dropped {
        group: "apps",
        version: "v1beta2",
        deprecated: "v1.9",
        removed: "v1.16",
        kinds: &[
            renamed("apps", "daemonsets"),
            renamed("apps", "deployments"),
            renamed("apps", "replicasets"),
            renamed("apps", "statefulsets"),
        ],
    },
    Dropped {
        group: "apps",
        version: "v1beta1",
        deprecated: "v1.9",
        removed: "v1.16",
        kinds: &[workload("deployments"), workload("statefulsets")],
    },
    Dropped {
        group: "extensions",
        version: "v1beta1",
        deprecated: "v1.9",
        removed: "v1.16",
        kinds: &[
            workload("daemonsets"),
            workload("deployments"),
            workload("replicasets"),
            renamed("networking.k8s.io", "networkpolicies"),
        ],
    },
    Dropped {
        group: "extensions",
        version: "v1beta1",
        deprecated: "v1.14",
        removed: "v1.22",
        kinds: &[INGRESSES],
    },
    Dropped {
        group: "networking.k8s.io",
        version: "v1beta1",
        deprecated: "v1.19",
        removed: "v1.22",
        kinds: &[INGRESSES, renamed("networking.k8s.io", "ingressclasses")],
    },
    Dropped {
        group: "batch",
        version: "v1beta1",
        deprecated: "v1.21",
        removed: "v1.25",
        kinds: &[renamed("batch", "cronjobs")],
    },
    Dropped {
        group: "policy",
        version: "v1beta1",
        deprecated: "v1.21",
        removed: "v1.25",
        kinds: &[BUDGETS],
    },
    Dropped {
        group: "discovery.k8s.io",
        version: "v1beta1",
        deprecated: "v1.21",
        removed: "v1.25",
        kinds: &[SLICES],
    },
    // What clients of their time describe these kinds by.
    Dropped {
        group: "networking.k8s.io",
        version: "v1beta1",
        deprecated: "v1.34",
        removed: "v1.37",
        kinds: &[
            renamed("networking.k8s.io", "ipaddresses"),
            renamed("networking.k8s.io", "servicecidrs"),
        ],
    },
    Dropped {
        group: "storage.k8s.io",
        version: "v1beta1",
        deprecated: "v1.34",
        removed: "v1.37",
        kinds: &[renamed("storage.k8s.io", "volumeattributesclasses")],
    },
];

/// The dropped versions as entries of the catalogue whose current kinds are
/// `current`. Made once; what the entries refer to lives as long as the program.
pub(super) fn entries(current: &[Resource]) -> Vec<Resource> {
    let moved = DROPPED.iter().flat_map(|old| old.kinds.iter().map(move |kind| (old, kind)));
    moved
        .filter_map(|(old, kind)| {
            let now = current.iter().find(|now| {
                (now.group, now.version, now.plural) == (kind.group, "v1", kind.plural)
            })?;
            Some(view(old, kind, now))
        })
        .collect()
}

fn view(old: &Dropped, kind: &Moved, now: &Resource) -> Resource {
    let warning = format!(
        "{}/{} {} is deprecated in {}+, unavailable in {}+; use {} {}",
        old.group,
        old.version,
        now.kind,
        old.deprecated,
        old.removed,
        now.api_version(),
        now.kind,
    );
    let subresources: Vec<Subresource> = (now.subresources.iter())
        .map(|sub| match (sub.group, sub.version) == (now.group, now.version) {
            true => Subresource { group: old.group, version: old.version, ..*sub },
            false => *sub,
        })
        .collect();
    Resource {
        group: old.group,
        version: old.version,
        categories: &[],
        subresources: subresources.leak(),
        legacy: Some(Box::leak(Box::new(Legacy {
            current: (now.group, now.version, now.plural),
            own_type: false,
            reshaped: kind.reshaped,
            warning: Some(warning.leak()),
            to_current: kind.to_current,
            from_current: kind.from_current,
        }))),
        ..*now
    }
}

#[cfg(test)]
mod tests {
    use crate::catalogue::{all, find};

    use super::DROPPED;

    #[test]
    fn every_dropped_kind_has_its_entry() {
        let rows: usize = DROPPED.iter().map(|old| old.kinds.len()).sum();
        let dropped = all().iter().filter(|entry| {
            entry.legacy.is_some_and(|legacy| !legacy.own_type && legacy.warning.is_some())
        });
        assert_eq!(dropped.count(), rows);
    }

    #[test]
    fn an_entry_speaks_for_its_own_version() {
        let entry = find("extensions", "v1beta1", "deployments").unwrap();
        let legacy = entry.legacy.unwrap();
        assert_eq!(
            legacy.warning,
            Some(
                "extensions/v1beta1 Deployment is deprecated in v1.9+, \
                 unavailable in v1.16+; use apps/v1 Deployment"
            )
        );
        let subresource = |name| entry.subresource(name).map(|sub| (sub.group, sub.version));
        assert_eq!(subresource("status"), Some(("extensions", "v1beta1")));
        assert_eq!(subresource("scale"), Some(("autoscaling", "v1")));
        assert!(entry.scale.is_some() && entry.categories.is_empty());
    }
}

//! Affinity between pods: who must, may not, or would rather share a topology
//! domain with whom.
//!
//! Worked out once per pod over the cluster, then asked once per node. A pod
//! without terms, in a cluster without guarded pods, costs nothing.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{PodAffinityTerm, WeightedPodAffinityTerm};
use skiff_api::selector::LabelSelector;

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::filter::{Refusal, topology};
use crate::spread::compile;

/// What a pod's affinity and the others' anti-affinity say about domains.
#[derive(Debug, Default)]
pub struct Affinity {
    /// Required terms: for each, its topology key and the domains that hold a
    /// companion.
    companions: Vec<(String, HashSet<String>)>,
    /// No companion exists anywhere and the pod is its own: the first of a
    /// group may go anywhere that has the keys.
    first_of_group: bool,
    /// Domains (key, value) that hold an adversary.
    adversaries: HashSet<(String, String)>,
    /// Domains (key, value) whose pods do not want this one.
    unwelcome: HashSet<(String, String)>,
    /// Preferences: points by domain, negative for anti-affinity.
    preferences: HashMap<(String, String), i64>,
}

impl Affinity {
    /// Works out the terms of `pod`.
    pub fn of(pod: &PodInfo, cluster: &Cluster) -> Self {
        let mut result = Self::default();
        for other in cluster.guarded_pods() {
            for term in Term::all(required_anti(other), &other.namespace) {
                if term.selects(pod, cluster) {
                    result.unwelcome.extend(domain(other, term.topology_key, cluster));
                }
            }
        }
        let Some(affinity) = &pod.spec.affinity else { return result };

        let required = (affinity.pod_affinity.as_ref())
            .and_then(|affinity| {
                affinity.required_during_scheduling_ignored_during_execution.as_deref()
            })
            .unwrap_or_default();
        let required = Term::all(required, &pod.namespace);
        if !required.is_empty() {
            result.companions = required
                .iter()
                .map(|term| (term.topology_key.to_owned(), HashSet::new()))
                .collect();
            // A companion has to satisfy every term at once.
            for other in cluster.pods() {
                if required.iter().all(|term| term.selects(other, cluster)) {
                    for (key, domains) in &mut result.companions {
                        domains.extend(domain(other, key, cluster).map(|(_, value)| value));
                    }
                }
            }
            result.first_of_group = result.companions.iter().all(|(_, domains)| domains.is_empty())
                && required.iter().all(|term| term.selects(pod, cluster));
        }
        for term in Term::all(required_anti(pod), &pod.namespace) {
            for other in cluster.pods() {
                if term.selects(other, cluster) {
                    result.adversaries.extend(domain(other, term.topology_key, cluster));
                }
            }
        }
        let preferred = affinity.pod_affinity.as_ref().and_then(|affinity| {
            affinity.preferred_during_scheduling_ignored_during_execution.as_deref()
        });
        let preferred_anti = affinity.pod_anti_affinity.as_ref().and_then(|affinity| {
            affinity.preferred_during_scheduling_ignored_during_execution.as_deref()
        });
        result.prefer(pod, cluster, preferred.unwrap_or_default(), 1);
        result.prefer(pod, cluster, preferred_anti.unwrap_or_default(), -1);
        result
    }

    fn prefer(
        &mut self,
        pod: &PodInfo,
        cluster: &Cluster,
        terms: &[WeightedPodAffinityTerm],
        sign: i64,
    ) {
        for WeightedPodAffinityTerm { pod_affinity_term: term, weight } in terms {
            let term = Term::of(term, &pod.namespace);
            for other in cluster.pods() {
                if term.selects(other, cluster)
                    && let Some(domain) = domain(other, term.topology_key, cluster)
                {
                    *self.preferences.entry(domain).or_default() += sign * i64::from(*weight);
                }
            }
        }
    }

    /// Whether the node's domains satisfy what is required.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        for (key, domains) in &self.companions {
            match topology(&node.labels, key) {
                Some(value) if self.first_of_group || domains.contains(value) => {}
                _ => return Err(Refusal::PodAffinity),
            }
        }
        if touches(&self.adversaries, node) {
            return Err(Refusal::PodAntiAffinity);
        }
        if touches(&self.unwelcome, node) {
            return Err(Refusal::ExistingAntiAffinity);
        }
        Ok(())
    }

    /// Points for the node's domains; more is better, may be negative.
    pub fn score(&self, node: &NodeInfo) -> i64 {
        (self.preferences.iter())
            .filter(|((key, value), _)| topology(&node.labels, key) == Some(value))
            .map(|(_, points)| points)
            .sum()
    }
}

fn touches(domains: &HashSet<(String, String)>, node: &NodeInfo) -> bool {
    domains.iter().any(|(key, value)| topology(&node.labels, key) == Some(value))
}

fn required_anti(pod: &PodInfo) -> &[PodAffinityTerm] {
    (pod.spec.affinity.as_ref())
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

/// The domain that `pod` is in, `None` without a node or without the label.
fn domain(pod: &PodInfo, key: &str, cluster: &Cluster) -> Option<(String, String)> {
    let node = cluster.node(pod.node.as_deref()?)?;
    Some((key.to_owned(), topology(&node.labels, key)?.to_owned()))
}

/// A term with its selectors ready to be asked.
struct Term<'a> {
    topology_key: &'a str,
    /// The namespace of the pod that wrote it.
    home: &'a str,
    namespaces: &'a [String],
    /// Outer: stated at all; inner: valid.
    namespace_selector: Option<Option<LabelSelector>>,
    selector: Option<LabelSelector>,
}

impl<'a> Term<'a> {
    fn of(term: &'a PodAffinityTerm, home: &'a str) -> Self {
        Self {
            topology_key: &term.topology_key,
            home,
            namespaces: term.namespaces.as_deref().unwrap_or_default(),
            namespace_selector: term
                .namespace_selector
                .as_ref()
                .map(|selector| compile(Some(selector))),
            selector: compile(term.label_selector.as_ref()),
        }
    }

    fn all(terms: &'a [PodAffinityTerm], home: &'a str) -> Vec<Self> {
        terms.iter().map(|term| Self::of(term, home)).collect()
    }

    /// Whether the term means `pod`. With neither namespaces nor a namespace
    /// selector it means its own namespace; an empty namespace selector, all.
    fn selects(&self, pod: &PodInfo, cluster: &Cluster) -> bool {
        let in_scope = match &self.namespace_selector {
            None if self.namespaces.is_empty() => pod.namespace == self.home,
            None => self.namespaces.contains(&pod.namespace),
            Some(selector) => {
                let labels = || cluster.namespace_labels(&pod.namespace);
                self.namespaces.contains(&pod.namespace)
                    || selector
                        .as_ref()
                        .zip(labels())
                        .is_some_and(|(selector, labels)| selector.matches_labels(Some(labels)))
            }
        };
        in_scope
            && self
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches_labels(Some(&pod.labels)))
    }
}

//! Rollout: how large each ReplicaSet of a Deployment should be next.
//!
//! One call is one step; the next follows when the pods have caught up. All
//! sizes are computed from `spec.replicas` of the sets (what is asked for) and
//! their available pods (what serves), so no step can take the Deployment
//! below `replicas - maxUnavailable` available pods or above
//! `replicas + maxSurge` pods.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::revision::{self, Sets};
use super::spec::{
    actual, available, is_paused, is_recreate, max_surge, max_unavailable, replicas, serving, size,
};
use crate::meta;

/// A set and the size it should get.
pub(crate) type Resize = (Arc<ReplicaSet>, i32);

/// What a rollout does next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Make the new set, of this size.
    Create(i32),
    /// Resize these sets.
    Resize(Vec<Resize>),
    /// Wait for pods.
    Wait,
}

/// The next step of the Deployment. `old_pods_running` is asked by Recreate,
/// which waits until the last old pod has ended.
pub(crate) fn plan_rollout(
    deployment: &Deployment,
    sets: &Sets,
    old_pods_running: impl FnOnce() -> bool,
) -> Step {
    if is_paused(deployment) || was_scaled(deployment, sets) {
        return resize(plan_scale(deployment, sets));
    }
    if is_recreate(deployment) {
        plan_recreate(deployment, sets, old_pods_running)
    } else {
        plan_rolling(deployment, sets)
    }
}

fn resize(sizes: Vec<Resize>) -> Step {
    if sizes.is_empty() { Step::Wait } else { Step::Resize(sizes) }
}

/// Whether `spec.replicas` changed since the sets were sized. Rolling on would
/// put all new pods into the new set, which may not work.
fn was_scaled(deployment: &Deployment, sets: &Sets) -> bool {
    let mut active = sets.all().filter(|set| size(set) > 0);
    active.any(|set| {
        revision::desired_replicas(set).is_some_and(|desired| desired != replicas(deployment))
    })
}

fn plan_recreate(
    deployment: &Deployment,
    sets: &Sets,
    old_pods_running: impl FnOnce() -> bool,
) -> Step {
    let down: Vec<Resize> =
        sets.old.iter().filter(|set| size(set) > 0).map(|set| (Arc::clone(set), 0)).collect();
    if !down.is_empty() {
        return Step::Resize(down);
    }
    if old_pods_running() {
        return Step::Wait;
    }
    let desired = replicas(deployment);
    match &sets.new {
        None => Step::Create(desired),
        Some(new) if size(new) != desired => Step::Resize(vec![(Arc::clone(new), desired)]),
        Some(_) => Step::Wait,
    }
}

fn plan_rolling(deployment: &Deployment, sets: &Sets) -> Step {
    let desired = new_set_size(deployment, sets);
    match &sets.new {
        None => Step::Create(desired),
        Some(new) if size(new) != desired => Step::Resize(vec![(Arc::clone(new), desired)]),
        Some(new) => resize(plan_old_sets(deployment, new, sets)),
    }
}

/// As many new pods as the surge leaves room for.
fn new_set_size(deployment: &Deployment, sets: &Sets) -> i32 {
    let desired = replicas(deployment);
    let current = sets.new.as_ref().map_or(0, |new| size(new));
    if current >= desired {
        return desired;
    }
    let total: i32 = sets.all().map(|set| size(set)).sum();
    let room = (desired + max_surge(deployment) - total).max(0);
    current + room.min(desired - current)
}

/// Takes pods from the old sets: first those that do not serve anyway, which
/// costs nothing, then serving ones as far as the new pods have made up for
/// them.
fn plan_old_sets(deployment: &Deployment, new: &ReplicaSet, sets: &Sets) -> Vec<Resize> {
    let minimum = replicas(deployment) - max_unavailable(deployment);
    let total: i32 = sets.all().map(|set| size(set)).sum();
    let new_unavailable = size(new) - serving(new);
    // New pods that are not available yet must not be counted on.
    let mut excess = total - minimum - new_unavailable;
    let total_serving: i32 = sets.all().map(|set| serving(set)).sum();

    let mut sizes: Vec<i32> = sets.old.iter().map(|set| size(set)).collect();
    for (set, size) in sets.old.iter().zip(&mut sizes) {
        let idle = (*size - serving(set)).clamp(0, excess.max(0));
        *size -= idle;
        excess -= idle;
    }
    let mut spare = (total_serving - minimum).min(excess);
    for size in &mut sizes {
        let step = (*size).min(spare).max(0);
        *size -= step;
        spare -= step;
    }
    let changed = sets.old.iter().zip(sizes).filter(|(set, desired)| size(set) != *desired);
    changed.map(|(set, desired)| (Arc::clone(set), desired)).collect()
}

/// Sizes after `spec.replicas` changed, possibly in the middle of a rollout:
/// each set grows or shrinks in proportion, so that the share of new pods, and
/// with it the risk taken so far, stays the same.
fn plan_scale(deployment: &Deployment, sets: &Sets) -> Vec<Resize> {
    let desired = replicas(deployment);
    let active: Vec<&Arc<ReplicaSet>> = sets.all().filter(|set| size(set) > 0).collect();
    if active.len() <= 1 {
        let latest = sets.new.as_ref().or_else(|| sets.old.last());
        let only = active.first().copied().or(latest);
        return only.into_iter().flat_map(|set| resized(deployment, set, desired)).collect();
    }
    // The rollout is over in all but the old sets' size.
    if let Some(new) = &sets.new
        && is_saturated(new, desired)
    {
        return sets
            .old
            .iter()
            .filter(|set| size(set) > 0)
            .map(|set| (Arc::clone(set), 0))
            .collect();
    }
    if is_recreate(deployment) {
        return Vec::new();
    }
    scale_in_proportion(deployment, active)
}

fn is_saturated(set: &ReplicaSet, desired: i32) -> bool {
    revision::desired_replicas(set) == Some(desired)
        && size(set) == desired
        && available(set) == desired
}

fn scale_in_proportion(deployment: &Deployment, mut active: Vec<&Arc<ReplicaSet>>) -> Vec<Resize> {
    let desired = replicas(deployment);
    let total: i32 = active.iter().map(|set| size(set)).sum();
    let allowed = if desired > 0 { desired + max_surge(deployment) } else { 0 };
    let to_add = allowed - total;
    // Largest first. Among equals the newer one grows and the older shrinks.
    active.sort_by(|one, two| {
        let by_age = one.metadata.creation_timestamp.cmp(&two.metadata.creation_timestamp);
        size(two).cmp(&size(one)).then(if to_add > 0 { by_age.reverse() } else { by_age })
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for set in &active {
        let part = share(set, deployment).clamp((to_add - added).min(0), (to_add - added).max(0));
        added += part;
        sizes.push(size(set) + part);
    }
    // What rounding left over goes to the largest.
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    active.iter().zip(sizes).flat_map(|(set, desired)| resized(deployment, set, desired)).collect()
}

/// By how much a set changes if it keeps its share of the Deployment.
fn share(set: &ReplicaSet, deployment: &Deployment) -> i32 {
    let desired = replicas(deployment);
    if desired == 0 {
        return -size(set);
    }
    let reported = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let before = revision::max_replicas(set).unwrap_or(reported);
    if before <= 0 {
        return 0;
    }
    let after =
        f64::from(size(set)) * f64::from(desired + max_surge(deployment)) / f64::from(before);
    // In range: both factors are replica counts.
    #[allow(clippy::cast_possible_truncation)]
    let after = after.round() as i32;
    after - size(set)
}

/// The resize, unless size and its annotations are right already.
fn resized(deployment: &Deployment, set: &Arc<ReplicaSet>, desired: i32) -> Option<Resize> {
    let annotated = revision::size_annotations(deployment)
        .iter()
        .all(|(name, value)| meta::annotation(&set.metadata, name) == Some(value.as_str()));
    (size(set) != desired || !annotated).then(|| (Arc::clone(set), desired))
}

/// Old sets beyond `revisionHistoryLimit`, the oldest revision first. A set
/// that has or gets pods, or whose controller has not looked yet, stays.
pub(crate) fn plan_cleanup(deployment: &Deployment, sets: &Sets) -> Vec<Arc<ReplicaSet>> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
        return Vec::new();
    };
    let mut old: Vec<_> = sets.old.iter().filter(|set| !meta::is_deleting(&set.metadata)).collect();
    old.sort_by_key(|set| revision::revision_of(&set.metadata));
    let surplus = old.len().saturating_sub(limit);
    old.into_iter().take(surplus).filter(|set| is_empty(set)).cloned().collect()
}

fn is_empty(set: &ReplicaSet) -> bool {
    let observed = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    size(set) == 0 && actual(set) == 0 && observed >= set.metadata.generation.unwrap_or(0)
}

#[cfg(test)]
mod tests;

//! A Deployment's spec in numbers: sizes, surge, patience.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How many pods the Deployment wants.
pub(crate) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// What its pods look like.
pub(crate) fn template(deployment: &Deployment) -> Option<&PodTemplateSpec> {
    deployment.spec.as_ref().map(|spec| &spec.template)
}

/// How long a pod must be ready to be available.
pub(crate) fn min_ready_seconds(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).filter(|seconds| *seconds != 0)
}

/// Whether a person has stopped rollouts.
pub(crate) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

/// Whether all old pods must be gone before new ones come.
pub(crate) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// How long a rollout may go without progress; `None` is for ever.
pub(crate) fn progress_deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    // The largest value is how upstream spells "no deadline".
    (seconds != i32::MAX).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// How many pods there may be beyond `replicas` during a rollout.
pub(crate) fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { fenceposts(deployment).surge }
}

/// How many of `replicas` may be unavailable during a rollout.
pub(crate) fn max_unavailable(deployment: &Deployment) -> i32 {
    let replicas = replicas(deployment);
    if is_recreate(deployment) || replicas == 0 {
        0
    } else {
        fenceposts(deployment).unavailable.min(replicas)
    }
}

struct Fenceposts {
    surge: i32,
    unavailable: i32,
}

/// Both bounds in pods. Surge rounds up and unavailable down; if both came out
/// as zero nothing could ever move, so then one pod may be unavailable.
fn fenceposts(deployment: &Deployment) -> Fenceposts {
    let spec: Option<&DeploymentSpec> = deployment.spec.as_ref();
    let rolling = spec
        .and_then(|spec| spec.strategy.as_ref())
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let of = replicas(deployment);
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable =
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let (surge, unavailable) =
        (scaled(surge, of, Rounding::Up), scaled(unavailable, of, Rounding::Down));
    if surge == 0 && unavailable == 0 {
        return Fenceposts { surge: 0, unavailable: 1 };
    }
    Fenceposts { surge, unavailable }
}

/// To which side a percentage of pods is rounded.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rounding {
    /// To more pods.
    Up,
    /// To fewer pods.
    Down,
}

/// An absolute number, or a percentage `of` a number of pods. Validation lets
/// nothing else through; what still cannot be read counts as zero.
pub(crate) fn scaled(value: &IntOrString, of: i32, rounding: Rounding) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 =
                text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let product = percent * i64::from(of);
            let pods = match rounding {
                Rounding::Up => (product + 99) / 100,
                Rounding::Down => product / 100,
            };
            i32::try_from(pods).unwrap_or(i32::MAX)
        }
    }
}

/// How many pods a set is asked to have.
pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How many pods a set has.
pub(crate) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// How many of them are available, as far as reported.
pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// How many available pods may be counted on: after a resize the report is
/// old, and the pods beyond the new size are about to go.
pub(crate) fn serving(set: &ReplicaSet) -> i32 {
    available(set).min(size(set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::fixtures::{rolling, with_strategy};

    #[test]
    fn bounds_are_rounded_for_safety() {
        let (number, percent) = (IntOrString::Int, |text: &str| IntOrString::String(text.into()));
        let cases = [
            ("defaults of 4", 4, percent("25%"), percent("25%"), (1, 1)),
            ("defaults of 3", 3, percent("25%"), percent("25%"), (1, 0)),
            ("defaults of 1", 1, percent("25%"), percent("25%"), (1, 0)),
            ("numbers", 10, number(3), number(2), (3, 2)),
            ("both zero", 10, number(0), number(0), (0, 1)),
            ("zero after rounding", 3, number(0), percent("10%"), (0, 1)),
            ("unavailable above replicas", 2, number(1), number(5), (1, 2)),
            ("no replicas", 0, percent("25%"), percent("25%"), (0, 0)),
        ];
        for (name, replicas, surge, unavailable, expected) in cases {
            let deployment = rolling(replicas, "web:1", surge, unavailable);
            assert_eq!((max_surge(&deployment), max_unavailable(&deployment)), expected, "{name}");
        }
        let recreate = with_strategy(4, "web:1", "Recreate");
        assert_eq!((max_surge(&recreate), max_unavailable(&recreate)), (0, 0));
    }
}

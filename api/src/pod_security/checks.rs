//! The checks of the Pod Security Standards, those of `baseline` first and
//! each group in the order of upstream's names for them.

mod baseline;
mod restricted;
mod words;

use serde_json::Value;

use super::{Level, Policy, Version, Violation};

/// Finds what one check is about in a pod.
pub(super) type Check = fn(Version, &Value) -> Option<Violation>;

/// How far a check of `baseline` counts under `restricted`.
#[derive(PartialEq)]
enum Under {
    Both,
    /// A stricter check of `restricted` takes its place.
    BaselineOnly,
}

const BASELINE: [(Check, Under); 12] = [
    (baseline::app_armor, Under::Both),
    (baseline::capabilities, Under::BaselineOnly),
    (baseline::host_namespaces, Under::Both),
    (baseline::host_path, Under::BaselineOnly),
    (baseline::host_ports, Under::Both),
    (baseline::probe_hosts, Under::Both),
    (baseline::privileged, Under::Both),
    (baseline::proc_mount, Under::BaselineOnly),
    (baseline::se_linux, Under::Both),
    (baseline::seccomp, Under::BaselineOnly),
    (baseline::sysctls, Under::Both),
    (baseline::host_process, Under::Both),
];

const RESTRICTED: [Check; 7] = [
    restricted::privilege_escalation,
    restricted::capabilities,
    restricted::proc_mount,
    restricted::volumes,
    restricted::run_as_non_root,
    restricted::run_as_user,
    restricted::seccomp,
];

/// The checks of a policy in the order of their messages.
pub(super) fn of(policy: Policy) -> impl Iterator<Item = Check> {
    let restricted = policy.level == Level::Restricted;
    let baseline = BASELINE.iter().filter(move |(_, under)| !restricted || *under == Under::Both);
    let more = RESTRICTED.iter().filter(move |_| restricted);
    baseline.map(|(check, _)| *check).chain(more.copied())
}

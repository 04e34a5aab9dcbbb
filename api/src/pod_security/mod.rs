//! The Pod Security Standards: what a pod may ask of its host.
//!
//! A namespace's labels name a [`Level`] and a [`Version`] for each of three
//! modes ([`Policies`]); [`violations`] says what about a pod goes beyond one
//! of them. The checks stand in `checks`, in the order in which messages list
//! them.
//!
//! Rules and texts: the Pod Security Standards of Kubernetes v1.35.

mod checks;

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::catalogue::{FieldError, FieldReason};

/// Prefix of the labels that set a namespace's policies.
const PREFIX: &str = "pod-security.kubernetes.io/";

/// The newest version whose checks are known.
const NEWEST: u32 = 35;

/// How much a pod may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to lead to the host.
    Baseline,
    /// What hardened pods need.
    Restricted,
}

/// The Kubernetes version whose checks apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The newest.
    Latest,
    /// Version 1.N.
    Minor(u32),
}

/// A level as of a version, written `restricted:latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How much.
    pub level: Level,
    /// As of when.
    pub version: Version,
}

/// The policies of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    /// Pods beyond it are refused.
    pub enforce: Policy,
    /// Pods and workloads beyond it are noted in the audit log.
    pub audit: Policy,
    /// Whoever creates pods and workloads beyond it is warned.
    pub warn: Policy,
}

/// One way in which a pod goes beyond a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What, such as `privileged`.
    pub reason: &'static str,
    /// Where; may be empty.
    pub detail: String,
}

impl Version {
    /// Whether checks that came with version 1.`minor` apply.
    fn since(self, minor: u32) -> bool {
        match self {
            Self::Latest => true,
            Self::Minor(this) => this.min(NEWEST) >= minor,
        }
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err(()),
        }
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let minor = text.strip_prefix("v1.").ok_or(())?;
        let plain = minor.bytes().all(|byte| byte.is_ascii_digit())
            && (minor == "0" || !minor.starts_with('0'));
        if plain { minor.parse().map(Self::Minor).map_err(drop) } else { Err(()) }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })?;
        match self.version {
            Version::Latest => f.write_str(":latest"),
            Version::Minor(minor) => write!(f, ":v1.{minor}"),
        }
    }
}

impl Policies {
    /// Reads a namespace's labels. What a label does not say is `privileged`
    /// and `latest`; what it says wrongly is an error, and `restricted` where
    /// the level decides whether pods are refused.
    pub fn of(namespace: &Value) -> (Self, Vec<FieldError>) {
        let mut errors = Vec::new();
        let labels = &namespace["metadata"]["labels"];
        let mut read = |mode: &str, fallback: Level| {
            let mut policy = Policy { level: Level::Privileged, version: Version::Latest };
            let (level, version) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
            let mut refuse = |key: &str, value: &str, detail: &str| {
                errors.push(FieldError {
                    field: format!("metadata.labels[{key}]"),
                    reason: FieldReason::Invalid,
                    value: value.into(),
                    detail: detail.to_owned(),
                });
            };
            if let Some(text) = labels[&level].as_str() {
                policy.level = text.parse().unwrap_or_else(|()| {
                    refuse(&level, text, "must be one of privileged, baseline, restricted");
                    fallback
                });
            }
            if let Some(text) = labels[&version].as_str() {
                policy.version = text.parse().unwrap_or_else(|()| {
                    refuse(&version, text, "must be \"latest\" or \"v1.x\"");
                    Version::Latest
                });
            }
            policy
        };
        let policies = Self {
            enforce: read("enforce", Level::Restricted),
            audit: read("audit", Level::Privileged),
            warn: read("warn", Level::Privileged),
        };
        (policies, errors)
    }
}

/// Where a pod or a workload's template keeps `metadata` and `spec`. `None`
/// for kinds that make no pods.
pub fn template<'a>(group: &str, resource: &str, object: &'a Value) -> Option<&'a Value> {
    let path = match (group, resource) {
        ("", "pods") => "",
        ("", "podtemplates") => "/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "/spec/template",
        _ => return None,
    };
    object.pointer(path).filter(|template| template["spec"].is_object())
}

/// Everything about a pod that goes beyond a policy.
pub fn violations(policy: Policy, pod: &Value) -> Vec<Violation> {
    if policy.level == Level::Privileged {
        return Vec::new();
    }
    checks::of(policy).filter_map(|check| check(policy.version, pod)).collect()
}

/// The violations in one line, with or without the places.
pub fn describe(violations: &[Violation], with_details: bool) -> String {
    let texts: Vec<String> = violations
        .iter()
        .map(|violation| match violation.detail.as_str() {
            "" => violation.reason.to_owned(),
            _ if !with_details => violation.reason.to_owned(),
            detail => format!("{} ({detail})", violation.reason),
        })
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests;

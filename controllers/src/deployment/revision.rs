//! Revisions: which ReplicaSet stands for the Deployment's template of now,
//! which ones for earlier templates, and how their annotations tell.
//!
//! `kubectl rollout history` lists the ReplicaSets by their
//! `deployment.kubernetes.io/revision`, and `rollout undo` copies the template
//! of one of them back into the Deployment. Nothing here has to know of a
//! rollback: a template that was there before finds its old ReplicaSet, which
//! then takes the next revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use super::spec::{self, max_surge, replicas};
use crate::error::Error;
use crate::meta;

/// Label that tells the pods of one ReplicaSet from those of its siblings.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// Annotation: position in the Deployment's history.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation: earlier positions of a ReplicaSet that came back.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotation: `spec.replicas` of the Deployment when the set was sized.
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation: the same plus the surge allowed then.
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that are about the Deployment itself and not its template.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// Letters and digits that spell no words by accident.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The ReplicaSets of a Deployment, sorted by role.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sets {
    /// The one with the Deployment's template of now.
    pub(crate) new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub(crate) old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    /// Sorts the sets a Deployment owns. Of several with its template the
    /// oldest is the new one, so that all passes agree.
    pub(crate) fn of(deployment: &Deployment, mut owned: Vec<Arc<ReplicaSet>>) -> Self {
        owned.sort_by(|one, two| age(one).cmp(&age(two)));
        let template = spec::template(deployment);
        let new = owned
            .iter()
            .position(|set| template.is_some_and(|template| has_template(set, template)));
        let new = new.map(|position| owned.remove(position));
        Self { new, old: owned }
    }

    /// All of them, the new one last.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }
}

fn age(set: &ReplicaSet) -> (Option<jiff::Timestamp>, &str) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), meta::name(&set.metadata))
}

/// Whether the set makes pods from `template`, its own hash label aside.
fn has_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(own) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return false };
    own.spec == template.spec && without_hash(own) == without_hash(template)
}

fn without_hash(template: &PodTemplateSpec) -> ObjectMeta {
    let mut made = template.metadata.clone().unwrap_or_default();
    if let Some(labels) = &mut made.labels {
        labels.remove(HASH_LABEL);
    }
    // Only labels, annotations and finalizers reach the pods.
    ObjectMeta {
        labels: made.labels.filter(|labels| !labels.is_empty()),
        annotations: made.annotations.filter(|annotations| !annotations.is_empty()),
        finalizers: made.finalizers.filter(|finalizers| !finalizers.is_empty()),
        ..ObjectMeta::default()
    }
}

/// The template's hash: the same for equal templates whatever the build or the
/// machine, another one for each `collision`.
pub(crate) fn template_hash(
    template: &PodTemplateSpec,
    collision: Option<i32>,
) -> Result<String, Error> {
    let text = serde_json::to_vec(template)
        .map_err(|err| Error::Invalid(format!("pod template: {err}")))?;
    let mut hasher = Sha256::new();
    hasher.update(&text);
    if let Some(collision) = collision {
        hasher.update(collision.to_le_bytes());
    }
    let digest = hasher.finalize();
    Ok(digest
        .iter()
        .take(10)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect())
}

/// The ReplicaSet that a Deployment needs for its template of now.
pub(crate) fn new_set(
    deployment: &Deployment,
    template: &PodTemplateSpec,
    size: i32,
    revision: i64,
) -> Result<ReplicaSet, Error> {
    let hash = template_hash(
        template,
        deployment.status.as_ref().and_then(|status| status.collision_count),
    )?;
    let mut template = template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector =
        deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let mut annotations = copied_annotations(deployment);
    annotations.insert(REVISION.into(), revision.to_string());
    annotations.extend(size_annotations(deployment));
    Ok(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta::name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![meta::controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec::min_ready_seconds(deployment),
            selector,
            template: Some(template),
        }),
        status: None,
    })
}

/// The revision that the new set should carry: one above all the others.
pub(crate) fn next_revision(sets: &Sets) -> i64 {
    sets.old.iter().map(|set| revision_of(&set.metadata)).max().unwrap_or(0) + 1
}

/// The revision an object carries, 0 without one.
pub(crate) fn revision_of(meta: &ObjectMeta) -> i64 {
    meta::annotation(meta, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// The annotations the new set should have: the Deployment's, so that its
/// `kubernetes.io/change-cause` shows in the history, and its revision. The
/// set's own ones stay.
pub(crate) fn desired_annotations(
    deployment: &Deployment,
    set: &ReplicaSet,
    revision: i64,
) -> BTreeMap<String, String> {
    let mut annotations = set.metadata.annotations.clone().unwrap_or_default();
    annotations.extend(copied_annotations(deployment));
    let known = revision_of(&set.metadata);
    if known < revision {
        if known > 0 {
            let history = annotations.entry(REVISION_HISTORY.into()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&known.to_string());
        }
        annotations.insert(REVISION.into(), revision.to_string());
    }
    annotations
}

fn copied_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let annotations = deployment.metadata.annotations.iter().flatten();
    annotations
        .filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The annotations that record for what size of Deployment a set was sized.
pub(crate) fn size_annotations(deployment: &Deployment) -> [(String, String); 2] {
    let desired = replicas(deployment);
    [
        (DESIRED_REPLICAS.into(), desired.to_string()),
        (MAX_REPLICAS.into(), desired.saturating_add(max_surge(deployment)).to_string()),
    ]
}

/// The Deployment's size when `set` was sized.
pub(crate) fn desired_replicas(set: &ReplicaSet) -> Option<i32> {
    meta::annotation(&set.metadata, DESIRED_REPLICAS)?.parse().ok()
}

/// The same with the surge allowed then.
pub(crate) fn max_replicas(set: &ReplicaSet) -> Option<i32> {
    meta::annotation(&set.metadata, MAX_REPLICAS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::fixtures::{deployment, set};
    use crate::testing;

    #[test]
    fn hash_tells_templates_apart() {
        let one = template_hash(&testing::template("web:1"), None).unwrap();
        assert_eq!(one, template_hash(&testing::template("web:1"), None).unwrap());
        assert_ne!(one, template_hash(&testing::template("web:2"), None).unwrap());
        assert_ne!(one, template_hash(&testing::template("web:1"), Some(1)).unwrap());
        assert_eq!(one.len(), 10);
        assert_eq!(one, "4fhkfv5cwg", "names must not depend on the build");
    }

    #[test]
    fn the_template_finds_its_set() {
        let deployment = deployment(3, "web:2");
        let sets =
            Sets::of(&deployment, vec![set("web:2", 1, 1), set("web:1", 2, 2), set("web:3", 0, 0)]);
        assert_eq!(sets.new, Some(set("web:2", 1, 1)));
        assert_eq!(sets.old.len(), 2);
    }

    #[test]
    fn a_set_that_comes_back_takes_the_next_revision() {
        let deployment = deployment(3, "web:1");
        let with_revision = |image, revision: i64| {
            let mut set = Arc::unwrap_or_clone(set(image, 0, 0));
            set.metadata.annotations = testing::labels(&[(REVISION, &revision.to_string())]);
            Arc::new(set)
        };
        let sets =
            Sets::of(&deployment, vec![with_revision("web:1", 1), with_revision("web:2", 2)]);
        assert_eq!(next_revision(&sets), 3);
        let new = sets.new.unwrap();
        let annotations = desired_annotations(&deployment, &new, 3);
        assert_eq!(annotations[REVISION], "3");
        assert_eq!(annotations[REVISION_HISTORY], "1");
        let mut settled = Arc::unwrap_or_clone(new);
        settled.metadata.annotations = Some(annotations.clone());
        assert_eq!(
            desired_annotations(&deployment, &settled, 3),
            annotations,
            "nothing is written twice"
        );
    }

    #[test]
    fn change_cause_is_copied_and_apply_state_is_not() {
        let mut deployment = deployment(3, "web:1");
        deployment.metadata.annotations = testing::labels(&[
            ("kubernetes.io/change-cause", "image web:1"),
            ("kubectl.kubernetes.io/last-applied-configuration", "{}"),
        ]);
        let set = new_set(&deployment, &testing::template("web:1"), 3, 1).unwrap();
        let annotations = set.metadata.annotations.unwrap();
        let names: Vec<&str> = annotations.keys().map(String::as_str).collect();
        assert_eq!(names, [DESIRED_REPLICAS, MAX_REPLICAS, REVISION, "kubernetes.io/change-cause"]);
        assert_eq!(annotations[MAX_REPLICAS], "4");
    }
}

//! The templates a DaemonSet had, as ControllerRevisions: `kubectl rollout
//! history` lists them and `rollout undo` applies one.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::deployment::template_hash;
use crate::error::Error;
use crate::meta;

/// Label of pods and revisions: the hash of the template.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";

/// What to do about the history.
#[derive(Debug, PartialEq)]
pub(crate) enum History {
    /// This revision stands for the template of now.
    Current(Arc<ControllerRevision>),
    /// An earlier one does: it takes this number.
    Renumber(Arc<ControllerRevision>, i64),
    /// None does yet.
    Create(Box<ControllerRevision>),
}

/// Compares the set's template with the revisions there are.
pub(crate) fn plan_history(
    set: &DaemonSet,
    observed: &[Arc<ControllerRevision>],
) -> Result<History, Error> {
    let Some(template) = set.spec.as_ref().map(|spec| &spec.template) else {
        return Err(Error::Invalid("the DaemonSet has no template".to_owned()));
    };
    let data = data(template)?;
    let newest = observed.iter().map(|revision| revision.revision).max().unwrap_or(0);
    let same = |revision: &&Arc<ControllerRevision>| {
        revision.data.as_ref().is_some_and(|known| known.0 == data)
    };
    let known = observed.iter().filter(same).max_by_key(|revision| revision.revision);
    Ok(match known {
        Some(known) if known.revision == newest => History::Current(Arc::clone(known)),
        Some(known) => History::Renumber(Arc::clone(known), newest + 1),
        None => {
            let collision = set.status.as_ref().and_then(|status| status.collision_count);
            let hash = template_hash(template, collision)?;
            let mut labels =
                template.metadata.as_ref().map(meta::labels).cloned().unwrap_or_default();
            labels.insert(HASH_LABEL.into(), hash.clone());
            History::Create(Box::new(ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(format!("{}-{hash}", meta::name(&set.metadata))),
                    namespace: set.metadata.namespace.clone(),
                    labels: Some(labels),
                    annotations: change_cause(set),
                    owner_references: Some(vec![meta::controller_reference(set)]),
                    ..ObjectMeta::default()
                },
                data: Some(RawExtension(data)),
                revision: newest + 1,
            }))
        }
    })
}

/// Old revisions beyond the limit that no pod carries, oldest first.
pub(crate) fn plan_cleanup(
    set: &DaemonSet,
    observed: &[Arc<ControllerRevision>],
    current: &str,
    in_use: impl Fn(&str) -> bool,
) -> Vec<Arc<ControllerRevision>> {
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let mut old: Vec<_> =
        observed.iter().filter(|revision| hash_of(&revision.metadata) != current).collect();
    old.sort_by_key(|revision| revision.revision);
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let unused = old.into_iter().filter(|revision| !in_use(hash_of(&revision.metadata)));
    unused.take(surplus).cloned().collect()
}

/// The template hash an object carries.
pub(crate) fn hash_of(meta: &ObjectMeta) -> &str {
    meta::labels(meta).get(HASH_LABEL).map(String::as_str).unwrap_or_default()
}

/// The patch that brings the template back, as `kubectl` applies it.
fn data(template: &PodTemplateSpec) -> Result<Value, Error> {
    let mut template = serde_json::to_value(template)
        .map_err(|err| Error::Invalid(format!("pod template: {err}")))?;
    template["$patch"] = json!("replace");
    Ok(json!({ "spec": { "template": template } }))
}

fn change_cause(set: &DaemonSet) -> Option<std::collections::BTreeMap<String, String>> {
    const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
    let cause = meta::annotation(&set.metadata, CHANGE_CAUSE)?;
    Some([(CHANGE_CAUSE.to_owned(), cause.to_owned())].into())
}

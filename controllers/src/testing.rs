//! Objects for the table tests.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::meta;

/// Metadata in namespace `default`; the uid is derived from the name.
pub(crate) fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some("default".into()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some("1".into()),
        creation_timestamp: Some(meta::time(Timestamp::from_second(0).unwrap())),
        ..ObjectMeta::default()
    }
}

/// Labels from pairs.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> Option<std::collections::BTreeMap<String, String>> {
    Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

/// A controlling reference to an object of that uid.
pub(crate) fn controlled_by(kind: &str, uid: &str) -> Vec<OwnerReference> {
    vec![OwnerReference {
        api_version: "apps/v1".into(),
        kind: kind.into(),
        name: uid.trim_start_matches("uid-").into(),
        uid: uid.into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]
}

/// A pending pod with label `app=web`.
pub(crate) fn pod(name: &str) -> Pod {
    Pod {
        metadata: ObjectMeta { labels: labels(&[("app", "web")]), ..meta(name) },
        spec: Some(PodSpec::default()),
        status: Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() }),
    }
}

/// A running pod on `node-1` that became ready at `since`.
pub(crate) fn ready_pod(name: &str, since: Timestamp) -> Pod {
    let mut pod = pod(name);
    pod.spec = Some(PodSpec { node_name: Some("node-1".into()), ..PodSpec::default() });
    pod.status = Some(PodStatus {
        phase: Some("Running".into()),
        conditions: Some(vec![PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(meta::time(since)),
            ..PodCondition::default()
        }]),
        ..PodStatus::default()
    });
    pod
}

/// A pod template running `image` with label `app=web`.
pub(crate) fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: labels(&[("app", "web")]), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "web".into(),
                image: Some(image.into()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
    }
}

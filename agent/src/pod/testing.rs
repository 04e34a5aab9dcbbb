//! Pods and containers for tests, in few words.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodSpec};
use serde_json::{Value, json};

use super::model::spec_hash;
use super::resources;
use crate::runtime::{Container, State, labels};

/// A second on the clock.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A pod with this spec: `p` in `ns` with UID `u`.
pub(crate) fn pod(spec: Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}),
    )
    .unwrap()
}

/// A container `NAME-ATTEMPT` in the first sandbox, made from a spec that has
/// nothing but the name; `img` counts as no image.
pub(crate) fn container(name: &str, attempt: u32, state: State) -> Container {
    let hash = spec_hash(&Spec { name: name.into(), ..Spec::default() });
    let labels = [
        (labels::CONTAINER, name.to_owned()),
        (labels::ATTEMPT, attempt.to_string()),
        (labels::CRASHES, "0".into()),
        (labels::SANDBOX_ATTEMPT, "0".into()),
        (labels::SPEC_HASH, hash),
        (labels::POD_NAME, "p".into()),
        (labels::POD_NAMESPACE, "ns".into()),
        (labels::POD_UID, "u".into()),
    ];
    Container {
        id: format!("{}-{attempt}", name.trim_start_matches('/')),
        name: String::new(),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        image: "img".into(),
        image_id: "sha256:1".into(),
        created: at(0),
        state,
        limits: resources::limits(&PodSpec::default(), None),
        user: None,
    }
}

/// A sandbox, alive or dead.
pub(crate) fn sandbox(attempt: u32, alive: bool) -> Container {
    let state = if alive {
        State::Running { pid: 1, started: at(0) }
    } else {
        State::Exited {
            exit_code: 137,
            oom_killed: false,
            error: String::new(),
            started: Some(at(0)),
            finished: at(999),
        }
    };
    let mut found = container(labels::SANDBOX, attempt, state);
    found.labels.insert(labels::SANDBOX_ATTEMPT.into(), attempt.to_string());
    found
}

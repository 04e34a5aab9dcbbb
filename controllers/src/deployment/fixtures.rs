//! Deployments and ReplicaSets for the table tests.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus,
    RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::testing;

/// A Deployment with a surge of one and none unavailable.
pub(crate) fn deployment(replicas: i32, image: &str) -> Deployment {
    rolling(replicas, image, IntOrString::Int(1), IntOrString::Int(0))
}

/// A Deployment that rolls within these bounds.
pub(crate) fn rolling(
    replicas: i32,
    image: &str,
    surge: IntOrString,
    unavailable: IntOrString,
) -> Deployment {
    let mut deployment = with_strategy(replicas, image, "RollingUpdate");
    let strategy = deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap();
    strategy.rolling_update = Some(RollingUpdateDeployment {
        max_surge: Some(surge),
        max_unavailable: Some(unavailable),
    });
    deployment
}

/// A Deployment with this strategy.
pub(crate) fn with_strategy(replicas: i32, image: &str, strategy: &str) -> Deployment {
    Deployment {
        metadata: testing::meta("web"),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            template: testing::template(image),
            strategy: Some(DeploymentStrategy {
                type_: Some(strategy.into()),
                rolling_update: None,
            }),
            progress_deadline_seconds: Some(600),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// A set of `size` pods from `image`, of which so many are available.
pub(crate) fn set(image: &str, size: i32, available: i32) -> Arc<ReplicaSet> {
    Arc::new(ReplicaSet {
        metadata: ObjectMeta {
            owner_references: Some(testing::controlled_by("Deployment", "uid-web")),
            ..testing::meta(&image.replace(':', "-"))
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            template: Some(testing::template(image)),
            ..ReplicaSetSpec::default()
        }),
        status: Some(ReplicaSetStatus {
            replicas: size,
            ready_replicas: Some(available),
            available_replicas: Some(available),
            ..ReplicaSetStatus::default()
        }),
    })
}

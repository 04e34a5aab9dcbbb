//! The core group: pods and what surrounds them.

use k8s_openapi::api::core::v1 as k;

use super::subresources::{
    PROXY_VERBS, SCALE, SCALE_PATHS, STATUS_VERBS, STREAM_VERBS, status, sub,
};
use super::{InitialStatus, Resource, Rules, ScalePaths, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const CORE: Resource = Resource {
    version: "v1",
    behaviour: &Typed::<k::ConfigMap> {
        validate: Some(validation::config_map_create),
        validate_update: Some(validation::config_map_update),
        printer: &table::CONFIG_MAP,
        ..Typed::PLAIN
    },
    ..Resource::BASE
};

/// Fields by which pods can be selected.
const POD_FIELDS: &[&str] = &[
    "spec.hostNetwork",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.nominatedNodeName",
    "status.phase",
    "status.podIP",
];

/// Fields by which events can be selected.
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.apiVersion",
    "involvedObject.fieldPath",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.resourceVersion",
    "involvedObject.uid",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// Notes in a new pod's status its quality-of-service class, and that its gates
/// keep it from being scheduled.
fn new_pod(pod: &mut k::Pod) {
    let (Some(spec), Some(status)) = (&pod.spec, &mut pod.status) else { return };
    status.qos_class = Some(validation::qos_class(spec).to_owned());
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        status.conditions = Some(vec![k::PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("SchedulingGated".to_owned()),
            message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
            last_transition_time: pod.metadata.creation_timestamp.clone(),
            observed_generation: pod.metadata.generation,
            ..k::PodCondition::default()
        }]);
    }
}

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        kind: "Binding",
        plural: "bindings",
        singular: "binding",
        verbs: &["create"],
        behaviour: &Typed::<k::Binding> {
            validate: Some(validation::binding_create),
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "ComponentStatus",
        plural: "componentstatuses",
        singular: "componentstatus",
        short_names: &["cs"],
        namespaced: false,
        verbs: &["get", "list"],
        behaviour: &Typed::<k::ComponentStatus> {
            printer: &table::COMPONENT_STATUS,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        behaviour: &Typed::<k::ConfigMap> {
            validate: Some(validation::config_map_create),
            validate_update: Some(validation::config_map_update),
            printer: &table::CONFIG_MAP,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        behaviour: &Typed::<k::Endpoints> {
            default: Some(defaults::endpoints),
            validate: Some(validation::endpoints_create),
            validate_update: Some(validation::endpoints_update),
            printer: &table::ENDPOINTS,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        behaviour: &Typed::<k::Event> {
            validate: Some(validation::event_create),
            validate_update: Some(validation::event_update),
            printer: &table::EVENT,
            selectable: EVENT_FIELDS,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: &["limits"],
        behaviour: &Typed::<k::LimitRange> {
            default: Some(defaults::limit_range),
            validate: Some(validation::limit_range_create),
            validate_update: Some(validation::limit_range_update),
            printer: &table::NAME_AND_CREATION,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[
            sub("finalize", "Namespace", "", "v1", &["update"]),
            status("Namespace", "", "v1"),
        ],
        behaviour: &Typed::<k::Namespace> {
            default: Some(defaults::namespace),
            validate: Some(validation::namespace_create),
            validate_update: Some(validation::namespace_update),
            rules: Rules {
                initial_status: InitialStatus::Phase("Active"),
                fixed_spec: true,
                ..Rules::STATUS
            },
            printer: &table::NAMESPACE,
            selectable: &["status.phase"],
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        subresources: &[
            sub("proxy", "NodeProxyOptions", "", "v1", PROXY_VERBS),
            status("Node", "", "v1"),
        ],
        behaviour: &Typed::<k::Node> {
            default: Some(defaults::node),
            validate: Some(validation::node_create),
            validate_update: Some(validation::node_update),
            rules: Rules { initial_status: InitialStatus::Given, ..Rules::STATUS },
            printer: &table::NODE,
            selectable: &["spec.unschedulable"],
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        subresources: &[status("PersistentVolumeClaim", "", "v1")],
        behaviour: &Typed::<k::PersistentVolumeClaim> {
            default: Some(defaults::persistent_volume_claim),
            validate: Some(validation::persistent_volume_claim_create),
            validate_update: Some(validation::persistent_volume_claim_update),
            rules: Rules { initial_status: InitialStatus::Phase("Pending"), ..Rules::STATUS },
            printer: &table::PERSISTENT_VOLUME_CLAIM,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: &["pv"],
        namespaced: false,
        subresources: &[status("PersistentVolume", "", "v1")],
        behaviour: &Typed::<k::PersistentVolume> {
            default: Some(defaults::persistent_volume),
            validate: Some(validation::persistent_volume_create),
            validate_update: Some(validation::persistent_volume_update),
            rules: Rules { initial_status: InitialStatus::Phase("Pending"), ..Rules::STATUS },
            printer: &table::PERSISTENT_VOLUME,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            sub("attach", "PodAttachOptions", "", "v1", STREAM_VERBS),
            sub("binding", "Binding", "", "v1", &["create"]),
            sub("ephemeralcontainers", "Pod", "", "v1", STATUS_VERBS),
            sub("eviction", "Eviction", "policy", "v1", &["create"]),
            sub("exec", "PodExecOptions", "", "v1", STREAM_VERBS),
            sub("log", "Pod", "", "v1", &["get"]),
            sub("portforward", "PodPortForwardOptions", "", "v1", STREAM_VERBS),
            sub("proxy", "PodProxyOptions", "", "v1", PROXY_VERBS),
            sub("resize", "Pod", "", "v1", STATUS_VERBS),
            status("Pod", "", "v1"),
        ],
        behaviour: &Typed::<k::Pod> {
            default: Some(defaults::pod),
            validate: Some(validation::pod_create),
            validate_update: Some(validation::pod_update),
            prepare: Some(new_pod),
            rules: Rules { initial_status: InitialStatus::Phase("Pending"), ..Rules::FULL },
            printer: &table::POD,
            selectable: POD_FIELDS,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        behaviour: &Typed::<k::PodTemplate> {
            default: Some(defaults::pod_template_object),
            validate: Some(validation::pod_template_create),
            validate_update: Some(validation::pod_template_update),
            rules: Rules::GENERATION,
            printer: &table::POD_TEMPLATE,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        subresources: &[SCALE, status("ReplicationController", "", "v1")],
        behaviour: &Typed::<k::ReplicationController> {
            default: Some(defaults::replication_controller),
            validate: Some(validation::replication_controller_create),
            validate_update: Some(validation::replication_controller_update),
            rules: Rules::FULL,
            printer: &table::REPLICATION_CONTROLLER,
            selectable: &["status.replicas"],
            ..Typed::PLAIN
        },
        scale: Some(&ScalePaths { selector: "/spec/selector", ..SCALE_PATHS }),
        ..CORE
    },
    Resource {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        subresources: &[status("ResourceQuota", "", "v1")],
        behaviour: &Typed::<k::ResourceQuota> {
            validate: Some(validation::resource_quota_create),
            validate_update: Some(validation::resource_quota_update),
            rules: Rules::STATUS,
            printer: &table::RESOURCE_QUOTA,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        behaviour: &Typed::<k::Secret> {
            default: Some(defaults::secret),
            validate: Some(validation::secret_create),
            validate_update: Some(validation::secret_update),
            printer: &table::SECRET,
            selectable: &["type"],
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[sub("token", "TokenRequest", "authentication.k8s.io", "v1", &["create"])],
        behaviour: &Typed::<k::ServiceAccount> {
            validate: Some(validation::service_account_create),
            validate_update: Some(validation::service_account_update),
            printer: &table::SERVICE_ACCOUNT,
            ..Typed::PLAIN
        },
        ..CORE
    },
    Resource {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[
            sub("proxy", "ServiceProxyOptions", "", "v1", PROXY_VERBS),
            status("Service", "", "v1"),
        ],
        behaviour: &Typed::<k::Service> {
            default: Some(defaults::service),
            validate: Some(validation::service_create),
            validate_update: Some(validation::service_update),
            rules: Rules::STATUS,
            printer: &table::SERVICE,
            selectable: &["spec.clusterIP", "spec.type"],
            ..Typed::PLAIN
        },
        ..CORE
    },
];

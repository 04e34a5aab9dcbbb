//! Services and pods with addresses for the table tests.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::testing;

/// A service `web` with one port that selects `app=web`.
pub(crate) fn service(port: i32, target_port: Option<IntOrString>) -> Service {
    Service {
        metadata: testing::meta("web"),
        spec: Some(ServiceSpec {
            cluster_ip: Some("10.96.0.7".into()),
            selector: testing::labels(&[("app", "web")]),
            ports: Some(vec![ServicePort { port, target_port, ..ServicePort::default() }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// A ready pod with this address.
pub(crate) fn pod(name: &str, ip: &str) -> Pod {
    let mut pod = testing::ready_pod(name, Timestamp::UNIX_EPOCH);
    pod.status.as_mut().unwrap().pod_ip = Some(ip.into());
    pod
}

//! Who serves a group version.

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;

/// The port of the service behind it.
pub fn api_service(service: &mut APIService) {
    if let Some(service) = service.spec.as_mut().and_then(|spec| spec.service.as_mut()) {
        service.port.get_or_insert(443);
    }
}

//! Claims to devices.

use k8s_openapi::api::resource::v1::{DeviceClaim, ResourceClaim, ResourceClaimTemplate};

use super::fill_text;

/// Fills in a ResourceClaim.
pub fn resource_claim(claim: &mut ResourceClaim) {
    if let Some(devices) = &mut claim.spec.devices {
        device_claim(devices);
    }
}

/// Fills in a ResourceClaimTemplate.
pub fn resource_claim_template(template: &mut ResourceClaimTemplate) {
    if let Some(devices) = &mut template.spec.spec.devices {
        device_claim(devices);
    }
}

/// One device, unless the claim says otherwise.
fn device_claim(claim: &mut DeviceClaim) {
    for request in claim.requests.iter_mut().flatten() {
        if let Some(exactly) = &mut request.exactly {
            one(&mut exactly.allocation_mode, &mut exactly.count);
        }
        for request in request.first_available.iter_mut().flatten() {
            one(&mut request.allocation_mode, &mut request.count);
        }
    }
}

fn one(mode: &mut Option<String>, count: &mut Option<i64>) {
    fill_text(mode, "ExactCount");
    if mode.as_deref() == Some("ExactCount") && count.is_none_or(|count| count == 0) {
        *count = Some(1);
    }
}

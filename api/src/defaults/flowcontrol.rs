//! Flow schemas and priority levels.

use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};

use super::{fill, fill_nonzero};

/// Fills in a FlowSchema.
pub fn flow_schema(schema: &mut FlowSchema) {
    if let Some(spec) = &mut schema.spec {
        fill_nonzero(&mut spec.matching_precedence, 1000);
    }
}

/// Fills in a PriorityLevelConfiguration.
pub fn priority_level_configuration(level: &mut PriorityLevelConfiguration) {
    let Some(spec) = &mut level.spec else { return };
    if spec.type_ == "Exempt" {
        let exempt = spec.exempt.get_or_insert_default();
        fill(&mut exempt.nominal_concurrency_shares, 0);
        fill(&mut exempt.lendable_percent, 0);
    }
    if let Some(limited) = &mut spec.limited {
        // Zero shares are a choice; none given are thirty.
        fill(&mut limited.nominal_concurrency_shares, 30);
        fill(&mut limited.lendable_percent, 0);
        let response = limited.limit_response.as_mut();
        if let Some(queuing) = response.and_then(|response| response.queuing.as_mut()) {
            fill_nonzero(&mut queuing.hand_size, 8);
            fill_nonzero(&mut queuing.queues, 64);
            fill_nonzero(&mut queuing.queue_length_limit, 50);
        }
    }
}

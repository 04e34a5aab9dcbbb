//! Which group versions there are, and who serves each.
//!
//! The server keeps an object for each group version that it serves itself.
//! One that names a service asks for requests to be handed on to it; nothing
//! is handed on yet, so it is kept and says that it is not available.

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition,
};

use super::subresources::status;
use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

const GROUP: &str = "apiregistration.k8s.io";

pub(super) const ENTRIES: &[Resource] = &[Resource {
    group: GROUP,
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    categories: &["api-extensions"],
    namespaced: false,
    subresources: &[status("APIService", GROUP, "v1")],
    behaviour: &Typed::<APIService> {
        default: Some(defaults::api_service),
        validate: Some(validation::api_service_create),
        validate_update: Some(validation::api_service_update),
        prepare: Some(tell_availability),
        rules: Rules::STATUS,
        printer: &table::API_SERVICE,
        ..Typed::PLAIN
    },
    ..Resource::BASE
}];

/// What is served here is there as long as the server is.
fn tell_availability(service: &mut APIService) {
    let local = service.spec.as_ref().is_none_or(|spec| spec.service.is_none());
    let (status, reason, message) = if local {
        ("True", "Local", "Local APIServices are always available")
    } else {
        ("False", "NotAggregated", "requests are not handed on to other API servers")
    };
    service.status.get_or_insert_default().conditions = Some(vec![APIServiceCondition {
        type_: "Available".to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: service.metadata.creation_timestamp.clone(),
    }]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::catalogue::find;

    #[test]
    fn only_what_is_served_here_is_available() {
        let behaviour = find("apiregistration.k8s.io", "v1", "apiservices").unwrap().behaviour;
        let cases = [
            (json!({"group": "apps", "version": "v1"}), "True", "Local", json!(null)),
            (
                json!({"group": "a.example", "version": "v1", "service": {"namespace": "n", "name": "s"}}),
                "False",
                "n/s",
                json!(443),
            ),
        ];
        for (spec, available, shown, port) in cases {
            let mut object = json!({
                "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": spec,
                "status": {"conditions": [{"type": "Available", "status": "Unknown"}]},
            });
            object["spec"]["groupPriorityMinimum"] = json!(1);
            object["spec"]["versionPriority"] = json!(1);
            behaviour.normalize(&mut object).unwrap();
            behaviour.default(&mut object);
            behaviour.prepare_create(&mut object);
            assert_eq!(object["status"]["conditions"][0]["status"], available);
            assert_eq!(object["spec"]["service"]["port"], port);
            let row = behaviour.row(&object, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(row[1], shown);
            let cell = row[2].as_str().unwrap();
            assert!(cell.starts_with(available), "{cell}");
            assert_eq!(cell.contains("(NotAggregated)"), available == "False");
        }
    }
}

//! Who serves a group version.

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};

use super::meta::{MetaRules, check_create, check_update};
use super::names;
use super::path::{Errors, Path, or_default, text};
use crate::catalogue::{FieldError, Part};

/// The core group's are called `v1.`, which is no domain.
const META: MetaRules = MetaRules::cluster(names::path_segment_name);

const SPEC: Path<'static> = Path::root("spec");

/// Checks a new APIService.
pub fn api_service_create(service: &APIService) -> Vec<FieldError> {
    check_create(&service.metadata, META, |errors| api_service(errors, service))
}

/// Checks an update of an APIService.
pub fn api_service_update(new: &APIService, old: &APIService, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        api_service(errors, new);
        let aggregated = |of: &APIService| of.spec.as_ref().is_some_and(|s| s.service.is_some());
        if aggregated(new) && !aggregated(old) {
            let detail = "this server serves the group version itself";
            errors.forbidden(&SPEC.child("service"), detail);
        }
    })
}

fn api_service(errors: &mut Errors, service: &APIService) {
    let spec = or_default(&service.spec);
    let (group, version) = (text(&spec.group), text(&spec.version));
    let name = text(&service.metadata.name);
    let wanted = format!("{version}.{group}");
    if name != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.invalid(&Path::root("metadata.name"), name, detail);
    }
    if !group.is_empty() {
        errors.invalid_each(&SPEC.child("group"), group, names::dns1123_subdomain(group));
    }
    errors.invalid_each(&SPEC.child("version"), version, names::dns1035_label(version));
    let priorities = [
        ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
        ("versionPriority", spec.version_priority, 1000),
    ];
    for (field, value, most) in priorities {
        if !(1..=most).contains(&value) {
            let detail = format!("must be positive and less than {most}");
            errors.invalid(&SPEC.child(field), value, detail);
        }
    }
    backend(errors, &spec);
}

fn backend(errors: &mut Errors, spec: &APIServiceSpec) {
    let trusts_all = spec.insecure_skip_tls_verify.unwrap_or(false);
    let has_ca = spec.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty());
    let Some(service) = &spec.service else {
        if trusts_all {
            let detail = "local APIServices may not have a insecureSkipTLSVerify";
            errors.invalid(&SPEC.child("insecureSkipTLSVerify"), true, detail);
        }
        if has_ca {
            errors.forbidden(&SPEC.child("caBundle"), "local APIServices may not have a caBundle");
        }
        return;
    };
    let path = SPEC.child("service");
    for (field, value) in [("namespace", &service.namespace), ("name", &service.name)] {
        if text(value).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    if let Some(port) = service.port.filter(|port| !(1..=65_535).contains(port)) {
        errors.invalid(
            &path.child("port"),
            port,
            "port is not valid: must be between 1 and 65535, inclusive",
        );
    }
    if trusts_all && has_ca {
        let detail = "may not be true if caBundle is present";
        errors.invalid(&SPEC.child("insecureSkipTLSVerify"), true, detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with(change: Value) -> APIService {
        let mut object = json!({
            "metadata": {"name": "v1.a.example", "uid": "u", "resourceVersion": "1"},
            "spec": {
                "group": "a.example",
                "version": "v1",
                "groupPriorityMinimum": 100,
                "versionPriority": 10,
                "service": {"namespace": "n", "name": "s", "port": 443},
            },
        });
        for (key, value) in change.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_name_says_what_is_served_and_a_backend_is_whole() {
        let cases = [
            (json!({}), vec![]),
            (json!({"service": null}), vec![]),
            (json!({"version": "v2"}), vec!["metadata.name"]),
            (json!({"version": "2"}), vec!["metadata.name", "spec.version"]),
            (json!({"groupPriorityMinimum": 0}), vec!["spec.groupPriorityMinimum"]),
            (json!({"versionPriority": 1001}), vec!["spec.versionPriority"]),
            (json!({"service": {"name": "s"}}), vec!["spec.service.namespace"]),
            (
                json!({"service": {"namespace": "n", "name": "s", "port": 0}}),
                vec!["spec.service.port"],
            ),
            (
                json!({"service": null, "caBundle": "eA==", "insecureSkipTLSVerify": true}),
                vec!["spec.insecureSkipTLSVerify", "spec.caBundle"],
            ),
            (
                json!({"caBundle": "eA==", "insecureSkipTLSVerify": true}),
                vec!["spec.insecureSkipTLSVerify"],
            ),
        ];
        for (change, expected) in cases {
            let errors = api_service_create(&with(change.clone()));
            let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(fields, expected, "{change}");
        }
    }

    #[test]
    fn what_is_served_here_stays_here() {
        let (local, elsewhere) = (with(json!({"service": null})), with(json!({})));
        assert_eq!(api_service_update(&elsewhere, &local, Part::Main).len(), 1);
        assert_eq!(api_service_update(&local, &elsewhere, Part::Main), []);
        assert_eq!(api_service_update(&elsewhere, &elsewhere, Part::Main), []);
    }
}

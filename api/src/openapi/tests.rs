//! What kubectl looks for in the documents.

use std::collections::HashSet;

use serde_json::Value;

use super::*;

/// Collects the targets of all references below a value.
fn references<'a>(value: &'a Value, found: &mut HashSet<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        _ => {}
    }
}

#[test]
fn index_names_every_group_version() {
    let index = v3_index();
    let paths = index["paths"].as_object().unwrap();
    for path in
        ["api/v1", "apis/apps/v1", "apis/extensions/v1beta1", "apis/rbac.authorization.k8s.io/v1"]
    {
        let url = paths[path]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
    }
    assert_ne!(v3_hash("apps", "v1"), v3_hash("batch", "v1"));
    assert!(v3("apps", "v9").is_none());
}

#[test]
fn references_lead_somewhere() {
    let document = v2();
    let mut found = HashSet::new();
    references(&document, &mut found);
    for reference in found {
        let name = reference.strip_prefix("#/definitions/").unwrap();
        assert!(document["definitions"].get(name).is_some(), "{reference}");
    }
    for (group, versions) in catalogue::groups() {
        for version in versions {
            let document = v3(group, version).unwrap();
            let mut found = HashSet::new();
            references(&document, &mut found);
            for reference in found {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(
                    document["components"]["schemas"].get(name).is_some(),
                    "{group}/{version} {reference}"
                );
            }
        }
    }
}

#[test]
fn every_kind_can_be_found_by_its_name() {
    let definitions = v2()["definitions"].take();
    for resource in catalogue::all() {
        let gvk =
            json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        let has = |schema: &Value| {
            schema["x-kubernetes-group-version-kind"]
                .as_array()
                .is_some_and(|all| all.contains(&gvk))
        };
        assert_eq!(
            definitions.as_object().unwrap().values().filter(|schema| has(schema)).count(),
            1,
            "{gvk}"
        );
    }
}

#[test]
fn patches_tell_of_field_validation() {
    let document = v3("apps", "v1").unwrap();
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert!(names.contains(&json!("fieldValidation")) && names.contains(&json!("dryRun")));

    let paths = v2()["paths"].take();
    let scale = &paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");
    assert_eq!(
        paths["/api/v1/namespaces/{namespace}/pods/{name}/exec"]["post"]["x-kubernetes-action"],
        "connect"
    );
    assert!(paths["/api/v1/pods"]["get"]["operationId"] == "listCoreV1PodForAllNamespaces");
}

#[test]
fn operations_have_names_of_their_own() {
    let document = v2();
    let mut seen = HashSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for (method, operation) in item.as_object().unwrap() {
            if method != "parameters" {
                let id = operation["operationId"].as_str().unwrap();
                assert!(seen.insert(id), "{id}");
            }
        }
    }
}

#[test]
fn schemas_tell_how_lists_merge() {
    let document = v3("", "v1").unwrap();
    let schemas = &document["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    let ports = &schemas["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
    let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(schemas["io.k8s.api.core.v1.Pod"].get("required"), None);
    let spec = &schemas["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
}

#[test]
fn the_protobuf_form_is_not_empty() {
    assert!(v2_protobuf().len() > 500_000);
}

/// What the schema of a kind says of its field `spec`.
fn spec_of<'a>(definitions: &'a Value, name: &str) -> &'a Value {
    let reference = definitions[name]["properties"]["spec"]["$ref"].as_str().unwrap();
    &definitions[reference.strip_prefix("#/definitions/").unwrap()]
}

#[test]
fn old_workloads_need_no_selector() {
    let definitions = v2()["definitions"].take();
    let cases = [
        ("apps.v1.Deployment", true),
        ("apps.v1beta2.Deployment", true),
        ("apps.v1beta1.Deployment", false),
        ("apps.v1beta1.StatefulSet", false),
        ("extensions.v1beta1.Deployment", false),
        ("extensions.v1beta1.DaemonSet", false),
        ("extensions.v1beta1.ReplicaSet", false),
        ("apps.v1.ReplicaSet", true),
        ("apps.v1.DaemonSet", true),
        ("apps.v1.StatefulSet", true),
    ];
    for (name, expected) in cases {
        let spec = spec_of(&definitions, &format!("io.k8s.api.{name}"));
        let required = spec["required"].as_array().into_iter().flatten();
        assert_eq!(required.into_iter().any(|field| field == "selector"), expected, "{name}");
        let selector = &spec["properties"]["selector"]["$ref"];
        let target = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector";
        assert_eq!(selector, target, "{name}");
    }
    for kind in ["apps.v1.Deployment", "extensions.v1beta1.Deployment"] {
        let strategy =
            &spec_of(&definitions, &format!("io.k8s.api.{kind}"))["properties"]["strategy"];
        assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys", "{kind}");
    }
}

#[test]
fn old_ingresses_name_a_service_and_a_port() {
    let definitions = v2()["definitions"].take();
    for version in ["extensions.v1beta1", "networking.v1beta1"] {
        let of = |name: &str| &definitions[format!("io.k8s.api.{version}.{name}")];
        let backend = format!("#/definitions/io.k8s.api.{version}.IngressBackend");
        assert_eq!(of("IngressSpec")["properties"]["backend"]["$ref"], backend, "{version}");
        assert_eq!(of("IngressSpec")["properties"].get("defaultBackend"), None, "{version}");
        let path = of("HTTPIngressPath");
        assert_eq!(path["properties"]["backend"]["$ref"], backend, "{version}");
        assert_eq!(path["required"], json!(["backend"]), "{version}");
        let fields = &of("IngressBackend")["properties"];
        assert_eq!(fields["serviceName"]["type"], "string", "{version}");
        let port = "#/definitions/io.k8s.apimachinery.pkg.util.intstr.IntOrString";
        assert_eq!(fields["servicePort"]["$ref"], port, "{version}");
        assert_eq!(fields.get("service"), None, "{version}");
    }
    let current = &definitions["io.k8s.api.networking.v1.IngressSpec"]["properties"];
    assert!(current.get("defaultBackend").is_some() && current.get("backend").is_none());
}

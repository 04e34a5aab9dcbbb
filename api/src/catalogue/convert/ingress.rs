//! Ingresses of `extensions/v1beta1` and `networking.k8s.io/v1beta1`.
//!
//! ```text
//! v1beta1                          v1
//! spec.backend                     spec.defaultBackend
//! backend.serviceName: web         backend.service.name: web
//! backend.servicePort: 80          backend.service.port.number: 80
//! backend.servicePort: http        backend.service.port.name: http
//! pathType left out                pathType: ImplementationSpecific
//! ```

use serde_json::{Map, Value, json};

use super::rename;

/// Rewrites a v1beta1 ingress into a v1 one.
pub(in crate::catalogue) fn to_v1(ingress: &mut Value) {
    let Some(spec) = ingress.get_mut("spec").and_then(Value::as_object_mut) else { return };
    rename(spec, "backend", "defaultBackend");
    if let Some(backend) = spec.get_mut("defaultBackend").and_then(Value::as_object_mut) {
        backend_to_v1(backend);
    }
    for_each_path(spec, |path| {
        path.entry("pathType").or_insert_with(|| json!("ImplementationSpecific"));
        if let Some(backend) = path.get_mut("backend").and_then(Value::as_object_mut) {
            backend_to_v1(backend);
        }
    });
}

/// Rewrites a v1 ingress into a v1beta1 one.
pub(in crate::catalogue) fn from_v1(ingress: &mut Value) {
    let Some(spec) = ingress.get_mut("spec").and_then(Value::as_object_mut) else { return };
    rename(spec, "defaultBackend", "backend");
    if let Some(backend) = spec.get_mut("backend").and_then(Value::as_object_mut) {
        backend_from_v1(backend);
    }
    for_each_path(spec, |path| {
        if let Some(backend) = path.get_mut("backend").and_then(Value::as_object_mut) {
            backend_from_v1(backend);
        }
    });
}

fn for_each_path(spec: &mut Map<String, Value>, mut change: impl FnMut(&mut Map<String, Value>)) {
    let Some(Value::Array(rules)) = spec.get_mut("rules") else { return };
    for rule in rules {
        if let Some(Value::Array(paths)) = rule.pointer_mut("/http/paths") {
            paths.iter_mut().filter_map(Value::as_object_mut).for_each(&mut change);
        }
    }
}

fn backend_to_v1(backend: &mut Map<String, Value>) {
    let (name, port) = (backend.remove("serviceName"), backend.remove("servicePort"));
    let mut service = Map::new();
    if let Some(name) = name {
        service.insert("name".into(), name);
    }
    match port {
        Some(Value::String(name)) => _ = service.insert("port".into(), json!({"name": name})),
        Some(number) => _ = service.insert("port".into(), json!({"number": number})),
        None => {}
    }
    if !service.is_empty() {
        backend.insert("service".into(), Value::Object(service));
    }
}

fn backend_from_v1(backend: &mut Map<String, Value>) {
    let Some(Value::Object(mut service)) = backend.remove("service") else { return };
    if let Some(name) = service.remove("name") {
        backend.insert("serviceName".into(), name);
    }
    if let Some(Value::Object(mut port)) = service.remove("port")
        && let Some(port) = port.remove("name").or_else(|| port.remove("number"))
    {
        backend.insert("servicePort".into(), port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let old = json!({"spec": {
            "backend": {"serviceName": "fallback", "servicePort": "http"},
            "rules": [{"host": "h", "http": {"paths": [
                {"path": "/", "pathType": "ImplementationSpecific", "backend": {"serviceName": "web", "servicePort": 80}},
            ]}}],
        }});
        let new = json!({"spec": {
            "defaultBackend": {"service": {"name": "fallback", "port": {"name": "http"}}},
            "rules": [{"host": "h", "http": {"paths": [
                {"path": "/", "pathType": "ImplementationSpecific", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
            ]}}],
        }});
        let mut ingress = old.clone();
        to_v1(&mut ingress);
        assert_eq!(ingress, new);
        from_v1(&mut ingress);
        assert_eq!(ingress, old);
    }
}

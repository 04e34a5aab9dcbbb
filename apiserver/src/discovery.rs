//! Discovery: what this server serves, in the old shape (one document per
//! group and version) and the aggregated one (everything at once).
//!
//! Built from the catalogue at start; only which shape and how many bytes
//! differ per request.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use skiff_api::catalogue::{self, Resource};

use crate::negotiate::{Form, Output};
use crate::registry::json_response;
use crate::status::ApiError;
use crate::stream::usage;

/// The Kubernetes version whose API is served.
pub const KUBERNETES_VERSION: &str = "v1.35.0";

/// All discovery documents.
pub(crate) struct Discovery {
    legacy: Aggregated,
    groups: Aggregated,
    server_address: String,
}

/// One aggregated document with its tag.
struct Aggregated {
    value: Value,
    etag: String,
}

impl Discovery {
    /// Builds the documents. `server_address` is what `/api` names.
    pub(crate) fn new(server_address: String) -> Self {
        Self {
            legacy: Aggregated::new(&[""]),
            groups: Aggregated::new(&group_names()),
            server_address,
        }
    }

    /// Answers a discovery path. 404 for any other.
    pub(crate) fn page(&self, path: &str, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let value = match parts.as_slice() {
            [] => root(),
            ["version"] => version(),
            ["api"] => match Output::negotiate(headers)?.form {
                Form::Discovery(version) => return Ok(self.legacy.respond(version, headers)),
                _ => json!({
                    "kind": "APIVersions",
                    "versions": ["v1"],
                    "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": self.server_address}],
                }),
            },
            ["apis"] => match Output::negotiate(headers)?.form {
                Form::Discovery(version) => return Ok(self.groups.respond(version, headers)),
                _ => {
                    let groups: Vec<Value> = group_names().into_iter().map(group).collect();
                    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
                }
            },
            ["api", version] => resources("", version)?,
            ["apis", name] if group_names().contains(name) => {
                let mut group = group(name);
                group["kind"] = json!("APIGroup");
                group["apiVersion"] = json!("v1");
                group
            }
            ["apis", group, version] => resources(group, version)?,
            _ => return Err(ApiError::no_such_resource()),
        };
        Ok(json_response(StatusCode::OK, Body::from(value.to_string())))
    }
}

/// The groups but the core one, in order of preference.
pub(crate) fn group_names() -> Vec<&'static str> {
    catalogue::groups()
        .into_iter()
        .map(|(group, _)| group)
        .filter(|group| !group.is_empty())
        .chain([usage::GROUP])
        .collect()
}

/// The versions of a group, in order of preference.
pub(crate) fn versions(group: &str) -> Vec<&'static str> {
    if group == usage::GROUP {
        return vec![usage::VERSION];
    }
    let groups = catalogue::groups();
    groups
        .into_iter()
        .find(|(name, _)| *name == group)
        .map(|(_, versions)| versions)
        .unwrap_or_default()
}

fn group(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    catalogue::all()
        .iter()
        .filter(move |resource| resource.group == group && resource.version == version)
}

/// What is measured when asked and not in the catalogue, for nothing is stored.
fn measured(group: &str, version: &str) -> &'static [(&'static str, &'static str, bool)] {
    if (group, version) == (usage::GROUP, usage::VERSION) { &usage::RESOURCES } else { &[] }
}

/// `APIResourceList` of one group and version.
fn resources(group: &str, version: &str) -> Result<Value, ApiError> {
    let mut list = Vec::new();
    for (plural, kind, namespaced) in measured(group, version) {
        list.push(json!({
            "name": plural,
            "singularName": "",
            "namespaced": namespaced,
            "kind": kind,
            "verbs": ["get", "list"],
        }));
    }
    for resource in of(group, version) {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
        });
        name_shortly(resource, &mut entry);
        if resource.is_stored() {
            entry["storageVersionHash"] = json!(storage_hash(resource.stored()));
        }
        list.push(entry);
        for sub in resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if (sub.group, sub.version) != (resource.group, resource.version) {
                entry["group"] = json!(sub.group);
                entry["version"] = json!(sub.version);
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return Err(ApiError::no_such_resource());
    }
    let group_version =
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

/// Short names and categories. A dropped version has none, or kubectl would
/// warn of every short name that it means two kinds.
fn name_shortly(resource: &Resource, entry: &mut Value) {
    if resource.legacy.is_some_and(|legacy| legacy.warning.is_some()) {
        return;
    }
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
}

fn storage_hash(resource: &Resource) -> String {
    use base64::Engine as _;
    let digest =
        Sha256::digest(format!("{}/{}/{}", resource.group, resource.version, resource.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

impl Aggregated {
    fn new(groups: &[&str]) -> Self {
        let items: Vec<Value> = groups
            .iter()
            .map(|name| {
                let versions: Vec<Value> = versions(name)
                    .into_iter()
                    .map(|version| aggregated_version(name, version))
                    .collect();
                let metadata = if name.is_empty() {
                    json!({"creationTimestamp": null})
                } else {
                    json!({"name": name, "creationTimestamp": null})
                };
                json!({"metadata": metadata, "versions": versions})
            })
            .collect();
        let value = json!({"kind": "APIGroupDiscoveryList", "metadata": {}, "items": items});
        let digest = Sha256::digest(value.to_string());
        let etag = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        Self { value, etag }
    }

    fn respond(&self, version: &'static str, headers: &HeaderMap) -> Response<Body> {
        let quoted = format!("\"{}\"", self.etag);
        let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let mut response = if known.is_some_and(|known| known.contains(&quoted)) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            let mut value = self.value.clone();
            value["apiVersion"] = json!(format!("apidiscovery.k8s.io/{version}"));
            json_response(StatusCode::OK, Body::from(value.to_string()))
        };
        let media =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let headers = response.headers_mut();
        if let (Ok(media), Ok(etag)) =
            (HeaderValue::from_str(&media), HeaderValue::from_str(&quoted))
        {
            headers.insert(header::CONTENT_TYPE, media);
            headers.insert(header::ETAG, etag);
        }
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        response
    }
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let measured = measured(group, version).iter().map(|(plural, kind_name, namespaced)| {
        json!({
            "resource": plural,
            "responseKind": kind(group, version, kind_name),
            "scope": if *namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": "",
            "verbs": ["get", "list"],
        })
    });
    let stored = of(group, version).map(|resource| {
        let mut entry = json!({
            "resource": resource.plural,
            "responseKind": kind(resource.group, resource.version, resource.kind),
            "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": resource.singular,
            "verbs": resource.verbs,
        });
        name_shortly(resource, &mut entry);
        let subresources: Vec<Value> = resource
            .subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": kind(sub.group, sub.version, sub.kind),
                    "verbs": sub.verbs,
                })
            })
            .collect();
        if !subresources.is_empty() {
            entry["subresources"] = json!(subresources);
        }
        entry
    });
    let resources: Vec<Value> = measured.chain(stored).collect();
    json!({"version": version, "freshness": "Current", "resources": resources})
}

fn kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn root() -> Value {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .into();
    for name in group_names() {
        paths.push(format!("/apis/{name}"));
        paths.extend(versions(name).into_iter().map(|version| format!("/apis/{name}/{version}")));
    }
    paths.sort();
    json!({"paths": paths})
}

/// `/version`.
fn version() -> Value {
    json!({
        "major": "1",
        "minor": "35",
        "gitVersion": format!("{KUBERNETES_VERSION}+skiff{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

/// The architecture in Go's words, which clients compare with.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn get(path: &str, accept: &str) -> (u16, Value) {
        let discovery = Discovery::new("10.0.0.1:6443".to_owned());
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        match discovery.page(path, &headers) {
            Ok(response) => {
                let code = response.status().as_u16();
                let bytes = response.into_body().collect().await.unwrap().to_bytes();
                (code, serde_json::from_slice(&bytes).unwrap())
            }
            Err(error) => (error.code.as_u16(), error.to_value()),
        }
    }

    #[tokio::test]
    async fn both_shapes_name_the_same_resources() {
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let (_, all) = get("/apis", aggregated).await;
        assert_eq!(all["apiVersion"], "apidiscovery.k8s.io/v2");
        let (_, old) = get("/apis", "application/json").await;
        assert_eq!(old["groups"].as_array().unwrap().len(), all["items"].as_array().unwrap().len());
        for item in all["items"].as_array().unwrap() {
            let group = item["metadata"]["name"].as_str().unwrap();
            for version in item["versions"].as_array().unwrap() {
                let path = format!("/apis/{group}/{}", version["version"].as_str().unwrap());
                let (code, list) = get(&path, "application/json").await;
                assert_eq!(code, 200, "{path}");
                let plain = |name: &str| !name.contains('/');
                let names = list["resources"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|r| plain(r["name"].as_str().unwrap()));
                assert_eq!(names.count(), version["resources"].as_array().unwrap().len(), "{path}");
            }
        }
    }

    #[tokio::test]
    async fn unknown_paths_are_not_found() {
        for path in ["/apis/nope", "/apis/apps/v9", "/api/v9", "/nope"] {
            assert_eq!(get(path, "application/json").await.0, 404, "{path}");
        }
        let (_, version) = get("/version", "application/json").await;
        assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.35."));
    }
}

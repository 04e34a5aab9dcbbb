//! OpenAPI documents, made from the types and the catalogue.
//!
//! Two dialects: version 3 in one document per group version, which newer
//! clients read, and version 2 in one document for everything, as JSON and in
//! the protobuf form that older ones ask for. kubectl explains fields with
//! them, merges lists by them, and learns from the query parameters of a PATCH
//! whether the server validates fields itself.
//!
//! Documents are large and rarely asked for. They are made from scratch on each
//! call and not kept; the caller may keep the bytes.

mod legacy;
mod operations;
mod proto;
mod schemas;

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use crate::catalogue::{self, Resource};

/// Content type of the protobuf form of version 2, in answers.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// How kubectl asks for it. The sign `@` is not allowed in a media type, so an
/// answer must not repeat it: Go's parser refuses it.
pub const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The two versions of OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A reference to a schema.
    fn refer(self, name: &str) -> Value {
        let place = match self {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{place}{name}")})
    }
}

/// The index of version 3: where each group version's document is. The hash in
/// a URL changes when the document does, so that clients may keep it forever.
pub fn v3_index() -> Value {
    let mut paths = Map::new();
    for (group, versions) in catalogue::groups() {
        for version in versions {
            let root = root(group, version);
            let url = format!("/openapi/v3/{root}?hash={}", v3_hash(group, version));
            paths.insert(root, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// The hash that stands for the version 3 document of a group version.
pub fn v3_hash(group: &str, version: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), include_str!("../shape/types.txt")).hash(&mut hasher);
    for resource in members(group, version) {
        (resource.kind, resource.plural, resource.namespaced, resource.verbs).hash(&mut hasher);
        for sub in resource.subresources {
            (sub.name, sub.kind, sub.group, sub.version, sub.verbs).hash(&mut hasher);
        }
    }
    format!("{:016X}", hasher.finish())
}

/// The version 3 document of a group version; `None` if it is not served.
pub fn v3(group: &str, version: &str) -> Option<Value> {
    let members: Vec<&Resource> = members(group, version).collect();
    if members.is_empty() {
        return None;
    }
    let (dialect, mut paths) = (Dialect::V3, Map::new());
    for resource in &members {
        operations::add(&mut paths, resource, dialect);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {
            "schemas": schemas::of(members.into_iter(), dialect),
            "securitySchemes": {"BearerToken": bearer_token()},
        },
    }))
}

/// The version 2 document of everything.
pub fn v2() -> Value {
    let (dialect, mut paths) = (Dialect::V2, Map::new());
    for resource in catalogue::all() {
        operations::add(&mut paths, resource, dialect);
    }
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": schemas::of(catalogue::all().iter(), dialect),
        "securityDefinitions": {"BearerToken": bearer_token()},
        "security": [{"BearerToken": []}],
    })
}

/// The version 2 document in protobuf, for [`V2_PROTOBUF_ASKED`].
pub fn v2_protobuf() -> Vec<u8> {
    proto::encode(&v2())
}

fn members<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Resource> + 'a {
    catalogue::all().iter().filter(move |r| r.group == group && r.version == version)
}

/// `api/v1` or `apis/apps/v1`.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.35.0"})
}

fn bearer_token() -> Value {
    json!({"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer token authentication"})
}

#[cfg(test)]
mod tests;

//! What the server serves: kinds with their names, from aggregated discovery.

use anyhow::{Context, bail};
use serde_json::Value;

use super::connect::Session;

/// Discovery in one document, with the plain lists as a fallback of the client library's making.
const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One served kind.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) short_names: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) namespaced: bool,
    pub(super) subresources: Vec<String>,
}

/// All served kinds, in the server's order of preference.
#[derive(Debug)]
pub(super) struct Kinds(Vec<Kind>);

impl Kind {
    /// `v1` or `apps/v1`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`, as commands print it.
    pub(super) fn full_plural(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `pod` or `deployment.apps`, as commands print it.
    pub(super) fn full_singular(&self) -> String {
        if self.group.is_empty() {
            self.singular.clone()
        } else {
            format!("{}.{}", self.singular, self.group)
        }
    }

    /// The path of the collection; of all namespaces when none is given.
    pub(super) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let namespace = match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("/namespaces/{}", encode(namespace)),
            None => String::new(),
        };
        format!("{root}/{}{namespace}/{}", self.api_version(), self.plural)
    }

    /// The path of one object.
    pub(super) fn object_path(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.path(Some(namespace)), encode(name))
    }
}

/// A value as a part of a path or a query.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(byte.into())
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

impl Kinds {
    pub(super) async fn fetch(session: &Session) -> anyhow::Result<Self> {
        let mut kinds = Vec::new();
        for root in ["/api", "/apis"] {
            kinds.extend(kinds_of(&session.get_as(root, AGGREGATED).await?));
        }
        if kinds.is_empty() {
            bail!("the server does not say what it serves; it is too old for this client");
        }
        Ok(Self(kinds))
    }

    /// Finds a kind by any of its names: plural, singular, short or kind, with
    /// group and version if need be (`deploy`, `deployments.apps`, `deployments.v1.apps`).
    pub(super) fn find(&self, word: &str) -> anyhow::Result<&Kind> {
        let word = word.to_lowercase();
        let (name, rest) = word.split_once('.').unwrap_or((&word, ""));
        let is_named = |kind: &Kind| {
            kind.plural == name
                || kind.singular == name
                || kind.short_names.iter().any(|short| short == name)
                || kind.kind.to_lowercase() == name
        };
        let is_meant = |kind: &Kind| {
            let versioned = if kind.group.is_empty() {
                kind.version.clone()
            } else {
                format!("{}.{}", kind.version, kind.group)
            };
            rest.is_empty() || rest == kind.group || rest == versioned
        };
        let found = self.0.iter().find(|kind| is_named(kind) && is_meant(kind));
        found.with_context(|| format!("the server doesn't have a resource type {word:?}"))
    }

    /// The kinds of a word: a category such as `all`, or one kind.
    pub(super) fn expand(&self, word: &str) -> anyhow::Result<Vec<&Kind>> {
        let members: Vec<&Kind> = self
            .0
            .iter()
            .filter(|kind| kind.categories.iter().any(|category| category == word))
            .collect();
        if members.is_empty() { self.find(word).map(|kind| vec![kind]) } else { Ok(members) }
    }

    /// The kind of an object by what it says of itself.
    pub(super) fn of(&self, object: &Value) -> anyhow::Result<&Kind> {
        let (api_version, kind) = (
            object["apiVersion"].as_str().unwrap_or_default(),
            object["kind"].as_str().unwrap_or_default(),
        );
        let found =
            self.0.iter().find(|known| known.kind == kind && known.api_version() == api_version);
        found.with_context(|| {
            format!("the server knows no kind {kind:?} in version {api_version:?}")
        })
    }
}

fn kinds_of(document: &Value) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for group in list(&document["items"]) {
        for version in list(&group["versions"]) {
            for resource in list(&version["resources"]) {
                kinds.push(Kind {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: list(&resource["shortNames"]).iter().map(text).collect(),
                    categories: list(&resource["categories"]).iter().map(text).collect(),
                    namespaced: resource["scope"] == "Namespaced",
                    subresources: list(&resource["subresources"])
                        .iter()
                        .map(|sub| text(&sub["subresource"]))
                        .collect(),
                });
            }
        }
    }
    kinds
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Prints the kinds in `kubectl api-resources`' columns.
pub(super) async fn print(session: &Session) -> anyhow::Result<()> {
    let mut rows = vec![
        ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"].map(str::to_owned).to_vec(),
    ];
    for kind in &session.kinds().await?.0 {
        rows.push(vec![
            kind.plural.clone(),
            kind.short_names.join(","),
            kind.api_version(),
            kind.namespaced.to_string(),
            kind.kind.clone(),
        ]);
    }
    print!("{}", super::output::columns(&rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kinds() -> Kinds {
        let resource = |plural: &str, kind: &str, short: &str| {
            json!({"resource": plural, "singularResource": kind.to_lowercase(), "responseKind": {"kind": kind},
                   "shortNames": [short], "scope": "Namespaced", "verbs": ["get"], "categories": ["all"]})
        };
        let group = |name: &str, resources: Vec<Value>| json!({"metadata": {"name": name}, "versions": [{"version": "v1", "resources": resources}]});
        Kinds(kinds_of(&json!({"items": [
            group("", vec![resource("pods", "Pod", "po"), resource("events", "Event", "ev")]),
            group("apps", vec![resource("deployments", "Deployment", "deploy")]),
            group("events.k8s.io", vec![resource("events", "Event", "ev")]),
        ]})))
    }

    #[test]
    fn kinds_are_found_by_any_name() {
        let kinds = kinds();
        for word in ["po", "pod", "pods", "Pod", "PODS", "pods.v1"] {
            assert_eq!(
                kinds.find(word).unwrap().path(Some("ns")),
                "/api/v1/namespaces/ns/pods",
                "{word}"
            );
        }
        for word in ["deploy", "deployments.apps", "deployment.v1.apps"] {
            assert_eq!(kinds.find(word).unwrap().full_plural(), "deployments.apps", "{word}");
        }
        assert_eq!(kinds.find("events").unwrap().group, "", "the first group wins");
        assert_eq!(kinds.find("events.events.k8s.io").unwrap().group, "events.k8s.io");
        let unknown = kinds.find("ghosts").unwrap_err().to_string();
        assert_eq!(unknown, "the server doesn't have a resource type \"ghosts\"");
        assert_eq!(kinds.expand("all").unwrap().len(), 4);
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(
            kinds().find("po").unwrap().object_path("a/b", "../x?y"),
            "/api/v1/namespaces/a%2Fb/pods/..%2Fx%3Fy"
        );
    }
}

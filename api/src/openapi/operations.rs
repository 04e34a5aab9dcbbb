//! The paths of a document: what can be done with a resource, under which URL
//! and with which query parameters.

use serde_json::{Map, Value, json};

use super::schemas::{DELETE_OPTIONS, PATCH, STATUS, name_of, name_of_kind};
use super::{Dialect, root};
use crate::catalogue::{Resource, Subresource};

/// Adds the paths of a resource and its subresources.
pub(super) fn add(paths: &mut Map<String, Value>, resource: &Resource, dialect: Dialect) {
    let root = format!("/{}", root(resource.group, resource.version));
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", resource.plural);
    let item = format!("{collection}/{{name}}");
    let schema = name_of(resource);
    let writer = Writer { dialect, resource };

    let has = |verb: &str| resource.verbs.contains(&verb);
    let mut on_collection = Map::new();
    if has("list") {
        on_collection.insert("get".into(), writer.list("list", &schema));
    }
    if has("create") {
        on_collection.insert(
            "post".into(),
            writer.operation("create", "post", None, WRITE, Some(&schema), &schema),
        );
    }
    if has("deletecollection") {
        let body = Some(DELETE_OPTIONS);
        let operation = writer.operation(
            "deleteCollection",
            "deletecollection",
            None,
            LIST_AND_DELETE,
            body,
            STATUS,
        );
        on_collection.insert("delete".into(), operation);
    }
    writer.insert(paths, collection, on_collection);

    if resource.namespaced && has("list") {
        let mut everywhere = Map::new();
        everywhere.insert("get".into(), writer.list("listForAllNamespaces", &schema));
        writer.insert(paths, format!("{root}/{}", resource.plural), everywhere);
    }

    let mut on_item = Map::new();
    if has("get") {
        on_item.insert("get".into(), writer.operation("read", "get", None, READ, None, &schema));
    }
    if has("update") {
        on_item.insert(
            "put".into(),
            writer.operation("replace", "put", None, WRITE, Some(&schema), &schema),
        );
    }
    if has("patch") {
        on_item.insert(
            "patch".into(),
            writer.operation("patch", "patch", None, PATCHES, Some(PATCH), &schema),
        );
    }
    if has("delete") {
        let answer = if resource.returns_deleted() { schema.as_str() } else { STATUS };
        let operation =
            writer.operation("delete", "delete", None, DELETE, Some(DELETE_OPTIONS), answer);
        on_item.insert("delete".into(), operation);
    }
    writer.insert(paths, item.clone(), on_item);

    for sub in resource.subresources {
        let path = format!("{item}/{}", sub.name);
        writer.insert(paths, path, writer.subresource(sub));
    }
}

struct Writer<'a> {
    dialect: Dialect,
    resource: &'a Resource,
}

impl Writer<'_> {
    /// Adds a path with the parameters that its URL has.
    fn insert(
        &self,
        paths: &mut Map<String, Value>,
        path: String,
        mut operations: Map<String, Value>,
    ) {
        if operations.is_empty() {
            return;
        }
        let mut parameters = Vec::new();
        for (name, description) in
            [("name", "name of the object"), ("namespace", "namespace of the object")]
        {
            if path.contains(&format!("{{{name}}}")) {
                parameters.push(self.parameter(name, "path", "string", description));
            }
        }
        parameters.push(self.parameter(
            "pretty",
            "query",
            "string",
            "If 'true', then the output is pretty printed.",
        ));
        operations.insert("parameters".into(), Value::Array(parameters));
        paths.insert(path, Value::Object(operations));
    }

    fn list(&self, verb: &str, schema: &str) -> Value {
        self.operation(verb, "list", None, LIST, None, &format!("{schema}List"))
    }

    fn subresource(&self, sub: &Subresource) -> Map<String, Value> {
        // Verbs of a subresource that exchanges no kind are a connection's.
        let schema = name_of_kind(sub.group, sub.version, sub.kind).filter(|_| sub.name != "log");
        let mut operations = Map::new();
        for verb in sub.verbs {
            let (method, name, parameters) = match *verb {
                "get" => ("get", "read", READ),
                "update" => ("put", "replace", WRITE),
                "patch" => ("patch", "patch", PATCHES),
                "create" => ("post", "create", WRITE),
                _ => ("delete", "delete", DELETE),
            };
            let operation = match &schema {
                Some(schema) => {
                    let body = match method {
                        "get" => None,
                        "patch" => Some(PATCH),
                        "delete" => Some(DELETE_OPTIONS),
                        _ => Some(schema.as_str()),
                    };
                    self.operation(name, method, Some(sub), parameters, body, schema)
                }
                None if sub.name == "log" => {
                    self.operation("read", "get", Some(sub), LOG, None, "")
                }
                None => self.operation(
                    &format!("connect {method}"),
                    "connect",
                    Some(sub),
                    &[],
                    None,
                    "",
                ),
            };
            operations.insert(method.into(), operation);
        }
        operations
    }

    /// One operation. Without the name of a schema it answers with text.
    fn operation(
        &self,
        verb: &str,
        action: &str,
        sub: Option<&Subresource>,
        parameters: &[Parameter],
        body: Option<&str>,
        answer: &str,
    ) -> Value {
        let resource = self.resource;
        let (group, version, kind) = match sub {
            Some(sub) => (sub.group, sub.version, sub.kind),
            None => (resource.group, resource.version, resource.kind),
        };
        let mut parameters: Vec<Value> =
            parameters.iter().map(|p| self.parameter(p.0, "query", p.1, p.2)).collect();
        let mut operation = json!({
            "description": self.describe(verb, sub),
            "operationId": self.id(verb, sub),
            "tags": [tag(resource)],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        let content = ["application/json", "application/yaml"];
        match self.dialect {
            Dialect::V2 => {
                operation["consumes"] =
                    if action == "patch" { json!(PATCH_TYPES) } else { json!(["*/*"]) };
                operation["produces"] =
                    if answer.is_empty() { json!(["*/*"]) } else { json!(content) };
                operation["schemes"] = json!(["https"]);
                if let Some(body) = body {
                    let required = body != DELETE_OPTIONS;
                    parameters.push(json!({
                        "name": "body", "in": "body", "required": required, "schema": self.dialect.refer(body),
                    }));
                }
                let schema = if answer.is_empty() {
                    json!({"type": "string"})
                } else {
                    self.dialect.refer(answer)
                };
                operation["responses"] = json!({
                    "200": {"description": "OK", "schema": schema},
                    "401": {"description": "Unauthorized"},
                });
            }
            Dialect::V3 => {
                if let Some(body) = body {
                    let types = if action == "patch" { PATCH_TYPES } else { &["*/*"] };
                    operation["requestBody"] =
                        json!({"content": self.content(types, self.dialect.refer(body))});
                    // What is not required does not say so, as upstream.
                    if body != DELETE_OPTIONS {
                        operation["requestBody"]["required"] = json!(true);
                    }
                }
                let answer = match answer {
                    "" => self.content(&["*/*"], json!({"type": "string"})),
                    answer => self.content(&content, self.dialect.refer(answer)),
                };
                operation["responses"] = json!({
                    "200": {"description": "OK", "content": answer},
                    "401": {"description": "Unauthorized"},
                });
            }
        }
        if !parameters.is_empty() {
            operation["parameters"] = Value::Array(parameters);
        }
        operation
    }

    fn content(&self, types: &[&str], schema: Value) -> Value {
        types.iter().map(|name| ((*name).to_owned(), json!({"schema": schema}))).collect()
    }

    fn parameter(&self, name: &str, place: &str, r#type: &str, description: &str) -> Value {
        let mut parameter = json!({"name": name, "in": place, "description": description});
        let schema = json!({"type": r#type, "uniqueItems": true});
        match self.dialect {
            Dialect::V3 => parameter["schema"] = schema,
            Dialect::V2 => {
                parameter["type"] = schema["type"].clone();
                parameter["uniqueItems"] = json!(true);
            }
        }
        if place == "path" {
            parameter["required"] = json!(true);
        }
        parameter
    }

    fn describe(&self, verb: &str, sub: Option<&Subresource>) -> String {
        let kind = self.resource.kind;
        match (verb, sub) {
            ("list" | "listForAllNamespaces", _) => format!("list or watch objects of kind {kind}"),
            ("deleteCollection", _) => format!("delete collection of {kind}"),
            (verb, Some(sub)) => format!("{verb} {} of the specified {kind}", sub.name),
            ("create", None) => format!("create a {kind}"),
            (verb, None) => format!("{verb} the specified {kind}"),
        }
    }

    /// `readAppsV1NamespacedDeploymentStatus`.
    fn id(&self, verb: &str, sub: Option<&Subresource>) -> String {
        let resource = self.resource;
        let everywhere = verb == "listForAllNamespaces";
        let scope = if resource.namespaced && !everywhere { "Namespaced" } else { "" };
        let subject = format!(
            "{scope}{}{}",
            resource.kind,
            sub.map_or_else(String::new, |sub| capital(sub.name))
        );
        let place = format!("{}{}", group_name(resource.group), capital(resource.version));
        if let Some(method) = verb.strip_prefix("connect ") {
            return format!("connect{place}{}{subject}", capital(method));
        }
        match verb {
            "listForAllNamespaces" => format!("list{place}{subject}ForAllNamespaces"),
            "deleteCollection" => format!("delete{place}Collection{subject}"),
            _ => format!("{verb}{place}{subject}"),
        }
    }
}

/// Name, type and description of a query parameter.
type Parameter = (&'static str, &'static str, &'static str);

const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

const DRY_RUN: Parameter =
    ("dryRun", "string", "When present, modifications are not persisted. The only value is All.");
const FIELD_MANAGER: Parameter =
    ("fieldManager", "string", "Name of the actor that makes the changes.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What happens to unknown and duplicate fields: Ignore drops them, Warn drops them with a warning, Strict refuses the request.",
);
const FORCE: Parameter =
    ("force", "boolean", "Takes over fields that others own. Only for apply patches.");
const GRACE_PERIOD: Parameter =
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted.");
const ORPHAN: Parameter = ("orphanDependents", "boolean", "Deprecated: use propagationPolicy.");
const PROPAGATION: Parameter = (
    "propagationPolicy",
    "string",
    "What happens to dependent objects: Orphan, Background or Foreground.",
);
const LABELS: Parameter = ("labelSelector", "string", "Restricts the objects by their labels.");
const FIELDS: Parameter = ("fieldSelector", "string", "Restricts the objects by their fields.");
const LIMIT: Parameter = ("limit", "integer", "Most objects to return at once.");
const CONTINUE: Parameter = ("continue", "string", "Where the list before ended.");
const VERSION: Parameter =
    ("resourceVersion", "string", "The version that the answer must have seen.");
const VERSION_MATCH: Parameter =
    ("resourceVersionMatch", "string", "How resourceVersion is meant.");
const TIMEOUT: Parameter = ("timeoutSeconds", "integer", "How long the call may take.");
const WATCH: Parameter = ("watch", "boolean", "Stream the changes instead of returning a list.");
const BOOKMARKS: Parameter =
    ("allowWatchBookmarks", "boolean", "Send events that only tell the version.");
const INITIAL_EVENTS: Parameter =
    ("sendInitialEvents", "boolean", "Begin a watch with the objects that exist.");

const READ: &[Parameter] = &[];
const WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCHES: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const DELETE: &[Parameter] = &[DRY_RUN, GRACE_PERIOD, ORPHAN, PROPAGATION];
const LIST: &[Parameter] = &[
    BOOKMARKS,
    CONTINUE,
    FIELDS,
    LABELS,
    LIMIT,
    VERSION,
    VERSION_MATCH,
    INITIAL_EVENTS,
    TIMEOUT,
    WATCH,
];
const LIST_AND_DELETE: &[Parameter] = &[
    CONTINUE,
    DRY_RUN,
    FIELDS,
    GRACE_PERIOD,
    LABELS,
    LIMIT,
    ORPHAN,
    PROPAGATION,
    VERSION,
    VERSION_MATCH,
    INITIAL_EVENTS,
    TIMEOUT,
];
const LOG: &[Parameter] = &[
    ("container", "string", "The container, if the pod has more than one."),
    ("follow", "boolean", "Go on with what is written from now on."),
    ("limitBytes", "integer", "Most bytes to return."),
    ("previous", "boolean", "The log of the container's last run."),
    ("sinceSeconds", "integer", "Only lines of the last seconds."),
    ("tailLines", "integer", "Only the last lines."),
    ("timestamps", "boolean", "Begin each line with its time."),
];

fn tag(resource: &Resource) -> String {
    let group = resource.group.strip_suffix(".k8s.io").unwrap_or(resource.group);
    let mut words: Vec<String> = group.split('.').map(str::to_owned).collect();
    for word in words.iter_mut().skip(1) {
        *word = capital(word);
    }
    let group = if group.is_empty() { "core".to_owned() } else { words.concat() };
    format!("{group}_{}", resource.version)
}

/// `RbacAuthorization` of `rbac.authorization.k8s.io`.
fn group_name(group: &str) -> String {
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    if group.is_empty() { "Core".to_owned() } else { group.split('.').map(capital).collect() }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

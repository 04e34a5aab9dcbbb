//! The protobuf form of a version 2 document.
//!
//! kubectl asks for it before JSON. The messages follow the public definition
//! of `openapi.v2.Document`; only what our documents use is here, under its
//! field numbers.

use prost::{Message, Oneof};
use serde_json::{Map, Value};

/// Encodes a version 2 document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    Document {
        swagger: text(&document["swagger"]),
        info: Some(Info {
            title: text(&document["info"]["title"]),
            version: text(&document["info"]["version"]),
        }),
        paths: Some(Paths { path: named(&document["paths"], NamedPathItem::new) }),
        definitions: Some(Definitions {
            additional_properties: named(&document["definitions"], NamedSchema::new),
        }),
    }
    .encode_to_vec()
}

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Definitions>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedPathItem {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct PathItem {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
    #[prost(message, repeated, tag = "9")]
    parameters: Vec<ParametersItem>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(string, repeated, tag = "1")]
    tags: Vec<String>,
    #[prost(string, tag = "3")]
    description: String,
    #[prost(string, tag = "5")]
    operation_id: String,
    #[prost(string, repeated, tag = "6")]
    produces: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    consumes: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, optional, tag = "9")]
    responses: Option<Responses>,
    #[prost(string, repeated, tag = "10")]
    schemes: Vec<String>,
    #[prost(message, repeated, tag = "13")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, optional, tag = "1")]
    body_parameter: Option<BodyParameter>,
    #[prost(message, optional, tag = "2")]
    non_body_parameter: Option<NonBodyParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct BodyParameter {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    r#in: String,
    #[prost(bool, tag = "4")]
    required: bool,
    #[prost(message, optional, tag = "5")]
    schema: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NonBodyParameter {
    #[prost(oneof = "NonBody", tags = "3, 4")]
    parameter: Option<NonBody>,
}

#[derive(Clone, PartialEq, Oneof)]
enum NonBody {
    #[prost(message, tag = "3")]
    Query(QueryParameter),
    #[prost(message, tag = "4")]
    Path(PathParameter),
}

#[derive(Clone, PartialEq, Message)]
struct QueryParameter {
    #[prost(string, tag = "2")]
    r#in: String,
    #[prost(string, tag = "3")]
    description: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    r#type: String,
    #[prost(bool, tag = "20")]
    unique_items: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PathParameter {
    #[prost(bool, tag = "1")]
    required: bool,
    #[prost(string, tag = "2")]
    r#in: String,
    #[prost(string, tag = "3")]
    description: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    r#type: String,
    #[prost(bool, tag = "19")]
    unique_items: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Responses {
    #[prost(message, repeated, tag = "1")]
    response_code: Vec<NamedResponseValue>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedResponseValue {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<ResponseValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseValue {
    #[prost(message, optional, tag = "1")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(message, optional, tag = "2")]
    schema: Option<SchemaItem>,
}

#[derive(Clone, PartialEq, Message)]
struct SchemaItem {
    #[prost(message, optional, tag = "1")]
    schema: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Definitions {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<SchemaItem>>,
    #[prost(message, optional, tag = "22")]
    r#type: Option<TypeItem>,
    #[prost(message, optional, tag = "23")]
    items: Option<ItemsItem>,
    #[prost(message, optional, tag = "25")]
    properties: Option<Definitions>,
    #[prost(message, repeated, tag = "31")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeItem {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ItemsItem {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

impl NamedPathItem {
    fn new(name: &str, item: &Value) -> NamedPathItem {
        let operation = |method: &str| item.get(method).map(Operation::new);
        let value = PathItem {
            get: operation("get"),
            put: operation("put"),
            post: operation("post"),
            delete: operation("delete"),
            patch: operation("patch"),
            parameters: parameters(item),
        };
        NamedPathItem { name: name.to_owned(), value: Some(value) }
    }
}

impl Operation {
    fn new(operation: &Value) -> Operation {
        Operation {
            tags: texts(&operation["tags"]),
            description: text(&operation["description"]),
            operation_id: text(&operation["operationId"]),
            produces: texts(&operation["produces"]),
            consumes: texts(&operation["consumes"]),
            parameters: parameters(operation),
            responses: Some(Responses {
                response_code: named(&operation["responses"], NamedResponseValue::new),
            }),
            schemes: texts(&operation["schemes"]),
            vendor_extension: extensions(operation),
        }
    }
}

impl NamedResponseValue {
    fn new(name: &str, response: &Value) -> NamedResponseValue {
        let response = Response {
            description: text(&response["description"]),
            schema: response
                .get("schema")
                .map(|schema| SchemaItem { schema: Some(Schema::new(schema)) }),
        };
        NamedResponseValue {
            name: name.to_owned(),
            value: Some(ResponseValue { response: Some(response) }),
        }
    }
}

impl NamedSchema {
    fn new(name: &str, schema: &Value) -> NamedSchema {
        NamedSchema { name: name.to_owned(), value: Some(Schema::new(schema)) }
    }
}

impl Schema {
    fn new(schema: &Value) -> Schema {
        let boxed = |inner: &Value| Box::new(SchemaItem { schema: Some(Schema::new(inner)) });
        Schema {
            reference: text(&schema["$ref"]),
            format: text(&schema["format"]),
            description: text(&schema["description"]),
            required: texts(&schema["required"]),
            additional_properties: schema.get("additionalProperties").map(boxed),
            r#type: schema.get("type").map(|name| TypeItem { value: vec![text(name)] }),
            items: schema.get("items").map(|items| ItemsItem { schema: vec![Schema::new(items)] }),
            properties: schema
                .get("properties")
                .map(|all| Definitions { additional_properties: named(all, NamedSchema::new) }),
            vendor_extension: extensions(schema),
        }
    }
}

fn parameters(of: &Value) -> Vec<ParametersItem> {
    let all = of["parameters"].as_array().into_iter().flatten();
    all.map(|parameter| ParametersItem { parameter: Some(Parameter::new(parameter)) }).collect()
}

impl Parameter {
    fn new(parameter: &Value) -> Parameter {
        let (name, description) = (text(&parameter["name"]), text(&parameter["description"]));
        let (r#in, r#type) = (text(&parameter["in"]), text(&parameter["type"]));
        let required = parameter["required"] == true;
        let unique_items = parameter["uniqueItems"] == true;
        let non_body = match r#in.as_str() {
            "body" => {
                let schema = parameter.get("schema").map(Schema::new);
                let body = BodyParameter { description, name, r#in, required, schema };
                return Parameter { body_parameter: Some(body), non_body_parameter: None };
            }
            "path" => NonBody::Path(PathParameter {
                required,
                r#in,
                description,
                name,
                r#type,
                unique_items,
            }),
            _ => NonBody::Query(QueryParameter { r#in, description, name, r#type, unique_items }),
        };
        Parameter {
            body_parameter: None,
            non_body_parameter: Some(NonBodyParameter { parameter: Some(non_body) }),
        }
    }
}

/// Fields that begin with `x-`. Their values travel as YAML, of which JSON is
/// a part.
fn extensions(of: &Value) -> Vec<NamedAny> {
    let all = of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    all.map(|(name, value)| NamedAny {
        name: name.clone(),
        value: Some(Any { yaml: format!("{value}\n") }),
    })
    .collect()
}

fn named<T>(map: &Value, make: fn(&str, &Value) -> T) -> Vec<T> {
    let empty = Map::new();
    map.as_object().unwrap_or(&empty).iter().map(|(name, value)| make(name, value)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(values: &Value) -> Vec<String> {
    values.as_array().into_iter().flatten().map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn encodes_what_clients_read() {
        let document = json!({
            "swagger": "2.0",
            "paths": {"/api/v1/pods/{name}": {
                "parameters": [{"name": "name", "in": "path", "type": "string", "required": true}],
                "patch": {
                    "operationId": "patchPod",
                    "parameters": [{"name": "fieldValidation", "in": "query", "type": "string"}],
                    "x-kubernetes-group-version-kind": {"group": "", "version": "v1", "kind": "Pod"},
                },
            }},
            "definitions": {"P": {"type": "object", "properties": {"a": {"$ref": "#/definitions/Q"}}}},
        });
        let decoded = Document::decode(encode(&document).as_slice()).unwrap();
        let path = decoded.paths.unwrap().path.remove(0).value.unwrap();
        let patch = path.patch.unwrap();
        assert_eq!(patch.vendor_extension[0].name, "x-kubernetes-group-version-kind");
        let yaml = &patch.vendor_extension[0].value.as_ref().unwrap().yaml;
        assert_eq!(serde_json::from_str::<Value>(yaml).unwrap()["kind"], "Pod");
        let query =
            patch.parameters[0].parameter.clone().unwrap().non_body_parameter.unwrap().parameter;
        assert!(matches!(query, Some(NonBody::Query(query)) if query.name == "fieldValidation"));
        let schema = decoded.definitions.unwrap().additional_properties.remove(0).value.unwrap();
        assert_eq!(
            schema.properties.unwrap().additional_properties[0].value.as_ref().unwrap().reference,
            "#/definitions/Q"
        );
    }
}

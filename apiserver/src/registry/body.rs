//! Request bodies: bounded, JSON, YAML or protobuf, one object.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use crate::protobuf;
use crate::status::ApiError;

/// The largest body that is read, as upstream's.
pub(crate) const LIMIT: usize = 3 * 1024 * 1024;

/// YAML nests at most this deep once aliases are followed.
const YAML_DEPTH: usize = 128;

/// YAML may hold at most this many nodes once aliases are followed, so that a
/// small text cannot grow into a large value.
const YAML_NODES: usize = 200_000;

/// Media types that a body may have.
const ACCEPTED: &[&str] = &["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// Reads the whole body, up to the limit.
pub(crate) async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(err) if err.is::<http_body_util::LengthLimitError>() => Err(ApiError::too_large(LIMIT)),
        Err(_) => Err(ApiError::bad_request("the request body could not be read")),
    }
}

/// The media type of a body without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A body as a value with the JSON it was read from, if it was JSON.
pub(crate) struct Parsed {
    /// The value.
    pub(crate) value: Value,
    /// Keys that stood twice in one object; only looked for when wanted.
    pub(crate) duplicates: Vec<String>,
}

/// Reads JSON or YAML, as the content type says; without one the body is JSON.
pub(crate) fn parse(
    headers: &HeaderMap,
    bytes: &[u8],
    find_duplicates: bool,
) -> Result<Parsed, ApiError> {
    match media_type(headers).as_str() {
        "" | "application/json" | "*/*" => {
            let value = parse_json(bytes)?;
            let duplicates = if find_duplicates {
                skiff_api::catalogue::duplicate_fields(bytes)
            } else {
                Vec::new()
            };
            Ok(Parsed { value, duplicates })
        }
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            Ok(Parsed { value: parse_yaml(bytes)?, duplicates: Vec::new() })
        }
        protobuf::MEDIA_TYPE => match protobuf::decode(bytes) {
            Ok(value) => Ok(Parsed { value, duplicates: Vec::new() }),
            Err(error) => Err(ApiError::bad_request(error.to_string())),
        },
        _ => Err(ApiError::unsupported_media_type(ACCEPTED)),
    }
}

/// Reads JSON; nesting is bounded by the parser.
pub(crate) fn parse_json(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|err| {
        let why = if bytes.is_empty() {
            "unexpected end of JSON input".to_owned()
        } else {
            err.to_string()
        };
        ApiError::bad_request(format!("couldn't get version/kind; json parse error: {why}"))
    })
}

/// Reads YAML with bounds on depth and on what aliases unfold to.
pub(crate) fn parse_yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    let refuse =
        |why: String| ApiError::bad_request(format!("error converting YAML to JSON: {why}"));
    let yaml: serde_yaml::Value =
        serde_yaml::from_slice(bytes).map_err(|err| refuse(err.to_string()))?;
    let mut nodes = 0;
    to_json(yaml, 0, &mut nodes).map_err(refuse)
}

fn to_json(yaml: serde_yaml::Value, depth: usize, nodes: &mut usize) -> Result<Value, String> {
    *nodes += 1;
    if depth > YAML_DEPTH || *nodes > YAML_NODES {
        return Err("document is nested too deep or too large".to_owned());
    }
    Ok(match yaml {
        serde_yaml::Value::Null => Value::Null,
        serde_yaml::Value::Bool(flag) => Value::Bool(flag),
        serde_yaml::Value::Number(number) => {
            serde_json::to_value(&number).map_err(|_| format!("{number} is not a JSON number"))?
        }
        serde_yaml::Value::String(text) => Value::String(text),
        serde_yaml::Value::Sequence(items) => Value::Array(
            items
                .into_iter()
                .map(|item| to_json(item, depth + 1, nodes))
                .collect::<Result<_, _>>()?,
        ),
        serde_yaml::Value::Mapping(map) => {
            let mut object = serde_json::Map::new();
            for (key, value) in map {
                let key = match key {
                    serde_yaml::Value::String(key) => key,
                    serde_yaml::Value::Number(key) => key.to_string(),
                    serde_yaml::Value::Bool(key) => key.to_string(),
                    _ => return Err("a key is not a text".to_owned()),
                };
                object.insert(key, to_json(value, depth + 1, nodes)?);
            }
            Value::Object(object)
        }
        serde_yaml::Value::Tagged(tagged) => to_json(tagged.value, depth + 1, nodes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with_type(media: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
        headers
    }

    #[test]
    fn json_and_yaml_are_read_and_nothing_else() {
        let yaml = b"a: 1\nb: [x, true]\n3: y\n";
        let parsed = parse(&with_type("application/yaml; charset=utf-8"), yaml, false).unwrap();
        assert_eq!(parsed.value, json!({"a": 1, "b": ["x", true], "3": "y"}));
        let twice = parse(&with_type("application/json"), br#"{"a":1,"a":2}"#, true).unwrap();
        assert_eq!(twice.duplicates, ["a"]);
        for (media, code) in [
            ("application/vnd.kubernetes.protobuf", 400),
            ("text/plain", 415),
            ("application/json", 400),
        ] {
            let error = parse(&with_type(media), b"\x00k8s", false).err().unwrap();
            assert_eq!(error.code.as_u16(), code);
        }
    }

    #[test]
    fn yaml_cannot_grow_without_bound() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            let refs = vec![format!("*a{before}"); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert_eq!(parse_yaml(bomb.as_bytes()).unwrap_err().code.as_u16(), 400);
        let deep = "[".repeat(5000) + &"]".repeat(5000);
        assert_eq!(parse_yaml(deep.as_bytes()).unwrap_err().code.as_u16(), 400);
        assert_eq!(parse_json(deep.as_bytes()).unwrap_err().code.as_u16(), 400);
    }
}

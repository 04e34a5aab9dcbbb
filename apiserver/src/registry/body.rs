//! Request bodies: bounded, JSON, YAML or protobuf, one object.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use skiff_api::catalogue::{FieldValidation, field_problems, unknown_field};

use super::yaml::{self, Document};
use crate::protobuf;
use crate::status::ApiError;

/// The largest body that is read, as upstream's.
pub(crate) const LIMIT: usize = 3 * 1024 * 1024;

/// Media types that a body may have.
const ACCEPTED: &[&str] = &["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// Of a body over the limit as much is read and thrown away: a client that is
/// still sending would be cut off and never see why.
const DISCARDED: usize = 4 * LIMIT;

/// Reads the whole body, up to the limit.
pub(crate) async fn read(mut body: Body) -> Result<Bytes, ApiError> {
    let (mut size, mut first, mut rest) = (0, Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| ApiError::bad_request("the request body could not be read"))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size > LIMIT {
            (first, rest) = (Bytes::new(), BytesMut::new());
            if size > DISCARDED {
                break;
            }
        } else if size == data.len() {
            // Most bodies come in one piece, which need not be copied.
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    match size {
        _ if size > LIMIT => Err(ApiError::too_large(LIMIT)),
        _ if rest.is_empty() => Ok(first),
        _ => Ok(rest.freeze()),
    }
}

/// The media type of a body without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// What `fieldValidation` makes of complaints: nothing, warnings, or the text
/// of a refusal.
pub(super) fn judge(
    validation: FieldValidation,
    problems: Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => warnings.extend(problems),
        FieldValidation::Strict if problems.is_empty() => {}
        FieldValidation::Strict => return Err(problems.join(", ")),
    }
    Ok(())
}

/// A body as a value, and what there is to say of its fields.
pub(crate) struct Parsed<'a> {
    /// The value.
    pub(crate) value: Value,
    pub(crate) source: Source<'a>,
}

/// What complaints about fields are found in.
pub(crate) enum Source<'a> {
    /// The text itself.
    Json(&'a [u8]),
    /// The keys that stood twice in one object.
    Yaml(Vec<String>),
    /// Numbers have no names to misspell.
    Protobuf,
}

impl Source<'_> {
    /// The complaints about a body of whose fields the type does not know
    /// `unknown`, in upstream's words and order.
    pub(crate) fn problems(&self, unknown: &[String]) -> Vec<String> {
        let told = unknown.iter().map(|path| unknown_field(path));
        match self {
            Self::Json(bytes) => field_problems(bytes, unknown),
            Self::Yaml(twice) => {
                let twice = twice.iter().map(|key| format!("key {key:?} already set in map"));
                twice.chain(told).collect()
            }
            Self::Protobuf => told.collect(),
        }
    }
}

/// Reads JSON or YAML, as the content type says; without one the body is JSON.
pub(crate) fn parse<'a>(headers: &HeaderMap, bytes: &'a [u8]) -> Result<Parsed<'a>, ApiError> {
    match media_type(headers).as_str() {
        "" | "application/json" | "*/*" => {
            Ok(Parsed { value: parse_json(bytes)?, source: Source::Json(bytes) })
        }
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            let Document { value, twice } = parse_yaml(bytes)?;
            Ok(Parsed { value, source: Source::Yaml(twice) })
        }
        protobuf::MEDIA_TYPE => match protobuf::decode(bytes) {
            Ok(value) => Ok(Parsed { value, source: Source::Protobuf }),
            Err(error) => Err(ApiError::bad_request(error.to_string())),
        },
        _ => Err(ApiError::unsupported_media_type(ACCEPTED)),
    }
}

/// The object in a body, whatever its type; `None` when there is none.
pub(crate) fn peek(headers: &HeaderMap, bytes: &[u8]) -> Option<Value> {
    match media_type(headers) {
        _ if bytes.is_empty() => None,
        patch if patch.ends_with("+json") => parse_json(bytes).ok(),
        apply if apply.ends_with("+yaml") => parse_yaml(bytes).ok().map(|document| document.value),
        _ => parse(headers, bytes).ok().map(|parsed| parsed.value),
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

/// Reads YAML within bounds; see [`yaml`].
pub(crate) fn parse_yaml(bytes: &[u8]) -> Result<Document, ApiError> {
    yaml::parse(bytes)
        .map_err(|why| ApiError::bad_request(format!("error converting YAML to JSON: {why}")))
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
        let parsed = parse(&with_type("application/yaml; charset=utf-8"), yaml).unwrap();
        assert_eq!(parsed.value, json!({"a": 1, "b": ["x", true], "3": "y"}));
        let twice = parse(&with_type("application/json"), br#"{"a":1,"a":2}"#).unwrap();
        assert_eq!(twice.source.problems(&[]), [r#"duplicate field "a""#]);
        let twice = parse(&with_type("application/yaml"), b"{a: 1, a: 2, x: 1}").unwrap();
        let problems = twice.source.problems(&["x".to_owned()]);
        assert_eq!(problems, [r#"key "a" already set in map"#, r#"unknown field "x""#]);
        for (media, code) in [
            ("application/vnd.kubernetes.protobuf", 400),
            ("text/plain", 415),
            ("application/json", 400),
        ] {
            let error = parse(&with_type(media), b"\x00k8s").err().unwrap();
            assert_eq!(error.code.as_u16(), code);
        }
    }

    #[test]
    fn json_nests_within_bounds() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(parse_json(deep(100).as_bytes()).is_ok());
        for levels in [200, 10_000, 1_000_000] {
            assert_eq!(parse_json(deep(levels).as_bytes()).unwrap_err().code.as_u16(), 400);
        }
    }
}

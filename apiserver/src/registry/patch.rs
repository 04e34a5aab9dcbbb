//! Patch: JSON patch, merge patch and strategic merge patch; server-side apply
//! has a file of its own.

use axum::body::Body;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use skiff_api::catalogue::{
    FieldError, FieldReason, FieldValidation, duplicate_field, duplicate_fields, unknown_field,
};
use skiff_api::patch::{MAX_OPERATIONS, PatchError, apply_json, apply_merge, apply_strategic};
use skiff_api::shape::Struct;

use super::update::part_of;
use super::{Call, Registry, Reply, body, managed, object};
use crate::status::ApiError;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(super) const APPLY: &str = "application/apply-patch+yaml";

/// Fields of an operation of a JSON patch.
const OPERATION: [&str; 4] = ["from", "op", "path", "value"];

/// A patch as it was sent.
pub(super) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Registry {
    /// PATCH of an object, or of a subresource that has the object's shape.
    pub(super) async fn patch(&self, call: &Call, body: Body) -> Result<Reply, ApiError> {
        let bytes = body::read(body).await?;
        if managed::is_apply(call) {
            return self.apply(call, &bytes).await;
        }
        let patch = Patch::parse(&call.headers, &bytes)?;
        let repeated = match call.options.field_validation.0 {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn | FieldValidation::Strict => patch.problems(&bytes),
        };
        let name = call.info.name.as_str();
        let mut warnings = Vec::new();
        let part = part_of(call);
        let make = |old: &Value, _: &_| {
            let shown = object::view(call.resource, old.clone());
            let based_on = object::meta(&shown, "resourceVersion").to_owned();
            let mut new = patch.apply(shown, call.resource.behaviour.shape())?;
            // The patch names a resourceVersion only if it changed it; else it
            // applies to whatever is there.
            if object::meta(&new, "resourceVersion") == based_on {
                object::meta_mut(&mut new)?.insert("resourceVersion".into(), "".into());
            }
            keep_identity(&mut new, old)?;
            let list = managed::take(&mut new);
            // A lost race begins again.
            warnings.clear();
            decode(call, &mut new, &repeated, &mut warnings)?;
            managed::put(&mut new, list);
            Ok(new)
        };
        let bytes = self.replace(call, name, part, make).await?;
        Ok(Reply { code: StatusCode::OK, bytes, warnings })
    }
}

/// Reads a patched object in its own shape and leaves it in the stored one.
/// `repeated` is what there is to say of the patch itself.
fn decode(
    call: &Call,
    new: &mut Value,
    repeated: &[String],
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let validation = call.options.field_validation.0;
    let patched = match validation {
        FieldValidation::Strict => new.to_string(),
        _ => String::new(),
    };
    let unknown = call.resource.decode(new).map_err(|why| invalid_patch(&patched, &why))?;
    let unknown = unknown.iter().map(|path| unknown_field(path));
    body::judge(validation, repeated.iter().cloned().chain(unknown).collect(), warnings)
        .map_err(|why| invalid_patch(&patched, &format!("strict decoding error: {why}")))
}

/// A patch cannot rename an object or change its type.
fn keep_identity(new: &mut Value, old: &Value) -> Result<(), ApiError> {
    for field in ["name", "namespace"] {
        let (given, stored) = (object::meta(new, field).to_owned(), object::meta(old, field));
        if !given.is_empty() && given != stored {
            let what = if field == "name" {
                format!(
                    "the name of the object ({given}) does not match the name on the URL ({stored})"
                )
            } else {
                "the namespace of the provided object does not match the namespace sent on the request".to_owned()
            };
            return Err(ApiError::bad_request(what));
        }
        if given != stored {
            object::meta_mut(new)?.insert(field.into(), stored.into());
        }
    }
    Ok(())
}

impl Patch {
    /// Reads a patch of the kind that the content type names.
    pub(super) fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<Self, ApiError> {
        let media = body::media_type(headers);
        let object = |value: Value| match value {
            Value::Object(_) => Ok(value),
            _ => Err(ApiError::bad_request("the patch is not an object")),
        };
        match media.as_str() {
            JSON => {
                let value = body::parse_json(bytes)?;
                match value.as_array().map(Vec::len) {
                    None => Err(ApiError::bad_request("the patch is not a list of operations")),
                    Some(count) if count > MAX_OPERATIONS => Err(ApiError::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "RequestEntityTooLarge",
                        format!(
                            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
                        ),
                    )),
                    Some(_) => Ok(Self::Json(value)),
                }
            }
            MERGE => Ok(Self::Merge(object(body::parse_json(bytes)?)?)),
            STRATEGIC => Ok(Self::Strategic(object(body::parse_json(bytes)?)?)),
            _ => Err(ApiError::unsupported_media_type(&[JSON, MERGE, STRATEGIC, APPLY])),
        }
    }

    /// What there is to say of the fields of the patch, which was read from
    /// `bytes`.
    fn problems(&self, bytes: &[u8]) -> Vec<String> {
        let repeated = duplicate_fields(bytes);
        match self {
            Self::Json(operations) => {
                let at = |(nth, operation): (usize, &Value)| {
                    let fields = operation.as_object().into_iter().flat_map(|map| map.keys());
                    let unknown = fields.filter(|field| !OPERATION.contains(&field.as_str()));
                    unknown.map(|field| unknown_field(&format!("[{nth}].{field}"))).collect()
                };
                let operations = operations.as_array().into_iter().flatten().enumerate();
                let unknown = operations.flat_map(|operation| -> Vec<String> { at(operation) });
                let repeated = repeated.iter().map(|path| duplicate_field(path));
                repeated.chain(unknown).map(|problem| format!("json patch {problem}")).collect()
            }
            Self::Merge(_) | Self::Strategic(_) => {
                repeated.iter().map(|path| duplicate_field(path)).collect()
            }
        }
    }

    /// Applies the patch. `shape` says how lists of the target merge.
    pub(super) fn apply(
        &self,
        mut target: Value,
        shape: Option<&'static Struct>,
    ) -> Result<Value, ApiError> {
        match self {
            Self::Json(operations) => apply_json(&mut target, operations).map_err(refused)?,
            Self::Merge(patch) => apply_merge(&mut target, patch),
            Self::Strategic(patch) => {
                let shape =
                    shape.ok_or_else(|| ApiError::unsupported_media_type(&[JSON, MERGE]))?;
                apply_strategic(&mut target, patch, shape).map_err(refused)?;
            }
        }
        Ok(target)
    }
}

/// A patch that cannot be applied.
fn refused(error: PatchError) -> ApiError {
    match error {
        PatchError::Malformed(why) => ApiError::bad_request(why),
        PatchError::Unprocessable(why) => {
            let message =
                format!("the server rejected our request due to an error in our request: {why}");
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
        }
        PatchError::TooLarge(why) => {
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", why)
        }
    }
}

fn invalid_patch(patched: &str, why: &str) -> ApiError {
    let error = FieldError {
        field: "patch".to_owned(),
        reason: FieldReason::Invalid,
        value: patched.into(),
        detail: why.to_owned(),
    };
    ApiError::invalid("", "", "", vec![error])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_patches_are_read() {
        let parse = |media: &str, body: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::CONTENT_TYPE, media.parse().unwrap());
            Patch::parse(&headers, body.as_bytes()).map(|_| ()).map_err(|err| err.code.as_u16())
        };
        let cases = [
            (JSON, "[]", Ok(())),
            (JSON, "{}", Err(400)),
            (MERGE, "{}", Ok(())),
            (MERGE, "[]", Err(400)),
            (MERGE, "{", Err(400)),
            (STRATEGIC, "{}", Ok(())),
            ("application/json", "{}", Err(415)),
        ];
        for (media, body, expected) in cases {
            assert_eq!(parse(media, body), expected, "{media} {body}");
        }
        let many = format!("[{}]", vec!["{}"; MAX_OPERATIONS + 1].join(","));
        assert_eq!(parse(JSON, &many), Err(413));
    }
}

//! Query parameters, read once.

use std::time::Duration;

use skiff_api::catalogue::FieldValidation;

use crate::request_info::truthy;
use crate::status::ApiError;

/// What a client may say in a query beside the path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// `labelSelector`
    pub(crate) label_selector: String,
    /// `fieldSelector`
    pub(crate) field_selector: String,
    /// `limit`; 0 is none.
    pub(crate) limit: usize,
    /// `continue`
    pub(crate) continue_token: String,
    /// `resourceVersion`, `None` when absent or empty.
    pub(crate) resource_version: Option<u64>,
    /// `resourceVersionMatch`
    pub(crate) version_match: Option<VersionMatch>,
    /// `timeoutSeconds`
    pub(crate) timeout: Option<Duration>,
    /// `allowWatchBookmarks`
    pub(crate) bookmarks: bool,
    /// `sendInitialEvents`
    pub(crate) send_initial_events: Option<bool>,
    /// `dryRun=All`
    pub(crate) dry_run: bool,
    /// `fieldValidation`; upstream's default is `Warn`.
    pub(crate) field_validation: Validation,
    /// `pretty=true`
    pub(crate) pretty: bool,
    /// `gracePeriodSeconds`
    pub(crate) grace_period_seconds: Option<i64>,
    /// `propagationPolicy`
    pub(crate) propagation_policy: Option<String>,
    /// `orphanDependents`
    pub(crate) orphan_dependents: Option<bool>,
    /// `force`
    pub(crate) force: Option<bool>,
    /// `fieldManager`
    pub(crate) field_manager: String,
    /// `includeObject` of Tables.
    pub(crate) include_object: IncludeObject,
}

/// `resourceVersionMatch`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    /// The state at exactly this revision.
    Exact,
    /// Any state that is not older.
    NotOlderThan,
}

/// [`FieldValidation`] with upstream's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validation(pub(crate) FieldValidation);

impl Default for Validation {
    fn default() -> Self {
        Self(FieldValidation::Warn)
    }
}

/// How much of each object a Table's rows carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl Options {
    /// Reads a query string. Unknown parameters are ignored, malformed known
    /// ones refuse the request.
    pub(crate) fn parse(query: &str) -> Result<Self, ApiError> {
        let mut options = Self::default();
        // Of a parameter given twice the first counts, as it does for
        // authorization: read backwards, it is written last.
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        for (key, value) in pairs.into_iter().rev() {
            let text = || value.clone().into_owned();
            let flag = || truthy(Some(text()));
            match &*key {
                "labelSelector" => options.label_selector = text(),
                "fieldSelector" => options.field_selector = text(),
                "limit" if value.is_empty() => {}
                // Negative limits mean none.
                "limit" => options.limit = usize::try_from(number(&key, &value)?).unwrap_or(0),
                "continue" => options.continue_token = text(),
                "resourceVersion" if value.is_empty() => {}
                "resourceVersion" => {
                    let parsed = value.parse::<u64>().map_err(|_| {
                        ApiError::bad_request(format!(
                            "Invalid value: {value:?}: invalid resource version: {value:?}"
                        ))
                    })?;
                    options.resource_version = Some(parsed);
                }
                "resourceVersionMatch" => {
                    options.version_match = match &*value {
                        "" => None,
                        "Exact" => Some(VersionMatch::Exact),
                        "NotOlderThan" => Some(VersionMatch::NotOlderThan),
                        _ => {
                            return Err(list_options_invalid(
                                "resourceVersionMatch",
                                &value,
                                "supported values: \"Exact\", \"NotOlderThan\"",
                            ));
                        }
                    };
                }
                "timeoutSeconds" if value.is_empty() => {}
                "timeoutSeconds" => {
                    let seconds = u64::try_from(number(&key, &value)?).unwrap_or(0);
                    options.timeout = Some(Duration::from_secs(seconds));
                }
                "allowWatchBookmarks" => options.bookmarks = flag(),
                "sendInitialEvents" => options.send_initial_events = Some(flag()),
                "dryRun" => options.dry_run |= dry_run(&value)?,
                "fieldValidation" => {
                    options.field_validation = Validation(field_validation(&value)?)
                }
                // A browser's address bar may say just `?pretty`.
                "pretty" => options.pretty = flag(),
                "gracePeriodSeconds" => options.grace_period_seconds = Some(number(&key, &value)?),
                "propagationPolicy" => options.propagation_policy = Some(text()),
                "orphanDependents" => options.orphan_dependents = Some(flag()),
                "force" => options.force = Some(flag()),
                "fieldManager" => options.field_manager = text(),
                "includeObject" => {
                    options.include_object = match &*value {
                        "None" => IncludeObject::None,
                        "" | "Metadata" => IncludeObject::Metadata,
                        "Object" => IncludeObject::Object,
                        _ => {
                            return Err(ApiError::bad_request(format!(
                                "unrecognized includeObject value: {value:?}"
                            )));
                        }
                    };
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

/// `dryRun` knows one value.
pub(crate) fn dry_run(value: &str) -> Result<bool, ApiError> {
    match value {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(ApiError::bad_request(format!(
            "Invalid value: {other:?}: dryRun: Unsupported value: {other:?}: supported values: \"All\""
        ))),
    }
}

fn field_validation(value: &str) -> Result<FieldValidation, ApiError> {
    match value {
        "Ignore" => Ok(FieldValidation::Ignore),
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Strict" => Ok(FieldValidation::Strict),
        other => Err(ApiError::bad_request(format!(
            "fieldValidation: Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
        ))),
    }
}

fn number(key: &str, value: &str) -> Result<i64, ApiError> {
    value.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "strconv.ParseInt: parsing {value:?}: invalid syntax ({key})"
        ))
    })
}

/// 422 for list options that contradict each other.
pub(crate) fn list_options_invalid(field: &str, value: &str, detail: &str) -> ApiError {
    use skiff_api::catalogue::{FieldError, FieldReason};
    let error = FieldError {
        field: field.to_owned(),
        reason: FieldReason::Invalid,
        value: value.into(),
        detail: detail.to_owned(),
    };
    ApiError::invalid("meta.k8s.io", "ListOptions", "", vec![error])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        let options = Options::parse(
            "labelSelector=a%3Db&limit=5&resourceVersion=7&resourceVersionMatch=Exact&timeoutSeconds=3\
             &allowWatchBookmarks=true&dryRun=All&fieldValidation=Strict&pretty&unknown=1",
        )
        .unwrap();
        assert_eq!((options.label_selector.as_str(), options.limit), ("a=b", 5));
        assert_eq!(options.resource_version, Some(7));
        assert_eq!(options.version_match, Some(VersionMatch::Exact));
        assert_eq!(options.timeout, Some(Duration::from_secs(3)));
        assert!(options.bookmarks && options.dry_run && options.pretty);
        assert_eq!(options.field_validation.0, FieldValidation::Strict);
    }

    #[test]
    fn malformed_parameters_refuse() {
        for query in [
            "limit=x",
            "resourceVersion=-1",
            "dryRun=Some",
            "fieldValidation=Loose",
            "resourceVersionMatch=x",
        ] {
            let code = Options::parse(query).unwrap_err().code.as_u16();
            assert!(code == 400 || code == 422, "{query}: {code}");
        }
        assert_eq!(Options::parse("limit=-1").unwrap().limit, 0);
    }
}

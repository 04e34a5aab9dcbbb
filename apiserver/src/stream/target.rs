//! Where a stream goes: which container of a pod, on which node, with which
//! options. Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use skiff_api::catalogue::{FieldError, FieldReason};

use crate::{request_info::RequestInfo, status::ApiError};

/// Everything but what names are made of.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The node that a pod is bound to.
pub(super) fn node(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}

/// A path on the agent for the pod of a request.
pub(super) fn path(command: &str, info: &RequestInfo, container: Option<&str>) -> String {
    let mut path = String::new();
    for part in [command, &info.namespace, &info.name].into_iter().chain(container) {
        path.push('/');
        path.extend(utf8_percent_encode(part, SEGMENT));
    }
    path
}

/// The container that a request means: the one it names, or the only one.
pub(super) fn container(pod: &Value, named: Option<&str>) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<&str> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).collect()
    };
    let (containers, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(name) = named.filter(|name| !name.is_empty()) {
        let known = [&containers, &init, &ephemeral].iter().any(|list| list.contains(&name));
        return if known {
            Ok(name.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {name} is not valid for pod {pod_name}")))
        };
    }
    let annotated = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str();
    match (containers.as_slice(), annotated) {
        ([only], _) => Ok((*only).to_owned()),
        (many, Some(name)) if many.contains(&name) => Ok(name.to_owned()),
        _ => {
            let mut message = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                containers.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                let names = ephemeral.join(" ");
                message.push_str(&format!(" or one of the ephemeral containers: [{names}]"));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

/// Takes the container out of an exec or attach query; the rest goes on.
pub(super) fn split_container(query: &str) -> (Option<String>, String) {
    let mut container = None;
    let mut rest = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if key == "container" {
            container = Some(value.into_owned());
        } else {
            rest.append_pair(&key, &value);
        }
    }
    (container, rest.finish())
}

/// Why an agent has no log of a container, from the pod's status.
pub(super) fn no_log(pod: &Value, container: &str, previous: bool) -> String {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if previous {
        return format!("previous terminated container {container:?} in pod {name:?} not found");
    }
    let statuses = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let reason = statuses
        .iter()
        .flat_map(|list| pod["status"][*list].as_array().into_iter().flatten())
        .find(|status| status["name"] == container)
        .and_then(|status| status["state"]["waiting"]["reason"].as_str());
    match reason {
        Some(
            reason @ ("ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull"
            | "InvalidImageName"),
        ) => format!(
            "container {container:?} in pod {name:?} is waiting to start: trying and failing to \
             pull image ({reason})"
        ),
        Some(reason) => {
            format!("container {container:?} in pod {name:?} is waiting to start: {reason}")
        }
        None => format!("container {container:?} in pod {name:?} is not available"),
    }
}

/// The options of `pods/log`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LogQuery {
    pub(super) container: Option<String>,
    pub(super) previous: bool,
    /// What the agent is told, as it was checked.
    pairs: Vec<(&'static str, String)>,
}

impl LogQuery {
    /// Reads and checks a query. All that is wrong is said at once.
    pub(super) fn read(query: &str, pod: &str) -> Result<Self, ApiError> {
        let mut read = Self::default();
        let mut broken = Vec::new();
        let mut refuse = |field: &str, value: Value, reason, detail: &str| {
            broken.push(FieldError {
                field: field.to_owned(),
                reason,
                value,
                detail: detail.to_owned(),
            });
        };
        let (mut since_seconds, mut since_time) = (false, false);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let flag = || matches!(&*value, "true" | "1" | "");
            let number = |field: &str| {
                value.parse::<i64>().map_err(|_| {
                    ApiError::bad_request(format!("{field}: {value:?} is not a number"))
                })
            };
            let mut at_least = |field: &'static str, least: i64, number: i64| {
                if number < least {
                    let detail = format!("must be greater than or equal to {least}");
                    refuse(field, json!(number), FieldReason::Invalid, &detail);
                }
                (field, number.to_string())
            };
            match &*key {
                "container" => read.container = Some(value.into_owned()),
                "previous" if flag() => {
                    read.previous = true;
                    read.pairs.push(("previous", "true".to_owned()));
                }
                "follow" if flag() => read.pairs.push(("follow", "true".to_owned())),
                "timestamps" if flag() => read.pairs.push(("timestamps", "true".to_owned())),
                "tailLines" => {
                    let number = number("tailLines")?;
                    read.pairs.push(at_least("tailLines", 0, number));
                }
                "limitBytes" => {
                    let number = number("limitBytes")?;
                    read.pairs.push(at_least("limitBytes", 1, number));
                }
                "sinceSeconds" => {
                    let number = number("sinceSeconds")?;
                    since_seconds = true;
                    read.pairs.push(at_least("sinceSeconds", 1, number));
                }
                "sinceTime" => {
                    value.parse::<jiff::Timestamp>().map_err(|_| {
                        ApiError::bad_request(format!("sinceTime: {value:?} is not a time"))
                    })?;
                    since_time = true;
                    read.pairs.push(("sinceTime", value.into_owned()));
                }
                "stream" => match &*value {
                    "All" | "Stdout" | "Stderr" => {
                        read.pairs.push(("stream", value.into_owned()));
                    }
                    other => refuse(
                        "stream",
                        json!(other),
                        FieldReason::NotSupported,
                        "supported values: \"All\", \"Stderr\", \"Stdout\"",
                    ),
                },
                _ => {}
            }
        }
        if since_seconds && since_time {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            refuse("", Value::Null, FieldReason::Forbidden, detail);
        }
        let asked = |name: &str| read.pairs.iter().find(|(key, _)| *key == name);
        if asked("tailLines").is_some() && asked("stream").is_some_and(|(_, one)| one != "All") {
            let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
            refuse("", Value::Null, FieldReason::Forbidden, detail);
        }
        if broken.is_empty() {
            Ok(read)
        } else {
            Err(ApiError::invalid("", "PodLogOptions", pod, broken))
        }
    }

    /// The query for the agent.
    pub(super) fn forwarded(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.pairs).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &[&str], init: &[&str]) -> Value {
        let list = |names: &[&str]| -> Vec<Value> {
            names.iter().map(|name| json!({ "name": name })).collect()
        };
        json!({
            "metadata": { "name": "x" },
            "spec": { "containers": list(containers), "initContainers": list(init) },
        })
    }

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let one = pod(&["a"], &["i"]);
        let two = pod(&["a", "b"], &["i"]);
        assert_eq!(container(&one, None).unwrap(), "a");
        assert_eq!(container(&one, Some("i")).unwrap(), "i");
        assert_eq!(container(&two, Some("b")).unwrap(), "b");
        assert_eq!(
            container(&two, Some("z")).unwrap_err().message,
            "container z is not valid for pod x"
        );
        assert_eq!(
            container(&two, None).unwrap_err().message,
            "a container name must be specified for pod x, choose one of: [a b] or one of the init containers: [i]"
        );
        let mut chosen = pod(&["a", "b"], &[]);
        chosen["metadata"]["annotations"][DEFAULT_CONTAINER] = json!("b");
        assert_eq!(container(&chosen, None).unwrap(), "b");
    }

    #[test]
    fn log_options_are_checked() {
        let good =
            LogQuery::read("container=c&follow=true&tailLines=0&previous=false", "x").unwrap();
        assert_eq!(good.container.as_deref(), Some("c"));
        assert_eq!(good.forwarded(), "follow=true&tailLines=0");
        let cases = [
            (
                "tailLines=-1",
                "PodLogOptions \"x\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "limitBytes=0",
                "PodLogOptions \"x\" is invalid: limitBytes: Invalid value: 0: must be greater than or equal to 1",
            ),
            (
                "sinceSeconds=0&limitBytes=0",
                "PodLogOptions \"x\" is invalid: [sinceSeconds: Invalid value: 0: must be greater than or equal to 1, limitBytes: Invalid value: 0: must be greater than or equal to 1]",
            ),
            (
                "stream=Stdout&tailLines=3",
                "PodLogOptions \"x\" is invalid: : Forbidden: `tailLines` and specific `stream` are mutually exclusive for now",
            ),
            ("tailLines=x", "tailLines: \"x\" is not a number"),
            ("sinceTime=yesterday", "sinceTime: \"yesterday\" is not a time"),
        ];
        for (query, message) in cases {
            assert_eq!(LogQuery::read(query, "x").unwrap_err().message, message);
        }
        assert!(LogQuery::read("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", "x").is_err());
    }

    #[test]
    fn paths_cannot_be_left() {
        let info = RequestInfo {
            namespace: "a".to_owned(),
            name: "../x?y".to_owned(),
            ..RequestInfo::parse(&http::Method::GET, &"/".parse().unwrap())
        };
        assert_eq!(path("exec", &info, Some("c")), "/exec/a/..%2Fx%3Fy/c");
    }

    #[test]
    fn queries_pass_without_the_container() {
        let (container, rest) = split_container("command=sh&container=c&command=a%26b&stdin=true");
        assert_eq!(container.as_deref(), Some("c"));
        assert_eq!(rest, "command=sh&command=a%26b&stdin=true");
    }

    #[test]
    fn a_missing_log_is_explained() {
        let mut pod = pod(&["c"], &[]);
        pod["status"]["containerStatuses"] =
            json!([{ "name": "c", "state": { "waiting": { "reason": "ContainerCreating" } } }]);
        assert_eq!(
            no_log(&pod, "c", false),
            "container \"c\" in pod \"x\" is waiting to start: ContainerCreating"
        );
        assert_eq!(
            no_log(&pod, "c", true),
            "previous terminated container \"c\" in pod \"x\" not found"
        );
    }
}

//! The audit policy (`audit.k8s.io/v1`): how much of which request is written
//! down. The first rule that matches decides; what no rule matches is not
//! written down.

use serde::Deserialize;

use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// How much of a request is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what and how it ended.
    Metadata,
    /// And the request's object.
    Request,
    /// And the answer's.
    RequestResponse,
}

impl Level {
    /// Its name in policies and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// A moment in the life of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// Before it is served.
    RequestReceived,
    /// The answer's headers are sent and its body is not: watches and streams.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The server failed over it. Ours ends then, so this is never seen.
    Panic,
}

impl Stage {
    /// Its name in policies and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// A policy file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code, reason = "may stand in the file and says nothing to us")]
    metadata: serde_json::Value,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a policy says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How much.
    pub level: Level,
    /// When not.
    pub omit_stages: Vec<Stage>,
    /// Whether `managedFields` are left out of objects.
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy and refuses one that cannot mean what it says.
    pub fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = serde_yaml::from_str(text).map_err(|err| err.to_string())?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err(format!(
                "it is a {} of {}, not a Policy of audit.k8s.io/v1",
                policy.kind, policy.api_version
            ));
        }
        if policy.rules.is_empty() {
            return Err("it has no rules".to_owned());
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if of_resources && !rule.non_resource_urls.is_empty() {
                return Err(format!(
                    "rule {at} cannot apply to both resources and non-resource URLs"
                ));
            }
        }
        Ok(policy)
    }

    /// What is written down of a request.
    pub fn decide(&self, user: &UserInfo, info: &RequestInfo) -> Decision {
        match self.rules.iter().find(|rule| rule.matches(user, info)) {
            None => Decision {
                level: Level::None,
                omit_stages: self.omit_stages.clone(),
                omit_managed_fields: self.omit_managed_fields,
            },
            Some(rule) => Decision {
                level: rule.level,
                omit_stages: [self.omit_stages.as_slice(), &rule.omit_stages].concat(),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
        }
    }
}

impl Rule {
    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let lists =
            |list: &[String], text: &str| list.is_empty() || list.iter().any(|one| one == text);
        let groups = &self.user_groups;
        if !lists(&self.users, &user.name)
            || !(groups.is_empty() || groups.iter().any(|group| user.in_group(group)))
            || !lists(&self.verbs, info.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource_request
                && lists(&self.namespaces, &info.namespace)
                && (self.resources.is_empty()
                    || self.resources.iter().any(|resources| resources.matches(info)));
        }
        if !self.non_resource_urls.is_empty() {
            return !info.is_resource_request
                && self.non_resource_urls.iter().any(|spec| match spec.strip_suffix('*') {
                    Some(prefix) => info.path.starts_with(prefix),
                    None => info.path == *spec,
                });
        }
        true
    }
}

impl Resources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != info.api_group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty() || self.resource_names.contains(&info.name);
        let (resource, subresource) = (info.resource.as_str(), info.subresource.as_str());
        named
            && self.resources.iter().any(|spec| match spec.split_once('/') {
                None => spec == "*" || spec == resource && subresource.is_empty(),
                Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
                Some((own, "*")) => own == resource,
                Some((own, sub)) => own == resource && sub == subresource,
            })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: ["watch"]
  resources: [{group: "", resources: ["endpoints", "services"]}]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: Metadata
  resources: [{group: "", resources: ["secrets", "configmaps"]}]
- level: Request
  userGroups: ["dev"]
  resources: [{group: "", resources: ["pods/log", "*/status"]}, {group: "apps"}]
  omitStages: [ResponseStarted]
- level: RequestResponse
  namespaces: ["prod"]
  omitManagedFields: true
- level: None
  namespaces: [""]
- level: Metadata
"#;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::parse(POLICY).unwrap();
        let (dev, proxy) = (UserInfo::new("jane", ["dev"]), UserInfo::new("system:kube-proxy", []));
        let cases = [
            (&proxy, "/api/v1/services?watch=1", Level::None),
            (&proxy, "/api/v1/services", Level::None),
            (&proxy, "/api/v1/namespaces/prod/services", Level::RequestResponse),
            (&dev, "/healthz/ping", Level::None),
            (&dev, "/version", Level::None),
            (&dev, "/versions", Level::Metadata),
            (&dev, "/api/v1/namespaces/prod/secrets/x", Level::Metadata),
            (&dev, "/api/v1/namespaces/a/pods/x/log", Level::Request),
            (&dev, "/api/v1/namespaces/a/pods/x/status", Level::Request),
            (&dev, "/api/v1/namespaces/a/pods/x", Level::Metadata),
            (&dev, "/apis/apps/v1/namespaces/prod/deployments", Level::Request),
            (&dev, "/api/v1/namespaces/prod/pods", Level::RequestResponse),
            (&dev, "/api/v1/nodes", Level::None),
        ];
        for (user, uri, level) in cases {
            let info = RequestInfo::parse(&Method::GET, &uri.parse().unwrap());
            assert_eq!(policy.decide(user, &info).level, level, "{} {uri}", user.name);
        }
        let decide = |uri: &str| {
            policy.decide(&dev, &RequestInfo::parse(&Method::GET, &uri.parse().unwrap()))
        };
        let log = decide("/api/v1/namespaces/a/pods/x/log");
        assert_eq!(log.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(!log.omit_managed_fields);
        assert!(decide("/api/v1/namespaces/prod/pods").omit_managed_fields);
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        let cases = [
            String::new(),
            "kind: Policy\nrules: [{level: None}]".to_owned(),
            "apiVersion: audit.k8s.io/v1\nkind: Event\nrules: [{level: None}]".to_owned(),
            format!("{head}rules: []"),
            format!("{head}rules: [{{level: All}}]"),
            format!("{head}rules: [{{}}]"),
            format!("{head}rules: [{{level: None, user: [x]}}]"),
            format!("{head}rules: [{{level: None, omitStages: [Later]}}]"),
            format!("{head}rules: [{{level: None, namespaces: [a], nonResourceURLs: [/x]}}]"),
        ];
        for text in cases {
            assert!(Policy::parse(&text).is_err(), "{text}");
        }
    }
}

//! What a request is about, read from its method and URI alone.
//!
//! Authorization, admission, metrics and dispatch all look at this one value,
//! so they can never disagree on which object a path names.

use http::{Method, Uri};

/// A request as the API sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or
    /// `deletecollection`; for other paths the method in lower case.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub api_group: String,
    /// API version, such as `v1`.
    pub api_version: String,
    /// Plural resource name, such as `pods`.
    pub resource: String,
    /// Subresource, such as `log`; empty for the object itself.
    pub subresource: String,
    /// Namespace; empty for cluster-scoped requests.
    pub namespace: String,
    /// Object name; empty for collections.
    pub name: String,
    /// What follows the subresource in the path, without the leading slash
    /// (`/api/v1/…/proxy/REST`).
    pub rest: String,
    /// The whole path.
    pub path: String,
    /// Whether the path names a resource rather than `/healthz` and the like.
    pub is_resource_request: bool,
}

impl RequestInfo {
    /// Reads method and URI. Never fails: a path that names no resource is a
    /// non-resource request.
    pub fn parse(method: &Method, uri: &Uri) -> Self {
        let path = uri.path();
        let mut info = Self {
            verb: lower(method),
            api_group: String::new(),
            api_version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            rest: String::new(),
            path: path.to_owned(),
            is_resource_request: false,
        };
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        match parts.next() {
            Some("api") => {}
            Some("apis") => match parts.next() {
                Some(group) => group.clone_into(&mut info.api_group),
                None => return info,
            },
            _ => return info,
        }
        let Some(version) = parts.next() else {
            info.api_group.clear();
            return info;
        };
        version.clone_into(&mut info.api_version);
        let mut next = parts.next();
        let mut watch_path = false;
        match next {
            // The old spelling `/api/v1/watch/pods` of `?watch=true`.
            Some("watch") if parts.clone().next().is_some() => {
                watch_path = true;
                next = parts.next();
            }
            None => {
                info.api_group.clear();
                info.api_version.clear();
                return info;
            }
            _ => {}
        }
        info.is_resource_request = true;
        let mut next = next.map(decode);
        if next.as_deref() == Some("namespaces")
            && let Some(namespace) = parts.next()
        {
            let namespace = decode(namespace);
            match parts.next().map(decode) {
                // `/namespaces/x` and its subresources are about the object x.
                Some(sub) if sub != "status" && sub != "finalize" => {
                    info.namespace = namespace;
                    next = Some(sub);
                }
                sub => {
                    info.namespace.clone_from(&namespace);
                    info.name = namespace;
                    info.subresource = sub.unwrap_or_default();
                    info.resource = "namespaces".to_owned();
                    next = None;
                }
            }
        }
        if let Some(resource) = next {
            info.resource = resource;
            if let Some(name) = parts.next() {
                info.name = decode(name);
            }
            if let Some(subresource) = parts.next() {
                info.subresource = decode(subresource);
            }
        }
        info.rest = parts.collect::<Vec<_>>().join("/");
        if !info.rest.is_empty() && path.ends_with('/') {
            info.rest.push('/');
        }

        let query = uri.query().unwrap_or_default();
        info.verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if info.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            Method::GET | Method::HEAD if watch_path => "watch",
            Method::GET | Method::HEAD if info.name.is_empty() => {
                // Selecting one name is a question about that name; the rules
                // of authorization may grant just that.
                if let Some(selector) = param(query, "fieldSelector")
                    && let Some(name) = selected_name(&selector)
                {
                    info.name = name;
                }
                if truthy(param(query, "watch")) { "watch" } else { "list" }
            }
            Method::GET | Method::HEAD => "get",
            _ => lower(method),
        };
        info
    }

    /// `GROUP/VERSION`, or the version alone in the core group.
    pub fn group_version(&self) -> String {
        if self.api_group.is_empty() {
            self.api_version.clone()
        } else {
            format!("{}/{}", self.api_group, self.api_version)
        }
    }
}

/// The value of query parameter `key`, decoded.
pub fn param(query: &str, key: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == key).map(|(_, v)| v.into_owned())
}

/// Reads a boolean query parameter as upstream does: present and not
/// `0`/`false` is true.
pub fn truthy(value: Option<String>) -> bool {
    value.is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0")
}

fn selected_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        // A name that would change the meaning of a path is none.
        (!value.is_empty() && !value.contains('/')).then(|| value.to_owned())
    })
}

fn decode(part: &str) -> String {
    percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned()
}

fn lower(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_upstream_says() {
        // method, uri, verb, group/version, namespace, resource, name, subresource, rest
        #[rustfmt::skip]
        let cases = [
            ("GET", "/api/v1/pods", "list", "v1", "", "pods", "", "", ""),
            ("GET", "/api/v1/pods?watch=1", "watch", "v1", "", "pods", "", "", ""),
            ("GET", "/api/v1/pods?watch=false", "list", "v1", "", "pods", "", "", ""),
            ("GET", "/api/v1/watch/pods", "watch", "v1", "", "pods", "", "", ""),
            ("GET", "/api/v1/watch/namespaces/a/pods/b", "watch", "v1", "a", "pods", "b", "", ""),
            ("GET", "/api/v1/namespaces", "list", "v1", "", "namespaces", "", "", ""),
            ("GET", "/api/v1/namespaces/a", "get", "v1", "a", "namespaces", "a", "", ""),
            ("PUT", "/api/v1/namespaces/a/finalize", "update", "v1", "a", "namespaces", "a", "finalize", ""),
            ("PUT", "/api/v1/namespaces/a/status", "update", "v1", "a", "namespaces", "a", "status", ""),
            ("POST", "/api/v1/namespaces/a/pods", "create", "v1", "a", "pods", "", "", ""),
            ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection", "v1", "a", "pods", "", "", ""),
            ("DELETE", "/api/v1/namespaces/a/pods/b", "delete", "v1", "a", "pods", "b", "", ""),
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/b/scale", "patch", "apps/v1", "a", "deployments", "b", "scale", ""),
            ("GET", "/api/v1/namespaces/a/pods/b/log", "get", "v1", "a", "pods", "b", "log", ""),
            ("GET", "/api/v1/namespaces/a/services/b:80/proxy/x/y", "get", "v1", "a", "services", "b:80", "proxy", "x/y"),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Db", "list", "v1", "", "pods", "b", "", ""),
            ("HEAD", "/api/v1/nodes/n", "get", "v1", "", "nodes", "n", "", ""),
        ];
        for (method, uri, verb, gv, namespace, resource, name, sub, rest) in cases {
            let info = RequestInfo::parse(&method.parse().unwrap(), &uri.parse().unwrap());
            assert!(info.is_resource_request, "{uri}");
            let seen = (info.verb, info.group_version());
            assert_eq!(seen, (verb, gv.to_owned()), "{method} {uri}");
            let seen = [&info.namespace, &info.resource, &info.name, &info.subresource, &info.rest];
            assert_eq!(seen, [namespace, resource, name, sub, rest], "{method} {uri}");
        }
    }

    #[test]
    fn other_paths_are_no_resource_requests() {
        for uri in
            ["/", "/healthz", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/x/y/z"]
        {
            let info = RequestInfo::parse(&Method::GET, &uri.parse().unwrap());
            assert!(!info.is_resource_request, "{uri}");
            assert_eq!((info.verb, info.path.as_str()), ("get", uri));
        }
    }
}

//! The environment of a container, and `$(NAME)` in commands. Pure.
//!
//! Later entries win: services first, then `envFrom` in order, then `env`. A
//! reference sees what was defined before it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVarSource, FileKeySelector, ObjectFieldSelector, Pod,
    ResourceFieldSelector, Secret, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::quantity::Quantity as Amount;

use super::env_file;
use super::model::spec;
use super::resources::parse;

/// What the environment is made from. A `None` object is one that the API does
/// not have.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Config maps named by the container.
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets named by the container.
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
    /// The services of the pod's namespace, and `kubernetes` of `default`.
    pub services: Vec<Arc<Service>>,
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// The text of files in volumes that variables come from, or why there is
    /// none.
    pub files: BTreeMap<FileKey, EnvFile>,
    /// What the node can give, for limits that a container leaves open.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// A file in a volume: the volume's name and the path in it.
pub type FileKey = (String, String);
/// The text of such a file, or why there is none.
pub type EnvFile = Result<String, String>;

/// A reference that leads nowhere. The message is the one users see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EnvError(pub String);

/// The whole environment of `container`, in the order of definition.
pub fn resolve(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Env::default();
    for service in services_told(pod, sources) {
        service_variables(service, &mut env);
    }
    for from in container.env_from.iter().flatten() {
        take_all(from, sources, &mut env)?;
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), None) => Some(expand(value, |name| env.get(name))),
            (_, None) => Some(String::new()),
            (_, Some(from)) => value_from(pod, container, from, sources)?,
        };
        if let Some(value) = value {
            env.set(variable.name.clone(), value);
        }
    }
    Ok(env.entries)
}

/// The services that the pod is told of: those beside it, unless it wants none,
/// and the API server's in any case.
fn services_told<'a>(pod: &Pod, sources: &'a Sources) -> impl Iterator<Item = &'a Service> {
    let links = spec(pod).enable_service_links.unwrap_or(true);
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    sources.services.iter().map(AsRef::as_ref).filter(move |service| {
        let meta = &service.metadata;
        let master = meta.namespace.as_deref() == Some("default")
            && meta.name.as_deref() == Some("kubernetes");
        master || (links && meta.namespace.as_deref() == Some(namespace.as_str()))
    })
}

/// One entry of `envFrom`: everything that a config map or a secret has.
fn take_all(from: &EnvFromSource, sources: &Sources, env: &mut Env) -> Result<(), EnvError> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    if let Some(reference) = &from.config_map_ref {
        match sources.config_maps.get(&reference.name).cloned().flatten() {
            Some(map) => {
                for (key, value) in map.data.iter().flatten() {
                    env.set(format!("{prefix}{key}"), value.clone());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(EnvError(format!("configmap \"{}\" not found", reference.name))),
        }
    }
    if let Some(reference) = &from.secret_ref {
        match sources.secrets.get(&reference.name).cloned().flatten() {
            Some(secret) => {
                for (key, value) in secret.data.iter().flatten() {
                    let value = String::from_utf8_lossy(&value.0).into_owned();
                    env.set(format!("{prefix}{key}"), value);
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(EnvError(format!("secret \"{}\" not found", reference.name))),
        }
    }
    Ok(())
}

/// The value of one variable that is somewhere else; `None` when that is
/// optional and missing.
fn value_from(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(field) = &from.field_ref {
        field_value(pod, field, sources).map(Some)
    } else if let Some(resource) = &from.resource_field_ref {
        resource_value(pod, container, resource, &sources.allocatable).map(Some)
    } else if let Some(key) = &from.config_map_key_ref {
        let map = sources.config_maps.get(&key.name).cloned().flatten();
        let found = map.as_ref().map(|map| config_map_value(map, &key.key));
        let kind = ("configmap", "ConfigMap");
        referenced(found, key.optional, kind, namespace, &key.name, &key.key)
    } else if let Some(key) = &from.secret_key_ref {
        let secret = sources.secrets.get(&key.name).cloned().flatten();
        let found = secret.as_ref().map(|secret| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(&key.key));
            bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
        });
        referenced(found, key.optional, ("secret", "Secret"), namespace, &key.name, &key.key)
    } else if let Some(key) = &from.file_key_ref {
        let file = (key.volume_name.clone(), key.path.clone());
        file_value(sources.files.get(&file), key)
    } else {
        Ok(Some(String::new()))
    }
}

fn config_map_value(map: &ConfigMap, key: &str) -> Option<String> {
    let text = map.data.as_ref().and_then(|data| data.get(key)).cloned();
    text.or_else(|| {
        let bytes = map.binary_data.as_ref().and_then(|data| data.get(key));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
    })
}

/// The value behind a key reference; `None` when it is optional and missing.
fn referenced(
    found: Option<Option<String>>,
    optional: Option<bool>,
    (lower, kind): (&str, &str),
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, EnvError> {
    match found {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional == Some(true) => Ok(None),
        Some(None) => {
            Err(EnvError(format!("couldn't find key {key} in {kind} {namespace}/{name}")))
        }
        None => Err(EnvError(format!("{lower} \"{name}\" not found"))),
    }
}

/// The value of a key in a file; `None` when it is optional and missing.
fn file_value(file: Option<&EnvFile>, key: &FileKeySelector) -> Result<Option<String>, EnvError> {
    let optional = key.optional == Some(true);
    let text = match file {
        Some(Ok(text)) => text,
        _ if optional => return Ok(None),
        Some(Err(error)) => {
            return Err(EnvError(format!("couldn't read env file {:?}: {error}", key.path)));
        }
        None => return Err(EnvError(format!("env file {:?} not found", key.path))),
    };
    match env_file::value(text, &key.key) {
        Ok(None) if !optional => {
            Err(EnvError(format!("environment variable key {:?} not found in file", key.key)))
        }
        Ok(value) => Ok(value),
        Err(error) => Err(EnvError(format!("couldn't parse env file {:?}: {error}", key.path))),
    }
}

/// The value of a pod's field, as `fieldRef` names it.
pub fn field_value(
    pod: &Pod,
    field: &ObjectFieldSelector,
    sources: &Sources,
) -> Result<String, EnvError> {
    let meta = &pod.metadata;
    let path = field.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(EnvError(format!("unsupported fieldPath: {path}"))),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let lines = |map: Option<&BTreeMap<String, String>>| {
        map.into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let value = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec(pod).node_name.clone(),
        "spec.serviceAccountName" => spec(pod).service_account_name.clone(),
        "spec.restartPolicy" => spec(pod).restart_policy.clone(),
        "status.hostIP" => sources.host_ips.first().cloned(),
        "status.hostIPs" => Some(sources.host_ips.join(",")),
        "status.podIP" => sources.pod_ips.first().cloned(),
        "status.podIPs" => Some(sources.pod_ips.join(",")),
        _ => return Err(EnvError(format!("unsupported fieldPath: {path}"))),
    };
    Ok(value.unwrap_or_default())
}

/// Splits `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A container's own request or limit, as `resourceFieldRef` names it. A limit
/// that is not set is what the node has.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<String, EnvError> {
    let all = || spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers);
    let container = match field.container_name.as_deref() {
        Some(name) if name != container.name => all()
            .find(|container| container.name == name)
            .ok_or_else(|| EnvError(format!("container {name} not found")))?,
        _ => container,
    };
    let (kind, resource) = field
        .resource
        .split_once('.')
        .ok_or_else(|| EnvError(format!("unsupported container resource: {}", field.resource)))?;
    let resources = container.resources.as_ref();
    let limit = resources
        .and_then(|resources| resources.limits.as_ref())
        .and_then(|limits| limits.get(resource));
    let request = resources
        .and_then(|resources| resources.requests.as_ref())
        .and_then(|asked| asked.get(resource));
    let amount = match kind {
        "limits" => limit.or_else(|| allocatable.get(resource)),
        "requests" => request.or(limit),
        _ => return Err(EnvError(format!("unsupported container resource: {}", field.resource))),
    };
    let milli = amount.and_then(parse).map_or(0, Amount::millis);
    let divisor = field
        .divisor
        .as_ref()
        .and_then(parse)
        .map(Amount::millis)
        .filter(|divisor| *divisor > 0)
        .unwrap_or(1_000);
    // Rounded up: a container must not think that it has nothing.
    Ok((milli.div_euclid(divisor) + i64::from(milli.rem_euclid(divisor) != 0)).to_string())
}

/// The variables that tell of a service, in the words of Docker's old links.
fn service_variables(service: &Service, env: &mut Env) {
    let Some(service_spec) = &service.spec else { return };
    let Some(ip) = service_spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")
    else {
        return;
    };
    let Some(first) = service_spec.ports.iter().flatten().next() else { return };
    let name =
        service.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let protocol = |protocol: Option<&str>| protocol.unwrap_or("TCP").to_owned();
    env.set(format!("{name}_SERVICE_HOST"), ip.to_owned());
    env.set(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in service_spec.ports.iter().flatten() {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            env.set(format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string());
        }
    }
    let lower = protocol(first.protocol.as_deref()).to_lowercase();
    env.set(format!("{name}_PORT"), format!("{lower}://{host}:{}", first.port));
    for port in service_spec.ports.iter().flatten() {
        let upper = protocol(port.protocol.as_deref());
        let prefix = format!("{name}_PORT_{}_{upper}", port.port);
        env.set(prefix.clone(), format!("{}://{host}:{}", upper.to_lowercase(), port.port));
        env.set(format!("{prefix}_PROTO"), upper.to_lowercase());
        env.set(format!("{prefix}_PORT"), port.port.to_string());
        env.set(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

#[derive(Default)]
struct Env {
    entries: Vec<(String, String)>,
}

impl Env {
    fn get(&self, name: &str) -> Option<String> {
        self.entries.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn set(&mut self, name: String, value: String) {
        match self.entries.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.entries.push((name, value)),
        }
    }
}

/// Replaces `$(NAME)` by its value. A name without one stays as it is, and
/// `$$` is a dollar sign.
pub fn expand(text: &str, get: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match get(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;

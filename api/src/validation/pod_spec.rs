//! The specification of a pod, as it stands in pods and in templates.

use k8s_openapi::api::core::v1::{
    HostAlias, PodDNSConfig, PodReadinessGate, PodResourceClaim, PodSchedulingGate, PodSpec,
    PodTemplateSpec,
};

use super::path::{Errors, Path, json, list, text};
use super::{container, meta, names, resources, scheduling, security, volume};

const INT32_MAX: i64 = i32::MAX as i64;

/// Checks the pod template of a workload.
pub(super) fn template(errors: &mut Errors, template: &PodTemplateSpec, path: &Path<'_>) {
    meta::template_meta(errors, template.metadata.as_ref(), &path.child("metadata"));
    let path = path.child("spec");
    let none = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&none);
    self::spec(errors, spec, &path);
    if !list(&spec.ephemeral_containers).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&path.child("ephemeralContainers"), detail);
    }
}

/// Checks a pod specification.
pub(super) fn spec(errors: &mut Errors, spec: &PodSpec, path: &Path<'_>) {
    volume::volumes(errors, list(&spec.volumes), &path.child("volumes"));
    container::containers(errors, spec, &path.child("containers"));
    container::init_containers(errors, spec, &path.child("initContainers"));
    container::ephemeral_containers(errors, spec, &path.child("ephemeralContainers"));
    errors.required_one_of(
        &path.child("restartPolicy"),
        spec.restart_policy.as_deref(),
        &["Always", "Never", "OnFailure"],
    );
    errors.required_one_of(
        &path.child("dnsPolicy"),
        spec.dns_policy.as_deref(),
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    );
    dns_config(errors, spec, &path.child("dnsConfig"));
    security::pod_context(errors, spec, path);
    placement(errors, spec, path);
    identity(errors, spec, path);
    periods(errors, spec, path);
    host_aliases(errors, list(&spec.host_aliases), &path.child("hostAliases"));
    readiness_gates(errors, list(&spec.readiness_gates), &path.child("readinessGates"));
    scheduling_gates(errors, list(&spec.scheduling_gates), &path.child("schedulingGates"));
    resource_claims(errors, list(&spec.resource_claims), &path.child("resourceClaims"));
    if let Some(requirements) = &spec.resources {
        resources::pod_requirements(errors, requirements, &path.child("resources"));
    }
    if let Some(overhead) = &spec.overhead {
        resources::overhead(errors, overhead, &path.child("overhead"));
    }
}

fn placement(errors: &mut Errors, spec: &PodSpec, path: &Path<'_>) {
    meta::labels(errors, spec.node_selector.as_ref(), &path.child("nodeSelector"));
    scheduling::affinity(errors, spec.affinity.as_ref(), &path.child("affinity"));
    scheduling::tolerations(errors, list(&spec.tolerations), &path.child("tolerations"));
    scheduling::topology_spread(
        errors,
        list(&spec.topology_spread_constraints),
        &path.child("topologySpreadConstraints"),
    );
    errors.one_of(
        &path.child("preemptionPolicy"),
        spec.preemption_policy.as_deref(),
        &["Never", "PreemptLowerPriority"],
    );
    if let Some(os) = &spec.os {
        let path = path.child("os.name");
        errors.required_one_of(&path, Some(&os.name), &["linux", "windows"]);
    }
}

/// Checks the names by which a pod refers to others, and its own on the network.
fn identity(errors: &mut Errors, spec: &PodSpec, path: &Path<'_>) {
    for (field, name) in [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ] {
        let name = text(name);
        if !name.is_empty() {
            errors.invalid_each(&path.child(field), name, names::dns1123_subdomain(name));
        }
    }
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        let name = text(name);
        if !name.is_empty() {
            errors.invalid_each(&path.child(field), name, names::dns1123_label(name));
        }
    }
    if let Some(name) = &spec.hostname_override {
        let path = path.child("hostnameOverride");
        if name.len() > 64 {
            errors.too_long(&path, 64);
        }
        errors.invalid_each(&path, name, names::dns1123_subdomain(name));
        // The machine's own name, or a longer one of the pod's: there can be only one.
        for (field, set) in [
            ("setHostnameAsFQDN", spec.set_hostname_as_fqdn == Some(true)),
            ("hostNetwork", spec.host_network == Some(true)),
        ] {
            if set {
                errors.forbidden(&path, format!("may not be set when `{field}` is true"));
            }
        }
    }
}

fn periods(errors: &mut Errors, spec: &PodSpec, path: &Path<'_>) {
    if let Some(seconds) = spec.active_deadline_seconds {
        errors.in_range(&path.child("activeDeadlineSeconds"), seconds, 1, INT32_MAX);
    }
    if let Some(seconds) = spec.termination_grace_period_seconds {
        errors.non_negative(&path.child("terminationGracePeriodSeconds"), seconds);
    }
}

/// Limits of what resolvers take in.
fn dns_config(errors: &mut Errors, spec: &PodSpec, path: &Path<'_>) {
    let alone = spec.dns_policy.as_deref() == Some("None");
    let Some(config) = &spec.dns_config else {
        if alone {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = path.child("nameservers");
    if alone && list(&config.nameservers).is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(&servers, detail);
    }
    dns_servers(errors, config, &servers);
    dns_searches(errors, config, &path.child("searches"));
    let options = path.child("options");
    for (index, option) in list(&config.options).iter().enumerate() {
        if text(&option.name).is_empty() {
            errors.required(&options.index(index), "must not be empty");
        }
    }
}

fn dns_servers(errors: &mut Errors, config: &PodDNSConfig, path: &Path<'_>) {
    let servers = list(&config.nameservers);
    if servers.len() > 3 {
        errors.invalid(path, json(servers), "must not have more than 3 nameservers");
    }
    for (index, server) in servers.iter().enumerate() {
        errors.invalid_each(&path.index(index), server, names::ip(server));
    }
}

fn dns_searches(errors: &mut Errors, config: &PodDNSConfig, path: &Path<'_>) {
    const DOMAINS: usize = 32;
    const CHARACTERS: usize = 2048;
    let searches = list(&config.searches);
    if searches.len() > DOMAINS {
        let detail = format!("must not have more than {DOMAINS} search paths");
        errors.invalid(path, json(searches), detail);
    }
    if searches.join(" ").len() > CHARACTERS {
        let detail = format!(
            "must not have more than {CHARACTERS} characters (including spaces) in the search list"
        );
        errors.invalid(path, json(searches), detail);
    }
    for (index, search) in searches.iter().enumerate() {
        // A lone dot is the root; underscores occur in service domains.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
        if search != "." {
            errors.invalid_each(&path.index(index), search, names::dns1123_subdomain(&name));
        }
    }
}

fn host_aliases(errors: &mut Errors, aliases: &[HostAlias], path: &Path<'_>) {
    for (index, alias) in aliases.iter().enumerate() {
        let path = path.index(index);
        errors.invalid_each(&path.child("ip"), &alias.ip, names::ip(&alias.ip));
        let hostnames = path.child("hostnames");
        for (index, name) in list(&alias.hostnames).iter().enumerate() {
            errors.invalid_each(&hostnames.index(index), name, names::dns1123_subdomain(name));
        }
    }
}

fn readiness_gates(errors: &mut Errors, gates: &[PodReadinessGate], path: &Path<'_>) {
    for (index, gate) in gates.iter().enumerate() {
        let path = path.index(index);
        let kind = gate.condition_type.as_str();
        errors.invalid_each(&path.child("conditionType"), kind, names::qualified_name(kind));
    }
}

fn scheduling_gates(errors: &mut Errors, gates: &[PodSchedulingGate], path: &Path<'_>) {
    for (index, gate) in gates.iter().enumerate() {
        let path = path.index(index);
        errors.invalid_each(&path.child("name"), &gate.name, names::qualified_name(&gate.name));
        if gates[..index].iter().any(|earlier| earlier.name == gate.name) {
            errors.duplicate(&path.child("name"), gate.name.as_str());
        }
    }
}

fn resource_claims(errors: &mut Errors, claims: &[PodResourceClaim], path: &Path<'_>) {
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        if claim.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.invalid_each(
                &path.child("name"),
                &claim.name,
                names::dns1123_label(&claim.name),
            );
        }
        if claims[..index].iter().any(|earlier| earlier.name == claim.name) {
            errors.duplicate(&path.child("name"), claim.name.as_str());
        }
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` \
                              may be specified";
                errors.invalid(&path, json(claim), detail);
            }
            (None, None) => {
                let detail = "must specify one of: `resourceClaimName`, \
                              `resourceClaimTemplateName`";
                errors.invalid(&path, json(claim), detail);
            }
            _ => {}
        }
    }
}

//! Cluster addresses and node ports of Services.
//!
//! An allocation is a key of its own, written in the transaction that writes
//! the Service: `Compare::Absent` makes two Services with one address
//! impossible, and no repair loop has to look for leaks. `plan_*` fills in what
//! a Service needs and says which keys that takes and frees; nothing here
//! writes.

mod space;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use serde_json::{Value, json};
use skiff_api::catalogue::{FieldError, FieldReason, Resource};
use skiff_store::{Compare, Draft, Key, Snapshot, Write};

use crate::status::ApiError;
use space::{Addresses, Ports};

/// Prefix of allocation keys. No API group starts with `~`.
const ADDRESSES: &str = "/~allocations/clusterips/";
const PORTS: &str = "/~allocations/nodeports/";

/// Hands out addresses and ports.
#[derive(Debug, Clone)]
pub(crate) struct Allocator {
    addresses: Addresses,
    ports: Ports,
}

/// What a Service's write takes and frees.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) compares: Vec<Compare>,
    pub(crate) writes: Vec<Write>,
}

impl Allocator {
    /// Allocates from a network and a range of ports.
    pub(crate) fn new(network: IpNet, ports: RangeInclusive<u16>) -> Self {
        Self { addresses: Addresses::new(network), ports: Ports::new(ports) }
    }

    /// Whether objects of a kind take allocations.
    pub(crate) fn serves(resource: &Resource) -> bool {
        resource.group.is_empty() && resource.plural == "services"
    }

    /// Fills in a new Service.
    pub(crate) fn plan_create(
        &self,
        snapshot: &Snapshot,
        service: &mut Value,
    ) -> Result<Plan, ApiError> {
        self.plan(snapshot, service, &BTreeSet::new())
    }

    /// Fills in a changed Service, after [`carry_over`].
    pub(crate) fn plan_update(
        &self,
        snapshot: &Snapshot,
        service: &mut Value,
        old: &Value,
    ) -> Result<Plan, ApiError> {
        self.plan(snapshot, service, &held(old))
    }

    /// Frees what a Service holds.
    pub(crate) fn plan_delete(service: &Value) -> Plan {
        let writes = held(service).into_iter().map(|key| Write::Delete(Arc::from(key))).collect();
        Plan { compares: Vec::new(), writes }
    }

    fn plan(
        &self,
        snapshot: &Snapshot,
        service: &mut Value,
        before: &BTreeSet<String>,
    ) -> Result<Plan, ApiError> {
        let mut taken = before.clone();
        let mut errors = Vec::new();
        self.fill_address(snapshot, service, &mut taken, &mut errors);
        self.fill_ports(snapshot, service, &mut taken, &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid("", "Service", text(service, "/metadata/name"), errors));
        }
        let after = held(service);
        let owner = Bytes::from(format!(
            "{}/{}",
            text(service, "/metadata/namespace"),
            text(service, "/metadata/name")
        ));
        let mut plan = Plan::default();
        for key in after.difference(before) {
            let key: Key = Arc::from(key.as_str());
            plan.compares.push(Compare::Absent(key.clone()));
            let draft = Draft { bytes: owner.clone(), revision_at: None, sealed: false };
            plan.writes.push(Write::Put(key, draft));
        }
        for key in before.difference(&after) {
            plan.writes.push(Write::Delete(Arc::from(key.as_str())));
        }
        Ok(plan)
    }

    fn fill_address(
        &self,
        snapshot: &Snapshot,
        service: &mut Value,
        taken: &mut BTreeSet<String>,
        errors: &mut Vec<FieldError>,
    ) {
        if text(service, "/spec/type") == "ExternalName" {
            return;
        }
        let asked = match text(service, "/spec/clusterIP") {
            "" => text(service, "/spec/clusterIPs/0"),
            asked => asked,
        }
        .to_owned();
        let free = |address: &IpAddr| {
            let key = address_key(address);
            taken.contains(&key) || snapshot.get(&key).is_none()
        };
        let given = match asked.as_str() {
            "None" => "None".to_owned(),
            "" => match self.addresses.pick(free) {
                Some(address) => address.to_string(),
                None => {
                    let why = "failed to allocate a serviceIP: range is full";
                    errors.push(invalid("spec.clusterIPs", json!([]), why));
                    return;
                }
            },
            asked => {
                if let Err(why) = self.addresses.check(asked, free) {
                    let why = format!("failed to allocate IP {asked}: {why}");
                    errors.push(invalid("spec.clusterIPs", json!([asked]), &why));
                    return;
                }
                asked.to_owned()
            }
        };
        let spec = &mut service["spec"];
        if let Ok(address) = given.parse::<IpAddr>() {
            taken.insert(address_key(&address));
        }
        spec["clusterIP"] = json!(given);
        if spec["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
            spec["clusterIPs"] = json!([given]);
        }
        if !spec["ipFamilies"].is_array() {
            spec["ipFamilies"] = json!([self.addresses.family()]);
        }
        if spec["ipFamilyPolicy"].as_str().is_none_or(|policy| policy != "SingleStack") {
            spec["ipFamilyPolicy"] = json!("SingleStack");
        }
    }

    fn fill_ports(
        &self,
        snapshot: &Snapshot,
        service: &mut Value,
        taken: &mut BTreeSet<String>,
        errors: &mut Vec<FieldError>,
    ) {
        if !takes_node_ports(service) {
            return;
        }
        let before = taken.clone();
        let free = |port: u16, own: &BTreeSet<String>| {
            let key = port_key(i64::from(port));
            !own.contains(&key) && (before.contains(&key) || snapshot.get(&key).is_none())
        };
        let automatic = service.pointer("/spec/allocateLoadBalancerNodePorts")
            != Some(&Value::Bool(false))
            || text(service, "/spec/type") == "NodePort";
        // One number may serve two protocols of one Service.
        let mut own: BTreeSet<String> = BTreeSet::new();
        let mut ports = service["spec"]["ports"].take();
        for (at, port) in ports.as_array_mut().into_iter().flatten().enumerate() {
            let Some(asked) = port["nodePort"].as_i64().filter(|asked| *asked != 0) else {
                continue;
            };
            let field = format!("spec.ports[{at}].nodePort");
            let key = port_key(asked);
            if own.contains(&key) {
                continue;
            }
            if let Err(why) = self.ports.check(asked, |port| free(port, &own)) {
                errors.push(invalid(&field, json!(asked), &why));
            }
            own.insert(key);
        }
        for (at, port) in ports.as_array_mut().into_iter().flatten().enumerate() {
            if !automatic || port["nodePort"].as_i64().is_some_and(|asked| asked != 0) {
                continue;
            }
            match self.ports.pick(|port| free(port, &own)) {
                Some(picked) => {
                    own.insert(port_key(i64::from(picked)));
                    port["nodePort"] = json!(picked);
                }
                None => {
                    let field = format!("spec.ports[{at}].nodePort");
                    errors.push(invalid(
                        &field,
                        json!(0),
                        "failed to allocate a nodePort: range is full",
                    ));
                }
            }
        }
        service["spec"]["ports"] = ports;
        if needs_health_check(service) {
            let asked = service["spec"]["healthCheckNodePort"].as_i64().filter(|asked| *asked != 0);
            match asked {
                Some(asked) => {
                    if let Err(why) = self.ports.check(asked, |port| free(port, &own)) {
                        errors.push(invalid("spec.healthCheckNodePort", json!(asked), &why));
                    }
                }
                None => {
                    if let Some(picked) = self.ports.pick(|port| free(port, &own)) {
                        service["spec"]["healthCheckNodePort"] = json!(picked);
                    }
                }
            }
        }
        taken.extend(own);
    }
}

/// Before an update is validated: what the client left out stays as it was,
/// and what the new type has no use for goes.
pub(crate) fn carry_over(service: &mut Value, old: &Value) {
    let (was, is) = (text(old, "/spec/type").to_owned(), text(service, "/spec/type").to_owned());
    let is = if is.is_empty() { "ClusterIP".to_owned() } else { is };
    let has_address = |kind: &str| kind != "ExternalName";
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let spec = &mut service["spec"];
    let before = &old["spec"];
    if has_address(&was) && has_address(&is) {
        if spec["clusterIP"].as_str().is_none_or(str::is_empty) && !spec["clusterIPs"].is_array() {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(value) = before.get(field) {
                    spec[field] = value.clone();
                }
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if spec[field].is_null()
                && let Some(value) = before.get(field)
            {
                spec[field] = value.clone();
            }
        }
    }
    if has_address(&was) && !has_address(&is) && spec["clusterIP"] == before["clusterIP"] {
        for field in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            remove(spec, field);
        }
    }
    let old_ports = before["ports"].as_array();
    let port_of = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        (protocol, port["port"].as_i64())
    };
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        let same = old_ports.into_iter().flatten().find(|other| port_of(other) == port_of(port));
        let Some(number) = same.and_then(|same| same["nodePort"].as_i64()) else { continue };
        if has_ports(&was) && has_ports(&is) && port["nodePort"].as_i64().unwrap_or(0) == 0 {
            port["nodePort"] = json!(number);
        }
        if has_ports(&was) && !has_ports(&is) && port["nodePort"].as_i64() == Some(number) {
            remove(port, "nodePort");
        }
    }
    if has_ports(&was)
        && !has_ports(&is)
        && spec["externalTrafficPolicy"] == before["externalTrafficPolicy"]
    {
        remove(spec, "externalTrafficPolicy");
    }
    if was == "LoadBalancer" && is != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec[field] == before[field] {
                remove(spec, field);
            }
        }
    }
    let (needed, needs) = (needs_health_check(old), needs_health_check(service));
    let spec = &mut service["spec"];
    let number = before["healthCheckNodePort"].as_i64().unwrap_or(0);
    if needed && needs && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0 {
        spec["healthCheckNodePort"] = json!(number);
    }
    if needed && !needs && spec["healthCheckNodePort"].as_i64() == Some(number) {
        remove(spec, "healthCheckNodePort");
    }
}

/// The keys that a Service holds.
fn held(service: &Value) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    if text(service, "/spec/type") != "ExternalName"
        && let Ok(address) = text(service, "/spec/clusterIP").parse::<IpAddr>()
    {
        keys.insert(address_key(&address));
    }
    if takes_node_ports(service) {
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        keys.extend(
            ports.filter_map(|port| port["nodePort"].as_i64()).filter(|p| *p != 0).map(port_key),
        );
        if needs_health_check(service)
            && let Some(port) = service["spec"]["healthCheckNodePort"].as_i64().filter(|p| *p != 0)
        {
            keys.insert(port_key(port));
        }
    }
    keys
}

fn takes_node_ports(service: &Value) -> bool {
    matches!(text(service, "/spec/type"), "NodePort" | "LoadBalancer")
}

fn needs_health_check(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer"
        && text(service, "/spec/externalTrafficPolicy") == "Local"
}

fn address_key(address: &IpAddr) -> String {
    format!("{ADDRESSES}{address}")
}

fn port_key(port: i64) -> String {
    format!("{PORTS}{port}")
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

fn invalid(field: &str, value: Value, detail: &str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        reason: FieldReason::Invalid,
        value,
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests;

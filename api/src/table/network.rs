//! Services and what stands behind and before them.

use serde_json::Value;

use super::*;

pub(crate) static SERVICE: Printer = Printer {
    columns: &[
        NAME,
        text("Type", "How the service is reached."),
        text("Cluster-IP", "Address inside the cluster."),
        text("External-IP", "Addresses outside the cluster."),
        text("Port(s)", "Ports, with the node's port after a colon."),
        AGE,
        wide("Selector", "Labels of the pods behind the service."),
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let ports = |port: &Value| {
            let node = number(&port["nodePort"]);
            let node = if node > 0 { format!(":{node}") } else { String::new() };
            format!("{}{node}/{}", number(&port["port"]), text_or(&port["protocol"], "TCP"))
        };
        let ports: Vec<String> = items(&spec["ports"]).iter().map(ports).collect();
        vec![
            name(object),
            text_or(&spec["type"], "ClusterIP").into(),
            text_or(&spec["clusterIP"], NONE).into(),
            external_ip(object).into(),
            some_of(&ports, usize::MAX, NONE).into(),
            age(object, now),
            labels(&spec["selector"]).into(),
        ]
    },
};

pub(crate) static ENDPOINTS: Printer = Printer {
    columns: &[NAME, text("Endpoints", "Addresses and ports."), AGE],
    row: |object, now| {
        let mut all = Vec::new();
        for subset in items(&object["subsets"]) {
            let addresses = || items(&subset["addresses"]).iter().map(|a| text_or(&a["ip"], ""));
            for port in items(&subset["ports"]) {
                all.extend(addresses().map(|ip| host_port(ip, number(&port["port"]))));
            }
            if items(&subset["ports"]).is_empty() {
                all.extend(addresses().map(str::to_owned));
            }
        }
        vec![name(object), some_of(&all, 3, NONE).into(), age(object, now)]
    },
};

pub(crate) static ENDPOINT_SLICE: Printer = Printer {
    columns: &[
        NAME,
        text("AddressType", "IPv4, IPv6 or FQDN."),
        text("Ports", "Ports of the endpoints."),
        text("Endpoints", "Addresses."),
        AGE,
    ],
    row: |object, now| {
        let port = |port: &Value| {
            port["port"].as_i64().map_or_else(|| "*".to_owned(), |port| port.to_string())
        };
        let ports: Vec<String> = items(&object["ports"]).iter().map(port).collect();
        let endpoints = items(&object["endpoints"]).iter();
        let addresses: Vec<String> = endpoints
            .flat_map(|endpoint| items(&endpoint["addresses"]))
            .map(|address| text_or(address, "").to_owned())
            .collect();
        vec![
            name(object),
            object["addressType"].clone(),
            some_of(&ports, 3, UNSET).into(),
            some_of(&addresses, 3, UNSET).into(),
            age(object, now),
        ]
    },
};

pub(crate) static INGRESS: Printer = Printer {
    columns: &[
        NAME,
        text("Class", "Class of controllers that serve it."),
        text("Hosts", "Host names it answers to."),
        text("Address", "Where it is reached."),
        text("Ports", "Ports it listens on."),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let annotation = crate::meta::annotation(object, "kubernetes.io/ingress.class");
        let hosts: Vec<String> = items(&spec["rules"])
            .iter()
            .filter_map(|rule| rule["host"].as_str().filter(|host| !host.is_empty()))
            .map(str::to_owned)
            .collect();
        let ports = if items(&spec["tls"]).is_empty() { "80" } else { "80, 443" };
        vec![
            name(object),
            text_or(&spec["ingressClassName"], annotation.unwrap_or(NONE)).into(),
            some_of(&hosts, 3, "*").into(),
            balancer(object).unwrap_or_default().into(),
            ports.into(),
            age(object, now),
        ]
    },
};

pub(crate) static INGRESS_CLASS: Printer = Printer {
    columns: &[
        NAME,
        text("Controller", "Controller of the class."),
        text("Parameters", "Object with its settings."),
        AGE,
    ],
    row: |object, now| {
        let parameters = match &object["spec"]["parameters"] {
            Value::Null => NONE.to_owned(),
            reference => {
                let group = text_or(&reference["apiGroup"], "");
                let dot = if group.is_empty() { "" } else { "." };
                format!(
                    "{}{dot}{group}/{}",
                    text_or(&reference["kind"], ""),
                    text_or(&reference["name"], "")
                )
            }
        };
        vec![
            name(object),
            object["spec"]["controller"].clone(),
            parameters.into(),
            age(object, now),
        ]
    },
};

pub(crate) static NETWORK_POLICY: Printer = Printer {
    columns: &[NAME, text("Pod-Selector", "Labels of the pods it is about."), AGE],
    row: |object, now| {
        vec![name(object), selector(&object["spec"]["podSelector"]).into(), age(object, now)]
    },
};

pub(crate) static IP_ADDRESS: Printer = Printer {
    columns: &[NAME, text("ParentRef", "Object that has the address.")],
    row: |object, _| {
        let parent = &object["spec"]["parentRef"];
        let parts =
            ["group", "resource", "namespace", "name"].map(|part| text_or(&parent[part], ""));
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        vec![name(object), if parts.is_empty() { NONE.into() } else { parts.join("/").into() }]
    },
};

pub(crate) static SERVICE_CIDR: Printer = Printer {
    columns: &[NAME, text("CIDRs", "Ranges of addresses for services."), AGE],
    row: |object, now| {
        let ranges: Vec<&str> =
            items(&object["spec"]["cidrs"]).iter().filter_map(Value::as_str).collect();
        vec![name(object), ranges.join(",").into(), age(object, now)]
    },
};

/// Puts IPv6 addresses into brackets.
fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// The addresses of a load balancer; `None` while it has none.
fn balancer(object: &Value) -> Option<String> {
    let entries = items(&object["status"]["loadBalancer"]["ingress"]).iter();
    let mut all: Vec<&str> =
        entries.map(|entry| text_or(&entry["ip"], text_or(&entry["hostname"], ""))).collect();
    all.retain(|address| !address.is_empty());
    all.sort_unstable();
    all.dedup();
    (!all.is_empty()).then(|| all.join(","))
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let own: Vec<&str> = items(&spec["externalIPs"]).iter().filter_map(Value::as_str).collect();
    match text_or(&spec["type"], "ClusterIP") {
        "ExternalName" => text_or(&spec["externalName"], NONE).to_owned(),
        "LoadBalancer" => {
            let all: Vec<String> = balancer(service)
                .into_iter()
                .chain(own.iter().map(|ip| (*ip).to_owned()))
                .collect();
            some_of(&all, usize::MAX, "<pending>")
        }
        _ if own.is_empty() => NONE.to_owned(),
        _ => own.join(","),
    }
}

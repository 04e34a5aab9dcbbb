//! Nodes, namespaces, events and the small objects every namespace has.

use serde_json::Value;

use super::*;

pub(crate) static NODE: Printer = Printer {
    columns: &[
        NAME,
        text("Status", "Whether the node is ready and takes pods."),
        text("Roles", "Roles, from the node's labels."),
        AGE,
        text("Version", "Version of the node's agent."),
        wide("Internal-IP", "Address inside the cluster."),
        wide("External-IP", "Address outside the cluster."),
        wide("OS-Image", "Operating system."),
        wide("Kernel-Version", "Kernel."),
        wide("Container-Runtime", "Container engine and its version."),
    ],
    row: |object, now| {
        let info = &object["status"]["nodeInfo"];
        let address = |kind: &str| {
            let found = items(&object["status"]["addresses"]).iter().find(|a| a["type"] == kind);
            found.map_or(NONE, |address| text_or(&address["address"], NONE))
        };
        vec![
            name(object),
            node_status(object).into(),
            node_roles(object).into(),
            age(object, now),
            text_or(&info["kubeletVersion"], "").into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            text_or(&info["osImage"], "<unknown>").into(),
            text_or(&info["kernelVersion"], "<unknown>").into(),
            text_or(&info["containerRuntimeVersion"], "<unknown>").into(),
        ]
    },
};

pub(crate) static NAMESPACE: Printer = Printer {
    columns: &[NAME, text("Status", "Whether the namespace is active or going away."), AGE],
    row: |object, now| vec![name(object), object["status"]["phase"].clone(), age(object, now)],
};

pub(crate) static EVENT: Printer = Printer {
    columns: &[
        text("Last Seen", "Time since it happened last."),
        text("Type", "Normal or Warning."),
        text("Reason", "What happened, in one word."),
        text("Object", "What it happened to."),
        wide("Subobject", "The part of the object."),
        wide("Source", "Who reports it."),
        text("Message", "What happened."),
        wide("First Seen", "Time since it happened first."),
        column("Count", "integer", 1, "How often it happened."),
        column("Name", "string", 1, "Name of the event."),
    ],
    row: |object, now| {
        let involved = &object["involvedObject"];
        let kind = text_or(&involved["kind"], "").to_lowercase();
        let target = match text_or(&involved["name"], "") {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        let or = |time: &'_ Value, otherwise: &'_ Value| {
            if time.is_null() { otherwise.clone() } else { time.clone() }
        };
        let first = or(&object["firstTimestamp"], &object["eventTime"]);
        let series = &object["series"];
        let last = or(&series["lastObservedTime"], &or(&object["lastTimestamp"], &first));
        let count =
            [&series["count"], &object["count"]].into_iter().find_map(Value::as_i64).unwrap_or(1);
        vec![
            since(&last, now).into(),
            object["type"].clone(),
            object["reason"].clone(),
            target.into(),
            text_or(&involved["fieldPath"], "").into(),
            event_source(object).into(),
            text_or(&object["message"], "").trim().into(),
            since(&first, now).into(),
            count.max(1).into(),
            name(object),
        ]
    },
};

pub(crate) static CONFIG_MAP: Printer = Printer {
    columns: &[NAME, integer("Data", "Number of keys."), AGE],
    row: |object, now| {
        vec![
            name(object),
            (keys(&object["data"]) + keys(&object["binaryData"])).into(),
            age(object, now),
        ]
    },
};

pub(crate) static SECRET: Printer = Printer {
    columns: &[
        NAME,
        text("Type", "What the secret is for."),
        integer("Data", "Number of keys."),
        AGE,
    ],
    row: |object, now| {
        vec![name(object), object["type"].clone(), keys(&object["data"]).into(), age(object, now)]
    },
};

pub(crate) static SERVICE_ACCOUNT: Printer = Printer {
    columns: &[NAME, integer("Secrets", "Secrets that its pods may use."), AGE],
    row: |object, now| vec![name(object), items(&object["secrets"]).len().into(), age(object, now)],
};

pub(crate) static RESOURCE_QUOTA: Printer = Printer {
    columns: &[
        NAME,
        text("Request", "Requests in use, of those allowed."),
        text("Limit", "Limits in use, of those allowed."),
        AGE,
    ],
    row: |object, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in object["status"]["hard"].as_object().into_iter().flatten() {
            let used = text_or(&object["status"]["used"][resource], "0");
            let cell = format!("{resource}: {used}/{}", text_or(hard, "0"));
            if resource.starts_with("limits") { limits.push(cell) } else { requests.push(cell) }
        }
        requests.sort_unstable();
        limits.sort_unstable();
        vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
    },
};

pub(crate) static COMPONENT_STATUS: Printer = Printer {
    columns: &[
        NAME,
        text("Status", "Whether the component is healthy."),
        text("Message", "What it says."),
        text("Error", "What is wrong."),
    ],
    row: |object, _| {
        let healthy =
            items(&object["conditions"]).iter().find(|condition| condition["type"] == "Healthy");
        let (status, message, error) = match healthy {
            Some(condition) => {
                let status = match text_or(&condition["status"], "Unknown") {
                    "True" => "Healthy",
                    "False" => "Unhealthy",
                    _ => "Unknown",
                };
                (status, text_or(&condition["message"], ""), text_or(&condition["error"], ""))
            }
            None => ("Unknown", "", ""),
        };
        vec![name(object), status.into(), message.into(), error.into()]
    },
};

pub(crate) static LEASE: Printer = Printer {
    columns: &[NAME, text("Holder", "Who holds the lease."), AGE],
    row: |object, now| {
        vec![name(object), text_or(&object["spec"]["holderIdentity"], "").into(), age(object, now)]
    },
};

pub(crate) static PRIORITY_CLASS: Printer = Printer {
    columns: &[
        NAME,
        integer("Value", "Priority of the pods."),
        column("Global-Default", "boolean", 0, "Whether pods without a class get it."),
        AGE,
        text("PreemptionPolicy", "Whether the pods may drive out others."),
    ],
    row: |object, now| {
        vec![
            name(object),
            number(&object["value"]).into(),
            (object["globalDefault"] == true).into(),
            age(object, now),
            text_or(&object["preemptionPolicy"], "").into(),
        ]
    },
};

pub(crate) static RUNTIME_CLASS: Printer = Printer {
    columns: &[NAME, text("Handler", "Name of the runtime on the node."), AGE],
    row: |object, now| vec![name(object), object["handler"].clone(), age(object, now)],
};

fn keys(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

fn node_status(node: &Value) -> String {
    let mut status = match condition(node, "Ready") {
        Some(condition) if condition["status"] == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (label, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or("");
        match label.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            _ if label == "kubernetes.io/role" && !value.is_empty() => roles.push(value),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { NONE.to_owned() } else { roles.join(",") }
}

fn event_source(event: &Value) -> String {
    let source = &event["source"];
    let component = text_or(&source["component"], text_or(&event["reportingComponent"], ""));
    match text_or(&source["host"], text_or(&event["reportingInstance"], "")) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    }
}

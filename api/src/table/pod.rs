//! Pods. The status column tells the one thing about a pod that its reader
//! needs most: why an init container hangs, why a container waits, or the
//! phase.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

pub(crate) static POD: Printer = Printer {
    columns: &[
        NAME,
        text("Ready", "Containers that are ready, of all that run along."),
        text("Status", "What the pod is doing, or what keeps it from that."),
        text("Restarts", "How often containers were restarted, and when last."),
        AGE,
        wide("IP", "Address of the pod."),
        wide("Node", "Node that runs the pod."),
        wide("Nominated Node", "Node on which room is being made for the pod."),
        wide("Readiness Gates", "Readiness gates that are open, of all."),
    ],
    row: |pod, now| {
        let summary = summarize(pod);
        let restarts = match summary.last_restart {
            Some(last) if summary.restarts > 0 => {
                format!("{} ({} ago)", summary.restarts, since(&Value::from(last), now))
            }
            _ => summary.restarts.to_string(),
        };
        let ip =
            pod["status"]["podIPs"].get(0).map_or(&pod["status"]["podIP"], |first| &first["ip"]);
        vec![
            name(pod),
            format!("{}/{}", summary.ready, summary.containers).into(),
            summary.reason.into(),
            restarts.into(),
            age(pod, now),
            text_or(ip, NONE).into(),
            text_or(&pod["spec"]["nodeName"], NONE).into(),
            text_or(&pod["status"]["nominatedNodeName"], NONE).into(),
            readiness_gates(pod).into(),
        ]
    },
};

pub(crate) static POD_TEMPLATE: Printer = Printer {
    columns: &[
        NAME,
        text("Containers", "Names of the containers."),
        text("Images", "Images of the containers."),
        text("Pod Labels", "Labels of the pods."),
    ],
    row: |object, _: Timestamp| {
        let (names, images) = containers(&object["template"]);
        vec![
            name(object),
            json!(names),
            json!(images),
            labels(&object["template"]["metadata"]["labels"]).into(),
        ]
    },
};

/// Names and images of the containers of a pod template.
pub(super) fn containers(template: &Value) -> (String, String) {
    let all = items(&template["spec"]["containers"]);
    let join = |field: &str| {
        all.iter().map(|c| c[field].as_str().unwrap_or("")).collect::<Vec<_>>().join(",")
    };
    (join("name"), join("image"))
}

#[derive(Default)]
struct Summary<'a> {
    containers: usize,
    ready: usize,
    restarts: i64,
    last_restart: Option<&'a str>,
    reason: String,
}

impl<'a> Summary<'a> {
    fn count_restarts(&mut self, status: &'a Value) {
        self.restarts += number(&status["restartCount"]);
        // Times in one format and zone order as text.
        let finished = status["lastState"]["terminated"]["finishedAt"].as_str();
        self.last_restart = self.last_restart.max(finished);
    }
}

fn summarize(pod: &Value) -> Summary<'_> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut summary = Summary {
        containers: items(&spec["containers"]).len()
            + items(&spec["initContainers"])
                .iter()
                .filter(|container| is_sidecar(container))
                .count(),
        reason: text_or(&status["reason"], text_or(&status["phase"], "Unknown")).to_owned(),
        ..Summary::default()
    };
    if condition(pod, "PodScheduled")
        .is_some_and(|condition| condition["reason"] == "SchedulingGated")
    {
        summary.reason = "SchedulingGated".to_owned();
    }
    let initializing = init_containers(pod, &mut summary);
    if !initializing || holds(pod, "Initialized") {
        main_containers(pod, &mut summary);
    }
    if crate::meta::is_deleting(pod) {
        if status["reason"] == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if status["phase"] != "Succeeded" && status["phase"] != "Failed" {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// An init container that restarts always runs beside the others.
fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

/// Goes through the init containers up to the first that is not done. Returns
/// whether there is one.
fn init_containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) -> bool {
    let specs = items(&pod["spec"]["initContainers"]);
    for (index, status) in items(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
        summary.count_restarts(status);
        let sidecar = specs.iter().any(|spec| spec["name"] == status["name"] && is_sidecar(spec));
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if !terminated.is_null() && number(&terminated["exitCode"]) == 0 {
            continue;
        }
        if sidecar && status["started"] == true {
            summary.ready += usize::from(status["ready"] == true);
            continue;
        }
        let waits_for = text_or(&waiting["reason"], "PodInitializing");
        summary.reason = if !terminated.is_null() {
            format!("Init:{}", end_of(terminated))
        } else if waits_for != "PodInitializing" {
            format!("Init:{waits_for}")
        } else {
            format!("Init:{index}/{}", specs.len())
        };
        return true;
    }
    false
}

fn main_containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) {
    // Init containers that have run to their end no longer matter; sidecars do.
    (summary.restarts, summary.last_restart) = (0, None);
    let specs = items(&pod["spec"]["initContainers"]);
    for status in items(&pod["status"]["initContainerStatuses"]) {
        if specs.iter().any(|spec| spec["name"] == status["name"] && is_sidecar(spec)) {
            summary.count_restarts(status);
        }
    }
    let mut running = false;
    // Backwards, so that the first container has the last word.
    for status in items(&pod["status"]["containerStatuses"]).iter().rev() {
        summary.count_restarts(status);
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if let Some(reason) = waiting["reason"].as_str().filter(|reason| !reason.is_empty()) {
            summary.reason = reason.to_owned();
        } else if !terminated.is_null() {
            summary.reason = end_of(terminated);
        } else if status["ready"] == true && !status["state"]["running"].is_null() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        summary.reason = if holds(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
    }
}

/// How a container ended.
fn end_of(terminated: &Value) -> String {
    match (text_or(&terminated["reason"], ""), number(&terminated["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(&terminated["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    let open = gates
        .iter()
        .filter(|gate| holds(pod, gate["conditionType"].as_str().unwrap_or("")))
        .count();
    if gates.is_empty() { NONE.to_owned() } else { format!("{open}/{}", gates.len()) }
}

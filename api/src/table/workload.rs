//! Kinds that keep pods running, and work that ends.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod::containers;
use super::*;

const CONTAINERS: Column = wide("Containers", "Names of the containers in the template.");
const IMAGES: Column = wide("Images", "Images of the containers in the template.");
const SELECTOR: Column = wide("Selector", "Labels that the pods have.");

/// The columns of a kind that makes pods from a template: its name, its own, its
/// age, and what [`with_template`] fills in.
macro_rules! templated {
    ($($own:expr),+ $(,)?) => { &[NAME, $($own,)+ AGE, CONTAINERS, IMAGES, SELECTOR] };
}

pub(crate) static DEPLOYMENT: Printer = Printer {
    columns: templated![
        text("Ready", "Pods that are ready, of those wanted."),
        integer("Up-to-date", "Pods of the newest template."),
        integer("Available", "Pods that have been ready for long enough."),
    ],
    row: |object, now| {
        let status = &object["status"];
        let cells = vec![
            name(object),
            ready(object).into(),
            number(&status["updatedReplicas"]).into(),
            number(&status["availableReplicas"]).into(),
            age(object, now),
        ];
        with_template(cells, &object["spec"])
    },
};

pub(crate) static REPLICA_SET: Printer = Printer {
    columns: templated![
        integer("Desired", "Pods that are wanted."),
        integer("Current", "Pods that exist."),
        integer("Ready", "Pods that are ready."),
    ],
    row: |object, now| replicas(object, now, selector(&object["spec"]["selector"])),
};

pub(crate) static REPLICATION_CONTROLLER: Printer = Printer {
    columns: REPLICA_SET.columns,
    row: |object, now| replicas(object, now, labels(&object["spec"]["selector"])),
};

pub(crate) static STATEFUL_SET: Printer = Printer {
    columns: &[
        NAME,
        text("Ready", "Pods that are ready, of those wanted."),
        AGE,
        CONTAINERS,
        IMAGES,
    ],
    row: |object, now| {
        let (names, images) = containers(&object["spec"]["template"]);
        vec![name(object), ready(object).into(), age(object, now), names.into(), images.into()]
    },
};

pub(crate) static DAEMON_SET: Printer = Printer {
    columns: templated![
        integer("Desired", "Nodes that should run a pod."),
        integer("Current", "Nodes that run a pod and should."),
        integer("Ready", "Pods that are ready."),
        integer("Up-to-date", "Pods of the newest template."),
        integer("Available", "Pods that have been ready for long enough."),
        text("Node Selector", "Labels of the nodes."),
    ],
    row: |object, now| {
        let status = &object["status"];
        let cells = vec![
            name(object),
            number(&status["desiredNumberScheduled"]).into(),
            number(&status["currentNumberScheduled"]).into(),
            number(&status["numberReady"]).into(),
            number(&status["updatedNumberScheduled"]).into(),
            number(&status["numberAvailable"]).into(),
            labels(&object["spec"]["template"]["spec"]["nodeSelector"]).into(),
            age(object, now),
        ];
        with_template(cells, &object["spec"])
    },
};

pub(crate) static JOB: Printer = Printer {
    columns: templated![
        text("Status", "Whether the job runs, or how it ended."),
        text("Completions", "Pods that succeeded, of those needed."),
        text("Duration", "Time from start to end, or to now."),
    ],
    row: |object, now| {
        let cells = vec![
            name(object),
            job_status(object).into(),
            completions(object).into(),
            duration(object, now).into(),
            age(object, now),
        ];
        with_template(cells, &object["spec"])
    },
};

pub(crate) static CRON_JOB: Printer = Printer {
    columns: templated![
        text("Schedule", "When jobs start, in cron's notation."),
        text("Timezone", "Time zone of the schedule."),
        column("Suspend", "boolean", 0, "Whether no more jobs start."),
        integer("Active", "Jobs that run."),
        text("Last Schedule", "Time since a job was started."),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let last = match &status["lastScheduleTime"] {
            Value::Null => NONE.to_owned(),
            time => since(time, now),
        };
        let suspended = if spec["suspend"] == true { "True" } else { "False" };
        let cells = vec![
            name(object),
            spec["schedule"].clone(),
            text_or(&spec["timeZone"], NONE).into(),
            suspended.into(),
            items(&status["active"]).len().into(),
            last.into(),
            age(object, now),
        ];
        with_template(cells, &spec["jobTemplate"]["spec"])
    },
};

pub(crate) static CONTROLLER_REVISION: Printer = Printer {
    columns: &[
        NAME,
        text("Controller", "Object that the revision is one of."),
        integer("Revision", "Number of the revision."),
        AGE,
    ],
    row: |object, now| {
        let owner =
            items(&object["metadata"]["ownerReferences"]).iter().find(|o| o["controller"] == true);
        let controller = owner.map_or_else(
            || NONE.to_owned(),
            |owner| {
                let api_version = owner["apiVersion"].as_str().unwrap_or("");
                let (group, _) = crate::meta::split_api_version(api_version);
                let kind = owner["kind"].as_str().unwrap_or("").to_lowercase();
                let dot = if group.is_empty() { "" } else { "." };
                format!("{kind}{dot}{group}/{}", owner["name"].as_str().unwrap_or(""))
            },
        );
        vec![name(object), controller.into(), object["revision"].clone(), age(object, now)]
    },
};

/// The `scale` subresource, which every kind has in the same shape.
pub static SCALE: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired", "Pods that are wanted."),
        integer("Available", "Pods that were seen."),
        AGE,
    ],
    row: |scale, now| {
        vec![
            name(scale),
            number(&scale["spec"]["replicas"]).into(),
            number(&scale["status"]["replicas"]).into(),
            age(scale, now),
        ]
    },
};

pub(crate) static HORIZONTAL_POD_AUTOSCALER: Printer = Printer {
    columns: &[
        NAME,
        text("Reference", "Object that is scaled."),
        text("Targets", "Metrics as observed, and as wanted."),
        text("MinPods", "Fewest pods."),
        text("MaxPods", "Most pods."),
        integer("Replicas", "Pods that are wanted now."),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let reference = &spec["scaleTargetRef"];
        let min =
            spec["minReplicas"].as_i64().map_or_else(|| UNSET.to_owned(), |min| min.to_string());
        vec![
            name(object),
            format!("{}/{}", text_or(&reference["kind"], ""), text_or(&reference["name"], ""))
                .into(),
            metrics(object).into(),
            min.into(),
            number(&spec["maxReplicas"]).to_string().into(),
            number(&object["status"]["desiredReplicas"]).into(),
            age(object, now),
        ]
    },
};

pub(crate) static POD_DISRUPTION_BUDGET: Printer = Printer {
    columns: &[
        NAME,
        text("Min Available", "Pods that must stay available."),
        text("Max Unavailable", "Pods that may be unavailable."),
        integer("Allowed Disruptions", "Pods that may be evicted now."),
        AGE,
    ],
    row: |object, now| {
        let or_not = |value: &Value| match value {
            Value::Null => "N/A".to_owned(),
            Value::String(percent) => percent.clone(),
            number => number.to_string(),
        };
        vec![
            name(object),
            or_not(&object["spec"]["minAvailable"]).into(),
            or_not(&object["spec"]["maxUnavailable"]).into(),
            number(&object["status"]["disruptionsAllowed"]).into(),
            age(object, now),
        ]
    },
};

/// Replicas that are wanted; one where nothing is said.
fn wanted(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// Pods that are ready, of those wanted: `2/3`.
fn ready(object: &Value) -> String {
    format!("{}/{}", number(&object["status"]["readyReplicas"]), wanted(object))
}

fn replicas(object: &Value, now: Timestamp, selector: String) -> Vec<Value> {
    let status = &object["status"];
    let cells = vec![
        name(object),
        wanted(object).into(),
        number(&status["replicas"]).into(),
        number(&status["readyReplicas"]).into(),
        age(object, now),
    ];
    with_template_and(cells, &object["spec"], selector)
}

/// Adds the cells of what every kind that makes pods from a template prints last.
fn with_template(cells: Vec<Value>, spec: &Value) -> Vec<Value> {
    with_template_and(cells, spec, selector(&spec["selector"]))
}

fn with_template_and(mut cells: Vec<Value>, spec: &Value, selector: String) -> Vec<Value> {
    let (names, images) = containers(&spec["template"]);
    cells.extend([json!(names), json!(images), json!(selector)]);
    cells
}

fn job_status(job: &Value) -> &'static str {
    if holds(job, "Complete") {
        "Complete"
    } else if holds(job, "Failed") {
        "Failed"
    } else if crate::meta::is_deleting(job) {
        "Terminating"
    } else if holds(job, "Suspended") {
        "Suspended"
    } else if holds(job, "FailureTarget") {
        "FailureTarget"
    } else if holds(job, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let succeeded = number(&job["status"]["succeeded"]);
    match (job["spec"]["completions"].as_i64(), number(&job["spec"]["parallelism"])) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(job: &Value, now: Timestamp) -> String {
    let status = &job["status"];
    if status["startTime"].is_null() {
        return String::new();
    }
    let end = status["completionTime"].as_str().and_then(crate::meta::parse_time).unwrap_or(now);
    since(&status["startTime"], end)
}

/// `cpu: 10%/80%`, two at most.
fn metrics(hpa: &Value) -> String {
    let observed = items(&hpa["status"]["currentMetrics"]);
    let specs = items(&hpa["spec"]["metrics"]);
    let all: Vec<String> =
        specs.iter().enumerate().map(|(at, spec)| metric(spec, observed.get(at))).collect();
    some_of(&all, 2, NONE).replace(',', ", ")
}

fn metric(spec: &Value, observed: Option<&Value>) -> String {
    let source = match text_or(&spec["type"], "") {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) =
        (&spec[source]["target"], observed.map_or(&Value::Null, |o| &o[source]["current"]));
    let label = text_or(&spec[source]["name"], "");
    let label = if label.is_empty() { String::new() } else { format!("{label}: ") };
    let reading = |value: &Value, field: &str| match &value[field] {
        Value::String(quantity) => quantity.clone(),
        Value::Number(percent) => format!("{percent}%"),
        _ => "<unknown>".to_owned(),
    };
    for field in ["averageUtilization", "averageValue", "value"] {
        if !target[field].is_null() {
            // These two also come as plain values, so an average is marked.
            let marked = field == "averageValue" && matches!(source, "object" | "external");
            let average = if marked { " (avg)" } else { "" };
            return format!(
                "{label}{}/{}{average}",
                reading(current, field),
                reading(target, field)
            );
        }
    }
    format!("{label}<unknown>/<auto>")
}

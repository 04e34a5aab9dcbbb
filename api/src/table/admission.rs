//! Admission, flow control and devices.

use serde_json::Value;

use super::*;

pub(crate) static WEBHOOKS: Printer = Printer {
    columns: &[NAME, integer("Webhooks", "Number of webhooks."), AGE],
    row: |object, now| {
        vec![name(object), items(&object["webhooks"]).len().into(), age(object, now)]
    },
};

pub(crate) static VALIDATING_ADMISSION_POLICY: Printer = Printer {
    columns: &[
        NAME,
        integer("Validations", "Number of rules."),
        text("ParamKind", "Kind of its parameters."),
        AGE,
    ],
    row: |object, now| {
        let kind = match &object["spec"]["paramKind"] {
            Value::Null => UNSET.to_owned(),
            kind => format!("{}/{}", text_or(&kind["apiVersion"], ""), text_or(&kind["kind"], "")),
        };
        vec![
            name(object),
            items(&object["spec"]["validations"]).len().into(),
            kind.into(),
            age(object, now),
        ]
    },
};

pub(crate) static VALIDATING_ADMISSION_POLICY_BINDING: Printer = Printer {
    columns: &[NAME, text("PolicyName", "The policy."), text("ParamRef", "Its parameters."), AGE],
    row: |object, now| {
        let parameters = match &object["spec"]["paramRef"] {
            Value::Null => UNSET.to_owned(),
            reference => {
                match (text_or(&reference["namespace"], ""), text_or(&reference["name"], "*")) {
                    ("", name) => name.to_owned(),
                    (namespace, name) => format!("{namespace}/{name}"),
                }
            }
        };
        vec![
            name(object),
            object["spec"]["policyName"].clone(),
            parameters.into(),
            age(object, now),
        ]
    },
};

pub(crate) static FLOW_SCHEMA: Printer = Printer {
    columns: &[
        NAME,
        text("PriorityLevel", "Level that requests go to."),
        integer("MatchingPrecedence", "Smaller ones are asked first."),
        text("DistinguisherMethod", "What tells flows apart."),
        AGE,
        text("MissingPL", "Whether the level does not exist."),
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let missing = condition(object, "Dangling")
            .map_or("?", |condition| text_or(&condition["status"], "?"));
        vec![
            name(object),
            spec["priorityLevelConfiguration"]["name"].clone(),
            number(&spec["matchingPrecedence"]).into(),
            text_or(&spec["distinguisherMethod"]["type"], NONE).into(),
            age(object, now),
            missing.into(),
        ]
    },
};

pub(crate) static PRIORITY_LEVEL_CONFIGURATION: Printer = Printer {
    columns: &[
        NAME,
        text("Type", "Limited or exempt."),
        text("NominalConcurrencyShares", "Share of the seats."),
        text("Queues", "Number of queues."),
        text("HandSize", "Queues that a flow is dealt."),
        text("QueueLengthLimit", "Requests in a queue."),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let part = if spec["type"] == "Exempt" { &spec["exempt"] } else { &spec["limited"] };
        let queuing = &part["limitResponse"]["queuing"];
        let or_none = |value: &Value| {
            value.as_i64().map_or_else(|| NONE.to_owned(), |value| value.to_string())
        };
        vec![
            name(object),
            spec["type"].clone(),
            or_none(&part["nominalConcurrencyShares"]).into(),
            or_none(&queuing["queues"]).into(),
            or_none(&queuing["handSize"]).into(),
            or_none(&queuing["queueLengthLimit"]).into(),
            age(object, now),
        ]
    },
};

pub(crate) static RESOURCE_CLAIM: Printer = Printer {
    columns: &[NAME, text("State", "Whether it is allocated and used."), AGE],
    row: |object, now| {
        let status = &object["status"];
        let state = match (crate::meta::is_deleting(object), status["allocation"].is_null()) {
            (true, true) => "deleted",
            (true, false) => "deleted,allocated",
            (false, true) => "pending",
            (false, false) if items(&status["reservedFor"]).is_empty() => "allocated",
            (false, false) => "allocated,reserved",
        };
        vec![name(object), state.into(), age(object, now)]
    },
};

pub(crate) static RESOURCE_SLICE: Printer = Printer {
    columns: &[
        NAME,
        text("Node", "Node that has the devices."),
        text("Driver", "Driver that offers them."),
        text("Pool", "Pool they belong to."),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        vec![
            name(object),
            text_or(&spec["nodeName"], UNSET).into(),
            spec["driver"].clone(),
            spec["pool"]["name"].clone(),
            age(object, now),
        ]
    },
};

//! Volumes, claims to them, and drivers.

use serde_json::Value;

use super::*;

pub(crate) static PERSISTENT_VOLUME: Printer = Printer {
    columns: &[
        NAME,
        text("Capacity", "Size."),
        text("Access Modes", "How it can be mounted."),
        text("Reclaim Policy", "What happens to it when its claim goes."),
        text("Status", "Whether it is free, bound or released."),
        text("Claim", "The claim it is bound to."),
        text("StorageClass", "Its storage class."),
        text("VolumeAttributesClass", "Its class of attributes."),
        text("Reason", "Why it failed."),
        AGE,
        wide("VolumeMode", "File system or block device."),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let claim = match &spec["claimRef"] {
            Value::Null => String::new(),
            claim => {
                format!("{}/{}", text_or(&claim["namespace"], ""), text_or(&claim["name"], ""))
            }
        };
        vec![
            name(object),
            text_or(&spec["capacity"]["storage"], "").into(),
            access_modes(&spec["accessModes"]).into(),
            text_or(&spec["persistentVolumeReclaimPolicy"], "").into(),
            phase(object).into(),
            claim.into(),
            storage_class(object).into(),
            text_or(&spec["volumeAttributesClassName"], UNSET).into(),
            text_or(&status["reason"], "").into(),
            age(object, now),
            text_or(&spec["volumeMode"], UNSET).into(),
        ]
    },
};

pub(crate) static PERSISTENT_VOLUME_CLAIM: Printer = Printer {
    columns: &[
        NAME,
        text("Status", "Whether it is bound."),
        text("Volume", "The volume it is bound to."),
        text("Capacity", "Size of the volume."),
        text("Access Modes", "How it can be mounted."),
        text("StorageClass", "Its storage class."),
        text("VolumeAttributesClass", "Its class of attributes."),
        AGE,
        wide("VolumeMode", "File system or block device."),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let bound = !text_or(&spec["volumeName"], "").is_empty();
        let (capacity, modes) = if bound {
            (text_or(&status["capacity"]["storage"], ""), access_modes(&status["accessModes"]))
        } else {
            ("", String::new())
        };
        vec![
            name(object),
            phase(object).into(),
            text_or(&spec["volumeName"], "").into(),
            capacity.into(),
            modes.into(),
            storage_class(object).into(),
            text_or(&spec["volumeAttributesClassName"], UNSET).into(),
            age(object, now),
            text_or(&spec["volumeMode"], UNSET).into(),
        ]
    },
};

pub(crate) static STORAGE_CLASS: Printer = Printer {
    columns: &[
        NAME,
        text("Provisioner", "Who makes volumes of the class."),
        text("ReclaimPolicy", "What happens to a volume when its claim goes."),
        text("VolumeBindingMode", "When a claim is bound."),
        column("AllowVolumeExpansion", "boolean", 0, "Whether volumes can grow."),
        AGE,
    ],
    row: |object, now| {
        let mut shown = text_or(&object["metadata"]["name"], "").to_owned();
        let marks = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        if marks.iter().any(|mark| crate::meta::annotation(object, mark) == Some("true")) {
            shown.push_str(" (default)");
        }
        vec![
            shown.into(),
            object["provisioner"].clone(),
            text_or(&object["reclaimPolicy"], "Delete").into(),
            text_or(&object["volumeBindingMode"], "Immediate").into(),
            (object["allowVolumeExpansion"] == true).into(),
            age(object, now),
        ]
    },
};

pub(crate) static VOLUME_ATTRIBUTES_CLASS: Printer = Printer {
    columns: &[NAME, text("DriverName", "Driver that knows the attributes."), AGE],
    row: |object, now| vec![name(object), object["driverName"].clone(), age(object, now)],
};

pub(crate) static VOLUME_ATTACHMENT: Printer = Printer {
    columns: &[
        NAME,
        text("Attacher", "Driver that attaches."),
        text("PV", "The volume."),
        text("Node", "The node."),
        column("Attached", "boolean", 0, "Whether it is attached."),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        vec![
            name(object),
            spec["attacher"].clone(),
            text_or(&spec["source"]["persistentVolumeName"], "").into(),
            spec["nodeName"].clone(),
            (object["status"]["attached"] == true).into(),
            age(object, now),
        ]
    },
};

pub(crate) static CSI_NODE: Printer = Printer {
    columns: &[NAME, integer("Drivers", "Drivers on the node."), AGE],
    row: |object, now| {
        vec![name(object), items(&object["spec"]["drivers"]).len().into(), age(object, now)]
    },
};

pub(crate) static CSI_DRIVER: Printer = Printer {
    columns: &[
        NAME,
        column(
            "AttachRequired",
            "boolean",
            0,
            "Whether volumes are attached before they are mounted.",
        ),
        column("PodInfoOnMount", "boolean", 0, "Whether the driver is told about the pod."),
        column("StorageCapacity", "boolean", 0, "Whether the scheduler looks at free capacity."),
        text("TokenRequests", "Audiences of the tokens it gets."),
        column("RequiresRepublish", "boolean", 0, "Whether mounts are refreshed."),
        text("Modes", "Life cycles of its volumes."),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let list = |all: Vec<&str>, empty: &str| {
            if all.is_empty() { empty.to_owned() } else { all.join(",") }
        };
        let audiences =
            items(&spec["tokenRequests"]).iter().filter_map(|t| t["audience"].as_str()).collect();
        let modes = items(&spec["volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
        vec![
            name(object),
            (spec["attachRequired"] != false).into(),
            (spec["podInfoOnMount"] == true).into(),
            (spec["storageCapacity"] == true).into(),
            list(audiences, UNSET).into(),
            (spec["requiresRepublish"] == true).into(),
            list(modes, NONE).into(),
            age(object, now),
        ]
    },
};

pub(crate) static CSI_STORAGE_CAPACITY: Printer = Printer {
    columns: &[
        NAME,
        text("StorageClassName", "Class the capacity is of."),
        text("Capacity", "Free capacity."),
    ],
    row: |object, _| {
        vec![
            name(object),
            object["storageClassName"].clone(),
            text_or(&object["capacity"], UNSET).into(),
        ]
    },
};

fn phase(object: &Value) -> &str {
    if crate::meta::is_deleting(object) {
        "Terminating"
    } else {
        text_or(&object["status"]["phase"], "")
    }
}

fn storage_class(object: &Value) -> &str {
    let annotation = crate::meta::annotation(object, "volume.beta.kubernetes.io/storage-class");
    annotation.unwrap_or_else(|| text_or(&object["spec"]["storageClassName"], ""))
}

/// `RWO,ROX`: in this order, each once.
fn access_modes(modes: &Value) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| items(modes).iter().any(|m| m == mode);
    SHORT
        .iter()
        .filter(|(mode, _)| has(mode))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}

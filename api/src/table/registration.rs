//! Who serves a group version.

use super::*;

pub(crate) static API_SERVICE: Printer = Printer {
    columns: &[
        NAME,
        text("Service", "Service that requests are handed on to."),
        text("Available", "Whether it is served."),
        AGE,
    ],
    row: |object, now| {
        let service = &object["spec"]["service"];
        let shown = match (service["namespace"].as_str(), service["name"].as_str()) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => "Local".to_owned(),
        };
        let available = condition(object, "Available").map_or("Unknown".to_owned(), |condition| {
            let status = text_or(&condition["status"], "Unknown");
            match condition["reason"].as_str() {
                Some(reason) if status != "True" => format!("{status} ({reason})"),
                _ => status.to_owned(),
            }
        });
        vec![name(object), shown.into(), available.into(), age(object, now)]
    },
};

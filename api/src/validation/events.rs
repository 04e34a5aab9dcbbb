//! Events, in the core group's version and in that of `events.k8s.io`.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::events::v1::Event as EventV1;

use super::meta::{MetaRules, check_create, generic_update};
use super::names;
use super::path::{Errors, Path, text};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);

/// Characters of a note.
const NOTE_MAX: usize = 1024;

/// Checks a new Event of the core group. It has to live beside what it is
/// about; events about objects of the whole cluster live in `default`.
pub fn event_create(event: &Event) -> Vec<FieldError> {
    check_create(&event.metadata, META, |errors| {
        let home = ["", "default", "kube-system"];
        let about = text(&event.involved_object.namespace);
        beside_its_object(errors, text(&event.metadata.namespace), about, &home);
    })
}

/// Checks an update of an Event of the core group.
pub fn event_update(new: &Event, old: &Event, _part: Part) -> Vec<FieldError> {
    generic_update(&new.metadata, &old.metadata)
}

/// Checks a new Event of `events.k8s.io`, which asks for more than the old one.
pub fn event_v1_create(event: &EventV1) -> Vec<FieldError> {
    check_create(&event.metadata, META, |errors| {
        let about = event.regarding.as_ref().map(|object| text(&object.namespace));
        let namespace = text(&event.metadata.namespace);
        let home = ["default", "kube-system"];
        beside_its_object(errors, namespace, about.unwrap_or_default(), &home);
        if event.event_time.is_none() {
            errors.required(&Path::root("eventTime"), "");
        }
        reporter(errors, event);
        let note = text(&event.note);
        if note.len() > NOTE_MAX {
            let detail = format!("can have at most {NOTE_MAX} characters");
            errors.invalid(&Path::root("message"), note, detail);
        }
        errors.one_of(&Path::root("type"), Some(text(&event.type_)), &["Normal", "Warning"]);
    })
}

/// Checks an update of an Event of `events.k8s.io`.
pub fn event_v1_update(new: &EventV1, old: &EventV1, _part: Part) -> Vec<FieldError> {
    generic_update(&new.metadata, &old.metadata)
}

/// An event stands in the `namespace` of what it is `about`, or in one that is
/// `home` to events about objects of the whole cluster.
fn beside_its_object(errors: &mut Errors, namespace: &str, about: &str, home: &[&str]) {
    let beside = if about.is_empty() { home.contains(&namespace) } else { about == namespace };
    if !beside {
        let path = Path::root("involvedObject.namespace");
        errors.invalid(&path, about, "does not match event.namespace");
    }
}

/// Who tells of what, each in a word of bounded length.
fn reporter(errors: &mut Errors, event: &EventV1) {
    for (field, value, max) in [
        ("reportingController", &event.reporting_controller, 253),
        ("reportingInstance", &event.reporting_instance, 128),
        ("action", &event.action, 128),
        ("reason", &event.reason, 128),
    ] {
        let path = Path::root(field);
        let value = text(value);
        if value.is_empty() {
            errors.required(&path, "");
        } else if field == "reportingController" {
            errors.invalid_each(&path, value, names::qualified_name(value));
        }
        if value.len() > max {
            errors.invalid(&path, value, format!("can have at most {max} characters"));
        }
    }
}

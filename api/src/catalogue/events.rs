//! The newer view of events. One store of events, two views: they are kept in
//! the core shape.

use k8s_openapi::api::events::v1::Event;

use super::convert::events;
use super::{Legacy, Resource, Typed};
use crate::validation;

/// Fields by which events can be selected in this view.
const FIELDS: &[&str] = &[
    "reason",
    "regarding.apiVersion",
    "regarding.fieldPath",
    "regarding.kind",
    "regarding.name",
    "regarding.namespace",
    "regarding.resourceVersion",
    "regarding.uid",
    "reportingController",
    "type",
];

const VIEW: Legacy = Legacy {
    current: ("", "v1", "events"),
    own_type: true,
    reshaped: true,
    warning: None,
    to_current: events::to_core,
    from_current: events::from_core,
};

pub(super) const ENTRIES: &[Resource] = &[Resource {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    behaviour: &Typed::<Event> {
        validate: Some(validation::event_v1_create),
        validate_update: Some(validation::event_v1_update),
        selectable: FIELDS,
        ..Typed::PLAIN
    },
    legacy: Some(&VIEW),
    ..Resource::BASE
}];

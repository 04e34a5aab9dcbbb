//! `events.k8s.io/v1` events and core events: the same facts under other names.

use serde_json::Value;

use super::rename;

/// Field names in `events.k8s.io/v1` and in the core group.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Rewrites an `events.k8s.io/v1` event into a core one.
pub(in crate::catalogue) fn to_core(event: &mut Value) {
    let Value::Object(map) = event else { return };
    for (new, core) in NAMES {
        rename(map, new, core);
    }
}

/// Rewrites a core event into an `events.k8s.io/v1` one.
pub(in crate::catalogue) fn from_core(event: &mut Value) {
    let Value::Object(map) = event else { return };
    for (new, core) in NAMES {
        rename(map, core, new);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_ways() {
        let new = json!({"regarding": {"kind": "Pod"}, "note": "hello", "reason": "R", "deprecatedCount": 2});
        let core = json!({"involvedObject": {"kind": "Pod"}, "message": "hello", "reason": "R", "count": 2});
        let mut event = new.clone();
        to_core(&mut event);
        assert_eq!(event, core);
        from_core(&mut event);
        assert_eq!(event, new);
    }
}

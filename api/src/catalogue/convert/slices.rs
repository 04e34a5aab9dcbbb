//! EndpointSlices of `discovery.k8s.io/v1beta1`, where the zone and the node of
//! an endpoint stood in a map of labels.

use serde_json::{Map, Value, json};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

/// Rewrites a v1beta1 slice into a v1 one.
pub(in crate::catalogue) fn to_v1(slice: &mut Value) {
    for endpoint in endpoints(slice) {
        let Some(Value::Object(mut topology)) = endpoint.remove("topology") else { continue };
        if let Some(zone) = topology.remove(ZONE) {
            endpoint.insert("zone".into(), zone);
        }
        if topology.get(HOST).is_some_and(|host| endpoint.get("nodeName") == Some(host)) {
            topology.remove(HOST);
        }
        if !topology.is_empty() {
            endpoint.insert("deprecatedTopology".into(), topology.into());
        }
    }
}

/// Rewrites a v1 slice into a v1beta1 one.
pub(in crate::catalogue) fn from_v1(slice: &mut Value) {
    for endpoint in endpoints(slice) {
        let mut topology = endpoint.remove("deprecatedTopology").unwrap_or_else(|| json!({}));
        if let Some(zone) = endpoint.remove("zone") {
            topology[ZONE] = zone;
        }
        if let Some(node) = endpoint.get("nodeName") {
            topology[HOST] = node.clone();
        }
        if topology.as_object().is_some_and(|topology| !topology.is_empty()) {
            endpoint.insert("topology".into(), topology);
        }
    }
}

fn endpoints(slice: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let list = slice.get_mut("endpoints").and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_and_node_move_and_the_rest_is_kept() {
        let old = json!({"endpoints": [
            {"nodeName": "n", "topology": {ZONE: "z", HOST: "n", "rack": "r"}},
            {"topology": {HOST: "elsewhere"}},
            {},
        ]});
        let new = json!({"endpoints": [
            {"nodeName": "n", "zone": "z", "deprecatedTopology": {"rack": "r"}},
            {"deprecatedTopology": {HOST: "elsewhere"}},
            {},
        ]});
        let mut slice = old.clone();
        to_v1(&mut slice);
        assert_eq!(slice, new);
        from_v1(&mut slice);
        assert_eq!(slice, old);
    }

    #[test]
    fn what_is_no_slice_stays() {
        for odd in [json!({"endpoints": [5, null]}), json!({"endpoints": {}}), json!([])] {
            let mut slice = odd.clone();
            to_v1(&mut slice);
            from_v1(&mut slice);
            assert_eq!(slice, odd);
        }
    }
}

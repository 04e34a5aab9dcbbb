//! `/configz`: the node's settings in the words of a KubeletConfiguration.
//!
//! Only what Skiff has: a setting that is not there has no meaning here.

use std::sync::Arc;
use std::time::Duration;

use axum::{Json, extract::State};
use k8s_openapi::api::core::v1::Taint;
use serde_json::{Map, Value, json};

use super::backend::Backend;
use crate::config::Config;
use crate::eviction::thresholds::{Bound, Bounds};
use crate::node::parse_taint;

pub(super) async fn serve(State(node): State<Arc<dyn Backend>>) -> Json<Value> {
    Json(json!({"kubeletconfig": node.settings()}))
}

/// The settings of an agent as a KubeletConfiguration.
pub fn kubelet_configuration(config: &Config) -> Value {
    let thresholds = &config.thresholds;
    let graces: Map<String, Value> = (thresholds.soft_grace.iter())
        .map(|(signal, grace)| (signal.name().to_owned(), json!(go_duration(*grace))))
        .collect();
    let ranks = config.shutdown.ranks().iter().filter(|_| !config.shutdown.is_off());
    let ranks: Vec<Value> = ranks
        .map(|rank| json!({"priority": rank.priority, "shutdownGracePeriodSeconds": rank.grace.as_secs()}))
        .collect();
    let taints: Vec<Taint> =
        config.register_taints.iter().filter_map(|text| parse_taint(text)).collect();
    let mut told = json!({
        "address": config.listen.ip(),
        "authentication": {"anonymous": {"enabled": false}},
        "clusterDNS": [config.cluster_dns],
        "clusterDomain": config.cluster_domain,
        "containerLogMaxFiles": 5,
        "containerLogMaxSize": "10Mi",
        "containerRuntimeEndpoint": format!("unix://{}", config.docker_socket.display()),
        "enableServer": true,
        "enableSystemLogHandler": true,
        "evictionHard": bounds(&thresholds.hard),
        "evictionMaxPodGracePeriod": thresholds.soft_pod_grace,
        "evictionMinimumReclaim": bounds(&thresholds.reclaim),
        "evictionPressureTransitionPeriod": go_duration(thresholds.transition),
        "evictionSoft": bounds(&thresholds.soft),
        "evictionSoftGracePeriod": graces,
        "imageGCHighThresholdPercent": config.image_marks.high_percent,
        "imageGCLowThresholdPercent": config.image_marks.low_percent,
        "imageMinimumGCAge": go_duration(config.image_marks.least_age),
        "maxPods": config.max_pods,
        "nodeLeaseDurationSeconds": config.lease_duration.as_secs(),
        "podPidsLimit": config.pod_pids.unwrap_or(-1),
        "port": config.listen.port(),
        "registerNode": true,
        "registerWithTaints": taints,
        "serverTLSBootstrap": true,
        "shutdownGracePeriodByPodPriority": ranks,
        "systemReserved": (config.reserved.iter())
            .map(|(name, amount)| (name.clone(), json!(amount.to_string())))
            .collect::<Map<String, Value>>(),
    });
    if let Some(folder) = &config.static_pods {
        told["staticPodPath"] = json!(folder);
    }
    told
}

fn bounds(all: &Bounds) -> Map<String, Value> {
    let text = |bound: &Bound| match bound {
        Bound::Amount(amount) => amount.to_string(),
        // The kubelet has no words for the smaller of two.
        Bound::Percent(share) | Bound::PercentUpTo(share, _) => format!("{share}%"),
    };
    all.iter().map(|(signal, bound)| (signal.name().to_owned(), json!(text(bound)))).collect()
}

/// A duration as Go writes it: `1h0m5s`.
fn go_duration(duration: Duration) -> String {
    let all = duration.as_secs();
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::thresholds::{read_graces, read_thresholds};

    #[test]
    fn settings_have_the_kubelets_names_and_forms() {
        let mut config = Config::new("n1", "/data");
        config.thresholds.hard = read_thresholds("memory.available<10%").unwrap();
        config.thresholds.soft = read_thresholds("nodefs.available<1Gi").unwrap();
        config.thresholds.soft_grace = read_graces("nodefs.available=90s").unwrap();
        config.register_taints = vec!["own=x:NoExecute".into()];
        config.pod_pids = Some(512);
        let told = kubelet_configuration(&config);
        let cases = [
            ("evictionHard", json!({"memory.available": "10%"})),
            ("evictionSoft", json!({"nodefs.available": "1073741824"})),
            ("evictionSoftGracePeriod", json!({"nodefs.available": "1m30s"})),
            ("evictionPressureTransitionPeriod", json!("5m0s")),
            ("registerWithTaints", json!([{"key": "own", "value": "x", "effect": "NoExecute"}])),
            ("podPidsLimit", json!(512)),
            ("maxPods", json!(110)),
            ("clusterDNS", json!(["10.96.0.10"])),
            ("staticPodPath", Value::Null),
        ];
        for (name, expected) in cases {
            assert_eq!(told[name], expected, "{name}");
        }
        assert_eq!(go_duration(Duration::from_secs(3605)), "1h0m5s");
    }
}

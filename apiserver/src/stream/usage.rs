//! `metrics.k8s.io`: what nodes and pods use, for `kubectl top` and whoever
//! scales by it.
//!
//! Nothing is stored and nothing is measured ahead: a request asks the agents
//! of the nodes that it is about, all at once, and puts their answers into the
//! API's shape. A node that does not answer is left out, as metrics-server
//! leaves it out.

use std::{collections::BTreeMap, time::Duration};

use axum::body::Body;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use skiff_api::selector::LabelSelector;

use super::{Streams, agent::Agent};
use crate::{registry::json_response, request_info::RequestInfo, status::ApiError};

/// The group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub(crate) const VERSION: &str = "v1beta1";
/// Plural, kind and whether it is namespaced, of what is served.
pub(crate) const RESOURCES: [(&str, &str, bool); 2] =
    [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)];

/// Agents asked at once.
const AT_ONCE: usize = 64;
/// How long one agent may take; it measures for a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer of an agent.
const MOST: usize = 16 << 20;

impl Streams {
    /// Answers a request for `metrics.k8s.io`; it has been authorized.
    pub(crate) async fn usage(
        &self,
        info: &RequestInfo,
        query: &str,
    ) -> Result<Response<Body>, ApiError> {
        let known = RESOURCES.iter().find(|(plural, ..)| *plural == info.resource);
        let Some((_, kind, _)) = known.filter(|_| info.api_version == VERSION) else {
            return Err(ApiError::no_such_resource());
        };
        if !matches!(info.verb, "get" | "list") || !info.subresource.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        let selector = form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == "labelSelector")
            .map(|(_, text)| LabelSelector::parse(&text))
            .transpose()
            .map_err(|error| ApiError::bad_request(error.to_string()))?
            .unwrap_or_default();
        let objects = self.objects_of(info);
        let summaries = self.summaries(nodes_of(info, &objects)).await;
        let items: Vec<Value> = objects
            .iter()
            .filter(|object| selector.matches_object(object))
            .filter_map(|object| match *kind {
                "NodeMetrics" => node_metrics(object, &summaries),
                _ => pod_metrics(object, &summaries),
            })
            .collect();
        let api_version = format!("{GROUP}/{VERSION}");
        let answer = if info.verb == "list" {
            json!({"kind": format!("{kind}List"), "apiVersion": api_version, "metadata": {}, "items": items})
        } else {
            items
                .into_iter()
                .next()
                .ok_or_else(|| ApiError::not_found(GROUP, &info.resource, &info.name))?
        };
        Ok(json_response(StatusCode::OK, Body::from(answer.to_string())))
    }

    /// The nodes or pods that the request is about.
    fn objects_of(&self, info: &RequestInfo) -> Vec<Value> {
        if info.verb == "get" {
            let found = self.objects.get("", &info.resource, &info.namespace, &info.name);
            return found.into_iter().collect();
        }
        self.objects.list("", &info.resource, &info.namespace)
    }

    async fn summaries(&self, nodes: Vec<String>) -> BTreeMap<String, Value> {
        futures::stream::iter(nodes)
            .map(async |node| {
                let asked = tokio::time::timeout(PATIENCE, self.summary(&node)).await;
                match asked {
                    Ok(Ok(summary)) => Some((node, summary)),
                    Ok(Err(error)) => {
                        tracing::debug!(node, error = error.message, "node is not measured");
                        None
                    }
                    Err(_) => {
                        tracing::debug!(node, "node is not measured in time");
                        None
                    }
                }
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    async fn summary(&self, node: &str) -> Result<Value, ApiError> {
        let agent = Agent::of(&self.objects, node)?;
        let broken = |error: &dyn std::fmt::Display| ApiError::internal(error.to_string());
        let request = Request::builder()
            .uri("/stats/summary")
            .body(Body::empty())
            .map_err(|error| broken(&error))?;
        let response = agent.send(&self.tls, request).await?;
        if response.status() != StatusCode::OK {
            return Err(super::refusal(response).await);
        }
        let body = Limited::new(response.into_body(), MOST).collect().await;
        let body = body.map_err(|error| broken(&error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| broken(&error))
    }
}

/// The nodes whose agents know about these objects.
fn nodes_of(info: &RequestInfo, objects: &[Value]) -> Vec<String> {
    let name = |object: &Value| match info.resource.as_str() {
        "nodes" => object["metadata"]["name"].as_str().map(str::to_owned),
        _ => super::target::node(object).map(str::to_owned),
    };
    let names: std::collections::BTreeSet<String> = objects.iter().filter_map(name).collect();
    names.into_iter().collect()
}

fn metrics(kind: &str, object: &Value, at: &Value) -> Value {
    let meta = &object["metadata"];
    let mut metadata = json!({"name": meta["name"], "creationTimestamp": at});
    for key in ["namespace", "labels"] {
        if !meta[key].is_null() {
            metadata[key] = meta[key].clone();
        }
    }
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": metadata,
        "timestamp": at,
        "window": "1s",
    })
}

fn node_metrics(node: &Value, summaries: &BTreeMap<String, Value>) -> Option<Value> {
    let told = &summaries.get(node["metadata"]["name"].as_str()?)?["node"];
    let mut metrics = metrics("NodeMetrics", node, &told["cpu"]["time"]);
    metrics["usage"] = usage(told)?;
    Some(metrics)
}

fn pod_metrics(pod: &Value, summaries: &BTreeMap<String, Value>) -> Option<Value> {
    let summary = summaries.get(super::target::node(pod)?)?;
    let mut told = summary["pods"].as_array()?.iter();
    let told = told.find(|told| told["podRef"]["uid"] == pod["metadata"]["uid"])?;
    let mut metrics = metrics("PodMetrics", pod, &told["cpu"]["time"]);
    let containers = told["containers"].as_array()?.iter();
    metrics["containers"] = containers
        .filter_map(|one| Some(json!({"name": one["name"], "usage": usage(one)?})))
        .collect();
    Some(metrics)
}

/// Billionths of a core and KiB, as metrics-server writes them.
fn usage(told: &Value) -> Option<Value> {
    let cpu = told["cpu"]["usageNanoCores"].as_u64()?;
    let memory = told["memory"]["workingSetBytes"].as_u64()?;
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory >> 10)}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_becomes_metrics_of_what_it_is_about() {
        let used = |cpu: u64, bytes: u64| json!({"cpu": {"time": "2026-01-01T00:00:00Z", "usageNanoCores": cpu}, "memory": {"workingSetBytes": bytes}});
        let mut web = used(5, 2048);
        web["name"] = json!("web");
        let mut pod = used(5, 2048);
        pod["podRef"] = json!({"uid": "u1"});
        pod["containers"] = json!([web, {"name": "just started"}]);
        let summaries =
            BTreeMap::from([("n1".to_owned(), json!({"node": used(7, 4096), "pods": [pod]}))]);
        let node = json!({"metadata": {"name": "n1", "labels": {"a": "b"}}});
        let metrics = node_metrics(&node, &summaries).unwrap();
        assert_eq!(metrics["usage"], json!({"cpu": "7n", "memory": "4Ki"}));
        assert_eq!(metrics["metadata"]["labels"], json!({"a": "b"}));
        assert!(node_metrics(&json!({"metadata": {"name": "silent"}}), &summaries).is_none());

        let pod = |uid: &str, node: &str| json!({"metadata": {"name": "p", "namespace": "a", "uid": uid}, "spec": {"nodeName": node}});
        let metrics = pod_metrics(&pod("u1", "n1"), &summaries).unwrap();
        assert_eq!(
            metrics["containers"],
            json!([{"name": "web", "usage": {"cpu": "5n", "memory": "2Ki"}}])
        );
        for (uid, node) in [("u2", "n1"), ("u1", "n2"), ("u1", "")] {
            assert!(pod_metrics(&pod(uid, node), &summaries).is_none(), "{uid} on {node:?}");
        }
    }
}

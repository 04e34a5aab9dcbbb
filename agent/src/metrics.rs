//! What the agent counts, for `/metrics`.
//!
//! A registry of its own: in one process with the API server the two must not
//! mix their numbers.

use prometheus::{Encoder, Histogram, HistogramOpts, IntCounter, IntGauge, Registry, TextEncoder};

/// The agent's metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    pods: IntGauge,
    /// How long Docker took to create and start a container.
    pub start_seconds: Histogram,
    /// Containers started in place of one that ended.
    pub restarts: IntCounter,
}

impl Metrics {
    /// Metrics that have counted nothing yet.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let pods = IntGauge::new("skiff_agent_pods", "Pods that this node looks after.")?;
        let start_seconds = Histogram::with_opts(HistogramOpts::new(
            "skiff_agent_container_start_seconds",
            "Time to create and start a container.",
        ))?;
        let restarts =
            IntCounter::new("skiff_agent_container_restarts_total", "Containers started again.")?;
        registry.register(Box::new(pods.clone()))?;
        registry.register(Box::new(start_seconds.clone()))?;
        registry.register(Box::new(restarts.clone()))?;
        Ok(Self { registry, pods, start_seconds, restarts })
    }

    /// All of them as Prometheus text.
    pub fn render(&self, pods: usize) -> String {
        self.pods.set(i64::try_from(pods).unwrap_or(i64::MAX));
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_prometheus_text() {
        let metrics = Metrics::new().unwrap();
        metrics.restarts.inc();
        let text = metrics.render(7);
        assert!(text.contains("skiff_agent_pods 7") && text.contains("restarts_total 1"), "{text}");
    }
}

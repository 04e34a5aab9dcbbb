//! Numbers for Prometheus. Labels come from the catalogue and from fixed
//! lists, so no client can make a series of its own.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use skiff_api::catalogue;
use skiff_store::Stats;

use crate::request_info::RequestInfo;

/// The metrics of one server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    latencies: HistogramVec,
    running: IntGaugeVec,
    /// Requests answered 429 because there was no room.
    pub(crate) rejected: IntCounter,
}

/// A request that is being answered; counted out when dropped, since a client
/// may hang up at any time.
pub(crate) struct Running {
    labels: Labels,
    gauge: IntGauge,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// The labels of one request.
#[derive(Clone, Copy)]
struct Labels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
}

impl Labels {
    fn of(info: &RequestInfo) -> Self {
        let verb = match info.verb {
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "OTHER",
        };
        let found = if info.is_resource_request {
            catalogue::find(&info.api_group, &info.api_version, &info.resource)
        } else {
            None
        };
        match found {
            Some(resource) => Self {
                verb,
                group: resource.group,
                version: resource.version,
                resource: resource.plural,
                subresource: resource.subresource(&info.subresource).map_or("", |sub| sub.name),
            },
            None => Self { verb, group: "", version: "", resource: "", subresource: "" },
        }
    }
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new("apiserver_request_total", "Requests by verb, resource and HTTP code."),
            &["verb", "group", "version", "resource", "subresource", "code"],
        )?;
        let latencies = HistogramVec::new(
            HistogramOpts::new(
                "apiserver_request_duration_seconds",
                "Time to answer a request; watches and streams are left out.",
            )
            .buckets(vec![
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
                60.0,
            ]),
            &["verb", "group", "resource"],
        )?;
        let running = IntGaugeVec::new(
            Opts::new(
                "apiserver_current_requests",
                "Requests being answered; watches count until their first byte.",
            ),
            &["verb"],
        )?;
        let rejected = IntCounter::new(
            "apiserver_rejected_requests_total",
            "Requests answered 429 for lack of room.",
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(latencies.clone()))?;
        registry.register(Box::new(running.clone()))?;
        registry.register(Box::new(rejected.clone()))?;
        Ok(Self { registry, requests, latencies, running, rejected })
    }

    /// Counts a request in.
    pub(crate) fn begin(&self, info: &RequestInfo) -> Running {
        let labels = Labels::of(info);
        let gauge = self.running.with_label_values(&[labels.verb]);
        gauge.inc();
        Running { labels, gauge }
    }

    /// Counts a request out.
    pub(crate) fn end(&self, running: Running, code: StatusCode, took: Duration) {
        let Labels { verb, group, version, resource, subresource } = running.labels;
        self.requests
            .with_label_values(&[verb, group, version, resource, subresource, code.as_str()])
            .inc();
        if verb != "WATCH"
            && !matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
        {
            self.latencies.with_label_values(&[verb, group, resource]).observe(took.as_secs_f64());
        }
    }

    /// `/metrics`.
    pub(crate) fn page(&self, stats: &Stats) -> Response<Body> {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        store(&mut text, stats);
        process(&mut text);
        let mut response = Response::new(Body::from(text));
        let media = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, media);
        response
    }
}

fn line(text: &mut String, kind: &str, name: &str, help: &str, value: impl std::fmt::Display) {
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
}

/// The store's numbers, which it keeps itself.
fn store(text: &mut String, stats: &Stats) {
    let gauges: [(&str, &str, u64); 15] = [
        ("skiff_store_revision", "Newest revision.", stats.revision.0),
        (
            "skiff_store_compacted_revision",
            "Oldest revision from which a watch may resume.",
            stats.compacted.0,
        ),
        ("skiff_store_term", "Raft term.", stats.term),
        ("skiff_store_member", "Id of this member.", stats.member),
        ("skiff_store_leader", "Id of the leader, 0 for none.", stats.leader),
        ("skiff_store_members", "Members of the group.", stats.members),
        ("skiff_store_lag", "Log entries that the slowest member lacks.", stats.lag),
        ("skiff_store_applied_index", "Newest applied log entry.", stats.applied_index),
        ("skiff_store_last_index", "Newest log entry.", stats.last_index),
        ("skiff_store_keys", "Live keys.", stats.keys),
        ("skiff_store_key_value_bytes", "Bytes of live keys and values.", stats.key_value_bytes),
        ("skiff_store_history_events", "Events in the history window.", stats.history_events),
        ("skiff_store_history_bytes", "Bytes of the history window.", stats.history_bytes),
        ("skiff_store_log_bytes", "Bytes of the log on disk.", stats.log_bytes),
        ("skiff_store_state_bytes", "Bytes of the state on disk.", stats.state_bytes),
    ];
    for (name, help, value) in gauges {
        line(text, "gauge", name, help, value);
    }
    line(
        text,
        "counter",
        "skiff_store_transactions_total",
        "Transactions committed or refused.",
        stats.transactions,
    );
    let name = "skiff_store_sync_duration_seconds";
    text.push_str(&format!("# HELP {name} Time of durable log writes.\n# TYPE {name} histogram\n"));
    let mut sum = 0;
    for (at, count) in stats.sync_histogram.iter().enumerate() {
        sum += count;
        let bound = skiff_store::SYNC_BUCKETS_MICROS.get(at);
        let bound = bound.map_or("+Inf".to_owned(), |micros| {
            format!("{}", Duration::from_micros(*micros).as_secs_f64())
        });
        text.push_str(&format!("{name}_bucket{{le=\"{bound}\"}} {sum}\n"));
    }
    text.push_str(&format!(
        "{name}_sum {}\n{name}_count {}\n",
        stats.sync_time.as_secs_f64(),
        stats.syncs
    ));
}

/// The process's numbers, where the kernel tells them.
fn process(text: &mut String) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let field = |name: &str| -> Option<u64> {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
    };
    if let Some(kib) = field("VmRSS:") {
        line(text, "gauge", "process_resident_memory_bytes", "Resident memory.", kib * 1024);
    }
    if let Some(threads) = field("Threads:") {
        line(text, "gauge", "process_threads", "Threads.", threads);
    }
    // User and system time are the 14th and 15th field; the name in the second
    // may hold spaces, so counting starts behind it. Ticks are 1/100 s.
    let stat = read("/proc/self/stat");
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 =
        after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    if ticks > 0 {
        let seconds = Duration::from_millis(ticks * 10).as_secs_f64();
        line(text, "counter", "process_cpu_seconds_total", "User and system time.", seconds);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        line(text, "gauge", "process_open_fds", "Open files.", entries.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn labels_are_bounded() {
        let of = |uri: &str| Labels::of(&RequestInfo::parse(&Method::GET, &uri.parse().unwrap()));
        let pod = of("/api/v1/namespaces/a/pods/b/log");
        assert_eq!((pod.verb, pod.resource, pod.subresource), ("GET", "pods", "log"));
        let odd = of("/apis/made/up/things/x");
        assert_eq!((odd.resource, odd.group), ("", ""));
        let sub = of("/api/v1/namespaces/a/pods/b/whatever");
        assert_eq!(sub.subresource, "");
    }

    #[test]
    fn the_page_has_every_part() {
        let metrics = Metrics::new().unwrap();
        let info = RequestInfo::parse(&Method::GET, &"/api/v1/pods".parse().unwrap());
        let running = metrics.begin(&info);
        metrics.end(running, StatusCode::OK, Duration::from_millis(3));
        let mut text = TextEncoder::new().encode_to_string(&metrics.registry.gather()).unwrap();
        store(&mut text, &Stats::default());
        process(&mut text);
        for part in [
            "apiserver_request_total{code=\"200\",group=\"\",resource=\"pods\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1",
            "apiserver_request_duration_seconds_bucket",
            "skiff_store_revision 0",
            "skiff_store_sync_duration_seconds_bucket{le=\"+Inf\"} 0",
            "process_resident_memory_bytes",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}

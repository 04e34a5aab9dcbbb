//! What the node and its pods use, measured when somebody asks.
//!
//! Use of CPU is a difference of two readings. The earlier one is the last that
//! was taken if it is recent, or else a second is waited for; nobody asks, so
//! nothing is measured.
//!
//! The shapes are the kubelet's: `/stats/summary` (kubelet/pkg/apis/stats) and
//! `/metrics/resource` (KEP-727).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::runtime::{Container, Result, Runtime, State, Stats, labels};

/// The least time between two readings of which a rate is made.
const WINDOW: Duration = Duration::from_secs(1);
/// An earlier reading than this says little of the present.
const STALE: Duration = Duration::from_secs(60);
/// Containers that are asked at once.
const AT_ONCE: usize = 8;

/// Measures one node.
pub struct Meter {
    runtime: Arc<dyn Runtime>,
    wanted: BTreeMap<String, String>,
    node: String,
    last: Mutex<Option<Reading>>,
}

/// All counters at about one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    at: Timestamp,
    node: NodeUse,
    containers: Vec<ContainerUse>,
}

/// The machine's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct NodeUse {
    cpu_nanos: u64,
    memory_total: u64,
    memory_available: u64,
}

/// One container's counters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ContainerUse {
    namespace: String,
    pod: String,
    pub(crate) uid: String,
    pub(crate) name: String,
    started: Timestamp,
    pub(crate) stats: Stats,
}

impl Meter {
    /// Measures the containers of `node` of `instance`.
    pub fn new(runtime: Arc<dyn Runtime>, instance: &str, node: &str) -> Self {
        let wanted = BTreeMap::from([
            (labels::INSTANCE.to_owned(), instance.to_owned()),
            (labels::NODE.to_owned(), node.to_owned()),
        ]);
        Self { runtime, wanted, node: node.to_owned(), last: Mutex::default() }
    }

    async fn read(&self) -> Result<Reading> {
        let containers = self.containers().await?;
        Ok(Reading { at: Timestamp::now(), node: NodeUse::read(), containers })
    }

    /// The counters of the containers that run.
    pub(crate) async fn containers(&self) -> Result<Vec<ContainerUse>> {
        let containers = self.runtime.list(&self.wanted).await?;
        let running = containers.into_iter().filter_map(|container| match container.state {
            State::Running { started, .. }
                if container.label(labels::CONTAINER) != labels::SANDBOX =>
            {
                Some((container, started))
            }
            _ => None,
        });
        Ok(futures::stream::iter(running)
            .map(|(container, started)| self.measure(container, started))
            .buffered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await)
    }

    /// `None` for a container that has ended meanwhile.
    async fn measure(&self, container: Container, started: Timestamp) -> Option<ContainerUse> {
        let stats = self.runtime.stats(&container.id).await.ok()?;
        let label = |key| container.label(key).to_owned();
        Some(ContainerUse {
            namespace: label(labels::POD_NAMESPACE),
            pod: label(labels::POD_NAME),
            uid: label(labels::POD_UID),
            name: label(labels::CONTAINER),
            started,
            stats,
        })
    }

    /// Two readings with some time between them.
    async fn window(&self) -> Result<(Reading, Reading)> {
        let mut last = self.last.lock().await;
        let age = |reading: &Reading| {
            Duration::try_from(Timestamp::now().duration_since(reading.at)).unwrap_or_default()
        };
        let earlier = match last.take().filter(|reading| (WINDOW..STALE).contains(&age(reading))) {
            Some(earlier) => earlier,
            None => {
                let earlier = self.read().await?;
                tokio::time::sleep(WINDOW).await;
                earlier
            }
        };
        let now = self.read().await?;
        *last = Some(now.clone());
        Ok((earlier, now))
    }

    /// `/stats/summary`; the file system is that of `dir`.
    pub async fn summary(&self, dir: &Path) -> Result<Value> {
        let (earlier, now) = self.window().await?;
        Ok(summary(&self.node, &earlier, &now, disk(dir)))
    }

    /// `/metrics/resource`.
    pub async fn resources(&self) -> Result<String> {
        Ok(resources(&self.read().await?))
    }
}

impl NodeUse {
    /// From `/proc`; what cannot be read is zero.
    fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self::parse(&stat, &memory)
    }

    fn parse(stat: &str, memory: &str) -> Self {
        // user nice system idle iowait irq softirq steal, in hundredths of a
        // second; guests are counted under user already.
        let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
        let busy = ticks.iter().enumerate().filter(|(field, _)| !matches!(field, 3 | 4));
        let bytes = |key| crate::node::meminfo(memory, key).unwrap_or_default();
        Self {
            cpu_nanos: busy.map(|(_, ticks)| ticks * 10_000_000).sum(),
            memory_total: bytes("MemTotal"),
            memory_available: bytes("MemAvailable"),
        }
    }

    fn working_set(self) -> u64 {
        self.memory_total.saturating_sub(self.memory_available)
    }
}

/// How many processes and threads there are, of how many.
fn pids(at: Timestamp) -> Value {
    let Some(read) = crate::node::pids() else { return Value::Null };
    json!({"time": at, "maxpid": read.all, "curproc": read.all.saturating_sub(read.left)})
}

fn disk(dir: &Path) -> Value {
    let Ok(found) = statvfs(dir) else { return Value::Null };
    let unit = found.fragment_size();
    json!({
        "time": Timestamp::now(),
        "capacityBytes": found.blocks() * unit,
        "availableBytes": found.blocks_available() * unit,
        "usedBytes": found.blocks().saturating_sub(found.blocks_free()) * unit,
        "inodes": found.files(),
        "inodesFree": found.files_available(),
        "inodesUsed": found.files().saturating_sub(found.files_free()),
    })
}

/// CPU in billionths of a core between two readings of a counter.
fn nano_cores(before: u64, after: u64, from: Timestamp, to: Timestamp) -> u64 {
    let nanos = to.duration_since(from).as_nanos();
    if nanos <= 0 {
        return 0;
    }
    let used = i128::from(after.saturating_sub(before));
    u64::try_from(used * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

fn summary(node: &str, earlier: &Reading, now: &Reading, disk: Value) -> Value {
    let cpu = |at: Timestamp, rate: u64, total: u64| json!({"time": at, "usageNanoCores": rate, "usageCoreNanoSeconds": total});
    let memory = |at: Timestamp, bytes: u64| json!({"time": at, "usageBytes": bytes, "workingSetBytes": bytes});
    let mut pods: BTreeMap<&str, Vec<(&ContainerUse, u64)>> = BTreeMap::new();
    for container in &now.containers {
        // A container that has started since counts from its start.
        let before = earlier.containers.iter().find(|known| {
            (known.uid.as_str(), &known.name, known.started)
                == (container.uid.as_str(), &container.name, container.started)
        });
        let (used, since) = before
            .map_or((0, container.started), |before| (before.stats.cpu_nanos, before.stats.at));
        let rate = nano_cores(used, container.stats.cpu_nanos, since, container.stats.at);
        pods.entry(&container.uid).or_default().push((container, rate));
    }
    let pods: Vec<Value> = pods
        .into_values()
        .map(|containers| {
            let first = containers[0].0;
            let sum =
                |get: fn(&(&ContainerUse, u64)) -> u64| containers.iter().map(get).sum::<u64>();
            let items: Vec<Value> = containers
                .iter()
                .map(|(container, rate)| {
                    let stats = container.stats;
                    json!({
                        "name": container.name,
                        "startTime": container.started,
                        "cpu": cpu(stats.at, *rate, stats.cpu_nanos),
                        "memory": memory(stats.at, stats.memory_bytes),
                    })
                })
                .collect();
            json!({
                "podRef": {"name": first.pod, "namespace": first.namespace, "uid": first.uid},
                "startTime": containers.iter().map(|(container, _)| container.started).min(),
                "containers": items,
                "cpu": cpu(now.at, sum(|one| one.1), sum(|one| one.0.stats.cpu_nanos)),
                "memory": memory(now.at, sum(|one| one.0.stats.memory_bytes)),
            })
        })
        .collect();
    let rate = nano_cores(earlier.node.cpu_nanos, now.node.cpu_nanos, earlier.at, now.at);
    let mut node_memory = memory(now.at, now.node.working_set());
    node_memory["availableBytes"] = json!(now.node.memory_available);
    json!({
        "node": {
            "nodeName": node,
            "cpu": cpu(now.at, rate, now.node.cpu_nanos),
            "memory": node_memory,
            "fs": disk,
            "rlimit": pids(now.at),
        },
        "pods": pods,
    })
}

fn resources(reading: &Reading) -> String {
    let mut text = String::new();
    let mut family =
        |name: &str, kind: &str, help: &str, samples: Vec<(String, f64, Timestamp)>| {
            let _ = writeln!(text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
            for (labels, value, at) in samples {
                let _ = writeln!(text, "{name}{labels} {value} {}", at.as_millisecond());
            }
        };
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let of = |container: &ContainerUse| {
        // Names of pods, namespaces and containers need no escapes.
        let ContainerUse { name, namespace, pod, .. } = container;
        format!("{{container=\"{name}\",namespace=\"{namespace}\",pod=\"{pod}\"}}")
    };
    let each = |get: &dyn Fn(&ContainerUse) -> f64| -> Vec<(String, f64, Timestamp)> {
        reading.containers.iter().map(|one| (of(one), get(one), one.stats.at)).collect()
    };
    let per_pod = |get: &dyn Fn(&ContainerUse) -> f64| {
        let mut pods: BTreeMap<(&str, &str), f64> = BTreeMap::new();
        for one in &reading.containers {
            *pods.entry((&one.namespace, &one.pod)).or_default() += get(one);
        }
        let sample = |((namespace, pod), value)| {
            (format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}"), value, reading.at)
        };
        pods.into_iter().map(sample).collect::<Vec<_>>()
    };
    let cpu = |one: &ContainerUse| seconds(one.stats.cpu_nanos);
    let memory = |one: &ContainerUse| one.stats.memory_bytes as f64;
    let node = |value: f64| vec![(String::new(), value, reading.at)];
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        each(&cpu),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        each(&memory),
    );
    let started = |one: &ContainerUse| one.started.as_millisecond() as f64 / 1e3;
    family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        each(&started),
    );
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        node(seconds(reading.node.cpu_nanos)),
    );
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        node(reading.node.working_set() as f64),
    );
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        per_pod(&cpu),
    );
    family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        per_pod(&memory),
    );
    family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        node(0.0),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn container(name: &str, started: i64, read: i64, cpu_nanos: u64) -> ContainerUse {
        ContainerUse {
            namespace: "ns".into(),
            pod: "p".into(),
            uid: "u".into(),
            name: name.into(),
            started: at(started),
            stats: Stats { at: at(read), cpu_nanos, memory_bytes: 1000, processes: 1 },
        }
    }

    fn reading(second: i64, cpu_nanos: u64, containers: Vec<ContainerUse>) -> Reading {
        let node = NodeUse { cpu_nanos, memory_total: 100, memory_available: 40 };
        Reading { at: at(second), node, containers }
    }

    #[test]
    fn use_is_a_difference_over_time() {
        let earlier = reading(10, 0, vec![container("a", 0, 10, 1_000_000_000)]);
        let now = reading(
            12,
            4_000_000_000,
            vec![container("a", 0, 12, 2_000_000_000), container("new", 11, 12, 500_000_000)],
        );
        let told = summary("n", &earlier, &now, Value::Null);
        assert_eq!(told["node"]["cpu"]["usageNanoCores"], 2_000_000_000u64);
        assert_eq!(told["node"]["memory"]["workingSetBytes"], 60);
        let pod = &told["pods"][0];
        assert_eq!(pod["containers"][0]["cpu"]["usageNanoCores"], 500_000_000);
        assert_eq!(pod["containers"][1]["cpu"]["usageNanoCores"], 500_000_000, "since its start");
        assert_eq!(pod["cpu"]["usageNanoCores"], 1_000_000_000);
        assert_eq!(pod["memory"]["workingSetBytes"], 2000);
        assert_eq!(nano_cores(5, 3, at(1), at(2)), 0, "a counter that began anew");
        assert_eq!(nano_cores(1, 3, at(2), at(2)), 0, "no time at all");
    }

    #[test]
    fn metrics_name_their_container() {
        let text =
            resources(&reading(10, 1_500_000_000, vec![container("a", 0, 10, 2_000_000_000)]));
        let lines = [
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"p\"} 2 10000",
            "node_cpu_usage_seconds_total 1.5 10000",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 1000 10000",
        ];
        for line in lines {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn idle_time_is_not_use() {
        let used = NodeUse::parse(
            "cpu  1 2 3 1000 50 4 5 6 7 8\n",
            "MemTotal: 2 kB\nMemAvailable: 1 kB\n",
        );
        assert_eq!(
            used,
            NodeUse { cpu_nanos: 210_000_000, memory_total: 2048, memory_available: 1024 }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn running_containers_are_measured_and_sandboxes_are_not() {
        use crate::runtime::ContainerSpec;
        use crate::runtime::memory::Memory;
        let memory = Arc::new(Memory::new());
        memory.add_image("a:1");
        for name in ["web", labels::SANDBOX, "ended"] {
            let labels = labels::of_container("i", "n", "ns", "p", name);
            let spec = ContainerSpec {
                name: name.into(),
                image: "a:1".into(),
                labels,
                ..Default::default()
            };
            let id = memory.create(&spec).await.unwrap();
            if name != "ended" {
                memory.start(&id).await.unwrap();
            }
        }
        let meter = Meter::new(memory, "i", "n");
        let told = meter.summary(Path::new("/")).await.unwrap();
        let names: Vec<_> = told["pods"][0]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].clone())
            .collect();
        assert_eq!(names, ["web"]);
        assert!(told["node"]["fs"]["capacityBytes"].as_u64().unwrap() > 0);
        let [processes, most] = ["curproc", "maxpid"].map(|key| &told["node"]["rlimit"][key]);
        assert!((1..most.as_u64().unwrap()).contains(&processes.as_u64().unwrap()), "{told}");
        let other =
            Meter::new(Arc::new(Memory::new()), "i", "n").summary(Path::new("/")).await.unwrap();
        assert_eq!(other["pods"], json!([]));
    }
}

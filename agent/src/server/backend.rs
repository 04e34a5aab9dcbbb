//! What the server needs from the node, and its one real implementation over
//! the container runtime.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdTcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::configz;
use crate::config::Config;
use crate::images::Images;
use crate::runtime::{Container, Runtime, RuntimeError, State, labels};
use crate::usage::Meter;
use crate::volume::persistent::volumes_dir;

/// Where machines keep their logs.
const LOG_DIR: &str = "/var/log";
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A question that the node cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// There is no such pod or container.
    #[error("{0}")]
    NotFound(String),
    /// It is there but not in a state for this.
    #[error("{0}")]
    BadState(String),
    /// It is not for whoever asks.
    #[error("{0}")]
    Forbidden(String),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The network inside the pod failed.
    #[error("{0}")]
    Network(#[from] io::Error),
}

/// The node as the server sees it.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Containers and images.
    fn runtime(&self) -> &dyn Runtime;

    /// The newest container of this name in a pod, or with `previous` the one
    /// before it.
    async fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<Container, BackendError>;

    /// Connects to a port on a pod's own loopback.
    async fn dial(&self, namespace: &str, pod: &str, port: u16) -> Result<TcpStream, BackendError>;

    /// The pods that the agent looks after, as a PodList.
    fn pods(&self) -> Value;

    /// The pods that the runtime has something running of, as a PodList that
    /// says no more than their names and containers.
    async fn running_pods(&self) -> Result<Value, BackendError>;

    /// Metrics as Prometheus text.
    fn metrics(&self) -> String;

    /// The images of this machine.
    fn images(&self) -> &Images;

    /// The folder of this node's local volumes.
    fn volumes_dir(&self) -> &Path;

    /// What the node and its pods use.
    fn meter(&self) -> &Meter;

    /// The agent's settings, as a KubeletConfiguration.
    fn settings(&self) -> &Value;

    /// The folder of the machine's logs.
    fn log_dir(&self) -> &Path;
}

/// Finds containers by their labels.
pub struct Node {
    runtime: Arc<dyn Runtime>,
    instance: String,
    node: String,
    pods: Box<dyn Fn() -> Value + Send + Sync>,
    metrics: Box<dyn Fn() -> String + Send + Sync>,
    images: Images,
    volumes_dir: PathBuf,
    meter: Meter,
    settings: Value,
}

impl Node {
    /// The containers of `node` of `instance` on `runtime`; what the agent
    /// itself knows is asked through the two functions.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        instance: &str,
        node: &str,
        pods: impl Fn() -> Value + Send + Sync + 'static,
        metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            images: Images::new(runtime.clone()),
            meter: Meter::new(runtime.clone(), instance, node),
            volumes_dir: PathBuf::new(),
            settings: Value::Null,
            runtime,
            instance: instance.to_owned(),
            node: node.to_owned(),
            pods: Box::new(pods),
            metrics: Box::new(metrics),
        }
    }
}

impl Node {
    /// The same with these images.
    pub fn with_images(self, images: Images) -> Self {
        Self { images, ..self }
    }

    /// The same as the agent is set up.
    pub fn configured(self, config: &Config) -> Self {
        let settings = configz::kubelet_configuration(config);
        Self { volumes_dir: volumes_dir(&config.data_dir), settings, ..self }
    }
}

#[async_trait]
impl Backend for Node {
    fn runtime(&self) -> &dyn Runtime {
        &*self.runtime
    }

    async fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<Container, BackendError> {
        let wanted = labels::of_container(&self.instance, &self.node, namespace, pod, container);
        let found = self.runtime.list(&wanted).await?;
        // While a restart is waited for, the last one to end is the newest.
        let last =
            if previous { last_ended(&self.pods(), namespace, pod, container) } else { None };
        let told = last.and_then(|id| found.iter().find(|one| one.id == id).cloned());
        told.or_else(|| pick(found, previous)).ok_or_else(|| {
            let what = if previous { "previous terminated container" } else { "container" };
            BackendError::NotFound(format!(
                "{what} {container:?} in pod {pod:?} of namespace {namespace:?} not found"
            ))
        })
    }

    async fn dial(&self, namespace: &str, pod: &str, port: u16) -> Result<TcpStream, BackendError> {
        let sandbox = self.container(namespace, pod, labels::SANDBOX, false).await?;
        let State::Running { pid, .. } = sandbox.state else {
            return Err(BackendError::BadState(format!("pod {pod:?} is not running")));
        };
        let (reply_tx, reply_rx) = tokio::sync::oneshot::channel();
        // A thread of its own: it enters the pod's network and never comes
        // back, so it must not be one that others use.
        std::thread::Builder::new().name("skiff-dial".to_owned()).spawn(move || {
            // Nobody waits any more if this fails.
            let _ = reply_tx.send(dial_inside(pid, port));
        })?;
        let stream = reply_rx.await.map_err(io::Error::other)??;
        Ok(TcpStream::from_std(stream)?)
    }

    fn pods(&self) -> Value {
        (self.pods)()
    }

    async fn running_pods(&self) -> Result<Value, BackendError> {
        let found = self.runtime.list(&labels::of_node(&self.instance, &self.node)).await?;
        Ok(running_pods(&found))
    }

    fn metrics(&self) -> String {
        (self.metrics)()
    }

    fn images(&self) -> &Images {
        &self.images
    }

    fn volumes_dir(&self) -> &Path {
        &self.volumes_dir
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn settings(&self) -> &Value {
        &self.settings
    }

    fn log_dir(&self) -> &Path {
        Path::new(LOG_DIR)
    }
}

fn running_pods(found: &[Container]) -> Value {
    let mut pods = BTreeMap::<[&str; 3], Vec<Value>>::new();
    for one in found.iter().filter(|one| matches!(one.state, State::Running { .. })) {
        let pod = [labels::POD_NAMESPACE, labels::POD_NAME, labels::POD_UID];
        let containers = pods.entry(pod.map(|label| one.label(label))).or_default();
        let name = one.label(labels::CONTAINER);
        if name != labels::SANDBOX {
            containers.push(json!({"name": name, "image": one.image, "resources": {}}));
        }
    }
    let items = pods.into_iter().map(|([namespace, name, uid], containers)| {
        json!({
            "metadata": {"namespace": namespace, "name": name, "uid": uid},
            "spec": {"containers": containers},
            "status": {},
        })
    });
    let items = items.collect::<Vec<_>>();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn dial_inside(pid: i32, port: u16) -> io::Result<StdTcpStream> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let local = |address| StdTcpStream::connect_timeout(&address, DIAL_TIMEOUT);
    let stream = local(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .or_else(|v4| local(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).map_err(|_| v4))?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The id of the container that `lastState` in the pod's status tells of.
fn last_ended(pods: &Value, namespace: &str, pod: &str, container: &str) -> Option<String> {
    let pods = pods["items"].as_array()?;
    let meta = |found: &&Value| {
        found["metadata"]["namespace"] == namespace && found["metadata"]["name"] == pod
    };
    let status = &pods.iter().find(meta)?["status"];
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut all = lists.iter().filter_map(|list| status[*list].as_array()).flatten();
    let known = all.find(|known| known["name"] == container)?;
    let id = known["lastState"]["terminated"]["containerID"].as_str()?;
    id.strip_prefix("docker://").map(str::to_owned)
}

/// The newest attempt, or the newest but one.
fn pick(mut containers: Vec<Container>, previous: bool) -> Option<Container> {
    let attempt =
        |container: &Container| container.label(labels::ATTEMPT).parse::<u64>().unwrap_or(0);
    // A pod of the same name may have come after one that is being cleaned up.
    containers.sort_by_key(|container| (container.created, attempt(container)));
    if !previous {
        return containers.pop();
    }
    let newest = containers.pop()?;
    let uid = newest.label(labels::POD_UID).to_owned();
    containers.into_iter().rev().find(|container| container.label(labels::POD_UID) == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, uid: &str, attempt: &str, created: i64) -> Container {
        Container {
            id: id.to_owned(),
            name: String::new(),
            labels: [(labels::POD_UID, uid), (labels::ATTEMPT, attempt)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            image: String::new(),
            image_id: String::new(),
            created: jiff::Timestamp::from_second(created).unwrap(),
            state: State::Created,
            limits: crate::runtime::Limits::default(),
            user: None,
        }
    }

    #[test]
    fn the_one_that_ended_last_is_the_one_in_the_status() {
        let pods = json!({"items": [
            {"metadata": {"namespace": "ns", "name": "p"}, "status": {"containerStatuses": [
                {"name": "a", "lastState": {"terminated": {"containerID": "docker://c2"}}},
                {"name": "b", "lastState": {}}]}},
        ]});
        assert_eq!(last_ended(&pods, "ns", "p", "a").as_deref(), Some("c2"));
        assert_eq!(last_ended(&pods, "ns", "p", "b"), None, "it never ended");
        assert_eq!(last_ended(&pods, "other", "p", "a"), None);
    }

    #[test]
    fn only_what_runs_is_among_the_running_pods() {
        let named = |uid: &str, name: &str, state: State| {
            let mut found = Container { state, ..container(name, uid, "0", 0) };
            let more = [(labels::POD_NAMESPACE, "ns"), (labels::POD_NAME, "p")];
            found.labels.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
            found.labels.insert(labels::CONTAINER.to_owned(), name.to_owned());
            found
        };
        let running = || State::Running { pid: 1, started: jiff::Timestamp::UNIX_EPOCH };
        let pods = running_pods(&[
            named("u1", "a", running()),
            named("u1", "b", State::Created),
            named("u1", labels::SANDBOX, running()),
            named("u2", "a", State::Created),
            named("u3", labels::SANDBOX, running()),
        ]);
        let told = pods["items"].as_array().unwrap().iter().map(|pod| {
            let names = pod["spec"]["containers"].as_array().unwrap();
            let names = names.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>();
            format!("{} {}", pod["metadata"]["uid"].as_str().unwrap(), names.join(","))
        });
        assert_eq!(told.collect::<Vec<_>>(), ["u1 a", "u3 "]);
    }

    #[test]
    fn the_newest_is_picked_and_the_one_before_it_of_the_same_pod() {
        let all = || {
            vec![
                container("c2", "new", "1", 30),
                container("old", "old", "5", 10),
                container("c1", "new", "0", 20),
            ]
        };
        let id = |found: Option<Container>| found.map(|found| found.id);
        assert_eq!(id(pick(all(), false)).as_deref(), Some("c2"));
        assert_eq!(id(pick(all(), true)).as_deref(), Some("c1"));
        assert_eq!(id(pick(vec![], false)), None);
        let fresh = vec![container("c1", "new", "0", 20), container("old", "old", "5", 10)];
        assert_eq!(id(pick(fresh, true)), None, "another pod's container is no previous one");
    }
}

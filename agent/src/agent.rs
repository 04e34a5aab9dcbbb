//! Wires the agent's parts together and waits.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cgroup::HostCgroups;
use crate::config::Config;
use crate::devices::facts::Facts;
use crate::devices::{self, Devices};
use crate::events::Recorder;
use crate::eviction::Evictor;
use crate::images::Images;
use crate::images::ledger::Ledger;
use crate::images::peers::ClusterPeers;
use crate::metrics::Metrics;
use crate::network::{self, PodNetwork};
use crate::node::{Health, NodeAgent};
use crate::pod::accounts::ImageAccounts;
use crate::pod::context::Context;
use crate::pod::directory::Directory;
use crate::pod::exclusive::ExclusiveClaims;
use crate::pod::manager::Manager;
use crate::pod::objects::Objects;
use crate::pod::static_pods::Folder;
use crate::probe::Probes;
use crate::runtime::docker::Docker;
use crate::runtime::{Runtime, daemon, sandbox_image};
use crate::server;
use crate::shutdown::Shutdown;
use skiff_client::chain;

/// Containers started at the same time. Docker gains nothing from more.
const STARTS_PER_CPU: usize = 4;
/// How long tasks may take to end after a stop was asked for.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// Wait between two tries of something that the runtime has to be up for.
const RETRY: Duration = Duration::from_millis(500);
/// The name that one agent per network namespace holds.
const LOCK_NAME: &[u8] = b"skiff-agent";

/// Runs the node agent until cancelled or until one of its parts fails. The
/// pods go on running; the next agent with the same data directory and node
/// name adopts them.
pub async fn run(
    config: Config,
    client: kube::Client,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let _lock = only_agent_here()?;
    let runtime: Arc<dyn Runtime> = Arc::new(Docker::new(&config.docker_socket));
    run_on(config, client, runtime, cancel).await
}

async fn run_on(
    config: Config,
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let pods_dir = config.data_dir.join("pods");
    std::fs::create_dir_all(&pods_dir)
        .with_context(|| format!("cannot create {}", pods_dir.display()))?;
    let folder = static_pods(&config)?;
    // All parts end together, whichever is first.
    let cancel = cancel.child_token();
    let _stop = cancel.clone().drop_guard();
    let mut tasks = JoinSet::new();

    let metrics = Metrics::new().context("cannot set up metrics")?;
    let (recorder, events) =
        Recorder::new(client.clone(), config.node_name.clone(), cancel.clone());
    tasks.spawn(named("events", events));
    let node = Arc::new(NodeAgent::new(
        config.clone(),
        client.clone(),
        runtime.clone(),
        recorder.clone(),
    )?);
    info!(node = config.node_name, ip = %node.ips[0], instance = config.instance, "agent starts");
    let Some(registered) = node.register(&cancel).await? else { return Ok(()) };

    let (runtime_tx, runtime_rx) = watch::channel(Some("not asked yet".to_owned()));
    let (network_tx, network_rx) =
        watch::channel(Some("waiting for the node's podCIDR".to_owned()));
    let (shutdown_tx, shutdown_rx) = watch::channel(false);
    let health = Health {
        runtime_rx: Some(runtime_rx),
        network_rx: Some(network_rx),
        shutdown_rx: Some(shutdown_rx.clone()),
    };
    let api_back = Arc::new(Notify::new());
    let reporting = node.clone().run(registered, health, api_back.clone(), cancel.clone());
    tasks.spawn(named("node", reporting));
    let pressures = node.pressures();
    let (ips, memory_bytes) = (node.ips.clone(), node.memory_bytes());
    let directory = Arc::new(Directory::default());
    let wake = {
        let directory = directory.clone();
        Arc::new(move |uid: &str| directory.objects_changed(uid))
    };
    let peers = ClusterPeers::new(client.clone(), &config.node_name, &config.server_ca_pem);
    let images = Images::new(runtime.clone()).with(Arc::new(peers), Ledger::open(&config.data_dir));
    let images = images.within(config.image_marks);
    tasks.spawn(named("images", images.clone().keep_room(cancel.clone())));
    let evictor = Evictor::new(
        config.clone(),
        runtime.clone(),
        images.clone(),
        directory.clone(),
        recorder.clone(),
    );
    tasks.spawn(named("evictor", evictor.run(pressures.clone(), cancel.clone())));
    let shutdown = Shutdown::new(&config, directory.clone(), recorder.clone(), shutdown_tx);
    tasks.spawn(named("shutdown", shutdown.run(cancel.clone())));
    let server = serve(
        &config,
        client.clone(),
        runtime.clone(),
        images.clone(),
        directory.clone(),
        metrics.clone(),
        cancel.clone(),
    );
    tasks.spawn(named("server", server.await?));
    let (objects, services) = Objects::new(client.clone(), wake, cancel.clone());
    tasks.spawn(named("services", services));
    let report = {
        let directory = directory.clone();
        Arc::new(move |uid: &str, id: &str, health| directory.health(uid, id, health))
    };
    let (probes, probing) = Probes::new(runtime.clone(), recorder.clone(), report, cancel.clone());
    tasks.spawn(named("probes", probing));

    let (image, pod_cidr) = tokio::join!(
        sandbox_image_ready(runtime.as_ref(), &runtime_tx, &cancel),
        node.pod_cidr(&cancel)
    );
    let (Some(sandbox_image), Some(pod_cidr)) = (image, pod_cidr) else {
        return shut_down(tasks, &cancel).await;
    };
    let network = open_network(&config, &ips, &pod_cidr).await?;
    let hardware = Facts::read(&config.hardware_root);
    let offers = devices::offer::find(&hardware, runtime.as_ref(), &config).await;
    let devices = Arc::new(Devices::new(offers));
    node.set_devices(devices.clone());
    let allocatable = node.allocatable();
    network_tx.send_replace(None);
    let routes = keep_routes(network.clone(), client.clone(), cancel.clone());
    tasks.spawn(named("routes", routes));

    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let engine = daemon::process(&config.docker_socket);
    let cgroups = HostCgroups::new(runtime.clone(), &config.docker_socket, &config.instance);
    let ctx = Arc::new(Context {
        cgroups: Arc::new(cgroups),
        client,
        runtime,
        network,
        images,
        accounts: ImageAccounts::default(),
        exclusive: ExclusiveClaims::default(),
        pods: directory.clone(),
        objects,
        recorder,
        probes,
        starts: Semaphore::new(cpus * STARTS_PER_CPU),
        node_ips: ips,
        devices,
        allocatable,
        memory_bytes,
        sandbox_image,
        netns: daemon::foreign_netns(engine),
        least_oom_score: daemon::least_oom_score(engine),
        app_armor: daemon::enforces_app_armor(),
        pressures,
        shutting_down: shutdown_rx,
        node: node.facts(),
        metrics,
        config,
    });
    let manager =
        Manager::new(ctx, directory, runtime_tx, api_back, cancel.clone()).with_static_pods(folder);
    tasks.spawn(named("pods", manager.run()));

    until_one_ends(&mut tasks, &cancel).await;
    shut_down(tasks, &cancel).await
}

/// The folder of static pods, if there is to be one.
fn static_pods(config: &Config) -> anyhow::Result<Option<Folder>> {
    let Some(path) = &config.static_pods else { return Ok(None) };
    Folder::open(path, &config.node_name)
        .map(Some)
        .with_context(|| format!("cannot watch static pods in {}", path.display()))
}

/// Opens the port for logs and exec, and returns the task that serves it.
async fn serve(
    config: &Config,
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    images: Images,
    directory: Arc<Directory>,
    metrics: Metrics,
    cancel: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot serve logs and exec on {}: is another agent there?", config.listen)
    })?;
    let pods = {
        let directory = directory.clone();
        move || {
            let items = directory.pods();
            let items: Vec<_> = items.iter().map(AsRef::as_ref).collect();
            serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
        }
    };
    let numbers = move || metrics.render(directory.len());
    let backend =
        server::backend::Node::new(runtime, &config.instance, &config.node_name, pods, numbers)
            .with_images(images)
            .configured(config);
    let settings = server::Settings {
        ca_pem: config.server_ca_pem.clone(),
        node_name: config.node_name.clone(),
        data_dir: config.data_dir.clone(),
    };
    Ok(async move {
        if let Err(error) = server::run(listener, settings, client, Arc::new(backend), cancel).await
        {
            error!(error = format!("{error:#}"), "logs and exec are not served");
        }
    })
}

async fn keep_routes(network: Arc<PodNetwork>, client: kube::Client, cancel: CancellationToken) {
    if let Err(error) = network.run_routes(client, cancel).await {
        error!(error = chain(&error), "routes to other nodes are no longer kept");
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// Waits for a stop, or for a part of the agent that ends without one.
async fn until_one_ends(tasks: &mut JoinSet<&'static str>, cancel: &CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => {}
        ended = tasks.join_next() => match ended {
            Some(Ok(name)) if !cancel.is_cancelled() => error!(name, "a part of the agent ended unasked"),
            Some(Err(panicked)) => error!(%panicked, "a part of the agent panicked"),
            _ => {}
        },
    }
}

async fn shut_down(
    mut tasks: JoinSet<&'static str>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let asked = cancel.is_cancelled();
    cancel.cancel();
    let drain = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN, drain).await.is_err() {
        warn!(unfinished = tasks.len(), "grace period over, aborting");
        tasks.shutdown().await;
    }
    if asked { Ok(()) } else { Err(anyhow::anyhow!("a part of the agent ended unasked")) }
}

/// Takes the name that only one agent of a network namespace can hold. Freed
/// by the kernel when the process ends, however it ends.
fn only_agent_here() -> anyhow::Result<UnixListener> {
    let address =
        SocketAddr::from_abstract_name(LOCK_NAME).context("cannot name the agent's lock")?;
    UnixListener::bind_addr(&address)
        .context("another skiff agent runs in this network namespace; stop it first")
}

/// Loads the sandbox image, trying until the runtime answers. `None` when
/// cancelled.
async fn sandbox_image_ready(
    runtime: &dyn Runtime,
    runtime_tx: &watch::Sender<Option<String>>,
    cancel: &CancellationToken,
) -> Option<String> {
    loop {
        match sandbox_image::ensure(runtime).await {
            Ok(name) => {
                runtime_tx.send_replace(None);
                return Some(name);
            }
            Err(error) => {
                warn!(%error, "sandbox image not loaded, will be tried again");
                runtime_tx.send_replace(Some(error.reason().to_owned()));
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn open_network(
    config: &Config,
    ips: &[std::net::IpAddr],
    pod_cidr: &str,
) -> anyhow::Result<Arc<PodNetwork>> {
    let node_ip = match ips.first() {
        Some(std::net::IpAddr::V4(ip)) => *ip,
        other => {
            anyhow::bail!("the pod network needs an IPv4 address of the node, it has {other:?}")
        }
    };
    let settings = network::Config {
        node_ip,
        pod_cidr: pod_cidr
            .parse()
            .with_context(|| format!("the node's podCIDR {pod_cidr} is not an IPv4 network"))?,
        cluster_cidr: config.cluster_cidr.parse().with_context(|| {
            format!("the cluster CIDR {} is not an IPv4 network", config.cluster_cidr)
        })?,
    };
    Ok(Arc::new(PodNetwork::open(settings).await.context("cannot open the pod network")?))
}

//! `skiff lab`: clusters of many machines on this one.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use skiff_apiserver::join::{self, Purpose};
use skiff_apiserver::members::{Group, Member};
use skiff_client::Api;
use skiff_lab::{Lab, Machine, Role, netns};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::args::{LabArgs, LabCommand, Machines};
use super::masters::Masters;
use super::{member, preflight, ready, token};

/// How long a lab may take to become ready before it is called broken.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long the API may take to say how the machines are.
const STATUS_PATIENCE: Duration = Duration::from_secs(3);
/// Long enough for the nodes to join at the start.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Runs one lab command.
pub(super) fn run(args: LabArgs) -> anyhow::Result<ExitCode> {
    preflight::need_root("skiff lab")?;
    let program = std::env::current_exe().context("cannot find my own program file")?;
    if let LabCommand::Up { masters, nodes, docker_socket } = args.command {
        preflight::need_nft()?;
        let lab = Lab::create(&args.dir, masters, nodes, docker_socket.as_deref(), &program)?;
        let sockets: BTreeSet<_> =
            lab.plan.nodes().map(|node| lab.plan.docker_socket(node)).collect();
        sockets.iter().try_for_each(|socket| preflight::need_docker(socket))?;
        return super::wait_for("warn", up(lab)).map(|()| ExitCode::SUCCESS);
    }
    if matches!(args.command, LabCommand::Down) && !args.dir.join("lab.json").exists() {
        return Ok(ExitCode::SUCCESS);
    }
    let lab = Lab::open(&std::path::absolute(&args.dir)?, &program)?;
    let named = |machines: &Machines| -> anyhow::Result<Vec<Machine>> {
        machines.names.iter().map(|name| Ok(lab.machine(name)?.clone())).collect()
    };
    match args.command {
        LabCommand::Up { .. } => {}
        LabCommand::Status { output } => super::wait_for("warn", status(&lab, output.is_some()))?,
        LabCommand::Exec { name, command } => return exec(&lab, &name, &command),
        LabCommand::Kill(machines) => {
            named(&machines)?.iter().try_for_each(|machine| lab.kill(machine))?
        }
        LabCommand::Stop(machines) => {
            named(&machines)?.iter().try_for_each(|machine| lab.stop(machine))?
        }
        LabCommand::Start(machines) => {
            named(&machines)?.iter().try_for_each(|machine| lab.start(machine, None))?
        }
        LabCommand::Partition(machines) => {
            lab.partition(&named(&machines)?.iter().collect::<Vec<_>>())?
        }
        LabCommand::Heal => lab.heal()?,
        LabCommand::Down => lab.remove()?,
        LabCommand::Front => {
            let kubeconfig = lab.plan.dir.join("admin.kubeconfig");
            lab.serve_front(|port, masters| front(kubeconfig, port, masters))?
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn up(lab: Lab) -> anyhow::Result<()> {
    let started = Instant::now();
    lab.ensure_network()?;
    // The others join the founder, and at later starts all are needed at once.
    let founder = lab.founder().cloned().context("the lab has no master")?;
    for master in lab.plan.masters() {
        if *master == founder || lab.has_joined(master) {
            lab.start(master, None)?;
        }
    }
    lab.ensure_front()?;
    let joined = timeout(START_PATIENCE, start_others(&lab, &founder)).await;
    let logs = lab.plan.dir.display();
    let client = joined.with_context(|| {
        format!("the masters do not serve; their logs are in {logs}/master-*.log")
    })??;
    let names: Vec<String> = lab.plan.nodes().map(|node| node.name.clone()).collect();
    timeout(START_PATIENCE, ready::nodes(client, &names)).await.with_context(|| {
        format!("not all nodes became ready; their logs are in {logs}/node-*.log")
    })??;
    println!(
        "skiff: lab ready in {:.2}s, {} nodes, kubeconfig {}",
        started.elapsed().as_secs_f64(),
        names.len(),
        lab.plan.dir.join("admin.kubeconfig").display()
    );
    Ok(())
}

/// Waits for the founder, then lets the other masters and the nodes join it.
async fn start_others(lab: &Lab, master: &Machine) -> anyhow::Result<Client> {
    let original = lab.plan.data_dir(master).join("admin.kubeconfig");
    let ours = lab.plan.dir.join("admin.kubeconfig");
    let client = loop {
        if lab.pid(master).is_none() {
            bail!("the master ended at once; its log is {}", lab.log(master).display());
        }
        // The start of a process has no event to wait for; this lasts a moment.
        if original.exists() {
            write_kubeconfig(&original, &ours, lab.plan.port)?;
            let client = token::client(&ours)?;
            if client.apiserver_version().await.is_ok() {
                break client;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let pin = token::ca_pin(&ours)?;
    let token = async |purpose| loop {
        // The namespaces are made a moment after the first answer.
        match join::create_token_for(&client, &pin, purpose, TOKEN_TTL).await {
            Ok(token) => break token.to_string(),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let fresh = |other: &&Machine| *other != master && !lab.has_joined(other);
    let mut new = lab.plan.masters().filter(fresh).peekable();
    if new.peek().is_some() {
        let token = token(Purpose::Master).await;
        for other in new {
            forget(&ours, other).await?;
            lab.start(other, Some(&token))?;
        }
    }
    let masters: Vec<_> = lab.plan.masters().collect();
    // Nobody tells when a master gets its vote; this lasts a second or two.
    while member::group(&ours).await.map_or(0, |group| voters(&group)) < masters.len() {
        if let Some(ended) = masters.iter().find(|master| lab.pid(master).is_none()) {
            bail!("{} ended at once; its log is {}", ended.name, lab.log(ended).display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let token = token(Purpose::Node).await;
    for node in lab.plan.nodes() {
        lab.start(node, Some(&token))?;
    }
    Ok(client)
}

/// Lets the group forget a master whose data is gone: it joins under a new id.
async fn forget(kubeconfig: &Path, master: &Machine) -> anyhow::Result<()> {
    let group = member::group(kubeconfig).await?;
    if let Some(lost) = group.members.iter().find(|member| is_at(member, master)) {
        member::remove(kubeconfig, lost.id)
            .await
            .with_context(|| format!("{} has lost its data and cannot be replaced", master.name))?;
    }
    Ok(())
}

fn is_at(member: &Member, machine: &Machine) -> bool {
    let host = member.address.rsplit_once(':').map(|(host, _)| host);
    host == Some(machine.address.to_string().as_str())
}

fn voters(group: &Group) -> usize {
    group.members.iter().filter(|member| member.voter).count()
}

/// Copies a master's kubeconfig with the lab's loopback port in it.
fn write_kubeconfig(original: &Path, copy: &Path, port: u16) -> anyhow::Result<()> {
    let mut document: serde_yaml::Value =
        serde_yaml::from_str(&std::fs::read_to_string(original)?)?;
    let server = document
        .get_mut("clusters")
        .and_then(|clusters| clusters.get_mut(0)?.get_mut("cluster")?.get_mut("server"));
    *server.context("the master's kubeconfig names no server")? =
        format!("https://127.0.0.1:{port}").into();
    write_private(copy, &serde_yaml::to_string(&document)?)
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// One row of `lab status`.
#[derive(serde::Serialize)]
struct Row<'a> {
    name: &'a str,
    role: Role,
    address: std::net::Ipv4Addr,
    namespace: &'a str,
    pid: Option<u32>,
    leader: bool,
    ready: bool,
}

/// The masters that say of themselves that they are ready, asked on their own
/// network.
fn serving(lab: &Lab) -> anyhow::Result<BTreeSet<String>> {
    let kubeconfig = lab.plan.dir.join("admin.kubeconfig");
    let masters = lab.plan.masters().filter(|master| lab.pid(master).is_some());
    let masters: Vec<_> = masters.map(|one| (one.name.clone(), lab.url(one))).collect();
    let asked = netns::run_in(&lab.plan.switch, move || async move {
        let asked = masters.iter().map(|(name, url)| {
            let client = token::client_at(&kubeconfig, url);
            async move { says_ready(&client.ok()?).await.then(|| name.clone()) }
        });
        Ok(join_all(asked).await.into_iter().flatten().collect())
    });
    asked.context("cannot ask the masters")
}

async fn says_ready(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    matches!(timeout(STATUS_PATIENCE, client.request_text(request)).await, Ok(Ok(_)))
}

/// Leads from the host to a master that is ready.
async fn front(
    kubeconfig: PathBuf,
    port: TcpListener,
    masters: Vec<SocketAddr>,
) -> std::io::Result<()> {
    // Kept with their connections. A client that fails is made anew: the lab may
    // have begun again with other keys.
    let clients: Arc<Mutex<HashMap<SocketAddr, Client>>> = Arc::default();
    let masters = Masters::asking(masters, move |master| {
        let (kubeconfig, clients) = (kubeconfig.clone(), Arc::clone(&clients));
        Box::pin(async move {
            let known = lock(&clients).get(&master).cloned();
            let client = known
                .map_or_else(|| token::client_at(&kubeconfig, &format!("https://{master}")), Ok);
            // Nobody can ask before the first master has written it.
            let Ok(client) = client else { return true };
            let ready = says_ready(&client).await;
            if ready {
                lock(&clients).insert(master, client);
            } else {
                lock(&clients).remove(&master);
            }
            ready
        })
    });
    let served = masters.behind(port)?.serve(CancellationToken::new()).await;
    served.map_err(std::io::Error::other)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn status(lab: &Lab, json: bool) -> anyhow::Result<()> {
    // A lab whose masters are down still has machines to show.
    let kubeconfig = lab.plan.dir.join("admin.kubeconfig");
    let nodes = timeout(STATUS_PATIENCE, async {
        let client = token::client(&kubeconfig)?;
        anyhow::Ok(Api::<Node>::all(client).list(&Default::default()).await?)
    })
    .await;
    let nodes = nodes.ok().and_then(Result::ok).unwrap_or_default();
    let node_ready = |name: &str| {
        nodes
            .iter()
            .any(|node| node.metadata.name.as_deref() == Some(name) && ready::is_ready(node))
    };
    let group = timeout(STATUS_PATIENCE, member::group(&kubeconfig)).await;
    let members = group.ok().and_then(Result::ok).map_or_else(Vec::new, |group| group.members);
    let member_of = |machine: &Machine| members.iter().find(|member| is_at(member, machine));
    let serving = serving(lab)?;
    let rows: Vec<Row> = (lab.plan.machines.iter())
        .map(|machine| {
            let pid = lab.pid(machine);
            let member = member_of(machine).filter(|_| pid.is_some());
            Row {
                name: &machine.name,
                role: machine.role,
                address: machine.address,
                namespace: &machine.namespace,
                pid,
                leader: member.is_some_and(|member| member.leader),
                ready: match machine.role {
                    Role::Master => serving.contains(&machine.name),
                    Role::Node => pid.is_some() && node_ready(&machine.name),
                },
            }
        })
        .collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({"machines": rows}))?);
        return Ok(());
    }
    println!(
        "{:<10} {:<7} {:<13} {:<8} {:<6} {:<7} NAMESPACE",
        "NAME", "ROLE", "ADDRESS", "PID", "READY", "LEADER"
    );
    for row in rows {
        let role = if row.role == Role::Master { "master" } else { "node" };
        let pid = row.pid.map_or("-".into(), |pid| pid.to_string());
        println!(
            "{:<10} {role:<7} {:<13} {pid:<8} {:<6} {:<7} {}",
            row.name, row.address, row.ready, row.leader, row.namespace
        );
    }
    Ok(())
}

/// Becomes the command, so that its terminal, signals and exit code are its own.
fn exec(lab: &Lab, name: &str, command: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    let machine = lab.machine(name)?;
    let Some((program, arguments)) = command.split_first() else { bail!("no command given") };
    let error = lab.command(machine, Path::new(program))?.args(arguments).exec();
    bail!("cannot run {} on {name}: {error}", program.display())
}

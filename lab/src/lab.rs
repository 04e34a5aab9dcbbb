//! A lab as a whole: made, started, broken, mended and removed.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::plan::{Machine, Plan, PlanError, Role};
use crate::{netns, process, switch};

/// How long a clean stop may take before the process is killed.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// The port the masters serve on, each at its own address.
const API_PORT: u16 = 6443;
/// A lab's nodes report often, so that a killed one is noticed in seconds
/// instead of Kubernetes' forty.
const NODE_LEASE_SECONDS: &str = "8";

/// What can go wrong with a lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The lab asked for cannot be.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// There is none.
    #[error("there is no lab in {dir}; start one with `skiff lab up --dir {dir}`", dir = .0.display())]
    Missing(PathBuf),
    /// There is one of another size.
    #[error("{} holds a lab of {masters} masters and {nodes} nodes; use that size, or remove it with `skiff lab down`", .dir.display())]
    OtherSize {
        /// The lab's folder.
        dir: PathBuf,
        /// How many masters it has.
        masters: usize,
        /// How many nodes it has.
        nodes: usize,
    },
    /// No machine of that name.
    #[error("the lab has no machine {name}, only {known}")]
    NoMachine {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A master would begin a second cluster beside the one of the others.
    #[error(
        "{name} has no data any more, and the cluster lives on {founder}; `skiff lab up` lets it join again"
    )]
    Wiped {
        /// The master.
        name: String,
        /// Who holds the cluster.
        founder: String,
    },
    /// Something the machine refused.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Parts of the lab could not be removed.
    #[error("the lab is not removed completely: {0}")]
    Remains(String),
}

fn doing<T>(what: impl Into<String>, result: io::Result<T>) -> Result<T, LabError> {
    result.map_err(|source| LabError::Io { what: what.into(), source })
}

/// A lab on this machine.
#[derive(Debug, Clone)]
pub struct Lab {
    /// What it consists of.
    pub plan: Plan,
    /// The `skiff` program that its machines run.
    program: PathBuf,
}

impl Lab {
    /// Opens the lab in `dir`, or plans a new one there. Without `docker_socket`
    /// it keeps the one it has.
    pub fn create(
        dir: &Path,
        masters: u32,
        nodes: u32,
        docker_socket: Option<&str>,
        program: &Path,
    ) -> Result<Self, LabError> {
        doing(format!("make the folder {}", dir.display()), fs::create_dir_all(dir))?;
        let dir = doing(format!("find the folder {}", dir.display()), dir.canonicalize())?;
        match Self::open(&dir, program) {
            Ok(mut lab) => {
                let (has_masters, has_nodes) =
                    (lab.plan.masters().count(), lab.plan.nodes().count());
                if (has_masters, has_nodes) == (masters as usize, nodes as usize) {
                    lab.choose_docker(docker_socket)?;
                    Ok(lab)
                } else {
                    Err(LabError::OtherSize { dir, masters: has_masters, nodes: has_nodes })
                }
            }
            Err(LabError::Missing(_)) => {
                let port = doing("find a free loopback port", free_port())?;
                let plan = Plan::new(&dir, masters, nodes, port)?;
                let mut lab = Self { plan, program: program.to_owned() };
                lab.choose_docker(docker_socket)?;
                Ok(lab)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the socket over and writes `lab.json`.
    fn choose_docker(&mut self, socket: Option<&str>) -> Result<(), LabError> {
        if let Some(socket) = socket {
            self.plan.docker_socket = socket.to_owned();
        }
        let text = serde_json::to_vec_pretty(&self.plan).map_err(io::Error::from);
        let file = self.plan.dir.join("lab.json");
        doing("write lab.json", text.and_then(|text| fs::write(file, text)))
    }

    /// Opens the lab in `dir`.
    pub fn open(dir: &Path, program: &Path) -> Result<Self, LabError> {
        match fs::read(dir.join("lab.json")) {
            Ok(text) => {
                let plan = serde_json::from_slice(&text).map_err(io::Error::from);
                Ok(Self { plan: doing("read lab.json", plan)?, program: program.to_owned() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LabError::Missing(dir.to_owned()))
            }
            Err(source) => Err(LabError::Io { what: "read lab.json".into(), source }),
        }
    }

    /// The machine called `name`.
    pub fn machine(&self, name: &str) -> Result<&Machine, LabError> {
        self.plan.machine(name).ok_or_else(|| LabError::NoMachine {
            name: name.into(),
            known: self
                .plan
                .machines
                .iter()
                .map(|machine| machine.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// Makes namespaces, switch and wires.
    pub fn ensure_network(&self) -> Result<(), LabError> {
        doing("make the lab's network", switch::ensure(&self.plan))
    }

    /// Starts the front door unless it is open.
    pub fn ensure_front(&self) -> Result<(), LabError> {
        let pid_file = self.plan.dir.join("front.pid");
        if process::running(&pid_file).is_some() {
            return Ok(());
        }
        let mut command = Command::new(&self.program);
        command.args(["lab", "front", "--dir"]).arg(&self.plan.dir);
        let log = self.plan.dir.join("front.log");
        doing("open the lab's front door", process::start(command, &log, &pid_file)).map(drop)
    }

    /// Whether a machine was part of the cluster before: it needs no token.
    pub fn has_joined(&self, machine: &Machine) -> bool {
        let data_dir = self.plan.data_dir(machine);
        match machine.role {
            Role::Master => ["master.json", "store"].iter().any(|f| data_dir.join(f).exists()),
            Role::Node => data_dir.join("agent").join("pki").exists(),
        }
    }

    /// The master that holds the cluster, which others join: the first one that
    /// has been part of it. In a new lab the first one begins it.
    pub fn founder(&self) -> Option<&Machine> {
        let joined = self.plan.masters().find(|master| self.has_joined(master));
        joined.or_else(|| self.plan.masters().next())
    }

    /// Starts a machine's process unless it runs. A node, and any master but
    /// the [founder](Lab::founder), needs a token to join for the first time.
    pub fn start(&self, machine: &Machine, token: Option<&str>) -> Result<(), LabError> {
        if self.pid(machine).is_some() {
            return Ok(());
        }
        self.may_start(machine, token.is_some())?;
        let data_dir = self.plan.data_dir(machine);
        doing(format!("make {}", data_dir.display()), fs::create_dir_all(&data_dir))?;
        let what = format!("start {}", machine.name);
        let mut command = doing(&what, process::command(&machine.namespace, &self.program))?;
        match machine.role {
            Role::Master => {
                command.args(["server", "--api-port", &API_PORT.to_string()]);
                command.args(["--master-name", &machine.name]);
                if token.is_some() {
                    command.args(["--join", &self.join_url()]);
                }
            }
            Role::Node => {
                command.args(["agent", "--server", &self.join_url()]);
                command.args(["--node-name", &machine.name]);
                command.arg("--docker-socket").arg(self.plan.docker_socket(machine));
            }
        }
        command.args(["--node-ip", &machine.address.to_string(), "--data-dir"]).arg(&data_dir);
        command.args(["--node-lease-seconds", NODE_LEASE_SECONDS]);
        // By variable, not by argument: arguments are for all to see.
        command.env_remove("SKIFF_TOKEN").envs(token.map(|token| ("SKIFF_TOKEN", token)));
        doing(what, process::start(command, &self.log(machine), &self.pid_file(machine))).map(drop)
    }

    fn may_start(&self, machine: &Machine, joins: bool) -> Result<(), LabError> {
        match self.founder() {
            Some(founder)
                if machine.role == Role::Master
                    && !joins
                    && machine != founder
                    && !self.has_joined(machine) =>
            {
                let (name, founder) = (machine.name.clone(), founder.name.clone());
                Err(LabError::Wiped { name, founder })
            }
            _ => Ok(()),
        }
    }

    /// Where machines join.
    fn join_url(&self) -> String {
        let founder = self.founder();
        founder.map(|master| self.url(master)).unwrap_or_default()
    }

    /// Stops a machine's process cleanly.
    pub fn stop(&self, machine: &Machine) -> Result<(), LabError> {
        doing(format!("stop {}", machine.name), process::stop(&self.pid_file(machine), STOP_GRACE))
    }

    /// Kills a machine's process.
    pub fn kill(&self, machine: &Machine) -> Result<(), LabError> {
        doing(format!("kill {}", machine.name), process::kill_now(&self.pid_file(machine)))
    }

    /// Cuts `machines` off from all others.
    pub fn partition(&self, machines: &[&Machine]) -> Result<(), LabError> {
        doing("cut the machines off", switch::partition(&self.plan, machines))
    }

    /// Joins everything again.
    pub fn heal(&self) -> Result<(), LabError> {
        doing("join the machines again", switch::heal(&self.plan))
    }

    /// A command that will run in a machine's namespace.
    pub fn command(&self, machine: &Machine, program: &Path) -> Result<Command, LabError> {
        doing(format!("enter {}", machine.name), process::command(&machine.namespace, program))
    }

    /// The process id of a machine's process, if it runs.
    pub fn pid(&self, machine: &Machine) -> Option<u32> {
        process::running(&self.pid_file(machine))
    }

    /// Where a master serves, on the lab's own network.
    pub fn url(&self, master: &Machine) -> String {
        format!("https://{}:{API_PORT}", master.address)
    }

    /// Where a machine's process writes what it has to say.
    pub fn log(&self, machine: &Machine) -> PathBuf {
        self.plan.dir.join(format!("{}.log", machine.name))
    }

    /// Lets `lead` serve the front door: it is given the open port, and where
    /// the masters are.
    pub fn serve_front<F: Future<Output = io::Result<()>>>(
        &self,
        lead: impl FnOnce(tokio::net::TcpListener, Vec<SocketAddr>) -> F,
    ) -> Result<(), LabError> {
        let masters = self.plan.masters().map(|master| (master.address, API_PORT).into()).collect();
        doing(
            "serve the lab's front door",
            crate::front::serve(&self.plan.switch, self.plan.port, |port| lead(port, masters)),
        )
    }

    /// Removes everything the lab made, carrying on past failures. While
    /// something is left the folder stays, so that it can be tried again.
    pub fn remove(&self) -> Result<(), LabError> {
        let failures = self.stop_and_unplug();
        let failures = if failures.is_empty() { self.remove_files() } else { failures };
        if failures.is_empty() { Ok(()) } else { Err(LabError::Remains(failures.join("; "))) }
    }

    fn stop_and_unplug(&self) -> Vec<String> {
        let mut results = Vec::new();
        // Nodes first: their clean-up may still want to tell the masters.
        for machine in self.plan.nodes().chain(self.plan.masters()) {
            results.push(self.stop(machine));
            results.push(self.clean(machine));
        }
        results.push(doing(
            "close the front door",
            process::stop(&self.plan.dir.join("front.pid"), STOP_GRACE),
        ));
        results.extend(
            switch::remove(&self.plan)
                .into_iter()
                .map(|error| doing("remove the network", Err(error))),
        );
        failures_of(results)
    }

    fn remove_files(&self) -> Vec<String> {
        let of_machines = self
            .plan
            .machines
            .iter()
            .flat_map(|machine| [self.plan.data_dir(machine), self.log(machine)]);
        let of_lab =
            ["admin.kubeconfig", "front.log", "lab.json"].map(|file| self.plan.dir.join(file));
        let mut results: Vec<_> =
            of_machines.chain(of_lab).map(|path| remove_path(&path)).collect();
        match fs::remove_dir(&self.plan.dir) {
            // The folder may hold other things of its owner.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => results.push(doing("remove the lab's folder", removed)),
        }
        failures_of(results)
    }

    /// Removes a machine's containers and mounts with its own `skiff down`.
    fn clean(&self, machine: &Machine) -> Result<(), LabError> {
        if machine.role == Role::Master || !netns::path(&machine.namespace).exists() {
            return Ok(());
        }
        let what = format!("clean up after {}", machine.name);
        let mut command = doing(&what, process::command(&machine.namespace, &self.program))?;
        let output = doing(
            &what,
            command
                .args(["down", "--data-dir"])
                .arg(self.plan.data_dir(machine))
                .arg("--docker-socket")
                .arg(self.plan.docker_socket(machine))
                .output(),
        )?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        doing(what, Err(io::Error::other(said)))
    }

    fn pid_file(&self, machine: &Machine) -> PathBuf {
        self.plan.dir.join(format!("{}.pid", machine.name))
    }
}

fn failures_of(results: Vec<Result<(), LabError>>) -> Vec<String> {
    results.into_iter().filter_map(Result::err).map(|error| chain(&error)).collect()
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn remove_path(path: &Path) -> Result<(), LabError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LabError::Io { what: format!("remove {}", path.display()), source: error })
        }
        _ => Ok(()),
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_where_its_data_is() {
        let dir = std::env::temp_dir().join(format!("skiff-lab-test-{}", std::process::id()));
        let plan = Plan::new(&dir, 3, 1, 1).unwrap();
        let lab = Lab { plan, program: PathBuf::from("skiff") };
        let data = |name: &str| lab.plan.data_dir(lab.machine(name).unwrap());
        // What happened, where the cluster is, and which masters start by themselves.
        let steps = [
            ("a new lab", None, "master-1", &["master-1"][..]),
            ("the first one began it", Some(("master-1", "store")), "master-1", &["master-1"]),
            (
                "another one joined it",
                Some(("master-3", "master.json")),
                "master-1",
                &["master-1", "master-3"],
            ),
            // A new master-1 would begin a second cluster beside the first.
            ("the first one was wiped", Some(("master-1", "")), "master-3", &["master-3"]),
            (
                "it joined again",
                Some(("master-1", "master.json")),
                "master-1",
                &["master-1", "master-3"],
            ),
        ];
        for (name, change, founder, start) in steps {
            match change {
                Some((machine, "")) => fs::remove_dir_all(data(machine)).unwrap(),
                Some((machine, file)) => fs::create_dir_all(data(machine).join(file)).unwrap(),
                None => {}
            }
            assert_eq!(lab.founder().unwrap().name, founder, "{name}");
            let address = lab.machine(founder).unwrap().address;
            assert_eq!(lab.join_url(), format!("https://{address}:6443"), "{name}");
            let masters = || lab.plan.masters();
            let by_itself: Vec<_> = masters()
                .filter(|master| lab.may_start(master, false).is_ok())
                .map(|master| master.name.as_str())
                .collect();
            assert_eq!(by_itself, start, "{name}");
            assert!(masters().all(|master| lab.may_start(master, true).is_ok()), "{name}: joining");
        }
        assert!(lab.may_start(lab.machine("node-1").unwrap(), false).is_ok());
        fs::remove_dir_all(dir).unwrap();
    }
}

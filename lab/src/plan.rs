//! Names and addresses of a lab's machines, worked out from its folder and
//! size, and kept in `DIR/lab.json`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The lab's network, inside its namespaces only. Far from the addresses that
/// Docker, Vagrant and home routers hand out.
const NETWORK: [u8; 2] = [172, 29];
/// Length of the network's prefix.
pub const PREFIX_LEN: u8 = 16;
/// The switch has an address too: the front door speaks to masters from it.
pub const SWITCH_ADDRESS: Ipv4Addr = Ipv4Addr::new(NETWORK[0], NETWORK[1], 255, 1);

/// Raft groups larger than this gain nothing but latency.
pub const MAX_MASTERS: u32 = 5;
/// What fits the address plan, with room to spare.
pub const MAX_NODES: u32 = 250;

/// The machine's own Docker, which nodes share unless told otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// What a machine is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs `skiff server`.
    Master,
    /// Runs `skiff agent`.
    Node,
}

/// One machine of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `master-1`, `node-2`…
    pub name: String,
    /// What it is there for.
    pub role: Role,
    /// Its address on the switch.
    pub address: Ipv4Addr,
    /// Its network namespace, as `ip netns` lists it.
    pub namespace: String,
}

/// A whole lab: what `DIR/lab.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The lab's folder, absolute.
    pub dir: PathBuf,
    /// Distinguishes this lab's namespaces from those of others.
    pub id: String,
    /// The loopback port of the host that leads to the masters.
    pub port: u16,
    /// The switch's namespace.
    pub switch: String,
    /// Docker's socket; `{node}` in it stands for the name of a node that has a
    /// Docker of its own.
    #[serde(default = "default_docker_socket")]
    pub docker_socket: String,
    /// Masters first, then nodes.
    pub machines: Vec<Machine>,
}

fn default_docker_socket() -> String {
    DOCKER_SOCKET.to_owned()
}

/// A lab that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Raft groups have one, three or five members.
    #[error("a lab has 1, 3 or {MAX_MASTERS} masters, not {0}")]
    Masters(u32),
    /// More nodes than addresses.
    #[error("a lab has at most {MAX_NODES} nodes, not {0}")]
    Nodes(u32),
}

impl Plan {
    /// Plans a lab in `dir`, which must be absolute.
    pub fn new(dir: &Path, masters: u32, nodes: u32, port: u16) -> Result<Self, PlanError> {
        if masters > MAX_MASTERS || masters.is_multiple_of(2) {
            return Err(PlanError::Masters(masters));
        }
        if nodes > MAX_NODES {
            return Err(PlanError::Nodes(nodes));
        }
        let id = short_hash(&dir.to_string_lossy());
        let machine = |role: Role, number: u32| {
            let (name, third) = match role {
                Role::Master => (format!("master-{number}"), 0),
                Role::Node => (format!("node-{number}"), 1),
            };
            // Bounded above, so the number fits the last byte.
            let last = u8::try_from(number).unwrap_or(u8::MAX);
            let address = Ipv4Addr::new(NETWORK[0], NETWORK[1], third, last);
            Machine { namespace: format!("skiff-{id}-{name}"), name, role, address }
        };
        let machines = (1..=masters)
            .map(|number| machine(Role::Master, number))
            .chain((1..=nodes).map(|number| machine(Role::Node, number)))
            .collect();
        Ok(Self {
            dir: dir.to_owned(),
            switch: format!("skiff-{id}-switch"),
            id,
            port,
            docker_socket: default_docker_socket(),
            machines,
        })
    }

    /// The machine called `name`.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name)
    }

    /// All masters.
    pub fn masters(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.role == Role::Master)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.role == Role::Node)
    }

    /// A machine's data directory.
    pub fn data_dir(&self, machine: &Machine) -> PathBuf {
        self.dir.join(&machine.name)
    }

    /// The socket of the Docker that a node runs its pods on.
    pub fn docker_socket(&self, node: &Machine) -> PathBuf {
        self.docker_socket.replace("{node}", &node.name).into()
    }

    /// The number of a machine's port on the switch, from its place in the plan.
    pub fn port_name(&self, machine: &Machine) -> String {
        let place = self.machines.iter().position(|other| other == machine).unwrap_or_default();
        format!("skiffp{place}")
    }
}

/// Six hex digits that differ between folders (FNV-1a; nothing secret here).
fn short_hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{:06x}", (hash ^ (hash >> 24)) & 0xff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        let plan = Plan::new(Path::new("/tmp/lab"), 3, 2, 7443).unwrap();
        let shown: Vec<String> = plan
            .machines
            .iter()
            .map(|machine| format!("{} {}", machine.name, machine.address))
            .collect();
        assert_eq!(
            shown,
            [
                "master-1 172.29.0.1",
                "master-2 172.29.0.2",
                "master-3 172.29.0.3",
                "node-1 172.29.1.1",
                "node-2 172.29.1.2"
            ]
        );
        let namespace = &plan.machine("node-2").unwrap().namespace;
        assert_eq!(*namespace, format!("skiff-{}-node-2", plan.id));
        assert_eq!(plan.port_name(plan.machine("node-1").unwrap()), "skiffp3");
    }

    #[test]
    fn nodes_share_a_docker_or_have_their_own() {
        let mut plan = Plan::new(Path::new("/tmp/lab"), 1, 2, 1).unwrap();
        let socket = |plan: &Plan, name: &str| plan.docker_socket(plan.machine(name).unwrap());
        assert_eq!(socket(&plan, "node-1"), socket(&plan, "node-2"));
        plan.docker_socket = "/run/{node}/docker.sock".into();
        assert_eq!(socket(&plan, "node-2"), Path::new("/run/node-2/docker.sock"));

        // A lab that was planned before one could choose.
        let mut old = serde_json::to_value(&plan).unwrap();
        old.as_object_mut().unwrap().remove("docker_socket");
        let old: Plan = serde_json::from_value(old).unwrap();
        assert_eq!(socket(&old, "node-1"), Path::new("/var/run/docker.sock"));
    }

    #[test]
    fn labs_in_two_folders_do_not_meet() {
        let id = |dir: &str| Plan::new(Path::new(dir), 1, 1, 1).unwrap().id;
        assert_ne!(id("/tmp/a"), id("/tmp/b"));
        assert_eq!(id("/tmp/a"), id("/tmp/a"));
    }

    #[test]
    fn impossible_sizes() {
        let plan = |masters, nodes| Plan::new(Path::new("/tmp/lab"), masters, nodes, 1).map(|_| ());
        assert_eq!(plan(2, 1), Err(PlanError::Masters(2)));
        assert_eq!(plan(0, 1), Err(PlanError::Masters(0)));
        assert_eq!(plan(7, 1), Err(PlanError::Masters(7)));
        assert_eq!(plan(1, 251), Err(PlanError::Nodes(251)));
        assert_eq!(plan(1, 0), Ok(()));
    }
}

//! The pod network in real network namespaces: nodes, pods and a router are
//! namespaces called `skifft-…`, removed when a test ends, however it ends.
//!
//! Needs root, `ip` and `nft`; says so and passes without.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use super::*;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace that goes away with this value.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skifft-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `ip ARGS` in here.
    fn ip(&self, args: &str) -> String {
        let args: Vec<_> = ["-n", &self.name].into_iter().chain(args.split(' ')).collect();
        run("ip", &args)
    }

    /// Runs a whole command line in here.
    fn exec(&self, line: &str) -> String {
        let args = ["netns", "exec", &self.name].into_iter();
        run("ip", &args.chain(line.split(' ')).collect::<Vec<_>>())
    }

    fn nft(&self, script: &str) {
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &self.name, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        nft.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{script}");
    }

    /// Runs `work` on a thread in here.
    fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.name);
        let thread = thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    }

    /// Runs a future in here, as the agent would run on a node.
    fn block_on<T, F>(&self, make: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        self.enter(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(make())
        })
    }

    /// Answers every TCP connection with the caller's address.
    fn serve(&self, ip: IpAddr) {
        let listener = self.enter(move || TcpListener::bind((ip, 8080)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let caller = stream.peer_addr().unwrap().ip();
                write!(stream, "{caller}").unwrap();
            }
        });
    }

    /// Connects from here and returns what the server says, or the error.
    fn call(&self, ip: IpAddr) -> Result<String, std::io::ErrorKind> {
        self.enter(move || {
            let address = SocketAddr::new(ip, 8080);
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))
                .map_err(|err| err.kind())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(|err| err.kind())?;
            Ok(answer)
        })
    }

    /// Everything a good guest leaves as it was.
    fn dump(&self) -> String {
        let lines =
            ["ip address", "ip route", "ip neighbour show nud permanent", "nft list ruleset"];
        let mut dump: String = lines.iter().map(|line| self.exec(line)).collect();
        dump += &self.exec("sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter");
        // Lifetimes and IPv6's duplicate detection change by themselves.
        let still = |line: &&str| !line.contains("valid_lft") && !line.contains("inet6");
        dump.lines().filter(still).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run("ip", &["netns", "delete", &self.name]);
    }
}

/// A pod's sandbox: a process in a network namespace of its own.
struct Sandbox {
    process: Child,
    namespace: Namespace,
}

impl Sandbox {
    fn start() -> Self {
        let namespace = Namespace::new();
        let process = Command::new("ip")
            .args(["netns", "exec", &namespace.name, "sleep", "300"])
            .spawn()
            .unwrap();
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", process.id());
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::read_link(&theirs).is_ok_and(|link| link == ours) {
            assert!(Instant::now() < deadline, "sandbox did not start");
            thread::yield_now();
        }
        Self { process, namespace }
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

fn config(node_ip: [u8; 4], pod_cidr: &str) -> Config {
    Config {
        node_ip: node_ip.into(),
        pod_cidr: pod_cidr.parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
    }
}

/// A veth pair between two namespaces, each end with its address.
fn join(a: &Namespace, a_end: (&str, &str), b: &Namespace, b_end: (&str, &str)) {
    a.ip(&format!("link add {} type veth peer name {} netns {}", a_end.0, b_end.0, b.name));
    for (namespace, (name, address)) in [(a, a_end), (b, b_end)] {
        namespace.ip(&format!("address add {address} dev {name}"));
        namespace.ip(&format!("link set {name} up"));
    }
}

/// A node as the other nodes see it.
fn node_object(name: &str, config: &Config) -> Node {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": name},
        "spec": {"podCIDR": config.pod_cidr.to_string()},
        "status": {"addresses": [{"type": "InternalIP", "address": config.node_ip.to_string()}]},
    }))
    .unwrap()
}

/// Opens the network on `node`, attaches one pod and routes to all `configs`.
fn bring_up(node: &Namespace, own: &Config, configs: &[Config], sandbox: &Sandbox) -> IpAddr {
    let (own, configs, pid) = (own.clone(), configs.to_vec(), sandbox.pid());
    node.block_on(move || async move {
        let network = PodNetwork::open(own).await.unwrap();
        let mut view = NodeView::default();
        for (number, config) in configs.iter().enumerate() {
            let node = node_object(&format!("node-{number}"), config);
            assert!(view.observe(watcher::Event::Apply(node.clone())));
            assert!(!view.observe(watcher::Event::Apply(node)), "a heartbeat changes nothing");
        }
        network.sync_nodes(&view, &mut BTreeMap::new()).await.unwrap();
        network.attach("pod", pid, &[]).await.unwrap()
    })
}

#[test]
fn pods_of_one_node_talk_and_teardown_restores() {
    if !is_root() {
        return;
    }
    let (node, outside) = (Namespace::new(), Namespace::new());
    join(&node, ("eth0", "192.0.2.10/24"), &outside, ("eth0", "192.0.2.1/24"));
    // The rules of a Docker host, in short.
    node.nft(
        "table ip filter {
            chain DOCKER-USER { return; }
            chain FORWARD {
                type filter hook forward priority filter; policy drop;
                jump DOCKER-USER
            }
        }",
    );
    node.ip("route add default via 192.0.2.1");
    node.exec("sysctl -q -w net.ipv4.ip_forward=0 net.ipv4.conf.all.rp_filter=1");
    node.call(IpAddr::from([192, 0, 2, 1])).unwrap_err();
    let before = node.dump();

    let (a, b) = (Sandbox::start(), Sandbox::start());
    let (a_pid, b_pid) = (a.pid(), b.pid());
    let (a_ip, b_ip) = node.block_on(move || async move {
        let network = PodNetwork::open(config([192, 0, 2, 10], "10.244.1.0/24")).await.unwrap();
        let a_ip = network.attach("a", a_pid, &[]).await.unwrap();
        assert_eq!(network.attach("a", a_pid, &[]).await.unwrap(), a_ip, "attach is idempotent");
        let started = Instant::now();
        let b_ip = network.attach("b", b_pid, &[]).await.unwrap();
        println!("attach took {:?}", started.elapsed());
        (a_ip, b_ip)
    });
    assert_eq!(a_ip, IpAddr::from([10, 244, 1, 1]));
    assert_ne!(a_ip, b_ip);

    b.namespace.serve(b_ip);
    outside.serve(IpAddr::from([192, 0, 2, 1]));
    let from = |namespace: &Namespace, to| namespace.call(to).unwrap();
    assert_eq!(from(&a.namespace, b_ip), a_ip.to_string(), "pod to pod");
    assert_eq!(from(&node, b_ip), "192.0.2.10", "node to pod");
    assert_eq!(from(&a.namespace, [192, 0, 2, 1].into()), "192.0.2.10", "pod to outside");
    let gone = Instant::now();
    node.call([10, 244, 9, 9].into()).unwrap_err();
    a.namespace.call([10, 244, 9, 9].into()).unwrap_err();
    assert!(gone.elapsed() < Duration::from_secs(1), "no pod there: told at once");

    // A restarted agent adopts both; a new sandbox of `a` keeps the address.
    let a2 = Sandbox::start();
    let a2_pid = a2.pid();
    let a2_ip = node.block_on(move || async move {
        let network = PodNetwork::open(config([192, 0, 2, 10], "10.244.1.0/24")).await.unwrap();
        assert_eq!(network.attach("b", b_pid, &[]).await.unwrap(), b_ip);
        let a2_ip = network.attach("a", a2_pid, &[]).await.unwrap();
        network.detach("b").await.unwrap();
        network.detach("b").await.unwrap();
        a2_ip
    });
    assert_eq!(a2_ip, a_ip);
    assert!(a.namespace.ip("link").lines().all(|line| !line.contains("eth0")));
    a2.namespace.serve(a_ip);
    assert_eq!(from(&node, a_ip), "192.0.2.10");

    node.block_on(|| async { teardown().await.unwrap() });
    assert_eq!(node.dump(), before);
    node.block_on(|| async { teardown().await.unwrap() });
}

#[test]
fn many_pods_are_unplugged_at_once_and_nobody_else() {
    if !is_root() {
        return;
    }
    let (node, outside) = (Namespace::new(), Namespace::new());
    join(&node, ("eth0", "192.0.2.10/24"), &outside, ("eth0", "192.0.2.1/24"));
    let sandboxes: Vec<Sandbox> = (0..12).map(|_| Sandbox::start()).collect();
    let pids: Vec<u32> = sandboxes.iter().map(Sandbox::pid).collect();
    let cables = || {
        let links = node.ip("-o link");
        links.lines().filter(|line| line.contains(": skiff")).count()
    };
    let names: Vec<String> = (0..12).map(|number| format!("pod-{number}")).collect();
    let (own, plugged) = (config([192, 0, 2, 10], "10.244.1.0/24"), names.clone());
    node.block_on(move || async move {
        let network = PodNetwork::open(own).await.unwrap();
        for (name, pid) in plugged.iter().zip(pids) {
            network.attach(name, pid, &[]).await.unwrap();
        }
    });
    assert_eq!(cables(), 12);
    // One ends by itself meanwhile, as when its sandbox dies.
    node.ip(&format!("link del {}", Cable::of("pod-3").name));
    node.block_on(move || async move {
        let network = PodNetwork::open(config([192, 0, 2, 10], "10.244.1.0/24")).await.unwrap();
        let ends = names[1..].iter().map(|name| network.detach(name));
        for end in futures::future::join_all(ends).await {
            end.unwrap();
        }
    });
    assert_eq!(cables(), 1, "the pod that stays");
    assert!(node.ip("link show eth0").contains("eth0"), "what is not a pod's");
}

#[test]
fn host_ports_lead_to_their_pods() {
    if !is_root() {
        return;
    }
    let (node, outside) = (Namespace::new(), Namespace::new());
    join(&node, ("eth0", "192.0.2.10/24"), &outside, ("eth0", "192.0.2.1/24"));
    let (a, b) = (Sandbox::start(), Sandbox::start());
    let (a_pid, b_pid) = (a.pid(), b.pid());
    let own = || config([192, 0, 2, 10], "10.244.1.0/24");
    // The port that `call` asks for, of all addresses and of one.
    let port = |address: Option<[u8; 4]>| HostPort {
        address: address.map(Into::into),
        port: 8080,
        protocol: "tcp",
        pod_port: 8080,
    };
    let (a_port, b_port) = (port(None), port(Some([192, 0, 2, 10])));
    let (a_ip, b_ip) = node.block_on(move || async move {
        let network = PodNetwork::open(own()).await.unwrap();
        let a_ip = network.attach("a", a_pid, &[a_port]).await.unwrap();
        (a_ip, network.attach("b", b_pid, &[]).await.unwrap())
    });
    a.namespace.serve(a_ip);
    let at = IpAddr::from([192, 0, 2, 10]);
    assert_eq!(outside.call(at).unwrap(), "192.0.2.1", "the caller's own address arrives");
    assert_eq!(node.call(at).unwrap(), "192.0.2.10");
    assert_eq!(b.namespace.call(at).unwrap(), b_ip.to_string(), "from another pod");
    outside.call([192, 0, 2, 11].into()).unwrap_err();

    // A restarted agent keeps what leads to pods that are there; one address's
    // port goes before everybody's, and a pod's ports go with it.
    let (kept, now) = node.block_on(move || async move {
        let network = PodNetwork::open(own()).await.unwrap();
        let kept = network.forwards.lock().await.len();
        network.attach("b", b_pid, &[b_port]).await.unwrap();
        (kept, network.forwards.lock().await.len())
    });
    assert_eq!((kept, now), (1, 2));
    outside.call(at).expect_err("b has the port and does not listen");
    node.block_on(move || async move {
        let network = PodNetwork::open(own()).await.unwrap();
        network.detach("b").await.unwrap();
    });
    assert_eq!(outside.call(at).unwrap(), "192.0.2.1");
    node.block_on(|| async { teardown().await.unwrap() });
    assert!(!node.exec("nft list ruleset").contains("host-ports"));
}

#[test]
fn nodes_on_one_switch_route_directly() {
    if !is_root() {
        return;
    }
    let (one, two) = (Namespace::new(), Namespace::new());
    join(&one, ("eth0", "192.0.2.11/24"), &two, ("eth0", "192.0.2.12/24"));
    let configs =
        [config([192, 0, 2, 11], "10.244.1.0/24"), config([192, 0, 2, 12], "10.244.2.0/24")];
    let (a, b) = (Sandbox::start(), Sandbox::start());
    let a_ip = bring_up(&one, &configs[0], &configs, &a);
    let b_ip = bring_up(&two, &configs[1], &configs, &b);
    b.namespace.serve(b_ip);
    two.serve([192, 0, 2, 12].into());
    assert_eq!(a.namespace.call(b_ip).unwrap(), a_ip.to_string(), "pod to pod");
    assert_eq!(one.call(b_ip).unwrap(), "192.0.2.11", "node to pod");
    let node_two = [192, 0, 2, 12].into();
    assert_eq!(a.namespace.call(node_two).unwrap(), a_ip.to_string(), "pod to node, unmasked");
}

#[test]
fn nodes_behind_a_router_use_the_tunnel() {
    if !is_root() {
        return;
    }
    let (one, router, two) = (Namespace::new(), Namespace::new(), Namespace::new());
    join(&one, ("eth0", "192.0.2.11/24"), &router, ("left", "192.0.2.1/24"));
    join(&two, ("eth0", "198.51.100.12/24"), &router, ("right", "198.51.100.1/24"));
    router.exec("sysctl -q -w net.ipv4.ip_forward=1");
    one.ip("route add default via 192.0.2.1");
    two.ip("route add default via 198.51.100.1");
    for node in [&one, &two] {
        node.exec("sysctl -q -w net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1");
    }
    let before = one.dump();
    let configs =
        [config([192, 0, 2, 11], "10.244.1.0/24"), config([198, 51, 100, 12], "10.244.2.0/24")];
    let (a, b) = (Sandbox::start(), Sandbox::start());
    let a_ip = bring_up(&one, &configs[0], &configs, &a);
    let b_ip = bring_up(&two, &configs[1], &configs, &b);
    b.namespace.serve(b_ip);
    assert_eq!(a.namespace.call(b_ip).unwrap(), a_ip.to_string(), "pod to pod");
    assert_eq!(one.call(b_ip).unwrap(), "10.244.1.0", "node to pod, with the tunnel's address");
    assert!(one.ip("link").contains("skiffvx0"));

    one.block_on(|| async { teardown().await.unwrap() });
    assert_eq!(one.dump(), before);
}

#[test]
fn a_sandbox_that_is_gone_is_named() {
    if !is_root() {
        return;
    }
    let node = Namespace::new();
    node.block_on(|| async {
        let network = PodNetwork::open(config([127, 0, 0, 1], "10.244.1.0/24")).await.unwrap();
        let err = network.attach("pod", u32::MAX >> 1, &[]).await.unwrap_err();
        assert!(matches!(err, NetworkError::Sandbox { .. }), "{err}");
    });
}

#[test]
fn a_rebuilt_filter_table_is_opened_again() {
    if !is_root() {
        return;
    }
    let node = Arc::new(Namespace::new());
    let rebuild = "table ip filter {
            chain DOCKER-USER { return; }
            chain FORWARD { type filter hook forward priority filter; policy drop; }
        }";
    node.nft(rebuild);
    let same = Arc::clone(&node);
    node.block_on(move || async move {
        PodNetwork::open(config([127, 0, 0, 1], "10.244.1.0/24")).await.unwrap();
        let mut notices = FilterNotices::subscribe().unwrap();
        assert!(same.exec("nft list table ip filter").contains("skiff"));
        same.exec("nft delete table ip filter");
        same.nft(rebuild);
        tokio::time::timeout(Duration::from_secs(5), notices.changed()).await.unwrap().unwrap();
        reopen_forward(&mut notices).await;
    });
    let rules = node.exec("nft list table ip filter");
    assert_eq!(rules.matches("comment \"skiff\"").count(), 2, "{rules}");
}

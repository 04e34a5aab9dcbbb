//! Throwaway network namespaces, with small servers and clients in them.
//!
//! Names begin with `skifft-`; a namespace goes away with its value, however
//! the test ends.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How long a client waits before it gives up.
const PATIENCE: Duration = Duration::from_secs(2);

/// False, with a printed reason, where namespaces cannot be made.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

/// A network namespace.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one with its loopback up.
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skifft-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `ip ARGS` in here.
    pub(crate) fn ip(&self, args: &str) -> String {
        let args: Vec<_> = ["-n", &self.name].into_iter().chain(args.split(' ')).collect();
        run("ip", &args)
    }

    /// Runs a command line in here.
    pub(crate) fn exec(&self, line: &str) -> String {
        let args = ["netns", "exec", &self.name].into_iter();
        run("ip", &args.chain(line.split(' ')).collect::<Vec<_>>())
    }

    /// Joins two namespaces by a veth pair; each end has a name and an address.
    pub(crate) fn join(&self, end: (&str, &str), other: &Namespace, other_end: (&str, &str)) {
        self.ip(&format!(
            "link add {} type veth peer name {} netns {}",
            end.0, other_end.0, other.name
        ));
        for (namespace, (name, address)) in [(self, end), (other, other_end)] {
            if !address.is_empty() {
                namespace.ip(&format!("address add {address} dev {name}"));
            }
            namespace.ip(&format!("link set {name} up"));
        }
    }

    /// Plugs a pod in, as the pod network does.
    pub(crate) fn plug_pod(&self, number: u8, ip: Ipv4Addr) -> Namespace {
        let pod = Namespace::new();
        let cable = format!("skiff00000000{number:02x}");
        self.join((&cable, ""), &pod, ("eth0", &format!("{ip}/32")));
        self.ip(&format!("route add {ip}/32 dev {cable}"));
        let macs = [format!("0a:00:00:00:00:{number:02x}"), format!("0e:00:00:00:00:{number:02x}")];
        self.ip(&format!("link set {cable} address {}", macs[0]));
        pod.ip(&format!("link set eth0 address {}", macs[1]));
        self.ip(&format!("neigh replace {ip} lladdr {} dev {cable}", macs[1]));
        pod.ip(&format!("neigh replace 169.254.1.1 lladdr {} dev eth0", macs[0]));
        pod.ip("route add 169.254.1.1 dev eth0 scope link");
        pod.ip("route add default via 169.254.1.1 dev eth0");
        pod
    }

    /// Runs `work` on a thread in here.
    pub(crate) fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.name);
        let thread = thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    }

    /// Runs a future in here, as the agent would run on a node.
    pub(crate) fn block_on<T, F>(&self, make: impl FnOnce() -> F + Send + 'static) -> T
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

    /// Serves `port` over TCP and UDP. Says `NAME CALLER`, then echoes.
    pub(crate) fn serve(&self, name: &'static str, port: u16) {
        let bind = move || {
            let any = (Ipv4Addr::UNSPECIFIED, port);
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        };
        let (tcp, udp) = self.enter(bind);
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let caller = stream.peer_addr().unwrap().ip();
                writeln!(stream, "{name} {caller}").unwrap();
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 512];
            loop {
                let (_, caller) = udp.recv_from(&mut buffer).unwrap();
                udp.send_to(format!("{name} {}\n", caller.ip()).as_bytes(), caller).unwrap();
            }
        });
    }

    /// Opens a TCP connection from here and returns the greeting with it.
    pub(crate) fn connect(&self, to: &str) -> Result<(String, TcpStream), ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.enter(move || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|err| err.kind())?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let greeting = read_line(&mut stream).map_err(|err| err.kind())?;
            Ok((greeting, stream))
        })
    }

    /// The greeting of a TCP server.
    pub(crate) fn call(&self, to: &str) -> Result<String, ErrorKind> {
        self.connect(to).map(|(greeting, _)| greeting)
    }

    /// A UDP client in here, bound to one port for its whole life.
    pub(crate) fn udp_client(&self) -> UdpSocket {
        self.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
    }

    /// The lines of `nft list ruleset` and of everything else a good guest
    /// leaves as it was.
    pub(crate) fn dump(&self) -> String {
        let lines = ["ip address", "ip route show table all", "ip rule", "nft list ruleset"];
        let mut dump: String = lines.iter().map(|line| self.exec(line)).collect();
        dump += &self.exec("sysctl net.ipv4.conf.all.route_localnet net.ipv4.ip_forward");
        // Lifetimes and IPv6's duplicate detection change by themselves.
        let still = |line: &&str| !line.contains("valid_lft") && !line.contains("fe80");
        dump.lines().filter(still).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run("ip", &["netns", "delete", &self.name]);
    }
}

/// Sends a datagram and returns the answer, or why there is none.
pub(crate) fn ask(socket: &UdpSocket, to: &str) -> Result<String, ErrorKind> {
    let to: SocketAddrV4 = to.parse().unwrap();
    socket.connect(to).map_err(|err| err.kind())?;
    socket.send(b"hello").map_err(|err| err.kind())?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).map_err(|err| err.kind())?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

/// Sends a line over an open connection and returns what comes back.
pub(crate) fn echo(stream: &mut TcpStream, line: &str) -> String {
    writeln!(stream, "{line}").unwrap();
    read_line(stream).unwrap()
}

fn read_line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// An address with the port of a service.
pub(crate) fn at(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

//! Names that are not the cluster's: asked of the host's name servers.
//!
//! The servers are those of the host's `/etc/resolv.conf`, read again when the
//! file changes. Where there is none, or only ourselves, the answer is SERVFAIL
//! at once: a client in a cluster without network should not wait to learn
//! that.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use skiff_client::chain;
use tracing::debug;

/// How long one server may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A DNS response, as far as a server fills it in.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The response code.
    pub code: ResponseCode,
    /// Whether it comes from us and not from somebody we asked.
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authorities: Vec<Record>,
    /// The additional section.
    pub additionals: Vec<Record>,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            code: ResponseCode::NoError,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

impl Reply {
    fn failure(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

/// Asks upstream servers.
pub struct Forwarder {
    resolv_conf: PathBuf,
    /// Addresses that lead back to us.
    own: Vec<SocketAddr>,
    /// Held to look up or replace, never across an await.
    upstream: Mutex<Upstream>,
}

#[derive(Default)]
struct Upstream {
    read_at: Option<SystemTime>,
    /// `None` where there is nobody to ask.
    resolver: Option<TokioResolver>,
}

impl Forwarder {
    /// A forwarder that never asks `cluster_dns` or `own`.
    pub fn new(cluster_dns: Ipv4Addr, own: Vec<SocketAddrV4>) -> Self {
        let own = own.into_iter().chain([SocketAddrV4::new(cluster_dns, 53)]);
        Self {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            own: own.map(SocketAddr::V4).collect(),
            upstream: Mutex::default(),
        }
    }

    /// The upstream's reply, or SERVFAIL.
    pub async fn forward(&self, name: Name, kind: RecordType) -> Reply {
        let Some(resolver) = self.resolver() else {
            return Reply::failure(ResponseCode::ServFail);
        };
        match resolver.lookup(name, kind).await {
            Ok(lookup) => Reply { answers: lookup.answers().to_vec(), ..Reply::default() },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Reply {
                code: none.response_code,
                authorities: none.soa.map(|soa| soa.into_record_of_rdata()).into_iter().collect(),
                ..Reply::default()
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Reply::failure(code),
            Err(err) => {
                debug!(error = chain(&err), "no upstream name server answered");
                Reply::failure(ResponseCode::ServFail)
            }
        }
    }

    /// The resolver for what resolv.conf says now.
    fn resolver(&self) -> Option<TokioResolver> {
        let changed_at = fs::metadata(&self.resolv_conf).and_then(|meta| meta.modified()).ok();
        let mut upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        if upstream.read_at != changed_at || upstream.resolver.is_none() {
            let text = fs::read_to_string(&self.resolv_conf).unwrap_or_default();
            let servers = plan_upstream(&text, &self.own);
            *upstream = Upstream { read_at: changed_at, resolver: build_resolver(servers) };
        }
        upstream.resolver.clone()
    }
}

/// The name servers of a resolv.conf that do not lead back to us.
fn plan_upstream(resolv_conf: &str, own: &[SocketAddr]) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        // An IPv6 zone (`%eth0`) is of no use to a resolver library.
        .filter_map(|rest| rest.split('%').next()?.trim().parse().ok())
        .filter(|ip| !own.contains(&SocketAddr::new(*ip, 53)))
        .collect()
}

fn build_resolver(servers: Vec<IpAddr>) -> Option<TokioResolver> {
    if servers.is_empty() {
        return None;
    }
    let servers = servers.into_iter().map(NameServerConfig::udp_and_tcp).collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut options = ResolverOpts::default();
    options.timeout = TIMEOUT;
    options.attempts = 1;
    options.ndots = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    match builder.build() {
        Ok(resolver) => Some(resolver),
        Err(err) => {
            debug!(error = chain(&err), "no resolver for these name servers");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_not_our_own_upstream() {
        let own =
            [SocketAddr::from(([10, 96, 0, 10], 53)), SocketAddr::from(([127, 0, 0, 1], 10053))];
        let cases = [
            ("nameserver 192.0.2.53\n", vec!["192.0.2.53"]),
            ("nameserver 10.96.0.10\nnameserver 127.0.0.53", vec!["127.0.0.53"]),
            ("# nameserver 192.0.2.1\n  nameserver\t192.0.2.2  \n", vec!["192.0.2.2"]),
            ("nameserver fe80::1%eth0", vec!["fe80::1"]),
            ("search example.org\nnameserver nonsense", vec![]),
            ("", vec![]),
        ];
        for (text, expected) in cases {
            let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(plan_upstream(text, &own), expected, "{text:?}");
        }
    }

    #[tokio::test]
    async fn nobody_to_ask_fails_at_once() {
        let mut forwarder = Forwarder::new([10, 96, 0, 10].into(), Vec::new());
        forwarder.resolv_conf = PathBuf::from("/nonexistent/resolv.conf");
        let name = Name::from_ascii("example.org.").unwrap();
        let reply = forwarder.forward(name, RecordType::A).await;
        assert_eq!(reply.code, ResponseCode::ServFail);
    }
}

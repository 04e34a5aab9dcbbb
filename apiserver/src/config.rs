//! What the API server is told at start. Checked before any port is bound.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// Configuration of one API server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where certificates, keys and the admin kubeconfig live.
    pub data_dir: PathBuf,
    /// Address the server listens on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Address under which pods and nodes reach this server.
    pub advertise: IpAddr,
    /// Further host names and addresses that the server certificate names.
    pub names: Vec<String>,
    /// Pod addresses. Default 10.244.0.0/16.
    pub cluster_cidr: IpNet,
    /// Service addresses. Default 10.96.0.0/16; the first address is the API
    /// server's, the tenth the cluster DNS's.
    pub service_cidr: IpNet,
    /// DNS domain of the cluster. Default `cluster.local`.
    pub cluster_domain: String,
    /// Ports handed out to NodePort services. Default 30000–32767.
    pub node_port_range: RangeInclusive<u16>,
    /// Requests that read being served at once, watches and streams not
    /// counted; more are answered 429. Default 400, as upstream.
    pub max_reading: usize,
    /// Requests that write being served at once; more are answered 429.
    /// Default 200, as upstream.
    pub max_writing: usize,
    /// After this a request that is no watch or stream is answered 504.
    /// Default 60 s.
    pub request_timeout: Duration,
    /// The headers of a request on HTTP/1 may take this long; a connection
    /// without a request is closed after it. Default 30 s.
    pub header_timeout: Duration,
    /// A client that takes nothing of its answer for this long is cut off;
    /// tunnels are not. Default 60 s.
    pub write_timeout: Duration,
    /// The audit policy (`audit.k8s.io/v1`). Default none: nothing is audited.
    pub audit_policy_file: Option<PathBuf>,
    /// Where audit events are appended, `-` for the standard output. Goes
    /// together with the policy.
    pub audit_log_path: Option<PathBuf>,
}

/// A configuration that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The service CIDR holds too few addresses, or the two overlap.
    #[error("{0}")]
    Cidr(String),
    /// The node-port range is empty or starts in the privileged ports.
    #[error("node ports {0}-{1} are not a usable range")]
    NodePorts(u16, u16),
    /// Half of what an audit log takes.
    #[error("an audit log takes both a policy file and a log path")]
    Audit,
}

impl Config {
    /// A configuration with every default, for a data directory and the two
    /// addresses.
    pub fn new(data_dir: impl Into<PathBuf>, bind: SocketAddr, advertise: IpAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            bind,
            advertise,
            names: Vec::new(),
            cluster_cidr: IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16)),
            service_cidr: IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16)),
            cluster_domain: "cluster.local".to_owned(),
            node_port_range: 30000..=32767,
            max_reading: 400,
            max_writing: 200,
            request_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            audit_policy_file: None,
            audit_log_path: None,
        }
    }

    /// Refuses what could not work later.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (service, cluster) = (self.service_cidr, self.cluster_cidr);
        if service.max_prefix_len() - service.prefix_len() < 4 {
            return Err(ConfigError::Cidr(format!(
                "service CIDR {service} is too small: it needs at least 16 addresses"
            )));
        }
        if service.contains(&cluster) || cluster.contains(&service) {
            return Err(ConfigError::Cidr(format!(
                "service CIDR {service} and cluster CIDR {cluster} overlap"
            )));
        }
        let (first, last) = (*self.node_port_range.start(), *self.node_port_range.end());
        if first < 1024 || first > last {
            return Err(ConfigError::NodePorts(first, last));
        }
        if self.audit_policy_file.is_some() != self.audit_log_path.is_some() {
            return Err(ConfigError::Audit);
        }
        Ok(())
    }

    /// The address of service default/kubernetes.
    pub fn api_service_ip(&self) -> IpAddr {
        nth_address(&self.service_cidr, 1)
    }

    /// The address of service kube-system/kube-dns.
    pub fn dns_service_ip(&self) -> IpAddr {
        nth_address(&self.service_cidr, 10)
    }
}

/// The `n`th address after a network's own.
pub(crate) fn nth_address(net: &IpNet, n: u32) -> IpAddr {
    match net.network() {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from(u32::from(address).wrapping_add(n))),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address).wrapping_add(u128::from(n))).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_workable_configurations_pass() {
        let good = Config::new("/x", ([127, 0, 0, 1], 0).into(), [10, 0, 0, 1].into());
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(good.api_service_ip().to_string(), "10.96.0.1");
        assert_eq!(good.dns_service_ip().to_string(), "10.96.0.10");
        let small = Config { service_cidr: "10.96.0.0/29".parse().unwrap(), ..good.clone() };
        assert!(small.validate().is_err());
        let overlap = Config { service_cidr: "10.244.8.0/24".parse().unwrap(), ..good.clone() };
        assert!(overlap.validate().is_err());
        let half = Config { audit_log_path: Some("-".into()), ..good.clone() };
        assert_eq!(half.validate(), Err(ConfigError::Audit));
        let ports = Config { node_port_range: 80..=90, ..good };
        assert_eq!(ports.validate(), Err(ConfigError::NodePorts(80, 90)));
    }
}

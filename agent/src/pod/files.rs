//! The files that every container of a pod sees: `/etc/hosts` and
//! `/etc/resolv.conf`. Pure.

use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::model::spec;

/// The resolver's own limit on search domains and their length is lifted since
/// glibc 2.26; nameservers beyond the third are ignored by it.
const MAX_NAMESERVERS: usize = 3;

/// The host name of a pod: what the spec says, or the pod's name, cut to what
/// a host name may be.
pub fn hostname(pod: &Pod) -> String {
    if let Some(name) = &spec(pod).hostname_override {
        return name.clone();
    }
    let name = spec(pod).hostname.clone().or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The kernel's limit.
const MAX_HOSTNAME: usize = 64;

/// What `hostname` says in the pod: its short name, or with
/// `setHostnameAsFQDN` the full one, which may be too long for the kernel.
pub fn sandbox_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let full = fqdn(pod, cluster_domain);
    match full.filter(|_| spec(pod).set_hostname_as_fqdn == Some(true)) {
        None => Ok(hostname(pod)),
        Some(full) if full.len() <= MAX_HOSTNAME => Ok(full),
        Some(full) => Err(format!(
            "Failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long \
             ({MAX_HOSTNAME} characters is the max, {} characters requested)",
            full.len()
        )),
    }
}

/// The full name under the pod's headless service, if it has one.
pub fn fqdn(pod: &Pod, cluster_domain: &str) -> Option<String> {
    if spec(pod).hostname_override.is_some() {
        return None;
    }
    let subdomain = spec(pod).subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{}.{subdomain}.{namespace}.svc.{cluster_domain}", hostname(pod)))
}

/// The pod's `/etc/hosts`.
pub fn hosts(pod: &Pod, ips: &[IpAddr], cluster_domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let names = match fqdn(pod, cluster_domain) {
            Some(fqdn) => format!("{fqdn}\t{}", hostname(pod)),
            None => hostname(pod),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{ip}\t{names}");
    }
    text.push_str(&host_aliases(pod));
    text
}

/// The `/etc/hosts` of a pod with its node's network: the node's, and more.
pub fn node_hosts(pod: &Pod, own: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{own}{}", host_aliases(pod))
}

/// The lines that `hostAliases` adds.
pub fn host_aliases(pod: &Pod) -> String {
    let aliases = spec(pod).host_aliases.iter().flatten();
    let lines: String = aliases
        .map(|alias| {
            format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t"))
        })
        .collect();
    if lines.is_empty() { lines } else { format!("\n# Entries added by HostAliases.\n{lines}") }
}

/// The pod's `/etc/resolv.conf`, after its `dnsPolicy` and `dnsConfig`.
/// `host` is the node's own file.
pub fn resolv_conf(pod: &Pod, cluster_dns: IpAddr, cluster_domain: &str, host: &str) -> String {
    let spec = spec(pod);
    let host_network = spec.host_network == Some(true);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let host = Resolver::parse(host);
    let mut resolver = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => Resolver::default(),
        "Default" => host,
        "ClusterFirst" if host_network => host,
        _ => Resolver {
            nameservers: vec![cluster_dns.to_string()],
            searches: [
                format!("{namespace}.svc.{cluster_domain}"),
                format!("svc.{cluster_domain}"),
                cluster_domain.into(),
            ]
            .into_iter()
            .chain(host.searches)
            .collect(),
            options: vec!["ndots:5".into()],
        },
    };
    if let Some(config) = &spec.dns_config {
        resolver.nameservers.extend(config.nameservers.iter().flatten().cloned());
        resolver.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            // The pod's own option replaces the one that came before.
            resolver.options.retain(|known| known.split(':').next() != Some(name));
            resolver.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    resolver.render()
}

#[derive(Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.nameservers.extend(words.take(1)),
                // The last line of either wins.
                Some("search" | "domain") => {
                    resolver.searches = words.filter(|domain| domain != ".").collect()
                }
                Some("options") => resolver.options.extend(words),
                _ => {}
            }
        }
        resolver
    }

    fn render(mut self) -> String {
        let mut text = String::new();
        dedup(&mut self.nameservers);
        dedup(&mut self.searches);
        for server in self.nameservers.iter().take(MAX_NAMESERVERS) {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// Keeps the first of each, in order.
fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn resolv_conf_follows_the_policy() {
        let host = "nameserver 192.0.2.53\nsearch example.net\noptions rotate\n";
        let cluster = "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local example.net\noptions ndots:5\n";
        let cases = [
            (json!({"containers": []}), cluster.to_owned()),
            (
                json!({"containers": [], "dnsPolicy": "ClusterFirst", "hostNetwork": true}),
                host.to_owned(),
            ),
            (
                json!({"containers": [], "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
                cluster.to_owned(),
            ),
            (json!({"containers": [], "dnsPolicy": "Default"}), host.to_owned()),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "nameserver 1.1.1.1\nsearch a.b\noptions ndots:2 edns0\n".to_owned(),
            ),
            (
                json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                cluster.replace("ndots:5", "ndots:1"),
            ),
        ];
        for (spec, expected) in cases {
            let found = resolv_conf(
                &pod(spec.clone()),
                IpAddr::from([10, 96, 0, 10]),
                "cluster.local",
                host,
            );
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn hosts_names_the_pod_and_its_aliases() {
        let ip = [IpAddr::from([10, 244, 0, 5])];
        let plain = hosts(&pod(json!({"containers": []})), &ip, "cluster.local");
        assert!(plain.contains("10.244.0.5\tweb-0\n"), "{plain}");
        let spec = json!({"containers": [], "hostname": "h", "subdomain": "db",
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["a", "b"]}]});
        let full = hosts(&pod(spec), &ip, "cluster.local");
        assert!(full.contains("10.244.0.5\th.db.shop.svc.cluster.local\th\n"), "{full}");
        assert!(full.contains("192.0.2.7\ta\tb\n"), "{full}");
        // The first line tells clients who wrote the file.
        assert!(full.starts_with("# Kubernetes-managed hosts file.\n"), "{full}");
        let of_node = node_hosts(&pod(json!({"containers": []})), "127.0.0.1\tlocalhost\n");
        assert!(!of_node.contains("# Kubernetes-managed hosts file.\n"), "{of_node}");
        assert!(of_node.ends_with("127.0.0.1\tlocalhost\n"), "{of_node}");
    }

    #[test]
    fn a_hostname_may_be_the_full_one() {
        let long = "d".repeat(63);
        let cases = [
            (json!({}), Ok("web-0")),
            (json!({"hostname": "h", "subdomain": "db"}), Ok("h")),
            (
                json!({"hostname": "h", "subdomain": "db", "setHostnameAsFQDN": true}),
                Ok("h.db.shop.svc.cluster.local"),
            ),
            (json!({"setHostnameAsFQDN": true}), Ok("web-0")),
            (json!({"hostnameOverride": "a.b.c", "subdomain": "db"}), Ok("a.b.c")),
            (
                json!({"hostname": "h", "subdomain": long, "setHostnameAsFQDN": true}),
                Err("(64 characters is the max, 88 characters requested)"),
            ),
        ];
        for (mut spec, expected) in cases {
            spec["containers"] = json!([]);
            let found = sandbox_hostname(&pod(spec.clone()), "cluster.local");
            match expected {
                Ok(name) => assert_eq!(found.as_deref(), Ok(name), "{spec}"),
                Err(end) => assert!(found.unwrap_err().ends_with(end), "{spec}"),
            }
        }
    }
}

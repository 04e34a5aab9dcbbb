//! `--store etcd://…`: where the cluster's state is kept instead of in the
//! data directory.

use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use skiff_store::{EtcdConfig, EtcdTls, Store, StoreConfig};

use super::args::StoreArgs;

/// etcd's port for clients.
const DEFAULT_PORT: u16 = 2379;

/// Members of an etcd cluster, each `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUrl(Vec<String>);

impl FromStr for EtcdUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not etcd://HOST[:PORT][,HOST[:PORT]…]");
        let hosts = text.strip_prefix("etcd://").ok_or_else(wrong)?.trim_end_matches('/');
        let endpoints = hosts.split(',').map(endpoint).collect::<Option<_>>();
        endpoints.map(Self).ok_or_else(wrong)
    }
}

/// One member, with its port.
fn endpoint(text: &str) -> Option<String> {
    // The colons of a bare IPv6 address are not those before a port.
    let after_host = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.1,
        None => text.find(':').map_or("", |at| &text[at..]),
    };
    let host = &text[..text.len() - after_host.len()];
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return None;
    }
    let port = match after_host {
        "" => DEFAULT_PORT,
        port => port.strip_prefix(':')?.parse().ok()?,
    };
    Some(format!("{host}:{port}"))
}

/// Opens the store of the data directory, or the one that `args` name.
pub(super) async fn open_store(config: StoreConfig, args: &StoreArgs) -> anyhow::Result<Store> {
    let Some(EtcdUrl(endpoints)) = &args.store else {
        return Ok(Store::open(config).await?);
    };
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let tls = match (&args.etcd_cafile, &args.etcd_certfile, &args.etcd_keyfile) {
        (None, ..) => None,
        (Some(ca), Some(certificate), Some(key)) => {
            Some(EtcdTls { ca: read(ca)?, identity: Some((read(certificate)?, read(key)?)) })
        }
        (Some(ca), ..) => Some(EtcdTls { ca: read(ca)?, identity: None }),
    };
    let config = EtcdConfig { tls, ..EtcdConfig::new(endpoints.clone(), config.sealing_key) };
    Store::etcd(config).await.with_context(|| {
        format!("cannot use etcd at {}; is it there, and does it want TLS?", endpoints.join(","))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let cases: [(&str, &[&str]); 11] = [
            ("etcd://127.0.0.1:2379", &["127.0.0.1:2379"]),
            ("etcd://a.example,b:1/", &["a.example:2379", "b:1"]),
            ("etcd://[::1]:99,[fe80::1]", &["[::1]:99", "[fe80::1]:2379"]),
            ("etcd://", &[]),
            ("etcd://a,", &[]),
            ("etcd://a:port", &[]),
            ("etcd://a:70000", &[]),
            ("etcd://[::1", &[]),
            ("etcd://::1", &[]),
            ("etcd://user:word@a", &[]),
            ("http://a:2379", &[]),
        ];
        for (text, expected) in cases {
            let parsed = text.parse::<EtcdUrl>().map(|EtcdUrl(endpoints)| endpoints);
            assert_eq!(parsed.unwrap_or_default(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn an_etcd_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let args = StoreArgs {
            store: Some("etcd://127.0.0.1:1".parse().unwrap()),
            ..StoreArgs::default()
        };
        let config = StoreConfig::new(dir.path(), [0; 32]);
        let error = format!("{:#}", open_store(config, &args).await.unwrap_err());
        assert!(error.contains("cannot use etcd at 127.0.0.1:1"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

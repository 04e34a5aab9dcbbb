//! Kubeconfig files that hold everything a client needs, keys included.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::json;

use super::{Issued, PkiError};

/// A kubeconfig with one cluster, one user and one context, all embedded.
pub fn render(
    server: &str,
    ca_pem: &str,
    user: &str,
    identity: &Issued,
) -> Result<String, PkiError> {
    let context = format!("{user}@skiff");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "skiff",
            "cluster": { "server": server, "certificate-authority-data": BASE64.encode(ca_pem) },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate-data": BASE64.encode(&identity.certificate_pem),
                "client-key-data": BASE64.encode(&identity.key_pem),
            },
        }],
        "contexts": [{ "name": context, "context": { "cluster": "skiff", "user": user } }],
        "current-context": context,
        "preferences": {},
    });
    Ok(serde_yaml::to_string(&config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_reads_it_back() {
        let identity = Issued { certificate_pem: "cert".into(), key_pem: "key".into() };
        let text = render("https://127.0.0.1:6443", "ca", "kubernetes-admin", &identity).unwrap();
        let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("kubernetes-admin@skiff"));
        let cluster = config.clusters[0].cluster.clone().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("Y2E="));
    }
}

//! Kubeconfig files that hold everything a client needs, keys included.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::{Issued, PkiError};

/// What a kubeconfig that [`render`] wrote holds.
#[derive(Clone)]
pub struct Kubeconfig {
    /// Where the server is.
    pub server: String,
    /// Its authority.
    pub ca_pem: String,
    /// The user's certificate and key.
    pub identity: Issued,
}

/// Why a file is no such kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// It is not YAML.
    #[error(transparent)]
    Yaml(#[from] serde_yaml::Error),
    /// Something is not embedded in it.
    #[error("the kubeconfig has no {0}")]
    Missing(&'static str),
}

impl std::str::FromStr for Kubeconfig {
    type Err = KubeconfigError;

    fn from_str(text: &str) -> Result<Self, KubeconfigError> {
        let file: Value = serde_yaml::from_str(text)?;
        let missing = KubeconfigError::Missing;
        let (cluster, user) = (&file["clusters"][0]["cluster"], &file["users"][0]["user"]);
        let pem = |of: &Value, field: &'static str| {
            let bytes = of[field].as_str().and_then(|text| BASE64.decode(text).ok());
            bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(missing(field))
        };
        Ok(Self {
            server: cluster["server"].as_str().ok_or(missing("server"))?.to_owned(),
            ca_pem: pem(cluster, "certificate-authority-data")?,
            identity: Issued {
                certificate_pem: pem(user, "client-certificate-data")?,
                key_pem: pem(user, "client-key-data")?,
            },
        })
    }
}

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

    #[test]
    fn so_do_we() {
        let identity = Issued { certificate_pem: "cert".into(), key_pem: "key".into() };
        let text = render("https://127.0.0.1:6443", "ca", "kubernetes-admin", &identity).unwrap();
        let read: Kubeconfig = text.parse().unwrap();
        assert_eq!((read.server.as_str(), read.ca_pem.as_str()), ("https://127.0.0.1:6443", "ca"));
        let Issued { certificate_pem, key_pem } = read.identity;
        assert_eq!((certificate_pem.as_str(), key_pem.as_str()), ("cert", "key"));

        let field = |text: &str| match text.parse::<Kubeconfig>() {
            Err(KubeconfigError::Missing(field)) => field,
            other => panic!("{:?}", other.err()),
        };
        assert_eq!(field("{}"), "server");
        assert_eq!(field(&text.replace("Y2E=", "no")), "certificate-authority-data");
        assert_eq!(field(&text.replace("client-key-data", "client-key")), "client-key-data");
        assert!(matches!("a: b: c".parse::<Kubeconfig>(), Err(KubeconfigError::Yaml(_))));
    }
}

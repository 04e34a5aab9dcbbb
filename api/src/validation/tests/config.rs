//! ConfigMaps and Secrets.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

#[test]
fn config_maps() {
    let kind = Kind::<ConfigMap> {
        minimal: json!({"metadata": {"name": "m", "namespace": "dev"}, "data": {"a": "1"}}),
        default: |_| {},
        create: validation::config_map_create,
        update: Some(validation::config_map_update),
    };
    kind.creates(&[
        (
            "/data/..~1x",
            json!("1"),
            &[
                "data[../x]: Invalid: a valid config key must consist of",
                "data[../x]: Invalid: must not start with '..'",
            ],
        ),
        (
            "/binaryData",
            json!({"a": "eA=="}),
            &["data[a]: Invalid: duplicate of key present in binaryData"],
        ),
        ("/data/b", json!("x".repeat(1 << 20)), &[": TooLong: may not be more than 1048576 bytes"]),
    ]);
    let frozen = [("/immutable", json!(true))];
    kind.updates_from(
        &frozen,
        Part::Main,
        &[
            ("/metadata/labels", json!({"a": "b"}), &[]),
            (
                "/data/a",
                json!("2"),
                &["data: Forbidden: field is immutable when `immutable` is set"],
            ),
            (
                "/immutable",
                json!(null),
                &["immutable: Forbidden: field is immutable when `immutable` is set"],
            ),
        ],
    );
}

#[test]
fn secrets() {
    let kind = Kind::<Secret> {
        minimal: json!({"metadata": {"name": "s", "namespace": "dev"}, "data": {"a": "eA=="}}),
        default: defaults::secret,
        create: validation::secret_create,
        update: Some(validation::secret_update),
    };
    kind.creates(&[
        ("/data/a b", json!("eA=="), &["data[a b]: Invalid: a valid config key"]),
        (
            "/type",
            json!("kubernetes.io/tls"),
            &["data[tls.crt]: Required", "data[tls.key]: Required"],
        ),
        (
            "/type",
            json!("kubernetes.io/basic-auth"),
            &["data[username]: Required", "data[password]: Required"],
        ),
        ("/type", json!("kubernetes.io/ssh-auth"), &["data[ssh-privatekey]: Required"]),
        ("/type", json!("kubernetes.io/dockerconfigjson"), &["data[.dockerconfigjson]: Required"]),
        (
            "/type",
            json!("kubernetes.io/service-account-token"),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required"],
        ),
    ]);
    kind.creates_with(
        &[
            ("/type", json!("kubernetes.io/dockerconfigjson")),
            ("/stringData", json!({".dockerconfigjson": "{"})),
        ],
        &["data[.dockerconfigjson]: Invalid"],
    );
    kind.updates(
        Part::Main,
        &[
            ("/data/a", json!("eQ=="), &[]),
            ("/type", json!("mine"), &["type: Invalid: field is immutable"]),
        ],
    );
    kind.updates_from(
        &[("/immutable", json!(true))],
        Part::Main,
        &[("/data/a", json!("eQ=="), &["data: Forbidden: field is immutable when"])],
    );
}

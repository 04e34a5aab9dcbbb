//! The pull policy that follows from an image reference.

/// `Always` for `latest`, named or implied, else `IfNotPresent`.
pub(super) fn pull_policy(reference: &str) -> &'static str {
    if tag(reference) == Some("latest") { "Always" } else { "IfNotPresent" }
}

/// The tag of a reference, `latest` when it has neither tag nor digest. A
/// colon before the last slash belongs to a registry's port.
fn tag(reference: &str) -> Option<&str> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match (last.split_once(':'), digest) {
        (Some((_, tag)), _) => Some(tag),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn only_latest_is_always_pulled() {
        let cases = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("host:5000/nginx", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("host:5000/a/nginx:v1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
        ];
        for (image, policy) in cases {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}

//! The names of images.

/// The name with its tag, as Docker completes it; `None` if it is not a name.
pub fn normalized(name: &str) -> Option<String> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let last = rest.rsplit('/').next()?;
    let (path, tag) = match last.rsplit_once(':') {
        Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        None => (rest, None),
    };
    let component = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
            })
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let is_host = |text: &str| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
    };
    let (registry, path) = split_registry(path);
    if !registry.is_none_or(is_host) || !path.split('/').all(component) {
        return None;
    }
    let tag_valid = |tag: &str| {
        (1..=128).contains(&tag.len())
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
            && !tag.starts_with(['.', '-'])
    };
    if tag.is_some_and(|tag| !tag_valid(tag)) {
        return None;
    }
    match (tag, digest) {
        (_, Some(digest)) => {
            let (algorithm, hex) = digest.split_once(':')?;
            let valid = !algorithm.is_empty()
                && hex.len() >= 32
                && hex.chars().all(|c| c.is_ascii_hexdigit());
            valid.then(|| name.to_owned())
        }
        (Some(_), None) => Some(name.to_owned()),
        (None, None) => Some(format!("{name}:latest")),
    }
}

/// The registry that a name begins with, a host with a dot or a port, and what
/// is left of the name.
pub(super) fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_or_refused() {
        let digest = format!("redis@sha256:{}", "a".repeat(64));
        let cases = [
            ("redis", Some("redis:latest")),
            ("redis:7", Some("redis:7")),
            ("mjbright/flask-web:v1", Some("mjbright/flask-web:v1")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            ("registry.k8s.io/pause", Some("registry.k8s.io/pause:latest")),
            (digest.as_str(), Some(digest.as_str())),
            ("", None),
            ("Redis", None),
            ("a b", None),
            ("redis:", None),
            ("redis@sha256:xyz", None),
            ("-redis", None),
        ];
        for (name, expected) in cases {
            assert_eq!(normalized(name).as_deref(), expected, "{name}");
        }
    }
}

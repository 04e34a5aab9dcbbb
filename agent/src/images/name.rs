//! The names of images.

use crate::runtime::Image;

/// What a status says of the image of a container that asked for `name`: the
/// digest by which registries know it, of that name's repository if there are
/// several, or its id when it came from no registry.
pub fn reference(name: &str, image: &Image) -> String {
    let own = repository(name);
    let digests = image.digests.iter();
    let best = digests.min_by_key(|digest| (repository(digest) != own, *digest));
    best.map_or_else(|| image.id.clone(), |digest| with_registry(digest))
}

/// A name without its tag and digest.
fn repository(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(rest, _)| rest);
    match name.rsplit_once(':') {
        Some((rest, tag)) if !tag.contains('/') => rest,
        _ => name,
    }
}

/// A name with the registry that it leaves out.
fn with_registry(name: &str) -> String {
    match split_registry(name) {
        (Some(_), _) => name.to_owned(),
        (None, path) if path.contains('/') => format!("docker.io/{path}"),
        (None, path) => format!("docker.io/library/{path}"),
    }
}

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
    fn an_image_is_told_by_its_digest_or_its_id() {
        let local = Image { id: "sha256:i".into(), ..Image::default() };
        assert_eq!(reference("busybox", &local), "sha256:i");
        let known = ["b.example:5000/busybox@sha256:b", "busybox@sha256:h", "you/busybox@sha256:y"];
        let pulled = Image { digests: known.map(str::to_owned).to_vec(), ..local };
        let cases = [
            ("busybox", "docker.io/library/busybox@sha256:h"),
            ("busybox:1@sha256:h", "docker.io/library/busybox@sha256:h"),
            ("you/busybox:1", "docker.io/you/busybox@sha256:y"),
            ("b.example:5000/busybox", "b.example:5000/busybox@sha256:b"),
            // Tagged anew here, or asked for by its id.
            ("own:1", "b.example:5000/busybox@sha256:b"),
            ("sha256:i", "b.example:5000/busybox@sha256:b"),
        ];
        for (name, expected) in cases {
            assert_eq!(reference(name, &pulled), expected, "{name}");
        }
    }

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

//! What strangers' bytes go through, one function per kind of input, each of
//! which must neither panic nor run away, whatever it is given.
//!
//! `fuzz/` drives them for hours; the tests below for a moment.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, header};
use serde_json::Value;
use skiff_api::catalogue;
use skiff_api::quantity::Quantity;
use skiff_api::selector::{FieldSelector, LabelSelector};

use crate::registry::fuzzing::{self, ContinueToken};

/// Kinds whose bodies are tried: many lists, many unions, and free maps.
const KINDS: [(&str, &str, &str); 8] = [
    ("", "v1", "pods"),
    ("", "v1", "services"),
    ("", "v1", "configmaps"),
    ("", "v1", "resourcequotas"),
    ("apps", "v1", "deployments"),
    ("batch", "v1", "cronjobs"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("rbac.authorization.k8s.io", "v1", "clusterroles"),
];

const BODIES: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

const PATCHES: [&str; 3] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Levels that no decoder may let through.
const TOO_DEEP: usize = 300;

fn typed(media: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media))])
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A body: the first byte says which media type, the second which kind it is
/// for; then it is decoded, defaulted and validated as for a create.
pub fn body(data: &[u8]) {
    let [media, kind, bytes @ ..] = data else { return };
    let headers = typed(BODIES[usize::from(*media) % BODIES.len()]);
    let Ok(mut object) = fuzzing::parse(&headers, bytes) else { return };
    assert!(depth(&object) <= TOO_DEEP, "a decoder lets anything through");
    let (group, version, plural) = KINDS[usize::from(*kind) % KINDS.len()];
    let Some(resource) = catalogue::find(group, version, plural) else { return };
    if resource.decode(&mut object).is_err() || !object.is_object() {
        return;
    }
    resource.behaviour.default(&mut object);
    resource.behaviour.prepare_create(&mut object);
    resource.behaviour.validate_create(&object);
}

/// A patch and what it is applied to, apart by a zero byte; the first byte
/// says which kind of patch.
pub fn patch(data: &[u8]) {
    let [media, bytes @ ..] = data else { return };
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (Some(target), Some(patch)) = (parts.next(), parts.next()) else { return };
    let Ok(target) = serde_json::from_slice::<Value>(target) else { return };
    let headers = typed(PATCHES[usize::from(*media) % PATCHES.len()]);
    if let Ok(patched) = fuzzing::patch(&headers, patch, target) {
        assert!(depth(&patched) <= TOO_DEEP, "a patch nests without end");
    }
}

/// A label selector and a field selector in one text.
pub fn selectors(text: &str) {
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    if let Ok(selector) = LabelSelector::parse(text) {
        selector.matches_labels(Some(&labels));
        selector.matches_labels(None);
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches(|_| Some("x".into()));
    }
}

/// A quantity: what is written for it reads as the same.
pub fn quantity(text: &str) {
    let Ok(read) = text.parse::<Quantity>() else { return };
    let written = read.to_string();
    let again: Result<Quantity, _> = written.parse();
    assert!(again.is_ok_and(|again| again.to_string() == written), "{text} becomes {written}");
}

/// A continue token: what is read of it is what is handed out again.
pub fn continue_token(text: &str) {
    if let Ok(token) = ContinueToken::decode(text) {
        assert_eq!(ContinueToken::decode(&token.encode()).ok(), Some(token));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that have a chance of being something: pieces of documents in
    /// random order between random bytes.
    fn document() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: [&str; 28] = [
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "\n",
            "  ",
            "- ",
            "&a ",
            "*a",
            "null",
            "-1",
            "1e9",
            "true",
            "\"metadata\":{\"name\":\"x\"}",
            "\"spec\":",
            "\"containers\":[{\"name\":\"c\"}]",
            "\"data\":{\"a\":\"b\"}",
            "$patch",
            "\"op\":\"copy\",\"from\":\"\",\"path\":\"/a\"",
            "{\"a\":{\"b\":[1]}}",
            "k8s\0",
            "\0",
            "!!x ",
            "|\n",
            "'",
        ];
        let piece = prop_oneof![
            4 => proptest::sample::select(&PIECES[..]).prop_map(|text| text.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 1..4),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    fn headed(head: &[u8], rest: &[u8]) -> Vec<u8> {
        [head, rest].concat()
    }

    proptest! {
        #[test]
        fn bodies(media: u8, kind: u8, bytes in document()) {
            body(&headed(&[media, kind], &bytes));
        }

        #[test]
        fn patches(media: u8, target in document(), bytes in document()) {
            patch(&[&[media], &target[..], &[0], &bytes[..]].concat());
            let target = br#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c"}]}}"#;
            patch(&[&[media], &target[..], &[0], &bytes[..]].concat());
        }

        #[test]
        fn selectors_of_any_text(text in "\\PC{0,40}|[a-z!=,() in./-]{0,40}") {
            selectors(&text);
        }

        #[test]
        fn quantities_of_any_text(text in "\\PC{0,20}|[-+]?[0-9.]{0,30}[eEinumkKMGTPi]{0,3}[-+]?[0-9]{0,5}") {
            quantity(&text);
        }

        #[test]
        fn tokens_of_any_text(text in "\\PC{0,40}|[A-Za-z0-9_-]{0,80}") {
            continue_token(&text);
        }
    }

    #[test]
    fn bodies_that_are_nearly_right() {
        let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1"}}}]}}"#;
        for kind in 0..8 {
            body(&headed(&[0, kind], pod.as_bytes()));
            body(&headed(&[1, kind], pod.as_bytes()));
            // Every cut of it, and every byte of it changed.
            for at in 0..pod.len() {
                body(&headed(&[0, kind], &pod.as_bytes()[..at]));
                let mut changed = pod.as_bytes().to_vec();
                changed[at] ^= 0x15;
                body(&headed(&[0, kind], &changed));
            }
        }
    }
}

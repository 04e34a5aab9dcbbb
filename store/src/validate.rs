//! What a transaction must look like before it may enter the log.
//!
//! Checked on the caller's task: whatever passes here can be applied on every
//! member, forever.

use std::collections::HashSet;

use crate::types::{Compare, StoreError, Txn, Write};

/// Longest key. Kubernetes names have at most 253 characters per part.
const MAX_KEY_BYTES: usize = 4096;

/// Compares and writes of one transaction.
const MAX_OPERATIONS: usize = 4096;

/// Bounds that the configuration sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) txn_bytes: usize,
}

/// Refuses what could never be applied.
pub(crate) fn validate(txn: &Txn, limits: &Limits) -> Result<(), StoreError> {
    let invalid = |reason: String| Err(StoreError::Invalid(reason));
    if txn.compares.len() + txn.writes.len() > MAX_OPERATIONS {
        return invalid(format!("more than {MAX_OPERATIONS} operations"));
    }
    let mut bytes = 0;
    for compare in &txn.compares {
        let (Compare::Absent(key) | Compare::Unchanged(key, _) | Compare::Present(key)) = compare
        else {
            continue;
        };
        check_key(key)?;
        bytes += key.len();
    }
    let mut written = HashSet::with_capacity(txn.writes.len());
    for write in &txn.writes {
        let (Write::Put(key, _) | Write::Delete(key)) = write;
        check_key(key)?;
        bytes += key.len();
        if !written.insert(&**key) {
            return invalid(format!("{key} is written twice"));
        }
        if let Write::Put(key, draft) = write {
            bytes += draft.bytes.len();
            if draft.revision_at.is_some_and(|at| at as usize > draft.bytes.len()) {
                return invalid(format!(
                    "the place of the revision lies outside the value of {key}"
                ));
            }
        }
    }
    if bytes > limits.txn_bytes {
        return invalid(format!("{bytes} bytes, at most {} are allowed", limits.txn_bytes));
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), StoreError> {
    let reason = if key.is_empty() {
        "an empty key".into()
    } else if key.len() > MAX_KEY_BYTES {
        format!("a key of {} bytes, at most {MAX_KEY_BYTES} are allowed", key.len())
    } else if key.contains('\0') {
        "a key with a NUL character".into()
    } else {
        return Ok(());
    };
    Err(StoreError::Invalid(reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Draft, Key, Revision};
    use bytes::Bytes;

    fn put(key: &str, len: usize, revision_at: Option<u32>) -> Write {
        Write::Put(
            Key::from(key),
            Draft { bytes: Bytes::from(vec![b'x'; len]), revision_at, sealed: false },
        )
    }

    #[test]
    fn refuses_what_cannot_be_applied() {
        let limits = Limits { txn_bytes: 100 };
        let txn = |writes: Vec<Write>| Txn { compares: Vec::new(), writes };
        let cases = [
            ("empty", Txn::default(), None),
            ("largest", txn(vec![put("a", 99, None)]), None),
            (
                "too large",
                txn(vec![put("a", 100, None)]),
                Some("101 bytes, at most 100 are allowed"),
            ),
            ("hole at the end", txn(vec![put("a", 5, Some(5))]), None),
            (
                "hole outside",
                txn(vec![put("a", 5, Some(6))]),
                Some("the place of the revision lies outside the value of a"),
            ),
            (
                "key twice",
                txn(vec![put("a", 1, None), Write::Delete(Key::from("a"))]),
                Some("a is written twice"),
            ),
            ("empty key", txn(vec![put("", 1, None)]), Some("an empty key")),
            ("NUL in a key", txn(vec![put("a\0", 1, None)]), Some("a key with a NUL character")),
            (
                "bad key in a compare",
                Txn {
                    compares: vec![Compare::Unchanged(Key::from(""), Revision(1))],
                    writes: Vec::new(),
                },
                Some("an empty key"),
            ),
        ];
        for (name, txn, expected) in cases {
            let observed = match validate(&txn, &limits) {
                Ok(()) => None,
                Err(StoreError::Invalid(reason)) => Some(reason),
                Err(other) => panic!("{name}: {other}"),
            };
            assert_eq!(observed.as_deref(), expected, "{name}");
        }
    }
}

//! The order of a merged list.
//!
//! A patch says in which order it wants the items it knows; the object has
//! items the patch does not know. Both orders are kept, and where the two
//! interleave is decided by the object's old order, as far as it can be.

use std::collections::HashMap;

use serde_json::Value;

/// What tells the items of a list apart: the value under the merge key, or the
/// item itself in a list of plain values.
pub(super) fn identity(item: &Value, key: Option<&str>) -> String {
    match key {
        Some(key) => item.get(key).unwrap_or(&Value::Null).to_string(),
        None => item.to_string(),
    }
}

/// Puts `merged` into order: items in `wanted` follow its order, the others
/// follow `old`; each of the others stands before the first wanted item that
/// it preceded in `old`.
pub(super) fn arrange(
    merged: Vec<Value>,
    wanted: &[Value],
    old: &[String],
    key: Option<&str>,
) -> Vec<Value> {
    let wanted: HashMap<String, usize> = ranks(wanted.iter().map(|item| identity(item, key)));
    let old: HashMap<String, usize> = ranks(old.iter().cloned());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for item in merged {
        let id = identity(&item, key);
        let place = old.get(&id).copied();
        match wanted.get(&id) {
            Some(rank) => ours.push((*rank, place, item)),
            None => theirs.push((place.unwrap_or(usize::MAX), place, item)),
        }
    }
    ours.sort_by_key(|(rank, ..)| *rank);
    theirs.sort_by_key(|(rank, ..)| *rank);

    let mut arranged = Vec::with_capacity(ours.len() + theirs.len());
    let mut theirs = theirs.into_iter().peekable();
    for (_, place, item) in ours {
        // An item without a place in the old list says nothing of what comes
        // before it.
        while let Some((_, Some(before), _)) = theirs.peek()
            && place.is_some_and(|place| *before < place)
            && let Some((.., other)) = theirs.next()
        {
            arranged.push(other);
        }
        arranged.push(item);
    }
    arranged.extend(theirs.map(|(.., item)| item));
    arranged
}

/// The first position of each item.
fn ranks(ids: impl Iterator<Item = String>) -> HashMap<String, usize> {
    let mut ranks = HashMap::new();
    for (rank, id) in ids.enumerate() {
        ranks.entry(id).or_insert(rank);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaves_by_the_old_order() {
        let list =
            |text: &str| text.chars().map(|c| Value::from(c.to_string())).collect::<Vec<_>>();
        let cases = [
            ("both orders kept", "abc", "ca", "abc", "bca"),
            ("new items at the end", "abx", "x", "ab", "xab"),
            ("others before what they preceded", "abcd", "bd", "abcd", "abcd"),
            ("swapped", "abcd", "db", "abcd", "acdb"),
            ("nothing wanted", "abc", "", "cba", "cba"),
        ];
        for (name, merged, wanted, old, expected) in cases {
            let old: Vec<String> = list(old).iter().map(|item| identity(item, None)).collect();
            assert_eq!(arrange(list(merged), &list(wanted), &old, None), list(expected), "{name}");
        }
    }
}

//! Histories that are right, and what is wrong with others.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::types::{Draft, Entry, Key, Revision};

fn put(key: &str, call: usize) -> Txn {
    let bytes = Bytes::from(call.to_string());
    Txn::default()
        .write(Write::Put(Key::from(key), Draft { bytes, revision_at: None, sealed: false }))
}

fn event(revision: u64, key: &str, call: usize) -> Event {
    let entry = Entry {
        key: Key::from(key),
        value: Bytes::from(call.to_string()),
        created: Revision(1),
        modified: Revision(revision),
        sealed: false,
    };
    Event { revision: Revision(revision), entry: Some(Arc::new(entry)), previous: None }
}

fn read(revision: u64, entries: &[(&str, u64, &str)]) -> Told {
    let entry =
        |(key, at, value): &(&str, u64, &str)| ((*key).to_owned(), *at, value.as_bytes().to_vec());
    Told::Read { revision, entries: entries.iter().map(entry).collect() }
}

/// Two writes of one key, one after the other, and what comes after them.
fn written(after: impl FnOnce(&mut History)) -> Result<(), String> {
    let mut history = History::default();
    for (revision, call) in [(1, 0), (2, 1)] {
        assert_eq!(history.begin(Asked::Write(put("a", call))), call);
        history.publish(&[event(revision, "a", call)]).unwrap();
        history.tell(call, Told::Written { revision, changed: true });
    }
    after(&mut history);
    history.check()
}

/// One deletion of what was written, of which so many callers are told.
fn delete_told_to(history: &mut History, callers: usize) {
    let delete = || Txn::default().write(Write::Delete(Key::from("a")));
    let calls: Vec<_> = (0..callers).map(|_| history.begin(Asked::Write(delete()))).collect();
    history.happened(3, vec![Change { key: "a".into(), value: None }]).unwrap();
    for call in calls {
        history.tell(call, Told::Written { revision: 3, changed: true });
    }
}

#[test]
fn what_could_not_have_been_is_noticed() {
    type Case = (&'static str, fn(&mut History), bool);
    let cases: [Case; 16] = [
        ("nothing more", |_| {}, true),
        (
            "a read of the newest",
            |history| {
                let call = history.begin(Asked::Read);
                history.tell(call, read(2, &[("a", 2, "1")]));
            },
            true,
        ),
        (
            "a stale read",
            |history| {
                let call = history.begin(Asked::Read);
                history.tell(call, read(1, &[("a", 1, "0")]));
            },
            false,
        ),
        (
            "a read of what never was",
            |history| {
                let call = history.begin(Asked::Read);
                history.tell(call, read(2, &[("a", 1, "0")]));
            },
            false,
        ),
        (
            "an effect of a silent call",
            |history| {
                history.begin(Asked::Write(put("b", 2)));
                history.publish(&[event(3, "b", 2)]).unwrap();
            },
            true,
        ),
        ("a second effect", |history| history.publish(&[event(3, "a", 1)]).unwrap(), false),
        (
            "an acknowledged write that is not there",
            |history| {
                let call = history.begin(Asked::Write(put("b", 2)));
                history.tell(call, Told::Written { revision: 3, changed: true });
            },
            false,
        ),
        (
            "a conflict with what was true",
            |history| {
                let txn = put("a", 2).when(Compare::Unchanged(Key::from("a"), Revision(2)));
                let call = history.begin(Asked::Write(txn));
                history.tell(call, Told::Conflict { key: "a".into(), modified: Some(2) });
            },
            false,
        ),
        ("a deletion that one call was told of", |history| delete_told_to(history, 1), true),
        ("a deletion that two calls were told of", |history| delete_told_to(history, 2), false),
        (
            "a refusal for a reason",
            |history| {
                let txn = put("a", 2).when(Compare::Unchanged(Key::from("a"), Revision(1)));
                let call = history.begin(Asked::Write(txn));
                history.tell(call, Told::Refused);
            },
            true,
        ),
        (
            "a refusal for none",
            |history| {
                let txn = put("a", 2).when(Compare::Unchanged(Key::from("a"), Revision(2)));
                let call = history.begin(Asked::Write(txn));
                history.tell(call, Told::Refused);
            },
            false,
        ),
        (
            "the newest of one key",
            |history| {
                let call = history.begin(Asked::Get("a".into()));
                history.tell(call, Told::Got(Some((2, b"1".to_vec()))));
            },
            true,
        ),
        (
            "one key as it was before",
            |history| {
                let call = history.begin(Asked::Get("a".into()));
                history.tell(call, Told::Got(Some((1, b"0".to_vec()))));
            },
            false,
        ),
        (
            "a key that is there and is not found",
            |history| {
                let call = history.begin(Asked::Get("a".into()));
                history.tell(call, Told::Got(None));
            },
            false,
        ),
        (
            "a value that nobody wrote at that revision",
            |history| {
                let call = history.begin(Asked::Get("a".into()));
                history.tell(call, Told::Got(Some((2, b"0".to_vec()))));
            },
            false,
        ),
    ];
    for (name, after, expected) in cases {
        let found = written(after);
        assert_eq!(found.is_ok(), expected, "{name}: {found:?}");
    }
}

#[test]
fn watches_tell_everything_in_order_and_once() {
    let mut history = History::of_some_keys();
    let change = |key: &str, call: usize| Change {
        key: key.into(),
        value: Some(call.to_string().into_bytes()),
    };
    let all = [(3, change("a", 0)), (5, change("b", 1)), (6, change("a", 2))];
    for (revision, change) in all.clone() {
        history.happened(revision, vec![change]).unwrap();
    }
    let check = |prefix, after, to, told: &[(u64, Change)]| {
        history.check_watch(prefix, after, to, told).is_ok()
    };
    assert!(check("", 2, 9, &all));
    assert!(check("a", 0, 5, &all[..1]), "of some keys, up to some revision");
    assert!(check("", 6, 6, &[]));
    assert!(!check("", 2, 5, &all[..1]), "one is missing at the end");
    assert!(!check("", 2, 6, &all[1..]), "one is missing at the beginning");
    assert!(!check("", 3, 6, &all), "one is repeated");
    let [first, second, third] = all.clone();
    assert!(!check("", 2, 6, &[second, first, third]), "they are out of order");
}

#[test]
fn gaps_are_fine_only_where_some_keys_are_recorded() {
    for (mut history, expected) in [(History::default(), false), (History::of_some_keys(), true)] {
        history.begin(Asked::Write(put("a", 0)));
        history.publish(&[event(2, "a", 0)]).unwrap();
        assert_eq!(history.check().is_ok(), expected);
    }
}

#[test]
fn members_publish_the_same() {
    let mut history = History::default();
    history.publish(&[event(1, "a", 0), event(1, "b", 0)]).unwrap();
    history.publish(&[event(1, "a", 0), event(1, "b", 0)]).unwrap();
    assert!(history.publish(&[event(1, "a", 0)]).is_err());
}

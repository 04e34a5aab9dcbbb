//! What callers of a real cluster asked and were told, and what watches told,
//! in the order in which it happened; checked by the store's own checker, the
//! one that its simulation uses.
//!
//! One lock orders everything: a call begins before its request is sent, and
//! its answer is noted after it was received. So when the record says that one
//! call ended before another began, it was so.
//!
//! Kubernetes does not tell the revision of a deletion, only whom it removed
//! (the uid). Some watch tells both, so the revision is filled in afterwards.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use skiff_store::checker::{Asked, Change, History, Told};

/// What became of a call.
#[derive(Debug)]
pub(crate) enum Answer {
    Told(Told),
    /// The object with this uid was deleted.
    Deleted(String),
}

/// What a watch told of everything after one revision and up to another.
#[derive(Debug, Clone)]
pub(crate) struct Stretch {
    pub(crate) after: u64,
    pub(crate) to: u64,
    pub(crate) told: Vec<(u64, Change)>,
}

#[derive(Debug)]
enum Happening {
    Began(Asked),
    Answered(usize, Answer),
    Watched(u64, Change),
}

#[derive(Default)]
struct Record {
    happenings: Vec<Happening>,
    stretches: Vec<Stretch>,
    /// The revisions at which objects were deleted, by uid.
    deletions: BTreeMap<String, u64>,
    calls: usize,
    acknowledged: usize,
    /// What no caller should ever be told.
    wrong: Vec<String>,
}

/// The record of one run. Everybody writes into the same.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Record>);

/// How much was recorded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) calls: usize,
    pub(crate) acknowledged: usize,
    pub(crate) watched: usize,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().expect("nobody panics while writing")
    }

    /// A call begins: what it asks, given its number, and that number.
    pub(crate) fn begin(&self, asked: impl FnOnce(usize) -> Asked) -> usize {
        let mut record = self.lock();
        let number = record.calls;
        record.calls += 1;
        record.happenings.push(Happening::Began(asked(number)));
        number
    }

    /// A call has ended.
    pub(crate) fn answer(&self, call: usize, answer: Answer) {
        let mut record = self.lock();
        if matches!(answer, Answer::Deleted(_) | Answer::Told(Told::Written { .. })) {
            record.acknowledged += 1;
        }
        record.happenings.push(Happening::Answered(call, answer));
    }

    /// A watch tells of a change; of a deletion also whom it removed.
    pub(crate) fn watched(&self, revision: u64, change: Change, deleted: Option<String>) {
        let mut record = self.lock();
        if let Some(uid) = deleted {
            record.deletions.insert(uid, revision);
        }
        record.happenings.push(Happening::Watched(revision, change));
    }

    /// A watch has told of everything in a stretch.
    pub(crate) fn stretch(&self, stretch: Stretch) {
        self.lock().stretches.push(stretch);
    }

    /// Somebody was told what nobody should be told.
    pub(crate) fn wrong(&self, what: String) {
        self.lock().wrong.push(what);
    }

    /// Calls that were told of their effect so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.lock().acknowledged
    }

    /// Checks everything, at the end.
    pub(crate) fn check(self) -> Result<Summary, String> {
        let record = self.0.into_inner().expect("nobody panics while writing");
        if let Some(wrong) = record.wrong.first() {
            return Err(format!("{wrong} ({} such answers)", record.wrong.len()));
        }
        let mut history = History::of_some_keys();
        for happening in record.happenings {
            match happening {
                Happening::Began(asked) => drop(history.begin(asked)),
                Happening::Answered(call, Answer::Told(told)) => history.tell(call, told),
                Happening::Answered(call, Answer::Deleted(uid)) => {
                    let revision = *record.deletions.get(&uid).ok_or_else(|| {
                        format!("call {call} deleted {uid}, of which no watch told")
                    })?;
                    history.tell(call, Told::Written { revision, changed: true });
                }
                Happening::Watched(revision, change) => {
                    history.happened(revision, vec![change])?;
                }
            }
        }
        for Stretch { after, to, told } in &record.stretches {
            history.check_watch("", *after, *to, told)?;
        }
        history.check()?;
        Ok(Summary {
            calls: record.calls,
            acknowledged: record.acknowledged,
            watched: record.stretches.iter().map(|stretch| stretch.told.len()).sum(),
        })
    }
}

/// A record with something missing, or something too much: each must be found.
mod planted {
    use skiff_store::{Draft, Txn, Write};

    use super::*;

    fn put(recorder: &Recorder, key: &str) -> usize {
        recorder.begin(|number| {
            let bytes = number.to_string().into_bytes().into();
            let draft = Draft { bytes, revision_at: None, sealed: false };
            Asked::Write(Txn::default().write(Write::Put(key.into(), draft)))
        })
    }

    fn written(call: usize, key: &str) -> Change {
        Change { key: key.into(), value: Some(call.to_string().into_bytes()) }
    }

    fn delete(recorder: &Recorder) -> usize {
        recorder.begin(|_| Asked::Write(Txn::default().write(Write::Delete("a".into()))))
    }

    const GONE: fn() -> Change = || Change { key: "a".into(), value: None };

    /// What the run did, apart from what is planted.
    struct Run {
        recorder: Recorder,
        watched: Vec<(u64, Change, Option<String>)>,
        /// What one of two watches told; the other told everything.
        told: Vec<(u64, Change)>,
    }

    /// Two writes and a deletion, all acknowledged and all watched; then a read.
    fn run(plant: impl FnOnce(&mut Run)) -> Result<Summary, String> {
        let recorder = Recorder::default();
        let answers = [(10, "a"), (12, "b")].map(|(revision, key)| {
            let call = put(&recorder, key);
            let told = Told::Written { revision, changed: true };
            recorder.answer(call, Answer::Told(told));
            (revision, written(call, key))
        });
        recorder.answer(delete(&recorder), Answer::Deleted("uid".into()));
        let told: Vec<_> = answers.into_iter().chain([(15, GONE())]).collect();
        let watched = told.iter().map(|(revision, change)| {
            (*revision, change.clone(), change.value.is_none().then(|| "uid".to_owned()))
        });
        let mut run = Run { recorder, watched: watched.collect(), told };
        plant(&mut run);
        let Run { recorder, watched, told } = run;
        let all = watched.iter().map(|(revision, change, _)| (*revision, change.clone()));
        recorder.stretch(Stretch { after: 5, to: 15, told: all.collect() });
        for (revision, change, uid) in watched {
            recorder.watched(revision, change, uid);
        }
        recorder.stretch(Stretch { after: 5, to: 15, told });
        let read = recorder.begin(|_| Asked::Read);
        let entries = vec![("b".to_owned(), 12, b"1".to_vec())];
        recorder.answer(read, Answer::Told(Told::Read { revision: 15, entries }));
        recorder.check()
    }

    #[test]
    fn a_record_of_what_happened_passes() {
        let expected = Summary { calls: 4, acknowledged: 3, watched: 6 };
        assert_eq!(run(|_| {}), Ok(expected));
    }

    #[test]
    fn each_planted_fault_is_found() {
        type Plant = fn(&mut Run);
        let plants: [(&str, Plant); 9] = [
            ("an acknowledged write is lost", |run| {
                run.watched.remove(0);
                run.told.remove(0);
            }),
            ("an acknowledged deletion is lost", |run| {
                run.watched.pop();
                run.told.pop();
            }),
            ("an acknowledged write has another value", |run| {
                run.watched[0].1.value = Some(b"7".to_vec());
                run.told[0].1.value = Some(b"7".to_vec());
            }),
            ("one watch misses a change", |run| drop(run.told.remove(1))),
            ("one watch repeats a change", |run| run.told.insert(1, run.told[0].clone())),
            ("one watch changes the order", |run| run.told.swap(0, 1)),
            ("a write takes effect twice", |run| {
                let again = (13, run.told[1].1.clone());
                run.watched.insert(2, (13, again.1.clone(), None));
                run.told.insert(2, again);
            }),
            ("a deletion is told to two callers", |run| {
                run.recorder.answer(delete(&run.recorder), Answer::Deleted("uid".into()));
            }),
            ("somebody is told nonsense", |run| run.recorder.wrong("418".into())),
        ];
        for (name, plant) in plants {
            let found = run(plant);
            assert!(found.is_err(), "{name}: {found:?}");
        }
    }

    #[test]
    fn a_silent_call_may_take_effect_and_a_stale_read_may_not_be() {
        let late = run(|run| {
            let call = put(&run.recorder, "c");
            run.recorder.answer(call, Answer::Told(Told::Nothing));
            // Nobody saw it: it had no effect so far.
        });
        assert!(late.is_ok(), "{late:?}");
        let stale = run(|run| {
            let read = run.recorder.begin(|_| Asked::Read);
            let entries = vec![("a".to_owned(), 10, b"0".to_vec())];
            run.recorder.answer(read, Answer::Told(Told::Read { revision: 11, entries }));
        });
        assert!(stale.is_err(), "{stale:?}");
    }
}

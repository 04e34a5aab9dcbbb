//! The graph of owners and dependents. Pure: fed with metadata, asked for
//! decisions.
//!
//! A node per object, an edge per owner reference. Edges may lead to owners
//! nobody has seen; whether those exist is for the caller to find out, by the
//! `Verdict`s it puts into `plan`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::meta;

/// Finalizer of an object that goes after its dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents shall stay.
pub(crate) const ORPHAN: &str = "orphan";

/// A uid.
pub(crate) type Uid = Arc<str>;

/// Group and kind, shared by all objects of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Kind {
    /// API group, empty for the core group.
    pub(crate) group: String,
    /// Such as `Pod`.
    pub(crate) kind: String,
}

/// What the collector knows of an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    /// Its kind.
    pub(crate) kind: Arc<Kind>,
    /// Empty for a cluster-scoped object.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Who owns it.
    pub(crate) owners: Vec<OwnerReference>,
    /// Whether it is on its way out.
    pub(crate) deleting: bool,
    /// Whether it waits for its dependents to go first.
    pub(crate) foreground: bool,
    /// Whether its dependents shall be let go.
    pub(crate) orphans: bool,
}

impl Object {
    /// What `meta` says.
    pub(crate) fn of(kind: &Arc<Kind>, meta: &ObjectMeta) -> Self {
        Self {
            kind: Arc::clone(kind),
            namespace: meta::namespace(meta).to_owned(),
            name: meta::name(meta).to_owned(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta::is_deleting(meta),
            foreground: meta::has_finalizer(meta, FOREGROUND),
            orphans: meta::has_finalizer(meta, ORPHAN),
        }
    }

    /// Whether it is going and waits for its dependents.
    fn awaits_dependents(&self) -> bool {
        self.deleting && self.foreground
    }

    /// Whether the owner of this uid may not go before this object.
    fn blocks(&self, owner: &str) -> bool {
        self.owners
            .iter()
            .any(|known| &*known.uid == owner && known.block_owner_deletion == Some(true))
    }
}

/// All objects and who depends on whom.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    objects: HashMap<Uid, Object>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
}

impl Graph {
    /// Takes in an object as it is now. Returns the objects to look at again.
    pub(crate) fn put(&mut self, uid: Uid, object: Object) -> Vec<Uid> {
        let old = self.objects.insert(Arc::clone(&uid), object.clone());
        let old_owners = old.as_ref().map(|old| old.owners.clone()).unwrap_or_default();
        for owner in &old_owners {
            if !object.owners.iter().any(|known| known.uid == owner.uid) {
                self.unlink(&owner.uid, &uid);
            }
        }
        for owner in &object.owners {
            self.dependents
                .entry(Uid::from(owner.uid.as_str()))
                .or_default()
                .insert(Arc::clone(&uid));
        }
        let mut look = Vec::new();
        // A dependent that no longer blocks may have been the last one.
        look.extend(
            old_owners
                .iter()
                .map(|owner| Uid::from(owner.uid.as_str()))
                .filter(|owner| self.awaits(owner)),
        );
        let asks = |object: &Object| object.deleting && (object.foreground || object.orphans);
        let owners_changed = old.as_ref().is_none_or(|old| old.owners != object.owners);
        let began = asks(&object) && !old.as_ref().is_some_and(asks);
        if began || (owners_changed && !object.owners.is_empty()) {
            look.push(uid);
        }
        look
    }

    /// Forgets a deleted object. Returns the objects to look at again: those it
    /// owned, and those that waited for it.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<Uid> {
        let mut look: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(old) = self.objects.remove(uid) {
            for owner in &old.owners {
                self.unlink(&owner.uid, uid);
                if self.awaits(&owner.uid) {
                    look.push(Uid::from(owner.uid.as_str()));
                }
            }
        }
        look
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn awaits(&self, uid: &str) -> bool {
        self.objects.get(uid).is_some_and(Object::awaits_dependents)
    }

    /// The object of this uid.
    pub(crate) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// The objects that name `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = (&Uid, &Object)> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .filter_map(|uid| self.objects.get_key_value(uid))
    }

    /// What the graph alone knows of an owner; `None` when the server has to
    /// be asked.
    pub(crate) fn verdict(&self, object: &Object, owner: &OwnerReference) -> Option<Verdict> {
        let known = self.objects.get(owner.uid.as_str())?;
        let named = known.name == owner.name && known.kind.kind == owner.kind;
        // An owner in another namespace is none, whatever its uid.
        if !named || !(known.namespace.is_empty() || known.namespace == object.namespace) {
            return None;
        }
        Some(if known.awaits_dependents() { Verdict::Awaiting } else { Verdict::Solid })
    }

    /// What to do about an object, given what is known of each of its owners.
    pub(crate) fn plan(&self, uid: &str, verdicts: &[Verdict]) -> Action {
        let Some(object) = self.objects.get(uid) else { return Action::Nothing };
        if object.deleting {
            if object.orphans {
                return Action::Orphan(
                    self.dependents(uid).map(|(uid, _)| Arc::clone(uid)).collect(),
                );
            }
            if object.foreground {
                return self.plan_foreground(uid);
            }
            return Action::Nothing;
        }
        let of = |wanted: Verdict| {
            object.owners.iter().zip(verdicts).filter(move |(_, known)| **known == wanted)
        };
        let uids = |wanted| of(wanted).map(|(owner, _)| owner.uid.clone());
        if object.owners.is_empty() {
            return Action::Nothing;
        }
        if of(Verdict::Solid).next().is_some() {
            let useless: Vec<String> = uids(Verdict::Gone).chain(uids(Verdict::Awaiting)).collect();
            return if useless.is_empty() { Action::Nothing } else { Action::Disown(useless) };
        }
        let own_dependents = self.dependents(uid).next().is_some();
        if of(Verdict::Awaiting).next().is_some() && own_dependents {
            // The owner waits for this one and this one for its dependents. If
            // one of those is waiting already, this is a circle: cut it here.
            let circle = self.dependents(uid).any(|(_, dependent)| dependent.awaits_dependents());
            return Action::Delete { policy: Policy::Foreground, unblock: circle };
        }
        let policy = match (object.orphans, object.foreground) {
            (true, _) => Policy::Orphan,
            (false, true) => Policy::Foreground,
            (false, false) => Policy::Background,
        };
        Action::Delete { policy, unblock: false }
    }

    fn plan_foreground(&self, uid: &str) -> Action {
        let blocking: Vec<Uid> = self
            .dependents(uid)
            .filter(|(_, dependent)| dependent.blocks(uid))
            .map(|(uid, _)| Arc::clone(uid))
            .collect();
        let all: Vec<Uid> = self.dependents(uid).map(|(uid, _)| Arc::clone(uid)).collect();
        if blocking.is_empty() { Action::Release(all) } else { Action::LookAt(all) }
    }
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It exists and stays.
    Solid,
    /// It exists, is going and waits for its dependents.
    Awaiting,
    /// It does not exist.
    Gone,
}

/// What becomes of the dependents of an object that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// They stay.
    Orphan,
    /// They go first.
    Foreground,
    /// They go afterwards.
    Background,
}

/// What to do about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// All is well.
    Nothing,
    /// Let these dependents go, then take off the orphan finalizer.
    Orphan(Vec<Uid>),
    /// It still waits for dependents: look at these.
    LookAt(Vec<Uid>),
    /// Nothing holds it back: take off the foreground finalizer. These
    /// dependents did not block and go afterwards.
    Release(Vec<Uid>),
    /// Take these owners off: others remain.
    Disown(Vec<String>),
    /// No owner is left.
    Delete {
        /// How.
        policy: Policy,
        /// First let its owners go without it, since it waits for them too.
        unblock: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn kind() -> Arc<Kind> {
        Arc::new(Kind { group: "apps".into(), kind: "ReplicaSet".into() })
    }

    fn object(name: &str, owners: &[&str], finalizers: Option<&[&str]>) -> (Uid, Object) {
        let mut meta = testing::meta(name);
        meta.owner_references = Some(
            owners
                .iter()
                .flat_map(|owner| testing::controlled_by("ReplicaSet", &format!("uid-{owner}")))
                .collect(),
        );
        if let Some(finalizers) = finalizers {
            meta.deletion_timestamp = Some(meta::time(meta::now()));
            meta.finalizers = Some(finalizers.iter().map(|name| (*name).to_owned()).collect());
        }
        (Uid::from(meta::uid(&meta)), Object::of(&kind(), &meta))
    }

    fn graph(objects: &[(Uid, Object)]) -> Graph {
        let mut graph = Graph::default();
        for (uid, object) in objects {
            graph.put(Arc::clone(uid), object.clone());
        }
        graph
    }

    /// The plan for an object whose unknown owners do not exist.
    fn plan(graph: &Graph, name: &str) -> Action {
        let uid = format!("uid-{name}");
        let object = graph.get(&uid).unwrap();
        let verdicts: Vec<Verdict> = object
            .owners
            .iter()
            .map(|owner| graph.verdict(object, owner).unwrap_or(Verdict::Gone))
            .collect();
        graph.plan(&uid, &verdicts)
    }

    #[test]
    fn the_fate_of_an_object_follows_its_owners() {
        let background = Action::Delete { policy: Policy::Background, unblock: false };
        let uids = |names: &[&str]| {
            names.iter().map(|name| Uid::from(format!("uid-{name}"))).collect::<Vec<_>>()
        };
        type Case = (&'static str, Vec<(Uid, Object)>, Action);
        let cases: Vec<Case> = vec![
            ("no owners", vec![object("x", &[], None)], Action::Nothing),
            (
                "owner there",
                vec![object("o", &[], None), object("x", &["o"], None)],
                Action::Nothing,
            ),
            ("owner gone", vec![object("x", &["o"], None)], background.clone()),
            (
                "one of two gone",
                vec![object("o", &[], None), object("x", &["o", "p"], None)],
                Action::Disown(vec!["uid-p".into()]),
            ),
            (
                "owner waits for it",
                vec![object("o", &[], Some(&[FOREGROUND])), object("x", &["o"], None)],
                background,
            ),
            (
                "owner waits and it has dependents",
                vec![
                    object("o", &[], Some(&[FOREGROUND])),
                    object("x", &["o"], None),
                    object("y", &["x"], None),
                ],
                Action::Delete { policy: Policy::Foreground, unblock: false },
            ),
            (
                "a circle",
                vec![object("o", &["x"], Some(&[FOREGROUND])), object("x", &["o"], None)],
                Action::Delete { policy: Policy::Foreground, unblock: true },
            ),
            (
                "waits for its dependents",
                vec![object("x", &[], Some(&[FOREGROUND])), object("y", &["x"], None)],
                Action::LookAt(uids(&["y"])),
            ),
            (
                "waited long enough",
                vec![object("x", &[], Some(&[FOREGROUND]))],
                Action::Release(vec![]),
            ),
            (
                "orphans its dependents",
                vec![object("x", &[], Some(&[ORPHAN])), object("y", &["x"], None)],
                Action::Orphan(uids(&["y"])),
            ),
            (
                "going already",
                vec![object("x", &["o"], Some(&["example.com/hold"]))],
                Action::Nothing,
            ),
        ];
        for (name, objects, expected) in cases {
            assert_eq!(plan(&graph(&objects), "x"), expected, "{name}");
        }
    }

    #[test]
    fn an_owner_in_another_namespace_is_none() {
        let (uid, mut owner) = object("o", &[], None);
        owner.namespace = "elsewhere".into();
        let graph = graph(&[(uid, owner), object("x", &["o"], None)]);
        let child = graph.get("uid-x").unwrap();
        assert_eq!(graph.verdict(child, &child.owners[0]), None, "the server decides");
        let (uid, mut owner) = object("o", &[], None);
        owner.namespace = String::new();
        let graph = self::graph(&[(uid, owner), object("x", &["o"], None)]);
        let child = graph.get("uid-x").unwrap();
        assert_eq!(
            graph.verdict(child, &child.owners[0]),
            Some(Verdict::Solid),
            "cluster-scoped owners are fine"
        );
    }

    #[test]
    fn changes_name_whom_to_look_at() {
        let mut graph =
            graph(&[object("o", &[], None), object("x", &["o"], None), object("y", &["o"], None)]);
        let uids = |names: &[&str]| {
            names.iter().map(|name| Uid::from(format!("uid-{name}"))).collect::<Vec<_>>()
        };
        let (uid, going) = object("o", &[], Some(&[FOREGROUND]));
        assert_eq!(graph.put(Arc::clone(&uid), going.clone()), uids(&["o"]));
        assert_eq!(graph.put(uid, going), vec![], "nothing changed");
        assert_eq!(graph.remove("uid-x"), uids(&["o"]), "its owner waits for it");
        assert_eq!(graph.remove("uid-o"), uids(&["y"]), "what it owned");
    }
}

//! Tables, and one simulated rollout that watches the bounds at every step.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::*;
use crate::deployment::fixtures::{deployment, rolling, set, with_strategy};

fn sized_for(set: Arc<ReplicaSet>, deployment: &Deployment) -> Arc<ReplicaSet> {
    let mut set = Arc::unwrap_or_clone(set);
    set.metadata.annotations = Some(revision::size_annotations(deployment).into());
    Arc::new(set)
}

#[test]
fn rolling_steps() {
    let cases = [
        ("first rollout", vec![], Step::Create(3)),
        ("new template", vec![set("web:1", 3, 3)], Step::Create(1)),
        ("waits for the new pod", vec![set("web:1", 3, 3), set("web:2", 1, 0)], Step::Wait),
        (
            "an old pod goes when the new one serves",
            vec![set("web:1", 3, 3), set("web:2", 1, 1)],
            Step::Resize(vec![(set("web:1", 3, 3), 2)]),
        ),
        (
            "room for the next new pod",
            vec![set("web:1", 2, 2), set("web:2", 1, 1)],
            Step::Resize(vec![(set("web:2", 1, 1), 2)]),
        ),
        (
            "broken old pods go first",
            vec![set("web:0", 1, 0), set("web:1", 2, 2), set("web:2", 1, 1)],
            Step::Resize(vec![(set("web:0", 1, 0), 0)]),
        ),
        (
            "broken old pods do not wait for new ones",
            vec![set("web:1", 3, 1), set("web:2", 1, 0)],
            Step::Wait,
        ),
        ("settled", vec![set("web:1", 0, 0), set("web:2", 3, 3)], Step::Wait),
    ];
    let deployment = deployment(3, "web:2");
    for (name, owned, expected) in cases {
        let sets = Sets::of(&deployment, owned);
        assert_eq!(plan_rollout(&deployment, &sets, || false), expected, "{name}");
    }
}

#[test]
fn recreate_steps() {
    let deployment = with_strategy(2, "web:2", "Recreate");
    let cases = [
        (
            "old pods go first",
            vec![set("web:1", 2, 2)],
            true,
            Step::Resize(vec![(set("web:1", 2, 2), 0)]),
        ),
        ("waits for their end", vec![set("web:1", 0, 0)], true, Step::Wait),
        ("then all at once", vec![set("web:1", 0, 0)], false, Step::Create(2)),
        (
            "an undo",
            vec![set("web:1", 0, 0), set("web:2", 0, 0)],
            false,
            Step::Resize(vec![(set("web:2", 0, 0), 2)]),
        ),
    ];
    for (name, owned, running, expected) in cases {
        let sets = Sets::of(&deployment, owned);
        assert_eq!(plan_rollout(&deployment, &sets, || running), expected, "{name}");
    }
}

#[test]
fn scaling_in_a_rollout_keeps_the_shares() {
    let before = rolling(10, "web:2", IntOrString::Int(3), IntOrString::Int(2));
    let owned =
        || vec![sized_for(set("web:1", 8, 8), &before), sized_for(set("web:2", 5, 0), &before)];
    let cases = [
        ("up", 15, vec![(8, 11), (5, 7)]),
        ("down", 5, vec![(8, 5), (5, 3)]),
        ("to zero", 0, vec![(8, 0), (5, 0)]),
    ];
    for (name, replicas, expected) in cases {
        let after = rolling(replicas, "web:2", IntOrString::Int(3), IntOrString::Int(2));
        let Step::Resize(sizes) = plan_rollout(&after, &Sets::of(&after, owned()), || false) else {
            panic!("{name}: nothing resized");
        };
        let sizes: Vec<(i32, i32)> =
            sizes.iter().map(|(set, desired)| (size(set), *desired)).collect();
        assert_eq!(sizes, expected, "{name}");
    }
}

#[test]
fn a_paused_deployment_scales_and_does_not_roll() {
    let mut paused = deployment(3, "web:2");
    paused.spec.as_mut().unwrap().paused = Some(true);
    let owned = vec![sized_for(set("web:1", 3, 3), &paused)];
    assert_eq!(plan_rollout(&paused, &Sets::of(&paused, owned), || false), Step::Wait);
    paused.spec.as_mut().unwrap().replicas = Some(5);
    let set = sized_for(set("web:1", 3, 3), &deployment(3, "web:2"));
    let sets = Sets::of(&paused, vec![Arc::clone(&set)]);
    assert_eq!(plan_rollout(&paused, &sets, || false), Step::Resize(vec![(set, 5)]));
}

#[test]
fn history_is_trimmed_from_its_old_end() {
    let mut deployment = deployment(3, "web:9");
    deployment.spec.as_mut().unwrap().revision_history_limit = Some(1);
    let with_revision = |image: &str, size, revision: i64| {
        let mut set = Arc::unwrap_or_clone(set(image, size, size));
        set.metadata.annotations =
            crate::testing::labels(&[(revision::REVISION, &revision.to_string())]);
        Arc::new(set)
    };
    let owned = vec![
        with_revision("web:3", 0, 3),
        with_revision("web:1", 0, 1),
        with_revision("web:2", 1, 2),
        with_revision("web:9", 3, 9),
    ];
    let surplus = plan_cleanup(&deployment, &Sets::of(&deployment, owned));
    let names: Vec<&str> = surplus.iter().map(|set| meta::name(&set.metadata)).collect();
    assert_eq!(names, ["web-1"], "web:2 still has a pod, web:3 is within the limit");
}

/// Sets as a ReplicaSet controller would leave them once pods follow sizes,
/// with `available` of the new pods serving so far.
struct World {
    deployment: Deployment,
    sets: Vec<(String, i32, i32)>,
}

impl World {
    fn sets(&self) -> Sets {
        let owned = self
            .sets
            .iter()
            .map(|(image, size, available)| set(image, *size, *available))
            .collect();
        Sets::of(&self.deployment, owned)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Wait => {}
            Step::Create(size) => self.sets.push(("web:2".into(), size, 0)),
            Step::Resize(sizes) => {
                for (resized, desired) in sizes {
                    let name = meta::name(&resized.metadata);
                    let set = self
                        .sets
                        .iter_mut()
                        .find(|(image, ..)| image.replace(':', "-") == name)
                        .unwrap();
                    set.1 = desired;
                    set.2 = set.2.min(desired);
                }
            }
        }
    }
}

proptest! {
    /// Whatever the bounds and however pods become available, a rollout never
    /// serves with less than the minimum, never exceeds the surge, and ends.
    #[test]
    fn a_rollout_stays_within_its_bounds(
        replicas in 1..30i32,
        surge in 0..10i32,
        unavailable in 0..10i32,
        order in proptest::collection::vec(0..4i32, 400),
    ) {
        let deployment = rolling(replicas, "web:2", IntOrString::Int(surge), IntOrString::Int(unavailable));
        let minimum = replicas - max_unavailable(&deployment);
        let maximum = replicas + max_surge(&deployment);
        let mut world = World { deployment, sets: vec![("web:1".into(), replicas, replicas)] };
        for ready in order {
            let step = plan_rollout(&world.deployment, &world.sets(), || false);
            world.apply(step);
            let serving: i32 = world.sets.iter().map(|(_, _, available)| available).sum();
            let total: i32 = world.sets.iter().map(|(_, size, _)| size).sum();
            prop_assert!(serving >= minimum, "{serving} serve, {minimum} must");
            prop_assert!(total <= maximum, "{total} pods, {maximum} may");
            if let Some(new) = world.sets.get_mut(1) {
                new.2 = (new.2 + ready).min(new.1);
            }
        }
        let sizes: Vec<(i32, i32)> = world.sets.iter().map(|(_, size, available)| (*size, *available)).collect();
        prop_assert_eq!(sizes, vec![(0, 0), (replicas, replicas)]);
    }
}

//! Who ends when and in what time, when the machine shuts down. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::model::spec;
use crate::pod::resources::SYSTEM_CRITICAL;

/// How long pods have to end when the machine shuts down, by priority: those of
/// the lowest rank end first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GracePeriods {
    /// In the order of their turns.
    ranks: Vec<Rank>,
}

/// Pods that end together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// The lowest priority in it. The lowest rank takes whatever is below, too.
    pub priority: i32,
    /// How long its pods have.
    pub grace: Duration,
}

/// The pods whose turn it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn<'a> {
    /// How long they have; those that ask for less in their spec get less.
    pub grace: Duration,
    /// Who they are.
    pub pods: Vec<&'a Pod>,
}

/// Grace periods that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraceError {
    /// The critical pods' part is more than the whole.
    #[error("critical pods cannot have {critical:?} of {total:?} to shut down in")]
    TooMuchForCritical {
        /// Of all pods.
        total: Duration,
        /// Of the critical ones.
        critical: Duration,
    },
    /// Two periods for the same pods.
    #[error("priority {0} has two grace periods")]
    Twice(i32),
}

impl GracePeriods {
    /// `total` for all pods, of which the last `critical` is for those of
    /// priority 2000000000 and above.
    pub fn new(total: Duration, critical: Duration) -> Result<Self, GraceError> {
        let others = total
            .checked_sub(critical)
            .ok_or(GraceError::TooMuchForCritical { total, critical })?;
        Self::by_priority([
            Rank { priority: 0, grace: others },
            Rank { priority: SYSTEM_CRITICAL, grace: critical },
        ])
    }

    /// A period for each of these ranks.
    pub fn by_priority(ranks: impl IntoIterator<Item = Rank>) -> Result<Self, GraceError> {
        let mut ranks: Vec<_> = ranks.into_iter().collect();
        ranks.sort_by_key(|rank| rank.priority);
        match ranks.windows(2).find(|pair| pair[0].priority == pair[1].priority) {
            Some(pair) => Err(GraceError::Twice(pair[0].priority)),
            None => Ok(Self { ranks }),
        }
    }

    /// The ranks, the first to end first.
    pub fn ranks(&self) -> &[Rank] {
        &self.ranks
    }

    /// How long all pods take at most.
    pub fn total(&self) -> Duration {
        self.ranks.iter().map(|rank| rank.grace).sum()
    }

    /// Whether no pod has any time.
    pub fn is_off(&self) -> bool {
        self.total().is_zero()
    }

    /// The same in `limit` altogether. The most important pods keep their time
    /// longest.
    pub(super) fn within(&self, limit: Duration) -> Self {
        let mut left = limit;
        let mut ranks = self.ranks.clone();
        for rank in ranks.iter_mut().rev() {
            rank.grace = rank.grace.min(left);
            left -= rank.grace;
        }
        Self { ranks }
    }

    /// The turns of `pods`, the first to end first. Ranks without pods have
    /// none, nor have pods that have ended.
    pub(super) fn turns<'a, P: AsRef<Pod>>(&self, pods: &'a [P]) -> Vec<Turn<'a>> {
        let mut turns: Vec<_> =
            self.ranks.iter().map(|rank| Turn { grace: rank.grace, pods: vec![] }).collect();
        for pod in pods.iter().map(AsRef::as_ref).filter(|pod| !has_ended(pod)) {
            let priority = spec(pod).priority.unwrap_or(0);
            let above = self.ranks.partition_point(|rank| rank.priority <= priority);
            if let Some(turn) = turns.get_mut(above.saturating_sub(1)) {
                turn.pods.push(pod);
            }
        }
        turns.retain(|turn| !turn.pods.is_empty());
        turns
    }
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn pod(name: &str, priority: Option<i32>, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"containers": [], "priority": priority},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    /// Each turn as its seconds and the names of its pods.
    fn said(periods: &GracePeriods, pods: &[Box<Pod>]) -> Vec<(u64, String)> {
        let names = |turn: &Turn<'_>| {
            let names = turn.pods.iter().filter_map(|pod| pod.metadata.name.clone());
            names.collect::<Vec<_>>().join(" ")
        };
        periods.turns(pods).iter().map(|turn| (turn.grace.as_secs(), names(turn))).collect()
    }

    #[test]
    fn pods_end_in_the_order_of_their_priority() {
        let pods = [
            pod("critical", Some(SYSTEM_CRITICAL), "Running"),
            pod("plain", None, "Running"),
            pod("node-critical", Some(SYSTEM_CRITICAL + 1000), "Running"),
            pod("low", Some(-5), "Pending"),
            pod("high", Some(1000), "Running"),
            pod("done", None, "Succeeded"),
            pod("dead", Some(SYSTEM_CRITICAL), "Failed"),
        ]
        .map(Box::new);
        let ranks = |all: &[(i32, u64)]| {
            let ranks =
                all.iter().map(|&(priority, grace)| Rank { priority, grace: seconds(grace) });
            GracePeriods::by_priority(ranks).unwrap()
        };
        let two = GracePeriods::new(seconds(30), seconds(10)).unwrap();
        let cases = [
            (
                "two ranks",
                two.clone(),
                vec![(20, "plain low high"), (10, "critical node-critical")],
            ),
            (
                "no part for critical pods",
                GracePeriods::new(seconds(30), seconds(0)).unwrap(),
                vec![(30, "plain low high"), (0, "critical node-critical")],
            ),
            (
                "ranks in any order; the lowest takes what is below",
                ranks(&[(1000, 5), (10, 60)]),
                vec![(60, "plain low"), (5, "critical node-critical high")],
            ),
            (
                "a rank without pods",
                ranks(&[(-10, 9), (2_000_000_500, 1), (2000, 2), (0, 3)]),
                vec![(9, "low"), (3, "plain high"), (2, "critical"), (1, "node-critical")],
            ),
            ("off", GracePeriods::default(), vec![]),
        ];
        for (name, periods, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(s, n)| (*s, (*n).to_owned())).collect();
            assert_eq!(said(&periods, &pods), expected, "{name}");
        }
        assert_eq!(
            said(&two, &pods[2..3]),
            [(10, "node-critical".to_owned())],
            "only its own turn"
        );
        assert!(said(&two, &[]).is_empty());
    }

    #[test]
    fn what_logind_does_not_grant_the_least_important_lose() {
        let all = GracePeriods::new(seconds(30), seconds(10)).unwrap();
        let cases = [(40, (20, 10)), (30, (20, 10)), (15, (5, 10)), (10, (0, 10)), (3, (0, 3))];
        for (limit, (others, critical)) in cases {
            let expected = GracePeriods::new(seconds(others + critical), seconds(critical));
            assert_eq!(Ok(all.within(seconds(limit))), expected, "{limit}");
        }
    }

    #[test]
    fn periods_that_contradict_each_other_are_refused() {
        let (total, critical) = (seconds(5), seconds(6));
        let error = GracePeriods::new(total, critical).unwrap_err();
        assert_eq!(error, GraceError::TooMuchForCritical { total, critical });
        let rank = |priority| Rank { priority, grace: total };
        assert_eq!(
            GracePeriods::by_priority([rank(1), rank(0), rank(1)]),
            Err(GraceError::Twice(1))
        );
        assert!(GracePeriods::default().is_off());
        assert!(GracePeriods::new(seconds(0), seconds(0)).unwrap().is_off());
        assert!(!GracePeriods::new(seconds(1), seconds(1)).unwrap().is_off());
    }
}

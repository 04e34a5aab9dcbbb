//! Plans of pods that are to end.

use super::*;

#[test]
fn the_active_deadline_ends_the_pod() {
    let spec = || json!({"containers": [{"name": "a"}], "activeDeadlineSeconds": 60});
    let running = || observed(vec![sandbox(0, true), container("a", 0, RUN)]);
    let cases = [(950, vec![], Some(1010)), (940, vec!["stop a 30s"], None)];
    for (start, expected, deadline) in cases {
        let mut pod = pod(spec());
        pod.status =
            Some(serde_json::from_value(json!({"startTime": at(start).to_string()})).unwrap());
        let plan = plan_pod(&pod, false, &running(), at(1000));
        assert_eq!(short(&plan), expected, "started at {start}");
        assert_eq!(plan.deadline, deadline.map(at));
    }
}

#[test]
fn a_deleted_pod_is_stopped_cleaned_up_and_deleted() {
    let running = || observed(vec![sandbox(0, true), container("a", 0, RUN)]);
    let ended = || observed(vec![sandbox(0, true), container("a", 0, exited(0, 999))]);
    let busy = |work| {
        let mut found = running();
        found.busy.insert("a".into(), work);
        found
    };
    let mut pulling = observed(vec![sandbox(0, true)]);
    pulling.busy.insert("a".into(), Work::Starting);
    let cleaned = Observed { cleaned: true, ..Observed::default() };
    // Deletion was asked for at 990 with 30 s, so 20 are left.
    let cases = vec![
        ("the time left", 30, running(), vec!["stop a 20s"]),
        ("at once", 0, running(), vec!["stop a 0s"]),
        ("a stop is under way", 30, busy(Work::Stopping(at(1020))), vec![]),
        ("a stop that takes too long now", 0, busy(Work::Stopping(at(1020))), vec!["stop a 0s"]),
        ("a pull is given up", 30, pulling, vec!["abandon"]),
        ("all ended", 30, ended(), vec!["clean"]),
        ("nothing ever ran", 30, Observed::default(), vec!["clean"]),
        ("cleaned", 30, cleaned, vec!["delete"]),
    ];
    for (name, grace, mut observed, expected) in cases {
        observed.ending_since = Some(at(990));
        let mut pod = pod(one());
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1020)));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        assert_eq!(short(&plan_pod(&pod, false, &observed, at(1000))), expected, "{name}");
    }
}

#[test]
fn a_deletion_gives_its_time_by_the_nodes_own_clock() {
    let ends = |seen| Observed { ending_since: Some(at(seen)), ..running_one() };
    let cases = [
        ("seen just now", ends(1000), "stop a 30s"),
        ("half of it is over", ends(985), "stop a 15s"),
        ("all of it is over", ends(900), "stop a 1s"),
        ("the clock was set back since", ends(5000), "stop a 30s"),
    ];
    // Whatever the API server's clock says.
    for deadline in [1, 1030, 9000] {
        let mut pod = pod(one());
        pod.metadata.deletion_timestamp = Some(crate::pod::status::seconds(at(deadline)));
        pod.metadata.deletion_grace_period_seconds = Some(30);
        for (name, observed, expected) in &cases {
            let plan = short(&plan_pod(&pod, false, observed, at(1000)));
            assert_eq!(plan, [*expected], "{name}, deadline {deadline}");
        }
    }
}

/// A pod whose only container runs.
fn running_one() -> Observed {
    observed(vec![sandbox(0, true), container("a", 0, RUN)])
}

#[test]
fn a_ready_pod_serves_a_moment_longer() {
    let running = |since| {
        let mut found = observed(vec![sandbox(0, true), container("a", 0, RUN)]);
        (found.ending_since, found.served) = (Some(since), true);
        found
    };
    let mut ended = observed(vec![sandbox(0, true), container("a", 0, exited(0, 999))]);
    (ended.ending_since, ended.served) = (Some(at(1000)), true);
    let unserved = Observed { served: false, ..running(at(1000)) };
    let (until, over) = (at(1000) + SETTLE, at(1000) - SETTLE);
    let cases = vec![
        ("just asked", "True", 30, false, running(at(1000)), vec![], Some(until)),
        ("settled", "True", 30, false, running(over), vec!["stop a 29s"], None),
        ("not ready", "False", 30, false, running(at(1000)), vec!["stop a 30s"], None),
        ("no grace", "True", 0, false, running(at(1000)), vec!["stop a 0s"], None),
        ("its object is gone", "True", 30, true, running(at(1000)), vec!["stop a 30s"], None),
        ("no service leads there", "True", 30, false, unserved, vec!["stop a 30s"], None),
        ("ended meanwhile", "True", 30, false, ended, vec!["clean"], None),
    ];
    for (name, ready, grace, gone, observed, expected, deadline) in cases {
        let mut pod = pod(one());
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1020)));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        pod.status =
            serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": ready}]}))
                .unwrap();
        let plan = plan_pod(&pod, gone, &observed, at(1000));
        assert_eq!(short(&plan), expected, "{name}");
        assert_eq!(plan.deadline, deadline, "{name}: deadline");
    }
}

#[test]
fn a_pod_without_an_object_is_removed_and_not_deleted() {
    let cases = vec![
        ("running", observed(vec![sandbox(0, true), container("a", 0, RUN)]), vec!["stop a 1s"]),
        ("ended", observed(vec![sandbox(0, true)]), vec!["clean"]),
        ("cleaned", Observed { cleaned: true, ..Observed::default() }, vec![]),
    ];
    for (name, observed, expected) in cases {
        assert_eq!(short(&plan_pod(&pod(one()), true, &observed, at(1000))), expected, "{name}");
    }
}

#[test]
fn an_evicted_pod_stops_soon_and_is_removed_once_its_status_is_known() {
    let spec = || json!({"containers": [{"name": "a"}], "terminationGracePeriodSeconds": 60});
    let evicted_within = |seconds, containers| Observed {
        disruption: Some(Disruption::Evicted {
            message: "why".into(),
            grace: Duration::from_secs(seconds),
        }),
        ..observed(containers)
    };
    let evicted = |containers| evicted_within(1, containers);
    let alive = || vec![sandbox(0, true), container("a", 0, RUN)];
    let running = || evicted(alive());
    let ended = || evicted(vec![sandbox(0, true), container("a", 0, exited(143, 900))]);
    let mut starting = running();
    starting.busy.insert("b".into(), Work::Starting);
    check(vec![
        ("it is told to stop", spec(), running(), &["stop a 1s"], None),
        ("it has more time", spec(), evicted_within(20, alive()), &["stop a 20s"], None),
        ("not more than its own", spec(), evicted_within(90, alive()), &["stop a 60s"], None),
        ("what starts is dropped", spec(), starting, &["abandon"], None),
        ("its network goes", spec(), ended(), &["release"], None),
    ]);
    let failed = |reason: &str| {
        let mut pod = pod(spec());
        let status = json!({"phase": "Failed", "reason": reason});
        pod.status = serde_json::from_value(status).unwrap();
        pod
    };
    let plan = |pod: &Pod, observed: &Observed| short(&plan_pod(pod, false, observed, at(1000)));
    assert_eq!(plan(&failed("Evicted"), &ended()), ["clean"]);
    assert_eq!(plan(&failed("Evicted"), &Observed { cleaned: true, ..ended() }), [""; 0]);
    assert_eq!(plan(&failed("Error"), &observed(vec![])), [""; 0], "others keep their containers");
}

#[test]
fn a_pod_whose_machine_shuts_down_has_what_is_left_of_its_turn() {
    let spec =
        |grace: i64| json!({"containers": [{"name": "a"}], "terminationGracePeriodSeconds": grace});
    let ending = |until, containers| Observed {
        disruption: Some(Disruption::Shutdown { until }),
        ..observed(containers)
    };
    let running = |until| ending(until, vec![sandbox(0, true), container("a", 0, RUN)]);
    let until = |second| Some(at(second));
    check(vec![
        ("all of it", spec(60), running(until(1020)), &["stop a 20s"], None),
        ("what it asks for", spec(5), running(until(1020)), &["stop a 5s"], None),
        ("its turn is over", spec(60), running(until(900)), &["stop a 1s"], None),
        ("nobody has said", spec(60), running(None), &["stop a 60s"], None),
        (
            "it stays as it ended",
            spec(60),
            ending(until(1020), vec![container("a", 0, exited(0, 900))]),
            &[],
            None,
        ),
    ]);
    let mut deleted = pod(spec(60));
    deleted.metadata.deletion_timestamp = Some(crate::pod::status::seconds(at(1500)));
    deleted.metadata.deletion_grace_period_seconds = Some(600);
    let plan = plan_pod(&deleted, false, &running(until(1020)), at(1000));
    assert_eq!(short(&plan), ["stop a 20s"], "a deletion does not give it more");
}

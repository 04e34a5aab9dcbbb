use serde_json::{Value, json};

use super::*;
use crate::pod::model::{Condemned, Health, Work};
use crate::pod::testing::{at, container, pod, sandbox};

/// What a pod has, from a short list of containers.
fn observed(containers: Vec<crate::runtime::Container>) -> Observed {
    let mut observed = Observed::new(containers);
    if observed.live_sandbox().is_some() {
        observed.ips = vec![std::net::IpAddr::from([10, 244, 0, 2])];
    }
    observed
}

/// A plan in short words, one per action.
fn short(plan: &Plan) -> Vec<String> {
    plan.actions
        .iter()
        .map(|action| match action {
            Action::SetUp { attempt } => format!("setup {attempt}"),
            Action::Start { container, attempt, crashes } => {
                format!("start {container} {attempt} {crashes}")
            }
            Action::Stop { container, grace, .. } => {
                format!("stop {container} {}s", grace.as_secs())
            }
            Action::Resize { container, .. } => format!("resize {container}"),
            Action::Remove { ids } => format!("remove {}", ids.join(" ")),
            Action::Abandon => "abandon".into(),
            Action::ReleaseSandbox => "release".into(),
            Action::CleanUp => "clean".into(),
            Action::DeleteObject => "delete".into(),
        })
        .collect()
}

/// Name, spec, what is there, the plan in short, the next deadline.
type Case<'a> = (&'a str, Value, Observed, &'a [&'a str], Option<i64>);

fn check(cases: Vec<Case<'_>>) {
    for (name, spec, observed, expected, deadline) in cases {
        let plan = plan_pod(&pod(spec), false, &observed, at(1000));
        assert_eq!(short(&plan), expected, "{name}");
        assert_eq!(plan.deadline, deadline.map(at), "{name}: deadline");
    }
}

const RUN: State = State::Running { pid: 1, started: Timestamp::UNIX_EPOCH };

fn exited(code: i32, finished: i64) -> State {
    State::Exited {
        exit_code: code,
        oom_killed: false,
        error: String::new(),
        started: Some(at(finished - 1)),
        finished: at(finished),
    }
}

fn one() -> Value {
    json!({"containers": [{"name": "a"}]})
}

fn with_policy(policy: &str) -> Value {
    json!({"containers": [{"name": "a"}, {"name": "b"}], "restartPolicy": policy})
}

#[test]
fn a_new_pod_is_set_up_and_its_containers_started() {
    let mut busy = observed(vec![sandbox(0, true)]);
    busy.busy.insert("a".into(), Work::Starting);
    let failed = Observed {
        setup_failure: Some(Failure {
            reason: "FailedMount",
            message: String::new(),
            at: at(995),
            count: 1,
        }),
        ..Observed::default()
    };
    let mut no_network = observed(vec![sandbox(0, true)]);
    no_network.ips.clear();
    check(vec![
        ("nothing there", one(), Observed::default(), &["setup 0"], None),
        ("set-up failed, wait", one(), failed, &[], Some(1005)),
        ("sandbox without a network", one(), no_network, &["setup 0"], None),
        ("sandbox is up", one(), observed(vec![sandbox(0, true)]), &["start a 0 0"], None),
        ("start under way", one(), busy, &[], None),
        ("running", one(), observed(vec![sandbox(0, true), container("a", 0, RUN)]), &[], None),
        (
            "all containers at once",
            with_policy("Always"),
            observed(vec![sandbox(0, true)]),
            &["start a 0 0", "start b 0 0"],
            None,
        ),
        (
            "left behind by an interrupted start",
            one(),
            observed(vec![sandbox(0, true), container("a", 0, State::Created)]),
            &["remove a-0"],
            None,
        ),
    ]);
}

#[test]
fn containers_that_ended_follow_the_restart_policy() {
    let both = |a: State, b: State| {
        observed(vec![sandbox(0, true), container("a", 0, a), container("b", 0, b)])
    };
    check(vec![
        (
            "always, success",
            with_policy("Always"),
            both(exited(0, 999), RUN),
            &["start a 1 1"],
            None,
        ),
        (
            "always, failure",
            with_policy("Always"),
            both(exited(1, 999), RUN),
            &["start a 1 1"],
            None,
        ),
        ("on failure, success", with_policy("OnFailure"), both(exited(0, 999), RUN), &[], None),
        (
            "on failure, failure",
            with_policy("OnFailure"),
            both(exited(3, 999), RUN),
            &["start a 1 1"],
            None,
        ),
        ("never", with_policy("Never"), both(exited(3, 999), RUN), &[], None),
        (
            "all succeeded",
            with_policy("OnFailure"),
            both(exited(0, 999), exited(0, 999)),
            &["release"],
            None,
        ),
        (
            "all ended, one failed",
            with_policy("Never"),
            both(exited(0, 999), exited(1, 999)),
            &["release"],
            None,
        ),
    ]);
}

#[test]
fn crashes_back_off_and_are_forgotten() {
    let crashed = |crashes: u32, ran: i64, finished: i64| {
        let state = State::Exited {
            exit_code: 1,
            oom_killed: false,
            error: String::new(),
            started: Some(at(finished - ran)),
            finished: at(finished),
        };
        let mut last = container("a", crashes, state);
        last.labels.insert(labels::CRASHES.into(), crashes.to_string());
        observed(vec![sandbox(0, true), last])
    };
    check(vec![
        ("first crash, at once", one(), crashed(0, 1, 999), &["start a 1 1"], None),
        ("second waits 10 s", one(), crashed(1, 1, 995), &[], Some(1005)),
        ("second after 10 s", one(), crashed(1, 1, 990), &["start a 2 2"], None),
        ("fourth waits 40 s", one(), crashed(3, 1, 995), &[], Some(1035)),
        ("tenth waits 5 min", one(), crashed(9, 1, 995), &[], Some(1295)),
        ("ten quiet minutes", one(), crashed(9, 600, 999), &["start a 10 1"], None),
        (
            "another image has not crashed",
            json!({"containers": [{"name": "a", "image": "other"}]}),
            crashed(9, 1, 999),
            &["start a 10 0"],
            None,
        ),
    ]);
}

#[test]
fn failed_tries_are_repeated_later() {
    let failed = |reason: &'static str, count: u32, second: i64| {
        let mut found = observed(vec![sandbox(0, true)]);
        let failure = Failure { reason, message: String::new(), at: at(second), count };
        found.failures.insert("a".into(), failure);
        found
    };
    check(vec![
        (
            "pull just failed: shown, then waiting",
            one(),
            failed("ErrImagePull", 1, 999),
            &[],
            Some(1002),
        ),
        ("pull failed: wait", one(), failed("ErrImagePull", 1, 995), &[], Some(1005)),
        ("pull failed: again", one(), failed("ErrImagePull", 1, 990), &["start a 0 0"], None),
        ("third pull failed: wait 40 s", one(), failed("ErrImagePull", 3, 990), &[], Some(1030)),
        (
            "config error never waits long",
            one(),
            failed("CreateContainerConfigError", 9, 990),
            &[],
            Some(1010),
        ),
        ("create error", one(), failed("CreateContainerError", 1, 999), &[], Some(1009)),
    ]);
}

#[test]
fn init_containers_run_in_order_before_the_others() {
    let spec =
        || json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let never = || json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}], "restartPolicy": "Never"});
    let with = |containers: Vec<crate::runtime::Container>| {
        observed(std::iter::once(sandbox(0, true)).chain(containers).collect())
    };
    check(vec![
        ("the first", spec(), with(vec![]), &["start i 0 0"], None),
        ("running", spec(), with(vec![container("i", 0, RUN)]), &[], None),
        (
            "the second",
            spec(),
            with(vec![container("i", 0, exited(0, 999))]),
            &["start j 0 0"],
            None,
        ),
        (
            "failed: again",
            spec(),
            with(vec![container("i", 0, exited(1, 999))]),
            &["start i 1 1"],
            None,
        ),
        (
            "failed for good",
            never(),
            with(vec![container("i", 0, exited(1, 999))]),
            &["release"],
            None,
        ),
        (
            "all done",
            spec(),
            with(vec![container("i", 0, exited(0, 998)), container("j", 0, exited(0, 999))]),
            &["start a 0 0"],
            None,
        ),
        (
            "not again once a main container ran",
            spec(),
            with(vec![container("a", 0, RUN)]),
            &[],
            None,
        ),
    ]);
}

#[test]
fn sidecars_run_beside_and_end_last() {
    let spec = || {
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}],
               "containers": [{"name": "a"}], "restartPolicy": "Never"})
    };
    let with = |containers: Vec<crate::runtime::Container>| {
        observed(std::iter::once(sandbox(0, true)).chain(containers).collect())
    };
    let mut not_started = with(vec![container("s", 0, RUN)]);
    not_started.health.insert("s-0".into(), Health { started: Some(false), ..Health::default() });
    let run = |name: &str| container(name, 0, RUN);
    check(vec![
        ("first", spec(), with(vec![]), &["start s 0 0"], None),
        ("its startup probe holds up the others", spec(), not_started, &[], None),
        ("then the second", spec(), with(vec![run("s")]), &["start t 0 0"], None),
        ("then the pod", spec(), with(vec![run("s"), run("t")]), &["start a 0 0"], None),
        (
            "a sidecar is restarted whatever the policy",
            spec(),
            with(vec![container("s", 0, exited(1, 999)), run("t"), run("a")]),
            &["start s 1 1"],
            None,
        ),
        (
            "the pod is done: the last sidecar goes first",
            spec(),
            with(vec![run("s"), run("t"), container("a", 0, exited(0, 999))]),
            &["stop t 30s"],
            None,
        ),
        (
            "then the first",
            spec(),
            with(vec![
                run("s"),
                container("t", 0, exited(0, 999)),
                container("a", 0, exited(0, 999)),
            ]),
            &["stop s 30s"],
            None,
        ),
    ]);
}

#[test]
fn a_lost_sandbox_is_made_anew_with_everything_in_it() {
    let never = || json!({"containers": [{"name": "a"}], "restartPolicy": "Never"});
    let moved = {
        let mut found = observed(vec![sandbox(1, true), container("a", 0, exited(137, 999))]);
        found.sandbox.as_mut().unwrap().number = 1;
        found
    };
    check(vec![
        (
            "what still runs in it is stopped",
            one(),
            observed(vec![sandbox(0, false), container("a", 0, RUN)]),
            &["stop a 30s"],
            None,
        ),
        (
            "then a new one",
            one(),
            observed(vec![sandbox(0, false), container("a", 0, exited(137, 999))]),
            &["setup 1"],
            None,
        ),
        ("its containers did not crash by themselves", one(), moved, &["start a 1 0"], None),
        (
            "not where nothing is restarted",
            never(),
            observed(vec![sandbox(0, false), container("a", 0, exited(137, 999))]),
            &["release"],
            None,
        ),
        (
            "the sandbox was removed by hand",
            one(),
            observed(vec![container("a", 0, exited(137, 999))]),
            &["setup 1"],
            None,
        ),
    ]);
}

#[test]
fn condemned_and_changed_containers_are_stopped_and_replaced() {
    let condemned = |grace_seconds| {
        let mut found = observed(vec![sandbox(0, true), container("a", 0, RUN)]);
        let condemned = Some(Condemned { message: "m".into(), grace_seconds });
        found.health.insert("a-0".into(), Health { condemned, ..Health::default() });
        found
    };
    let never = || json!({"containers": [{"name": "a", "image": "new"}], "restartPolicy": "Never"});
    check(vec![
        ("a probe failed", one(), condemned(None), &["stop a 30s"], None),
        ("the probe has its own grace", one(), condemned(Some(3)), &["stop a 3s"], None),
        (
            "the image changed",
            never(),
            observed(vec![sandbox(0, true), container("a", 0, RUN)]),
            &["stop a 30s"],
            None,
        ),
        (
            "and starts again whatever the policy",
            never(),
            observed(vec![sandbox(0, true), container("a", 0, exited(0, 999))]),
            &["start a 1 0"],
            None,
        ),
    ]);
}

#[test]
fn only_the_last_two_attempts_are_kept() {
    let all = vec![
        sandbox(0, true),
        container("a", 0, exited(1, 900)),
        container("a", 1, exited(1, 950)),
        container("a", 2, RUN),
    ];
    check(vec![("the oldest goes", one(), observed(all), &["remove a-0"], None)]);
}

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

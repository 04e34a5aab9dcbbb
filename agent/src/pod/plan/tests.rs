//! Plans of pods that are to run.

mod end;

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

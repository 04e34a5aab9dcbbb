//! Statuses of pods, by what their containers are.

use serde_json::{Value, json};

use super::*;
use crate::pod::model::{Condemned, Health, Work, spec_hash};
use crate::pod::testing::{at, container, pod, sandbox};

const RUN: State = State::Running { pid: 1, started: Timestamp::UNIX_EPOCH };

fn exited(code: i32, oom_killed: bool) -> State {
    State::Exited {
        exit_code: code,
        oom_killed,
        error: String::new(),
        started: Some(at(900)),
        finished: at(999),
    }
}

fn observed(containers: Vec<crate::runtime::Container>) -> Observed {
    let mut observed = Observed::new(std::iter::once(sandbox(0, true)).chain(containers));
    observed.ips = vec![IpAddr::from([10, 244, 0, 2])];
    observed
}

fn status(spec: Value, observed: &Observed) -> Value {
    serde_json::to_value(compute(&pod(spec), observed, &[IpAddr::from([192, 0, 2, 1])], at(1000)))
        .unwrap()
}

/// `phase`, then the conditions that are true, by their initials.
fn summary(status: &Value) -> String {
    let held = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|condition| condition["status"] == "True");
    let held: Vec<_> = held.map(|condition| condition["type"].as_str().unwrap()).collect();
    format!("{} {}", status["phase"].as_str().unwrap(), held.join(","))
}

#[test]
fn phases_and_conditions_follow_the_containers() {
    let one = || json!({"containers": [{"name": "a"}]});
    let never = || json!({"containers": [{"name": "a"}, {"name": "b"}], "restartPolicy": "Never"});
    let init = || json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let gated =
        || json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}]});
    let unready = {
        let mut found = observed(vec![container("a", 0, RUN)]);
        found.health.insert("a-0".into(), Health { ready: Some(false), ..Health::default() });
        found
    };
    let all = "PodReadyToStartContainers,Initialized,Ready,ContainersReady,PodScheduled";
    let cases = [
        ("nothing yet", one(), Observed::default(), "Pending Initialized,PodScheduled".to_owned()),
        (
            "sandbox",
            one(),
            observed(vec![]),
            "Pending PodReadyToStartContainers,Initialized,PodScheduled".into(),
        ),
        ("running", one(), observed(vec![container("a", 0, RUN)]), format!("Running {all}")),
        (
            "not ready",
            one(),
            unready,
            "Running PodReadyToStartContainers,Initialized,PodScheduled".into(),
        ),
        (
            "initializing",
            init(),
            observed(vec![container("i", 0, RUN)]),
            "Pending PodReadyToStartContainers,PodScheduled".into(),
        ),
        (
            "initialized",
            init(),
            observed(vec![container("i", 0, exited(0, false)), container("a", 0, RUN)]),
            format!("Running {all}"),
        ),
        (
            "one of two ended",
            never(),
            observed(vec![container("a", 0, exited(1, false)), container("b", 0, RUN)]),
            "Running PodReadyToStartContainers,Initialized,PodScheduled".into(),
        ),
        (
            "succeeded",
            never(),
            observed(vec![
                container("a", 0, exited(0, false)),
                container("b", 0, exited(0, false)),
            ]),
            "Succeeded PodReadyToStartContainers,Initialized,PodScheduled".into(),
        ),
        (
            "failed",
            never(),
            observed(vec![
                container("a", 0, exited(1, false)),
                container("b", 0, exited(0, false)),
            ]),
            "Failed PodReadyToStartContainers,Initialized,PodScheduled".into(),
        ),
        (
            "a gate is closed",
            gated(),
            observed(vec![container("a", 0, RUN)]),
            "Running PodReadyToStartContainers,Initialized,ContainersReady,PodScheduled".into(),
        ),
        (
            "crashing",
            one(),
            observed(vec![container("a", 0, exited(1, false))]),
            "Running PodReadyToStartContainers,Initialized,PodScheduled".into(),
        ),
    ];
    for (name, spec, observed, expected) in cases {
        assert_eq!(summary(&status(spec, &observed)), expected, "{name}");
    }
}

#[test]
fn containers_say_why_they_do_not_run() {
    let one = || json!({"containers": [{"name": "a", "image": "img"}]});
    let hash = spec_hash(&spec(&pod(one())).containers[0]);
    let failed = |reason: &'static str, second: i64| {
        let mut found = observed(vec![]);
        found
            .failures
            .insert("a".into(), Failure { reason, message: "m".into(), at: at(second), count: 1 });
        found
    };
    let crashed = |crashes: u32, state: State| {
        let mut last = container("a", crashes, state);
        last.labels.insert(labels::CRASHES.into(), crashes.to_string());
        last.labels.insert(labels::SPEC_HASH.into(), hash.clone());
        observed(vec![last])
    };
    let start_error = State::Exited {
        exit_code: 127,
        oom_killed: false,
        error: "no such file".into(),
        started: None,
        finished: at(999),
    };
    let mut starting = crashed(1, exited(1, false));
    starting.busy.insert("a".into(), Work::Starting);
    let cases = [
        ("creating", observed(vec![]), "/waiting/reason", "ContainerCreating"),
        ("pull failed", failed("ErrImagePull", 999), "/waiting/reason", "ErrImagePull"),
        ("pull waits", failed("ErrImagePull", 990), "/waiting/reason", "ImagePullBackOff"),
        (
            "pull waits",
            failed("ErrImagePull", 990),
            "/waiting/message",
            "Back-off pulling image \"img\": ErrImagePull: m",
        ),
        (
            "config",
            failed("CreateContainerConfigError", 990),
            "/waiting/reason",
            "CreateContainerConfigError",
        ),
        ("crash loop", crashed(2, exited(1, false)), "/waiting/reason", "CrashLoopBackOff"),
        (
            "crash loop",
            crashed(2, exited(1, false)),
            "/waiting/message",
            "back-off 20s restarting failed container=a pod=p_ns(u)",
        ),
        ("being restarted", starting, "/terminated/reason", "Error"),
        ("cannot start", crashed(1, start_error.clone()), "/waiting/reason", "RunContainerError"),
        ("cannot start", crashed(1, start_error), "/waiting/message", "no such file"),
        (
            "first crash restarts at once",
            crashed(0, exited(0, false)),
            "/terminated/reason",
            "Completed",
        ),
        ("killed for memory", crashed(0, exited(137, true)), "/terminated/reason", "OOMKilled"),
    ];
    for (name, observed, path, expected) in cases {
        let status = status(one(), &observed);
        let state = &status["containerStatuses"][0]["state"];
        assert_eq!(state.pointer(path).and_then(Value::as_str), Some(expected), "{name}: {state}");
    }
}

#[test]
fn the_last_state_and_the_count_survive_a_restart() {
    let mut found = observed(vec![container("a", 3, exited(2, false)), container("a", 4, RUN)]);
    found.containers.get_mut("a").unwrap()[0].message = "bye".into();
    let last = &mut found.containers.get_mut("a").unwrap()[1].container;
    last.labels.insert(labels::IMAGE.into(), "h/a@sha256:d".into());
    let status = status(json!({"containers": [{"name": "a"}]}), &found);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["restartCount"], 4);
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 2);
    assert_eq!(container["lastState"]["terminated"]["message"], "bye");
    assert_eq!(container["containerID"], "docker://a-4");
    assert_eq!(container["imageID"], "h/a@sha256:d", "as it was labelled");
    assert_eq!(container["ready"], true);
    assert_eq!(status["podIPs"], json!([{"ip": "10.244.0.2"}]));
    assert_eq!(status["hostIP"], "192.0.2.1");
}

#[test]
fn transition_times_move_only_with_the_condition() {
    let spec = json!({"containers": [{"name": "a"}]});
    let mut pod = pod(spec);
    let ips = [IpAddr::from([192, 0, 2, 1])];
    let first = compute(&pod, &observed(vec![]), &ips, at(1000));
    pod.status = Some(first.clone());
    let second = compute(&pod, &observed(vec![container("a", 0, RUN)]), &ips, at(1010));
    let time = |status: &PodStatus, kind: &str| {
        let all = status.conditions.iter().flatten();
        all.clone()
            .find(|condition| condition.type_ == kind)
            .unwrap()
            .last_transition_time
            .clone()
            .unwrap()
            .0
    };
    assert_eq!(time(&second, "Initialized"), at(1000));
    assert_eq!(time(&second, "Ready"), at(1010));
    assert_eq!(second.start_time, first.start_time);
    pod.status = Some(second.clone());
    assert_eq!(
        compute(&pod, &observed(vec![container("a", 0, RUN)]), &ips, at(1020)),
        second,
        "nothing changed"
    );
}

#[test]
fn a_deleted_pod_ends_as_its_containers_did() {
    let cases = [(exited(0, false), "Succeeded"), (exited(137, false), "Failed"), (RUN, "Running")];
    for (state, expected) in cases {
        let mut pod = pod(json!({"containers": [{"name": "a"}]}));
        pod.metadata.deletion_timestamp = Some(Time(at(1030)));
        let found = compute(&pod, &observed(vec![container("a", 0, state.clone())]), &[], at(1000));
        assert_eq!(found.phase.as_deref(), Some(expected), "{state:?}");
    }
    let mut stopped = observed(vec![container("a", 0, exited(0, false))]);
    stopped.busy.insert("a".into(), Work::Stopping(at(1030)));
    let mut last = pod(json!({"containers": [{"name": "a"}]}));
    last.metadata.deletion_timestamp = Some(Time(at(1030)));
    let phase = compute(&last, &stopped, &[], at(1000)).phase;
    assert_eq!(phase.as_deref(), Some("Succeeded"), "together with the end of its container");
    let mut never_ran = pod(json!({"containers": [{"name": "a"}]}));
    never_ran.metadata.deletion_timestamp = Some(Time(at(1030)));
    let mut found = Observed::default();
    found.busy.insert(labels::SANDBOX.into(), Work::Starting);
    let phase = |found: &Observed| compute(&never_ran, found, &[], at(1000)).phase;
    assert_eq!(phase(&found).as_deref(), Some("Pending"), "its start is still under way");
    found.busy.clear();
    assert_eq!(phase(&found).as_deref(), Some("Failed"));
}

#[test]
fn nothing_of_an_ended_pod_waits() {
    let spec = json!({
        "initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}, {"name": "b"}],
    });
    let states = |found: Observed| {
        let mut deleted = pod(spec.clone());
        deleted.metadata.deletion_timestamp = Some(Time(at(1030)));
        let status = compute(&deleted, &found, &[], at(1000));
        assert_eq!(status.phase.as_deref(), Some("Failed"));
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let said = all.map(|one| match one.state.clone().unwrap() {
            ContainerState { terminated: Some(end), .. } => {
                format!("{} {}", end.reason.unwrap(), end.exit_code)
            }
            state => state.waiting.unwrap().reason.unwrap(),
        });
        said.collect::<Vec<_>>().join(", ")
    };
    let unknown = "ContainerStatusUnknown 137";
    let good = |name| container(name, 0, exited(0, false));
    let cases = [
        (
            "nothing began",
            observed(vec![]),
            format!("{unknown}, PodInitializing, PodInitializing, PodInitializing"),
        ),
        (
            "the second init container did not begin",
            observed(vec![good("i")]),
            format!("Completed 0, {unknown}, PodInitializing, PodInitializing"),
        ),
        (
            "its image did not come",
            observed(vec![good("i"), good("j"), good("a")]),
            format!("Completed 0, Completed 0, Completed 0, {unknown}"),
        ),
    ];
    for (name, found, expected) in cases {
        assert_eq!(states(found), expected, "{name}");
    }
}

#[test]
fn what_all_containers_say_at_their_end_fits_into_a_status() {
    let names: Vec<String> = (0..6).map(|index| format!("c{index}")).collect();
    let spec =
        json!({"containers": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
    let mut found =
        observed(names.iter().map(|name| container(name, 0, exited(1, false))).collect());
    for attempts in found.containers.values_mut() {
        attempts[0].message = format!("x{}", "ü".repeat(2000));
    }
    let status = status(spec, &found);
    let said = status["containerStatuses"].as_array().unwrap().iter();
    let said: Vec<_> = said
        .map(|one| {
            ["state", "lastState"]
                .map(|state| one[state]["terminated"]["message"].as_str().unwrap_or_default().len())
        })
        .collect();
    assert!(said.iter().all(|lengths| lengths.iter().sum::<usize>() == 2047), "{said:?}");
}

#[test]
fn a_volume_without_its_image_shows_at_the_containers() {
    let mut found = Observed::default();
    let failed = |reason| Failure { reason, message: "why".into(), at: at(999), count: 1 };
    let shown = |found: &Observed, now: i64| {
        let spec = json!({"containers": [{"name": "a", "image": "img"}]});
        let status = compute(&pod(spec), found, &[], at(now));
        let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
        (waiting.reason.unwrap(), waiting.message.unwrap_or_default())
    };
    found.setup_failure = Some(failed("FailedMount"));
    assert_eq!(shown(&found, 1000).0, "ContainerCreating");
    found.setup_failure = Some(failed("ErrImagePull"));
    assert_eq!(shown(&found, 1000), ("ErrImagePull".into(), "why".into()));
    let waits = "Back-off pulling the image of a volume: ErrImagePull: why";
    assert_eq!(shown(&found, 1005), ("ImagePullBackOff".into(), waits.into()));
}

#[test]
fn how_containers_ended_outlives_them() {
    let spec = || json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}], "restartPolicy": "Never"});
    let both =
        || observed(vec![container("i", 0, exited(0, false)), container("a", 0, exited(3, false))]);
    let whole = compute(&pod(spec()), &both(), &[], at(1000));
    assert_eq!(whole.phase.as_deref(), Some("Failed"));
    let mut known = pod(spec());
    known.status = Some(whole.clone());
    // Somebody tidied up.
    let left = compute(&known, &Observed::default(), &[], at(2000));
    assert_eq!(left.container_statuses, whole.container_statuses);
    assert_eq!(left.init_container_statuses, whole.init_container_statuses);
    let running = || observed(vec![container("a", 0, RUN)]);
    known.status.as_mut().unwrap().phase = Some("Running".into());
    let beside = compute(&known, &running(), &[], at(2000));
    assert_eq!(beside.init_container_statuses, whole.init_container_statuses);
    assert!(beside.container_statuses.unwrap()[0].state.as_ref().unwrap().running.is_some());
}

#[test]
fn an_eviction_is_told_by_a_condition_first_and_survives_the_agent() {
    let spec = || json!({"containers": [{"name": "a"}]});
    let evicted = |state| {
        let found = observed(vec![container("a", 0, state)]);
        Observed { disruption: Some(Disruption::from_condition("why")), ..found }
    };
    let told = |found: &Observed| {
        let status = compute(&pod(spec()), found, &[], at(1000));
        let mut pod = pod(spec());
        let (phase, reason) = (status.phase.clone().unwrap(), status.reason.clone());
        pod.status = Some(status);
        (phase, reason, disruption_of(&pod))
    };
    let why = || Some(Disruption::from_condition("why"));
    assert_eq!(told(&evicted(RUN)), ("Running".into(), None, why()));
    assert_eq!(
        told(&evicted(exited(143, false))),
        ("Failed".into(), Some("Evicted".into()), why())
    );
    assert_eq!(told(&observed(vec![container("a", 0, RUN)])), ("Running".into(), None, None));
    // Until when it had is not known to another agent.
    let until = Some(at(2000));
    let shut_down = Observed {
        disruption: Some(Disruption::Shutdown { until }),
        ..observed(vec![container("a", 0, exited(0, false))])
    };
    let found = Some(Disruption::Shutdown { until: None });
    assert_eq!(told(&shut_down), ("Failed".into(), Some("Terminated".into()), found));
}

#[test]
fn who_was_killed_to_be_started_again_does_not_show_as_ended() {
    let spec = || json!({"containers": [{"name": "a"}]});
    let mut found = observed(vec![container("a", 0, exited(137, false))]);
    let state = |found: &Observed| status(spec(), found)["containerStatuses"][0]["state"].clone();
    assert_eq!(state(&found)["terminated"]["exitCode"], 137, "a crash shows");
    let condemned = Some(Condemned { message: "why".into(), grace_seconds: None });
    let id = found.latest("a").unwrap().id().to_owned();
    found.health.insert(id, Health { condemned, ..Health::default() });
    assert_eq!(state(&found)["waiting"]["reason"], "ContainerCreating");
    let mut last = pod(spec());
    last.metadata.deletion_timestamp = Some(Time(at(1030)));
    let ended = compute(&last, &found, &[], at(1000)).container_statuses.unwrap();
    assert!(ended[0].state.as_ref().unwrap().terminated.is_some(), "nobody starts it again");
}

//! Tables, and the way of a pod through the books.

use super::*;
use crate::testing;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn job(completions: Option<i32>, parallelism: i32) -> Job {
    Job {
        metadata: testing::meta("sum"),
        spec: Some(JobSpec {
            completions,
            parallelism: Some(parallelism),
            backoff_limit: Some(1),
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn pod(name: &str, phase: &str) -> Pod {
    let mut pod = testing::ready_pod(name, at(0));
    pod.metadata.finalizers = Some(vec![TRACKING.into()]);
    pod.metadata.creation_timestamp = Some(meta::time(at(10)));
    pod.status.as_mut().unwrap().phase = Some(phase.into());
    pod
}

fn arcs(pods: Vec<Pod>) -> Vec<Arc<Pod>> {
    pods.into_iter().map(Arc::new).collect()
}

#[test]
fn pods_are_made_as_far_as_they_are_needed() {
    let cases = [
        ("start", job(Some(3), 2), vec![], 100, 2),
        ("one runs", job(Some(3), 2), vec![pod("a", "Running")], 100, 1),
        (
            "the last one",
            job(Some(3), 2),
            vec![pod("a", "Succeeded"), pod("b", "Succeeded")],
            100,
            1,
        ),
        ("just failed", job(Some(3), 2), vec![pod("a", "Failed")], 15, 0),
        ("failed long ago", job(Some(3), 2), vec![pod("a", "Failed")], 100, 2),
        ("failed too often", job(Some(3), 2), vec![pod("a", "Failed"), pod("b", "Failed")], 100, 0),
        ("work queue", job(None, 2), vec![], 100, 2),
        (
            "work queue runs dry",
            job(None, 2),
            vec![pod("a", "Succeeded"), pod("b", "Running")],
            100,
            0,
        ),
    ];
    for (name, job, observed, second, expected) in cases {
        let plan = plan(&job, &arcs(observed), at(second));
        assert_eq!(plan.create.len(), expected, "{name}");
    }
}

#[test]
fn a_pod_is_counted_once_whatever_happens_between() {
    let mut job = job(Some(1), 1);
    let pods = arcs(vec![pod("a", "Succeeded")]);
    let first = plan(&job, &pods, at(100));
    assert_eq!(uncounted(&first.status), (1, 0));
    assert!(first.untrack.is_empty(), "not before the books are written");
    assert!(!is_finished(&first.status));
    assert!(first.create.is_empty());

    job.status = Some(first.status);
    let second = plan(&job, &pods, at(101));
    assert_eq!(second.untrack.len(), 1);
    assert_eq!(second.status.succeeded, None);

    let mut free = pod("a", "Succeeded");
    free.metadata.finalizers = None;
    job.status = Some(second.status);
    let third = plan(&job, &arcs(vec![free.clone()]), at(102));
    assert_eq!((third.status.succeeded, uncounted(&third.status)), (Some(1), (0, 0)));
    assert!(is_finished(&third.status));
    assert_eq!(third.status.completion_time, Some(meta::time(at(102))));

    job.status = Some(third.status.clone());
    let fourth = plan(&job, &arcs(vec![free]), at(103));
    assert_eq!(fourth.status, third.status, "nothing is written twice");
}

#[test]
fn indexes_are_done_once_each() {
    let mut job = job(Some(4), 4);
    job.spec.as_mut().unwrap().completion_mode = Some("Indexed".into());
    job.status = Some(JobStatus {
        completed_indexes: Some("0,2".into()),
        succeeded: Some(2),
        ..JobStatus::default()
    });
    let mut running = pod("a", "Running");
    running.metadata.annotations = testing::labels(&[(INDEX, "1")]);
    let plan = plan(&job, &arcs(vec![running]), at(100));
    assert_eq!(plan.create, [Some(3)]);
}

#[test]
fn index_lists_are_short() {
    for text in ["", "0", "0,1", "0-2", "1,3-5,7,8,10-12"] {
        assert_eq!(format_indexes(&parse_indexes(text)), text);
    }
}

#[test]
fn a_finished_job_goes_after_its_time() {
    let mut job = job(Some(1), 1);
    job.spec.as_mut().unwrap().ttl_seconds_after_finished = Some(30);
    let mut status = JobStatus { succeeded: Some(1), ..JobStatus::default() };
    finish(&mut status, "Complete", "CompletionsReached", "done", at(100));
    job.status = Some(status);
    assert_eq!(plan(&job, &[], at(110)).next, Some(Duration::from_secs(20)));
    assert_eq!(plan(&job, &[], at(200)).next, Some(Duration::ZERO));
}

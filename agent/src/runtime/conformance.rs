//! What every runtime does the same, checked on the twin and on Docker.
//!
//! The Docker half builds its image from the sandbox's own program, touches
//! only containers with a label of this run, and says so when it is skipped
//! because no Docker answers.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;

use super::docker::Docker;
use super::memory::Memory;
use super::*;

const IMAGE: &str = "skiff/conformance:1";

/// One run: a runtime and the label of its containers.
struct Fixture {
    runtime: Box<dyn Runtime>,
    labels: BTreeMap<String, String>,
    run: String,
}

impl Fixture {
    async fn memory() -> Self {
        Self::new(Box::new(Memory::new())).await
    }

    async fn docker() -> Option<Self> {
        let docker = Docker::new("/var/run/docker.sock");
        match docker.version().await {
            Ok(_) => Some(Self::new(Box::new(docker)).await),
            Err(error) => {
                eprintln!("skipped: no Docker answers at /var/run/docker.sock: {error}");
                None
            }
        }
    }

    async fn new(runtime: Box<dyn Runtime>) -> Self {
        sandbox_image::ensure(runtime.as_ref()).await.unwrap();
        let run = format!("{:x}", Timestamp::now().as_nanosecond());
        let labels = labels::of_node(&format!("test-{run}"), "conformance");
        Self { runtime, labels, run }
    }

    fn spec(&self, name: &str) -> ContainerSpec {
        ContainerSpec {
            name: format!("skiff-conformance-{}-{name}", self.run),
            labels: self.labels.clone(),
            image: sandbox_image::name(),
            network: "none".into(),
            env: vec!["A=b".into()],
            ..ContainerSpec::default()
        }
    }

    async fn clean(&self) {
        for container in self.runtime.list(&self.labels).await.unwrap() {
            self.runtime.remove(&container.id).await.unwrap();
        }
    }
}

async fn next(events: &mut BoxStream<'static, Result<Event>>) -> Event {
    let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
    event.expect("an event in time").expect("a stream that goes on").unwrap()
}

/// The life of a container, seen by calls and by events.
async fn life(fixture: &Fixture) {
    let runtime = fixture.runtime.as_ref();
    let mut events = runtime.events(&fixture.labels).await.unwrap();
    let limits = Limits { cpu_quota_us: Some(50_000), pids: Some(7), ..Limits::default() };
    let spec = ContainerSpec { limits: limits.clone(), ..fixture.spec("a") };
    let id = runtime.create(&spec).await.unwrap();
    let created = runtime.inspect(&id).await.unwrap();
    assert_eq!((&created.state, created.is_running()), (&State::Created, false));
    assert_eq!(created.label(labels::NODE), "conformance");
    assert!(!created.image_id.is_empty());

    runtime.start(&id).await.unwrap();
    runtime.start(&id).await.expect("starting twice is fine");
    assert_eq!(next(&mut events).await.kind, EventKind::Started);
    let running = runtime.inspect(&created.name).await.expect("also found by name");
    assert!(matches!(running.state, State::Running { pid, .. } if pid > 0), "{:?}", running.state);
    assert_eq!(runtime.list(&fixture.labels).await.unwrap().len(), 1);
    assert!(runtime.stats(&id).await.unwrap().processes > 0);
    let used = runtime.disk_use(&id).await.unwrap();
    assert!(used.layer_bytes + used.log_bytes < 1 << 20, "it wrote nothing: {used:?}");

    assert_eq!(running.limits, limits);
    runtime.lift_cpu_limit(&id).await.unwrap();
    let left = Limits { cpu_quota_us: None, ..limits };
    assert_eq!(runtime.inspect(&id).await.unwrap().limits, left);
    runtime.lift_cpu_limit(&id).await.expect("what has no limit keeps none");

    runtime.stop(&id, Duration::from_secs(10)).await.unwrap();
    runtime.stop(&id, Duration::from_secs(10)).await.expect("stopping twice is fine");
    let died = next(&mut events).await;
    assert_eq!((died.kind, died.id.as_str()), (EventKind::Died, id.as_str()));
    assert_eq!(died.labels.get(labels::NODE).map(String::as_str), Some("conformance"));
    let State::Exited { started: Some(started), finished, .. } =
        runtime.inspect(&id).await.unwrap().state
    else {
        panic!("it has ended");
    };
    assert!(started <= finished);

    runtime.kill(&id, "SIGTERM").await.expect("killing what does not run is fine");
    runtime.remove(&id).await.unwrap();
    runtime.remove(&id).await.expect("removing twice is fine");
    assert_eq!(next(&mut events).await.kind, EventKind::Removed);
    assert!(matches!(runtime.inspect(&id).await, Err(RuntimeError::NotFound(_))));
    assert!(runtime.list(&fixture.labels).await.unwrap().is_empty());
}

/// A container that is killed without a word has ended by it.
async fn killed_now(fixture: &Fixture) {
    let runtime = fixture.runtime.as_ref();
    let mut events = runtime.events(&fixture.labels).await.unwrap();
    let id = runtime.create(&fixture.spec("h")).await.unwrap();
    let created = runtime.inspect(&id).await.unwrap();
    runtime.kill_now(&created).await;
    runtime.start(&id).await.unwrap();
    assert_eq!(next(&mut events).await.kind, EventKind::Started);
    let running = runtime.inspect(&id).await.unwrap();
    runtime.kill_now(&running).await;
    assert_eq!(next(&mut events).await.kind, EventKind::Died);
    let ended = runtime.inspect(&id).await.unwrap();
    assert!(matches!(ended.state, State::Exited { exit_code: 137, .. }), "{:?}", ended.state);
    runtime.kill_now(&running).await;
    runtime.remove(&id).await.unwrap();
    runtime.kill_now(&running).await;
}

/// What is refused, and how.
async fn refusals(fixture: &Fixture) {
    let runtime = fixture.runtime.as_ref();
    let id = runtime.create(&fixture.spec("b")).await.unwrap();
    assert!(
        matches!(runtime.create(&fixture.spec("b")).await, Err(RuntimeError::Conflict(_))),
        "the name is taken"
    );
    let unknown = ContainerSpec { image: "skiff/none:1".into(), ..fixture.spec("c") };
    assert!(
        matches!(runtime.create(&unknown).await, Err(RuntimeError::NotFound(_))),
        "no such image"
    );
    let command =
        ExecOptions { command: vec!["true".into()], stdout: true, ..ExecOptions::default() };
    assert!(
        matches!(runtime.exec(&id, &command).await, Err(RuntimeError::Conflict(_))),
        "it does not run"
    );
    assert!(matches!(runtime.disk_use("none").await, Err(RuntimeError::NotFound(_))));
    assert!(matches!(runtime.lift_cpu_limit("none").await, Err(RuntimeError::NotFound(_))));
    assert!(matches!(runtime.start("none").await, Err(RuntimeError::NotFound(_))));
    runtime.stop("none", Duration::ZERO).await.expect("what is not there is stopped");
    fixture.clean().await;
}

/// Images are found by name, loaded, saved and removed, unless in use.
async fn images(fixture: &Fixture) {
    let runtime = fixture.runtime.as_ref();
    assert_eq!(runtime.image("skiff/none:1").await.unwrap(), None);
    runtime.load(sandbox_image::image_tar(IMAGE, b"not a program").unwrap()).await.unwrap();
    let image = runtime.image(IMAGE).await.unwrap().expect("it was loaded");
    assert!(image.has_command && image.tags.iter().any(|tag| tag == IMAGE), "{image:?}");
    assert!(runtime.image(&image.id).await.unwrap().is_some(), "also found by id");
    assert!(runtime.images().await.unwrap().iter().any(|known| known.id == image.id));
    let tar: Vec<_> = runtime.save(IMAGE).await.unwrap().collect().await;
    runtime.remove_image(IMAGE).await.unwrap();
    runtime.remove_image(IMAGE).await.expect("removing twice is fine");
    let names = runtime.load_stream(Box::pin(futures::stream::iter(tar))).await.unwrap();
    assert_eq!(names, [IMAGE], "what was saved can be loaded");
    let id = runtime.create(&ContainerSpec { image: IMAGE.into(), ..fixture.spec("user") }).await;
    let used = runtime.remove_image(IMAGE).await;
    assert!(matches!(used, Err(RuntimeError::Conflict(_))), "{used:?}");
    runtime.remove(&id.unwrap()).await.unwrap();
    runtime.remove_image(IMAGE).await.unwrap();
    let broken = runtime.load(Bytes::from_static(b"no tar")).await;
    assert!(broken.is_err(), "{broken:?}");
    assert_eq!(runtime.image(IMAGE).await.unwrap(), None);
}

/// Who a container runs as, told or not.
async fn users(fixture: &Fixture) {
    let runtime = fixture.runtime.as_ref();
    let told = User { uid: 7, gid: 8, groups: vec![8, 9] };
    let root = User { uid: 0, gid: 0, groups: vec![0] };
    for (name, user, groups, expected) in
        [("e", Some("7:8"), vec![9], told), ("f", None, vec![], root)]
    {
        let spec = ContainerSpec { user: user.map(str::to_owned), groups, ..fixture.spec(name) };
        let id = runtime.create(&spec).await.unwrap();
        assert_eq!(runtime.file(&id, "/none").await.unwrap(), None);
        runtime.start(&id).await.unwrap();
        let found = runtime.inspect(&id).await.unwrap();
        assert_eq!(runtime.user(&found).await, Some(expected), "{user:?}");
    }
    fixture.clean().await;
}

#[tokio::test]
async fn the_twin_keeps_the_contract() {
    let fixture = Fixture::memory().await;
    life(&fixture).await;
    killed_now(&fixture).await;
    users(&fixture).await;
    refusals(&fixture).await;
    images(&fixture).await;
}

#[tokio::test]
async fn docker_keeps_the_contract() {
    let Some(fixture) = Fixture::docker().await else { return };
    life(&fixture).await;
    killed_now(&fixture).await;
    users(&fixture).await;
    reads_files(&fixture).await;
    refusals(&fixture).await;
    images(&fixture).await;
    cannot_start(&fixture).await;
    fixture.clean().await;
}

/// A file of a container that was never started.
async fn reads_files(fixture: &Fixture) {
    let runtime = fixture.runtime.as_ref();
    let id = runtime.create(&fixture.spec("g")).await.unwrap();
    let program = runtime.file(&id, sandbox_image::PAUSE_PATH).await.unwrap();
    assert!(program.is_some_and(|bytes| bytes.starts_with(b"\x7fELF")));
    assert_eq!(runtime.file(&id, "/").await.unwrap(), None, "a folder is no file");
    fixture.clean().await;
}

/// A program that is not there: the start fails and the container says why.
async fn cannot_start(fixture: &Fixture) {
    let runtime = fixture.runtime.as_ref();
    let spec = ContainerSpec { entrypoint: vec!["/none".into()], ..fixture.spec("d") };
    let id = runtime.create(&spec).await.unwrap();
    let error = runtime.start(&id).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused(_)), "{error:?}");
    let State::Exited { started: None, exit_code: 127, error, .. } =
        runtime.inspect(&id).await.unwrap().state
    else {
        panic!("it never started");
    };
    assert!(error.contains("/none"), "{error}");
    runtime.remove(&id).await.unwrap();
}

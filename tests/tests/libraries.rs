//! Other people's client libraries, unmodified: kube's runtime and the
//! official Python client.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use skiff_tests::{Lab, Master, repository, run, step};
use tokio::sync::mpsc;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

/// The version that the script is written for.
const PYTHON_CLIENT: &str = "kubernetes==37.0.2";

async fn client(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn map(name: &str) -> ConfigMap {
    let labels = BTreeMap::from([("lib".to_owned(), "yes".to_owned())]);
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn kube_watches_lists_first_or_streams() {
    let master = Master::up();
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&master.kubeconfig()).await);
    let selected = watcher::Config::default().labels("lib=yes");
    for (name, config) in [("listed", selected.clone()), ("streamed", selected.streaming_lists())] {
        maps.create(&PostParams::default(), &map(name)).await.unwrap();
        let mut events = pin!(watcher(maps.clone(), config));
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some("deleted") {
            let event = timeout(LIMIT, events.try_next()).await.unwrap().unwrap().unwrap();
            seen.push(match event {
                watcher::Event::Init => "init".to_owned(),
                watcher::Event::InitApply(map) => format!("init {}", map.name_any()),
                watcher::Event::InitDone => {
                    let patch = Patch::Merge(json!({"data": {"a": "b"}}));
                    maps.patch(name, &PatchParams::default(), &patch).await.unwrap();
                    "ready".to_owned()
                }
                watcher::Event::Apply(map) => {
                    assert_eq!(map.data.unwrap()["a"], "b");
                    maps.delete(name, &DeleteParams::default()).await.unwrap();
                    "changed".to_owned()
                }
                watcher::Event::Delete(_) => "deleted".to_owned(),
            });
        }
        let first = format!("init {name}");
        assert_eq!(seen, ["init", first.as_str(), "ready", "changed", "deleted"]);
    }
}

#[tokio::test]
async fn kube_reflects_what_is_there() {
    let master = Master::up();
    let namespaces: Api<Namespace> = Api::all(client(&master.kubeconfig()).await);
    let (reader, writer) = reflector::store();
    let changes =
        watcher(namespaces.clone(), watcher::Config::default()).reflect(writer).applied_objects();
    let following = tokio::spawn(changes.for_each(|_| std::future::ready(())));
    timeout(LIMIT, reader.wait_until_ready()).await.unwrap().unwrap();
    let listed = namespaces.list(&ListParams::default()).await.unwrap();
    assert_eq!(reader.len(), listed.items.len());
    assert!(reader.get(&reflector::ObjectRef::new("kube-system")).is_some());
    following.abort();
}

/// What a controller did, told to the test.
struct Context {
    maps: Api<ConfigMap>,
    told: mpsc::UnboundedSender<String>,
}

async fn reconcile(
    map: Arc<ConfigMap>,
    context: Arc<Context>,
) -> Result<Action, kube::runtime::finalizer::Error<kube::Error>> {
    finalizer(&context.maps, "example.com/tests", map, |event| async {
        // The test may have seen enough.
        let _ = context.told.send(match event {
            Finalizer::Apply(map) => format!("apply {}", map.name_any()),
            Finalizer::Cleanup(map) => format!("cleanup {}", map.name_any()),
        });
        Ok::<_, kube::Error>(Action::await_change())
    })
    .await
}

#[tokio::test]
async fn kube_controllers_hold_and_release() {
    let master = Master::up();
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&master.kubeconfig()).await);
    let (told, mut heard) = mpsc::unbounded_channel();
    let context = Arc::new(Context { maps: maps.clone(), told });
    let controller = Controller::new(maps.clone(), watcher::Config::default().labels("lib=yes"));
    let retry = |_: Arc<ConfigMap>, _: &_, _: Arc<Context>| Action::requeue(Duration::from_secs(1));
    let running = controller.run(reconcile, retry, context);
    let running = tokio::spawn(running.for_each(|_| std::future::ready(())));

    let hear = async |heard: &mut mpsc::UnboundedReceiver<String>, wanted: &str| {
        while timeout(LIMIT, heard.recv()).await.unwrap().unwrap() != wanted {}
    };
    maps.create(&PostParams::default(), &map("held")).await.unwrap();
    hear(&mut heard, "apply held").await;
    assert_eq!(maps.get("held").await.unwrap().finalizers(), ["example.com/tests"]);
    maps.delete("held", &DeleteParams::default()).await.unwrap();
    hear(&mut heard, "cleanup held").await;
    let gone = |map: Option<&ConfigMap>| map.is_none();
    let gone = kube::runtime::wait::await_condition(maps.clone(), "held", gone);
    timeout(LIMIT, gone).await.unwrap().unwrap();
    running.abort();
}

#[tokio::test]
async fn kube_applies_on_the_server() {
    let master = Master::up();
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&master.kubeconfig()).await);
    let wanted = |value: &str| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "applied"}, "data": {"a": value},
        }))
    };
    let (ours, theirs) = (PatchParams::apply("ours"), PatchParams::apply("theirs"));
    maps.patch("applied", &ours, &wanted("1")).await.unwrap();
    match maps.patch("applied", &theirs, &wanted("2")).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 409),
        other => panic!("no conflict: {other:?}"),
    }
    let forced = maps.patch("applied", &theirs.force(), &wanted("2")).await.unwrap();
    assert_eq!(forced.data.unwrap()["a"], "2");
    let managers: Vec<String> = forced
        .metadata
        .managed_fields
        .unwrap()
        .into_iter()
        .filter_map(|entry| entry.manager)
        .collect();
    assert_eq!(managers, ["theirs"], "whoever forces owns it alone");
}

/// A Python with the client in it, kept beside the build; `None` where nobody
/// can fetch it.
fn python() -> Option<PathBuf> {
    let venv = repository().join("target/python-client");
    let interpreter = venv.join("bin/python");
    let has = |interpreter: &Path| {
        let mut command = Command::new(interpreter);
        command.args(["-c", "import kubernetes"]);
        interpreter.exists() && run(command, None).code == 0
    };
    if has(&interpreter) {
        return Some(interpreter);
    }
    step("installing the Python client");
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    run(make, None).ok();
    let mut pip = Command::new(&interpreter);
    pip.args(["-m", "pip", "install", "--quiet", "--retries", "1", PYTHON_CLIENT]);
    let said = run(pip, None);
    if said.code == 0 {
        return Some(interpreter);
    }
    // Without a network there is nothing to test; any other trouble is ours.
    let offline = ["Failed to establish a new connection", "Temporary failure in name resolution"];
    assert!(offline.iter().any(|why| said.stderr.contains(why)), "{}", said.stderr);
    println!("skipped: the Python client cannot be fetched here");
    None
}

fn run_python(interpreter: &Path, kubeconfig: &Path, words: &[&str]) {
    let mut command = Command::new(interpreter);
    command.arg(repository().join("tests/clients/client.py")).args(words);
    command.env("KUBECONFIG", kubeconfig);
    assert_eq!(run(command, None).ok(), "done");
}

#[test]
fn python_reads_writes_watches_and_discovers() {
    let Some(interpreter) = python() else { return };
    let master = Master::up();
    run_python(&interpreter, &master.kubeconfig(), &[]);
}

#[test]
fn python_runs_commands_in_pods() {
    let Some(interpreter) = python() else { return };
    let lab = Lab::up(1);
    run_python(&interpreter, &lab.kubeconfig(), &["--pods"]);
}

"""The official Python client against a cluster: KUBECONFIG names it.

Prints `done` when everything was as it should be.
"""

import sys
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

NAMESPACE = "default"
LIMIT_SECONDS = 60


def refused(code, call, *arguments, **options):
    """Expects a call to be refused with a code."""
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == code, error
    else:
        raise AssertionError(f"{call} was not refused")


def config_maps(core):
    names = {"metadata": {"name": "py", "labels": {"app": "py"}}}
    made = core.create_namespaced_config_map(NAMESPACE, {**names, "data": {"a": "1"}})
    assert made.metadata.uid and made.metadata.creation_timestamp
    refused(409, core.create_namespaced_config_map, NAMESPACE, names)
    core.patch_namespaced_config_map("py", NAMESPACE, {"data": {"b": "2"}})
    core.patch_namespaced_config_map(
        "py", NAMESPACE, [{"op": "add", "path": "/data/c", "value": "3"}]
    )
    read = core.read_namespaced_config_map("py", NAMESPACE)
    assert read.data == {"a": "1", "b": "2", "c": "3"}, read.data
    read.data = {"z": "9"}
    core.replace_namespaced_config_map("py", NAMESPACE, read)
    refused(409, core.replace_namespaced_config_map, "py", NAMESPACE, read)

    first = core.list_namespaced_config_map(NAMESPACE, limit=1)
    assert first.metadata._continue
    rest = core.list_namespaced_config_map(NAMESPACE, _continue=first.metadata._continue)
    assert len(first.items) == 1 and rest.items

    seen = []
    events = watch.Watch()
    for event in events.stream(
        core.list_namespaced_config_map,
        NAMESPACE,
        label_selector="app=py",
        timeout_seconds=LIMIT_SECONDS,
    ):
        seen.append(event["type"])
        if event["type"] == "ADDED":
            core.patch_namespaced_config_map("py", NAMESPACE, {"data": {"z": "10"}})
        if event["type"] == "MODIFIED":
            core.delete_namespaced_config_map("py", NAMESPACE)
        if event["type"] == "DELETED":
            events.stop()
    assert seen == ["ADDED", "MODIFIED", "DELETED"], seen
    refused(404, core.read_namespaced_config_map, "py", NAMESPACE)


def any_kind(api):
    """The dynamic client finds kinds by discovery."""
    kinds = dynamic.DynamicClient(api)
    deployments = kinds.resources.get(api_version="apps/v1", kind="Deployment")
    labels = {"app": "dyn"}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "dyn"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    }
    deployments.create(body=body, namespace=NAMESPACE)
    deployments.patch(
        name="dyn",
        namespace=NAMESPACE,
        body={"spec": {"paused": True}},
        content_type="application/merge-patch+json",
    )
    body["spec"]["minReadySeconds"] = 5
    deployments.server_side_apply(body=body, namespace=NAMESPACE, field_manager="py", force_conflicts=True)
    read = deployments.get(name="dyn", namespace=NAMESPACE)
    assert read.spec.paused and read.spec.minReadySeconds == 5
    scale = client.AppsV1Api(api).read_namespaced_deployment_scale("dyn", NAMESPACE)
    assert scale.status.selector == "app=dyn", scale
    deployments.delete(name="dyn", namespace=NAMESPACE)
    assert len(kinds.resources.search(kind="Pod")) == 1
    versions = client.ApisApi(api).get_api_versions()
    assert any(group.name == "apps" for group in versions.groups)


def pods(core):
    """A pod on a node: exec, log, and its end."""
    container = {
        "name": "c",
        "image": "skiff-example/busybox:latest",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "echo hello; exec sleep 3600"],
    }
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": "py"}, "spec": spec})
    deadline = time.monotonic() + LIMIT_SECONDS
    events = watch.Watch()
    for event in events.stream(
        core.list_namespaced_pod,
        NAMESPACE,
        field_selector="metadata.name=py",
        timeout_seconds=LIMIT_SECONDS,
    ):
        if event["object"].status.phase == "Running":
            events.stop()
    assert time.monotonic() < deadline, "the pod does not run"
    said = stream(
        core.connect_get_namespaced_pod_exec,
        "py",
        NAMESPACE,
        command=["sh", "-c", "echo out; echo err >&2"],
        stdout=True,
        stderr=True,
        stdin=False,
        tty=False,
        _preload_content=False,
    )
    said.run_forever(timeout=LIMIT_SECONDS)
    assert (said.read_stdout(), said.read_stderr()) == ("out\n", "err\n")
    assert said.returncode == 0
    assert core.read_namespaced_pod_log("py", NAMESPACE) == "hello\n"
    core.delete_namespaced_pod("py", NAMESPACE)


def main():
    config.load_kube_config()
    api = client.ApiClient()
    core = client.CoreV1Api(api)
    config_maps(core)
    any_kind(api)
    assert client.VersionApi(api).get_code().minor == "35"
    if "--pods" in sys.argv:
        pods(core)
    print("done")


if __name__ == "__main__":
    main()

//! What only a real Docker and a real kernel show of a pod's life: ports of the
//! node, containers that look into others, limits that change. One lab of two
//! nodes serves all steps.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use skiff_tests::{Lab, eventually, step};

/// Waits until `check` holds.
fn until(what: &str, check: impl Fn() -> bool) {
    eventually(what, Duration::from_secs(60), || {
        if check() { Ok(()) } else { Err("not yet".to_owned()) }
    });
}

/// A web server on `node-1`, reached through ports of the node, beside a
/// sidecar that tells when it is stopped.
const WEB: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  nodeName: node-1
  hostname: h
  subdomain: sub
  setHostnameAsFQDN: true
  terminationGracePeriodSeconds: 5
  securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "79"}]}
  initContainers:
  - name: side
    image: skiff-example/busybox:latest
    imagePullPolicy: Never
    restartPolicy: Always
    command: [sh, -c, "trap 'echo told last; exit 0' TERM; while :; do sleep 0.1; done"]
  containers:
  - name: httpd
    image: skiff-example/busybox:latest
    imagePullPolicy: Never
    command: [sh, -c, "echo served > /tmp/index.html; exec httpd -f -p 80 -u 1000 -h /tmp"]
    ports:
    - {containerPort: 80, hostPort: 8080}
    - {containerPort: 80, hostPort: 8081, hostIP: 127.0.0.1}
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
"#;

const REFUSED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: refused}
spec:
  nodeName: node-2
  securityContext: {sysctls: [{name: kernel.msgmax, value: "1"}]}
  containers: [{name: a, image: skiff-example/busybox:latest, command: [sleep, "60"]}]
"#;

#[test]
fn a_pod_among_others() {
    let lab = Lab::up(2);
    let kubectl = |line: &str| lab.kubectl(&line.split(' ').collect::<Vec<_>>());
    let status = |path: &str| kubectl(&format!("get pod web -o jsonpath={{.status.{path}}}")).ok();
    lab.kubectl_with(&["apply", "-f", "-"], WEB).ok();
    kubectl("wait --for=condition=Ready pod/web --timeout=60s").ok();

    step("ports of the node lead to the pod, from everywhere they should");
    let node = status("hostIP");
    let fetch = |from: &str, host: &str, port: u16| {
        let url = format!("http://{host}:{port}/");
        let answer = lab.exec(from, &["curl", "-s", "-m", "5", &url]);
        (answer.code == 0).then(|| answer.ok())
    };
    let served = Some("served".to_owned());
    assert_eq!(fetch("node-2", &node, 8080), served, "from another node");
    assert_eq!(fetch("node-1", &node, 8080), served, "from the node itself");
    assert_eq!(fetch("node-1", "127.0.0.1", 8080), served, "over its loopback");
    assert_eq!(fetch("node-1", "127.0.0.1", 8081), served, "on one address");
    assert_eq!(fetch("node-1", &node, 8081), None, "on no other address");
    let own = format!("printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 {node} 8080 | tail -n 1");
    let answer = lab.kubectl(&["exec", "web", "-c", "httpd", "--", "sh", "-c", &own]).ok();
    assert_eq!(answer, "served", "from the pod to itself");

    step("its host name is the full one, its file of hosts is managed");
    let inside = |command: &str| {
        lab.kubectl(&["exec", "web", "-c", "httpd", "--", "sh", "-c", command]).ok()
    };
    assert_eq!(inside("hostname"), "h.sub.default.svc.cluster.local");
    assert!(inside("cat /etc/hosts").starts_with("# Kubernetes-managed hosts file.\n"));

    step("a container added to it sees the processes of another");
    let debug = "debug web --image=skiff-example/busybox:latest --image-pull-policy=Never \
                 --target=httpd -c look -- ps";
    lab.kubectl(&debug.split_whitespace().collect::<Vec<_>>()).ok();
    until("the added container ended", || {
        status("ephemeralContainerStatuses[0].state.terminated.exitCode") == "0"
    });
    assert!(kubectl("logs web -c look").ok().contains("httpd -f -p 80"));

    step("other amounts of CPU and memory, without a restart");
    let resize = |cpu: &str| {
        let patch = format!(
            r#"{{"spec":{{"containers":[{{"name":"httpd","resources":{{"requests":{{"cpu":"{cpu}"}},"limits":{{"cpu":"{cpu}"}}}}}}]}}}}"#
        );
        lab.kubectl(&["patch", "pod", "web", "--subresource", "resize", "-p", &patch]).ok();
    };
    let limit = || status("containerStatuses[0].resources.limits.cpu");
    let quota = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
    resize("300m");
    until("the status tells the new limit", || limit() == "300m");
    assert_eq!(inside(quota), "30000", "and the kernel enforces it");
    resize("9000");
    until("the node says that it has no room", || {
        status("conditions[?(@.type=='PodResizePending')].reason") == "Infeasible"
    });
    assert_eq!((inside(quota).as_str(), limit().as_str()), ("30000", "300m"));
    resize("400m");
    until("it fits again", || limit() == "400m");
    assert_eq!(inside(quota), "40000");
    assert_eq!(status("containerStatuses[0].restartCount"), "0");

    step("an agent that was killed finds all of it as it was");
    let before = status("containerStatuses[*].containerID");
    lab.lab(&["kill", "node-1"]).ok();
    assert_eq!(fetch("node-2", &node, 8080), served, "while no agent runs");
    lab.lab(&["start", "node-1"]).ok();
    kubectl("wait --for=condition=Ready pod/web node/node-1 --timeout=60s").ok();
    assert_eq!(fetch("node-2", &node, 8080), served);
    assert_eq!(status("containerStatuses[*].containerID"), before);
    assert_eq!(status("containerStatuses[0].restartCount"), "0");

    step("what a node cannot keep apart it refuses");
    lab.kubectl_with(&["apply", "-f", "-"], REFUSED).ok();
    until("the pod was refused", || {
        kubectl("get pod refused -o jsonpath={.status.phase}/{.status.reason}").ok()
            == "Failed/SysctlForbidden"
    });

    step("its ports go with it");
    kubectl("delete pod web").ok();
    assert_eq!(fetch("node-1", &node, 8080), None);
    let rules = lab.exec("node-1", &["nft", "list", "chain", "ip", "skiff-network", "host-ports"]);
    assert!(!rules.ok().contains("dnat"), "no rule is left");
}

//! What only a real Docker and a real kernel show of a pod's life: ports of the
//! node, containers that look into others, limits that change, and limits that
//! hold, for containers and for pods as a whole. One lab serves all steps of a test.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use skiff_tests::{Lab, eventually, run, step};

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

    step("the API's proxy leads to it from a master that has no way into the pod network");
    let proxy = "/api/v1/namespaces/default/pods/http:web:80/proxy";
    assert_eq!(kubectl(&format!("get --raw {proxy}/index.html")).ok(), "served");
    assert_eq!(kubectl(&format!("get --raw {proxy}")).ok(), "served", "after a redirect");
    assert!(
        kubectl(&format!("get --raw {}/", proxy.replace("80", "81"))).refused().contains("refused")
    );

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

/// Pods that take more than they should, and one that has nothing to do with it.
const GREEDY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: bystander}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: httpd
    image: skiff-example/busybox:latest
    imagePullPolicy: Never
    command: [sh, -c, "echo served > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: hoarder}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: skiff-example/busybox:latest
    imagePullPolicy: Never
    command: [sh, -c, "dd if=/dev/zero of=/scratch/file bs=1M count=4; sleep 3600"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {sizeLimit: 1Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: flood}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: skiff-example/busybox:latest
    imagePullPolicy: Never
    command: [sh, -c, "head -c 150000000 /dev/zero | tr '\\0' x; echo; echo the end; sleep 3600"]
---
apiVersion: v1
kind: Pod
metadata: {name: bomb}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: skiff-example/busybox:latest
    imagePullPolicy: Never
    command: [sh, -c, "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max; bomb() { bomb | bomb & }; bomb; sleep 3600"]
    resources: {limits: {cpu: 500m, memory: 32Mi}}
"#;

/// Resident memory of a process in bytes.
fn resident(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Bytes of a container's log and of those that were rotated away from it.
fn log_bytes(container: &str) -> u64 {
    let mut command = std::process::Command::new("docker");
    command.args(["inspect", "-f", "{{.LogPath}}", container.trim_start_matches("docker://")]);
    let log = std::path::PathBuf::from(run(command, None).ok());
    let name = log.file_name().unwrap().to_str().unwrap();
    let files = std::fs::read_dir(log.parent().unwrap()).unwrap().map(Result::unwrap);
    let logs = files.filter(|file| file.file_name().to_str().unwrap().starts_with(name));
    logs.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn greedy_pods_harm_nobody_else() {
    let lab = Lab::up(1);
    let kubectl = |line: &str| lab.kubectl(&line.split(' ').collect::<Vec<_>>());
    let field = |pod: &str, path: &str| {
        kubectl(&format!("get pod {pod} -o jsonpath={{.status.{path}}}")).ok()
    };
    let machines = lab.machines();
    let node = machines.iter().find(|one| one["name"] == "node-1").unwrap();
    let agent = node["pid"].as_u64().unwrap();
    lab.kubectl_with(&["apply", "-f", "-"], GREEDY).ok();
    kubectl("wait --for=condition=Ready pod/bystander pod/flood --timeout=60s").ok();

    step("a log without end is cut, and costs the agent nothing");
    let before = resident(agent);
    until("the flood is over", || kubectl("logs flood --tail=1").ok() == "the end");
    let id = field("flood", "containerStatuses[0].containerID");
    let kept = log_bytes(&id);
    assert!(kept > 1 << 20, "some of it is kept: {kept}");
    assert!(kept <= 55 << 20, "{kept} bytes are kept");
    assert!(kubectl("logs flood").ok().len() > 1 << 20);
    let grown = resident(agent).saturating_sub(before);
    assert!(grown < 16 << 20, "the agent has grown by {grown} bytes");

    step("a fork bomb stays within its limits");
    let most: u64 =
        std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim().parse().unwrap();
    let first = kubectl("logs bomb").ok().lines().next().unwrap_or_default().to_owned();
    assert_eq!(first, (most / 4).to_string(), "the kernel's limit");
    // Its object goes when nothing is left of it, however long it resists.
    kubectl("delete pod bomb").ok();

    step("a pod that fills its volume is evicted, and its files go");
    until("it is evicted", || field("hoarder", "reason") == "Evicted");
    assert_eq!(field("hoarder", "phase"), "Failed");
    let said = r#"Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". "#;
    assert_eq!(field("hoarder", "message"), said.trim_end());
    let target = "conditions[?(@.type=='DisruptionTarget')].reason";
    assert_eq!(field("hoarder", target), "TerminationByKubelet");
    let uid = kubectl("get pod hoarder -o jsonpath={.metadata.uid}").ok();
    until("its containers are gone", || {
        let mut left = std::process::Command::new("docker");
        left.args(["ps", "-aq", "--filter", &format!("label=skiff.pod.uid={uid}")]);
        run(left, None).ok().is_empty()
    });
    assert!(kubectl("get events").ok().contains("Evicted"));

    step("who had nothing to do with it did not notice");
    assert_eq!(field("bystander", "containerStatuses[0].restartCount"), "0");
    let ready = "conditions[?(@.type=='Ready')]";
    assert_eq!(field("bystander", &format!("{ready}.status")), "True");
    assert_eq!(
        kubectl("get node node-1 -o jsonpath={.status.conditions[?(@.type=='Ready')].status}").ok(),
        "True"
    );
    kubectl("delete pod --all").ok();
}

/// Containers that stay below their pod's limits each, and pass them together.
const TOGETHER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  resources: {limits: {memory: 96Mi}}
  containers: [CONTAINERS]
"#;

/// A pod with so many containers that do the same.
fn together(name: &str, containers: usize, image: &str, command: &str) -> String {
    let command = serde_json::json!(["sh", "-c", command]);
    let one = |index| {
        format!("{{name: c{index}, image: {image}, imagePullPolicy: Never, command: {command}}}")
    };
    let all: Vec<_> = (0..containers).map(one).collect();
    TOGETHER.replace("NAME", name).replace("CONTAINERS", &all.join(", "))
}

#[test]
fn limits_of_a_pod_hold_for_its_containers_together() {
    let mut lab = Lab::planned();
    lab.set("SKIFF_POD_MAX_PIDS", "30");
    lab.begin(1, 1);
    let kubectl = |line: &str| lab.kubectl(&line.split(' ').collect::<Vec<_>>());
    let get = |pod: &str, path: &str| kubectl(&format!("get pod {pod} -o jsonpath={path}")).ok();
    let forks = "i=0; while [ $i -lt 20 ]; do sleep 3600 & i=$((i+1)); done; echo all; wait";
    let takes = "exec python3 -c 'import time; x = bytearray(50 << 20); print(\"all\", flush=True); time.sleep(3600)'";
    let images = ["skiff-example/busybox:latest", "skiff-example/python:latest"];
    let pods = [(images[0], "forks", forks), (images[1], "takes", takes)];
    for (image, name, command) in pods {
        for (suffix, containers) in [("one", 1), ("two", 2)] {
            let pod = together(&format!("{name}-{suffix}"), containers, image, command);
            lab.kubectl_with(&["apply", "-f", "-"], &pod).ok();
        }
    }

    step("one container alone has room for what it does");
    for pod in ["forks-one", "takes-one"] {
        until("it has all", || kubectl(&format!("logs {pod}")).stdout.trim() == "all");
        assert_eq!(get(pod, "{.status.phase}"), "Running", "{pod}");
    }

    step("two of them have not");
    let ended = "{.status.containerStatuses[*].state.terminated.reason}";
    until("one has too few processes", || get("forks-two", ended).contains("Error"));
    let said = kubectl("logs forks-two --all-containers").ok();
    assert!(said.contains("can't fork"), "{said}");
    until("one has too little memory", || get("takes-two", ended).contains("OOMKilled"));

    step("nothing is left of them");
    let uids = kubectl("get pod -o jsonpath={.items[*].metadata.uid}").ok();
    let left = || {
        let mut find = std::process::Command::new("find");
        find.args(["/sys/fs/cgroup", "-type", "d"]);
        let folders = run(find, None).stdout;
        let of_pods = |folder: &&str| {
            let folder = folder.replace('_', "-");
            folder.contains("skiff") && uids.split(' ').any(|uid| folder.contains(uid))
        };
        folders.lines().filter(of_pods).count()
    };
    assert!(left() > 0, "each has a cgroup");
    kubectl("delete pod --all").ok();
    until("the cgroups are gone", || left() == 0);
}

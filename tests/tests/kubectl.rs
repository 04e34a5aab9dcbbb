//! Every verb of `kubectl`, unmodified and without flags, and what it says of
//! bad input. One lab of one node serves all steps.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use skiff_tests::{Lab, Output, eventually, kubectl_in, run, skiffctl, step};

const LIMIT: Duration = Duration::from_secs(60);

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: httpd
        image: skiff-example/busybox:latest
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "echo serving; mkdir -p /www; echo $GREETING > /www/index.html; exec httpd -f -p 8080 -h /www"]
        env: [{name: GREETING, value: hello}]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
"#;

fn with(lab: &Lab, arguments: &[&str], input: &str) -> Output {
    lab.kubectl_with(arguments, input)
}

#[test]
fn every_verb() {
    let lab = Lab::up(1);
    let kubectl = |line: &str| lab.kubectl(&line.split(' ').collect::<Vec<_>>());

    step("version, cluster-info, api-resources");
    let version: Value = serde_json::from_str(&kubectl("version -o json").ok()).unwrap();
    assert_eq!(version["serverVersion"]["minor"], "35");
    assert!(kubectl("cluster-info").ok().contains("is running at"));
    let resources = kubectl("api-resources").ok();
    for expected in
        ["pods", "deployments", "services", "configmaps", "endpointslices", "nodes", "events"]
    {
        assert!(
            resources.lines().any(|line| line.starts_with(expected)),
            "{expected} in {resources}"
        );
    }
    assert!(kubectl("api-versions").ok().contains("apps/v1"));
    assert!(kubectl("explain deployment.spec.strategy").ok().contains("rollingUpdate"));

    step("apply creates, finds nothing to do, and updates by three-way merge");
    assert_eq!(with(&lab, &["apply", "-f", "-"], WEB).ok(), "deployment.apps/web created");
    assert_eq!(with(&lab, &["apply", "-f", "-"], WEB).ok(), "deployment.apps/web unchanged");
    kubectl("rollout status deployment/web --timeout=60s").ok();
    kubectl("scale deployment web --replicas=3").ok();
    let without_replicas = WEB.replace("  replicas: 2\n", "").replace("hello", "moin");
    assert_eq!(
        with(&lab, &["apply", "-f", "-"], &without_replicas).ok(),
        "deployment.apps/web configured"
    );
    kubectl("rollout status deployment/web --timeout=60s").ok();
    // What the file gave up goes back to its default; what it never named stays.
    let query = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].env[0].value} {.spec.template.spec.containers[0].terminationMessagePath}";
    assert_eq!(
        lab.kubectl(&["get", "deployment", "web", "-o", query]).ok(),
        "1 moin /dev/termination-log"
    );
    kubectl("scale deployment web --replicas=2").ok();
    assert!(with(&lab, &["diff", "-f", "-"], &without_replicas).code <= 1);

    step("get in every format");
    let table = kubectl("get deployments").ok();
    assert!(table.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE"), "{table}");
    let wide = kubectl("get deployments -o wide").ok();
    assert!(wide.contains("CONTAINERS") && wide.contains("app=web"), "{wide}");
    let yaml = kubectl("get deployment web -o yaml").ok();
    assert!(yaml.starts_with("apiVersion: apps/v1\nkind: Deployment\n"), "{yaml}");
    let list: Value = serde_json::from_str(&kubectl("get pods -o json").ok()).unwrap();
    assert_eq!((&list["kind"], list["items"][0]["kind"].as_str()), (&"List".into(), Some("Pod")));
    assert_eq!(kubectl("get deployment web -o name").ok(), "deployment.apps/web");
    assert_eq!(
        kubectl("get service kubernetes -o jsonpath={.spec.clusterIP}:{.spec.ports[0].port}").ok(),
        "10.96.0.1:443"
    );
    assert!(kubectl("get pods -A --show-labels").ok().contains("NAMESPACE"));
    assert!(kubectl("get nodes -o wide").ok().contains("docker://"));
    assert!(kubectl("get all").ok().contains("replicaset.apps/web-"));
    assert!(kubectl("get pods -l app=none").code == 0);
    assert!(kubectl("get events").ok().contains("ScalingReplicaSet"));
    let in_phase = |phase: &str| {
        kubectl(&format!("get pods -l app=web --field-selector status.phase={phase} -o name")).ok()
    };
    assert!(in_phase("Running").starts_with("pod/web-"));
    // Not Failed: a replaced pod, ended by a signal, is that until it is gone.
    assert_eq!(in_phase("Unknown"), "");

    step("a watch shows what happens");
    let mut watch =
        kubectl_in(&lab.kubeconfig(), &["get", "configmaps", "--watch-only", "-o", "name"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().unwrap();
    eventually("a watched change", LIMIT, || {
        // The watch starts when it starts; keep changing something until it shows.
        kubectl("delete configmap watched --ignore-not-found").result()?;
        kubectl("create configmap watched").result()?;
        let mut fds = [nix::poll::PollFd::new(
            std::os::fd::AsFd::as_fd(watch.stdout.as_ref().unwrap()),
            nix::poll::PollFlags::POLLIN,
        )];
        match nix::poll::poll(&mut fds, 500_u16) {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    watch.kill().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(watch.stdout.as_mut().unwrap(), &mut said).unwrap();
    watch.wait().unwrap();
    assert!(said.contains("configmap/watched"), "{said}");

    step("describe, logs, exec");
    let described = kubectl("describe deployment web").ok();
    assert!(
        described.contains("StrategyType:") && described.contains("ScalingReplicaSet"),
        "{described}"
    );
    let pod = kubectl("get pods -l app=web -o jsonpath={.items[0].metadata.name}").ok();
    let described = lab.kubectl(&["describe", "pod", &pod]).ok();
    for expected in
        ["Successfully assigned default/", "Started container httpd", "Readiness:", "QoS Class:"]
    {
        assert!(described.contains(expected), "{expected} in {described}");
    }
    assert_eq!(lab.kubectl(&["logs", &pod]).ok(), "serving");
    assert_eq!(lab.kubectl(&["logs", "deployment/web", "--tail=1"]).ok(), "serving");
    assert_eq!(lab.kubectl(&["exec", &pod, "--", "cat", "/www/index.html"]).ok(), "moin");
    assert_eq!(with(&lab, &["exec", "-i", &pod, "--", "cat"], "through\n").ok(), "through");
    assert_eq!(lab.kubectl(&["exec", &pod, "--", "sh", "-c", "exit 3"]).code, 3);
    // Docker's reason comes on the command's own output, with a shell's exit code.
    let missing = lab.kubectl(&["exec", &pod, "--", "no-such-program"]);
    assert!(
        [126, 127].contains(&missing.code) && missing.stdout.contains("no-such-program"),
        "{missing:?}"
    );
    let mut terminal = Command::new("script");
    let line = format!(
        "kubectl --kubeconfig {} exec -it {pod} -- sh -c 'tty; stty size'",
        lab.kubeconfig().display()
    );
    terminal.args(["-qec", &line, "/dev/null"]);
    let said = run(terminal, None).ok();
    assert!(said.contains("/dev/pts/"), "{said}");

    step("a followed log ends with its container");
    let talker = "run talker --image=skiff-example/busybox:latest --image-pull-policy=IfNotPresent --restart=Never --command --";
    let mut words: Vec<&str> = talker.split(' ').collect();
    words.extend(["sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.3; done"]);
    assert_eq!(lab.kubectl(&words).ok(), "pod/talker created");
    lab.wait(
        "the talker runs",
        LIMIT,
        &["get", "pod", "talker", "-o", "jsonpath={.status.phase}"],
        |phase| phase != "Pending",
    );
    assert_eq!(kubectl("logs -f talker").ok(), "line 1\nline 2\nline 3");
    kubectl("wait --for=jsonpath={.status.phase}=Succeeded pod/talker --timeout=30s").ok();

    step("label, annotate, edit, wait, expose");
    assert_eq!(kubectl("label deployment web tier=front").ok(), "deployment.apps/web labeled");
    assert!(kubectl("label deployment web tier=back").refused().contains("already has a value"));
    kubectl("label deployment web tier=back --overwrite").ok();
    assert_eq!(kubectl("get deployments -l tier=back -o name").ok(), "deployment.apps/web");
    kubectl("label deployment web tier-").ok();
    assert_eq!(
        kubectl("annotate deployment web kubernetes.io/change-cause=greeting").ok(),
        "deployment.apps/web annotated"
    );
    let mut edit = kubectl_in(&lab.kubeconfig(), &["edit", "deployment", "web"]);
    edit.env("KUBE_EDITOR", "sed -i s/moin/ahoi/");
    assert_eq!(run(edit, None).ok(), "deployment.apps/web edited");
    kubectl("rollout status deployment/web --timeout=60s").ok();
    assert_eq!(
        kubectl("wait --for=condition=Available deployment/web --timeout=30s").ok(),
        "deployment.apps/web condition met"
    );
    assert_eq!(
        kubectl("expose deployment web --port=80 --target-port=8080").ok(),
        "service/web exposed"
    );
    let vip = kubectl("get service web -o jsonpath={.spec.clusterIP}").ok();
    eventually("the service", LIMIT, || {
        let answer = lab
            .exec("node-1", &["curl", "-sS", "--max-time", "2", &format!("http://{vip}/")])
            .result()?;
        if answer == "ahoi" { Ok(()) } else { Err(answer) }
    });
    assert_eq!(
        kubectl("set env deployment/web GREETING=salve").ok(),
        "deployment.apps/web env updated"
    );
    assert_eq!(kubectl("patch deployment web --type=json -p=[{\"op\":\"add\",\"path\":\"/spec/minReadySeconds\",\"value\":1}]").ok(), "deployment.apps/web patched");

    step("rollouts: pause, resume, restart, history, undo");
    kubectl("rollout status deployment/web --timeout=60s").ok();
    assert_eq!(kubectl("rollout pause deployment/web").ok(), "deployment.apps/web paused");
    kubectl("set env deployment/web GREETING=bonjour").ok();
    std::thread::sleep(Duration::from_millis(500));
    let held = kubectl("get deployment web -o jsonpath={.status.updatedReplicas}").ok();
    assert!(
        held.is_empty() || held == "0",
        "a paused deployment rolls nothing out, but {held} are updated"
    );
    assert_eq!(kubectl("rollout resume deployment/web").ok(), "deployment.apps/web resumed");
    kubectl("rollout status deployment/web --timeout=60s").ok();
    kubectl("rollout restart deployment/web").ok();
    kubectl("rollout status deployment/web --timeout=60s").ok();
    let history = kubectl("rollout history deployment/web").ok();
    assert!(history.contains("REVISION") && history.contains("greeting"), "{history}");
    let revisions = history
        .lines()
        .filter(|line| line.chars().next().is_some_and(|c| c.is_ascii_digit()))
        .count();
    assert!(revisions >= 4, "{history}");
    kubectl("rollout undo deployment/web --to-revision=1").ok();
    kubectl("rollout status deployment/web --timeout=60s").ok();
    assert_eq!(
        kubectl("get deployment web -o jsonpath={.spec.template.spec.containers[0].env[0].value}")
            .ok(),
        "hello"
    );

    step("old manifests apply as they are");
    let old = WEB
        .replace("apps/v1", "extensions/v1beta1")
        .replace("  selector: {matchLabels: {app: web}}\n", "")
        .replace("web", "old");
    assert!(with(&lab, &["apply", "-f", "-"], &old).ok().contains("/old created"));
    kubectl("rollout status deployment/old --timeout=60s").ok();
    assert_eq!(
        kubectl("get deployments.v1.apps old -o jsonpath={.spec.selector.matchLabels.app}").ok(),
        "old"
    );
    assert!(with(&lab, &["delete", "-f", "-"], &old).ok().contains("\"old\" deleted"));

    step("an image that cannot be had says so");
    kubectl("run ghost --image=localhost:1/no/such:image").ok();
    lab.wait("a pull error", LIMIT, &["get", "pod", "ghost", "--no-headers"], |said| {
        said.contains("ErrImagePull") || said.contains("ImagePullBackOff")
    });
    lab.wait("the back-off", LIMIT, &["get", "pod", "ghost", "--no-headers"], |said| {
        said.contains("ImagePullBackOff")
    });
    let described = kubectl("describe pod ghost").ok();
    assert!(
        described.contains("Failed to pull image") && described.contains("localhost:1"),
        "{described}"
    );

    step("a pod that fits nowhere says why");
    let greedy = r#"{"spec": {"containers": [{"name": "greedy", "image": "x", "resources": {"requests": {"cpu": "1000"}}}]}}"#;
    lab.kubectl(&["run", "greedy", "--image=x", "--overrides", greedy]).ok();
    lab.wait(
        "the scheduler's reason",
        LIMIT,
        &["get", "events", "--field-selector", "reason=FailedScheduling"],
        |said| said.contains("0/1 nodes are available: 1 Insufficient cpu"),
    );

    step("delete, and a namespace with all that is in it");
    assert_eq!(kubectl("delete pod talker ghost greedy --wait=true").ok().lines().count(), 3);
    kubectl("create namespace doomed").ok();
    eventually("the default service account", LIMIT, || {
        kubectl("get serviceaccount default -n doomed").result()
    });
    with(&lab, &["apply", "-n", "doomed", "-f", "-"], WEB).ok();
    kubectl("delete namespace doomed --timeout=60s").ok();
    assert!(kubectl("get namespace doomed").refused().contains("NotFound"));
    kubectl("delete deployment web").ok();
    lab.wait(
        "no pods of web",
        LIMIT,
        &["get", "pods", "-l", "app=web", "-o", "name"],
        str::is_empty,
    );
    lab.wait(
        "no replica sets of web",
        LIMIT,
        &["get", "replicasets", "-l", "app=web", "-o", "name"],
        str::is_empty,
    );

    bad_input(&lab);
    skiffctl_in_the_same_words(&lab);
}

fn bad_input(lab: &Lab) {
    step("bad input is refused with one clear line");
    let apply = |text: &str| with(lab, &["apply", "-f", "-"], text).refused();
    let cases = [
        (
            "unknown field",
            WEB.replace("replicas: 2", "replcias: 2"),
            "unknown field \"spec.replcias\"",
        ),
        ("wrong type", WEB.replace("replicas: 2", "replicas: two"), "spec.replicas"),
        (
            "unknown kind",
            WEB.replace("kind: Deployment", "kind: Deploiment"),
            "no matches for kind \"Deploiment\"",
        ),
        (
            "unknown version",
            WEB.replace("apps/v1", "apps/v7"),
            "no matches for kind \"Deployment\" in version \"apps/v7\"",
        ),
        ("not an object", "just text".into(), "error"),
        ("a list", "- a\n- b\n".into(), "error"),
        ("broken YAML", "a: [".into(), "error"),
        ("empty", String::new(), "no objects passed to apply"),
        ("a bad name", WEB.replace("name: web,", "name: Web_1,"), "RFC 1123"),
    ];
    for (name, text, expected) in cases {
        let refused = apply(&text);
        assert!(refused.contains(expected), "{name}: {refused}");
    }

    // Every offending path, not only the first.
    let worse = WEB
        .replace("containerPort: 8080", "containerPort: 80800")
        .replace("name: httpd", "name: HTTPD")
        .replace("GREETING,", "1=2,");
    let refused = apply(&worse);
    for path in [
        "spec.template.spec.containers[0].name",
        "spec.template.spec.containers[0].ports[0].containerPort",
        "spec.template.spec.containers[0].env[0].name",
    ] {
        assert!(refused.contains(path), "{path} in {refused}");
    }
    let mismatch = WEB.replace(
        "template:\n    metadata: {labels: {app: web}}",
        "template:\n    metadata: {labels: {app: other}}",
    );
    assert!(apply(&mismatch).contains("`selector` does not match template `labels`"));

    assert!(lab.kubectl(&["apply", "-f", "/no/such/file"]).refused().contains("does not exist"));
    assert!(
        lab.kubectl(&["get", "pod", "nobody"])
            .refused()
            .contains("Error from server (NotFound): pods \"nobody\" not found")
    );
    assert!(
        lab.kubectl(&["get", "ghosts"])
            .refused()
            .contains("the server doesn't have a resource type \"ghosts\"")
    );
    lab.kubectl(&["create", "configmap", "twice"]).ok();
    assert!(
        lab.kubectl(&["create", "configmap", "twice"])
            .refused()
            .contains("configmaps \"twice\" already exists")
    );
    assert!(
        lab.kubectl(&["create", "configmap", "lost", "-n", "nowhere"])
            .refused()
            .contains("namespaces \"nowhere\" not found")
    );
    let stale = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "twice", "resourceVersion": "1"}, "data": {"a": "b"}}"#;
    assert!(
        with(lab, &["replace", "-f", "-"], stale)
            .refused()
            .contains("the object has been modified")
    );
    let immutable = r#"[{"op": "replace", "path": "/spec/clusterIP", "value": "10.96.0.99"}]"#;
    let refused =
        lab.kubectl(&["patch", "service", "kubernetes", "--type=json", "-p", immutable]).refused();
    assert!(
        refused.contains("spec.clusterIPs[0]") && refused.contains("may not change once set"),
        "{refused}"
    );
}

fn skiffctl_in_the_same_words(lab: &Lab) {
    step("skiffctl says what kubectl says");
    let ctl =
        |line: &str| run(skiffctl(&lab.kubeconfig(), &line.split(' ').collect::<Vec<_>>()), None);
    let ctl_with = |line: &str, input: &str| {
        run(skiffctl(&lab.kubeconfig(), &line.split(' ').collect::<Vec<_>>()), Some(input))
    };
    assert_eq!(ctl_with("apply -f -", WEB).ok(), "deployment.apps/web created");
    assert_eq!(ctl_with("apply -f -", WEB).ok(), "deployment.apps/web unchanged");
    assert_eq!(
        with(lab, &["apply", "-f", "-"], WEB).ok(),
        "deployment.apps/web unchanged",
        "kubectl finds nothing to add"
    );
    assert!(
        ctl("rollout status deployment/web --timeout=60s")
            .ok()
            .ends_with("successfully rolled out")
    );
    assert_eq!(ctl("scale deployment/web --replicas=3").ok(), "deployment.apps/web scaled");
    ctl("rollout status deploy web").ok();
    let squeeze = |text: String| {
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    // Asked before and after kubectl: an age may tick between two calls, and
    // shows then in one of the two.
    let same = |line: &str| {
        let before = squeeze(ctl(line).ok());
        let theirs = squeeze(lab.kubectl(&line.split(' ').collect::<Vec<_>>()).ok());
        let after = squeeze(ctl(line).ok());
        assert!(
            theirs == before || theirs == after,
            "{line}: kubectl says {theirs:?}, skiffctl {before:?} and then {after:?}"
        );
    };
    for line in [
        "get deployments web -o name",
        "get deploy web -o jsonpath={.spec.replicas}",
        "get deploy web -o custom-columns=NAME:.metadata.name,IMAGE:.spec.template.spec.containers[0].image",
        "get svc kubernetes -o wide --no-headers",
        "get pods -l app=web -o name --sort-by=.metadata.name",
        "rollout history deployment/web",
    ] {
        same(line);
    }
    assert!(ctl("get pods").ok().starts_with("NAME"));
    let yaml = ctl("get deployment web -o yaml").ok();
    assert!(yaml.contains("kind: Deployment"), "{yaml}");
    let pod = ctl("get pods -l app=web -o jsonpath={.items[0].metadata.name}").ok();
    assert_eq!(ctl(&format!("logs {pod}")).ok(), "serving");
    assert_eq!(ctl(&format!("exec {pod} -- cat /www/index.html")).ok(), "hello");
    assert_eq!(ctl(&format!("exec {pod} -- false")).code, 1);
    assert!(ctl(&format!("describe pod {pod}")).ok().contains("Started container httpd"));
    assert_eq!(
        ctl("set image deployment/web httpd=skiff-example/busybox").ok(),
        "deployment.apps/web image updated"
    );
    ctl("rollout status deploy/web").ok();
    assert_eq!(ctl("rollout undo deployment/web").ok(), "deployment.apps/web rolled back");
    ctl("rollout status deploy/web").ok();
    assert_eq!(
        ctl("expose deployment web --port=81 --target-port=8080 --name=web-ctl").ok(),
        "service/web-ctl exposed"
    );
    assert_eq!(ctl("run once --image=skiff-example/busybox:latest --image-pull-policy=IfNotPresent --restart=Never -- true").ok(), "pod/once created");
    assert_eq!(ctl("delete pod once").ok(), "pod \"once\" deleted");
    assert_eq!(ctl("delete deployment web").ok(), "deployment.apps \"web\" deleted");
    assert!(
        ctl("get pod nobody")
            .refused()
            .contains("Error from server (NotFound): pods \"nobody\" not found")
    );
    assert!(
        ctl("get ghosts").refused().contains("the server doesn't have a resource type \"ghosts\"")
    );
    assert!(ctl_with("apply -f -", "").refused().contains("no objects"));
    assert!(ctl("apply -f /no/such/file").refused().contains("does not exist"));
    assert!(
        ctl_with("apply -f -", &WEB.replace("replicas: 2", "replcias: 2"))
            .refused()
            .contains("unknown field \"spec.replcias\"")
    );
    assert_eq!(ctl("frobnicate").code, 2);
}

//! What `kubectl` does that needs an API server and no node, with the machine's
//! client and with the oldest. `kubectl_kinds.rs` has what goes for each kind,
//! `kubectl.rs` and `kubectl_streams.rs` have what needs nodes.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use skiff_tests::{Kubectl, Master, eventually, run, step};

const LIMIT: Duration = Duration::from_secs(30);

/// What clients learnt after 1.20, and in which version. An older one has to
/// refuse it, so that no row outlives its reason.
const LEARNT: [(&str, u32); 10] = [
    ("get configmap x --show-managed-fields", 21),
    // Read CronJobs as batch/v1beta1 alone.
    ("create job x --from=cronjob/made", 21),
    // Wrote ephemeral containers as a kind that Kubernetes 1.22 dropped.
    ("debug p --image=i --container=c --attach=false", 22),
    ("wait --for=jsonpath={.a}=b configmap/x", 23),
    ("get deployment made --subresource=scale", 24),
    ("create token default", 24),
    ("apply --validate=strict -f /no/such/file", 25),
    ("events", 26),
    ("apply --prune --prune-allowlist=core/v1/ConfigMap -l a=b -f /no/such/file", 26),
    ("auth whoami", 28),
];

/// Runs a test with each client, on a master of its own.
fn each_client(test: impl Fn(&Master)) {
    for client in Kubectl::all() {
        step(&format!("kubectl 1.{}", client.minor()));
        test(&Master::up_for(client));
    }
}

/// Whether the client has learnt what the row that starts with `what` says.
#[track_caller]
fn knows(master: &Master, what: &str) -> bool {
    let row = LEARNT.iter().find(|(line, _)| line.starts_with(what));
    let (_, since) = row.unwrap_or_else(|| panic!("no row for {what}"));
    master.client().minor() >= *since
}

#[test]
fn old_clients_refuse_what_they_have_not_learnt() {
    each_client(|master| {
        // So that only the client can be the reason.
        master.kubectl("create cronjob made --image=i --schedule=@daily -- true").ok();
        master.kubectl("create deployment made --image=i --replicas=0").ok();
        master.kubectl("run p --image=i").ok();
        for (line, since) in LEARNT {
            if master.client().minor() < since {
                master.kubectl(line).refused();
            }
        }
    });
}

#[test]
fn every_kind_can_be_listed_explained_and_described() {
    each_client(listed_explained_and_described);
}

fn listed_explained_and_described(master: &Master) {
    let kubectl = |line: &str| master.kubectl(line);
    let table = kubectl("api-resources --no-headers").ok();
    for row in table.lines() {
        // Short names may be missing; what follows them is always there.
        let words: Vec<&str> = row.split_whitespace().collect();
        let (name, version) = (words[0], words[words.len() - 3]);
        // What is measured when asked has no schema.
        if !version.starts_with("metrics") {
            let explained =
                kubectl(&format!("explain {name} --api-version={version} --recursive")).ok();
            assert!(explained.contains("DESCRIPTION:"), "{name}: {explained}");
            assert!(explained.contains("FIELDS:"), "{name}: {explained}");
        }
    }
    let listed = kubectl("api-resources --verbs=list -o name").ok();
    let kinds: Vec<&str> = listed.lines().filter(|name| !name.contains("metrics")).collect();
    for line in ["get -A", "get -A -o wide", "describe -A"] {
        kubectl(&format!("{line} {}", kinds.join(","))).ok();
    }
    let mut served: Vec<String> = (kubectl("api-versions").ok().lines())
        .map(|line| line.split_once('/').unwrap_or(("", line)))
        .map(|(group, version)| format!("{version}.{group} Local True"))
        .collect();
    served.sort();
    let services = kubectl("get apiservices --no-headers").ok();
    let mut told: Vec<String> = (services.lines())
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    told.sort();
    assert_eq!(told, served, "an APIService for each group version");
    kubectl("wait --for=condition=Available apiservices --all --timeout=10s").ok();
    kubectl("wait --for=condition=Ready servicecidr/kubernetes --timeout=10s").ok();
    let version: Value = serde_json::from_str(&kubectl("get --raw /version").ok()).unwrap();
    assert_eq!(version["minor"], "35");
}

#[test]
fn every_generator_makes_its_object() {
    each_client(generate);
}

fn generate(master: &Master) {
    let kubectl = |line: &str| master.kubectl(line).ok();
    let cases = [
        ("create namespace made", "namespace/made created"),
        ("create configmap made --from-literal=a=b", "configmap/made created"),
        ("create secret generic made --from-literal=a=b", "secret/made created"),
        (
            "create secret docker-registry pull --docker-server=s --docker-username=u --docker-password=p",
            "secret/pull created",
        ),
        ("create serviceaccount made", "serviceaccount/made created"),
        ("create deployment made --image=i --replicas=2 --port=80", "deployment.apps/made created"),
        ("create job made --image=i -- true", "job.batch/made created"),
        (
            "create cronjob made --image=i --schedule=0_0_*_*_* -- true",
            "cronjob.batch/made created",
        ),
        (
            if knows(master, "create job") {
                "create job from --from=cronjob/made"
            } else {
                "create job from --from=cronjob.v1beta1.batch/made"
            },
            "job.batch/from created",
        ),
        ("create service clusterip made --tcp=80:8080", "service/made created"),
        ("create service nodeport node --tcp=80:8080", "service/node created"),
        ("create service loadbalancer load --tcp=80:8080", "service/load created"),
        ("create service externalname name --external-name=example.com", "service/name created"),
        (
            "create ingress made --rule=example.com/*=made:80",
            "ingress.networking.k8s.io/made created",
        ),
        (
            "create role made --verb=get --resource=pods",
            "role.rbac.authorization.k8s.io/made created",
        ),
        (
            "create rolebinding made --role=made --user=u",
            "rolebinding.rbac.authorization.k8s.io/made created",
        ),
        (
            "create clusterrole made --verb=list --resource=nodes",
            "clusterrole.rbac.authorization.k8s.io/made created",
        ),
        (
            "create clusterrolebinding made --clusterrole=made --user=u",
            "clusterrolebinding.rbac.authorization.k8s.io/made created",
        ),
        ("create quota made --hard=pods=50", "resourcequota/made created"),
        (
            "create poddisruptionbudget made --selector=app=made --min-available=1",
            "poddisruptionbudget.policy/made created",
        ),
        ("create priorityclass made --value=5", "priorityclass.scheduling.k8s.io/made created"),
        (
            "autoscale deployment made --max=5",
            "horizontalpodautoscaler.autoscaling/made autoscaled",
        ),
        ("expose deployment made --name=exposed --port=80", "service/exposed exposed"),
        ("run made --image=i", "pod/made created"),
    ];
    for (line, said) in cases {
        let words: Vec<String> = line.split(' ').map(|word| word.replace('_', " ")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(run(master.kubectl_command(&words), None).ok(), said, "{line}");
    }
    if knows(master, "create token") {
        let token = kubectl("create token made --duration=10m --audience=somebody");
        assert_eq!(token.split('.').count(), 3, "{token}");
    }
    if knows(master, "get deployment made --subresource") {
        let table = kubectl("get deployment made --subresource=scale");
        assert!(table.starts_with("NAME   DESIRED   AVAILABLE   AGE"), "{table}");
    }
}

#[test]
fn objects_are_applied_pruned_compared_replaced_and_patched() {
    each_client(write);
}

fn write(master: &Master) {
    let kubectl = |line: &str| master.kubectl(line);
    let map = |name: &str, value: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: a}}}}\ndata: {{a: \"{value}\"}}\n"
        )
    };
    let both = map("one", "1") + &map("two", "2");

    step("apply, diff, prune");
    assert_eq!(master.kubectl_with("apply -f -", &both).ok().lines().count(), 2);
    assert_eq!(master.kubectl_with("diff -f -", &both).code, 0);
    let differs = master.kubectl_with("diff -f -", &map("one", "3"));
    assert_eq!(differs.code, 1);
    assert!(differs.stdout.contains("+  a: \"3\""), "{}", differs.stdout);
    let pruned = master.kubectl_with("apply -f - --prune -l set=a", &map("one", "1")).ok();
    assert_eq!(pruned, "configmap/one unchanged\nconfigmap/two pruned");
    let kinds = if knows(master, "apply --prune") { "allowlist" } else { "whitelist" };
    let line = format!("apply -f - --prune --prune-{kinds}=core/v1/Secret -l set=a");
    let kept = master.kubectl_with(&line, &map("two", "2")).ok();
    assert_eq!(kept, "configmap/two created", "only Secrets may be pruned");
    let last = kubectl("apply view-last-applied configmap/one").ok();
    assert!(last.contains("set: a"), "{last}");

    step("server-side apply takes over and is refused by others");
    let ours = "apply --server-side --field-manager=ours -f -";
    assert!(master.kubectl_with(ours, &map("one", "4")).refused().contains("conflict"));
    let forced = master.kubectl_with(&format!("{ours} --force-conflicts"), &map("one", "4")).ok();
    assert_eq!(forced, "configmap/one serverside-applied");
    let theirs = "apply --server-side --field-manager=theirs -f -";
    let refused = master.kubectl_with(theirs, &map("one", "5")).refused();
    assert!(refused.contains("conflict with \"ours\""), "{refused}");
    let shown = if knows(master, "get configmap") { "--show-managed-fields " } else { "" };
    let query = "-o jsonpath={.metadata.managedFields[*].manager}";
    let managed = kubectl(&format!("get configmap one {shown}{query}"));
    assert!(managed.ok().contains("ours"));

    step("replace, in place and by force");
    let shown = kubectl("get configmap one -o yaml").ok();
    assert_eq!(master.kubectl_with("replace -f -", &shown).ok(), "configmap/one replaced");
    assert!(master.kubectl_with("replace --force -f -", &both).ok().ends_with("replaced"));
    assert!(kubectl("replace -f /no/such/file").code > 0);

    step("patches of all types, and of subresources");
    kubectl("create deployment web --image=i").ok();
    let patched = "deployment.apps/web patched";
    for line in [
        r#"patch deployment web --type=merge -p {"metadata":{"labels":{"z":"1"}}}"#,
        r#"patch deployment web --type=json -p [{"op":"remove","path":"/metadata/labels/z"}]"#,
        r#"patch deployment web -p {"spec":{"template":{"spec":{"containers":[{"name":"i","image":"j"}]}}}}"#,
        r#"patch deployment web --subresource=scale --type=merge -p {"spec":{"replicas":0}}"#,
    ] {
        if line.contains("--subresource") && !knows(master, "get deployment made --subresource") {
            continue;
        }
        let said = kubectl(line).ok();
        assert!(said == patched || said.ends_with("patched"), "{line}: {said}");
    }
    let images =
        kubectl("get deployment web -o jsonpath={.spec.template.spec.containers[*].image}");
    assert_eq!(images.ok(), "j", "containers merge by name");
    let missing = r#"patch deployment web --type=json -p [{"op":"remove","path":"/spec/nope"}]"#;
    assert!(kubectl(missing).refused().contains("The request is invalid"));
    for line in [
        "set image deployment/web i=k",
        "set resources deployment web --limits=cpu=200m",
        "set serviceaccount deployment web default",
        "set env deployment/web A=b",
        "annotate deployment web a=b",
        "label deployment web a=b",
        "scale deployment web --replicas=1",
    ] {
        kubectl(line).ok();
    }
    if knows(master, "wait") {
        kubectl("wait --for=jsonpath={.spec.replicas}=1 deployment/web --timeout=10s").ok();
    }
    kubectl("wait --for=condition=Progressing deployment/web --timeout=10s").ok();
    kubectl("scale deployment web --replicas=0").ok();
    kubectl("rollout status deployment/web --timeout=10s").ok();
    kubectl("rollout restart deployment/web").ok();
    assert!(kubectl("rollout history deployment/web").ok().contains("REVISION"));
    assert!(
        kubectl("rollout undo deployment/web").ok().contains("deployment.apps/web rolled back")
    );
    kubectl("delete deployment web --cascade=orphan").ok();
    let mut edit = master.kubectl_command(&["edit", "configmap", "one"]);
    edit.env("KUBE_EDITOR", r#"sed -i 's/a: "1"/a: "edited"/'"#);
    assert_eq!(run(edit, None).ok(), "configmap/one edited");
    assert_eq!(kubectl("get configmap one -o jsonpath={.data.a}").ok(), "edited");

    step("sorted, in columns, in chunks, as they change");
    let sorted = kubectl(
        "get configmaps --sort-by=.metadata.name --no-headers -o custom-columns=N:.metadata.name",
    );
    assert_eq!(sorted.ok(), "kube-root-ca.crt\none\ntwo");
    assert_eq!(kubectl("get configmaps --chunk-size=1 -o name").ok().lines().count(), 3);
    assert_eq!(kubectl("delete configmaps -l set=a").ok().lines().count(), 2);
    let dry = master.kubectl_with("create --dry-run=server -o name -f -", &both).ok();
    assert_eq!(dry, "configmap/one\nconfigmap/two");
    assert!(kubectl("get configmap one").refused().contains("NotFound"));
    let strict = both.replace("\ndata:", "\ndta: {}\ndata:");
    // Old clients look at the schema themselves.
    let level = if knows(master, "apply --validate") { "strict" } else { "true" };
    let refused = master.kubectl_with(&format!("apply --validate={level} -f -"), &strict).refused();
    assert!(refused.contains("unknown field \"dta\""), "{refused}");
}

#[test]
fn nodes_pods_and_people() {
    each_client(administrate);
}

fn administrate(master: &Master) {
    let kubectl = |line: &str| master.kubectl(line);

    step("nodes are tainted, cordoned and drained");
    let node = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}"#;
    master.kubectl_with("create -f -", node).ok();
    for (line, said) in [
        ("taint node n a=b:NoSchedule", "node/n tainted"),
        ("taint node n a:NoSchedule-", "node/n untainted"),
        ("cordon n", "node/n cordoned"),
        ("uncordon n", "node/n uncordoned"),
        ("drain n --timeout=10s", "node/n cordoned\nnode/n drained"),
    ] {
        assert_eq!(kubectl(line).ok(), said, "{line}");
    }

    step("a pod gets a debugger and tells its events");
    kubectl("run p --image=i").ok();
    if knows(master, "debug") {
        kubectl("debug p --image=busybox --container=look --attach=false").ok();
        let debuggers = "get pod p -o jsonpath={.spec.ephemeralContainers[*].name}";
        assert_eq!(kubectl(debuggers).ok(), "look");
    }
    kubectl("debug p --image=busybox --container=look --copy-to=copy --attach=false").ok();
    let containers = "get pod copy -o jsonpath={.spec.containers[*].name}";
    assert_eq!(kubectl(containers).ok(), "p look");
    let events = if knows(master, "events") {
        "events --for pod/p"
    } else {
        "get events --field-selector involvedObject.name=p"
    };
    eventually("an event of the scheduler", LIMIT, || {
        let said = kubectl(events).result()?;
        if said.contains("FailedScheduling") { Ok(()) } else { Err(said) }
    });

    step("who may what");
    let listed = kubectl("auth can-i --list").ok();
    assert!(listed.contains("*.*"), "{listed}");
    assert_eq!(kubectl("auth can-i get pods --as nobody").code, 1);
    assert_eq!(kubectl("auth can-i create deployments.apps").ok(), "yes");
    if knows(master, "auth whoami") {
        let whoami = kubectl("auth whoami").ok();
        assert!(whoami.contains("kubernetes-admin"), "{whoami}");
        let as_other = kubectl("auth whoami --as=somebody --as-group=some").ok();
        assert!(as_other.contains("somebody"), "{as_other}");
    }
    kubectl("create clusterrole reader --verb=get --resource=pods").ok();
    let role = kubectl("get clusterrole reader -o yaml").ok();
    assert!(master.kubectl_with("auth reconcile -f -", &role).ok().contains("reconciled"));
    let bob = kubectl("auth can-i --list --as system:serviceaccount:default:bob").ok();
    assert!(bob.contains("selfsubjectreviews.authentication.k8s.io"), "{bob}");

    step("a certificate is asked for, approved and issued");
    let folder = master.folder();
    let mut openssl = Command::new("openssl");
    openssl.args("req -new -newkey rsa:2048 -nodes -subj /O=testers/CN=tester".split(' '));
    openssl.arg("-keyout").arg(folder.join("key")).arg("-out").arg(folder.join("csr"));
    run(openssl, None).ok();
    let mut base64 = Command::new("base64");
    base64.arg("-w0").arg(folder.join("csr"));
    let request = run(base64, None).ok();
    let csr = format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: tester}}\nspec: {{request: {request}, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}}\n"
    );
    master.kubectl_with("create -f -", &csr).ok();
    assert!(kubectl("certificate approve tester").ok().ends_with("approved"));
    eventually("the certificate", LIMIT, || {
        let issued = kubectl("get csr tester -o jsonpath={.status.certificate}").result()?;
        if issued.is_empty() { Err("none yet".into()) } else { Ok(()) }
    });
    assert!(kubectl("get csr tester").ok().contains("Approved,Issued"));
    kubectl("certificate deny tester").refused();
}

#[test]
fn the_proxy_and_the_dump() {
    each_client(proxy_and_dump);
}

fn proxy_and_dump(master: &Master) {
    let mut proxy = master.kubectl_command(&["proxy", "--port=0"]);
    let mut proxy = proxy.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit(' ').next().unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let request = format!("GET /api/v1/namespaces/default HTTP/1.0\r\nHost: {address}\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"name\":\"default\""), "{answer}");

    let folder = master.folder().join("dump");
    master.kubectl(&format!("cluster-info dump --output-directory={}", folder.display())).ok();
    assert!(folder.join("nodes.json").exists());
}

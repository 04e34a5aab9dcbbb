use super::*;
use skiff_store::{Store, Txn};

fn allocator() -> Allocator {
    Allocator::new("10.96.0.0/16".parse().unwrap(), 30000..=32767)
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec})
}

async fn commit(store: &Store, plan: Plan) {
    store.commit(Txn { compares: plan.compares, writes: plan.writes }).await.unwrap();
}

#[tokio::test]
async fn services_get_what_their_type_needs() {
    let store = Store::memory().await.unwrap();
    let port = json!([{"port": 80}]);
    let cases = [
        ("plain", json!({"type": "ClusterIP", "ports": port}), true, false, false),
        (
            "headless",
            json!({"type": "ClusterIP", "clusterIP": "None", "ports": port}),
            false,
            false,
            false,
        ),
        ("node port", json!({"type": "NodePort", "ports": port}), true, true, false),
        (
            "local balancer",
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": port}),
            true,
            true,
            true,
        ),
        ("external", json!({"type": "ExternalName", "externalName": "x"}), false, false, false),
    ];
    for (name, spec, address, node_port, health) in cases {
        let mut service = service(spec);
        let plan = allocator().plan_create(&store.snapshot(), &mut service).unwrap();
        assert_eq!(
            plan.writes.len(),
            [address, node_port, health].iter().filter(|b| **b).count(),
            "{name}"
        );
        assert_eq!(text(&service, "/spec/clusterIP").parse::<IpAddr>().is_ok(), address, "{name}");
        assert_eq!(service.pointer("/spec/ports/0/nodePort").is_some(), node_port, "{name}");
        assert_eq!(service.pointer("/spec/healthCheckNodePort").is_some(), health, "{name}");
    }
}

#[tokio::test]
async fn taken_numbers_are_refused_and_freed_ones_given_again() {
    let store = Store::memory().await.unwrap();
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 30007}]});
    let mut first = service(spec);
    let plan = allocator().plan_create(&store.snapshot(), &mut first).unwrap();
    commit(&store, plan).await;
    let error = allocator().plan_create(&store.snapshot(), &mut first.clone()).unwrap_err();
    assert_eq!(
        error.message,
        "Service \"s\" is invalid: [spec.clusterIPs: Invalid value: [\"10.96.0.7\"]: failed to allocate IP 10.96.0.7: \
         provided IP is already allocated, spec.ports[0].nodePort: Invalid value: 30007: provided port is already \
         allocated]"
    );
    commit(&store, Allocator::plan_delete(&first)).await;
    assert!(allocator().plan_create(&store.snapshot(), &mut first).is_ok());
}

#[tokio::test]
async fn updates_keep_take_and_free() {
    let store = Store::memory().await.unwrap();
    let mut old = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
    let plan = allocator().plan_create(&store.snapshot(), &mut old).unwrap();
    commit(&store, plan).await;

    // An apply that names neither address nor port keeps both.
    let mut same = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
    carry_over(&mut same, &old);
    let plan = allocator().plan_update(&store.snapshot(), &mut same, &old).unwrap();
    assert_eq!(plan, Plan::default());
    assert_eq!(same["spec"]["clusterIP"], old["spec"]["clusterIP"]);

    // Back to ClusterIP frees the port and keeps the address.
    let mut plain = old.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    carry_over(&mut plain, &old);
    assert!(plain.pointer("/spec/ports/0/nodePort").is_none());
    let plan = allocator().plan_update(&store.snapshot(), &mut plain, &old).unwrap();
    assert_eq!((plan.compares.len(), plan.writes.len()), (0, 1));

    // To ExternalName frees everything.
    let mut external = old.clone();
    external["spec"]["type"] = json!("ExternalName");
    carry_over(&mut external, &old);
    let plan = allocator().plan_update(&store.snapshot(), &mut external, &old).unwrap();
    assert_eq!(plan.writes.len(), 2);
    assert!(external.pointer("/spec/clusterIP").is_none());
}

//! Create, read, change, refuse, status, watch, delete, and delete many.

use serde_json::{Value, json};

use crate::common::{Events, Server, start};
use crate::findings::Findings;
use crate::samples::{Sample, all, title};

#[tokio::test]
async fn every_kind_lives_through_every_verb() {
    let server = start().await;
    let mut findings = Findings::default();
    for sample in all() {
        findings.about(title(sample.resource));
        live(&server, &sample, &mut findings).await;
        delete_many(&server, &sample, &mut findings).await;
    }
    findings.settle();
}

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

async fn live(server: &Server, sample: &Sample, findings: &mut Findings) {
    let resource = sample.resource;
    let collection = Sample::collection(resource);
    let one = format!("{collection}/{}", sample.name());
    let from = server.store.revision();
    let selected = format!("{collection}?watch=1&labelSelector=lives%3Dyes&resourceVersion={from}");
    let mut events = server.watch(&selected).await;

    let mut object = sample.object.clone();
    object["metadata"]["labels"]["lives"] = json!("yes");
    let dry = server.post(&format!("{collection}?dryRun=All"), object.clone()).await;
    findings.code("dry create", dry, 201);
    findings.code("get after a dry create", server.get(&one).await, 404);
    // A status that a client sends along counts for nothing, but a node's.
    let mut with_status = object.clone();
    if let (Some(status), false) = (&sample.status, resource.kind == "Node") {
        with_status["status"] = status.clone();
    }
    let made = findings.code("create", server.post(&collection, with_status).await, 201);
    findings.same("apiVersion", made["apiVersion"].clone(), json!(resource.api_version()));
    findings.same("kind", made["kind"].clone(), json!(resource.kind));
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        if made["metadata"][field].as_str().is_none_or(str::is_empty) {
            findings.note(format!("create: no metadata.{field}"));
        }
    }
    if let Some(status) = &sample.status
        && crate::findings::contains(&made["status"], status)
    {
        findings.note("create: the client's status was kept");
    }
    let taken = findings.code("create again", server.post(&collection, object).await, 409);
    findings.same("create again", taken["reason"].clone(), json!("AlreadyExists"));
    findings.same("get", findings_free(server, &one).await, made.clone());

    read(server, sample, &made, findings).await;
    let made = change(server, sample, made, findings).await;
    if let Some(status) = &sample.status {
        write_status(server, &one, status, findings).await;
    } else {
        findings.code("get of no status", server.get(&format!("{one}/status")).await, 404);
    }
    refuse(server, sample, &one, findings).await;
    let returns_deleted = resource.returns_deleted();
    delete(server, &one, &made, returns_deleted, findings).await;
    watched(&mut events, findings).await;
}

async fn findings_free(server: &Server, uri: &str) -> Value {
    server.get(uri).await.body
}

/// Lists by namespace, by label, by name and over everything.
async fn read(server: &Server, sample: &Sample, made: &Value, findings: &mut Findings) {
    let collection = Sample::collection(sample.resource);
    let by_name = format!("{collection}?fieldSelector=metadata.name%3D{}", sample.name());
    for uri in [
        format!("{collection}?labelSelector=lives%3Dyes"),
        format!("{}?labelSelector=lives%3Dyes", Sample::everywhere(sample.resource, "")),
        format!("{collection}?labelSelector=lives%20in%20(yes,no)&limit=1"),
        by_name,
    ] {
        let list = findings.code("list", server.get(&uri).await, 200);
        findings.same("list", list["kind"].clone(), json!(format!("{}List", sample.resource.kind)));
        findings.same(&uri, list["items"].clone(), json!([made]));
        if revision(&list).is_empty() {
            findings.note("list: no resourceVersion");
        }
    }
    let none = format!("{collection}?labelSelector=lives%3Dno");
    let list = findings.code("list of nothing", server.get(&none).await, 200);
    findings.same("list of nothing", list["items"].clone(), json!([]));
    let unknown = format!("{collection}?fieldSelector=spec.nope%3Dx");
    findings.code("unknown field", server.get(&unknown).await, 400);
}

/// Patches of all types and updates, each seen by the next one.
async fn change(server: &Server, sample: &Sample, made: Value, findings: &mut Findings) -> Value {
    let one = format!("{}/{}", Sample::collection(sample.resource), sample.name());
    let generation = made["metadata"]["generation"].as_i64();

    let label = json!({"metadata": {"labels": {"by": "strategic"}}});
    let labelled = server.patch(&one, "strategic-merge-patch", label.clone()).await;
    let labelled = findings.code("strategic patch", labelled, 200);
    findings.holds("strategic patch", &labelled, &label);
    findings.same(
        "generation after a label",
        labelled["metadata"]["generation"].as_i64(),
        generation,
    );
    let again = server.patch(&one, "strategic-merge-patch", label).await;
    let again = findings.code("the same patch again", again, 200);
    findings.same("no change, no revision", revision(&again), revision(&labelled));

    let annotate = json!([{"op": "add", "path": "/metadata/annotations", "value": {"by": "json"}}]);
    let annotated =
        findings.code("json patch", server.patch(&one, "json-patch", annotate).await, 200);
    findings.same("json patch", annotated["metadata"]["annotations"]["by"].clone(), json!("json"));

    let changed = server.patch(&one, "merge-patch", sample.change.clone()).await;
    let changed = findings.code("merge patch", changed, 200);
    findings.holds("merge patch", &changed, &sample.change);
    let only_metadata = sample.change.as_object().unwrap().keys().all(|key| key == "metadata");
    let expected = generation.map(|n| if only_metadata { n } else { n + 1 });
    findings.same(
        "generation after a change",
        changed["metadata"]["generation"].as_i64(),
        expected,
    );

    let mut stale = changed.clone();
    stale["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    stale["metadata"]["annotations"] = json!({"by": "stale"});
    let refused = findings.code("stale update", server.put(&one, stale).await, 409);
    findings.same("stale update", refused["reason"].clone(), json!("Conflict"));
    let mut updated = changed;
    updated["metadata"]["annotations"] = json!({"by": "update"});
    let dry = server.put(&format!("{one}?dryRun=All"), updated.clone()).await;
    findings.code("dry update", dry, 200);
    let updated = findings.code("update", server.put(&one, updated).await, 200);
    findings.same("update", updated["metadata"]["annotations"].clone(), json!({"by": "update"}));
    findings.same("get after update", findings_free(server, &one).await, updated.clone());
    let mut other = updated.clone();
    other["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    findings.code("update of another one", server.put(&one, other).await, 409);
    updated
}

/// Status and the rest are written through different doors.
async fn write_status(server: &Server, one: &str, status: &Value, findings: &mut Findings) {
    let door = format!("{one}/status");
    let before = findings.code("get status", server.get(&door).await, 200);
    let patch = json!({"status": status});
    let patched =
        findings.code("patch status", server.patch(&door, "merge-patch", patch.clone()).await, 200);
    findings.holds("patch status", &patched, &patch);
    for part in ["spec", "data", "template"] {
        findings.same("patch status", patched[part].clone(), before[part].clone());
    }
    findings.same(
        "generation after a status",
        patched["metadata"]["generation"].clone(),
        before["metadata"]["generation"].clone(),
    );
    let mut updated = patched.clone();
    updated["metadata"]["annotations"]["status"] = json!("updated");
    let updated = findings.code("update status", server.put(&door, updated).await, 200);
    findings.holds("update status", &updated, &patch);
    // The main door leaves it alone.
    let mut without = updated.clone();
    without.as_object_mut().unwrap().remove("status");
    without["metadata"]["labels"]["without"] = json!("status");
    let kept = findings.code("update without status", server.put(one, without).await, 200);
    findings.holds("update without status", &kept, &patch);
    let strategic = server.patch(&door, "strategic-merge-patch", patch.clone()).await;
    let strategic = findings.code("strategic patch of status", strategic, 200);
    findings.holds("strategic patch of status", &strategic, &patch);
}

async fn refuse(server: &Server, sample: &Sample, one: &str, findings: &mut Findings) {
    let before = findings_free(server, one).await;
    for patch in &sample.refused {
        let answer = server.patch(one, "merge-patch", patch.clone()).await;
        let status = findings.code(&format!("refuse {patch}"), answer, 422);
        findings.same("refuse", status["reason"].clone(), json!("Invalid"));
    }
    findings.same("after refusals", revision(&findings_free(server, one).await), revision(&before));
    let typo = json!({"metadata": {"labels": {"a": "b c"}}});
    findings.code("a bad label", server.patch(one, "merge-patch", typo).await, 422);
    let strict = format!("{one}?fieldValidation=Strict");
    let unknown = json!({"nope": {"x": 1}});
    findings.code("an unknown field", server.patch(&strict, "merge-patch", unknown).await, 422);
}

async fn delete(
    server: &Server,
    one: &str,
    made: &Value,
    returns_deleted: bool,
    findings: &mut Findings,
) {
    let wrong = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    findings.code("delete of another one", server.delete(one, wrong).await, 409);
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    findings.code("delete of another version", server.delete(one, stale).await, 409);
    let dry = server.delete(&format!("{one}?dryRun=All"), Value::Null).await;
    findings.code("dry delete", dry, 200);
    findings.code("get after a dry delete", server.get(one).await, 200);
    let uid = json!({"preconditions": {"uid": made["metadata"]["uid"]}});
    let gone = findings.code("delete", server.delete(one, uid).await, 200);
    let kind = if returns_deleted || is_held(server, one).await {
        &made["kind"]
    } else {
        &json!("Status")
    };
    findings.same("answer to delete", &gone["kind"], kind);
    if gone["kind"] == "Status" {
        findings.same("delete", gone["status"].clone(), json!("Success"));
    } else {
        findings.holds("delete", &gone["metadata"]["uid"], &made["metadata"]["uid"]);
    }
    release(server, one, findings).await;
    findings.code("get after delete", server.get(one).await, 404);
    findings.code("delete again", server.delete(one, Value::Null).await, 404);
}

/// Whether a deleted object is still there.
async fn is_held(server: &Server, one: &str) -> bool {
    server.get(one).await.code == 200
}

/// Takes away what holds an object that is to be deleted, as controllers do.
async fn release(server: &Server, one: &str, findings: &mut Findings) {
    let answer = server.get(one).await;
    if answer.code == 404 {
        return;
    }
    let mut held = answer.body;
    if held["metadata"]["deletionTimestamp"].is_null() {
        return findings.note("delete: neither gone nor marked");
    }
    if held["kind"] == "Namespace" {
        held["spec"]["finalizers"] = json!([]);
        findings.code("finalize", server.put(&format!("{one}/finalize"), held).await, 200);
    } else {
        let none = json!({"metadata": {"finalizers": null}});
        findings.code("release", server.patch(one, "merge-patch", none).await, 200);
    }
}

/// The watch that ran along saw it come, change and go, in order.
async fn watched(events: &mut Events, findings: &mut Findings) {
    let mut last = 0;
    let mut types = Vec::new();
    while types.last().map(String::as_str) != Some("DELETED") {
        let Some(event) = events.next().await else { return findings.note("the watch ended") };
        let at: u64 = revision(&event["object"]).parse().unwrap_or_default();
        if at <= last {
            findings.note(format!("the watch went from {last} to {at}"));
        }
        last = at;
        types.push(event["type"].as_str().unwrap_or_default().to_owned());
        if types.len() > 30 {
            return findings.note(format!("too many events: {types:?}"));
        }
    }
    let middle = &types[1..types.len() - 1];
    if types[0] != "ADDED" || middle.iter().any(|kind| kind != "MODIFIED") || middle.len() < 3 {
        findings.note(format!("events {types:?}"));
    }
}

async fn delete_many(server: &Server, sample: &Sample, findings: &mut Findings) {
    let collection = Sample::collection(sample.resource);
    for (n, label) in ["a", "a", "b"].into_iter().enumerate() {
        let made = server.post(&collection, sample.further(n, label)).await;
        findings.code("create a further one", made, 201);
    }
    let of = |label: &str| format!("{collection}?labelSelector=part%3D{label}");
    if sample.resource.verbs.contains(&"deletecollection") {
        let dry = server.delete(&format!("{}&dryRun=All", of("a")), Value::Null).await;
        findings.code("dry deletecollection", dry, 200);
        findings.code("deletecollection", server.delete(&of("a"), Value::Null).await, 200);
    } else {
        findings.code("no deletecollection", server.delete(&of("a"), Value::Null).await, 405);
    }
    for label in ["a", "b"] {
        let list = findings_free(server, &of(label)).await;
        let left: Vec<Value> = list["items"].as_array().into_iter().flatten().cloned().collect();
        if label == "b" {
            findings.same("not selected", left.len(), 1);
        }
        for object in left {
            let one = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
            let answer = server.delete(&one, Value::Null).await;
            if ![200, 404].contains(&answer.code) {
                findings.note(format!("tidy up: {}", answer.body));
            }
            release(server, &one, findings).await;
        }
        let list = findings_free(server, &of(label)).await;
        findings.same("after deletecollection", list["items"].clone(), json!([]));
    }
}

//! Views of kinds that are stored in another group or version: what goes in
//! through one door comes out of the other.

use serde_json::{Value, json};
use skiff_api::catalogue;

use crate::common::start;
use crate::findings::Findings;
use crate::samples::{Sample, all, title};

#[tokio::test]
async fn every_view_shows_what_is_stored_and_takes_it_back() {
    let server = start().await;
    let mut findings = Findings::default();
    let samples = all();
    for view in catalogue::all().iter().filter(|resource| resource.legacy.is_some()) {
        findings.about(title(view));
        let stored = view.stored();
        let sample = samples.iter().find(|s| std::ptr::eq(s.resource, stored)).unwrap();
        let (current, old) = (Sample::collection(stored), Sample::collection(view));
        let name = sample.name();
        let made = findings.code("create", server.post(&current, sample.object.clone()).await, 201);
        let shown = findings.code("get", server.get(&format!("{old}/{name}")).await, 200);
        findings.same("apiVersion", shown["apiVersion"].clone(), json!(view.api_version()));
        findings.same("uid", shown["metadata"]["uid"].clone(), made["metadata"]["uid"].clone());
        let warned = view.legacy.unwrap().warning.is_some();
        let list = server.get(&old).await;
        findings.same("warning", !list.warnings().is_empty(), warned);
        let items = list.body["items"].as_array().map_or(0, Vec::len);
        let every = server.get(&current).await.body["items"].as_array().map_or(0, Vec::len);
        findings.same("list", items, every);
        findings.same(
            "items",
            list.body["items"][0]["apiVersion"].clone(),
            json!(view.api_version()),
        );
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let table = findings.code("table", server.get_as(&old, table).await, 200);
        findings.same("table", table["rows"].as_array().map_or(0, Vec::len), items);

        // The same object again, through the view.
        findings.code("delete", server.delete(&format!("{old}/{name}"), Value::Null).await, 200);
        findings.code("gone", server.get(&format!("{current}/{name}")).await, 404);
        let mut again = shown.clone();
        let labels = again["metadata"]["labels"].take();
        again["metadata"] = json!({"name": name, "labels": labels});
        again.as_object_mut().unwrap().remove("status");
        if view.kind == "Job" {
            again["spec"].as_object_mut().unwrap().remove("selector");
        }
        let from = server.store.revision();
        let mut events = server.watch(&format!("{old}?watch=1&resourceVersion={from}")).await;
        let created = server.post(&old, again).await;
        if created.code != 201 {
            findings.note(format!("create through the view: {}", created.body));
            continue;
        }
        let mut back =
            findings.code("get back", server.get(&format!("{current}/{name}")).await, 200);
        let mut first = made;
        for object in [&mut back, &mut first] {
            object["metadata"] = Value::Null;
            object["status"] = Value::Null;
        }
        findings.same("round trip", back, first);
        let label = json!({"metadata": {"labels": {"by": "patch"}}});
        let patched = server.patch(&format!("{old}/{name}"), "merge-patch", label.clone()).await;
        let patched = findings.code("patch", patched, 200);
        findings.holds("patch", &patched, &label);
        let put = server.put(&format!("{old}/{name}"), patched).await;
        findings.code("update", put, 200);
        let added = events.next().await.unwrap_or_default();
        findings.same("watch", added["type"].clone(), json!("ADDED"));
        findings.same("watch", added["object"]["apiVersion"].clone(), json!(view.api_version()));
        findings.code("tidy up", server.delete(&format!("{old}/{name}"), Value::Null).await, 200);
    }
    findings.settle();
}

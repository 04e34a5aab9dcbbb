//! Tables, bare metadata, pages and discovery of every kind.

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};
use skiff_api::catalogue;

use crate::common::{Server, start};
use crate::findings::Findings;
use crate::samples::{Sample, all, title};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

#[tokio::test]
async fn every_kind_has_a_table_and_bare_metadata() {
    let server = start().await;
    let mut findings = Findings::default();
    for sample in all() {
        findings.about(title(sample.resource));
        let collection = Sample::collection(sample.resource);
        for n in 0..3 {
            let made = server.post(&collection, sample.further(n, "shape")).await;
            findings.code("create", made, 201);
        }
        tables(&server, &sample, &collection, &mut findings).await;
        partial(&server, &sample, &collection, &mut findings).await;
        pages(&server, &collection, &mut findings).await;
    }
    findings.settle();
}

async fn tables(server: &Server, sample: &Sample, collection: &str, findings: &mut Findings) {
    let selected = format!("{collection}?labelSelector=part%3Dshape");
    let table = findings.code("table", server.get_as(&selected, TABLE).await, 200);
    findings.same("table", table["kind"].clone(), json!("Table"));
    let columns = table["columnDefinitions"].as_array().map_or(0, Vec::len);
    // Events alone begin with their time.
    let all = table["columnDefinitions"].as_array().into_iter().flatten();
    let Some(at) = all.clone().position(|column| column["name"] == "Name") else {
        return findings.note("no column Name");
    };
    findings.same("first column", at == 0, sample.resource.kind != "Event");
    let rows: Vec<Value> = table["rows"].as_array().into_iter().flatten().cloned().collect();
    findings.same("rows", rows.len(), 3);
    for row in &rows {
        findings.same("cells", row["cells"].as_array().map_or(0, Vec::len), columns);
        findings.same("row", row["object"]["kind"].clone(), json!("PartialObjectMetadata"));
    }
    let name = sample.further(0, "")["metadata"]["name"].as_str().unwrap().to_owned();
    let one = server.get_as(&format!("{collection}/{name}?includeObject=Object"), TABLE).await;
    let one = findings.code("table of one", one, 200);
    findings.same("table of one", one["rows"][0]["cells"][at].clone(), json!(name));
    let object = &one["rows"][0]["object"];
    findings.same("whole object", object["kind"].clone(), json!(sample.resource.kind));
    let watch = format!("{selected}&watch=1&resourceVersion=0&timeoutSeconds=1");
    let mut events = server.watch_as(&watch, TABLE).await;
    let first = events.next().await.unwrap_or_default();
    findings.same("watched table", first["object"]["kind"].clone(), json!("Table"));
    let second = events.next().await.unwrap_or_default();
    let headings = second["object"]["columnDefinitions"].as_array().map_or(0, Vec::len);
    findings.same("columns once", headings, 0);
}

async fn partial(server: &Server, sample: &Sample, collection: &str, findings: &mut Findings) {
    let selected = format!("{collection}?labelSelector=part%3Dshape");
    let list = findings.code("bare list", server.get_as(&selected, PARTIAL_LIST).await, 200);
    findings.same("bare list", list["kind"].clone(), json!("PartialObjectMetadataList"));
    let items: Vec<Value> = list["items"].as_array().into_iter().flatten().cloned().collect();
    findings.same("bare items", items.len(), 3);
    for item in &items {
        let mut keys: Vec<&str> =
            item.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        findings.same("bare item", keys, vec!["apiVersion", "kind", "metadata"]);
    }
    let name = sample.further(1, "")["metadata"]["name"].as_str().unwrap().to_owned();
    let uri = format!("{collection}/{name}");
    let one = findings.code("bare", server.get_as(&uri, PARTIAL).await, 200);
    findings.same("bare", one["kind"].clone(), json!("PartialObjectMetadata"));
    let annotate = json!({"metadata": {"annotations": {"a": "b"}}}).to_string();
    let headers = [("content-type", "application/merge-patch+json"), ("accept", PARTIAL)];
    let patched = server.send(Method::PATCH, &uri, &headers, Body::from(annotate)).await;
    let patched = findings.code("bare patch", patched, 200);
    findings.same("bare patch", patched["kind"].clone(), json!("PartialObjectMetadata"));
    findings.same("bare patch", patched["metadata"]["annotations"]["a"].clone(), json!("b"));
}

/// Three objects by pages of one, in the order of their names.
async fn pages(server: &Server, collection: &str, findings: &mut Findings) {
    let all = server.get(collection).await.body;
    let total = all["items"].as_array().map_or(0, Vec::len);
    let (mut token, mut items, mut version) = (String::new(), Vec::new(), Value::Null);
    loop {
        let uri = format!("{collection}?limit=1&continue={token}");
        let page = findings.code("page", server.get(&uri).await, 200);
        items.extend(page["items"].as_array().into_iter().flatten().cloned());
        if version.is_null() {
            version = page["metadata"]["resourceVersion"].clone();
        }
        findings.same(
            "page's revision",
            page["metadata"]["resourceVersion"].clone(),
            version.clone(),
        );
        let left = page["metadata"]["remainingItemCount"].as_u64().unwrap_or_default();
        findings.same("remaining", left, (total - items.len()) as u64);
        match page["metadata"]["continue"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut token),
            _ => break,
        }
        if items.len() > total {
            return findings.note("pages never end");
        }
    }
    findings.same("all pages", json!(items), all["items"].clone());
}

#[tokio::test]
async fn a_scale_has_columns_of_its_own() {
    let server = start().await;
    let mut findings = Findings::default();
    for sample in all().iter().filter(|sample| sample.resource.scale.is_some()) {
        findings.about(title(sample.resource));
        let collection = Sample::collection(sample.resource);
        findings.code("create", server.post(&collection, sample.object.clone()).await, 201);
        let uri = format!("{collection}/{}/scale", sample.name());
        let table = findings.code("table", server.get_as(&uri, TABLE).await, 200);
        findings.same("column", table["columnDefinitions"][1]["name"].clone(), json!("Desired"));
        findings.same("cell", table["rows"][0]["cells"][1].clone(), json!(1));
    }
    findings.settle();
}

#[tokio::test]
async fn a_kind_that_is_not_listed_has_no_table() {
    let server = start().await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    for resource in catalogue::all().iter().filter(|r| !r.verbs.contains(&"get")) {
        let uri = Sample::collection(resource);
        let headers = [("content-type", "application/json"), ("accept", TABLE)];
        let answer = server.send(Method::POST, &uri, &headers, review.to_string()).await;
        assert_eq!(answer.code, 406, "{uri}: {}", answer.body);
        assert_eq!(answer.body["reason"], "NotAcceptable", "{uri}");
    }
}

/// Discovery's verbs are the verbs that are served; all others are refused.
#[tokio::test]
async fn discovery_tells_the_truth() {
    let server = start().await;
    let mut findings = Findings::default();
    for resource in catalogue::all() {
        findings.about(title(resource));
        let root = if resource.group.is_empty() { "/api" } else { "/apis" };
        let list = server.get(&format!("{root}/{}", resource.api_version())).await.body;
        let of = |name: &str| {
            let mut all = list["resources"].as_array().unwrap().iter();
            all.find(|r| r["name"] == name).cloned().unwrap_or_default()
        };
        let entry = of(resource.plural);
        findings.same("verbs", entry["verbs"].clone(), json!(resource.verbs));
        findings.same("namespaced", entry["namespaced"].clone(), json!(resource.namespaced));
        findings.same("kind", entry["kind"].clone(), json!(resource.kind));
        for sub in resource.subresources {
            let entry = of(&format!("{}/{}", resource.plural, sub.name));
            findings.same(sub.name, entry["verbs"].clone(), json!(sub.verbs));
        }
        let collection = Sample::collection(resource);
        for (verb, method, uri) in [
            ("list", Method::GET, collection.clone()),
            ("watch", Method::GET, format!("{collection}?watch=1&timeoutSeconds=1")),
            ("get", Method::GET, format!("{collection}/nobody")),
            ("delete", Method::DELETE, format!("{collection}/nobody")),
            ("update", Method::PUT, format!("{collection}/nobody")),
        ] {
            let headers = [("content-type", "application/json")];
            let request = http::Request::builder().method(method).uri(&uri);
            let request = request.header(headers[0].0, headers[0].1).body(Body::from("{}"));
            let served = server.raw(request.unwrap()).await.status().as_u16() != 405;
            findings.same(verb, served, resource.verbs.contains(&verb));
        }
    }
    findings.settle();
}

//! `describe`: an object as a person reads it, with its events.
//!
//! One printer for all kinds: fields under their names, lists and mappings
//! indented, what is empty left out. Kinds added later are described too.

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

use super::args::DescribeArgs;
use super::connect::Session;
use super::discover::{Kind, encode};
use super::output;
use super::target;

/// Fields of the metadata that say nothing to a reader.
const HIDDEN: [&str; 8] = [
    "managedFields",
    "generation",
    "resourceVersion",
    "uid",
    "selfLink",
    "name",
    "namespace",
    "creationTimestamp",
];
/// The annotation with the manifest that `apply` keeps; it repeats the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) async fn run(session: &Session, args: DescribeArgs) -> anyhow::Result<()> {
    let mut shown = 0;
    for target in target::parse(session, &args.targets).await? {
        for object in objects(session, &args, &target).await? {
            if shown > 0 {
                println!("\n");
            }
            shown += 1;
            print!("{}", describe(&object));
            print!("{}", events(session, &target.kind, &object).await?);
        }
    }
    if shown == 0 {
        eprintln!("No resources found in {} namespace.", session.namespace);
    }
    Ok(())
}

async fn objects(
    session: &Session,
    args: &DescribeArgs,
    target: &target::Target,
) -> anyhow::Result<Vec<Value>> {
    if let Some(name) = &target.name {
        return Ok(vec![session.get(&target.kind.object_path(&session.namespace, name)).await?]);
    }
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    let query =
        args.selector.as_ref().map(|selector| format!("?labelSelector={}", encode(selector)));
    Ok(target::items(
        session
            .get(&format!("{}{}", target.kind.path(namespace), query.unwrap_or_default()))
            .await?,
    ))
}

fn describe(object: &Value) -> String {
    let metadata = &object["metadata"];
    let mut text = String::new();
    line(&mut text, 0, "Name", metadata["name"].as_str().unwrap_or_default());
    if let Some(namespace) = metadata["namespace"].as_str() {
        line(&mut text, 0, "Namespace", namespace);
    }
    for (key, value) in metadata.as_object().into_iter().flatten() {
        if !HIDDEN.contains(&key.as_str()) {
            field(&mut text, 0, key, value);
        }
    }
    if let Some(created) = metadata["creationTimestamp"].as_str() {
        line(&mut text, 0, "Created", created);
    }
    for (key, value) in object.as_object().into_iter().flatten() {
        match (key.as_str(), object["kind"].as_str()) {
            ("metadata" | "kind" | "apiVersion", _) => {}
            // A secret's values are not for screens.
            ("data" | "stringData", Some("Secret")) => secret(&mut text, value),
            _ => field(&mut text, 0, key, value),
        }
    }
    text
}

fn secret(text: &mut String, data: &Value) {
    text.push_str("Data:\n");
    for (key, value) in data.as_object().into_iter().flatten() {
        let encoded = value.as_str().unwrap_or_default();
        let length =
            encoded.len() / 4 * 3 - encoded.bytes().rev().take_while(|byte| *byte == b'=').count();
        line(text, 1, key, &format!("{length} bytes"));
    }
}

fn field(text: &mut String, depth: usize, key: &str, value: &Value) {
    let title = if depth < 2 { title(key) } else { key.to_owned() };
    match value {
        Value::Null => {}
        Value::Object(fields) if fields.is_empty() => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Object(fields) => {
            text.push_str(&format!("{}{title}:\n", "  ".repeat(depth)));
            for (key, value) in fields.iter().filter(|(key, _)| *key != LAST_APPLIED) {
                // Labels and data are keyed by people: their keys stay as they are.
                if value.is_string() {
                    line(text, depth + 1, key, &output::cell(value))
                } else {
                    field(text, depth + 1, key, value)
                }
            }
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            line(
                text,
                depth,
                &title,
                &items.iter().map(output::cell).collect::<Vec<_>>().join(", "),
            );
        }
        Value::Array(items) => {
            text.push_str(&format!("{}{title}:\n", "  ".repeat(depth)));
            for item in items {
                let mut inner = String::new();
                for (key, value) in item.as_object().into_iter().flatten() {
                    field(&mut inner, depth + 2, key, value);
                }
                // A dash marks where each item of the list begins.
                let start = "  ".repeat(depth + 1);
                if let Some(rest) = inner.strip_prefix(&format!("{start}  ")) {
                    text.push_str(&format!("{start}- {rest}"));
                }
            }
        }
        plain => line(text, depth, &title, &output::cell(plain)),
    }
}

fn line(text: &mut String, depth: usize, key: &str, value: &str) {
    let indent = "  ".repeat(depth);
    let value = value.trim_end().replace('\n', &format!("\n{indent}  "));
    text.push_str(&format!(
        "{indent}{:<width$}{value}\n",
        format!("{key}:"),
        width = 18_usize.saturating_sub(indent.len()).max(key.len() + 2)
    ));
}

/// `podIP` becomes `Pod IP`.
fn title(key: &str) -> String {
    let mut words = String::new();
    let mut previous = '_';
    for character in key.chars() {
        if character.is_uppercase() && previous.is_lowercase() {
            words.push(' ');
        }
        words.extend(if words.is_empty() {
            character.to_uppercase().next()
        } else {
            Some(character)
        });
        previous = character;
    }
    words
}

async fn events(session: &Session, kind: &Kind, object: &Value) -> anyhow::Result<String> {
    let metadata = &object["metadata"];
    let uid = metadata["uid"].as_str().context("the object has no uid")?;
    let kinds = session.kinds().await?;
    // Objects without a namespace have their events in `default`.
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    let selector = encode(&format!("involvedObject.uid={uid},involvedObject.kind={}", kind.kind));
    let list = session
        .get(&format!(
            "{}?fieldSelector={selector}",
            kinds.find("events.v1")?.path(Some(namespace))
        ))
        .await?;
    let mut found = target::items(list);
    if found.is_empty() {
        return Ok("Events:           <none>\n".into());
    }
    found.sort_by_key(last_seen);
    let mut rows = vec![["  Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec()];
    for event in &found {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let from = event["source"]["component"].as_str().or(event["reportingComponent"].as_str());
        let age = last_seen(event).map_or("<unknown>".into(), |seen| {
            skiff_api::table::human_duration((Timestamp::now() - seen).get_seconds())
        });
        let count = event["count"]
            .as_i64()
            .or(event["series"]["count"].as_i64())
            .filter(|count| *count > 1);
        let age = count.map_or(age.clone(), |count| format!("{age} (x{count})"));
        rows.push(vec![
            format!("  {}", text(&event["type"])),
            text(&event["reason"]),
            age,
            from.unwrap_or_default().into(),
            text(&event["message"]),
        ]);
    }
    Ok(format!("Events:\n{}", output::columns(&rows)))
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["firstTimestamp"],
    ];
    times.into_iter().find_map(|time| time.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_read_well() {
        let text = describe(&json!({
            "kind": "Pod", "metadata": {"name": "web", "namespace": "default", "uid": "u", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}], "volumes": []},
            "status": {"podIP": "10.1.2.3"}
        }));
        let expected = "\
Name:             web
Namespace:        default
Labels:
  app:            web
Spec:
  Containers:
    - image:      i
      name:       c
      ports:
        - containerPort: 80
Status:
  podIP:          10.1.2.3
";
        assert_eq!(text, expected);
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = describe(
            &json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"key": "aHVudGVyMg=="}}),
        );
        assert!(text.contains("7 bytes") && !text.contains("aHVudGVy"), "{text}");
    }
}

//! `expose`: makes a service for the pods of an object.

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Map, Value, json};

use super::args::ExposeArgs;
use super::connect::Session;
use super::target;

pub(super) async fn run(session: &Session, args: ExposeArgs) -> anyhow::Result<()> {
    let (kind, name) = target::parse_one(session, &args.targets).await?;
    let object = session.get(&kind.object_path(&session.namespace, &name)).await?;
    let service = plan_service(&args, &object, &name)?;
    let services = session.kinds().await?.find("services")?;
    session.call(Method::POST, &services.path(Some(&session.namespace)), Some(&service)).await?;
    println!("service/{} exposed", service["metadata"]["name"].as_str().unwrap_or_default());
    Ok(())
}

/// The service that leads to the pods of `object`.
fn plan_service(args: &ExposeArgs, object: &Value, name: &str) -> anyhow::Result<Value> {
    let selector = match &args.selector {
        Some(text) => labels(text)?,
        None => {
            pod_labels(object).context("the object selects no pods; say which with --selector")?
        }
    };
    let ports = match args.port {
        Some(port) => vec![port.into()],
        None => container_ports(object),
    };
    if ports.is_empty() {
        bail!("couldn't find port via --port flag or introspection");
    }
    let several = ports.len() > 1;
    let ports: Vec<Value> = (ports.iter().enumerate())
        .map(|(place, port)| {
            let target = match &args.target_port {
                Some(target) => {
                    target.parse::<u16>().map_or_else(|_| json!(target), |number| json!(number))
                }
                None => port.clone(),
            };
            let mut entry = json!({"port": port, "protocol": args.protocol, "targetPort": target});
            if several {
                entry["name"] = format!("port-{}", place + 1).into();
            }
            entry
        })
        .collect();
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": args.name.as_deref().unwrap_or(name)},
        "spec": {"selector": selector, "ports": ports}
    });
    if let Some(own) = object["metadata"]["labels"].as_object() {
        service["metadata"]["labels"] = json!(own);
    }
    if let Some(kind) = &args.service_type {
        service["spec"]["type"] = kind.clone().into();
    }
    if let Some(address) = &args.cluster_ip {
        service["spec"]["clusterIP"] = address.clone().into();
    }
    Ok(service)
}

fn labels(text: &str) -> anyhow::Result<Map<String, Value>> {
    text.split(',')
        .map(|pair| {
            let (key, value) =
                pair.split_once('=').with_context(|| format!("{pair:?} is not key=value"))?;
            Ok((key.to_owned(), value.into()))
        })
        .collect()
}

/// A pod's own labels, or the labels that a workload or service selects by.
fn pod_labels(object: &Value) -> Option<Map<String, Value>> {
    let selector = &object["spec"]["selector"];
    let found = match object["kind"].as_str() {
        Some("Pod") => &object["metadata"]["labels"],
        _ => selector.get("matchLabels").unwrap_or(selector),
    };
    found.as_object().filter(|labels| !labels.is_empty()).cloned()
}

fn container_ports(object: &Value) -> Vec<Value> {
    let spec = object["spec"]["template"].get("spec").unwrap_or(&object["spec"]);
    let containers = spec["containers"].as_array().into_iter().flatten();
    let of_containers =
        containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let of_service = object["spec"]["ports"].as_array().into_iter().flatten();
    of_containers
        .map(|port| port["containerPort"].clone())
        .chain(of_service.map(|port| port["port"].clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::skiffctl::args::{Cli, Command};

    fn plan(words: &str, object: Value) -> Result<Value, String> {
        let line = format!("skiffctl expose deploy web {words}");
        let Command::Expose(args) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("not expose")
        };
        plan_service(&args, &object, "web").map_err(|error| error.to_string())
    }

    #[test]
    fn services_follow_the_object() {
        let web = json!({"kind": "Deployment", "metadata": {"labels": {"a": "b"}}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"spec": {"containers": [{"ports": [{"containerPort": 80}]}]}}}});
        let service = plan("", web.clone()).unwrap();
        assert_eq!(
            service["spec"],
            json!({"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
        );
        assert_eq!(service["metadata"], json!({"name": "web", "labels": {"a": "b"}}));
        let service =
            plan("--port 8080 --target-port http --name front --type NodePort", web).unwrap();
        assert_eq!(
            service["spec"]["ports"],
            json!([{"port": 8080, "protocol": "TCP", "targetPort": "http"}])
        );
        assert_eq!(
            (&service["spec"]["type"], &service["metadata"]["name"]),
            (&json!("NodePort"), &json!("front"))
        );
    }

    #[test]
    fn what_cannot_be_exposed() {
        assert!(
            plan("", json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}))
                .unwrap_err()
                .contains("port")
        );
        assert!(plan("--port 1", json!({"spec": {}})).unwrap_err().contains("--selector"));
    }
}

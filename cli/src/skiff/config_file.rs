//! The config file: a YAML mapping of flags without their dashes.
//!
//! ```yaml
//! data-dir: /srv/skiff
//! api-port: 7443
//! node-labels: [disk=ssd, rack=3]
//! ```
//!
//! Its entries become arguments in front of those that were typed, so clap
//! checks them like any other, and what was typed later wins. An entry whose
//! variable is set is left out, since the variable wins over the file.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_yaml::Value;

/// Adds the entries of the file that `--config` or `SKIFF_CONFIG` names.
pub fn expand(arguments: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let Some(path) =
        named_in(&arguments).or_else(|| std::env::var_os("SKIFF_CONFIG").map(PathBuf::from))
    else {
        return Ok(arguments);
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the config file {}", path.display()))?;
    let extra = arguments_of(&text, |variable| std::env::var_os(variable).is_some())
        .with_context(|| format!("the config file {}", path.display()))?;
    Ok(insert(arguments, extra))
}

fn named_in(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            return None;
        }
        if text == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    None
}

/// The arguments that a file's text stands for.
fn arguments_of(text: &str, is_set: impl Fn(&str) -> bool) -> anyhow::Result<Vec<OsString>> {
    let entries = match serde_yaml::from_str(text)? {
        Value::Mapping(entries) => entries,
        Value::Null => return Ok(Vec::new()),
        _ => bail!("expected a mapping such as `api-port: 7443`"),
    };
    let mut arguments = Vec::new();
    for (key, value) in entries {
        let Value::String(key) = key else { bail!("a flag's name is text, not {key:?}") };
        if is_set(&format!("SKIFF_{}", key.to_uppercase().replace('-', "_"))) {
            continue;
        }
        // A list is one value with commas: flags that take lists read it so, and
        // what is typed takes the place of all of it.
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            _ => bail!("{key}: expected text, a number, a switch or a list of those"),
        };
        let value = match &value {
            // A switch: present or absent.
            Value::Bool(true) => {
                arguments.push(format!("--{key}").into());
                continue;
            }
            Value::Bool(false) => continue,
            Value::Sequence(values) => {
                values.iter().map(text).collect::<anyhow::Result<Vec<_>>>()?.join(",")
            }
            value => text(value)?,
        };
        arguments.push(format!("--{key}={value}").into());
    }
    Ok(arguments)
}

/// Puts `extra` behind the subcommand, in front of what was typed.
fn insert(mut arguments: Vec<OsString>, extra: Vec<OsString>) -> Vec<OsString> {
    let subcommand =
        arguments.iter().skip(1).position(|argument| !argument.to_string_lossy().starts_with('-'));
    let place = subcommand.map_or(arguments.len(), |place| place + 2);
    arguments.splice(place..place, extra);
    arguments
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::skiff::args::{Cli, Command};

    fn parse(
        file: &str,
        typed: &[&str],
        variable: Option<&str>,
    ) -> anyhow::Result<crate::skiff::args::UpArgs> {
        let extra = arguments_of(file, |name| Some(name) == variable)?;
        let arguments = insert(typed.iter().map(OsString::from).collect(), extra);
        match Cli::try_parse_from(arguments)?.command {
            Command::Up(args) => Ok(args),
            other => bail!("{other:?}"),
        }
    }

    #[test]
    fn what_was_typed_wins() {
        let file = "api-port: 7000\nnode-name: filed\nnode-labels: [a=1, b=2]\n";
        let args = parse(file, &["skiff", "up", "--api-port", "8000"], None).unwrap();
        assert_eq!(args.cluster.api_port, 8000);
        assert_eq!(args.node.node_name.as_deref(), Some("filed"));
        assert_eq!(args.node.node_labels, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    }

    #[test]
    fn a_list_in_the_file_is_all_of_a_flag() {
        let file = "eviction-hard: [memory.available<1Gi, nodefs.available<5%]\n";
        let hard = |typed: &[&str]| {
            let args = parse(file, typed, None).unwrap();
            args.node.resources.eviction_hard.unwrap().len()
        };
        assert_eq!(hard(&["skiff", "up"]), 2);
        assert_eq!(hard(&["skiff", "up", "--eviction-hard=pid.available<9"]), 1);
    }

    #[test]
    fn a_variable_wins_over_the_file() {
        let args = parse("node-name: filed\n", &["skiff", "up"], Some("SKIFF_NODE_NAME")).unwrap();
        assert_eq!(args.node.node_name, None);
    }

    #[test]
    fn nonsense_is_refused() {
        for file in
            ["- a\n", "api-port: {a: 1}\n", "no-such-flag: 1\n", "api-port: many\n", "1: 2\n"]
        {
            assert!(parse(file, &["skiff", "up"], None).is_err(), "{file}");
        }
        assert!(parse("", &["skiff", "up"], None).is_ok());
    }

    #[test]
    fn the_file_is_found_in_either_spelling() {
        let named = |arguments: &[&str]| {
            named_in(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
        };
        assert_eq!(named(&["skiff", "up", "--config", "f"]), Some("f".into()));
        assert_eq!(named(&["skiff", "up", "--config=f"]), Some("f".into()));
        assert_eq!(named(&["skiff", "lab", "exec", "n", "--", "x", "--config", "f"]), None);
    }
}

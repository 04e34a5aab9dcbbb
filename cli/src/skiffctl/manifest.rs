//! Reads objects from files, folders and standard input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use super::args::FileArgs;

/// The endings that a folder's files are read by; others are left alone.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// All objects of all files, lists taken apart, in order.
pub(super) fn load(files: &FileArgs) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for path in &files.filename {
        for file in files_of(path, files.recursive)? {
            let shown = if file == Path::new("-") {
                "standard input".into()
            } else {
                file.display().to_string()
            };
            let text = read(&file).with_context(|| format!("cannot read {shown}"))?;
            let found = parse(&text).with_context(|| shown.clone())?;
            if found.is_empty() {
                bail!("{shown} holds no objects");
            }
            objects.extend(found);
        }
    }
    Ok(objects)
}

fn read(path: &Path) -> std::io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        return std::io::stdin().read_to_string(&mut text).map(|_| text);
    }
    fs::read_to_string(path)
}

fn files_of(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    if path == Path::new("-") || !path.is_dir() {
        if path != Path::new("-") && !path.exists() {
            bail!("the path {:?} does not exist", path.display().to_string());
        }
        return Ok(vec![path.to_owned()]);
    }
    let mut entries = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                files.extend(files_of(&entry, true)?);
            }
        } else if entry
            .extension()
            .is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
        {
            files.push(entry);
        }
    }
    if files.is_empty() {
        bail!("no files of objects in {}; expected one of .yaml, .yml, .json", path.display());
    }
    Ok(files)
}

/// The objects of a text of YAML documents; JSON is YAML too.
fn parse(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        match Value::deserialize(document)? {
            Value::Null => {}
            object @ Value::Object(_) => flatten(object, &mut objects)?,
            other => bail!("expected an object with apiVersion and kind, found {other}"),
        }
    }
    Ok(objects)
}

fn flatten(mut object: Value, objects: &mut Vec<Value>) -> anyhow::Result<()> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if kind.is_empty() || object["apiVersion"].as_str().unwrap_or_default().is_empty() {
        bail!("an object has no {}", if kind.is_empty() { "kind" } else { "apiVersion" });
    }
    if kind.ends_with("List") && object["items"].is_array() {
        let Value::Array(items) = object["items"].take() else { return Ok(()) };
        return items.into_iter().try_for_each(|item| flatten(item, objects));
    }
    objects.push(object);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Result<Vec<String>, String> {
        let objects = parse(text).map_err(|error| format!("{error:#}"))?;
        Ok(objects.iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn documents_and_lists() {
        let text = "# first\napiVersion: v1\nkind: A\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B}\n- {apiVersion: v1, kind: C}\n";
        assert_eq!(kinds(text).unwrap(), ["A", "B", "C"]);
        assert_eq!(kinds("{\"apiVersion\": \"v1\", \"kind\": \"A\"}").unwrap(), ["A"]);
        assert_eq!(kinds("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "- a\n",
            "just text\n",
            "kind: A\n",
            "apiVersion: v1\n",
            "a: [\n",
            "apiVersion: v1\nkind: List\nitems: [1]\n",
        ] {
            assert!(kinds(text).is_err(), "{text}");
        }
    }
}

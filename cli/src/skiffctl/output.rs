//! Prints: columns, whole objects, and parts of them.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::discover::Kind;
use super::jsonpath::Template;

/// How objects are to be printed.
pub(super) enum Format {
    /// The server's columns.
    Table {
        /// With the columns of low priority too.
        wide: bool,
    },
    /// Objects as they are; `whole` ones with their managed fields.
    Json {
        whole: bool,
    },
    Yaml {
        whole: bool,
    },
    Name,
    JsonPath(Template),
    /// Headers and paths.
    Columns(Vec<(String, Template)>),
}

impl Format {
    pub(super) fn parse(output: Option<&str>) -> anyhow::Result<Self> {
        let Some(output) = output.filter(|output| !output.is_empty()) else {
            return Ok(Self::Table { wide: false });
        };
        let (name, argument) = output.split_once('=').unwrap_or((output, ""));
        Ok(match name {
            "wide" => Self::Table { wide: true },
            "json" => Self::Json { whole: false },
            "yaml" => Self::Yaml { whole: false },
            "name" => Self::Name,
            "jsonpath" => Self::JsonPath(Template::parse(argument)?),
            "custom-columns" => Self::Columns(custom_columns(argument)?),
            _ => bail!(
                "--output {output:?} is none of: json, yaml, name, wide, jsonpath=…, custom-columns=…"
            ),
        })
    }

    /// Keeps managed fields, which hide what one looks for, if `shown`.
    pub(super) fn with_managed_fields(self, shown: bool) -> Self {
        match self {
            Self::Json { .. } => Self::Json { whole: shown },
            Self::Yaml { .. } => Self::Yaml { whole: shown },
            other => other,
        }
    }

    /// Prints objects; one alone as itself, more as a list.
    pub(super) fn print(&self, mut objects: Vec<(Kind, Value)>, alone: bool) -> anyhow::Result<()> {
        if matches!(self, Self::Json { whole: false } | Self::Yaml { whole: false }) {
            objects.iter_mut().for_each(|(_, object)| hide_managed_fields(object));
        }
        match self {
            Self::Table { .. } => bail!("tables come from the server"),
            Self::Name => {
                for (kind, object) in &objects {
                    println!(
                        "{}/{}",
                        kind.full_singular(),
                        object["metadata"]["name"].as_str().unwrap_or_default()
                    );
                }
            }
            Self::Columns(columns_wanted) => {
                let mut rows = vec![
                    columns_wanted.iter().map(|(header, _)| header.clone()).collect::<Vec<_>>(),
                ];
                for (_, object) in &objects {
                    rows.push(
                        columns_wanted
                            .iter()
                            .map(|(_, path)| path.render_or_none(object))
                            .collect(),
                    );
                }
                print!("{}", columns(&rows));
            }
            Self::Json { .. } => {
                println!("{}", serde_json::to_string_pretty(&document(objects, alone))?)
            }
            Self::Yaml { .. } => print!("{}", serde_yaml::to_string(&document(objects, alone))?),
            Self::JsonPath(template) => print!("{}", template.render(&document(objects, alone))?),
        }
        Ok(())
    }
}

fn hide_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

fn document(mut objects: Vec<(Kind, Value)>, alone: bool) -> Value {
    if alone && objects.len() == 1 {
        return objects.remove(0).1;
    }
    let items: Vec<Value> = objects.into_iter().map(|(_, object)| object).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}})
}

fn custom_columns(text: &str) -> anyhow::Result<Vec<(String, Template)>> {
    text.split(',')
        .map(|column| {
            let (header, path) =
                column.split_once(':').with_context(|| format!("{column:?} is not HEADER:PATH"))?;
            let path = if path.starts_with('.') || path.starts_with('{') {
                path.to_owned()
            } else {
                format!(".{path}")
            };
            let path = if path.starts_with('{') { path } else { format!("{{{path}}}") };
            Ok((header.to_owned(), Template::parse(&path)?))
        })
        .collect()
}

/// Rows under each other, three spaces between the columns.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (place, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(place) {
                Some(widest) => *widest = (*widest).max(width),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (place, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if place + 1 < row.len() {
                let gap = widths[place] + 3 - cell.chars().count();
                line.extend(std::iter::repeat_n(' ', gap));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A cell of the server's table as text.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["NAME".into(), "AGE".into()],
            vec!["a-long-name".into(), "5m".into()],
            vec!["b".into(), String::new()],
        ];
        assert_eq!(columns(&rows), "NAME          AGE\na-long-name   5m\nb\n");
    }

    #[test]
    fn managed_fields_are_hidden() {
        let mut object = json!({"metadata": {"name": "a", "managedFields": [{}]}});
        hide_managed_fields(&mut object);
        assert_eq!(object, json!({"metadata": {"name": "a"}}));
        let shown = Format::parse(Some("yaml")).unwrap().with_managed_fields(true);
        assert!(matches!(shown, Format::Yaml { whole: true }));
    }

    #[test]
    fn unknown_formats_are_refused() {
        assert!(Format::parse(Some("xml")).is_err());
        assert!(Format::parse(Some("jsonpath={.a[}")).is_err());
        assert!(Format::parse(Some("custom-columns=NAME")).is_err());
        assert!(Format::parse(Some("custom-columns=NAME:.metadata.name")).is_ok());
    }
}

//! `get`: shows objects, in the server's own columns or whole.

use anyhow::bail;
use futures::{AsyncBufReadExt, TryStreamExt};
use serde_json::Value;

use super::args::GetArgs;
use super::connect::Session;
use super::discover::{Kind, encode};
use super::jsonpath::Template;
use super::output::{self, Format};
use super::target::{self, Target};
use super::{manifest, output::cell};

/// Asks for a table, and takes plain objects from a server that makes none.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(super) async fn run(session: &Session, args: GetArgs) -> anyhow::Result<()> {
    let format =
        Format::parse(args.output.as_deref())?.with_managed_fields(args.show_managed_fields);
    let targets = targets(session, &args).await?;
    if args.watch || args.watch_only {
        return watch(session, &args, &format, &targets).await;
    }
    match format {
        Format::Table { wide } => tables(session, &args, wide, &targets).await,
        format => objects(session, &args, &format, &targets).await,
    }
}

async fn targets(session: &Session, args: &GetArgs) -> anyhow::Result<Vec<Target>> {
    if args.files.filename.is_empty() {
        return target::parse(session, &args.targets).await;
    }
    if !args.targets.is_empty() {
        bail!("name objects by --filename or by type and name, not both");
    }
    let kinds = session.kinds().await?;
    manifest::load(&args.files)?
        .iter()
        .map(|object| {
            let name = object["metadata"]["name"].as_str().map(str::to_owned);
            Ok(Target { kind: kinds.of(object)?.clone(), name })
        })
        .collect()
}

/// The path that a target is read from, with its selectors.
fn path(session: &Session, args: &GetArgs, target: &Target) -> anyhow::Result<String> {
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    match &target.name {
        Some(_) if args.selector.is_some() || args.field_selector.is_some() => {
            bail!("a name and a selector cannot go together")
        }
        Some(_) if args.all_namespaces => bail!("an object cannot be named across all namespaces"),
        Some(name) => Ok(target.kind.object_path(&session.namespace, name)),
        None => {
            let selectors =
                [("labelSelector", &args.selector), ("fieldSelector", &args.field_selector)];
            let query: Vec<String> = selectors
                .iter()
                .filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_ref()?))))
                .collect();
            let path = target.kind.path(namespace);
            Ok(if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) })
        }
    }
}

async fn objects(
    session: &Session,
    args: &GetArgs,
    format: &Format,
    targets: &[Target],
) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for target in targets {
        match session.get(&path(session, args, target)?).await {
            Ok(object) if target.name.is_some() => found.push((target.kind.clone(), object)),
            Ok(list) => {
                let api_version = target.kind.api_version();
                found.extend(target::items(list).into_iter().map(|mut item| {
                    // Items of a typed list leave out what the list says.
                    item["apiVersion"] = api_version.clone().into();
                    item["kind"] = target.kind.kind.clone().into();
                    (target.kind.clone(), item)
                }));
            }
            Err(error) if args.ignore_not_found && is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(path) = &args.sort_by {
        let template = Template::parse(path)?;
        found.sort_by(|(_, one), (_, other)| order(template.first(one), template.first(other)));
    }
    let alone = targets.len() == 1 && targets[0].name.is_some();
    if alone && found.is_empty() { Ok(()) } else { format.print(found, alone) }
}

fn order(one: Option<&Value>, other: Option<&Value>) -> std::cmp::Ordering {
    match (one.and_then(Value::as_f64), other.and_then(Value::as_f64)) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        _ => one.map(cell).cmp(&other.map(cell)),
    }
}

/// Whether the server said that the object is not there.
pub(super) fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.is_not_found())
}

async fn tables(
    session: &Session,
    args: &GetArgs,
    wide: bool,
    targets: &[Target],
) -> anyhow::Result<()> {
    // Objects named one by one share a table per kind; several kinds need
    // their names in front.
    let mut groups: Vec<(Kind, Vec<Value>)> = Vec::new();
    for target in targets {
        match session.get_as(&path(session, args, target)?, TABLE).await {
            Ok(table) => match groups
                .iter_mut()
                .find(|(kind, _)| kind.full_plural() == target.kind.full_plural())
            {
                Some((_, tables)) => tables.push(table),
                None => groups.push((target.kind.clone(), vec![table])),
            },
            Err(error) if args.ignore_not_found && is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let with_kind = groups.len() > 1;
    let mut shown = 0;
    for (kind, tables) in &groups {
        let mut rows: Vec<&Value> =
            tables.iter().filter_map(|table| table["rows"].as_array()).flatten().collect();
        if rows.is_empty() {
            continue;
        }
        if let Some(path) = &args.sort_by {
            let template = Template::parse(path)?;
            rows.sort_by(|one, other| {
                order(template.first(&one["object"]), template.first(&other["object"]))
            });
        }
        if shown > 0 {
            println!();
        }
        shown += rows.len();
        let layout = Layout::of(args, kind, &tables[0], wide, with_kind);
        let mut lines = if args.no_headers { Vec::new() } else { vec![layout.header()] };
        lines.extend(rows.iter().map(|row| layout.row(row)));
        print!("{}", output::columns(&lines));
    }
    if shown == 0 && !args.ignore_not_found {
        let scoped = targets.iter().all(|target| target.kind.namespaced) && !args.all_namespaces;
        let place =
            if scoped { format!(" in {} namespace", session.namespace) } else { String::new() };
        eprintln!("No resources found{place}.");
    }
    Ok(())
}

/// Which of the server's columns are shown, and which of ours beside them.
struct Layout<'a> {
    args: &'a GetArgs,
    kind: &'a Kind,
    places: Vec<(usize, String)>,
    with_namespace: bool,
    with_kind: bool,
}

impl<'a> Layout<'a> {
    fn of(args: &'a GetArgs, kind: &'a Kind, table: &Value, wide: bool, with_kind: bool) -> Self {
        let definitions =
            table["columnDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let places = (definitions.iter().enumerate())
            .filter(|(_, column)| wide || column["priority"].as_i64().unwrap_or(0) == 0)
            .map(|(place, column)| {
                (place, column["name"].as_str().unwrap_or_default().to_uppercase())
            })
            .collect();
        Self {
            args,
            kind,
            places,
            with_namespace: args.all_namespaces && kind.namespaced,
            with_kind,
        }
    }

    fn header(&self) -> Vec<String> {
        let namespace = self.with_namespace.then(|| "NAMESPACE".to_owned());
        let labels = self
            .args
            .label_columns
            .iter()
            .map(|label| label.rsplit('/').next().unwrap_or(label).to_uppercase());
        let all_labels = self.args.show_labels.then(|| "LABELS".to_owned());
        namespace
            .into_iter()
            .chain(self.places.iter().map(|(_, name)| name.clone()))
            .chain(labels)
            .chain(all_labels)
            .collect()
    }

    fn row(&self, row: &Value) -> Vec<String> {
        let meta = &row["object"]["metadata"];
        let mut cells = Vec::new();
        if self.with_namespace {
            cells.push(cell(&meta["namespace"]));
        }
        for (index, (place, _)) in self.places.iter().enumerate() {
            let text = cell(&row["cells"][*place]);
            cells.push(if index == 0 && self.with_kind {
                format!("{}/{text}", self.kind.full_singular())
            } else {
                text
            });
        }
        cells.extend(
            self.args
                .label_columns
                .iter()
                .map(|label| meta["labels"][label].as_str().unwrap_or_default().to_owned()),
        );
        if self.args.show_labels {
            let labels = meta["labels"].as_object().into_iter().flatten();
            let labels: Vec<String> =
                labels.map(|(key, value)| format!("{key}={}", cell(value))).collect();
            cells.push(if labels.is_empty() { "<none>".into() } else { labels.join(",") });
        }
        cells
    }
}

/// Shows the objects of one kind, then every change until interrupted.
async fn watch(
    session: &Session,
    args: &GetArgs,
    format: &Format,
    targets: &[Target],
) -> anyhow::Result<()> {
    let [target] = targets else { bail!("one kind at a time can be watched") };
    let (list_path, accept, wide) = match (&target.name, format) {
        // One object is watched as a collection of one.
        (Some(name), format) => {
            let path = target.kind.path(Some(&session.namespace));
            let field = encode(&format!("metadata.name={name}"));
            (format!("{path}?fieldSelector={field}"), accept(format), is_wide(format))
        }
        (None, format) => (path(session, args, target)?, accept(format), is_wide(format)),
    };
    let list = session.get_as(&list_path, accept).await?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut printer = Printer {
        args,
        kind: &target.kind,
        format,
        wide,
        headed: args.no_headers,
        widths: Vec::new(),
    };
    if !args.watch_only {
        printer.show(list)?;
    }
    let joint = if list_path.contains('?') { '&' } else { '?' };
    let stream = session
        .stream(&format!("{list_path}{joint}watch=true&resourceVersion={version}"), accept)
        .await?;
    let mut lines = stream.lines();
    while let Some(line) = lines.try_next().await? {
        let event: Value = serde_json::from_str(&line)?;
        match event["type"].as_str() {
            Some("ERROR") => bail!("the watch broke off: {}", cell(&event["object"]["message"])),
            Some("BOOKMARK") => {}
            _ => printer.show(event["object"].clone())?,
        }
    }
    Ok(())
}

fn accept(format: &Format) -> &'static str {
    if matches!(format, Format::Table { .. }) { TABLE } else { "application/json" }
}

fn is_wide(format: &Format) -> bool {
    matches!(format, Format::Table { wide: true })
}

/// Prints what a watch brings, with one header for all of it.
struct Printer<'a> {
    args: &'a GetArgs,
    kind: &'a Kind,
    format: &'a Format,
    wide: bool,
    headed: bool,
    widths: Vec<usize>,
}

impl Printer<'_> {
    fn show(&mut self, value: Value) -> anyhow::Result<()> {
        if !matches!(self.format, Format::Table { .. }) {
            let objects =
                if value["items"].is_array() { target::items(value) } else { vec![value] };
            for object in objects {
                self.format.print(vec![(self.kind.clone(), object)], true)?;
            }
            return Ok(());
        }
        let layout = Layout::of(self.args, self.kind, &value, self.wide, false);
        let mut lines = Vec::new();
        // Only the first table of a watch names its columns.
        if !self.headed && value["columnDefinitions"].is_array() {
            lines.push(layout.header());
            self.headed = true;
        }
        let rows = value["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let places = if layout.places.is_empty() { self.widths.len() } else { layout.places.len() };
        let fallback =
            Layout { places: (0..places).map(|place| (place, String::new())).collect(), ..layout };
        lines.extend(rows.iter().map(|row| fallback.row(row)));
        for line in &lines {
            self.widths.resize(self.widths.len().max(line.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
            let padded: Vec<String> = line
                .iter()
                .zip(&self.widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            println!("{}", padded.join("   ").trim_end());
        }
        Ok(())
    }
}

//! The JSONPath templates of `-o jsonpath`
//! (Kubernetes documentation, "JSONPath Support").
//!
//! Text with expressions in braces: paths with `.name`, `['name']`, `[0]`,
//! `[-1]`, `[1:3]`, `[*]`, `.*`, `..name`, filters `[?(@.a=="b")]`, quoted
//! text, and `{range …}…{end}`.

use anyhow::{Context, bail};
use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    /// `..name`: the field at any depth.
    Deep(String),
    Filter(Vec<Step>, Option<(Operator, Operand)>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Value(Value),
    Path(Vec<Step>),
}

impl Template {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        // A bare path is a common slip, and clear enough.
        let braced;
        let text = if text.starts_with('.') || text.starts_with('$') {
            braced = format!("{{{text}}}");
            &braced
        } else {
            text
        };
        let mut parser = Parser { rest: text };
        let pieces = parser.pieces(false)?;
        Ok(Self(pieces))
    }

    /// Fills in the template. A path that leads nowhere prints nothing.
    pub(super) fn render(&self, root: &Value) -> anyhow::Result<String> {
        let mut text = String::new();
        render(&self.0, root, root, &mut text);
        Ok(text)
    }

    /// The same for a column, where nothing shows as `<none>`.
    pub(super) fn render_or_none(&self, root: &Value) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            if let Piece::Path(steps) = piece {
                let found: Vec<String> = walk(steps, root, root).into_iter().map(show).collect();
                text.push_str(&found.join(","));
            }
        }
        if text.is_empty() { "<none>".into() } else { text }
    }

    /// The first value that the template's first path leads to.
    pub(super) fn first<'a>(&self, root: &'a Value) -> Option<&'a Value> {
        self.0.iter().find_map(|piece| match piece {
            Piece::Path(steps) => walk(steps, root, root).into_iter().next(),
            _ => None,
        })
    }
}

fn render(pieces: &[Piece], current: &Value, root: &Value, text: &mut String) {
    for piece in pieces {
        match piece {
            Piece::Text(plain) => text.push_str(plain),
            Piece::Path(steps) => {
                let found: Vec<String> = walk(steps, current, root).into_iter().map(show).collect();
                text.push_str(&found.join(" "));
            }
            Piece::Range(steps, body) => {
                for item in walk(steps, current, root) {
                    render(body, item, root, text);
                }
            }
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn walk<'a>(steps: &[Step], current: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![current];
    for step in steps {
        found = found.into_iter().flat_map(|value| take(step, value, root)).collect();
    }
    found
}

fn take<'a>(step: &Step, value: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Field(name) if name == "$" => vec![root],
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::All => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            _ => Vec::new(),
        },
        Step::Index(index) => {
            let Value::Array(items) = value else { return Vec::new() };
            items.get(position(*index, items.len())).into_iter().collect()
        }
        Step::Slice(from, to) => {
            let Value::Array(items) = value else { return Vec::new() };
            let from = from.map_or(0, |from| position(from, items.len()));
            let to = to.map_or(items.len(), |to| position(to, items.len())).min(items.len());
            items.get(from..to).unwrap_or_default().iter().collect()
        }
        Step::Deep(name) => {
            let mut found = Vec::new();
            search(name, value, &mut found);
            found
        }
        Step::Filter(path, comparison) => {
            let Value::Array(items) = value else { return Vec::new() };
            items.iter().filter(|item| holds(path, comparison.as_ref(), item, root)).collect()
        }
    }
}

/// A place in a list; a negative one counts from the end.
fn position(index: i64, length: usize) -> usize {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    usize::try_from(if index < 0 { index + length } else { index }).unwrap_or(usize::MAX)
}

fn search<'a>(name: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    let children: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Object(fields) => {
            found.extend(fields.get(name));
            Box::new(fields.values())
        }
        Value::Array(items) => Box::new(items.iter()),
        _ => return,
    };
    children.for_each(|child| search(name, child, found));
}

fn holds(
    path: &[Step],
    comparison: Option<&(Operator, Operand)>,
    item: &Value,
    root: &Value,
) -> bool {
    let left = walk(path, item, root);
    let Some((operator, operand)) = comparison else { return !left.is_empty() };
    let right: Vec<&Value> = match operand {
        Operand::Value(value) => vec![value],
        Operand::Path(path) => walk(path, item, root),
    };
    let (Some(left), Some(right)) = (left.first(), right.first()) else { return false };
    let order = match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => Some(show(left).cmp(&show(right))),
    };
    let Some(order) = order else { return false };
    match operator {
        Operator::Equal => order.is_eq(),
        Operator::NotEqual => order.is_ne(),
        Operator::Less => order.is_lt(),
        Operator::LessOrEqual => order.is_le(),
        Operator::Greater => order.is_gt(),
        Operator::GreaterOrEqual => order.is_ge(),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn pieces(&mut self, in_range: bool) -> anyhow::Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        loop {
            let Some(open) = self.rest.find('{') else {
                if in_range {
                    bail!("{{range}} without {{end}}");
                }
                if !self.rest.is_empty() {
                    pieces.push(Piece::Text(self.rest.to_owned()));
                    self.rest = "";
                }
                return Ok(pieces);
            };
            if open > 0 {
                pieces.push(Piece::Text(self.rest[..open].to_owned()));
            }
            self.rest = self.rest[open + 1..].trim_start();
            if let Some(rest) = self.rest.strip_prefix("end") {
                self.rest = rest.trim_start().strip_prefix('}').context("expected } after end")?;
                if !in_range {
                    bail!("{{end}} without {{range}}");
                }
                return Ok(pieces);
            }
            if let Some(rest) = self.rest.strip_prefix("range ") {
                self.rest = rest.trim_start();
                let steps = self.steps()?;
                self.close()?;
                pieces.push(Piece::Range(steps, self.pieces(true)?));
                continue;
            }
            while !self.rest.starts_with('}') {
                pieces.push(match self.rest.chars().next() {
                    None => bail!("unclosed {{"),
                    Some(quote @ ('"' | '\'')) => Piece::Text(self.quoted(quote)?),
                    Some(_) => Piece::Path(self.steps()?),
                });
                self.rest = self.rest.trim_start();
            }
            self.close()?;
        }
    }

    fn close(&mut self) -> anyhow::Result<()> {
        self.rest = self
            .rest
            .trim_start()
            .strip_prefix('}')
            .with_context(|| format!("expected }} before {:?}", self.rest))?;
        Ok(())
    }

    fn quoted(&mut self, quote: char) -> anyhow::Result<String> {
        let mut text = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((place, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    self.rest = &self.rest[place + 1..];
                    return Ok(text);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                _ => text.push(character),
            }
        }
        bail!("unclosed {quote}")
    }

    fn steps(&mut self) -> anyhow::Result<Vec<Step>> {
        let mut steps = Vec::new();
        let before = self.rest;
        loop {
            if let Some(rest) = self.rest.strip_prefix("..") {
                self.rest = rest;
                steps.push(Step::Deep(self.name()?));
            } else if let Some(rest) = self.rest.strip_prefix(".*") {
                self.rest = rest;
                steps.push(Step::All);
            } else if let Some(rest) = self.rest.strip_prefix('.') {
                self.rest = rest;
                // `.` alone, and `.[`, are the value itself.
                if self.rest.chars().next().is_some_and(is_name) || self.rest.starts_with('\\') {
                    steps.push(Step::Field(self.name()?));
                }
            } else if let Some(rest) = self.rest.strip_prefix('[') {
                self.rest = rest.trim_start();
                steps.push(self.bracket()?);
            } else if let Some(rest) = self.rest.strip_prefix('@') {
                self.rest = rest;
            } else if let Some(rest) = self.rest.strip_prefix('$') {
                self.rest = rest;
                steps.push(Step::Field("$".into()));
            } else if steps.is_empty()
                && self.rest == before
                && self.rest.chars().next().is_some_and(is_name)
            {
                steps.push(Step::Field(self.name()?));
            } else {
                break;
            }
        }
        if self.rest == before {
            bail!("expected a path before {:?}", self.rest);
        }
        Ok(steps)
    }

    fn name(&mut self) -> anyhow::Result<String> {
        let mut name = String::new();
        let mut characters = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((place, character)) = characters.next() {
            if character == '\\' {
                // `\.` is a dot in a name, as in labels.
                name.extend(characters.next().map(|(_, escaped)| escaped));
            } else if is_name(character) {
                name.push(character);
            } else {
                end = place;
                break;
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() {
            bail!("expected a name before {:?}", self.rest);
        }
        Ok(name)
    }

    fn bracket(&mut self) -> anyhow::Result<Step> {
        let step = match self.rest.chars().next() {
            Some('*') => {
                self.rest = &self.rest[1..];
                Step::All
            }
            Some('?') => return self.filter(),
            Some(quote @ ('"' | '\'')) => Step::Field(self.quoted(quote)?),
            _ => {
                let end = self.rest.find(']').context("unclosed [")?;
                let inside = &self.rest[..end];
                self.rest = &self.rest[end..];
                let number = |text: &str| -> anyhow::Result<Option<i64>> {
                    let text = text.trim();
                    if text.is_empty() {
                        Ok(None)
                    } else {
                        text.parse().map(Some).with_context(|| format!("{text:?} is not a number"))
                    }
                };
                match inside.split_once(':') {
                    Some((from, to)) => Step::Slice(number(from)?, number(to)?),
                    None => Step::Index(number(inside)?.context("[] is empty")?),
                }
            }
        };
        self.rest = self.rest.trim_start().strip_prefix(']').context("unclosed [")?;
        Ok(step)
    }

    fn filter(&mut self) -> anyhow::Result<Step> {
        self.rest = self.rest[1..]
            .trim_start()
            .strip_prefix('(')
            .context("expected ( after ?")?
            .trim_start();
        let path = self.steps()?;
        self.rest = self.rest.trim_start();
        let operators = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let found = operators
            .iter()
            .find_map(|(text, operator)| Some((self.rest.strip_prefix(text)?, *operator)));
        let comparison = match found {
            None => None,
            Some((rest, operator)) => {
                self.rest = rest.trim_start();
                Some((operator, self.operand()?))
            }
        };
        let rest = self.rest.trim_start().strip_prefix(')').context("unclosed (")?;
        self.rest = rest.trim_start().strip_prefix(']').context("unclosed [")?;
        Ok(Step::Filter(path, comparison))
    }

    fn operand(&mut self) -> anyhow::Result<Operand> {
        match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => Ok(Operand::Value(self.quoted(quote)?.into())),
            Some('@' | '$' | '.') => Ok(Operand::Path(self.steps()?)),
            _ => {
                let end = self.rest.find([')', ' ']).context("unclosed (")?;
                let word = &self.rest[..end];
                let value = serde_json::from_str(word)
                    .with_context(|| format!("{word:?} is neither text, number nor path"))?;
                self.rest = &self.rest[end..];
                Ok(Operand::Value(value))
            }
        }
    }
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '/')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates() {
        let root = json!({"kind": "List", "items": [
            {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "ready": true, "n": 1},
            {"metadata": {"name": "b"}, "ready": false, "n": 2, "c": [{"type": "Ready", "status": "True"}]}
        ]});
        let cases = [
            ("{.kind}", "List"),
            (".kind", "List"),
            ("kind: {.kind}!", "kind: List!"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1:].metadata.name}", "b"),
            ("{.items[0:1].n}", "1"),
            ("{.items[1].c[?(@.type==\"Ready\")].status}", "True"),
            ("{.items[?(@.n>1)].metadata.name}", "b"),
            ("{.items[?(@.c)].metadata.name}", "b"),
            ("{.items[?(@.ready==true)].n}", "1"),
            ("{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}", "a=1\nb=2\n"),
            ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
            ("{.items[0].metadata['name']}", "a"),
            ("{..name}", "a b"),
            ("{.nothing}", ""),
            ("{.items[0]['metadata'].labels}", "{\"app.kubernetes.io/name\":\"x\"}"),
            ("{.items[0].n} {.items[1].n}", "1 2"),
        ];
        for (template, expected) in cases {
            assert_eq!(
                Template::parse(template).unwrap().render(&root).unwrap(),
                expected,
                "{template}"
            );
        }
    }

    #[test]
    fn broken_templates_are_refused() {
        for template in
            ["{.a", "{range .a}", "{end}", "{.a[}", "{.a[?(@.b==)]}", "{.a[x]}", "{\"a}", "{}}{"]
        {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}

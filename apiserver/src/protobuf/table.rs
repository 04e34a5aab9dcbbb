//! The numbers of `fields.txt`, read once.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The fields of one message by number.
#[derive(Debug, Default)]
pub(super) struct Numbers(Vec<(u32, Entry)>);

/// What a number stands for.
#[derive(Debug)]
pub(super) enum Entry {
    /// A field of the object.
    Field {
        name: &'static str,
        /// It is only sent when it is set, so a zero is a value.
        always: bool,
    },
    /// A message whose fields belong to the object itself.
    Inline(Numbers),
}

impl Numbers {
    pub(super) fn get(&self, number: u32) -> Option<&Entry> {
        self.0.iter().find(|(own, _)| *own == number).map(|(_, entry)| entry)
    }
}

/// The numbers of a type such as `core.v1.Pod`.
pub(super) fn numbers(name: &str) -> Option<&'static Numbers> {
    TABLE.get(name)
}

static TABLE: LazyLock<HashMap<&'static str, Numbers>> = LazyLock::new(|| {
    let mut lines = include_str!("fields.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .peekable();
    let mut table = HashMap::new();
    while let Some(name) = lines.next() {
        table.insert(name, block(&mut lines, 1));
    }
    table
});

/// Reads the lines that are indented by `indent`.
fn block(
    lines: &mut std::iter::Peekable<impl Iterator<Item = &'static str>>,
    indent: usize,
) -> Numbers {
    let mut numbers = Numbers::default();
    while let Some(line) = lines.peek().copied() {
        let text = line.trim_start();
        if line.len() - text.len() < indent {
            break;
        }
        lines.next();
        let (number, name) = text.split_once(' ').unwrap_or((text, ""));
        // A number that cannot be read is a mistake in our file; its test
        // finds it.
        let Ok(number) = number.parse() else { continue };
        let entry = if name.is_empty() {
            Entry::Inline(block(lines, indent + 1))
        } else {
            Entry::Field { name: name.trim_end_matches('!'), always: name.ends_with('!') }
        };
        numbers.0.push((number, entry));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(numbers: &Numbers, into: &mut BTreeSet<&'static str>) {
        for (number, entry) in &numbers.0 {
            assert!(*number > 0);
            match entry {
                Entry::Field { name, .. } => assert!(into.insert(name), "{name} twice"),
                Entry::Inline(inner) => names(inner, into),
            }
        }
    }

    #[test]
    fn every_field_of_every_type_has_a_number() {
        for shape in skiff_api::shape::types() {
            let mut known = BTreeSet::new();
            names(numbers(shape.name).unwrap_or_else(|| panic!("{}", shape.name)), &mut known);
            let in_json = shape.fields.iter().map(|field| field.name);
            let in_envelope = |name: &&str| matches!(*name, "apiVersion" | "kind");
            for name in in_json {
                assert!(known.contains(name) || in_envelope(&name), "{}.{name}", shape.name);
            }
            for name in known {
                assert!(shape.field(name).is_some(), "{}.{name}", shape.name);
            }
        }
    }
}

//! Label selectors, as text (`app=web,tier in (a,b),!old`) and as the
//! `LabelSelector` object of workloads and services.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;

use super::parse;
use crate::validation::names;

/// A conjunction of requirements. Without any it selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    /// The requirements, all of which must hold.
    pub requirements: Vec<Requirement>,
}

/// What is required of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What is required of it.
    pub operator: Operator,
}

/// What can be required of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// It is there with one of these values.
    In(Vec<String>),
    /// It is not there, or with none of these values.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
    /// It is there, an integer, and greater.
    GreaterThan(i64),
    /// It is there, an integer, and less.
    LessThan(i64),
}

/// Why a selector cannot be used. The message is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl SelectorError {
    pub(super) fn new(message: String) -> SelectorError {
        SelectorError(message)
    }
}

impl LabelSelector {
    /// Reads the text form: `a=b`, `a==b`, `a!=b`, `a in (b,c)`,
    /// `a notin (b,c)`, `a`, `!a`, `a>1`, `a<1`, joined by commas.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        parse::selector(text)
            .map_err(|err| SelectorError(format!("unable to parse requirement: {}", err.0)))
    }

    /// The selector that asks for exactly these labels, as a service's or a
    /// replication controller's does.
    pub fn from_labels<'a>(
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> LabelSelector {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        };
        LabelSelector { requirements: labels.into_iter().map(equals).collect() }
    }

    /// The selector of a `LabelSelector` object. An empty object selects
    /// everything; what an absent one means is the caller's to know.
    pub fn from_object(object: &meta::LabelSelector) -> Result<LabelSelector, SelectorError> {
        let mut selector = LabelSelector::from_labels(object.match_labels.iter().flatten());
        for expression in object.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let requirement = requirement(&expression.key, &expression.operator, values)?;
            selector.requirements.push(requirement);
        }
        for requirement in &selector.requirements {
            requirement.check()?;
        }
        Ok(selector)
    }

    /// [`LabelSelector::from_object`] for an object in JSON. Takes a plain map
    /// of labels, too, which is what older kinds have.
    pub fn from_value(value: &Value) -> Result<LabelSelector, SelectorError> {
        let refuse = |err: serde_json::Error| SelectorError(format!("not a label selector: {err}"));
        let is_object = |map: &serde_json::Map<String, Value>| {
            map.keys().all(|key| matches!(key.as_str(), "matchLabels" | "matchExpressions"))
                && map
                    .values()
                    .all(|value| value.is_object() || value.is_array() || value.is_null())
        };
        match value {
            Value::Object(map) if !is_object(map) => {
                let labels: BTreeMap<String, String> =
                    serde::Deserialize::deserialize(value).map_err(refuse)?;
                Ok(LabelSelector::from_labels(&labels))
            }
            _ => {
                let object: meta::LabelSelector =
                    serde::Deserialize::deserialize(value).map_err(refuse)?;
                LabelSelector::from_object(&object)
            }
        }
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether it selects an object whose labels `get` looks up.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(get(&requirement.key)))
    }

    /// Whether it selects an object with these labels.
    pub fn matches_labels(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
    }

    /// Whether it selects this object.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
        self.matches(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
    }
}

impl Requirement {
    /// Whether a label with this value, or its absence, is as required.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Operator::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| v != value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Operator::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }

    /// Whether key and values could be a label's.
    pub(super) fn check(&self) -> Result<(), SelectorError> {
        let key = &self.key;
        if let Some(message) = names::qualified_name(key).into_iter().next() {
            return Err(SelectorError(format!("key: Invalid value: {key:?}: {message}")));
        }
        let (Operator::In(values) | Operator::NotIn(values)) = &self.operator else {
            return Ok(());
        };
        for (index, value) in values.iter().enumerate() {
            if let Some(message) = names::label_value(value).into_iter().next() {
                return Err(SelectorError(format!(
                    "values[{index}][{key}]: Invalid value: {value:?}: {message}"
                )));
            }
        }
        Ok(())
    }
}

fn requirement(
    key: &str,
    operator: &str,
    values: Vec<String>,
) -> Result<Requirement, SelectorError> {
    let operator = match (operator, values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        ("In" | "NotIn", true) => {
            return Err(SelectorError(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                    .into(),
            ));
        }
        ("Exists" | "DoesNotExist", false) => {
            return Err(SelectorError(
                "values: Invalid value: values set must be empty for exists and does not exist"
                    .into(),
            ));
        }
        _ => {
            return Err(SelectorError(format!(
                "{operator:?} is not a valid label selector operator"
            )));
        }
    };
    Ok(Requirement { key: key.to_owned(), operator })
}

impl fmt::Display for LabelSelector {
    /// Writes the text form with sorted keys and values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut requirements: Vec<&Requirement> = self.requirements.iter().collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        for (index, requirement) in requirements.into_iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let list = |values: &[String]| {
            let mut values: Vec<&str> = values.iter().map(String::as_str).collect();
            values.sort_unstable();
            values.join(",")
        };
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Operator::In(values) => write!(f, "{key} in ({})", list(values)),
            Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", list(values)),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan(bound) => write!(f, "{key}>{bound}"),
            Operator::LessThan(bound) => write!(f, "{key}<{bound}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn text_form() {
        let web = labels(&[("app", "web"), ("tier", "a"), ("n", "5"), ("empty", "")]);
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            (" app = web , tier in ( a, b ) ", true),
            ("app!=web", false),
            ("other!=web", true),
            ("tier in (a,b),app notin (x)", true),
            ("tier notin (a)", false),
            ("none notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!none", true),
            ("n>4", true),
            ("n>5", false),
            ("n<6", true),
            ("app>1", false),
            ("empty=", true),
            ("app=", false),
            ("empty in (,x)", true),
            ("in=x", false),
            ("notin", false),
            ("app=web,app=other", false),
        ];
        for (text, expected) in cases {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches_labels(Some(&web)), expected, "{text}");
        }
    }

    #[test]
    fn canonical_text() {
        let cases = [
            ("b in (y,x),a==1", "a=1,b in (x,y)"),
            ("!c,b!=x,a", "a,b!=x,!c"),
            ("x>1,y<2", "x>1,y<2"),
            ("a in (x)", "a=x"),
        ];
        for (text, expected) in cases {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn refusals() {
        let cases = [
            (",", "found ','"),
            ("a,", "found ''"),
            ("a in", "expected: '('"),
            ("a in (b", "expected: ',' or ')'"),
            ("a b", "found 'b'"),
            ("a=b=c", "found '='"),
            ("!", "found ''"),
            ("a>x", "must be an integer"),
            ("-a=b", "Invalid value"),
            ("a=b c", "expected: ','"),
            ("a=-b", "Invalid value"),
        ];
        for (text, expected) in cases {
            let err = LabelSelector::parse(text).unwrap_err().to_string();
            assert!(err.contains(expected), "{text}: {err}");
        }
    }

    #[test]
    fn object_form() {
        let cases = [
            (json!({}), Ok("")),
            (json!({"matchLabels": {"a": "b"}}), Ok("a=b")),
            (json!({"a": "b", "c": "d"}), Ok("a=b,c=d")),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x", "y"]}]}),
                Ok("a notin (x,y)"),
            ),
            (json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}), Ok("!a")),
            (json!({"matchExpressions": [{"key": "a", "operator": "In"}]}), Err("can't be empty")),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
                Err("must be empty"),
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}),
                Err("not a valid label selector operator"),
            ),
            (json!({"matchLabels": {"a": "b c"}}), Err("Invalid value")),
        ];
        for (object, expected) in cases {
            match (LabelSelector::from_value(&object), expected) {
                (Ok(selector), Ok(text)) => assert_eq!(selector.to_string(), text),
                (Err(err), Err(part)) => assert!(err.to_string().contains(part), "{object}: {err}"),
                (got, _) => panic!("{object}: {got:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "[a-c=!(),<> \\-né]{0,40}") {
            let _ = LabelSelector::parse(&text);
        }

        #[test]
        fn text_round_trips(
            requirements in prop::collection::vec(("[a-e]", 0..6_usize, prop::collection::btree_set("[a-e]?", 1..3)), 0..4),
            have in prop::collection::btree_map("[a-e]", "[a-e0-9]?", 0..5),
        ) {
            let requirements = requirements.into_iter().map(|(key, operator, values)| {
                let values: Vec<String> = values.into_iter().collect();
                let operator = match operator {
                    0 => Operator::In(values),
                    1 => Operator::NotIn(values),
                    2 => Operator::Exists,
                    3 => Operator::DoesNotExist,
                    4 => Operator::GreaterThan(3),
                    _ => Operator::LessThan(3),
                };
                Requirement { key, operator }
            });
            let selector = LabelSelector { requirements: requirements.collect() };
            let again = LabelSelector::parse(&selector.to_string()).unwrap();
            prop_assert_eq!(selector.to_string(), again.to_string());
            prop_assert_eq!(selector.matches_labels(Some(&have)), again.matches_labels(Some(&have)));
        }
    }
}

//! The text form of label selectors.

use super::label::{LabelSelector, Operator, Requirement, SelectorError};

/// Reads a selector.
pub(super) fn selector(text: &str) -> Result<LabelSelector, SelectorError> {
    Parser { tokens: lex(text), at: 0 }.selector()
}

/// Splits the text into words and signs. A word reaches to the next sign or
/// blank.
fn lex(text: &str) -> Vec<&str> {
    let is_sign = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '<' | '>');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("==") || rest.starts_with("!=") {
            2
        } else if is_sign(first) {
            1
        } else {
            rest.find(|c: char| is_sign(c) || c.is_whitespace()).unwrap_or(rest.len())
        };
        tokens.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn selector(mut self) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Vec::new();
        if self.peek().is_none() {
            return Ok(LabelSelector::default());
        }
        loop {
            let requirement = self.requirement()?;
            requirement.check()?;
            requirements.push(requirement);
            match self.next() {
                Some(",") => {}
                None => return Ok(LabelSelector { requirements }),
                Some(other) => return Err(found(other, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.peek() == Some("!");
        if negated {
            self.at += 1;
        }
        let key = self.word("!, identifier, or ')'")?.to_owned();
        if negated {
            return Ok(Requirement { key, operator: Operator::DoesNotExist });
        }
        let operator = match self.peek() {
            None | Some(",") => return Ok(Requirement { key, operator: Operator::Exists }),
            Some(operator) => operator,
        };
        self.at += 1;
        let operator = match operator {
            "=" | "==" => Operator::In(vec![self.value()]),
            "!=" => Operator::NotIn(vec![self.value()]),
            "in" => Operator::In(self.values()?),
            "notin" => Operator::NotIn(self.values()?),
            ">" => Operator::GreaterThan(self.bound()?),
            "<" => Operator::LessThan(self.bound()?),
            other => return Err(found(other, "in, notin, =, ==, !=, gt, lt")),
        };
        Ok(Requirement { key, operator })
    }

    /// The value after an equals sign; nothing is the empty value.
    fn value(&mut self) -> String {
        match self.peek() {
            Some(word) if !is_sign(word) => {
                self.at += 1;
                word.to_owned()
            }
            _ => String::new(),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Some("(") => {}
            other => return Err(found(other.unwrap_or_default(), "'('")),
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value());
            match self.next() {
                Some(",") => {}
                Some(")") => break,
                other => return Err(found(other.unwrap_or_default(), "',' or ')'")),
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    fn bound(&mut self) -> Result<i64, SelectorError> {
        let word = self.word("identifier")?;
        word.parse().map_err(|_| {
            SelectorError::new(format!("values[0]: Invalid value: {word:?}: for 'Gt', 'Lt' operators, the value must be an integer"))
        })
    }

    fn word(&mut self, expected: &str) -> Result<&'a str, SelectorError> {
        match self.next() {
            Some(word) if !is_sign(word) => Ok(word),
            other => Err(found(other.unwrap_or_default(), expected)),
        }
    }

    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<&'a str> {
        let token = self.peek();
        self.at += 1;
        token
    }
}

fn is_sign(token: &str) -> bool {
    token.starts_with(['=', '!', '(', ')', ',', '<', '>'])
}

fn found(token: &str, expected: &str) -> SelectorError {
    SelectorError::new(format!("found '{token}', expected: {expected}"))
}

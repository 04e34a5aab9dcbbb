//! Files with variables, as `fileKeyRef` reads them. Pure.
//!
//! A file is lines of `NAME='value'`, empty lines, and comments after `#`. What
//! is between the quotes is the value as it stands, over several lines if need
//! be; a shell that sources the file gets the same.

/// The value of `key` in the file `text`, `None` when it is not in it. Lines
/// after the one that has it are not looked at.
pub(super) fn value(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut rest = text;
    let mut line = 0;
    while !rest.is_empty() {
        let number = line + 1;
        let wrong =
            |what: &str| format!("invalid environment variable format at line {number}: {what}");
        let start = rest.trim_start_matches([' ', '\t']);
        let end = start.find('\n').unwrap_or(start.len());
        let first = start[..end].trim_end_matches('\r');
        if first.is_empty() || first.starts_with('#') {
            rest = start.get(end + 1..).unwrap_or_default();
            line = number;
            continue;
        }
        let (name, _) = first.split_once('=').ok_or_else(|| wrong("it has no '='"))?;
        if name.is_empty() {
            return Err(wrong("it has no name"));
        }
        if name.ends_with([' ', '\t']) {
            return Err(wrong("whitespace before '=' is not allowed"));
        }
        let quoted = start[name.len() + 1..]
            .strip_prefix('\'')
            .ok_or_else(|| wrong("value must be enclosed in single quotes"))?;
        let (found, after) =
            quoted.split_once('\'').ok_or_else(|| wrong("unclosed single quote"))?;
        let (left, next) = after.split_once('\n').unwrap_or((after, ""));
        let left = left.trim_end_matches('\r');
        let comment = left.trim_start_matches([' ', '\t']);
        let parted = comment.len() < left.len();
        if !(comment.is_empty() || parted && comment.starts_with('#')) {
            return Err(wrong("unexpected content after closing quote"));
        }
        if name == key {
            return Ok(Some(found.to_owned()));
        }
        line = number + found.matches('\n').count();
        rest = next;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_is_between_the_quotes() {
        let file = "# first\n\n   A='one'\n\tB='two # not a comment' # a comment\nC=''\n\
                    D='a=b $HOME \\n \"q\"'\nE='1\n\n  3'\nF='last'";
        let cases = [
            ("A", Some("one")),
            ("B", Some("two # not a comment")),
            ("C", Some("")),
            ("D", Some("a=b $HOME \\n \"q\"")),
            ("E", Some("1\n\n  3")),
            ("F", Some("last")),
            ("G", None),
        ];
        for (key, expected) in cases {
            assert_eq!(value(file, key), Ok(expected.map(str::to_owned)), "{key}");
        }
        assert_eq!(value("A='1'\r\nB='2'\r\n", "B"), Ok(Some("2".to_owned())));
        assert_eq!(value("", "A"), Ok(None));
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_refused() {
        let cases = [
            ("A='1'\nB\nC='2'", "at line 2: it has no '='"),
            ("='1'", "at line 1: it has no name"),
            ("A ='1'", "at line 1: whitespace before '=' is not allowed"),
            ("A= '1'", "at line 1: value must be enclosed in single quotes"),
            ("A=1", "at line 1: value must be enclosed in single quotes"),
            ("A=\"1\"", "at line 1: value must be enclosed in single quotes"),
            ("A='1\n2'\nB='1''2'", "at line 3: unexpected content after closing quote"),
            ("A='1'#", "at line 1: unexpected content after closing quote"),
            ("A='1", "at line 1: unclosed single quote"),
        ];
        for (file, expected) in cases {
            let error = value(file, "Z").unwrap_err();
            assert_eq!(
                error,
                format!("invalid environment variable format {expected}"),
                "{file:?}"
            );
        }
        assert_eq!(value("A='1'\nnonsense", "A"), Ok(Some("1".to_owned())), "it was found before");
    }
}

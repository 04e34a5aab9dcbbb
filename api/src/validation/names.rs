//! Formats of names and other short strings. Each function returns the messages
//! of the rules that the value breaks, in upstream's words, since users and
//! scripts read them; none when it is valid.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A rule for the names of a kind. With `prefix` the value is a `generateName`,
/// which may end in a dash.
pub type NameRule = fn(name: &str, prefix: bool) -> Vec<String>;

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

/// The message that a value is longer than `max`.
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// A message with examples and the regular expression that states the format.
fn format_message(message: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn is_lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn matches_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            is_lower_alnum(first)
                && is_lower_alnum(last)
                && bytes.iter().all(|&byte| is_lower_alnum(byte) || byte == b'-')
        }
        _ => false,
    }
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn matches_qualified(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        }
        _ => false,
    }
}

/// A DNS label as RFC 1123 has it: 63 characters of `a-z`, `0-9` and `-`.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > LABEL_MAX {
        messages.push(too_long(LABEL_MAX));
    }
    if !matches_label(value) {
        messages.push(format_message(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
             '-', and must start and end with an alphanumeric character",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "123-abc"],
        ));
    }
    messages
}

/// DNS labels joined by dots, 253 characters at most.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        messages.push(too_long(SUBDOMAIN_MAX));
    }
    if !value.split('.').all(matches_label) {
        messages.push(format_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character",
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    messages
}

/// A DNS label as RFC 1035 has it: it starts with a letter.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > LABEL_MAX {
        messages.push(too_long(LABEL_MAX));
    }
    if !matches_label(value) || !value.starts_with(|first: char| first.is_ascii_lowercase()) {
        messages.push(format_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
             with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    messages
}

/// A subdomain whose first label may be `*`.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        messages.push(too_long(SUBDOMAIN_MAX));
    }
    let rest = value.strip_prefix("*.");
    if !rest.is_some_and(|rest| rest.split('.').all(matches_label)) {
        messages.push(format_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
             subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
             end with an alphanumeric character",
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["*.example.com"],
        ));
    }
    messages
}

/// A label key and the like: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    const CHARACTERS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must \
                              start and end with an alphanumeric character";
    const REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
    const EXAMPLES: [&str; 3] = ["MyName", "my.name", "123-abc"];

    let mut messages = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            let message = format_message(CHARACTERS, REGEX, &EXAMPLES);
            return vec![format!(
                "a qualified name {message} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            messages.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            messages.extend(
                dns1123_subdomain(prefix)
                    .into_iter()
                    .map(|message| format!("prefix part {message}")),
            );
            name
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        messages.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !matches_qualified(name) {
        messages.push(format!("name part {}", format_message(CHARACTERS, REGEX, &EXAMPLES)));
    }
    messages
}

/// A qualified name that must have a domain prefix, as extended resources have.
pub fn domain_prefixed(value: &str) -> Vec<String> {
    match value.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            let mut messages: Vec<String> = dns1123_subdomain(domain)
                .into_iter()
                .map(|message| format!("prefix part {message}"))
                .collect();
            messages.extend(path_segment(path));
            messages
        }
        _ => vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()],
    }
}

/// The value of a label; may be empty.
pub fn label_value(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > LABEL_MAX {
        messages.push(too_long(LABEL_MAX));
    }
    if !value.is_empty() && !matches_qualified(value) {
        messages.push(format_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    messages
}

/// A key of a ConfigMap or Secret: it has to serve as a file name.
pub fn config_key(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        messages.push(too_long(SUBDOMAIN_MAX));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if value.is_empty() || !value.bytes().all(allowed) {
        messages.push(format_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => messages.push("must not be '.'".to_owned()),
        ".." => messages.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must not be empty".to_owned()];
    }
    if value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other \
         than '='"
            .to_owned(),
    ]
}

/// A name that stands in a URL path.
pub fn path_segment(value: &str) -> Vec<String> {
    match value {
        "." => return vec!["may not be '.'".to_owned()],
        ".." => return vec!["may not be '..'".to_owned()],
        _ => {}
    }
    ["/", "%"]
        .iter()
        .filter(|illegal| value.contains(**illegal))
        .map(|illegal| format!("may not contain '{illegal}'"))
        .collect()
}

/// The name of a port: 15 characters with a letter among them.
pub fn port_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 15 {
        messages.push(too_long(15));
    }
    if value.is_empty() || !value.bytes().all(|byte| is_lower_alnum(byte) || byte == b'-') {
        messages.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// A port number.
pub fn port_number(value: i64) -> Vec<String> {
    range(value, 1, 65535)
}

/// A user or group id.
pub fn id(value: i64) -> Vec<String> {
    range(value, 0, i64::from(i32::MAX))
}

fn range(value: i64, min: i64, max: i64) -> Vec<String> {
    if (min..=max).contains(&value) {
        return Vec::new();
    }
    vec![format!("must be between {min} and {max}, inclusive")]
}

/// An IP address of either family.
pub fn ip(value: &str) -> Vec<String> {
    if value.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

/// An address with a prefix length.
pub fn cidr(value: &str) -> Vec<String> {
    if parse_cidr(value).is_some() {
        return Vec::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
}

/// The network address and prefix length of a CIDR, host bits cleared.
pub fn parse_cidr(value: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = value.split_once('/')?;
    if length.starts_with('+') || (length.len() > 1 && length.starts_with('0')) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    match address.parse().ok()? {
        IpAddr::V4(address) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Some((Ipv4Addr::from_bits(address.to_bits() & mask).into(), length))
        }
        IpAddr::V6(address) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Some((Ipv6Addr::from_bits(address.to_bits() & mask).into(), length))
        }
        _ => None,
    }
}

/// A percentage such as `25%`.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    vec![format_message(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    vec![format_message(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// Replaces a trailing dash, which a name prefix may have, by a letter.
fn mask_dash(name: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    match name.strip_suffix('-') {
        Some(stem) if prefix && name.len() > 1 => format!("{stem}a").into(),
        _ => name.into(),
    }
}

/// Names of most kinds: a DNS subdomain.
pub fn subdomain_name(name: &str, prefix: bool) -> Vec<String> {
    dns1123_subdomain(&mask_dash(name, prefix))
}

/// Names of namespaces and the like: a DNS label.
pub fn label_name(name: &str, prefix: bool) -> Vec<String> {
    dns1123_label(&mask_dash(name, prefix))
}

/// Names of services: a DNS label that starts with a letter.
pub fn service_name(name: &str, prefix: bool) -> Vec<String> {
    dns1035_label(&mask_dash(name, prefix))
}

/// Names of RBAC kinds: whatever fits in a URL path.
pub fn path_segment_name(name: &str, _prefix: bool) -> Vec<String> {
    path_segment(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            dns1123_label("A_b"),
            ["a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
              '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
              '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"]
        );
        assert_eq!(
            dns1123_subdomain("a..b"),
            ["a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
              '-' or '.', and must start and end with an alphanumeric character (e.g. \
              'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]
        );
    }

    #[test]
    fn formats_accept_and_refuse() {
        let long = "a".repeat(64);
        type Check = fn(&str) -> Vec<String>;
        let cases: &[(&str, Check, &[&str], &[&str])] = &[
            ("label", dns1123_label, &["a", "1a", "a-b"], &["", "-a", "a-", "A", "a.b", &long]),
            ("subdomain", dns1123_subdomain, &["a", "a.b-c.1"], &["", ".", "a.", "a..b", "a_b"]),
            ("1035", dns1035_label, &["a", "a1"], &["1a", "", "a-"]),
            ("wildcard", wildcard_subdomain, &["*.a.b"], &["*", "*.", "a.b", "*a.b"]),
            (
                "qualified",
                qualified_name,
                &["a", "A_b.c", "a.b/C", "kubernetes.io/hostname"],
                &["", "/a", "a/", "a/b/c", "-a", "A/b", &long],
            ),
            ("label value", label_value, &["", "a", "A.b_c-1"], &["-a", "a b", &long]),
            ("config key", config_key, &["a", ".a", "a_B.c"], &["", ".", "..", "..a", "a/b"]),
            ("env", env_var_name, &["A", "a.b-c", "1 2"], &["", "a=b", "ä"]),
            ("segment", path_segment, &["system:node", "a b"], &[".", "..", "a/b", "a%b"]),
            ("port", port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "Http", &long]),
            ("ip", ip, &["10.0.0.1", "::1"], &["", "10.0.0", "10.0.0.256", "10.0.0.01"]),
            ("cidr", cidr, &["10.0.0.0/8", "::/0", "0.0.0.0/0"], &["10.0.0.0", "10.0.0.0/33"]),
            ("percent", percent, &["0%", "100%"], &["", "%", "1", "-1%", "1.5%"]),
        ];
        for (name, check, good, bad) in cases {
            for value in *good {
                assert_eq!(check(value), [""; 0], "{name} {value:?}");
            }
            for value in *bad {
                assert_ne!(check(value), [""; 0], "{name} {value:?}");
            }
        }
    }

    #[test]
    fn a_name_prefix_may_end_in_a_dash() {
        assert!(subdomain_name("web-", true).is_empty());
        assert!(!subdomain_name("web-", false).is_empty());
        assert!(!subdomain_name("-", true).is_empty());
    }

    #[test]
    fn cidrs_lose_their_host_bits() {
        let network = |text: &str| parse_cidr(text).map(|(ip, len)| format!("{ip}/{len}"));
        assert_eq!(network("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(network("1.2.3.4/0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(network("2001:db8::1/64").as_deref(), Some("2001:db8::/64"));
    }
}

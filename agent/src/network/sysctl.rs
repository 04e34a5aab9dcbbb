//! Kernel switches below `/proc/sys/net`, read and written for the calling
//! thread's network namespace.

use std::fs;

use super::NetworkError;

/// A switch and a value it has or had, written `net.ipv4.ip_forward=0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
}

impl Setting {
    /// Reads `net.ipv4.ip_forward=0`. Names outside `net.` are refused: the
    /// text comes back from the kernel's rules, where others may write too.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, value) = text.split_once('=')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let safe = name.starts_with("net.") && name.chars().all(plain) && !name.contains("..");
        safe.then(|| Self { name: name.to_owned(), value: value.to_owned() })
    }

    /// The switch's present value.
    pub(super) fn observe(name: &str) -> Result<Self, NetworkError> {
        let path = path_of(name);
        let value = fs::read_to_string(&path)
            .map_err(|source| NetworkError::Sysctl { path, source })?
            .trim()
            .to_owned();
        Ok(Self { name: name.to_owned(), value })
    }

    /// Sets the switch to this value, if it has another.
    pub(super) fn apply(&self) -> Result<(), NetworkError> {
        if Self::observe(&self.name)?.value == self.value {
            return Ok(());
        }
        let path = path_of(&self.name);
        fs::write(&path, &self.value).map_err(|source| NetworkError::Sysctl { path, source })
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

fn path_of(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_network_switches_parse() {
        let cases = [
            ("net.ipv4.ip_forward=0", true),
            ("kernel.panic=1", false),
            ("net.ipv4.ip_forward", false),
            ("net...kernel.panic=1", false),
            ("net./etc/passwd=1", false),
        ];
        for (text, valid) in cases {
            assert_eq!(Setting::parse(text).is_some(), valid, "{text}");
        }
        assert_eq!(Setting::parse("net.a=0").map(|s| s.to_string()).as_deref(), Some("net.a=0"));
    }
}

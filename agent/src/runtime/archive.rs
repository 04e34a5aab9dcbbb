//! One file of a container, in the archive that Docker makes of it. Pure.

use std::io::Read;

use tar::{Archive, EntryType};

/// What is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file with this content.
    File(Vec<u8>),
    /// A link to this path.
    Link(String),
    /// Nothing that can be read.
    Other,
}

/// The first entry of the archive of `path`.
pub(super) fn only_entry(tar: &[u8], path: &str) -> Entry {
    let mut archive = Archive::new(tar);
    let Some(Ok(mut entry)) = archive.entries().ok().and_then(|mut all| all.next()) else {
        return Entry::Other;
    };
    match entry.header().entry_type() {
        EntryType::Regular => {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_or(Entry::Other, |_| Entry::File(bytes))
        }
        EntryType::Symlink => match entry.link_name() {
            Ok(Some(target)) => Entry::Link(beside(path, &target.to_string_lossy())),
            _ => Entry::Other,
        },
        _ => Entry::Other,
    }
}

/// Where a link at `path` leads to. Docker resolves the dots, and keeps to the
/// container.
fn beside(path: &str, target: &str) -> String {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    if target.starts_with('/') { target.to_owned() } else { format!("{folder}/{target}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(kind: EntryType, content: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        let mut builder = tar::Builder::new(Vec::new());
        if kind == EntryType::Symlink {
            header.set_size(0);
            builder.append_link(&mut header, "passwd", content).unwrap();
        } else {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, "passwd", content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_and_links_are_told_apart() {
        let link = |target: &str| Entry::Link(target.into());
        let cases = [
            ("a file", tar(EntryType::Regular, "root:x:0:0"), Entry::File(b"root:x:0:0".to_vec())),
            ("a link", tar(EntryType::Symlink, "../run/passwd"), link("/etc/../run/passwd")),
            ("a link from the root", tar(EntryType::Symlink, "/run/passwd"), link("/run/passwd")),
            ("a folder", tar(EntryType::Directory, ""), Entry::Other),
            ("nothing", Vec::new(), Entry::Other),
            ("no archive", vec![7; 512], Entry::Other),
        ];
        for (name, tar, expected) in cases {
            assert_eq!(only_entry(&tar, "/etc/passwd"), expected, "{name}");
        }
    }
}

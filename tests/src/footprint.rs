//! What Skiff could leave behind on a host, as text to compare.

use std::path::Path;
use std::process::Command;

use crate::run;

/// Interfaces, routes, rules, namespaces and mounts of the host.
#[derive(Debug, PartialEq, Eq)]
pub struct Footprint(Vec<(&'static str, String)>);

impl Footprint {
    /// Takes the picture.
    pub fn take() -> Self {
        let commands: [(&str, &[&str]); 7] = [
            ("interfaces", &["ip", "-o", "link", "show"]),
            ("addresses", &["ip", "-o", "address", "show"]),
            ("routes", &["ip", "route", "show", "table", "all"]),
            ("policies", &["ip", "rule", "show"]),
            ("rules", &["nft", "list", "ruleset"]),
            ("namespaces", &["ip", "netns", "list"]),
            ("mounts", &["cat", "/proc/self/mounts"]),
        ];
        Self(commands.map(|(name, words)| (name, normal(name, &tell(words)))).into())
    }

    /// Panics with the first difference.
    #[track_caller]
    pub fn assert_unchanged_since(&self, before: &Self) {
        for ((name, now), (_, before)) in self.0.iter().zip(&before.0) {
            assert_eq!(before, now, "{name} differ");
        }
    }
}

/// Ids of the containers that belong to a data directory, sorted; with
/// `running` only those that run.
pub fn containers_of(data_dir: &Path, running: bool) -> Vec<String> {
    let mut hash = Command::new("sha256sum");
    hash.arg("-");
    let hash = run(hash, data_dir.to_str()).ok();
    let mut list = Command::new("docker");
    list.args([
        "ps",
        "--quiet",
        "--no-trunc",
        "--filter",
        &format!("label=skiff.instance={}", &hash[..8]),
    ]);
    if !running {
        list.arg("--all");
    }
    let mut ids: Vec<String> = run(list, None).ok().lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

/// Panics if a sandbox image stays in Docker that no container uses. Another
/// cluster that starts at this moment has loaded one and makes use of it soon.
#[track_caller]
pub fn assert_no_sandbox_image() {
    crate::eventually("no unused sandbox image", std::time::Duration::from_secs(10), || {
        let images = tell(&["docker", "images", "--quiet", "--no-trunc", "skiff/pause"]);
        let unused = images.lines().find(|image| {
            let filter = format!("ancestor={image}");
            tell(&["docker", "ps", "--all", "--quiet", "--filter", &filter]).is_empty()
        });
        unused.map_or(Ok(()), |image| Err(format!("{image} is left")))
    });
}

fn tell(words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    run(command, None).stdout
}

/// Leaves out what changes by itself: counters, and the order of lines.
fn normal(name: &str, text: &str) -> String {
    let mut lines: Vec<String> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .map(without_counters)
        .collect();
    if name == "mounts" {
        lines.retain(|line| line.contains("skiff"));
    }
    lines.sort_unstable_by_key(|line| if name == "rules" { String::new() } else { line.clone() });
    lines.join("\n")
}

fn without_counters(line: &str) -> String {
    let mut words = Vec::new();
    let mut skip = 0;
    for word in line.split(' ') {
        if skip > 0 {
            skip -= 1;
            continue;
        }
        match word {
            // `counter packets 3 bytes 252` in rules.
            "packets" | "bytes" => skip = 1,
            word => words.push(word),
        }
    }
    words.join(" ")
}

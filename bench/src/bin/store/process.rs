//! What the kernel says about a process.

use anyhow::Context;

/// Resident memory in MiB.
pub(crate) fn rss_mib(pid: u32) -> anyhow::Result<f64> {
    Ok(field(pid, "status", "VmRSS:")? / 1024.0)
}

/// Bytes that the process caused to be written to a disk.
pub(crate) fn disk_bytes(pid: u32) -> anyhow::Result<f64> {
    field(pid, "io", "write_bytes:")
}

fn field(pid: u32, file: &str, name: &str) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/{file}");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.with_context(|| format!("{path} has no {name}"))
}

//! What a process has cost so far, as the kernel counts it (proc(5)).

use std::time::Duration;

use anyhow::Context;

/// Time that a process has spent on a core so far.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Fields 14 and 15, counted behind the name in brackets.
    let fields: Vec<&str> = stat[stat.rfind(')').context("no name")? + 2..].split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no tick")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Bytes that a process has caused to be written to a disk.
pub fn written(pid: u32) -> anyhow::Result<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line =
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("no write_bytes")?;
    Ok(line.trim().parse()?)
}

/// Bytes of memory that are resident.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "Rss")
}

/// One entry of a process's memory, such as `Private_Dirty`, in bytes.
pub fn memory(pid: u32, entry: &str) -> anyhow::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup
        .lines()
        .find(|line| line.starts_with(&format!("{entry}:")))
        .context("no such entry")?;
    let kibibytes: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kibibytes * 1024)
}

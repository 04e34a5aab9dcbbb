//! What the benchmarks share: figures of a process, bare Docker as the floor,
//! pods through `kubectl`, and how results are printed.
//!
//! Each benchmark is a program of its own under `bin/`; results are recorded in
//! `bench/README.md`.

pub mod docker;
pub mod pods;
pub mod process;
pub mod report;

/// The image that pods, bare containers and Swarm tasks run.
pub const IMAGE: &str = "skiff-example/busybox:latest";

/// What runs in it: waits, and ends at once when asked to.
pub const WAIT: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"];

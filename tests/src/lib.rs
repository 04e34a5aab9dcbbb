//! What end-to-end tests stand on: the release binaries, real `kubectl`, real
//! Docker, and clusters that are removed even when a test fails.
//!
//! Tests say what they wait for and how long at most ([`eventually`]); nothing
//! sleeps and hopes.

mod client;
mod cluster;
mod command;
mod disk;
mod dockerd;
mod footprint;
mod load;
mod master;
mod registry;

pub use client::client_of;
pub use cluster::{Cluster, Lab};
pub use command::{Kubectl, Output, kubectl_in, run, skiff, skiffctl};
pub use disk::SmallDisk;
pub use dockerd::{Dockerd, Dockers};
pub use footprint::{Footprint, assert_no_sandbox_image, containers_of};
pub use load::{Load, fetch};
pub use master::Master;
pub use registry::Registry;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The repository's folder.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the repository exists")
}

/// Looks again and again until `check` gives a value, and panics with its last
/// complaint when `limit` has passed.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return value,
            Err(complaint) if Instant::now() > deadline => {
                panic!("{what}: not within {limit:?}: {complaint}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Marks a step in the output, so that a failure shows how far a test came.
pub fn step(text: &str) {
    println!("--- {text}");
}

/// End-to-end tests make namespaces and rules, which needs root.
pub fn need_root() {
    assert!(nix::unistd::Uid::effective().is_root(), "end-to-end tests run as root");
}

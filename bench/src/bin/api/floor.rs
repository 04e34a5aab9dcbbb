//! What the disk alone costs.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::load::Measured;

/// One block.
const BLOCK: usize = 4096;

/// Appends blocks to a file, each on disk before the next.
pub(crate) fn syncs(dir: &Path, span: Duration) -> anyhow::Result<Measured> {
    let mut file = std::fs::File::create(dir.join("syncs"))?;
    let mut micros = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < span {
        let before = Instant::now();
        file.write_all(&[7; BLOCK])?;
        file.sync_data()?;
        micros.push(u32::try_from(before.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(Measured::of(micros, begin.elapsed()))
}

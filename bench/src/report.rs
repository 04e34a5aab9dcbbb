//! Tables, as `bench/README.md` holds them.

/// Prints a table's head.
pub fn head() {
    println!("| what | measured | budget |");
    println!("|---|---|---|");
}

/// Prints one line of a table.
pub fn row(what: &str, measured: &str, budget: &str) {
    println!("| {what} | {measured} | {budget} |");
}

/// Bytes in MB.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Bytes in MiB.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Smallest, middle and largest.
pub fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

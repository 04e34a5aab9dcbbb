//! Side-by-side benchmarks, recorded in bench/README.md.

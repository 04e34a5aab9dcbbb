//! Asks the linker for a small program.
//!
//! Packed relocations (`DT_RELR`): a position-independent program of this size
//! has a hundred thousand relocations; packed they take kilobytes instead of
//! megabytes. The C library must understand them: glibc does from 2.36 on, and
//! this script runs with the one that the program is built for.
//!
//! Identical code folding: the readers of hundreds of Kubernetes types come out
//! as the same machine code under many names; one copy is enough. LLD does
//! that, which is Rust's linker for this target.
//!
//! No unwinding tables: a release panics by aborting, so nothing unwinds, and a
//! backtrace of a program without symbols would say nothing. The compiler writes
//! the tables nevertheless, and a profile cannot tell it not to.

use std::ffi::{CStr, c_char};
use std::path::Path;

/// Where Rust brings LLD along and links with it.
const LLD_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The linker script that leaves the tables out.
const NO_UNWIND_TABLES: &str = "no-unwind-tables.ld";

unsafe extern "C" {
    safe fn gnu_get_libc_version() -> *const c_char;
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("PROFILE") != "release" {
        return;
    }
    let target = variable("TARGET");
    if variable("HOST") == target && glibc_version() >= (2, 36) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if target == LLD_TARGET {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all,-O2");
        let script = Path::new(&variable("CARGO_MANIFEST_DIR")).join(NO_UNWIND_TABLES);
        println!("cargo:rerun-if-changed={NO_UNWIND_TABLES}");
        println!("cargo:rustc-link-arg-bins=-T{}", script.display());
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
    // The profile asks for this too, but the tool it uses leaves a program with
    // packed relocations as it is.
    println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
}

/// Major and minor, such as (2, 36); zeros when it cannot be read.
fn glibc_version() -> (u32, u32) {
    // SAFETY: glibc returns a string of its own that lives for ever (gnu_get_libc_version(3)).
    let version = unsafe { CStr::from_ptr(gnu_get_libc_version()) };
    let version = version.to_str().unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

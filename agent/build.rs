//! Compiles `sandbox/pause.rs`, the only program in the sandbox image, with
//! the same `rustc` that compiles this crate. It is a program of its own
//! because it must be static and stand alone; nothing but `rustc` and its
//! linker is needed.

use std::path::PathBuf;
use std::process::{Command, exit};

const SOURCE: &str = "sandbox/pause.rs";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| match std::env::var(name) {
        Ok(value) => value,
        Err(_) => fail(&format!("cargo did not set {name}")),
    };
    let out = PathBuf::from(variable("OUT_DIR")).join("pause");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition=2024", "--crate-type=bin", "--crate-name=pause"])
        .args(["--target", &variable("TARGET")])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
            "-C",
            "relocation-model=static",
        ])
        .args([
            "-C",
            "link-arg=-nostartfiles",
            "-C",
            "link-arg=-nostdlib",
            "-C",
            "link-arg=-static",
        ])
        .args(["-C", "link-arg=-Wl,--build-id=none"])
        .arg("-o")
        .arg(&out)
        .arg(SOURCE);
    match rustc.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("cannot compile {SOURCE}: rustc ended with {status}")),
        Err(error) => fail(&format!("cannot run rustc to compile {SOURCE}: {error}")),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    exit(1)
}

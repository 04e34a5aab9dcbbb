//! `skiff`: master, node, and lab in one program.

fn main() -> std::process::ExitCode {
    skiff_cli::skiff::main()
}

//! `skiffctl`: the client for people who know `kubectl`.

fn main() -> std::process::ExitCode {
    skiff_cli::skiffctl::main()
}

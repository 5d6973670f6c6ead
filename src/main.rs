//! The `longtake` program: see [`longtake::cli`].

fn main() -> std::process::ExitCode {
    longtake::cli::main()
}

//! The `longtake` program: see [`longtake::cli`].

#[global_allocator]
static ALLOCATOR: longtake::kernels::pages::LargePages = longtake::kernels::pages::LargePages;

fn main() -> std::process::ExitCode {
    longtake::cli::main()
}

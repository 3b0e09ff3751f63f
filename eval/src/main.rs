//! The `eval` program.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(eval::cli::run(
        std::env::args_os(),
        &mut preprocess::console::Printer::stdio(),
    ))
}

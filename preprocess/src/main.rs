//! `preprocess`: images to latent shards.

use std::process::ExitCode;

use preprocess::console::Printer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(preprocess::cli::run(std::env::args_os(), &mut Printer::stdio()))
}

//! `trainer`: DiffuSSM from shards of latents.

use std::process::ExitCode;

use preprocess::console::Printer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(trainer::cli::run(std::env::args_os(), &mut Printer::stdio()))
}

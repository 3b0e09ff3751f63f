//! `shards`: looks into datasets of latents, checks, exports and times them.

use std::process::ExitCode;

use preprocess::console::Printer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(preprocess::shards_cli::run(
        std::env::args_os(),
        &mut Printer::stdio(),
    ))
}

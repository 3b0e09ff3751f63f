//! The `fid` program: `fid ARGS` is `eval fid ARGS`.

use std::ffi::OsString;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = ["eval", "fid"]
        .map(OsString::from)
        .into_iter()
        .chain(std::env::args_os().skip(1));
    ExitCode::from(eval::cli::run(args, &mut preprocess::console::Printer::stdio()))
}

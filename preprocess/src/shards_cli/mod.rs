//! The command line of `shards`. It lives here, so that the format's own crate knows neither terminals nor pictures.

mod bench;
mod export;
mod inspect;
mod merge;
mod picture;
mod statistics;
mod study;
mod target;
mod verify;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::console::{Printer, exit};

/// Looks into datasets of latents, checks, exports and times them.
#[derive(Debug, Parser)]
#[command(name = "shards", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write only results and errors
    #[arg(long, global = true)]
    quiet: bool,
}

const EXAMPLES: &str = "Examples:
  shards inspect data/imagenet-256 --png latents.png
  shards verify data/imagenet-256
  shards export data/imagenet-256 --out first.npz --limit 1k
  shards merge part-1 part-2 part-3 part-4 --out data/imagenet-256
  shards bench data/imagenet-256 --workers 4";

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell where a dataset or a shard comes from, what it holds and how its latents are distributed
    Inspect(inspect::InspectArgs),
    /// Check every checksum; exit code 1 and a list of the faults when something is damaged
    Verify(verify::VerifyArgs),
    /// Write a dataset as plain f32 arrays, in the order of its keys
    Export(export::ExportArgs),
    /// Make one dataset of the parts that several machines encoded
    Merge(merge::MergeArgs),
    /// Measure how fast training batches can be loaded
    Bench(bench::BenchArgs),
    /// Measure what each dtype, frame size and level of compression would cost on the latents of a dataset
    Study(study::StudyArgs),
}

/// Runs `shards` with the arguments `args` (the program's name first); answers the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>, printer: &mut Printer) -> u8 {
    let cli: Cli = match exit::parse(args, printer) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    printer.set_quiet(cli.quiet);
    let done = match &cli.command {
        Command::Inspect(args) => inspect::run(args, printer),
        Command::Verify(args) => verify::run(args, printer),
        Command::Export(args) => export::run(args, printer),
        Command::Merge(args) => merge::run(args, printer),
        Command::Bench(args) => bench::run(args, printer),
        Command::Study(args) => study::run(args, printer),
    };
    let code = done.unwrap_or_else(|error| exit::fail(printer, &error));
    printer.flush();
    code
}

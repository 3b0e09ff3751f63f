//! The command line.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};
use preprocess::console::{Printer, exit};

use crate::commands::{fid, quickstart, reference, report, sweep};

/// Scores images as the literature on diffusion models does.
#[derive(Debug, Parser)]
#[command(name = "eval", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say nothing but errors.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// FID, sFID, Inception score, precision and recall of a set of images.
    Fid(Box<fid::Args>),
    /// Make a reference file (statistics and 10,000 images) from a set of images.
    Reference(reference::Args),
    /// Draw shapes, train a small model on them, sample and score: about three minutes, no network.
    Quickstart(quickstart::Args),
    /// One HTML page of several evaluations.
    Report(report::Args),
    /// Scores of a model over guidance scales and checkpoints, as a table and curves.
    Sweep(Box<sweep::Args>),
}

/// The command line's definition, for what reads it without running it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with `args` (the first is the program's name) and answers the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>, printer: &mut Printer) -> u8 {
    let cli: Cli = match exit::parse(args, printer) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    printer.set_quiet(cli.quiet);
    let outcome = match &cli.command {
        Command::Fid(args) => fid::run(args, printer),
        Command::Reference(args) => reference::run(args, printer),
        Command::Quickstart(args) => quickstart::run(args, printer),
        Command::Report(args) => report::run(args, printer),
        Command::Sweep(args) => sweep::run(args, printer),
    };
    printer.flush();
    match outcome {
        Ok(()) => exit::DONE,
        Err(error) => exit::fail(printer, &error),
    }
}

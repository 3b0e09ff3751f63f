//! The command line of `trainer`.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};
use preprocess::console::{Printer, exit};

use crate::commands;

/// Trains DiffuSSM on shards of latents, and samples from it.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write only results and errors
    #[arg(long, global = true)]
    quiet: bool,
}

const EXAMPLES: &str = "Examples:
  trainer fit --data data/imagenet-256 --config imagenet256-s --set optim.lr=2e-4
  trainer fit --out runs/imagenet-256-imagenet256-s        (goes on)
  trainer sample --checkpoint runs/demo-64-demo --count 20 --cfg 2 --out grid.png
  trainer plot runs/one runs/other --out loss.png
  trainer export --checkpoint runs/one --out export";

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model; run again after an interruption, it goes on
    Fit(Box<commands::fit::FitArgs>),
    /// Draw samples of a trained model
    Sample(commands::sample::SampleArgs),
    /// Write a checkpoint's weights as safetensors for others to load
    Export(commands::export::ExportArgs),
    /// Draw curves of one or several runs
    Plot(commands::plot::PlotArgs),
    /// Print parameters, cost and memory of a configuration
    Info(commands::info::InfoArgs),
    /// Time training steps on made-up latents
    Bench(commands::bench::BenchArgs),
}

/// The command line's definition, for what reads it without running it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs `trainer` with the arguments `args` (the program's name first); answers the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>, printer: &mut Printer) -> u8 {
    let cli: Cli = match exit::parse(args, printer) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    printer.set_quiet(cli.quiet);
    let done = match &cli.command {
        Command::Fit(args) => commands::fit::run(args, printer),
        Command::Sample(args) => commands::sample::run(args, printer),
        Command::Export(args) => commands::export::run(args, printer),
        Command::Plot(args) => commands::plot::run(args, printer),
        Command::Info(args) => commands::info::run(args, printer),
        Command::Bench(args) => commands::bench::run(args, printer),
    };
    let code = done.unwrap_or_else(|error| exit::fail(printer, &error));
    printer.flush();
    code
}

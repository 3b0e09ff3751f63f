//! The command line of `preprocess`.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

use crate::commands;
use crate::console::{Printer, exit};

/// Turns images into shards of autoencoder latents.
#[derive(Debug, Parser)]
#[command(name = "preprocess", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write only results and errors
    #[arg(long, global = true)]
    quiet: bool,
}

const EXAMPLES: &str = "Examples:
  preprocess encode --dataset folder --source photos --size 256
  preprocess crop photo.jpg --size 256 --out crop.png";

#[derive(Debug, Subcommand)]
enum Command {
    /// Encode a data set into shards; run again after an interruption, it continues
    Encode(Box<commands::encode::EncodeArgs>),
    /// Crop an image, or every image of a folder, to a square PNG
    Crop(commands::crop::CropArgs),
    /// Write pairs of original and reconstruction, with the PSNR of each
    Reconstruct(commands::reconstruct::ReconstructArgs),
    /// Encode some samples of a dataset anew and compare
    Verify(commands::verify::VerifyArgs),
}

/// The command line's definition, for what reads it without running it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs `preprocess` with the arguments `args` (the program's name first); answers the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>, printer: &mut Printer) -> u8 {
    let cli: Cli = match exit::parse(args, printer) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    printer.set_quiet(cli.quiet);
    let done = match &cli.command {
        Command::Encode(args) => commands::encode::run(args, printer),
        Command::Crop(args) => commands::crop::run(args, printer),
        Command::Reconstruct(args) => commands::reconstruct::run(args, printer),
        Command::Verify(args) => commands::verify::run(args, printer),
    };
    let code = done.unwrap_or_else(|error| exit::fail(printer, &error));
    printer.flush();
    code
}

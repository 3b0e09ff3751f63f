//! `trainer export`: a checkpoint's weights for others to load.

use std::path::PathBuf;

use anyhow::Result;
use preprocess::console::count::with_commas;
use preprocess::console::{JsonTarget, Printer, exit};

use crate::checkpoint::{self, WeightKind};
use crate::export::{self, ExportConfig, WeightDtype};

/// Writes the weights of a checkpoint as safetensors, with a config.json that says what they mean.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A checkpoint, or a run for its newest one
    #[arg(long, value_name = "DIR", default_value = "runs")]
    checkpoint: PathBuf,
    /// The averaged weights: what samples are drawn with (the default)
    #[arg(long, conflicts_with = "raw")]
    ema: bool,
    /// The weights as the last step left them
    #[arg(long)]
    raw: bool,
    /// Type of the tensors; bf16 is half the size
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// When there is no sound checkpoint, or the folder cannot be written or is not empty.
pub fn run(args: &ExportArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let (kind, name) = if args.raw {
        (WeightKind::Raw, "last")
    } else {
        (WeightKind::Ema, "averaged")
    };
    let dtype = match args.dtype.as_str() {
        "bf16" => WeightDtype::Bf16,
        _ => WeightDtype::F32,
    };
    let (state, values) = checkpoint::load_weights(&checkpoint::find(&args.checkpoint)?, kind)?;
    let config = ExportConfig::new(&state, kind, dtype);
    export::write(&args.out, &config, &values)?;
    let out = args.out.display();
    printer.say(format_args!(
        "wrote the {name} weights of step {}, {} parameters in {}, to {out}/{{{},{}}}\n\
         next: trainer sample --checkpoint {out} --out grid.png; trainer fit --init {out} --data DIR",
        with_commas(state.step),
        with_commas(config.parameters as u64),
        args.dtype,
        export::WEIGHTS,
        export::CONFIG,
    ));
    let report = serde_json::json!({
        "out": args.out,
        "weights": kind,
        "dtype": dtype,
        "step": state.step,
        "parameters": config.parameters,
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

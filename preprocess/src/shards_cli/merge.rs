//! `shards merge`: the parts of several machines become one dataset.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use shards::merge::merge;

use crate::console::count::with_commas;
use crate::console::{JsonTarget, Printer, Progress, exit};

/// Merges the parts that `preprocess encode --part i/n` made, given in any order.
///
/// The result is, byte for byte, what one run without --part makes. A merge that was stopped goes on when the same
/// command is run again; the parts are left as they are.
#[derive(Debug, clap::Args)]
pub(super) struct MergeArgs {
    /// The folders of all parts
    #[arg(required = true, value_name = "PART")]
    parts: Vec<PathBuf>,
    /// The folder of the whole dataset
    #[arg(long)]
    out: PathBuf,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
pub(super) fn run(args: &MergeArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let mut progress = None;
    let merged = merge(&args.parts, &args.out, |done, all| {
        progress
            .get_or_insert_with(|| Progress::new(printer, "merge", "samples", 0, Some(all)))
            .set(printer, done, "");
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    let manifest = &merged.manifest;
    printer.say(format_args!(
        "merged {} parts into {}: {} samples in {} shards, {} rejects",
        args.parts.len(),
        args.out.display(),
        with_commas(manifest.samples),
        manifest.shards.len(),
        merged.rejects
    ));
    let report = json!({
        "out": args.out,
        "parts": args.parts.len(),
        "samples": manifest.samples,
        "shards": manifest.shards.len(),
        "rejects": merged.rejects,
        "resumed_at": merged.resumed_at,
        "fingerprint": manifest.fingerprint,
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

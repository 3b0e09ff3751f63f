//! `shards verify`: the hashes and checksums of a dataset or a shard.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use shards::verify::{Depth, verify_to};

use crate::console::count::with_commas;
use crate::console::{JsonTarget, Printer, exit};

/// Checks that every byte is the one that was written.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// A dataset's folder, or one shard
    path: PathBuf,
    /// Decode every frame too; without it a file that has the manifest's SHA-256 is taken as sound, and frames are
    /// decoded only to say where another is damaged
    #[arg(long)]
    frames: bool,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command; damage gives exit code 1.
pub(super) fn run(args: &VerifyArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let depth = if args.frames { Depth::Frames } else { Depth::Hashes };
    let report = verify_to(&args.path, depth)?;
    let frames: usize = report.shards.iter().map(|shard| shard.frames).sum();
    let samples: u64 = report.shards.iter().map(|shard| shard.samples).sum();
    let mut faults = Vec::new();
    for fault in report.faults() {
        let message = fault.to_string();
        let what = message.split("\nhint:").next().unwrap_or_default();
        printer.say(what);
        faults.push(json!({
            "file": fault.path().unwrap_or(&args.path),
            "frame": fault.place().map(|(frame, _)| frame),
            "byte": fault.place().map(|(_, byte)| byte),
            "what": what,
        }));
    }
    let checked = format!(
        "{} frames of {} shards with {} samples",
        with_commas(frames as u64),
        report.shards.len(),
        with_commas(samples)
    );
    if faults.is_empty() {
        printer.say(format_args!("sound: {checked}"));
    } else {
        printer.say(format_args!("damaged: {} faults in {checked}", faults.len()));
        printer.note("hint: remove the damaged files and run the same `preprocess encode` again");
    }
    let value = json!({
        "path": args.path,
        "sound": faults.is_empty(),
        "shards": report.shards.len(),
        "samples": samples,
        "frames": frames,
        "faults": faults,
    });
    printer.json(json, &value)?;
    Ok(if faults.is_empty() { exit::DONE } else { exit::BAD })
}

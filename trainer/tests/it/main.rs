//! The `trainer` program as users run it.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails as the test does")]

mod commands;
mod exported;
mod frechet;
mod latents;
#[cfg(feature = "mpi")]
mod mpi;
mod presets;
mod resume;
mod samples;
mod tensorboard;
mod unkillable;

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use preprocess::console::Printer;

/// A dataset of 40 images of 8 x 8 pixels, stored as pixels.
fn dataset(dir: &Path) -> String {
    dataset_of(dir, "40")
}

/// A dataset of `count` such images.
fn dataset_of(dir: &Path, count: &str) -> String {
    let out = dir.join("data").display().to_string();
    let args = [
        "preprocess",
        "encode",
        "--dataset",
        "demo",
        "--size",
        "8",
        "--vae",
        "none",
        "--limit",
        count,
        "--out",
        &out,
    ];
    let (mut printer, _, err) = Printer::captured();
    let code = preprocess::cli::run(args.map(OsString::from), &mut printer);
    assert_eq!(code, 0, "{}", err.text());
    out
}

/// Arguments of a small, quick run.
fn small<'a>(data: &'a str, out: &'a str) -> Vec<&'a str> {
    let sets = [
        "model.hidden_size=16",
        "model.depth=2",
        "model.freq_dim=16",
        "model.patch_size=2",
        "optim.global_batch_size=8",
        "run.log_every=1",
        "run.sample_every=0",
        "run.threads=2",
    ];
    with(&["fit", "--config", "demo", "--data", data, "--out", out], &sets)
}

/// [`small`] with other values.
fn run_of<'a>(data: &'a str, out: &'a str, sets: &[&'a str]) -> Vec<&'a str> {
    with(&small(data, out), sets)
}

/// Arguments with `--set` for each of `sets`.
fn with<'a>(args: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    let sets = sets.iter().flat_map(|&set| ["--set", set]);
    args.iter().copied().chain(sets).collect()
}

/// Runs `trainer` in this process: exit code, stdout, stderr.
fn trainer(args: &[&str]) -> (u8, String, String) {
    let (mut printer, out, err) = Printer::captured();
    let args = std::iter::once("trainer")
        .chain(args.iter().copied())
        .map(OsString::from);
    let code = trainer::cli::run(args, &mut printer);
    (code, out.text(), err.text())
}

/// The program itself, for what needs a process.
fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.args(args);
    command
}

//! Several processes under mpirun score what one process scores, and keep what they saw.
//!
//! ```text
//! cargo test --release --workspace --features eval/mpi --test mpi
//! ```
#![expect(clippy::unwrap_used, reason = "a helper of tests fails as the test does")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use preprocess::console::Printer;

fn run(program: fn(Vec<OsString>, &mut Printer) -> u8, args: &[&str]) {
    let (mut printer, _, err) = Printer::captured();
    let code = program(args.iter().map(Into::into).collect(), &mut printer);
    assert_eq!(code, 0, "{}", err.text());
}

/// A dataset of pixels and a model of two steps.
fn model(dir: &Path) -> String {
    let (data, model) = (dir.join("data"), dir.join("run"));
    let (data, model) = (data.display().to_string(), model.display().to_string());
    let encode = [
        "preprocess",
        "encode",
        "--dataset",
        "demo",
        "--size",
        "8",
        "--vae",
        "none",
    ];
    run(
        preprocess::cli::run,
        &[&encode[..], &["--limit", "10", "--out", &data]].concat(),
    );
    let mut fit = vec![
        "trainer", "fit", "--config", "demo", "--data", &data, "--out", &model,
    ];
    for set in [
        "model.hidden_size=16",
        "model.depth=2",
        "model.freq_dim=16",
        "model.patch_size=2",
        "optim.global_batch_size=8",
        "run.sample_every=0",
        "run.threads=1",
        "run.num_steps=2",
    ] {
        fit.extend(["--set", set]);
    }
    run(trainer::cli::run, &fit);
    model
}

/// Scores 70 samples, two parts, in `ranks` processes; what is kept lies in `work`.
fn scores(model: &str, work: &Path, ranks: usize, metrics: &str) -> serde_json::Value {
    let work = work.display().to_string();
    let mut command = Command::new("mpirun");
    command.args([
        "--allow-run-as-root",
        "--oversubscribe",
        "--bind-to",
        "none",
        "-np",
    ]);
    command.arg(ranks.to_string()).arg(env!("CARGO_BIN_EXE_eval"));
    command.args([
        "fid",
        "--checkpoint",
        model,
        "--samples",
        "70",
        "--steps",
        "2",
        "--cfg",
        "1",
    ]);
    command.args([
        "--inception",
        "random:0",
        "--metrics",
        metrics,
        "--work",
        &work,
        "--json",
    ]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // One process alone speaks.
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Numbers alike but for the order of summation, all else equal.
fn assert_same(one: &serde_json::Value, other: &serde_json::Value) {
    let (one, other) = (one.as_object().unwrap(), other.as_object().unwrap());
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (key, value) in one {
        match (value.as_f64(), other[key].as_f64()) {
            (Some(a), Some(b)) => assert!((a - b).abs() <= 1e-6 * a.abs(), "{key}: {a} {b}"),
            _ => assert_eq!(value, &other[key], "{key}"),
        }
    }
}

/// The kept features, with the time of their writing.
fn features(work: &Path) -> Vec<(PathBuf, SystemTime)> {
    let folder = std::fs::read_dir(work).unwrap().next().unwrap().unwrap().path();
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_of_network = |path: &PathBuf| path.to_string_lossy().ends_with(".random-0.npz");
    let mut found: Vec<_> = files
        .filter(is_of_network)
        .map(|path| (path.clone(), path.metadata().unwrap().modified().unwrap()))
        .collect();
    found.sort();
    found
}

#[test]
fn two_processes_score_what_one_scores_and_take_over_what_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let all = "fid,sfid,is,precision,recall";
    let expected = scores(&model, &one, 1, all);
    assert!(expected["fid"].as_f64().unwrap() > 0.0, "{expected}");
    assert_same(&expected, &scores(&model, &two, 2, all));

    // Other metrics look at nothing again, in however many processes.
    let before = features(&two);
    assert_eq!(before.len(), 2, "{before:?}");
    let some = scores(&model, &two, 1, "precision,recall");
    assert_eq!(some["precision"], expected["precision"]);
    assert_eq!(features(&two), before);

    // A part that was cut is made anew, the other stays.
    let (cut, _) = &before[1];
    let bytes = std::fs::read(cut).unwrap();
    std::fs::write(cut, &bytes[..bytes.len() / 2]).unwrap();
    assert_same(&expected, &scores(&model, &two, 2, all));
    let after = features(&two);
    assert_eq!(after[0], before[0]);
    assert_eq!(std::fs::read(cut).unwrap(), bytes);
}

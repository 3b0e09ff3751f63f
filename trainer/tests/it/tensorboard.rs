//! The event files of a run, as Python's `tensorboard` reads them.

use std::process::Command;

use serde_json::Value;

use super::resume::{losses, start, wait_for};
use super::{dataset, run_of, trainer};

/// Prints `{tag: [[step, value], ..]}` and the size of the last picture as JSON.
const READ: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0})
events.Reload()
tags = events.Tags()
values = {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]}
pictures = [[e.step, e.width, e.height, len(e.encoded_image_string)] for tag in tags["images"] for e in events.Images(tag)]
print(json.dumps({"scalars": values, "images": pictures}))
"#;

/// Needs `DIFFUSSM_TENSORBOARD_PYTHON`, a Python with the package `tensorboard`.
#[test]
fn tensorboard_reads_what_a_killed_run_left() {
    let Ok(python) = std::env::var("DIFFUSSM_TENSORBOARD_PYTHON") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let run = dir.path().join("run");
    let out = run.display().to_string();
    let sets = [
        "run.num_steps=40",
        "run.checkpoint_every=10",
        "run.sample_every=40",
        "run.sample_steps=2",
        "run.log_every=3",
    ];
    let args = run_of(&data, &out, &sets);
    for step in [10, 20] {
        let mut child = start(&args);
        wait_for(&run, step);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (code, _, err) = trainer(&args);
    assert_eq!(code, 0, "{err}");

    let told = Command::new(python)
        .args(["-c", READ])
        .arg(run.join("tensorboard"))
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{err}");
    let read: Value = serde_json::from_slice(&told.stdout).unwrap();
    let expected = losses(&run);
    for tag in ["loss", "mse", "vb", "grad_norm", "lr", "images_per_second"] {
        let found: Vec<u64> = read["scalars"][tag]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| pair[0].as_u64().unwrap())
            .collect();
        let steps: Vec<u64> = expected.iter().map(|line| line.step).collect();
        assert_eq!(found, steps, "{tag}");
    }
    for (pair, line) in read["scalars"]["loss"].as_array().unwrap().iter().zip(&expected) {
        assert_eq!(pair[1].as_f64().unwrap() as f32, line.loss as f32);
    }
    let pictures = read["images"].as_array().unwrap();
    assert_eq!(pictures.len(), 1, "{read}");
    assert_eq!(pictures[0][0], 40);
    assert!(pictures[0][3].as_u64().unwrap() > 100);
}

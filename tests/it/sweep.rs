//! `eval sweep` gives, point by point, what `eval fid` gives.

use serde_json::Value;

use super::run;

#[test]
fn a_sweep_is_many_evaluations() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (data, out, page) = (path("data"), path("run"), path("sweep"));
    let encode = "encode --dataset demo --size 16 --vae none --limit 6 --out".split(' ');
    run("preprocess", &encode.chain([&*data]).collect::<Vec<_>>());
    let sets = "model.hidden_size=16 model.depth=1 optim.global_batch_size=6 run.num_steps=4 run.sample_every=0 \
                run.checkpoint_every=2 run.async_checkpoint=false";
    let mut fit = vec!["fit", "--config", "demo", "--data", &data, "--out", &out];
    fit.extend(sets.split_whitespace().flat_map(|set| ["--set", set]));
    run("trainer", &fit);

    let common = "--samples 4 --steps 2 --sampler ddim --inception random:1 --metrics fid --json";
    let scores = |words: &[&str]| -> Value {
        let words: Vec<&str> = words.iter().copied().chain(common.split(' ')).collect();
        serde_json::from_str(&run("eval", &words)).unwrap()
    };
    let swept = scores(&[
        "sweep",
        "--checkpoint",
        &out,
        "--all-checkpoints",
        "--cfg",
        "1,2.5",
        "--out",
        &page,
    ]);
    let points: Vec<(u64, f64)> = swept
        .as_array()
        .unwrap()
        .iter()
        .map(|point| (point["step"].as_u64().unwrap(), point["cfg"].as_f64().unwrap()))
        .collect();
    assert_eq!(points, [(2, 1.0), (2, 2.5), (4, 1.0), (4, 2.5)]);
    let alone = scores(&["fid", "--checkpoint", &out, "--cfg", "2.5"]);
    assert_eq!(swept[3]["fid"], alone["fid"]);
    let drawn = std::fs::read_dir(dir.path().join("run/scored")).unwrap().count();
    assert_eq!(
        drawn, 4,
        "a set of samples for each point, and none for what was drawn before"
    );
    let html = std::fs::read_to_string(dir.path().join("sweep/sweep.html")).unwrap();
    assert!(html.contains("FID by guidance") && html.contains("FID by step"));
    assert!(
        std::fs::read_to_string(dir.path().join("sweep/sweep.md"))
            .unwrap()
            .contains("| 4 | 2.5 | ")
    );
}

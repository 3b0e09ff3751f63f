//! The distance that `trainer fit` measures on its way is the one that `eval fid` gives for its model.

use std::path::PathBuf;

use trainer::fit::{Distance, FRECHET, json_lines};

use super::run;

#[test]
fn the_trainer_and_eval_measure_the_same_distance() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (data, out, export) = (path("data"), path("run"), path("export"));
    let encode = "encode --dataset demo --size 16 --vae none --limit 8 --out".split(' ');
    run("preprocess", &encode.chain([&*data]).collect::<Vec<_>>());
    let sets = "model.hidden_size=16 model.depth=1 optim.global_batch_size=8 run.num_steps=4 run.sample_every=0 \
                run.frechet_every=4 run.frechet_samples=6 run.sample_steps=3 run.frechet_inception=random:1";
    let mut fit = vec!["fit", "--config", "demo", "--data", &data, "--out", &out];
    fit.extend(sets.split_whitespace().flat_map(|set| ["--set", set]));
    run("trainer", &fit);
    let distances: Vec<Distance> = json_lines(&dir.path().join("run").join(FRECHET)).unwrap();
    assert_eq!(distances.len(), 1, "{distances:?}");
    assert_eq!((distances[0].step, distances[0].samples), (4, 6));

    run("trainer", &["export", "--checkpoint", &out, "--out", &export]);
    let score = |model: &str, metrics: &str| -> serde_json::Value {
        let mut words = vec!["fid", "--checkpoint", model, "--metrics", metrics];
        words.extend("--samples 6 --steps 3 --sampler ddim --inception random:1 --json".split(' '));
        serde_json::from_str(&run("eval", &words)).unwrap()
    };
    for model in [&out, &export] {
        assert_eq!(
            score(model, "fid")["fid"].as_f64(),
            Some(distances[0].frechet),
            "{model}"
        );
    }

    // The samples and their features are kept: other metrics draw nothing, what is damaged is made again.
    let scored: Vec<PathBuf> = std::fs::read_dir(dir.path().join("run/scored"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(scored.len(), 1, "{scored:?}");
    let (images, features) = (
        scored[0].join("part-00000.npz"),
        scored[0].join("part-00000.random-1.npz"),
    );
    let made = |path: &PathBuf| path.metadata().unwrap().modified().unwrap();
    let times = (made(&images), made(&features));
    assert!(score(&out, "fid,is,sfid")["sfid"].is_number());
    assert_eq!((made(&images), made(&features)), times);
    for damaged in [&features, &images] {
        let bytes = std::fs::read(damaged).unwrap();
        std::fs::write(damaged, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(score(&out, "fid")["fid"].as_f64(), Some(distances[0].frechet));
        assert!(std::fs::read(damaged).unwrap() == bytes, "{}", damaged.display());
    }
}

//! Every built-in configuration trains, and is refused where the memory is too small for it.

use trainer::config::{PRESETS, Resolved, preset_with_shape};
use trainer::fit::Metrics;

use super::{latents, trainer, with};

/// A model of one narrow block with the sequence, patches, channels and classes of the configuration.
#[test]
fn every_built_in_configuration_trains_two_steps() {
    for (name, _) in PRESETS {
        let dir = tempfile::tempdir().unwrap();
        let (data, out) = (dir.path().join("data"), dir.path().join("run"));
        let preset = preset_with_shape(name).unwrap();
        let model = &preset.config.model;
        latents::write(
            &data,
            [model.in_channels, model.input_size, model.input_size],
            model.num_classes.max(1),
            3,
        );
        let (data, run) = (data.display().to_string(), out.display().to_string());
        let sets = [
            "model.hidden_size=8",
            "model.depth=1",
            "optim.global_batch_size=2",
            "run.num_steps=2",
            "run.log_every=1",
            "run.sample_every=0",
        ];
        let args = with(&["fit", "--config", name, "--data", &data, "--out", &run], &sets);
        let (code, _, err) = trainer(&args);
        assert_eq!(code, 0, "{name}: {err}");
        let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let lines: Vec<Metrics> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(lines.len() == 2 && lines[1].loss.is_finite(), "{name}: {text}");
        // What was trained is the configuration's, but for what was made smaller.
        let trained = Resolved::named(&out.join("config.toml").display().to_string()).unwrap();
        let mut expected = model.clone();
        (expected.hidden_size, expected.depth) = (8, 1);
        assert_eq!(trained.config.model, expected, "{name}");
    }
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    latents::write(&data, [4, 32, 32], 1000, 3);
    let (data, run) = (
        data.display().to_string(),
        dir.path().join("run").display().to_string(),
    );
    let fit = |sets: &[&str], more: &[&str]| {
        let args = ["fit", "--config", "imagenet256-s", "--data", &data, "--out", &run];
        let small = ["model.hidden_size=256", "model.depth=2", "run.num_steps=1"];
        let mut args = with(&args, &[&small[..], sets].concat());
        args.extend(more);
        trainer(&args)
    };
    // Half a terabyte in the forward pass of all images together, little of one.
    let large = ["optim.global_batch_size=20k", "optim.micro_batch_size=0"];
    let (code, _, err) = fit(&large, &[]);
    assert!(
        code == 2 && err.contains("are available") && err.contains("--set optim.micro_batch_size="),
        "{err}"
    );
    assert!(!std::path::Path::new(&run).exists(), "nothing was begun");
    // Without the check it comes to the next obstacle: three samples are no such batch.
    let (code, _, err) = fit(&large, &["--ignore-memory"]);
    assert!(code == 2 && err.contains("smaller batch"), "{err}");
    let huge = ["model.hidden_size=1M", "optim.global_batch_size=2"];
    let (code, _, err) = fit(&huge, &[]);
    assert!(code == 2 && err.contains("model.depth"), "{err}");

    let bench = with(&["bench"], &large);
    let (code, _, err) = trainer(&bench);
    assert!(code == 2 && err.contains("are available"), "{err}");
}

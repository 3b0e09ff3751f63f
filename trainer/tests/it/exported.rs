//! Weights that leave a run and come back: `export`, `sample` and `fit --init`; curves of both with `plot`.

use std::path::Path;

use serde_json::Value;
use trainer::checkpoint;

use super::resume::losses;
use super::{dataset, dataset_of, run_of, small, trainer};

/// A finished run of `steps` steps.
fn finished(data: &str, out: &Path, sets: &[&str]) {
    let out = out.display().to_string();
    let (code, _, err) = trainer(&run_of(data, &out, sets));
    assert_eq!(code, 0, "{err}");
}

#[test]
fn an_exported_model_draws_the_same_images() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (run, export, raw, half) = (path("run"), path("export"), path("raw"), path("new/half"));
    finished(&data, run.as_ref(), &["run.num_steps=6"]);

    let (code, out, err) = trainer(&[
        "export",
        "--checkpoint",
        &run,
        "--ema",
        "--out",
        &export,
        "--json",
    ]);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["step"], &report["weights"]), (&6.into(), &"ema".into()));
    assert_eq!(
        trainer(&["export", "--checkpoint", &run, "--raw", "--out", &raw]).0,
        0
    );
    let bf16 = ["export", "--checkpoint", &run, "--dtype", "bf16", "--out", &half];
    let (code, _, err) = trainer(&bf16);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = trainer(&bf16);
    assert!(code == 2 && err.contains("is not empty"), "{err}");

    let pixels = |from: &str, name: &str| {
        let grid = path(name);
        let args = [
            "sample",
            "--checkpoint",
            from,
            "--steps",
            "4",
            "--count",
            "3",
            "--out",
            &grid,
        ];
        let (code, _, err) = trainer(&args);
        assert_eq!(code, 0, "{err}");
        std::fs::read(grid).unwrap()
    };
    let trained = pixels(&run, "trained.png");
    assert_eq!(pixels(&export, "exported.png"), trained);
    assert_ne!(pixels(&raw, "raw.png"), trained);
    pixels(&half, "half.png");

    let config = std::fs::read_to_string(Path::new(&export).join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    for key in [
        "format",
        "weights",
        "dtype",
        "step",
        "model",
        "diffusion",
        "dataset",
        "training",
    ] {
        assert!(!config[key].is_null(), "{key}");
    }
    std::fs::write(Path::new(&export).join("model.safetensors"), b"").unwrap();
    let (code, _, err) = trainer(&["sample", "--checkpoint", &export, "--out", "x.png"]);
    assert!(code == 2 && err.contains("model.safetensors is damaged"), "{err}");
}

#[test]
fn a_run_that_starts_from_an_export_says_so_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (run, export, tuned) = (path("run"), path("export"), path("tuned"));
    finished(&data, run.as_ref(), &["run.num_steps=30", "optim.ema_decay=0.5"]);
    assert_eq!(trainer(&["export", "--checkpoint", &run, "--out", &export]).0, 0);

    let args = |more: &[&'static str]| {
        let base = ["fit", "--init", &export, "--data", &data, "--out", &tuned];
        let sets = ["--set", "run.checkpoint_every=2", "--set", "optim.warmup_steps=0"];
        [&base[..], &sets, more]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let fit = |more: &[&'static str]| {
        let args = args(more);
        trainer(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let constant = ["--set", "optim.lr_schedule=constant", "--set", "run.num_steps=4"];
    let (code, _, err) = fit(&constant);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("starting from the weights of step 30"), "{err}");
    // It begins where the other ended, not at chance.
    let (before, after) = (losses(run.as_ref()), losses(tuned.as_ref()));
    assert!(
        after[0].loss < 0.9 * before[0].loss,
        "{} {}",
        after[0].loss,
        before[0].loss
    );
    let state = checkpoint::read_state(&checkpoint::find(tuned.as_ref()).unwrap()).unwrap();
    let init = state.init.unwrap();
    assert_eq!(
        (init.path.as_str(), init.step, init.xxh64.len()),
        (export.as_str(), 30, 16)
    );

    // The same command, longer, goes on; the weights need not be there any more.
    std::fs::rename(Path::new(&export).join("model.safetensors"), path("kept")).unwrap();
    let longer = ["--set", "optim.lr_schedule=constant", "--set", "run.num_steps=6"];
    let (code, _, err) = fit(&longer);
    assert!(code == 0 && err.contains("resume   step 4"), "{err}");
    std::fs::rename(path("kept"), Path::new(&export).join("model.safetensors")).unwrap();
    let other = ["fit", "--init", &run, "--out", &tuned];
    let (code, _, err) = trainer(&other);
    assert!(
        code == 2 && err.contains("init") && err.contains("--allow init"),
        "{err}"
    );

    let fresh = path("fresh");
    let mut args = small(&data, &fresh);
    args.extend(["--init", &export, "--set", "model.hidden_size=24"]);
    let (code, _, err) = trainer(&args);
    assert!(
        code == 2 && err.contains("model.hidden_size = 16, the configuration 24"),
        "{err}"
    );
    args.extend(["--allow", "model.hidden_size"]);
    let (code, _, err) = trainer(&args);
    assert!(code == 2 && err.contains("tensor `x_embed.weight`"), "{err}");
    let (code, _, err) = trainer(&["fit", "--init", "/nowhere", "--data", &data]);
    assert!(code == 2 && err.contains("/nowhere holds no checkpoint"), "{err}");

    // Another dataset with as many classes is fine.
    let sub = dir.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    let other_data = dataset_of(&sub, "30");
    let other_out = path("other");
    let args = [
        "fit",
        "--init",
        &run,
        "--data",
        &other_data,
        "--out",
        &other_out,
        "--set",
        "run.num_steps=1",
    ];
    let (code, _, err) = trainer(&args);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn curves_of_several_runs_come_in_one_picture() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (one, two, out) = (path("one"), path("two"), path("both.png"));
    finished(&data, one.as_ref(), &["run.num_steps=3"]);
    finished(&data, two.as_ref(), &["run.num_steps=4", "run.global_seed=1"]);
    for key in ["loss", "grad_norm", "images_per_second"] {
        let (code, stdout, err) = trainer(&["plot", &one, &two, "--key", key, "--out", &out, "--json"]);
        assert_eq!(code, 0, "{err}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(
            (&report["runs"][0]["step"], &report["runs"][1]["step"]),
            (&3.0.into(), &4.0.into())
        );
        let picture = std::fs::read(&out).unwrap();
        assert!(picture.starts_with(b"\x89PNG"));
    }
    let metrics = Path::new(&one).join("metrics.jsonl").display().to_string();
    assert_eq!(trainer(&["plot", &metrics, "--from", "2", "--out", &out]).0, 0);
    let told = |args: &[&str], part: &str| {
        let (code, _, err) = trainer(args);
        assert!(code == 2 && err.contains(part), "{err}");
    };
    told(
        &["plot", &one, "--key", "accuracy", "--out", &out],
        "it has epoch, grad_norm, images_per_second",
    );
    told(&["plot", &data, "--out", &out], "metrics.jsonl is missing");
    told(&["plot", &one, "--out", "x.svg"], "must end in .png");
    told(
        &["plot", &one, "--from", "9", "--out", &out],
        "no run has a later step",
    );
}

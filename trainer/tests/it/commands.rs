//! `fit`, `sample`, `info` and `bench` as typed.

use preprocess::npz::NpzReader;
use serde_json::Value;

use super::{dataset, small, trainer};

#[test]
fn a_run_leaves_what_it_promises_and_can_be_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let run = dir.path().join("run");
    let out = run.display().to_string();
    let mut args = small(&data, &out);
    args.extend([
        "--set",
        "run.num_steps=6",
        "--set",
        "run.sample_every=6",
        "--set",
        "run.sample_steps=3",
    ]);
    args.push("--json");
    let (code, stdout, err) = trainer(&args);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["step"], &report["finished"]), (&6.into(), &true.into()));
    for name in [
        "config.toml",
        "metrics.jsonl",
        "loss.png",
        "samples/step-0000006.png",
    ] {
        assert!(run.join(name).is_file(), "{name}");
    }
    let line = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    for key in [
        "step",
        "epoch",
        "loss",
        "mse",
        "vb",
        "grad_norm",
        "lr",
        "images_per_second",
    ] {
        assert!(line[key].is_number(), "{key}: {line}");
    }
    let folder = run.join("checkpoints/step-0000006");
    for name in [
        "model.safetensors",
        "ema.safetensors",
        "optim.safetensors",
        "state.json",
    ] {
        assert!(folder.join(name).is_file(), "{name}");
    }

    let archive = dir.path().join("samples.npz").display().to_string();
    let sample = |more: &[&str]| {
        let mut args = vec!["sample", "--checkpoint", &out, "--steps", "4", "--count", "5"];
        args.extend(more);
        trainer(&args)
    };
    let (code, _, err) = sample(&["--out", &archive, "--batch", "2", "--cfg", "1.5"]);
    assert_eq!(code, 0, "{err}");
    let mut reader = NpzReader::open(archive.as_ref()).unwrap();
    assert_eq!(reader.image_shape("arr_0").unwrap(), [5, 8, 8]);
    assert!(reader.has("arr_1"));
    let grid = dir.path().join("new/grid.png").display().to_string();
    assert_eq!(
        sample(&["--out", &grid, "--sampler", "ddim", "--labels", "3,4"]).0,
        0
    );
    let (code, _, err) = sample(&["--out", &grid, "--labels", "10"]);
    assert!(code == 2 && err.contains("0..10"), "{err}");
    let (code, _, err) = sample(&["--out", "x.jpg"]);
    assert!(code == 2 && err.contains(".npz"), "{err}");
}

#[test]
fn mistakes_are_told_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let out = dir.path().join("run").display().to_string();
    let told = |more: &[&str], what: &str| {
        let mut args = small(&data, &out);
        args.extend(more);
        let (code, _, err) = trainer(&args);
        assert!(code == 2 && err.contains(what), "{err}");
    };
    told(&["--set", "optim.learning_rate=1"], "`optim.learning_rate`");
    told(&["--set", "model.input_size=16"], "model.input_size is 16");
    told(&["--set", "optim.global_batch_size=41"], "smaller batch");
    let (code, _, err) = trainer(&["fit", "--data", "/nowhere"]);
    assert!(code == 2 && err.contains("/nowhere"), "{err}");
    let (code, _, err) = trainer(&["sample", "--checkpoint", "/nowhere", "--out", "x.png"]);
    assert!(code == 2 && err.contains("holds no checkpoint"), "{err}");
}

#[test]
fn info_prints_the_published_numbers() {
    let (code, out, err) = trainer(&["info", "--config", "imagenet256-xl", "--json"]);
    assert_eq!(code, 0, "{err}");
    let info: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(info["parameters"], 673_088_272);
    assert!((info["gflops_per_image"].as_f64().unwrap() - 295.7).abs() < 0.05);
    assert!(err.contains("673,088,272") && err.contains("blocks.*.w2"));
}

#[test]
fn info_sets_all_configurations_side_by_side() {
    let (code, out, err) = trainer(&["info", "--json"]);
    assert_eq!(code, 0, "{err}");
    let info: Value = serde_json::from_str(&out).unwrap();
    let models = info["models"].as_array().unwrap();
    assert_eq!(models.len(), trainer::config::PRESETS.len());
    let large = models.iter().find(|m| m["name"] == "imagenet512-xl").unwrap();
    assert!((large["gflops_per_image"].as_f64().unwrap() - 1182.4).abs() < 0.05);
    let (all, block) = (
        &large["memory_recompute"]["none"],
        &large["memory_recompute"]["block"],
    );
    assert!(all["activations"].as_u64() > block["activations"].as_u64());
    assert_eq!(info["dit"]["parameters"], 674_834_720);
    for name in ["lsun-bedroom", "pixel128", "(DiT-XL/2 512)", "674,834,720"] {
        assert!(err.contains(name), "{err}");
    }
}

#[test]
fn figure_3_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("figure.png");
    let file = path.display().to_string();
    let (code, out, err) = trainer(&["info", "--figure3", &file, "--json"]);
    assert_eq!(code, 0, "{err}");
    let figure: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(figure["series"].as_array().unwrap().len(), 5);
    assert!(std::fs::metadata(path).unwrap().len() < 200_000);
}

#[test]
fn bench_measures_a_step() {
    let sets = [
        "model.hidden_size=16",
        "model.depth=1",
        "model.input_size=4",
        "optim.global_batch_size=2",
    ];
    let mut args = vec!["bench", "--steps", "2", "--json"];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    let (code, out, err) = trainer(&args);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    for key in ["ms_per_step", "images_per_second", "gflops_per_second"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{report}");
    }

    args.push("--forward");
    let (code, out, err) = trainer(&args);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    for kind in ["training", "inference", "sampling_step"] {
        for key in ["best_ms", "median_ms", "processor_ms"] {
            assert!(report[kind][key].as_f64().unwrap() > 0.0, "{report}");
        }
    }
    assert_eq!(report["is_guided"], true);
    assert!(err.contains("both branches in one batch"), "{err}");
}

/// Two runs in one folder instead of one run of two processes would go unnoticed.
#[cfg(not(feature = "mpi"))]
#[test]
fn several_processes_are_refused_without_mpi() {
    for (rank, ranks) in [
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_NTASKS"),
        ("RANK", "WORLD_SIZE"),
    ] {
        let mut command = super::program(&["fit", "--data", "/nowhere"]);
        let done = command.env(rank, "1").env(ranks, "2").output().unwrap();
        let err = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{err}");
        assert!(
            err.contains("--features trainer/mpi") && err.contains(&format!("{ranks}=1")),
            "{err}"
        );
    }
}

#[test]
fn a_device_that_cannot_be_is_told_with_what_to_do() {
    let told = |args: &[&str]| {
        let (code, _, err) = trainer(args);
        assert_eq!(code, 2, "{args:?}: {err}");
        err
    };
    let several = told(&["bench", "--config", "demo", "--device", "cuda:0,1"]);
    assert!(several.contains("torchrun"), "{several}");
    assert!(told(&["bench", "--config", "demo", "--device", "gpu"]).contains("cuda:1"));
    // No machine has so many.
    let none = told(&["bench", "--config", "demo", "--device", "cuda:9999"]);
    assert!(
        none.contains("--features cuda") || none.contains("GPU 9999"),
        "{none}"
    );
    let args = ["sample", "--out", "x.png", "--precision", "bf16"];
    assert!(told(&args).contains("--device cuda"));
    let args = ["bench", "--config", "demo", "--set", "run.precision=tf32"];
    assert!(told(&args).contains("--device cuda"));
}

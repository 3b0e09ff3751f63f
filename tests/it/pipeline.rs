//! The whole road on a few images: encode, train, die, go on, sample, score.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use preprocess::console::{Printer, grid};
use preprocess::dataset::demo;
use preprocess::npz::NpzReader;
use serde_json::Value;
use trainer::config::Resolved;
use trainer::fit::{self, Event, Metrics, Plan};

/// Runs a program of the workspace in this process; its standard output.
fn run(program: impl Fn(Vec<OsString>, &mut Printer) -> u8, words: &[&str]) -> String {
    let (mut printer, out, err) = Printer::captured();
    let code = program(words.iter().map(OsString::from).collect(), &mut printer);
    assert_eq!(code, 0, "{words:?}: {}", err.text());
    out.text()
}

/// Twelve pictures in two class folders, of two sizes.
fn pictures(root: &Path) {
    for id in 0..12 {
        let (image, _) = demo::draw(5, id, if id % 3 == 0 { 48 } else { 40 });
        let class = if id % 2 == 0 { "even" } else { "odd" };
        grid::write_png(&image, &root.join(class).join(format!("{id:02}.png"))).unwrap();
    }
}

fn losses(run: &Path) -> Vec<Metrics> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Metrics>(line).unwrap());
    lines
        .map(|line| Metrics {
            images_per_second: 0.0,
            ..line
        })
        .collect()
}

#[test]
fn from_pictures_to_a_score_through_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (photos, data, run_dir) = (path("photos"), path("data"), path("run"));
    pictures(photos.as_ref());
    std::fs::write(dir.path().join("photos/odd/broken.jpg"), b"\xff\xd8\xff").unwrap();
    run(
        preprocess::cli::run,
        &[
            "preprocess",
            "encode",
            "--dataset",
            "folder",
            "--source",
            &photos,
            "--size",
            "32",
            "--vae",
            "tiny",
            "--max-rejects",
            "1",
            "--out",
            &data,
        ],
    );
    assert!(shards::verify::verify(data.as_ref()).unwrap().is_sound());
    let rejects = std::fs::read_to_string(dir.path().join("data/rejects.jsonl")).unwrap();
    assert!(rejects.contains("odd/broken.jpg"), "{rejects}");

    let mut resolved = Resolved::named("demo").unwrap();
    for set in [
        "model.hidden_size=16",
        "model.depth=2",
        "optim.global_batch_size=4",
        "run.num_steps=9",
        "run.checkpoint_every=2",
        "run.log_every=1",
        "run.sample_every=0",
    ] {
        resolved.set(set).unwrap();
    }
    let plan = |out: &str| Plan {
        resolved: resolved.clone(),
        data: data.clone().into(),
        out: out.into(),
        init: None,
        allow: Vec::new(),
        place: trainer::gpu::Place::Cpu,
        available_memory: None,
    };
    let never = AtomicBool::new(false);
    fit::fit(&plan(&path("whole")), &never, &mut |_| {}).unwrap();
    // The process dies in the middle of step 6: what step 5 changed is lost, the checkpoint of step 4 is not.
    let died = catch_unwind(AssertUnwindSafe(|| {
        fit::fit(&plan(&run_dir), &never, &mut |event| {
            assert!(!matches!(event, Event::Step { step: 6, .. }), "power cut");
        })
    }));
    assert!(died.is_err());
    let outcome = fit::fit(&plan(&run_dir), &never, &mut |event| {
        if let Event::Started { step, .. } = event {
            assert_eq!(step, 4);
        }
    });
    assert!(outcome.unwrap().is_finished);
    assert_eq!(losses(run_dir.as_ref()), losses(path("whole").as_ref()));

    let samples = path("samples.npz");
    run(
        trainer::cli::run,
        &[
            "trainer",
            "sample",
            "--checkpoint",
            &run_dir,
            "--count",
            "6",
            "--steps",
            "4",
            "--cfg",
            "1.5",
            "--out",
            &samples,
        ],
    );
    let mut reader = NpzReader::open(samples.as_ref()).unwrap();
    assert_eq!(reader.image_shape("arr_0").unwrap(), [6, 32, 32]);

    let score = |what: &[&str]| -> Value {
        let mut words = vec!["eval", "fid"];
        words.extend(what);
        words.extend(["--inception", "random:0", "--metrics", "fid,is", "--json"]);
        serde_json::from_str(&run(eval::cli::run, &words)).unwrap()
    };
    let stored = score(&["--images", &samples, "--reference", &data]);
    let drawn = score(&[
        "--checkpoint",
        &run_dir,
        "--samples",
        "6",
        "--steps",
        "4",
        "--cfg",
        "1.5",
        "--batch",
        "4",
    ]);
    for report in [&stored, &drawn] {
        assert_eq!(
            (&report["samples"], &report["comparable"]),
            (&6.into(), &false.into())
        );
        assert!(report["fid"].as_f64().unwrap() > 0.0, "{report}");
    }
    let difference = stored["fid"].as_f64().unwrap() - drawn["fid"].as_f64().unwrap();
    assert!(difference.abs() < 1e-6, "{stored} {drawn}");
}

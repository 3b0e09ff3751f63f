//! The commands as users type them: crop and encode, with interruptions and bad files.

use std::path::Path;

use shards::dataset::Dataset;

use crate::{files, preprocess};

fn demo(out: &Path, extra: &[&str]) -> (u8, String, String) {
    let out = out.to_string_lossy().into_owned();
    let mut args = vec![
        "encode",
        "--dataset",
        "demo",
        "--size",
        "16",
        "--vae",
        "none",
        "--shard-samples",
        "8",
    ];
    args.extend(["--limit", "20", "--dtype", "f32", "--batch", "3", "--out", &out]);
    args.extend(extra);
    preprocess(&args)
}

#[test]
fn the_demo_set_is_stored_as_it_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = demo(dir.path(), &["--json"]);
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["samples"], 20);
    let dataset = Dataset::open(dir.path()).unwrap();
    let (image, class) = preprocess::dataset::demo::draw(0, 13, 16);
    let mut mean = vec![0f32; 3 * 16 * 16];
    dataset.read(13, 0, &mut mean, None).unwrap();
    assert_eq!(dataset.label(13).unwrap(), class as i64);
    assert_eq!(mean[1], f32::from(image.data[3]) / 127.5 - 1.0);
    dataset.read(13, 1, &mut mean, None).unwrap();
    assert_eq!(mean[0], f32::from(image.data[15 * 3]) / 127.5 - 1.0);
    let path = dir.path().to_string_lossy().into_owned();
    let (code, out, err) = preprocess(&["verify", &path, "--against", "demo", "--samples", "5"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("0 differ"), "{out}");
}

#[test]
fn an_interrupted_run_continues_to_the_same_bytes() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_eq!(demo(whole.path(), &[]).0, 0);
    assert_eq!(demo(cut.path(), &[]).0, 0);
    // As after a kill while the last shard was written: no manifest, two finished shards under their working names.
    std::fs::remove_file(cut.path().join("dataset.json")).unwrap();
    let last = files(cut.path())
        .into_iter()
        .map(|(name, _)| name)
        .rfind(|name| name.ends_with(".zst"))
        .unwrap();
    std::fs::remove_file(cut.path().join(last)).unwrap();
    let (code, _, err) = demo(cut.path(), &["--workers", "3"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(files(whole.path()), files(cut.path()));
}

#[test]
fn bad_images_are_listed_and_too_many_stop_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("photos"), dir.path().join("out"));
    std::fs::create_dir_all(source.join("a")).unwrap();
    for id in 0..5 {
        let image = preprocess::dataset::demo::draw(0, id, 40).0;
        let path = source.join(format!("a/{id}.png"));
        preprocess::console::grid::write_png(&image, &path).unwrap();
    }
    std::fs::write(source.join("a/2x.jpg"), b"\xff\xd8\xff\xe0 no image").unwrap();
    let (source, out) = (
        source.to_string_lossy().into_owned(),
        out.to_string_lossy().into_owned(),
    );
    let mut args = vec![
        "encode",
        "--dataset",
        "folder",
        "--source",
        &source,
        "--size",
        "16",
        "--vae",
        "none",
    ];
    args.extend(["--out", &out]);
    let (code, stdout, err) = preprocess(&args);
    assert_eq!(code, 0, "{err}");
    assert!(
        stdout.contains("5 samples") && stdout.contains("1 rejected"),
        "{stdout}"
    );
    let rejects = std::fs::read_to_string(Path::new(&out).join("rejects.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(rejects.trim()).unwrap();
    assert_eq!(line["key"], "a/2x.jpg");
    assert_eq!(Dataset::open(Path::new(&out)).unwrap().len(), 5);

    let strict = dir.path().join("strict").to_string_lossy().into_owned();
    let end = args.len() - 1;
    args[end] = &strict;
    args.extend(["--max-rejects", "0"]);
    let (code, _, err) = preprocess(&args);
    assert_eq!(code, 1);
    assert!(err.contains("2x.jpg") && err.contains("hint"), "{err}");
}

#[test]
fn a_gpu_that_cannot_be_used_stops_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out = out.to_string_lossy();
    // No machine has so many, whether CUDA is built in or not.
    let args = [
        "encode",
        "--dataset",
        "demo",
        "--vae",
        "tiny",
        "--device",
        "cuda:0,9999",
        "--out",
        &out,
    ];
    let (code, _, err) = preprocess(&args);
    assert_eq!(code, 2, "{err}");
    assert!(err.starts_with("error: cuda:") && err.contains("hint: "), "{err}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn wrong_usage_says_what_to_do() {
    let cases: [&[&str]; 4] = [
        &["encode", "--dataset", "imagenet"],
        &["encode", "--dataset", "folder"],
        &["encode", "--dataset", "folder", "--source", "/nonexistent"],
        &["crop", "/nonexistent.jpg", "--out", "x.png"],
    ];
    for args in cases {
        let (code, _, err) = preprocess(args);
        assert_eq!(code, 2, "{args:?}");
        assert!(err.starts_with("error: "), "{err}");
    }
}

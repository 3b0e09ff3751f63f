//! The `shards` command: inspect, verify, export and bench, on sound and on damaged data.

use std::path::{Path, PathBuf};

use preprocess::npz::{Dtype, NpzReader};
use serde_json::Value;
use shards::dataset::Dataset;

use crate::{files, preprocess, shards, text};

/// Twenty drawn images of 16 pixels in three shards.
fn demo(dir: &Path) -> PathBuf {
    let out = dir.join("demo");
    let mut args = vec![
        "encode",
        "--dataset",
        "demo",
        "--size",
        "16",
        "--vae",
        "none",
        "--dtype",
        "f32",
    ];
    args.extend(["--limit", "20", "--shard-samples", "8", "--out", text(&out)]);
    let (code, _, err) = preprocess(&args);
    assert_eq!(code, 0, "{err}");
    out
}

fn shard(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("train-{number:05}-of-00003.safetensors.zst"))
}

fn json(out: &str) -> Value {
    serde_json::from_str(out).unwrap()
}

#[test]
fn inspect_tells_origin_sizes_labels_and_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    let (code, out, err) = shards(&["inspect", text(&data)]);
    assert_eq!(code, 0, "{err}");
    for part in [
        "source    demo, split train, the first 20",
        "images    16 px, transform drawn, decoder none",
        "vae       none, revision -, sha256 -, 1/1 of the side, scaling factor 1",
        "store     mean, f32, flip both, compression zstd, 1 rows a frame, 8 samples a shard",
        "samples   20 with 2 views of [3, 16, 16], mean, f32",
        "train-00002-of-00003.safetensors.zst         4 samples",
        "labels    10 of 10 classes, 2 to 2 samples each",
        "disc",
        "mean   2",
    ] {
        assert!(out.contains(part), "`{part}` is missing:\n{out}");
    }

    let file = dir.path().join("report.json");
    let (code, out, _) = shards(&["inspect", text(&data), "--json", text(&file)]);
    assert_eq!((code, out.contains("labels")), (0, true));
    let report = json(&std::fs::read_to_string(&file).unwrap());
    let (code, out, err) = shards(&["inspect", text(&data), "--json"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(json(&out), report);
    for (place, expected) in [
        ("/kind", Value::from("dataset")),
        ("/samples", 20.into()),
        ("/views", 2.into()),
        ("/shards/2/samples", 4.into()),
        ("/labels/counts/3/name", "triangle".into()),
        ("/labels/counts/3/samples", 2.into()),
        ("/statistics/samples", 20.into()),
        ("/manifest/vae/id", "none".into()),
        ("/manifest/quantization_error", 0.0.into()),
    ] {
        assert_eq!(report.pointer(place), Some(&expected), "{place}");
    }
    let bytes: u64 = (0..3)
        .map(|n| std::fs::metadata(shard(&data, n)).unwrap().len())
        .sum();
    assert_eq!(report["bytes"], bytes);
    assert_eq!(report["bytes_per_sample"], bytes as f64 / 20.0);
    assert!(report["compression_ratio"].as_f64().unwrap() > 1.0);

    let dataset = Dataset::open(&data).unwrap();
    let (mut mean, mut sum, mut largest) = (vec![0f32; 3 * 256], 0.0, f32::MIN);
    for i in 0..20 {
        for view in 0..2 {
            dataset.read(i, view, &mut mean, None).unwrap();
            sum += mean[256..512].iter().map(|v| f64::from(*v)).sum::<f64>();
            largest = mean[256..512].iter().fold(largest, |a, b| a.max(*b));
        }
    }
    let green = &report["statistics"]["mean"][1];
    assert!((green["mean"].as_f64().unwrap() - sum / (40.0 * 256.0)).abs() < 1e-9);
    assert_eq!(green["max"].as_f64().unwrap() as f32, largest);
}

#[test]
fn what_inspect_looks_at_is_of_all_classes() {
    let dir = tempfile::tempdir().unwrap();
    let (data, png) = (dir.path().join("grey"), dir.path().join("sheet.png"));
    let mut args = vec!["encode", "--dataset", "demo", "--size", "8", "--vae", "none"];
    args.extend(["--limit", "400", "--out", text(&data)]);
    assert_eq!(preprocess(&args).0, 0);
    // Classes alternate: every tenth image is a disc.
    let (code, _, err) = shards(&["inspect", text(&data), "--png", text(&png), "--count", "40"]);
    assert_eq!(code, 0, "{err}");
    let sheet = preprocess::image::decode::decode_rgb(&std::fs::read(&png).unwrap()).unwrap();
    let tile = |n: usize| {
        let (x, y) = (2 + 10 * (n % 6), 2 + 10 * (n / 6));
        (0..8)
            .flat_map(|row| &sheet.data[((y + row) * sheet.width + x) * 3..][..24])
            .copied()
            .collect::<Vec<u8>>()
    };
    let discs: Vec<Vec<u8>> = (0..40)
        .map(|n| preprocess::dataset::demo::draw(0, 10 * n, 8).0.data)
        .collect();
    let shown = (0..40)
        .filter(|n| {
            let near = |disc: &Vec<u8>| tile(*n).iter().zip(disc).all(|(a, b)| a.abs_diff(*b) <= 1);
            discs.iter().any(near)
        })
        .count();
    assert!(0 < shown && shown < 12, "{shown} of 40 are discs");
}

#[test]
fn inspect_takes_one_shard_with_or_without_its_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    let (code, out, err) = shards(&["inspect", text(&shard(&data, 2)), "--json"]);
    assert_eq!(code, 0, "{err}");
    let report = json(&out);
    assert_eq!(
        (&report["kind"], &report["samples"]),
        (&"shard".into(), &4.into())
    );
    assert_eq!(report["manifest"]["source"]["dataset"], "demo");
    let alone = dir.path().join("alone.zst");
    std::fs::copy(shard(&data, 2), &alone).unwrap();
    let (code, out, err) = shards(&["inspect", text(&alone), "--json"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        (json(&out)["manifest"].is_null(), &json(&out)["views"]),
        (true, &2.into())
    );
}

#[test]
fn the_picture_shows_images_where_they_can_be_decoded_and_channels_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    let png = dir.path().join("sheet.png");
    let (code, out, err) = shards(&["inspect", text(&data), "--png", text(&png), "--count", "20"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("decoded images"), "{out}");
    let sheet = preprocess::image::decode::decode_rgb(&std::fs::read(&png).unwrap()).unwrap();
    // Four to a row, with gaps of two pixels.
    assert_eq!((sheet.width, sheet.height), (4 * 18 + 2, 5 * 18 + 2));
    let first = preprocess::dataset::demo::draw(0, 0, 16).0;
    assert_eq!(sheet.data[(2 * sheet.width + 2) * 3..][..48], first.data[..48]);

    // A shard alone does not say which autoencoder made it.
    let alone = dir.path().join("alone.zst");
    std::fs::copy(shard(&data, 0), &alone).unwrap();
    let (code, out, err) = shards(&["inspect", text(&alone), "--png", text(&png), "--count", "5"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("latent channels"), "{out}");
    let sheet = preprocess::image::decode::decode_rgb(&std::fs::read(&png).unwrap()).unwrap();
    assert_eq!((sheet.width, sheet.height), (15 * 50 + 2, 50 + 2));
    let (code, out, _) = shards(&["inspect", text(&alone), "--png", text(&png), "--vae", "none"]);
    assert_eq!((code, out.contains("decoded images")), (0, true));
    let (code, _, err) = shards(&["inspect", text(&alone), "--png", text(&png), "--vae", "./missing"]);
    assert_eq!(code, 2);
    assert!(err.contains("`./missing` is no autoencoder"), "{err}");
}

#[test]
fn the_embedded_autoencoder_decodes_the_picture_of_its_latents() {
    let dir = tempfile::tempdir().unwrap();
    let (data, png) = (dir.path().join("tiny"), dir.path().join("sheet.png"));
    let mut args = vec!["encode", "--dataset", "demo", "--size", "32", "--vae", "tiny"];
    args.extend(["--limit", "4", "--out", text(&data)]);
    let (code, _, err) = preprocess(&args);
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = shards(&["inspect", text(&data), "--png", text(&png), "--json"]);
    assert_eq!(code, 0, "{err}");
    let report = json(&out);
    assert_eq!(report["png"]["decoded"], true);
    assert_eq!(report["statistics"]["logvar"].as_array().unwrap().len(), 4);
    let sheet = preprocess::image::decode::decode_rgb(&std::fs::read(&png).unwrap()).unwrap();
    assert_eq!((sheet.width, sheet.height), (2 * 34 + 2, 2 * 34 + 2));
}

#[test]
fn verify_lists_each_fault_with_file_frame_and_byte() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    let (code, out, err) = shards(&["verify", text(&data)]);
    assert_eq!(code, 0, "{err}");
    // Per shard a header, two rows a sample and an index.
    let sound = "sound: 46 frames of 3 shards with 20 samples\n";
    assert_eq!(out, sound);
    let (code, out, err) = shards(&["verify", text(&data), "--frames"]);
    assert_eq!((code, out.as_str()), (0, sound), "{err}");
    let (code, out, _) = shards(&["verify", text(&data), "--json"]);
    assert_eq!(
        (code, &json(&out)["sound"], &json(&out)["samples"]),
        (0, &true.into(), &20.into())
    );

    let path = shard(&data, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    // The header's frame has 4096 bytes and 16 around them; the first row follows.
    bytes[4112 + 40] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    std::fs::remove_file(shard(&data, 2)).unwrap();
    let (code, out, err) = shards(&["verify", text(&data), "--json"]);
    assert_eq!(code, 1, "{err}");
    let report = json(&out);
    assert_eq!(report["sound"], false);
    let faults = report["faults"].as_array().unwrap();
    let fault = &faults[0];
    assert_eq!(fault["file"], text(&path));
    assert_eq!((&fault["frame"], &fault["byte"]), (&1.into(), &4112.into()));
    assert!(
        faults[1]["what"].as_str().unwrap().contains("SHA-256"),
        "{report}"
    );
    assert!(
        faults[2]["what"].as_str().unwrap().contains("train-00002"),
        "{report}"
    );
    assert_eq!(faults.len(), 3, "{report}");
    assert!(err.contains("hint: remove the damaged files"), "{err}");

    // One shard, with the faults on stdout.
    let (code, out, _) = shards(&["verify", text(&path)]);
    assert_eq!(code, 1);
    assert!(
        out.contains("frame 1 at byte 4112") && out.contains("damaged: 1 faults"),
        "{out}"
    );
    assert_eq!(shards(&["verify", text(&shard(&data, 0))]).0, 0);

    // What the hint says works: the damaged shard is made again, and the missing one.
    std::fs::remove_file(&path).unwrap();
    demo(dir.path());
    assert_eq!(shards(&["verify", text(&data)]).0, 0);
}

#[test]
fn verify_of_nothing_is_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("missing")] {
        let (code, _, err) = shards(&["verify", text(&path)]);
        assert_eq!(code, 2);
        assert!(err.starts_with("error: "), "{err}");
    }
    let path = dir.path().join("x.safetensors.zst");
    for bytes in [&b""[..], b"no shard"] {
        std::fs::write(&path, bytes).unwrap();
        let (code, out, _) = shards(&["verify", text(&path)]);
        assert_eq!(code, 1);
        assert!(out.contains("x.safetensors.zst"), "{out}");
    }
}

#[test]
fn exports_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    let (npz, safetensors) = (dir.path().join("sub/x.npz"), dir.path().join("x.safetensors"));
    for path in [&npz, &safetensors] {
        let (code, out, err) = shards(&[
            "export",
            text(&data),
            "--out",
            text(path),
            "--limit",
            "13",
            "--json",
        ]);
        assert_eq!(code, 0, "{err}");
        assert_eq!(json(&out)["shape"], Value::from(vec![13, 2, 3, 16, 16]));
    }
    let dataset = Dataset::open(&data).unwrap();
    let mut expected = Vec::new();
    let mut mean = vec![0f32; 768];
    for i in 0..13 {
        for view in 0..2 {
            dataset.read(i, view, &mut mean, None).unwrap();
            expected.extend(mean.iter().map(|v| f64::from(*v)));
        }
    }
    let mut reader = NpzReader::open(&npz).unwrap();
    assert_eq!(
        reader.read_f64("mean").unwrap(),
        (vec![13, 2, 3, 16, 16], expected)
    );
    assert!(!reader.has("logvar"));
    let label = reader.header("label").unwrap();
    assert_eq!((label.dtype, label.shape), (Dtype::I64, vec![13]));
    let keys: Vec<String> = serde_json::from_str(&reader.read_text("keys").unwrap()).unwrap();
    assert_eq!((keys.len(), keys[12].as_str()), (13, "demo-00000012"));

    let bytes = std::fs::read(&safetensors).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    assert_eq!(header["mean"]["dtype"], "F32");
    let stored: Vec<String> = serde_json::from_str(header["__metadata__"]["keys"].as_str().unwrap()).unwrap();
    assert_eq!(stored, keys);
}

#[test]
fn an_export_of_unknown_kind_names_the_known_ones() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    for name in ["x.h5", "x", ".npz"] {
        let out = dir.path().join(name);
        let (code, _, err) = shards(&["export", text(&data), "--out", text(&out)]);
        assert_eq!(code, 2, "{name}");
        assert!(
            err.contains("hint: --out FILE.safetensors or --out FILE.npz"),
            "{err}"
        );
        assert!(!out.exists());
    }
}

#[test]
fn bench_counts_samples_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    let args = [
        "bench",
        text(&data),
        "--batch",
        "6",
        "--workers",
        "2",
        "--epochs",
        "2",
        "--json",
    ];
    let (code, out, err) = shards(&args);
    assert_eq!(code, 0, "{err}");
    let report = json(&out);
    assert_eq!(report["samples"], 36, "three batches of six, twice");
    assert!(report["samples_per_second"].as_f64().unwrap() > 0.0);
    let bytes: u64 = (0..3)
        .map(|n| std::fs::metadata(shard(&data, n)).unwrap().len())
        .sum();
    assert_eq!(report["bytes_per_sample"], bytes as f64 / 20.0);
    // The default batch is larger than this dataset: it is used whole, and that is said.
    let (code, out, err) = shards(&["bench", text(&data)]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("samples/s") && err.contains("20 samples"),
        "{out}{err}"
    );
}

#[test]
fn bench_takes_ranks_means_and_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    let bench = |more: &[&str]| {
        let mut args = vec!["bench", text(&data), "--batch", "7", "--json"];
        args.extend(more);
        let (code, out, err) = shards(&args);
        assert_eq!(code, 0, "{err}");
        json(&out)
    };
    let report = bench(&["--ranks", "2", "--rank", "1", "--cache", "ram", "--mean"]);
    // Two batches of seven: four of each for the second rank.
    assert_eq!(report["samples"], 8);
    assert_eq!(report["cache"], "ram");
    assert!(report["samples_per_cpu_second"].as_f64().unwrap() > 0.0);
    assert_eq!(
        report["samples_per_cpu_second_by_epoch"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let (code, _, err) = shards(&["bench", text(&data), "--ranks", "2", "--rank", "2"]);
    assert_eq!(code, 2);
    assert!(err.contains("rank 2 of 2"), "{err}");
}

#[test]
fn an_export_in_the_layout_of_dit_has_a_folder_of_latents_and_one_of_labels() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    let out = dir.path().join("dit");
    let (code, told, err) = shards(&[
        "export",
        text(&data),
        "--layout",
        "dit",
        "--out",
        text(&out),
        "--limit",
        "3",
        "--json",
    ]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(json(&told)["shape"], serde_json::json!([1, 3, 16, 16]));
    for folder in ["imagenet256_features", "imagenet256_labels"] {
        let mut names: Vec<String> = std::fs::read_dir(out.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0.npy", "1.npy", "2.npy"]);
    }
}

/// The demo set's samples again, as parts.
fn parts(data: &Path, dir: &Path, count: u32) -> Vec<PathBuf> {
    use shards::manifest::Part;
    use shards::writer::{DatasetWriter, Moments, Record};
    let dataset = Dataset::open(data).unwrap();
    (0..count)
        .map(|index| {
            let folder = dir.join(format!("part-{}", index + 1));
            let mut header = dataset.manifest().header.clone();
            header.part = Some(Part { index, count });
            let mut writer = DatasetWriter::open(&folder, header).unwrap();
            let cut = |index: u32| dataset.len() * index as usize / count as usize;
            for i in cut(index)..cut(index + 1) {
                let views = (0..dataset.views()).map(|view| {
                    let mut mean = vec![0.0; dataset.elements()];
                    dataset.read(i, view, &mut mean, None).unwrap();
                    Moments { mean, logvar: None }
                });
                let record = Record {
                    id: dataset.id(i).unwrap(),
                    key: dataset.key(i).unwrap().to_owned(),
                    label: dataset.label(i).unwrap(),
                    views: views.collect(),
                };
                writer.push(&record).unwrap();
            }
            writer.finish().unwrap();
            std::fs::write(folder.join("rejects.jsonl"), "").unwrap();
            folder
        })
        .collect()
}

#[test]
fn merged_parts_are_the_files_of_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = demo(dir.path());
    let parts = parts(&data, dir.path(), 3);
    let [a, b, c] = [&parts[0], &parts[1], &parts[2]].map(|part| text(part));
    let out = dir.path().join("merged");
    let (code, _, err) = shards(&["merge", a, c, "--out", text(&out)]);
    assert_eq!(code, 2);
    assert!(err.contains("part 2 of 3 is missing"), "{err}");
    let (code, told, err) = shards(&["merge", c, a, b, "--out", text(&out), "--json"]);
    assert_eq!(code, 0, "{err}");
    let report = json(&told);
    assert_eq!(
        (&report["samples"], &report["shards"], &report["rejects"]),
        (&20.into(), &3.into(), &0.into())
    );
    assert!(files(&data) == files(&out), "other bytes");
}

//! The command as users type it, on tiny pictures and a network of random weights.

use preprocess::console::grid;
use preprocess::image::RgbImage;

use super::*;
use crate::cli;
use crate::npz::{Dtype, Header, NpzWriter};
use crate::report;

fn pictures(folder: &Path, count: usize, side: usize, phase: usize) {
    fs_err::create_dir_all(folder).unwrap();
    for i in 0..count {
        let data = (0..side * side * 3)
            .map(|k| ((k * (i + 3) + phase * 41) % 251) as u8)
            .collect();
        let png = report::encode_png(&RgbImage {
            width: side,
            height: side,
            data,
        })
        .unwrap();
        fs_err::write(folder.join(format!("{i:03}.png")), png).unwrap();
    }
}

fn eval(args: &[&str]) -> (u8, String, String) {
    let (mut printer, out, err) = Printer::captured();
    let code = cli::run(["eval"].iter().chain(args).map(Into::into), &mut printer);
    (code, out.text(), err.text())
}

#[test]
fn a_set_scores_zero_against_itself_and_more_against_another_through_images_and_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    pictures(&folder.path().join("a"), 6, 16, 0);
    pictures(&folder.path().join("b"), 5, 16, 1);
    let common = [
        "--inception",
        "random:0",
        "--metrics",
        "fid,is,precision,recall",
        "--json",
    ];
    let (code, out, err) = eval(
        &[
            &["fid", "--images", &path("a"), "--reference", &path("a")][..],
            &common,
        ]
        .concat(),
    );
    assert_eq!(code, 0, "{err}");
    let same: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(same["fid"].as_f64().unwrap().abs() < 1e-4, "{same}");
    assert_eq!((&same["precision"], &same["samples"]), (&1.0.into(), &6.into()));
    assert_eq!(same["comparable"], false);
    assert!(err.contains("not comparable"), "{err}");

    let reference = [
        "reference",
        &path("a"),
        "--out",
        &path("a.npz"),
        "--inception",
        "random:0",
        "--no-spatial",
    ];
    let (code, _, err) = eval(&reference);
    assert_eq!(code, 0, "{err}");
    let out_folder = path("scores");
    let other = |reference: &str| {
        let first = [
            "fid",
            "--images",
            &path("b"),
            "--reference",
            reference,
            "--out",
            &out_folder,
        ];
        let (code, out, err) = eval(&[&first[..], &common].concat());
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap()
    };
    let (images, statistics) = (other(&path("a")), other(&path("a.npz")));
    let copies = eval(&[
        "fid",
        "--images",
        &path("a"),
        "--reference",
        &path("a"),
        "--out",
        &path("copies"),
        "--inception",
        "random:0",
        "--metrics",
        "precision",
        "--json",
    ]);
    let copies: serde_json::Value = serde_json::from_str(&copies.1).unwrap();
    let nearest = copies["neighbours"]["nearest"].as_array().unwrap();
    assert_eq!(nearest.len(), 6, "{copies}");
    for row in nearest {
        let (number, distance) = (&row["images"][0][0], row["images"][0][1].as_f64().unwrap());
        assert!(*number == row["sample"] && distance < 1e-3, "{row}");
    }
    assert!(images["fid"].as_f64().unwrap() > 1e-3, "{images}");
    for key in ["fid", "precision", "recall"] {
        let difference = images[key].as_f64().unwrap() - statistics[key].as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{key}: {images} {statistics}");
    }
    let page = fs_err::read_to_string(folder.path().join("scores/report.html")).unwrap();
    assert!(page.contains("not comparable") && page.contains("Are they copies?"));
    assert!(folder.path().join("scores/neighbours.png").is_file());
    // What defines the numbers, also where the reference is a file of statistics.
    let hash = statistics["against"]["sha256"].as_str().unwrap().to_owned();
    assert!(hash.len() == 64 && page.contains(&hash) && page.contains(report::EVALUATOR));
    assert_eq!(statistics["against"]["transform"], "as given");
    assert_eq!(images["neighbours"]["among"], 6);

    let (code, _, err) = eval(&[
        "fid",
        "--images",
        &path("b"),
        "--reference",
        &path("a.npz"),
        "--inception",
        "random:1",
        "--metrics",
        "fid",
    ]);
    assert!(code == 2 && err.contains("same --inception"), "{err}");

    pictures(&folder.path().join("small"), 5, 8, 1);
    let (code, _, err) = eval(
        &[
            &["fid", "--images", &path("small"), "--reference", &path("a.npz")][..],
            &common,
        ]
        .concat(),
    );
    assert!(code == 2 && err.contains("8 x 8"), "{err}");
}

#[test]
fn missing_images_are_told_before_any_work() {
    let (code, _, err) = eval(&["fid", "--images", "/nowhere/x", "--reference", "/nowhere/y"]);
    assert!(code == 2 && err.contains("/nowhere/x"), "{err}");
    assert_eq!(eval(&["fid", "--metrics", "fidd"]).0, 2);
}

/// Runs `eval fid` with random weights and answers its JSON.
fn scores(images: &str, reference: &str, metrics: &str) -> serde_json::Value {
    let args = [
        "fid",
        "--images",
        images,
        "--reference",
        reference,
        "--metrics",
        metrics,
    ];
    let (code, out, err) = eval(&[&args[..], &["--inception", "random:0", "--json"]].concat());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Compares the metrics that both have; FID takes seconds.
fn assert_same_scores(first: &serde_json::Value, second: &serde_json::Value) {
    for key in ["fid", "inception_score", "precision", "recall"] {
        if let (Some(a), Some(b)) = (first[key].as_f64(), second[key].as_f64()) {
            assert!((a - b).abs() < 1e-5, "{key}: {first} {second}");
        }
    }
}

#[test]
fn scores_have_the_keys_that_scripts_rely_on_and_no_null() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    pictures(folder.path(), 5, 16, 0);
    let all = scores(&path, &path, "fid,sfid,is,precision,recall");
    let some = scores(&path, &path, "precision");
    let numbers = ["fid", "sfid", "inception_score", "precision", "recall"];
    for key in numbers {
        assert!(all[key].is_f64(), "{key}: {all}");
    }
    let keys: Vec<&str> = numbers
        .into_iter()
        .filter(|key| some.get(key).is_some())
        .collect();
    assert_eq!(keys, ["precision"]);
    for json in [all, some] {
        assert_eq!(
            (&json["samples"], &json["comparable"]),
            (&5.into(), &false.into())
        );
        assert!(json.as_object().unwrap().values().all(|value| !value.is_null()));
    }
}

#[test]
fn archives_of_images_serve_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (name, count, phase) in [("a", 6, 0), ("b", 5, 1)] {
        pictures(&folder.path().join(name), count, 16, phase);
        let mut writer = NpzWriter::create(&folder.path().join(format!("{name}.npz"))).unwrap();
        let header = Header {
            dtype: Dtype::U8,
            shape: vec![count, 16, 16, 3],
        };
        writer.start("arr_0", &header).unwrap();
        let source = ImageSource::open(&folder.path().join(name)).unwrap();
        let write =
            |images: Vec<RgbImage>| images.iter().try_for_each(|image| Ok(writer.write(&image.data)?));
        source.visit(2, count, write).unwrap();
        writer.finish().unwrap();
    }
    let metrics = "is,precision,recall";
    assert_same_scores(
        &scores(&path("b.npz"), &path("a.npz"), metrics),
        &scores(&path("b"), &path("a"), metrics),
    );
}

#[test]
fn a_dataset_is_compared_by_its_originals_and_keeps_its_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (dataset, originals, samples) = (path("dataset"), path("originals"), path("samples"));
    let encode = [
        "preprocess",
        "encode",
        "--dataset",
        "demo",
        "--size",
        "16",
        "--vae",
        "none",
    ];
    let rest = ["--limit", "6", "--seed", "3", "--out", &dataset];
    let (mut printer, _, err) = Printer::captured();
    let code = preprocess::cli::run(encode.iter().chain(&rest).map(Into::into), &mut printer);
    assert_eq!(code, 0, "{}", err.text());
    fs_err::create_dir(&originals).unwrap();
    for id in 0..6 {
        let picture = preprocess::dataset::demo::draw(3, id, 16).0;
        grid::write_png(&picture, &Path::new(&originals).join(format!("{id}.png"))).unwrap();
    }
    pictures(Path::new(&samples), 5, 16, 1);

    let manifold = "precision,recall";
    let expected = scores(&samples, &originals, "fid,precision,recall");
    assert_same_scores(&scores(&samples, &dataset, manifold), &expected);
    let kept = Path::new(&dataset).join("reference-random-0.npz");
    let bytes = fs_err::read(&kept).unwrap();
    // The second time they are read, and serve other metrics too: what was written is not written again.
    let time = || fs_err::metadata(&kept).unwrap().modified().unwrap();
    let before = time();
    assert_same_scores(&scores(&samples, &dataset, "fid,precision,recall"), &expected);
    assert_eq!(time(), before);
    // A damaged file is replaced.
    fs_err::write(&kept, &bytes[..bytes.len() / 2]).unwrap();
    assert_same_scores(&scores(&samples, &dataset, manifold), &expected);
    assert_eq!(fs_err::read(&kept).unwrap().len(), bytes.len());

    // As the source of a reference file.
    let file = path("reference.npz");
    let (code, out, err) = eval(&["reference", &dataset, "--out", &file, "--inception", "random:0"]);
    assert!(code == 0 && out.contains("not comparable"), "{out}{err}");
    assert_same_scores(&scores(&samples, &file, "fid"), &expected);
    let mut reader = crate::npz::NpzReader::open(Path::new(&file)).unwrap();
    assert_eq!(reader.read_text("transform").unwrap(), "drawn 16");
}

#[test]
fn scores_against_decoded_latents_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (photos, dataset) = (path("photos"), path("dataset"));
    pictures(Path::new(&photos), 5, 16, 0);
    let encode = ["preprocess", "encode", "--dataset", "folder", "--source", &photos];
    let rest = ["--size", "16", "--vae", "none", "--out", &dataset];
    let (mut printer, _, err) = Printer::captured();
    let code = preprocess::cli::run(encode.iter().chain(&rest).map(Into::into), &mut printer);
    assert_eq!(code, 0, "{}", err.text());
    let warns = |json: &serde_json::Value| {
        json["warnings"]
            .to_string()
            .contains("reference images are stored")
    };
    assert!(!warns(&scores(&photos, &dataset, "precision")));
    let elsewhere = path("elsewhere");
    fs_err::rename(&photos, &elsewhere).unwrap();
    let decoded = scores(&elsewhere, &dataset, "precision");
    assert!(warns(&decoded), "{decoded}");
}

#[test]
fn a_reference_of_another_transform_is_warned_of_in_text_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (photos, drawn, cropped) = (path("photos"), path("drawn"), path("cropped"));
    pictures(Path::new(&photos), 5, 16, 0);
    let common = [
        "preprocess",
        "encode",
        "--size",
        "16",
        "--vae",
        "none",
        "--limit",
        "5",
    ];
    for (rest, out) in [
        (&["--dataset", "demo"][..], &drawn),
        (&["--dataset", "folder", "--source", &photos][..], &cropped),
    ] {
        let (mut printer, _, err) = Printer::captured();
        let args = [&common[..], rest, &["--out", out]].concat();
        let args = args.into_iter().map(Into::into);
        assert_eq!(preprocess::cli::run(args, &mut printer), 0, "{}", err.text());
    }
    let file = path("drawn.npz");
    let (code, _, err) = eval(&[
        "reference",
        &drawn,
        "--out",
        &file,
        "--inception",
        "random:0",
        "--no-spatial",
    ]);
    assert_eq!(code, 0, "{err}");
    let told = |images: &str, reference: &str| {
        let json = scores(images, reference, "precision");
        json["warnings"]
            .to_string()
            .contains("were made otherwise (`drawn 16`)")
    };
    assert!(told(&cropped, &file));
    assert!(told(&cropped, &drawn));
    assert!(!told(&drawn, &file));
    // Nothing is known of a folder.
    assert!(!told(&photos, &file));
}

#[test]
fn statistics_that_are_damaged_or_none_of_this_network_are_told_before_the_samples_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let (samples, file) = (folder.path().join("samples"), folder.path().join("reference.npz"));
    pictures(&samples, 5, 16, 0);
    let message = || {
        let (samples, file) = (samples.display().to_string(), file.display().to_string());
        let args = ["fid", "--images", &samples, "--reference", &file];
        let (code, _, err) = eval(&[&args[..], &["--inception", "random:0", "--metrics", "fid"]].concat());
        assert!(
            code == 2 && err.contains("reference.npz") && !err.contains("samples  "),
            "{err}"
        );
        err
    };
    let write = |mu: &[f64], sigma: &[usize]| {
        let mut writer = NpzWriter::create(&file).unwrap();
        writer.array_f64("mu", &[mu.len()], mu.iter().copied()).unwrap();
        let count = sigma.iter().product();
        writer
            .array_f64("sigma", sigma, (0..count).map(|i| i as f64))
            .unwrap();
        writer.finish().unwrap();
    };
    write(&[1.0; 4], &[4, 4]);
    assert!(message().contains("4 wide"));
    let mut bytes = fs_err::read(&file).unwrap();
    let at = bytes
        .windows(8)
        .position(|window| window == 9f64.to_le_bytes())
        .unwrap();
    bytes[at] ^= 1;
    fs_err::write(&file, &bytes).unwrap();
    assert!(message().contains("damaged"));
    fs_err::write(&file, &bytes[..bytes.len() - 30]).unwrap();
    assert!(message().contains("cut short"));
    write(&[1.0; 4], &[4, 3]);
    assert!(message().contains("covariance of D x D"));
    write(&[1.0, f64::NAN, 0.0, 0.0], &[4, 4]);
    assert!(message().contains("number 1 of `mu` is NaN"));
}

#[test]
fn weights_with_another_hash_and_few_samples_are_warned_of() {
    let of = |id, comparable, samples| crate::commands::scoring::warnings(id, comparable, samples).join("\n");
    assert_eq!(of("sha256:6726", true, 50_000), "");
    assert!(of("sha256:00", false, 50_000).contains("not the published file"));
    assert!(of("random:0", false, 50_000).contains("random"));
    assert!(of("sha256:6726", true, 49_999).contains("49,999 samples"));
}

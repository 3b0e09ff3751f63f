//! ImageNet: class folders, archives, parquet, WebDataset, and the validation set.

use std::path::Path;

use super::{IMAGES, contents, encode, encoded, make, photograph, shard_bytes};
use crate::{preprocess, text};

/// (class, file, bytes) of all images, and a file that is none.
fn images() -> Vec<(String, String, Vec<u8>)> {
    let mut all: Vec<_> = IMAGES
        .iter()
        .map(|(class, file, name)| ((*class).to_owned(), (*file).to_owned(), photograph(name)))
        .collect();
    let mut cut = photograph("life.jpg");
    cut.truncate(5000);
    all.push(("n01443537".into(), "n01443537_100.JPEG".into(), cut));
    all
}

fn label(class: &str) -> i64 {
    ["n01440764", "n01443537", "n15075141"]
        .iter()
        .position(|other| *other == class)
        .unwrap() as i64
}

fn class_folders(root: &Path) {
    let images = images();
    make::folder(
        root,
        images
            .iter()
            .map(|(class, file, bytes)| (format!("train/{class}/{file}"), &bytes[..])),
    );
}

/// The classes' archives, files in an order of their own.
fn class_tars() -> Vec<(String, Vec<u8>)> {
    let mut images = images();
    images.reverse();
    ["n15075141", "n01440764", "n01443537"]
        .iter()
        .map(|class| {
            let of_class = images.iter().filter(|(other, ..)| other == class);
            let files: Vec<_> = of_class
                .map(|(_, file, bytes)| (file.clone(), bytes.clone()))
                .collect();
            (format!("{class}.tar"), make::tar(&files))
        })
        .collect()
}

/// Samples in a shuffled order: number, class, file, bytes.
fn shuffled() -> Vec<(String, String, Vec<u8>)> {
    let images = images();
    [7, 2, 9, 0, 5, 1, 8, 3, 6, 4]
        .iter()
        .map(|&i: &usize| images[i].clone())
        .collect()
}

fn rows(suffix: bool) -> Vec<make::Row> {
    let name = |class: &str, file: &str| match suffix {
        true => file.replace(".JPEG", &format!("_{class}.JPEG")),
        false => file.to_owned(),
    };
    shuffled()
        .into_iter()
        .map(|(class, file, bytes)| (Some(name(&class, &file)), label(&class), bytes))
        .collect()
}

fn web_dataset(root: &Path) {
    for (shard, samples) in shuffled().chunks(6).enumerate() {
        let mut files = Vec::new();
        for (class, file, bytes) in samples {
            let stem = file.trim_end_matches(".JPEG");
            files.push((format!("{stem}.cls"), label(class).to_string().into_bytes()));
            files.push((format!("{stem}.jpg"), bytes.clone()));
            files.push((
                format!("{stem}.json"),
                format!("{{\"label\": {}}}", label(class)).into_bytes(),
            ));
        }
        let name = format!("imagenet1k-train-{shard:04}.tar");
        std::fs::write(root.join(name), make::tar(&files)).unwrap();
    }
}

#[test]
fn every_container_gives_the_same_keys_labels_ids_and_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let allow = ["--max-rejects", "1"];
    class_folders(&place("folders"));
    let reference = encoded("imagenet", &place("folders"), &place("out-folders"), &allow);
    assert_eq!(reference.len(), 9);
    let key = "n15075141/n15075141_4.JPEG";
    // The rank among all ten, the cut one too: classes first, then names, bytewise.
    assert_eq!((reference[key].0, reference[key].1), (8, 2));
    let rejects = std::fs::read(dir.path().join("out-folders/rejects.jsonl")).unwrap();
    assert!(String::from_utf8_lossy(&rejects).contains("n01443537/n01443537_100.JPEG"));

    std::fs::write(
        place("tar").join("ILSVRC2012_img_train.tar"),
        make::tar(&class_tars()),
    )
    .unwrap();
    make::folder(
        &place("tars/train"),
        class_tars()
            .iter()
            .map(|(name, bytes)| (name.clone(), &bytes[..])),
    );
    make::parquet(
        &place("parquet").join("data/train-00000-of-00002.parquet"),
        &rows(true)[..6],
        4,
    );
    make::parquet(
        &place("parquet").join("data/train-00001-of-00002.parquet"),
        &rows(true)[6..],
        4,
    );
    make::parquet(
        &place("parquet").join("data/validation-00000-of-00001.parquet"),
        &rows(true)[..2],
        4,
    );
    make::parquet(&place("plain").join("x.parquet"), &rows(false), 100);
    web_dataset(&place("wds"));
    for (name, source) in [
        ("tar", place("tar")),
        ("tar-file", place("tar").join("ILSVRC2012_img_train.tar")),
        ("tars", place("tars")),
        ("parquet", place("parquet")),
        ("parquet-file", place("plain").join("x.parquet")),
        ("wds", place("wds")),
    ] {
        let out = place(&format!("out-{name}"));
        let found = encoded("imagenet", &source, &out, &allow);
        assert!(
            found == reference,
            "{name}: {:?}",
            found.keys().collect::<Vec<_>>()
        );
        if name.starts_with("tar") {
            assert!(
                shard_bytes(&out) == shard_bytes(&place("out-folders")),
                "{name}: canonical order, same bytes"
            );
        }
        let (code, said, err) =
            preprocess(&["verify", text(&out), "--against", text(&source), "--samples", "9"]);
        assert_eq!(code, 0, "{name}: {said}{err}");
        assert!(said.contains("0 differ"), "{said}");
    }
    let manifest = std::fs::read_to_string(place("out-folders").join("dataset.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    for library in ["mozjpeg-sys", "libwebp-sys", "png", "preprocess"] {
        assert!(
            manifest["libraries"][library]
                .as_str()
                .is_some_and(|version| version.split('.').count() == 3),
            "{library}"
        );
    }
}

#[test]
fn a_shuffled_container_goes_on_after_an_interruption() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("x.parquet");
    make::parquet(&source, &rows(true), 3);
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    encoded("imagenet", &source, &whole, &["--max-rejects", "1"]);
    encoded("imagenet", &source, &cut, &["--max-rejects", "1"]);
    // As after a kill in the last shard: no manifest, the last shard gone.
    std::fs::remove_file(cut.join("dataset.json")).unwrap();
    let last = shard_bytes(&cut).pop().unwrap().0;
    std::fs::remove_file(cut.join(last)).unwrap();
    encoded(
        "imagenet",
        &source,
        &cut,
        &["--max-rejects", "1", "--workers", "3"],
    );
    assert!(crate::files(&whole) == crate::files(&cut));
}

#[test]
fn the_validation_set_has_the_devkits_labels() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let meta = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/meta.mat")).unwrap();
    // The devkit's ids: 2 is the tench, 4 the goldfish, 3 the toilet tissue, 1 the kit fox.
    let (truth, classes) = (
        "3\n2\n4\n2\n",
        ["n15075141", "n01440764", "n01443537", "n01440764"],
    );
    let devkit = make::tar(&[
        ("ILSVRC2012_devkit_t12/data/meta.mat".into(), meta),
        (
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt".into(),
            truth.into(),
        ),
    ]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &devkit).unwrap();
    let packed = packed.finish().unwrap();
    let files: Vec<(String, Vec<u8>)> = (0..4)
        .map(|i| {
            (
                format!("ILSVRC2012_val_{:08}.JPEG", i + 1),
                photograph(IMAGES[i].2),
            )
        })
        .collect();

    let sorted = files
        .iter()
        .zip(classes)
        .map(|((name, bytes), class)| (format!("val/{class}/{name}"), &bytes[..]));
    make::folder(&place("sorted"), sorted);
    make::folder(
        &place("flat"),
        files
            .iter()
            .map(|(name, bytes)| (format!("val/{name}"), &bytes[..])),
    );
    std::fs::write(place("flat").join("ILSVRC2012_devkit_t12.tar.gz"), &packed).unwrap();
    make::folder(
        &place("tar"),
        [("ILSVRC2012_img_val.tar".to_owned(), &make::tar(&files)[..])],
    );
    std::fs::write(place("tar").join("ILSVRC2012_devkit_t12.tar.gz"), &packed).unwrap();
    let mut rows: Vec<make::Row> = files
        .iter()
        .zip(classes)
        .map(|((name, bytes), class)| {
            (
                Some(name.replace(".JPEG", &format!("_{class}.JPEG"))),
                label(class),
                bytes.clone(),
            )
        })
        .collect();
    rows.swap(0, 2);
    make::parquet(
        &place("parquet").join("data/validation-00000-of-00001.parquet"),
        &rows,
        2,
    );

    let split = ["--split", "validation"];
    let reference = encoded("imagenet", &place("sorted"), &place("out-sorted"), &split);
    let keys: Vec<_> = reference
        .iter()
        .map(|(key, (id, label, _))| (key.as_str(), *id, *label))
        .collect();
    assert_eq!(
        keys,
        [
            ("n01440764/ILSVRC2012_val_00000002.JPEG", 0, 0),
            ("n01440764/ILSVRC2012_val_00000004.JPEG", 1, 0),
            ("n01443537/ILSVRC2012_val_00000003.JPEG", 2, 1),
            ("n15075141/ILSVRC2012_val_00000001.JPEG", 3, 2),
        ]
    );
    for name in ["flat", "tar", "parquet"] {
        let found = encoded("imagenet", &place(name), &place(&format!("out-{name}")), &split);
        assert!(found == reference, "{name}");
    }
    std::fs::remove_file(place("flat").join("ILSVRC2012_devkit_t12.tar.gz")).unwrap();
    let (code, err) = encode("imagenet", &place("flat"), &place("out-x"), &split);
    assert_eq!(code, 2);
    assert!(err.contains("devkit") && err.contains("hint"), "{err}");
}

#[test]
fn generic_parquet_and_webdataset_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<make::Row> = rows(false)
        .into_iter()
        .filter(|row| row.2.len() != 5000)
        .map(|row| (None, row.1, row.2))
        .collect();
    make::parquet(&dir.path().join("pets.parquet"), &rows, 4);
    let found = encoded("parquet", dir.path(), &dir.path().join("out-p"), &[]);
    assert_eq!(found.len(), 9);
    assert_eq!(found["pets/00000000"].1, rows[0].1);

    let files: Vec<(String, Vec<u8>)> = (0..4)
        .flat_map(|i| {
            [
                (format!("a/{i}.webp"), photograph("wine.webp")),
                (format!("a/{i}.cls"), format!("{}\n", i % 3).into_bytes()),
            ]
        })
        .collect();
    std::fs::write(dir.path().join("pets.tar"), make::tar(&files)).unwrap();
    let found = encoded(
        "webdataset",
        &dir.path().join("pets.tar"),
        &dir.path().join("out-w"),
        &[],
    );
    let labels: Vec<_> = found
        .iter()
        .map(|(key, (_, label, _))| (key.as_str(), *label))
        .collect();
    assert_eq!(
        labels,
        [("a/0.webp", 0), ("a/1.webp", 1), ("a/2.webp", 2), ("a/3.webp", 0)]
    );
    assert_eq!(contents(&dir.path().join("out-w")).len(), 4);

    let unlabelled = [files[0].clone(), files[1].clone(), files[2].clone()];
    std::fs::write(dir.path().join("some.tar"), make::tar(&unlabelled)).unwrap();
    let (code, err) = encode(
        "webdataset",
        &dir.path().join("some.tar"),
        &dir.path().join("out-x"),
        &[],
    );
    assert_eq!(code, 2);
    assert!(err.contains("a/1.webp") && err.contains("no class"), "{err}");
}

#[test]
fn damaged_containers_are_told_before_the_work_begins() {
    let dir = tempfile::tempdir().unwrap();
    let tar = make::tar(&class_tars());
    make::parquet(&dir.path().join("x.parquet"), &rows(true), 4);
    let parquet = std::fs::read(dir.path().join("x.parquet")).unwrap();
    for (name, bytes) in [
        ("cut.tar", &tar[..tar.len() / 2]),
        ("cut.parquet", &parquet[..parquet.len() / 2]),
        ("text.tar", b"no archive"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let (code, err) = encode("imagenet", &path, &dir.path().join("out"), &[]);
        assert_eq!(code, 2, "{name}");
        assert!(err.contains(name) && err.contains("hint"), "{name}: {err}");
    }
    let (code, err) = encode(
        "imagenet",
        dir.path().join("nothing").as_path(),
        &dir.path().join("out"),
        &[],
    );
    assert_eq!((code, err.contains("nothing")), (2, true), "{err}");
}

#[test]
fn a_parquet_file_with_any_byte_damaged_is_an_error_or_read() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<make::Row> = (0..6)
        .map(|i| (Some(format!("n01440764_{i}.JPEG")), 0, vec![i as u8; 40]))
        .collect();
    let path = dir.path().join("x.parquet");
    make::parquet(&path, &rows, 3);
    let sound = std::fs::read(&path).unwrap();
    for i in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[i] ^= [0xFF, 0x01, 0x40][i % 3];
        std::fs::write(&path, &damaged).unwrap();
        let out = dir.path().join("out");
        let (code, err) = encode("imagenet", &path, &out, &["--max-rejects", "100%"]);
        assert!(code == 2 && err.contains("error:"), "byte {i}: {err}");
        let _ = std::fs::remove_dir_all(out);
    }
}

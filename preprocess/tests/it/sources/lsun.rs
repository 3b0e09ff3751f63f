//! LSUN: the database in a folder, and in the zip archive that is downloaded, stored and deflated.

use std::path::Path;

use super::{encode, encoded, make, photograph, shard_bytes};
use crate::{preprocess, text};

/// Photographs under keys like LSUN's, one small enough to lie in the tree itself.
fn entries() -> Vec<(String, Vec<u8>)> {
    let names = [
        "sunset.jpg",
        "wine.webp",
        "umang.jpg",
        "seeding.webp",
        "aitzgorri.jpg",
    ];
    (0..120u64)
        .map(|i| {
            let key = format!("{:016x}{:024x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15), i);
            let bytes = if i == 77 {
                small_jpeg()
            } else {
                photograph(names[i as usize % names.len()])
            };
            (key, bytes)
        })
        .collect()
}

/// 19 x 13 pixels, 781 bytes.
fn small_jpeg() -> Vec<u8> {
    use base64::Engine as _;
    let text = include_str!("../../data/small.jpg.base64");
    base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .unwrap()
}

#[test]
fn folder_and_archives_give_the_same_dataset_and_no_file_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let entries = entries();
    let folder = place("lsun/church_outdoor_train_lmdb");
    make::lmdb(&folder, &entries);
    std::fs::remove_file(folder.join("lock.mdb")).unwrap();
    let database = std::fs::read(folder.join("data.mdb")).unwrap();
    let member = "church_outdoor_train_lmdb/data.mdb";
    std::fs::create_dir_all(place("zips")).unwrap();
    make::zip(
        &place("zips/church_outdoor_train_lmdb.zip"),
        member,
        &database,
        false,
    );
    make::zip(&place("renamed.zip"), member, &database, true);

    let reference = encoded("lsun-church", &place("lsun"), &place("out-folder"), &[]);
    assert_eq!(reference.len(), entries.len());
    let mut keys: Vec<&String> = entries.iter().map(|(key, _)| key).collect();
    keys.sort();
    for (rank, key) in keys.into_iter().enumerate() {
        assert_eq!((reference[key].0, reference[key].1), (rank as u64, 0));
    }
    assert!(
        !folder.join("lock.mdb").exists(),
        "read-only and without a lock file"
    );
    assert_eq!(std::fs::read(folder.join("data.mdb")).unwrap(), database);

    for (name, source) in [
        ("database", folder.clone()),
        ("stored", place("zips")),
        ("deflated", place("renamed.zip")),
    ] {
        let out = place(&format!("out-{name}"));
        let found = encoded("lsun-church", &source, &out, &["--workers", "3"]);
        assert!(found == reference, "{name}");
        if name != "deflated" {
            assert!(shard_bytes(&out) == shard_bytes(&place("out-folder")), "{name}");
        }
        let (code, said, err) = preprocess(&[
            "verify",
            text(&out),
            "--against",
            text(&source),
            "--samples",
            "20",
        ]);
        assert_eq!(code, 0, "{name}: {said}{err}");
    }
    let manifest = std::fs::read_to_string(place("out-deflated/dataset.json")).unwrap();
    assert!(
        manifest.contains("adm-lsun-box-crop")
            && manifest.contains("an LMDB database in a deflated zip archive")
    );
}

#[test]
fn missing_and_damaged_databases_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let told = |source: &Path, words: &[&str]| {
        let (code, err) = encode("lsun-bedroom", source, &out, &[]);
        assert_eq!(code, 2, "{err}");
        assert!(words.iter().all(|word| err.contains(word)), "{err}");
    };
    told(dir.path(), &["bedroom_train_lmdb", "hint"]);
    let folder = dir.path().join("bedroom_train_lmdb");
    make::lmdb(&folder, &entries()[60..84]);
    let database = std::fs::read(folder.join("data.mdb")).unwrap();
    let cut = &database[..database.len() / 2];
    std::fs::write(folder.join("data.mdb"), cut).unwrap();
    told(dir.path(), &["cut short"]);
    for deflated in [false, true] {
        let path = dir.path().join("cut.zip");
        make::zip(&path, "data.mdb", cut, deflated);
        told(&path, &["cut.zip", "cut short"]);
    }
    // Pages damaged in turn, those of the head and the root, too: an error, or rejected images, never a crash.
    let path = dir.path().join("damaged.zip");
    let pages = database.len() / 4096;
    let is_tree =
        |page: &usize| database[page * 4096 + 11] == 0 && [1, 2, 8].contains(&database[page * 4096 + 10]);
    for page in (0..pages).filter(|page| is_tree(page) || page % 16 == 0) {
        let mut damaged = database.clone();
        damaged[page * 4096 + 10..page * 4096 + 40].fill(0xA5);
        make::zip(&path, "data.mdb", &damaged, false);
        let out = dir.path().join("out-damaged");
        let (code, err) = encode("lsun-bedroom", &path, &out, &["--max-rejects", "100%"]);
        assert!(code == 0 || err.contains("error"), "{page}: {err}");
        let _ = std::fs::remove_dir_all(out);
    }
}

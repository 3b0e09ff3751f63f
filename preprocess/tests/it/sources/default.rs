//! No `--source`: the environment's folder, else three lines that say how to get the data.

use std::path::Path;
use std::process::{Command, Output};

use super::{IMAGES, contents, make, photograph};
use crate::text;

fn encode(dataset: &str, out: &Path, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preprocess"));
    command.args([
        "encode",
        "--dataset",
        dataset,
        "--vae",
        "none",
        "--size",
        "32",
        "--out",
        text(out),
    ]);
    command
        .env_remove("IMAGENET_DIR")
        .env_remove("LSUN_DIR")
        .env("HF_HUB_OFFLINE", "1");
    command.envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn the_environment_names_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let photographs: Vec<_> = IMAGES
        .iter()
        .map(|(class, file, name)| (format!("train/{class}/{file}"), photograph(name)))
        .collect();
    make::folder(
        dir.path(),
        photographs.iter().map(|(name, bytes)| (name.clone(), &bytes[..])),
    );
    let entries: Vec<_> = ["b", "a"]
        .map(|key| (key.repeat(40), photograph("wine.webp")))
        .into();
    make::lmdb(&dir.path().join("church_outdoor_train_lmdb"), &entries);
    make::lmdb(&dir.path().join("bedroom_train_lmdb"), &entries[..1]);
    for (dataset, variable, images) in [
        ("imagenet", "IMAGENET_DIR", 9),
        ("lsun-church", "LSUN_DIR", 2),
        ("lsun-bedroom", "LSUN_DIR", 1),
    ] {
        let out = dir.path().join(dataset);
        let done = encode(dataset, &out, &[(variable, text(dir.path()))]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(contents(&out).len(), images);
    }
}

#[test]
fn without_a_folder_three_lines_say_how_to_get_the_data() {
    let dir = tempfile::tempdir().unwrap();
    for (dataset, words) in [
        ("imagenet", ["where is ImageNet", "$IMAGENET_DIR", "--source DIR"]),
        (
            "lsun-church",
            ["where is LSUN", "$LSUN_DIR", "church_outdoor_train_lmdb.zip"],
        ),
        (
            "lsun-bedroom",
            ["where is LSUN", "$LSUN_DIR", "bedroom_train_lmdb.zip"],
        ),
    ] {
        let failed = encode(dataset, &dir.path().join("out"), &[]);
        let err = String::from_utf8_lossy(&failed.stderr);
        assert_eq!(failed.status.code(), Some(2));
        assert!(words.iter().all(|word| err.contains(word)), "{err}");
        assert_eq!(err.trim().lines().count(), 3, "{err}");
    }
}

//! A data set encoded in parts, as several machines would, and put together: the bytes of one run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{files, preprocess, shards, text};

const IMAGES: u64 = 61;

/// Drawings in two classes, some files no images.
fn photographs(dir: &Path) -> PathBuf {
    let source = dir.join("photos");
    for id in 0..IMAGES {
        let path = source.join(format!("{}/{id:03}.png", if id < 20 { "a" } else { "b" }));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if [3, 29, 30].contains(&id) {
            std::fs::write(&path, "no image").unwrap();
        } else {
            preprocess::console::grid::write_png(&preprocess::dataset::demo::draw(1, id, 48).0, &path)
                .unwrap();
        }
    }
    source
}

fn arguments<'a>(source: &'a Path, out: &'a Path) -> Vec<&'a str> {
    let mut args = vec!["encode", "--dataset", "folder", "--size", "32", "--vae", "tiny"];
    args.extend([
        "--shard-samples",
        "8",
        "--max-rejects",
        "100%",
        "--source",
        text(source),
        "--out",
        text(out),
    ]);
    args
}

fn encode(source: &Path, out: &Path, extra: &[&str]) {
    let mut args = arguments(source, out);
    args.extend(extra);
    if !extra.contains(&"--batch") {
        args.extend(["--batch", "5"]);
    }
    let (code, _, err) = preprocess(&args);
    assert_eq!(code, 0, "{err}");
}

fn merge(parts: &[PathBuf], out: &Path) -> (u8, String) {
    let mut args = vec!["merge"];
    args.extend(parts.iter().map(|part| text(part)));
    args.extend(["--out", text(out)]);
    let (code, _, err) = shards(&args);
    (code, err)
}

#[test]
fn parts_are_merged_to_the_bytes_of_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let source = photographs(dir.path());
    let whole = dir.path().join("whole");
    encode(&source, &whole, &[]);
    for frame_samples in ["1", "3"] {
        let extra = ["--frame-samples", frame_samples];
        let whole = dir.path().join(format!("whole-{frame_samples}"));
        encode(&source, &whole, &extra);
        let mut parts: Vec<PathBuf> = Vec::new();
        for part in ["0/3", "1/3", "2/3"] {
            let out = dir.path().join(format!("part-{frame_samples}-{}", &part[..1]));
            encode(
                &source,
                &out,
                &["--part", part, "--batch", "4", "--frame-samples", frame_samples],
            );
            parts.push(out);
        }
        let merged = dir.path().join(format!("merged-{frame_samples}"));
        let (code, err) = merge(&parts[..2], &merged);
        assert_eq!(code, 2, "{err}");
        parts.reverse();
        let (code, err) = merge(&parts, &merged);
        assert_eq!(code, 0, "{err}");
        assert!(files(&merged) == files(&whole), "frames of {frame_samples}");
    }
}

#[test]
fn a_launchers_variables_choose_the_part_and_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let source = photographs(dir.path());
    let (whole, out) = (dir.path().join("whole"), dir.path().join("set"));
    encode(&source, &whole, &[]);
    for (rank, size) in [
        ("SLURM_PROCID", "SLURM_NTASKS"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ] {
        let mut parts = Vec::new();
        for part in ["0", "1"] {
            let done = Command::new(env!("CARGO_BIN_EXE_preprocess"))
                .args(arguments(&source, &out))
                .env(rank, part)
                .env(size, "2")
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            assert!(String::from_utf8_lossy(&done.stdout).contains("shards merge"));
            parts.push(dir.path().join(format!("set.part-00{part}-of-002")));
        }
        assert!(!out.exists());
        assert_eq!(merge(&parts, &out).0, 0);
        assert!(files(&out) == files(&whole));
        for folder in parts.iter().chain([&out]) {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}

#[test]
fn blocks_workers_and_memory_do_not_change_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let source = photographs(dir.path());
    let whole = dir.path().join("whole");
    encode(&source, &whole, &[]);
    let settings: [&[&str]; 3] = [
        &["--batch", "1"],
        &["--batch", "16", "--workers", "5"],
        &["--memory", "1"],
    ];
    for (number, extra) in settings.iter().enumerate() {
        let out = dir.path().join(number.to_string());
        encode(&source, &out, extra);
        assert!(files(&out) == files(&whole), "{extra:?}");
    }
}

//! `preprocess encode` in a process of its own, ended with SIGKILL: the next run continues to the same bytes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::files;

const SHARDS: usize = 60;

fn encode(source: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preprocess"));
    command
        .args(["encode", "--dataset", "folder", "--size", "64", "--vae", "none"])
        .args(["--shard-samples", "10", "--max-rejects", "100%", "--quiet"])
        .args(["--workers", "2", "--source"])
        .arg(source)
        .arg("--out")
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn finished_shards(dir: &Path) -> usize {
    let is_shard = |name: std::ffi::OsString| name.to_string_lossy().ends_with(".zst");
    std::fs::read_dir(dir).map_or(0, |entries| {
        entries
            .filter(|entry| is_shard(entry.as_ref().unwrap().file_name()))
            .count()
    })
}

/// Ends the process when `count` shards are there.
fn kill_at(mut child: Child, dir: &Path, count: usize) {
    while finished_shards(dir) < count && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_that_is_killed_three_times_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("photos");
    std::fs::create_dir(&source).unwrap();
    for id in 0..10 * SHARDS as u64 {
        let path = source.join(format!("{id:04}.png"));
        if id % 37 == 5 {
            std::fs::write(&path, "no image").unwrap();
        } else {
            let image = preprocess::dataset::demo::draw(1, id, 64).0;
            preprocess::console::grid::write_png(&image, &path).unwrap();
        }
    }
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    assert!(encode(&source, &whole).status().unwrap().success());

    let mut before = 0;
    for count in [2, 9, 20] {
        kill_at(encode(&source, &killed).spawn().unwrap(), &killed, count);
        assert!(!killed.join("dataset.json").exists(), "killed in the middle");
        let finished = finished_shards(&killed);
        assert!(before <= finished && count <= finished, "{before} {finished}");
        before = finished;
    }
    assert!(encode(&source, &killed).status().unwrap().success());
    let names = |all: &[(String, Vec<u8>)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (whole, killed) = (files(&whole), files(&killed));
    assert_eq!(names(&whole), names(&killed));
    assert!(whole == killed, "the same names hold other bytes");
}

/// A limit on the size of files stands for a disk that is full: what is finished stays, and the rerun continues.
#[test]
fn a_full_disk_is_told_and_nothing_finished_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("photos");
    std::fs::create_dir(&source).unwrap();
    for id in 0..20u64 {
        let image = preprocess::dataset::demo::draw(1, id, 64).0;
        preprocess::console::grid::write_png(&image, &source.join(format!("{id:04}.png"))).unwrap();
    }
    // The last ten are noise, which does not shrink: their shard is larger than the limit.
    for id in 10..20u32 {
        let mut state = id;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let data = (0..64 * 64 * 3).map(|_| noise()).collect();
        let image = preprocess::image::RgbImage {
            width: 64,
            height: 64,
            data,
        };
        preprocess::console::grid::write_png(&image, &source.join(format!("{id:04}.png"))).unwrap();
    }
    let (whole, full) = (dir.path().join("whole"), dir.path().join("full"));
    assert!(encode(&source, &whole).status().unwrap().success());
    let sizes: Vec<usize> = files(&whole)
        .iter()
        .filter(|(name, _)| name.ends_with(".zst"))
        .map(|(_, bytes)| bytes.len())
        .collect();
    let blocks = sizes[0].div_ceil(1024) + 1;
    assert!(sizes[1] > blocks * 1024 + 2048, "{sizes:?}");

    let limited = encode(&source, &full);
    let told = Command::new("bash")
        .args([
            "-c",
            &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""),
        ])
        .arg(limited.get_program())
        .args(limited.get_args())
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&told.stderr);
    assert_eq!(told.status.code(), Some(2), "{err}");
    assert!(
        err.contains("1 shards with 10 samples are finished") && err.contains("same command"),
        "{err}"
    );
    assert_eq!(finished_shards(&full), 1);
    assert!(encode(&source, &full).status().unwrap().success());
    assert!(files(&whole) == files(&full));
}

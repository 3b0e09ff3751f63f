//! `preprocess encode` where files cannot become as large as they would: the system says no, as it does on a full disk.
#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Output};

use crate::{files, text};

/// Forty drawn images in four shards of some 75 KB, under the shell's `limit`.
fn encode(limit: &str, out: &Path) -> Output {
    let program = env!("CARGO_BIN_EXE_preprocess");
    let out = text(out);
    // Without the trap the signal would end the process before it sees the error.
    let script = format!(
        "trap '' XFSZ; {limit}; exec '{program}' encode --dataset demo --size 32 --vae none --dtype f32 --flip none \
         --compression none --limit 30 --shard-samples 8 --quiet --out '{out}'"
    );
    Command::new("sh").arg("-c").arg(script).output().unwrap()
}

#[test]
fn a_full_disk_says_what_is_safe_and_the_next_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, full) = (dir.path().join("whole"), dir.path().join("full"));
    assert!(encode(":", &whole).status.success());
    let done = encode("ulimit -f 100", &full);
    let told = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{told}");
    assert!(
        told.contains(
            "train-00000.safetensors.zst.partial cannot be written: a file cannot become larger here"
        ),
        "{told}"
    );
    assert!(
        told.contains("0 shards with 0 samples are finished and stay"),
        "{told}"
    );
    assert!(
        told.contains("hint: free some space and run the same command again"),
        "{told}"
    );
    let left: Vec<String> = files(&full).into_iter().map(|(name, _)| name).collect();
    assert!(!left.iter().any(|name| name.contains(".zst")), "{left:?}");
    assert!(encode(":", &full).status.success());
    assert!(files(&whole) == files(&full), "other bytes");
}

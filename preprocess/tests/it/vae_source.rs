//! An autoencoder that cannot be had: told at once, with what to do.

use std::process::Command;

use crate::text;

#[test]
fn a_hub_that_is_out_of_reach_is_told_with_its_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    // Nobody listens on port 1. In a process of its own, since these settings belong to the whole process.
    for (offline, reason) in [("0", "config.json"), ("1", "config.json")] {
        let done = Command::new(env!("CARGO_BIN_EXE_preprocess"))
            .args(["encode", "--dataset", "demo", "--limit", "4", "--size", "16"])
            .args(["--vae", "nobody/has-this", "--out", text(&out)])
            .env("HF_HOME", dir.path())
            .env_remove("HF_HUB_CACHE")
            .env("HF_ENDPOINT", "http://127.0.0.1:1")
            .env("HF_HUB_OFFLINE", offline)
            .output()
            .unwrap();
        let err = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{err}");
        for part in [
            "nobody/has-this",
            reason,
            "hint: --vae tiny",
            "hint: without network",
        ] {
            assert!(err.contains(part), "`{part}` is missing: {err}");
        }
        assert!(!out.exists(), "nothing is begun");
    }
}

//! The reader in Python that `FORMAT.md` prints reads what this crate writes.

use std::process::Command;

use shards::{
    dataset::Dataset,
    manifest::{Compression, Dtype, Flip, Store},
};

use crate::{header, settings, write};

/// What follows the reader: it writes all that it has read to a file.
const DRIVER: &str = r#"
import sys
mean, logvar, label, ids = read(sys.argv[1])
with open(sys.argv[2], "wb") as out:
    for values, dtype in ((mean, "<f4"), (logvar, "<f4"), (label, "<i8"), (ids, "<u8")):
        out.write(np.ascontiguousarray(values, dtype).tobytes())
"#;

/// The first block of Python in the description of the format.
fn reader() -> &'static str {
    let (_, rest) = include_str!("../../FORMAT.md").split_once("```python\n").unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
#[ignore = "needs python3 (or $DIFFUSSM_PYTHON) with numpy, safetensors, zstandard: cargo test --release -p shards -- --ignored"]
fn the_reader_of_the_description_reads_a_shard() {
    let python = std::env::var_os("DIFFUSSM_PYTHON").unwrap_or_else(|| "python3".into());
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("read.py");
    fs_err::write(&script, format!("{}{DRIVER}", reader())).unwrap();
    for dtype in [Dtype::Bf16, Dtype::F16] {
        for flip in [Flip::Both, Flip::None] {
            for (compression, frame_samples) in [
                (Compression::Zstd, 1),
                (Compression::None, 1),
                (Compression::Zstd, 3),
            ] {
                let mut store = settings(Store::Moments, dtype, flip, compression);
                store.frame_samples = frame_samples;
                // 105 elements: rows with padding.
                let header = header([3, 5, 7], store);
                let folder = tempfile::tempdir_in(&dir).unwrap();
                write(folder.path(), &header, 0..4).unwrap();
                let dataset = Dataset::open(folder.path()).unwrap();
                let out = folder.path().join("values");
                let done = Command::new(&python)
                    .arg(&script)
                    .args([dataset.shards()[0].path(), &out])
                    .output()
                    .unwrap();
                let told = String::from_utf8_lossy(&done.stderr);
                assert!(done.status.success(), "{python:?}: {told}");
                let expected = values(&dataset);
                let found = fs_err::read(&out).unwrap();
                assert_eq!(found.len(), expected.len());
                assert!(found == expected, "{dtype:?} {flip:?} {compression:?}");
            }
        }
    }
}

/// The same through this crate. NumPy computes the log-variance in the same f32 steps.
fn values(dataset: &Dataset) -> Vec<u8> {
    let (mut means, mut logvars) = (Vec::new(), Vec::new());
    for i in 0..dataset.len() {
        for view in 0..dataset.views() {
            let (mut mean, mut logvar) = (vec![0.0; dataset.elements()], vec![0.0; dataset.elements()]);
            dataset.read(i, view, &mut mean, Some(&mut logvar)).unwrap();
            means.extend(mean);
            logvars.extend(logvar);
        }
    }
    let labels = (0..dataset.len()).map(|i| dataset.label(i).unwrap());
    let mut bytes: Vec<u8> = means
        .iter()
        .chain(&logvars)
        .flat_map(|value| value.to_le_bytes())
        .collect();
    bytes.extend(labels.flat_map(i64::to_le_bytes));
    bytes.extend(dataset.ids().iter().flat_map(|id| id.to_le_bytes()));
    bytes
}

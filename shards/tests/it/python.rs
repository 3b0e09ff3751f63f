//! The reader in Python that `FORMAT.md` prints reads what this crate writes.

use std::{ffi::OsString, path::PathBuf, process::Command};

use shards::{
    dataset::Dataset,
    manifest::{Compression, Dtype, Flip, Store},
};

use crate::{header, settings, write};

/// What follows the reader: it writes all that it has read of one file to another, for each pair of arguments.
const DRIVER: &str = r#"
import sys
for shard, out in zip(sys.argv[1::2], sys.argv[2::2]):
    mean, logvar, label, ids = read(shard)
    with open(out, "wb") as out:
        for values, dtype in ((mean, "<f4"), (logvar, "<f4"), (label, "<i8"), (ids, "<u8")):
            if values is not None:
                out.write(np.ascontiguousarray(values, dtype).tobytes())
"#;

/// The first block of Python in the description of the format.
fn reader() -> &'static str {
    let (_, rest) = include_str!("../../FORMAT.md").split_once("```python\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// `$DIFFUSSM_PYTHON`, which must have the packages, or `python3`, if it has.
fn python() -> Option<OsString> {
    if let Some(python) = std::env::var_os("DIFFUSSM_PYTHON") {
        return Some(python);
    }
    let imports = Command::new("python3")
        .args(["-c", "import numpy, safetensors.numpy, zstandard"])
        .output();
    imports
        .is_ok_and(|done| done.status.success())
        .then(|| "python3".into())
}

#[test]
fn the_reader_of_the_description_reads_every_kind_of_shard() {
    let Some(python) = python() else {
        eprintln!(
            "skipped: python3 lacks numpy, safetensors or zstandard; $DIFFUSSM_PYTHON may name one that has them"
        );
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("read.py");
    fs_err::write(&script, format!("{}{DRIVER}", reader())).unwrap();
    let mut files: Vec<PathBuf> = Vec::new();
    let mut expected = Vec::new();
    for store in [Store::Moments, Store::Mean, Store::Sample] {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Int8] {
            for flip in [Flip::Both, Flip::None] {
                for (compression, frame_samples) in [
                    (Compression::Zstd, 1),
                    (Compression::None, 1),
                    (Compression::Zstd, 3),
                ] {
                    let mut store = settings(store, dtype, flip, compression);
                    store.frame_samples = frame_samples;
                    // 105 elements: rows with padding.
                    let header = header([3, 5, 7], store);
                    let folder = dir.path().join(expected.len().to_string());
                    write(&folder, &header, 0..4).unwrap();
                    let dataset = Dataset::open(&folder).unwrap();
                    files.extend([dataset.shards()[0].path().to_owned(), folder.join("values")]);
                    expected.push((store, values(&dataset)));
                }
            }
        }
    }
    let done = Command::new(&python).arg(&script).args(&files).output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{python:?}: {told}");
    for ((store, expected), pair) in expected.iter().zip(files.chunks(2)) {
        let found = fs_err::read(&pair[1]).unwrap();
        assert_eq!(found.len(), expected.len(), "{store:?}");
        assert!(found == *expected, "{store:?}");
    }
}

/// The same through this crate. NumPy computes the log-variance in the same f32 steps.
fn values(dataset: &Dataset) -> Vec<u8> {
    let (mut means, mut logvars) = (Vec::new(), Vec::new());
    for i in 0..dataset.len() {
        for view in 0..dataset.views() {
            let (mut mean, mut logvar) = (vec![0.0; dataset.elements()], vec![0.0; dataset.elements()]);
            let logvar_too = dataset.has_logvar().then_some(&mut logvar[..]);
            dataset.read(i, view, &mut mean, logvar_too).unwrap();
            means.extend(mean);
            if dataset.has_logvar() {
                logvars.extend(logvar);
            }
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

//! Files of every version open for ever: `tests/data/v1` was written by the first, with what it holds beside it.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Value, json};
use shards::{
    dataset::Dataset,
    manifest::{Compression, Dtype, Flip, Part, Store},
    merge::merge,
    reader::ShardReader,
    verify::{Depth, verify, verify_shard},
};

use crate::{corrupt::read_content, header, settings, write};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/v1"))
}

/// All that a shard holds; values as the bits of f32, means and log-variances of view after view.
fn told(reader: &ShardReader) -> Value {
    let (ids, labels, keys, values) = read_content(reader).unwrap();
    let errors: Vec<u64> = reader
        .squared_errors()
        .iter()
        .map(|error| error.to_bits())
        .collect();
    json!({
        "ids": ids, "labels": labels, "keys": keys, "values": values, "squared_errors": errors,
        "views": reader.header().views, "shape": reader.header().shape,
    })
}

#[test]
fn shards_of_version_1_hold_what_they_held() {
    let text = fs_err::read_to_string(folder().join("expected.json")).unwrap();
    let expected: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(expected.len(), 36, "every store, dtype and kind of frame");
    for (name, expected) in expected {
        let path = folder().join(&name);
        let report = verify_shard(&path, None, Depth::Frames);
        assert!(report.faults.is_empty(), "{name}: {:?}", report.faults);
        assert_eq!(told(&ShardReader::open(&path).unwrap()), expected, "{name}");
    }
}

#[test]
fn a_dataset_of_version_1_opens_and_its_parts_merge() {
    let whole = folder().join("whole");
    assert!(verify(&whole).unwrap().is_sound());
    let dataset = Dataset::open(&whole).unwrap();
    assert_eq!(dataset.ids(), [0, 1, 2, 3, 4, 5]);
    let dir = tempfile::tempdir().unwrap();
    let parts = [folder().join("part-2"), folder().join("part-1")];
    let out = dir.path().join("merged");
    merge(&parts, &out, |_, _| ()).unwrap();
    // Of another zstd the bytes may differ, what they say may not.
    let merged = Dataset::open(&out).unwrap();
    assert!(verify(&out).unwrap().is_sound());
    assert_eq!(merged.manifest().header, dataset.manifest().header);
    let told = |dataset: &Dataset| dataset.shards().iter().map(told).collect::<Vec<_>>();
    assert_eq!(told(&merged), told(&dataset));
}

#[test]
#[ignore = "writes into the source folder: only for a new version of the format"]
fn write_the_files() {
    let mut expected = BTreeMap::new();
    for store in [Store::Moments, Store::Mean, Store::Sample] {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Int8] {
            for (compression, frame_samples) in [
                (Compression::Zstd, 1),
                (Compression::None, 1),
                (Compression::Zstd, 3),
            ] {
                let flip = if frame_samples == 3 {
                    Flip::None
                } else {
                    Flip::Both
                };
                let mut store = settings(store, dtype, flip, compression);
                store.frame_samples = frame_samples;
                let dir = tempfile::tempdir().unwrap();
                // Nine elements: rows with padding.
                let manifest = write(dir.path(), &header([1, 3, 3], store), 0..4).unwrap();
                let word = |value: Value| value.as_str().unwrap().to_owned();
                let name = format!(
                    "{}-{}-{}-{frame_samples}.safetensors.zst",
                    word(json!(store.store)),
                    word(json!(dtype)),
                    word(json!(compression))
                );
                let file = folder().join(&name);
                fs_err::copy(dir.path().join(&manifest.shards[0].file), &file).unwrap();
                expected.insert(name, told(&ShardReader::open(&file).unwrap()));
            }
        }
    }
    let lines: Vec<String> = expected
        .iter()
        .map(|(name, told)| format!("{}: {told}", json!(name)))
        .collect();
    fs_err::write(
        folder().join("expected.json"),
        format!("{{\n{}\n}}\n", lines.join(",\n")),
    )
    .unwrap();
    let mut header = header(
        [1, 3, 3],
        settings(Store::Moments, Dtype::Bf16, Flip::Both, Compression::Zstd),
    );
    write(&folder().join("whole"), &header, 0..6).unwrap();
    for (index, ids) in [(0, 0..3), (1, 3..6)] {
        header.part = Some(Part { index, count: 2 });
        write(&folder().join(format!("part-{}", index + 1)), &header, ids).unwrap();
    }
}

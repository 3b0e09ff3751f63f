//! The same photographs in every container that data sets are handed around in, encoded as a user would.

mod default;
mod hub;
mod imagenet;
mod lsun;
mod make;

use std::collections::BTreeMap;
use std::path::Path;

use shards::dataset::Dataset;

use crate::{preprocess, text};

/// Photographs with real names in ILSVRC's manner: (class, file, photograph).
const IMAGES: [(&str, &str, &str); 9] = [
    ("n01440764", "n01440764_10026.JPEG", "aitzgorri.jpg"),
    ("n01440764", "n01440764_2.JPEG", "friends.jpg"),
    ("n01440764", "n01440764_18.JPEG", "seeding.webp"),
    ("n01443537", "n01443537_7.JPEG", "life.jpg"),
    ("n01443537", "n01443537_11.JPEG", "picosdeeuropa.jpg"),
    ("n15075141", "n15075141_9.JPEG", "picture-0b.jpg"),
    ("n15075141", "n15075141_3.JPEG", "sunset.jpg"),
    ("n15075141", "n15075141_30.JPEG", "umang.jpg"),
    ("n15075141", "n15075141_4.JPEG", "wine.webp"),
];

fn photograph(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/photographs");
    std::fs::read(folder.join(name)).unwrap()
}

/// Encodes `source` as pixels and gives (code, stderr).
fn encode(dataset: &str, source: &Path, out: &Path, extra: &[&str]) -> (u8, String) {
    let mut args = vec![
        "encode",
        "--dataset",
        dataset,
        "--source",
        text(source),
        "--out",
        text(out),
    ];
    args.extend([
        "--vae",
        "none",
        "--size",
        "64",
        "--shard-samples",
        "4",
        "--batch",
        "3",
    ]);
    args.extend(extra);
    let (code, _, err) = preprocess(&args);
    (code, err)
}

fn encoded(
    dataset: &str,
    source: &Path,
    out: &Path,
    extra: &[&str],
) -> BTreeMap<String, (u64, i64, Vec<u32>)> {
    let (code, err) = encode(dataset, source, out, extra);
    assert_eq!(code, 0, "{}: {err}", source.display());
    contents(out)
}

/// What a dataset holds: key to id, label and the bits of both views.
fn contents(dir: &Path) -> BTreeMap<String, (u64, i64, Vec<u32>)> {
    let dataset = Dataset::open(dir).unwrap();
    let mut values = vec![0f32; dataset.elements()];
    let mut all = BTreeMap::new();
    for sample in 0..dataset.len() {
        let mut bits = Vec::new();
        for view in 0..dataset.views() {
            dataset.read(sample, view, &mut values, None).unwrap();
            bits.extend(values.iter().map(|value| value.to_bits()));
        }
        let key = dataset.key(sample).unwrap().to_owned();
        all.insert(
            key,
            (dataset.id(sample).unwrap(), dataset.label(sample).unwrap(), bits),
        );
    }
    assert_eq!(all.len(), dataset.len());
    all
}

/// The bytes of the shards.
fn shard_bytes(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = crate::files(dir);
    all.retain(|(name, _)| name.ends_with(".zst"));
    all
}

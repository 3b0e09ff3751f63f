//! Damaged files: an error or exactly the original, never a panic and never wrong data.

use std::{path::Path, sync::Arc};

use shards::{
    dataset::Dataset,
    error::{Error, Result},
    loader::{Batch, Loader, LoaderConfig},
    manifest::{Compression, Dtype, Flip, Store},
    reader::ShardReader,
    verify::{Depth, verify_shard, verify_to},
};

use crate::{header, settings, write};

pub(crate) type Content = (Vec<u64>, Vec<i64>, Vec<String>, Vec<u32>);

pub(crate) fn read_all(path: &Path) -> Result<Content> {
    read_content(&ShardReader::open(path)?)
}

pub(crate) fn read_content(reader: &ShardReader) -> Result<Content> {
    let layout = reader.header().row_layout();
    let mut values = Vec::new();
    for sample in 0..reader.len() {
        for view in 0..reader.header().views as usize {
            let mut mean = vec![0.0; layout.elements()];
            let mut logvar = vec![0.0; if layout.logvar { layout.elements() } else { 0 }];
            reader.read(sample, view, &mut mean, layout.logvar.then_some(&mut logvar[..]))?;
            values.extend(mean.iter().chain(&logvar).map(|value| value.to_bits()));
        }
    }
    let keys = (0..reader.len()).map(|sample| reader.key(sample).unwrap().to_owned());
    Ok((
        reader.ids().to_vec(),
        reader.labels().to_vec(),
        keys.collect(),
        values,
    ))
}

/// Writes a file anew: some file systems wait for the disk when one is overwritten.
pub(crate) fn replace(path: &Path, bytes: &[u8]) {
    let _ = fs_err::remove_file(path);
    fs_err::write(path, bytes).unwrap();
}

#[test]
fn each_flipped_byte_and_each_cut_is_noticed() {
    for compression in [Compression::Zstd, Compression::None] {
        let header = header(
            [1, 4, 4],
            settings(Store::Moments, Dtype::Bf16, Flip::Both, compression),
        );
        let dir = tempfile::tempdir().unwrap();
        let manifest = write(dir.path(), &header, 0..2).unwrap();
        let bytes = fs_err::read(dir.path().join(&manifest.shards[0].file)).unwrap();
        let expected = read_all(&dir.path().join(&manifest.shards[0].file)).unwrap();
        let path = dir.path().join("damaged");
        let mut noticed = 0;
        for at in 0..bytes.len() {
            for mask in [1 << (at % 8), 0xFF] {
                let mut damaged = bytes.clone();
                damaged[at] ^= mask;
                replace(&path, &damaged);
                match read_all(&path) {
                    Ok(content) => assert_eq!(content, expected, "byte {at}"),
                    Err(error) => {
                        noticed += 1;
                        assert!(error.to_string().contains("damaged"), "{error}");
                    }
                }
            }
        }
        assert!(noticed > bytes.len() * 2 * 9 / 10);
        for length in 0..bytes.len() {
            replace(&path, &bytes[..length]);
            assert!(read_all(&path).is_err(), "{length}");
        }
    }
}

#[test]
fn a_loader_gives_the_right_batches_or_an_error() {
    for (compression, frame_samples) in [
        (Compression::Zstd, 1),
        (Compression::None, 1),
        (Compression::Zstd, 3),
    ] {
        let mut store = settings(Store::Moments, Dtype::Bf16, Flip::Both, compression);
        store.frame_samples = frame_samples;
        let header = header([1, 4, 4], store);
        let dir = tempfile::tempdir().unwrap();
        let manifest = write(dir.path(), &header, 0..2).unwrap();
        let shard = dir.path().join(&manifest.shards[0].file);
        let epochs = || -> Result<Vec<Batch>> {
            let config = LoaderConfig {
                batch_size: 1,
                ..LoaderConfig::default()
            };
            // Of ten visits to two samples some go to each view.
            Loader::new(Arc::new(Dataset::open(dir.path())?), config)?
                .take(10)
                .collect()
        };
        let expected = epochs().unwrap();
        let bytes = fs_err::read(&shard).unwrap();
        // The spaces of the header are one frame, and as good as each other.
        for at in (0..bytes.len()).filter(|at| !(1000..4000).contains(at) || at % 50 == 0) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            replace(&shard, &damaged);
            if let Ok(batches) = epochs() {
                assert!(batches == expected, "byte {at}");
            }
        }
        for length in 0..bytes.len() {
            replace(&shard, &bytes[..length]);
            assert!(epochs().is_err(), "{length}");
        }
    }
}

#[test]
fn verify_names_the_damaged_frame_and_goes_on() {
    let header = header(
        [2, 8, 8],
        settings(Store::Moments, Dtype::Bf16, Flip::Both, Compression::None),
    );
    let dir = tempfile::tempdir().unwrap();
    let manifest = write(dir.path(), &header, 0..4).unwrap();
    assert!(shards::verify::verify(dir.path()).unwrap().is_sound());
    let path = dir.path().join(&manifest.shards[0].file);
    let mut bytes = fs_err::read(&path).unwrap();
    // Rows of 384 bytes in stored frames of 400, after the header's frame of 4112.
    for frame in [2, 5] {
        bytes[4112 + 400 * (frame - 1) + 100] ^= 4;
    }
    fs_err::write(&path, &bytes).unwrap();
    let report = verify_shard(&path, None, Depth::Frames);
    let text: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    assert_eq!(text.len(), 2, "{text:?}");
    assert!(
        text[0].contains("frame 2") && text[1].contains("frame 5"),
        "{text:?}"
    );
    for depth in [Depth::Frames, Depth::Hashes] {
        let report = verify_to(dir.path(), depth).unwrap();
        assert_eq!(report.faults().count(), 3, "two frames and the file's hash");
    }
}

#[test]
fn verify_reports_a_missing_shard_and_a_broken_manifest_as_faults() {
    let header = header(
        [2, 4, 4],
        settings(Store::Moments, Dtype::Bf16, Flip::Both, Compression::Zstd),
    );
    let dir = tempfile::tempdir().unwrap();
    let manifest = write(dir.path(), &header, 0..8).unwrap();
    let report = || shards::verify::verify(dir.path()).unwrap();
    let shard = dir.path().join(&manifest.shards[1].file);
    let kept = fs_err::read(&shard).unwrap();
    fs_err::remove_file(&shard).unwrap();
    let faults: Vec<String> = report().faults().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains(&manifest.shards[1].file), "{faults:?}");
    fs_err::write(&shard, kept).unwrap();

    let path = dir.path().join("dataset.json");
    let text = fs_err::read_to_string(&path).unwrap();
    for (what, wrong) in [
        (
            "not the samples",
            text.replace("\"samples\": 8,", "\"samples\": 9,"),
        ),
        ("not the fingerprint", text.replace("\"seed\": 7", "\"seed\": 8")),
        ("not JSON", text[..text.len() / 2].to_owned()),
    ] {
        assert_ne!(wrong, text, "{what}");
        fs_err::write(&path, wrong).unwrap();
        assert_eq!(report().faults().count(), 1, "{what}");
    }
    fs_err::write(&path, text).unwrap();
    assert!(report().is_sound());
    assert!(matches!(
        shards::verify::verify(&dir.path().join("missing")),
        Err(Error::Io(_))
    ));
}

#[test]
fn a_swapped_shard_is_refused() {
    let header = header(
        [2, 4, 4],
        settings(Store::Moments, Dtype::Bf16, Flip::Both, Compression::None),
    );
    let dir = tempfile::tempdir().unwrap();
    let manifest = write(dir.path(), &header, 0..8).unwrap();
    let path = |shard: usize| dir.path().join(&manifest.shards[shard].file);
    fs_err::copy(path(0), path(1)).unwrap();
    assert!(matches!(Dataset::open(dir.path()), Err(Error::Mismatch { .. })));
}

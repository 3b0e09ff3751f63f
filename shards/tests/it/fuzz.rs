//! The inputs that the fuzz targets start from and those that they have found.

use std::path::Path;

#[path = "../../fuzz/bodies.rs"]
mod bodies;

#[test]
fn the_corpus_of_the_fuzz_targets_is_read_or_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, body) in [("shard", bodies::shard as fn(&[u8])), ("frames", bodies::frames)] {
        let mut count = 0;
        for entry in fs_err::read_dir(corpus.join(target)).unwrap() {
            body(&fs_err::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 3, "{target} has {count} inputs");
    }
}

/// Writes the inputs to start from: small shards, whole and as frames.
#[test]
#[ignore = "writes into the source folder: only for a change of the format"]
fn write_the_corpus() {
    use shards::manifest::{Compression, Dtype, Flip, Store};
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let dir = tempfile::tempdir().unwrap();
    for (name, store, dtype, flip, compression) in [
        (
            "moments",
            Store::Moments,
            Dtype::Bf16,
            Flip::Both,
            Compression::Zstd,
        ),
        ("int8", Store::Mean, Dtype::Int8, Flip::None, Compression::Zstd),
        ("raw", Store::Sample, Dtype::F32, Flip::None, Compression::None),
    ] {
        let header = crate::header([1, 2, 4], crate::settings(store, dtype, flip, compression));
        let folder = dir.path().join(name);
        let manifest = crate::write(&folder, &header, 0..2).unwrap();
        let file = fs_err::read(folder.join(&manifest.shards[0].file)).unwrap();
        fs_err::write(corpus.join("shard").join(name), &file).unwrap();
        let mut input = Vec::new();
        for frame in crate::hostile::contents(&file) {
            input.extend((frame.len() as u16).to_le_bytes());
            input.extend(frame);
        }
        fs_err::write(corpus.join("frames").join(name), input).unwrap();
    }
}

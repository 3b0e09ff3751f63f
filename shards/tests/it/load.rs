//! The loader: the same batches for any number of workers and from any position.

use std::sync::Arc;

use shards::{
    dataset::Dataset,
    loader::{Batch, Loader, LoaderConfig, Position},
    manifest::{Compression, Dtype, Flip, Store},
};

use crate::{header, settings, write};

fn dataset(dir: &std::path::Path) -> Arc<Dataset> {
    let header = header(
        [2, 4, 4],
        settings(Store::Moments, Dtype::Bf16, Flip::Both, Compression::Zstd),
    );
    write(dir, &header, 0..11).unwrap();
    Arc::new(Dataset::open(dir).unwrap())
}

fn batches(dataset: &Arc<Dataset>, workers: usize, position: Position, count: usize) -> Vec<Batch> {
    let config = LoaderConfig {
        seed: 3,
        batch_size: 4,
        workers,
        prefetch: 3,
        position,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(Arc::clone(dataset), config).unwrap();
    loader.take(count).map(Result::unwrap).collect()
}

#[test]
fn batches_do_not_depend_on_workers_or_where_a_run_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    let expected = batches(&dataset, 1, Position::default(), 7);
    assert_eq!(batches(&dataset, 4, Position::default(), 7), expected);
    for (i, batch) in expected[..6].iter().enumerate() {
        assert_eq!(batches(&dataset, 2, batch.next, 6 - i), expected[i + 1..]);
    }
    assert_eq!(
        expected.iter().map(|batch| batch.epoch).collect::<Vec<_>>(),
        [0, 0, 1, 1, 2, 2, 3]
    );
    let mut ids = [&expected[0].ids[..], &expected[1].ids[..]].concat();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8, "an epoch visits no sample twice");
}

#[test]
fn a_batch_larger_than_the_dataset_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = LoaderConfig {
        batch_size: 12,
        ..LoaderConfig::default()
    };
    assert!(Loader::new(dataset(dir.path()), config).is_err());
}

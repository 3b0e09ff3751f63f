//! The loader: the same batches for any number of workers and from any position.

use std::sync::Arc;

use shards::{
    dataset::Dataset,
    error::Result,
    loader::{Batch, BufferSource, Cache, LatentBuffer, Loader, LoaderConfig, Position},
    manifest::{Compression, Dtype, Flip, Store},
    rng::{Philox, Stream},
    shuffle::Order,
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

fn config(workers: usize, position: Position) -> LoaderConfig {
    LoaderConfig {
        seed: 3,
        batch_size: 4,
        workers,
        prefetch: 3,
        position,
        ..LoaderConfig::default()
    }
}

fn load(dataset: &Arc<Dataset>, config: LoaderConfig, count: usize) -> Vec<Batch> {
    let loader = Loader::new(Arc::clone(dataset), config).unwrap();
    loader.take(count).map(Result::unwrap).collect()
}

fn batches(dataset: &Arc<Dataset>, workers: usize, position: Position, count: usize) -> Vec<Batch> {
    load(dataset, config(workers, position), count)
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

/// Nothing of the loader's own: the mean read back, the formula's noise, in the order of the epoch.
#[test]
fn a_batch_is_mean_and_noise_by_the_formula() {
    let dir = tempfile::tempdir().unwrap();
    for (dtype, frame_samples) in [
        (Dtype::F32, 1),
        (Dtype::F16, 3),
        (Dtype::Bf16, 1),
        (Dtype::Int8, 1),
    ] {
        let dir = tempfile::tempdir_in(&dir).unwrap();
        let mut store = settings(Store::Moments, dtype, Flip::Both, Compression::Zstd);
        store.frame_samples = frame_samples;
        // 350 elements: one round of the vectors and a rest.
        write(dir.path(), &header([2, 25, 7], store), 0..11).unwrap();
        let dataset = Arc::new(Dataset::open(dir.path()).unwrap());
        for batch in batches(&dataset, 2, Position::default(), 5) {
            for (latent, &id) in batch.latents.chunks(350).zip(&batch.ids) {
                let view = Philox::new(3).below(Stream::Flip, id, batch.epoch, 0, 2);
                let (mut mean, mut logvar) = (vec![0.0; 350], vec![0.0; 350]);
                dataset
                    .read(id as usize, view as usize, &mut mean, Some(&mut logvar))
                    .unwrap();
                let mut noise = vec![0.0; 350];
                let step = batch.epoch | (view << 31);
                Philox::new(3).fill_normal(Stream::PosteriorNoise, id, step, &mut noise);
                for (i, &value) in latent.iter().enumerate() {
                    let expected = mean[i] + (0.5 * logvar[i]).exp() * noise[i];
                    assert_eq!(value.to_bits(), expected.to_bits(), "{dtype:?} {i}");
                }
            }
        }
    }
}

#[test]
fn the_slices_of_any_number_of_ranks_join_to_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    for size in [5, 7] {
        let of_ranks = |rank, ranks| {
            let config = LoaderConfig {
                batch_size: size,
                rank,
                ranks,
                ..config(1 + rank % 2, Position::default())
            };
            load(&dataset, config, 4)
        };
        let whole = of_ranks(0, 1);
        for ranks in 1..=5 {
            let slices: Vec<Vec<Batch>> = (0..ranks).map(|rank| of_ranks(rank, ranks)).collect();
            for (i, batch) in whole.iter().enumerate() {
                let parts = || slices.iter().map(|slices| &slices[i]);
                let latents: Vec<f32> = parts().flat_map(|part| part.latents.to_vec()).collect();
                assert!(latents == batch.latents[..], "{ranks} ranks, batch {i}");
                assert_eq!(
                    parts().flat_map(|part| part.ids.clone()).collect::<Vec<_>>(),
                    batch.ids
                );
                assert_eq!(
                    parts().flat_map(|part| part.labels.clone()).collect::<Vec<_>>(),
                    batch.labels
                );
                assert!(parts().all(|part| part.next == batch.next));
            }
        }
    }
    for (rank, ranks) in [(1, 1), (0, 0), (0, 5)] {
        let config = LoaderConfig {
            rank,
            ranks,
            ..config(1, Position::default())
        };
        assert!(Loader::new(Arc::clone(&dataset), config).is_err());
    }
}

#[test]
fn a_run_goes_on_at_any_sample_with_batches_of_another_size() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    let of_size = |batch_size, position, count| {
        let config = LoaderConfig {
            batch_size,
            ..config(1, position)
        };
        load(&dataset, config, count)
    };
    let ones = of_size(1, Position::default(), 33);
    for start in 0..11u64 {
        let later = of_size(3, Position::at_sample(1, start), 4);
        let first = 11 + start as usize;
        // What is left of the epoch, in whole batches, then the next one.
        let in_epoch = (11 - start as usize) / 3;
        for (i, batch) in later.iter().take(in_epoch).enumerate() {
            let ids: Vec<u64> = ones[first + 3 * i..][..3].iter().map(|one| one.ids[0]).collect();
            assert_eq!(batch.ids, ids, "{start} {i}");
            assert!(batch.latents[..32] == ones[first + 3 * i].latents[..]);
        }
        assert_eq!(later[in_epoch].epoch, 2);
        assert_eq!(later[in_epoch].ids[0], ones[22].ids[0]);
        let next = later[0].next;
        assert_eq!(of_size(3, next, 3), later[1..]);
    }
    // A position of before there were offsets.
    let position: Position = serde_json::from_str(r#"{"epoch": 2, "batch": 1}"#).unwrap();
    assert_eq!(
        serde_json::to_string(&position).unwrap(),
        r#"{"epoch":2,"batch":1}"#
    );
    let config = config(1, Position::at_sample(0, 12));
    assert!(Loader::new(Arc::clone(&dataset), config).is_err());
}

#[test]
fn a_windowed_order_goes_on_anywhere_whatever_the_workers_and_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    let windowed = |workers, position| LoaderConfig {
        order: Order::Window {
            block_samples: 2,
            window_blocks: 2,
        },
        batch_size: 3,
        ..config(workers, position)
    };
    let expected = load(&dataset, windowed(1, Position::default()), 9);
    assert_eq!(load(&dataset, windowed(3, Position::default()), 9), expected);
    for (i, batch) in expected[..8].iter().enumerate() {
        assert_eq!(
            load(&dataset, windowed(2, batch.next), 8 - i),
            expected[i + 1..],
            "{i}"
        );
    }
    // Another batch size sees the same order, from any sample on.
    let ones = LoaderConfig {
        batch_size: 1,
        ..windowed(1, Position::at_sample(0, 4))
    };
    let ids: Vec<u64> = load(&dataset, ones, 5).iter().map(|batch| batch.ids[0]).collect();
    let order: Vec<u64> = expected[..3].iter().flat_map(|batch| batch.ids.clone()).collect();
    assert_eq!(ids, order[4..]);
    let of_rank = |rank| LoaderConfig {
        rank,
        ranks: 2,
        ..windowed(1, Position::default())
    };
    let parts = [0, 1].map(|rank| load(&dataset, of_rank(rank), 3));
    for (i, batch) in expected[..3].iter().enumerate() {
        assert_eq!([&parts[0][i].ids[..], &parts[1][i].ids[..]].concat(), batch.ids);
    }
    // The first two blocks fill the first window: four ids, two pairs of neighbours.
    let mut first: Vec<u64> = order[..4].to_vec();
    first.sort_unstable();
    assert!(first[1] == first[0] + 1 && first[3] == first[2] + 1, "{first:?}");
    let empty = LoaderConfig {
        order: Order::Window {
            block_samples: 0,
            window_blocks: 1,
        },
        ..windowed(1, Position::default())
    };
    assert!(Loader::new(Arc::clone(&dataset), empty).is_err());
}

#[test]
fn a_dataset_in_memory_gives_the_same_batches() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    let resident = LoaderConfig {
        cache: Cache::Ram,
        ..config(2, Position::default())
    };
    assert_eq!(
        load(&dataset, resident, 7),
        batches(&dataset, 1, Position::default(), 7)
    );
}

/// Memory that counts how often it is made.
#[derive(Default)]
struct Counting(std::sync::atomic::AtomicUsize);

struct Locked(Box<[f32]>);

impl LatentBuffer for Locked {
    fn as_slice(&self) -> &[f32] {
        &self.0
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl BufferSource for Counting {
    fn allocate(&self, elements: usize) -> Result<Box<dyn LatentBuffer>> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Box::new(Locked(vec![f32::NAN; elements].into())))
    }
}

#[test]
fn a_few_buffers_of_the_caller_are_filled_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    let source = Arc::new(Counting::default());
    let mine = LoaderConfig {
        buffers: Arc::clone(&source) as Arc<dyn BufferSource>,
        ..config(2, Position::default())
    };
    let expected = batches(&dataset, 1, Position::default(), 50);
    let loader = Loader::new(Arc::clone(&dataset), mine).unwrap();
    for (batch, expected) in loader.zip(expected) {
        assert_eq!(batch.unwrap(), expected);
    }
    let made = source.0.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..=6).contains(&made), "{made} buffers for 50 batches, 3 ahead");
}

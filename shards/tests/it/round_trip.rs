//! What was written comes back, through this crate and through zstd and safetensors alone.

use std::collections::BTreeSet;

use proptest::prelude::*;
use safetensors::SafeTensors;
use shards::{
    dataset::Dataset,
    error::Error,
    manifest::{Compression, Dtype, Flip, Store, StoreSettings},
    rng::{Philox, Stream},
    verify::verify,
    writer::DatasetWriter,
};

use crate::{header, record, settings, write};

#[test]
fn every_setting_comes_back() {
    for store in [Store::Moments, Store::Mean] {
        for (dtype, bound) in [
            (Dtype::F32, 0.0),
            (Dtype::F16, 1e-2),
            (Dtype::Bf16, 1e-1),
            (Dtype::Int8, 0.1),
        ] {
            for flip in [Flip::Both, Flip::None] {
                for compression in [Compression::Zstd, Compression::None] {
                    for frame_samples in [1, 3] {
                        let mut store = settings(store, dtype, flip, compression);
                        store.frame_samples = frame_samples;
                        let header = header([3, 5, 7], store);
                        let dir = tempfile::tempdir().unwrap();
                        write(dir.path(), &header, 0..6).unwrap();
                        let dataset = Dataset::open(dir.path()).unwrap();
                        assert_eq!(dataset.len(), 6);
                        let mut mean = vec![0.0; dataset.elements()];
                        let mut logvar = vec![0.0; dataset.elements()];
                        for i in [5, 0, 3, 1, 2, 4] {
                            let expected = record(&header, i as u64);
                            assert_eq!(dataset.id(i).unwrap(), expected.id);
                            assert_eq!(dataset.key(i).unwrap(), expected.key);
                            assert_eq!(dataset.label(i).unwrap(), expected.label);
                            for (view, moments) in expected.views.iter().enumerate() {
                                let logvar = dataset.has_logvar().then_some(&mut logvar[..]);
                                dataset.read(i, view, &mut mean, logvar).unwrap();
                                for (a, b) in mean.iter().zip(&moments.mean) {
                                    assert!((a - b).abs() <= bound, "{dtype:?} {a} {b}");
                                }
                            }
                            if dataset.has_logvar() {
                                let expected = expected.views.last().unwrap().logvar.as_ref().unwrap();
                                for (a, b) in logvar.iter().zip(expected) {
                                    assert!((a - b).abs() <= 0.0981, "{a} {b}");
                                }
                            }
                        }
                        assert!(dataset.manifest().quantization_error <= f64::from(bound));
                    }
                }
            }
        }
    }
}

#[test]
fn a_stored_sample_is_the_posterior_with_the_noise_of_its_seed_id_and_view() {
    for (dtype, bound) in [
        (Dtype::F32, 1e-6),
        (Dtype::F16, 1e-2),
        (Dtype::Bf16, 1e-1),
        (Dtype::Int8, 0.1),
    ] {
        let header = header(
            [3, 5, 7],
            settings(Store::Sample, dtype, Flip::Both, Compression::Zstd),
        );
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &header, 0..6).unwrap();
        let dataset = Dataset::open(dir.path()).unwrap();
        assert!(!dataset.has_logvar());
        let mut stored = vec![0.0; dataset.elements()];
        let mut noise = vec![0.0; dataset.elements()];
        for id in 0..6 {
            for (view, moments) in record(&header, id).views.iter().enumerate() {
                dataset.read(id as usize, view, &mut stored, None).unwrap();
                Philox::new(header.seed).fill_normal(
                    Stream::PosteriorNoise,
                    id,
                    (view as u32) << 31,
                    &mut noise,
                );
                let logvar = moments.logvar.as_ref().unwrap();
                for (i, stored) in stored.iter().enumerate() {
                    let expected = moments.mean[i] + (0.5 * logvar[i]).exp() * noise[i];
                    assert!(
                        (stored - expected).abs() <= bound,
                        "{dtype:?} {stored} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn zstd_and_safetensors_alone_read_a_shard() {
    let header = header(
        [2, 4, 4],
        settings(Store::Moments, Dtype::Bf16, Flip::Both, Compression::Zstd),
    );
    let dir = tempfile::tempdir().unwrap();
    let manifest = write(dir.path(), &header, 0..4).unwrap();
    let file = dir.path().join(&manifest.shards[0].file);
    assert_eq!(manifest.shards[0].file, "train-00000-of-00001.safetensors.zst");
    // The streaming decoder skips the seek table, as `zstd -d` does.
    let bytes = zstd::decode_all(fs_err::File::open(&file).unwrap()).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let rows = tensors.tensor("rows").unwrap();
    let row_bytes = 3 * 32;
    assert_eq!(rows.shape(), [8, row_bytes]);
    let row = &rows.data()[row_bytes..2 * row_bytes];
    let expected = &record(&header, 0).views[1].mean;
    for (i, expected) in expected.iter().enumerate() {
        let value = f32::from_bits((u32::from(row[i]) << 24) | (u32::from(row[32 + i]) << 16));
        assert!((value - expected).abs() <= expected.abs() / 256.0);
    }
    assert_eq!(tensors.tensor("id").unwrap().data()[8..16], 1u64.to_le_bytes());
}

#[test]
fn high_planes_make_bf16_shrink() {
    let sizes: Vec<u64> = [Compression::Zstd, Compression::None]
        .into_iter()
        .map(|compression| {
            let mut store = settings(Store::Mean, Dtype::Bf16, Flip::None, compression);
            store.shard_samples = 64;
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &header([4, 32, 32], store), 0..64)
                .unwrap()
                .shards[0]
                .bytes
        })
        .collect();
    let ratio = sizes[1] as f64 / sizes[0] as f64;
    assert!(ratio > 1.35, "{ratio}");
}

#[test]
fn a_killed_run_continues_to_the_same_bytes() {
    let header = header(
        [2, 4, 4],
        settings(Store::Moments, Dtype::F16, Flip::Both, Compression::Zstd),
    );
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = write(whole.path(), &header, 0..11).unwrap();
    for stop in [3, 6, 10] {
        let mut writer = DatasetWriter::open(broken.path(), header.clone()).unwrap();
        for id in writer.finished_samples()..stop {
            writer.push(&record(&header, id)).unwrap();
        }
        drop(writer);
        assert!(matches!(
            Dataset::open(broken.path()),
            Err(Error::NoManifest { .. })
        ));
    }
    let writer = DatasetWriter::open(broken.path(), header.clone()).unwrap();
    assert_eq!(writer.finished_samples(), 8);
    assert_eq!(writer.last_finished().unwrap().0, 7);
    drop(writer);
    assert_eq!(write(broken.path(), &header, 8..11).unwrap(), expected);
    for entry in fs_err::read_dir(whole.path()).unwrap() {
        let name = entry.unwrap().file_name();
        let bytes = |dir: &tempfile::TempDir| fs_err::read(dir.path().join(&name)).unwrap();
        assert_eq!(bytes(&whole), bytes(&broken), "{name:?}");
    }
    let mut again = DatasetWriter::open(broken.path(), header.clone()).unwrap();
    assert!(again.is_complete());
    assert!(matches!(
        again.push(&record(&header, 11)),
        Err(Error::Complete { .. })
    ));
    assert_eq!(again.finish().unwrap(), expected);
}

#[test]
fn a_shard_that_was_removed_is_made_again() {
    let header = header(
        [2, 4, 4],
        settings(Store::Moments, Dtype::F16, Flip::Both, Compression::Zstd),
    );
    let dir = tempfile::tempdir().unwrap();
    let expected = write(dir.path(), &header, 0..11).unwrap();
    let lost = dir.path().join(&expected.shards[1].file);
    let bytes = fs_err::read(&lost).unwrap();
    fs_err::remove_file(&lost).unwrap();
    let writer = DatasetWriter::open(dir.path(), header.clone()).unwrap();
    assert!(!writer.is_complete());
    assert_eq!(writer.finished_samples(), 4);
    drop(writer);
    assert_eq!(write(dir.path(), &header, 4..11).unwrap(), expected);
    assert_eq!(fs_err::read(&lost).unwrap(), bytes);
    assert_eq!(
        fs_err::read_dir(dir.path()).unwrap().count(),
        4,
        "three shards and a manifest"
    );
}

#[test]
fn other_settings_are_refused_by_name() {
    let mut header = header([2, 4, 4], StoreSettings::default());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &header, 0..2).unwrap();
    header.image_size = 512;
    let error = DatasetWriter::open(dir.path(), header).err().unwrap().to_string();
    assert!(error.contains("image_size is 32, expected 512"), "{error}");
}

#[test]
fn records_that_do_not_fit_are_refused() {
    let header = header([2, 4, 4], StoreSettings::default());
    let dir = tempfile::tempdir().unwrap();
    let mut writer = DatasetWriter::open(dir.path(), header.clone()).unwrap();
    let good = record(&header, 5);
    let mut wrong = vec![good.clone(), good.clone(), good.clone(), good.clone()];
    wrong[0].views.pop();
    wrong[1].views[0].mean.pop();
    wrong[2].views[1].logvar = None;
    wrong[3].views[0].mean[3] = f32::NAN;
    for record in &wrong {
        assert!(matches!(writer.push(record), Err(Error::Record { id: 5, .. })));
    }
    let mut long = good.clone();
    long.key = "x".repeat(4097);
    assert!(matches!(writer.push(&long), Err(Error::Record { .. })));
    writer.push(&good).unwrap();
    assert_eq!(writer.finish().unwrap().samples, 1);
}

fn any_of<T: Copy + std::fmt::Debug + 'static>(values: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(values)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_dataset_comes_back(
        store in any_of(&[Store::Moments, Store::Mean]),
        dtype in any_of(&[Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Int8]),
        flip in any_of(&[Flip::Both, Flip::None]),
        compression in any_of(&[Compression::Zstd, Compression::None]),
        frame_samples in 1usize..6,
        shard_samples in 1usize..6,
        shape in (1usize..4, 1usize..5, 1usize..5),
        ids in proptest::collection::vec(any::<u64>(), 1..12),
        keys in proptest::collection::vec(".{0,12}", 12),
        labels in proptest::collection::vec(any::<i64>(), 12),
    ) {
        let ids: BTreeSet<u64> = ids.into_iter().collect();
        let mut ids: Vec<u64> = ids.into_iter().collect();
        let turn = labels[0].unsigned_abs() as usize % ids.len();
        ids.rotate_left(turn);
        let header = header(
            [shape.0, shape.1, shape.2],
            StoreSettings { store, dtype, flip, compression, frame_samples, shard_samples },
        );
        let dir = tempfile::tempdir().unwrap();
        let mut writer = DatasetWriter::open(dir.path(), header.clone()).unwrap();
        for (i, &id) in ids.iter().enumerate() {
            let mut record = record(&header, id % 1000);
            (record.id, record.key, record.label) = (id, keys[i].clone(), labels[i]);
            writer.push(&record).unwrap();
        }
        let manifest = writer.finish().unwrap();
        prop_assert_eq!(manifest.shards.len(), ids.len().div_ceil(shard_samples));
        prop_assert!(verify(dir.path()).unwrap().is_sound());
        let dataset = Dataset::open(dir.path()).unwrap();
        prop_assert_eq!(dataset.ids(), &ids[..]);
        let (mut mean, mut logvar) = (vec![0.0; dataset.elements()], vec![0.0; dataset.elements()]);
        for (i, &id) in ids.iter().enumerate() {
            prop_assert_eq!(dataset.key(i).unwrap(), &keys[i]);
            prop_assert_eq!(dataset.label(i).unwrap(), labels[i]);
            for (view, moments) in record(&header, id % 1000).views.iter().enumerate() {
                let logvar_too = dataset.has_logvar().then_some(&mut logvar[..]);
                dataset.read(i, view, &mut mean, logvar_too).unwrap();
                let bound = match dtype {
                    Dtype::F32 => 0.0,
                    Dtype::F16 => 1e-2,
                    Dtype::Bf16 | Dtype::Int8 => 0.1,
                };
                for (a, b) in mean.iter().zip(&moments.mean) {
                    prop_assert!((a - b).abs() <= bound, "{} {}", a, b);
                }
                if dataset.has_logvar() {
                    for (a, b) in logvar.iter().zip(moments.logvar.as_ref().unwrap()) {
                        prop_assert!((a - b).abs() <= 0.0981, "{} {}", a, b);
                    }
                }
            }
        }
    }
}

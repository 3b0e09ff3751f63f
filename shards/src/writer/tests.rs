//! What the writer leaves behind when it is stopped, when the disk is full, and when others encode for it.

use std::{collections::BTreeMap, io::ErrorKind, path::Path};

use super::*;
use crate::{
    dataset::Dataset,
    disk::faults,
    manifest::{Compression, Dtype, Flip, Part, Store},
    samples::{header, record, settings, write},
    verify::verify,
};

const SAMPLES: u64 = 11;

fn small() -> ManifestHeader {
    let store = settings(Store::Moments, Dtype::Bf16, Flip::Both, Compression::Zstd);
    header([1, 2, 4], store)
}

/// One run, from where the one before stopped.
fn run(dir: &Path, header: &ManifestHeader) -> Result<Manifest> {
    let mut writer = DatasetWriter::open(dir, header.clone())?;
    if !writer.is_complete() {
        for id in writer.finished_samples()..SAMPLES {
            writer.push(&record(header, id))?;
        }
    }
    writer.finish()
}

/// Names, lengths and hashes.
fn files(dir: &Path) -> BTreeMap<String, (usize, u32)> {
    fs_err::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let bytes = fs_err::read(entry.path()).unwrap();
            (name, (bytes.len(), crate::frame::checksum(&bytes)))
        })
        .collect()
}

/// Nothing that can be read is half written.
fn check_leavings(dir: &Path) {
    for entry in fs_err::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with(SHARD_SUFFIX) {
            ShardReader::open(&path).unwrap();
            assert!(verify(&path).unwrap().is_sound());
        }
    }
    match Dataset::open(dir) {
        Ok(dataset) => assert_eq!(dataset.len() as u64, SAMPLES),
        Err(error) => assert!(matches!(error, Error::NoManifest { .. }), "{error}"),
    }
}

#[test]
fn a_run_killed_between_any_two_steps_continues_to_the_same_bytes() {
    for frame_samples in [1, 3] {
        let mut header = small();
        header.store.frame_samples = frame_samples;
        let whole = tempfile::tempdir().unwrap();
        faults::count();
        run(whole.path(), &header).unwrap();
        let steps = faults::end();
        assert!(steps > 20, "{steps}");
        let expected = files(whole.path());
        assert_eq!(expected.len(), 4, "three shards and a manifest");
        for step in 0..steps {
            let parent = tempfile::tempdir().unwrap();
            let dir = parent.path().join("data");
            fs_err::create_dir(&dir).unwrap();
            // Twice, the second time somewhere else.
            for step in [step, step * 7 % steps] {
                faults::kill_at(step);
                let killed = run(&dir, &header);
                faults::end();
                // Of the steps after the manifest's renaming only the tidying is left.
                assert!(killed.is_err() || dir.join("dataset.json").exists());
                check_leavings(&dir);
            }
            run(&dir, &header).unwrap();
            assert_eq!(files(&dir), expected, "step {step}");
        }
    }
}

#[test]
fn a_full_disk_is_told_with_what_is_safe_and_half_a_shard_is_removed() {
    let header = small();
    let whole = tempfile::tempdir().unwrap();
    faults::count();
    run(whole.path(), &header).unwrap();
    let steps = faults::end();
    let mut told = 0;
    for (kind, step) in [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::FileTooLarge,
    ]
    .into_iter()
    .cycle()
    .zip(0..steps)
    {
        let dir = tempfile::tempdir().unwrap();
        faults::fill_at(step, kind);
        let full = run(dir.path(), &header);
        faults::end();
        if let Err(error) = full {
            let text = error.to_string();
            if let Error::StorageFull { samples, .. } = error {
                told += 1;
                assert!(
                    text.contains(&format!("{samples} samples are finished and stay")),
                    "{text}"
                );
                assert!(
                    files(dir.path())
                        .keys()
                        .all(|name| !name.ends_with(".zst.partial")),
                    "step {step}"
                );
            }
        }
        check_leavings(dir.path());
        run(dir.path(), &header).unwrap();
        assert_eq!(files(dir.path()), files(whole.path()), "step {step}");
    }
    assert!(told > 15, "{told}");
}

#[test]
fn after_a_failed_write_nothing_is_written_around_the_gap() {
    let header = small();
    let dir = tempfile::tempdir().unwrap();
    let mut writer = DatasetWriter::open(dir.path(), header.clone()).unwrap();
    faults::fill_at(0, ErrorKind::StorageFull);
    assert!(matches!(
        writer.push(&record(&header, 0)),
        Err(Error::StorageFull { .. })
    ));
    faults::end();
    let error = writer.push(&record(&header, 1)).unwrap_err().to_string();
    assert!(error.contains("open it again to continue"), "{error}");
    assert!(writer.finish().is_err());
}

#[test]
fn records_that_other_threads_encode_give_the_same_bytes() {
    for frame_samples in [1, 3] {
        let mut header = small();
        header.store.frame_samples = frame_samples;
        let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(one.path(), &header, 0..SAMPLES).unwrap();
        let mut writer = DatasetWriter::open(many.path(), header.clone()).unwrap();
        let threads: Vec<_> = (0..SAMPLES)
            .map(|id| {
                let (mut encoder, header) = (writer.record_encoder().unwrap(), header.clone());
                std::thread::spawn(move || encoder.encode(&record(&header, id)).unwrap())
            })
            .collect();
        for thread in threads {
            writer.push_encoded(thread.join().unwrap()).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(files(one.path()), files(many.path()));
    }
}

#[test]
fn a_record_that_was_encoded_for_another_dataset_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut other = small();
    other.store.dtype = Dtype::F16;
    let mut encoder = DatasetWriter::open(two.path(), other.clone())
        .unwrap()
        .record_encoder()
        .unwrap();
    let mut writer = DatasetWriter::open(one.path(), small()).unwrap();
    let encoded = encoder.encode(&record(&other, 0)).unwrap();
    assert!(matches!(
        writer.push_encoded(encoded),
        Err(Error::Record { id: 0, .. })
    ));
}

#[test]
fn ids_come_in_any_order_but_only_once() {
    let header = small();
    let dir = tempfile::tempdir().unwrap();
    let mut writer = DatasetWriter::open(dir.path(), header.clone()).unwrap();
    for id in [7, 2, 9, 1, 100, 3] {
        writer.push(&record(&header, id)).unwrap();
    }
    assert_eq!(writer.finish().unwrap().samples, 6);
    let dataset = Dataset::open(dir.path()).unwrap();
    assert_eq!(dataset.ids(), [7, 2, 9, 1, 100, 3]);

    let dir = tempfile::tempdir().unwrap();
    let mut writer = DatasetWriter::open(dir.path(), header.clone()).unwrap();
    for id in [7, 2, 9, 1, 100, 3] {
        writer.push(&record(&header, id)).unwrap();
    }
    let mut again = record(&header, 2);
    again.key = "another".to_owned();
    writer.push(&again).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(
        error.contains("two records have the id 2: class2/image ü2.png and another"),
        "{error}"
    );
}

#[test]
fn a_folder_begun_as_one_part_is_not_continued_as_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut header = small();
    header.part = Some(Part { index: 1, count: 4 });
    let mut writer = DatasetWriter::open(dir.path(), header.clone()).unwrap();
    writer.push(&record(&header, 0)).unwrap();
    drop(writer);
    let mut other = header.clone();
    for (part, named) in [
        (None, "the whole dataset"),
        (Some(Part { index: 2, count: 4 }), "part 3 of 4"),
    ] {
        other.part = part;
        let error = DatasetWriter::open(dir.path(), other.clone()).err().unwrap();
        assert!(matches!(error, Error::Mismatch { .. }));
        let text = error.to_string();
        assert!(
            text.contains(&format!("part is part 2 of 4, expected {named}")),
            "{text}"
        );
    }
    assert_eq!(header.fingerprint(), other.fingerprint());
    other.part = Some(Part { index: 4, count: 4 });
    let error = DatasetWriter::open(dir.path(), other).err().unwrap().to_string();
    assert!(error.contains("there is no part 5 of 4"), "{error}");
    DatasetWriter::open(dir.path(), header)
        .unwrap()
        .finish()
        .expect("a part may be empty");
}

#[test]
fn a_folder_begun_in_one_arithmetic_is_not_continued_in_another() {
    let dir = tempfile::tempdir().unwrap();
    let header = small();
    drop(DatasetWriter::open(dir.path(), header.clone()).unwrap());
    let mut other = header.clone();
    other.vae.arithmetic = Some("cuda f32".to_owned());
    let error = DatasetWriter::open(dir.path(), other.clone()).err().unwrap();
    assert!(matches!(error, Error::Mismatch { .. }));
    assert!(error.to_string().contains("cuda f32"), "{error}");
    assert_ne!(header.fingerprint(), other.fingerprint());
    let text = serde_json::to_string(&header).unwrap();
    assert!(
        !text.contains("arithmetic"),
        "the processor's f32 goes without saying: {text}"
    );
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let writer = DatasetWriter::open(dir.path(), small()).unwrap();
    let error = DatasetWriter::open(dir.path(), small())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("writes a dataset there since"), "{error}");
    drop(writer);
    run(dir.path(), &small()).unwrap();
    // Of a complete dataset there may be any number.
    let _one = DatasetWriter::open(dir.path(), small()).unwrap();
    let _two = DatasetWriter::open(dir.path(), small()).unwrap();
}

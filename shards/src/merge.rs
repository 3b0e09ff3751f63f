//! The parts of a dataset that several machines made become the dataset that one machine would have made, byte for byte.
//!
//! Frames of one row are copied as they are; shards are cut anew, since rejects move the boundaries. A merge that was
//! stopped goes on where it was, as the writer does.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    dataset::Dataset,
    disk,
    error::{Error, Result},
    layout::REJECTS_NAME,
    manifest::{Manifest, ManifestHeader, Part},
    writer::{DatasetWriter, EncodedRecord},
};

/// What a merge did.
#[derive(Debug)]
pub struct Merged {
    /// The dataset.
    pub manifest: Manifest,
    /// Lines of its list of rejects.
    pub rejects: u64,
    /// Samples that an earlier, unfinished merge had stored.
    pub resumed_at: u64,
}

/// A part, open; without a dataset where it has no sample.
struct Source {
    dir: PathBuf,
    part: Part,
    header: ManifestHeader,
    dataset: Option<Dataset>,
}

/// Merges the folders `parts`, in any order, into the folder `out`; calls `progress` with the samples done and all.
///
/// # Errors
/// [`Error::Parts`] when the folders are not all parts of one dataset, each once; [`Error::Mismatch`] names the first
/// setting that differs; [`Error::NoManifest`] for a part that is not complete; faults of the shards and of writing.
pub fn merge(parts: &[PathBuf], out: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Merged> {
    let sources = open(parts)?;
    for source in &sources {
        if same_folder(&source.dir, out) {
            return Err(Error::Parts {
                what: format!(
                    "{} is {}: the result needs a folder of its own",
                    out.display(),
                    source.part
                ),
            });
        }
    }
    let datasets: Vec<&Dataset> = sources
        .iter()
        .filter_map(|source| source.dataset.as_ref())
        .collect();
    let total = datasets.iter().map(|dataset| dataset.len() as u64).sum();
    let mut header = sources[0].header.clone();
    header.part = None;
    let fingerprint: Arc<str> = header.fingerprint().into();
    let mut writer = DatasetWriter::open(out, header)?;
    let resumed_at = writer.finished_samples();
    if writer.is_complete() {
        progress(total, total);
        return Ok(Merged {
            manifest: writer.finish()?,
            rejects: lines(&out.join(REJECTS_NAME))?.map_or(0, |text| count(&text)),
            resumed_at,
        });
    }
    let mut done = 0;
    for dataset in datasets {
        for shard in dataset.shards() {
            for sample in 0..shard.len() {
                if done + 1 == resumed_at
                    && writer.last_finished().map(|(id, _)| id) != Some(shard.ids()[sample])
                {
                    return Err(Error::Parts {
                        what: format!(
                            "{} holds shards of other parts\nhint: choose another --out",
                            out.display()
                        ),
                    });
                }
                if done >= resumed_at {
                    writer.push_encoded(EncodedRecord::stored(shard, sample, &fingerprint)?)?;
                }
                done += 1;
                progress(done, total);
            }
        }
    }
    let rejects = merge_rejects(&sources, out)?;
    Ok(Merged {
        manifest: writer.finish()?,
        rejects,
        resumed_at,
    })
}

/// Opens the parts and puts them in order.
fn open(folders: &[PathBuf]) -> Result<Vec<Source>> {
    let wrong = |what: String| Err(Error::Parts { what });
    let mut sources: Vec<Source> = Vec::new();
    for dir in folders {
        let manifest = Manifest::read(dir)?;
        let Some(part) = manifest.part else {
            return wrong(format!(
                "{} is a whole dataset, no part of one\nhint: `preprocess encode --part 0/4` makes the first of four",
                dir.display()
            ));
        };
        if let Some(first) = sources.first() {
            if first.part.count != part.count {
                return wrong(format!(
                    "{} is {}, but {} is {part}",
                    first.dir.display(),
                    first.part,
                    dir.display()
                ));
            }
            let mut same_part = manifest.header.clone();
            same_part.part = Some(first.part);
            if let Some((what, found, expected)) = same_part.difference(&first.header) {
                return Err(Error::Mismatch {
                    path: dir.clone(),
                    what: what.to_owned(),
                    found,
                    expected: format!("{expected}, as in {}", first.dir.display()),
                });
            }
        }
        if let Some(twin) = sources.iter().find(|source| source.part == part) {
            return wrong(format!(
                "{} and {} both hold {part}",
                twin.dir.display(),
                dir.display()
            ));
        }
        let dataset = if manifest.samples > 0 {
            Some(Dataset::open(dir)?)
        } else {
            None
        };
        sources.push(Source {
            dir: dir.clone(),
            part,
            header: manifest.header,
            dataset,
        });
    }
    sources.sort_by_key(|source| source.part.index);
    let Some(first) = sources.first() else {
        return wrong("there is no part to merge".to_owned());
    };
    let count = first.part.count;
    let missing: Vec<String> = (0..count)
        .filter(|&index| !sources.iter().any(|source| source.part.index == index))
        .map(|index| Part { index, count }.to_string())
        .collect();
    match missing.len() {
        0 => Ok(sources),
        1 => wrong(format!("{} is missing", missing[0])),
        n => wrong(format!("{n} parts are missing, first {}", missing[0])),
    }
}

/// The lists one after the other; none where no part has one.
fn merge_rejects(sources: &[Source], out: &Path) -> Result<u64> {
    let mut all: Option<Vec<u8>> = None;
    for source in sources {
        if let Some(text) = lines(&source.dir.join(REJECTS_NAME))? {
            all.get_or_insert_default().extend(text);
        }
    }
    let Some(all) = all else { return Ok(0) };
    disk::replace(&out.join(REJECTS_NAME), &all)?;
    Ok(count(&all))
}

/// A file of lines, the last one ended too.
fn lines(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut text = match fs_err::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if text.last().is_some_and(|&last| last != b'\n') {
        text.push(b'\n');
    }
    Ok(Some(text))
}

fn count(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}

fn same_folder(a: &Path, b: &Path) -> bool {
    match (fs_err::canonicalize(a), fs_err::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::faults,
        manifest::{Compression, Dtype, Flip, Store},
        samples::{header, record, settings},
        verify::verify,
    };

    const SAMPLES: u64 = 23;

    fn is_rejected(id: u64) -> bool {
        matches!(id, 2 | 3 | 11 | 22)
    }

    /// What an encoding run makes of the images `ids`.
    fn encode(dir: &Path, header: &ManifestHeader, ids: std::ops::Range<u64>) {
        let mut writer = DatasetWriter::open(dir, header.clone()).unwrap();
        let mut rejects = String::new();
        for id in ids {
            if is_rejected(id) {
                rejects += &format!("{{\"id\":{id}}}\n");
            } else {
                writer.push(&record(header, id)).unwrap();
            }
        }
        fs_err::write(dir.join(REJECTS_NAME), rejects).unwrap();
        writer.finish().unwrap();
    }

    fn encode_parts(dir: &Path, header: &ManifestHeader, count: u32) -> Vec<PathBuf> {
        (0..count)
            .map(|index| {
                let mut header = header.clone();
                header.part = Some(Part { index, count });
                let folder = dir.join(format!("part-{index}"));
                let cut = |index: u32| SAMPLES * u64::from(index) / u64::from(count);
                encode(&folder, &header, cut(index)..cut(index + 1));
                folder
            })
            .collect()
    }

    fn plain(frame_samples: usize) -> ManifestHeader {
        let mut store = settings(Store::Moments, Dtype::Bf16, Flip::Both, Compression::Zstd);
        store.frame_samples = frame_samples;
        header([1, 2, 4], store)
    }

    fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs_err::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, fs_err::read(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn any_number_of_parts_gives_the_bytes_of_one_run() {
        for frame_samples in [1, 3] {
            let header = plain(frame_samples);
            let dir = tempfile::tempdir().unwrap();
            encode(&dir.path().join("whole"), &header, 0..SAMPLES);
            let expected = files(&dir.path().join("whole"));
            // Of 23 parts some have no sample.
            for count in [1, 2, 3, 4, 7, 23] {
                let dir = tempfile::tempdir().unwrap();
                let mut parts = encode_parts(dir.path(), &header, count);
                parts.reverse();
                let out = dir.path().join("merged");
                let mut last = (0, 0);
                let merged = merge(&parts, &out, |done, all| last = (done, all)).unwrap();
                assert_eq!(last, (19, 19));
                assert_eq!(merged.rejects, 4);
                assert!(
                    files(&out) == expected,
                    "{count} parts, {frame_samples} rows a frame"
                );
                assert!(verify(&out).unwrap().is_sound());
                // Once more changes nothing.
                assert_eq!(merge(&parts, &out, |_, _| ()).unwrap().rejects, 4);
                assert!(files(&out) == expected);
            }
        }
    }

    #[test]
    fn a_merge_that_was_killed_at_any_step_goes_on_to_the_same_bytes() {
        let header = plain(1);
        let dir = tempfile::tempdir().unwrap();
        let parts = encode_parts(dir.path(), &header, 3);
        let whole = dir.path().join("whole");
        faults::count();
        merge(&parts, &whole, |_, _| ()).unwrap();
        let expected = files(&whole);
        for step in 0..faults::end() {
            let out = dir.path().join(format!("out-{step}"));
            faults::kill_at(step);
            let _ = merge(&parts, &out, |_, _| ());
            faults::end();
            merge(&parts, &out, |_, _| ()).unwrap();
            assert!(files(&out) == expected, "step {step}");
        }
    }

    #[test]
    fn what_is_not_one_dataset_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let parts = encode_parts(dir.path(), &plain(1), 4);
        let out = dir.path().join("out");
        let refused = |parts: &[&Path], text: &str| {
            let parts: Vec<PathBuf> = parts.iter().map(|part| part.to_path_buf()).collect();
            let error = merge(&parts, &out, |_, _| ()).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            assert!(!out.exists(), "{text}");
        };
        let [a, b, c, d] = [0, 1, 2, 3].map(|part| &*parts[part]);
        refused(&[a, b, d], "part 3 of 4 is missing");
        refused(&[b, d], "2 parts are missing, first part 1 of 4");
        refused(&[a, b, a, c, d], "both hold part 1 of 4");
        refused(&[], "there is no part");

        let whole = dir.path().join("whole");
        encode(&whole, &plain(1), 0..SAMPLES);
        refused(&[a, b, c, &whole], "is a whole dataset");

        let other = dir.path().join("other");
        let third = encode_parts(&other, &plain(1), 3).remove(2);
        refused(&[a, b, &third, d], "is part 3 of 3");

        let mut header = plain(1);
        header.image_size = 99;
        let other = dir.path().join("settings");
        let third = encode_parts(&other, &header, 4).remove(2);
        refused(&[a, b, &third, d], "image_size is 99, expected 16, as in");

        fs_err::remove_file(c.join("dataset.json")).unwrap();
        refused(&[a, b, c, d], "holds no complete dataset");
        let error = merge(
            &encode_parts(&dir.path().join("again"), &plain(1), 1),
            a,
            |_, _| (),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("part is part 1 of 4"), "{error}");
    }

    #[test]
    fn a_damaged_part_is_told_and_not_copied() {
        let header = plain(1);
        let dir = tempfile::tempdir().unwrap();
        let parts = encode_parts(dir.path(), &header, 2);
        let manifest = Manifest::read(&parts[1]).unwrap();
        let shard = parts[1].join(&manifest.shards[0].file);
        let mut bytes = fs_err::read(&shard).unwrap();
        bytes[4112 + 60] ^= 1;
        fs_err::write(&shard, bytes).unwrap();
        let error = merge(&parts, &dir.path().join("out"), |_, _| ()).unwrap_err();
        assert!(
            matches!(error, Error::Checksum { .. } | Error::Format { .. }),
            "{error}"
        );
        assert!(matches!(
            Dataset::open(&dir.path().join("out")),
            Err(Error::NoManifest { .. })
        ));
    }
}

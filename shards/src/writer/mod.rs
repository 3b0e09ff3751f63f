//! Writes a dataset: shard by shard, each aside and renamed when complete, the manifest last; continues after a kill.

mod record;
mod resume;
mod shard;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use record::{EncodedRecord, Moments, Record, RecordEncoder};
use shard::ShardWriter;

use crate::{
    dataset::doubled,
    disk,
    error::{Error, Result},
    frame::Encoder,
    header::ShardHeader,
    layout::{BEGUN_NAME, FORMAT_VERSION, MAX_SAMPLES, PARTIAL_SUFFIX, SHARD_SUFFIX},
    lock::FolderLock,
    manifest::{Manifest, ManifestHeader, ShardEntry},
    reader::ShardReader,
};

/// Writes a dataset folder; no other process can, meanwhile.
pub struct DatasetWriter {
    dir: PathBuf,
    header: ManifestHeader,
    fingerprint: Arc<str>,
    encoder: Encoder,
    /// For [`Self::push`].
    records: RecordEncoder,
    finished: Vec<ShardEntry>,
    ids: Vec<u64>,
    squared_error: f64,
    last: Option<(u64, String)>,
    complete: Option<Manifest>,
    current: Option<ShardWriter>,
    /// A write failed: what is missing must not be written around.
    broken: bool,
    /// None for a dataset that is complete.
    lock: Option<FolderLock>,
}

impl DatasetWriter {
    /// Opens the folder `dir`, creating it if need be, and takes over the shards that an earlier run finished.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the folder was begun with other settings or as another part, naming the first
    /// difference; [`Error::Locked`] while another process writes there.
    pub fn open(dir: &Path, header: ManifestHeader) -> Result<Self> {
        let settings = |what: String| Error::Settings { what };
        let samples = header.store.shard_samples as u64;
        if !(1..=MAX_SAMPLES).contains(&samples) {
            return Err(settings(format!(
                "a shard of {samples} samples: choose 1 to {MAX_SAMPLES}"
            )));
        }
        if let Some(part) = header.part.filter(|part| part.index >= part.count) {
            return Err(settings(format!(
                "there is no {part}: choose 1 to {}",
                part.count
            )));
        }
        let fingerprint: Arc<str> = header.fingerprint().into();
        let mut probe = ShardHeader::new(&header, &fingerprint, 0);
        probe.samples = samples;
        probe.check().map_err(settings)?;
        let mut writer = Self {
            dir: dir.to_owned(),
            encoder: Encoder::new(header.store.compression)?,
            records: RecordEncoder::new(&header, Arc::clone(&fingerprint))?,
            fingerprint,
            finished: Vec::new(),
            ids: Vec::new(),
            squared_error: 0.0,
            last: None,
            complete: None,
            current: None,
            broken: false,
            lock: None,
            header,
        };
        if !writer.take_complete()? {
            disk::create_dir_all(dir)?;
            writer.lock = Some(FolderLock::acquire(dir, "writes a dataset")?);
            // The process that held the lock may have finished it.
            if writer.take_complete()? {
                writer.lock = None;
            } else {
                writer.resume()?;
            }
        }
        Ok(writer)
    }

    /// An encoder of records for another thread; what it makes goes to [`Self::push_encoded`].
    ///
    /// # Errors
    /// [`Error::Compress`] when zstd cannot be set up.
    pub fn record_encoder(&self) -> Result<RecordEncoder> {
        RecordEncoder::new(&self.header, Arc::clone(&self.fingerprint))
    }

    /// Samples in finished shards.
    pub fn finished_samples(&self) -> u64 {
        self.finished.iter().map(|shard| shard.samples).sum()
    }

    /// Id and key of the last sample in the finished shards: a source continues after it.
    pub fn last_finished(&self) -> Option<(u64, &str)> {
        self.last.as_ref().map(|(id, key)| (*id, key.as_str()))
    }

    /// Whether an earlier run finished this very dataset; then nothing can be added.
    pub fn is_complete(&self) -> bool {
        self.complete.is_some()
    }

    /// Adds a sample: encodes it in this thread.
    ///
    /// # Errors
    /// Those of [`RecordEncoder::encode`] and [`Self::push_encoded`].
    pub fn push(&mut self, record: &Record) -> Result<()> {
        let encoded = self.records.encode(record)?;
        self.push_encoded(encoded)
    }

    /// Adds a sample that a [`RecordEncoder`] of this writer has encoded. Samples are stored in the order of the calls.
    ///
    /// # Errors
    /// [`Error::Complete`]; [`Error::StorageFull`] and others of the file system, after which nothing can be added;
    /// [`Error::Record`] for a record that was encoded with other settings.
    pub fn push_encoded(&mut self, record: EncodedRecord) -> Result<()> {
        if let Some(manifest) = &self.complete {
            return Err(Error::Complete {
                path: self.dir.clone(),
                samples: manifest.samples,
            });
        }
        self.check_sound()?;
        if record.fingerprint != self.fingerprint {
            return Err(Error::Record {
                id: record.id,
                key: record.key,
                what: "it was encoded for a dataset with other settings".to_owned(),
            });
        }
        let written = self.add(&record);
        self.settle(written)
    }

    fn add(&mut self, record: &EncodedRecord) -> Result<()> {
        if self.current.is_none() {
            let number = self.finished.len();
            let path = self
                .dir
                .join(format!("{}{SHARD_SUFFIX}{PARTIAL_SUFFIX}", self.stem(number)));
            let header = ShardHeader::new(&self.header, &self.fingerprint, number as u64);
            self.current = Some(ShardWriter::create(path, header)?);
        }
        let Some(shard) = &mut self.current else {
            return Ok(());
        };
        if !shard.has_room(&record.key) {
            return Err(Error::Settings {
                what: "the keys of one shard are too long: choose a smaller --shard-samples".to_owned(),
            });
        }
        shard.push(&mut self.encoder, record)?;
        if shard.samples() >= self.header.store.shard_samples {
            self.finish_shard()?;
        }
        Ok(())
    }

    fn finish_shard(&mut self) -> Result<()> {
        let file = format!("{}{SHARD_SUFFIX}", self.stem(self.finished.len()));
        let Some(shard) = &mut self.current else {
            return Ok(());
        };
        shard.finish(&mut self.encoder)?;
        let path = self.dir.join(&file);
        disk::rename(shard.path(), &path)?;
        self.current = None;
        disk::sync_dir(&self.dir)?;
        // Reading it back proves that what is on the disk opens.
        let reader = ShardReader::open(&path)?;
        self.adopt(&reader, file);
        Ok(())
    }

    /// Finishes the last shard, gives the shards their final names, writes the manifest and gives the folder free.
    ///
    /// # Errors
    /// Those of the file system; [`Error::DoubledId`]; [`Error::Settings`] when there is no sample at all, unless this
    /// is one part of several.
    pub fn finish(mut self) -> Result<Manifest> {
        if let Some(manifest) = self.complete {
            return Ok(manifest);
        }
        self.check_sound()?;
        let finished = self.finish_shard();
        self.settle(finished)?;
        let finished = self.complete();
        self.settle(finished)
    }

    fn complete(&mut self) -> Result<Manifest> {
        let samples = self.finished_samples();
        if samples == 0 && self.header.part.is_none() {
            return Err(Error::Settings {
                what: "the source gave no sample that could be stored".to_owned(),
            });
        }
        self.check_ids()?;
        let count = self.finished.len();
        for shard in 0..count {
            let file = format!("{}-of-{count:05}{SHARD_SUFFIX}", self.stem(shard));
            let entry = &mut self.finished[shard];
            if entry.file != file {
                disk::rename(&self.dir.join(&entry.file), &self.dir.join(&file))?;
                entry.file = file;
            }
        }
        disk::sync_dir(&self.dir)?;
        let values =
            samples as f64 * (self.header.store.views() * self.header.row_layout().elements()) as f64;
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            header: self.header.clone(),
            samples,
            shards: self.finished.clone(),
            quantization_error: if samples > 0 {
                (self.squared_error / values).sqrt()
            } else {
                0.0
            },
            fingerprint: self.fingerprint.to_string(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        manifest.write(&self.dir)?;
        disk::remove(&self.dir.join(BEGUN_NAME))?;
        Ok(manifest)
    }

    fn check_ids(&self) -> Result<()> {
        let Some((id, places)) = doubled(&self.ids) else {
            return Ok(());
        };
        let per_shard = self.header.store.shard_samples;
        let mut keys = Vec::new();
        for place in places {
            let reader = ShardReader::open(&self.dir.join(&self.finished[place / per_shard].file))?;
            keys.push(reader.key(place % per_shard).unwrap_or_default().to_owned());
        }
        Err(Error::DoubledId {
            path: self.dir.clone(),
            id,
            keys: keys.join(" and "),
        })
    }

    fn check_sound(&self) -> Result<()> {
        if self.broken {
            return Err(Error::Settings {
                what: format!(
                    "an earlier write to {} failed: open it again to continue",
                    self.dir.display()
                ),
            });
        }
        Ok(())
    }

    /// After a failure nothing more is written. Where the disk is full, half a shard is removed to give its room back.
    fn settle<T>(&mut self, result: Result<T>) -> Result<T> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        self.broken = true;
        let shard = self.current.take().map(|shard| shard.path().to_owned());
        let Error::Io(source) = error else {
            return Err(error);
        };
        let what = match source.kind() {
            ErrorKind::StorageFull => "the disk is full",
            ErrorKind::QuotaExceeded => "the quota of this user is used up",
            ErrorKind::FileTooLarge => "a file cannot become larger here",
            _ => return Err(Error::Io(source)),
        };
        if let Some(shard) = &shard {
            // The error that is told is the one that matters.
            let _ = disk::remove(shard);
        }
        Err(Error::StorageFull {
            path: shard.unwrap_or_else(|| self.dir.clone()),
            what,
            shards: self.finished.len(),
            samples: self.finished_samples(),
            source,
        })
    }

    fn stem(&self, shard: usize) -> String {
        let split = if self.header.source.split.is_empty() {
            "train"
        } else {
            &self.header.source.split
        };
        format!("{split}-{shard:05}")
    }
}

#[cfg(test)]
mod tests;

//! What an earlier run left in the folder: a complete dataset, or finished shards and the settings that it began with.

use super::DatasetWriter;
use crate::{
    disk,
    error::{Error, Result},
    layout::{BEGUN_NAME, MANIFEST_NAME, SHARD_SUFFIX},
    lock::{FolderLock, LOCK_NAME},
    manifest::{Manifest, ManifestHeader, ShardEntry},
    reader::ShardReader,
};

impl DatasetWriter {
    /// Takes over a dataset that is complete; answers whether it is.
    pub(super) fn take_complete(&mut self) -> Result<bool> {
        let manifest = match Manifest::read(&self.dir) {
            Ok(manifest) => manifest,
            Err(Error::NoManifest { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.check_same(&manifest.header, MANIFEST_NAME)?;
        let there = |entry: &ShardEntry| self.dir.join(&entry.file).is_file();
        if !manifest.shards.iter().all(there) {
            return Ok(false);
        }
        if let Some(entry) = manifest.shards.last() {
            self.last = last_record(&ShardReader::open(&self.dir.join(&entry.file))?);
        }
        self.finished.clone_from(&manifest.shards);
        self.complete = Some(manifest);
        self.tidy()?;
        Ok(true)
    }

    /// Removes what a run that was killed after its manifest was in place has left.
    fn tidy(&self) -> Result<()> {
        let begun = self.dir.join(BEGUN_NAME);
        if begun.exists() || self.dir.join(LOCK_NAME).exists() {
            // Whoever holds the lock is about to do the same.
            match FolderLock::acquire(&self.dir, "tidies a dataset") {
                Ok(_lock) => disk::remove(&begun)?,
                Err(Error::Locked { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn check_same(&self, found: &ManifestHeader, file: &str) -> Result<()> {
        if let Some((what, found, expected)) = found.difference(&self.header) {
            return Err(Error::Mismatch {
                path: self.dir.join(file),
                what: what.to_owned(),
                found,
                expected: format!("{expected}\nhint: choose another --out, or the settings of before"),
            });
        }
        Ok(())
    }

    /// Finds the finished shards of an earlier run. A short one can only be the last of a run that ended before its
    /// manifest was written: it is made again.
    pub(super) fn resume(&mut self) -> Result<()> {
        let begun = self.dir.join(BEGUN_NAME);
        if begun.exists() {
            let header = ManifestHeader::read(&begun)?;
            self.check_same(&header, BEGUN_NAME)?;
        } else {
            let bytes = serde_json::to_vec_pretty(&self.header).map_err(|source| Error::Manifest {
                path: begun.clone(),
                source,
            })?;
            disk::replace(&begun, &bytes)?;
        }
        // A manifest whose shards are not all there: a damaged one was removed, to be made again.
        let manifest = self.dir.join(MANIFEST_NAME);
        if manifest.exists() {
            disk::remove(&manifest)?;
        }
        let mut names: Vec<String> = Vec::new();
        for entry in fs_err::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        loop {
            let stem = self.stem(self.finished.len());
            let mut of_shard = names.iter().filter(|name| {
                name.strip_prefix(&stem).is_some_and(|rest| {
                    rest.ends_with(SHARD_SUFFIX) && !rest.starts_with(|c: char| c.is_ascii_digit())
                })
            });
            let Some(name) = of_shard.next() else {
                return Ok(());
            };
            // The same shard made again, before its manifest was.
            for again in of_shard {
                disk::remove(&self.dir.join(again))?;
            }
            let reader = ShardReader::open(&self.dir.join(name))?;
            if reader.header().fingerprint != *self.fingerprint {
                return Err(Error::Mismatch {
                    path: reader.path().to_owned(),
                    what: "the fingerprint of source, transform, autoencoder and store settings".to_owned(),
                    found: reader.header().fingerprint.clone(),
                    expected: format!(
                        "{}\nhint: choose another --out, or remove the old shards",
                        self.fingerprint
                    ),
                });
            }
            if reader.len() < self.header.store.shard_samples {
                disk::remove(reader.path())?;
                return Ok(());
            }
            self.adopt(&reader, name.clone());
        }
    }

    /// Counts a finished shard in.
    pub(super) fn adopt(&mut self, reader: &ShardReader, file: String) {
        for error in reader.squared_errors() {
            self.squared_error += error;
        }
        self.last = last_record(reader);
        self.ids.extend(reader.ids());
        self.finished.push(ShardEntry {
            file,
            samples: reader.len() as u64,
            sha256: reader.sha256(),
            bytes: reader.file_bytes(),
        });
    }
}

fn last_record(reader: &ShardReader) -> Option<(u64, String)> {
    let last = reader.len().checked_sub(1)?;
    Some((reader.ids()[last], reader.key(last)?.to_owned()))
}

//! Writes a dataset: shard by shard, each aside and renamed when complete, the manifest last; continues after a kill.

use std::{
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    frame::{self, Encoder},
    header::ShardHeader,
    layout::{
        FORMAT_VERSION, HEADER_BYTES, MANIFEST_NAME, MAX_INDEX_BYTES, MAX_KEY_BYTES, MAX_SAMPLES,
        PARTIAL_SUFFIX, RowLayout, SHARD_SUFFIX,
    },
    manifest::{Manifest, ManifestHeader, ShardEntry, Store, sync_dir},
    quantize,
    reader::ShardReader,
    rng::{Philox, Stream},
    seek_table::{self, Entry},
};

/// Mean and log-variance of one view, each `[C, H, W]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// The mean of the posterior.
    pub mean: Vec<f32>,
    /// Its log-variance; `None` for an autoencoder without one.
    pub logvar: Option<Vec<f32>>,
}

/// One sample of a dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Its id in the source: random numbers are keyed by it. Ids rise from record to record.
    pub id: u64,
    /// Its name in the source.
    pub key: String,
    /// Its class.
    pub label: i64,
    /// The image's posterior and, with [`Flip::Both`](crate::manifest::Flip::Both), the mirrored image's.
    pub views: Vec<Moments>,
}

/// Writes a dataset folder.
pub struct DatasetWriter {
    dir: PathBuf,
    header: ManifestHeader,
    layout: RowLayout,
    fingerprint: String,
    rng: Philox,
    encoder: Encoder,
    finished: Vec<ShardEntry>,
    squared_error: f64,
    last: Option<(u64, String)>,
    complete: Option<Manifest>,
    current: Option<ShardWriter>,
    rows: Vec<u8>,
}

impl DatasetWriter {
    /// Opens the folder `dir`, creating it if need be, and takes over the shards that an earlier run finished.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the folder holds shards that were made with other settings, naming the first difference.
    pub fn open(dir: &Path, header: ManifestHeader) -> Result<Self> {
        let settings = |what: String| Error::Settings { what };
        let samples = header.store.shard_samples as u64;
        if !(1..=MAX_SAMPLES).contains(&samples) {
            return Err(settings(format!(
                "a shard of {samples} samples: choose 1 to {MAX_SAMPLES}"
            )));
        }
        let fingerprint = header.fingerprint();
        let mut probe = ShardHeader::new(&header, &fingerprint, 0);
        probe.samples = samples;
        probe.check().map_err(settings)?;
        fs_err::create_dir_all(dir)?;
        let mut writer = Self {
            dir: dir.to_owned(),
            layout: header.row_layout(),
            fingerprint,
            rng: Philox::new(header.seed),
            encoder: Encoder::new(header.store.compression)?,
            finished: Vec::new(),
            squared_error: 0.0,
            last: None,
            complete: None,
            current: None,
            rows: Vec::new(),
            header,
        };
        if dir.join(MANIFEST_NAME).exists() {
            let manifest = Manifest::read(dir)?;
            writer.check_same(&manifest)?;
            if manifest
                .shards
                .iter()
                .all(|entry| dir.join(&entry.file).is_file())
            {
                writer.last = match manifest.shards.last() {
                    Some(entry) => last_record(&ShardReader::open(&dir.join(&entry.file))?),
                    None => None,
                };
                writer.finished.clone_from(&manifest.shards);
                writer.complete = Some(manifest);
            } else {
                // A damaged shard was removed, to be made again: without its manifest the dataset is unfinished.
                fs_err::remove_file(dir.join(MANIFEST_NAME))?;
                writer.resume()?;
            }
        } else {
            writer.resume()?;
        }
        Ok(writer)
    }

    fn check_same(&self, manifest: &Manifest) -> Result<()> {
        for ((what, found), (_, expected)) in
            manifest.header.identity().into_iter().zip(self.header.identity())
        {
            if found != expected {
                return Err(Error::Mismatch {
                    path: self.dir.join(MANIFEST_NAME),
                    what: what.to_owned(),
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Finds the finished shards of an earlier run. A short one can only be the last of a run that ended before its
    /// manifest was written: it is made again.
    fn resume(&mut self) -> Result<()> {
        let mut names: Vec<String> = Vec::new();
        for entry in fs_err::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        loop {
            let stem = self.stem(self.finished.len());
            let Some(name) = names.iter().find(|name| {
                name.strip_prefix(&stem).is_some_and(|rest| {
                    rest.ends_with(SHARD_SUFFIX) && !rest.starts_with(|c: char| c.is_ascii_digit())
                })
            }) else {
                return Ok(());
            };
            let reader = ShardReader::open(&self.dir.join(name))?;
            if reader.header().fingerprint != self.fingerprint {
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
                fs_err::remove_file(reader.path())?;
                return Ok(());
            }
            self.adopt(&reader, name.clone());
        }
    }

    /// Counts a finished shard in.
    fn adopt(&mut self, reader: &ShardReader, file: String) {
        for error in reader.squared_errors() {
            self.squared_error += error;
        }
        self.last = last_record(reader);
        self.finished.push(ShardEntry {
            file,
            samples: reader.len() as u64,
            sha256: reader.sha256(),
            bytes: reader.file_bytes(),
        });
    }

    fn stem(&self, shard: usize) -> String {
        let split = if self.header.source.split.is_empty() {
            "train"
        } else {
            &self.header.source.split
        };
        format!("{split}-{shard:05}")
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

    /// Adds a sample.
    ///
    /// # Errors
    /// [`Error::Record`] for a record that does not fit the dataset; [`Error::Complete`]; those of the file system.
    pub fn push(&mut self, record: &Record) -> Result<()> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let squared_error = self.encode(record, &mut rows).map_err(|what| Error::Record {
            id: record.id,
            key: record.key.clone(),
            what,
        })?;
        self.push_rows(record.id, &record.key, record.label, squared_error, &rows)?;
        self.rows = rows;
        Ok(())
    }

    /// Appends a record's rows and returns their squared error.
    fn encode(&self, record: &Record, rows: &mut Vec<u8>) -> std::result::Result<f64, String> {
        let views = self.header.store.views();
        if record.views.len() != views {
            return Err(format!("it has {} views, expected {views}", record.views.len()));
        }
        let elements = self.layout.elements();
        let row_bytes = self.layout.row_bytes();
        let mut squared_error = 0.0;
        for (view, moments) in record.views.iter().enumerate() {
            let logvar = moments.logvar.as_deref();
            for (what, values) in [("mean", Some(&moments.mean[..])), ("log-variance", logvar)] {
                if let Some(values) = values.filter(|values| values.len() != elements) {
                    return Err(format!(
                        "the {what} of view {view} has {} elements, expected {elements}",
                        values.len()
                    ));
                }
            }
            let start = rows.len();
            rows.resize(start + row_bytes, 0);
            let row = &mut rows[start..];
            squared_error += match (self.header.store.store, logvar) {
                (Store::Moments, None) => {
                    return Err("it has no log-variance: store the mean instead".to_owned());
                }
                (Store::Moments, logvar) => quantize::encode_row(&self.layout, &moments.mean, logvar, row)?,
                (Store::Sample, Some(logvar)) => {
                    let mut sample = moments.mean.clone();
                    sample_posterior(&self.rng, record.id, 0, view == 1, &mut sample, logvar);
                    quantize::encode_row(&self.layout, &sample, None, row)?
                }
                (Store::Mean | Store::Sample, _) => {
                    quantize::encode_row(&self.layout, &moments.mean, None, row)?
                }
            };
        }
        Ok(squared_error)
    }

    /// Adds a sample whose rows are encoded already.
    pub(crate) fn push_rows(
        &mut self,
        id: u64,
        key: &str,
        label: i64,
        error: f64,
        rows: &[u8],
    ) -> Result<()> {
        if let Some(manifest) = &self.complete {
            return Err(Error::Complete {
                path: self.dir.clone(),
                samples: manifest.samples,
            });
        }
        let refuse = |what: String| Error::Record {
            id,
            key: key.to_owned(),
            what,
        };
        if key.len() > MAX_KEY_BYTES {
            return Err(refuse(format!(
                "its key has {} bytes, allowed are {MAX_KEY_BYTES}",
                key.len()
            )));
        }
        if let Some((last, _)) = self.last.as_ref().filter(|(last, _)| *last >= id) {
            return Err(refuse(format!(
                "its id does not come after {last}, the one before"
            )));
        }
        let mut shard = match self.current.take() {
            Some(shard) => shard,
            None => {
                let number = self.finished.len();
                let path = self
                    .dir
                    .join(format!("{}{SHARD_SUFFIX}{PARTIAL_SUFFIX}", self.stem(number)));
                ShardWriter::create(
                    path,
                    ShardHeader::new(&self.header, &self.fingerprint, number as u64),
                )?
            }
        };
        shard.push(&mut self.encoder, id, key, label, error, rows)?;
        self.last = Some((id, key.to_owned()));
        let full = shard.ids.len() >= self.header.store.shard_samples;
        self.current = Some(shard);
        if full { self.finish_shard() } else { Ok(()) }
    }

    fn finish_shard(&mut self) -> Result<()> {
        let Some(shard) = self.current.take() else {
            return Ok(());
        };
        let partial = shard.finish(&mut self.encoder)?;
        let file = format!("{}{SHARD_SUFFIX}", self.stem(self.finished.len()));
        let path = self.dir.join(&file);
        fs_err::rename(&partial, &path)?;
        sync_dir(&self.dir)?;
        // Reading it back proves that what is on the disk opens.
        let reader = ShardReader::open(&path)?;
        self.adopt(&reader, file);
        Ok(())
    }

    /// Finishes the last shard, gives the shards their final names and writes the manifest.
    ///
    /// # Errors
    /// Those of the file system; [`Error::Settings`] when there is no sample at all.
    pub fn finish(mut self) -> Result<Manifest> {
        if let Some(manifest) = self.complete {
            return Ok(manifest);
        }
        self.finish_shard()?;
        let samples = self.finished_samples();
        if samples == 0 {
            return Err(Error::Settings {
                what: "the source gave no sample that could be stored".to_owned(),
            });
        }
        let count = self.finished.len();
        for shard in 0..count {
            let file = format!("{}-of-{count:05}{SHARD_SUFFIX}", self.stem(shard));
            let entry = &mut self.finished[shard];
            if entry.file != file {
                fs_err::rename(self.dir.join(&entry.file), self.dir.join(&file))?;
                entry.file = file;
            }
        }
        sync_dir(&self.dir)?;
        let values = samples as f64 * (self.header.store.views() * self.layout.elements()) as f64;
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            header: self.header,
            samples,
            shards: self.finished,
            quantization_error: (self.squared_error / values).sqrt(),
            fingerprint: self.fingerprint,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        manifest.write(&self.dir)?;
        Ok(manifest)
    }
}

fn last_record(reader: &ShardReader) -> Option<(u64, String)> {
    let last = reader.len().checked_sub(1)?;
    Some((reader.ids()[last], reader.key(last)?.to_owned()))
}

/// `mean + exp(logvar / 2) noise`, in place; the noise is that of (seed, id, epoch, view).
pub(crate) fn sample_posterior(
    rng: &Philox,
    id: u64,
    epoch: u32,
    mirrored: bool,
    mean: &mut [f32],
    logvar: &[f32],
) {
    let mut noise = vec![0f32; mean.len()];
    let step = epoch | (u32::from(mirrored) << 31);
    rng.fill_normal(Stream::PosteriorNoise, id, step, &mut noise);
    for ((value, logvar), noise) in mean.iter_mut().zip(logvar).zip(noise) {
        *value += (0.5 * logvar).exp() * noise;
    }
}

/// One shard on its way.
struct ShardWriter {
    path: PathBuf,
    file: BufWriter<fs_err::File>,
    header: ShardHeader,
    entries: Vec<Entry>,
    ids: Vec<u64>,
    labels: Vec<i64>,
    errors: Vec<f64>,
    key_ends: Vec<u64>,
    keys: String,
    /// Rows that do not fill a frame yet.
    pending: Vec<u8>,
}

impl ShardWriter {
    fn create(path: PathBuf, header: ShardHeader) -> Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, fs_err::File::create(&path)?);
        // The header is written last, when its numbers are known; its frame has a fixed length.
        file.write_all(&vec![0; frame::stored_bytes(HEADER_BYTES)])?;
        Ok(Self {
            path,
            file,
            header,
            entries: vec![Entry {
                compressed: frame::stored_bytes(HEADER_BYTES) as u32,
                decompressed: HEADER_BYTES as u32,
                checksum: 0,
            }],
            ids: Vec::new(),
            labels: Vec::new(),
            errors: Vec::new(),
            key_ends: Vec::new(),
            keys: String::new(),
            pending: Vec::new(),
        })
    }

    fn push(
        &mut self,
        encoder: &mut Encoder,
        id: u64,
        key: &str,
        label: i64,
        error: f64,
        rows: &[u8],
    ) -> Result<()> {
        if (self.ids.len() + 1) * 32 + self.keys.len() + key.len() > MAX_INDEX_BYTES {
            return Err(Error::Settings {
                what: "the keys of one shard are too long: choose a smaller --shard-samples".to_owned(),
            });
        }
        let row_bytes = self.header.row_layout().row_bytes();
        let full = self.header.frame_rows as usize * row_bytes;
        for row in rows.chunks(row_bytes) {
            self.pending.extend(row);
            if self.pending.len() >= full {
                self.write_rows(encoder)?;
            }
        }
        self.ids.push(id);
        self.labels.push(label);
        self.errors.push(error);
        self.keys.push_str(key);
        self.key_ends.push(self.keys.len() as u64);
        Ok(())
    }

    fn write_rows(&mut self, encoder: &mut Encoder) -> Result<()> {
        let layout = self.header.row_layout();
        let row_bytes = layout.row_bytes();
        let row_cuts = layout.cuts();
        let cuts: Vec<usize> = (0..self.pending.len() / row_bytes)
            .flat_map(|row| row_cuts.iter().map(move |cut| row * row_bytes + cut))
            .collect();
        let content = std::mem::take(&mut self.pending);
        self.write_frame(encoder, &content, &cuts)?;
        self.pending = content;
        self.pending.clear();
        Ok(())
    }

    fn write_frame(&mut self, encoder: &mut Encoder, content: &[u8], cuts: &[usize]) -> Result<()> {
        let mut frame = Vec::new();
        encoder.encode(content, cuts, &mut frame)?;
        self.entries.push(Entry {
            compressed: frame.len() as u32,
            decompressed: content.len() as u32,
            checksum: frame::checksum(content),
        });
        self.file.write_all(&frame)?;
        Ok(())
    }

    /// Writes the last rows, the index, the seek table and the header; returns the path of the synchronised file.
    fn finish(mut self, encoder: &mut Encoder) -> Result<PathBuf> {
        if !self.pending.is_empty() {
            self.write_rows(encoder)?;
        }
        let mut index: Vec<u8> = Vec::new();
        index.extend(self.ids.iter().flat_map(|id| id.to_le_bytes()));
        index.extend(self.labels.iter().flat_map(|label| label.to_le_bytes()));
        index.extend(self.errors.iter().flat_map(|error| error.to_le_bytes()));
        index.extend(self.key_ends.iter().flat_map(|end| end.to_le_bytes()));
        index.extend(self.keys.as_bytes());
        let cuts = [index.len()];
        self.write_frame(encoder, &index, &cuts)?;
        self.header.samples = self.ids.len() as u64;
        self.header.key_bytes = self.keys.len() as u64;
        let header = self.header.to_bytes().map_err(|what| Error::Settings { what })?;
        self.entries[0].checksum = frame::checksum(&header);
        let mut table = Vec::new();
        seek_table::write(&self.entries, &mut table);
        self.file.write_all(&table)?;
        self.file.seek(SeekFrom::Start(0))?;
        let mut frame = Vec::new();
        frame::store(&header, &mut frame);
        self.file.write_all(&frame)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok(self.path)
    }
}

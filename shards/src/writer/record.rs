//! What is written: a record, and its rows as they will lie in the file, which any thread can make.

use std::sync::Arc;

use crate::{
    error::{Error, Result},
    frame::{self, Encoder},
    layout::{MAX_KEY_BYTES, RowLayout},
    manifest::{ManifestHeader, Store, StoreSettings},
    posterior, quantize,
    reader::ShardReader,
    rng::Philox,
    seek_table::Entry,
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
    /// Its id in the source, unique in the dataset: random numbers are keyed by it.
    pub id: u64,
    /// Its name in the source.
    pub key: String,
    /// Its class.
    pub label: i64,
    /// The image's posterior and, with [`Flip::Both`](crate::manifest::Flip::Both), the mirrored image's.
    pub views: Vec<Moments>,
}

/// A record as [`DatasetWriter::push_encoded`](super::DatasetWriter::push_encoded) takes it.
#[derive(Debug)]
pub struct EncodedRecord {
    pub(super) id: u64,
    pub(super) key: String,
    pub(super) label: i64,
    pub(super) squared_error: f64,
    /// The settings that it was encoded with.
    pub(super) fingerprint: Arc<str>,
    pub(super) rows: Rows,
}

impl EncodedRecord {
    /// A sample of a shard as it is stored there, for a dataset with the same settings.
    ///
    /// # Errors
    /// A damaged frame: what is copied has been checked.
    pub(crate) fn stored(shard: &ShardReader, sample: usize, fingerprint: &Arc<str>) -> Result<Self> {
        let views = shard.header().views as usize;
        let rows = sample * views..(sample + 1) * views;
        let rows = if shard.header().frame_rows == 1 {
            let (mut frames, mut entries) = (Vec::new(), Vec::new());
            for row in rows {
                let (frame, entry) = shard.checked_row_frame(row)?;
                frames.extend(frame);
                entries.push(entry);
            }
            Rows::Frames(frames, entries)
        } else {
            let mut plain = Vec::new();
            for row in rows {
                shard.with_row(row, |bytes| plain.extend(bytes))?;
            }
            Rows::Plain(plain)
        };
        Ok(Self {
            id: shard.ids()[sample],
            key: shard.key(sample).unwrap_or_default().to_owned(),
            label: shard.labels()[sample],
            squared_error: shard.squared_errors()[sample],
            fingerprint: Arc::clone(fingerprint),
            rows,
        })
    }
}

/// The rows of a record, one a view.
#[derive(Debug)]
pub(super) enum Rows {
    /// Rows that share frames with those of other records.
    Plain(Vec<u8>),
    /// Frames of one row each, end to end.
    Frames(Vec<u8>, Vec<Entry>),
}

/// Turns records into what is written: quantises them and, where a row is a frame of its own, compresses the frames.
///
/// Each thread has its own; the bytes are those that [`DatasetWriter::push`](super::DatasetWriter::push) makes.
pub struct RecordEncoder {
    store: StoreSettings,
    layout: RowLayout,
    cuts: Vec<usize>,
    rng: Philox,
    fingerprint: Arc<str>,
    encoder: Encoder,
    rows: Vec<u8>,
    sample: Vec<f32>,
    noise: Vec<f32>,
}

impl RecordEncoder {
    pub(super) fn new(header: &ManifestHeader, fingerprint: Arc<str>) -> Result<Self> {
        let layout = header.row_layout();
        Ok(Self {
            store: header.store,
            layout,
            cuts: layout.cuts(),
            rng: Philox::new(header.seed),
            fingerprint,
            encoder: Encoder::new(header.store.compression)?,
            rows: Vec::new(),
            sample: Vec::new(),
            noise: Vec::new(),
        })
    }

    /// Encodes a record.
    ///
    /// # Errors
    /// [`Error::Record`] for a record that does not fit the dataset.
    pub fn encode(&mut self, record: &Record) -> Result<EncodedRecord> {
        let refuse = |what: String| Error::Record {
            id: record.id,
            key: record.key.clone(),
            what,
        };
        check_key(&record.key).map_err(refuse)?;
        let squared_error = self.encode_rows(record).map_err(refuse)?;
        let rows = if self.store.frame_samples == 1 {
            let (mut frames, mut entries) = (Vec::new(), Vec::new());
            for row in self.rows.chunks(self.layout.row_bytes()) {
                let start = frames.len();
                self.encoder.encode(row, &self.cuts, &mut frames)?;
                entries.push(Entry {
                    compressed: (frames.len() - start) as u32,
                    decompressed: row.len() as u32,
                    checksum: frame::checksum(row),
                });
            }
            Rows::Frames(frames, entries)
        } else {
            Rows::Plain(std::mem::take(&mut self.rows))
        };
        Ok(EncodedRecord {
            id: record.id,
            key: record.key.clone(),
            label: record.label,
            squared_error,
            fingerprint: Arc::clone(&self.fingerprint),
            rows,
        })
    }

    /// Puts a record's rows into `self.rows` and returns their squared error.
    fn encode_rows(&mut self, record: &Record) -> std::result::Result<f64, String> {
        let views = self.store.views();
        if record.views.len() != views {
            return Err(format!("it has {} views, expected {views}", record.views.len()));
        }
        let elements = self.layout.elements();
        let row_bytes = self.layout.row_bytes();
        self.rows.resize(views * row_bytes, 0);
        let mut squared_error = 0.0;
        for (view, (moments, row)) in record
            .views
            .iter()
            .zip(self.rows.chunks_mut(row_bytes))
            .enumerate()
        {
            let logvar = moments.logvar.as_deref();
            for (what, values) in [("mean", Some(&moments.mean[..])), ("log-variance", logvar)] {
                if let Some(values) = values.filter(|values| values.len() != elements) {
                    return Err(format!(
                        "the {what} of view {view} has {} elements, expected {elements}",
                        values.len()
                    ));
                }
            }
            squared_error += match (self.store.store, logvar) {
                (Store::Moments, None) => {
                    return Err("it has no log-variance: store the mean instead".to_owned());
                }
                (Store::Moments, logvar) => quantize::encode_row(&self.layout, &moments.mean, logvar, row)?,
                (Store::Sample, Some(logvar)) => {
                    let (sample, noise) = (&mut self.sample, &mut self.noise);
                    sample.clone_from(&moments.mean);
                    noise.resize(elements, 0.0);
                    posterior::fill_noise(&self.rng, record.id, 0, view == 1, noise);
                    posterior::sample(sample, logvar, noise);
                    quantize::encode_row(&self.layout, sample, None, row)?
                }
                (Store::Mean | Store::Sample, _) => {
                    quantize::encode_row(&self.layout, &moments.mean, None, row)?
                }
            };
        }
        Ok(squared_error)
    }
}

fn check_key(key: &str) -> std::result::Result<(), String> {
    if key.len() > MAX_KEY_BYTES {
        return Err(format!(
            "its key has {} bytes, allowed are {MAX_KEY_BYTES}",
            key.len()
        ));
    }
    Ok(())
}

//! Stages and bounded channels: read, decode and crop (threads) -> encode (this thread) -> write (a thread).
//!
//! Images are taken up by several threads but encoded and written in the source's order, in batches that start anew
//! with each shard, so that a run that was killed continues to the same bytes. At most a few batches are in memory.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use shards::manifest::{Flip, Manifest, ManifestHeader};
use shards::writer::{DatasetWriter, Moments, Record};

use crate::console::{Printer, Progress};
use crate::dataset::{Dataset, ImageError};
use crate::image::{RgbImage, tensor};

/// What turns a batch of images into latents.
pub trait Encoder {
    /// Encodes `[B, 3, H, W]` in [-1, 1]; one entry an image.
    ///
    /// # Errors
    /// Those of the tensor library.
    fn encode(&self, images: &Tensor) -> anyhow::Result<Vec<Moments>>;
}

/// What can stop an encoding run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Too many bad images.
    #[error(
        "{rejects} bad images are more than the {limit} allowed; the last is {key}: {reason}\n\
         hint: see {file}, then raise --max-rejects or mend the source", file = file.display()
    )]
    TooManyRejects {
        /// Bad images so far.
        rejects: u64,
        /// The largest number allowed.
        limit: u64,
        /// The last bad image's key.
        key: String,
        /// What is wrong with it.
        reason: String,
        /// The list of them all.
        file: PathBuf,
    },
    /// The autoencoder failed.
    #[error("encoding a batch: {0:#}")]
    Encode(anyhow::Error),
    /// A stage ended before its time.
    #[error("a stage of the pipeline stopped early")]
    Stopped,
    /// The dataset could not be written.
    #[error(transparent)]
    Shards(#[from] shards::error::Error),
    /// The list of rejects could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// How to encode.
#[derive(Clone, Debug)]
pub struct EncodeConfig {
    /// The dataset's folder.
    pub out: PathBuf,
    /// What is known of the dataset beforehand.
    pub header: ManifestHeader,
    /// Images to take, from the first on.
    pub images: u64,
    /// Bad images that are tolerated.
    pub max_rejects: u64,
    /// Images encoded together (each with its mirror image).
    pub batch: usize,
    /// Threads that read, decode and crop.
    pub workers: usize,
}

/// What a run did.
#[derive(Debug)]
pub struct Summary {
    /// The finished dataset.
    pub manifest: Manifest,
    /// Bad images, of all runs.
    pub rejects: u64,
    /// Images encoded a second, in this run.
    pub images_per_second: f64,
    /// Images that earlier runs had stored.
    pub resumed_at: u64,
}

/// A line of `rejects.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reject {
    id: u64,
    key: String,
    reason: String,
}

enum Outcome {
    Sample(Record),
    Reject(Reject),
}

type Loaded = (u64, Result<RgbImage, ImageError>);

/// Encodes a data set, or what is left of it.
///
/// # Errors
/// [`Error`]; what is finished by then stays and the next run continues from it.
pub fn encode(
    config: &EncodeConfig,
    source: &Dataset,
    encoder: &dyn Encoder,
    printer: &mut Printer,
) -> Result<Summary, Error> {
    let writer = DatasetWriter::open(&config.out, config.header.clone())?;
    let first = writer.last_finished().map_or(0, |(id, _)| id + 1);
    let stored = writer.finished_samples();
    let rejects_file = config.out.join("rejects.jsonl");
    if writer.is_complete() {
        let (manifest, rejects) = (
            Manifest::read(&config.out)?,
            read_rejects(&rejects_file)?.len() as u64,
        );
        printer.note(format_args!("{} is complete already", config.out.display()));
        return Ok(Summary {
            manifest,
            rejects,
            images_per_second: 0.0,
            resumed_at: stored,
        });
    }
    let mut rejects = read_rejects(&rejects_file)?;
    rejects.retain(|reject| reject.id < first);
    write_rejects(&rejects_file, &rejects)?;
    if first > 0 {
        printer.note(format_args!("continuing after {stored} stored images"));
    }

    let batch = config.batch.max(1);
    let workers = config.workers.max(1);
    let ahead = 2 * batch + workers;
    let next = AtomicU64::new(first);
    let (permit, permits) = bounded::<()>(ahead);
    let (loaded, images) = bounded::<Loaded>(ahead);
    let (outcome, outcomes) = bounded::<Outcome>(4 * batch);
    for _ in 0..ahead {
        let _ = permit.try_send(());
    }
    let mut progress = Progress::new(printer, "encode", "images", first, Some(config.images));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (permits, loaded, next) = (permits.clone(), loaded.clone(), &next);
            scope.spawn(move || load(config, source, next, &permits, &loaded));
        }
        drop((loaded, permits));
        let file = &rejects_file;
        let writing = scope.spawn(move || write(writer, &outcomes, file));
        let mut stage = Batches {
            config,
            encoder,
            outcome,
            waiting: Vec::new(),
            position: stored,
        };
        let done = in_order(
            source,
            first,
            &images,
            &permit,
            rejects.len() as u64,
            &mut stage,
            printer,
            &mut progress,
        );
        let done = done.and_then(|rejects| stage.flush().map(|()| rejects));
        drop((stage, images, permit));
        let written = writing.join().map_err(|_| Error::Stopped)?;
        let rejects = match done {
            Err(Error::Stopped) => return Err(written.err().unwrap_or(Error::Stopped)),
            other => other?,
        };
        let manifest = written?.finish()?;
        let images_per_second = progress.rate();
        progress.finish();
        Ok(Summary {
            manifest,
            rejects,
            images_per_second,
            resumed_at: stored,
        })
    })
}

/// One reading thread.
fn load(
    config: &EncodeConfig,
    source: &Dataset,
    next: &AtomicU64,
    permits: &Receiver<()>,
    loaded: &Sender<Loaded>,
) {
    while permits.recv().is_ok() {
        let id = next.fetch_add(1, Ordering::Relaxed);
        if id >= config.images
            || loaded
                .send((id, source.load(id, config.header.image_size)))
                .is_err()
        {
            return;
        }
    }
}

/// Takes images as they come and hands them on in order; answers the number of bad ones.
fn in_order(
    source: &Dataset,
    first: u64,
    images: &Receiver<Loaded>,
    permit: &Sender<()>,
    mut rejects: u64,
    stage: &mut Batches<'_>,
    printer: &mut Printer,
    progress: &mut Progress,
) -> Result<u64, Error> {
    let config = stage.config;
    let mut early = BTreeMap::new();
    for id in first..config.images {
        let image = loop {
            if let Some(image) = early.remove(&id) {
                break image;
            }
            let (other, image) = images.recv().map_err(|_| Error::Stopped)?;
            early.insert(other, image);
        };
        let _ = permit.try_send(());
        match image {
            Ok(image) => stage.add(id, source, image)?,
            Err(error) => {
                rejects += 1;
                let (key, reason) = (source.key(id), error.to_string());
                stage.flush()?;
                stage.send(Outcome::Reject(Reject {
                    id,
                    key: key.clone(),
                    reason: reason.clone(),
                }))?;
                if rejects > config.max_rejects {
                    let (limit, file) = (config.max_rejects, config.out.join("rejects.jsonl"));
                    return Err(Error::TooManyRejects {
                        rejects,
                        limit,
                        key,
                        reason,
                        file,
                    });
                }
            }
        }
        let extra = if rejects > 0 {
            format!("{rejects} rejected")
        } else {
            String::new()
        };
        progress.set(printer, id + 1, &extra);
    }
    Ok(rejects)
}

/// Gathers images into batches and encodes these.
struct Batches<'a> {
    config: &'a EncodeConfig,
    encoder: &'a dyn Encoder,
    outcome: Sender<Outcome>,
    waiting: Vec<(Record, RgbImage)>,
    /// Samples encoded or waiting, of all runs.
    position: u64,
}

impl Batches<'_> {
    fn add(&mut self, id: u64, source: &Dataset, image: RgbImage) -> Result<(), Error> {
        let record = Record {
            id,
            key: source.key(id),
            label: source.label(id),
            views: Vec::new(),
        };
        self.waiting.push((record, image));
        self.position += 1;
        let shard_ends = self
            .position
            .is_multiple_of(self.config.header.store.shard_samples as u64);
        if self.waiting.len() >= self.config.batch.max(1) || shard_ends {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn send(&self, outcome: Outcome) -> Result<(), Error> {
        self.outcome.send(outcome).map_err(|_| Error::Stopped)
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (mut records, images): (Vec<_>, Vec<_>) = self.waiting.drain(..).unzip();
        let failed = |error: candle_core::Error| Error::Encode(error.into());
        let mut views = vec![images];
        if self.config.header.store.flip == Flip::Both {
            views.push(views[0].iter().map(RgbImage::flipped).collect());
        }
        for view in views {
            let batch = tensor::to_unit(&view, &Device::Cpu).map_err(failed)?;
            let moments = self.encoder.encode(&batch).map_err(Error::Encode)?;
            for (record, moments) in records.iter_mut().zip(moments) {
                record.views.push(moments);
            }
        }
        records
            .into_iter()
            .try_for_each(|record| self.send(Outcome::Sample(record)))
    }
}

/// The writing thread. A reject is on disk before any sample behind it.
fn write(
    mut writer: DatasetWriter,
    outcomes: &Receiver<Outcome>,
    rejects: &Path,
) -> Result<DatasetWriter, Error> {
    let mut list = fs_err::OpenOptions::new()
        .append(true)
        .create(true)
        .open(rejects)?;
    for outcome in outcomes {
        match outcome {
            Outcome::Sample(record) => writer.push(&record)?,
            Outcome::Reject(reject) => {
                let line = serde_json::to_string(&reject).map_err(std::io::Error::other)?;
                writeln!(list, "{line}")?;
            }
        }
    }
    Ok(writer)
}

/// Reads the list; a last line that a kill cut short is left out.
fn read_rejects(path: &Path) -> Result<Vec<Reject>, std::io::Error> {
    let file = match fs_err::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for line in std::io::BufReader::new(file).lines() {
        all.extend(serde_json::from_str::<Reject>(&line?).ok());
    }
    Ok(all)
}

fn write_rejects(path: &Path, rejects: &[Reject]) -> Result<(), std::io::Error> {
    let mut text = String::new();
    for reject in rejects {
        text.push_str(&serde_json::to_string(reject).map_err(std::io::Error::other)?);
        text.push('\n');
    }
    fs_err::write(path, text)
}

//! A data set to shards, in stages that work at the same time: fetch -> decode and crop -> autoencoder -> quantise and
//! compress -> write.
//!
//! Images are taken up by many threads but encoded and written in the source's order. They go through the autoencoder
//! in blocks whose borders depend on positions alone, so that a run that was killed, or that was split between
//! machines, comes to the same bytes. What is in flight is bounded by [`admission`], not by the queues.

mod admission;
mod clock;
mod config;
mod decode;
mod encode;
mod order;
mod rejects;
mod write;

use std::path::PathBuf;
use std::time::Duration;

use candle_core::Tensor;
use crossbeam_channel::{RecvTimeoutError, unbounded};
use shards::manifest::Manifest;
use shards::writer::{DatasetWriter, Moments};

use crate::console::{Printer, Progress};
use crate::dataset::Dataset;

pub use config::{EncodeConfig, part_range};

use admission::Admission;
use clock::Clocks;
use rejects::Rejects;

/// What turns a batch of images into latents.
pub trait Encoder: Sync {
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
    /// The source cannot be read at a place: no fault of the image, which may be sound.
    #[error(
        "reading {key}: {source}\n\
         hint: what is finished stays; when the source can be read again, the same command continues"
    )]
    Source {
        /// The image's key.
        key: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// The folder's last sample is not in the source.
    #[error(
        "{out} ends with {key}, which the source does not have\nhint: choose another --out",
        out = out.display()
    )]
    Foreign {
        /// The dataset's folder.
        out: PathBuf,
        /// The key of its last sample.
        key: String,
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
    /// Share of the time in which each stage's threads worked, in this run.
    pub stages: Vec<(&'static str, f64)>,
}

/// Encodes a data set, or what is left of it. Each of the `encoders` takes blocks of images in a thread of its own.
///
/// # Errors
/// [`Error`]; what is finished by then stays and the next run continues from it.
pub fn encode(
    config: &EncodeConfig,
    source: &Dataset,
    encoders: &[&dyn Encoder],
    printer: &mut Printer,
) -> Result<Summary, Error> {
    let writer = DatasetWriter::open(&config.out, config.header.clone())?;
    let stored = writer.finished_samples();
    let mut rejects = Rejects::open(&config.out.join("rejects.jsonl"), config.max_rejects)?;
    if writer.is_complete() {
        printer.note(format_args!("{} is complete already", config.out.display()));
        return Ok(Summary {
            manifest: Manifest::read(&config.out)?,
            rejects: rejects.count(),
            images_per_second: 0.0,
            resumed_at: stored,
            stages: Vec::new(),
        });
    }
    let first = first_position(config, source, &writer)?;
    let blocks = config.blocks(first);
    rejects.keep(|id| {
        source
            .position(id)
            .is_some_and(|position| position < blocks.start())
    })?;
    if stored > 0 {
        printer.note(format_args!("continuing after {stored} stored images"));
    }

    let workers = config.workers.max(1);
    let clocks = Clocks::new(&[
        ("fetch", workers),
        ("decode", workers),
        ("encode", encoders.len()),
        ("compress", workers),
        ("write", 1),
    ]);
    let admission = Admission::new(config, &blocks, encoders.len());
    let mut progress = Progress::new(printer, "encode", "images", first, Some(blocks.end()));
    let (fetched, to_decode) = unbounded();
    let (decoded, to_gather) = unbounded();
    let (gathered, to_encode) = unbounded();
    let (encoded, to_compress) = unbounded();
    let (compressed, to_write) = unbounded();
    let (told, written) = unbounded();
    let result = std::thread::scope(|scope| {
        let (admission, clocks, blocks) = (&admission, &clocks, &blocks);
        for _ in 0..workers {
            let fetched = fetched.clone();
            scope.spawn(move || decode::fetch(source, admission, clocks, &fetched));
        }
        for _ in 0..workers {
            let (to_decode, decoded) = (to_decode.clone(), decoded.clone());
            scope.spawn(move || decode::decode(config, source, admission, clocks, &to_decode, &decoded));
        }
        scope.spawn(move || decode::gather(blocks, &to_gather, &gathered));
        for encoder in encoders {
            let (to_encode, encoded) = (to_encode.clone(), encoded.clone());
            scope.spawn(move || {
                encode::encode(config, source, *encoder, admission, clocks, &to_encode, &encoded);
            });
        }
        for _ in 0..workers {
            let (to_compress, compressed) = (to_compress.clone(), compressed.clone());
            let records = writer.record_encoder();
            scope.spawn(move || {
                encode::compress(records, first, admission, clocks, &to_compress, &compressed);
            });
        }
        drop((
            fetched,
            to_decode,
            decoded,
            to_encode,
            encoded,
            to_compress,
            compressed,
        ));
        let writing =
            scope.spawn(move || write::write(writer, rejects, blocks, admission, clocks, &to_write, &told));
        loop {
            match written.recv_timeout(Duration::from_millis(500)) {
                Ok(write::Told { position, rejects }) => {
                    progress.set(printer, position, &clocks.told(rejects));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        writing.join().map_err(|_| Error::Stopped)
    });
    let (images_per_second, stages) = (progress.rate(), clocks.shares());
    progress.finish();
    if let Some(error) = admission.failure() {
        return Err(error);
    }
    let (manifest, rejects) = result??;
    Ok(Summary {
        manifest,
        rejects,
        images_per_second,
        resumed_at: stored,
        stages,
    })
}

/// Where to continue: behind the last stored sample.
fn first_position(config: &EncodeConfig, source: &Dataset, writer: &DatasetWriter) -> Result<u64, Error> {
    let Some((id, key)) = writer.last_finished() else {
        return Ok(config.positions.start);
    };
    match source.position(id) {
        Some(position) if source.key(position) == key && config.positions.contains(&position) => {
            Ok(position + 1)
        }
        _ => Err(Error::Foreign {
            out: config.out.clone(),
            key: key.to_owned(),
        }),
    }
}

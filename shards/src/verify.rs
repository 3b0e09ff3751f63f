//! Compares shards with their hashes and checksums, in parallel, and does not stop at the first fault.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::{
    dataset::Dataset,
    error::{Error, Result},
    manifest::{Manifest, ShardEntry},
    reader::ShardReader,
};

/// How much is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Files are compared with the hashes of the manifest: a file that has its hash is, bit by bit, the one that was
    /// written and read back then. Frames are decoded only in files that do not have theirs, to say what is damaged, and
    /// in a shard that is looked at alone.
    #[default]
    Hashes,
    /// Every frame is decoded and compared with its checksums, every file with its hash: what a hash cannot show is a
    /// fault of the program that wrote the dataset.
    Frames,
}

/// What was found in one shard.
#[derive(Debug)]
pub struct ShardReport {
    /// The shard.
    pub path: PathBuf,
    /// Samples; 0 when it cannot be opened.
    pub samples: u64,
    /// Frames that it holds.
    pub frames: usize,
    /// All that is wrong, in the file's order.
    pub faults: Vec<Error>,
}

/// What was found in a dataset.
#[derive(Debug)]
pub struct Report {
    /// Shard by shard, in order.
    pub shards: Vec<ShardReport>,
    /// What is wrong with the manifest, or with how the shards fit together.
    pub faults: Vec<Error>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults().next().is_none()
    }

    /// All that is wrong, in order.
    pub fn faults(&self) -> impl Iterator<Item = &Error> {
        self.faults
            .iter()
            .chain(self.shards.iter().flat_map(|shard| &shard.faults))
    }
}

/// Checks every shard of the dataset in `path`, or the one shard that it names.
///
/// # Errors
/// When there is nothing to check: no such file, no manifest, or one of a later version. Faults are in the report.
pub fn verify(path: &Path) -> Result<Report> {
    verify_to(path, Depth::default())
}

/// The same, as deep as wanted.
///
/// # Errors
/// Those of [`verify`].
pub fn verify_to(path: &Path, depth: Depth) -> Result<Report> {
    let mut report = Report {
        shards: Vec::new(),
        faults: Vec::new(),
    };
    if !fs_err::metadata(path)?.is_dir() {
        report.shards.push(verify_shard(path, None, depth));
        return Ok(report);
    }
    let manifest = match Manifest::read(path) {
        Ok(manifest) => manifest,
        Err(error @ (Error::Manifest { .. } | Error::Mismatch { .. } | Error::Limit { .. })) => {
            report.faults.push(error);
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    report.shards = manifest
        .shards
        .par_iter()
        .map(|entry| verify_shard(&path.join(&entry.file), Some(entry), depth))
        .collect();
    if report.is_sound()
        && let Err(error) = Dataset::open(path)
    {
        report.faults.push(error);
    }
    Ok(report)
}

/// Checks the frames of a shard and, where a manifest's entry is given, length, samples and hash of the file.
pub fn verify_shard(path: &Path, entry: Option<&ShardEntry>, depth: Depth) -> ShardReport {
    let mut report = ShardReport {
        path: path.to_owned(),
        samples: 0,
        frames: 0,
        faults: Vec::new(),
    };
    let reader = match ShardReader::open(path) {
        Ok(reader) => reader,
        Err(error) => {
            report.faults.push(error);
            return report;
        }
    };
    report.samples = reader.len() as u64;
    report.frames = reader.frames();
    // The hash is one chain of work; the frames are decoded beside it.
    let frames = || -> Vec<Error> {
        (0..reader.frames())
            .into_par_iter()
            .filter_map(|frame| reader.check_frame(frame).err())
            .collect()
    };
    let file = || -> Vec<Error> { entry.map_or_else(Vec::new, |entry| against(&reader, entry)) };
    let (mut faults, of_file) = match depth {
        Depth::Frames => rayon::join(frames, file),
        Depth::Hashes => {
            let of_file = file();
            let is_proven = entry.is_some() && of_file.is_empty();
            (if is_proven { Vec::new() } else { frames() }, of_file)
        }
    };
    faults.extend(of_file);
    report.faults = faults;
    report
}

/// How a file differs from what the manifest says of it.
fn against(reader: &ShardReader, entry: &ShardEntry) -> Vec<Error> {
    [
        (
            "the length",
            reader.file_bytes().to_string(),
            entry.bytes.to_string(),
        ),
        (
            "the number of samples",
            reader.len().to_string(),
            entry.samples.to_string(),
        ),
        ("the SHA-256", reader.sha256(), entry.sha256.clone()),
    ]
    .into_iter()
    .filter(|(_, found, expected)| found != expected)
    .map(|(what, found, expected)| Error::Mismatch {
        path: reader.path().to_owned(),
        what: what.to_owned(),
        found,
        expected: format!("{expected} (by dataset.json)"),
    })
    .collect()
}

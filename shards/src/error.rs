//! Every way in which a shard, a dataset or a call can be wrong: what, where, expected and found.

use std::path::{Path, PathBuf};

use crate::lock::Owner;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const GIBIBYTE: f64 = (1u64 << 30) as f64;

/// What went wrong. Offsets are bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused; the message names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A manifest is not the JSON that it should be.
    #[error("{} is not a dataset manifest: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// There is no dataset here.
    #[error(
        "{} holds no complete dataset: there is no dataset.json\nhint: run the same `preprocess encode` again to finish it",
        path.display()
    )]
    NoManifest {
        /// The folder.
        path: PathBuf,
    },
    /// A part of the file is not what the format asks for.
    #[error("{} is not a sound shard: frame {frame} at byte {offset}: {what}", path.display())]
    Format {
        /// The shard.
        path: PathBuf,
        /// The frame; the seek table counts as the one after the last.
        frame: usize,
        /// Where the frame starts.
        offset: u64,
        /// What is wrong, with the values expected and found.
        what: String,
    },
    /// The file ends too early.
    #[error(
        "{} is cut short: frame {frame} at byte {offset} needs {needed} bytes, the file has {available}",
        path.display()
    )]
    Truncated {
        /// The shard.
        path: PathBuf,
        /// The frame.
        frame: usize,
        /// Where the frame starts.
        offset: u64,
        /// The bytes that should follow.
        needed: u64,
        /// The bytes that do.
        available: u64,
    },
    /// A claimed size is beyond the format's limit; nothing was allocated.
    #[error(
        "{} frame {frame} at byte {offset}: {what} is {claimed}, beyond the limit of {limit}",
        path.display()
    )]
    Limit {
        /// The shard.
        path: PathBuf,
        /// The frame.
        frame: usize,
        /// Where the frame starts.
        offset: u64,
        /// What is too large.
        what: &'static str,
        /// What the file claims.
        claimed: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The bytes of a frame do not have the checksum that the seek table gives.
    #[error(
        "{} frame {frame} at byte {offset} is damaged: checksum is {found:08x}, the seek table says {expected:08x}\nhint: remove this shard and run the same `preprocess encode` again",
        path.display()
    )]
    Checksum {
        /// The shard.
        path: PathBuf,
        /// The frame.
        frame: usize,
        /// Where the frame starts.
        offset: u64,
        /// The table's checksum.
        expected: u32,
        /// That of the bytes.
        found: u32,
    },
    /// The file was written by a later version.
    #[error(
        "{} has format version {found}, this program reads up to {supported}\nhint: update the program",
        path.display()
    )]
    Version {
        /// The shard or manifest.
        path: PathBuf,
        /// The file's version.
        found: u32,
        /// The latest version known.
        supported: u32,
    },
    /// Two things that must agree do not.
    #[error("{}: {what} is {found}, expected {expected}", path.display())]
    Mismatch {
        /// The shard, manifest or folder.
        path: PathBuf,
        /// What is compared.
        what: String,
        /// What the file says.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A record cannot be stored as it is.
    #[error("record {id} ({key}): {what}")]
    Record {
        /// Its id.
        id: u64,
        /// Its source key.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// Folders that are not the parts of one dataset, each once.
    #[error("{what}")]
    Parts {
        /// What is wrong.
        what: String,
    },
    /// Two records of a dataset have the same id.
    #[error(
        "{}: two records have the id {id}: {keys}\nhint: a source must give every image an id of its own",
        path.display()
    )]
    DoubledId {
        /// The folder.
        path: PathBuf,
        /// The id.
        id: u64,
        /// The keys of both.
        keys: String,
    },
    /// Another process works in the folder.
    #[error("{} is in use: {}\nhint: {hint}", path.display(), holder(owner.as_deref()))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who holds it; `None` while its file is not written yet.
        owner: Option<Box<Owner>>,
        /// What to do.
        hint: String,
    },
    /// No room for the next shard.
    #[error(
        "{} cannot be written: {what} ({source}); {shards} shards with {samples} samples are finished and stay\nhint: free some space and run the same command again, it continues after them",
        path.display()
    )]
    StorageFull {
        /// The file that did not fit.
        path: PathBuf,
        /// What is full.
        what: &'static str,
        /// Finished shards.
        shards: usize,
        /// Samples in them.
        samples: u64,
        /// What the system says.
        source: std::io::Error,
    },
    /// The dataset is complete; nothing can be added.
    #[error("{} is complete with {samples} samples, nothing can be added\nhint: choose another --out", path.display())]
    Complete {
        /// The folder.
        path: PathBuf,
        /// Its samples.
        samples: u64,
    },
    /// A request outside the data.
    #[error("{what} {index} is out of range: there are {count}")]
    OutOfRange {
        /// What was asked for.
        what: &'static str,
        /// Which one.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A buffer of the wrong length, or one for values that the dataset does not store.
    #[error("the {what} buffer has {found} elements, the dataset has {expected}")]
    Buffer {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length needed.
        expected: usize,
    },
    /// A dataset that shall be kept in memory does not fit.
    #[error(
        "the dataset takes {:.1} GiB of memory, {:.1} GiB are free\nhint: load it from the disk, without the cache",
        *needed as f64 / GIBIBYTE, *available as f64 / GIBIBYTE
    )]
    Memory {
        /// Bytes of its rows.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
    },
    /// Settings that cannot work.
    #[error("{what}")]
    Settings {
        /// What is wrong and what to do.
        what: String,
    },
    /// zstd refused to compress.
    #[error("zstd could not compress a frame: {what}")]
    Compress {
        /// What zstd says.
        what: &'static str,
    },
    /// A loader thread ended early.
    #[error("a loader thread ended before its batch was done")]
    WorkerLost,
}

fn holder(owner: Option<&Owner>) -> String {
    match owner {
        Some(owner) => format!(
            "process {} on {} {} there since {} ({})",
            owner.pid, owner.host, owner.what, owner.started, owner.command
        ),
        None => "another process has just begun to work there".to_owned(),
    }
}

impl Error {
    /// The file or folder at fault, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Manifest { path, .. }
            | Self::NoManifest { path }
            | Self::Format { path, .. }
            | Self::Truncated { path, .. }
            | Self::Limit { path, .. }
            | Self::Checksum { path, .. }
            | Self::Version { path, .. }
            | Self::Mismatch { path, .. }
            | Self::DoubledId { path, .. }
            | Self::Locked { path, .. }
            | Self::StorageFull { path, .. }
            | Self::Complete { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The frame at fault and the byte of the file where it starts, for faults of one frame.
    pub fn place(&self) -> Option<(usize, u64)> {
        match self {
            Self::Format { frame, offset, .. }
            | Self::Truncated { frame, offset, .. }
            | Self::Limit { frame, offset, .. }
            | Self::Checksum { frame, offset, .. } => Some((*frame, *offset)),
            _ => None,
        }
    }
}

//! What a command was given: a dataset's folder or one shard.

use std::path::Path;

use anyhow::Result;
use shards::dataset::Dataset;
use shards::header::ShardHeader;
use shards::manifest::Manifest;
use shards::reader::ShardReader;
use shards::rng::{Philox, Stream};

/// An open dataset, or an open shard with the manifest beside it, if that is its own.
pub(super) enum Target {
    Dataset(Box<Dataset>),
    Shard(Box<ShardReader>, Option<Box<Manifest>>),
}

impl Target {
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Dataset(Box::new(Dataset::open(path)?)));
        }
        let reader = ShardReader::open(path)?;
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let manifest = Manifest::read(folder)
            .ok()
            .filter(|manifest| manifest.fingerprint == reader.header().fingerprint);
        Ok(Self::Shard(Box::new(reader), manifest.map(Box::new)))
    }

    pub(super) fn is_dataset(&self) -> bool {
        matches!(self, Self::Dataset(_))
    }

    pub(super) fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Dataset(dataset) => Some(dataset.manifest()),
            Self::Shard(_, manifest) => manifest.as_deref(),
        }
    }

    pub(super) fn shards(&self) -> &[ShardReader] {
        match self {
            Self::Dataset(dataset) => dataset.shards(),
            Self::Shard(reader, _) => std::slice::from_ref(reader),
        }
    }

    /// The header of the first shard: what all shards have in common.
    pub(super) fn header(&self) -> &ShardHeader {
        match self {
            Self::Dataset(dataset) => dataset.shards()[0].header(),
            Self::Shard(reader, _) => reader.header(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards().iter().map(ShardReader::len).sum()
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.shards().iter().map(ShardReader::file_bytes).sum()
    }

    pub(super) fn read(
        &self,
        i: usize,
        view: usize,
        mean: &mut [f32],
        logvar: Option<&mut [f32]>,
    ) -> Result<(), shards::error::Error> {
        match self {
            Self::Dataset(dataset) => dataset.read(i, view, mean, logvar),
            Self::Shard(reader, _) => reader.read(i, view, mean, logvar),
        }
    }

    /// `count` samples, rising: one drawn from each of `count` equal stretches, so that neither a dataset in the order
    /// of its classes nor one where classes alternate shows some of them only.
    pub(super) fn spread(&self, count: usize) -> Vec<usize> {
        let (samples, rng) = (self.len(), Philox::new(0));
        let count = count.clamp(1, samples);
        (0..count)
            .map(|n| {
                let (start, end) = (n * samples / count, (n + 1) * samples / count);
                start + rng.below(Stream::EvalSubsample, n as u64, 0, 0, (end - start) as u32) as usize
            })
            .collect()
    }
}

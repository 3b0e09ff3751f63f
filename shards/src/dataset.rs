//! Many shards as one: a global index, checked against the manifest.

use std::path::{Path, PathBuf};

use rayon::slice::ParallelSliceMut;

use crate::{
    error::{Error, Result},
    header::ShardHeader,
    manifest::Manifest,
    reader::ShardReader,
};

/// An open dataset; any number of threads may read from it.
#[derive(Debug)]
pub struct Dataset {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<ShardReader>,
    /// Index of the first sample of each shard, then the number of samples.
    starts: Vec<usize>,
    ids: Vec<u64>,
}

impl Dataset {
    /// Opens the dataset in `dir` and every shard of it.
    ///
    /// # Errors
    /// A shard that is missing, damaged, or not the one that the manifest names, with the two values that differ.
    pub fn open(dir: &Path) -> Result<Self> {
        let manifest = Manifest::read(dir)?;
        let mut shards = Vec::new();
        let mut starts = vec![0];
        let mut ids = Vec::new();
        for (number, entry) in manifest.shards.iter().enumerate() {
            let path = dir.join(&entry.file);
            if Path::new(&entry.file).file_name() != Some(entry.file.as_ref()) {
                return Err(Error::Mismatch {
                    path: dir.to_owned(),
                    what: "the name of a shard".to_owned(),
                    found: entry.file.clone(),
                    expected: "a file name without a folder".to_owned(),
                });
            }
            let reader = ShardReader::open(&path)?;
            let mut expected = ShardHeader::new(&manifest.header, &manifest.fingerprint, number as u64);
            expected.samples = entry.samples;
            expected.key_bytes = reader.header().key_bytes;
            for (what, found, expected) in [
                (
                    "the length",
                    reader.file_bytes().to_string(),
                    entry.bytes.to_string(),
                ),
                (
                    "the fingerprint",
                    reader.header().fingerprint.clone(),
                    expected.fingerprint.clone(),
                ),
                (
                    "the header",
                    format!("{:?}", reader.header()),
                    format!("{expected:?}"),
                ),
            ] {
                if found != expected {
                    return Err(Error::Mismatch {
                        path,
                        what: what.to_owned(),
                        found,
                        expected: format!("{expected} (by dataset.json)"),
                    });
                }
            }
            ids.extend(reader.ids());
            starts.push(ids.len());
            shards.push(reader);
        }
        if ids.len() as u64 != manifest.samples || ids.is_empty() {
            return Err(Error::Mismatch {
                path: dir.to_owned(),
                what: "the number of samples".to_owned(),
                found: ids.len().to_string(),
                expected: manifest.samples.max(1).to_string(),
            });
        }
        let dataset = Self {
            dir: dir.to_owned(),
            manifest,
            shards,
            starts,
            ids,
        };
        if let Some((id, places)) = doubled(&dataset.ids) {
            let [first, second] = places.map(|place| dataset.key(place).unwrap_or_default());
            return Err(Error::DoubledId {
                path: dir.to_owned(),
                id,
                keys: format!("{first} and {second}"),
            });
        }
        Ok(dataset)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the dataset holds and how it was made.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its shards, in order.
    pub fn shards(&self) -> &[ShardReader] {
        &self.shards
    }

    /// Samples.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a dataset without samples is not opened"
    )]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Views of each sample.
    pub fn views(&self) -> usize {
        self.manifest.store.views()
    }

    /// Whether log-variances are stored.
    pub fn has_logvar(&self) -> bool {
        self.manifest.row_layout().logvar
    }

    /// Elements of one latent: `C H W`.
    pub fn elements(&self) -> usize {
        self.manifest.row_layout().elements()
    }

    /// Bytes of all rows, decoded: what it takes to keep the dataset in memory.
    pub fn resident_bytes(&self) -> u64 {
        (self.len() * self.views() * self.manifest.row_layout().row_bytes()) as u64
    }

    /// All record ids, in order.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// The position behind the last sample of each shard.
    pub(crate) fn ends(&self) -> &[usize] {
        &self.starts[1..]
    }

    /// The shard of sample `i`, and its place there.
    pub(crate) fn locate(&self, i: usize) -> Result<(usize, usize)> {
        if i >= self.len() {
            return Err(Error::OutOfRange {
                what: "sample",
                index: i,
                count: self.len(),
            });
        }
        let shard = self.starts.partition_point(|&start| start <= i) - 1;
        Ok((shard, i - self.starts[shard]))
    }

    fn shard_of(&self, i: usize) -> Result<(&ShardReader, usize)> {
        self.locate(i)
            .map(|(shard, sample)| (&self.shards[shard], sample))
    }

    /// The record id of sample `i`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn id(&self, i: usize) -> Result<u64> {
        self.shard_of(i).map(|(shard, sample)| shard.ids()[sample])
    }

    /// The label of sample `i`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn label(&self, i: usize) -> Result<i64> {
        self.shard_of(i).map(|(shard, sample)| shard.labels()[sample])
    }

    /// The source key of sample `i`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn key(&self, i: usize) -> Result<&str> {
        self.shard_of(i)
            .map(|(shard, sample)| shard.key(sample).unwrap_or_default())
    }

    /// Reads view `view` (1 is the mirrored one) of sample `i` into `mean` and `logvar`, each `[C, H, W]`.
    ///
    /// # Errors
    /// See [`ShardReader::read`].
    pub fn read(&self, i: usize, view: usize, mean: &mut [f32], logvar: Option<&mut [f32]>) -> Result<()> {
        let (shard, sample) = self.shard_of(i)?;
        shard.read(sample, view, mean, logvar)
    }
}

/// An id that is there twice, and its first two places.
pub(crate) fn doubled(ids: &[u64]) -> Option<(u64, [usize; 2])> {
    if ids.is_sorted_by(|a, b| a < b) {
        return None;
    }
    let mut places: Vec<(u64, usize)> = ids.iter().copied().zip(0..).collect();
    places.par_sort_unstable();
    let pair = places.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
    Some((pair[0].0, [pair[0].1, pair[1].1]))
}

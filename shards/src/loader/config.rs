//! What a loader is told.

use std::{fmt, sync::Arc};

use super::{BufferSource, HeapBuffers, Position};
use crate::shuffle::Order;

/// What is kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Nothing but what the system keeps of the files.
    #[default]
    None,
    /// All rows, decoded: 8 KiB for the mean of a latent of 4x32x32 in bf16.
    Ram,
}

/// How to load.
#[derive(Clone)]
pub struct LoaderConfig {
    /// The seed of order, mirror choice and posterior noise.
    pub seed: u64,
    /// Samples of a batch, of all ranks together.
    pub batch_size: usize,
    /// Threads.
    pub workers: usize,
    /// Batches ahead of the one in use.
    pub prefetch: usize,
    /// Where to start.
    pub position: Position,
    /// Add posterior noise where a log-variance is stored; otherwise the mean is given.
    pub sample_posterior: bool,
    /// Which of the processes that train together this is: it loads its slice of each batch, nothing else. The slices
    /// of all ranks, joined, are the batch.
    pub rank: usize,
    /// How many processes there are.
    pub ranks: usize,
    /// The order of an epoch.
    pub order: Order,
    /// Whether to keep the dataset in memory.
    pub cache: Cache,
    /// Where the memory of batches comes from.
    pub buffers: Arc<dyn BufferSource>,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            batch_size: 256,
            workers: 1,
            prefetch: 2,
            position: Position::default(),
            sample_posterior: true,
            rank: 0,
            ranks: 1,
            order: Order::Shuffle,
            cache: Cache::None,
            buffers: Arc::new(HeapBuffers),
        }
    }
}

impl fmt::Debug for LoaderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoaderConfig")
            .field("seed", &self.seed)
            .field("batch_size", &self.batch_size)
            .field("workers", &self.workers)
            .field("prefetch", &self.prefetch)
            .field("position", &self.position)
            .field("sample_posterior", &self.sample_posterior)
            .field("rank", &self.rank)
            .field("ranks", &self.ranks)
            .field("order", &self.order)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

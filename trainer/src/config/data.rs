//! The `[data]` section: where training data comes from and in which order.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The order in which an epoch visits the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// A uniform permutation of all samples.
    #[default]
    Shuffle,
    /// Blocks of neighbouring samples in random order, shuffled within windows of blocks: long reads, for spinning disks
    /// and network file systems. See [`shards::shuffle::Order::Window`].
    Window,
}

/// What of the dataset is kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Nothing but what the system keeps of the files.
    #[default]
    None,
    /// All of it, decoded: for datasets that fit.
    Ram,
}

impl From<Cache> for shards::loader::Cache {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::None => Self::None,
            Cache::Ram => Self::Ram,
        }
    }
}

/// The `[data]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// The dataset's folder; empty: the newest one below `data/`.
    pub path: PathBuf,
    /// The order of an epoch.
    pub order: Order,
    /// Neighbouring samples that are read together, with `order = "window"`.
    pub block_samples: usize,
    /// Blocks whose samples are shuffled together, with `order = "window"`.
    pub window_blocks: usize,
    /// Threads that decode shards.
    pub workers: usize,
    /// What is kept in memory.
    pub cache: Cache,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            order: Order::Shuffle,
            block_samples: 512,
            window_blocks: 128,
            workers: 1,
            cache: Cache::None,
        }
    }
}

impl DataConfig {
    /// The order as the loader takes it.
    pub fn loader_order(&self) -> shards::shuffle::Order {
        match self.order {
            Order::Shuffle => shards::shuffle::Order::Shuffle,
            Order::Window => shards::shuffle::Order::Window {
                block_samples: self.block_samples,
                window_blocks: self.window_blocks,
            },
        }
    }
}

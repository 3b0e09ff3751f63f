//! Small models and made-up batches for tests of whole steps.

use std::ops::Range;

use shards::loader::{Batch, Position};

use crate::config::Config;
use crate::model::ModelConfig;

/// A model of latents `[4, 4, 4]` and three classes.
pub(crate) fn config(hidden_size: usize, depth: usize, global_batch_size: usize) -> Config {
    let mut config = Config {
        model: ModelConfig {
            hidden_size,
            depth,
            state_size: 4,
            input_size: 4,
            num_classes: 3,
            freq_dim: 16,
            ..ModelConfig::default()
        },
        ..Config::default()
    };
    config.optim.global_batch_size = global_batch_size;
    config
}

/// The images `images` of a made-up global batch.
pub(crate) fn batch(images: Range<usize>) -> Batch {
    Batch {
        latents: (64 * images.start..64 * images.end)
            .map(|i| (0.37 * i as f32).sin())
            .collect(),
        labels: images.clone().map(|i| (i % 3) as i64).collect(),
        ids: images.map(|i| 10 + i as u64).collect(),
        epoch: 0,
        next: Position::default(),
    }
}

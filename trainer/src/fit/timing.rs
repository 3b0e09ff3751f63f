//! The time of a training step, on made-up latents: for `trainer bench`, and to plan runs of a given length. And what the
//! machine could do.

use std::time::{Duration, Instant};

use shards::loader::{Batch, Position};
use shards::rng::{Philox, Stream};
use shards::shuffle::rank_slice;

use super::Learner;
use crate::config::Config;
use crate::distributed::HostReducer;
use crate::model::Error;
use crate::ops::matmul::linear;
use crate::ops::profile;

/// Milliseconds of `steps` training steps, ascending, after one that does not count; each process of `reducer` takes its
/// slice of the global batch. [`profile::take`] gives the time of the kinds of operations in these steps afterwards.
///
/// # Errors
/// When the architecture does not fit together.
pub fn step_times(config: &Config, steps: u64, reducer: &mut HostReducer) -> Result<Vec<f64>, Error> {
    let model = &config.model;
    let all: Vec<u64> = (0..config.optim.global_batch_size as u64).collect();
    let ids = rank_slice(&all, reducer.rank(), reducer.ranks());
    let mut learner = Learner::new(config)?;
    let mut batch = Batch {
        latents: vec![0.0; ids.len() * model.in_channels * model.input_size * model.input_size].into(),
        labels: ids
            .iter()
            .map(|id| (id % model.num_classes.max(1) as u64) as i64)
            .collect(),
        ids: ids.to_vec(),
        epoch: 0,
        next: Position::default(),
    };
    Philox::new(0).fill_normal(Stream::InitialNoise, 0, 0, &mut batch.latents);
    let mut times = Vec::new();
    for step in 0..=steps {
        let start = Instant::now();
        learner.step_among(step + 1, &batch, 1.0, reducer)?;
        if step == 0 {
            profile::take();
        }
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// GFLOP/s of the best of several large matrix products, by the threads of the pool that it is called in: the most that a
/// training step could reach. Takes about `budget`.
pub fn matmul_gflops(budget: Duration) -> f64 {
    const SIDE: usize = 768;
    let operand: Vec<f32> = (0..SIDE * SIDE).map(|i| (i % 7) as f32 - 3.0).collect();
    let mut product = vec![0.0; SIDE * SIDE];
    let mut best = Duration::MAX;
    let start = Instant::now();
    // The first one also wakes the threads.
    while start.elapsed() < budget {
        let begun = Instant::now();
        linear(&mut product, &operand, &operand, SIDE, SIDE);
        best = best.min(begun.elapsed());
    }
    2.0 * (SIDE * SIDE * SIDE) as f64 / best.as_secs_f64().max(1e-9) / 1e9
}

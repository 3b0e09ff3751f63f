//! The time of a training step, on made-up latents: for `trainer bench`, and to plan runs of a given length. And what the
//! machine could do.

use std::time::{Duration, Instant};

use shards::loader::{Batch, Position};
use shards::rng::{Philox, Stream};
use shards::shuffle::rank_slice;

use super::{Engine, Error, Learner, Profiled};
use crate::config::Config;
use crate::distributed::HostReducer;
use crate::gpu::Place;
use crate::ops::matmul::linear;
use crate::ops::profile;

/// What `steps` training steps took.
#[derive(Clone, Debug)]
pub struct StepTimes {
    /// Milliseconds of each, ascending.
    pub milliseconds: Vec<f64>,
    /// The GPU that they ran on, and the kinds of operations of one step on it.
    pub device: Option<(String, Vec<Profiled>)>,
}

/// Times `steps` training steps at `place`, after those that do not count: one, and on a GPU one more; each process of `reducer`
/// takes its slice of the global batch. [`profile::take`] gives the time of the kinds of operations on the processor in these
/// steps afterwards.
///
/// # Errors
/// When the architecture does not fit together, or a GPU fails.
pub fn step_times(
    config: &Config,
    steps: u64,
    place: Place,
    reducer: &mut HostReducer,
) -> Result<StepTimes, Error> {
    let model = &config.model;
    let all: Vec<u64> = (0..config.optim.global_batch_size as u64).collect();
    let ids = rank_slice(&all, reducer.rank(), reducer.ranks());
    let mut engine = Engine::at(place, Learner::new(config)?, config, reducer)?;
    let mut latents = vec![0.0; ids.len() * model.latent_numbers()];
    Philox::new(0).fill_normal(Stream::InitialNoise, 0, 0, &mut latents);
    let mut batch = Batch {
        latents: Vec::new().into(),
        labels: ids
            .iter()
            .map(|id| (id % model.num_classes.max(1) as u64) as i64)
            .collect(),
        ids: ids.to_vec(),
        epoch: 0,
        next: Position::default(),
    };
    // The first step chooses and loads what the others use; on a GPU the second may become a graph.
    let warming = if place == Place::Cpu { 1 } else { 2 };
    let mut times = Vec::new();
    for step in 0..warming + steps {
        batch.latents = latents.clone().into();
        let start = Instant::now();
        engine.start(step + 1, &mut batch, Duration::ZERO, 1.0, reducer)?;
        // As a run does: a GPU works on this step while the one before is told.
        engine.told(false)?;
        if step + 1 == warming {
            profile::take();
        }
        if step >= warming {
            times.push(1e3 * start.elapsed().as_secs_f64());
        }
    }
    while engine.told(true)?.is_some() {}
    times.sort_by(f64::total_cmp);
    let device = match (engine.device_name(), engine.profile(ids.len(), 1.0)?) {
        (Some(name), Some(kinds)) => Some((name, kinds)),
        _ => None,
    };
    Ok(StepTimes {
        milliseconds: times,
        device,
    })
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

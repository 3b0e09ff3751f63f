//! What a forward pass and a sampling step take, on made-up latents: for `trainer bench --forward`.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use shards::rng::{Philox, Stream};

use crate::config::Config;
use crate::diffusion::Schedule;
use crate::generate;
use crate::model::{DiffuSsm, Inference};
use crate::ops::profile::{self, Op};
use crate::sampler::{self, Batch, Guidance, SampleConfig};

/// Guidance of the sampling step; any scale but 1 takes the same time.
const SCALE: f64 = 1.5;
/// Steps of the run that the sampling step is one of.
const STEPS: &str = "250";

/// Times of one kind of work, repeated.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Milliseconds.
    wall: Vec<f64>,
    /// Milliseconds of processor time, all threads: what other work on the machine hardly changes.
    processor: Vec<f64>,
    /// The sum by kind of operation.
    ops: [Duration; Op::ALL.len()],
}

impl Times {
    /// Does `work` and counts it.
    fn add<R>(&mut self, work: impl FnOnce() -> R) -> R {
        profile::take();
        let (start, processor) = (Instant::now(), processor_time());
        let done = work();
        self.wall.push(1e3 * start.elapsed().as_secs_f64());
        self.processor
            .push(1e3 * (processor_time() - processor).as_secs_f64());
        for (sum, op) in self.ops.iter_mut().zip(profile::take()) {
            *sum += op;
        }
        done
    }

    /// The shortest time, in milliseconds.
    pub fn best(&self) -> f64 {
        self.wall.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The median time, in milliseconds.
    pub fn median(&self) -> f64 {
        median(&self.wall)
    }

    /// The median of the processor time, in milliseconds.
    pub fn processor(&self) -> f64 {
        median(&self.processor)
    }

    /// The sum of all times, in milliseconds.
    pub fn total(&self) -> f64 {
        self.wall.iter().sum()
    }

    /// The sum of the time by kind of operation, in the order of [`Op::ALL`]; where tasks run side by side, of all threads.
    pub fn ops(&self) -> [Duration; Op::ALL.len()] {
        self.ops
    }
}

/// What [`forward_times`] measures.
#[derive(Clone, Debug, Default)]
pub struct ForwardTimes {
    /// Images of a batch.
    pub images: usize,
    /// The forward of a training step: the convolution kernels, and a pass that keeps what the backward needs.
    pub training: Times,
    /// A forward pass as sampling has it.
    pub inference: Times,
    /// A whole sampling step (DDPM) of as many images; with guidance where the model has a null label.
    pub sampling: Times,
    /// Whether the sampling step has guidance: twice as many sequences in one batch.
    pub is_guided: bool,
}

/// Times the forward pass of a micro-batch in training, in inference, and a sampling step, in turns, `repeats` times each
/// after one that does not count.
///
/// # Errors
/// When the architecture does not fit together.
pub fn forward_times(config: &Config, repeats: u64) -> Result<ForwardTimes, generate::Error> {
    let architecture = &config.model;
    let plan = || DiffuSsm::new(architecture.clone());
    let model = plan()?.keeping(config.run.recompute.into());
    let weights = model.init(config.run.global_seed)?;
    let inference = Inference::new(plan()?, weights.clone())?;

    let images = config.optim.micro_batch();
    let indices: Vec<u64> = (0..images as u64).collect();
    let classes = architecture.num_classes.max(1);
    let labels: Vec<u32> = (0..images).map(|i| (i % classes) as u32).collect();
    let area = architecture.input_size * architecture.input_size;
    let mut x = vec![0.0; images * architecture.in_channels * area];
    Philox::new(0).fill_normal(Stream::InitialNoise, 0, 0, &mut x);
    let schedule = Schedule::linear(config.diffusion.num_timesteps).respaced(STEPS)?;
    let last = schedule.len() - 1;
    let t = vec![schedule.timestep_map[last] as f32; images];
    let batch = Batch {
        indices: &indices,
        labels: &labels,
        null_label: architecture.null_label(),
        channels: architecture.in_channels,
        area,
    };
    let guidance = Guidance {
        scale: SCALE,
        ..Guidance::default()
    };
    let sampling = SampleConfig {
        guidance,
        ..SampleConfig::default()
    };

    let mut times = ForwardTimes::default();
    let mut kernels = None;
    for repeat in 0..=repeats {
        times.training.add(|| {
            kernels = model.step_kernels(&weights, kernels.take());
            model.forward_train(&weights, kernels.as_ref(), &x, &t, &labels)
        })?;
        times.inference.add(|| inference.forward(&x, &t, &labels))?;
        times.sampling.add(|| {
            let mut x = x.clone();
            sampler::step(&schedule, &sampling, &batch, last, &mut x, &mut |x, t, y| {
                inference.forward(x, t, y)
            })
        })?;
        if repeat == 0 {
            times = ForwardTimes::default();
        }
    }
    times.images = images;
    times.is_guided = batch.null_label.is_some();
    Ok(times)
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

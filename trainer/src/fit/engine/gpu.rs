//! Training on a GPU, as the loop of a run sees it.

use std::sync::Arc;

use shards::loader::{Batch, BufferSource};

use super::super::learner::{checked_labels, learning_rates};
use super::{Error, Learner, StepReport};
use crate::checkpoint::{BufferRefs, Buffers};
use crate::config::Config;
use crate::diffusion::LossParts;
use crate::distributed::HostReducer;
use crate::gpu::model::DeviceModel;
use crate::gpu::{Device, DeviceBatch, DeviceLearner, room};
use crate::model::{self, ParamLayout};
use crate::ops::profile::Op;
use crate::roofline::Work;

/// A model in training on a device, with a copy of what a checkpoint holds.
pub(super) struct GpuLearner {
    learner: DeviceLearner,
    config: Config,
    layout: ParamLayout,
    mirror: Buffers,
    is_settled: bool,
}

/// Commands of one kind in a step.
#[derive(Clone, Copy, Debug)]
pub struct Profiled {
    /// The kind.
    pub op: Op,
    /// Commands.
    pub count: usize,
    /// What they move and compute.
    pub work: Work,
    /// Seconds that they took.
    pub seconds: f64,
}

impl GpuLearner {
    pub(super) fn new(
        learner: Learner,
        config: &Config,
        device: Box<dyn Device>,
        reducer: &HostReducer,
    ) -> Result<Self, Error> {
        let ranks = reducer.ranks();
        let images = config.optim.global_batch_size.div_ceil(ranks);
        if let Some(available) = device.available() {
            room::check(config, ranks, images, available)??;
        }
        let model = DeviceModel::new(config, ranks)?;
        let layout = learner.model().layout().clone();
        let mirror = learner.into_buffers();
        Ok(Self {
            learner: DeviceLearner::new(model, device, images, mirror.refs())?,
            config: config.clone(),
            layout,
            mirror,
            is_settled: true,
        })
    }

    pub(super) fn host_memory(&self) -> Option<Arc<dyn BufferSource>> {
        self.learner.device().host_memory()
    }

    pub(super) fn device_name(&self) -> String {
        self.learner.device().name()
    }

    pub(super) fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    pub(super) fn start(&mut self, step: u64, batch: &mut Batch, scaling_factor: f32) -> Result<(), Error> {
        let model = &self.config.model;
        let expected = batch.ids.len() * model.latent_numbers();
        if batch.latents.len() != expected {
            return Err(model::Error::Length {
                what: "latents",
                found: batch.latents.len(),
                expected,
            }
            .into());
        }
        let labels = checked_labels(model, &batch.labels)?;
        let labels: Vec<i32> = labels.into_iter().map(|label| label as i32).collect();
        let (lr, ssm_lr) = learning_rates(&self.config, step);
        let rates = self.config.optim.adamw().device_rates(step, lr, ssm_lr);
        let batch = DeviceBatch {
            latents: std::mem::replace(&mut batch.latents, Vec::new().into()),
            ids: &batch.ids,
            labels: &labels,
            epoch: batch.epoch,
        };
        self.is_settled = false;
        self.learner.start(batch, scaling_factor, &rates)?;
        Ok(())
    }

    /// What step `step`, the oldest that has not been told, has given.
    pub(super) fn told(&mut self, step: u64) -> Result<StepReport, Error> {
        let told = self.learner.told()?;
        let weight = 1.0 / self.config.optim.global_batch_size as f64;
        Ok(StepReport {
            loss: LossParts {
                mse: weight * told.loss.mse,
                vb: weight * told.loss.vb,
            },
            grad_norm: told.grad_norm,
            lr: learning_rates(&self.config, step).0,
            is_skipped: told.is_skipped,
        })
    }

    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if !self.is_settled {
            self.learner.read(&mut self.mirror)?;
            self.is_settled = true;
        }
        Ok(())
    }

    pub(super) fn buffers(&self) -> BufferRefs<'_> {
        self.mirror.refs()
    }

    pub(super) fn profile(&mut self, images: usize, scaling_factor: f32) -> Result<Vec<Profiled>, Error> {
        let program = self.learner.program(images, scaling_factor)?;
        let times = self.learner.device_mut().time(&program)?;
        self.is_settled = false;
        let mut kinds: Vec<Profiled> = Op::ALL
            .into_iter()
            .map(|op| Profiled {
                op,
                count: 0,
                work: Work::default(),
                seconds: 0.0,
            })
            .collect();
        for (command, milliseconds) in program.commands.iter().zip(times) {
            if let Some((op, work)) = command.work() {
                let kind = &mut kinds[op as usize];
                kind.count += 1;
                kind.work = kind.work + work;
                kind.seconds += f64::from(milliseconds) / 1e3;
            }
        }
        Ok(kinds)
    }
}

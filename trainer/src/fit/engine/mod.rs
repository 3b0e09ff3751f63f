//! The model in training, on the processor or on a GPU.
//!
//! A GPU works while the host goes on: what a step has given is told when it is known, at the latest when it is asked for. On
//! the processor that is at once.

mod gpu;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use shards::loader::{Batch, BufferSource};

use super::{Error, Learner, StepReport};
use crate::checkpoint::BufferRefs;
use crate::config::Config;
use crate::distributed::HostReducer;
use crate::gpu::place::Use;
use crate::gpu::{Device, Place};
use crate::model::ParamLayout;
use gpu::GpuLearner;
pub use gpu::Profiled;

/// What a step has given.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its number, from 1.
    pub step: u64,
    /// What it gave.
    pub report: StepReport,
    /// The records of this process's part of the batch.
    pub ids: Vec<u64>,
    /// Time that it waited for its batch.
    pub wait: Duration,
}

/// A step that has been started.
struct Started {
    step: u64,
    ids: Vec<u64>,
    wait: Duration,
    /// What it gave, where that is known.
    report: Option<StepReport>,
}

/// The model in training.
pub struct Engine {
    inner: Inner,
    started: VecDeque<Started>,
}

enum Inner {
    Host(Box<Learner>),
    Gpu(Box<GpuLearner>),
}

impl Engine {
    /// On the processor.
    pub fn host(learner: Learner) -> Self {
        Self::new(Inner::Host(Box::new(learner)))
    }

    /// On `device`, as one of the processes of `reducer`.
    ///
    /// # Errors
    /// [`Error::Device`], and [`Error::TooLarge`] where its memory does not suffice.
    pub fn on_device(
        learner: Learner,
        config: &Config,
        device: Box<dyn Device>,
        reducer: &HostReducer,
    ) -> Result<Self, Error> {
        let gpu = GpuLearner::new(learner, config, device, reducer)?;
        Ok(Self::new(Inner::Gpu(Box::new(gpu))))
    }

    /// Where `place` says.
    ///
    /// # Errors
    /// As [`Engine::on_device`], and where there is no such GPU.
    pub fn at(
        place: Place,
        learner: Learner,
        config: &Config,
        reducer: &mut HostReducer,
    ) -> Result<Self, Error> {
        let wish = Use {
            precision: config.run.precision,
            graphs: config.run.cuda_graph,
            sums: true,
        };
        match place.open(wish, reducer)? {
            None => Ok(Self::host(learner)),
            Some(device) => Self::on_device(learner, config, device, reducer),
        }
    }

    fn new(inner: Inner) -> Self {
        Self {
            inner,
            started: VecDeque::new(),
        }
    }

    /// Memory in which batches are best made.
    pub fn host_memory(&self) -> Option<Arc<dyn BufferSource>> {
        match &self.inner {
            Inner::Host(_) => None,
            Inner::Gpu(gpu) => gpu.host_memory(),
        }
    }

    /// What it runs on, for people.
    pub fn device_name(&self) -> Option<String> {
        match &self.inner {
            Inner::Host(_) => None,
            Inner::Gpu(gpu) => Some(gpu.device_name()),
        }
    }

    /// Names, shapes and offsets of the parameters.
    pub fn layout(&self) -> &ParamLayout {
        match &self.inner {
            Inner::Host(learner) => learner.model().layout(),
            Inner::Gpu(gpu) => gpu.layout(),
        }
    }

    /// Starts step number `step` (from 1); `wait` is what it has waited for `batch`, whose latents it takes.
    ///
    /// # Errors
    /// When the batch does not fit the model, or a device fails.
    pub fn start(
        &mut self,
        step: u64,
        batch: &mut Batch,
        wait: Duration,
        scaling_factor: f32,
        reducer: &mut HostReducer,
    ) -> Result<(), Error> {
        let report = match &mut self.inner {
            Inner::Host(learner) => Some(learner.step_among(step, batch, scaling_factor, reducer)?),
            Inner::Gpu(gpu) => {
                gpu.start(step, batch, scaling_factor)?;
                None
            }
        };
        self.started.push_back(Started {
            step,
            ids: batch.ids.clone(),
            wait,
            report,
        });
        Ok(())
    }

    /// What the next of the steps that were started has given: of all of them, or, without `all`, only where a device need
    /// not stand still for it. `None` when there is none.
    ///
    /// # Errors
    /// When a device fails.
    pub fn told(&mut self, all: bool) -> Result<Option<Told>, Error> {
        let Some(next) = self.started.front() else {
            return Ok(None);
        };
        let report = match (&mut self.inner, next.report) {
            (_, Some(report)) => report,
            // One step is always under way.
            (Inner::Gpu(_), None) if !all && self.started.len() < 2 => return Ok(None),
            (Inner::Gpu(gpu), None) => gpu.told(next.step)?,
            (Inner::Host(_), None) => return Ok(None),
        };
        Ok(self.started.pop_front().map(|started| Told {
            step: started.step,
            report,
            ids: started.ids,
            wait: started.wait,
        }))
    }

    /// Brings [`Engine::buffers`] up to date, after all steps that were started.
    ///
    /// # Errors
    /// When a device fails.
    pub fn settle(&mut self) -> Result<(), Error> {
        match &mut self.inner {
            Inner::Host(_) => Ok(()),
            Inner::Gpu(gpu) => gpu.settle(),
        }
    }

    /// What a checkpoint holds, as of the last [`Engine::settle`].
    pub fn buffers(&self) -> BufferRefs<'_> {
        match &self.inner {
            Inner::Host(learner) => learner.buffers(),
            Inner::Gpu(gpu) => gpu.buffers(),
        }
    }

    /// The averaged weights, as of the last [`Engine::settle`].
    pub fn ema(&self) -> &[f32] {
        self.buffers().ema
    }

    /// The kinds of operations of a step on `images` images, each with what they move and compute and with their time in
    /// seconds; `None` on the processor.
    ///
    /// # Errors
    /// When a device fails.
    pub fn profile(&mut self, images: usize, scaling_factor: f32) -> Result<Option<Vec<Profiled>>, Error> {
        match &mut self.inner {
            Inner::Host(_) => Ok(None),
            Inner::Gpu(gpu) => gpu.profile(images, scaling_factor).map(Some),
        }
    }
}

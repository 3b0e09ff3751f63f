//! Training, from a dataset of shards to a folder with checkpoints.
//!
//! [`fit`] knows the order of things and nothing else: it holds no formula and never writes to the terminal; what
//! happens is told to a listener. A run is a function of (configuration, seed, shards): on the CPU, stopping it at any
//! moment and resuming gives the same bits as never having stopped.

mod account;
mod engine;
mod error;
#[cfg(test)]
pub(crate) mod fixtures;
mod folder;
mod frechet;
mod learner;
mod preview;
mod resume;
mod saver;
mod start;
mod tensorboard;
mod timing;
mod together;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shards::dataset::Dataset;
use shards::loader::{HeapBuffers, Loader, LoaderConfig};

use crate::checkpoint::{self, DatasetRecord, State};
use crate::config::{Cache, Resolved};
use crate::distributed::{self, HostReducer, Single};
use crate::gpu::Place;
use crate::memory;

pub use engine::{Engine, Profiled, Told};
pub use error::Error;
pub use folder::{METRICS, Metrics, PLOTTED_POINTS, RunFolder, json_lines, smoothed};
pub use frechet::{Distance, FRECHET};
pub use learner::{Learner, StepReport};
pub use preview::grid_columns;
pub use tensorboard::EventFile;
pub use timing::{StepTimes, matmul_gflops, step_times};
pub use together::{check_batch, slice_of};

use account::{Clock, Due, account, line};
use frechet::Frechet;
use preview::Preview;
use saver::Saver;

/// Batches that are decoded ahead of the one in use.
const PREFETCH: usize = 2;

/// What to train, on what, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The configuration; shape and classes are taken from the dataset where it leaves them open.
    pub resolved: Resolved,
    /// The dataset's folder.
    pub data: PathBuf,
    /// The run's folder; a checkpoint in it is gone on from.
    pub out: PathBuf,
    /// An export, checkpoint or run whose weights a new run starts from.
    pub init: Option<PathBuf>,
    /// Keys that may differ from the checkpoint's configuration; `data` for another dataset.
    pub allow: Vec<String>,
    /// Where the model is trained.
    pub place: Place,
    /// Bytes of memory that all processes of this machine may take; `None`: as many as they like.
    pub available_memory: Option<u64>,
}

/// What happens during a run, in the order in which it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// Everything is ready; the first step comes next.
    Started {
        /// The configuration with the dataset's shape.
        resolved: &'a Resolved,
        /// The dataset.
        dataset: &'a DatasetRecord,
        /// Steps that earlier processes have done.
        step: u64,
        /// Parameters of the model.
        parameters: usize,
        /// Steps of an epoch.
        steps_per_epoch: u64,
        /// The GPU, if it is one.
        device: Option<&'a str>,
    },
    /// A step is done.
    Step {
        /// Its number, from 1.
        step: u64,
        /// What it gave.
        report: &'a StepReport,
        /// Time that the step waited for its batch.
        wait: Duration,
    },
    /// A line was added to `metrics.jsonl`.
    Logged(&'a Metrics),
    /// A checkpoint was written; training waited for so long.
    Saved(&'a Path, Duration),
    /// A grid of samples was written.
    Sampled(&'a Path),
    /// The Frechet distance of samples was measured.
    Scored(&'a Distance),
    /// Something that the user should know.
    Note(&'a str),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Whether all steps are done; otherwise it was asked to stop.
    pub is_finished: bool,
    /// The last line of `metrics.jsonl`.
    pub last: Option<Metrics>,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
}

/// Trains until `run.num_steps` or until `stop` is set; then the state is saved.
///
/// # Errors
/// [`Error`]; checkpoints written before stay.
pub fn fit(plan: &Plan, stop: &AtomicBool, listener: &mut dyn FnMut(Event<'_>)) -> Result<Outcome, Error> {
    fit_among(plan, stop, &mut Single, listener)
}

/// [`fit`] in one of several processes, each with the same plan.
///
/// All of them stop when any is asked to. The first process alone reads and writes the run's folder; its listener hears
/// of checkpoints and grids, the others' do not.
///
/// # Errors
/// [`Error`], in this process alone unless all know of it: the job should then be ended.
pub fn fit_among(
    plan: &Plan,
    stop: &AtomicBool,
    reducer: &mut HostReducer,
    listener: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, Error> {
    let dataset = Arc::new(Dataset::open(&plan.data)?);
    let mut resolved = plan.resolved.clone();
    resolved.adopt(dataset.manifest())?;
    let config = &resolved.config;
    config.validate()?;
    let record = DatasetRecord::new(dataset.manifest(), &plan.data);
    check_batch(config, reducer)?;
    together::check_data(&record, reducer)?;

    // Asked by all processes, whether or not they know their memory.
    let sharing = distributed::processes_of_machine(reducer);
    // On a GPU it is asked whether the model fits there.
    if let (Some(available), Place::Cpu) = (plan.available_memory, plan.place) {
        let cached = match config.data.cache {
            Cache::None => 0,
            Cache::Ram => dataset.resident_bytes(),
        };
        memory::check(&slice_of(config, reducer.ranks()), cached, available, sharing)?;
    }

    let frechet = Frechet::find(&config.run, plan.place)?;
    let mut folder = together::open_folder(&plan.out, reducer)?;
    let (found, damaged) = match &folder {
        Some(folder) => resume::newest_sound(folder.path(), listener)?,
        None => (None, Vec::new()),
    };
    let (mut state, learner) = match together::share_checkpoint(found, reducer)? {
        Some((mut state, buffers)) => {
            resume::check_same(&plan.out, &state, config, &record, &plan.allow)?;
            resume::check_init(&plan.out, &state, plan.init.as_deref(), &plan.allow)?;
            resume::set_aside(&damaged, listener)?;
            state.config = config.clone();
            state.dataset = record;
            (state, Learner::resume(config, buffers)?)
        }
        None => start::anew(config, record, plan.init.as_deref(), &plan.allow, listener)?,
    };
    together::check_start(&state, &learner, reducer)?;
    let mut engine = Engine::at(plan.place, learner, config, reducer)?;
    let mut last = None;
    if let Some(folder) = &mut folder {
        folder.write_config(&resolved.to_text())?;
        folder.rewind(state.step)?;
        last = folder.metrics()?.pop();
    }

    let scaling_factor = state.dataset.vae.scaling_factor as f32;
    let mut loader = Loader::new(
        Arc::clone(&dataset),
        LoaderConfig {
            seed: config.run.global_seed,
            batch_size: config.optim.global_batch_size,
            workers: config.data.workers,
            order: config.data.loader_order(),
            cache: config.data.cache.into(),
            prefetch: PREFETCH,
            position: state.position,
            rank: reducer.rank(),
            ranks: reducer.ranks(),
            buffers: engine.host_memory().unwrap_or_else(|| Arc::new(HeapBuffers)),
            ..LoaderConfig::default()
        },
    )?;
    let steps_per_epoch = loader.batches_per_epoch();
    listener(Event::Started {
        resolved: &resolved,
        dataset: &state.dataset,
        step: state.step,
        parameters: engine.layout().trained(&config.model),
        steps_per_epoch,
        device: engine.device_name().as_deref(),
    });

    let mut clock = Clock::new();
    let mut preview = Preview::default();
    let mut saver = Saver::new(folder.as_ref().map(RunFolder::path), state.step);
    while state.step < config.run.num_steps && !reducer.any(stop.load(Ordering::Relaxed)) {
        let waiting = Instant::now();
        let Some(batch) = loader.next() else { break };
        let mut batch = batch?;
        let (step, wait) = (state.step + 1, waiting.elapsed());
        engine.start(step, &mut batch, wait, scaling_factor, reducer)?;

        state.step = step;
        state.position = batch.next;
        state.images_seen += config.optim.global_batch_size as u64;
        clock.images += config.optim.global_batch_size as u64;
        let due = Due::at(step, &config.run);
        // Before anything is told of this step or made of it, all steps up to it must be done.
        while let Some(told) = engine.told(due.any())? {
            account(&mut state, &told, &mut saver, listener)?;
        }
        if due.line
            && let Some(metrics) = line(
                &mut state,
                learner::learning_rates(config, step).0,
                steps_per_epoch,
                clock.rate(),
            )
        {
            if let Some(folder) = &mut folder {
                folder.append(&metrics)?;
            }
            listener(Event::Logged(&metrics));
            last = Some(metrics);
        }
        saver.poll(listener)?;
        if due.weights() {
            engine.settle()?;
        }
        if due.samples
            && let Some(folder) = &folder
        {
            preview.write(folder, &state, engine.ema(), plan.place, reducer, listener)?;
        }
        if let (Some(frechet), Some(folder), true) = (&frechet, &folder, due.frechet) {
            frechet.measure(folder, &state, engine.ema(), stop, listener)?;
        }
        // After the pictures: a run that is killed while they are made comes to them again. Steps that were left out are no
        // reason to give up an older checkpoint: what comes next may end the run.
        if due.checkpoint && state.skipped_in_a_row == 0 {
            save(&mut saver, &state, &engine, reducer, listener)?;
        }
    }
    while let Some(told) = engine.told(true)? {
        account(&mut state, &told, &mut saver, listener)?;
    }
    if stop.load(Ordering::Relaxed) && state.step < config.run.num_steps {
        listener(Event::Note(&format!(
            "asked to stop after step {}: saving; the same signal once more ends at once",
            state.step
        )));
    }
    saver.finish(listener)?;
    let is_first = folder.is_some() && checkpoint::list(&plan.out).is_empty();
    if saver.saved() != state.step || reducer.any(is_first) {
        engine.settle()?;
        save(&mut saver, &state, &engine, reducer, listener)?;
        saver.finish(listener)?;
    }
    Ok(Outcome {
        step: state.step,
        is_finished: state.step >= config.run.num_steps,
        last,
        checkpoint: checkpoint::folder(&plan.out, state.step),
    })
}

/// Begins to write a checkpoint, in the process that has the folder.
fn save(
    saver: &mut Saver,
    state: &State,
    engine: &Engine,
    reducer: &mut HostReducer,
    listener: &mut dyn FnMut(Event<'_>),
) -> Result<(), Error> {
    // A checkpoint stands for all processes.
    distributed::agree(reducer, state.step, &[engine.buffers().params])?;
    saver.save(state, engine.layout(), engine.buffers(), listener)
}

//! Batches for training: worker threads decode and sample, a bounded number ahead, in an order that does not depend
//! on how many workers there are.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::{
    dataset::Dataset,
    error::{Error, Result},
    posterior,
    rng::{Philox, Stream},
    shuffle::epoch_order,
};

/// Where a run stands: the next batch to come. This is all there is to save.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The epoch.
    pub epoch: u32,
    /// The batch within it.
    pub batch: u64,
}

/// How to load.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// The seed of order, mirror choice and posterior noise.
    pub seed: u64,
    /// Samples of a batch.
    pub batch_size: usize,
    /// Threads.
    pub workers: usize,
    /// Batches ahead of the one in use.
    pub prefetch: usize,
    /// Where to start.
    pub position: Position,
    /// Add posterior noise where a log-variance is stored; otherwise the mean is given.
    pub sample_posterior: bool,
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
        }
    }
}

/// One batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[B, C, H, W]`, not scaled.
    pub latents: Vec<f32>,
    /// `[B]`.
    pub labels: Vec<i64>,
    /// Record ids, `[B]`: random numbers of the training step are keyed by them.
    pub ids: Vec<u64>,
    /// The epoch that the batch belongs to.
    pub epoch: u32,
    /// Where a run that has used this batch stands.
    pub next: Position,
}

struct Task {
    number: u64,
    position: Position,
    next: Position,
    order: Arc<Vec<u32>>,
}

/// An endless iterator over batches, epoch after epoch; the last partial batch of an epoch is dropped.
pub struct Loader {
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    tasks: Option<Sender<Task>>,
    done: Receiver<(u64, Result<Batch>)>,
    workers: Vec<JoinHandle<()>>,
    order: Option<(u32, Arc<Vec<u32>>)>,
    issue_position: Position,
    issued: u64,
    returned: u64,
    early: BTreeMap<u64, Result<Batch>>,
}

impl Loader {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`Error::Settings`] when the dataset does not hold one batch, or the position is not one of it.
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig) -> Result<Self> {
        let (samples, size) = (dataset.len(), config.batch_size);
        if size == 0 || samples < size {
            return Err(Error::Settings {
                what: format!(
                    "the dataset has {samples} samples, fewer than one batch of {size}: choose a smaller batch"
                ),
            });
        }
        let batches = (samples / size) as u64;
        // A position at the end of an epoch is the start of the next.
        let mut position = config.position;
        if position.batch == batches {
            position = Position {
                epoch: position.epoch.saturating_add(1),
                batch: 0,
            };
        }
        if position.batch > batches || position.epoch >= 1 << 31 {
            return Err(Error::Settings {
                what: format!(
                    "cannot continue at batch {} of epoch {}: an epoch of this dataset has {batches} batches of {size}",
                    position.batch, position.epoch
                ),
            });
        }
        let (tasks, queue) = unbounded::<Task>();
        let (finished, done) = unbounded();
        let mut workers = Vec::new();
        for number in 0..config.workers.max(1) {
            let (dataset, config) = (Arc::clone(&dataset), config.clone());
            let (queue, finished) = (queue.clone(), finished.clone());
            let worker = thread::Builder::new()
                .name(format!("loader-{number}"))
                .spawn(move || {
                    for task in queue {
                        let batch = load(&dataset, &config, &task);
                        if finished.send((task.number, batch)).is_err() {
                            return;
                        }
                    }
                })?;
            workers.push(worker);
        }
        let ahead = config.prefetch.max(1);
        let mut loader = Self {
            dataset,
            config,
            tasks: Some(tasks),
            done,
            workers,
            order: None,
            issue_position: position,
            issued: 0,
            returned: 0,
            early: BTreeMap::new(),
        };
        for _ in 0..ahead {
            loader.issue();
        }
        Ok(loader)
    }

    /// Batches of one epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.dataset.len() / self.config.batch_size) as u64
    }

    /// The dataset.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Asks for one more batch: the queues hold no more than was asked for.
    fn issue(&mut self) {
        let position = self.issue_position;
        let order = match &self.order {
            Some((epoch, order)) if *epoch == position.epoch => Arc::clone(order),
            _ => {
                let order = Arc::new(epoch_order(self.config.seed, position.epoch, self.dataset.ids()));
                self.order = Some((position.epoch, Arc::clone(&order)));
                order
            }
        };
        let next = if position.batch + 1 == self.batches_per_epoch() {
            Position {
                epoch: position.epoch + 1,
                batch: 0,
            }
        } else {
            Position {
                batch: position.batch + 1,
                ..position
            }
        };
        self.issue_position = next;
        let task = Task {
            number: self.issued,
            position,
            next,
            order,
        };
        self.issued += 1;
        // A queue without workers shows when its batch is waited for.
        let _ = self.tasks.as_ref().map(|tasks| tasks.send(task));
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = loop {
            if let Some(batch) = self.early.remove(&self.returned) {
                break batch;
            }
            match self.done.recv() {
                Ok((number, batch)) => {
                    self.early.insert(number, batch);
                }
                Err(_) => return Some(Err(Error::WorkerLost)),
            }
        };
        self.returned += 1;
        self.issue();
        Some(batch)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.tasks = None;
        // What waits in the queue is dropped unread; a worker ends after the batch that it is at.
        let (_, closed) = unbounded();
        self.done = closed;
        for worker in self.workers.drain(..) {
            // A worker that panicked has nothing more to tell.
            let _ = worker.join();
        }
    }
}

/// Makes one batch: a pure function of (seed, position, dataset).
fn load(dataset: &Dataset, config: &LoaderConfig, task: &Task) -> Result<Batch> {
    let rng = Philox::new(config.seed);
    let (size, elements, epoch) = (config.batch_size, dataset.elements(), task.position.epoch);
    let start = task.position.batch as usize * size;
    let mut batch = Batch {
        latents: vec![0.0; size * elements],
        labels: Vec::with_capacity(size),
        ids: Vec::with_capacity(size),
        epoch,
        next: task.next,
    };
    let noisy = config.sample_posterior && dataset.has_logvar();
    let mut noise = Vec::new();
    let mut logvar = vec![0.0; if noisy { elements } else { 0 }];
    for (latent, &sample) in batch
        .latents
        .chunks_mut(elements)
        .zip(&task.order[start..start + size])
    {
        let sample = sample as usize;
        let id = dataset.id(sample)?;
        let mirrored = dataset.views() == 2 && rng.below(Stream::Flip, id, epoch, 0, 2) == 1;
        dataset.read(
            sample,
            usize::from(mirrored),
            latent,
            noisy.then_some(&mut logvar[..]),
        )?;
        if noisy {
            posterior::sample(&rng, id, epoch, mirrored, latent, &logvar, &mut noise);
        }
        batch.labels.push(dataset.label(sample)?);
        batch.ids.push(id);
    }
    Ok(batch)
}

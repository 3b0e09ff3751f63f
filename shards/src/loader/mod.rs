//! Batches for training: worker threads decode and sample, a bounded number ahead, in an order that does not depend
//! on how many workers there are, nor on how many ranks share the work.

mod ahead;
mod buffer;
mod config;
mod resident;

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread::{self, JoinHandle},
};

use ahead::ReadAhead;
use buffer::Pool;
pub use buffer::{BufferSource, HeapBuffers, LatentBuffer, Latents};
pub use config::{Cache, LoaderConfig};
use resident::ResidentRows;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::{
    dataset::Dataset,
    error::{Error, Result},
    posterior, quantize,
    rng::{Philox, Stream},
    shuffle::{Order, epoch_order, rank_slice, window_blocks, window_order},
};

/// Where a run stands: the next batch to come. This is all there is to save.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The epoch.
    pub epoch: u32,
    /// The batch within it.
    pub batch: u64,
    /// Samples of the epoch's order that come before batch 0: a run that goes on with batches of another size starts at
    /// any sample. The next epoch starts at its first sample.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
}

impl Position {
    /// After the first `sample` samples of an epoch.
    pub fn at_sample(epoch: u32, sample: u64) -> Self {
        Self {
            epoch,
            batch: 0,
            offset: sample,
        }
    }

    /// Samples of the epoch that batches of `size` have used.
    pub fn sample(&self, size: usize) -> u64 {
        self.offset + self.batch * size as u64
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One batch, or this rank's slice of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[B, C, H, W]`, not scaled.
    pub latents: Latents,
    /// `[B]`.
    pub labels: Vec<i64>,
    /// Record ids, `[B]`: random numbers of the training step are keyed by them.
    pub ids: Vec<u64>,
    /// The epoch that the batch belongs to.
    pub epoch: u32,
    /// Where a run that has used this batch stands.
    pub next: Position,
}

/// What the workers share.
struct Shared {
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    resident: Option<ResidentRows>,
    pool: Arc<Pool>,
}

struct Task {
    number: u64,
    position: Position,
    next: Position,
    order: Arc<Vec<u32>>,
}

/// The order of one epoch.
struct EpochOrder {
    epoch: u32,
    samples: Arc<Vec<u32>>,
    ahead: Option<ReadAhead>,
}

/// An endless iterator over batches, epoch after epoch; the last partial batch of an epoch is dropped.
pub struct Loader {
    shared: Arc<Shared>,
    tasks: Option<Sender<Task>>,
    done: Receiver<(u64, Result<Batch>)>,
    workers: Vec<JoinHandle<()>>,
    order: Option<EpochOrder>,
    issue_position: Position,
    issued: u64,
    returned: u64,
    early: BTreeMap<u64, Result<Batch>>,
}

impl Loader {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`Error::Settings`] when the dataset does not hold one batch, the position is not one of it, or there is no such
    /// rank; [`Error::Memory`] when it shall be kept in memory and does not fit.
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig) -> Result<Self> {
        let (samples, size) = (dataset.len(), config.batch_size);
        if size == 0 || samples < size {
            return Err(Error::Settings {
                what: format!(
                    "the dataset has {samples} samples, fewer than one batch of {size}: choose a smaller batch"
                ),
            });
        }
        if config.rank >= config.ranks || config.ranks > size {
            return Err(Error::Settings {
                what: format!(
                    "rank {} of {} cannot take its part of a batch of {size}",
                    config.rank, config.ranks
                ),
            });
        }
        if let Order::Window { block_samples: 0, .. } | Order::Window { window_blocks: 0, .. } = config.order
        {
            return Err(Error::Settings {
                what: "a window of no samples: blocks and windows have at least one".to_owned(),
            });
        }
        let mut position = config.position;
        let batches = (samples as u64).saturating_sub(position.offset) / size as u64;
        if position.batch > batches || position.offset > samples as u64 || position.epoch >= 1 << 31 {
            return Err(Error::Settings {
                what: format!(
                    "cannot continue at batch {} of epoch {}: an epoch of this dataset has {batches} batches of {size}",
                    position.batch, position.epoch
                ),
            });
        }
        // A position at the end of an epoch is the start of the next.
        if position.batch == batches {
            position = Position {
                epoch: position.epoch.saturating_add(1),
                ..Position::default()
            };
        }
        let of_rank = size * (config.rank + 1) / config.ranks - size * config.rank / config.ranks;
        let shared = Arc::new(Shared {
            resident: match config.cache {
                Cache::None => None,
                Cache::Ram => Some(ResidentRows::load(&dataset)?),
            },
            pool: Pool::new(Arc::clone(&config.buffers), of_rank * dataset.elements()),
            dataset,
            config,
        });
        let (tasks, queue) = unbounded::<Task>();
        let (finished, done) = unbounded();
        let mut workers = Vec::new();
        for number in 0..shared.config.workers.max(1) {
            let shared = Arc::clone(&shared);
            let (queue, finished) = (queue.clone(), finished.clone());
            let worker = thread::Builder::new()
                .name(format!("loader-{number}"))
                .spawn(move || {
                    for task in queue {
                        let batch = shared.load(&task);
                        if finished.send((task.number, batch)).is_err() {
                            return;
                        }
                    }
                })?;
            workers.push(worker);
        }
        let ahead = shared.config.prefetch.max(1);
        let mut loader = Self {
            shared,
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

    /// Batches of one epoch, from its first sample on.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.dataset().len() / self.shared.config.batch_size) as u64
    }

    /// The dataset.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.shared.dataset
    }

    /// Asks for one more batch: the queues hold no more than was asked for.
    fn issue(&mut self) {
        let position = self.issue_position;
        let size = self.shared.config.batch_size;
        let mut order = match self.order.take() {
            Some(order) if order.epoch == position.epoch => order,
            _ => self.shared.order(position.epoch),
        };
        if let Some(ahead) = &mut order.ahead {
            let first = position.sample(size) as usize;
            ahead.advance(&self.shared.dataset, first..first + size);
        }
        let samples = Arc::clone(&order.samples);
        self.order = Some(order);
        let batches = (self.dataset().len() as u64 - position.offset) / size as u64;
        let next = if position.batch + 1 == batches {
            Position {
                epoch: position.epoch + 1,
                ..Position::default()
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
            order: samples,
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

/// Where a sample lies, and which of its views is wanted.
struct Row {
    number: usize,
    place: usize,
    id: u64,
    mirrored: bool,
    row: usize,
}

impl Shared {
    /// The order of an epoch: a pure function of (seed, epoch, dataset).
    fn order(&self, epoch: u32) -> EpochOrder {
        let (seed, ids) = (self.config.seed, self.dataset.ids());
        let (samples, ahead) = match self.config.order {
            Order::Shuffle => (epoch_order(seed, epoch, ids), None),
            Order::Window {
                block_samples,
                window_blocks: window,
            } => {
                let blocks = window_blocks(seed, epoch, ids, self.dataset.ends(), block_samples);
                let samples = window_order(seed, epoch, ids, &blocks, window);
                // What is in memory needs no reading.
                let ahead = self.resident.is_none().then(|| ReadAhead::new(blocks, window));
                (samples, ahead)
            }
        };
        EpochOrder {
            epoch,
            samples: Arc::new(samples),
            ahead,
        }
    }

    fn row(&self, rng: &Philox, epoch: u32, sample: usize) -> Result<Row> {
        let views = self.dataset.views();
        let (number, place) = self.dataset.locate(sample)?;
        let id = self.dataset.ids()[sample];
        let mirrored = views == 2 && rng.below(Stream::Flip, id, epoch, 0, 2) == 1;
        Ok(Row {
            number,
            place,
            id,
            mirrored,
            row: place * views + usize::from(mirrored),
        })
    }

    /// Makes one batch: a pure function of (seed, position, rank, dataset).
    fn load(&self, task: &Task) -> Result<Batch> {
        let (config, dataset) = (&self.config, &*self.dataset);
        let rng = Philox::new(config.seed);
        let (elements, epoch) = (dataset.elements(), task.position.epoch);
        let start = task.position.sample(config.batch_size) as usize;
        let samples = rank_slice(
            &task.order[start..start + config.batch_size],
            config.rank,
            config.ranks,
        );
        let mut batch = Batch {
            latents: self.pool.take()?,
            labels: Vec::with_capacity(samples.len()),
            ids: Vec::with_capacity(samples.len()),
            epoch,
            next: task.next,
        };
        let layout = dataset.manifest().row_layout();
        let noisy = config.sample_posterior && layout.logvar;
        let mut noise = vec![0.0; if noisy { elements } else { 0 }];
        let mut rows = samples
            .iter()
            .map(|&sample| self.row(&rng, epoch, sample as usize))
            .peekable();
        for latent in batch.latents.chunks_mut(elements) {
            let Some(row) = rows.next() else { break };
            let Row {
                number,
                place,
                id,
                mirrored,
                row,
            } = row?;
            let shard = &dataset.shards()[number];
            if self.resident.is_none()
                && let Some(Ok(next)) = rows.peek()
            {
                dataset.shards()[next.number].prefetch(next.row);
            }
            let mut decode = |row: &[u8]| {
                quantize::decode_mean(&layout, row, latent);
                if noisy {
                    posterior::fill_noise(&rng, id, epoch, mirrored, &mut noise);
                    posterior::add_noise(latent, &row[layout.logvar()], &noise);
                }
            };
            match &self.resident {
                Some(resident) => decode(resident.row(number, row)),
                None => shard.with_row(row, decode)?,
            }
            batch.labels.push(shard.labels()[place]);
            batch.ids.push(id);
        }
        Ok(batch)
    }
}

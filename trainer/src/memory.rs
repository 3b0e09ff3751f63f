//! How much memory a training process takes: known before the first step, from the configuration alone.

use preprocess::console::count::bytes;
use serde::Serialize;

use crate::config::{Config, Precision, Recompute};
use crate::model::{ModelConfig, Modulation, ParamLayout};
use crate::ops::long_conv::{spectra_bytes, task_bytes};

const F32: u64 = size_of::<f32>() as u64;
/// What the allocator adds to large buffers that come and go: a sixteenth.
const ALLOCATOR_SHARE: u64 = 16;
/// Batches of latents that the loader holds: those ahead, one in work, one in use.
const BATCHES_HELD: u64 = 4;
/// Flat buffers of a checkpoint that is written while training goes on.
const COPIES_SAVED: u64 = 4;
/// The program itself, its threads and the packed panels of the matrix products.
const BASE: u64 = 56 << 20;

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Weights and their moving average.
    pub weights: u64,
    /// Gradients.
    pub gradients: u64,
    /// Both moments of AdamW.
    pub optimizer: u64,
    /// What the forward pass of a micro-batch keeps for the backward.
    pub activations: u64,
    /// The working buffers of one block's backward, and of the ends of the model.
    pub workspace: u64,
    /// Batches of the loader, and the program.
    pub other: u64,
    /// The copy of a checkpoint that is written beside the training; not in the sum, as it is taken only where there is
    /// room for it.
    pub checkpoint_copy: u64,
    /// The dataset, where `data.cache = "ram"` keeps it.
    pub dataset: u64,
}

impl MemoryPlan {
    /// The plan of a training process on the CPU.
    pub fn training(config: &Config) -> Self {
        let model = &config.model;
        let parameters = ParamLayout::model(model).total() as u64 * F32;
        let batch = config.optim.micro_batch() as u64;
        let image = model.latent_numbers() as u64;
        let held = BATCHES_HELD * config.optim.global_batch_size as u64 * image * F32;
        let (depth, saved) = (model.depth as u64, block_saved(model, batch));
        let rounded_up = |bytes: u64| bytes + bytes / ALLOCATOR_SHARE;
        let input = batch * (model.tokens() * model.hidden_size) as u64 * F32;
        let spectra = spectra_bytes(model.hidden_size, model.length()) as u64;
        // Between micro-batches, the gradients of the kernels wait for one another.
        let waiting = if config.optim.micro_batch() < config.optim.global_batch_size {
            kernels(model)
        } else {
            0
        };
        Self {
            weights: 2 * parameters,
            gradients: parameters,
            optimizer: 2 * parameters,
            activations: rounded_up(match config.run.recompute {
                Recompute::None => depth * (saved + spectra + waiting),
                Recompute::Block => (depth - 1) * input + saved + spectra,
            }),
            workspace: rounded_up(
                block_workspace(model, batch) + ends(model, batch) + rounded(config, batch),
            ),
            other: held + BASE,
            checkpoint_copy: u64::from(config.run.async_checkpoint) * COPIES_SAVED * parameters,
            dataset: 0,
        }
    }

    /// The same with a dataset of `bytes` in memory.
    #[must_use]
    pub fn with_dataset(self, bytes: u64) -> Self {
        Self {
            dataset: bytes,
            ..self
        }
    }

    /// The sum of all.
    pub fn total(&self) -> u64 {
        let work = self.activations + self.workspace + self.other + self.dataset;
        self.weights + self.gradients + self.optimizer + work
    }
}

/// A plan that takes more memory than there is.
#[derive(Debug, thiserror::Error)]
#[error(
    "training takes {} of memory and {} are available{}: weights {}, gradients {}, optimizer {}, activations of \
     optim.micro_batch_size = {micro_batch_size} {}, rest {}\nhint: {}",
    bytes(plan.total()),
    bytes(*available),
    shared_among(*processes),
    bytes(plan.weights),
    bytes(plan.gradients),
    bytes(plan.optimizer),
    bytes(plan.activations),
    bytes(plan.workspace + plan.other + plan.dataset),
    self.hint()
)]
pub struct TooMuch {
    /// What the configuration takes.
    pub plan: MemoryPlan,
    /// Its micro-batch size.
    pub micro_batch_size: usize,
    /// Bytes that can be had by this process.
    pub available: u64,
    /// Processes that share the machine's memory.
    pub processes: usize,
    /// What would fit, the quickest first.
    pub fits: Vec<Fit>,
    /// Bytes of the smallest plan, one image at a time with `run.recompute=block`.
    pub smallest: u64,
}

/// Values that make a plan fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// `run.recompute`
    pub recompute: Recompute,
    /// `optim.micro_batch_size`
    pub micro_batch_size: usize,
    /// Bytes of the plan.
    pub total: u64,
}

fn shared_among(processes: usize) -> String {
    if processes == 1 {
        return String::new();
    }
    format!(" to each of this machine's {processes} processes")
}

impl TooMuch {
    fn hint(&self) -> String {
        let mut all: Vec<String> = self.fits.iter().map(ToString::to_string).collect();
        if all.is_empty() {
            all.push(format!(
                "one image at a time with run.recompute=block still takes {}: choose a smaller model.hidden_size, \
                 model.depth or optim.global_batch_size",
                bytes(self.smallest)
            ));
        }
        all.push("--ignore-memory starts it all the same".to_owned());
        all.join("; ")
    }
}

impl std::fmt::Display for Fit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.recompute == Recompute::Block {
            f.write_str("--set run.recompute=block ")?;
        }
        let (size, total) = (self.micro_batch_size, bytes(self.total));
        write!(f, "--set optim.micro_batch_size={size} takes {total}")
    }
}

/// The plan of `config` with `dataset` bytes of data in memory, if it takes no more than the share of one of `processes`
/// of `machine` bytes.
///
/// # Errors
/// [`TooMuch`], with the settings that would fit.
pub fn check(
    config: &Config,
    dataset: u64,
    machine: u64,
    processes: usize,
) -> Result<MemoryPlan, Box<TooMuch>> {
    let available = machine / processes.max(1) as u64;
    let plan = MemoryPlan::training(config).with_dataset(dataset);
    if plan.total() <= available {
        return Ok(plan);
    }
    let largest = |recompute| largest_fit(config, recompute, dataset, available);
    let mut fits: Vec<Fit> = [Recompute::None, Recompute::Block]
        .into_iter()
        .skip(usize::from(config.run.recompute == Recompute::Block))
        .filter_map(largest)
        .collect();
    // Running blocks again is worth its time only where it lets more images through together.
    fits.dedup_by(|slow, quick| slow.micro_batch_size <= quick.micro_batch_size);
    Err(Box::new(TooMuch {
        plan,
        micro_batch_size: config.optim.micro_batch(),
        available,
        processes,
        fits,
        smallest: with(config, Recompute::Block, 1, dataset).total(),
    }))
}

/// The plan of `config` with other settings.
fn with(config: &Config, recompute: Recompute, micro_batch_size: usize, dataset: u64) -> MemoryPlan {
    let mut config = config.clone();
    config.run.recompute = recompute;
    config.optim.micro_batch_size = micro_batch_size;
    MemoryPlan::training(&config).with_dataset(dataset)
}

/// The largest micro-batch that fits and divides the global batch.
fn largest_fit(config: &Config, recompute: Recompute, dataset: u64, available: u64) -> Option<Fit> {
    let global = config.optim.global_batch_size;
    let sizes = (1..=config.optim.micro_batch()).rev();
    let mut fits = sizes.filter(|size| global.is_multiple_of(*size)).map(|size| Fit {
        recompute,
        micro_batch_size: size,
        total: with(config, recompute, size, dataset).total(),
    });
    fits.find(|fit| fit.total <= available)
}

/// Numbers of a token that a block's forward keeps beside its input, which is of the residual stream: see `BlockSaved`.
pub(crate) fn kept_activations(model: &ModelConfig) -> u64 {
    let (d, m) = (model.hidden_size as u64, model.downscale as u64);
    let branch = if model.modulation == Modulation::Gate {
        d
    } else {
        0
    };
    // h, pre0, act0; pre_up and u; y; pre_down, down, pre1, pre2, product.
    3 * d + 2 * m * d + m * model.ssm_width() as u64 + 10 * d + branch
}

/// What a block's forward keeps.
fn block_saved(model: &ModelConfig, batch: u64) -> u64 {
    let per_row = model.hidden_size as u64 + kept_activations(model);
    batch * model.tokens() as u64 * per_row * F32
}

/// The convolution kernels of a block.
fn kernels(model: &ModelConfig) -> u64 {
    2 * (model.hidden_size * model.length()) as u64 * F32
}

/// What a block's backward allocates beside what was kept: dh, dy, du, and the kernels' gradient.
fn block_workspace(model: &ModelConfig, batch: u64) -> u64 {
    let (d, m) = (model.hidden_size as u64, model.downscale as u64);
    let (rows, ssm) = (batch * model.tokens() as u64, model.ssm_width() as u64);
    let scratch = (rayon::current_num_threads() * task_bytes(model.length())) as u64;
    rows * (d + m * ssm + m * d) * F32 + 2 * kernels(model) + scratch
}

/// The rounded copies of the factors of the largest product, where bf16 is emulated.
fn rounded(config: &Config, batch: u64) -> u64 {
    let (model, d) = (&config.model, config.model.hidden_size as u64);
    let y = batch * (model.length() * model.ssm_width()) as u64;
    match config.run.precision {
        Precision::F32 | Precision::Tf32 => 0,
        Precision::Bf16 => (y + 4 * d * d) * F32,
    }
}

/// Tokens, output and their gradients, and the last layer.
fn ends(model: &ModelConfig, batch: u64) -> u64 {
    let (d, rows) = (model.hidden_size as u64, batch * model.tokens() as u64);
    let image = model.latent_numbers() as u64;
    let widths = 2 * (model.token_width() + model.out_token_width()) as u64 + 3 * d;
    rows * widths * F32 + batch * image * 8 * F32
}

/// The most memory that this process has held so far, in bytes, where the system tells.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Resolved;

    fn config(micro_batch_size: usize, recompute: Recompute) -> Config {
        let mut config = Resolved::named("imagenet256-xl").unwrap().config;
        config.optim.micro_batch_size = micro_batch_size;
        config.run.recompute = recompute;
        config
    }

    #[test]
    fn a_plan_that_is_too_large_names_values_that_fit() {
        let large = config(256, Recompute::None);
        let error = check(&large, 0, 48 << 30, 2).unwrap_err();
        assert_eq!(error.fits.len(), 2, "{error}");
        for fit in &error.fits {
            let fitting = config(fit.micro_batch_size, fit.recompute);
            assert_eq!(check(&fitting, 0, 24 << 30, 1).unwrap().total(), fit.total);
            let twice = config(2 * fit.micro_batch_size, fit.recompute);
            assert!(check(&twice, 0, 24 << 30, 1).is_err());
        }
        let text = error.to_string();
        let hint = format!(
            "hint: --set optim.micro_batch_size={}",
            error.fits[0].micro_batch_size
        );
        assert!(
            text.contains(&hint) && text.contains("--set run.recompute=block"),
            "{text}"
        );
        assert!(text.contains("--ignore-memory"), "{text}");
    }

    #[test]
    fn a_model_that_fits_in_no_way_says_so() {
        let error = check(&config(0, Recompute::Block), 0, 1 << 30, 1).unwrap_err();
        assert!(error.fits.is_empty());
        assert!(error.to_string().contains("model.depth"), "{error}");
        let one = config(1, Recompute::Block);
        assert_eq!(error.smallest, MemoryPlan::training(&one).total());
        assert!(check(&one, 0, error.smallest, 1).is_ok());
        assert!(check(&one, 1, error.smallest, 1).is_err(), "the data count");
    }
}

//! The subcommands of `trainer`, one a file.

pub mod bench;
pub mod export;
pub mod fit;
pub mod info;
pub mod plot;
pub mod ranks;
pub mod sample;
mod signals;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use preprocess::device::Devices;

use crate::config::Resolved;
use crate::gpu::Place;

/// Which configuration: shared by the commands that take one.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// A TOML file, or a built-in configuration: imagenet256-s, imagenet256-l, imagenet256-xl, imagenet512-xl,
    /// ablation-m1, ablation-m2, ablation-p2, lsun-church, lsun-bedroom, pixel128, demo, fashion-mnist
    #[arg(long, value_name = "FILE|NAME")]
    pub config: Option<String>,
    /// Put one value over the configuration, such as optim.lr=1e-4; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// The configuration; `default` names the one that is used without `--config`.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn resolve(&self, default: &str) -> Result<Resolved> {
        let mut resolved = Resolved::named(self.config.as_deref().unwrap_or(default))?;
        for assignment in &self.set {
            resolved.set(assignment)?;
        }
        Ok(resolved)
    }

    /// What the configuration is called: the name of its file without its ending.
    pub fn name<'a>(&'a self, default: &'a str) -> &'a str {
        let name = self.config.as_deref().unwrap_or(default);
        Path::new(name)
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or(name)
    }
}

/// Where a model works: shared by the commands that train and sample.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// Where the model works: cpu, cuda or cuda:N; several processes take a GPU each with cuda
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
}

impl DeviceArgs {
    /// The place.
    ///
    /// # Errors
    /// When it is no device, or several.
    pub fn place(&self) -> Result<Place> {
        let devices: Devices = self
            .device
            .parse()
            .map_err(|error: String| anyhow!("--device: {error}"))?;
        Ok(Place::of(&devices, self.device.contains(':'))?)
    }
}

/// Whether a run may be larger than the memory: shared by the commands that train.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct MemoryArgs {
    /// Start even if the plan takes more memory than is available
    #[arg(long)]
    pub ignore_memory: bool,
}

impl MemoryArgs {
    /// Bytes that a run may take, where there is a limit.
    pub fn available(self) -> Option<u64> {
        if self.ignore_memory {
            None
        } else {
            shards::memory::available_bytes()
        }
    }
}

/// Runs `work` in a pool of `threads` threads; 0: all cores.
///
/// # Errors
/// Those of `work`, and when the threads cannot be started.
pub fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .context("the threads cannot be started")?;
    pool.install(work)
}

/// The newest folder below `root` with a `dataset.json`.
fn newest_dataset(root: &Path) -> Option<PathBuf> {
    let entries = fs_err::read_dir(root).ok()?;
    entries
        .flatten()
        .filter_map(|entry| {
            let modified = fs_err::metadata(entry.path().join("dataset.json"))
                .ok()?
                .modified()
                .ok()?;
            Some((modified, entry.path()))
        })
        .max()
        .map(|(_, path)| path)
}

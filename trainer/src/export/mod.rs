//! Exported models: a folder with `model.safetensors` and `config.json`, all that sampling and fine-tuning need.
//!
//! Names and shapes of the tensors are those of [`ParamLayout`]; `docs/export.md` lists them. Unlike a checkpoint, an export
//! may be made by other programs: it holds no hashes that it must have, and its tensors may be f32, f16 or bf16.

mod read;
mod write;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, DatasetRecord, State, WeightKind};
use crate::config::{Config, DataConfig, DiffusionConfig, OptimConfig, RunConfig};
use crate::model::{ModelConfig, ParamLayout};

pub use write::write;

/// File of the tensors.
pub const WEIGHTS: &str = "model.safetensors";
/// File of everything else.
pub const CONFIG: &str = "config.json";
/// What `format` says in every export.
const FORMAT: &str = "diffussm";
/// Version of the layout of `config.json`.
const FORMAT_VERSION: u32 = 1;
/// Key of the hash of the values in the metadata of [`WEIGHTS`]; programs that change the values do not keep it.
const HASH_KEY: &str = "xxh64";

/// What can be wrong with an export.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No checkpoint either, or a damaged one.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The operating system refused; the message names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// `config.json` is not what it should be.
    #[error("{} is not an exported model's configuration: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// `config.json` is of something else, or of a later version.
    #[error("{}: {what}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
    /// The tensors are not those of the model that `config.json` describes.
    #[error("{} does not fit the model of config.json beside it:\n{}", path.display(), faults.join("\n"))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is missing, too much, or of a wrong shape or type; a line each.
        faults: Vec<String>,
    },
    /// The file of tensors is no such file, or damaged.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
    /// The folder to write has something in it.
    #[error("{} is not empty\nhint: --out names a new folder", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The configuration describes an impossible model.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
}

/// Type of the tensors of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// As trained.
    #[default]
    F32,
    /// Half the size; rounded to the nearest, ties to even.
    Bf16,
}

/// `config.json`: everything but the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportConfig {
    /// `diffussm`
    pub format: String,
    /// Version of this layout.
    pub format_version: u32,
    /// Whether these are the averaged weights or the last ones.
    pub weights: WeightKind,
    /// Type of the tensors as they were written.
    pub dtype: WeightDtype,
    /// Number of values of all tensors together.
    pub parameters: usize,
    /// The training step that they are of.
    pub step: u64,
    /// Images that were trained on until then.
    #[serde(default)]
    pub images_seen: u64,
    /// The architecture.
    pub model: ModelConfig,
    /// The noise process.
    pub diffusion: DiffusionConfig,
    /// The dataset with its autoencoder, its scaling factor and the names of its classes.
    pub dataset: DatasetRecord,
    /// How it was trained.
    #[serde(default)]
    pub training: Training,
    /// What wrote it.
    #[serde(default)]
    pub tool_version: String,
}

/// The sections of the configuration that training alone needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Training {
    /// `[data]`
    pub data: DataConfig,
    /// `[optim]`
    pub optim: OptimConfig,
    /// `[run]`
    pub run: RunConfig,
}

impl ExportConfig {
    /// Of the weights `weights` of a checkpoint.
    pub fn new(state: &State, weights: WeightKind, dtype: WeightDtype) -> Self {
        let config = state.config.clone();
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            weights,
            dtype,
            parameters: ParamLayout::model(&config.model).total(),
            step: state.step,
            images_seen: state.images_seen,
            model: config.model,
            diffusion: config.diffusion,
            dataset: state.dataset.clone(),
            training: Training {
                data: config.data,
                optim: config.optim,
                run: config.run,
            },
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The whole configuration of a run.
    pub fn config(&self) -> Config {
        Config {
            model: self.model.clone(),
            diffusion: self.diffusion.clone(),
            data: self.training.data.clone(),
            optim: self.training.optim.clone(),
            run: self.training.run.clone(),
        }
    }
}

/// A model's weights with what they mean.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The configuration that they were trained with.
    pub config: Config,
    /// The dataset that they were trained on.
    pub dataset: DatasetRecord,
    /// The training step that they are of.
    pub step: u64,
    /// The values, in the layout of the parameters.
    pub values: Vec<f32>,
}

/// Reads an export; else the averaged weights of a checkpoint, of a run's newest, or of the newest run below a folder.
///
/// # Errors
/// When there is none, or it is damaged or contradicts itself.
pub fn open(path: &Path) -> Result<Weights, Error> {
    if is_export(path) {
        let config = read::config(&path.join(CONFIG))?;
        let values = read::weights(&path.join(WEIGHTS), &ParamLayout::model(&config.model))?;
        return Ok(Weights {
            config: config.config(),
            step: config.step,
            dataset: config.dataset,
            values,
        });
    }
    let (state, values) = checkpoint::load_weights(&checkpoint::find(path)?, WeightKind::Ema)?;
    Ok(Weights {
        config: state.config,
        dataset: state.dataset,
        step: state.step,
        values,
    })
}

/// The configuration of what [`open`] reads, without its weights.
///
/// # Errors
/// As [`open`].
pub fn open_config(path: &Path) -> Result<Config, Error> {
    if is_export(path) {
        return Ok(read::config(&path.join(CONFIG))?.config());
    }
    Ok(checkpoint::read_state(&checkpoint::find(path)?)?.config)
}

/// Whether `path` is a folder with an exported model.
pub fn is_export(path: &Path) -> bool {
    path.join(CONFIG).is_file()
}

#[cfg(test)]
mod tests;

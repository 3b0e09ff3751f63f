//! From a source to a configuration, an open file of weights and a record of both.

use std::path::{Path, PathBuf};

use shards::manifest::VaeRecord;

use super::config::VaeConfig;
use super::error::Error;
use super::hub;
use super::source::VaeSource;
use super::weights::{WeightFile, sha256_bytes, sha256_file};

/// The configuration of a diffusers folder.
pub(crate) const CONFIG_FILE: &str = "config.json";
/// The weights of a diffusers folder, best first.
pub(crate) const WEIGHT_FILES: [&str; 2] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
];

/// Everything that is needed to build a network.
pub(crate) struct Loaded {
    pub(crate) config: VaeConfig,
    pub(crate) weights: WeightFile,
    pub(crate) record: VaeRecord,
}

/// Finds the files of `source` and opens them; `None` for the identity.
pub(crate) fn load(source: &VaeSource) -> Result<Option<Loaded>, Error> {
    let id = source.to_string();
    match source {
        VaeSource::None => Ok(None),
        VaeSource::Tiny => embedded(id).map(Some),
        VaeSource::Hub { id, revision } => {
            let files = hub::fetch(id, revision.as_deref())?;
            let config = read_config(&files.config)?;
            open(config, &files.weights, id.clone(), files.commit).map(Some)
        }
        VaeSource::Folder(folder) => {
            let config = read_config(&folder.join(CONFIG_FILE))?;
            open(config, &weights_in(folder)?, id, None).map(Some)
        }
        VaeSource::File(file) => {
            let beside = file.with_file_name(CONFIG_FILE);
            let config = if beside.is_file() {
                read_config(&beside)?
            } else {
                VaeConfig::stable_diffusion()
            };
            open(config, file, id, None).map(Some)
        }
    }
}

/// The embedded autoencoder: see `assets/tiny-vae/README.md`.
fn embedded(id: String) -> Result<Loaded, Error> {
    const CONFIG: &str = include_str!("../../assets/tiny-vae/config.json");
    const WEIGHTS: &[u8] = include_bytes!("../../assets/tiny-vae/diffusion_pytorch_model.safetensors");
    let config = VaeConfig::from_json(CONFIG, "the embedded config.json")?;
    let weights = WeightFile::embedded(
        WEIGHTS,
        "the embedded autoencoder",
        config.block_out_channels.len(),
    )?;
    Ok(loaded(config, weights, id, None, sha256_bytes(WEIGHTS)))
}

fn open(config: VaeConfig, path: &Path, id: String, revision: Option<String>) -> Result<Loaded, Error> {
    let weights = WeightFile::open(path, config.block_out_channels.len())?;
    Ok(loaded(config, weights, id, revision, sha256_file(path)?))
}

fn loaded(
    config: VaeConfig,
    weights: WeightFile,
    id: String,
    revision: Option<String>,
    sha256: String,
) -> Loaded {
    let record = VaeRecord {
        id,
        revision,
        sha256: Some(sha256),
        scaling_factor: config.scaling_factor,
        downsampling: config.downsampling(),
        arithmetic: None,
    };
    Loaded {
        config,
        weights,
        record,
    }
}

fn weights_in(folder: &Path) -> Result<PathBuf, Error> {
    WEIGHT_FILES
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::NoWeights {
            path: folder.to_owned(),
            names: WEIGHT_FILES.to_vec(),
        })
}

fn read_config(path: &Path) -> Result<VaeConfig, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    VaeConfig::from_json(&text, &path.display().to_string())
}

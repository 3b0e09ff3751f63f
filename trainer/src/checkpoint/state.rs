//! `state.json`: where a run stands, what defines it, and the hashes of the files beside it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shards::loader::Position;
use shards::manifest::{Manifest, VaeRecord};

use super::Error;
use crate::config::Config;

/// Version of the checkpoint's layout.
const FORMAT_VERSION: u32 = 1;

/// The dataset that a run learns from, as far as resuming and sampling need it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// Its name.
    pub name: String,
    /// Its folder when the checkpoint was written.
    pub path: String,
    /// Of source, transform, autoencoder and store settings.
    pub fingerprint: String,
    /// Samples.
    pub samples: u64,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// Names of the classes; may be empty.
    pub class_names: Vec<String>,
    /// The autoencoder of its latents.
    pub vae: VaeRecord,
}

impl DatasetRecord {
    /// What `manifest`, read from `path`, says.
    pub fn new(manifest: &Manifest, path: &Path) -> Self {
        Self {
            name: manifest.name.clone(),
            path: path.display().to_string(),
            fingerprint: manifest.fingerprint.clone(),
            samples: manifest.samples,
            image_size: manifest.image_size,
            class_names: manifest.class_names.clone(),
            vae: manifest.vae.clone(),
        }
    }
}

#[cfg(test)]
impl DatasetRecord {
    /// A made-up dataset of `side` x `side` pixels without an autoencoder.
    pub(crate) fn of_pixels(side: usize) -> Self {
        let vae = VaeRecord {
            id: "none".to_owned(),
            revision: None,
            sha256: None,
            scaling_factor: 1.0,
            downsampling: 1,
        };
        Self {
            name: "pixels".to_owned(),
            path: "data/pixels".to_owned(),
            fingerprint: "fingerprint".to_owned(),
            samples: 1,
            image_size: side,
            class_names: Vec::new(),
            vae,
        }
    }
}

/// Sums over the steps since the last line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricSums {
    /// Steps summed.
    pub steps: u64,
    /// Of `mse + vb`.
    pub loss: f64,
    /// Of the squared error of the noise.
    pub mse: f64,
    /// Of the variational bound.
    pub vb: f64,
    /// Of the gradients' norm.
    pub grad_norm: f64,
}

/// Length and hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its length.
    pub bytes: u64,
    /// XXH64 of its bytes, hexadecimal.
    pub xxh64: String,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the checkpoint's layout.
    pub format_version: u32,
    /// Optimiser steps done.
    pub step: u64,
    /// The next batch.
    pub position: Position,
    /// Images that were trained on.
    pub images_seen: u64,
    /// Steps that were left out because loss or gradient were not finite.
    pub skipped_steps: u64,
    /// Sums for the next line of `metrics.jsonl`.
    pub sums: MetricSums,
    /// The dataset.
    pub dataset: DatasetRecord,
    /// The whole configuration.
    pub config: Config,
    /// What wrote it.
    pub tool_version: String,
    /// The files beside it.
    pub files: BTreeMap<String, FileRecord>,
}

impl State {
    /// The state before the first step.
    pub fn new(config: Config, dataset: DatasetRecord) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            step: 0,
            position: Position::default(),
            images_seen: 0,
            skipped_steps: 0,
            sums: MetricSums::default(),
            dataset,
            config,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            files: BTreeMap::new(),
        }
    }

    /// Reads a state.
    ///
    /// # Errors
    /// When the file cannot be read, is no state, is of a later version, or describes an impossible model.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs_err::read(path)?;
        let state: Self = serde_json::from_slice(&text).map_err(|source| Error::State {
            path: path.to_owned(),
            source,
        })?;
        if state.format_version > FORMAT_VERSION {
            return Err(Error::Damaged {
                path: path.to_owned(),
                what: format!(
                    "it has version {}, this program reads up to {FORMAT_VERSION}: update the program",
                    state.format_version
                ),
            });
        }
        state.config.model.validate()?;
        Ok(state)
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|source| Error::State {
            path: path.to_owned(),
            source,
        })?;
        text.push(b'\n');
        let mut file = fs_err::File::create(path)?;
        file.write_all(&text)?;
        Ok(file.sync_all()?)
    }
}

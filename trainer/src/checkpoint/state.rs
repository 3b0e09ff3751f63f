//! `state.json`: where a run stands, what defines it, and the hashes of the files beside it.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shards::disk;
use shards::loader::Position;
use shards::manifest::{Manifest, VaeRecord};
use xxhash_rust::xxh64::xxh64;

use super::Error;
use crate::config::Config;

/// Version of the checkpoint's layout. From 2 on, the state has a hash of itself.
const FORMAT_VERSION: u32 = 2;
/// What stands in the file before the hash of itself.
const OWN_HASH: &[u8] = b"\"state_xxh64\": \"";
/// What stands in the place of the hash while it is taken.
const NO_HASH: &str = "0000000000000000";

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
            arithmetic: None,
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

/// The weights that a run started from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRecord {
    /// The export, checkpoint or run as it was given.
    pub path: String,
    /// The training step that the weights are of.
    pub step: u64,
    /// XXH64 of the weights as little-endian f32 in the layout's order, hexadecimal.
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
    /// How many of them were the last ones.
    #[serde(default)]
    pub skipped_in_a_row: u64,
    /// Sums for the next line of `metrics.jsonl`.
    pub sums: MetricSums,
    /// The dataset.
    pub dataset: DatasetRecord,
    /// The whole configuration.
    pub config: Config,
    /// What the run started from, where that was not chance.
    #[serde(default)]
    pub init: Option<InitRecord>,
    /// What wrote it.
    pub tool_version: String,
    /// The files beside it.
    pub files: BTreeMap<String, FileRecord>,
    /// XXH64 of `state.json` with sixteen zeros in this place; empty in memory.
    #[serde(default)]
    pub state_xxh64: String,
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
            skipped_in_a_row: 0,
            sums: MetricSums::default(),
            dataset,
            config,
            init: None,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            files: BTreeMap::new(),
            state_xxh64: String::new(),
        }
    }

    /// Reads a state.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, is no state, is of a later version, or describes an impossible model.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs_err::read(path)?;
        let damaged = |what: String| Error::Damaged {
            path: path.to_owned(),
            what,
        };
        let mut state: Self = serde_json::from_slice(&text).map_err(|source| Error::State {
            path: path.to_owned(),
            source,
        })?;
        if state.format_version > FORMAT_VERSION {
            return Err(damaged(format!(
                "it has version {}, this program reads up to {FORMAT_VERSION}: update the program",
                state.format_version
            )));
        }
        match own_hash(&text) {
            Some((found, expected)) if found == expected => {}
            Some((found, expected)) => {
                return Err(damaged(format!("its hash is {found}, it says {expected}")));
            }
            // Before the second version there was none.
            None if state.format_version == 1 => {}
            None => return Err(damaged("it has no hash of itself".to_owned())),
        }
        state.state_xxh64.clear();
        state.config.model.validate()?;
        Ok(state)
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let state = Self {
            format_version: FORMAT_VERSION,
            state_xxh64: NO_HASH.to_owned(),
            ..self.clone()
        };
        let mut text = serde_json::to_vec_pretty(&state).map_err(|source| Error::State {
            path: path.to_owned(),
            source,
        })?;
        text.push(b'\n');
        if let Some(place) = own_hash_place(&text) {
            let hash = format!("{:016x}", xxh64(&text, 0));
            text[place].copy_from_slice(hash.as_bytes());
        }
        let mut file = disk::File::create(path)?;
        file.write_all(&text)?;
        Ok(file.sync()?)
    }
}

/// Where the sixteen digits of its own hash stand in a state.
fn own_hash_place(text: &[u8]) -> Option<Range<usize>> {
    // It is the last field.
    let before = text
        .windows(OWN_HASH.len())
        .rposition(|window| window == OWN_HASH)?;
    let start = before + OWN_HASH.len();
    (text.len() >= start + NO_HASH.len()).then_some(start..start + NO_HASH.len())
}

/// The hash that a state has, and the one that it says it has.
fn own_hash(text: &[u8]) -> Option<(String, String)> {
    let place = own_hash_place(text)?;
    let mut bare = text.to_vec();
    let said = String::from_utf8_lossy(&bare[place.clone()]).into_owned();
    bare[place].copy_from_slice(NO_HASH.as_bytes());
    Some((format!("{:016x}", xxh64(&bare, 0)), said))
}

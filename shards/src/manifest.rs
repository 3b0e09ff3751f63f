//! `dataset.json`: what a dataset holds, how it was made, and the hash of every shard.

use std::{collections::BTreeMap, fmt, ops::Deref, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    disk,
    error::{Error, Result},
    layout::{FORMAT_VERSION, MANIFEST_NAME, MAX_MANIFEST_BYTES, RowLayout},
};

/// What is stored of the posterior.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// Mean and log-variance: noise is drawn afresh in training.
    Moments,
    /// The mean alone.
    Mean,
    /// One sample, drawn when the dataset was made.
    Sample,
}

/// How the mean is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Exact.
    F32,
    /// 11 significant bits.
    F16,
    /// 8 significant bits, the range of f32.
    Bf16,
    /// 255 levels per channel, with a scale per channel and row.
    Int8,
}

impl Dtype {
    /// All of them, from the widest.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Int8];

    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of one element.
    pub fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }
}

/// Which mirror views are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flip {
    /// The image and its mirror image, each encoded.
    Both,
    /// The image alone.
    None,
}

/// How frames are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// zstd level 1, a block for each byte plane.
    Zstd,
    /// zstd frames of raw blocks.
    None,
}

/// Where the images came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The kind: `folder`, `demo`, ...
    pub dataset: String,
    /// `train`, `validation`, ...
    pub split: String,
    /// Where it lay; not part of the fingerprint.
    pub path: String,
    /// What the images lay in, in words; not part of the fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// At most so many samples were taken.
    pub limit: Option<u64>,
    /// A hash of the source's list of files, where it has one.
    pub listing: Option<String>,
}

/// The autoencoder that made the latents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VaeRecord {
    /// Its name: hub id, file name, `tiny`, `none`.
    pub id: String,
    /// Its revision on the hub.
    pub revision: Option<String>,
    /// The hash of its weights.
    pub sha256: Option<String>,
    /// What a latent is multiplied by before the model sees it; shards hold unscaled latents.
    pub scaling_factor: f64,
    /// Pixels per latent element, along one side.
    pub downsampling: usize,
    /// Where and in which numbers it ran, when not in f32 on a processor: its rounding is in the latents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<String>,
}

/// How latents are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSettings {
    /// What of the posterior.
    pub store: Store,
    /// The mean's dtype.
    pub dtype: Dtype,
    /// Which views.
    pub flip: Flip,
    /// Compressed or raw frames.
    pub compression: Compression,
    /// Rows (views of samples) in one frame; 1 lets any row be read alone.
    pub frame_samples: usize,
    /// Samples in one shard.
    pub shard_samples: usize,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            store: Store::Moments,
            dtype: Dtype::Bf16,
            flip: Flip::Both,
            compression: Compression::Zstd,
            frame_samples: 1,
            shard_samples: 8192,
        }
    }
}

impl StoreSettings {
    /// Views of each sample: 2 with the mirror view.
    pub fn views(&self) -> usize {
        match self.flip {
            Flip::Both => 2,
            Flip::None => 1,
        }
    }
}

/// One of several datasets that are made apart, to be merged: a stretch of the source, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which, from 0.
    pub index: u32,
    /// Of how many.
    pub count: u32,
}

impl fmt::Display for Part {
    /// People count from one: "part 2 of 4".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {} of {}", u64::from(self.index) + 1, self.count)
    }
}

/// All that is known of a dataset before its first sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestHeader {
    /// A name for people.
    pub name: String,
    /// Where the images came from.
    pub source: Source,
    /// Side of the square crop, pixels.
    pub image_size: usize,
    /// The crop.
    pub transform: String,
    /// The arithmetic of the image decoder.
    pub decoder: String,
    /// The libraries that decoded the images, with their versions; not part of the fingerprint, as other versions that
    /// give other bytes get another [`Self::decoder`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub libraries: BTreeMap<String, String>,
    /// The autoencoder.
    pub vae: VaeRecord,
    /// How latents are stored.
    pub store: StoreSettings,
    /// Channels, height, width of a latent.
    pub shape: [usize; 3],
    /// Classes.
    pub num_classes: usize,
    /// Their names, in label order; may be empty.
    pub class_names: Vec<String>,
    /// The seed of what was drawn when the dataset was made.
    pub seed: u64,
    /// Which part of a dataset this is; not part of the fingerprint, so that all parts have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

impl ManifestHeader {
    /// The layout of one row.
    pub fn row_layout(&self) -> RowLayout {
        RowLayout {
            shape: self.shape,
            dtype: self.store.dtype,
            logvar: self.store.store == Store::Moments,
        }
    }

    /// The SHA-256, in hex, of all that decides the bytes of the shards.
    pub fn fingerprint(&self) -> String {
        let lines: Vec<String> = self
            .identity()
            .into_iter()
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect();
        hex(&Sha256::digest(lines.concat()))
    }

    /// Names and values of all that decides the bytes of the shards. Paths do not: they differ between machines.
    pub fn identity(&self) -> Vec<(&'static str, String)> {
        let mut weights =
            self.vae.sha256.clone().unwrap_or_else(|| {
                format!("{} {}", self.vae.id, self.vae.revision.as_deref().unwrap_or("-"))
            });
        if let Some(arithmetic) = &self.vae.arithmetic {
            weights.push_str(&format!(", {arithmetic}"));
        }
        vec![
            ("source.dataset", self.source.dataset.clone()),
            ("source.split", self.source.split.clone()),
            ("source.limit", format!("{:?}", self.source.limit)),
            ("source.listing", format!("{:?}", self.source.listing)),
            ("image_size", self.image_size.to_string()),
            ("transform", self.transform.clone()),
            ("decoder", self.decoder.clone()),
            ("vae", weights),
            // f32: reading the manifest back may move the last bit of an f64.
            ("vae.scaling_factor", (self.vae.scaling_factor as f32).to_string()),
            ("vae.downsampling", self.vae.downsampling.to_string()),
            ("store", format!("{:?}", self.store)),
            ("shape", format!("{:?}", self.shape)),
            ("num_classes", self.num_classes.to_string()),
            ("class_names", format!("{:?}", self.class_names)),
            ("seed", self.seed.to_string()),
        ]
    }

    /// The first setting in which this dataset differs from `other`: its name, the value here and the value there.
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let part = |header: &Self| {
            header
                .part
                .map_or("the whole dataset".to_owned(), |part| part.to_string())
        };
        let mut here = self.identity();
        let mut there = other.identity();
        here.push(("part", part(self)));
        there.push(("part", part(other)));
        here.into_iter()
            .zip(there)
            .find(|((_, here), (_, there))| here != there)
            .map(|((name, here), (_, there))| (name, here, there))
    }

    /// Reads the settings that [`BEGUN_NAME`](crate::layout::BEGUN_NAME) holds.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        serde_json::from_slice(&read_bounded(path)?).map_err(|source| Error::Manifest {
            path: path.to_owned(),
            source,
        })
    }
}

/// A complete shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Its name in the dataset's folder.
    pub file: String,
    /// Its samples.
    pub samples: u64,
    /// The hash of the file, hex.
    pub sha256: String,
    /// The length of the file.
    pub bytes: u64,
}

/// The manifest of a complete dataset; its header's fields can be read directly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// What was known before the first sample.
    #[serde(flatten)]
    pub header: ManifestHeader,
    /// All samples.
    pub samples: u64,
    /// Shards, in order.
    pub shards: Vec<ShardEntry>,
    /// Root mean square error of the stored means.
    pub quantization_error: f64,
    /// See [`ManifestHeader::fingerprint`].
    pub fingerprint: String,
    /// What wrote it.
    pub tool_version: String,
}

impl Deref for Manifest {
    type Target = ManifestHeader;

    fn deref(&self) -> &ManifestHeader {
        &self.header
    }
}

impl Manifest {
    /// Reads the manifest of the dataset in `dir`.
    ///
    /// # Errors
    /// [`Error::NoManifest`], [`Error::Manifest`], [`Error::Version`], or a fingerprint that is not that of the fields.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST_NAME);
        let bytes = match read_bounded(&path) {
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoManifest { path: dir.to_owned() });
            }
            other => other?,
        };
        let json = |source| Error::Manifest {
            path: path.clone(),
            source,
        };
        // The version comes first: a later manifest may have other fields.
        let value: Value = serde_json::from_slice(&bytes).map_err(json)?;
        if let Some(found) = value.get("format_version").and_then(Value::as_u64)
            && found > u64::from(FORMAT_VERSION)
        {
            return Err(Error::Version {
                path,
                found: u32::try_from(found).unwrap_or(u32::MAX),
                supported: FORMAT_VERSION,
            });
        }
        let manifest: Self = serde_json::from_value(value).map_err(json)?;
        let expected = manifest.header.fingerprint();
        if manifest.fingerprint != expected {
            return Err(Error::Mismatch {
                path,
                what: "the fingerprint".to_owned(),
                found: manifest.fingerprint,
                expected,
            });
        }
        Ok(manifest)
    }

    /// Replaces the manifest in `dir` at once: nobody ever sees half of it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(MANIFEST_NAME);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|source| Error::Manifest {
            path: path.clone(),
            source,
        })?;
        bytes.push(b'\n');
        Ok(disk::replace(&path, &bytes)?)
    }
}

/// A file of JSON, if it is not far too large for one.
fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let length = fs_err::metadata(path)?.len();
    if length > MAX_MANIFEST_BYTES {
        return Err(Error::Limit {
            path: path.to_owned(),
            frame: 0,
            offset: 0,
            what: "the manifest's length",
            claimed: length,
            limit: MAX_MANIFEST_BYTES,
        });
    }
    Ok(fs_err::read(path)?)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! The first frame of a shard: a safetensors header of fixed length that says all that a reader needs.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    layout::{
        FORMAT_VERSION, HEADER_BYTES, INDEX_BYTES_PER_SAMPLE, MAX_CHANNELS, MAX_FRAME_BYTES, MAX_INDEX_BYTES,
        MAX_SAMPLES, MAX_SIDE, RowLayout,
    },
    manifest::{Dtype, ManifestHeader, Store},
};

/// The `shard` entry of the safetensors metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardHeader {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The dataset's fingerprint.
    pub fingerprint: String,
    /// Which shard of the dataset this is.
    pub shard: u64,
    /// Samples here.
    pub samples: u64,
    /// Views of each sample.
    pub views: u64,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// What is stored.
    pub store: Store,
    /// The mean's dtype.
    pub dtype: Dtype,
    /// Rows of one frame.
    pub frame_rows: u64,
    /// Bytes of all keys.
    pub key_bytes: u64,
}

impl ShardHeader {
    pub(crate) fn new(manifest: &ManifestHeader, fingerprint: &str, shard: u64) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            fingerprint: fingerprint.to_owned(),
            shard,
            samples: 0,
            views: manifest.store.views() as u64,
            shape: manifest.shape,
            store: manifest.store.store,
            dtype: manifest.store.dtype,
            frame_rows: manifest.store.frame_samples as u64,
            key_bytes: 0,
        }
    }

    /// The layout of one row.
    pub fn row_layout(&self) -> RowLayout {
        RowLayout {
            shape: self.shape,
            dtype: self.dtype,
            logvar: self.store == Store::Moments,
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.samples * self.views
    }

    pub(crate) fn index_bytes(&self) -> u64 {
        self.samples * INDEX_BYTES_PER_SAMPLE as u64 + self.key_bytes
    }

    /// Checks every number before anything is computed or allocated from it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let checks = [
            ("samples", self.samples, 1, MAX_SAMPLES),
            ("views", self.views, 1, 2),
            ("channels", self.shape[0] as u64, 1, MAX_CHANNELS as u64),
            ("height", self.shape[1] as u64, 1, MAX_SIDE as u64),
            ("width", self.shape[2] as u64, 1, MAX_SIDE as u64),
            ("rows of a frame", self.frame_rows, 1, MAX_SAMPLES),
            ("bytes of keys", self.key_bytes, 0, MAX_INDEX_BYTES as u64),
        ];
        for (what, value, least, most) in checks {
            if !(least..=most).contains(&value) {
                return Err(format!(
                    "the number of {what} is {value}, allowed are {least}..={most}"
                ));
            }
        }
        let frame = self.frame_rows * self.row_layout().row_bytes() as u64;
        if frame > MAX_FRAME_BYTES as u64 {
            return Err(format!(
                "a frame has {frame} bytes, allowed are {MAX_FRAME_BYTES}"
            ));
        }
        if self.index_bytes() > MAX_INDEX_BYTES as u64 {
            return Err(format!(
                "the index has {} bytes, allowed are {MAX_INDEX_BYTES}",
                self.index_bytes()
            ));
        }
        Ok(())
    }

    /// The content of the first frame: the length, the JSON, spaces.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let n = self.samples;
        let row_bytes = self.row_layout().row_bytes() as u64;
        let tensors: [(&str, &str, Vec<u64>, u64); 6] = [
            (
                "rows",
                "U8",
                vec![self.rows(), row_bytes],
                self.rows() * row_bytes,
            ),
            ("id", "U64", vec![n], 8 * n),
            ("label", "I64", vec![n], 8 * n),
            ("squared_error", "F64", vec![n], 8 * n),
            ("key_end", "U64", vec![n], 8 * n),
            ("key", "U8", vec![self.key_bytes], self.key_bytes),
        ];
        let shard = serde_json::to_string(self).map_err(|error| error.to_string())?;
        let mut object = serde_json::Map::new();
        object.insert("__metadata__".to_owned(), json!({ "shard": shard }));
        let mut start = 0;
        for (name, dtype, shape, bytes) in tensors {
            let end = start + bytes;
            object.insert(
                name.to_owned(),
                json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }),
            );
            start = end;
        }
        let text = Value::Object(object).to_string();
        if text.len() + 8 > HEADER_BYTES {
            return Err(format!(
                "the header has {} bytes, allowed are {HEADER_BYTES}",
                text.len() + 8
            ));
        }
        let mut bytes = ((HEADER_BYTES - 8) as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(HEADER_BYTES, b' ');
        Ok(bytes)
    }

    /// Reads the content of the first frame; the tensors must be exactly those that the metadata implies.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let object: Value = bytes
            .get(8..)
            .and_then(|json| serde_json::from_slice(json).ok())
            .ok_or("the safetensors header is not JSON")?;
        let shard = object
            .pointer("/__metadata__/shard")
            .and_then(Value::as_str)
            .ok_or("the safetensors metadata has no `shard`: it is no latent shard")?;
        let header: Self =
            serde_json::from_str(shard).map_err(|error| format!("the `shard` metadata: {error}"))?;
        header.check()?;
        if header.to_bytes()? != bytes {
            return Err("the tensors of the header are not those that its metadata implies".to_owned());
        }
        Ok(header)
    }

    /// The version that the first frame claims, whatever else is in it.
    pub(crate) fn version(bytes: &[u8]) -> Option<u32> {
        let object: Value = serde_json::from_slice(bytes.get(8..)?).ok()?;
        let shard: Value = serde_json::from_str(object.pointer("/__metadata__/shard")?.as_str()?).ok()?;
        u32::try_from(shard.get("format_version")?.as_u64()?).ok()
    }
}

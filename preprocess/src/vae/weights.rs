//! Files of tensors: safetensors and PyTorch's zip archives, any of the known layouts, any float type.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use candle_core::DType;
use candle_core::pickle::PthTensors;
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use sha2::{Digest, Sha256};

use super::error::Error;
use super::mapped::map;
use super::names::canonical;

/// Bytes before a safetensors header: its length.
const LENGTH_BYTES: usize = 8;
/// Where training frameworks put the tensors of a checkpoint.
const STATE_DICT: &str = "state_dict";

/// An open file of tensors.
pub(crate) struct WeightFile {
    origin: String,
    /// Today's diffusers name -> the file's name.
    names: HashMap<String, String>,
    data: Data,
}

enum Data {
    Safetensors {
        bytes: Bytes,
        header: usize,
        metadata: Metadata,
    },
    Pickle(PthTensors),
}

enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

impl WeightFile {
    /// Opens a file of a network with `levels` levels; what it is, its first bytes say.
    pub(crate) fn open(path: &Path, levels: usize) -> Result<Self, Error> {
        let origin = path.display().to_string();
        let bytes = map(path)?;
        if bytes.starts_with(b"PK") {
            Self::pickle(path, origin, levels)
        } else if bytes.get(LENGTH_BYTES) == Some(&b'{') {
            Self::safetensors(Bytes::Mapped(bytes), origin, levels)
        } else {
            Err(Error::Weights {
                origin,
                reason: "neither a safetensors file nor a PyTorch zip archive; files from before PyTorch 1.6 must be \
                         saved again with a newer version"
                    .to_owned(),
            })
        }
    }

    /// A safetensors file embedded in the program.
    pub(crate) fn embedded(bytes: &'static [u8], origin: &str, levels: usize) -> Result<Self, Error> {
        Self::safetensors(Bytes::Embedded(bytes), origin.to_owned(), levels)
    }

    fn safetensors(bytes: Bytes, origin: String, levels: usize) -> Result<Self, Error> {
        let (header, metadata) = SafeTensors::read_metadata(bytes.get()).map_err(|error| Error::Weights {
            origin: origin.clone(),
            reason: format!("damaged or incomplete safetensors file: {error}"),
        })?;
        Ok(Self {
            names: names(metadata.offset_keys(), levels),
            origin,
            data: Data::Safetensors {
                bytes,
                header,
                metadata,
            },
        })
    }

    fn pickle(path: &Path, origin: String, levels: usize) -> Result<Self, Error> {
        let open = |key| {
            PthTensors::new(path, key).map_err(|error| Error::Weights {
                origin: origin.clone(),
                reason: format!("cannot read this PyTorch archive ({error}); convert it to safetensors"),
            })
        };
        let listed = |file: &PthTensors| names(file.tensor_infos().keys().cloned().collect(), levels);
        let mut file = open(None)?;
        let mut names = listed(&file);
        if names.is_empty()
            && let Ok(inner) = open(Some(STATE_DICT))
        {
            names = listed(&inner);
            file = inner;
        }
        Ok(Self {
            origin,
            names,
            data: Data::Pickle(file),
        })
    }

    /// The tensor `name` (diffusers' layout), widened to f32, which must have `shape`; trailing dimensions of one do not
    /// count for matrices and kernels.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let missing = || Error::MissingTensor {
            origin: self.origin.clone(),
            name: name.to_owned(),
        };
        let stored = self.names.get(name).ok_or_else(missing)?;
        let (got, values) = match &self.data {
            Data::Safetensors {
                bytes,
                header,
                metadata,
            } => {
                let info = metadata.info(stored).ok_or_else(missing)?;
                let (start, end) = info.data_offsets;
                let data = &bytes.get()[LENGTH_BYTES + header..][start..end];
                let values = widen(info.dtype, data).ok_or_else(|| Error::Weights {
                    origin: self.origin.clone(),
                    reason: format!("tensor `{stored}` is {:?}, only floats can be read", info.dtype),
                })?;
                (info.shape.clone(), values)
            }
            Data::Pickle(file) => {
                let tensor = file.get(stored)?.ok_or_else(missing)?;
                let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                (tensor.dims().to_vec(), values)
            }
        };
        if squeezed(&got) == squeezed(shape) {
            Ok(values)
        } else {
            Err(Error::TensorShape {
                origin: self.origin.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                got,
            })
        }
    }
}

/// Today's names of those tensors that belong to the autoencoder.
fn names(stored: Vec<String>, levels: usize) -> HashMap<String, String> {
    stored
        .into_iter()
        .filter_map(|name| Some((canonical(&name, levels)?, name)))
        .collect()
}

/// A shape without trailing dimensions of one, down to two dimensions.
fn squeezed(shape: &[usize]) -> &[usize] {
    match shape {
        [rest @ .., 1] if 2 <= rest.len() => squeezed(rest),
        _ => shape,
    }
}

/// Little-endian floats of any width as f32; `None` for other types.
fn widen(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    let values = match dtype {
        Dtype::F32 => each(data, f32::from_le_bytes),
        Dtype::F16 => each(data, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => each(data, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Dtype::F64 => each(data, |bytes| f64::from_le_bytes(bytes) as f32),
        _ => return None,
    };
    Some(values)
}

fn each<const N: usize>(data: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    data.as_chunks::<N>()
        .0
        .iter()
        .map(|&bytes| convert(bytes))
        .collect()
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_file(path: &Path) -> Result<String, Error> {
    let wrap = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = std::fs::File::open(path).map_err(wrap)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).map_err(wrap)?;
        if length == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..length]);
    }
}

/// The SHA-256 of bytes, in hexadecimal.
pub(crate) fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

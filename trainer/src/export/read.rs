//! Reading an export, whoever wrote it.

use std::io::{BufReader, Read};
use std::path::Path;

use fs_err::File;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};
use xxhash_rust::xxh64::Xxh64;

use super::{Error, ExportConfig, FORMAT, FORMAT_VERSION, HASH_KEY};
use crate::checkpoint::flat;
use crate::model::{ParamLayout, TensorInfo};

const BUFFER: usize = 1 << 20;
/// Values that are converted at a time.
const CONVERTED_AT_ONCE: usize = 1 << 16;
/// Faults that are listed before the rest is only counted.
const MAX_FAULTS: usize = 6;

/// Reads and checks `config.json`.
pub(super) fn config(path: &Path) -> Result<ExportConfig, Error> {
    let text = fs_err::read(path)?;
    let wrong = |what: String| Error::Config {
        path: path.to_owned(),
        what,
    };
    // First whether it is ours at all: a file of another program has other keys.
    let json = |source| Error::Json {
        path: path.to_owned(),
        source,
    };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(json)?;
    if value["format"] != FORMAT {
        return Err(wrong(format!(
            "`format` is {}, an exported model has \"{FORMAT}\"",
            value["format"]
        )));
    }
    let version = value["format_version"].as_u64().unwrap_or(0);
    if version > FORMAT_VERSION.into() {
        return Err(wrong(format!(
            "it has version {version}, this program reads up to {FORMAT_VERSION}: update the program"
        )));
    }
    let config: ExportConfig = serde_json::from_value(value).map_err(json)?;
    config.model.validate()?;
    Ok(config)
}

/// Reads the tensors of `layout`, in whatever order and type they lie in the file.
pub(super) fn weights(path: &Path, layout: &ParamLayout) -> Result<Vec<f32>, Error> {
    let damaged = |what: String| Error::Damaged {
        path: path.to_owned(),
        what,
    };
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut input = BufReader::with_capacity(BUFFER, file);
    let metadata = flat::header(&mut input, length).map_err(damaged)?;
    let faults = faults(&metadata, layout);
    if !faults.is_empty() {
        return Err(Error::Tensors {
            path: path.to_owned(),
            faults,
        });
    }
    let mut values = vec![0.0; layout.total()];
    let mut hash = Xxh64::new(0);
    for name in metadata.offset_keys() {
        let (Some(tensor), Some(info)) = (layout.get(&name), metadata.info(&name)) else {
            continue;
        };
        let values = &mut values[tensor.range()];
        read_tensor(&mut input, info.dtype, values, &mut hash)
            .map_err(|error| damaged(format!("tensor `{name}`: {error}")))?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(damaged(format!("tensor `{name}`: value {at} is {}", values[at])));
        }
    }
    let rest = std::io::copy(&mut input, &mut std::io::sink())?;
    if rest > 0 {
        return Err(damaged(format!("{rest} bytes follow its last tensor")));
    }
    let said = metadata.metadata().as_ref().and_then(|all| all.get(HASH_KEY));
    let found = format!("{:016x}", hash.digest());
    match said {
        Some(said) if *said != found => Err(damaged(format!(
            "the hash of its values is {found}, its metadata says {said}"
        ))),
        _ => Ok(values),
    }
}

/// What of `metadata` is not as `layout` has it.
fn faults(metadata: &Metadata, layout: &ParamLayout) -> Vec<String> {
    let of_layout = layout
        .tensors()
        .iter()
        .filter_map(|tensor| fault(metadata, tensor));
    let names = metadata.offset_keys().into_iter();
    let extra = names
        .filter(|name| layout.get(name).is_none())
        .map(|name| format!("tensor `{name}` is none of the model's"));
    let mut all: Vec<String> = of_layout.chain(extra).collect();
    if all.len() > MAX_FAULTS {
        let more = all.len() - MAX_FAULTS;
        all.truncate(MAX_FAULTS);
        all.push(format!("and {more} more"));
    }
    all
}

/// What is wrong with one tensor of the model.
fn fault(metadata: &Metadata, tensor: &TensorInfo) -> Option<String> {
    let (name, shape) = (&tensor.name, &tensor.shape);
    let Some(info) = metadata.info(name) else {
        return Some(format!("tensor `{name}` {shape:?} is missing"));
    };
    if info.shape != *shape {
        let found = &info.shape;
        return Some(format!(
            "tensor `{name}` has shape {found:?}, the model has {shape:?}"
        ));
    }
    let is_known = matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    (!is_known).then(|| format!("tensor `{name}` is {:?}; F32, F16 and BF16 are read", info.dtype))
}

fn read_tensor(
    input: &mut impl Read,
    dtype: Dtype,
    values: &mut [f32],
    hash: &mut Xxh64,
) -> std::io::Result<()> {
    let width = if dtype == Dtype::F32 { 4 } else { 2 };
    let mut bytes = vec![0; CONVERTED_AT_ONCE.min(values.len()) * width];
    for values in values.chunks_mut(CONVERTED_AT_ONCE) {
        let bytes = &mut bytes[..values.len() * width];
        input.read_exact(bytes)?;
        hash.update(bytes);
        if dtype == Dtype::F32 {
            for (value, b) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*b);
            }
        } else {
            for (value, b) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = match dtype {
                    Dtype::BF16 => bf16::from_le_bytes(*b).to_f32(),
                    _ => f16::from_le_bytes(*b).to_f32(),
                };
            }
        }
    }
    Ok(())
}

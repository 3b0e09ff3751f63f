//! Writing an export: aside, synchronised, then renamed.

use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use serde_json::json;
use shards::disk;
use xxhash_rust::xxh64::Xxh64;

use super::{CONFIG, Error, ExportConfig, HASH_KEY, WEIGHTS, WeightDtype};
use crate::checkpoint::flat;
use crate::model::ParamLayout;

const BUFFER: usize = 1 << 20;
/// Values that are converted at a time.
const CONVERTED_AT_ONCE: usize = 1 << 16;

/// Writes `values`, in the layout of the parameters of `config.model`, and `config` into the new folder `dir`.
///
/// # Errors
/// [`Error::NotEmpty`] when there is something in `dir`, and those of the file system: then `dir` is not there.
pub fn write(dir: &Path, config: &ExportConfig, values: &[f32]) -> Result<(), Error> {
    let is_taken = match fs_err::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => dir.exists(),
    };
    if is_taken {
        return Err(Error::NotEmpty { path: dir.to_owned() });
    }
    let aside = disk::partial(dir);
    let done = write_aside(&aside, config, values).and_then(|()| {
        if dir.exists() {
            fs_err::remove_dir(dir)?;
        }
        disk::rename(&aside, dir)?;
        Ok(disk::sync_parent(dir)?)
    });
    if done.is_err() {
        let _ = disk::remove_dir_all(&aside);
    }
    done
}

fn write_aside(dir: &Path, config: &ExportConfig, values: &[f32]) -> Result<(), Error> {
    disk::remove_dir_all(dir)?;
    disk::create_dir_all(dir)?;
    write_weights(&dir.join(WEIGHTS), config, values)?;
    let path = dir.join(CONFIG);
    let mut text = serde_json::to_vec_pretty(config).map_err(|source| Error::Json {
        path: path.clone(),
        source,
    })?;
    text.push(b'\n');
    let mut file = disk::File::create(&path)?;
    file.write_all(&text)?;
    file.sync()?;
    Ok(disk::sync_dir(dir)?)
}

fn write_weights(path: &Path, config: &ExportConfig, values: &[f32]) -> Result<(), Error> {
    let layout = ParamLayout::model(&config.model);
    if values.len() != layout.total() {
        return Err(Error::Model(crate::model::Error::Length {
            what: "weights",
            found: values.len(),
            expected: layout.total(),
        }));
    }
    // The header stands before the values, so that they are gone through twice.
    let mut hash = Xxh64::new(0);
    convert(values, config.dtype, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    let metadata = json!({ "format": "pt", HASH_KEY: format!("{:016x}", hash.digest()) });
    let dtype = match config.dtype {
        WeightDtype::F32 => flat::F32,
        WeightDtype::Bf16 => flat::BF16,
    };
    let mut out = BufWriter::with_capacity(BUFFER, disk::File::create(path)?);
    out.write_all(&flat::header_bytes(&layout, &[""], dtype, metadata))?;
    convert(values, config.dtype, |bytes| out.write_all(bytes))?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(file.sync()?)
}

/// Gives the little-endian bytes of `values` piece by piece.
fn convert(
    values: &[f32],
    dtype: WeightDtype,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let half = |value: &f32| bf16::from_f32(*value).to_le_bytes();
    values
        .chunks(CONVERTED_AT_ONCE)
        .try_for_each(|values| match dtype {
            WeightDtype::F32 => take(&flat::le_bytes(values)),
            WeightDtype::Bf16 => take(&values.iter().flat_map(half).collect::<Vec<u8>>()),
        })
}

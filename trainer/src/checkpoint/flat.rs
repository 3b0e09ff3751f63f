//! Flat buffers as safetensors files: the tensors of a layout, one after the other, under their names.

use std::borrow::Cow;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use fs_err::File;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::json;
use shards::disk;
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::{Error, FileRecord};
use crate::model::ParamLayout;

const BUFFER: usize = 1 << 20;
/// Longest header that is read; that of XL has 100 kB.
const MAX_HEADER: u64 = 1 << 24;

/// Types of tensors by their name in a header, with the bytes of a value.
pub(crate) const F32: (&str, usize) = ("F32", 4);
pub(crate) const BF16: (&str, usize) = ("BF16", 2);

/// The beginning of a file, up to the first value: for each of `prefixes` the tensors of `layout`, one after the other.
pub(crate) fn header_bytes(
    layout: &ParamLayout,
    prefixes: &[&str],
    (dtype, width): (&str, usize),
    metadata: serde_json::Value,
) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    for (number, prefix) in prefixes.iter().enumerate() {
        for tensor in layout.tensors() {
            let start = (number * layout.total() + tensor.offset) * width;
            let end = start + tensor.len() * width;
            let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] });
            header.insert(format!("{prefix}{}", tensor.name), entry);
        }
    }
    header.insert("__metadata__".to_owned(), metadata);
    let mut text = serde_json::Value::Object(header).to_string().into_bytes();
    // The values begin at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}

/// XXH64 of values as they lie in a file, hexadecimal.
pub(crate) fn hash(values: &[f32]) -> String {
    format!("{:016x}", xxh64(&le_bytes(values), 0))
}

/// Values as they lie in a file; copied only where the machine has another order of bytes.
pub(crate) fn le_bytes(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

/// Writes `parts`: for each its name prefix and its flat values. Synchronised; answers length and hash.
pub(super) fn write(
    path: &Path,
    layout: &ParamLayout,
    parts: &[(&str, &[f32])],
) -> Result<FileRecord, Error> {
    debug_assert!(parts.iter().all(|(_, values)| values.len() == layout.total()));
    let prefixes: Vec<&str> = parts.iter().map(|(prefix, _)| *prefix).collect();
    let header = header_bytes(layout, &prefixes, F32, json!({ "format": "pt" }));

    let mut out = Hashed::new(BufWriter::with_capacity(BUFFER, disk::File::create(path)?));
    out.write_all(&header)?;
    for (_, values) in parts {
        for chunk in values.chunks(BUFFER) {
            out.write_all(&le_bytes(chunk))?;
        }
    }
    let (inner, record) = out.finish();
    let file = inner.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync()?;
    Ok(record)
}

/// Reads what [`write`] wrote, or the same tensors in another order, into the buffers of `parts`.
pub(super) fn read(
    path: &Path,
    record: &FileRecord,
    layout: &ParamLayout,
    parts: &mut [(&str, &mut [f32])],
) -> Result<(), Error> {
    let damaged = |what: String| Error::Damaged {
        path: path.to_owned(),
        what,
    };
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length != record.bytes {
        return Err(damaged(format!(
            "it has {length} bytes, state.json says {}",
            record.bytes
        )));
    }
    let mut input = Hashed::new(BufReader::with_capacity(BUFFER, file));
    let metadata = header(&mut input, length).map_err(damaged)?;

    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    if tensors.len() != parts.len() * layout.tensors().len() {
        let (found, expected) = (tensors.len(), parts.len() * layout.tensors().len());
        return Err(damaged(format!(
            "it holds {found} tensors, the model has {expected}"
        )));
    }
    for (name, info) in tensors {
        let place = parts.iter_mut().find_map(|(prefix, values)| {
            let tensor = layout.get(name.strip_prefix(*prefix)?)?;
            (tensor.shape == info.shape && info.dtype == Dtype::F32).then(|| &mut values[tensor.range()])
        });
        let values = place.ok_or_else(|| {
            damaged(format!(
                "tensor `{name}` ({:?} {:?}) is none of this model's",
                info.dtype, info.shape
            ))
        })?;
        fill(&mut input, values).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => damaged(format!("it ends within tensor `{name}`")),
            _ => error.into(),
        })?;
    }
    let (_, found) = input.finish();
    if found != *record {
        return Err(damaged(format!(
            "its hash is {}, state.json says {}",
            found.xxh64, record.xxh64
        )));
    }
    Ok(())
}

/// Reads the header of a file of `length` bytes, up to the first value; what is wrong with it as text.
pub(crate) fn header(input: &mut impl Read, length: u64) -> Result<Metadata, String> {
    let mut start = [0; 8];
    let mut take = |bytes: &mut [u8]| {
        input
            .read_exact(bytes)
            .map_err(|error| format!("its header: {error}"))
    };
    take(&mut start)?;
    let header_length = u64::from_le_bytes(start);
    if header_length > MAX_HEADER.min(length.saturating_sub(8)) {
        return Err(format!("its header claims {header_length} bytes"));
    }
    let mut text = start.to_vec();
    text.resize(8 + header_length as usize, 0);
    take(&mut text[8..])?;
    match SafeTensors::read_metadata(&text) {
        Ok((_, metadata)) => Ok(metadata),
        // The length of the values is checked as they are read; read_metadata wants them all.
        Err(safetensors::SafeTensorError::MetadataIncompleteBuffer) => {
            serde_json::from_slice(&text[8..]).map_err(|error| format!("its header: {error}"))
        }
        Err(error) => Err(format!("its header: {error}")),
    }
}

/// Reads little-endian values.
pub(crate) fn fill(input: &mut impl Read, values: &mut [f32]) -> std::io::Result<()> {
    input.read_exact(bytemuck::cast_slice_mut(values))?;
    if cfg!(target_endian = "big") {
        for value in values {
            *value = f32::from_bits(value.to_bits().swap_bytes());
        }
    }
    Ok(())
}

/// Hashes and counts what passes through.
struct Hashed<T> {
    inner: T,
    hash: Xxh64,
    bytes: u64,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hash: Xxh64::new(0),
            bytes: 0,
        }
    }

    fn finish(self) -> (T, FileRecord) {
        let record = FileRecord {
            bytes: self.bytes,
            xxh64: format!("{:016x}", self.hash.digest()),
        };
        (self.inner, record)
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.pass(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.pass(&bytes[..read]);
        Ok(read)
    }
}

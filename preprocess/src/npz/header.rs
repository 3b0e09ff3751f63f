//! The header of a `.npy` file.

use std::io::Read;
use std::path::Path;

use super::{Error, Result};

pub(super) const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest `.npy` header that is read; real ones have about 120 bytes.
pub(super) const MAX_HEADER: usize = 1 << 16;

/// Element type of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// Bytes.
    U8,
    /// Little-endian 64-bit integers.
    I64,
    /// Little-endian single precision.
    F32,
    /// Little-endian double precision.
    F64,
}

impl Dtype {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "|u1" | "<u1" | "u1" => Some(Self::U8),
            "<i8" => Some(Self::I64),
            "<f4" => Some(Self::F32),
            "<f8" => Some(Self::F64),
            _ => None,
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::U8 => "|u1",
            Self::I64 => "<i8",
            Self::F32 => "<f4",
            Self::F64 => "<f8",
        }
    }

    pub(super) fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }
}

/// What a `.npy` file says about its array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, row-major.
    pub shape: Vec<usize>,
}

pub(super) fn checked_count(header: &Header, path: &Path, name: &str) -> Result<usize> {
    let count = header
        .shape
        .iter()
        .try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    count
        .filter(|count| count.checked_mul(header.dtype.size()).is_some())
        .ok_or_else(|| {
            Error::format(
                path,
                format!("`{name}` claims an impossible shape {:?}", header.shape),
            )
        })
}

/// Reads the header of an `.npy` stream (format versions 1 to 3) and leaves the stream at the values.
pub(super) fn read_header(reader: &mut impl Read, path: &Path, name: &str) -> Result<Header> {
    let bad = |what: &str| Error::format(path, format!("array `{name}`: {what}"));
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(|_| bad("cut short"))?;
    if start[..6] != *MAGIC {
        return Err(bad("not in .npy format"));
    }
    let length = match start[6] {
        1 => {
            let mut length = [0; 2];
            reader.read_exact(&mut length).map_err(|_| bad("cut short"))?;
            usize::from(u16::from_le_bytes(length))
        }
        2 | 3 => {
            let mut length = [0; 4];
            reader.read_exact(&mut length).map_err(|_| bad("cut short"))?;
            u32::from_le_bytes(length) as usize
        }
        version => return Err(bad(&format!(".npy version {version} is not known"))),
    };
    if length > MAX_HEADER {
        return Err(bad("header is too long"));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).map_err(|_| bad("cut short"))?;
    let text = String::from_utf8_lossy(&text);
    let descr = quoted_after(&text, "'descr':").ok_or_else(|| bad("no `descr` in the header"))?;
    let dtype = Dtype::parse(descr).ok_or_else(|| bad(&format!("type `{descr}` is not read")))?;
    if text.replace(' ', "").contains("'fortran_order':True") {
        return Err(bad(
            "column-major order is not read; save with np.ascontiguousarray",
        ));
    }
    let shape = text
        .split_once("'shape':")
        .and_then(|(_, rest)| rest.split_once('('));
    let shape = shape
        .and_then(|(_, rest)| rest.split_once(')'))
        .ok_or_else(|| bad("no `shape` in the header"))?
        .0;
    let shape = shape
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty())
        .map(|dim| {
            dim.trim_end_matches('L')
                .parse()
                .map_err(|_| bad(&format!("dimension `{dim}`")))
        })
        .collect::<Result<Vec<usize>>>()?;
    Ok(Header { dtype, shape })
}

fn quoted_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = text.split_once(key)?.1.split_once('\'')?.1;
    Some(rest.split_once('\'')?.0)
}

//! A file as bytes: mapped, or read into memory where the system cannot map it. The only unsafe code of the crate.
#![expect(
    unsafe_code,
    reason = "a memory map can change when another process writes to the file"
)]

use std::{ops::Deref, path::Path};

use memmap2::Mmap;

use crate::error::Result;

/// The bytes of a file.
///
/// Another process that writes to the file changes these bytes. Nothing is believed before it was decoded into owned
/// memory and compared with its checksum there, and every offset is compared with the length of the map, so that this
/// gives an error and not wrong data. (Cutting a mapped file short ends the process: complete shards are never
/// written again, only replaced by renaming.)
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = fs_err::File::open(path)?;
        // SAFETY: see the type: the bytes are only read, bounds-checked, and hashed after decoding to owned memory.
        match unsafe { Mmap::map(file.file()) } {
            Ok(map) => Ok(Self::Mapped(map)),
            Err(_) => Ok(Self::Owned(fs_err::read(path)?)),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

#![expect(unsafe_code, reason = "memory mapping")]
//! A file's bytes without reading them all: full checkpoints are gigabytes, the autoencoder in them is not.

use std::path::Path;

use memmap2::Mmap;

use super::error::Error;

/// Maps `path` read-only.
pub(crate) fn map(path: &Path) -> Result<Mmap, Error> {
    let wrap = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(wrap)?;
    // SAFETY: weights are read once while loading. A file that another process truncates meanwhile would end this process
    // with a bus error, as every program that maps weights; its contents are only ever read as plain numbers.
    unsafe { Mmap::map(&file) }.map_err(wrap)
}

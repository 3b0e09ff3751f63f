//! A file as bytes: mapped, or read into memory where the system cannot map it. The only unsafe code of the crate.
#![expect(
    unsafe_code,
    reason = "a memory map can change when another process writes to the file"
)]

use std::{ops::Deref, path::Path};

use memmap2::Mmap;

use crate::error::Result;

/// More than this many waiting lines hold up the reads of the present.
#[cfg(target_arch = "x86_64")]
const PREFETCHED_LINES: usize = 24;

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

impl Bytes {
    /// Asks the processor to fetch the start of a stretch that is soon to be read; it goes on by itself from there.
    pub(crate) fn prefetch(&self, stretch: std::ops::Range<usize>) {
        #[cfg(target_arch = "x86_64")]
        if let Some(bytes) = self.get(stretch) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            for line in bytes.chunks(64).take(PREFETCHED_LINES) {
                // SAFETY: the address is that of a byte of the map, and a prefetch reads nothing that a program can see.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = stretch;
    }

    /// Asks the system to read a stretch of the file in one go, soon and in the background.
    pub(crate) fn read_ahead(&self, stretch: std::ops::Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && stretch.start < stretch.end
            && stretch.end <= map.len()
        {
            // Without it, the bytes are read when they are needed.
            let _ = map.advise_range(memmap2::Advice::WillNeed, stretch.start, stretch.len());
        }
        #[cfg(not(unix))]
        let _ = stretch;
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

//! The seek table of the zstd seekable format: a skippable frame at the end of the file with the compressed size,
//! the decompressed size and the checksum of every frame before it.

use std::path::Path;

use crate::error::{Error, Result};

const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Bit 7: checksums are present. The other bits are reserved and zero.
const DESCRIPTOR: u8 = 0x80;
const ENTRY_BYTES: usize = 12;
const HEADER_BYTES: usize = 8;
const FOOTER_BYTES: usize = 9;

/// One frame of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) compressed: u32,
    pub(crate) decompressed: u32,
    pub(crate) checksum: u32,
}

/// Appends the table.
pub(crate) fn write(entries: &[Entry], out: &mut Vec<u8>) {
    out.extend(SKIPPABLE_MAGIC.to_le_bytes());
    out.extend(((entries.len() * ENTRY_BYTES + FOOTER_BYTES) as u32).to_le_bytes());
    for entry in entries {
        out.extend(entry.compressed.to_le_bytes());
        out.extend(entry.decompressed.to_le_bytes());
        out.extend(entry.checksum.to_le_bytes());
    }
    out.extend((entries.len() as u32).to_le_bytes());
    out.push(DESCRIPTOR);
    out.extend(SEEKABLE_MAGIC.to_le_bytes());
}

/// Reads the table at the end of `file` and checks that its frames fill the file up to it exactly.
pub(crate) fn read(path: &Path, file: &[u8]) -> Result<Vec<Entry>> {
    let format = |frame: usize, offset: usize, what: String| Error::Format {
        path: path.to_owned(),
        frame,
        offset: offset as u64,
        what,
    };
    let short = |frame: usize, offset: usize, needed: usize| Error::Truncated {
        path: path.to_owned(),
        frame,
        offset: offset as u64,
        needed: needed as u64,
        available: (file.len() - offset) as u64,
    };
    let Some(footer_start) = file.len().checked_sub(FOOTER_BYTES) else {
        return Err(short(0, 0, FOOTER_BYTES));
    };
    let magic = word(file, footer_start + 5);
    if magic != SEEKABLE_MAGIC {
        let what = format!(
            "the file does not end with a seek table (magic is {magic:08x}, expected {SEEKABLE_MAGIC:08x}): it is cut short or no shard"
        );
        return Err(format(0, footer_start, what));
    }
    let frames = word(file, footer_start) as usize;
    if file[footer_start + 4] != DESCRIPTOR {
        let what = format!(
            "the seek table's descriptor is {:02x}, expected {DESCRIPTOR:02x}",
            file[footer_start + 4]
        );
        return Err(format(frames, footer_start, what));
    }
    let needed = frames.saturating_mul(ENTRY_BYTES);
    let Some(start) = footer_start
        .checked_sub(needed)
        .and_then(|start| start.checked_sub(HEADER_BYTES))
    else {
        return Err(short(
            frames,
            0,
            needed.saturating_add(HEADER_BYTES + FOOTER_BYTES),
        ));
    };
    let (magic, size) = (word(file, start), word(file, start + 4) as usize);
    if magic != SKIPPABLE_MAGIC || size != needed + FOOTER_BYTES {
        let what = format!(
            "the seek table starts with {magic:08x} and size {size}, expected {SKIPPABLE_MAGIC:08x} and {}",
            needed + FOOTER_BYTES
        );
        return Err(format(frames, start, what));
    }
    let mut end = 0usize;
    let mut entries = Vec::with_capacity(frames);
    for (frame, entry) in file[start + HEADER_BYTES..footer_start]
        .chunks_exact(ENTRY_BYTES)
        .enumerate()
    {
        let entry = Entry {
            compressed: word(entry, 0),
            decompressed: word(entry, 4),
            checksum: word(entry, 8),
        };
        if entry.compressed as usize > start - end {
            return Err(Error::Truncated {
                path: path.to_owned(),
                frame,
                offset: end as u64,
                needed: u64::from(entry.compressed),
                available: (start - end) as u64,
            });
        }
        end += entry.compressed as usize;
        entries.push(entry);
    }
    if end != start {
        let what = format!("the frames end here, but the seek table starts at byte {start}");
        return Err(format(frames, end, what));
    }
    Ok(entries)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

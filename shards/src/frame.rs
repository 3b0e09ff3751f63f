//! One zstd frame: compressed with block boundaries where the planes end, or stored as raw blocks.
//!
//! A plane of its own block keeps its own statistics: the high bytes shrink by entropy coding, and zstd finds by
//! itself that the low bytes do not, and stores them raw.

use xxhash_rust::xxh64::xxh64;
use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, compress_bound, get_error_name,
    zstd_sys::ZSTD_EndDirective,
};

use crate::{
    error::{Error, Result},
    manifest::Compression,
};

const MAGIC: u32 = 0xFD2F_B528;
/// Four bytes of content size, one segment, a checksum: the descriptor of the frames that are written raw.
const STORED_DESCRIPTOR: u8 = 0b1010_0100;
const STORED_HEADER_BYTES: usize = 4 + 1 + 4;
const BLOCK_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;
/// zstd allows no larger block.
const MAX_BLOCK_BYTES: usize = 128 << 10;
const LEVEL: i32 = 1;
/// Latents hardly ever repeat; what does for a few bytes costs more as a match than as entropy-coded literals, in bytes
/// and in time to read. Without short matches, and few others found, bf16 shrinks by another 2 % and opens half as fast
/// again.
const MIN_MATCH: u32 = 7;
const HASH_LOG: u32 = 6;

/// The checksum of the seekable format, and of zstd frames: the low half of XXH64 of the content.
pub(crate) fn checksum(content: &[u8]) -> u32 {
    xxh64(content, 0) as u32
}

/// Bytes of a stored frame with `content` bytes.
pub(crate) fn stored_bytes(content: usize) -> usize {
    let blocks = content.div_ceil(MAX_BLOCK_BYTES).max(1);
    STORED_HEADER_BYTES + blocks * BLOCK_HEADER_BYTES + content + CHECKSUM_BYTES
}

/// Appends a frame of raw blocks; its length depends on the content's length alone.
pub(crate) fn store(content: &[u8], out: &mut Vec<u8>) {
    out.extend(MAGIC.to_le_bytes());
    out.push(STORED_DESCRIPTOR);
    out.extend((content.len() as u32).to_le_bytes());
    let blocks = content.len().div_ceil(MAX_BLOCK_BYTES).max(1);
    for block in 0..blocks {
        let start = block * MAX_BLOCK_BYTES;
        let end = content.len().min(start + MAX_BLOCK_BYTES);
        let header = (((end - start) as u32) << 3) | u32::from(block + 1 == blocks);
        out.extend(&header.to_le_bytes()[..BLOCK_HEADER_BYTES]);
        out.extend(&content[start..end]);
    }
    out.extend(checksum(content).to_le_bytes());
}

/// Makes frames; keeps zstd's tables between them.
pub(crate) struct Encoder {
    compression: Compression,
    context: CCtx<'static>,
    buffer: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(compression: Compression) -> Result<Self> {
        Self::with_level(compression, LEVEL)
    }

    /// With another level than the format's writer uses, to measure.
    pub(crate) fn with_level(compression: Compression, level: i32) -> Result<Self> {
        let mut context = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ChecksumFlag(true),
            CParameter::MinMatch(MIN_MATCH),
            CParameter::HashLog(HASH_LOG),
        ] {
            context.set_parameter(parameter).map_err(compress_error)?;
        }
        Ok(Self {
            compression,
            context,
            buffer: Vec::new(),
        })
    }

    /// Appends one frame with `content`, a block ending at each of the rising `cuts`; the last is the content's length.
    pub(crate) fn encode(&mut self, content: &[u8], cuts: &[usize], out: &mut Vec<u8>) -> Result<()> {
        if self.compression == Compression::None {
            store(content, out);
            return Ok(());
        }
        self.context
            .reset(ResetDirective::SessionOnly)
            .map_err(compress_error)?;
        self.context
            .set_pledged_src_size(Some(content.len() as u64))
            .map_err(compress_error)?;
        let bound = compress_bound(content.len()) + cuts.len() * (BLOCK_HEADER_BYTES + 16) + 64;
        self.buffer.resize(bound, 0);
        let mut output = OutBuffer::around(&mut self.buffer[..]);
        let mut start = 0;
        for (i, &cut) in cuts.iter().enumerate() {
            let mut input = InBuffer::around(&content[start..cut]);
            let directive = if i + 1 == cuts.len() {
                ZSTD_EndDirective::ZSTD_e_end
            } else {
                ZSTD_EndDirective::ZSTD_e_flush
            };
            loop {
                let written = output.pos();
                let left = self
                    .context
                    .compress_stream2(&mut output, &mut input, directive)
                    .map_err(compress_error)?;
                if left == 0 {
                    break;
                }
                if output.pos() == written && output.pos() == bound {
                    return Err(Error::Compress {
                        what: "the output is larger than its bound",
                    });
                }
            }
            start = cut;
        }
        let written = output.pos();
        out.extend(&self.buffer[..written]);
        Ok(())
    }
}

fn compress_error(code: usize) -> Error {
    Error::Compress {
        what: get_error_name(code),
    }
}

/// Opens frames; keeps zstd's tables between them.
///
/// The checksum inside a frame is not looked at: callers compare the content with the seek table's, which is the same.
pub(crate) struct Decoder {
    context: DCtx<'static>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        let mut context = DCtx::create();
        // Where this is refused, the checksum is looked at twice.
        let _ = context.set_parameter(DParameter::ForceIgnoreChecksum(true));
        Self { context }
    }

    /// Decodes a frame whose content must have exactly `out`'s length and answers the content's checksum; says why
    /// when it cannot.
    pub(crate) fn decode(&mut self, frame: &[u8], out: &mut [u8]) -> std::result::Result<u32, String> {
        if let Some(content) = stored_block(frame)
            && content.len() == out.len()
        {
            out.copy_from_slice(content);
            return Ok(checksum(out));
        }
        match self.context.decompress(out, frame) {
            Ok(written) if written == out.len() => Ok(checksum(out)),
            Ok(written) => Err(format!("it holds {written} bytes, expected {}", out.len())),
            Err(code) => Err(format!("zstd cannot decode it: {}", get_error_name(code))),
        }
    }
}

/// The checksum at the end of a frame, where its descriptor says that there is one.
pub(crate) fn own_checksum(frame: &[u8]) -> Option<u32> {
    const HAS_CHECKSUM: u8 = 1 << 2;
    let descriptor = frame.get(MAGIC.to_le_bytes().len())?;
    let (_, checksum) = frame.split_last_chunk::<CHECKSUM_BYTES>()?;
    (descriptor & HAS_CHECKSUM != 0).then_some(u32::from_le_bytes(*checksum))
}

/// The content of a frame that [`store`] made with one block; any other frame is left to zstd.
fn stored_block(frame: &[u8]) -> Option<&[u8]> {
    let rest = frame.strip_prefix(&MAGIC.to_le_bytes())?;
    let (&descriptor, rest) = rest.split_first()?;
    let (&size, rest) = rest.split_first_chunk::<4>()?;
    let (&[a, b, c], rest) = rest.split_first_chunk::<BLOCK_HEADER_BYTES>()?;
    let (content, _) = rest.split_last_chunk::<CHECKSUM_BYTES>()?;
    let last_raw_block = ((content.len() as u32) << 3) | 1;
    let is_stored = descriptor == STORED_DESCRIPTOR
        && content.len() <= MAX_BLOCK_BYTES
        && u32::from_le_bytes(size) as usize == content.len()
        && u32::from_le_bytes([a, b, c, 0]) == last_raw_block;
    is_stored.then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_frames_are_ordinary_zstd_of_known_length() {
        for length in [0, 1, 4096, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES + 1, 300_000] {
            let content: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            let mut frame = Vec::new();
            store(&content, &mut frame);
            assert_eq!(frame.len(), stored_bytes(length));
            assert_eq!(zstd::decode_all(&frame[..]).unwrap(), content);
            let mut back = vec![0; length];
            assert_eq!(
                Decoder::new().decode(&frame, &mut back).unwrap(),
                checksum(&content)
            );
            assert_eq!(back, content);
            assert_eq!(stored_block(&frame).is_some(), length <= MAX_BLOCK_BYTES);
        }
    }

    #[test]
    fn compressed_frames_come_back() {
        let content: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let mut encoder = Encoder::new(Compression::Zstd).unwrap();
        for cuts in [vec![5000], vec![16, 1000, 5000], vec![4999, 5000]] {
            let mut frame = Vec::new();
            encoder.encode(&content, &cuts, &mut frame).unwrap();
            let mut back = vec![0; content.len()];
            Decoder::new().decode(&frame, &mut back).unwrap();
            assert_eq!(back, content);
            assert!(Decoder::new().decode(&frame, &mut back[1..]).is_err());
            assert!(Decoder::new().decode(&frame, &mut vec![0; 5001]).is_err());
        }
    }
}

//! What a file says of itself in its first bytes, before anything is decoded: format and size.
//!
//! The format is told by the first bytes, never by the name. A header may lie about the data behind it, so that the
//! limit on the size is the bound of what decoding may take.

use super::error::START;
use super::{Error, webp};

/// The largest number of pixels: twice the size at which Pillow warns of a decompression bomb, where it raises an error.
pub const MAX_PIXELS: usize = 178_956_970;

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JPEG: baseline, progressive or arithmetic.
    Jpeg,
    /// PNG, of an animated one the default image.
    Png,
    /// WebP, of an animated one the first frame.
    WebP,
}

/// What is known of an image before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format.
    pub format: Format,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes that a pixel may take while the file is decoded, at most: its result and what the decoder holds beside it.
    pub bytes_per_pixel: usize,
}

impl Header {
    /// Bytes that decoding takes at most, beside the file's own.
    pub fn decoding_bytes(&self) -> usize {
        self.width * self.height * self.bytes_per_pixel
    }
}

/// Reads format and size, at a cost that does not depend on the size.
///
/// # Errors
/// When the bytes are no image, end within the header, or tell a size of nothing or above [`MAX_PIXELS`].
pub fn probe(bytes: &[u8]) -> Result<Header, Error> {
    let header = match sniff(bytes)? {
        Format::Jpeg => jpeg(bytes)?,
        Format::Png => png(bytes)?,
        Format::WebP => webp::header(bytes)?,
    };
    check_size(header.width, header.height)?;
    Ok(header)
}

fn sniff(bytes: &[u8]) -> Result<Format, Error> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::WebP),
        _ => Err(Error::UnknownFormat {
            start: bytes[..bytes.len().min(START)].to_vec(),
        }),
    }
}

/// Refuses sizes that no photograph has, before anything is allocated for the pixels.
pub(super) fn check_size(width: usize, height: usize) -> Result<(), Error> {
    if width == 0 || height == 0 {
        return Err(Error::Empty { width, height });
    }
    match width.checked_mul(height) {
        Some(pixels) if pixels <= MAX_PIXELS => Ok(()),
        _ => Err(Error::TooLarge {
            width,
            height,
            limit: MAX_PIXELS,
        }),
    }
}

/// Signature (8 bytes), length (4), `IHDR`, width, height (4 each, big-endian).
fn png(bytes: &[u8]) -> Result<Header, Error> {
    let header = bytes.get(..24).ok_or(Error::Truncated)?;
    if header[12..16] != *b"IHDR" {
        return Err(Error::Damaged {
            format: "PNG",
            message: "its first chunk is not IHDR".into(),
        });
    }
    let side = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Ok(Header {
        format: Format::Png,
        width: side(16) as usize,
        height: side(20) as usize,
        // Four of the result, up to eight of an interlaced image that is held whole.
        bytes_per_pixel: 12,
    })
}

/// Walks over the segments to the frame's (ITU T.81, B.2.2): precision, height, width, number of components.
fn jpeg(bytes: &[u8]) -> Result<Header, Error> {
    let mut at = 2;
    loop {
        while bytes.get(at) == Some(&0xff) && bytes.get(at + 1) == Some(&0xff) {
            at += 1;
        }
        let segment = bytes.get(at..at + 4).ok_or(Error::Truncated)?;
        let [0xff, marker, high, low] = *segment else {
            return Err(Error::Jpeg("no marker where a segment should begin".into()));
        };
        match marker {
            0x01 | 0xd0..=0xd7 => at += 2,
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                let frame = bytes.get(at + 4..at + 10).ok_or(Error::Truncated)?;
                let components = usize::from(frame[5]).clamp(1, 4);
                // Coefficients of two bytes are held whole unless the file is sequential, then samples.
                let coefficients = if matches!(marker, 0xc0 | 0xc1 | 0xc9) {
                    1
                } else {
                    3
                };
                return Ok(Header {
                    format: Format::Jpeg,
                    width: usize::from(u16::from_be_bytes([frame[3], frame[4]])),
                    height: usize::from(u16::from_be_bytes([frame[1], frame[2]])),
                    bytes_per_pixel: 4 + components * coefficients,
                });
            }
            0xd8..=0xda => return Err(Error::Jpeg("no frame header before the data".into())),
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
}

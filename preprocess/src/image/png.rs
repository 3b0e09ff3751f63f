//! PNG as Pillow 9.5 turns it into RGB: row by row, so that little more than the result is held.
//!
//! Grey is replicated, also from 1, 2 and 4 bits; alpha and transparent colours are dropped without compositing; of 16
//! bits a channel the high byte is taken, but plain 16-bit grey (Pillow's mode `I`) is cut off at 255; a palette shorter
//! than its indices goes on as a grey ramp. Of an animation the default image is taken.

use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::probe::check_size;
use super::{Error, Rgbx};

/// Bytes that the decoder may take for rows and tables.
const LIMIT_BYTES: usize = 64 << 20;

/// Decodes a whole file.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgbx, Error> {
    let limits = Limits { bytes: LIMIT_BYTES };
    let mut decoder = Decoder::new_with_limits(std::io::Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    {
        let info = decoder.read_header_info().map_err(damaged)?;
        check_size(info.width as usize, info.height as usize)?;
    }
    let mut reader = decoder.read_info().map_err(damaged)?;
    let info = reader.info();
    let (width, height) = (info.width as usize, info.height as usize);
    let pixels = Pixels {
        color: info.color_type,
        depth: info.bit_depth,
        palette: palette(info.palette.as_deref()),
    };
    let is_interlaced = info.interlaced;
    let mut data = vec![0; width * height * 4];
    let rows = data.chunks_exact_mut(width * 4);
    if is_interlaced {
        let length = reader.output_buffer_size().ok_or_else(|| Error::Damaged {
            format: "PNG",
            message: "its rows are too long".into(),
        })?;
        let mut whole = vec![0; length];
        let stride = reader.next_frame(&mut whole).map_err(damaged)?.line_size;
        for (to, from) in rows.zip(whole.chunks_exact(stride)) {
            pixels.convert(from, to);
        }
    } else {
        for to in rows {
            let row = reader.next_row().map_err(damaged)?.ok_or(Error::Truncated)?;
            pixels.convert(row.data(), to);
        }
    }
    Ok(Rgbx { width, height, data })
}

fn damaged(error: DecodingError) -> Error {
    match error {
        DecodingError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => Error::Truncated,
        other => Error::Damaged {
            format: "PNG",
            message: other.to_string(),
        },
    }
}

/// Pillow's palette: a grey ramp with the file's colours over its beginning.
fn palette(colours: Option<&[u8]>) -> [[u8; 3]; 256] {
    let mut palette = std::array::from_fn(|i| [i as u8; 3]);
    for (to, from) in palette
        .iter_mut()
        .zip(colours.unwrap_or_default().chunks_exact(3))
    {
        to.copy_from_slice(from);
    }
    palette
}

/// How the bytes of a row become pixels.
struct Pixels {
    color: ColorType,
    depth: BitDepth,
    palette: [[u8; 3]; 256],
}

impl Pixels {
    fn convert(&self, from: &[u8], to: &mut [u8]) {
        let out = to.chunks_exact_mut(4);
        match (self.color, self.depth) {
            (ColorType::Rgb, BitDepth::Sixteen) => spread(from, out, |p: &[u8; 6]| [p[0], p[2], p[4]]),
            (ColorType::Rgb, _) => spread(from, out, |p: &[u8; 3]| *p),
            (ColorType::Rgba, BitDepth::Sixteen) => spread(from, out, |p: &[u8; 8]| [p[0], p[2], p[4]]),
            (ColorType::Rgba, _) => spread(from, out, |p: &[u8; 4]| [p[0], p[1], p[2]]),
            (ColorType::GrayscaleAlpha, BitDepth::Sixteen) => spread(from, out, |p: &[u8; 4]| [p[0]; 3]),
            (ColorType::GrayscaleAlpha, _) => spread(from, out, |p: &[u8; 2]| [p[0]; 3]),
            (ColorType::Grayscale, BitDepth::Sixteen) => {
                spread(from, out, |p: &[u8; 2]| [if p[0] == 0 { p[1] } else { 255 }; 3]);
            }
            (ColorType::Grayscale, BitDepth::Eight) => spread(from, out, |p: &[u8; 1]| [p[0]; 3]),
            (ColorType::Indexed, BitDepth::Eight) => {
                spread(from, out, |p: &[u8; 1]| self.palette[usize::from(p[0])]);
            }
            (color, depth) => {
                let bits = depth as usize;
                let largest = u8::MAX >> (8 - bits);
                for (x, to) in out.enumerate() {
                    // The first pixel lies in the highest bits.
                    let shift = 8 - bits - x * bits % 8;
                    let value = (from[x * bits / 8] >> shift) & largest;
                    let rgb = match color {
                        ColorType::Indexed => self.palette[usize::from(value)],
                        _ => [value * (255 / largest); 3],
                    };
                    to[..3].copy_from_slice(&rgb);
                }
            }
        }
    }
}

/// Each pixel of `N` bytes to three.
fn spread<'a, const N: usize>(
    from: &[u8],
    out: impl Iterator<Item = &'a mut [u8]>,
    rgb: impl Fn(&[u8; N]) -> [u8; 3],
) {
    for (to, from) in out.zip(from.as_chunks::<N>().0) {
        to[..3].copy_from_slice(&rgb(from));
    }
}

//! JPEG: common files by our own decoder, every other file by the library.
//!
//! Common is what nearly all photographs are: sequential, Huffman coded, one scan, grey or YCbCr with chroma in full or
//! halved across or both ways. Our decoder computes, with the library's arithmetic bit for bit, only the pixels that
//! are asked for, in vectors that need no assembler to build. As soon as it meets anything rare or damaged it gives up,
//! and the library decodes the file from its beginning: there is one judge of bad files.
//!
//! `frame` reads the headers, `huffman` and `entropy` the coefficients, `idct` turns them into samples, `scan` drives these
//! over the file, `plane` holds the samples, `pixels` makes rows of RGB.

mod entropy;
mod frame;
mod huffman;
mod idct;
mod library;
mod pixels;
mod plane;
mod scan;

use std::cell::RefCell;
use std::ops::Range;

use super::resample::Rows;
use super::{Error, Rgbx};
use frame::Frame;
use pixels::Pixels;

thread_local! {
    static SCRATCH: RefCell<(scan::Scratch, pixels::Buffers)> = RefCell::default();
}

/// Samples that a thread keeps for its next image; more are given back.
const KEPT_SAMPLES: usize = 8 << 20;

/// Decodes a whole file.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgbx, Error> {
    let whole = |width, height| (0..width, 0..height);
    with_common(bytes, whole, |pixels, rows| {
        let width = pixels.width();
        let mut data = Vec::with_capacity(width * rows * 4);
        (0..rows).for_each(|y| data.extend_from_slice(pixels.row(y)));
        Rgbx {
            width,
            height: rows,
            data,
        }
    })
    .map_or_else(|| library::decode(bytes), Ok)
}

/// Calls `work` with the pixels of a window of a common file and its number of rows. `None` for every other file.
///
/// `window` gives the columns and rows that are wanted of an image of that width and height.
pub(super) fn with_common<T>(
    bytes: &[u8],
    window: impl FnOnce(usize, usize) -> (Range<usize>, Range<usize>),
    work: impl FnOnce(&mut Pixels<'_>, usize) -> T,
) -> Option<T> {
    let frame = Frame::parse(bytes)?;
    let (columns, rows) = window(frame.width, frame.height);
    if columns.is_empty() || rows.is_empty() {
        return None;
    }
    SCRATCH.with_borrow_mut(|(scratch, buffers)| {
        scan::decode(bytes, &frame, &columns, &rows, scratch)?;
        let count = rows.len();
        let is_large = columns.len() * count > KEPT_SAMPLES;
        let done = work(
            &mut Pixels::new(&scratch.planes, &frame, columns, rows, buffers),
            count,
        );
        if is_large {
            *scratch = scan::Scratch::default();
        }
        Some(done)
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// The JPEG files of the tests, by name.
    fn files() -> Vec<(String, Vec<u8>)> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images");
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("jpeg-") {
                files.push((name, std::fs::read(path).unwrap()));
            }
        }
        files
    }

    fn window(bytes: &[u8], columns: Range<usize>, rows: Range<usize>) -> Option<Vec<u8>> {
        let wanted = (columns, rows);
        with_common(
            bytes,
            |_, _| wanted,
            |pixels, rows| (0..rows).flat_map(|y| pixels.row(y).to_vec()).collect(),
        )
    }

    #[test]
    fn our_decoder_gives_the_librarys_pixels_of_every_window() {
        let mut common = 0;
        for (name, bytes) in files() {
            let Ok(whole) = library::decode(&bytes) else {
                continue;
            };
            let (w, h) = (whole.width, whole.height);
            if w * h > 10_000 {
                continue;
            }
            let sides = |n: usize| [0..n, n / 2..n, n / 3..n / 3 + 1, 0..n.div_ceil(2), n - 1..n];
            for columns in sides(w) {
                for rows in sides(h) {
                    let Some(ours) = window(&bytes, columns.clone(), rows.clone()) else {
                        continue;
                    };
                    common += 1;
                    let mut theirs = Vec::new();
                    for y in rows.clone() {
                        theirs.extend_from_slice(
                            &whole.data[(y * w + columns.start) * 4..][..columns.len() * 4],
                        );
                    }
                    let is_equal = ours
                        .chunks(4)
                        .zip(theirs.chunks(4))
                        .all(|(a, b)| a[..3] == b[..3]);
                    assert!(
                        is_equal && ours.len() == theirs.len(),
                        "{name} {columns:?} {rows:?}"
                    );
                }
            }
        }
        assert!(common > 300, "{common}");
    }

    #[test]
    fn rare_and_damaged_files_are_left_to_the_library() {
        for (name, bytes) in files() {
            let rare = [
                "progressive",
                "arithmetic",
                "cmyk",
                "ycck",
                "41",
                "440",
                "truncated",
                "no-end",
                "lies",
                "65500",
            ];
            if rare.iter().any(|part| name.contains(part)) {
                let whole = |width, height| (0..width, 0..height);
                assert!(with_common(&bytes, whole, |_, _| ()).is_none(), "{name}");
            }
        }
    }
}

//! Image grids as PNG files.

use std::io;
use std::path::Path;

use super::font;
use crate::image::RgbImage;

/// Space between the pictures of a grid, in pixels.
const GAP: usize = 2;
/// Width of a picture with room for a line of text, in pixels.
const CAPTIONED_WIDTH: usize = 96;
/// Height of a line of text, in pixels.
const CAPTION_HEIGHT: usize = 13;

/// Writes an RGB image as PNG, creating the folder.
///
/// # Errors
/// When the file cannot be written.
pub fn write_png(image: &RgbImage, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::write(path, encode_png(image)?)
}

/// An RGB image as the bytes of a PNG file.
///
/// # Errors
/// When it has no pixels.
pub fn encode_png(image: &RgbImage) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = ::image::codecs::png::PngEncoder::new(&mut bytes);
    let (width, height) = (image.width as u32, image.height as u32);
    ::image::ImageEncoder::write_image(
        encoder,
        &image.data,
        width,
        height,
        ::image::ExtendedColorType::Rgb8,
    )
    .map_err(io::Error::other)?;
    Ok(bytes)
}

/// Lays images of one size out row by row on white.
///
/// # Errors
/// When there is no image, or when sizes differ.
pub fn grid(images: &[RgbImage], columns: usize) -> io::Result<RgbImage> {
    let first = images
        .first()
        .ok_or_else(|| io::Error::other("a grid needs at least one image"))?;
    let (w, h) = (first.width, first.height);
    if let Some(other) = images.iter().find(|image| (image.width, image.height) != (w, h)) {
        let (width, height) = (other.width, other.height);
        return Err(io::Error::other(format!(
            "a grid holds images of one size: {width}x{height} beside {w}x{h}"
        )));
    }
    let columns = columns.clamp(1, images.len());
    let rows = images.len().div_ceil(columns);
    let (width, height) = (columns * (w + GAP) + GAP, rows * (h + GAP) + GAP);
    let mut data = vec![255u8; width * height * 3];
    for (i, image) in images.iter().enumerate() {
        let (x0, y0) = (GAP + i % columns * (w + GAP), GAP + i / columns * (h + GAP));
        for (y, row) in image.data.chunks_exact(w * 3).enumerate() {
            let at = ((y0 + y) * width + x0) * 3;
            data[at..at + w * 3].copy_from_slice(row);
        }
    }
    Ok(RgbImage { width, height, data })
}

/// Lays out images of one size with a line of text below each. Small ones are enlarged, pixel by pixel, to make room for it.
///
/// # Errors
/// When there is no image, or when sizes differ.
pub fn captioned(images: &[(RgbImage, String)], columns: usize) -> io::Result<RgbImage> {
    let framed: Vec<RgbImage> = images.iter().map(|(image, text)| framed(image, text)).collect();
    grid(&framed, columns)
}

/// An image, at least [`CAPTIONED_WIDTH`] wide, on white with `text` below it.
fn framed(image: &RgbImage, text: &str) -> RgbImage {
    let times = CAPTIONED_WIDTH.div_ceil(image.width.max(1)).max(1);
    let (width, height) = (image.width * times, image.height * times + CAPTION_HEIGHT);
    let mut data = Vec::with_capacity(width * height * 3);
    for row in image.data.chunks_exact((image.width * 3).max(1)) {
        let wide: Vec<u8> = row
            .chunks_exact(3)
            .flat_map(|pixel| pixel.repeat(times))
            .collect();
        (0..times).for_each(|_| data.extend_from_slice(&wide));
    }
    data.resize(width * height * 3, 255);
    let mut framed = RgbImage { width, height, data };
    font::draw(&mut framed, 2, height - CAPTION_HEIGHT + 3, 1, [0; 3], text);
    framed
}

/// Writes images of one size as one PNG, `columns` to a row.
///
/// # Errors
/// When sizes differ, when there is no image, or when the file cannot be written.
pub fn write_grid_png(images: &[RgbImage], columns: usize, path: &Path) -> io::Result<()> {
    write_png(&grid(images, columns)?, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_row_by_row() {
        let dot = |v: u8| RgbImage {
            width: 1,
            height: 1,
            data: vec![v; 3],
        };
        let sheet = grid(&[dot(1), dot(2), dot(3)], 2).unwrap();
        assert_eq!((sheet.width, sheet.height), (8, 8));
        let pixel = |x: usize, y: usize| sheet.data[(y * 8 + x) * 3];
        assert_eq!(
            (pixel(2, 2), pixel(5, 2), pixel(2, 5), pixel(5, 5)),
            (1, 2, 3, 255)
        );
        assert!(grid(&[], 2).is_err());
    }

    #[test]
    fn captioned_pictures_are_enlarged_and_written_below() {
        let dot = |v: u8| RgbImage {
            width: 1,
            height: 1,
            data: vec![v; 3],
        };
        let sheet = captioned(&[(dot(7), "H".to_owned()), (dot(9), String::new())], 2).unwrap();
        let side = CAPTIONED_WIDTH;
        assert_eq!(
            (sheet.width, sheet.height),
            (2 * side + 3 * GAP, side + CAPTION_HEIGHT + 2 * GAP)
        );
        let pixel = |x: usize, y: usize| sheet.data[(y * sheet.width + x) * 3];
        assert_eq!((pixel(GAP, GAP), pixel(GAP + side - 1, GAP + side - 1)), (7, 7));
        assert_eq!(pixel(2 * GAP + side, GAP), 9);
        assert_eq!(
            (pixel(GAP + 2, GAP + side + 3), pixel(GAP + 3, GAP + side + 3)),
            (0, 255)
        );
    }
}

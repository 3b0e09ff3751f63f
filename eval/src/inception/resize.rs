//! The network's input: TensorFlow 1's bilinear resize to 299 x 299, then (x - 128) / 128.
//!
//! `align_corners` and `half_pixel_centers` are both off: source coordinate = index * (in / 299) in f32, without
//! antialiasing. Other resizers shift FID in the first or second decimal, so this one must be exact.

use preprocess::image::RgbImage;
use preprocess::nn::{FeatureMap, Padding};

/// Side of the network's input in pixels.
pub const INPUT_SIZE: usize = 299;

/// Source pixels and weight of one output coordinate.
struct Tap {
    low: usize,
    high: usize,
    fraction: f32,
}

fn taps(input: usize) -> Vec<Tap> {
    let scale = input as f32 / INPUT_SIZE as f32;
    (0..INPUT_SIZE)
        .map(|i| {
            let source = i as f32 * scale;
            let low = source as usize;
            Tap {
                low,
                high: (low + 1).min(input - 1),
                fraction: source - low as f32,
            }
        })
        .collect()
}

/// Resizes to `[299, 299, 3]`, values still in 0..=255.
pub fn resize(image: &RgbImage) -> Vec<f32> {
    let mut output = Vec::with_capacity(INPUT_SIZE * LINE);
    each_line(image, |line| output.extend_from_slice(line));
    output
}

/// The network's input of one image, `[1, 299, 299, 3]` in about [-1, 1].
pub fn network_input(image: &RgbImage) -> FeatureMap {
    let mut input = FeatureMap::unfilled([1, INPUT_SIZE, INPUT_SIZE, 3], Padding::NONE);
    let mut y = 0;
    each_line(image, |line| {
        for (value, resized) in input.row_mut(0, y).iter_mut().zip(line) {
            *value = (resized - 128.0) * 0.007_812_5;
        }
        y += 1;
    });
    input
}

/// Values of a line of output.
const LINE: usize = INPUT_SIZE * 3;

/// Gives the lines of the resized image, one after the other.
fn each_line(image: &RgbImage, mut visit: impl FnMut(&[f32])) {
    let (rows, columns) = (taps(image.height), taps(image.width));
    // The two lines of the image that the last line of output came from, resized along x.
    let mut lines = [(usize::MAX, vec![0.0; LINE]), (usize::MAX, vec![0.0; LINE])];
    let mut output = vec![0.0; LINE];
    for row in &rows {
        if lines[1].0 == row.low {
            lines.swap(0, 1);
        }
        for ((number, line), y) in lines.iter_mut().zip([row.low, row.high]) {
            if *number != y {
                let source = &image.data[y * image.width * 3..][..image.width * 3];
                along_x(source, &columns, line);
                *number = y;
            }
        }
        let [(_, top), (_, bottom)] = &lines;
        for ((value, top), bottom) in output.iter_mut().zip(top).zip(bottom) {
            *value = top + (bottom - top) * row.fraction;
        }
        visit(&output);
    }
}

fn along_x(source: &[u8], columns: &[Tap], line: &mut [f32]) {
    let (pixels, out) = (source.as_chunks::<3>().0, line.as_chunks_mut::<3>().0);
    for (out, column) in out.iter_mut().zip(columns) {
        let (left, right) = (pixels[column.low], pixels[column.high]);
        for ((value, left), right) in out.iter_mut().zip(left).zip(right) {
            let (left, right) = (f32::from(left), f32::from(right));
            *value = left + (right - left) * column.fraction;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// The test picture that the golden numbers were computed from.
    pub(crate) fn test_image(width: usize, height: usize) -> RgbImage {
        let mut data = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                for c in 0..3 {
                    let value = 7 * x + 13 * y + 29 * c + 5 * ((x * y) % 31) + 3 * ((x * x + y) % 17);
                    data.push((value % 256) as u8);
                }
            }
        }
        RgbImage { width, height, data }
    }

    fn check(side: usize, points: &[(usize, usize, [f64; 3])], sum: f64, sha256: &str) {
        let output = resize(&test_image(side, side));
        for &(y, x, expected) in points {
            let start = (y * INPUT_SIZE + x) * 3;
            for (value, expected) in output[start..start + 3].iter().zip(expected) {
                assert!(
                    (f64::from(*value) - expected).abs() < 1e-5,
                    "row {y}, column {x}: {value} {expected}"
                );
            }
        }
        let total: f64 = output.iter().copied().map(f64::from).sum();
        assert!((total - sum).abs() < 1e-3, "{total}");
        let digest = Sha256::digest(bytemuck::cast_slice::<f32, u8>(&output));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, sha256);
    }

    #[test]
    fn golden_enlargement() {
        let points = [
            (1, 1, [25.926_153_18, 54.926_155_09, 83.926_155_09]),
            (150, 77, [207.618_179_32, 135.091_720_58, 164.091_720_58]),
            (298, 298, [70.0, 99.0, 128.0]),
        ];
        let sha256 = "141ef07f3ab1d4248bd2520595d7d9b3146f922fd1808401644fec59bac8fd9e";
        check(256, &points, 34_157_194.867_696, sha256);
    }

    #[test]
    fn golden_reduction() {
        let points = [(1, 1, [63.457_115_17, 92.457_122_80, 121.457_122_80])];
        let sha256 = "03f004de5017627519e82888ffcef4236e5355586b720e224335dada773b8905";
        check(512, &points, 34_187_551.993_001, sha256);
    }
}

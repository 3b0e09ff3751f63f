//! The network's input: TensorFlow 1's bilinear resize to 299 x 299, then (x - 128) / 128.
//!
//! `align_corners` and `half_pixel_centers` are both off: source coordinate = index * (in / 299) in f32, without
//! antialiasing. Other resizers shift FID in the first or second decimal, so this one must be exact.

use preprocess::image::RgbImage;
use rayon::prelude::*;

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
    let (rows, columns) = (taps(image.height), taps(image.width));
    let pixel = |y: usize, x: usize, c: usize| f32::from(image.data[(y * image.width + x) * 3 + c]);
    let mut output = vec![0.0; INPUT_SIZE * INPUT_SIZE * 3];
    for (line, row) in output.chunks_exact_mut(INPUT_SIZE * 3).zip(&rows) {
        for (out, column) in line.chunks_exact_mut(3).zip(&columns) {
            for (c, value) in out.iter_mut().enumerate() {
                let along_x = |y: usize| {
                    let (left, right) = (pixel(y, column.low, c), pixel(y, column.high, c));
                    left + (right - left) * column.fraction
                };
                let (top, bottom) = (along_x(row.low), along_x(row.high));
                *value = top + (bottom - top) * row.fraction;
            }
        }
    }
    output
}

/// Network input `[B, 3, 299, 299]` in about [-1, 1], row-major.
pub fn network_input(images: &[RgbImage]) -> Vec<f32> {
    let plane = INPUT_SIZE * INPUT_SIZE;
    let mut input = vec![0.0; images.len() * 3 * plane];
    input
        .par_chunks_exact_mut(3 * plane)
        .zip(images)
        .for_each(|(output, image)| {
            for (i, rgb) in resize(image).chunks_exact(3).enumerate() {
                for (c, value) in rgb.iter().enumerate() {
                    output[c * plane + i] = (value - 128.0) * 0.007_812_5;
                }
            }
        });
    input
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

//! ADM's step for LSUN: the shorter side straight to the size with BOX, then the middle.
//!
//! Dhariwal and Nichol 2021, `datasets/lsun_bedroom.py`. LSUN's images have a shorter side of 256 pixels, for which
//! this, [ADM's centre crop](super::crop) and latent diffusion's crop give the same bytes at that size.

use super::crop::{Plan, decode_by_plan};
use super::resample::Filter;
use super::{Error, RgbImage};

/// Decodes an image file and crops it to `size` x `size`.
///
/// # Errors
/// As [`super::decode::decode_rgb`].
pub fn decode_and_crop(bytes: &[u8], size: usize) -> Result<RgbImage, Error> {
    decode_by_plan(bytes, |width, height| {
        let scale = size as f64 / width.min(height) as f64;
        let side = |side: usize| (side as f64 * scale).round_ties_even() as usize;
        let sizes = vec![(width, height), (side(width), side(height))];
        Plan::through(sizes, Filter::Box, size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::grid;

    #[test]
    fn lsuns_own_sizes_give_the_bytes_of_adms_centre_crop() {
        let dir = tempfile::tempdir().unwrap();
        for (width, height) in [(256, 256), (341, 256), (256, 385), (300, 256)] {
            let path = dir.path().join("x.png");
            let image = super::super::crop::tests::synthetic(width, height);
            grid::write_png(&image, &path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let cropped = decode_and_crop(&bytes, 256).unwrap();
            assert_eq!(cropped, super::super::crop::decode_and_crop(&bytes, 256).unwrap());
            assert_eq!(decode_and_crop(&bytes, 100).unwrap().data.len(), 30_000);
        }
    }
}

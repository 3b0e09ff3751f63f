//! Bytes to RGB pixels to the centre crop to tensors, with the same bytes as Pillow at every step.

pub mod crop;
pub mod decode;
mod error;
mod jpeg;
pub mod lsun;
mod png;
mod probe;
mod resample;
pub mod tensor;
mod webp;

pub use error::Error;
pub use probe::{Format, Header, MAX_PIXELS, probe};

/// An 8-bit RGB image: `data` holds `height * width * 3` bytes, rows first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes in the order row, column, channel.
    pub data: Vec<u8>,
}

impl RgbImage {
    /// Peak signal-to-noise ratio of `other`, which has the same size, in decibels over all bytes; infinite for an exact copy.
    pub fn psnr(&self, other: &Self) -> f64 {
        let squares: f64 = self
            .data
            .iter()
            .zip(&other.data)
            .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
            .sum();
        10.0 * (255.0 * 255.0 * self.data.len() as f64 / squares).log10()
    }

    /// The mirror image, left and right exchanged.
    pub fn flipped(&self) -> Self {
        let mut data = Vec::with_capacity(self.data.len());
        for row in self.data.chunks_exact((self.width * 3).max(1)) {
            for pixel in row.chunks_exact(3).rev() {
                data.extend_from_slice(pixel);
            }
        }
        Self {
            width: self.width,
            height: self.height,
            data,
        }
    }
}

/// Pixels in four bytes each, the fourth unused: the layout in which all arithmetic is done.
#[derive(Clone, Debug)]
pub(crate) struct Rgbx {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) data: Vec<u8>,
}

impl Rgbx {
    pub(crate) fn from_rgb(image: &RgbImage) -> Self {
        let mut data = vec![0; image.width * image.height * 4];
        for (to, from) in data.chunks_exact_mut(4).zip(image.data.chunks_exact(3)) {
            to[..3].copy_from_slice(from);
        }
        Self {
            width: image.width,
            height: image.height,
            data,
        }
    }

    pub(crate) fn to_rgb(&self) -> RgbImage {
        let mut data = vec![0; self.width * self.height * 3];
        for (to, from) in data.chunks_exact_mut(3).zip(self.data.chunks_exact(4)) {
            to.copy_from_slice(&from[..3]);
        }
        RgbImage {
            width: self.width,
            height: self.height,
            data,
        }
    }
}

//! The padded input as a convolution reads it: as it is, or its rows dealt into phases for a stride.

use rayon::prelude::*;

use crate::nn::feature_map::FeatureMap;

/// The padded input, its rows perhaps dealt into phases.
pub(super) struct Source<'a> {
    pub(super) data: &'a [f32],
    /// Pixels from one row to the next.
    pub(super) width: usize,
    /// Rows of one image in one phase.
    pub(super) image_rows: usize,
    /// Rows of all images in one phase.
    pub(super) phase_rows: usize,
}

impl<'a> Source<'a> {
    pub(super) fn whole(input: &'a FeatureMap) -> Self {
        Self {
            data: input.data(),
            width: input.padded_width(),
            image_rows: input.padded_height(),
            phase_rows: 0,
        }
    }

    /// Where padded row `y` of the first image lies.
    pub(super) fn row(&self, y: usize, stride: usize) -> usize {
        (y % stride) * self.phase_rows + y / stride
    }
}

/// Copies rows `0, s, 2s..` of every image, then rows `1, s + 1, ..`, and so on; widths become multiples of `s`, and the
/// images of a phase equally high.
pub(super) fn deal_rows(input: &FeatureMap, stride: usize) -> Vec<f32> {
    let batch = input.shape()[0];
    let channels = input.shape()[3];
    let (height, width) = (input.padded_height(), input.padded_width());
    let image_rows = height.div_ceil(stride);
    let pitch = width.next_multiple_of(stride) * channels;
    let mut out = vec![0.0; stride * batch * image_rows * pitch];
    out.par_chunks_exact_mut(pitch)
        .enumerate()
        .with_min_len(8)
        .for_each(|(row, values)| {
            let (phase, row) = (row / (batch * image_rows), row % (batch * image_rows));
            let (n, y) = (row / image_rows, (row % image_rows) * stride + phase);
            if y < height {
                let start = (n * height + y) * width * channels;
                values[..width * channels].copy_from_slice(&input.data()[start..start + width * channels]);
            }
        });
    out
}

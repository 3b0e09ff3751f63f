//! A batch of images, channels last, each within a border of zeros.

use rayon::prelude::*;

use super::error::{Error, check_length};
use super::recycle;

/// Zeros around an image, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns on the left.
    pub left: usize,
    /// Columns on the right.
    pub right: usize,
}

impl Padding {
    /// No border.
    pub const NONE: Self = Self::same(0);
    /// What a 3x3 kernel needs to keep the size.
    pub const ONE: Self = Self::same(1);

    /// The same border on all four sides.
    pub const fn same(size: usize) -> Self {
        Self::symmetric(size, size)
    }

    /// `rows` above and below, `columns` left and right.
    pub const fn symmetric(rows: usize, columns: usize) -> Self {
        Self {
            top: rows,
            bottom: rows,
            left: columns,
            right: columns,
        }
    }
}

/// Activations `[batch, height, width, channels]`, each image within a border of zeros.
#[derive(Clone, Debug)]
pub struct FeatureMap {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    padding: Padding,
    data: Vec<f32>,
}

impl FeatureMap {
    /// Zeros.
    pub fn zeros([batch, height, width, channels]: [usize; 4], padding: Padding) -> Self {
        let rows = batch * (height + padding.top + padding.bottom);
        let columns = width + padding.left + padding.right;
        Self {
            batch,
            height,
            width,
            channels,
            padding,
            data: vec![0.0; rows * columns * channels],
        }
    }

    /// A map of which every pixel is yet to be written: zeros around the images, anything inside.
    pub fn unfilled(shape: [usize; 4], padding: Padding) -> Self {
        let [batch, height, width, channels] = shape;
        let rows = height + padding.top + padding.bottom;
        let pitch = (width + padding.left + padding.right) * channels;
        let Some(mut data) = recycle::take(batch * rows * pitch) else {
            return Self::zeros(shape, padding);
        };
        if padding != Padding::NONE {
            for image in data.chunks_exact_mut((rows * pitch).max(1)) {
                image[..padding.top * pitch].fill(0.0);
                image[(padding.top + height) * pitch..].fill(0.0);
                for row in image[padding.top * pitch..]
                    .chunks_exact_mut(pitch.max(1))
                    .take(height)
                {
                    row[..padding.left * channels].fill(0.0);
                    row[(padding.left + width) * channels..].fill(0.0);
                }
            }
        }
        Self {
            batch,
            height,
            width,
            channels,
            padding,
            data,
        }
    }

    /// Takes `values`, laid out `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// When `values` has another length than the shape.
    pub fn from_nchw(
        values: &[f32],
        [batch, channels, height, width]: [usize; 4],
        padding: Padding,
    ) -> Result<Self, Error> {
        check_length("image tensor", batch * channels * height * width, values.len())?;
        let mut map = Self::zeros([batch, height, width, channels], padding);
        let plane = height * width;
        for n in 0..batch {
            let image = &values[n * channels * plane..][..channels * plane];
            for y in 0..height {
                let row = map.row_mut(n, y);
                for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
                    for (c, value) in pixel.iter_mut().enumerate() {
                        *value = image[c * plane + y * width + x];
                    }
                }
            }
        }
        Ok(map)
    }

    /// The values as `[batch, channels, height, width]`, without the border.
    pub fn to_nchw(&self) -> Vec<f32> {
        let plane = self.height * self.width;
        let mut out = vec![0.0; self.batch * self.channels * plane];
        for n in 0..self.batch {
            let image = &mut out[n * self.channels * plane..][..self.channels * plane];
            for y in 0..self.height {
                for (x, pixel) in self.row(n, y).chunks_exact(self.channels).enumerate() {
                    for (c, &value) in pixel.iter().enumerate() {
                        image[c * plane + y * self.width + x] = value;
                    }
                }
            }
        }
        out
    }

    /// The same values within another border.
    #[must_use]
    pub fn with_padding(&self, padding: Padding) -> Self {
        let mut out = Self::zeros(self.shape(), padding);
        for n in 0..self.batch {
            for y in 0..self.height {
                out.row_mut(n, y).copy_from_slice(self.row(n, y));
            }
        }
        out
    }

    /// `[batch, height, width, channels]`, without the border.
    pub fn shape(&self) -> [usize; 4] {
        [self.batch, self.height, self.width, self.channels]
    }

    /// The border.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// Rows of one image with its border.
    pub fn padded_height(&self) -> usize {
        self.height + self.padding.top + self.padding.bottom
    }

    /// Columns of one image with its border.
    pub fn padded_width(&self) -> usize {
        self.width + self.padding.left + self.padding.right
    }

    /// All values, border included.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All values, border included; the border must stay zero.
    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Where pixel `(y, x)` of image `n` begins in [`data`](Self::data).
    pub(crate) fn offset(&self, n: usize, y: usize, x: usize) -> usize {
        let row = n * self.padded_height() + self.padding.top + y;
        (row * self.padded_width() + self.padding.left + x) * self.channels
    }

    /// Row `y` of image `n` without the border: `width * channels` values.
    pub fn row(&self, n: usize, y: usize) -> &[f32] {
        let start = self.offset(n, y, 0);
        &self.data[start..start + self.width * self.channels]
    }

    /// Row `y` of image `n` without the border: `width * channels` values.
    pub fn row_mut(&mut self, n: usize, y: usize) -> &mut [f32] {
        let start = self.offset(n, y, 0);
        let length = self.width * self.channels;
        &mut self.data[start..start + length]
    }

    /// Calls `work(image, row, values)` for every row, in parallel.
    pub fn for_each_row_mut(&mut self, work: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let (height, padded_height, padding) = (self.height, self.padded_height(), self.padding);
        let pitch = self.padded_width() * self.channels;
        let (start, length) = (padding.left * self.channels, self.width * self.channels);
        if length == 0 {
            return;
        }
        let rows_per_task = ROW_TASK_VALUES.div_ceil(pitch);
        self.data
            .par_chunks_exact_mut(pitch)
            .enumerate()
            .with_min_len(rows_per_task)
            .for_each(|(row, values)| {
                let (n, y) = (row / padded_height, row % padded_height);
                if (padding.top..padding.top + height).contains(&y) {
                    work(n, y - padding.top, &mut values[start..start + length]);
                }
            });
    }
}

impl Drop for FeatureMap {
    fn drop(&mut self) {
        recycle::give(std::mem::take(&mut self.data));
    }
}

/// Values that are worth a task of their own.
const ROW_TASK_VALUES: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nchw_survives_the_round_trip_and_borders_are_zero() {
        let values: Vec<f32> = (1..=2 * 3 * 4 * 5).map(|v| v as f32).collect();
        let padding = Padding {
            top: 1,
            bottom: 2,
            left: 3,
            right: 0,
        };
        let map = FeatureMap::from_nchw(&values, [2, 3, 4, 5], padding).unwrap();
        assert_eq!(map.to_nchw(), values);
        assert_eq!(map.shape(), [2, 4, 5, 3]);
        assert_eq!(map.data().len(), 2 * 7 * 8 * 3);
        let sum: f32 = map.data().iter().sum();
        assert_eq!(sum, values.iter().sum::<f32>());
        assert_eq!(map.with_padding(Padding::ONE).to_nchw(), values);
        let short = FeatureMap::from_nchw(&values[1..], [2, 3, 4, 5], padding);
        assert!(short.is_err());
    }
}

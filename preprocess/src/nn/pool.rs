//! Pools of 3 x 3 pixels. What lies beyond the image takes no part.

use std::ops::Range;

use super::feature_map::{FeatureMap, Padding};

/// Side of the window.
const SIDE: usize = 3;
/// Channels that stay in registers while the window is read.
const LANES: usize = 64;

/// What becomes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The largest value.
    Maximum,
    /// The mean of the pixels inside the image.
    Average,
}

impl Pool {
    /// Pools every channel of `input` apart; windows begin `padding` pixels outside the image and are `stride` apart.
    pub fn forward(self, input: &FeatureMap, stride: usize, padding: usize) -> FeatureMap {
        let [batch, height, width, channels] = input.shape();
        let size = |side: usize| (side + 2 * padding).saturating_sub(SIDE) / stride + 1;
        let mut output = FeatureMap::unfilled([batch, size(height), size(width), channels], Padding::NONE);
        output.for_each_row_mut(|n, y, out| {
            let lines = window(y, stride, padding, height);
            let lines: Vec<&[f32]> = lines.map(|line| input.row(n, line)).collect();
            pulp::Arch::new().dispatch(Row {
                pool: self,
                out,
                lines: &lines,
                channels,
                columns: |x| window(x, stride, padding, width),
            });
        });
        output
    }
}

/// Input rows (or columns) that the window of output `i` covers.
fn window(i: usize, stride: usize, padding: usize, size: usize) -> Range<usize> {
    let start = i * stride;
    start.saturating_sub(padding)..(start + SIDE - padding).min(size)
}

struct Row<'a, F> {
    pool: Pool,
    out: &'a mut [f32],
    lines: &'a [&'a [f32]],
    channels: usize,
    columns: F,
}

impl<F: Fn(usize) -> Range<usize>> pulp::WithSimd for Row<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        for (x, pixel) in self.out.chunks_exact_mut(self.channels).enumerate() {
            let columns = (self.columns)(x);
            let covered = (self.lines.len() * columns.len()) as f32;
            for (i, out) in pixel.chunks_mut(LANES).enumerate() {
                let values = self.lines.iter().flat_map(|line| {
                    let first = i * LANES;
                    columns
                        .clone()
                        .map(move |column| &line[column * self.channels + first..])
                });
                match (self.pool, <&mut [f32; LANES]>::try_from(&mut *out)) {
                    (Pool::Maximum, Ok(out)) => maximum(out, values),
                    (Pool::Maximum, Err(_)) => maximum(out, values),
                    (Pool::Average, Ok(out)) => average(out, values, covered),
                    (Pool::Average, Err(_)) => average(out, values, covered),
                }
            }
        }
    }
}

#[inline(always)]
fn maximum<'a, T: AsMut<[f32]> + ?Sized>(out: &mut T, values: impl Iterator<Item = &'a [f32]>) {
    let mut most = [f32::NEG_INFINITY; LANES];
    let out = out.as_mut();
    for value in values {
        for (most, &value) in most.iter_mut().zip(&value[..out.len()]) {
            *most = if value > *most { value } else { *most };
        }
    }
    out.copy_from_slice(&most[..out.len()]);
}

#[inline(always)]
fn average<'a, T: AsMut<[f32]> + ?Sized>(out: &mut T, values: impl Iterator<Item = &'a [f32]>, covered: f32) {
    let mut sums = [0.0; LANES];
    let out = out.as_mut();
    for value in values {
        for (sum, value) in sums.iter_mut().zip(&value[..out.len()]) {
            *sum += value;
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = sum / covered;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> FeatureMap {
        let values: Vec<f32> = (0..16).map(|v| v as f32 - 20.0).collect();
        FeatureMap::from_nchw(&values, [1, 1, 4, 4], Padding::NONE).unwrap()
    }

    #[test]
    fn averages_leave_the_padding_out() {
        let pooled = Pool::Average.forward(&map(), 1, 1).to_nchw();
        assert_eq!(pooled[0], -17.5);
        assert_eq!(pooled[5], -15.0);
    }

    #[test]
    fn maxima_ignore_the_padding_and_halve() {
        assert_eq!(Pool::Maximum.forward(&map(), 1, 1).to_nchw()[0], -15.0);
        let halved = Pool::Maximum.forward(&map(), 2, 0);
        assert_eq!((halved.shape(), halved.to_nchw()), ([1, 1, 1, 1], vec![-10.0]));
    }

    #[test]
    fn any_number_of_channels_and_images_is_pooled_as_one_by_one() {
        for channels in [1, 63, 64, 65, 200] {
            let shape = [2, channels, 5, 6];
            let values: Vec<f32> = (0..2 * channels * 30).map(|i| (0.7 * i as f32).sin()).collect();
            let map = FeatureMap::from_nchw(&values, shape, Padding::ONE).unwrap();
            for (pool, stride, padding) in [(Pool::Maximum, 2, 0), (Pool::Average, 1, 1)] {
                let pooled = pool.forward(&map, stride, padding).to_nchw();
                let plane = pooled.len() / (2 * channels);
                for (i, pooled) in pooled.chunks_exact(plane).enumerate() {
                    let one = &values[i * 30..(i + 1) * 30];
                    let one = FeatureMap::from_nchw(one, [1, 1, 5, 6], Padding::NONE).unwrap();
                    assert_eq!(pool.forward(&one, stride, padding).to_nchw(), pooled);
                }
            }
        }
    }
}

//! Group normalisation (Wu and He 2018), with the activation that follows it.

use rayon::prelude::*;

use super::activation::Activation;
use super::error::{Error, check_length};
use super::feature_map::{FeatureMap, Padding};

/// Rows are summed in f32 within blocks of about this many values a channel, and in f64 across blocks.
const BLOCK_PIXELS: usize = 512;

/// Normalises each group of channels of each image to mean 0 and variance 1, then scales and shifts each channel.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    groups: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f64,
}

impl GroupNorm {
    /// A layer from its scale and shift, one of each a channel.
    ///
    /// # Errors
    /// When the buffers differ in length or `groups` does not divide the channels.
    pub fn new(groups: usize, weight: Vec<f32>, bias: Vec<f32>, eps: f64) -> Result<Self, Error> {
        check_length("group norm bias", weight.len(), bias.len())?;
        if groups == 0 || !weight.len().is_multiple_of(groups) {
            return Err(Error::Groups {
                channels: weight.len(),
                groups,
            });
        }
        Ok(Self {
            groups,
            weight,
            bias,
            eps,
        })
    }

    /// The normalised `input` within a new border.
    ///
    /// # Errors
    /// When the input has another number of channels.
    pub fn forward(
        &self,
        input: &FeatureMap,
        activation: Activation,
        padding: Padding,
    ) -> Result<FeatureMap, Error> {
        let affine = self.affine(input)?;
        let mut out = FeatureMap::zeros(input.shape(), padding);
        out.for_each_row_mut(|n, y, row| {
            let Affine { scale, shift } = &affine[n];
            pulp::Arch::new().dispatch(Apply {
                out: row,
                input: Some(input.row(n, y)),
                scale,
                shift,
                activation,
            });
        });
        Ok(out)
    }

    /// Normalises `map` in place.
    ///
    /// # Errors
    /// When the map has another number of channels.
    pub fn forward_in_place(&self, map: &mut FeatureMap, activation: Activation) -> Result<(), Error> {
        let affine = self.affine(map)?;
        map.for_each_row_mut(|n, _, row| {
            let Affine { scale, shift } = &affine[n];
            pulp::Arch::new().dispatch(Apply {
                out: row,
                input: None,
                scale,
                shift,
                activation,
            });
        });
        Ok(())
    }

    /// For each image the scale and shift of each channel that normalise it.
    fn affine(&self, input: &FeatureMap) -> Result<Vec<Affine>, Error> {
        let [batch, height, width, channels] = input.shape();
        if channels != self.weight.len() {
            return Err(Error::Channels {
                layer: "group norm",
                expected: self.weight.len(),
                got: channels,
            });
        }
        if height * width == 0 {
            let affine = Affine {
                scale: self.weight.clone(),
                shift: self.bias.clone(),
            };
            return Ok(vec![affine; batch]);
        }
        let rows_per_block = (BLOCK_PIXELS / width).max(1);
        let blocks = height.div_ceil(rows_per_block);
        let sums: Vec<BlockSums> = (0..batch * blocks)
            .into_par_iter()
            .map(|block| {
                let (n, first) = (block / blocks, block % blocks * rows_per_block);
                let pivot = &input.row(n, 0)[..channels];
                let mut sums = BlockSums {
                    sum: vec![0.0; channels],
                    square: vec![0.0; channels],
                };
                for y in first..(first + rows_per_block).min(height) {
                    pulp::Arch::new().dispatch(Accumulate {
                        row: input.row(n, y),
                        pivot,
                        sums: &mut sums,
                    });
                }
                sums
            })
            .collect();
        Ok(sums
            .chunks_exact(blocks)
            .enumerate()
            .map(|(n, sums)| self.image_affine(&input.row(n, 0)[..channels], sums, height * width))
            .collect())
    }

    /// Scale and shift of one image from its sums about `pivot`.
    fn image_affine(&self, pivot: &[f32], blocks: &[BlockSums], pixels: usize) -> Affine {
        let channels = pivot.len();
        let per_group = channels / self.groups;
        let count = pixels as f64;
        let (mut scale, mut shift) = (vec![0.0; channels], vec![0.0; channels]);
        // Mean of each channel, and the sum of squared deviations from it.
        let moments: Vec<(f64, f64)> = (0..channels)
            .map(|c| {
                let sum: f64 = blocks.iter().map(|block| f64::from(block.sum[c])).sum();
                let square: f64 = blocks.iter().map(|block| f64::from(block.square[c])).sum();
                (
                    f64::from(pivot[c]) + sum / count,
                    (square - sum * sum / count).max(0.0),
                )
            })
            .collect();
        for (group, moments) in moments.chunks_exact(per_group).enumerate() {
            let mean = moments.iter().map(|m| m.0).sum::<f64>() / per_group as f64;
            let deviation: f64 = moments.iter().map(|m| m.1 + count * (m.0 - mean).powi(2)).sum();
            let inverse_std = 1.0 / (deviation / (count * per_group as f64) + self.eps).sqrt();
            for c in group * per_group..(group + 1) * per_group {
                let factor = f64::from(self.weight[c]) * inverse_std;
                scale[c] = factor as f32;
                shift[c] = (f64::from(self.bias[c]) - mean * factor) as f32;
            }
        }
        Affine { scale, shift }
    }
}

/// What normalises one image: a scale and a shift for each channel.
#[derive(Clone, Debug)]
struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// Sums over some rows, one of each a channel, of the distance from the pivot and of its square.
struct BlockSums {
    sum: Vec<f32>,
    square: Vec<f32>,
}

/// Adds one row to the sums.
struct Accumulate<'a> {
    row: &'a [f32],
    pivot: &'a [f32],
    sums: &'a mut BlockSums,
}

impl pulp::WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let sums = &mut *self.sums;
        for pixel in self.row.chunks_exact(self.pivot.len()) {
            let totals = sums.sum.iter_mut().zip(&mut sums.square);
            for (((sum, square), &value), &pivot) in totals.zip(pixel).zip(self.pivot) {
                let distance = value - pivot;
                *sum += distance;
                *square += distance * distance;
            }
        }
    }
}

/// `out = activation(scale * input + shift)` for one row; without `input`, in place.
struct Apply<'a> {
    out: &'a mut [f32],
    input: Option<&'a [f32]>,
    scale: &'a [f32],
    shift: &'a [f32],
    activation: Activation,
}

impl pulp::WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        match self.activation {
            Activation::None => self.apply(
                #[inline(always)]
                |x| x,
            ),
            Activation::Relu => self.apply(
                #[inline(always)]
                |x| Activation::Relu.apply(x),
            ),
            Activation::Silu => self.apply(
                #[inline(always)]
                |x| Activation::Silu.apply(x),
            ),
        }
    }
}

impl Apply<'_> {
    #[inline(always)]
    fn apply(self, activation: impl Fn(f32) -> f32) {
        if let Some(input) = self.input {
            self.out.copy_from_slice(input);
        }
        for pixel in self.out.chunks_exact_mut(self.scale.len()) {
            for ((value, scale), shift) in pixel.iter_mut().zip(self.scale).zip(self.shift) {
                *value = activation(*value * scale + shift);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::synthetic::synthetic_tensor;

    #[test]
    fn matches_the_definition_in_f64_even_far_from_zero() {
        let (shape, groups) = ([2, 12, 19, 33], 4);
        let [batch, channels, height, width] = shape;
        let plane = height * width;
        let mut values = synthetic_tensor("x", 1, &[batch * channels * plane], 12.0);
        for (i, value) in values.iter_mut().enumerate() {
            *value += 100.0 * ((i / plane) % channels / 3) as f32;
        }
        let weight = synthetic_tensor("norm.weight", 2, &[channels], 12.0);
        let bias = synthetic_tensor("norm.bias", 3, &[channels], 12.0);
        let norm = GroupNorm::new(groups, weight.clone(), bias.clone(), 1e-6).unwrap();
        let mut map = FeatureMap::from_nchw(&values, shape, Padding::ONE).unwrap();
        let out = norm
            .forward(&map, Activation::Silu, Padding::same(2))
            .unwrap()
            .to_nchw();
        norm.forward_in_place(&mut map, Activation::Silu).unwrap();
        assert_eq!(map.to_nchw(), out);
        let size = channels / groups * plane;
        for (g, group) in values.chunks_exact(size).enumerate() {
            let mean = group.iter().map(|&v| f64::from(v)).sum::<f64>() / size as f64;
            let variance = group.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / size as f64;
            for (i, &value) in group.iter().enumerate() {
                let c = (g * size + i) / plane % channels;
                let normal = (f64::from(value) - mean) / (variance + 1e-6).sqrt();
                let affine = normal * f64::from(weight[c]) + f64::from(bias[c]);
                let expected = affine / (1.0 + (-affine).exp());
                let got = f64::from(out[g * size + i]);
                // A value near 300 carries a rounding of 1.5e-5 standard deviations of 0.06.
                assert!((got - expected).abs() < 2e-3, "{got} {expected}");
            }
        }
    }

    #[test]
    fn groups_must_divide_the_channels() {
        assert!(GroupNorm::new(5, vec![1.0; 12], vec![0.0; 12], 1e-6).is_err());
        assert!(GroupNorm::new(4, vec![1.0; 12], vec![0.0; 11], 1e-6).is_err());
        let norm = GroupNorm::new(4, vec![1.0; 12], vec![0.0; 12], 1e-6).unwrap();
        let map = FeatureMap::zeros([1, 2, 2, 8], Padding::NONE);
        assert!(norm.forward(&map, Activation::None, Padding::NONE).is_err());
    }
}
